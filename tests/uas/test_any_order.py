"""Whatever a caller, a handler, the network and the operator do, in whatever order: is nothing left of a call?"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent
from zope.interface import implementer

from tests.uas.caller import Caller, Phone
from twisted_sipuas import SIPError
from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import IAuthenticator
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.uas.dialog import DialogState

STATUSES = (100, 180, 183, 200, 202, 302, 404, 486)


class Undecided(Phone):
    """Its handlers do as the next of *plans* says: a status each, and what they do before it.

    What they wait for is in `waiting`; `ended` has the dialogs that came to their end.
    """

    def __init__(self, plans: Any, **options: Any) -> None:
        super().__init__(**options)
        self.plans = iter(plans)
        self.waiting: list[Any] = []
        self.ended: list[Any] = []

    def wait(self) -> Any:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def handle(self, request: Request, transaction: Any) -> Any:
        if request.method == "BYE":
            return super().handle(request, transaction)
        how, first, status = next(self.plans, ("plain", None, 200))
        dialog = transaction.dialog
        if how == "deferred":
            return self.wait().addCallback(lambda _: request.response(status if status >= 200 else 200))
        if how == "async":
            return self.answer_later(request, transaction, first, status)
        if first is not None:
            transaction.respond(request.response(first))
        if how == "ends" and dialog is not None and dialog.state is DialogState.CONFIRMED:
            dialog.end()
        if transaction.request is None:
            return None
        if status >= 300:
            raise SIPError(status)
        return request.response(max(status, 200))

    async def answer_later(self, request: Request, transaction: Any, first: Any, status: int) -> Any:
        try:
            await self.wait()
            if first is not None:
                transaction.respond(request.response(first))
            if status == 183 and transaction.dialog is not None and transaction.dialog.state is DialogState.CONFIRMED:
                transaction.dialog.end()
            if status in (100, 404):
                await self.wait()
        finally:
            if status == 302:
                await self.wait()
        return None if transaction.request is None else request.response(max(status, 200))

    def dialog_ended(self, dialog: Any, reason: Any) -> None:
        assert dialog.state is DialogState.TERMINATED
        assert dialog not in self.ended
        self.ended.append(dialog)


@implementer(IAuthenticator)
class Doorkeeper:
    """Lets in at once, or when one of `waiting` fires, while it `is_slow`."""

    def __init__(self) -> None:
        self.is_slow = False
        self.waiting: list[Any] = []

    def authenticate(self, request: Request, transaction: Any) -> Any:
        if not self.is_slow:
            return "alice"
        self.waiting.append(Deferred())
        return self.waiting[-1]


PLANS = st.lists(
    st.tuples(
        st.sampled_from(["plain", "ends", "deferred", "async"]),
        st.sampled_from([None, *STATUSES]),
        st.sampled_from(STATUSES),
    ),
    min_size=5,
    max_size=20,
)
SEND = st.tuples(
    st.just("send"), st.sampled_from(["INVITE", "INVITE", "ACK", "ACK", "BYE", "CANCEL", "INFO", "OPTIONS"])
)
GO_ON = st.tuples(st.just("go on"), st.integers(0, 3), st.sampled_from([True, True, False]))
LET_IN = st.tuples(st.just("let in"), st.integers(0, 3), st.sampled_from([True, True, False]))
EVENTS = st.lists(
    st.one_of(
        *(SEND, SEND, SEND, GO_ON, GO_ON, LET_IN, LET_IN),
        st.tuples(st.just("call anew")),
        st.tuples(st.just("be slow"), st.booleans()),
        st.tuples(st.just("fail"), st.sampled_from([True, False, False])),
        st.tuples(st.just("answer BYE"), st.booleans()),
        st.tuples(st.just("end")),
        st.tuples(st.just("step"), st.sampled_from([0.5, 0.5, 4.0, 35.0])),
    ),
    min_size=10,
    max_size=50,
)


class Play:
    """Does what the events say; each method is one of them."""

    def __init__(self, plans: Any, transport: Any, max_dialogs: Any) -> None:
        self.doorkeeper = Doorkeeper()
        self.server = Undecided(plans, authenticator=self.doorkeeper)
        self.server.max_dialogs = max_dialogs
        self.caller = Caller(self.server, transport)
        self.caller.service.startService()
        self.calls = 0
        self.stopped: Deferred[Any] | None = None
        self.call_anew()

    def call_anew(self) -> None:
        self.calls += 1
        self.caller.to = None
        self.caller.invite(call_id=str(self.calls))

    def send(self, method: str) -> None:
        caller = self.caller
        caller.hear()
        fields: dict[str, Any] = {"call_id": str(self.calls)}
        if method == "ACK":
            fields["cseq"] = caller.invite_number
        elif method == "CANCEL":
            fields.update(branch=f"z9hG4bK{caller.invite_number}", cseq=caller.invite_number, to=None)
        caller.send(method, **fields)
        if method == "INVITE":
            caller.invite_number = caller.number

    def go_on(self, which: Any, succeeds: Any) -> None:
        self.fire(self.server.waiting, which, succeeds)

    def let_in(self, which: Any, succeeds: Any) -> None:
        self.fire(self.doorkeeper.waiting, which, succeeds)

    def fire(self, waiting: Any, which: Any, succeeds: Any) -> None:
        if waiting:
            deferred = waiting.pop(which % len(waiting))
            if not deferred.called:
                deferred.callback("alice") if succeeds else deferred.errback(SIPError(403))

    def be_slow(self, is_slow: bool) -> None:
        self.doorkeeper.is_slow = is_slow

    def fail(self, fails: Any) -> None:
        self.caller.flow.failure = "no route" if fails else None

    def answer_bye(self, is_answered: bool) -> None:
        pending = self.caller.sender.pending
        if pending:
            deferred = pending.pop()
            if not deferred.called:
                deferred.callback(None) if is_answered else deferred.errback(TransportError("no response"))

    def end(self) -> None:
        assert self.server._calls is not None
        for session in list(self.server._calls._sessions.values()):
            if session.dialog.state is DialogState.CONFIRMED:
                session.dialog.end()

    def step(self, seconds: float) -> None:
        self.caller.step(seconds)

    def stop(self) -> None:
        if self.stopped is None:
            self.stopped = self.caller.service.stopService()

    def run_out(self) -> None:
        """Let everything come to its end, and stop."""
        self.fail(False)
        self.stop()
        self.step(5)
        while self.caller.sender.pending:
            self.answer_bye(True)
        self.step(self.server.invite_timeout + self.server.handler_timeout + 32)


@given(
    events=EVENTS,
    plans=PLANS,
    transport=st.sampled_from(["UDP", "TCP"]),
    max_dialogs=st.integers(1, 5),
    stopped_after=st.integers(0, 100),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_any_order(
    logged_failures: list[LogEvent], events: Any, plans: Any, transport: Any, max_dialogs: Any, stopped_after: Any
) -> None:
    """In any order of what may happen the bounds hold, each dialog ends once, and nothing is left, nor in the log."""
    play = Play(plans, transport, max_dialogs)
    for number, (name, *arguments) in enumerate(events):
        if number == stopped_after:
            play.stop()
        getattr(play, name.replace(" ", "_").lower())(*arguments)
        counters = play.server.counters
        assert counters["reserved"] >= 0
        assert counters["dialogs"] + counters["reserved"] <= max_dialogs
    play.run_out()
    assert play.caller.is_over, play.server.counters
    assert play.stopped is not None
    assert play.stopped.called
    assert play.caller.clock.getDelayedCalls() == []
    counters = play.caller.service.counters
    assert (counters["transactions_owed"], counters["transactions_waiting"]) == (0, 0)
    assert logged_failures == []
