"""What do all server transactions do, and what that of a request other than INVITE (RFC 3261, 17.2; RFC 4320)?"""

from __future__ import annotations

import enum
import re
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import EndReason, IFlow, IServerTransaction
from twisted_sipuas.syntax.message import KNOWN_METHODS, Request, Response
from twisted_sipuas.transaction.queues import Timed, TimerQueue
from twisted_sipuas.transaction.sources import FOR_AN_OCTET, Sources
from twisted_sipuas.transaction.timers import Timers

_TIMESTAMP = re.compile(r"[0-9]+(?:\.[0-9]*)?(?=[ \t]|$)")

__all__ = ["Keeper", "NonInviteServerTransaction", "ServerTransaction", "State", "timestamp"]


class Keeper(Protocol):
    """What a transaction needs of the layer that keeps it."""

    clock: IReactorTime
    timers: Timers
    server_header: str | None
    sources: Sources

    def register(self, transaction: ServerTransaction) -> None:
        """The transaction will absorb retransmissions from now on."""

    def queue(self, seconds: float) -> TimerQueue[Timed]:
        """The queue for what has to happen in so many *seconds*."""

    def holds(self, octets: int) -> None:
        """So many more octets are held for transactions that are owed something; fewer, if negative."""

    def waits(self, transaction: ServerTransaction, seconds: float) -> None:
        """Nothing is owed any more; the transaction only waits out *seconds*."""

    def ended(self, transaction: ServerTransaction, reason: EndReason) -> None:
        """The transaction is Terminated."""

    def sent_once(self) -> None:
        """A final response went out that will not be resent, since its source has too many of them already."""

    def is_merged(self, transaction: ServerTransaction) -> bool:
        """Whether the request of *transaction* is in another transaction too (8.2.2.2)."""

    def stateless_tag(self, request: Request) -> str:
        """The To tag for a response that leaves nothing behind (8.2.7)."""

    def stateless_octets(
        self, response: Response, request: Request, route: IFlow, to_tag: str | None = None
    ) -> bytes | None:
        """The octets of such a response; None if it is too long for its *request* to be sent."""

    def withheld(self) -> None:
        """A response was not sent, for it is too long for what its source has shown."""

    def traced(self, request: Request, response: Response | None, flow: IFlow) -> None:
        """A *response* to *request* goes out for the first time."""

    def dropped(self, method: str, response: Response, outcome: EndReason) -> None:
        """A *response* came after the final one."""

    def redeliver(self, octets: bytes, route: IFlow) -> bool:
        """Whether there is another way for *octets*, which *route* could not take (18.2.2)."""


class State(enum.Enum):
    """The states of figures 7 and 8 of RFC 3261 and figure 5 of RFC 6026."""

    TRYING = "Trying"
    """Non-INVITE: the transaction user has the request, nothing was sent."""
    PROCEEDING = "Proceeding"
    """No final response yet."""
    COMPLETED = "Completed"
    """A final response was sent; for an INVITE, one of 300 to 699 that waits for its ACK."""
    CONFIRMED = "Confirmed"
    """INVITE: the ACK came; more of them are absorbed."""
    ACCEPTED = "Accepted"
    """INVITE: a 2xx was sent (RFC 6026)."""
    TERMINATED = "Terminated"
    """Gone from the table."""


# Before Python 3.12, to name a member by its class takes ten times as long, and every transaction does so twenty times.
_TRYING = State.TRYING
_PROCEEDING = State.PROCEEDING
_COMPLETED = State.COMPLETED
_ACCEPTED = State.ACCEPTED
_TERMINATED = State.TERMINATED
_ANSWERED = EndReason.ANSWERED

_METHODS = {method: method for method in KNOWN_METHODS}  # so that all transactions that wait have the same text


@implementer(IServerTransaction)
class ServerTransaction(Timed):
    """What both machines share: one request, the way back, and one timer, which is that of the state.

    *key* and the request's method are what the layer finds the transaction by; *to_tag* is the tag of all its responses
    (8.2.6.2); *merge_key* what its request has in common with merged ones, or None if it is not compared (8.2.2.2).
    """

    __slots__ = (
        "_allowance",
        "_cancel_waiters",
        "_keeper",
        "_last_response",
        "_route",
        "cancelled",
        "dialog",
        "flow",
        "identity",
        "is_registered",
        "key",
        "merge_key",
        "method",
        "outcome",
        "request",
        "state",
        "to_tag",
    )

    is_stateful = True
    initial_state: State

    def __init__(
        self,
        key: str,
        request: Request,
        to_tag: str,
        flow: IFlow,
        route: IFlow,
        keeper: Keeper,
        merge_key: int | None = None,
    ) -> None:
        self._queue = None
        self.key = key
        self.method = _METHODS.get(request.method, request.method)
        self.request: Request | None = request
        self.to_tag = to_tag
        self.merge_key = merge_key
        self.flow = flow
        self.identity: object = None
        self.dialog: object = None
        self.cancelled = False
        self.outcome = _ANSWERED
        self.is_registered = False
        self.state: State = self.initial_state
        self._route = route
        self._keeper = keeper
        # Octets that may be sent for those that came; None for any number, where the source cannot be forged.
        self._allowance = FOR_AN_OCTET * request.size if request.size and not flow.is_reliable else None
        self._last_response: bytes | None = None
        self._cancel_waiters: list[Deferred[None]] | None = None
        self._prepare(request)

    def _prepare(self, request: Request) -> None:
        """Note what else this kind of transaction needs of *request*."""

    @property
    def ended(self) -> bool:
        """Whether it is over and sends nothing any more."""
        return self.state is _TERMINATED

    @property
    def is_merged(self) -> bool:
        """See `IServerTransaction`."""
        return self._keeper.is_merged(self)

    @property
    def octets(self) -> int:
        """The length of the response that is kept to be sent again."""
        response = self._last_response
        return 0 if response is None else len(response)

    @property
    def is_owed(self) -> bool:
        """Whether a final response or an ACK is still to come."""
        raise NotImplementedError

    def start(self) -> None:
        """The transaction user has seen the request and has not sent a final response yet."""
        raise NotImplementedError

    def retransmission_received(self, flow: IFlow, route: IFlow, size: int = 0) -> None:
        """The request came again, in *size* octets, on *flow*, with *route* as the way back.

        Where the old flow is closed, one of the same kind from the same host takes its place.
        """
        old = self.flow
        if old.closed and flow.is_reliable == old.is_reliable and flow.remote_address.host == old.remote_address.host:
            self.flow = flow
            self._route = route
        if self._allowance is not None:
            self._allowance += FOR_AN_OCTET * size
        self._answer_retransmission()

    def _answer_retransmission(self) -> None:
        raise NotImplementedError

    def respond(self, response: Response) -> None:
        """See `IServerTransaction`."""
        raise NotImplementedError

    def respond_statelessly(self, response: Response) -> None:
        """See `IServerTransaction`."""
        if self.is_registered or self.state is not self.initial_state or response.status < 200:
            self.respond(response)
            return
        assert self.request is not None
        data = None
        if self._is_due(response):
            data = self._keeper.stateless_octets(response, self.request, self._route)
        self._keeper.traced(self.request, None if data is None else response, self.flow)
        self._send_and_forget(data)

    def cancel_received(self) -> None:
        """A CANCEL came for this transaction; the transaction user decides what becomes of it (9.2)."""
        self.cancelled = True
        self.outcome = EndReason.CANCELLED
        waiters, self._cancel_waiters = self._cancel_waiters or (), None
        for waiter in waiters:
            waiter.callback(None)

    def when_cancelled(self) -> Deferred[None]:
        """See `IServerTransaction`."""
        waiter: Deferred[None] = Deferred()
        if self.cancelled:
            waiter.callback(None)
        elif self.request is not None:
            if self._cancel_waiters is None:
                self._cancel_waiters = []
            self._cancel_waiters.append(waiter)
        return waiter

    def response_lost(self) -> None:
        """The latest response did not arrive: send it another way, or end if there is none (18.4, 17.2.4)."""
        response = self._last_response
        if response is None:
            if self.state is not _ACCEPTED:  # where it is the transaction user that has it
                return
        elif self._keeper.redeliver(response, self._route):
            return
        self.abandon(EndReason.TRANSPORT_FAILED)

    def abandon(self, reason: EndReason) -> None:
        """End the transaction now, whatever is owed."""
        if self.state is not _TERMINATED:
            self._terminate(reason)

    def _admits_length(self, data: bytes) -> bool:
        """Whether *data* may be sent, the first time or again; its source may be forged unless it was proven.

        If not the client is left to ask again, which is what it does where a response was lost.
        """
        allowance = self._allowance
        if allowance is None:
            return True
        left = allowance - len(data)
        is_known = left >= 0 or self.identity is not None
        if is_known or self._keeper.sources.admit_more(-left, self._route.remote_address):
            self._allowance = max(0, left)
            return True
        self._keeper.withheld()
        return False

    def _octets(self, response: Response) -> bytes:
        """Return *response* as it is sent. It may be faulty and raise, so it is asked for before anything changes."""
        return response.to_bytes(self.to_tag, self._keeper.server_header)

    def _is_admitted(self, data: bytes, response: Response) -> bool:
        """Whether *data*, which is *response*, may go out for the first time; who traces is told."""
        may_go = self._admits_length(data)
        if self.request is not None:
            self._keeper.traced(self.request, response if may_go else None, self.flow)
        return may_go

    def _is_due(self, response: Response) -> bool:
        """Whether a client still waits for the final *response*: not for a 408 to anything but an INVITE.

        It has given up by itself, and silence is what it is owed (RFC 4320, 4.2).
        """
        return response.status != 408 or self.method == "INVITE"

    def _send_first(self, data: bytes | None, may_go: bool) -> None:
        """Send *data* (None: say nothing); if not *may_go* keep it for when the client asks again."""
        self._send(data if may_go else None)
        if not may_go:
            self._last_response = data

    def _trying(self, due: float, rule: str) -> Response:
        """Return the 100 that was *due* so many seconds after the request, and is sent as the timer fires."""
        assert self.request is not None, "the timer stops with the final response"
        delay = max(0.0, self._keeper.clock.seconds() - (self._due - due))  # the clock may have been set back
        return self.request.response(100, headers=timestamp(self.request, delay), rule=rule)

    def _send(self, data: bytes | None) -> None:
        """Send *data* (None: say nothing), and keep it where it may have to be sent again.

        A failure ends the transaction.
        """
        if self.state is not _ACCEPTED:
            self._last_response = data
        if not self.is_registered:
            self._keeper.register(self)
        if data is not None and not self._is_sent(data):
            self._terminate(EndReason.TRANSPORT_FAILED)  # 17.2.4

    def _resend(self) -> None:
        response = self._last_response
        if response is not None and self._admits_length(response):
            self._send(response)

    def _send_and_forget(self, data: bytes | None) -> None:
        """Send *data*, the final response (None: say nothing), and be over: nothing is resent, nothing absorbed."""
        is_sent = data is None or self._is_sent(data)
        self._terminate(self.outcome if is_sent else EndReason.TRANSPORT_FAILED)

    def _is_sent(self, data: bytes) -> bool:
        """Send *data*; returns whether it went out, or another way is being tried (18.2.2)."""
        try:
            self._route.send(data)
        except TransportError:
            return self._keeper.redeliver(data, self._route)
        return True

    def _finish(self, state: State) -> None:
        """Change to *state* with the final response; of the request only key and tag are needed from now on."""
        if self.request is not None and self.is_registered:
            self._keeper.holds(-self.request.size)
        self._enter(state)
        self.request = None
        self._cancel_waiters = None

    def _enter(self, state: State) -> None:
        """Change to *state*; the timers of the old state stop."""
        self.state = state
        if self._queue is not None:
            self._queue.remove(self)

    def _terminate(self, reason: EndReason) -> None:
        self.outcome = reason
        self._finish(_TERMINATED)
        self._last_response = None
        self._keeper.ended(self, reason)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.state.value}>"


class NonInviteServerTransaction(ServerTransaction):
    """The non-INVITE server transaction (17.2.2, figure 8, with the rules of RFC 4320)."""

    __slots__ = ()

    initial_state = _TRYING

    @property
    def is_owed(self) -> bool:
        """Whether a final response is still to come."""
        return self.state is _TRYING or self.state is _PROCEEDING

    def start(self) -> None:
        """Send a 100 once a client's Timer E has reached T2, and never before (RFC 4320, 4.1)."""
        if self.state is _TRYING:
            self._keeper.queue(self._keeper.timers.late_trying_delay).append(self)

    def timed_out(self) -> None:
        """The timer of the state fired: that of the late 100, or Timer J."""
        if self.state is _TRYING:
            self._proceed(self._trying(self._keeper.timers.late_trying_delay, "4320-3"))
        else:
            self._terminate(self.outcome)  # 17.2.2, Timer J: no more retransmitted requests are to be expected

    def _answer_retransmission(self) -> None:
        """Resend the latest response, if there was one (17.2.2)."""
        self._resend()

    def respond(self, response: Response) -> None:
        """See `IServerTransaction`; of provisional responses only a late 100 is sent (RFC 4320, 4.1), and no 408."""
        if not self.is_owed:  # 17.2.2: any other final response is discarded
            self._keeper.dropped(self.method, response, self.outcome)
            return
        if response.status < 200:
            if response.status == 100 and (self.flow.is_reliable or self.state is _PROCEEDING):
                self._proceed(response)
            return
        assert self.request is not None, "it is owed an answer"
        if self._is_due(response):
            final = self._octets(response)
            may_go = self._is_admitted(final, response)
        else:
            final, may_go = None, True
            self._keeper.traced(self.request, None, self.flow)
        self._finish(_COMPLETED)
        if self.flow.is_reliable:  # Timer J is zero: there are no retransmissions to absorb
            self._send_and_forget(final)
            return
        self._send_first(final, may_go)
        if self.state is _COMPLETED:
            self._keeper.waits(self, self._keeper.timers.lifetime)

    def _proceed(self, response: Response) -> None:
        data = self._octets(response)
        may_go = self._is_admitted(data, response)
        self._enter(_PROCEEDING)
        self._send_first(data, may_go)


def timestamp(request: Request, delay: float) -> list[tuple[str, str]]:
    """Return the Timestamp header field of a 100: the request's, with the seconds that we took (8.2.6.1, 20.38)."""
    match = _TIMESTAMP.match(request.headers.get("Timestamp") or "")
    return [] if match is None else [("Timestamp", f"{match[0]} {delay:.3f}")]
