"""How does a request of ours get there, and which is its response? RFC 3261, 17.1.2 and 17.1.3; no INVITE is sent."""

from __future__ import annotations

import enum
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import IFlow
from twisted_sipuas.syntax.fields import CSeq, Via
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.transaction.queues import Timed, TimerQueue
from twisted_sipuas.transaction.timers import Timers

__all__ = ["ClientState", "ClientTransactions", "NonInviteClientTransaction"]


class ClientState(enum.Enum):
    """The states of figure 6 of RFC 3261."""

    TRYING = "Trying"
    """The request was sent, nothing came back."""
    PROCEEDING = "Proceeding"
    """A provisional response came."""
    COMPLETED = "Completed"
    """The final response came; more of them are absorbed."""
    TERMINATED = "Terminated"
    """Over."""


class _Keeper(Protocol):
    """What a transaction needs of who keeps it."""

    timers: Timers

    def queue(self, seconds: float) -> TimerQueue[Timed]:
        """The queue for what has to happen in so many *seconds*."""

    def ended(self, transaction: NonInviteClientTransaction) -> None:
        """The transaction is Terminated."""


class _Retransmission(Timed):
    """Timer E: sends the request again at intervals that double up to T2 (17.1.2.2)."""

    __slots__ = ("_interval", "_keeper", "_transaction")

    def __init__(self, transaction: NonInviteClientTransaction, keeper: _Keeper) -> None:
        super().__init__()
        self._transaction = transaction
        self._keeper = keeper
        self._interval = keeper.timers.t1
        keeper.queue(self._interval).append(self)

    def timed_out(self) -> None:
        t2 = self._keeper.timers.t2
        in_proceeding = self._transaction.state is ClientState.PROCEEDING
        self._interval = t2 if in_proceeding else min(2 * self._interval, t2)
        self._keeper.queue(self._interval).append(self)
        self._transaction.send()


class NonInviteClientTransaction(Timed):
    """The non-INVITE client transaction (17.1.2, figure 6): sends *octets* on *flow* until a final response comes.

    Its own timer is F until then, K afterwards. *response* fires with the final `Response`, or fails with
    `TransportError` if there is none.
    """

    __slots__ = ("_keeper", "_octets", "_retransmission", "flow", "key", "response", "state")

    def __init__(self, key: tuple[str, str], octets: bytes, flow: IFlow, keeper: _Keeper) -> None:
        super().__init__()
        self.key = key
        self.flow = flow
        self.state = ClientState.TRYING
        self.response: Deferred[Response] = Deferred()
        self._octets = octets
        self._keeper = keeper
        self._retransmission: _Retransmission | None = None

    def start(self) -> None:
        """Send the request, and start Timers E and F (17.1.2.2)."""
        self._keeper.queue(self._keeper.timers.lifetime).append(self)
        if not self.flow.is_reliable:
            self._retransmission = _Retransmission(self, self._keeper)
        self.send()

    def send(self) -> None:
        """Send the request, once more or for the first time."""
        try:
            self.flow.send(self._octets)
        except TransportError as error:
            self.fail(error)

    def response_received(self, response: Response) -> None:
        """Take a response: the first final one is the result, what comes behind it is absorbed (17.1.2.2)."""
        if self.state not in (ClientState.TRYING, ClientState.PROCEEDING):
            return
        if response.status < 200:
            self.state = ClientState.PROCEEDING
            return
        self._stop_timers()
        if self.flow.is_reliable:  # Timer K is zero
            self._terminate()
        else:
            self.state = ClientState.COMPLETED
            self._keeper.queue(self._keeper.timers.t4).append(self)
        self.response.callback(response)

    def timed_out(self) -> None:
        """Timer F fired: there will be no response; or Timer K: no more of them are to be expected (17.1.2.2)."""
        if self.state is ClientState.COMPLETED:
            self._terminate()
        else:
            self.fail(TransportError("no response came (17.1.2.2, Timer F)"))

    def fail(self, error: TransportError) -> None:
        """No response will come, for *error* (17.1.4); once the final one is there that is of no interest."""
        if self.state in (ClientState.TRYING, ClientState.PROCEEDING):
            self._stop_timers()
            self._terminate()
            self.response.errback(error)

    def abandon(self, error: TransportError) -> None:
        """End the transaction now, with *error* if its response is still waited for."""
        if self.state is ClientState.COMPLETED:
            self._stop_timers()
            self._terminate()
        else:
            self.fail(error)

    def _stop_timers(self) -> None:
        self.stop_waiting()
        if self._retransmission is not None:
            self._retransmission.stop_waiting()

    def _terminate(self) -> None:
        self.state = ClientState.TERMINATED
        self._keeper.ended(self)


class ClientTransactions:
    """Sends requests of ours, other than INVITE and ACK, and finds the transaction of each response (17.1.3).

    *clock* gives the time, *timers* the base values. At most *max_transactions* are there at a time; more fail.
    """

    def __init__(self, clock: IReactorTime, timers: Timers | None = None, max_transactions: int = 20_000) -> None:
        self.timers = timers or Timers()
        self._clock = clock
        self._max_transactions = max_transactions
        self._transactions: dict[tuple[str, str], NonInviteClientTransaction] = {}
        self._queues: dict[float, TimerQueue[Timed]] = {}
        self._is_stopped = False
        self._counters = {"refused": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """How many transactions there are (``pending``), and how many more were refused."""
        return MappingProxyType({**self._counters, "pending": len(self._transactions)})

    def send(self, request: Request, flow: IFlow, sent_by: str) -> Deferred[Response]:
        """Send *request*, which has no Via yet, on *flow*; *sent_by* is the host and port that responses come to.

        The Via has a branch that is new and asks for rport, so that responses get through a NAT (8.1.1.7, 18.1.1; RFC
        3581, 3). Returns a `Deferred` of the final response, which fails with `TransportError` if none comes.
        """
        if self._is_stopped:
            return fail(TransportError("the service stopped"))
        if len(self._transactions) >= self._max_transactions:
            self._counters["refused"] += 1
            return fail(TransportError("too many requests wait for their response"))
        branch = f"z9hG4bK{secrets.token_hex(12)}"
        via = f"SIP/2.0/{flow.transport} {sent_by};branch={branch};rport"
        octets = Request(request.method, request.uri_text, [("Via", via), *request.headers], request.body).to_bytes()
        transaction = NonInviteClientTransaction((branch, request.method), octets, flow, self)
        self._transactions[transaction.key] = transaction
        transaction.start()
        return transaction.response

    def response_received(self, response: Response) -> bool:
        """Hand *response* to its transaction; returns whether there is one (17.1.3)."""
        transaction = self._transaction_of(response.headers)
        if transaction is None:
            return False
        transaction.response_received(response)
        return True

    def request_lost(self, octets: bytes) -> None:
        """Fail the transaction whose request, which begins with *octets*, did not arrive (18.4)."""
        lines = octets.partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape").split("\r\n")
        method = lines[0].partition(" ")[0]
        headers, _ = Headers.parse(lines[1:])
        transaction = self._transaction_of(headers, method)
        if transaction is not None:
            transaction.fail(TransportError("the network could not deliver it"))

    def stop(self) -> None:
        """Fail every transaction that waits for its response, and whatever is sent from now on; no timer is left."""
        self._is_stopped = True
        for transaction in list(self._transactions.values()):
            transaction.abandon(TransportError("the service stopped"))

    def queue(self, seconds: float) -> TimerQueue[Timed]:
        """Return the queue of what has to happen in so many *seconds*."""
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = TimerQueue(self._clock, seconds)
        return queue

    def ended(self, transaction: NonInviteClientTransaction) -> None:
        """Forget *transaction*."""
        del self._transactions[transaction.key]

    def _transaction_of(self, headers: Headers, method: str | None = None) -> NonInviteClientTransaction | None:
        """Return the transaction that sent the one Via and has the method of CSeq in *headers*, or None (17.1.3).

        *method* stands for CSeq where that may be cut off.
        """
        try:
            vias = headers.values("Via")
            if len(vias) != 1:  # 8.1.3.3: it was misrouted, or corrupted
                return None
            if method is None:
                method = CSeq(headers.get("CSeq") or "").method
            return self._transactions.get((Via(vias[0]).branch or "", method))
        except MessageSyntaxError:
            return None
