"""Whose turn is it, where the requests about one thing are to be processed in the order received (10.3 step 7)?"""

from __future__ import annotations

from twisted.internet.defer import Deferred

__all__ = ["Place", "Queues"]


class Place:
    """A place in the queue of *key*."""

    __slots__ = ("key", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.waiting: Deferred[None] | None = None


class Queues:
    """A queue for each key that somebody is at; nothing is kept for others."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[str, list[Place]] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def length(self, key: str) -> int:
        """Return how many have a place in the queue of *key*."""
        return len(self._queues.get(key, ()))

    def enter(self, key: str) -> Place:
        """Return the place behind all others in the queue of *key*; whoever has it leaves it, however that ends."""
        place = Place(key)
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = [place]
        else:
            queue.append(place)
        return place

    def turn_of(self, place: Place) -> Deferred[None] | None:
        """Return a `Deferred` that fires when *place* is the first one; None if it is. It may be cancelled."""
        if self._queues[place.key][0] is place:
            return None
        place.waiting = Deferred()
        return place.waiting

    def leave(self, place: Place) -> None:
        """Give *place* up. It is the turn of the next one, if this was the first, and that may be over on return."""
        queue = self._queues[place.key]
        was_first = queue[0] is place
        queue.remove(place)
        if not queue:
            del self._queues[place.key]
        elif was_first and (waiting := queue[0].waiting) is not None:
            waiting.callback(None)
