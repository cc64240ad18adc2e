"""How much may one source ask for? A token bucket for each, in a table of bounded length."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

__all__ = ["Rates"]


class Rates:
    """Lets each source have *rate* a second on average, and *burst* at once, counted in whatever unit the caller takes.

    Of a source one number is kept: the time at which its bucket is full again (the "generic cell rate algorithm" of
    ITU-T I.371). A full bucket need not be kept: so sources are forgotten that had nothing for the time that filling an
    empty bucket takes. At most *most* sources with something in that time are remembered, and as many of the time
    before; with more, the earliest are forgotten sooner, which `forgotten` counts.
    """

    def __init__(self, clock: IReactorTime, rate: float, burst: float, most: int = 10_000) -> None:
        self._clock = clock
        self._seconds_each = 1 / rate
        self._depth = burst / rate  # seconds that filling an empty bucket takes
        self._most = most
        self._recent: dict[str, float] = {}
        self._earlier: dict[str, float] = {}
        self._began = clock.seconds()  # when `_recent` was empty
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._earlier)

    def admit(self, source: str, amount: float = 1) -> bool:
        """Whether *source* may have *amount* now; it counts if so."""
        now = self._clock.seconds()
        if not self._began <= now < self._began + self._depth:
            self._earlier, self._recent, self._began = self._recent, {}, now
        full_at = self._recent.get(source)
        if full_at is None:
            full_at = self._earlier.get(source, now)
            if len(self._recent) >= self._most:
                self.forgotten += len(self._earlier)
                self._earlier, self._recent, self._began = self._recent, {}, now
        latest = now + self._depth + self._seconds_each / 2  # half a unit more, for sums of fractions are not exact
        if not now <= full_at <= latest:  # it is full already, or the clock was set back
            full_at = now
        full_at += amount * self._seconds_each
        if full_at > latest:
            return False
        self._recent[source] = full_at
        return True
