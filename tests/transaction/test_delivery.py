"""Do responses go the right way, and what becomes of a transaction whose responses do not arrive?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from twisted_sipuas.syntax.message import Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow, make_request
from twisted_sipuas.transaction.server import State


@pytest.mark.requirement("17.2.3-7")
def test_response_goes_by_the_transaction_it_is_given_to(new_stack: Callable[..., Any]) -> None:
    """A response is handed to a definite transaction, whatever its header fields say: it is not matched (17.2.3)."""
    stack = new_stack()
    first = stack.receive("MESSAGE", branch="z9hG4bK1")
    other = RecordingFlow(remote_address=("192.0.2.2", 5060))
    stack.inject(make_request("MESSAGE", branch="z9hG4bK2", sent_by="192.0.2.2"), other)
    stack.transactions[1].respond(first.response(200))

    assert (len(stack.flow.sent), len(other.sent)) == (0, 1)
    assert [transaction.state for transaction in stack.transactions] == [State.TRYING, State.COMPLETED]


def test_flows_are_told_apart(new_stack: Callable[..., Any]) -> None:
    """A response goes by the route that came with the request, and `flow` is where the request came from (18.2.2)."""
    stack = new_stack()
    route = RecordingFlow(remote_address=("192.0.2.1", 5099))
    stack.layer.request_received(make_request("MESSAGE"), stack.flow, route)

    assert stack.transaction.flow is stack.flow
    stack.transaction.respond(make_request("MESSAGE").response(200))
    assert (len(stack.flow.sent), len(route.sent)) == (0, 1)


# Another way for a response (17.2.4; 18.2.2)


class Delivery:
    """Is asked for another way, and answers *answer*; `asked` has the octets and routes."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []
        self.octets: list[Any] = []

    def __call__(self, octets: Any, route: Any) -> Any:
        self.octets.append(octets)
        response = parse_message(octets)
        assert isinstance(response, Response)
        self.asked.append((response.status, route))
        return self.answer


RESPONSES = [("INVITE", 180), ("INVITE", 200), ("INVITE", 486), ("MESSAGE", 200)]


@pytest.mark.requirement("17.2.4-1", "3263-1")
@pytest.mark.parametrize(("method", "status"), RESPONSES)
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_other_way_is_tried_first(new_stack: Callable[..., Any], transport: Any, method: str, status: int) -> None:
    """A transaction whose response goes another way stays as it is: nothing is told (17.2.4)."""
    delivery = Delivery(True)
    stack = new_stack(transport, redeliver=delivery)
    stack.receive(method)
    stack.flow.failure = "no route to host"
    stack.respond(status)

    assert delivery.asked == [(status, stack.flow)]
    is_over = transport == "TCP" and method == "MESSAGE"  # with Timer J of zero
    assert stack.told() == ["request", *(["ended: answered"] if is_over else [])]
    assert stack.layer.counters["send_failures"] == 0


@pytest.mark.requirement("17.2.4-2", "17.2.4-3")
@pytest.mark.parametrize(("method", "status"), RESPONSES)
@pytest.mark.parametrize("answer", [False, None])
def test_no_other_way(new_stack: Callable[..., Any], method: str, status: int, answer: Any) -> None:
    """If there is no other way, the transaction user is told, and the transaction is over (17.2.4)."""
    stack = new_stack(redeliver=Delivery(answer))
    stack.receive(method)
    stack.flow.failure = "no route to host"
    stack.respond(status)

    assert stack.told() == ["request", "ended: transport failed"]
    assert stack.layer.counters["send_failures"] == 1


@pytest.mark.requirement("17.2.4-1")
def test_other_way_for_each_retransmission(new_stack: Callable[..., Any]) -> None:
    """Timer G goes on, and each retransmission that fails goes the other way (17.2.1, 17.2.4)."""
    delivery = Delivery(True)
    stack = new_stack(redeliver=delivery)
    stack.receive("INVITE")
    stack.flow.failure = "no route to host"
    stack.respond(486)
    stack.step(1.5)

    assert len(delivery.asked) == 3


@pytest.mark.parametrize("answer", [True, False])
def test_other_way_for_stateless_responses(new_stack: Callable[..., Any], answer: Any) -> None:
    """What is sent without a transaction may go another way too, and counts as failed if there is none (18.2.2)."""
    delivery = Delivery(answer)
    stack = new_stack(redeliver=delivery, max_transactions=0)
    stack.flow.failure = "no route to host"
    stack.receive("INVITE")

    assert delivery.asked == [(503, stack.flow)]
    assert stack.layer.counters["send_failures"] == (not answer)


# Responses that turn out not to have arrived (17.2.4, 18.4)


@pytest.mark.requirement("17.2.4-2", "17.2.4-3")
@pytest.mark.parametrize(("method", "status"), RESPONSES)
@pytest.mark.parametrize("length", [None, 250])
def test_undeliverable_response(new_stack: Callable[..., Any], method: str, status: int, length: Any) -> None:
    """The transaction whose response is said to be undeliverable ends so, also by the beginning of it (17.2.4)."""
    stack = new_stack()
    stack.receive(method)
    stack.respond(status)
    stack.layer.sending_failed(stack.flow.sent[-1][0][:length])

    assert stack.told() == ["request", "ended: transport failed"]
    assert stack.layer.counters["send_failures"] == 1
    assert stack.step(32) == []


@pytest.mark.requirement("17.2.4-1")
@pytest.mark.parametrize(("method", "status"), [("INVITE", 180), ("INVITE", 486), ("MESSAGE", 200)])
def test_lost_response_goes_another_way(new_stack: Callable[..., Any], method: str, status: int) -> None:
    """Where there is another way, the latest response goes by it, whole and our own, whatever the notice quotes."""
    delivery = Delivery(True)
    stack = new_stack(redeliver=delivery)
    stack.receive(method)
    stack.respond(status)
    octets = stack.flow.sent[-1][0]
    stack.layer.response_lost(
        octets[: octets.index(b"Call-ID")] + b"Call-ID: forged\r\nCSeq: 1 %b\r\n\r\n" % method.encode()
    )

    assert delivery.asked == [(status, stack.flow)]
    assert delivery.octets == [octets]
    assert stack.told() == ["request"]


@pytest.mark.requirement("17.2.4-2", "17.2.4-3")
@pytest.mark.parametrize(("method", "status"), RESPONSES)
def test_lost_response_without_another_way(new_stack: Callable[..., Any], method: str, status: int) -> None:
    """Where there is none, the transaction ends (17.2.4)."""
    stack = new_stack()
    stack.receive(method)
    stack.respond(status)
    stack.layer.response_lost(stack.flow.sent[-1][0])

    assert stack.told() == ["request", "ended: transport failed"]
    assert stack.layer.counters["send_failures"] == 1


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_lost_response_of_a_transaction_that_sent_none(new_stack: Callable[..., Any], method: str) -> None:
    """A notice about a response that was never sent, forged by somebody who saw the request, changes nothing (18.4)."""
    stack = new_stack()
    request = stack.receive(method)
    stack.layer.response_lost(request.response(486).to_bytes())
    assert stack.told() == ["request"]
    stack.respond(486)
    assert stack.sent() == ["486"]


def test_undeliverable_response_to_a_cancel(new_stack: Callable[..., Any]) -> None:
    """The CSeq tells the response to a CANCEL from that to its INVITE; where it is cut off, neither is taken."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.receive("CANCEL")
    of_cancel = stack.flow.sent[-1][0]
    stack.layer.sending_failed(of_cancel[: of_cancel.index(b"CSeq")])
    assert stack.layer.counters["send_failures"] == 0

    stack.layer.sending_failed(of_cancel)

    assert stack.told() == ["request", "cancelled"]
    assert stack.layer.counters["send_failures"] == 1
    stack.respond(487)
    assert stack.sent() == ["200 CANCEL", "487"]


@pytest.mark.parametrize(
    "forged",
    [
        {"branch": "z9hG4bKother"},
        {"sent_by": "192.0.2.99"},
        {"method": "OPTIONS"},
    ],
)
def test_forged_notice_is_ignored(new_stack: Callable[..., Any], forged: Any) -> None:
    """Whoever forges a notice has to know the branch; anything that does not match is ignored (17.2.3)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.layer.sending_failed(make_request(**{"method": "INVITE", **forged}).response(486).to_bytes())
    stack.layer.sending_failed(make_request("INVITE").to_bytes())
    stack.layer.sending_failed(b"nonsense")

    assert stack.told() == ["request"]
    assert stack.layer.counters["send_failures"] == 0


# Retransmissions by another connection (18.2.2)


@pytest.mark.parametrize(("method", "status"), [("INVITE", 180), ("INVITE", 486)])
def test_retransmission_by_a_new_connection(new_stack: Callable[..., Any], method: str, status: int) -> None:
    """When the connection is closed and the request comes again by a new one, it is answered there (18.2.2)."""
    stack = new_stack("TCP")
    stack.receive(method)
    stack.respond(status)
    stack.flow.closed = True
    stack.flow.failure = "the connection is gone"
    new = RecordingFlow("TCP", ("192.0.2.1", 40000))
    stack.inject(make_request(method, transport="TCP"), new)

    assert [response.status for response in new.responses] == [status]
    assert stack.transaction.flow is new
    stack.inject(make_request(method, transport="TCP"), new)
    assert len(new.sent) == 2


def test_final_response_by_a_new_connection(new_stack: Callable[..., Any]) -> None:
    """A retransmission before any response moves the way back: the answer goes to the new connection (18.2.2)."""
    stack = new_stack("TCP")
    stack.receive("MESSAGE")
    stack.flow.closed = True
    stack.flow.failure = "the connection is gone"
    new = RecordingFlow("TCP", ("192.0.2.1", 40000))
    stack.inject(make_request("MESSAGE", transport="TCP"), new)
    stack.respond(200)

    assert [response.status for response in new.responses] == [200]
    assert stack.told() == ["request", "ended: answered"]


@pytest.mark.parametrize("host", ["192.0.2.1", "192.0.2.2"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("closed", [False, True])
def test_who_may_move_the_way_back(new_stack: Callable[..., Any], host: str, transport: Any, closed: Any) -> None:
    """Only the same host may, by the same kind of transport, and only from a connection that is closed."""
    stack = new_stack("TCP")
    stack.receive("INVITE")
    stack.respond(180)
    stack.flow.closed = closed
    new = RecordingFlow(transport, (host, 40000))
    stack.inject(make_request("INVITE", transport="TCP"), new)

    moves = (host, transport, closed) == ("192.0.2.1", "TCP", True)
    assert len(new.sent) == moves
    assert len(stack.flow.sent) == 2 - moves
