"""Is a source that has not shown that it receives our responses sent them again and again (RFC 3261, 17.2.1)?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from tests.transaction.answers import answering, to_tag
from twisted_sipuas.testing import RecordingFlow, make_request
from twisted_sipuas.transaction.server import State
from twisted_sipuas.transaction.sources import Sources


def invite(stack: Any, number: int, flow: Any = None, **fields: Any) -> Any:
    """Inject an INVITE of its own, and return the response to it."""
    flow = flow or stack.flow
    stack.inject(make_request("INVITE", branch=f"z9hG4bK{number}", call_id=str(number), **fields), flow)
    return flow.responses[-1]


def acknowledge(stack: Any, number: int, to: Any, flow: Any = None) -> None:
    """Inject the ACK for a response with the To header field *to*."""
    stack.inject(make_request("ACK", branch=f"z9hG4bK{number}", call_id=str(number), to=to), flow)


def test_bound_on_unacknowledged_responses(new_stack: Callable[..., Any]) -> None:
    """Past the bound the response is sent once, and the transaction is forgotten and told as answered (8.2.7)."""
    stack = new_stack(answer=answering(486), max_unacknowledged=2)
    for number in range(3):
        invite(stack, number)

    assert stack.sent() == ["486", "486", "486"]
    assert [transaction.state for transaction in stack.transactions] == [
        State.COMPLETED,
        State.COMPLETED,
        State.TERMINATED,
    ]
    assert stack.told() == ["request", "request", "request", "ended: answered"]
    assert stack.layer.counters["sent_once"] == 1
    assert stack.layer.counters["owed"] == 2
    stack.step(32)
    assert stack.sent() == ["486", "486"] * 10


def test_default_bound(new_stack: Callable[..., Any]) -> None:
    """A source may have 20 of them unless told otherwise, whatever it sends; the rest are sent once."""
    stack = new_stack(answer=answering(486))
    for number in range(100):
        invite(stack, number)
    stack.step(32)

    assert len(stack.sent()) == 100 + 20 * 10


def test_forgotten_transaction_answers_alike(new_stack: Callable[..., Any]) -> None:
    """The INVITE that comes again past the bound is answered as before, with the same To tag (8.2.7)."""
    stack = new_stack(answer=answering(486), max_unacknowledged=0)
    first, again, other = invite(stack, 1), invite(stack, 1), invite(stack, 2)

    assert to_tag(first) == to_tag(again)
    assert to_tag(first) != to_tag(other)
    assert stack.layer.counters["sent_once"] == 3


@pytest.mark.requirement("8.2.6.2-10")
def test_to_tag_of_a_provisional_stays(new_stack: Callable[..., Any]) -> None:
    """Past the bound, too, the final response has the To tag of the provisional one (8.2.6.2)."""
    stack = new_stack(max_unacknowledged=0)
    stack.receive("INVITE")
    stack.respond(180)
    stack.respond(486)

    assert stack.sent() == ["180", "486"]
    assert len({to_tag(response) for response in stack.flow.responses}) == 1


@pytest.mark.requirement("9.2-9")
def test_to_tag_of_a_cancel_stays(new_stack: Callable[..., Any]) -> None:
    """Past the bound, too, the 487 has the To tag of the 200 to the CANCEL; its end is called cancelled (9.2)."""
    stack = new_stack(max_unacknowledged=0)
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.respond(487)

    assert stack.sent() == ["200 CANCEL", "487"]
    assert len({to_tag(response) for response in stack.flow.responses}) == 1
    assert stack.told() == ["request", "cancelled", "ended: cancelled"]


def test_to_tag_of_the_request_stays(new_stack: Callable[..., Any]) -> None:
    """Past the bound, too, the To tag of a re-INVITE is that of the request (8.2.6.2)."""
    stack = new_stack(answer=answering(488), max_unacknowledged=0)
    stack.receive("INVITE", to="<sip:bob@example.com>;tag=1")

    assert to_tag(stack.last) == stack.transaction.to_tag == "1"


def test_ack_with_our_tag_proves_the_source(new_stack: Callable[..., Any]) -> None:
    """Who sends an ACK with the tag that we made receives what we send, and is bounded no more; others are."""
    stack = new_stack(answer=answering(486), max_unacknowledged=1)
    acknowledge(stack, 1, invite(stack, 1).headers.get("To"))
    other = RecordingFlow(remote_address=("192.0.2.77", 5060))
    for number in range(10, 15):
        invite(stack, number)
        invite(stack, number + 100, other, sent_by="192.0.2.77")

    assert stack.layer.counters["sent_once"] == 4
    assert stack.layer.counters["proven_sources"] == 1
    stack.step(0.5)
    assert len(other.sent) == 6


@pytest.mark.parametrize("to", ["<sip:bob@example.com>", "<sip:bob@example.com>;tag=guessed"])
def test_ack_with_another_tag_proves_nothing(new_stack: Callable[..., Any], to: Any) -> None:
    """An ACK without the tag that we made ends its own transaction (17.2.3), and proves nothing: it may be forged."""
    stack = new_stack(answer=answering(486), max_unacknowledged=1)
    invite(stack, 1)
    acknowledge(stack, 1, to)

    assert stack.transaction.state is State.CONFIRMED
    assert stack.layer.counters["proven_sources"] == 0


def test_ack_with_the_tag_of_the_request_proves_nothing(new_stack: Callable[..., Any]) -> None:
    """The To tag that the INVITE itself brought is known to who forged it."""
    stack = new_stack(answer=answering(486), max_unacknowledged=1)
    to = "<sip:bob@example.com>;tag=1"
    invite(stack, 1, to=to)
    acknowledge(stack, 1, to)

    assert stack.transaction.state is State.CONFIRMED
    assert stack.layer.counters["proven_sources"] == 0


@pytest.mark.parametrize("how", ["ACK", "Timer H", "stop", "failure"])
def test_whatever_ends_the_waiting_makes_room(new_stack: Callable[..., Any], how: Any) -> None:
    """A response counts as long as it is resent: until its ACK, Timer H, or the end of the transaction."""
    stack = new_stack(answer=answering(486), max_unacknowledged=1)
    response = invite(stack, 1)
    assert stack.layer.counters["unacknowledged_sources"] == 1
    if how == "ACK":
        acknowledge(stack, 1, "<sip:bob@example.com>;tag=guessed")
    elif how == "Timer H":
        stack.step(32)
    elif how == "stop":
        stack.layer.stop()
    else:
        stack.layer.sending_failed(response.to_bytes())

    assert stack.layer.counters["unacknowledged_sources"] == 0


def test_provisional_and_2xx_do_not_count(new_stack: Callable[..., Any]) -> None:
    """Only a 300 to 699 is resent until its ACK; a 2xx is the transaction user's (17.2.1)."""
    stack = new_stack(answer=answering(200), max_unacknowledged=0)
    stack.receive("INVITE")

    assert stack.transaction.state is State.ACCEPTED
    assert stack.layer.counters["sent_once"] == 0


@pytest.mark.parametrize("transport", ["TCP", "TLS"])
def test_reliable_transports_are_not_bounded(new_stack: Callable[..., Any], transport: Any) -> None:
    """On a connection nothing is resent, and its source is no forgery (17.2.1)."""
    stack = new_stack(transport, answering(486), max_unacknowledged=0)
    stack.receive("INVITE")

    assert stack.transaction.state is State.COMPLETED


def test_where_the_response_goes_is_what_counts(new_stack: Callable[..., Any]) -> None:
    """The source is the host that gets the responses, for it is to be spared."""
    stack = new_stack(answer=answering(486), max_unacknowledged=1)
    for number in (1, 2):
        flow = RecordingFlow(remote_address=(f"192.0.2.{number}", 5060))
        route = RecordingFlow(remote_address=("224.0.1.75", 5060))
        stack.layer.request_received(make_request("INVITE", branch=f"z9hG4bK{number}"), flow, route)

    assert stack.layer.counters["sent_once"] == 1


def test_ipv6_sources_are_networks(new_stack: Callable[..., Any]) -> None:
    """All the addresses of a /64 are one source, for one host may have all of them; ports make no difference."""
    stack = new_stack(answer=answering(486), max_unacknowledged=1)
    for number, (host, port) in enumerate(
        [("2001:db8::1", 5060), ("2001:db8::2", 5060), ("2001:db8::1", 5062), ("2001:db8:0:1::1", 5060)]
    ):
        invite(stack, number, RecordingFlow(remote_address=(host, port)))

    assert stack.layer.counters["sent_once"] == 2
    assert stack.layer.counters["unacknowledged_sources"] == 2


def test_response_once_that_cannot_be_sent(new_stack: Callable[..., Any]) -> None:
    """A response that is sent once and fails is told as any other failure (17.2.4)."""
    stack = new_stack(max_unacknowledged=0)
    stack.receive("INVITE")
    stack.flow.failure = "no route to host"
    stack.respond(486)

    assert stack.told() == ["request", "ended: transport failed"]


def test_proof_is_for_ten_minutes() -> None:
    """A source is proven for ten minutes after its latest ACK."""
    clock = Clock()
    sources = Sources(clock, 1)
    for host in ("192.0.2.1", "192.0.2.2"):
        assert sources.admit(host, 400)
    sources.prove("192.0.2.1")
    clock.advance(300)
    sources.prove("192.0.2.1")
    clock.advance(599)
    assert sources.admit("192.0.2.1", 400)
    clock.advance(1)
    assert not sources.admit("192.0.2.1", 400)
    assert not sources.admit("192.0.2.2", 400)


def test_proven_sources_are_bounded() -> None:
    """Of 10,000 proven sources the one proven longest ago makes room; what has expired goes first."""
    clock = Clock()
    sources = Sources(clock, 1)
    for number in range(10_001):
        sources.prove(str(number))
    assert sources.proven == 10_000
    assert (sources.admit("0", 400), sources.admit("1", 400)) == (True, True), "as everybody may have one"
    assert (sources.admit("0", 400), sources.admit("1", 400)) == (False, True)

    clock.advance(600)
    sources.prove("another")
    assert sources.proven == 1


def test_proven_source_is_bounded_too() -> None:
    """A proven source may have fifty times as many, and no more."""
    sources = Sources(Clock(), 2)
    sources.prove("192.0.2.1")
    assert [sources.admit("192.0.2.1", 400) for _ in range(101)] == [True] * 100 + [False]


def test_long_response_counts_as_several() -> None:
    """It is octets that a forged source is flooded with; what was counted is given back."""
    sources = Sources(Clock(), 3)
    assert [sources.admit("192.0.2.1", 1100) for _ in range(2)] == [True, False]
    sources.release("192.0.2.1", 1100)
    assert sources.unacknowledged == 0


def test_proof_ends_when_an_ack_does_not_come(new_stack: Callable[..., Any]) -> None:
    """A source that owes an ACK for 32 seconds is as good as forged again."""
    stack = new_stack(answer=answering(486), max_unacknowledged=1)
    response = invite(stack, 1)
    acknowledge(stack, 1, response.headers.get("To"))
    assert stack.layer.counters["proven_sources"] == 1
    invite(stack, 2)
    stack.step(32)
    assert stack.layer.counters["proven_sources"] == 0
