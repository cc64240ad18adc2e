"""Is a location service that is slow or down asked as it should be: with a deadline, a cache, a rest after failures?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted_sipuas.errors import SIPError, UnavailableError
from twisted_sipuas.interfaces import IBindingStore, ILocationService
from twisted_sipuas.location import (
    Binding,
    CircuitBreaker,
    GuardedBindingStore,
    GuardedLocationService,
    MemoryBindingStore,
    Redirection,
    Target,
    guarded,
    location_service,
)
from twisted_sipuas.location.answers import Answers
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing import BINDING_STORE_CHECKS, BindingStoreCase, make_request

BOB = parse_uri("sip:bob@example.com")
ALICE = parse_uri("sip:alice@example.com")
FOUND = Redirection(["sip:b@x"])


@implementer(ILocationService)
class Service_(Service):
    """Answers with `answer`: a value, an exception to raise, or "wait" for a `Deferred`, the last one in `waiting`."""

    description = "a service"

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked = 0
        self.waiting: list[Any] = []
        self.heard: list[Any] = []
        self.counters = {"own": 7}
        self.canceller: Any = None

    def lookup(self, request_uri: Any, request: Any) -> Any:
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.answer == "wait":
            self.waiting.append(Deferred(self.canceller or (lambda _: self.heard.append("cancelled"))))
            return self.waiting[-1]
        return self.answer

    def privilegedStartService(self) -> None:
        self.heard.append("privileged")

    def startService(self) -> None:
        self.heard.append("start")

    def stopService(self) -> None:
        self.heard.append("stop")


class Case:
    """A guarded service, and what its look-ups come to: a value, or the exception."""

    def __init__(self, answer: Any = None, **options: Any) -> None:
        self.clock = Clock()
        self.service = Service_(answer)
        self.guarded = GuardedLocationService(self.service, self.clock, **options)

    def ask(self, uri: Any = BOB) -> Any:
        try:
            found = self.guarded.lookup(uri, make_request())
        except Exception as error:
            return error
        if not isinstance(found, Deferred):
            return found
        results: list[Any] = []
        found.addBoth(results.append)
        self.pending = found
        return results

    def ask_and_wait(self, result: Any, uri: Any = BOB) -> Any:
        """Ask, let the service answer with *result*, and return what came of it."""
        results = self.ask(uri)
        waiting = self.service.waiting[-1]
        waiting.errback(result) if isinstance(result, BaseException) else waiting.callback(result)
        return getattr(results[0], "value", results[0])


def test_answers_pass() -> None:
    """What the service answers is passed on as it is, at once where it is there at once."""
    case = Case(FOUND)
    assert case.ask() is FOUND
    case.service.answer = None
    assert case.ask() is None
    case.service.answer = "wait"
    assert case.ask_and_wait(FOUND) is FOUND
    assert case.guarded.description == "a service"
    assert case.guarded.counters["own"] == 7


def test_deadline() -> None:
    """A look-up that takes too long is cancelled, and fails with 504."""
    case = Case("wait", lookup_timeout=1.5)
    results = case.ask()
    case.clock.pump([0.5] * 2)
    assert results == []
    case.clock.advance(0.5)
    assert isinstance(results[0].value, UnavailableError)
    assert (results[0].value.status, results[0].value.rule) == (504, "lookup_timeout")
    assert case.service.heard == ["cancelled"]
    assert (case.guarded.counters["timeouts"], case.guarded.counters["failures"]) == (1, 1)
    assert case.clock.getDelayedCalls() == []


def test_answer_leaves_no_timer() -> None:
    """Once the answer is there nothing is left behind."""
    case = Case("wait")
    case.ask_and_wait(FOUND)
    assert case.clock.getDelayedCalls() == []


def test_cancelled_look_up_is_no_failure() -> None:
    """A look-up that nobody waits for any longer is cancelled, and says nothing about the service."""
    case = Case("wait")
    for _ in range(6):
        case.ask()
        case.pending.cancel()
    assert case.service.heard == ["cancelled"] * 6
    assert case.guarded.counters["failures"] == 0
    assert case.ask_and_wait(FOUND) is FOUND


def test_callers_who_hang_up_are_no_failures() -> None:
    """Nor do they have the service left alone, by whatever exception it says that it was cancelled."""
    case = Case("wait")
    case.service.canceller = lambda pending: pending.errback(ConnectingCancelledError(None))
    for _ in range(6):
        case.ask()
        case.pending.cancel()
    assert case.guarded.counters["failures"] == 0
    assert case.ask_and_wait(FOUND) is FOUND


@pytest.mark.parametrize("failure", [UnavailableError(), RuntimeError("down"), OSError("refused")])
def test_rest_after_failures(failure: Any) -> None:
    """After five failures in a row the service is left alone, each time for longer, until a try succeeds."""
    case = Case("wait")
    for _ in range(5):
        assert case.ask_and_wait(failure) is failure
    refusal = case.ask()
    assert isinstance(refusal, UnavailableError)
    assert (refusal.status, refusal.headers) == (503, (("Retry-After", "5"),))
    assert case.service.asked == 5
    case.clock.advance(1)
    assert case.ask() == [], "one try"
    assert isinstance(case.ask(), UnavailableError), "and no second one meanwhile"
    case.service.waiting[-1].errback(failure)
    case.clock.advance(1.9)
    assert isinstance(case.ask(), UnavailableError)
    case.clock.advance(0.1)
    assert case.ask_and_wait(FOUND) is FOUND
    assert case.ask_and_wait(None) is None
    assert case.guarded.counters["not_asked"] == 3


def test_no_rest_for_what_knows_that_it_is_down() -> None:
    """A service that says at once that it is down is asked again each time, and so is used as soon as it is back."""
    case = Case(UnavailableError())
    for _ in range(10):
        assert case.ask() is case.service.answer
    assert case.service.asked == case.guarded.counters["failures"] == 10
    case.service.answer = FOUND
    assert case.ask() is FOUND


def test_known_to_be_down_after_a_rest() -> None:
    """Nor does what it says at once after a rest make the rest longer."""
    case = Case("wait")
    for _ in range(5):
        case.ask_and_wait(UnavailableError())
    case.clock.advance(1)
    case.service.answer = UnavailableError()
    assert case.ask() is case.ask() is case.service.answer
    case.service.answer = FOUND
    assert case.ask() is FOUND


def test_rest_is_bounded() -> None:
    """However long a service is down, it is tried every thirty seconds."""
    clock = Clock()
    breaker = CircuitBreaker(clock, max_failures=1)
    breaker.failed(breaker.admit())
    rests: list[Any] = []
    while len(rests) < 7:
        began = clock.seconds()
        while not (number := breaker.admit()):
            clock.advance(1)
        rests.append(clock.seconds() - began)
        breaker.failed(number)
    assert rests == [1, 2, 4, 8, 16, 30, 30]


def test_trial_that_is_given_up() -> None:
    """A try that is given up is no verdict, and the next one may be made."""
    clock = Clock()
    breaker = CircuitBreaker(clock, max_failures=1)
    breaker.failed(breaker.admit())
    clock.advance(1)
    trial = breaker.admit()
    assert trial
    assert not breaker.admit()
    breaker.given_up(trial)
    assert breaker.admit()


@pytest.mark.parametrize("told", ["succeeded", "failed", "given_up"])
def test_stragglers(told: str) -> None:
    """What was begun before the rest has no say in it, and is not taken for the trial that comes after."""
    clock = Clock()
    breaker = CircuitBreaker(clock, max_failures=1)
    straggler = breaker.admit()
    breaker.failed(breaker.admit())
    getattr(breaker, told)(straggler)
    assert breaker.is_open
    assert not breaker.admit()
    clock.advance(1)
    trial = breaker.admit()
    getattr(breaker, told)(straggler)
    assert breaker.is_open
    assert not breaker.admit(), "the trial goes on"
    breaker.succeeded(trial)
    getattr(breaker, told)(straggler)
    assert not breaker.is_open


@pytest.mark.parametrize("error", [asyncio.CancelledError, lambda: ConnectingCancelledError(None)])
def test_trial_however_it_is_cancelled(error: Any) -> None:
    """A trial that is cancelled is over, by whatever exception it says so; and so is one that gives up by itself."""
    case = Case("wait")
    for _ in range(5):
        case.ask_and_wait(RuntimeError("down"))
    case.clock.advance(1)
    case.service.canceller = lambda pending: pending.errback(error())
    case.ask()
    case.pending.cancel()
    assert case.guarded.counters["failures"] == 5
    case.service.canceller = None
    assert case.ask() == []
    case.service.waiting[-1].errback(error())
    case.clock.advance(2)
    assert case.ask_and_wait(FOUND) is FOUND


def test_trial_that_raises_what_is_no_exception() -> None:
    """A trial is over, too, by what Python derives from BaseException alone."""
    case = Case("wait")
    for _ in range(5):
        case.ask_and_wait(RuntimeError("down"))
    case.clock.advance(1)
    case.service.answer = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        case.ask()
    case.clock.advance(2)
    case.service.answer = FOUND
    assert case.ask() is FOUND


def test_refusals_are_answers() -> None:
    """A refusal is a decision about the request, and no failure of the service."""
    case = Case(SIPError(603))
    for _ in range(10):
        assert case.ask().status == 603
    assert case.guarded.counters["failures"] == 0


def test_interleaved_success_resets() -> None:
    """Failures count in a row only."""
    case = Case()
    for _ in range(4):
        for _ in range(4):
            case.service.answer = RuntimeError("down")
            case.ask()
        case.service.answer = FOUND
        assert case.ask() is FOUND


@pytest.mark.parametrize("kind", ["at once", "later"])
@pytest.mark.parametrize("answer", [FOUND, None, SIPError(603, "No", [("X-A", "b")], "their rule")])
def test_cache(kind: str, answer: Redirection | SIPError | None) -> None:
    """An answer is given again for as long as it may be kept, be it nothing or a refusal, for that Request-URI only."""
    case = Case(answer if kind == "at once" else "wait", cache=10)

    def told(result: Redirection | SIPError | None) -> Any:
        return (result.status, result.reason, result.headers, result.rule) if isinstance(result, SIPError) else result

    first = case.ask() if kind == "at once" else case.ask_and_wait(answer)
    assert told(first) == told(answer)
    case.clock.advance(9.9)
    again = case.ask()
    assert told(again) == told(answer)
    assert answer is None or again is not first or again is FOUND, "a refusal is raised anew"
    assert case.service.asked == 1
    case.ask(ALICE)
    assert case.service.asked == 2
    case.clock.advance(0.1)
    case.ask()
    assert case.service.asked == 3
    assert case.guarded.counters["cache_hits"] == 1


def test_failures_are_not_cached() -> None:
    """What is kept is an answer; that there was none is not."""
    case = Case(UnavailableError(), cache=10)
    case.ask()
    case.service.answer = FOUND
    assert case.ask() is FOUND


def test_what_is_no_answer_is_not_cached() -> None:
    """What is neither a Redirection nor nothing is for who asks to complain of, and not kept."""
    case = Case(["sip:b@x"], cache=10)
    assert case.ask() == ["sip:b@x"]
    assert case.guarded.counters["cached"] == 0


def test_cached_expires_runs_down() -> None:
    """What is kept tells how long it still lasts; once nothing does, the service is asked again (8.3)."""
    targets = [Target("sip:a@x", q=0.5, expires=5), Target("sip:b@x", expires=9, display_name="B"), Target("sip:c@x")]
    case = Case(Redirection(targets, 301, [("X", "y")]), cache=60)
    case.ask()
    case.clock.advance(4)
    found = case.ask()
    assert [str(target) for target in found.targets] == [
        "<sip:a@x>;q=0.5;expires=1", '"B" <sip:b@x>;expires=5', "<sip:c@x>",
    ]  # fmt: skip
    assert (found.status, found.headers) == (301, (("X", "y"),))
    case.clock.advance(1)
    assert [str(target.uri) for target in case.ask().targets] == ["sip:b@x", "sip:c@x"]
    case = Case(Redirection(targets[:1]), cache=60)
    case.ask()
    case.clock.advance(5)
    case.ask()
    assert case.service.asked == 2


def test_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many Request-URIs are asked for, no more answers are kept than may be; those stay that are asked for."""
    monkeypatch.setattr(Answers, "max_kept", 3)
    case = Case(FOUND, cache=60)
    for user in "abcadae":
        case.ask(parse_uri(f"sip:{user}@x"))
    assert case.guarded.counters["cached"] == len(case.guarded._answers._texts) == 3
    assert (case.service.asked, case.guarded.counters["cache_hits"]) == (5, 2)


@pytest.mark.parametrize(
    ("user", "answer", "kept"),
    [
        ("a" * 1900, None, 1),
        ("a" * 2000, None, 0),
        ("a" * 1000, Redirection([f"sip:{'b' * 1000}@x"]), 0),
        ("a", Redirection(["sip:b@x"], headers=[("X", "y" * 2000)]), 0),
        ("a", SIPError(486, headers=[("X", "y" * 2000)]), 0),
    ],
)
def test_what_is_long_is_not_kept(user: str, answer: Redirection | SIPError | None, kept: int) -> None:
    """What is kept is bounded in size, whatever callers ask for and services answer."""
    case = Case(answer, cache=60)
    case.ask(parse_uri(f"sip:{user}@x"))
    assert case.guarded.counters["cached"] == kept


@pytest.mark.parametrize("is_slow", [False, True])
def test_own_registration_is_seen(clock: Any, is_slow: bool) -> None:
    """A change of an address-of-record made by us counts at once, by whatever Request-URI it is asked for."""
    store: Any = guarded(Slow(clock) if is_slow else MemoryBindingStore(clock), clock, cache=60)
    uris = [parse_uri(text) for text in ("sip:bob@h", "sips:bob@h", "sip:%62ob@H;x=y", "sip:eve@h")]
    assert [store.lookup(uri, make_request()) for uri in uris] == [None] * 4
    assert store.counters["cached"] == 4
    done = store.replace("sip:bob@h", 0, [Binding("sip:b@x", clock.seconds() + 60, "1", 1)])
    if is_slow:
        assert store.counters["cached"] == 4, "what is not committed is not there"
        store.service.waiting.callback(None)
        done = clock.result(done)
    assert done is True
    assert [store.lookup(uri, make_request()) is None for uri in uris] == [False, False, False, True]


class Slow(MemoryBindingStore):
    """A store that makes a change when `waiting` fires."""

    def replace(self, address_of_record: Any, version: Any, bindings: Any) -> Any:
        self.waiting: Deferred[Any] = Deferred()
        return self.waiting.addCallback(lambda _: super(Slow, self).replace(address_of_record, version, bindings))


def test_started_and_stopped_with_it() -> None:
    """The service is started and stopped with what guards it; one that is no service needs neither."""
    case = Case(FOUND, cache=60)
    case.ask()
    case.guarded.privilegedStartService()
    case.guarded.startService()
    case.guarded.stopService()
    assert case.service.heard == ["privileged", "start", "stop"]
    assert case.guarded.counters["cached"] == 0
    verifyObject(IService, case.guarded)
    plain = implementer(ILocationService)(type("Plain", (), {"description": "plain", "lookup": None}))()
    plain_guarded = guarded(plain, Clock())
    plain_guarded.startService()
    plain_guarded.stopService()
    assert not IBindingStore.providedBy(plain_guarded)


@pytest.mark.parametrize("check", BINDING_STORE_CHECKS)
def test_guarded_store(clock: Any, check: Callable[..., Any]) -> None:
    """A store that is guarded is one still."""
    store: Any = guarded(MemoryBindingStore(clock), clock)
    assert isinstance(store, GuardedBindingStore)
    clock.result(Deferred.fromCoroutine(check(BindingStoreCase(store, clock, clock.advance))))


class Stuck(MemoryBindingStore):
    """A store that never answers."""

    def bindings(self, address_of_record: Any) -> Any:
        return Deferred()

    def replace(self, address_of_record: Any, version: Any, bindings: Any) -> Any:
        return Deferred()


def test_store_deadline() -> None:
    """Reading bindings has the deadline; changing them has none, for nobody could say that it was not done."""
    clock = Clock()
    store: Any = guarded(Stuck(clock), clock, lookup_timeout=1)
    reading: list[Any] = []
    writing: list[Any] = []
    store.bindings("sip:b@h").addErrback(lambda failure: reading.append(failure.value.status))
    store.replace("sip:b@h", 0, ()).addBoth(writing.append)
    clock.pump([0.5] * 200)
    assert reading == [504]
    assert writing == []


def test_from_text(clock: Any) -> None:
    """The options of every kind are a deadline and a cache; a kind that answers at once is not guarded for nothing."""
    assert isinstance(location_service("memory:", clock), MemoryBindingStore)
    store = location_service("memory,timeout=0.5,cache=30:", clock)
    assert isinstance(store, GuardedBindingStore)
    assert (store.lookup_timeout, store.cache) == (0.5, 30)
    service: Any = location_service("memory,cache=30:", clock, lookup_timeout=7)
    assert service.lookup_timeout == 7
