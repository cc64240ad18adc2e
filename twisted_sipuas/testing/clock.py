"""Time that stands still until you let it pass."""

from __future__ import annotations

from twisted.internet.task import Clock

__all__ = ["VirtualClock"]

_ROUNDING = 1e-6  # seconds: three times 0.1 are a little more than 0.3, and due all the same


class VirtualClock(Clock):
    """A `Clock` whose `advance` has everything happen at its own time, however far it goes.

    Twisted's own jumps to the end first: a timer that doubles from 0.5 s would fire once in 32 s, and not at 0.5, 1.5
    and 3.5 s.

    >>> clock, fired = VirtualClock(), []
    >>> def again(interval):
    ...     fired.append(clock.seconds())
    ...     clock.callLater(2 * interval, again, 2 * interval)
    >>> _ = clock.callLater(0.5, again, 0.5)
    >>> clock.advance(10)
    >>> fired
    [0.5, 1.5, 3.5, 7.5]
    """

    is_advancing = False
    """Whether something is happening just now, so that it is no time for more."""

    def advance(self, amount: float) -> None:
        """Let *amount* seconds pass; 0 lets happen what is due now."""
        end = self.rightNow + amount
        was_advancing, self.is_advancing = self.is_advancing, True
        try:
            while self.calls and (due := min(call.getTime() for call in self.calls)) <= end + _ROUNDING:
                self.rightNow = max(due, self.rightNow)
                super().advance(0)
            self.rightNow = max(end, self.rightNow)
        finally:
            self.is_advancing = was_advancing
