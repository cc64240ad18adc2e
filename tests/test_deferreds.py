"""Does user code get what it would get from `Deferred.fromCoroutine`, where a coroutine is begun without one?"""

from __future__ import annotations

import gc
from contextvars import ContextVar

import pytest
from twisted.internet.defer import CancelledError, Deferred

from twisted_sipuas.deferreds import begun, waited_for


async def wait_for(deferred: Deferred[object]) -> object:
    return await deferred


def results_of(deferred: object) -> list[object]:
    """Return the list that what *deferred* fires with is put into."""
    assert isinstance(deferred, Deferred)
    results: list[object] = []
    deferred.addBoth(results.append)
    return results


def test_a_coroutine_that_need_not_wait():
    """What it returns is there at once, and is not waited for."""
    fired: Deferred[object] = Deferred()
    fired.callback(7)
    assert begun(wait_for(fired)) == 7
    assert begun(7) == 7
    assert waited_for(7) is None


def test_a_coroutine_that_waits_more_than_once():
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


@pytest.mark.parametrize("is_late", [False, True])
def test_a_coroutine_that_raises(is_late):
    """Its exception is a failure of the `Deferred`, whether it comes at once or later."""
    awaited: Deferred[object] = Deferred()
    if not is_late:
        awaited.errback(KeyError("a"))
    results = results_of(begun(wait_for(awaited)))
    if is_late:
        awaited.errback(KeyError("a"))
    assert results[0].check(KeyError)


def test_cancellation():
    """To cancel the `Deferred` is to cancel what the coroutine waits for, which it can clean up after."""
    steps = []

    async def cleaning_up() -> None:
        try:
            await Deferred()
        finally:
            steps.append("cleaned up")

    pending = begun(cleaning_up())
    results = results_of(pending)
    pending.cancel()
    assert steps == ["cleaned up"]
    assert results[0].check(CancelledError)


def test_context():
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
def test_a_coroutine_that_waits_for_ever():
    """One that nobody can go on with is collected in silence."""
    begun(wait_for(Deferred()))
    gc.collect()
