"""TCP and TLS: one connection, many messages (RFC 3261, 18.3; RFC 5626, 3.5.1)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address, IMessageReceiver
from twisted_sipuas.syntax.framing import KEEP_ALIVE, StreamFramer
from twisted_sipuas.syntax.message import MAX_URI, Request, parse_message
from twisted_sipuas.transport.flow import StreamFlow

__all__ = ["SIPStreamFactory", "SIPStreamProtocol"]

_FINAL = tuple(f"SIP/2.0 {digit}".encode() for digit in range(2, 7))
_CLOSE_TIMEOUT = 5.0  # seconds for the last octets to leave before the connection is cut


@implementer(IPushProducer, IHalfCloseableProtocol)
class SIPStreamProtocol(Protocol):
    """One connection: cuts it into messages and hands them to the factory's receiver."""

    factory: SIPStreamFactory
    transport: Any  # ITCPTransport, which Twisted's own annotation does not say

    def __init__(self) -> None:
        self.closed = True
        self._framer = StreamFramer()
        self._flow: StreamFlow | None = None
        self._deadline: IDelayedCall | None = None
        self._is_mid_message = False
        self._owed = 0  # requests that came and were not answered yet
        self._peer_is_done = False

    # Protocol

    def connectionMade(self) -> None:
        """Take the connection, or drop it if there are too many."""
        factory = self.factory
        if not factory.admit(self):
            self.transport.abortConnection()
            return
        self.closed = False
        self._framer = StreamFramer(factory.max_message, factory.max_message)
        self._deadline = factory.clock.callLater(factory.idle_timeout, self._cut_off)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Take octets as they come."""
        if self.closed:
            return
        flow = self._flow
        if flow is None:  # not before: a PROXY header, ahead of the first octets for us, may say who the peer is
            name = "TLS" if ISSLTransport.providedBy(self.transport) else "TCP"
            local, remote = _address(self.transport.getHost()), _address(self.transport.getPeer())
            flow = self._flow = StreamFlow(self, name, local, remote)
        self._framer.receive(data)
        try:
            while not self.closed:
                message = self._framer.next_message()
                if message is None:
                    break
                self._is_mid_message = False
                if message is KEEP_ALIVE:
                    self.send(b"\r\n")
                else:
                    self._message_received(message, flow)
        except MessageSyntaxError as fault:
            if fault.request is not None:
                self.factory.receiver.syntax_error_received(fault, flow)
            else:
                self.factory.count("not_sip")
            self.close()
        else:
            self._watch()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone; what still wants to answer on it is told so."""
        self.closed = True
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        self.factory.forget(self)

    # IHalfCloseableProtocol: without it, what is not sent yet would be lost

    def readConnectionLost(self) -> None:
        """The peer sends nothing more; the connection is closed once its requests are answered, or time is up."""
        self._peer_is_done = True
        if self._owed <= 0:
            self.close()
        elif self._deadline is not None:
            self._deadline.reset(self.factory.message_timeout)

    def writeConnectionLost(self) -> None:
        """We never close our half alone; there is nothing to do."""

    # IPushProducer: a peer that does not read its answers gets no more of its requests read

    def pauseProducing(self) -> None:
        """The peer does not read fast enough: read nothing from it until it does; its deadline goes on."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The peer has read what was waiting for it."""
        if not self.closed:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The connection is going; there is nothing to stop."""

    # For the flow and the factory

    def send(self, data: bytes) -> None:
        """Send *data*, one whole message."""
        self.transport.write(data)
        if data.startswith(_FINAL):
            self._owed -= 1
            if self._peer_is_done and self._owed <= 0:
                self.close()

    @property
    def peer_certificate(self) -> object:
        """The peer's certificate, or None; known only once the TLS handshake is over."""
        return self.transport.getPeerCertificate() if ISSLTransport.providedBy(self.transport) else None

    def close(self) -> None:
        """Close the connection once what was sent has left, and cut it if that takes too long."""
        if self.closed:
            return
        self.closed = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if self._deadline is not None:
            self._deadline.reset(_CLOSE_TIMEOUT)

    def _message_received(self, octets: bytes, flow: StreamFlow) -> None:
        receiver = self.factory.receiver
        try:
            message = parse_message(octets, self.factory.max_uri)
        except MessageSyntaxError as fault:
            receiver.syntax_error_received(fault, flow)
        else:
            if isinstance(message, Request) and message.method != "ACK":
                self._owed += 1
            receiver.message_received(message, flow)

    def _watch(self) -> None:
        """Give a whole message its time from its first octet on, and an idle connection its own."""
        if self._deadline is None or self.closed:
            return
        if not self._framer.is_mid_message:
            self._is_mid_message = False
            self._deadline.reset(self.factory.idle_timeout)
        elif not self._is_mid_message:
            self._is_mid_message = True
            self._deadline.reset(self.factory.message_timeout)

    def _cut_off(self) -> None:
        self._deadline = None
        self.closed = True
        self.factory.count("timed_out")
        self.transport.abortConnection()


class SIPStreamFactory(Factory):
    """Makes a `SIPStreamProtocol` for each connection to *receiver*, an `IMessageReceiver` such as `SIPService`.

    For your own endpoint: ``endpoint.listen(SIPStreamFactory(service, reactor))``.

    *clock* gives the time. *max_connections* bounds the connections, *max_message* one message in octets, *max_uri* a
    Request-URI in characters, *message_timeout* the seconds from the first octet of a message to its last,
    *idle_timeout* the seconds without a message or keep-alive (18: at least 64*T1). `counters` counts what these bounds
    did.
    """

    protocol = SIPStreamProtocol  # type: ignore[assignment]  # the base class wants any callable
    noisy = False

    def __init__(
        self,
        receiver: IMessageReceiver,
        clock: IReactorTime,
        *,
        max_connections: int = 10_000,
        max_message: int = 65535,
        max_uri: int = MAX_URI,
        message_timeout: float = 32.0,
        idle_timeout: float = 300.0,
    ) -> None:
        self.receiver = receiver
        self.clock = clock
        self.max_connections = max_connections
        self.max_message = max_message
        self.max_uri = max_uri
        self.message_timeout = message_timeout
        self.idle_timeout = idle_timeout
        self.counters = {"refused": 0, "not_sip": 0, "timed_out": 0}
        self._connections: set[SIPStreamProtocol] = set()
        self._closing: list[Deferred[None]] = []

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def admit(self, connection: SIPStreamProtocol) -> bool:
        """Whether there is room for *connection*, which then counts."""
        if len(self._connections) >= self.max_connections:
            self.count("refused")
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: SIPStreamProtocol) -> None:
        """*connection* is gone."""
        self._connections.discard(connection)
        if self._closing and not self._connections:
            closing, self._closing = self._closing, []
            for waiter in closing:
                waiter.callback(None)

    def count(self, what: str) -> None:
        """Add one to the counter *what*."""
        self.counters[what] += 1

    def close_connections(self) -> Deferred[None]:
        """Close every connection once what was sent on it has left; fires when all are gone, in 5 seconds at most."""
        closing: Deferred[None] = Deferred()
        if not self._connections:
            closing.callback(None)
            return closing
        self._closing.append(closing)
        for connection in list(self._connections):
            connection.close()
        return closing


def _address(address: Any) -> Address:
    """Return the `Address` of a Twisted one; a UNIX socket has none."""
    host = getattr(address, "host", "")
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return Address(host.partition("%")[0], getattr(address, "port", 0))
