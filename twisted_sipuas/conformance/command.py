"""The command: what is asked for on its line, and what is printed."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from twisted_sipuas.conformance.check import ROLES, Check, Result
from twisted_sipuas.conformance.client import LONGEST_RUN, MOST_MESSAGES, Client, Target
from twisted_sipuas.conformance.report import as_json, as_text, check_lines, counts, exit_status, printable
from twisted_sipuas.conformance.run import Unusable, acquaint, chosen, run
from twisted_sipuas.conformance.wire import SocketWire, Wire
from twisted_sipuas.errors import MessageSyntaxError, StartError
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.uri import SIPURI, parse_uri

__all__ = ["main"]

_SERVER = re.compile(r"(udp|tcp|tls):(\[[0-9a-fA-F:.]+\]|[^:\[\]/\s]+)(?::(\d{1,5}))?", re.IGNORECASE)

_EPILOG = f"""\
It sends what a telephone might, one message after the other, 50 a second and
{MOST_MESSAGES} in a run at most, for {LONGEST_RUN:g} seconds; some of it is malformed on purpose.
Use it on servers that are yours, or whose owner knows. As registrar it changes
the bindings of --aor and removes them again; an address-of-record that has
bindings before is not used. As uas it makes calls, and ends them.

Levels are those of RFC 2119; IS marks what RFC 3261 states without them. "Not
judged" says nothing about the server: it did not come to where the requirement
shows. Exit status: 0 if no MUST and no MUST NOT is broken, 1 if one is, 2 if
the arguments cannot be used or the server does not answer.
"""


class _Server(NamedTuple):
    transport: str
    host: str
    port: int


def _server(text: str) -> _Server:
    match = _SERVER.fullmatch(text)
    if match is None or not 0 < int(match[3] or 5060) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not udp:HOST[:PORT], tcp:HOST[:PORT] or tls:HOST[:PORT]")
    transport = match[1].upper()
    return _Server(transport, match[2].strip("[]"), int(match[3] or (5061 if transport == "TLS" else 5060)))


def _uri(text: str) -> str:
    try:
        if isinstance(parse_uri(text), SIPURI) and text.isascii():
            return text
    except MessageSyntaxError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no SIP URI")


def _address_of_record(text: str) -> str:
    uri = parse_uri(_uri(text))
    if not isinstance(uri, SIPURI) or uri.user is None or uri.parameters or uri.headers:
        raise argparse.ArgumentTypeError(f"{text!r} is no address-of-record: sip:USER@DOMAIN")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 32")
    return seconds


def _user_agent(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise argparse.ArgumentTypeError("a User-Agent is one line of text")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m twisted_sipuas.conformance",
        description="Print which requirements of RFC 3261 a SIP server keeps, seen from outside.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=80),
    )
    parser.add_argument("server", type=_server, nargs="?", help="udp:HOST[:PORT], tcp:HOST[:PORT] or tls:HOST[:PORT]")
    parser.add_argument(
        "--role", choices=ROLES, required=True, metavar="ROLE", help=f"what it is judged as: {', '.join(ROLES)}"
    )
    parser.add_argument("--uri", type=_uri, help="the Request-URI; for a registrar its domain (default: sip:HOST)")
    parser.add_argument(
        "--aor", type=_address_of_record, help="registrar: whose bindings are changed (default: sip:conformance@HOST)"
    )
    parser.add_argument("--timeout", type=_seconds, default=2.0, help="seconds that an answer may take (default: 2)")
    parser.add_argument(
        "--user-agent", type=_user_agent, default="twisted-sipuas conformance", help="what User-Agent says"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="ID", help="only this requirement or section; again and again"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if anything is broken, SHOULD and IS too")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--list", action="store_true", help="print the checks, and send nothing")
    output.add_argument("--trace", action="store_true", help="print every message, a line each, at the end")
    output.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str] | None = None, make_wire: Callable[[str, Address, float], Wire] = SocketWire) -> int:
    """Run the command with *arguments*, by default those of the process, and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.server is None and not options.list:
        parser.error("name the server: udp:HOST[:PORT], tcp:HOST[:PORT] or tls:HOST[:PORT]")
    transport = options.server.transport if options.server else "UDP"
    checks = chosen(options.role, transport, options.only)
    if not checks:
        parser.error(f"--only {' '.join(options.only)} is of no check as {options.role} by {transport}; see --list")
    if options.list:
        _print(*check_lines(checks), "", f"{len(checks)} checks as {options.role} by {transport}")
        return 0
    try:
        client = _client(options, make_wire)
    except StartError as fault:
        return _unusable(parser, fault)
    try:
        acquaint(client)
        results = _judged(client, checks, options.json)
        if options.trace:
            _print("", *(printable(str(passed)) for passed in client.ladder))
    except Unusable as fault:
        return _unusable(parser, fault)
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: interrupted\n")
        return 130
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        client.wire.close()
    return exit_status(results, options.strict)


def _unusable(parser: argparse.ArgumentParser, fault: Exception) -> int:
    sys.stderr.write(printable(f"{parser.prog}: {fault}") + "\n")
    return 2


def _judged(client: Client, checks: Sequence[Check], is_json: bool) -> list[Result]:
    """Make *checks*, print what comes of them, as text while they are made, and return it."""
    about = f"{client.wire.transport} {client.wire.server}"
    results: list[Result] = []
    with closing(run(client, checks)) as judged:  # closed where nobody reads what is printed, too

        def kept() -> Iterator[Result]:
            for result in judged:
                results.append(result)
                yield result

        if is_json:
            results.extend(judged)
            _print(as_json(results, server=about, role=client.target.role))
            return results
        _print(f"{about} as {client.target.role}, {client.target.uri}")
        for line in as_text(kept()):
            _print(line)
        _print("", counts(results))
        return results


def _client(options: argparse.Namespace, make_wire: Callable[[str, Address, float], Wire]) -> Client:
    """Return the client that *options* ask for; raises `StartError` if there is no way to the server."""
    transport, host, port = options.server
    at = f"[{host}]" if ":" in host else host
    domain = at if port == (5061 if transport == "TLS" else 5060) else f"{at}:{port}"
    target = Target(
        options.role,
        options.uri or f"sip:{domain}",
        options.aor or f"sip:conformance@{at}",
        options.timeout,
        options.user_agent,
    )
    return Client(make_wire(transport, Address(_numeric(host, port), port), options.timeout), target)


def _numeric(host: str, port: int) -> str:
    try:
        return str(socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4][0])
    except OSError as error:
        raise StartError(f"{host} has no address: {error.strerror or error}") from None
    except UnicodeError:  # what no name of the DNS can be: too long, or with an empty label
        raise StartError(f"{host} has no address: it is no host name") from None


def _print(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
