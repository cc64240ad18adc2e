"""Does each in a queue have its turn, and only when those before have left?"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from twisted_sipuas.uas.queues import Queues


def test_turns() -> None:
    """The first one is at it, the others have their turn in the order in which they came, each key for itself."""
    queues, turns = Queues(), []
    places = [queues.enter("a") for _ in range(3)]
    other = queues.enter("b")
    assert queues.turn_of(places[0]) is None
    assert queues.turn_of(other) is None
    for number in (2, 1):
        waiting: Any = queues.turn_of(places[number])
        waiting.addCallback(lambda _, number=number: turns.append(number))
    assert queues.length("a") == 3
    queues.leave(places[0])
    assert turns == [1]
    queues.leave(places[1])
    assert turns == [1, 2]
    queues.leave(places[2])
    queues.leave(other)
    assert len(queues) == queues.length("a") == 0


def test_leaving_before_the_turn() -> None:
    """One that waits no longer leaves, and holds up nobody; nor does one that never asked for its turn."""
    queues = Queues()
    turns: list[Any] = []
    first, second, third, fourth = (queues.enter("a") for _ in range(4))
    waiting: Any = queues.turn_of(second)

    def leave(failure: Failure) -> None:
        failure.trap(CancelledError)
        queues.leave(second)

    waiting.addErrback(leave)
    waiting.cancel()
    last: Any = queues.turn_of(fourth)
    last.addCallback(turns.append)
    queues.leave(first)
    assert turns == []
    queues.leave(third)
    assert turns == [None]
    queues.leave(fourth)
    assert len(queues) == 0


@given(st.lists(st.tuples(st.sampled_from(["enter", "turn", "leave", "cancel"]), st.integers(0, 5)), max_size=60))
def test_any_order(events: Any) -> None:
    """In any order of what may happen at most one is at it, it is the first, and in the end nothing is left."""
    queues = Queues()
    places: list[Any] = []
    at_it: list[Any] = []
    waiting: dict[Any, Any] = {}

    async def take_turn(place: Any) -> None:
        turn = queues.turn_of(place)
        if turn is not None:
            await turn
        at_it.append(place)

    def leave(place: Any) -> None:
        places.remove(place)
        if place in at_it:
            at_it.remove(place)
        queues.leave(place)

    for event, which in events:
        place = places[which % len(places)] if places else None
        if event == "enter":
            places.append(queues.enter("a"))
        elif event == "turn" and place and place not in waiting:
            waiting[place] = Deferred.fromCoroutine(take_turn(place)).addErrback(lambda f: f.trap(CancelledError))
        elif event == "cancel" and place in waiting and place not in at_it:
            waiting[place].cancel()
            leave(place)
        elif event == "leave" and place and (place in at_it or place not in waiting):
            leave(place)
        assert at_it in ([], places[:1])
        assert at_it or not places or places[0] not in waiting
    for place in list(places):
        leave(place)
    assert len(queues) == 0
