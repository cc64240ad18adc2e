"""The one place that takes what user code does: return a value, a `Deferred` or a coroutine, or raise."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["after", "call", "waited_for"]


def waited_for(result: object) -> Deferred[Any] | None:
    """Return the `Deferred` that *result* is or, being a coroutine, becomes; None for a value, which is there."""
    if isinstance(result, Deferred):
        return result
    if isinstance(result, CoroutineType):
        return Deferred.fromCoroutine(result)
    return None


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
