"""Sockets of a virtual network: what our protocols take for their transports, and a server for its reactor.

Each has as much of Twisted's interfaces as is used: they are met by our own protocols and by Twisted's endpoints alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    UserError,
)
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.interfaces import Address

__all__ = ["Connection", "DatagramSocket", "Host", "StreamEndpoint", "connect"]


class Carrier(Protocol):
    """What the sockets need of their network."""

    @property
    def clock(self) -> Clock:
        """The time."""

    def carry_datagram(self, data: bytes, source: Address, destination: Address) -> None:
        """Bring *data* to the socket bound to *destination*, or lose it."""

    def carry_octets(self, data: bytes, sender: Connection, receive: Callable[[bytes], None]) -> None:
        """Bring *data*, of a connection, to *receive*: whole, in order, and only later than what was sent before."""

    def carry_end(self, sender: Connection, tell: Callable[[], None]) -> None:
        """Have *tell* called once all that *sender* has sent has arrived."""

    def soon(self, call: Callable[[], None]) -> None:
        """Call *call* once what is being done is done."""

    def listen(self, address: Address, factory: Any) -> None:
        """Have connections to *address* go to *factory*; None: refuse them."""

    def listener(self, address: Address) -> Any:
        """Return the factory that listens at *address*, or None."""

    def free_port(self, host: str) -> Address:
        """Return an address of *host* that nothing uses."""


class DatagramSocket:
    """The socket of a `DatagramProtocol`, bound to *address*."""

    def __init__(self, network: Carrier, address: Address) -> None:
        self._network = network
        self._address = address

    def getHost(self) -> IPv4Address | IPv6Address:
        """See `IUDPTransport`."""
        return twisted_address("UDP", self._address)

    def write(self, packet: bytes, addr: tuple[str, int]) -> None:
        """See `IUDPTransport`."""
        self._network.carry_datagram(packet, self._address, Address(*addr[:2]))


@implementer(IStreamServerEndpoint)
class StreamEndpoint:
    """Where connections to *address* are served by whatever listens here."""

    def __init__(self, network: Carrier, address: Address) -> None:
        self._network = network
        self._address = address

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See `IStreamServerEndpoint`."""
        self._network.listen(self._address, protocolFactory)
        return succeed(_ListeningPort(self._network, self._address))


@implementer(IListeningPort)
class _ListeningPort:
    """The listener of a `StreamEndpoint`."""

    def __init__(self, network: Carrier, address: Address) -> None:
        self._network = network
        self._address = address

    def startListening(self) -> None:
        """See `IListeningPort`; it has started."""

    def stopListening(self) -> None:
        """See `IListeningPort`."""
        self._network.listen(self._address, None)

    def getHost(self) -> IPv4Address | IPv6Address:
        """See `IListeningPort`."""
        return twisted_address("TCP", self._address)


class Connection:
    """One end of a connection between *local* and *remote*, the transport of a `Protocol`."""

    disconnecting = False

    def __init__(self, network: Carrier, local: Address, remote: Address) -> None:
        self._network = network
        self.local, self.remote = local, remote
        self.protocol: Any = None
        self.arrives_at = 0.0
        """When the latest octets that were sent will have arrived."""
        self._peer: Connection | None = None
        self._held: list[bytes] = []  # what came while reading was paused
        self._is_paused = False
        self._is_open = True

    def join(self, peer: Connection, protocol: Any) -> None:
        """Be connected to *peer*, and serve *protocol*."""
        self._peer, self.protocol = peer, protocol

    # ITransport

    def write(self, data: bytes) -> None:
        """See `ITransport`."""
        if self._is_open and not self.disconnecting and self._peer is not None:
            self._network.carry_octets(bytes(data), self, self._peer.receive)

    def loseConnection(self) -> None:
        """See `ITransport`."""
        if self.disconnecting or not self._is_open:
            return
        self.disconnecting = True
        assert self._peer is not None
        self._network.carry_end(self, self._peer.ended)
        self._network.soon(lambda: self.lost(ConnectionDone()))

    def abortConnection(self) -> None:
        """See `ITCPTransport`."""
        if self._is_open:
            self.disconnecting = True
            assert self._peer is not None
            peer = self._peer
            self._network.carry_end(self, lambda: peer.lost(ConnectionLost()))
            self._network.soon(lambda: self.lost(ConnectionAborted()))

    def getPeer(self) -> IPv4Address | IPv6Address:
        """See `ITransport`."""
        return twisted_address("TCP", self.remote)

    def getHost(self) -> IPv4Address | IPv6Address:
        """See `ITransport`."""
        return twisted_address("TCP", self.local)

    # IConsumer and IPushProducer

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """See `IConsumer`; nothing is ever too fast here."""

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""

    def pauseProducing(self) -> None:
        """Hand on nothing until `resumeProducing`."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Hand on what has come meanwhile."""
        self._is_paused = False
        held, self._held = self._held, []
        for data in held:
            self.receive(data)

    # From the other end

    def receive(self, data: bytes) -> None:
        """Octets arrive."""
        if self._is_paused:
            self._held.append(data)
        elif self._is_open:
            self.protocol.dataReceived(data)

    def ended(self) -> None:
        """The peer sends nothing more."""
        if not self._is_open:
            return
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.lost(ConnectionDone())

    def lost(self, reason: Exception) -> None:
        """The connection is gone."""
        if self._is_open:
            self._is_open = False
            self.disconnecting = True
            self.protocol.connectionLost(Failure(reason))


class _Connector:
    """One attempt to connect to *address*."""

    def __init__(self, address: Address, factory: Any) -> None:
        self._address = address
        self._factory = factory
        self.is_over = False

    def getDestination(self) -> IPv4Address | IPv6Address:
        """See `IConnector`."""
        return twisted_address("TCP", self._address)

    def stopConnecting(self) -> None:
        """See `IConnector`."""
        self.fail(UserError())

    def fail(self, reason: Exception) -> None:
        """The attempt is over."""
        if not self.is_over:
            self.is_over = True
            self._factory.clientConnectionFailed(self, Failure(reason))


@implementer(IReactorTime)
class Host:
    """What a program on *host* takes for its reactor: the time, and connections that it opens."""

    def __init__(self, network: Carrier, host: str) -> None:
        self._network = network
        self._host = host
        self.seconds = network.clock.seconds
        self.callLater = network.clock.callLater
        self.getDelayedCalls = network.clock.getDelayedCalls

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: object = None
    ) -> _Connector:
        """Connect *factory* to what listens at *host* and *port*, or refuse."""
        destination = Address(host, port)
        connector = _Connector(destination, factory)
        factory.doStart()
        factory.startedConnecting(connector)
        self._network.soon(lambda: self._connect(connector, destination, factory))
        return connector

    def _connect(self, connector: _Connector, destination: Address, factory: Any) -> None:
        if connector.is_over:
            return
        listener = self._network.listener(destination)
        if listener is None:
            connector.fail(ConnectionRefusedError())
            return
        connector.is_over = True
        connect(self._network, self._network.free_port(self._host), factory, destination, listener)


def connect(network: Carrier, source: Address, client: Any, destination: Address, server: Any) -> Connection:
    """Connect a protocol of the factory *client* at *source* to one of *server*; returns the client's end."""
    near, far = Connection(network, source, destination), Connection(network, destination, source)
    near.join(far, client.buildProtocol(near.getPeer()))
    far.join(near, server.buildProtocol(far.getPeer()))
    far.protocol.makeConnection(far)
    near.protocol.makeConnection(near)
    return near


def twisted_address(kind: str, address: Address) -> IPv4Address | IPv6Address:
    """Return *address* in Twisted's spelling."""
    is_ipv6 = ipaddress.ip_address(address.host).version == 6
    return (IPv6Address if is_ipv6 else IPv4Address)(kind, address.host, address.port)  # type: ignore[arg-type]
