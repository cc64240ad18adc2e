"""Does user code get what it would get from Twisted, where a coroutine is begun without it, and a time-out is ours?"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from twisted_sipuas.deferreds import begun, bounded, waited_for
from twisted_sipuas.errors import UnavailableError


async def wait_for(deferred: Deferred[object]) -> object:
    return await deferred


def results_of(deferred: object) -> list[Any]:
    """Return the list that what *deferred* fires with is put into."""
    assert isinstance(deferred, Deferred)
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


def test_a_coroutine_that_need_not_wait() -> None:
    """What it returns is there at once, and is not waited for."""
    fired: Deferred[object] = Deferred()
    fired.callback(7)
    assert begun(wait_for(fired)) == 7
    assert begun(7) == 7
    assert waited_for(7) is None


def test_a_coroutine_that_waits_more_than_once() -> None:
    """It goes on with each result, and the `Deferred` fires with what it returns."""
    first: Deferred[object] = Deferred()
    second: Deferred[object] = Deferred()

    async def both() -> object:
        return await first, await second

    results = results_of(begun(both()))
    first.callback(1)
    assert results == []
    second.callback(2)
    assert results == [(1, 2)]


class CompiledCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine of a type of its own, as those of modules that Cython compiled have."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """See `Coroutine`."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """See `Coroutine`."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """See `Coroutine`."""
        self._coroutine.close()


@pytest.mark.parametrize("taken_by", [begun, waited_for])
def test_a_coroutine_of_another_type(taken_by: Any) -> None:
    """A coroutine is what can be driven as one, not what the interpreter makes: handlers may be compiled."""
    awaited: Deferred[object] = Deferred()
    results = results_of(taken_by(CompiledCoroutine(wait_for(awaited))))
    awaited.callback(7)
    assert results == [7]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_coroutine_that_raises(is_late: bool) -> None:
    """Its exception is a failure of the `Deferred`, whether it comes at once or later."""
    awaited: Deferred[object] = Deferred()
    if not is_late:
        awaited.errback(KeyError("a"))
    results = results_of(begun(wait_for(awaited)))
    if is_late:
        awaited.errback(KeyError("a"))
    assert results[0].check(KeyError)


def test_cancellation() -> None:
    """To cancel the `Deferred` is to cancel what the coroutine waits for, which it can clean up after."""
    steps = []

    async def cleaning_up() -> None:
        try:
            await Deferred()
        finally:
            steps.append("cleaned up")

    pending: Any = begun(cleaning_up())
    results = results_of(pending)
    pending.cancel()
    assert steps == ["cleaned up"]
    assert results[0].check(CancelledError)


def test_context() -> None:
    """What a coroutine sets in its context stays there for the rest of it, and nowhere else."""
    variable: ContextVar[int] = ContextVar("variable", default=0)
    awaited: Deferred[object] = Deferred()

    async def setting() -> int:
        variable.set(5)
        await awaited
        return variable.get()

    results = results_of(begun(setting()))
    assert variable.get() == 0
    awaited.callback(None)
    assert results == [5]
    assert variable.get() == 0


@pytest.mark.filterwarnings("error")
def test_a_coroutine_that_waits_for_ever() -> None:
    """One that nobody can go on with is collected in silence."""
    begun(wait_for(Deferred()))
    gc.collect()


CANCELLERS = {
    "none": None,
    "silent": lambda deferred: None,
    "result": lambda deferred: deferred.callback("too late"),
    "None": lambda deferred: deferred.callback(None),
    "asyncio": lambda deferred: deferred.errback(asyncio.CancelledError()),
    "endpoint": lambda deferred: deferred.errback(ConnectingCancelledError(None)),
    "time-out": lambda deferred: deferred.errback(TimeoutError()),
}


async def going_on(deferred: Deferred[object]) -> object:
    try:
        return await deferred
    except BaseException:
        return await Deferred()


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("canceller", CANCELLERS.values(), ids=CANCELLERS)
@pytest.mark.parametrize("ended_by", [TimeoutError, CancelledError])
def test_who_ended_it(canceller: Any, ended_by: Any, goes_on: Any) -> None:
    """What waiting ends with tells who ended it, however that which was waited for takes its cancellation."""
    clock = Clock()
    pending: Deferred[object] = Deferred(canceller)
    waiting = bounded(Deferred.fromCoroutine(going_on(pending)) if goes_on else pending, clock, 2)
    results = results_of(waiting)
    clock.advance(1.9)
    assert results == []
    clock.advance(0.1) if ended_by is TimeoutError else waiting.cancel()
    assert [type(result.value) for result in results] == [ended_by]
    assert pending.called
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("seconds", [None, 2])
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("result", [7, None, KeyError("a")])
def test_result_in_time(result: Any, is_late: bool, seconds: float) -> None:
    """A result that comes in time, or an exception, is passed on, and leaves no timer."""
    clock = Clock()
    pending: Deferred[object] = Deferred()
    fire = pending.errback if isinstance(result, Exception) else pending.callback
    if not is_late:
        fire(result)
    results = results_of(bounded(pending, clock, seconds))
    if is_late:
        assert results == []
        fire(result)
    assert [getattr(result, "value", result) for result in results] == [result]
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("error", [CancelledError(), asyncio.CancelledError()])
def test_given_up_of_its_own_accord(error: Any) -> None:
    """What gives up though nobody asked it to is a failure like others, and no cancellation."""
    pending: Deferred[object] = Deferred()
    results = results_of(bounded(pending, Clock(), 2))
    pending.errback(error)
    assert results[0].check(UnavailableError)


def test_canceller_that_fails(logged_failures: list[LogEvent]) -> None:
    """A canceller that raises is logged, and the time is up all the same."""
    clock = Clock()

    def fail(deferred: Deferred[Any]) -> None:
        raise ZeroDivisionError

    results = results_of(bounded(Deferred(fail), clock, 2))
    clock.advance(2)
    assert results[0].check(TimeoutError)
    assert logged_failures.pop()["log_failure"].check(ZeroDivisionError)


def test_cancelled_by_the_canceller() -> None:
    """A canceller that has its caller give up meanwhile does no harm."""
    clock = Clock()
    waiting = bounded(Deferred(lambda deferred: waiting.cancel()), clock, 2)
    results = results_of(waiting)
    clock.advance(2)
    assert [result.type for result in results] == [CancelledError]
