"""TCP and TLS: one connection, many messages (RFC 3261, 18.3; RFC 5626, 3.5.1)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address, IMessageReceiver
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.framing import KEEP_ALIVE, StreamFramer
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.transport.connections import Connections
from twisted_sipuas.transport.flow import StreamFlow, plain_host
from twisted_sipuas.transport.limits import TransportLimits

__all__ = ["SIPStreamFactory", "SIPStreamProtocol"]

_log = Logger()

_FINAL = tuple(f"SIP/2.0 {digit}".encode() for digit in range(2, 7))
_MAX_PORT = 65535
_BATCH = 32  # messages of a connection that are handled before others have a turn
_CLOSE_TIMEOUT = 5.0  # seconds for the last octets to leave before the connection is cut


@implementer(IPushProducer, IHalfCloseableProtocol, IHandshakeListener)
class SIPStreamProtocol(Protocol):
    """One connection: cuts it into messages and hands them to the factory's receiver."""

    factory: SIPStreamFactory
    transport: Any  # ITCPTransport, which Twisted's own annotation does not say

    def __init__(self) -> None:
        self.closed = True
        self._framer = StreamFramer()
        self._flow: StreamFlow | None = None
        self._deadline: IDelayedCall | None = None
        self._deadline_is_for = "idle_timeouts"  # the counter of what is too slow
        self._is_mid_message = False
        self._is_paused = False
        self._rest: IDelayedCall | None = None  # what takes the messages that are left for the next turn
        self._is_in_handshake = False
        self._handshake: Deferred[None] | None = None
        self._peer_identities: tuple[str, ...] | None = None
        self._owed = 0  # requests that came and were not answered yet
        self._peer_is_done = False
        self._is_gone = False
        self._closing: set[Deferred[None]] = set()  # who wants to know when it is

    # Protocol

    def connectionMade(self) -> None:
        """Take the connection, or drop it if there are too many."""
        factory = self.factory
        connections = factory.connections
        # Behind a proxy who the peer is comes with the first octets.
        if not connections.admit(self) or not (
            factory.is_proxied or connections.admit_from(self, _address(self.transport.getPeer()).host)
        ):
            self.transport.abortConnection()
            return
        self.closed = False
        if factory.is_proxied:
            self._wrap_proxied()
        limits = connections.limits
        self._framer = StreamFramer(limits.max_header, limits.max_message)
        self._is_in_handshake = ISSLTransport.providedBy(self.transport)
        is_preparing = self._is_in_handshake or factory.is_proxied
        seconds = limits.message_timeout if is_preparing else limits.idle_timeout
        self._deadline = factory.clock.callLater(seconds, self._cut_off)
        self.transport.registerProducer(self, True)

    def _wrap_proxied(self) -> None:
        """Mend what the transport, Twisted's reader of PROXY headers, does not do.

        It does not pass on that the peer sends nothing more, and what is no header makes it raise.
        """
        reader = self.transport
        reader.readConnectionLost = self.readConnectionLost
        reader.writeConnectionLost = self.writeConnectionLost
        alsoProvides(reader, IHalfCloseableProtocol)
        reader.dataReceived = partial(self._read_proxied, reader.dataReceived)

    def handshakeCompleted(self) -> None:
        """TLS is ready: from now on the connection may be idle as others may."""
        self._is_in_handshake = False
        if self._handshake is not None:
            handshake, self._handshake = self._handshake, None
            handshake.callback(None)
        self._expect("idle_timeouts", self.factory.connections.limits.idle_timeout)

    def dataReceived(self, data: bytes) -> None:
        """Take octets as they come."""
        if self.closed:
            return
        if self._flow is None and self.factory.is_proxied and not self._admit_client(self.flow.remote_address):
            self._abort()
            return
        self._framer.receive(data)
        if self._rest is None and not self._is_paused:
            self._take_messages()

    def _take_messages(self) -> None:
        """Take what has come whole, `_BATCH` messages at most; the rest when others have had their turn."""
        self._rest = None
        try:
            for _ in range(_BATCH):
                message = self._framer.next_message()
                if message is None:
                    break
                self._is_mid_message = False
                if message is KEEP_ALIVE:
                    self.send(b"\r\n")
                else:
                    self._message_received(message, self.flow)
                if self.closed or self._is_paused:
                    return
            else:
                self.transport.pauseProducing()
                self._rest = self.factory.clock.callLater(0, self._take_rest)
        except MessageSyntaxError as fault:
            self._fault_found(fault)
        else:
            self._watch()

    def _take_rest(self) -> None:
        self._take_messages()
        if self._rest is None and not self._is_paused and not self.closed:
            self.transport.resumeProducing()

    def _fault_found(self, fault: MessageSyntaxError) -> None:
        """The stream cannot be cut into messages any further."""
        if fault.request is not None:
            self.factory.receiver.syntax_error_received(fault, self.flow)
        else:
            self._let_go("not_sip", fault.reason)
        self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone; what still wants to answer on it is told so."""
        if self._is_in_handshake and not self.closed:
            self._let_go("handshakes_failed", "There was no TLS handshake")
        if self._handshake is not None:
            handshake, self._handshake = self._handshake, None
            handshake.errback(reason)
        self.closed = True
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        self._stop_taking()
        self.factory.connections.forget(self)
        self._is_gone = True
        closing, self._closing = self._closing, set()
        for waiter in closing:
            waiter.callback(None)

    # IHalfCloseableProtocol: without it, what is not sent yet would be lost

    def readConnectionLost(self) -> None:
        """The peer sends nothing more; the connection is closed once its requests are answered, or time is up."""
        self._peer_is_done = True
        if self._owed <= 0:
            self.close()
        else:
            self._expect("idle_timeouts", self.factory.connections.limits.message_timeout)

    def writeConnectionLost(self) -> None:
        """We never close our half alone; there is nothing to do."""

    # IPushProducer: a peer that does not read its answers gets no more of its requests read

    def pauseProducing(self) -> None:
        """The peer does not read fast enough: read nothing from it until it does, and cut it off if it does not."""
        self._is_paused = True
        self._stop_taking()
        self.transport.pauseProducing()
        if not self.closed:
            self._expect("write_timeouts", self.factory.connections.limits.message_timeout)

    def resumeProducing(self) -> None:
        """The peer has read what was waiting for it."""
        self._is_paused = self._is_mid_message = False
        if not self.closed:
            self._take_rest()

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

    def when_closed(self) -> Deferred[None]:
        """Return a new `Deferred` that fires when the connection is gone, at once if it is; see `IFlow`."""
        waiter: Deferred[None] = Deferred(self._closing.discard)
        if self._is_gone:
            waiter.callback(None)
        else:
            self._closing.add(waiter)
        return waiter

    @property
    def flow(self) -> StreamFlow:
        """The flow that this connection is; behind a proxy not before the first octets came."""
        if self._flow is None:
            name = "TLS" if ISSLTransport.providedBy(self.transport) else "TCP"
            local, remote = _address(self.transport.getHost()), _address(self.transport.getPeer())
            self._flow = StreamFlow(self, name, local, remote)
        return self._flow

    @property
    def advertised_address(self) -> Address | None:
        """What others are to be told instead of the connection's own address, or None."""
        advertised = self.factory.advertised_address
        if advertised is None or advertised.port:
            return advertised
        return advertised._replace(port=self.flow.local_address.port)

    @property
    def peer_certificate(self) -> object:
        """The peer's certificate, or None; known only once the TLS handshake is over."""
        return self.transport.getPeerCertificate() if ISSLTransport.providedBy(self.transport) else None

    @property
    def peer_identities(self) -> tuple[str, ...]:
        """The SIP domains that the peer's certificate is for (RFC 5922, 7.1)."""
        if self._peer_identities is None:
            certificate = self.peer_certificate
            if certificate is None:
                return ()
            from twisted_sipuas.transport.tls import sip_identities  # needs what only those who use TLS have installed

            self._peer_identities = sip_identities(certificate)
        return self._peer_identities

    def when_secure(self) -> Deferred[None]:
        """Fires when the TLS handshake is done, fails if the connection is lost before; to be called once."""
        waiter: Deferred[None] = Deferred()
        if self._is_in_handshake:
            self._handshake = waiter
        else:
            waiter.callback(None)
        return waiter

    @property
    def is_proxied(self) -> bool:
        """Whether a proxy told who the peer is."""
        return self.factory.is_proxied

    def close(self) -> None:
        """Close the connection once what was sent has left, and cut it if that takes too long."""
        if self.closed:
            return
        self.closed = True
        self._stop_taking()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._expect("write_timeouts", _CLOSE_TIMEOUT)

    def _stop_taking(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _admit_client(self, client: Address) -> bool:
        """Whether the *client* that a proxy names is an address, as Twisted does not ask, and there is room for it."""
        try:
            ipaddress.ip_address(client.host)
        except ValueError:
            is_address = False
        else:
            is_address = 0 <= client.port <= _MAX_PORT
        if not is_address:
            self._let_go("not_sip", "The PROXY header names no address")
            return False
        return self.factory.connections.admit_from(self, client.host)

    def _read_proxied(self, read: Callable[[bytes], None], data: bytes) -> None:
        """Have Twisted *read* the PROXY header in *data*; what it cannot read may raise anything."""
        try:
            read(data)
        except ValueError:
            if self._flow is not None:  # the header was read, and the fault is another's
                raise
            self._let_go("not_sip", "Malformed PROXY header")
            self._abort()

    def _let_go(self, what: str, reason: str) -> None:
        """Count a connection that is no use as *what*, and say so; a flood of them is one line a second."""
        suppressed = self.factory.connections.let_go(what, self.factory.clock.seconds())
        if suppressed is not None:
            peer = self.transport.getPeer()
            _log.debug("{peer} is let go: {reason}; {n} more before", peer=peer, reason=reason, n=suppressed)

    def _message_received(self, octets: bytes, flow: StreamFlow) -> None:
        receiver = self.factory.receiver
        try:
            message = parse_message(octets, self.factory.connections.limits.max_uri)
        except MessageSyntaxError as fault:
            if fault.request is not None:  # else there is nobody to be answered
                self._owed += 1
            receiver.syntax_error_received(fault, flow)
        else:
            if isinstance(message, Request) and message.method != "ACK":
                self._owed += 1
            receiver.message_received(message, flow)

    def _watch(self) -> None:
        """Give a whole message its time from its first octet on, and an idle connection its own."""
        if self.closed or self._is_paused:
            return
        limits = self.factory.connections.limits
        if not self._framer.is_mid_message:
            self._is_mid_message = False
            self._expect("idle_timeouts", limits.idle_timeout)
        elif not self._is_mid_message:
            self._is_mid_message = True
            self._expect("message_timeouts", limits.message_timeout)

    def _expect(self, what: str, seconds: float) -> None:
        """Cut the connection off in *seconds*, counted as *what*, unless something else is expected by then."""
        self._deadline_is_for = what
        if self._deadline is not None:
            self._deadline.reset(seconds)

    def _cut_off(self) -> None:
        self._deadline = None
        self.factory.connections.count("message_timeouts" if self._is_in_handshake else self._deadline_is_for)
        self._abort()

    def _abort(self) -> None:
        self.closed = True
        self.transport.abortConnection()


class SIPStreamFactory(Factory):
    """Makes a `SIPStreamProtocol` for each connection to *receiver*, an `IMessageReceiver` such as `SIPService`.

    For your own endpoint: ``endpoint.listen(SIPStreamFactory(service, reactor))``.

    *clock* gives the time. *limits* bounds connections and messages; *connections*, in its place, those of several
    factories together. *advertised_address* is what others are to be told instead of a connection's own address.
    *is_proxied* says that a proxy's header tells who the peer is.
    """

    protocol = SIPStreamProtocol  # type: ignore[assignment]  # the base class wants any callable
    noisy = False

    def __init__(
        self,
        receiver: IMessageReceiver,
        clock: IReactorTime,
        limits: TransportLimits = TransportLimits(),  # noqa: B008  # it cannot be changed
        *,
        connections: Connections | None = None,
        advertised_address: Address | None = None,
        is_proxied: bool = False,
    ) -> None:
        self.receiver = receiver
        self.clock = clock
        self.connections = Connections(limits) if connections is None else connections
        self.advertised_address = advertised_address
        self.is_proxied = is_proxied


def _address(address: Any) -> Address:
    """Return the `Address` of a Twisted one; a UNIX socket has none."""
    return Address(plain_host(getattr(address, "host", "")), getattr(address, "port", 0))
