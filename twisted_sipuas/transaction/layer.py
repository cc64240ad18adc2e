"""Which transaction a request belongs to, and how many there may be (RFC 3261, 17.2.3, 9.2)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from types import MappingProxyType

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_sipuas.deferreds import call
from twisted_sipuas.errors import MessageSyntaxError, SIPError, TransportError, refuse_line_breaks
from twisted_sipuas.interfaces import EndReason, IFlow, ITransactionUser
from twisted_sipuas.syntax.fields import Via
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.transaction.server import (
    InviteServerTransaction,
    NonInviteServerTransaction,
    ServerTransaction,
    State,
)
from twisted_sipuas.transaction.stateless import stateless_tag
from twisted_sipuas.transaction.timers import Timers

__all__ = ["TransactionLayer", "transaction_key"]

_log = Logger()

_MAGIC_COOKIE = "z9hg4bk"
_RETRY_AFTER = (("Retry-After", "5"),)

# 9.2: a CANCEL matches a transaction of any method but CANCEL and ACK, though it has an effect on an INVITE only.
_CANCELLABLE = "INVITE REGISTER OPTIONS MESSAGE SUBSCRIBE NOTIFY BYE INFO UPDATE PRACK PUBLISH REFER".split()


def transaction_key(request: Request, method: str, to_tag: str | None = None) -> str:
    """Return what *request* has in common with its retransmissions, taken as one of *method* (17.2.3).

    With the magic cookie that is branch, sent-by and method. Without it, as RFC 2543 clients send, it is what 17.2.3
    lists for them; *to_tag* then takes the place of the request's own.
    """
    via = request.via
    if _has_identifier(via):
        return f"{method} {via.sent_by} {via.branch}"
    from_tag = request.from_.tag or ""
    if to_tag is None:
        to_tag = request.to.tag or ""
    return f"{method} {request.uri_text} {from_tag} {to_tag} {request.call_id} {request.cseq.number} {via.text}"


def _has_identifier(via: Via) -> bool:
    """Whether the branch identifies the transaction: the magic cookie with something behind it (RFC 4475, 3.2.1)."""
    branch = via.branch or ""
    return branch[:7].lower() == _MAGIC_COOKIE and len(branch) > 7


class TransactionLayer:
    """Keeps the server transactions, and stands between the transports and one transaction user.

    *clock* gives the time, *timers* the base values. *server_header* is the Server header field of every response, or
    None. At most *max_transactions* may be owed an answer or an ACK: more are refused with a stateless 503. At most
    *max_waiting* only wait out a timer, with responses of *max_waiting_octets* in all: beyond it the oldest is dropped.

    `counters` counts what the bounds did, and what was answered without a transaction.
    """

    def __init__(
        self,
        transaction_user: ITransactionUser,
        clock: IReactorTime,
        *,
        timers: Timers | None = None,
        server_header: str | None = None,
        max_transactions: int = 100_000,
        max_waiting: int = 1_000_000,
        max_waiting_octets: int = 512 * 1024 * 1024,
    ) -> None:
        self.clock = clock
        self.timers = timers or Timers()
        self.server_header = (
            None if server_header is None else refuse_line_breaks(server_header, "a Server header field")
        )
        self._transaction_user = transaction_user
        self._max_transactions = max_transactions
        self._max_waiting = max_waiting
        self._max_waiting_octets = max_waiting_octets
        self._secret = secrets.token_bytes(32)
        self._table: dict[str, ServerTransaction] = {}
        self._waiting: dict[ServerTransaction, int] = {}  # in the order in which they began to wait, with their octets
        self._waiting_octets = 0
        self._drained: Deferred[None] | None = None
        self._drain_limit: IDelayedCall | None = None
        self._counters = {"refused": 0, "malformed": 0, "waiting_dropped": 0, "ack_timeouts": 0, "send_failures": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view: bounds that were reached, and what is ``owed`` and ``waiting`` now."""
        held = {"owed": self.owed, "waiting": len(self._waiting), "waiting_octets": self._waiting_octets}
        return MappingProxyType({**self._counters, **held})

    @property
    def owed(self) -> int:
        """How many transactions are owed an answer or an ACK."""
        return len(self._table) - len(self._waiting)

    # Requests, from the transports

    def request_received(self, request: Request, flow: IFlow, route: IFlow) -> None:
        """Hand *request* to its transaction, or to the transaction user with a new one; *route* is the way back."""
        method = request.method
        try:
            if method == "ACK":
                self._ack_received(request, flow)
                return
            key = transaction_key(request, method)
            transaction = self._table.get(key)
            if transaction is not None:
                transaction.retransmission_received()
                return
            target = self._cancelled_by(request) if method == "CANCEL" else None
            if target is None and (self._drained is not None or self.owed >= self._max_transactions):
                self._counters["refused"] += 1
                self.respond_statelessly(request.response(503, headers=_RETRY_AFTER, rule="bound"), request, route)
            elif method == "CANCEL":
                self._cancel_received(request, key, target, flow, route)
            else:
                self._begin(request, key, flow, route)
        except MessageSyntaxError as fault:
            self.refuse_malformed(request, fault, route)

    def refuse_malformed(self, request: Request, fault: MessageSyntaxError, route: IFlow) -> None:
        """Answer *request* with the status of *fault*, statelessly: nothing of it can be trusted to match (8.2.7)."""
        self._counters["malformed"] += 1
        if request.method != "ACK":
            reason = None if fault.status == 505 else fault.reason
            self.respond_statelessly(request.response(fault.status, reason, rule="syntax"), request, route)

    def respond_statelessly(self, response: Response, request: Request, route: IFlow) -> None:
        """Send *response* to *request* and keep nothing (8.2.7)."""
        try:
            route.send(response.to_bytes(self.stateless_tag(request), self.server_header))
        except TransportError:
            self._counters["send_failures"] += 1

    def _begin(self, request: Request, key: str, flow: IFlow, route: IFlow) -> None:
        kind = InviteServerTransaction if request.method == "INVITE" else NonInviteServerTransaction
        transaction = kind(key, request, self._to_tag(request), flow, route, self)
        self._tell(transaction, self._transaction_user.request_received, request, transaction)
        if transaction.state is State.TERMINATED:
            return
        if not transaction.is_registered:
            transaction.is_registered = True
            self.register(transaction)
        if transaction.request is not None:
            transaction.start()

    def _tell(self, transaction: ServerTransaction, method: Callable[..., object], *arguments: object) -> None:
        """Call *method* of the transaction user; what it raises is the answer to *transaction*."""
        call(method, *arguments, failed=lambda failure: self._user_failed(transaction, failure))

    def _ack_received(self, ack: Request, flow: IFlow) -> None:
        transaction = self._table.get(transaction_key(ack, "INVITE"))
        if not _has_identifier(ack.via):
            # 17.2.3: the To tag is that of the response acknowledged; the INVITE had the same, or none.
            transaction = transaction or self._table.get(transaction_key(ack, "INVITE", to_tag=""))
            if transaction is not None and ack.to.tag != transaction.to_tag:
                transaction = None
        if isinstance(transaction, InviteServerTransaction) and transaction.ack_received():
            return
        call(self._transaction_user.ack_received, ack, flow, failed=_log_failure)

    def _cancelled_by(self, cancel: Request) -> ServerTransaction | None:
        """Return the transaction that *cancel* matches, as if it were of another method (9.2)."""
        for method in _CANCELLABLE:
            target = self._table.get(transaction_key(cancel, method))
            if target is not None:
                return target
        return None

    def _cancel_received(
        self, request: Request, key: str, target: ServerTransaction | None, flow: IFlow, route: IFlow
    ) -> None:
        """Answer a CANCEL in a transaction of its own, and tell the transaction user if it changes anything (9.2)."""
        to_tag = self._to_tag(request) if target is None else target.to_tag
        transaction = NonInviteServerTransaction(key, request, to_tag, flow, route, self)
        if target is None:
            transaction.respond(request.response(481, rule="9.2-4"))
            return
        transaction.respond(request.response(200, rule="9.2-8"))
        if target.method == "INVITE" and target.request is not None and not target.cancelled:
            target.cancel_received()
            if target.state is not State.TERMINATED:  # as it is if who waited for this could not send an answer
                self._tell(target, self._transaction_user.transaction_cancelled, target)

    def _user_failed(self, transaction: ServerTransaction, failure: Failure) -> None:
        """Answer for the transaction user: a refusal as raised, anything else logged once and 500 without details."""
        request = transaction.request
        error = failure.value
        if not _is_answer(error, request):
            _log.failure("{method} could not be handled", failure, method=transaction.method)
        if request is None:
            return
        try:
            transaction.respond(_refusal(request, error))
        except Exception:  # what was raised holds what no response can
            _log.failure("{method} could not be refused", method=transaction.method)
            transaction.respond(request.response(500, rule="exception"))

    def _to_tag(self, request: Request) -> str:
        """The To tag of every response to *request*: its own if it has one, else a new one of 64 random bits (19.3)."""
        return request.to.tag or secrets.token_hex(8)

    # What transactions ask of their keeper

    def register(self, transaction: ServerTransaction) -> None:
        """Absorb retransmissions for *transaction* from now on."""
        self._table[transaction.key] = transaction

    def waits(self, transaction: ServerTransaction) -> None:
        """Count *transaction* among those that only wait out a timer; drop the oldest if they are too many."""
        octets = self._waiting[transaction] = transaction.octets
        self._waiting_octets += octets
        while len(self._waiting) > self._max_waiting or self._waiting_octets > self._max_waiting_octets:
            self._counters["waiting_dropped"] += 1
            oldest = next(iter(self._waiting))
            oldest.abandon(oldest.outcome)
        self._check_drained()

    def ended(self, transaction: ServerTransaction, reason: EndReason) -> None:
        """Forget *transaction*, and tell the transaction user."""
        self._waiting_octets -= self._waiting.pop(transaction, 0)
        if self._table.get(transaction.key) is transaction:
            del self._table[transaction.key]
        if reason is EndReason.ACK_TIMEOUT:
            self._counters["ack_timeouts"] += 1
        elif reason is EndReason.TRANSPORT_FAILED:
            self._counters["send_failures"] += 1
        if transaction.method != "CANCEL":  # the transaction user has never seen that one
            call(self._transaction_user.transaction_ended, transaction, reason, failed=_log_failure)
        self._check_drained()

    def stateless_tag(self, request: Request) -> str:
        """Return the To tag for a response to *request* that leaves nothing behind (8.2.7)."""
        return stateless_tag(request, self._secret)

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
        for transaction in list(self._table.values()):
            if transaction.request is not None:
                refusal = transaction.request.response(503, headers=_RETRY_AFTER, rule="shutdown")
                transaction.respond(refusal)
            transaction.abandon(EndReason.SHUTDOWN)
        if self._drain_limit is not None and self._drain_limit.active():
            self._drain_limit.cancel()

    def _check_drained(self, time_is_up: bool = False) -> None:
        if self._drained is not None and not self._drained.called and (time_is_up or self.owed == 0):
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


def _log_failure(failure: Failure) -> None:
    _log.failure("the transaction user failed", failure)
