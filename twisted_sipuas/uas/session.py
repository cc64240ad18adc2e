"""Which calls are there, and what does the core do in them by itself? RFC 3261, 12.2.2, 13.3.1.4, 14.2 and 15.

The 2xx to an INVITE is resent here until its ACK comes, for no transaction does that; BYE is sent when none came.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from twisted_sipuas.deferreds import call
from twisted_sipuas.errors import SIPError, TransportError
from twisted_sipuas.interfaces import IFlow, IRequestSender, IServerTransaction
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.transaction.queues import Timed, TimerQueue
from twisted_sipuas.transaction.sources import Sources
from twisted_sipuas.transaction.timers import Timers
from twisted_sipuas.uas.dialog import Dialog, DialogEnd, DialogState, remote_target

__all__ = ["Session", "Sessions"]

_log = Logger()

_MAX_UNACKNOWLEDGED = 20  # 2xx that are resent to one source which has not shown that it receives them
_HEAD = 400  # octets that a 2xx has besides its body, about

_Headers = tuple[tuple[str, str], ...]


class _Server(Protocol):
    """What the calls need of the server that takes them."""

    clock: IReactorTime | None
    max_dialogs: int
    max_call_time: float

    def refuse_pending(self, transaction: IServerTransaction) -> None:
        """Answer the pending request of *transaction* 487, and cancel its handler."""

    def dialog_ended(self, dialog: Dialog, reason: DialogEnd) -> object:
        """A dialog that was confirmed is over."""


class Session:
    """One call: its `dialog`, and what is in progress there.

    `invitation` is the transaction of an INVITE that has no final response yet, `pending` those of the other requests
    whose handlers are at it.
    """

    __slots__ = (
        "_acceptance",
        "_calls",
        "_end",
        "_is_proven",
        "_limit",
        "_waiters",
        "dialog",
        "invitation",
        "pending",
    )

    def __init__(self, request: Request, transaction: IServerTransaction, calls: Sessions) -> None:
        self.dialog = Dialog(request, transaction.to_tag, transaction.flow, self)
        self.invitation: IServerTransaction | None = transaction
        self.pending: list[IServerTransaction] = []
        self._calls = calls
        self._acceptance: _Acceptance | None = None
        self._limit: _CallTime | None = None
        self._end: tuple[DialogEnd, _Headers] | None = None  # asked for while the 2xx waited for its ACK
        self._waiters: list[Deferred[None]] = []
        self._is_proven = False

    @property
    def is_unacknowledged(self) -> bool:
        """Whether a 2xx waits for its ACK."""
        return self._acceptance is not None

    def accepted(self, response: Response, request: Request, transaction: IServerTransaction) -> None:
        """The 2xx *response* to the INVITE *request* went out: resend it until its ACK comes (13.3.1.4)."""
        dialog = self.dialog
        self.invitation = None
        dialog.flow = transaction.flow
        if dialog.state is DialogState.EARLY:
            dialog.state = DialogState.CONFIRMED
            self._limit = _CallTime(self, self._calls)
        elif request.contacts:  # 12.2.2: an INVITE is a target refresh request
            dialog.remote_target = remote_target(request)
        if self._acceptance is not None:  # 14.2: who asks for more has seen the last one
            self._acceptance.stop()
        self._acceptance = _Acceptance(response, request.cseq.number, transaction, self, self._calls)
        if self._calls.is_closing:
            self.end(DialogEnd.SHUTDOWN)

    def acknowledged(self, ack: Request, flow: IFlow) -> bool:
        """Take *ack*; returns whether by it, the first one for a 2xx of this dialog, the session stands (13.3.1.4)."""
        acceptance = self._acceptance
        if acceptance is None or acceptance.number != ack.cseq.number:
            return False
        acceptance.stop(flow)
        self._acceptance = None
        self._is_proven = True
        self.dialog.flow = flow
        if self._end is not None:
            self._send_bye(*self._end)
        return self._end is None

    def never_acknowledged(self, may_send: bool) -> None:
        """64*T1 have passed without an ACK: the session is ended, with BYE unless not *may_send* (13.3.1.4, 14.2)."""
        self._acceptance = None
        if may_send:
            self._send_bye(*(self._end or (DialogEnd.ACK_TIMEOUT, ())))
        else:
            self.terminate(DialogEnd.ACK_TIMEOUT)

    def end(self, reason: DialogEnd, headers: _Headers = ()) -> Deferred[None]:
        """See `Dialog.end`."""
        waiter: Deferred[None] = Deferred()
        if self.dialog.state is DialogState.TERMINATED and not self._calls.is_ending(self):
            waiter.callback(None)
            return waiter
        self._waiters.append(waiter)
        if self._acceptance is not None:
            self._end = self._end or (reason, headers)  # 15: no BYE before the ACK, or its time-out
        elif self.dialog.state is DialogState.CONFIRMED:
            self._send_bye(reason, headers)
        return waiter

    def terminate(self, reason: DialogEnd | None) -> None:
        """The dialog is over: nothing in it waits any longer, and requests within it get 481 (15.1.2).

        *reason* is None for one that is early still.
        """
        dialog = self.dialog
        was_confirmed = dialog.state is DialogState.CONFIRMED
        dialog.state = DialogState.TERMINATED
        if self._acceptance is not None:
            self._acceptance.stop()
            self._acceptance = None
        if self._limit is not None:
            self._limit.stop_waiting()
        pending, self.pending = [*self.pending, self.invitation], []
        self.invitation = None
        self._calls.forget(self)
        for transaction in pending:
            if transaction is not None:
                self._calls.server.refuse_pending(transaction)
        if was_confirmed and reason is not None:
            call(self._calls.server.dialog_ended, dialog, reason, failed=_hook_failed)
        if not self._calls.is_ending(self):
            self.ended()

    def ended(self) -> None:
        """Nothing is left to be done: tell who waits for that."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _send_bye(self, reason: DialogEnd, headers: _Headers) -> None:
        """Send BYE; the session is over when it is on its way, whatever comes back (15.1.1)."""
        self._calls.send_bye(self, headers, self._is_proven)
        self.terminate(reason)


class _CallTime(Timed):
    """Ends a call that lasts too long."""

    __slots__ = ("_session",)

    def __init__(self, session: Session, calls: Sessions) -> None:
        super().__init__()
        self._session = session
        calls.queue(calls.server.max_call_time).append(self)

    def timed_out(self) -> None:
        self._session.end(DialogEnd.CALL_TIME)


class _Acceptance(Timed):
    """A 2xx that waits for its ACK: sent again at intervals that double up to T2, on any transport (13.3.1.4).

    On UDP the source of an INVITE may be forged. One that has not shown that it receives what is sent there is sent
    again no more than a few at a time.
    """

    __slots__ = ("_calls", "_elapsed", "_interval", "_is_admitted", "_response", "_session", "_transaction", "number")

    def __init__(
        self, response: Response, number: int, transaction: IServerTransaction, session: Session, calls: Sessions
    ) -> None:
        super().__init__()
        self.number = number
        self._response = response
        self._transaction = transaction
        self._session = session
        self._calls = calls
        self._elapsed = 0.0
        self._interval = calls.timers.t1
        self._is_admitted = False
        self._admit()
        calls.unacknowledged += 1
        calls.queue(self._interval).append(self)

    def timed_out(self) -> None:
        timers = self._calls.timers
        self._elapsed += self._interval
        if self._elapsed >= timers.lifetime:
            self._release()
            self._calls.ack_timed_out(self._transaction.flow)
            self._session.never_acknowledged(self._is_admitted)
            return
        self._interval = min(2 * self._interval, timers.t2, timers.lifetime - self._elapsed)
        self._calls.queue(self._interval).append(self)
        if not self._transaction.ended and self._admit():
            self._transaction.respond(self._response)

    def stop(self, flow: IFlow | None = None) -> None:
        """The ACK came on *flow*; or, without, nobody waits for it any more."""
        self.stop_waiting()
        self._release()
        if flow is not None and not flow.is_reliable:
            self._calls.sources.prove(flow.remote_address.network)

    def _admit(self) -> bool:
        """Whether the source may be sent the response again."""
        flow = self._transaction.flow
        if not self._is_admitted:
            self._is_admitted = flow.is_reliable or self._calls.sources.admit(self._source, self._size)
        return self._is_admitted

    def _release(self) -> None:
        self._calls.unacknowledged -= 1
        if self._is_admitted and not self._transaction.flow.is_reliable:
            self._calls.sources.release(self._source, self._size)

    @property
    def _source(self) -> str:
        network: str = self._transaction.flow.remote_address.network
        return network

    @property
    def _size(self) -> int:
        return _HEAD + len(self._response.body)


class Sessions:
    """The calls of *server*: finds the dialog of a request, and bounds how many there are.

    *timers* gives T1 and T2; *randint* chooses the seconds of a Retry-After, between its least and its greatest result.
    """

    def __init__(
        self,
        server: _Server,
        *,
        timers: Timers | None = None,
        randint: Callable[[int, int], int] = random.randint,
    ) -> None:
        self.server = server
        self.timers = timers or Timers()
        self.sender: IRequestSender | None = None
        self.is_closing = False
        self.unacknowledged = 0
        self.reserved = 0  # INVITEs that may become a call yet
        self._randint = randint
        self._sessions: dict[tuple[str, str, str | None], Session] = {}
        self._ending: set[Session] = set()  # those whose BYE waits for its answer
        self._queues: dict[float, TimerQueue[Timed]] = {}
        self._sources: Sources | None = None
        self._idle: list[Deferred[None]] = []
        self._counters = {
            "dialogs_refused": 0,
            "acceptances_dropped": 0,
            "ack_timeouts": 0,
            "byes_sent": 0,
            "byes_failed": 0,
        }

    @property
    def counters(self) -> Mapping[str, int]:
        """How many ``dialogs`` there are, and 2xx that wait for their ACK (``unacknowledged``); how many INVITEs were
        refused for too many dialogs, 2xx dropped because they were not the first, 2xx never acknowledged, BYEs sent,
        and of these failed.
        """
        return {"dialogs": len(self._sessions), "unacknowledged": self.unacknowledged, **self._counters}

    @property
    def sources(self) -> Sources:
        """The hosts that have shown that they receive what is sent to them."""
        if self._sources is None:
            self._sources = Sources(self._clock, _MAX_UNACKNOWLEDGED)
        return self._sources

    @property
    def _clock(self) -> IReactorTime:
        assert self.server.clock is not None, "a service gives its clock to its transaction user"
        return self.server.clock

    def queue(self, seconds: float) -> TimerQueue[Timed]:
        """Return the queue of what has to happen in so many *seconds*."""
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = TimerQueue(self._clock, seconds)
        return queue

    def acceptance_dropped(self) -> None:
        """A handler has sent a 2xx after its final response, and it was dropped."""
        self._counters["acceptances_dropped"] += 1

    def ack_timed_out(self, flow: IFlow) -> None:
        """No ACK came for a 2xx that was sent on *flow*."""
        self._counters["ack_timeouts"] += 1
        if not flow.is_reliable:
            self.sources.disprove(flow.remote_address.network)

    # Requests

    def dialog_of(self, request: Request) -> Dialog | None:
        """Return the dialog that *request* is in, or None (12.2.2)."""
        to_tag = request.to.tag
        if to_tag is None:
            return None
        session = self._sessions.get((request.call_id, to_tag, request.from_.tag))
        return None if session is None else session.dialog

    def session_of(self, dialog: Dialog) -> Session | None:
        """Return the session of *dialog*, None once it is over."""
        return self._sessions.get(dialog.id)

    def check_room(self) -> None:
        """Raise `SIPError` if there are as many dialogs as there may be."""
        if len(self._sessions) + self.reserved >= self.server.max_dialogs:
            self._counters["dialogs_refused"] += 1
            raise SIPError(503, headers=[("Retry-After", "5")], rule="max_dialogs")

    def check_order(self, request: Request, dialog: Dialog) -> None:
        """Raise `SIPError` for a request of *dialog* that is out of order, else take its sequence number (12.2.2)."""
        number = request.cseq.number
        if dialog.remote_sequence is not None and number < dialog.remote_sequence:
            raise SIPError(500, "CSeq Out of Order", rule="12.2.2-7")
        session = self.session_of(dialog)
        if request.method == "INVITE" and session is not None and session.invitation is not None:
            raise SIPError(500, headers=[("Retry-After", str(self._randint(0, 10)))], rule="14.2-1")
        dialog.remote_sequence = number

    def pends(self, transaction: IServerTransaction, dialog: Dialog) -> None:
        """A handler is at the request of *transaction*, which is answered 487 if *dialog* ends first (15.1.2)."""
        session = self.session_of(dialog)
        if session is not None:
            session.pending.append(transaction)

    def pends_no_longer(self, transaction: IServerTransaction, dialog: Dialog) -> None:
        """The handler at the request of *transaction* in *dialog* is done."""
        session = self.session_of(dialog)
        if session is not None and transaction in session.pending:
            session.pending.remove(transaction)

    def begin(self, request: Request, transaction: IServerTransaction) -> Session:
        """Return a new session, early still, that *transaction* makes by its response to the INVITE *request*."""
        session = Session(request, transaction, self)
        self._sessions[session.dialog.id] = session
        return session

    def ack_received(self, ack: Request, flow: IFlow) -> Dialog | None:
        """Return the dialog that *ack* is the first ACK of a 2xx in, or None."""
        dialog = self.dialog_of(ack)
        session = None if dialog is None else self.session_of(dialog)
        return dialog if session is not None and session.acknowledged(ack, flow) else None

    def bye_received(self, dialog: Dialog) -> None:
        """The peer ends *dialog* (15.1.2)."""
        session = self.session_of(dialog)
        if session is not None:
            session.terminate(DialogEnd.BYE_RECEIVED)

    # The end

    def send_bye(self, session: Session, headers: Iterable[tuple[str, str]], is_proven: bool) -> None:
        """Send BYE in the dialog of *session*, which then is ending until that is answered or given up."""
        dialog = session.dialog
        if self.sender is None:
            return
        self._counters["byes_sent"] += 1
        self._ending.add(session)
        try:
            request, next_hop = dialog.next_request("BYE", headers)
            pending = cast("Deferred[Response]", self.sender.send_request(request, next_hop, dialog.flow, is_proven))
        except Exception:
            self._answered(Failure(), session)
        else:
            pending.addBoth(self._answered, session)

    def is_ending(self, session: Session) -> bool:
        """Whether the BYE of *session* waits for its answer."""
        return session in self._ending

    def _answered(self, result: object, session: Session) -> None:
        """The BYE was answered, in whatever way, or could not be sent or was not answered: it is over (15.1.1)."""
        if isinstance(result, Failure):
            self._counters["byes_failed"] += 1
            if not result.check(TransportError):
                _log.failure("BYE could not be sent", result)
        self._ending.discard(session)
        session.ended()
        self.check_idle()

    def forget(self, session: Session) -> None:
        """*session* is over: no request is in it any longer."""
        self._sessions.pop(session.dialog.id, None)
        self.check_idle()

    def end_all(self) -> Deferred[None]:
        """End every call by BYE; fires when none is left. Those that are early become none, or are ended later.

        To cancel it is to forget, without a BYE, what calls there still are.
        """
        self.is_closing = True
        idle: Deferred[None] = Deferred(lambda _: self._forget_all())
        self._idle.append(idle)
        for session in list(self._sessions.values()):
            if session.dialog.state is DialogState.CONFIRMED:
                session.end(DialogEnd.SHUTDOWN)
        self.check_idle()
        return idle

    def check_idle(self) -> None:
        """Tell who waits for the end of all calls, if it has come."""
        if self._idle and not self._sessions and not self._ending and not self.reserved:
            self.is_closing = False
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def _forget_all(self) -> None:
        for session in [*self._sessions.values(), *self._ending]:
            self._ending.discard(session)
            session.terminate(DialogEnd.SHUTDOWN)
        self.is_closing = False


def _hook_failed(failure: Failure) -> None:
    _log.failure("dialog_ended failed", failure)
