"""What waits the same time waits in one queue, with one reactor call for all of it (RFC 3261, 17.2)."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Timed", "TimerQueue"]

# An entry is due if it is so within this many seconds: times since 1970 are not told apart any finer.
_RESOLUTION = 1e-6
# How many entries one call of the reactor serves before others have their turn.
_BATCH = 256


class Timed:
    """What can wait in one `TimerQueue` at a time; a subclass says in `timed_out` what comes then."""

    __slots__ = ("_due", "_next", "_previous", "_queue")

    _due: float
    _next: Any  # the neighbours, entries of the same queue
    _previous: Any

    def __init__(self) -> None:
        self._queue: TimerQueue[Any] | None = None

    @property
    def since(self) -> float:
        """Since when it has been in the queue that it is in, in seconds of the queue's clock."""
        assert self._queue is not None
        return self._due - self._queue.seconds

    def stop_waiting(self) -> None:
        """Leave the queue, if it is in one; nothing of it stays behind there."""
        if self._queue is not None:
            self._queue.remove(self)

    def timed_out(self) -> None:
        """The time is up; it is in the queue no longer, and may be put into another, or the same again."""
        raise NotImplementedError


_Entry = TypeVar("_Entry", bound=Timed)


class TimerQueue(Generic[_Entry]):
    """Lets each entry time out *seconds* after it was appended, by one call of *clock* at a time.

    All wait the same time, so the first to come is the first to go: appending and removing cost the same for any number
    of entries. An empty queue has no call on the clock.
    """

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self._clock = clock
        self.seconds = seconds
        self._first: _Entry | None = None
        self._last: _Entry | None = None
        self._length = 0
        self._call: IDelayedCall | None = None
        self._is_serving = False

    def __len__(self) -> int:
        return self._length

    @property
    def first(self) -> _Entry | None:
        """The entry that has waited longest, or None."""
        return self._first

    def append(self, entry: _Entry) -> None:
        """Let *entry*, which waits in no queue, time out in so many seconds."""
        entry._queue = self
        entry._due = self._clock.seconds() + self.seconds
        entry._next = None
        entry._previous = last = self._last
        self._last = entry
        self._length += 1
        if last is not None:
            last._next = entry
            if entry._due < last._due and self._call is not None:  # the clock was set back, and the call is far away
                self._call.reset(self.seconds)
            return
        self._first = entry
        if not self._is_serving:
            self._call = self._clock.callLater(self.seconds, self._serve)

    def remove(self, entry: _Entry) -> None:
        """Take *entry*, which is in this queue, out of it."""
        before, after = entry._previous, entry._next
        if before is None:
            self._first = after
        else:
            before._next = after
        if after is None:
            self._last = before
        else:
            after._previous = before
        entry._queue = entry._next = entry._previous = None
        self._length -= 1
        if self._first is None and self._call is not None:
            self._call.cancel()
            self._call = None

    def _serve(self) -> None:
        """Let time out what is due, and ask for the next call."""
        self._call = None
        self._is_serving = True
        latest = self._clock.seconds() + _RESOLUTION
        try:
            for _ in range(_BATCH):
                entry = self._first
                # One that is due later than any can be was appended before the clock was set back.
                if entry is None or latest < entry._due <= latest + self.seconds:
                    break
                self.remove(entry)
                entry.timed_out()
        finally:
            self._is_serving = False
            if self._first is not None:
                delay = min(self.seconds, self._first._due - self._clock.seconds())
                self._call = self._clock.callLater(max(0.0, delay), self._serve)
