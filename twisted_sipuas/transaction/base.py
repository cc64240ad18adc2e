"""How is the transaction user asked, and what is answered in its place? The same with transactions and without."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from types import MappingProxyType
from typing import ClassVar, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from twisted_sipuas.deferreds import call, waited_for
from twisted_sipuas.errors import MessageSyntaxError, SIPError, TransportError, refuse_line_breaks
from twisted_sipuas.interfaces import EndReason, IFlow, ITransactionUser
from twisted_sipuas.keys import secret_key
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.transaction.admission import Admission
from twisted_sipuas.transaction.overload import FEEDBACK
from twisted_sipuas.transaction.sources import FOR_AN_OCTET

__all__ = ["BaseLayer", "Redeliver", "Trace", "log_failure"]

_log = Logger()

_RETRY_AFTER = (("Retry-After", "5"),)
_MAX_HELD_OCTETS = 512 * 1024 * 1024  # a request that is held takes about three times as much memory
_CHALLENGES = (401, 407)
_CHALLENGE_NAMES = ("www-authenticate", "proxy-authenticate")

_NO_VALUE = ("",)

# What tells requests apart, in their own text: a retransmission has the same (17.2.3, 8.2.6.2).
_IDENTIFYING = ("from", "to", "call-id", "cseq")  # and Via

Redeliver = Callable[[bytes, IFlow], "bool | None"]
"""Is called with the octets of a response and the route that could not take it; returns whether another is tried."""


Trace = Callable[[Request, "Response | None", IFlow], object]
"""Is called with a request, a response to it that goes out for the first time, and the flow that the request came on,
or for a refusal without a transaction the one that it goes by; with None for a request that is met with silence, as are
an ACK, what a stateless server ignores, what would get a 408 (RFC 4320), and what is too much for an answer."""


class _Transaction(Protocol):
    """What both kinds of transaction have for their layer."""

    method: str
    request: Request | None
    outcome: EndReason

    def respond_statelessly(self, response: Response) -> None:
        """Send *response* and forget the transaction, if nothing was sent yet."""

    def respond(self, response: Response) -> None:
        """Send *response*."""

    def abandon(self, reason: EndReason) -> None:
        """End the transaction now, whatever is owed."""


class BaseLayer:
    """What the layer that keeps transactions and the one that keeps none have in common.

    *key* is the secret that stateless To tags are made with, 16 to 64 octets; servers that share it make the same tags
    (8.2.7). By default it is random. *trace* is a `Trace`, or None. *admission* refuses new requests that are too many;
    None takes any number. *is_trusted* says of a host whether it may be sent more than its requests account for.

    Raises `ValueError` for any other length, and for a *server_header* with a line break.
    """

    unanswered: ClassVar[frozenset[str]] = frozenset(("ACK",))
    """The methods that are never answered."""

    def __init__(
        self,
        transaction_user: ITransactionUser,
        clock: IReactorTime,
        *,
        server_header: str | None,
        max_transactions: int,
        redeliver: Redeliver | None,
        key: bytes | None,
        trace: Trace | None,
        admission: Admission | None,
        is_trusted: Callable[[str], bool],
    ) -> None:
        self.clock = clock
        self.server_header = (
            None if server_header is None else refuse_line_breaks(server_header, "a Server header field")
        )
        self._transaction_user = transaction_user
        self._max_transactions = max_transactions
        self._redeliver = redeliver
        self._trace = trace
        self._admission = admission
        self.is_trusted = is_trusted
        self._secret = secret_key(key)
        self._max_held_octets = _MAX_HELD_OCTETS
        self._held_octets = 0  # requests as received, and responses to INVITEs that wait for their ACK
        self._handed_over = 0  # requests that the transaction user is looking at right now
        self._is_measured = admission is not None and admission.overload is not None
        self.worked = 0.0  # seconds that went into telling the transaction user, challenges apart; if it is measured
        self._is_stopped = False
        self._drained: Deferred[None] | None = None
        self._drain_limit: IDelayedCall | None = None
        self._counters = {"refused": 0, "malformed": 0, "send_failures": 0, "dropped_responses": 0, "withheld": 0}

    @property
    def owed(self) -> int:
        """How many transactions are owed an answer or an ACK."""
        raise NotImplementedError

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view: bounds that were reached, and what is ``owed`` now."""
        return MappingProxyType({**self._counters, "owed": self.owed, "owed_octets": self._held_octets})

    def _transactions(self) -> Iterable[_Transaction]:
        """Return every transaction there is; it may end while they are gone through."""
        raise NotImplementedError

    # Answers without a transaction

    def refuse_malformed(self, request: Request, fault: MessageSyntaxError, route: IFlow) -> None:
        """Answer *request* with the status of *fault*, statelessly: nothing of it can be trusted to match (8.2.7)."""
        self._counters["malformed"] += 1
        admission = self._admission
        if request.method in self.unanswered or not (admission is None or admission.is_worth_refusing(route)):
            self.traced(request, None, route)
            return
        reason = None if fault.status == 505 else fault.reason
        self.respond_statelessly(request.response(fault.status, reason, rule="syntax"), request, route)

    def respond_statelessly(self, response: Response, request: Request, route: IFlow) -> None:
        """Send *response* to *request* on *route*, and keep nothing (8.2.7)."""
        octets = self.stateless_octets(response, request, route)
        if octets is None:
            return
        self.traced(request, response, route)
        try:
            route.send(octets)
        except TransportError:
            if not self.redeliver(octets, route):
                self._counters["send_failures"] += 1

    def stateless_octets(
        self, response: Response, request: Request, route: IFlow, to_tag: str | None = None
    ) -> bytes | None:
        """Return *response* as it goes out on *route* where nothing is kept of *request*; None if it must not.

        *to_tag* is the `stateless_tag`, if that is known already.
        Where the source of *request* may be forged, it is not more than three times as long: else we would serve to
        flood whoever is named there. What can be left out is, before nothing is sent at all.
        """
        tag = to_tag or self.stateless_tag(request)
        octets = response.to_bytes(tag, self.server_header)
        most = FOR_AN_OCTET * request.size
        if len(octets) <= most or route.is_reliable or not request.size:
            return octets
        for shorter in (response, _with_one_challenge(response)):
            octets = shorter.to_bytes(tag)
            if len(octets) <= most:
                return octets
        self.withheld()
        return None

    def withheld(self) -> None:
        """Count an answer that is not sent, for it is too long for what its source has shown."""
        self._counters["withheld"] += 1

    def stateless_tag(self, request: Request) -> str:
        """Return the To tag for *request* that every retransmission of it gets, and nobody can guess (8.2.7, 19.3)."""
        index = request.headers.index
        text = index.get("via", _NO_VALUE)[0].partition(FEEDBACK)[0] + "\n"  # what follows is ours, another each time
        for key in _IDENTIFYING:
            text += index.get(key, _NO_VALUE)[0] + "\n"
        octets = text.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(octets, key=self._secret, digest_size=8).hexdigest()

    def redeliver(self, octets: bytes, route: IFlow) -> bool:
        """Return whether another way is being tried for *octets*, which *route* could not take (18.2.2)."""
        return self._redeliver is not None and bool(self._redeliver(octets, route))

    def _is_full(self, request: Request) -> bool:
        """Whether *request*, a new one, may not be taken: the bound is reached, or the service is about to stop.

        While it is about to, calls are being ended, and the peer's own BYE is as good as ours. Raises
        `MessageSyntaxError` for a To that says nothing of it.
        """
        if self._is_stopped or (self._drained is not None and request.to.tag is None):
            return True
        return self.owed >= self._max_transactions or self._held_octets >= self._max_held_octets

    def holds(self, octets: int) -> None:
        """Count so many more octets that are held for what is owed something; fewer, if negative."""
        self._held_octets += octets

    def _is_refused(self, request: Request, flow: IFlow, route: IFlow) -> bool:
        """Refuse *request*, a new one that came on *flow*, if it is too much; returns whether it was."""
        admission = self._admission
        if self._is_full(request):
            self._counters["refused"] += 1
            self._refuse(request, route, "bound")
        elif admission is None or (rule := admission.refusal(request, flow)) is None:
            return False
        elif rule == "rate" and not admission.answers_over_rate:
            self.traced(request, None, flow)
        else:
            self._refuse(request, route, rule)
        return True

    def _refuse(self, request: Request, route: IFlow, rule: str) -> None:
        """Answer a *request* that is too much by *rule* (21.5.4).

        Retry-After keeps everything away for that time. Who sends too fast need not be that slow; nor need who is told
        of the overload in its Via, and holds back by that (RFC 7339).
        """
        may_go_on = rule == "rate" or (rule == "overload" and request.via.parameters.get("oc") is not None)
        headers = () if may_go_on else _RETRY_AFTER
        self.respond_statelessly(request.response(503, headers=headers, rule=rule), request, route)

    def traced(self, request: Request, response: Response | None, flow: IFlow) -> None:
        """Tell who traces that *response* to *request* goes out for the first time."""
        if self._trace is None:
            return
        if response is not None and response.rule is None:
            rule = self._handler_name(request.method)
            response = Response(response.status, response.reason, response.headers, response.body, rule=rule)
        call(self._trace, request, response, flow, failed=log_failure)

    # The transaction user

    def dropped(self, method: str, response: Response, outcome: EndReason) -> None:
        """Count a *response* that came after the final one, and was not sent.

        It is a fault of the handler's, unless the transaction of *outcome* ended without its doing.
        """
        if outcome is EndReason.ANSWERED:
            self._counters["dropped_responses"] += 1
            _log.error(
                "{handler} sent {status} after the final response; it was dropped",
                handler=self._handler_name(method),
                status=response.status,
            )

    def _handler_name(self, method: str) -> str:
        """Return what logs call the handler of *method*."""
        user = self._transaction_user
        name = getattr(user, "handler_name", None)
        return type(user).__qualname__ if name is None else str(name(method))

    def _ack_failed(self, ack: Request, failure: Failure) -> None:
        """Log what the transaction user raised over *ack*, unless that is malformed: there is no way to tell."""
        error = failure.value
        if not (isinstance(error, MessageSyntaxError) and error.is_about(ack)):
            _log.failure("{handler} failed", failure, handler=self._handler_name("ACK"))

    def _tell(self, transaction: _Transaction, method: Callable[..., object], *arguments: object) -> None:
        """Call *method* of the transaction user; what it raises is the answer to *transaction*."""
        began = perf_counter() if self._is_measured else 0.0
        try:
            pending = waited_for(method(*arguments))
        except SIPError as error:
            self._user_failed(transaction, error)
            if error.status in _CHALLENGES:
                return  # no work that was taken: a flood of what is refused is no reason to refuse others
            pending = None
        except BaseException as error:  # as `call` does, without a function made for each request
            self._user_failed(transaction, error, Failure())
            pending = None
        if self._is_measured:
            self.worked += perf_counter() - began
        if pending is not None:
            pending.addErrback(lambda failure: self._user_failed(transaction, failure.value, failure))

    def _user_failed(
        self, transaction: _Transaction, error: BaseException | None, failure: Failure | None = None
    ) -> None:
        """Answer for the transaction user: a refusal as raised, anything else logged once and 500 without details."""
        request = transaction.request
        if not _is_answer(error, request):
            _log.failure("{handler} failed", failure, handler=self._handler_name(transaction.method))
        if request is None:
            if isinstance(error, SIPError):
                self.dropped(transaction.method, Response(error.status), transaction.outcome)
            return
        try:
            refusal = _refusal(request, error)
            if refusal.status in _CHALLENGES:
                transaction.respond_statelessly(refusal)  # 8.2.7: it costs its sender as much as us
            else:
                transaction.respond(refusal)
        except Exception:  # what was raised holds what no response can
            _log.failure("what {handler} raised can be no response", handler=self._handler_name(transaction.method))
            transaction.respond(request.response(500, rule="exception"))

    # Stopping

    def drain(self, seconds: float) -> Deferred[None]:
        """Refuse new requests, serve the old ones; the `Deferred` fires when none is owed, after *seconds* at most."""
        if self._drained is None:
            self._drained = Deferred()
            self._drain_limit = self.clock.callLater(seconds, self._check_drained, True)
            self._check_drained()
        drained: Deferred[None] = Deferred()
        self._drained.chainDeferred(drained)
        return drained

    def stop(self) -> None:
        """End every transaction; no timer is left."""
        self._is_stopped = True
        for transaction in self._transactions():
            if transaction.request is not None:
                transaction.outcome = EndReason.SHUTDOWN
                refusal = transaction.request.response(503, headers=_RETRY_AFTER, rule="shutdown")
                transaction.respond(refusal)
            transaction.abandon(EndReason.SHUTDOWN)
        if self._drain_limit is not None and self._drain_limit.active():
            self._drain_limit.cancel()

    def _check_drained(self, time_is_up: bool = False) -> None:
        if (
            self._drained is not None
            and not self._drained.called
            and (time_is_up or self.owed + self._handed_over == 0)
        ):
            self._drained.callback(None)


def _is_answer(error: BaseException | None, request: Request | None) -> bool:
    """Whether *error* says what to answer; a syntax error in anything but *request* is the transaction user's fault."""
    return isinstance(error, SIPError) or (
        isinstance(error, MessageSyntaxError) and request is not None and error.is_about(request)
    )


def _refusal(request: Request, error: BaseException | None) -> Response:
    """Return the answer that the exception *error* is to *request*."""
    if isinstance(error, SIPError):
        return request.response(error.status, error.reason, headers=error.headers, rule=error.rule)
    if isinstance(error, MessageSyntaxError) and error.is_about(request):
        return request.response(error.status, error.reason, rule="syntax")
    return request.response(500, rule="exception")


def _with_one_challenge(response: Response) -> Response:
    """Return *response* with the last of its challenges alone: the one that every client knows (RFC 8760, 2.4)."""
    rows = list(response.headers)
    places = [place for place, (name, _) in enumerate(rows) if name.lower() in _CHALLENGE_NAMES]
    for place in reversed(places[:-1]):
        del rows[place]
    return Response(response.status, response.reason, rows, response.body, rule=response.rule)


def log_failure(failure: Failure) -> None:
    """Log what a transaction user raised where no answer is owed."""
    _log.failure("the transaction user failed", failure)
