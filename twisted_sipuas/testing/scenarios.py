"""`scenario`: a sequence of messages in plain steps, played against a server on a virtual clock."""

from __future__ import annotations

from typing import Any

from twisted_sipuas.interfaces import ITransactionUser
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing.client import FakeClient, SentRequest
from twisted_sipuas.testing.ladder import summary
from twisted_sipuas.testing.network import VirtualNetwork
from twisted_sipuas.testing.steps import Expected, Step, play

__all__ = ["scenario"]


def scenario(
    user: ITransactionUser | FakeClient, *steps: Step | str, transport: str = "UDP", **options: Any
) -> FakeClient:
    """Play *steps* against the transaction user *user*, with plain words about them in between; returns the client.

    Steps are `send`, `expect`, `step`, `nothing`, `resend`, `answer` and `do`. Whatever is received has to be expected,
    in the order in which it came. The client does nothing but what they say: no ACK goes by itself, and no request
    again. *options* are those of `SIPService`; or give a `FakeClient` of your own network.

    Raises `AssertionError` with the step that failed and what was exchanged.

    >>> client = scenario(
    ...     Greeter(),
    ...     "Alice calls, and hangs up while it rings.",
    ...     send("INVITE"),
    ...     expect(180),
    ...     send("CANCEL"),
    ...     expect(200, "CANCEL"),
    ...     expect(487, "INVITE"),
    ...     "Her ACK is lost, so the 487 comes again.",
    ...     step(0.5),
    ...     expect(487),
    ...     send("ACK"),
    ...     step(32),
    ...     nothing(),
    ... )
    """
    __tracebackhide__ = True  # for pytest: what is of interest is in the message
    if isinstance(user, FakeClient):
        client = user
    else:
        network = VirtualNetwork()
        client = network.client(network.serve(user, **options), transport=transport)
    play(_Caller(client), (*steps, Step("the end", _Caller.nothing_step)), client.network.ladder)  # type: ignore[arg-type]
    return client


class _Caller:
    """Plays the steps of a client."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self._heard = len(client.received)  # what was expected already, or was there before
        self._latest: SentRequest | None = None
        self._invite: SentRequest | None = None
        self._is_over = False  # the call: another INVITE is another call
        self._request: Request | None = None  # the latest of the server's that was expected

    def send_step(self, method: str, **fields: Any) -> None:
        """See `Player`."""
        if method == "ACK":
            self._call("ACK").ack(**fields)
            return
        if method == "CANCEL":
            self._latest = self._call("CANCEL").cancel(**fields)
            return
        dialog = None if self._is_over and method == "INVITE" else self._dialog()
        self._latest = (dialog or self._client).send(method, **fields)
        if method == "INVITE":
            self._invite = self._latest
        self._is_over = method == "BYE" or (self._is_over and method != "INVITE")

    def resend_step(self) -> None:
        """See `Player`."""
        assert self._latest is not None, "nothing was sent that could be sent again"
        self._latest.resend()

    def expect_step(self, expected: Expected) -> None:
        """See `Player`."""
        received = self._client.received
        if self._heard == len(received):
            raise AssertionError(f"expected {expected}, got nothing")
        message = received[self._heard]
        fault = expected.fault_in(message)
        if fault is not None:
            raise AssertionError(fault)
        self._heard += 1
        if isinstance(message, Request):
            self._request = message
            self._is_over = self._is_over or message.method == "BYE"

    def answer_step(self, status: int, **fields: Any) -> None:
        """See `Player`."""
        assert self._request is not None, "there is no request to answer; expect one first"
        self._client.answer(self._request, status, **fields)

    def time_step(self, seconds: float) -> None:
        """See `Player`."""
        self._client.network.step(seconds)

    def nothing_step(self) -> None:
        """See `Player`."""
        rest = self._client.received[self._heard :]
        if rest:
            raise AssertionError(f"expected nothing, got {', '.join(map(summary, rest))}")

    def _dialog(self) -> SentRequest | None:
        """Return the latest INVITE that was accepted, or None."""
        for sent in reversed(self._client.sent):
            if sent.request.method == "INVITE" and any(200 <= status < 300 for status in sent.statuses):
                return sent
        return None

    def _call(self, method: str) -> SentRequest:
        if self._invite is None:
            raise AssertionError(f"there is no INVITE for the {method}; send one first")
        return self._invite
