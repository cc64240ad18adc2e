"""Flows: what a message came on, and what its answer goes back by (RFC 5626, 2.1: "flow")."""

from __future__ import annotations

from typing import Protocol

from zope.interface import implementer

from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import Address, IFlow

__all__ = ["DatagramFlow", "DatagramSender", "StreamFlow", "StreamSender"]


class DatagramSender(Protocol):
    """The socket behind a `DatagramFlow`."""

    local_address: Address
    closed: bool

    def send(self, data: bytes, destination: tuple[str, int]) -> None:
        """Send one datagram; raises `TransportError`."""


class StreamSender(Protocol):
    """The connection behind a `StreamFlow`."""

    closed: bool

    @property
    def peer_certificate(self) -> object:
        """The peer's certificate on TLS, or None."""

    def send(self, data: bytes) -> None:
        """Send the octets of one message."""


@implementer(IFlow)
class DatagramFlow:
    """The way to and from one address by one UDP socket; see `IFlow`."""

    __slots__ = ("_destination", "_sender")

    transport = "UDP"
    is_reliable = False
    peer_certificate = None

    def __init__(self, sender: DatagramSender, destination: tuple[str, int]) -> None:
        self._sender = sender
        self._destination = destination

    @property
    def remote_address(self) -> Address:
        """The peer's address, in the form that can be put into a Via: no zone, no IPv4-mapped IPv6."""
        host, port = self._destination
        if ":" in host:
            host = host.partition("%")[0]
            if host.startswith("::ffff:") and "." in host:
                host = host[7:]
        return Address(host, port)

    @property
    def local_address(self) -> Address:
        """The address that the socket is bound to."""
        return self._sender.local_address

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self._sender.closed

    def send(self, data: bytes) -> None:
        """See `IFlow`."""
        self._sender.send(data, self._destination)

    def towards(self, address: Address) -> DatagramFlow:
        """Return the flow to *address* by the same socket; the peer's own host stays as the socket spells it."""
        host = self._destination[0] if address.host == self.remote_address.host else address.host
        return DatagramFlow(self._sender, (host, address.port))

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
    def peer_certificate(self) -> object:
        """See `IFlow`."""
        return self._sender.peer_certificate

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._sender.closed

    def send(self, data: bytes) -> None:
        """See `IFlow`."""
        if self._sender.closed:
            raise TransportError(f"the connection from {self.remote_address} is gone")
        self._sender.send(data)

    def towards(self, address: Address) -> StreamFlow:
        """Return this flow: a connection leads to its peer alone."""
        return self

    def __repr__(self) -> str:
        return f"<{self.transport} flow to {self.remote_address}>"
