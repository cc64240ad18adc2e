"""Which of a server's hooks, that tell it of its calls, are at work still, and how long may they be?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from twisted_sipuas.deferreds import bounded, waited_for

__all__ = ["HooksAtWork"]


class _Server(Protocol):
    """Whose hooks they are."""

    clock: IReactorTime

    @property
    def handler_timeout(self) -> float:
        """Seconds that a hook has."""


class HooksAtWork:
    """The hooks of *server* that have not returned yet: no request waits for them, but the end of the service does.

    *returned* is called whenever one has returned.
    """

    def __init__(self, server: _Server, returned: Callable[[], None]) -> None:
        self._server = server
        self._returned = returned
        self._at_work: set[Deferred[Any]] = set()

    def __len__(self) -> int:
        return len(self._at_work)

    def run(self, hook: Callable[..., object], *arguments: object) -> Deferred[Any] | None:
        """Call *hook*; returns the `Deferred` that is waited for, or None if nothing is.

        It fails as the hook does, and with `TimeoutError` if that has taken longer than a handler may.
        """
        pending = waited_for(hook(*arguments))
        if pending is None:
            return None
        assert self._server.clock is not None, "a service gives its clock to its transaction user"
        waiting = bounded(pending, self._server.clock, self._server.handler_timeout)
        self._at_work.add(waiting)
        waiting.addBoth(self._end, waiting)
        return waiting

    def cancel(self) -> None:
        """Cancel all that are at work."""
        for waiting in list(self._at_work):
            waiting.cancel()

    def _end(self, result: object, waiting: Deferred[Any]) -> object:
        self._at_work.discard(waiting)
        self._returned()
        if isinstance(result, Failure) and result.check(CancelledError):
            return None  # by `cancel`, which is no fault of the hook's
        return result
