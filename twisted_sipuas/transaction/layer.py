"""Which transactions are there, and how many may there be (RFC 3261, 17.2.3, 9.2)?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from twisted.internet.interfaces import IReactorTime

from twisted_sipuas.deferreds import call
from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import EndReason, IFlow, ITransactionUser
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.transaction.admission import Admission
from twisted_sipuas.transaction.base import BaseLayer, Redeliver, Trace, log_failure
from twisted_sipuas.transaction.invite_server import InviteServerTransaction
from twisted_sipuas.transaction.queues import Timed, TimerQueue
from twisted_sipuas.transaction.server import NonInviteServerTransaction, ServerTransaction, State
from twisted_sipuas.transaction.sources import Sources, trusts_nobody
from twisted_sipuas.transaction.table import (
    TransactionTable,
    has_identifier,
    merge_key,
    response_key,
    transaction_key,
)
from twisted_sipuas.transaction.timers import Timers
from twisted_sipuas.transaction.waiting import Waiting

__all__ = ["TransactionLayer"]

_TERMINATED = State.TERMINATED  # see `server`: these are asked for by every request
_ANSWERED = EndReason.ANSWERED


class TransactionLayer(BaseLayer):
    """Keeps the server transactions, and stands between the transports and one transaction user.

    *clock* gives the time, *timers* the base values. *server_header* is the Server header field of every response, or
    None. At most *max_transactions* may be owed an answer or an ACK: more are refused with a stateless 503. At most
    *max_waiting* only wait out a timer, with responses of *max_waiting_octets* in all: beyond it the oldest is dropped.
    At most *max_unacknowledged* responses to INVITEs are resent on UDP to one source that has not shown that it
    receives them (`Sources`): beyond it a final response is sent once, and its transaction forgotten.

    *redeliver* is called with the octets of a response and the route that could not take it (17.2.4, 18.2.2); unless it
    returns True, which says that another way is being tried, the transaction ends. *key*, *trace*, *admission* and
    *is_trusted* are as for `BaseLayer`.

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
        max_unacknowledged: int = 20,
        redeliver: Redeliver | None = None,
        key: bytes | None = None,
        trace: Trace | None = None,
        admission: Admission | None = None,
        is_trusted: Callable[[str], bool] = trusts_nobody,
    ) -> None:
        super().__init__(
            transaction_user,
            clock,
            server_header=server_header,
            max_transactions=max_transactions,
            redeliver=redeliver,
            key=key,
            trace=trace,
            admission=admission,
            is_trusted=is_trusted,
        )
        self.timers = timers or Timers()
        self.sources = Sources(clock, max_unacknowledged, is_trusted)
        self._max_waiting = max_waiting
        self._max_waiting_octets = max_waiting_octets
        self._table: TransactionTable[ServerTransaction] = TransactionTable()
        self._merged: dict[int, ServerTransaction] = {}
        self._queues: dict[float, TimerQueue[Timed]] = {}  # of what is owed an answer or an ACK
        self._waiting = Waiting(clock)
        self._new_tags = _random_tags()
        self._counters.update(waiting_dropped=0, ack_timeouts=0, sent_once=0)

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view: bounds that were reached, and what is ``owed`` and ``waiting`` now.

        ``sent_once`` counts the responses to INVITEs that were not resent, ``unacknowledged_sources`` and
        ``proven_sources`` the sources that are remembered for it.
        """
        held = {
            "owed": self.owed,
            "owed_octets": self._held_octets,
            "waiting": self._waiting.length,
            "waiting_octets": self._waiting.octets,
            "unacknowledged_sources": self.sources.unacknowledged,
            "proven_sources": self.sources.proven,
        }
        return MappingProxyType({**self._counters, **held})

    @property
    def owed(self) -> int:
        """How many transactions are owed an answer or an ACK."""
        return len(self._table) - self._waiting.length

    def _transactions(self) -> Iterable[ServerTransaction]:
        return self._table

    # Messages, from the transports

    def request_received(self, request: Request, flow: IFlow, route: IFlow) -> None:
        """Hand *request* to its transaction, or to the transaction user with a new one; *route* is the way back."""
        method = request.method
        try:
            if method == "ACK":
                self._ack_received(request, flow)
                return
            key = transaction_key(request)
            transaction = self._table.get(key, method)
            if transaction is not None:
                transaction.retransmission_received(flow, route, request.size)
                return
            target = self._table.cancelled_by(key) if method == "CANCEL" else None
            if target is None and self._is_refused(request, flow, route):
                return
            if method == "CANCEL":
                self._cancel_received(request, key, target, flow, route)
            else:
                self._begin(request, key, flow, route)
        except MessageSyntaxError as fault:
            self.refuse_malformed(request, fault, route)

    def response_lost(self, octets: bytes) -> None:
        """Have the transaction that sent *octets* try another way, or end it if there is none (18.4, 18.2.2).

        *octets* are the beginning of a response, as the network quotes what it could not deliver. They only say which
        transaction is meant: whoever forges the notice has to know the branch, and has nothing sent but our response.
        """
        transaction = self._sender_of(octets)
        if transaction is not None:
            transaction.response_lost()

    def sending_failed(self, octets: bytes) -> None:
        """End the transaction that sent the response *octets*, which found no other way either (17.2.4)."""
        transaction = self._sender_of(octets)
        if transaction is not None:
            transaction.abandon(EndReason.TRANSPORT_FAILED)

    def _sender_of(self, octets: bytes) -> ServerTransaction | None:
        """Return the transaction that sent a response of which *octets* are the beginning, if there is one."""
        found = response_key(octets)
        if found is None:
            return None
        key, method = found
        return self._table.only(key) if method is None else self._table.get(key, method)

    def _begin(self, request: Request, key: str, flow: IFlow, route: IFlow) -> None:
        kind = InviteServerTransaction if request.method == "INVITE" else NonInviteServerTransaction
        transaction = kind(key, request, self._to_tag(request), flow, route, self, merge_key(request))
        self._handed_over += 1
        try:
            self._tell(transaction, self._transaction_user.request_received, request, transaction)
        finally:
            self._handed_over -= 1
        if self._is_stopped:
            transaction.abandon(EndReason.SHUTDOWN)
        elif transaction.state is not _TERMINATED:
            if not transaction.is_registered:
                self.register(transaction)
            if transaction.request is not None:
                transaction.start()
        if self._drained is not None:
            self._check_drained()

    def _ack_received(self, ack: Request, flow: IFlow) -> None:
        to_tag = ack.to.parameters.get("tag")
        transaction = self._table.get(transaction_key(ack), "INVITE")
        if not has_identifier(ack.via):
            # 17.2.3: the To tag is that of the response acknowledged; the INVITE had the same, or none.
            transaction = transaction or self._table.get(transaction_key(ack, to_tag=""), "INVITE")
            if transaction is not None and to_tag != transaction.to_tag:
                transaction = None
        if isinstance(transaction, InviteServerTransaction) and transaction.ack_received(to_tag):
            return
        self.traced(ack, None, flow)
        call(self._transaction_user.ack_received, ack, flow, failed=lambda failure: self._ack_failed(ack, failure))

    def _cancel_received(
        self, request: Request, key: str, target: ServerTransaction | None, flow: IFlow, route: IFlow
    ) -> None:
        """Answer a CANCEL, and tell the transaction user if it changes anything (9.2).

        It has a transaction of its own if there is what it cancels.
        """
        if target is None:  # 8.2.7: if it comes again it gets the same again, and costs no memory
            self.respond_statelessly(request.response(481, rule="9.2-4"), request, route)
            return
        transaction = NonInviteServerTransaction(key, request, target.to_tag, flow, route, self)
        transaction.respond(request.response(200, rule="9.2-8"))
        if target.method == "INVITE" and target.request is not None and not target.cancelled:
            target.cancel_received()
            if target.state is not State.TERMINATED:  # as it is if who waited for this could not send an answer
                self._tell(target, self._transaction_user.transaction_cancelled, target)

    def _to_tag(self, request: Request) -> str:
        """The To tag of every response to *request*: its own if it has one, else a new one of 64 random bits (19.3)."""
        return request.to.parameters.get("tag") or next(self._new_tags)

    # What transactions ask of their keeper

    def register(self, transaction: ServerTransaction) -> None:
        """Absorb retransmissions for *transaction* from now on, and know merged requests by it."""
        transaction.is_registered = True
        if transaction.request is not None:
            self.holds(transaction.request.size)
        self._table.add(transaction)
        if transaction.merge_key is not None:
            self._merged.setdefault(transaction.merge_key, transaction)

    def is_merged(self, transaction: ServerTransaction) -> bool:
        """Return whether the request of *transaction* came by another way too, and is in progress there (8.2.2.2)."""
        key = transaction.merge_key
        return key is not None and self._merged.get(key, transaction) is not transaction

    def queue(self, seconds: float) -> TimerQueue[Timed]:
        """Return the queue of what has to happen in so many *seconds*; there are as many as the timers have values."""
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = TimerQueue(self.clock, seconds)
        return queue

    def waits(self, transaction: ServerTransaction, seconds: float) -> None:
        """Let *transaction* wait out *seconds*, which is all it does; drop the oldest if too many do."""
        waiting = self._waiting
        waiting.append(transaction, seconds)
        while waiting.length > self._max_waiting or waiting.octets > self._max_waiting_octets:
            self._counters["waiting_dropped"] += 1
            oldest = waiting.oldest()
            oldest.abandon(oldest.outcome)
        if self._drained is not None:
            self._check_drained()

    def ended(self, transaction: ServerTransaction, reason: EndReason) -> None:
        """Forget *transaction*, and tell the transaction user."""
        if transaction.is_registered:
            self._table.remove(transaction)
            key = transaction.merge_key
            if key is not None and self._merged.get(key) is transaction:
                del self._merged[key]
        if reason is not _ANSWERED:
            if reason is EndReason.ACK_TIMEOUT:
                self._counters["ack_timeouts"] += 1
            elif reason is EndReason.TRANSPORT_FAILED:
                self._counters["send_failures"] += 1
        if transaction.method != "CANCEL":  # the transaction user has never seen that one
            call(self._transaction_user.transaction_ended, transaction, reason, failed=log_failure)
        if self._drained is not None:
            self._check_drained()

    def sent_once(self) -> None:
        """Count a final response to an INVITE that is not resent, for its source has too many of them."""
        self._counters["sent_once"] += 1


def _random_tags() -> Iterator[str]:
    """Give tags of 64 random bits each; to ask the system for many at once takes a tenth of the time."""
    while True:
        digits = os.urandom(512).hex()
        for at in range(0, len(digits), 16):
            yield digits[at : at + 16]
