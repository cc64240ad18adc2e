"""The one place that takes what user code does: return a value, a `Deferred` or a coroutine, or raise; in its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from types import CoroutineType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.logs import Logger

__all__ = ["after", "begun", "bounded", "call", "waited_for"]

_log = Logger()

_COROUTINES = (CoroutineType, Coroutine)
"""Those of ``async def``, which are told ten times as fast, and others: a compiled one is of a type of its own."""


def waited_for(result: object) -> Deferred[Any] | None:
    """Return the `Deferred` that *result* is or, being a coroutine, becomes; None for a value, which is there."""
    if not hasattr(result, "__await__"):
        return None  # nearly always; `Deferred` is an abstract base class, and to ask for that costs four times as much
    if isinstance(result, Deferred):
        return result
    if isinstance(result, _COROUTINES):
        return Deferred.fromCoroutine(result)
    return None


def begun(result: object) -> object:
    """Return *result*, or what it returned if it is a coroutine that need not wait, or the `Deferred` that it becomes.

    A coroutine that need not wait takes a tenth of the time so.
    """
    if not (hasattr(result, "__await__") and isinstance(result, _COROUTINES)):
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


def bounded(pending: Deferred[Any], clock: IReactorTime, seconds: float | None) -> Deferred[Any]:
    """Return a `Deferred` of the result of *pending*, which need not be good at being cancelled.

    It fails with `TimeoutError` when *seconds* are over, if not None, and with `CancelledError` when it is cancelled.
    *pending* is cancelled then, and what that makes of it is dropped, be it another exception, a result, or nothing at
    all. So `CancelledError` says that whoever waited has ended that, and nothing else: a *pending* that is given up
    without their doing fails with `UnavailableError`.
    """
    return _Bounded(pending, clock, seconds).waiting


class _Bounded:
    """A *pending* that is waited for, and the timer that ends it; `waiting` is who waits."""

    __slots__ = ("_is_over", "_pending", "_timer", "waiting")

    def __init__(self, pending: Deferred[Any], clock: IReactorTime, seconds: float | None) -> None:
        self.waiting: Deferred[Any] = Deferred(lambda _: self._end(CancelledError()))
        self._pending = pending
        self._timer: IDelayedCall | None = None
        self._is_over = False
        pending.addBoth(self._ended)
        if seconds is not None and not self._is_over:
            self._timer = clock.callLater(seconds, self._end, TimeoutError(seconds, "Deferred"))

    def _ended(self, result: object) -> None:
        """Take the *result* of what was waited for, and pass it on if somebody waits still."""
        if self._is_over:
            return
        self._stop()
        if isinstance(result, Failure) and result.check(CancelledError, asyncio.CancelledError):
            result = Failure(UnavailableError(rule="given up of its own accord"))
        self.waiting.callback(result)

    def _end(self, error: Exception) -> None:
        """Fail with *error*, and have what was waited for cancelled."""
        if self._is_over:
            return
        self._stop()
        try:
            self._pending.cancel()
        except Exception:  # from a canceller of the user's
            _log.failure("what was waited for failed as it was cancelled")
        if not self.waiting.called:  # by itself, if that was cancelled again meanwhile
            self.waiting.errback(error)

    def _stop(self) -> None:
        self._is_over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


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
    except BaseException:  # for `SystemExit` Twisted would close the socket, and the server go on without it
        failed(Failure())
        return None
    if pending is not None:
        pending.addErrback(failed)
    return pending
