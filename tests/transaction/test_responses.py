"""Do responses have the right tags, is 100 sent when it is due, and what is sent without a transaction?"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.transaction.answers import answering, challenge, to_tag
from twisted_sipuas.errors import SIPError
from twisted_sipuas.syntax.message import Request, Response

# To tags (8.2.6.2, 19.3)


@pytest.mark.requirement("8.2.6.2-8", "8.2.6.2-10", "8.2.6.2-9")
def test_one_to_tag_for_all_responses(new_stack: Callable[..., Any]) -> None:
    """All responses to one request carry one To tag, but for the 100, which has none (8.2.6.2)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.step(0.2, by=0.2)
    for status in (180, 183, 200, 200):
        stack.respond(status)

    trying, *others = stack.flow.responses
    assert to_tag(trying) is None
    assert {to_tag(response) for response in others} == {stack.transaction.to_tag}


@pytest.mark.requirement("8.2.6.2-6")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "CANCEL"])
def test_to_tag_of_the_request_wins(new_stack: Callable[..., Any], method: str) -> None:
    """With a To tag in the request, the To of every response equals it (8.2.6.2)."""
    to = '"Bob" <sip:bob@example.com>;x=1;tag=314159'
    stack = new_stack()
    stack.receive(method, to=to)
    if method != "CANCEL":
        stack.step(4, by=0.1)
        stack.respond(404)

    assert {response.headers.get("To") for response in stack.flow.responses} == {to}


@pytest.mark.requirement("19.3-1", "19.3-2")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "CANCEL"])
def test_to_tags_are_random(new_stack: Callable[..., Any], method: str) -> None:
    """A To tag has 64 random bits, and two transactions never share one (19.3)."""
    stack = new_stack(answer=answering(404))
    for number in range(200):
        stack.receive(method, branch=f"z9hG4bK{number}")

    tags = [to_tag(response) for response in stack.flow.responses]
    assert all(re.fullmatch("[0-9a-f]{16}", tag) for tag in tags)
    assert len(set(tags)) == 200
    seen_set = seen_clear = 0
    for tag in tags:
        seen_set |= int(tag, 16)
        seen_clear |= ~int(tag, 16)
    assert seen_set & seen_clear & (2**64 - 1) == 2**64 - 1


@pytest.mark.requirement("8.2.6.2-9")
def test_100_may_have_a_to_tag(new_stack: Callable[..., Any]) -> None:
    """A 100 that the transaction user gave a To tag keeps it; we add none (8.2.6.2)."""
    stack = new_stack()
    request = stack.receive("INVITE")
    rows = [(name, f"{value};tag=given" if name == "To" else value) for name, value in request.response(100).headers]
    stack.transaction.respond(Response(100, headers=rows))

    assert to_tag(stack.last) == "given"


@pytest.mark.requirement("19.3-3")
@pytest.mark.parametrize("is_stateless", [False, True])
def test_self_call(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """The tag that we answer with is not the From tag of the INVITE, even where that is one of ours (19.3)."""
    stack = new_stack(answer=answering(486), is_stateless=is_stateless)
    tag = "9fxced76sl"
    for number in range(20):
        stack.receive("INVITE", from_tag=tag, branch=f"z9hG4bK{number}")
        assert to_tag(stack.last) != tag
        tag = to_tag(stack.last)


# 100 (17.2.1, 8.2.6.1)


@pytest.mark.requirement("17.2.1-2", "17.2.1-4")
def test_100_after_200_ms(new_stack: Callable[..., Any]) -> None:
    """The INVITE gets its 100 as 200 ms have passed, once, and without a To tag (17.2.1)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.clock.advance(0.199)
    assert stack.sent() == []

    stack.clock.advance(0.2 - stack.clock.seconds())

    assert stack.sent() == ["100"]
    assert stack.last.headers.get("To") == stack.request.headers.get("To")
    assert stack.step(64) == []


@pytest.mark.requirement("17.2.1-3")
@pytest.mark.parametrize("status", [100, 180, 200, 302])
@pytest.mark.parametrize("at_once", [True, False])
def test_no_100_if_answered_before(new_stack: Callable[..., Any], status: int, at_once: Any) -> None:
    """An INVITE that got any response within 200 ms gets no 100 (17.2.1)."""
    stack = new_stack(answer=answering(status) if at_once else None)
    stack.receive("INVITE")
    if not at_once:
        stack.clock.advance(0.199)
        stack.respond(status)
    stack.step(0.4, by=0.1)

    assert stack.sent() == [str(status)]


@pytest.mark.requirement("8.2.6.1-3", "8.2.6.1-4", "8.2.6.1-5")
@pytest.mark.parametrize(
    ("timestamp", "copied"),
    [
        ("54", "54 0.200"),
        ("54.21", "54.21 0.200"),
        ("54.21 1.5", "54.21 0.200"),
        ("0", "0 0.200"),
        ("noon", None),
        ("54x", None),
        ("", None),
    ],
)
def test_100_has_the_timestamp(new_stack: Callable[..., Any], timestamp: Any, copied: Any) -> None:
    """The Timestamp of the request is copied into the 100, with our delay in seconds; a malformed one not (8.2.6.1)."""
    stack = new_stack()
    stack.receive("INVITE", headers=(("Timestamp", timestamp),))
    stack.step(0.2, by=0.2)

    assert stack.last.status == 100
    assert stack.last.headers.get("Timestamp") == copied


@pytest.mark.requirement("8.2.6.1-5")
def test_delay_is_that_of_the_sending(new_stack: Callable[..., Any]) -> None:
    """The delay in the Timestamp is what really passed, also where the clock was late (8.2.6.1)."""
    stack = new_stack()
    stack.receive("INVITE", headers=(("Timestamp", "54"),))
    stack.step(0.75, by=0.75)

    assert stack.last.headers.get("Timestamp") == "54 0.750"


@pytest.mark.requirement("8.2.6.1-1")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_no_provisional_to_a_non_invite_that_is_answered_soon(new_stack: Callable[..., Any], transport: Any) -> None:
    """A non-INVITE gets no provisional response before RFC 4320 asks for a 100, nor a handler's at all (8.2.6.1)."""
    stack = new_stack(transport)
    stack.receive("MESSAGE")
    stack.respond(180)
    stack.respond(183)
    assert stack.step(3.4, by=0.1) == []
    stack.respond(200)

    assert stack.sent() == ["200"]


@pytest.mark.requirement("8.2.6.1-2")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_final_response_to_a_non_invite_is_not_held_back(new_stack: Callable[..., Any], transport: Any) -> None:
    """A non-INVITE gets its final response as soon as the transaction user has it, at once or later (8.2.6.1)."""
    stack = new_stack(transport, answering(200))
    stack.receive("MESSAGE")
    assert stack.sent() == ["200"]

    stack = new_stack(transport)
    stack.receive("MESSAGE")
    stack.step(0.5)
    stack.respond(200)
    assert stack.sent() == ["200"]


# Answers that leave nothing behind (8.2.7)


@pytest.mark.requirement("8.2.7-1", "8.2.7-8", "8.2.7-9", "17.2-1")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_stateless_answer(new_stack: Callable[..., Any], method: str) -> None:
    """A stateless refusal is made anew for each retransmission, with the same tag, and nothing is kept (8.2.7)."""
    stack = new_stack(answer=challenge)
    stack.receive(method)
    assert (stack.layer.counters["owed"], stack.layer.counters["waiting"]) == (0, 0)
    assert stack.clock.getDelayedCalls() == []

    stack.receive(method)

    assert stack.sent() == ["401", "401"]
    assert stack.flow.sent[0] == stack.flow.sent[1]
    assert to_tag(stack.last)
    assert stack.told() == ["request", "ended: answered"] * 2


@pytest.mark.requirement("8.2.6.2-6")
def test_stateless_answer_keeps_the_to_tag(new_stack: Callable[..., Any]) -> None:
    """With a To tag in the request, a stateless answer has that one too (8.2.6.2)."""
    stack = new_stack(answer=challenge)
    stack.receive("INVITE", to="<sip:bob@example.com>;tag=314159")

    assert to_tag(stack.last) == "314159"


@pytest.mark.requirement("8.2.7-8", "19.3-2")
@pytest.mark.parametrize(
    "other", [{"branch": "z9hG4bKx"}, {"from_tag": "x"}, {"call_id": "x"}, {"cseq": 2}, {"to": "<sip:x@example.com>"}]
)
def test_stateless_tags_tell_requests_apart(new_stack: Callable[..., Any], other: Any) -> None:
    """Stateless tags differ between requests, and between services, whose secret nobody knows (8.2.7, 19.3)."""
    stack, another = new_stack(answer=challenge), new_stack(answer=challenge)
    stack.receive("INVITE")
    stack.receive("INVITE", **other)
    another.receive("INVITE")

    tags = [to_tag(response) for response in stack.flow.responses + another.flow.responses]
    assert len(set(tags)) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", tag) for tag in tags)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_stateless_answer_that_comes_later(new_stack: Callable[..., Any], method: str) -> None:
    """Once `request_received` returned, a stateless answer is a stateful one: the request is known by then (8.2.7)."""
    stack = new_stack()
    stack.receive(method)
    challenge(stack.request, stack.transaction)
    stack.receive(method)

    assert (stack.sent(), stack.told()) == (["401", "401"], ["request"])
    assert to_tag(stack.last) == stack.transaction.to_tag


def test_stateless_answer_after_a_provisional(new_stack: Callable[..., Any]) -> None:
    """After a provisional response a stateless answer is a stateful one, with the same To tag (8.2.6.2)."""

    def ring_and_refuse(request: Request, transaction: Any) -> None:
        transaction.respond(request.response(180))
        challenge(request, transaction)

    stack = new_stack(answer=ring_and_refuse)
    stack.receive("INVITE")
    stack.receive("INVITE")

    assert (stack.sent(), stack.told()) == (["180", "401", "401"], ["request"])
    assert {to_tag(response) for response in stack.flow.responses} == {stack.transaction.to_tag}


def test_stateless_provisional_is_stateful(new_stack: Callable[..., Any]) -> None:
    """A provisional response cannot be the last word, so `respond_statelessly` sends it as `respond` does (8.2.7)."""
    stack = new_stack(answer=lambda request, transaction: transaction.respond_statelessly(request.response(180)))
    stack.receive("INVITE")
    stack.receive("INVITE")

    assert (stack.sent(), stack.told()) == (["180", "180"], ["request"])


def test_stateless_answer_is_the_last(new_stack: Callable[..., Any]) -> None:
    """After a stateless answer every other is dropped, and an exception only logged (8.2.7)."""

    def challenge_and_more(request: Request, transaction: Any) -> None:
        challenge(request, transaction)
        challenge(request, transaction)
        transaction.respond(request.response(404))
        raise SIPError(403)

    stack = new_stack(answer=challenge_and_more)
    stack.receive("INVITE")

    assert stack.sent() == ["401"]
    assert stack.told() == ["request", "ended: answered"]


def test_stateless_answer_that_cannot_be_sent(new_stack: Callable[..., Any]) -> None:
    """A stateless answer that cannot be sent is told and counted as any other (17.2.4)."""
    stack = new_stack(answer=challenge)
    stack.flow.failure = "no route to host"
    stack.receive("INVITE")

    assert stack.told() == ["request", "ended: transport failed"]
    assert stack.layer.counters["send_failures"] == 1


@pytest.mark.requirement("8.2.6.1-3")
@pytest.mark.parametrize(("wait", "copied"), [(0, "54 0.000"), (0.1, "54 0.100")])
def test_timestamp_in_a_100_of_the_transaction_user(new_stack: Callable[..., Any], wait: Any, copied: Any) -> None:
    """A 100 that the transaction user sends by itself has the Timestamp too (8.2.6.1)."""
    stack = new_stack()
    stack.receive("INVITE", headers=(("Timestamp", "54"),))
    stack.step(wait, by=0.1)
    stack.respond(100)
    assert stack.last.headers.get("Timestamp") == copied


def test_timestamp_that_is_there_already(new_stack: Callable[..., Any]) -> None:
    """A Timestamp of the transaction user's own is left as it is."""
    stack = new_stack()
    stack.receive("INVITE", headers=(("Timestamp", "54"),))
    stack.respond(100, headers=[("Timestamp", "54 9")])
    assert stack.last.headers.get_all("Timestamp") == ["54 9"]


def test_timestamp_when_the_clock_is_set_back(new_stack: Callable[..., Any]) -> None:
    """A delay is never less than nothing, as the grammar has it (25.1)."""
    stack = new_stack()
    stack.clock.advance(3600)
    stack.receive("INVITE", headers=(("Timestamp", "54"),))
    stack.clock.rightNow -= 1800
    stack.clock.advance(1801)
    assert stack.last.headers.get("Timestamp") == "54 1.000" or stack.last.headers.get("Timestamp") == "54 0.200"


@pytest.mark.parametrize("is_stateless", [False, True])
def test_challenge_leaves_nothing_behind(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """A challenge is sent statelessly: whoever asks for thousands has none of them kept (8.2.7)."""

    def challenge(request: Request, transaction: Any) -> None:
        raise SIPError(401, headers=[("WWW-Authenticate", 'Digest realm="x"')])

    stack = new_stack(answer=challenge, is_stateless=is_stateless)
    for _ in range(2):
        stack.receive("INVITE")
    assert stack.sent() == ["401", "401"]
    assert len({data for data, _ in stack.flow.sent}) == 1
    assert stack.layer.counters["owed"] == 0
    assert stack.clock.getDelayedCalls() == []


@pytest.mark.requirement("4320-4")
def test_no_408_sent_statelessly(new_stack: Callable[..., Any]) -> None:
    """A 408 to a request other than INVITE is not sent, statelessly neither (RFC 4320, 4.2)."""
    stack = new_stack(answer=lambda request, transaction: transaction.respond_statelessly(request.response(408)))
    stack.receive("MESSAGE")
    assert stack.sent() == []
    assert stack.told() == ["request", "ended: answered"]
