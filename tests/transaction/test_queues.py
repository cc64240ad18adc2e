"""Does a `TimerQueue` let each entry time out when it is due, with one call on the clock, and keep nothing else?"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from twisted.internet.task import Clock

from twisted_sipuas.transaction.queues import Timed, TimerQueue


class Entry(Timed):
    """Notes in *log* when it timed out, and then does as it is told."""

    def __init__(self, name: Any, clock: Clock, log: Any, then: Any = None) -> None:
        super().__init__()
        self.name, self.clock, self.log, self.then = name, clock, log, then

    def timed_out(self) -> None:
        self.log.append((self.name, self.clock.seconds()))
        if self.then is not None:
            self.then()


@pytest.fixture
def clock() -> Any:
    return Clock()


@pytest.fixture
def log() -> Any:
    return []


def test_each_times_out_when_it_is_due(clock: Clock, log: Any) -> None:
    """Entries time out in the order in which they came, each after its own time."""
    queue: Any = TimerQueue(clock, 4)
    for number in range(3):
        queue.append(Entry(number, clock, log))
        clock.advance(0.5)
    assert len(queue) == 3
    clock.pump([0.5] * 16)

    assert log == [(0, 4.0), (1, 4.5), (2, 5.0)]
    assert (len(queue), clock.getDelayedCalls()) == (0, [])


def test_one_call_on_the_clock(clock: Clock, log: Any) -> None:
    """However many entries there are, the clock has one call, and none when there are none."""
    queue: Any = TimerQueue(clock, 4)
    entries = [Entry(number, clock, log) for number in range(100)]
    for entry in entries:
        queue.append(entry)
        clock.advance(0.01)
        assert len(clock.getDelayedCalls()) == 1
    for entry in entries:
        entry.stop_waiting()
    assert clock.getDelayedCalls() == []
    clock.pump([0.5] * 20)
    assert log == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_who_leaves_early_leaves_nothing(clock: Clock, log: Any, which: Any) -> None:
    """An entry that stops waiting is not kept; the others time out as they would have."""
    queue: Any = TimerQueue(clock, 4)
    entries = [Entry(number, clock, log) for number in range(3)]
    for entry in entries:
        queue.append(entry)
        clock.advance(0.5)
    left = weakref.ref(entries[which])
    entries.pop(which).stop_waiting()
    del entry
    gc.collect()

    assert left() is None
    assert len(queue) == 2
    clock.pump([0.5] * 16)
    assert log == [(number, 4 + number / 2) for number in range(3) if number != which]


def test_stopping_twice_does_no_harm(clock: Clock, log: Any) -> None:
    """An entry that waits nowhere stops waiting without complaint."""
    queue: Any = TimerQueue(clock, 4)
    entry = Entry(0, clock, log)
    entry.stop_waiting()
    queue.append(entry)
    entry.stop_waiting()
    entry.stop_waiting()

    assert len(queue) == 0


def test_again_from_within(clock: Clock, log: Any) -> None:
    """An entry may go into the same queue again as it times out, and waits as long as before."""
    queue: Any = TimerQueue(clock, 2)
    entry: Entry = Entry("again", clock, log, lambda: queue.append(entry) if len(log) < 3 else None)
    queue.append(entry)
    clock.pump([0.5] * 20)

    assert log == [("again", 2.0), ("again", 4.0), ("again", 6.0)]
    assert clock.getDelayedCalls() == []


def test_removal_from_within(clock: Any, log: Any) -> None:
    """An entry that times out may stop others from it, all of them too."""
    queue: Any = TimerQueue(clock, 2)
    others: list[Any] = [Entry(number, clock, log) for number in range(3)]
    queue.append(Entry("first", clock, log, lambda: [other.stop_waiting() for other in others]))
    for other in others:
        queue.append(other)
    clock.pump([0.5] * 8)

    assert log == [("first", 2.0)]
    assert (len(queue), clock.getDelayedCalls()) == (0, [])


def test_exception_does_not_stop_the_others(clock: Clock, log: Any) -> None:
    """An exception goes to the clock as any call's would, and the queue goes on."""

    def fault() -> None:
        raise RuntimeError("a fault of the entry's")

    queue: Any = TimerQueue(clock, 2)
    queue.append(Entry(0, clock, log, fault))
    queue.append(Entry(1, clock, log))
    with pytest.raises(RuntimeError):
        clock.advance(2)
    clock.advance(0)

    assert log == [(0, 2.0), (1, 2.0)]


def test_many_are_served_in_turns(clock: Clock, log: Any) -> None:
    """So many at once are served that others get their turn in between, and all are served when they are due."""
    queue: Any = TimerQueue(clock, 2)
    for number in range(1000):
        queue.append(Entry(number, clock, log))
    turns = []
    clock.callLater(2, lambda: turns.append(len(log)))
    clock.advance(2)

    assert len(log) == 1000
    assert turns == [256]


def test_fractions_are_rounded_alike(clock: Clock, log: Any) -> None:
    """Sums of fractions that come out a little less than they should make nobody wait a turn longer."""
    clock.advance(1_700_000_000)
    queue: Any = TimerQueue(clock, 0.3)
    for _ in range(3):
        queue.append(Entry(0, clock, log))
        clock.advance(0.1)
    clock.pump([0.1] * 3)

    assert len(log) == 3


def test_clock_that_is_set_back(clock: Clock, log: Any) -> None:
    """Entries from before the clock was set back do not keep later ones waiting."""
    clock.advance(3600)
    queue: Any = TimerQueue(clock, 2)
    queue.append(Entry("before", clock, log))
    clock.rightNow -= 3600
    queue.append(Entry("after", clock, log))
    clock.pump([0.5] * 4)

    assert log == [("before", 2.0), ("after", 2.0)]
