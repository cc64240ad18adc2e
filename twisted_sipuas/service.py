"""`SIPService`: transports, transaction layer and transaction user, joined into one Twisted service."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from twisted.application.service import IService, Service
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import MessageSyntaxError, StartError
from twisted_sipuas.interfaces import Address, IFlow, IMessageReceiver, ITransactionUser
from twisted_sipuas.syntax.message import MAX_URI, Request, Response
from twisted_sipuas.transaction.layer import TransactionLayer
from twisted_sipuas.transport.listen import DatagramListen, StreamListen, parse_listen
from twisted_sipuas.transport.routing import response_route, stamp
from twisted_sipuas.transport.stream import SIPStreamFactory
from twisted_sipuas.transport.udp import MAX_DATAGRAM, SIPDatagramPort, SIPDatagramProtocol

__all__ = ["Listening", "SIPService"]

_log = Logger()

_DRAIN_TIME = 5.0  # seconds that requests in progress have when the service stops
_BACKLOG = 1024  # connections that wait to be accepted; Twisted's 50 make a client wait in any rush
_PORT_TRIES = 20  # how often a free UDP port is asked for before one is free on TCP too

Listen: TypeAlias = "str | IStreamServerEndpoint | socket.socket"


class Listening(NamedTuple):
    """One listener that is open."""

    transport: str
    """``udp``, ``tcp`` or another kind of stream in Twisted's spelling."""
    address: Address
    """What it is bound to; for a UNIX socket its path and port 0."""

    def __str__(self) -> str:
        return f"{self.transport}:{self.address if self.address.port else self.address.host}"


@implementer(IMessageReceiver)
class SIPService(Service):
    """Serves SIP by *transaction_user* on *listen*, as an ordinary `IService`.

    *listen* takes texts as ``--listen`` does (``udp:5060:interface=192.0.2.1``), Twisted server endpoints, and bound
    sockets, UDP or listening TCP. *server_header* is the Server header field, None for none. *max_transactions*,
    *max_connections*, *max_message* and *max_uri* (octets of a message, characters of a Request-URI) are bounds;
    `counters` tells what they did.

    Sockets are bound in `privilegedStartService`, so that a port below 1024 can be had before privileges are dropped;
    then `StartError` says why one cannot be. As an `IMessageReceiver` it also takes what a bare `SIPDatagramProtocol`
    or `SIPStreamFactory` of yours receives.
    """

    def __init__(
        self,
        reactor: Any,
        transaction_user: ITransactionUser,
        listen: Iterable[Listen] = (),
        *,
        server_header: str | None = None,
        max_transactions: int = 100_000,
        max_connections: int = 10_000,
        max_message: int = MAX_DATAGRAM,
        max_uri: int = MAX_URI,
    ) -> None:
        self._reactor = reactor
        self._transaction_user = transaction_user
        self._listen = [parse_listen(item) if isinstance(item, str) else item for item in listen]
        self._max_message = max_message
        self._max_uri = max_uri
        self._make_layer = partial(
            TransactionLayer,
            transaction_user,
            reactor,
            server_header=server_header,
            max_transactions=max_transactions,
        )
        self._layer = self._make_layer()
        self._streams = SIPStreamFactory(
            self, reactor, max_connections=max_connections, max_message=max_message, max_uri=max_uri
        )
        self._ports: list[IListeningPort] = []
        self._opening: list[Deferred[None]] = []  # endpoints that take their time
        self._open_failures: list[Failure] = []
        self._is_bound = False
        self._is_listening = False
        self._was_stopped = False
        self._waiters: list[Deferred[tuple[Listening, ...]]] = []
        self._stopping: list[Deferred[None]] = []
        self._dropped = {"stray_responses": 0, "unanswerable": 0}
        use_clock = getattr(transaction_user, "use_clock", None)
        if use_clock is not None:
            use_clock(reactor)

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of every bound's counter, and of what is held now."""
        return MappingProxyType(
            {
                **{f"transactions_{name}": value for name, value in self._layer.counters.items()},
                **{f"connections_{name}": value for name, value in self._streams.counters.items()},
                "connections": self._streams.connections,
                **self._dropped,
                **getattr(self._transaction_user, "counters", {}),
            }
        )

    @property
    def listening(self) -> tuple[Listening, ...]:
        """The listeners that are open."""
        return tuple(_listening(port) for port in self._ports)

    def when_listening(self) -> Deferred[tuple[Listening, ...]]:
        """Return a new `Deferred` that fires with `listening` once every listener is open; at once if they are.

        It fails with `StartError` if an endpoint that took its time could not be opened.
        """
        waiter: Deferred[tuple[Listening, ...]] = Deferred()
        if self._is_listening:
            waiter.callback(self.listening)
        else:
            self._waiters.append(waiter)
        return waiter

    # IService

    def privilegedStartService(self) -> None:
        """Open stores and sockets; raises `StartError`."""
        opened: list[IService] = []
        try:
            for service in self._services():
                service.privilegedStartService()
                opened.append(service)
            for item in self._listen:
                self._open(item)
        except BaseException:
            self._abandon_start(opened)
            raise
        self._is_bound = True

    def startService(self) -> None:
        """Start the stores, then serve."""
        if not self._is_bound:
            self.privilegedStartService()
        try:
            for service in self._services():
                service.startService()
        except BaseException:
            self._abandon_start(self._services())
            raise
        if self._was_stopped:
            self._was_stopped = False
            self._layer = self._make_layer()  # the old one refuses whatever comes
        super().startService()
        DeferredList(self._opening).addCallback(self._opened)

    def _opened(self, _: object) -> None:
        """Every endpoint is open or has failed."""
        if not self.running:
            return
        waiters, self._waiters = self._waiters, []
        if self._open_failures:
            (failure, *_others) = self._open_failures
            _log.critical("{reason}", reason=failure.getErrorMessage())
            for waiter in waiters:
                waiter.errback(failure)
            return
        self._is_listening = True
        _log.info("Listening on {listening}", listening=", ".join(map(str, self.listening)) or "no socket of its own")
        _log.info("Answering by {description}", description=getattr(self._transaction_user, "description", "?"))
        for waiter in waiters:
            waiter.callback(self.listening)

    def _abandon_start(self, services: Sequence[IService]) -> None:
        """Close what was opened before the start failed."""
        self._close_ports()
        for service in reversed(services):
            stopped = maybeDeferred(service.stopService)
            stopped.addErrback(lambda failure: _log.failure("a service did not stop", failure))

    async def _stop(self) -> None:
        """Refuse what is new, finish what is owed, then close sockets, connections and stores, in that order."""
        await self._layer.drain(_DRAIN_TIME)
        self._layer.stop()
        await self._close_ports()
        await self._streams.close_connections()
        for service in reversed(self._services()):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                _log.failure("{service} did not stop", service=service)

    def stopService(self) -> Deferred[None]:
        """Stop as a server should: new requests get 503, those in progress 5 seconds; fires when all is closed."""
        super().stopService()
        self._was_stopped = True
        waiter: Deferred[None] = Deferred()
        self._stopping.append(waiter)
        if len(self._stopping) == 1:
            Deferred.fromCoroutine(self._stop()).addBoth(self._stopped)
        return waiter

    def _stopped(self, result: Any) -> None:
        stopping, self._stopping = self._stopping, []
        for waiter in stopping:
            waiter.callback(result)

    # IMessageReceiver

    def message_received(self, message: Request | Response, flow: IFlow) -> None:
        """Note where *message* came from, and hand it to the transaction layer (18.2.1)."""
        if isinstance(message, Response):
            self._dropped["stray_responses"] += 1  # we send no requests, so this answers none of ours
            return
        try:
            stamp(message, flow)
        except MessageSyntaxError as fault:
            self._layer.refuse_malformed(message, fault, flow)
            return
        self._layer.request_received(message, flow, response_route(message, flow))

    def syntax_error_received(self, error: MessageSyntaxError, flow: IFlow) -> None:
        """Refuse what can be answered, and drop the rest."""
        request = error.request
        if request is None:
            self._dropped["unanswerable"] += 1
            return
        try:
            stamp(request, flow)
        except MessageSyntaxError:
            pass  # then the answer goes back where the request came from
        self._layer.refuse_malformed(request, error, response_route(request, flow))

    # Sockets

    def _services(self) -> tuple[IService, ...]:
        return tuple(getattr(self._transaction_user, "services", ()))

    def _open(self, item: DatagramListen | StreamListen | IStreamServerEndpoint | socket.socket) -> None:
        if isinstance(item, DatagramListen):
            if item.descriptor is None:
                self._open_datagram(item)
            else:
                self._adopt(_inherited(item.descriptor))
        elif isinstance(item, StreamListen):
            try:
                endpoint = serverFromString(self._reactor, item.description)
            except ImportError:
                needed = "it needs more to be installed: pip install 'twisted-sipuas[tls]'"
                raise StartError(f"{item.description}: {needed}; or see --listen") from None
            except Exception as error:  # whatever the endpoint's own parser raises, a missing key file say
                raise StartError(f"{item.description}: {error}; see --listen") from None
            self._open_stream(endpoint, item.description)
        elif isinstance(item, socket.socket):
            self._adopt(item.dup())
        else:
            self._open_stream(item, type(item).__name__)

    def _open_datagram(self, item: DatagramListen) -> None:
        """Bind UDP, and TCP beside it (18.2.1); with port 0, to one that is free for both."""
        for attempt in range(1, _PORT_TRIES + 1):
            port = SIPDatagramPort(item.port, self._datagram_protocol(), item.interface, MAX_DATAGRAM, self._reactor)
            try:
                port.startListening()
            except CannotListenError as error:
                raise _start_error("udp", item.interface, item.port, error) from None
            number = port.getHost().port
            streams = []
            if item.with_stream and not self._has_stream(item.interface, number):
                try:
                    streams = [self._reactor.listenTCP(number, self._streams, _BACKLOG, item.interface)]
                except CannotListenError as error:
                    port.stopListening()
                    if item.port == 0 and attempt < _PORT_TRIES:
                        continue
                    raise _start_error("tcp", item.interface, number, error, "or say tcp=no") from None
            self._ports += [port, *streams]
            return

    def _has_stream(self, interface: str, port: int) -> bool:
        """Whether a TCP listener of its own was asked for on *interface* and *port*."""
        return any(isinstance(item, StreamListen) and item.covers(interface, port) for item in self._listen)

    def _open_stream(self, endpoint: IStreamServerEndpoint, description: str) -> None:
        opening = maybeDeferred(endpoint.listen, self._streams).addCallback(self._ports.append)
        opening.addErrback(_endpoint_failed, description)
        opening.addErrback(self._open_failures.append)
        if self._open_failures:
            self._open_failures[0].raiseException()
        self._opening.append(opening)

    def _adopt(self, bound: socket.socket) -> None:
        """Serve on a socket that is bound already; *bound* is ours to close."""
        with bound:
            bound.setblocking(False)
            if bound.type != socket.SOCK_DGRAM and not bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise StartError(f"{bound.getsockname()}: this stream socket does not listen; give one that does")
            if bound.type == socket.SOCK_DGRAM:
                port = SIPDatagramPort.adopt(bound, self._datagram_protocol(), self._reactor)
                port.startListening()
                self._ports.append(port)
            else:
                self._ports.append(self._reactor.adoptStreamPort(bound.fileno(), bound.family, self._streams))

    def _datagram_protocol(self) -> SIPDatagramProtocol:
        return SIPDatagramProtocol(self, self._max_message, self._max_uri)

    def _close_ports(self) -> Deferred[Any]:
        self._is_bound = self._is_listening = False
        opening, self._opening = self._opening, []
        for endpoint in opening:
            endpoint.cancel()
        self._open_failures = []
        ports, self._ports = self._ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports])


def _listening(port: IListeningPort) -> Listening:
    host: Any = port.getHost()
    if isinstance(host, UNIXAddress):
        return Listening("unix", Address(os.fsdecode(host.name or b""), 0))
    return Listening(host.type.lower(), Address(host.host, host.port))


def _inherited(descriptor: int) -> socket.socket:
    """Return our own copy of an inherited UDP socket."""
    try:
        copy = os.dup(descriptor)
        try:
            bound = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise
    except OSError as error:
        raise StartError(f"udp:fd={descriptor}: {error.strerror}; no such socket was inherited") from None
    if bound.type != socket.SOCK_DGRAM:
        bound.close()
        raise StartError(f"udp:fd={descriptor}: this is no UDP socket; see --listen")
    return bound


def _start_error(transport: str, interface: str, port: int, error: CannotListenError, further: str = "") -> StartError:
    """Return the fault of a bind that failed, in one line with what to do about it."""
    reason = error.socketError
    text = getattr(reason, "strerror", None) or str(reason)
    remedy = ", ".join(filter(None, ("choose another address or port with --listen", further)))
    return StartError(f"{transport}:{Address(interface, port)}: {text}; {remedy}")


def _endpoint_failed(failure: Failure, description: str) -> None:
    reason = " ".join(failure.getErrorMessage().split()).rstrip(".")
    raise StartError(f"{description}: {reason}; choose another address or port with --listen")
