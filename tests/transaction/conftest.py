"""What do the tests of transactions share? A layer on a clock that is stepped, and a list of what it sent and told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from twisted_sipuas.syntax.fields import CSeq
from twisted_sipuas.testing import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.transaction.layer import TransactionLayer
from twisted_sipuas.transaction.stateless import StatelessLayer

_TOLD = {"request_received": "request", "ack_received": "ack", "transaction_cancelled": "cancelled"}


class Stack:
    """A transaction layer, its transaction user, and one flow to a client. With *is_stateless* it is the stateless one.

    `receive` injects a request, `respond` answers the first one, `step` lets time pass. `sent` and `told` say what
    came of it since they were last asked: ``["302", "200 CANCEL"]``, ``["request", "ended: answered"]``.
    """

    def __init__(
        self,
        transport: str = "UDP",
        answer: Any = None,
        *,
        user: Any = None,
        is_stateless: bool = False,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.flow = RecordingFlow(transport)
        self.user = RecordingTransactionUser(answer) if user is None else user
        self.layer = (StatelessLayer if is_stateless else TransactionLayer)(self.user, self.clock, **options)
        self.request: Any = None
        self._sent = self._told = 0

    def receive(self, method: str = "INVITE", **fields: Any) -> Any:
        """Inject a request of *method*; *fields* are those of `make_request`."""
        return self.inject(make_request(method, transport=self.flow.transport, **fields))

    def inject(self, request: Any, flow: Any = None) -> Any:
        """Inject *request*, on *flow* if it is another one."""
        if self.request is None:
            self.request = request
        flow = flow or self.flow
        self.layer.request_received(request, flow, flow)
        return request

    def respond(self, status: int, **fields: Any) -> None:
        """Let the transaction user answer the first request."""
        self.transaction.respond(self.request.response(status, **fields))

    def step(self, seconds: float, by: float = 0.5) -> Any:
        """Let *seconds* pass, *by* so many at a time; returns the times at which something was sent."""
        times = []
        for _ in range(round(seconds / by)):
            before = len(self.flow.sent)
            self.clock.advance(by)
            times += [self.clock.seconds()] * (len(self.flow.sent) - before)
        return times

    @property
    def transactions(self) -> Any:
        """The transactions that the transaction user was given, in order."""
        return [call[2] for call in self.user.calls if call[0] == "request_received"]

    @property
    def transaction(self) -> Any:
        """The first of them."""
        return self.transactions[0]

    @property
    def last(self) -> Any:
        """The latest response sent."""
        return self.flow.responses[-1]

    def sent(self) -> Any:
        """Return the statuses sent since the last time, naming CANCEL where it is a CANCEL that is answered."""
        responses = self.flow.responses[self._sent :]
        self._sent += len(responses)
        return [f"{response.status}{_of_cancel(response)}" for response in responses]

    def told(self) -> Any:
        """Return what the transaction user was told since the last time."""
        calls = self.user.calls[self._told :]
        self._told += len(calls)
        return [_TOLD[call[0]] if call[0] in _TOLD else f"ended: {call[2].value}" for call in calls]

    def left(self) -> Any:
        """Stop the layer, and return what it leaves behind: transactions owed, waiting, and calls on the clock."""
        self.layer.stop()
        counters = self.layer.counters
        assert not getattr(self.layer, "_merged", {}), "the index of merged requests"
        assert not counters.get("unacknowledged_sources"), "the account of unacknowledged responses"
        return counters["owed"], counters.get("waiting", 0), self.clock.getDelayedCalls()


def _of_cancel(response: Any) -> Any:
    return " CANCEL" if CSeq(response.headers.get("CSeq")).method == "CANCEL" else ""


@pytest.fixture
def new_stack() -> Iterator[Any]:
    """Makes a `Stack`; whatever the test did to it, the layer leaves nothing behind when it stops."""
    made = []

    def make(*arguments: Any, **options: Any) -> Any:
        made.append(Stack(*arguments, **options))
        return made[-1]

    yield make
    for stack in made:
        assert stack.left() == (0, 0, [])
        assert stack.layer.counters["owed_octets"] == 0
