"""The one place that takes what user code does: return a value, a `Deferred` or a coroutine, or raise."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from types import CoroutineType
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

__all__ = ["after", "begun", "call", "waited_for"]


def waited_for(result: object) -> Deferred[Any] | None:
    """Return the `Deferred` that *result* is or, being a coroutine, becomes; None for a value, which is there."""
    if not hasattr(result, "__await__"):
        return None  # nearly always; `Deferred` is an abstract base class, and to ask for that costs four times as much
    if isinstance(result, Deferred):
        return result
    if isinstance(result, CoroutineType):
        return Deferred.fromCoroutine(result)
    return None


def begun(result: object) -> object:
    """Return *result*, or what it returned if it is a coroutine that need not wait, or the `Deferred` that it becomes.

    A coroutine that need not wait takes a tenth of the time so.
    """
    if not isinstance(result, CoroutineType):
        return result
    context = copy_context()
    try:
        awaited = context.run(result.send, None)
    except StopIteration as end:
        return end.value
    except BaseException:
        return fail()
    return context.run(Deferred.fromCoroutine, _rest(result, awaited))


def _rest(coroutine: Coroutine[Any, Any, Any], awaited: object) -> Generator[Any, Any, Any]:
    """Go on with *coroutine*, which was begun and waits for *awaited*."""
    while True:
        fault = None
        try:
            value = yield awaited
        except GeneratorExit:
            coroutine.close()  # nobody can go on with it; it may have been closed before us
            raise
        except BaseException as error:
            fault = error
        try:
            awaited = coroutine.send(value) if fault is None else coroutine.throw(fault)
        except StopIteration as end:
            return end.value


async def after(pending: Deferred[Any], go_on: Callable[[Any], object]) -> object:
    """Return what *go_on* makes of the result of *pending*, or what that is a `Deferred` or coroutine of."""
    answer = go_on(await pending)
    later = waited_for(answer)
    return answer if later is None else await later


def call(
    function: Callable[..., object], *arguments: object, failed: Callable[[Failure], object]
) -> Deferred[Any] | None:
    """Call *function*; an exception, at once or later, goes to *failed* as a `Failure`.

    Returns the `Deferred` that is waited for, or None if nothing is.
    """
    try:
        pending = waited_for(function(*arguments))
    except (Exception, CancelledError):  # which asyncio derives from BaseException
        failed(Failure())
        return None
    if pending is not None:
        pending.addErrback(failed)
    return pending
