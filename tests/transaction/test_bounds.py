"""Is what the layer keeps bounded, and does it stop in order?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.transaction.answers import answering, to_tag
from twisted_sipuas.interfaces import IServerTransaction
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingTransactionUser

# Bounds


def test_bound_on_transactions(new_stack: Callable[..., Any]) -> None:
    """Beyond the bound a new request gets a stateless 503 with Retry-After, the same each time (21.5.4, 8.2.7)."""
    stack = new_stack(max_transactions=1)
    stack.receive("INVITE")
    for _ in range(2):
        stack.receive("MESSAGE")

    assert stack.sent() == ["503", "503"]
    assert stack.flow.sent[0] == stack.flow.sent[1]
    assert stack.last.headers.get("Retry-After") == "5"
    assert to_tag(stack.last)
    assert stack.told() == ["request"]
    assert stack.layer.counters == {
        "owed": 1,
        "owed_octets": stack.transaction.request.size,
        "waiting": 0,
        "waiting_octets": 0,
        "refused": 2,
        "malformed": 0,
        "waiting_dropped": 0,
        "ack_timeouts": 0,
        "send_failures": 0,
        "dropped_responses": 0,
        "withheld": 0,
        "sent_once": 0,
        "unacknowledged_sources": 0,
        "proven_sources": 0,
    }


def test_bound_spares_what_is_known(new_stack: Callable[..., Any]) -> None:
    """At the bound retransmissions, ACKs and CANCELs are served, for these are how it gets better (17.2.3, 9.2)."""
    stack = new_stack(max_transactions=1)
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.receive("CANCEL")
    stack.respond(487)
    stack.receive("INVITE")
    assert stack.sent() == ["200 CANCEL", "200 CANCEL", "487", "487"]
    assert stack.told() == ["request", "cancelled"]
    stack.receive("CANCEL", branch="z9hG4bK2")
    assert stack.sent() == ["503 CANCEL"]

    stack.receive("ACK")

    assert stack.layer.counters["owed"] == 0
    stack.receive("MESSAGE")
    assert stack.told() == ["request"]


def test_bound_counts_only_what_is_owed(new_stack: Callable[..., Any]) -> None:
    """A transaction that waits out its timer is owed nothing, and does not count against the bound (17.2.2)."""
    stack = new_stack(answer=answering(404), max_transactions=1)
    for number in range(5):
        stack.receive("MESSAGE", branch=f"z9hG4bK{number}")

    assert stack.sent() == ["404"] * 5
    assert (stack.layer.counters["owed"], stack.layer.counters["waiting"]) == (0, 5)


def test_503_that_cannot_be_sent(new_stack: Callable[..., Any]) -> None:
    """A stateless refusal that cannot be sent is counted, and nothing else comes of it (17.2.4)."""
    stack = new_stack(max_transactions=0)
    stack.flow.failure = "no route to host"
    stack.receive("MESSAGE")

    assert (stack.layer.counters["refused"], stack.layer.counters["send_failures"]) == (1, 1)
    assert stack.told() == []


def test_bound_on_waiting_transactions(new_stack: Callable[..., Any]) -> None:
    """Of too many transactions that wait out a timer the oldest is dropped, and its retransmission is a new request."""
    stack = new_stack(answer=answering(404), max_waiting=2)
    for number in (1, 2, 3):
        stack.receive("MESSAGE", branch=f"z9hG4bK{number}")
    assert stack.told() == ["request", "request", "request", "ended: answered"]
    assert stack.user.calls[-1][1] is stack.transaction
    assert (stack.layer.counters["waiting"], stack.layer.counters["waiting_dropped"]) == (2, 1)

    stack.receive("MESSAGE", branch="z9hG4bK3")
    assert stack.told() == []
    stack.receive("MESSAGE", branch="z9hG4bK1")
    assert stack.told() == ["request", "ended: answered"]


@pytest.mark.parametrize("status", [200, 404])
def test_no_waiting_at_all(new_stack: Callable[..., Any], status: int) -> None:
    """With room for none, each transaction is dropped as it begins to wait, the INVITE's too (17.2.1)."""
    stack = new_stack(answer=answering(status), max_waiting=0)
    stack.receive("MESSAGE")
    stack.receive("INVITE")
    stack.receive("CANCEL", branch="z9hG4bK2")
    stack.receive("ACK")

    assert stack.told()[:4] == ["request", "ended: answered", "request", "ended: answered"]
    assert (stack.layer.counters["owed"], stack.layer.counters["waiting"]) == (0, 0)
    assert stack.clock.getDelayedCalls() == []


def test_dropped_transaction_ends_as_it_would_have(new_stack: Callable[..., Any]) -> None:
    """What is told of a transaction that is dropped is what its timer would have told: here, that it was cancelled."""
    stack = new_stack(max_waiting=0)
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.respond(487)
    stack.receive("ACK")

    assert stack.told() == ["request", "cancelled", "ended: cancelled"]


def test_counters_are_read_only(new_stack: Callable[..., Any]) -> None:
    """`counters` is a view that nobody can write to."""
    with pytest.raises(TypeError):
        new_stack().layer.counters["refused"] = 1


def test_octets_that_wait_are_bounded(new_stack: Callable[..., Any]) -> None:
    """Responses kept for retransmissions are bounded in octets too; the oldest is dropped, and counted."""
    stack = new_stack(
        answer=lambda request, transaction: transaction.respond(
            request.response(200, body=b"x" * 1000, content_type="text/plain")
        )
    )
    stack.layer._max_waiting_octets = 5000
    for number in range(10):
        stack.receive("OPTIONS", branch=f"z9hG4bK{number}")

    assert stack.layer.counters["waiting_octets"] <= 5000
    assert stack.layer.counters["waiting"] + stack.layer.counters["waiting_dropped"] == 10
    assert stack.layer.counters["waiting"] >= 3


# Stopping


def test_drain_with_nothing_owed(new_stack: Callable[..., Any]) -> None:
    """With nothing owed, draining is done at once, whatever waits out a timer."""
    stack = new_stack(answer=answering(404))
    stack.receive("MESSAGE")

    assert stack.layer.drain(5.0).called


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_drain_waits_for_what_is_owed(new_stack: Callable[..., Any], transport: Any) -> None:
    """Draining refuses new requests, serves the old ones, and is done with the last answer and the last ACK."""
    stack = new_stack(transport)
    stack.receive("INVITE")
    drained = stack.layer.drain(5.0)
    stack.receive("MESSAGE")
    assert stack.sent() == ["503"]
    assert stack.last.headers.get("Retry-After") == "5"

    stack.receive("CANCEL")
    stack.respond(487)
    stack.receive("INVITE")
    assert stack.sent() == ["200 CANCEL", "487", "487"]
    assert not drained.called

    stack.receive("ACK")
    assert drained.called
    stack.step(32)
    assert stack.told() == ["request", "cancelled", "ended: cancelled"]


@pytest.mark.parametrize("is_stateless", [False, True])
def test_drain_after_a_fault_of_the_layer(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """A request whose handing over ended in a fault that nobody took is not waited for when the server ends."""

    class Nameless(RecordingTransactionUser):
        """Raises, and then again when it is asked what that was."""

        def handler_name(self, method: str) -> str:
            raise RuntimeError("no name")

    def fail(request: Request, transaction: IServerTransaction) -> None:
        raise ValueError

    stack = new_stack(user=Nameless(fail), is_stateless=is_stateless)
    with pytest.raises(RuntimeError, match="no name"):
        stack.receive("MESSAGE")

    assert stack.layer.drain(5.0).called


def test_drain_has_a_limit(new_stack: Callable[..., Any]) -> None:
    """Draining is done after its time, whatever is still owed; an answer after that does no harm."""
    stack = new_stack()
    stack.receive("MESSAGE")
    drained = stack.layer.drain(5.0)
    stack.step(4.5)
    assert not drained.called

    stack.step(0.5)

    assert drained.called
    stack.respond(404)
    assert stack.sent() == ["100", "404"]


def test_drain_twice(new_stack: Callable[..., Any]) -> None:
    """Who asks to drain while that is going on, or after it, is told too, and nobody is forgotten."""
    stack = new_stack()
    stack.receive("MESSAGE")
    first, second = stack.layer.drain(5.0), stack.layer.drain(5.0)
    assert (first.called, second.called) == (False, False)

    stack.respond(404)

    assert (first.called, second.called) == (True, True)
    assert stack.layer.drain(5.0).called


def test_stop_ends_everything(new_stack: Callable[..., Any]) -> None:
    """Stopping ends each transaction in whatever state, and leaves no call on the clock."""
    stack = new_stack()
    for number, status in enumerate((None, 180, 200, 302, 486)):
        stack.receive("INVITE", branch=f"z9hG4bK{number}")
        if status is not None:
            stack.transactions[-1].respond(stack.request.response(status))
    stack.receive("ACK", branch="z9hG4bK4")
    stack.receive("CANCEL", branch="z9hG4bK0")
    stack.receive("MESSAGE")
    stack.layer.drain(5.0)
    stack.told()

    stack.layer.stop()

    assert stack.told() == ["ended: shutdown"] * 6
    assert stack.clock.getDelayedCalls() == []
    stack.transactions[-1].respond(stack.request.response(200))
    assert stack.sent()[-1] != "200"
    stack.layer.stop()
    assert stack.told() == []


def test_stop_from_within_drain(new_stack: Callable[..., Any]) -> None:
    """Who drains may stop as soon as that is done, though the last transaction is just entering its next state."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.layer.drain(5.0).addCallback(lambda _: stack.layer.stop())
    stack.respond(302)
    stack.receive("ACK")

    assert stack.told() == ["request", "ended: shutdown"]
    assert stack.clock.getDelayedCalls() == []


def test_answer_from_within_the_end(new_stack: Callable[..., Any]) -> None:
    """A transaction user that answers a transaction as it ends is not heard (17.2.1)."""

    class User(RecordingTransactionUser):
        def transaction_ended(self, transaction: Any, reason: Any) -> None:
            super().transaction_ended(transaction, reason)
            transaction.respond(stack.request.response(500))
            transaction.respond_statelessly(stack.request.response(500))

    stack = new_stack(user=User())
    stack.receive("INVITE")
    stack.layer.stop()

    assert stack.sent() == ["503"]
    assert stack.told() == ["request", "ended: shutdown"]


@pytest.mark.parametrize("is_stateless", [False, True])
def test_octets_of_requests_that_are_owed_an_answer(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """Requests whose handlers take their time are bounded by octets, not by number alone: more get 503 (21.5.4)."""
    stack = new_stack(is_stateless=is_stateless)
    stack.layer._max_held_octets = 3000
    for number in range(4):
        stack.receive("MESSAGE", branch=f"z9hG4bK{number}", call_id=str(number), body=b"x" * 1000)
    assert stack.sent() == ["503"]
    assert stack.layer.counters["refused"] == 1
    stack.respond(200)
    stack.receive("MESSAGE", branch="z9hG4bK9", call_id="9")
    assert stack.sent() == ["200"]
    assert len(stack.transactions) == 4


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_octets_of_responses_that_wait_for_their_ack(new_stack: Callable[..., Any], transport: Any) -> None:
    """The final response to an INVITE counts until its ACK comes."""
    stack = new_stack(transport)
    stack.receive("INVITE")
    before = stack.layer.counters["owed_octets"]
    assert before == stack.transaction.request.size > 0
    stack.respond(486)
    assert stack.layer.counters["owed_octets"] == len(stack.flow.sent[-1][0])
    stack.receive("ACK", to=stack.last.headers.get("To"))
    assert stack.layer.counters["owed_octets"] == 0
