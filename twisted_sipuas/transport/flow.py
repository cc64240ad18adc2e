"""Flows: what a message came on, and what its answer goes back by (RFC 5626, 2.1: "flow")."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred
from zope.interface import implementer

from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import Address, IFlow

__all__ = ["Ancillary", "DatagramFlow", "DatagramSender", "PacketInfo", "StreamFlow", "StreamSender", "plain_host"]

Ancillary = list[tuple[int, int, bytes]]
"""Ancillary data as `socket.sendmsg` takes it."""

_new = tuple.__new__  # half of what the call of a named tuple costs


class PacketInfo(NamedTuple):
    """Which of our addresses a datagram came to, and what makes the answer leave from it."""

    local_address: Address | None
    ancillary: Ancillary


class DatagramSender(Protocol):
    """The socket behind a `DatagramFlow`."""

    local_address: Address
    advertised_address: Address | None
    closed: bool

    def send(self, data: bytes, destination: tuple[str, int], info: PacketInfo | None = None) -> None:
        """Send one datagram; raises `TransportError`."""

    def with_ttl(self, info: PacketInfo | None, ttl: int) -> PacketInfo:
        """Return *info* with this time to live."""


class StreamSender(Protocol):
    """The connection behind a `StreamFlow`."""

    closed: bool

    @property
    def is_proxied(self) -> bool:
        """Whether a proxy told who the peer is."""

    @property
    def advertised_address(self) -> Address | None:
        """What others are to be told instead of the connection's own address, or None."""

    @property
    def peer_certificate(self) -> object:
        """The peer's certificate on TLS, or None."""

    @property
    def peer_identities(self) -> tuple[str, ...]:
        """The SIP domains that the certificate is for."""

    def send(self, data: bytes) -> None:
        """Send the octets of one message."""

    def when_closed(self) -> Deferred[None]:
        """Fires when the connection is gone."""


@implementer(IFlow)
class DatagramFlow:
    """The way to and from one address by one UDP socket; see `IFlow`."""

    __slots__ = ("_destination", "_info", "_sender", "remote_address")

    transport = "UDP"
    is_reliable = False
    peer_certificate = None
    peer_identities = ()

    def __init__(self, sender: DatagramSender, destination: tuple[str, int], info: PacketInfo | None = None) -> None:
        self._sender = sender
        self._destination = destination
        self._info = info
        host, port = destination
        # In the form that can be put into a Via: no zone, no IPv4-mapped IPv6.
        self.remote_address = _new(Address, (plain_host(host), port) if ":" in host else destination)

    @property
    def local_address(self) -> Address:
        """The address that the datagram came to, or else the one that the socket is bound to."""
        info = self._info
        return self._sender.local_address if info is None or info.local_address is None else info.local_address

    @property
    def advertised_address(self) -> Address:
        """See `IFlow`."""
        return self._sender.advertised_address or self.local_address

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self._sender.closed

    def when_closed(self) -> Deferred[None]:
        """See `IFlow`; it never fires."""
        return Deferred()

    def send(self, data: bytes) -> None:
        """See `IFlow`."""
        self._sender.send(data, self._destination, self._info)

    def towards(self, address: Address, ttl: int | None = None) -> DatagramFlow:
        """Return the flow to *address* by the same socket; the peer's own host stays as the socket spells it."""
        host = self._destination[0] if address.host == self.remote_address.host else address.host
        info = self._info if ttl is None else self._sender.with_ttl(self._info, ttl)
        return DatagramFlow(self._sender, (host, address.port), info)

    def __repr__(self) -> str:
        return f"<UDP flow to {self.remote_address}>"


@implementer(IFlow)
class StreamFlow:
    """One connection; see `IFlow`."""

    __slots__ = ("_sender", "local_address", "remote_address", "transport")

    is_reliable = True

    def __init__(self, sender: StreamSender, transport: str, local_address: Address, remote_address: Address) -> None:
        self._sender = sender
        self.transport = transport
        self.local_address = local_address
        self.remote_address = remote_address

    @property
    def is_proxied(self) -> bool:
        """Whether a proxy told who the peer is, so that nobody but the proxy leads there."""
        return self._sender.is_proxied

    @property
    def advertised_address(self) -> Address:
        """See `IFlow`."""
        return self._sender.advertised_address or self.local_address

    @property
    def peer_certificate(self) -> object:
        """See `IFlow`."""
        return self._sender.peer_certificate

    @property
    def peer_identities(self) -> tuple[str, ...]:
        """See `IFlow`."""
        return self._sender.peer_identities

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._sender.closed

    def when_closed(self) -> Deferred[None]:
        """See `IFlow`."""
        return self._sender.when_closed()

    def send(self, data: bytes) -> None:
        """See `IFlow`."""
        if self._sender.closed:
            raise TransportError(f"the connection from {self.remote_address} is gone")
        self._sender.send(data)

    def towards(self, address: Address, ttl: int | None = None) -> StreamFlow:
        """Return this flow: a connection leads to its peer alone."""
        return self

    def __repr__(self) -> str:
        return f"<{self.transport} flow to {self.remote_address}>"


def plain_host(host: str) -> str:
    """Return the numeric IPv6 address *host* without its zone, and as IPv4 where it is mapped from that."""
    host = host.partition("%")[0]
    return host[7:] if host.startswith("::ffff:") and "." in host else host
