"""`SIPService`: transports, transaction layer and transaction user, joined into one Twisted service."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IResolver, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import MessageSyntaxError, StartError
from twisted_sipuas.interfaces import (
    Address,
    IFlow,
    ILocationService,
    IMessageReceiver,
    IRequestSender,
    ITransactionUser,
)
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.uri import SIPURI
from twisted_sipuas.transaction.admission import Admission, Protection
from twisted_sipuas.transaction.base import Trace
from twisted_sipuas.transaction.client import ClientTransactions
from twisted_sipuas.transaction.layer import TransactionLayer
from twisted_sipuas.transaction.stateless import StatelessLayer
from twisted_sipuas.transport.connect import connect
from twisted_sipuas.transport.connections import Connections
from twisted_sipuas.transport.delivery import ResponseDelivery
from twisted_sipuas.transport.flow import StreamFlow
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.listen import InheritedListen, parse_advertised, parse_listen
from twisted_sipuas.transport.listeners import Listeners, Listening
from twisted_sipuas.transport.locate import default_resolver
from twisted_sipuas.transport.networks import AccessList
from twisted_sipuas.transport.outgoing import OutgoingFlows
from twisted_sipuas.transport.routing import Trust, response_route, stamp
from twisted_sipuas.transport.stream import SIPStreamFactory
from twisted_sipuas.transport.udp import SIPDatagramProtocol

__all__ = ["Listening", "SIPService"]

_log = Logger()

_DRAIN_TIME = 5.0  # seconds that requests in progress have when the service stops
_ALL_ADDRESSES = ("0.0.0.0", "::")
_VIA_SIZE = 100  # octets, about, that the Via takes which a request of ours gets

Listen: TypeAlias = "str | IStreamServerEndpoint | socket.socket | InheritedListen"


@implementer(IMessageReceiver, IRequestSender)
class SIPService(Service):
    """Serves SIP by *transaction_user* on *listen*, as an ordinary `IService`.

    *listen* takes texts as ``--listen`` does (``udp:5060:interface=192.0.2.1``), Twisted server endpoints, and bound
    sockets, UDP or listening TCP. *server_header* is the Server header field, None for none. *max_transactions* and
    *limits* are bounds; `counters` tells what they did. With *is_stateless* it keeps no transactions (8.2.7): every
    retransmission is handled anew, and nothing is resent; `ValueError` says so for a registrar, which needs them.

    *advertise*, ``HOST`` or ``HOST:PORT``, is what others are to be told of a listener that does not say itself.
    *trust* names networks whose hosts may have responses sent to others, as 18.2.2 lets anybody, and may ask for any
    number. *allow* and *deny* name those that may and may not send to us at all, as `AccessList` takes them, and
    *protection* what one source may ask, and when all of them ask too much. *tls_client_ca* is a
    PEM file of certificates; who connects by ``ssl:`` must show one that these signed. *resolver* answers DNS queries,
    by default the system's. *trace* is called with each request, the response to it (None for silence) and the flow, as
    the response is sent for the first time. *key*, 16 to 64 octets, is what servers have to share that are to give a
    request the same To tag where they answer it statelessly; by default it is random.

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
        is_stateless: bool = False,
        limits: TransportLimits = TransportLimits(),  # noqa: B008  # it cannot be changed
        advertise: str | None = None,
        trust: Iterable[str] = (),
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        protection: Protection = Protection(),  # noqa: B008  # it cannot be changed
        tls_client_ca: str | None = None,
        resolver: IResolver | None = None,
        trace: Trace | None = None,
        key: bytes | None = None,
    ) -> None:
        self._reactor = reactor
        self._transaction_user = transaction_user
        self._limits = limits
        self._access = AccessList(allow, deny)
        self._connections = Connections(limits, self._access)
        self._advertised = None if advertise is None else parse_advertised(advertise)
        self._trust = Trust(trust)
        self._resolver = resolver
        self._listeners = Listeners(
            reactor,
            [parse_listen(item) if isinstance(item, str) else item for item in listen],
            self._datagram_protocol,
            self._stream_factory,
            tls_client_ca,
        )
        self._admission = Admission(
            reactor,
            protection,
            is_trusted=self._trust.covers,
            is_in_dialog=getattr(transaction_user, "is_in_dialog", _has_to_tag),
            backlog=self._listeners.backlog,
            worked=lambda: self._layer.worked,
        )
        self._overload = self._admission.overload
        self._server_header = server_header
        self._max_transactions = max_transactions
        self._layer_kind = StatelessLayer if is_stateless else TransactionLayer
        self._trace = trace
        self._key = key
        self._begin()
        self._is_bound = False
        self._is_listening = False
        self._was_stopped = False
        self._waiters: list[Deferred[tuple[Listening, ...]]] = []
        self._stopping: list[Deferred[None]] = []
        self._hurry: Deferred[None] = Deferred()
        self._dropped = {"stray_responses": 0, "unanswerable": 0}
        for offer, what in (("use_clock", reactor), ("use_sender", self)):
            take = getattr(transaction_user, offer, None)
            if take is not None:
                take(what)

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of every bound's counter, and of what is held now."""
        return MappingProxyType(
            {
                **{f"transactions_{name}": value for name, value in self._layer.counters.items()},
                **{f"connections_{name}": value for name, value in self._connections.counters.items()},
                "connections": len(self._connections),
                **{f"responses_{name}": value for name, value in self._delivery.counters.items()},
                **{f"requests_{name}": value for name, value in self._clients.counters.items()},
                **{f"requests_{name}": value for name, value in self._flows.counters.items()},
                **self._dropped,
                **self._access.counters,
                **self._admission.counters,
                **getattr(self._transaction_user, "counters", {}),
            }
        )

    @property
    def listening(self) -> tuple[Listening, ...]:
        """The listeners that are open."""
        return self._listeners.listening

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
        """Open stores and sockets; raises `StartError`, also while an earlier stop is not over."""
        self._check_stopped()
        opened: list[IService] = []
        try:
            self._load_access()
            for service in self._services():
                _start(service, service.privilegedStartService)
                opened.append(service)
            self._listeners.open()
        except BaseException:
            self._abandon_start(opened)
            raise
        self._is_bound = True

    def startService(self) -> None:
        """Start the stores, then serve; raises `StartError`."""
        self._check_stopped()
        if not self._is_bound:
            self.privilegedStartService()
        try:
            for service in self._services():
                _start(service, service.startService)
        except BaseException:
            self._abandon_start(self._services())
            raise
        if self._was_stopped:
            self._was_stopped = False
            self._begin()  # the old layer refuses whatever comes
        super().startService()
        if self._overload is not None:
            self._overload.start()
        self._listeners.when_open().addCallback(self._opened)

    def _check_stopped(self) -> None:
        if self._stopping:
            raise StartError("the service is still stopping; start it when stopService has fired")

    def _opened(self, failures: list[Failure]) -> None:
        """Every endpoint is open or has failed."""
        if not self.running:
            return
        waiters, self._waiters = self._waiters, []
        if failures:
            _log.critical("{reason}", reason=failures[0].getErrorMessage())
            for waiter in waiters:
                waiter.errback(failures[0])
            return
        self._is_listening = True
        _log.info("Listening on {listening}", listening=", ".join(map(str, self.listening)) or "no socket of its own")
        _log.info("Answering by {description}", description=getattr(self._transaction_user, "description", "?"))
        for waiter in waiters:
            waiter.callback(self.listening)

    def _abandon_start(self, services: Sequence[IService]) -> None:
        """Close what was opened before the start failed."""
        self._close_listeners()
        for service in reversed(services):
            stopped = maybeDeferred(service.stopService)
            stopped.addErrback(lambda failure: _log.failure("a service did not stop", failure))

    def drain(self) -> Deferred[None]:
        """Refuse what is new with 503, as `stopService` begins with; fires when nothing is owed, in 5 seconds at most.

        For whoever stops several servers of one address: until none of them owes anything, each goes on refusing.
        """
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        end_calls = getattr(self._transaction_user, "end_calls", lambda: succeed(None))
        calls = maybeDeferred(end_calls).addErrback(_log_unended)
        calls.addTimeout(_DRAIN_TIME, self._reactor, lambda result, _: None)
        finished: Deferred[Any] = DeferredList([self._layer.drain(_DRAIN_TIME), calls])
        await DeferredList([finished, self._hurry], fireOnOneCallback=True)
        calls.cancel()

    async def _stop(self) -> None:
        """Refuse what is new, finish what is owed, then close sockets, connections and stores, in that order."""
        await self._drain()
        if self._overload is not None:
            self._overload.stop()
        self._layer.stop()
        self._flows.stop()
        self._clients.stop()
        await self._delivery.stop()
        await self._close_listeners()
        await self._connections.close()
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

    def hasten_stop(self) -> None:
        """Do not wait any longer for requests in progress; only while the service stops."""
        if self._stopping and not self._hurry.called:
            self._hurry.callback(None)

    def reload(self) -> None:
        """Read again what may have changed on disk.

        That are certificates of ``ssl:`` listeners, files of networks, and what stores can reload. What cannot be read
        stays as it was, and the log says why. Connections of who is denied now are closed.
        """
        self._listeners.reload()
        if self._access:
            self._reload_access()
        for service in self._services():
            getattr(service, "reload", lambda: None)()

    def _load_access(self) -> None:
        try:
            self._access.load()
        except ValueError as error:
            raise StartError(f"{error}; see --allow and --deny") from None

    def _reload_access(self) -> None:
        try:
            self._access.load()
        except ValueError as error:
            _log.error("--allow and --deny stay as they were: {error}", error=error)
        else:
            self._connections.close_denied()
            _log.info("Read --allow and --deny again")

    def _stopped(self, result: Any) -> None:
        stopping, self._stopping = self._stopping, []
        self._hurry = Deferred()
        for waiter in stopping:
            waiter.callback(result)

    # IMessageReceiver

    def message_received(self, message: Request | Response, flow: IFlow) -> None:
        """Note where *message* came from, and hand it to the transaction layer (18.2.1)."""
        if isinstance(message, Response):
            if not self._clients.response_received(message):
                self._dropped["stray_responses"] += 1
            return
        try:
            stamp(message, flow)
        except MessageSyntaxError as fault:
            self._layer.refuse_malformed(message, fault, flow)
            return
        if "oc" in message.via.parameters and self._overload is not None:
            self._overload.answer_offer(message, flow)
        self._layer.request_received(message, flow, response_route(message, flow, self._trust))

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
        self._layer.refuse_malformed(request, error, response_route(request, flow, self._trust))

    def sending_failed(self, octets: bytes, flow: IFlow) -> None:
        """Tell the transaction whose message did not arrive (18.4)."""
        if octets.startswith(b"SIP/2.0 "):
            self._layer.response_lost(octets)
        else:
            self._clients.request_lost(octets)

    # IRequestSender

    def send_request(self, request: Request, next_hop: SIPURI, flow: IFlow, is_proven: bool) -> Deferred[Response]:
        """See `IRequestSender`."""
        return Deferred.fromCoroutine(self._send_request(request, next_hop, flow, is_proven))

    async def _send_request(self, request: Request, next_hop: SIPURI, flow: IFlow, is_proven: bool) -> Response:
        found = await self._flows.flow_for(next_hop, flow, is_proven, len(request.to_bytes()) + _VIA_SIZE)
        return await self._clients.send(request, found, str(_sent_by(found, flow)))

    # Sockets

    def _services(self) -> tuple[IService, ...]:
        return tuple(getattr(self._transaction_user, "services", ()))

    def _begin(self) -> None:
        """Make what keeps track of messages, with nothing in it."""
        self._delivery = ResponseDelivery(
            self._reactor,
            self._connect,
            is_trusted=self._trust.covers,
            resolver=self._get_resolver,
            failed=self._undeliverable,
        )
        self._flows = OutgoingFlows(
            self._reactor,
            self._delivery.connections,
            datagram_flow=self._listeners.datagram_flow,
            is_trusted=self._trust.covers,
            resolver=self._get_resolver,
        )
        self._clients = ClientTransactions(self._reactor)
        self._layer = self._layer_kind(
            self._transaction_user,
            self._reactor,
            server_header=self._server_header,
            max_transactions=self._max_transactions,
            redeliver=self._redeliver,
            trace=self._trace,
            key=self._key,
            admission=self._admission,
            is_trusted=self._trust.covers,
        )

    def _datagram_protocol(self, advertised: Address | None) -> SIPDatagramProtocol:
        return SIPDatagramProtocol(self, self._limits, advertised or self._advertised, self._access)

    def _stream_factory(self, advertised: Address | None, is_proxied: bool) -> SIPStreamFactory:
        return SIPStreamFactory(
            self,
            self._reactor,
            connections=self._connections,
            advertised_address=advertised or self._advertised,
            is_proxied=is_proxied,
        )

    def _connect(self, transport: str, address: Address, host: str) -> Deferred[IFlow]:
        return connect(self._reactor, self._stream_factory(None, False), transport, address, host)

    def _get_resolver(self) -> IResolver:
        if self._resolver is None:
            self._resolver = default_resolver(self._reactor)
        return self._resolver

    def _redeliver(self, octets: bytes, flow: IFlow) -> bool:
        """Have *octets* sent another way, if there is one: behind a proxy there is none but the proxy's own."""
        is_proxied = isinstance(flow, StreamFlow) and flow.is_proxied
        return not is_proxied and self._delivery.redeliver(octets, flow)

    def _undeliverable(self, octets: bytes) -> None:
        self._layer.sending_failed(octets)

    def _close_listeners(self) -> Deferred[Any]:
        self._is_bound = self._is_listening = False
        return self._listeners.close()


def _sent_by(found: IFlow, flow: IFlow) -> Address:
    """Return where responses come to, should the connection be gone, for a request on *found* (18.1.1).

    *flow* is what the peer's own request came on. The port that we connect from is not where we listen; nor is the
    address of a socket that is bound to all of them one that anybody can send to.
    """
    at = flow if found.is_reliable and found.transport == flow.transport else found
    host, port = at.advertised_address
    return Address(flow.local_address.host if host in _ALL_ADDRESSES else host, port)


def _has_to_tag(request: Request) -> bool:
    """Whether *request* claims to be in a dialog; whether it is one's own transaction user may know (12.2.2)."""
    return request.to.tag is not None


def _start(service: IService, start: Callable[[], object]) -> None:
    """Call *start* of *service*; of a location service that fails `StartError` says which, for its user to mend it."""
    try:
        start()
    except StartError:
        raise
    except Exception as error:
        if not ILocationService.providedBy(service):
            raise
        why = " ".join(f"{type(error).__name__}: {error}".split())
        what = getattr(service, "description", service)
        raise StartError(f"the location service {what} cannot be started: {why}; see --location") from error


def _log_unended(failure: Failure) -> None:
    """Log why calls could not be ended, unless it is that they had the time they have."""
    if not failure.check(CancelledError):
        _log.failure("the transaction user could not end its calls", failure)
