"""Answering without transactions: nothing is kept of a request that was answered (RFC 3261, 8.2.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from twisted_sipuas.deferreds import call
from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import EndReason, IFlow, IServerTransaction, ITransactionUser
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.transaction.admission import Admission
from twisted_sipuas.transaction.base import BaseLayer, Redeliver, Trace, log_failure
from twisted_sipuas.transaction.sources import trusts_nobody
from twisted_sipuas.transaction.table import transaction_key

__all__ = ["StatelessLayer"]

_ANSWERED = EndReason.ANSWERED  # before Python 3.12, to name a member by its class takes ten times as long
_TOO_LONG = "The Answer Is Too Long for UDP"


@implementer(IServerTransaction)
class _StatelessTransaction:
    """One request that is being answered; see `IServerTransaction`.

    Provisional responses are swallowed, the final one is sent once. It is never cancelled: a CANCEL is ignored (8.2.7).
    """

    __slots__ = (
        "_layer",
        "_route",
        "dialog",
        "flow",
        "identity",
        "key",
        "method",
        "outcome",
        "request",
        "size",
        "to_tag",
    )

    is_stateful = False
    is_merged = False
    cancelled = False

    def __init__(self, key: str, request: Request, flow: IFlow, route: IFlow, layer: StatelessLayer) -> None:
        self.key = key
        self.method = request.method
        self.request: Request | None = request
        self.size = request.size
        self.to_tag = request.to.tag or layer.stateless_tag(request)
        self.flow = flow
        self.identity: object = None
        self.dialog: object = None
        self.outcome = _ANSWERED
        self._route = route
        self._layer = layer

    @property
    def ended(self) -> bool:
        """Whether it is over and sends nothing any more."""
        return self.request is None

    def when_cancelled(self) -> Deferred[None]:
        """See `IServerTransaction`; this one never fires."""
        return Deferred()

    def respond(self, response: Response) -> None:
        """See `IServerTransaction`."""
        if self.request is None:
            self._layer.dropped(self.method, response, self.outcome)
            return
        if response.status < 200:
            return  # 8.2.7: it must not send provisional responses
        if response.status == 408 and self.method != "INVITE":
            self._layer.traced(self.request, None, self.flow)
            self.abandon(self.outcome)  # RFC 4320, 4.2: the client has given up by itself
            return
        data = self._octets(response, self.request)
        if data is None:
            self.abandon(self.outcome)
            return
        self._layer.traced(self.request, response, self.flow)
        try:
            self._route.send(data)
        except TransportError:
            if not self._layer.redeliver(data, self._route):
                self.abandon(EndReason.TRANSPORT_FAILED)
                return
        self.abandon(self.outcome)

    def _octets(self, response: Response, request: Request) -> bytes | None:
        """Return *response* as it is sent; of a source that may be forged none that is too long for its *request*.

        In its place that one gets a 500 that says why, if that is short enough.
        """
        layer = self._layer
        if self.identity is not None or layer.is_trusted(self._route.remote_address.host):
            return response.to_bytes(self.to_tag, layer.server_header)
        data = layer.stateless_octets(response, request, self._route, self.to_tag)
        if data is None:
            data = layer.stateless_octets(request.response(500, _TOO_LONG, rule="amplification"), request, self._route)
        return data

    def respond_statelessly(self, response: Response) -> None:
        """See `IServerTransaction`."""
        self.respond(response)

    def abandon(self, reason: EndReason) -> None:
        """End the transaction now, whatever is owed."""
        if self.request is not None:
            self.request = None
            self.outcome = reason
            self._layer.ended(self, reason)

    def __repr__(self) -> str:
        return f"<stateless transaction {self.method}>"


class StatelessLayer(BaseLayer):
    """Stands between the transports and one transaction user, without keeping transactions (8.2.7).

    It has the face of `TransactionLayer`, and a transaction user need not know which of them it has. ACK and CANCEL are
    ignored. A retransmission is answered as if it were the first, with the same To tag; but while a handler is at the
    first one, it is ignored. At most *max_transactions* may be so pending: more are refused with 503.

    *server_header*, *redeliver*, *key*, *trace*, *admission* and *is_trusted* are as for `TransactionLayer`. Raises
    `ValueError` for a transaction user with `needs_transactions`, such as a registrar: to it a retransmission is not
    the same again.
    """

    unanswered = frozenset(("ACK", "CANCEL"))

    def __init__(
        self,
        transaction_user: ITransactionUser,
        clock: IReactorTime,
        *,
        server_header: str | None = None,
        max_transactions: int = 100_000,
        redeliver: Redeliver | None = None,
        key: bytes | None = None,
        trace: Trace | None = None,
        admission: Admission | None = None,
        is_trusted: Callable[[str], bool] = trusts_nobody,
    ) -> None:
        if getattr(transaction_user, "needs_transactions", False):
            raise ValueError(f"{type(transaction_user).__name__} cannot be stateless")
        super().__init__(
            transaction_user,
            clock,
            server_header=server_header,
            max_transactions=max_transactions,
            redeliver=redeliver,
            key=key,
            trace=trace,
            admission=admission,
            is_trusted=is_trusted,
        )
        self._pending: dict[tuple[str, str], _StatelessTransaction] = {}

    @property
    def owed(self) -> int:
        """How many requests have a handler that is at them."""
        return len(self._pending)

    def _transactions(self) -> Iterable[_StatelessTransaction]:
        return list(self._pending.values())

    def request_received(self, request: Request, flow: IFlow, route: IFlow) -> None:
        """Hand *request* to the transaction user, unless it is at it already; *route* is the way back."""
        if request.method in self.unanswered:
            self.traced(request, None, flow)
            return
        try:
            key = transaction_key(request)
            if (key, request.method) in self._pending:
                return
            if self._is_refused(request, flow, route):
                return
            transaction = _StatelessTransaction(key, request, flow, route, self)
        except MessageSyntaxError as fault:
            self.refuse_malformed(request, fault, route)
            return
        self._handed_over += 1
        try:
            self._tell(transaction, self._transaction_user.request_received, request, transaction)
        finally:
            self._handed_over -= 1
        if self._is_stopped:
            transaction.abandon(EndReason.SHUTDOWN)
        elif not transaction.ended:
            self._pending[key, request.method] = transaction
            self.holds(request.size)
        if self._drained is not None:
            self._check_drained()

    def response_lost(self, octets: bytes) -> None:
        """Nothing is left that could send a response again (8.2.7)."""

    def sending_failed(self, octets: bytes) -> None:
        """A response turned out undeliverable: nothing is left of it that could be told."""

    def ended(self, transaction: _StatelessTransaction, reason: EndReason) -> None:
        """Forget *transaction*, and tell the transaction user."""
        if self._pending.pop((transaction.key, transaction.method), None) is not None:
            self.holds(-transaction.size)
        if reason is not _ANSWERED and reason is EndReason.TRANSPORT_FAILED:
            self._counters["send_failures"] += 1
        call(self._transaction_user.transaction_ended, transaction, reason, failed=log_failure)
        if self._drained is not None:
            self._check_drained()
