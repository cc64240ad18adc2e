"""Whatever comes, in whatever order: is nothing lost and nothing left behind?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transaction.answers import challenge
from twisted_sipuas.interfaces import EndReason
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.transaction.server import State

EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("receive"),
            st.sampled_from(["INVITE", "ACK", "CANCEL", "MESSAGE"]),
            st.sampled_from(["z9hG4bK1", "z9hG4bK2", "z9hG4bK3", "4"]),
        ),
        st.tuples(
            st.just("respond"),
            st.sampled_from(["respond", "respond_statelessly"]),
            st.sampled_from([100, 180, 200, 302, 408, 487]),
            st.integers(0, 5),
        ),
        st.tuples(st.just("step"), st.sampled_from([0.1, 0.5, 5.0, 32.0])),
        st.tuples(st.just("fail"), st.booleans()),
    ),
    max_size=30,
)
AT_ONCE = st.lists(st.sampled_from([None, 180, 200, 302, 408, "stateless"]), max_size=10)


@given(
    events=EVENTS,
    at_once=AT_ONCE,
    transport=st.sampled_from(["UDP", "TCP"]),
    max_transactions=st.integers(1, 4),
    max_waiting=st.integers(0, 3),
    drained_after=st.integers(0, 40),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)  # each example has its own
def test_any_order(
    new_stack: Callable[..., Any],
    events: Any,
    at_once: Any,
    transport: Any,
    max_transactions: Any,
    max_waiting: Any,
    drained_after: Any,
) -> None:
    """In any order of inputs each transaction ends exactly once, the bounds hold, and nothing is left behind."""
    answers = iter(at_once)

    def answer(request: Request, transaction: Any) -> None:
        status = next(answers, None)
        if status == "stateless":
            challenge(request, transaction)
        elif status is not None:
            transaction.respond(request.response(status))

    stack = new_stack(transport, answer, max_transactions=max_transactions, max_waiting=max_waiting)
    for number, (kind, *arguments) in enumerate(events):
        if number == drained_after:
            stack.layer.drain(5.0)
        if kind == "receive":
            method, branch = arguments
            stack.receive(method, branch=branch)
        elif kind == "respond" and stack.transactions:
            how, status, which = arguments
            requests = [call[1] for call in stack.user.calls if call[0] == "request_received"]
            which %= len(requests)
            getattr(stack.transactions[which], how)(requests[which].response(status))
        elif kind == "step":
            stack.step(arguments[0], by=0.1 if arguments[0] < 0.5 else 0.5)
        elif kind == "fail":
            stack.flow.failure = "no route to host" if arguments[0] else None
        counters = stack.layer.counters
        assert 0 <= counters["owed"] <= max_transactions
        assert 0 <= counters["waiting"] <= max_waiting
        ended = [call[1] for call in stack.user.calls if call[0] == "transaction_ended"]
        alive = [transaction for transaction in stack.transactions if transaction not in ended]
        assert all(transaction.state is not State.TERMINATED for transaction in alive)
        owed = [transaction for transaction in alive if transaction.is_owed]
        assert counters["owed"] == len(owed)

    assert stack.left() == (0, 0, [])
    ended = [call[1] for call in stack.user.calls if call[0] == "transaction_ended"]
    assert len(ended) == len(set(ended))
    assert set(ended) == set(stack.transactions)
    assert all(isinstance(call[2], EndReason) for call in stack.user.calls if call[0] == "transaction_ended")
