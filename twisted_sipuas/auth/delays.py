"""How long has somebody to wait after wrong passwords? Each user and source apart, so that nobody locks out others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import ClassVar, NamedTuple, TypeAlias

from twisted_sipuas.errors import UnavailableError

__all__ = ["Delays", "Pair"]

Pair: TypeAlias = "tuple[Hashable, Hashable]"
"""A user, and a source that this name is used from."""


class _Failures(NamedTuple):
    number: int
    until: float
    """When the next attempt is looked at."""
    forgotten_at: float
    attempts: tuple[int, ...]
    """The last ones that were wrong: each counts once, however often it is sent."""


class Delays:
    """The delay that grows with each wrong password of a pair of user and source.

    The first `free_failures` cost nothing, as people mistype. Then an attempt is looked at only `first_delay` seconds
    after the last one that was, then twice that, and so on up to `longest_delay`. What comes earlier is not counted, so
    that no more than one password is tried in that time however many are sent. A right one ends it, and so does a
    quarter of an hour without a wrong one.

    Who tries a few passwords of each of many users is slowed down as a source: see `source_failures`. A pair that has
    ever succeeded does not wait for that.

    At most *max_pairs* are remembered, and as many sources; beyond it what was used longest ago is forgotten.
    """

    free_failures: ClassVar[int] = 3
    first_delay: ClassVar[float] = 1.0
    longest_delay: ClassVar[float] = 60.0
    memory: ClassVar[float] = 900.0

    max_pending: ClassVar[int] = 100
    """Attempts of a pair that may be looked at at a time, as slow checkers take theirs; ten times as many of a pair
    that has succeeded. More get 503."""
    max_at_once: ClassVar[int] = 8
    """The same once a password of it was wrong; and 1 once it has used up its free failures."""

    source_failures: ClassVar[int] = 30
    """Wrong passwords of a source, of all users that have not succeeded from there; then those wait."""
    source_recovery: ClassVar[float] = 10.0
    """Seconds after which one of them is forgotten, and another attempt looked at."""
    source_memory: ClassVar[float] = 3600.0
    """Seconds after which all of them are, however many came in before their checkers had an answer."""

    def __init__(self, max_pairs: int = 100_000) -> None:
        self._max_pairs = max_pairs
        self._failures: OrderedDict[int, _Failures] = OrderedDict()  # the one that failed last at the end
        self._proven: OrderedDict[int, None] = OrderedDict()  # the one that succeeded last at the end
        self._sources: OrderedDict[int, float] = OrderedDict()  # when all its failures are forgotten
        self._at_once: dict[int, int] = {}
        self._counters = {"wrong": 0, "too_early": 0, "too_many_at_once": 0, "delays_dropped": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """What was wrong, too early or too much, what the bound did, and how many pairs and sources wait now."""
        return {**self._counters, "delays": len(self._failures), "delayed_sources": len(self._sources)}

    def begin(self, pair: Pair, now: float) -> bool:
        """Return whether an attempt of *pair* may be looked at now; then `end` says that this is done.

        Raises `UnavailableError` if too many of them are under way.
        """
        self._expire(now)
        key = hash(pair)  # keyed by the interpreter; a name may be as long as a header field, and is not kept
        failures = self._failures.get(key)
        at_once = self._at_once.get(key, 0)
        most = self._most_at_once(key, failures)
        is_delayed = failures is not None and failures.number >= self.free_failures
        if (failures is not None and is_delayed and (at_once >= most or now < failures.until)) or (
            key not in self._proven and self._is_exhausted(pair, now)
        ):
            self._counters["too_early"] += 1
            return False
        if at_once >= most:
            self._counters["too_many_at_once"] += 1
            raise UnavailableError(retry_after=1, rule="max_at_once")
        self._at_once[key] = at_once + 1
        return True

    def end(self, pair: Pair) -> None:
        """An attempt of *pair* has been looked at, whatever came of it."""
        key = hash(pair)
        left = self._at_once[key] - 1
        if left:
            self._at_once[key] = left
        else:
            del self._at_once[key]

    def failed(self, pair: Pair, attempt: Hashable, now: float) -> None:
        """The password was wrong, or there is no such user; *attempt* is what tells a guess from its retransmission."""
        key, attempted = hash(pair), hash(attempt)
        earlier = self._failures.get(key)
        if earlier is not None and attempted in earlier.attempts:
            return
        self._counters["wrong"] += 1
        attempts = (*(() if earlier is None else earlier.attempts), attempted)[-self.max_at_once :]
        number = 1 if earlier is None else earlier.number + 1
        doublings = number - self.free_failures
        delay = 0.0 if doublings < 0 else min(self.first_delay * 2 ** min(doublings, 30), self.longest_delay)
        self._failures[key] = _Failures(number, now + delay, now + self.memory, attempts)
        self._failures.move_to_end(key)
        self._bound(self._failures)
        if key not in self._proven:
            source = hash(pair[1])
            clear_at = max(self._sources.pop(source, now), now) + self.source_recovery
            self._sources[source] = min(clear_at, now + self.source_memory)
            self._bound(self._sources)

    def succeeded(self, pair: Pair) -> None:
        """The password was right: forget the wrong ones."""
        key = hash(pair)
        self._failures.pop(key, None)
        self._proven[key] = None
        self._proven.move_to_end(key)
        if len(self._proven) > self._max_pairs:
            self._proven.popitem(last=False)

    def _most_at_once(self, key: int, failures: _Failures | None) -> int:
        if failures is None:
            return self.max_pending * 10 if key in self._proven else self.max_pending
        return self.max_at_once if failures.number < self.free_failures else 1

    def _is_exhausted(self, pair: Pair, now: float) -> bool:
        """Whether the source of *pair* has no attempt left for users that have not succeeded from there."""
        clear_at = self._sources.get(hash(pair[1]), now)
        return clear_at - now > (self.source_failures - 1) * self.source_recovery

    def _bound(self, remembered: OrderedDict[int, _Failures] | OrderedDict[int, float]) -> None:
        if len(remembered) > self._max_pairs:
            remembered.popitem(last=False)
            self._counters["delays_dropped"] += 1

    def _expire(self, now: float) -> None:
        while self._failures:
            key, failures = next(iter(self._failures.items()))
            if now < failures.forgotten_at:
                break
            del self._failures[key]
        while self._sources:
            source, clear_at = next(iter(self._sources.items()))
            if now < clear_at:
                break
            del self._sources[source]
