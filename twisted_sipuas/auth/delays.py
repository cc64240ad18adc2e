"""How long has somebody to wait after wrong passwords? Each user and source apart, so that nobody locks out others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import ClassVar, NamedTuple

__all__ = ["Delays"]


class _Failures(NamedTuple):
    number: int
    until: float
    """When the next attempt is looked at."""
    forgotten_at: float


class Delays:
    """The delay that grows with each wrong password of a pair of user and source.

    The first `free_failures` cost nothing, as people mistype. Then an attempt is looked at only `first_delay` seconds
    after the last one that was, then twice that, and so on up to `longest_delay`. What comes earlier is not counted, so
    that no more than one password is tried in that time however many are sent. A right one ends it, and so does a
    quarter of an hour without a wrong one.

    At most *max_pairs* are remembered; beyond it the one that failed longest ago is forgotten.
    """

    free_failures: ClassVar[int] = 3
    first_delay: ClassVar[float] = 1.0
    longest_delay: ClassVar[float] = 60.0
    memory: ClassVar[float] = 900.0
    max_at_once: ClassVar[int] = 8
    """Attempts of a pair that may be looked at at a time; 1 once it has used up its free failures."""

    def __init__(self, max_pairs: int = 100_000) -> None:
        self._max_pairs = max_pairs
        self._failures: OrderedDict[int, _Failures] = OrderedDict()  # the one that failed last at the end
        self._at_once: dict[int, int] = {}
        self._counters = {"wrong": 0, "too_early": 0, "delays_dropped": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """What was wrong, what came too early, what the bound did, and how many pairs are remembered now."""
        return {**self._counters, "delays": len(self._failures)}

    def begin(self, pair: Hashable, now: float) -> bool:
        """Return whether an attempt of *pair* may be looked at now; then `end` says that this is done."""
        self._expire(now)
        key = hash(pair)  # keyed by the interpreter; a name may be as long as a header field, and is not kept
        failures = self._failures.get(key)
        at_once = self._at_once.get(key, 0)
        if failures is None or failures.number < self.free_failures:
            may = at_once < self.max_at_once
        else:
            may = at_once == 0 and now >= failures.until
        if may:
            self._at_once[key] = at_once + 1
        else:
            self._counters["too_early"] += 1
        return may

    def end(self, pair: Hashable) -> None:
        """An attempt of *pair* has been looked at, whatever came of it."""
        key = hash(pair)
        left = self._at_once[key] - 1
        if left:
            self._at_once[key] = left
        else:
            del self._at_once[key]

    def failed(self, pair: Hashable, now: float) -> None:
        """The password was wrong, or there is no such user."""
        self._counters["wrong"] += 1
        key = hash(pair)
        earlier = self._failures.pop(key, None)
        number = 1 if earlier is None else earlier.number + 1
        doublings = number - self.free_failures
        delay = 0.0 if doublings < 0 else min(self.first_delay * 2 ** min(doublings, 30), self.longest_delay)
        self._failures[key] = _Failures(number, now + delay, now + self.memory)
        if len(self._failures) > self._max_pairs:
            self._failures.popitem(last=False)
            self._counters["delays_dropped"] += 1

    def succeeded(self, pair: Hashable) -> None:
        """The password was right: forget the wrong ones."""
        self._failures.pop(hash(pair), None)

    def _expire(self, now: float) -> None:
        while self._failures:
            key, failures = next(iter(self._failures.items()))
            if now < failures.forgotten_at:
                return
            del self._failures[key]
