"""What ``--listen`` says: which sockets to open (one line of text each)."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

__all__ = ["DatagramListen", "StreamListen", "parse_listen"]

_DEFAULT_PORT = 5060
_DEFAULT_INTERFACE = "127.0.0.1"
_PART = re.compile(r"(?:[^\\:\[\]]|\\.|\[[^\]]*\])*")


class DatagramListen(NamedTuple):
    """A UDP socket, and by default a TCP one beside it (18.2.1)."""

    interface: str
    """The address to bind; empty for a descriptor."""
    port: int
    """The port to bind; 0 for a free one."""
    descriptor: int | None
    """The number of an inherited descriptor, in place of interface and port."""
    with_stream: bool
    """Whether TCP is to be opened on the same address and port."""


class StreamListen(NamedTuple):
    """A stream endpoint, described as Twisted's `serverFromString` takes it."""

    description: str

    def covers(self, interface: str, port: int) -> bool:
        """Whether it is a TCP listener on *interface* and *port*, or on every address and that port."""
        kind, *parts = _split(self.description.removeprefix("haproxy:"))
        if kind not in ("tcp", "tcp6"):
            return False
        given = {"interface": "::" if kind == "tcp6" else "0.0.0.0"}
        for part in parts:
            name, equals, value = part.partition("=")
            given[name if equals else "port"] = (value if equals else part).replace("\\", "")
        if port == 0 or given.get("port") != str(port):
            return False
        return given["interface"] in (interface, "::", "::" if ":" in interface else "0.0.0.0")


def parse_listen(text: str) -> DatagramListen | StreamListen:
    """Return what *text* asks for.

    ``udp[:PORT][:interface=ADDRESS][:tcp=no]`` and ``udp:fd=NUMBER`` are ours; any other text is the description of a
    Twisted server endpoint, to be judged when it is opened. Raises `ValueError` saying what is wrong and what was
    expected.
    """
    kind, *parts = _split(text)
    if kind != "udp":
        if not kind or not parts:
            raise ValueError(
                f"{text!r} is no listener: expected udp:PORT, udp:PORT:interface=ADDRESS or a Twisted server endpoint "
                "such as tcp:5060"
            )
        return StreamListen(text)
    interface, port, descriptor, with_stream = _DEFAULT_INTERFACE, _DEFAULT_PORT, None, True
    for position, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if name == "fd" and len(parts) > 1 and parts[1:] != ["tcp=no"]:
            raise ValueError(f"{text!r}: with fd= nothing else can be said")
        if position == 0 and not equals:
            port = _number(part, "a port from 0 to 65535", 65535)
        elif name == "interface" and value:
            interface = _address(value)
        elif name == "fd":
            descriptor = _number(value, "the number of a descriptor", 1_000_000)
        elif name == "tcp" and value in ("yes", "no"):
            with_stream = value == "yes"
        else:
            raise ValueError(f"{part!r} in {text!r}: expected interface=ADDRESS, fd=NUMBER or tcp=no")
    if descriptor is not None:
        return DatagramListen("", 0, descriptor, False)
    return DatagramListen(interface, port, None, with_stream)


def _split(text: str) -> list[str]:
    """Split at colons, but not at those in brackets or behind a backslash."""
    parts = []
    position = 0
    while True:
        match = _PART.match(text, position)
        assert match is not None, "the pattern matches the empty text"
        parts.append(match[0])
        position = match.end()
        if position >= len(text):
            return parts
        if text[position] != ":":
            raise ValueError(f"unpaired bracket or backslash in {text!r}")
        position += 1


def _number(text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text.lstrip("0")[:8] or "0") <= most):
        raise ValueError(f"{text!r} is not {what}")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise ValueError(f"{text!r} is no IP address: expected one such as 192.0.2.1 or [2001:db8::1]") from None
