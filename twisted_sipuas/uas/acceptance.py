"""`Acceptance`: the 2xx to an INVITE, which the core sends again until its ACK comes (RFC 3261, 13.3.1.4)."""

from __future__ import annotations

from typing import Protocol

from twisted_sipuas.interfaces import IFlow, IServerTransaction
from twisted_sipuas.syntax.message import Response
from twisted_sipuas.transaction.queues import Timed, TimerQueue
from twisted_sipuas.transaction.sources import Sources
from twisted_sipuas.transaction.timers import Timers

__all__ = ["Acceptance"]

_HEAD = 400  # octets that a 2xx has besides its body, about


class _Calls(Protocol):
    """What a 2xx needs of the calls of its server."""

    timers: Timers
    unacknowledged: int

    @property
    def sources(self) -> Sources:
        """The hosts that have shown that they receive what is sent to them."""

    def queue(self, seconds: float) -> TimerQueue[Timed]:
        """Return the queue of what has to happen in so many *seconds*."""

    def ack_timed_out(self, flow: IFlow) -> None:
        """No ACK came for a 2xx that was sent on *flow*."""


class _Session(Protocol):
    """What a 2xx needs of the session that stands by it."""

    def never_acknowledged(self, may_send: bool) -> None:
        """64*T1 have passed without an ACK; no BYE goes out unless it *may_send* one."""


class Acceptance(Timed):
    """A 2xx that waits for its ACK: sent again at intervals that double up to T2, on any transport (13.3.1.4).

    On UDP the source of an INVITE may be forged. One that has not shown that it receives what is sent there is sent
    again no more than a few at a time.

    *number* is the sequence number of the INVITE that *transaction* is of, and by which *session* was made or changed.
    """

    __slots__ = (
        "_calls",
        "_elapsed",
        "_interval",
        "_is_admitted",
        "_response",
        "_session",
        "_transaction",
        "number",
    )

    def __init__(
        self,
        response: Response,
        number: int,
        transaction: IServerTransaction,
        calls: _Calls,
        session: _Session,
    ) -> None:
        super().__init__()
        self.number = number
        self._response = response
        self._transaction = transaction
        self._session = session
        self._calls = calls
        self._elapsed = 0.0
        self._interval = calls.timers.t1
        self._is_admitted = False
        self._admit()
        calls.unacknowledged += 1
        calls.queue(self._interval).append(self)

    def timed_out(self) -> None:
        timers = self._calls.timers
        self._elapsed += self._interval
        if self._elapsed >= timers.lifetime:
            self._release()
            self._calls.ack_timed_out(self._transaction.flow)
            self._session.never_acknowledged(self._is_admitted)
            return
        self._interval = min(2 * self._interval, timers.t2, timers.lifetime - self._elapsed)
        self._calls.queue(self._interval).append(self)
        if not self._transaction.ended and self._admit():
            self._transaction.respond(self._response)

    def stop(self, flow: IFlow | None = None) -> None:
        """The ACK came on *flow*; or, without, nobody waits for it any more."""
        self.stop_waiting()
        self._release()
        if flow is not None and not flow.is_reliable:
            self._calls.sources.prove(flow.remote_address.network)

    def _admit(self) -> bool:
        """Whether the source may be sent the response again."""
        flow = self._transaction.flow
        if not self._is_admitted:
            self._is_admitted = flow.is_reliable or self._calls.sources.admit(self._source, self._size)
        return self._is_admitted

    def _release(self) -> None:
        self._calls.unacknowledged -= 1
        if self._is_admitted and not self._transaction.flow.is_reliable:
            self._calls.sources.release(self._source, self._size)

    @property
    def _source(self) -> str:
        network: str = self._transaction.flow.remote_address.network
        return network

    @property
    def _size(self) -> int:
        return _HEAD + len(self._response.body)
