"""What ends a handler that takes its time, and what becomes of one that goes on all the same?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogEvent, capturedLogs

from tests.uas.caller import Caller, Phone
from twisted_sipuas.syntax.message import Request


class Informed(Phone):
    """*inform* is what its handler of INFO does."""

    def __init__(self, inform: Any, **options: Any) -> None:
        super().__init__(**options)
        self.inform = inform

    def handle_INFO(self, request: Request, transaction: Any) -> Any:
        return self.inform(request, transaction)


def answers(caller: Any) -> Any:
    """Return the latest status sent for each request of *caller*, by its CSeq."""
    return {response.headers.get("CSeq"): response.status for response in caller.flow.responses}


def errors(events: Any) -> Any:
    return [event["log_format"].format(**event) for event in events if event["log_level"].name in ("error", "critical")]


def test_handler_that_runs_as_its_transaction_fails() -> None:
    """A handler cannot be cancelled while it runs: it is when its time is up, if it waits then (17.2.4)."""
    ringing: Deferred[Any] = Deferred()
    cancelled: list[Any] = []

    async def answer(request: Request, transaction: Any) -> None:
        await ringing
        caller.flow.failure = "no route"
        transaction.respond(request.response(180))
        await Deferred(cancelled.append)

    caller = Caller(Phone(answer)).send("INVITE")
    ringing.callback(None)
    assert (caller.server.counters["handlers"], cancelled) == (1, [])
    caller.step(caller.server.handler_timeout)
    assert (caller.server.counters["handlers"], len(cancelled)) == (0, 1)
    assert caller.clock.getDelayedCalls() == []


def test_handler_that_tidies_up() -> None:
    """A handler that was cancelled may wait for what it has to put in order, within `handler_timeout`."""
    tidied: Deferred[Any] = Deferred()
    told: list[Any] = []

    async def inform(request: Request, transaction: Any) -> None:
        try:
            await Deferred()
        except CancelledError:
            told.append(await tidied)

    caller = Caller(Informed(inform)).called().send("INFO").send("BYE")
    assert answers(caller) == {"1 INVITE": 200, "3 INFO": 487, "4 BYE": 200}
    assert caller.server.counters["handlers"] == 1
    tidied.callback("tidy")
    assert told == ["tidy"]
    assert caller.is_over
    assert caller.step(32).clock.getDelayedCalls() == []


def test_handler_that_will_not_be_cancelled() -> None:
    """One that goes on after it was cancelled twice is forgotten, and the log says whose it is."""
    kept: list[Any] = []

    async def inform(request: Request, transaction: Any) -> None:
        while True:
            try:
                kept.append(Deferred())
                await kept[-1]
            except CancelledError:
                pass

    caller = Caller(Informed(inform)).called().send("INFO").send("BYE")
    with capturedLogs() as events:
        caller.step(40)
    assert errors(events) == ["Informed.handle_INFO was cancelled twice and goes on; it is forgotten"]
    assert len(kept) == 3
    assert caller.is_over
    assert caller.clock.getDelayedCalls() == []
    kept[-1].errback(ZeroDivisionError())
    assert caller.step(1).is_over


@pytest.mark.parametrize("is_forced", [False, True])
def test_canceller_that_raises(is_forced: bool, logged_failures: list[LogEvent]) -> None:
    """A fault in the canceller of a handler's Deferred is logged once, and the call ends all the same (15.1.2)."""

    def canceller(deferred: Any) -> None:
        if is_forced:
            deferred.callback(None)
        raise RuntimeError("a fault of the handler's")

    caller = Caller(Informed(lambda request, transaction: Deferred(canceller))).called()
    dialog = caller.dialog
    caller.send("INFO").send("INFO").send("BYE")
    assert answers(caller) == {"1 INVITE": 200, "3 INFO": 487, "4 INFO": 487, "5 BYE": 200}
    assert caller.server.heard == ["ACK", "BYE received"]
    assert dialog.end().called
    assert [event["log_format"].format(**event) for event in logged_failures] == [
        "Informed.handle_INFO failed as it was cancelled"
    ] * 2
    assert caller.is_over
    logged_failures.clear()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("status", [180, 200, 486])
def test_response_of_a_handler_whose_dialog_is_over(transport: Any, status: int) -> None:
    """What a handler still answers as BYE had its request answered 487 is no fault of its own (15.1.2)."""

    async def inform(request: Request, transaction: Any) -> None:
        try:
            await Deferred()
        finally:
            transaction.respond(request.response(status))

    with capturedLogs() as events:
        caller = Caller(Informed(inform), transport=transport).called()
        caller.server.answer = inform
        caller.send("INFO").send("INVITE").send("BYE")
    assert answers(caller) == {"1 INVITE": 200, "3 INFO": 487, "4 INVITE": 487, "5 BYE": 200}
    assert errors(events) == []
    assert caller.is_over


@pytest.mark.parametrize("end", ["BYE", None])
def test_handler_that_has_answered(end: Any) -> None:
    """What a handler does behind its answer is its own: BYE leaves it alone, and its time ends it, uncounted."""
    cancelled: list[Any] = []

    async def answer(request: Request, transaction: Any) -> None:
        transaction.respond(request.response(200))
        await Deferred(cancelled.append)

    caller = Caller(Phone(answer)).called()
    if end is not None:
        caller.send(end)
        assert caller.server.heard == ["ACK", "BYE received"]
    assert (caller.server.counters["handlers"], cancelled) == (1, [])
    caller.step(caller.server.invite_timeout)
    assert (caller.server.counters["handlers"], len(cancelled)) == (0, 1)
    assert caller.server.counters["handler_timeouts"] == 0
