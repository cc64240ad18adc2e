"""Which transactions only wait out a timer, and how much do they keep for it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from twisted_sipuas.transaction.queues import TimerQueue

if TYPE_CHECKING:
    from twisted_sipuas.transaction.server import ServerTransaction

__all__ = ["Waiting"]


class Waiting:
    """The transactions that are owed nothing, and wait out Timer I, J or L to absorb what is sent again (17.2).

    `length` is how many they are, `octets` the sum of their responses. A queue for each time that *clock* is to measure
    holds them.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.length = 0
        self.octets = 0
        self._clock = clock
        self._queues: dict[float, _WaitingQueue] = {}

    def append(self, transaction: ServerTransaction, seconds: float) -> None:
        """Let *transaction* wait out *seconds*."""
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = _WaitingQueue(self._clock, seconds, self)
        queue.append(transaction)

    def oldest(self) -> ServerTransaction:
        """Return the transaction that has waited longest; there is one."""
        waiting = [first for queue in self._queues.values() if (first := queue.first) is not None]
        return min(waiting, key=lambda transaction: transaction.since)


class _WaitingQueue(TimerQueue["ServerTransaction"]):
    """The transactions that wait the same time; keeps the account of *waiting*."""

    def __init__(self, clock: IReactorTime, seconds: float, waiting: Waiting) -> None:
        super().__init__(clock, seconds)
        self._waiting = waiting

    def append(self, entry: ServerTransaction) -> None:
        waiting = self._waiting
        waiting.length += 1
        waiting.octets += entry.octets
        super().append(entry)

    def remove(self, entry: ServerTransaction) -> None:
        waiting = self._waiting
        waiting.length -= 1
        waiting.octets -= entry.octets
        super().remove(entry)
