"""Whatever location services, callers and the network do, in whatever order: is each call answered once, and over?"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface import implementer

from twisted_sipuas import ILocationService, Redirection, RedirectServer, SIPError, SIPService, UnavailableError
from twisted_sipuas.location import guarded
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingFlow, make_request


class Down(Exception):
    """What a service fails with that has failed."""


ANSWERS = {
    "found": lambda: Redirection(["sip:b@x"]),
    "long": lambda: Redirection([f"sip:{'b' * 70_000}@x"]),
    "unknown": lambda: None,
    "wrong": lambda: ["sip:b@x"],
    "refused": lambda: SIPError(486),
    "unavailable": lambda: UnavailableError(),
    "down": lambda: Down(),
    "given up": lambda: CancelledError(),
    "given up by asyncio": lambda: asyncio.CancelledError(),
}
CANCELLATIONS: dict[str, Any] = {
    "no canceller": None,
    "silent": lambda pending: None,
    "finds": lambda pending: pending.callback(Redirection(["sip:late@x"])),
    "knows nothing": lambda pending: pending.callback(None),
    "asyncio": lambda pending: pending.errback(asyncio.CancelledError()),
    "endpoint": lambda pending: pending.errback(ConnectingCancelledError(None)),
    "refuses": lambda pending: pending.errback(SIPError(603)),
    "fails": lambda pending: pending.errback(Down()),
    "raises": lambda pending: 1 / 0,
}
EXPECTED = (Down, TypeError, ZeroDivisionError, CancelledError, asyncio.CancelledError)
"""What may be in the log: what a service does that it should not."""


@implementer(ILocationService)
class Fickle:
    """Answers each look-up as the next of *plans* says; `waiting` are those that wait for `fire`."""

    description = "fickle"

    def __init__(self, plans: Any) -> None:
        self.plans = plans
        self.waiting: list[Any] = []
        self.asked = 0

    def lookup(self, request_uri: Any, request: Request) -> Any:
        how, answer, cancellation = self.plans[self.asked % len(self.plans)]
        self.asked += 1
        answer = ANSWERS[answer]()
        if how == "at once":
            if isinstance(answer, BaseException):
                raise answer
            return answer
        pending: Deferred[Any] = Deferred(CANCELLATIONS[cancellation])
        self.waiting.append((pending, answer))
        return pending if how == "deferred" else self.coroutine(pending, how == "stubborn")

    async def coroutine(self, pending: Any, is_stubborn: bool) -> Any:
        try:
            return await pending
        except (Exception, asyncio.CancelledError):
            if is_stubborn:
                await Deferred()
            raise

    def fire(self, which: Any) -> None:
        if self.waiting:
            pending, answer = self.waiting.pop(which % len(self.waiting))
            if not pending.called:
                pending.errback(answer) if isinstance(answer, BaseException) else pending.callback(answer)


class Play:
    """A redirect server over *services*, and what calls came to it; each method is an event."""

    def __init__(self, services: Any, is_guarded: bool, asks_next: Any, cache: Any) -> None:
        self.clock = Clock()
        self.services = services
        self.locations = [guarded(each, self.clock, cache=cache) if is_guarded else each for each in services]
        self.server = RedirectServer(self.locations, asks_next_on_failure=asks_next)
        self.service = SIPService(self.clock, self.server)
        self.calls: list[Any] = []
        self.begun: list[Any] = []

    def send(self, number: int, method: str | None = None) -> None:
        call_method, flow = self.calls[number]
        request = make_request(
            method or call_method,
            f"sip:{number % 3}@example.com",
            branch=f"z9hG4bK{number}",
            call_id=str(number),
            transport=flow.transport,
        )
        self.service.message_received(request, flow)

    def call(self, method: str, transport: Any) -> None:
        self.calls.append((method, RecordingFlow(transport)))
        self.begun.append(self.clock.seconds())
        self.send(len(self.calls) - 1)

    def resend(self, which: Any) -> None:
        """Send a request again, over UDP and while its transaction knows it."""
        if self.calls:
            number = which % len(self.calls)
            if not self.calls[number][1].is_reliable and self.clock.seconds() < self.begun[number] + 30:
                self.send(number)

    def cancel(self, which: Any) -> None:
        if self.calls:
            number = which % len(self.calls)
            self.end(lambda: self.send(number, "CANCEL"))

    def close(self, which: Any) -> None:
        if self.calls:
            flow = self.calls[which % len(self.calls)][1]
            if flow.is_reliable:
                self.end(flow.close)

    def end(self, how: Any) -> None:
        """End a call; no service is asked any more for it."""
        asked = [service.asked for service in self.services]
        how()
        assert [service.asked for service in self.services] == asked

    def fire(self, service: Any, which: Any) -> None:
        self.services[service % len(self.services)].fire(which)

    def step(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def finals(self, number: int) -> Any:
        """Return the different final responses to a call; one may be sent again and again."""
        method, flow = self.calls[number]
        return {
            data
            for (data, _), response in zip(flow.sent, flow.responses, strict=True)
            if response.status >= 200 and response.headers.get("CSeq").endswith(method)
        }


PLAN = st.tuples(
    st.sampled_from(["at once", "deferred", "deferred", "coroutine", "stubborn"]),
    st.sampled_from(list(ANSWERS)),
    st.sampled_from(list(CANCELLATIONS)),
)
WHICH = st.integers(0, 5)
CALL = st.tuples(st.just("call"), st.sampled_from(["INVITE", "INVITE", "MESSAGE"]), st.sampled_from(["UDP", "TCP"]))
FIRE = st.tuples(st.just("fire"), WHICH, WHICH)
EVENTS = st.lists(
    st.one_of(
        *(CALL, CALL, FIRE, FIRE),
        st.tuples(st.sampled_from(["resend", "cancel", "close"]), WHICH),
        st.tuples(st.just("step"), st.sampled_from([0.3, 0.3, 1.1, 2.1])),
    ),
    min_size=5,
    max_size=40,
)


@given(
    events=EVENTS,
    plans=st.lists(st.lists(PLAN, min_size=1, max_size=8), min_size=1, max_size=3),
    is_guarded=st.booleans(),
    asks_next=st.booleans(),
    cache=st.sampled_from([0, 0, 5]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_order(
    logged_failures: list[LogEvent], events: Any, plans: Any, is_guarded: bool, asks_next: Any, cache: Any
) -> None:
    """In any order of what may happen each call gets one final response, and no timer, waiter or trial is left."""
    play = Play([Fickle(each) for each in plans], is_guarded, asks_next, cache)
    for name, *arguments in events:
        getattr(play, name)(*arguments)
    for _ in range(8):
        play.step(1)
    assert [len(play.finals(number)) for number in range(len(play.calls))] == [1] * len(play.calls)
    assert play.server.counters["handlers"] == 0
    assert [flow for _, flow in play.calls if flow._closing] == []
    assert [each for each in play.locations if is_guarded and each._breaker._is_on_trial] == []
    play.step(40)
    assert play.clock.getDelayedCalls() == []
    assert play.service.counters["transactions_owed"] == 0
    kinds = [event["log_failure"].type for event in logged_failures]
    logged_failures.clear()
    assert [kind for kind in kinds if not issubclass(kind, EXPECTED)] == []
