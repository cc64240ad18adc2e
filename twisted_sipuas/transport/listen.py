"""What ``--listen`` says: which sockets to open (one line of text each)."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.uri import canonical_domain

__all__ = ["DatagramListen", "InheritedListen", "SecureListen", "StreamListen", "parse_advertised", "parse_listen"]

_DEFAULT_PORT = 5060
_DEFAULT_SECURE_PORT = 5061
_DEFAULT_INTERFACE = "127.0.0.1"
_ADVERTISED = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]+))?")
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
    advertised: Address | None = None
    """What others are to be told in place of the socket's address; port 0 for the socket's own port."""


class SecureListen(NamedTuple):
    """A TLS listener with a certificate that can be reloaded."""

    interface: str
    """The address to bind."""
    port: int
    """The port to bind; 0 for a free one."""
    private_key: str
    """The file with the private key, PEM."""
    certificate: str
    """The file with the certificate, PEM, and perhaps with its chain behind it."""
    chain: str | None
    """A further file with certificates of the chain."""
    advertised: Address | None = None
    """As in `DatagramListen`."""


class StreamListen(NamedTuple):
    """A stream endpoint, described as Twisted's `serverFromString` takes it."""

    description: str
    advertised: Address | None = None
    """As in `DatagramListen`."""

    @property
    def is_proxied(self) -> bool:
        """Whether a proxy's header tells who the peer is."""
        return self.description.startswith("haproxy:")

    @property
    def is_inherited(self) -> bool:
        """Whether it is a socket that exists already, on whatever address."""
        return self.description.removeprefix("haproxy:").partition(":")[0] == "systemd"

    def covers(self, interface: str, port: int) -> bool:
        """Whether it is a TCP listener on *interface* and *port*, or on every address and that port."""
        kind, *parts = _split(self.description.removeprefix("haproxy:"))
        if kind not in ("tcp", "tcp6"):
            return False
        given = {"interface": "::" if kind == "tcp6" else "0.0.0.0"}
        for part in parts:
            name, equals, value = part.partition("=")
            given[name if equals else "port"] = _unescaped(value if equals else part)
        if port == 0 or given.get("port") != str(port):
            return False
        return given["interface"] in (interface, "::", "::" if ":" in interface else "0.0.0.0")


class InheritedListen(NamedTuple):
    """What another process has bound for one listener, to be served here."""

    item: DatagramListen | SecureListen | StreamListen
    """What was asked for: it says how to serve them."""
    descriptors: tuple[int, ...]
    """The sockets: of a UDP listener that, and the TCP one beside it if there is one. They become ours to close."""


def parse_listen(text: str) -> DatagramListen | SecureListen | StreamListen:
    """Return what *text* asks for.

    ``udp[:PORT][:interface=ADDRESS][:tcp=no]``, ``udp:fd=NUMBER[:tcp=no]`` and
    ``ssl[:PORT]:privateKey=FILE:certKey=FILE[:extraCertChain=FILE][:interface=ADDRESS]`` are ours; any other text is
    the description of a Twisted server endpoint, to be judged when it is opened. Each may have
    ``:advertise=HOST[:PORT]``. Raises `ValueError` saying what is wrong and what was expected.
    """
    kind, *parts = _split(text)
    advertised = _take_advertised(parts)
    if kind == "udp":
        return _datagram(text, parts, advertised)
    if kind == "ssl":
        return _secure(text, parts, advertised)
    if not kind or not parts:
        raise ValueError(
            f"{text!r} is no listener: expected udp:PORT, udp:PORT:interface=ADDRESS or a Twisted server endpoint "
            "such as tcp:5060"
        )
    return StreamListen(":".join((kind, *parts)), advertised)


def parse_advertised(text: str) -> Address:
    """Return the address that *text*, ``HOST`` or ``HOST:PORT``, tells; port 0 if it has none.

    An IPv6 address is in brackets if a port follows. Raises `ValueError`.
    """
    match = _ADVERTISED.fullmatch(text)
    host, port = match.groups() if match is not None else (text, None)  # an IPv6 address without brackets
    try:
        return Address(canonical_domain(host).strip("[]"), _number(port, "a port", 65535) if port else 0)
    except ValueError:
        raise ValueError(f"{text!r} cannot be advertised: expected HOST or HOST:PORT") from None


def _datagram(text: str, parts: list[str], advertised: Address | None) -> DatagramListen:
    interface, port, descriptor, with_stream = _DEFAULT_INTERFACE, _DEFAULT_PORT, None, True
    for position, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if name == "fd" and (position > 0 or any(not other.startswith("tcp=") for other in parts[1:])):
            raise ValueError(f"{text!r}: with fd= nothing else can be said but tcp=no")
        if position == 0 and not equals:
            port = _number(part, "a port from 0 to 65535", 65535)
        elif name == "interface" and value:
            interface = _address(value)
        elif name == "fd":
            descriptor = _number(value, "the number of a descriptor", 1_000_000)
        elif name == "tcp" and value in ("yes", "no"):
            with_stream = value == "yes"
        else:
            raise ValueError(f"{part!r} in {text!r}: expected interface=ADDRESS, fd=NUMBER, tcp=no or advertise=HOST")
    if descriptor is not None:
        interface, port = "", 0
    return DatagramListen(interface, port, descriptor, with_stream, advertised)


def _secure(text: str, parts: list[str], advertised: Address | None) -> SecureListen:
    interface, port = "", _DEFAULT_SECURE_PORT
    files: dict[str, str] = {}
    for position, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if position == 0 and not equals:
            port = _number(part, "a port from 0 to 65535", 65535)
        elif name == "interface" and value:
            interface = _address(_unescaped(value))
        elif name in ("privateKey", "certKey", "extraCertChain") and value:
            files[name] = _unescaped(value)
        else:
            raise ValueError(
                f"{part!r} in {text!r}: expected privateKey=FILE, certKey=FILE, extraCertChain=FILE, "
                "interface=ADDRESS or advertise=HOST"
            )
    if "privateKey" not in files:
        raise ValueError(f"{text!r}: expected privateKey=FILE and certKey=FILE")
    private_key = files["privateKey"]
    certificate = files.get("certKey", private_key)  # one file may hold both
    return SecureListen(interface, port, private_key, certificate, files.get("extraCertChain"), advertised)


def _take_advertised(parts: list[str]) -> Address | None:
    """Take ``advertise=HOST`` out of *parts*, and the port that may follow it as a part of its own."""
    for position, part in enumerate(parts):
        if part.startswith("advertise="):
            text = _unescaped(part.partition("=")[2])
            following = parts[position + 1 : position + 2]
            if following and following[0].isdigit():
                text += f":{following[0]}"
                del parts[position + 1]
            del parts[position]
            return parse_advertised(text)
    return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


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
