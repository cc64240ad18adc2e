"""Requests as they are received, and a flow and a transaction user that keep what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import Address, EndReason, IFlow, IServerTransaction, ITransactionUser
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message

__all__ = ["RecordingFlow", "RecordingTransactionUser", "make_request"]


def make_request(
    method: str = "INVITE",
    uri: str = "sip:bob@example.com",
    *,
    branch: str = "z9hG4bK74bf9",
    sent_by: str = "192.0.2.1:5060",
    transport: str = "UDP",
    from_tag: str = "9fxced76sl",
    to: str | None = None,
    call_id: str = "3848276298220188511@192.0.2.1",
    cseq: int = 1,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
) -> Request:
    """Return a request as it is received: printed, and parsed again.

    *to* is the whole To header field, by default *uri* without a tag; *headers* are further ``(name, value)`` pairs.
    An INVITE has a Contact of its sent-by, unless *headers* have one, which may be empty for none.
    """
    contact = [("Contact", f"<sip:alice@{sent_by}>")] if method == "INVITE" else []
    given = tuple(headers)
    if any(name.lower() in ("contact", "m") for name, _ in given):
        contact = []
    others = (row for row in given if row != ("Contact", ""))
    rows = (
        ("Via", f"SIP/2.0/{transport} {sent_by};branch={branch}"),
        ("Max-Forwards", "70"),
        ("From", f"Alice <sip:alice@example.com>;tag={from_tag}"),
        ("To", f"<{uri}>" if to is None else to),
        ("Call-ID", call_id),
        ("CSeq", f"{cseq} {method}"),
    )
    message = parse_message(Request(method, uri, (*rows, *contact, *others), body).to_bytes())
    assert isinstance(message, Request)
    return message


@implementer(IFlow)
class RecordingFlow:
    """An `IFlow` that keeps what is sent on it.

    *transport* is ``UDP``, ``TCP`` or ``TLS``; *remote_address* and *local_address* are ``(host, port)``. `sent` has
    one ``(octets, address)`` a message, `responses` the same parsed. Set `failure` to a text, and sending fails so.
    """

    def __init__(
        self,
        transport: str = "UDP",
        remote_address: tuple[str, int] = ("192.0.2.1", 5060),
        local_address: tuple[str, int] = ("198.51.100.1", 5060),
    ) -> None:
        self.transport = transport
        self.is_reliable = transport != "UDP"
        self.remote_address = Address(*remote_address)
        self.local_address = Address(*local_address)
        self.advertised_address = self.local_address
        self.peer_certificate: object = None
        self.peer_identities: tuple[str, ...] = ()
        self.closed = False
        self.failure: str | None = None
        self._closing: set[Deferred[None]] = set()
        self.sent: list[tuple[bytes, Address]] = []

    @property
    def responses(self) -> list[Response]:
        """The responses sent, in order."""
        return [message for data, _ in self.sent if isinstance(message := parse_message(data), Response)]

    def send(self, data: bytes) -> None:
        """See `IFlow`."""
        if self.failure is not None:
            raise TransportError(self.failure)
        self.sent.append((data, self.remote_address))

    def when_closed(self) -> Deferred[None]:
        """See `IFlow`."""
        waiter: Deferred[None] = Deferred(self._closing.discard)
        if self.closed:
            waiter.callback(None)
        else:
            self._closing.add(waiter)
        return waiter

    def close(self) -> None:
        """Let the connection be gone."""
        self.closed = True
        closing, self._closing = self._closing, set()
        for waiter in closing:
            waiter.callback(None)

    def towards(self, address: Address, ttl: int | None = None) -> RecordingFlow:
        """See `IFlow`; what is sent on the flow returned is in this one's `sent` too. *ttl* changes nothing."""
        flow = RecordingFlow(self.transport, address, self.local_address)
        flow.sent = self.sent
        flow.failure = self.failure
        return flow


@implementer(ITransactionUser)
class RecordingTransactionUser:
    """An `ITransactionUser` that writes each call into the list `calls`, as the method's name and arguments.

    *answer* is called with the request and the transaction, and does what a handler would; by default nothing.
    """

    def __init__(self, answer: Callable[[Request, IServerTransaction], object] | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answer = answer

    def request_received(self, request: Request, transaction: IServerTransaction) -> object:
        """See `ITransactionUser`."""
        self.calls.append(("request_received", request, transaction))
        return None if self._answer is None else self._answer(request, transaction)

    def ack_received(self, ack: Request, flow: IFlow) -> None:
        """See `ITransactionUser`."""
        self.calls.append(("ack_received", ack, flow))

    def transaction_cancelled(self, transaction: IServerTransaction) -> None:
        """See `ITransactionUser`."""
        self.calls.append(("transaction_cancelled", transaction))

    def transaction_ended(self, transaction: IServerTransaction, reason: EndReason) -> None:
        """See `ITransactionUser`."""
        self.calls.append(("transaction_ended", transaction, reason))
