"""What is sent, resent and absorbed in each state of an INVITE server transaction (RFC 3261, 17.2.1; RFC 6026)?"""

from __future__ import annotations

from twisted_sipuas.interfaces import EndReason
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.transaction.queues import Timed
from twisted_sipuas.transaction.server import Keeper, ServerTransaction, State, timestamp

__all__ = ["InviteServerTransaction"]

# Before Python 3.12, to name a member by its class takes ten times as long.
_PROCEEDING = State.PROCEEDING
_COMPLETED = State.COMPLETED
_CONFIRMED = State.CONFIRMED
_ACCEPTED = State.ACCEPTED
_ANSWERED = EndReason.ANSWERED


class InviteServerTransaction(ServerTransaction):
    """The INVITE server transaction (17.2.1, figure 7, with the Accepted state of RFC 6026, figure 5).

    A 300 to 699 is resent until its ACK comes, unless its source has too many of them unacknowledged (`Sources`); then
    it is sent once. A 2xx is the transaction user's to resend.
    """

    __slots__ = ("_is_tag_ours", "_retransmission", "_source")

    initial_state = _PROCEEDING

    def _prepare(self, request: Request) -> None:
        self._is_tag_ours = request.to.tag is None
        self._retransmission: _Retransmission | None = None
        self._source: str | None = None

    @property
    def is_owed(self) -> bool:
        """Whether a final response or an ACK is still to come."""
        return self.state is _PROCEEDING or self.state is _COMPLETED

    def start(self) -> None:
        """Send a 100 in 200 ms unless the transaction user is faster (17.2.1)."""
        if self.state is _PROCEEDING and self._last_response is None:
            self._keeper.queue(self._keeper.timers.trying_delay).append(self)

    def timed_out(self) -> None:
        """The timer of the state fired: the 200 ms, or Timer H, I or L."""
        if self.state is _PROCEEDING:
            self._provisional(self._trying(self._keeper.timers.trying_delay, "17.2.1-2"))
        elif self.state is _COMPLETED:
            if self._source is not None:
                self._keeper.sources.disprove(self._source)
            self._terminate(EndReason.ACK_TIMEOUT)  # 17.2.1, Timer H: no ACK ever came
        else:
            # 17.2.1, Timer I: no more ACKs are to be expected; RFC 6026, 7.1, Timer L: no more INVITEs are.
            self._terminate(self.outcome)

    def _answer_retransmission(self) -> None:
        """Resend the latest provisional, or in Completed the final response; else absorb it (17.2.1, RFC 6026)."""
        if self.state is _PROCEEDING or self.state is _COMPLETED:
            self._resend()

    def ack_received(self, to_tag: str | None) -> bool:
        """Take an ACK with *to_tag*; returns False in Accepted, where it is the transaction user's (RFC 6026, 7.1)."""
        if self.state is _COMPLETED:
            if self._source is not None and self._is_tag_ours and to_tag == self.to_tag:
                self._keeper.sources.prove(self._source)
            self._enter(_CONFIRMED)
            if self.flow.is_reliable:  # Timer I is zero
                self._terminate(self.outcome)
            else:
                self._last_response = None
                self._keeper.waits(self, self._keeper.timers.t4)
        return self.state is not _ACCEPTED

    def respond(self, response: Response) -> None:
        """See `IServerTransaction`."""
        status = response.status
        if self.state is _PROCEEDING:
            if status < 200:
                self._provisional(self._with_timestamp(response) if status == 100 else response)
            else:
                self._respond_finally(response)
        elif self.state is _ACCEPTED and 200 <= status < 300:  # RFC 6026: a 2xx, resent through us
            data = self._octets(response)
            if self._admits_length(data):
                self._send(data)
        else:  # Completed, Confirmed, Terminated: the final response went out
            self._keeper.dropped(self.method, response, self.outcome)

    def _with_timestamp(self, response: Response) -> Response:
        """Return the transaction user's own 100 with the Timestamp that it has to have (8.2.6.1)."""
        assert self.request is not None
        if "Timestamp" in response.headers:
            return response
        delay = 0.0 if self._queue is None else self._keeper.clock.seconds() - self.since
        headers = response.headers
        for name, value in timestamp(self.request, max(0.0, delay)):
            headers = headers.added(name, value)
        return Response(response.status, response.reason, headers, response.body, rule=response.rule)

    def _provisional(self, response: Response) -> None:
        data = self._octets(response)
        self.stop_waiting()
        self._send_first(data, self._is_admitted(data, response))

    def _respond_finally(self, response: Response) -> None:
        data = self._octets(response)
        may_go = self._is_admitted(data, response)
        if response.status < 300:
            self._accept(data if may_go else None)
        elif self.flow.is_reliable or (may_go and self._admits(data)):
            self._complete(data)
        else:
            self._respond_once(response, data if may_go else None)

    def _accept(self, data: bytes | None) -> None:
        self._finish(_ACCEPTED)
        self._last_response = None
        if self.cancelled:
            self.outcome = _ANSWERED  # the transaction user took the call all the same
        self._send(data)
        if self.state is _ACCEPTED:
            self._keeper.waits(self, self._keeper.timers.lifetime)

    def _complete(self, data: bytes) -> None:
        keeper = self._keeper
        self._finish(_COMPLETED)
        keeper.holds(len(data))
        if not self.flow.is_reliable:
            self._retransmission = _Retransmission(self, keeper)
        keeper.queue(keeper.timers.lifetime).append(self)
        self._send(data)

    def _admits(self, data: bytes) -> bool:
        """Whether the source may have one more response, *data*, that is resent until its ACK comes."""
        source = self._route.remote_address.network
        if not self._keeper.sources.admit(source, len(data)):
            return False
        self._source = source
        return True

    def _respond_once(self, response: Response, data: bytes | None) -> None:
        """Send the final *response*, of the octets *data* (None: say nothing), and forget the transaction (8.2.7).

        A retransmission of the INVITE is then a new one, and where our tag was in no response yet, it is one that comes
        out the same again.
        """
        assert self.request is not None
        if data is not None and self._is_tag_ours and self._last_response is None and not self.cancelled:
            self.to_tag = self._keeper.stateless_tag(self.request)
            data = response.to_bytes(self.to_tag, self._keeper.server_header)
        self._keeper.sent_once()
        self._send_and_forget(data)

    def _enter(self, state: State) -> None:
        if self._retransmission is not None:
            self._retransmission.stop_waiting()
            self._retransmission = None
        if self.state is _COMPLETED:
            self._keeper.holds(-self.octets)
            if self._source is not None:
                self._keeper.sources.release(self._source, self.octets)
                self._source = None
        self.state = state
        if self._queue is not None:
            self._queue.remove(self)


class _Retransmission(Timed):
    """Timer G: resends the final response to an INVITE at intervals that double up to T2 (17.2.1)."""

    __slots__ = ("_interval", "_keeper", "_transaction")

    def __init__(self, transaction: InviteServerTransaction, keeper: Keeper) -> None:
        self._queue = None
        self._transaction = transaction
        self._keeper = keeper
        self._interval = keeper.timers.t1
        keeper.queue(self._interval).append(self)

    def timed_out(self) -> None:
        self._interval = min(2 * self._interval, self._keeper.timers.t2)
        self._keeper.queue(self._interval).append(self)
        self._transaction._resend()
