"""Which calls are there, and what does the core do in them by itself? RFC 3261, 12.2.2, 13.3.1.4, 14.2 and 15.

The 2xx to an INVITE is resent here until its ACK comes, for no transaction does that; BYE is sent when none came.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
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
from twisted_sipuas.uas.acceptance import Acceptance
from twisted_sipuas.uas.dialog import Dialog, DialogEnd, DialogState, remote_target
from twisted_sipuas.uas.hooks import HooksAtWork

__all__ = ["Session", "Sessions", "no_dialog"]

_log = Logger()

_MAX_UNACKNOWLEDGED = 20  # 2xx that are resent to one source which has not shown that it receives them

_Headers = tuple[tuple[str, str], ...]


class _Server(Protocol):
    """What the calls need of the server that takes them."""

    clock: IReactorTime
    max_dialogs: int
    max_call_time: float

    @property
    def handler_timeout(self) -> float:
        """Seconds that a hook such as `dialog_ended` has."""

    def refuse_pending(self, transaction: IServerTransaction) -> None:
        """Answer the pending request of *transaction* 487, and cancel its handler."""

    def dialog_ended(self, dialog: Dialog, reason: DialogEnd) -> object:
        """A dialog that was confirmed is over."""


class _Pending:
    """A request of a dialog that is not answered yet, since its authentication or its handler takes its time.

    `latest` is the highest sequence number among those that were received before it and taken.
    """

    __slots__ = ("latest", "transaction")

    def __init__(self, transaction: IServerTransaction, latest: int | None) -> None:
        self.transaction = transaction
        self.latest = latest


class Session:
    """One call: its `dialog`, and what is in progress there.

    `invitation` is the transaction of an INVITE that has passed the checks and has no final response yet. `is_proven`
    says that the peer has received what was sent to it.
    """

    __slots__ = (
        "_acceptance",
        "_calls",
        "_end",
        "_limit",
        "_pending",
        "_waiters",
        "dialog",
        "invitation",
        "is_proven",
    )

    def __init__(self, request: Request, transaction: IServerTransaction, calls: Sessions) -> None:
        self.dialog = Dialog(request, transaction.to_tag, transaction.flow, self)
        self.invitation: IServerTransaction | None = transaction
        self._pending: dict[Request, _Pending] = {}  # in the order of their receipt
        self._calls = calls
        self._acceptance: Acceptance | None = None
        self._limit: _CallTime | None = None
        self._end: tuple[DialogEnd, _Headers] | None = None  # asked for while the 2xx waited for its ACK
        self._waiters: list[Deferred[None]] = []
        self.is_proven = False

    def pends(self, request: Request, transaction: IServerTransaction) -> None:
        """*request*, which was just received, is not answered at once."""
        self._pending[request] = _Pending(transaction, self.dialog.remote_sequence)

    def pends_no_longer(self, request: Request) -> None:
        """*request* is answered, or its handler has returned."""
        self._pending.pop(request, None)

    def take(self, request: Request, flow: IFlow) -> None:
        """Take *request*, which came on *flow*, and its number; raises `SIPError` if it is out of order (12.2.2, 14.2).

        The order is that of receipt, however long it took to see who sent which. What is refused before changes nothing
        (8.2).
        """
        dialog, number = self.dialog, request.cseq.number
        own = self._pending.get(request)
        latest = dialog.remote_sequence if own is None else own.latest
        if latest is not None and number < latest:
            raise SIPError(500, "CSeq Out of Order", rule="12.2.2-7")
        if request.method == "INVITE" and self.invitation is not None:
            raise SIPError(500, headers=[("Retry-After", str(self._calls.randint(0, 10)))], rule="14.2-1")
        if own is not None:
            for later in takewhile(lambda pending: pending is not own, reversed(self._pending.values())):
                later.latest = number if later.latest is None else max(number, later.latest)
        if dialog.remote_sequence is None or number >= dialog.remote_sequence:
            dialog.remote_sequence = number
            if flow.is_reliable or self.is_proven:  # else who sent it could have BYE go to whomever it names as source
                dialog.flow = flow

    def accepted(self, response: Response, request: Request, transaction: IServerTransaction) -> None:
        """The 2xx *response* to the INVITE *request* went out: resend it until its ACK comes (13.3.1.4)."""
        dialog = self.dialog
        self.invitation = None
        if dialog.state is DialogState.EARLY:
            dialog.state = DialogState.CONFIRMED
            self._limit = _CallTime(self, self._calls)
        elif request.contacts:  # 12.2.2: an INVITE is a target refresh request
            dialog.remote_target = remote_target(request)
        if self._acceptance is not None:  # 14.2: who asks for more has seen the last one
            self._acceptance.stop()
        self._acceptance = Acceptance(response, request.cseq.number, transaction, self._calls, self)
        if self._calls.is_closing:
            self.end(DialogEnd.SHUTDOWN)

    def acknowledged(self, ack: Request, flow: IFlow) -> bool:
        """Take *ack*; returns whether by it, the first one for a 2xx of this dialog, the session stands (13.3.1.4)."""
        acceptance = self._acceptance
        if acceptance is None or acceptance.number != ack.cseq.number:
            return False
        acceptance.stop(flow)
        self._acceptance = None
        self.is_proven = True
        self.dialog.flow = flow
        if self._end is not None:
            self._calls.send_bye(self, *self._end)
        return self._end is None

    def never_acknowledged(self, may_send: bool) -> None:
        """64*T1 have passed without an ACK: the session is ended, with BYE unless not *may_send* (13.3.1.4, 14.2)."""
        self._acceptance = None
        if may_send:
            self._calls.send_bye(self, *(self._end or (DialogEnd.ACK_TIMEOUT, ())))
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
            self._calls.send_bye(self, reason, headers)
        return waiter

    def bye_received(self, bye: Request) -> None:
        """The peer has ended the session by *bye*: what else of it is not answered yet gets 487 (15.1.2)."""
        pending, self._pending = self._pending, {}
        pending.pop(bye, None)
        self.terminate(DialogEnd.BYE_RECEIVED)
        for request in pending.values():
            self._calls.server.refuse_pending(request.transaction)

    def terminate(self, reason: DialogEnd | None) -> None:
        """The dialog is over: no INVITE and no 2xx waits in it any longer, and requests within it get 481 (15.1.2).

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
            self._limit = None
        invitation, self.invitation = self.invitation, None
        self._calls.forget(self)
        if invitation is not None:
            self._calls.server.refuse_pending(invitation)
        if was_confirmed and reason is not None:
            call(self._calls.hooks.run, self._calls.server.dialog_ended, dialog, reason, failed=self._calls.hook_failed)
        if not self._calls.is_ending(self):
            self.ended()

    def ended(self) -> None:
        """Nothing is left to be done: tell who waits for that.

        The dialog may be kept for long, and the session not with it: the memory of a call is then free without a look
        at all objects that there are, for which everybody would have to wait.
        """
        self.dialog.session_ended()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)


class _CallTime(Timed):
    """Ends a call that lasts too long."""

    __slots__ = ("_session",)

    def __init__(self, session: Session, calls: Sessions) -> None:
        super().__init__()
        self._session = session
        calls.queue(calls.server.max_call_time).append(self)

    def timed_out(self) -> None:
        self._session.end(DialogEnd.CALL_TIME)


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
        self.randint = randint
        self._sessions: dict[tuple[str, str, str | None], Session] = {}
        self._ending: set[Session] = set()  # those whose BYE waits for its answer
        self._queues: dict[float, TimerQueue[Timed]] = {}
        self._sources: Sources | None = None
        self._idle: list[Deferred[None]] = []
        self.hooks = HooksAtWork(server, self.check_idle)
        self._counters = {
            "dialogs_refused": 0,
            "acceptances_dropped": 0,
            "ack_timeouts": 0,
            "byes_sent": 0,
            "byes_failed": 0,
        }

    @property
    def counters(self) -> Mapping[str, int]:
        """What there is now, and what the bounds did.

        How many ``dialogs`` there are, INVITEs that may make one yet (``reserved``), 2xx that wait for their ACK
        (``unacknowledged``), and ``hooks`` at work that were told of a call; how many INVITEs were refused for too many
        dialogs, 2xx dropped because they were not the first, 2xx never acknowledged, BYEs sent, and of these failed.
        """
        now = {"dialogs": len(self._sessions), "reserved": self.reserved, "unacknowledged": self.unacknowledged}
        now["hooks"] = len(self.hooks)
        return {**now, **self._counters}

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

    def is_in_call(self, request: Request) -> bool:
        """Whether *request* is in a dialog whose 2xx was acknowledged, so that the peer is there."""
        session = self._sessions.get((request.call_id, request.to.tag or "", request.from_.tag))
        return session is not None and session.is_proven

    def session_of(self, dialog: Dialog) -> Session | None:
        """Return the session of *dialog*, None once it is over."""
        return self._sessions.get(dialog.id)

    def check_room(self) -> None:
        """Raise `SIPError` if there are as many dialogs as there may be."""
        if len(self._sessions) + self.reserved >= self.server.max_dialogs:
            self._counters["dialogs_refused"] += 1
            raise SIPError(503, headers=[("Retry-After", "5")], rule="max_dialogs")

    def check_order(self, request: Request, dialog: Dialog, flow: IFlow) -> None:
        """Raise `SIPError` unless *request*, which came on *flow*, is in order in *dialog*, which there is (12.2.2)."""
        session = self.session_of(dialog)
        if session is None:  # it came to its end while the request was authenticated
            raise no_dialog(request)
        session.take(request, flow)

    def pends(self, request: Request, transaction: IServerTransaction) -> None:
        """*request*, of *transaction*, is not answered yet: it gets 487 if the peer ends its dialog first (15.1.2)."""
        session = self.session_of(transaction.dialog)
        if session is not None:
            session.pends(request, transaction)

    def pends_no_longer(self, request: Request, dialog: Dialog) -> None:
        """*request*, which is in *dialog*, is answered, or its handler has returned."""
        session = self.session_of(dialog)
        if session is not None:
            session.pends_no_longer(request)

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

    def bye_received(self, bye: Request, dialog: Dialog) -> None:
        """The peer ends *dialog* by *bye* (15.1.2)."""
        session = self.session_of(dialog)
        if session is not None:
            session.bye_received(bye)

    # The end

    def send_bye(self, session: Session, reason: DialogEnd, headers: Iterable[tuple[str, str]]) -> None:
        """End *session* by BYE: it is over as that is handed over (15.1.1), and ending until that is answered."""
        dialog, sender = session.dialog, self.sender
        if sender is None:
            session.terminate(reason)
            return
        self._ending.add(session)
        session.terminate(reason)
        self._counters["byes_sent"] += 1
        try:
            request, next_hop = dialog.next_request("BYE", headers)
            sent = sender.send_request(request, next_hop, dialog.flow, session.is_proven)
            pending = cast("Deferred[Response]", sent)
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
        """End every call by BYE; fires when none is left, and no hook is at work that was told of one. Those that are
        early become none, or are ended later.

        To cancel it is to forget, without a BYE, what calls there still are, and to cancel hooks.
        """
        self.is_closing = True
        idle: Deferred[None] = Deferred(self._forget_all)
        self._idle.append(idle)
        for session in list(self._sessions.values()):
            if session.dialog.state is DialogState.CONFIRMED:
                session.end(DialogEnd.SHUTDOWN)
        self.check_idle()
        return idle

    def check_idle(self) -> None:
        """Tell who waits for the end of all calls, if it has come."""
        if self._idle and not (self._sessions or self._ending or self.reserved or self.hooks):
            self.is_closing = False
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)

    def _forget_all(self, idle: Deferred[None]) -> None:
        self._idle.remove(idle)
        for session in [*self._sessions.values(), *self._ending]:
            self._ending.discard(session)
            session.terminate(DialogEnd.SHUTDOWN)
        self.hooks.cancel()
        self.is_closing = False

    def hook_failed(self, failure: Failure) -> None:
        """Log what `dialog_ended` raised, whose server that was."""
        _log.failure("{server}.dialog_ended failed", failure, server=type(self.server).__qualname__)


def no_dialog(request: Request) -> SIPError:
    """Return the refusal of *request*, whose dialog there is not, or not any more (12.2.2, 15.1.2)."""
    return SIPError(481, rule="15.1.2-2" if request.method == "BYE" else "12.2.2-4")
