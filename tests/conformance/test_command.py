"""Does the command say what it found, in 80 columns, and with the right exit status?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.servers import client_of
from tests.conformance.virtual import Fault, VirtualWire, altered, ignores, replies, status, without
from twisted_sipuas.conformance import CHECKS
from twisted_sipuas.conformance.command import main
from twisted_sipuas.conformance.wire import StreamReader


@pytest.fixture
def judge_server(capsys: Any) -> Any:
    """Return what runs the command against a server of that name; gives its exit status and what it printed."""

    def run(server: str, *arguments: str, fault: Fault | None = None, transport: str = "udp") -> tuple[int, str, str]:
        client = client_of(server, transport.upper(), fault)
        role = client.target.role

        def make_wire(transport: Any, address: Any, timeout: Any) -> Any:
            assert address == VirtualWire.server
            return client.wire

        wanted = [f"{transport}:198.51.100.1", "--role", role, "--uri", client.target.uri, *arguments]
        return main(wanted, make_wire), *capsys.readouterr()

    return run


def test_what_is_printed(judge_server: Any) -> None:
    """Results are grouped by section, and counted at the end."""
    exit_status, printed, _ = judge_server("uas", "--only", "8.2.1", fault=without("Allow", of="^SIP/2.0 405"))
    assert exit_status == 1
    assert (
        printed
        == """\
UDP 198.51.100.1:5060 as uas, sip:bob@198.51.100.1

8.2.1  Method inspection
  holds      8.2.1-2       MUST        a method that is known but not served
                                       gets 405
  broken     8.2.1-3       MUST        a 405 has Allow
             405 lacks Allow
  broken     8.2.1-4       MUST        Allow of a 405 lists the methods that are
                                       served
             OPTIONS is served, and not in Allow:

1 hold, 2 broken (2 of them MUST or MUST NOT), 0 not judged
"""
    )


@pytest.mark.parametrize("server", ["redirect", "uas", "registrar", "stateless"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_80_columns(judge_server: Any, server: Any, transport: Any) -> None:
    """No line is longer than 80 columns, and a server without a fault gives exit status 0."""
    exit_status, printed, _ = judge_server(server, "--strict", transport=transport)
    assert exit_status == 0, printed
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("server", ["redirect", "uas", "registrar", "stateless"])
def test_list_sends_nothing(capsys: Any, server: Any) -> None:
    """``--list`` prints the checks of a role, and needs no server."""
    assert main(["--role", server, "--list"], lambda *_: pytest.fail("a wire was made")) == 0
    printed = capsys.readouterr().out
    assert int(printed.splitlines()[-1].split()[0]) >= 50
    assert max(map(len, printed.splitlines())) <= 80


def test_help_is_readable(capsys: Any) -> None:
    """``--help`` fits 80 columns, and says what the command does to a server."""
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "500 in a run" in printed
    assert "50 a second" in printed


def test_a_recommendation_is_not_required(judge_server: Any) -> None:
    """What is broken of level SHOULD leaves the exit status 0, unless it is to be strict."""
    fault = replies("200 OK", "^CANCEL")
    assert judge_server("uas", "--only", "9.2-4", fault=fault)[0] == 0
    assert judge_server("uas", "--only", "9.2-4", "--strict", fault=fault)[0] == 1


def test_json(judge_server: Any) -> None:
    """``--json`` prints one object."""
    exit_status, printed, _ = judge_server("uas", "--only", "21.5.2", "--json", fault=status("501", "200 OK"))
    assert exit_status == 0
    assert json.loads(printed) == {
        "server": "UDP 198.51.100.1:5060",
        "role": "uas",
        "results": [
            {
                "id": "21.5.2-1",
                "check": "unknown_method_gets_501",
                "level": "IS",
                "summary": "a method that nobody knows gets 501",
                "outcome": "broken",
                "remark": "CONFORM got 200 OK",
            }
        ],
    }


def test_trace(judge_server: Any) -> None:
    """``--trace`` prints every message after the results."""
    _, printed, _ = judge_server("uas", "--only", "21.5.2", "--trace")
    assert "UDP  CONFORM sip:bob@198.51.100.1" in printed
    assert "UDP  501 Not Implemented (CONFORM)" in printed


def test_what_a_server_says_does_not_reach_the_terminal_as_it_is(judge_server: Any) -> None:
    """Control characters in a reason phrase are printed as text."""
    _, printed, _ = judge_server("uas", "--only", "21.5.2", fault=status("501", "200 \x1b[2J"))
    assert "200 \\x1b[2J" in printed
    assert "\x1b" not in printed


def test_a_trace_does_not_reach_the_terminal_as_it_is(judge_server: Any) -> None:
    """Control characters, and octets that are no text, are printed as text in a trace too."""
    fault = status("501", "200 \x1b[2J\xe9")
    exit_status, printed, _ = judge_server("uas", "--only", "21.5.2", "--trace", fault=fault)
    assert exit_status == 0
    assert "200 \\x1b[2J" in printed.splitlines()[-1]
    assert "\x1b" not in printed
    printed.encode()


def test_why_a_server_is_unusable_does_not_reach_the_terminal_as_it_is(judge_server: Any) -> None:
    """What a registrar says that cannot be judged is printed as text too."""
    fault = altered(r"SIP/2.0 200 OK\r\n", "SIP/2.0 200 \x1b[2J\r\nContact: <\r\n")
    exit_status, _, error = judge_server("registrar", fault=fault)
    assert exit_status == 2
    assert "200 \\x1b[2J has a malformed Contact" in error
    assert "\x1b" not in error


def test_no_answer(judge_server: Any) -> None:
    """A server that does not answer is exit status 2, and one line."""
    exit_status, printed, error = judge_server("uas", fault=ignores(""))
    assert (exit_status, printed) == (2, "")
    assert error == ("python -m twisted_sipuas.conformance: 198.51.100.1:5060 does not answer OPTIONS by UDP\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--role", "uas"], "name the server: udp:HOST[:PORT], tcp:HOST[:PORT] or tls:HOST[:PORT]"),
        (["udp:192.0.2.1"], "the following arguments are required: --role"),
        (["udp:192.0.2.1", "--role", "proxy"], "argument --role: invalid choice: 'proxy'"),
        (["sctp:192.0.2.1", "--role", "uas"], "'sctp:192.0.2.1' is not udp:HOST[:PORT]"),
        (["udp:192.0.2.1:65536", "--role", "uas"], "'udp:192.0.2.1:65536' is not udp:HOST[:PORT]"),
        (["udp:192.0.2.1", "--role", "uas", "--uri", "bob"], "argument --uri: 'bob' is no SIP URI"),
        (["udp:192.0.2.1", "--role", "uas", "--uri", "tel:1"], "argument --uri: 'tel:1' is no SIP URI"),
        (["udp:192.0.2.1", "--role", "registrar", "--aor", "sip:h"], "'sip:h' is no address-of-record"),
        (["udp:192.0.2.1", "--role", "uas", "--timeout", "0"], "'0' is not a number of seconds from 0.1 to 32"),
        (["udp:192.0.2.1", "--role", "uas", "--user-agent", "a\nb"], "a User-Agent is one line of text"),
        (["udp:192.0.2.1", "--role", "uas", "--json", "--trace"], "--trace: not allowed with argument --json"),
        (["udp:192.0.2.1", "--role", "uas", "--only", "99.9"], "--only 99.9 is of no check as uas by UDP"),
    ],
)
def test_unusable_arguments(capsys: Any, arguments: Any, said: Any) -> None:
    """A mistake on the command line is exit status 2, and its last line says what."""
    with pytest.raises(SystemExit) as ended:
        main(arguments, lambda *_: pytest.fail("a wire was made"))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("host", ["host.invalid", "host..invalid", f"{'a' * 70}.invalid"])
def test_a_host_without_an_address(capsys: Any, host: Any) -> None:
    """A host that has no address, or is no name at all, is exit status 2, and one line that names it."""
    assert main([f"udp:{host}", "--role", "uas"]) == 2
    said = capsys.readouterr().err
    assert f"{host} has no address" in said
    assert said.count("\n") == 1


class _Stopped:
    """An output that stops the command, once something of *seen* was printed."""

    def __init__(self, seen: str, fault: BaseException) -> None:
        self._seen, self._fault = seen, fault

    def write(self, text: str) -> None:
        if self._seen in text:
            raise self._fault

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(("fault", "exit_status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 1)])
def test_who_interrupts_leaves_no_binding(monkeypatch: Any, fault: Any, exit_status: Any) -> None:
    """Ctrl-C, and a reader that has seen enough, leave the registrar without bindings."""
    client: Any = client_of("registrar", "UDP")
    arguments = ["udp:198.51.100.1", "--role", "registrar", "--uri", client.target.uri, "--only", "10.3"]
    made = []
    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", _Stopped(" 10.3-21 ", fault))
    monkeypatch.setattr("sys.stdout.fileno", lambda: -1, raising=False)

    def make_wire(*_: Any) -> Any:
        made.append(client.wire)
        return client.wire

    assert main(arguments, make_wire) == exit_status
    monkeypatch.undo()
    assert client.ask("REGISTER").contacts == []


def test_runs_as_a_module() -> None:
    """The command is `python -m twisted_sipuas.conformance`."""
    done = subprocess.run(
        [sys.executable, "-m", "twisted_sipuas.conformance", "--role", "redirect", "--list"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "8.3  Redirect servers" in done.stdout


MESSAGE = b"SIP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_stream_reader(size: Any) -> None:
    """Messages of a stream are told apart however it is cut; what has no Content-Length has no body."""
    reader, found = StreamReader(), []
    octets = MESSAGE + b"\r\n" + MESSAGE + b"SIP/2.0 200 OK\r\n\r\n" + MESSAGE.replace(b"Content-Length", b"l") + b"SIP"
    for start in range(0, len(octets), size):
        reader.receive(octets[start : start + size])
        while (message := reader.next_message()) is not None:
            found.append(message)
    assert found == [
        MESSAGE, b"\r\n", MESSAGE, b"SIP/2.0 200 OK\r\n\r\n", MESSAGE.replace(b"Content-Length", b"l")
    ]  # fmt: skip


def test_stream_reader_is_bounded() -> None:
    """What is no SIP is handed out once it is longer than any message may be, and is not kept."""
    reader = StreamReader()
    reader.receive(b"x" * 70_000)
    assert reader.next_message() == b"x" * 70_000
    assert reader.next_message() is None


def test_the_page_counts_right() -> None:
    """The page about the command says how many checks there are, and for how many requirements."""
    page = (Path(__file__).parents[2] / "docs" / "checking-a-server.md").read_text()
    assert f"There are {len(CHECKS)} checks for {len({check.id for check in CHECKS})} requirements" in page
