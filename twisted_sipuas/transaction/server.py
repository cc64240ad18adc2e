"""The two server machines: what is sent, resent and absorbed in each state (RFC 3261, 17.2; RFC 6026; RFC 4320)."""

from __future__ import annotations

import enum
import re
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import EndReason, IFlow, IServerTransaction
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.transaction.timers import Timers

_TIMESTAMP = re.compile(r"[0-9]+(?:\.[0-9]*)?(?=[ \t]|$)")

__all__ = ["InviteServerTransaction", "NonInviteServerTransaction", "ServerTransaction", "State"]


class Keeper(Protocol):
    """What a transaction needs of the layer that keeps it."""

    clock: IReactorTime
    timers: Timers
    server_header: str | None

    def register(self, transaction: ServerTransaction) -> None:
        """The transaction will absorb retransmissions from now on."""

    def waits(self, transaction: ServerTransaction) -> None:
        """Nothing is owed any more; the transaction only waits out a timer."""

    def ended(self, transaction: ServerTransaction, reason: EndReason) -> None:
        """The transaction is Terminated."""

    def stateless_tag(self, request: Request) -> str:
        """The To tag for a response that leaves nothing behind (8.2.7)."""


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


@implementer(IServerTransaction)
class ServerTransaction:
    """What both machines share: one request, the way back, one running timer a purpose.

    *key* is what the layer finds the transaction by; *to_tag* the tag of all its responses (8.2.6.2).
    """

    __slots__ = (
        "_cancel_waiters",
        "_keeper",
        "_last_response",
        "_route",
        "_timer",
        "cancelled",
        "dialog",
        "flow",
        "identity",
        "is_registered",
        "key",
        "method",
        "outcome",
        "request",
        "state",
        "to_tag",
    )

    is_stateful = True
    initial_state: State

    def __init__(self, key: str, request: Request, to_tag: str, flow: IFlow, route: IFlow, keeper: Keeper) -> None:
        self.key = key
        self.method = request.method
        self.request: Request | None = request
        self.to_tag = to_tag
        self.flow = flow
        self.identity: object = None
        self.dialog: object = None
        self.cancelled = False
        self.outcome = EndReason.ANSWERED
        self.is_registered = False
        self.state: State = self.initial_state
        self._route = route
        self._keeper = keeper
        self._last_response: bytes | None = None
        self._timer: IDelayedCall | None = None
        self._cancel_waiters: list[Deferred[None]] | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over and sends nothing any more."""
        return self.state is State.TERMINATED

    @property
    def octets(self) -> int:
        """The length of the response that is kept to be sent again."""
        return len(self._last_response or b"")

    @property
    def is_owed(self) -> bool:
        """Whether a final response or an ACK is still to come."""
        raise NotImplementedError

    def start(self) -> None:
        """The transaction user has seen the request and has not sent a final response yet."""
        raise NotImplementedError

    def retransmission_received(self) -> None:
        """The request came again."""
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
        data = response.to_bytes(self._keeper.stateless_tag(self.request), self._keeper.server_header)
        reason = EndReason.ANSWERED
        try:
            self._route.send(data)
        except TransportError:
            reason = EndReason.TRANSPORT_FAILED
        self._terminate(reason)

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
        elif self.state is not State.TERMINATED:
            if self._cancel_waiters is None:
                self._cancel_waiters = []
            self._cancel_waiters.append(waiter)
        return waiter

    def abandon(self, reason: EndReason) -> None:
        """End the transaction now, whatever is owed."""
        if self.state is not State.TERMINATED:
            self._terminate(reason)

    def _octets(self, response: Response) -> bytes:
        """Return *response* as it is sent. It may be faulty and raise, so it is asked for before anything changes."""
        return response.to_bytes(self.to_tag, self._keeper.server_header)

    def _trying(self, due: float, rule: str) -> Response:
        """Return the 100 that was *due* so many seconds after the request, and is sent as the timer fires."""
        assert self.request is not None, "the timer stops with the final response"
        assert self._timer is not None, "it has just fired"
        delay = self._keeper.clock.seconds() - (self._timer.getTime() - due)
        return self.request.response(100, headers=_timestamp(self.request, delay), rule=rule)

    def _send(self, data: bytes | None) -> None:
        """Send *data* (None: say nothing) and keep it as the latest response; a failure ends the transaction."""
        self._last_response = data
        if not self.is_registered:
            self.is_registered = True
            self._keeper.register(self)
        self._resend()

    def _resend(self) -> None:
        if self._last_response is None:
            return
        try:
            self._route.send(self._last_response)
        except TransportError:  # 17.2.4
            self._terminate(EndReason.TRANSPORT_FAILED)

    def _enter(self, state: State) -> None:
        """Change to *state*; the timers of the old state stop."""
        self.state = state
        self._stop_timers()

    def _stop_timers(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _terminate(self, reason: EndReason) -> None:
        self._enter(State.TERMINATED)
        self.request = None
        self._cancel_waiters = None
        self._keeper.ended(self, reason)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.state.value}>"


class InviteServerTransaction(ServerTransaction):
    """The INVITE server transaction (17.2.1, figure 7, with the Accepted state of RFC 6026, figure 5).

    A 300 to 699 is resent until its ACK comes; a 2xx is the transaction user's to resend.
    """

    __slots__ = ("_retransmit_interval", "_timer_h")

    initial_state = State.PROCEEDING

    def __init__(self, key: str, request: Request, to_tag: str, flow: IFlow, route: IFlow, keeper: Keeper) -> None:
        super().__init__(key, request, to_tag, flow, route, keeper)
        self._retransmit_interval = 0.0
        self._timer_h: IDelayedCall | None = None

    @property
    def is_owed(self) -> bool:
        """Whether a final response or an ACK is still to come."""
        return self.state is State.PROCEEDING or self.state is State.COMPLETED

    def start(self) -> None:
        """Send a 100 in 200 ms unless the transaction user is faster (17.2.1)."""
        if self.state is State.PROCEEDING and self._last_response is None:
            self._timer = self._keeper.clock.callLater(self._keeper.timers.trying_delay, self._send_trying)

    def _send_trying(self) -> None:
        self._send(self._octets(self._trying(self._keeper.timers.trying_delay, "17.2.1-2")))

    def retransmission_received(self) -> None:
        """Resend the latest provisional, or in Completed the final response; else absorb it (17.2.1, RFC 6026)."""
        if self.state is State.PROCEEDING or self.state is State.COMPLETED:
            self._resend()

    def ack_received(self) -> bool:
        """Take an ACK; returns False in Accepted, where it is the transaction user's (RFC 6026, 7.1)."""
        if self.state is State.COMPLETED:
            self._enter(State.CONFIRMED)
            if self.flow.is_reliable:  # Timer I is zero
                self._timer_i()
            else:
                self._timer = self._keeper.clock.callLater(self._keeper.timers.t4, self._timer_i)
                self._keeper.waits(self)
        return self.state is not State.ACCEPTED

    def respond(self, response: Response) -> None:
        """See `IServerTransaction`."""
        status = response.status
        if self.state is State.PROCEEDING:
            data = self._octets(response)
            if status < 200:
                self._stop_timers()
                self._send(data)
            elif status < 300:
                self._accept(data)
            else:
                self._complete(data)
        elif self.state is State.ACCEPTED and 200 <= status < 300:
            self._send(self._octets(response))  # RFC 6026: the transaction user resends its 2xx through us
        # Completed, Confirmed, Terminated: the final response went out; this one is dropped.

    def _accept(self, data: bytes) -> None:
        self._enter(State.ACCEPTED)
        self.request = None
        if self.cancelled:
            self.outcome = EndReason.ANSWERED  # the transaction user took the call all the same
        self._timer = self._keeper.clock.callLater(self._keeper.timers.lifetime, self._timer_l)
        self._send(data)
        if self.state is State.ACCEPTED:
            self._keeper.waits(self)

    def _complete(self, data: bytes) -> None:
        clock, timers = self._keeper.clock, self._keeper.timers
        self._enter(State.COMPLETED)
        self.request = None
        if not self.flow.is_reliable:
            self._retransmit_interval = timers.t1
            self._timer = clock.callLater(timers.t1, self._timer_g)
        self._timer_h = clock.callLater(timers.lifetime, self._ack_timed_out)
        self._send(data)

    def _timer_g(self) -> None:
        """17.2.1: resend the response, at intervals that double up to T2."""
        self._retransmit_interval = min(2 * self._retransmit_interval, self._keeper.timers.t2)
        self._timer = self._keeper.clock.callLater(self._retransmit_interval, self._timer_g)
        self._resend()

    def _ack_timed_out(self) -> None:
        """17.2.1, Timer H: no ACK ever came."""
        self._terminate(EndReason.ACK_TIMEOUT)

    def _timer_i(self) -> None:
        """17.2.1: no more retransmitted ACKs are to be expected."""
        self._terminate(self.outcome)

    def _timer_l(self) -> None:
        """RFC 6026, 7.1: no more retransmitted INVITEs are to be expected."""
        self._terminate(self.outcome)

    def _stop_timers(self) -> None:
        super()._stop_timers()
        if self._timer_h is not None and self._timer_h.active():
            self._timer_h.cancel()
        self._timer_h = None


class NonInviteServerTransaction(ServerTransaction):
    """The non-INVITE server transaction (17.2.2, figure 8, with the rules of RFC 4320)."""

    __slots__ = ("_is_late",)

    initial_state = State.TRYING

    def __init__(self, key: str, request: Request, to_tag: str, flow: IFlow, route: IFlow, keeper: Keeper) -> None:
        super().__init__(key, request, to_tag, flow, route, keeper)
        self._is_late = flow.is_reliable

    @property
    def is_owed(self) -> bool:
        """Whether a final response is still to come."""
        return self.state is State.TRYING or self.state is State.PROCEEDING

    def start(self) -> None:
        """Send a 100 once a client's Timer E has reached T2, and never before (RFC 4320, 4.1)."""
        if self.state is State.TRYING:
            self._timer = self._keeper.clock.callLater(self._keeper.timers.late_trying_delay, self._send_trying)

    def _send_trying(self) -> None:
        self._is_late = True
        self.respond(self._trying(self._keeper.timers.late_trying_delay, "4320-3"))

    def retransmission_received(self) -> None:
        """Resend the latest response, if there was one (17.2.2)."""
        self._resend()

    def respond(self, response: Response) -> None:
        """See `IServerTransaction`; of provisional responses only a late 100 is sent (RFC 4320, 4.1).

        A 408 is not sent: the client has given up by itself, and silence is what it is owed (RFC 4320, 4.2).
        """
        if not self.is_owed:
            return  # 17.2.2: any other final response is discarded
        if response.status < 200:
            if response.status == 100 and self._is_late:
                data = self._octets(response)
                self._enter(State.PROCEEDING)
                self._send(data)
            return
        final = None if response.status == 408 else self._octets(response)
        self._enter(State.COMPLETED)
        self.request = None
        if self.flow.is_reliable:  # Timer J is zero: there are no retransmissions to absorb
            self._last_response = final
            self._resend()
            if self.state is State.COMPLETED:
                self._timer_j()
            return
        self._timer = self._keeper.clock.callLater(self._keeper.timers.lifetime, self._timer_j)
        self._send(final)
        if self.state is State.COMPLETED:
            self._keeper.waits(self)

    def _timer_j(self) -> None:
        """17.2.2: no more retransmitted requests are to be expected."""
        self._terminate(self.outcome)


def _timestamp(request: Request, delay: float) -> list[tuple[str, str]]:
    """Return the Timestamp header field of a 100: the request's, with the seconds that we took (8.2.6.1, 20.38)."""
    match = _TIMESTAMP.match(request.headers.get("Timestamp") or "")
    return [] if match is None else [("Timestamp", f"{match[0]} {delay:.3f}")]
