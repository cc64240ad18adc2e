"""Does the transaction layer find the right transaction, answer CANCEL, bound what it keeps, and survive its user?"""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail

from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.interfaces import EndReason
from twisted_sipuas.syntax.fields import NameAddr
from twisted_sipuas.syntax.message import parse_message
from twisted_sipuas.testing import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.transaction.server import State


def to_tag(response):
    """Return the To tag of *response*, or None."""
    return NameAddr(response.headers.get("To")).tag


def answering(status, **fields):
    """Return what answers every request with *status* at once."""
    return lambda request, transaction: transaction.respond(request.response(status, **fields))


def challenge(request, transaction):
    """Refuse *request* and keep nothing."""
    transaction.respond_statelessly(request.response(401))


# Which transaction a request belongs to (17.2.3)

WITH_COOKIE = {"branch": "z9hG4bKnashds8", "sent_by": "client.example.com:5060"}


@pytest.mark.requirement("17.2.3-1", "17.2.3-2")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize(
    "other",
    [
        {"branch": "z9hG4bKnashds9"},
        {"sent_by": "other.example.com:5060"},
        {"sent_by": "client.example.com:5061"},
    ],
    ids=["branch", "sent-by host", "sent-by port"],
)
def test_cookie_other_transaction(new_stack, method, other):
    """With the magic cookie, another branch or another sent-by is another transaction (17.2.3)."""
    stack = new_stack()
    stack.receive(method, **WITH_COOKIE)
    stack.receive(method, **{**WITH_COOKIE, **other})

    assert stack.told() == ["request", "request"]


@pytest.mark.requirement("17.2.3-1")
@pytest.mark.parametrize("methods", [("INVITE", "MESSAGE"), ("MESSAGE", "INFO"), ("MESSAGE", "message")])
def test_cookie_other_method(new_stack, methods):
    """With the magic cookie, another method is another transaction; methods are compared with their case (17.2.3)."""
    stack = new_stack()
    for method in methods:
        stack.receive(method, **WITH_COOKIE)

    assert stack.told() == ["request", "request"]


@pytest.mark.requirement("17.2.3-1", "17.2.3-2")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize(
    "other",
    [
        {},
        {"sent_by": "CLIENT.Example.com:5060"},
        {"uri": "sip:carol@example.com", "from_tag": "x", "call_id": "y", "cseq": 7, "to": "<sip:z@example.com>;tag=1"},
    ],
    ids=["nothing", "case of sent-by", "everything else"],
)
def test_cookie_retransmission(new_stack, method, other):
    """With the magic cookie, branch, sent-by and method are all that counts; a host has no case (17.2.3)."""
    stack = new_stack()
    stack.receive(method, **WITH_COOKIE)
    stack.receive(method, **{**WITH_COOKIE, **other})

    assert stack.told() == ["request"]


@pytest.mark.parametrize("cookie", ["Z9HG4BK", "z9hg4bk"])
def test_cookie_has_no_case(new_stack, cookie):
    """The magic cookie is a token, and known in any case (8.1.1.7, 7.3.1)."""
    stack = new_stack()
    stack.receive("MESSAGE", branch=f"{cookie}1", call_id="one")
    stack.receive("MESSAGE", branch=f"{cookie}1", call_id="two")

    assert stack.told() == ["request"]


@pytest.mark.requirement("17.2.3-1")
@pytest.mark.parametrize("other", [{"branch": "z9hG4bKnashds9"}, {"sent_by": "other.example.com:5060"}])
def test_cookie_ack_of_another_transaction(new_stack, other):
    """An ACK acknowledges the INVITE with its branch and sent-by, and no other (17.2.3)."""
    stack = new_stack(answer=answering(486))
    stack.receive("INVITE", **WITH_COOKIE)

    stack.receive("ACK", **{**WITH_COOKIE, **other})
    assert stack.told() == ["request", "ack"]
    assert stack.transaction.state is State.COMPLETED

    stack.receive("ACK", **WITH_COOKIE)
    assert stack.told() == []
    assert stack.transaction.state is State.CONFIRMED


def test_ack_for_2xx_reaches_the_transaction_user(new_stack):
    """The ACK for a 2xx has a branch of its own, is no transaction's, and is the transaction user's (17, 13.3.1.4)."""
    stack = new_stack(answer=answering(200))
    stack.receive("INVITE")
    ack = stack.receive("ACK", branch="z9hG4bKack", to=stack.last.headers.get("To"))

    assert stack.told() == ["request", "ack"]
    assert stack.user.calls[-1] == ("ack_received", ack, stack.flow)
    assert stack.sent() == ["200"]


@pytest.mark.parametrize("branch", ["z9hG4bK", "Z9HG4BK"])
def test_cookie_without_identifier(new_stack, branch):
    """A branch that is the bare cookie identifies nothing, so the rules without a cookie hold (RFC 4475, 3.2.1)."""
    stack = new_stack(answer=answering(486))
    stack.receive("INVITE", branch=branch, call_id="one")
    stack.receive("INVITE", branch=branch, call_id="two")
    stack.receive("INVITE", branch=branch, call_id="two")
    assert stack.told() == ["request", "request"]

    stack.receive("ACK", branch=branch, call_id="two", to=stack.last.headers.get("To"))
    assert [transaction.state for transaction in stack.transactions] == [State.COMPLETED, State.CONFIRMED]


# ... and the same as RFC 2543 clients do it, without the cookie

WITHOUT_COOKIE = {
    "uri": "sip:bob@example.com",
    "branch": "1",
    "from_tag": "a",
    "to": "<sip:bob@example.com>;tag=b",
    "call_id": "c@192.0.2.1",
    "cseq": 1,
}
OTHER = [
    {"uri": "sip:carol@example.com", "to": "<sip:bob@example.com>;tag=b"},
    {"to": "<sip:bob@example.com>"},
    {"to": "<sip:bob@example.com>;tag=B2"},
    {"from_tag": "a2"},
    {"call_id": "c2@192.0.2.1"},
    {"cseq": 2},
    {"branch": "2"},
    {"sent_by": "192.0.2.2"},
]
OTHER_IDS = ["Request-URI", "no To tag", "To tag", "From tag", "Call-ID", "CSeq number", "Via branch", "Via sent-by"]


@pytest.mark.requirement("17.2.3-3", "17.2.3-5")
@pytest.mark.parametrize("method", ["INVITE", "BYE"])
@pytest.mark.parametrize("other", OTHER, ids=OTHER_IDS)
def test_2543_other_transaction(new_stack, method, other):
    """Without the cookie, each of the fields that 17.2.3 lists makes another transaction of it."""
    stack = new_stack()
    stack.receive(method, **WITHOUT_COOKIE)
    stack.receive(method, **{**WITHOUT_COOKIE, **other})

    assert stack.told() == ["request", "request"]


@pytest.mark.requirement("17.2.3-5")
def test_2543_other_method(new_stack):
    """Without the cookie, the method of CSeq counts too (17.2.3)."""
    stack = new_stack()
    stack.receive("BYE", **WITHOUT_COOKIE)
    stack.receive("INFO", **WITHOUT_COOKIE)

    assert stack.told() == ["request", "request"]


@pytest.mark.parametrize("method", ["INVITE", "BYE"])
@pytest.mark.parametrize("to", ["<sip:bob@example.com>", "<sip:bob@example.com>;tag=b"])
def test_2543_retransmission(new_stack, method, to):
    """Without the cookie, a request that is equal in all these fields is a retransmission (17.2.3)."""
    stack = new_stack()
    stack.receive(method, **{**WITHOUT_COOKIE, "to": to})
    stack.receive(method, **{**WITHOUT_COOKIE, "to": to}, headers=(("User-Agent", "another"),))

    assert stack.told() == ["request"]


def test_2543_without_branch(new_stack):
    """A Via without any branch is one of an RFC 2543 client, and serves as well (17.2.3)."""
    stack = new_stack(answer=answering(404))
    for method, call_id in [("INVITE", "one"), ("INVITE", "one"), ("INVITE", "two"), ("ACK", "two")]:
        to = stack.last.headers.get("To") if method == "ACK" else None
        octets = make_request(method, branch="1", call_id=call_id, to=to).to_bytes().replace(b";branch=1", b"")
        stack.inject(parse_message(octets))

    assert stack.told() == ["request", "request"]
    assert [transaction.state for transaction in stack.transactions] == [State.COMPLETED, State.CONFIRMED]


@pytest.mark.requirement("17.2.3-4")
@pytest.mark.parametrize("to", ["<sip:bob@example.com>", "<sip:bob@example.com>;tag=b"], ids=["INVITE", "re-INVITE"])
def test_2543_ack(new_stack, to):
    """Without the cookie, an ACK has all that the INVITE had, and the To tag of the response (17.2.3)."""
    stack = new_stack(answer=answering(486))
    stack.receive("INVITE", **{**WITHOUT_COOKIE, "to": to})
    stack.receive("ACK", **{**WITHOUT_COOKIE, "to": stack.last.headers.get("To")})

    assert stack.told() == ["request"]
    assert stack.transaction.state is State.CONFIRMED


@pytest.mark.requirement("17.2.3-4")
@pytest.mark.parametrize("other", OTHER, ids=OTHER_IDS)
@pytest.mark.parametrize("to", ["<sip:bob@example.com>", "<sip:bob@example.com>;tag=b"], ids=["INVITE", "re-INVITE"])
def test_2543_ack_of_another_transaction(new_stack, to, other):
    """Without the cookie, an ACK that differs in any of these fields acknowledges something else (17.2.3)."""
    stack = new_stack(answer=answering(486))
    stack.receive("INVITE", **{**WITHOUT_COOKIE, "to": to})
    stack.receive("ACK", **{**WITHOUT_COOKIE, "to": stack.last.headers.get("To"), **other})

    assert stack.told() == ["request", "ack"]
    assert stack.transaction.state is State.COMPLETED


def test_2543_ack_for_2xx(new_stack):
    """The ACK of an RFC 2543 client for a 2xx matches the INVITE's transaction, which hands it on (RFC 6026, 7.1)."""
    stack = new_stack(answer=answering(200))
    stack.receive("INVITE", branch="1")
    stack.receive("ACK", branch="1", to=stack.last.headers.get("To"))

    assert stack.told() == ["request", "ack"]


def test_2543_cancel(new_stack):
    """A CANCEL of an RFC 2543 client finds its INVITE by the fields that 17.2.3 lists (9.2)."""
    stack = new_stack()
    stack.receive("INVITE", branch="1")
    stack.receive("CANCEL", branch="1", call_id="another")
    stack.receive("CANCEL", branch="1")

    assert stack.sent() == ["481 CANCEL", "200 CANCEL"]
    assert stack.told() == ["request", "cancelled"]


# CANCEL (9.2)


@pytest.mark.requirement("9.2-1", "9.2-6", "9.2-8")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_cancel(new_stack, transport):
    """A CANCEL is answered 200, then the transaction user is told, once, and may send its 487 (9.2)."""
    stack = new_stack(transport)
    stack.receive("INVITE")
    waiters = [stack.transaction.when_cancelled(), stack.transaction.when_cancelled()]
    assert not stack.transaction.cancelled

    stack.receive("CANCEL")

    assert stack.transaction.cancelled
    assert [waiter.called for waiter in waiters] == [True, True]
    assert stack.transaction.when_cancelled().called
    assert stack.told() == ["request", "cancelled"]
    stack.respond(487)
    assert stack.sent() == ["200 CANCEL", "487"]


@pytest.mark.requirement("9.2-9")
@pytest.mark.parametrize("to", [None, "<sip:bob@example.com>;tag=ours"])
def test_cancel_has_the_to_tag_of_its_invite(new_stack, to):
    """The 200 to a CANCEL has the To tag of the responses to its INVITE (9.2)."""
    stack = new_stack()
    stack.receive("INVITE", to=to)
    stack.receive("CANCEL", to=to)
    stack.respond(487)

    of_cancel, of_invite = stack.flow.responses
    assert to_tag(of_cancel) == to_tag(of_invite) == stack.transaction.to_tag
    assert of_cancel.headers.get("CSeq") == "1 CANCEL"


@pytest.mark.requirement("9.2-1", "9.2-4")
@pytest.mark.parametrize("other", [{"branch": "z9hG4bKnashds9"}, {"sent_by": "192.0.2.2"}])
def test_cancel_of_nothing(new_stack, other):
    """A CANCEL that matches no transaction is answered 481, with a To tag, and the user is not troubled (9.2)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.receive("CANCEL", **other)

    assert stack.sent() == ["481 CANCEL"]
    assert to_tag(stack.last)
    assert stack.told() == ["request"]


def test_cancel_does_not_match_cancel(new_stack):
    """A CANCEL is not its own target, nor is an ACK's (9.2)."""
    stack = new_stack()
    stack.receive("CANCEL")
    stack.receive("CANCEL")

    assert stack.sent() == ["481 CANCEL", "481 CANCEL"]
    assert stack.told() == []


@pytest.mark.requirement("9.2-5", "9.2-8", "9.2-9")
@pytest.mark.parametrize("status", [200, 302])
def test_cancel_after_the_final_response(new_stack, status):
    """After a final response a CANCEL is answered 200 with its To tag, and changes nothing (9.2)."""
    stack = new_stack(answer=answering(status))
    stack.receive("INVITE")
    waiter = stack.transaction.when_cancelled()
    state = stack.transaction.state

    stack.receive("CANCEL")

    assert stack.sent() == [str(status), "200 CANCEL"]
    assert len({to_tag(response) for response in stack.flow.responses}) == 1
    assert stack.told() == ["request"]
    assert (stack.transaction.state, stack.transaction.cancelled, waiter.called) == (state, False, False)


@pytest.mark.requirement("9.2-1", "9.2-7", "9.2-8")
@pytest.mark.parametrize(
    "method", "BYE INFO MESSAGE NOTIFY OPTIONS PRACK PUBLISH REFER REGISTER SUBSCRIBE UPDATE".split()
)
def test_cancel_of_another_method(new_stack, method):
    """A CANCEL of a request other than INVITE is answered 200 and has no effect (9.2)."""
    stack = new_stack()
    stack.receive(method)
    stack.receive("CANCEL")

    assert stack.sent() == ["200 CANCEL"]
    assert stack.told() == ["request"]
    assert not stack.transaction.cancelled


@pytest.mark.requirement("9.2-10")
def test_cancel_has_a_transaction_of_its_own(new_stack):
    """A retransmitted CANCEL brings back its response, in the CANCEL's own transaction, for 64*T1 (9.2, 17.2.2)."""
    stack = new_stack("UDP")
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.respond(487)
    stack.receive("ACK")
    stack.step(16)
    stack.receive("CANCEL")

    assert stack.sent() == ["200 CANCEL", "487", "200 CANCEL"]
    assert stack.flow.sent[0] == stack.flow.sent[2]
    assert stack.told() == ["request", "cancelled", "ended: cancelled"]
    stack.step(16)
    stack.receive("CANCEL")
    assert stack.sent() == ["481 CANCEL"]


def test_response_from_within_transaction_cancelled(new_stack):
    """The transaction user may answer 487 from within `transaction_cancelled`, after the CANCEL's 200 (9.2)."""

    class User(RecordingTransactionUser):
        def transaction_cancelled(self, transaction):
            super().transaction_cancelled(transaction)
            transaction.respond(transaction.request.response(487))
            transaction.respond(stack.request.response(486))

    stack = new_stack(user=User())
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.receive("ACK")

    assert stack.sent() == ["200 CANCEL", "487"]
    assert stack.transaction.state is State.CONFIRMED


def test_response_from_within_when_cancelled(new_stack):
    """Who waits for the CANCEL may answer at once; `transaction_cancelled` follows all the same (9.2)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.transaction.when_cancelled().addCallback(lambda _: stack.respond(487))
    stack.receive("CANCEL")

    assert stack.sent() == ["200 CANCEL", "487"]
    assert stack.told() == ["request", "cancelled"]


def test_nothing_is_told_after_the_end(new_stack):
    """If who waits for the CANCEL cannot send an answer, the end of the transaction is the last told (17.2.4)."""
    stack = new_stack("TCP")
    stack.receive("INVITE")
    stack.transaction.when_cancelled().addCallback(lambda _: stack.respond(487))
    stack.flow.failure = "the connection is gone"
    stack.receive("CANCEL")

    assert stack.told() == ["request", "ended: transport failed"]


# To tags (8.2.6.2, 19.3)


@pytest.mark.requirement("8.2.6.2-8", "8.2.6.2-10")
def test_one_to_tag_for_all_responses(new_stack):
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
def test_to_tag_of_the_request_wins(new_stack, method):
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
def test_to_tags_are_random(new_stack, method):
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


# 100 (17.2.1, 8.2.6.1)


@pytest.mark.requirement("17.2.1-2", "17.2.1-4")
def test_100_after_200_ms(new_stack):
    """The INVITE gets its 100 as 200 ms have passed, once, and without a To tag (17.2.1)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.clock.advance(0.199)
    assert stack.sent() == []

    stack.clock.advance(0.2 - stack.clock.seconds())

    assert stack.sent() == ["100"]
    assert stack.last.headers.get("To") == stack.request.headers.get("To")
    assert stack.step(64) == []


@pytest.mark.parametrize("status", [100, 180, 200, 302])
@pytest.mark.parametrize("at_once", [True, False])
def test_no_100_if_answered_before(new_stack, status, at_once):
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
def test_100_has_the_timestamp(new_stack, timestamp, copied):
    """The Timestamp of the request is copied into the 100, with our delay in seconds; a malformed one not (8.2.6.1)."""
    stack = new_stack()
    stack.receive("INVITE", headers=(("Timestamp", timestamp),))
    stack.step(0.2, by=0.2)

    assert stack.last.status == 100
    assert stack.last.headers.get("Timestamp") == copied


@pytest.mark.requirement("8.2.6.1-5")
def test_delay_is_that_of_the_sending(new_stack):
    """The delay in the Timestamp is what really passed, also where the clock was late (8.2.6.1)."""
    stack = new_stack()
    stack.receive("INVITE", headers=(("Timestamp", "54"),))
    stack.step(0.75, by=0.75)

    assert stack.last.headers.get("Timestamp") == "54 0.750"


# Answers that leave nothing behind (8.2.7)


@pytest.mark.requirement("8.2.7-1", "8.2.7-8")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_stateless_answer(new_stack, method):
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
def test_stateless_answer_keeps_the_to_tag(new_stack):
    """With a To tag in the request, a stateless answer has that one too (8.2.6.2)."""
    stack = new_stack(answer=challenge)
    stack.receive("INVITE", to="<sip:bob@example.com>;tag=314159")

    assert to_tag(stack.last) == "314159"


@pytest.mark.requirement("8.2.7-8", "19.3-2")
@pytest.mark.parametrize(
    "other", [{"branch": "z9hG4bKx"}, {"from_tag": "x"}, {"call_id": "x"}, {"cseq": 2}, {"to": "<sip:x@example.com>"}]
)
def test_stateless_tags_tell_requests_apart(new_stack, other):
    """Stateless tags differ between requests, and between services, whose secret nobody knows (8.2.7, 19.3)."""
    stack, another = new_stack(answer=challenge), new_stack(answer=challenge)
    stack.receive("INVITE")
    stack.receive("INVITE", **other)
    another.receive("INVITE")

    tags = [to_tag(response) for response in stack.flow.responses + another.flow.responses]
    assert len(set(tags)) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", tag) for tag in tags)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_stateless_answer_that_comes_later(new_stack, method):
    """Once `request_received` returned, a stateless answer is a stateful one: the request is known by then (8.2.7)."""
    stack = new_stack()
    stack.receive(method)
    challenge(stack.request, stack.transaction)
    stack.receive(method)

    assert (stack.sent(), stack.told()) == (["401", "401"], ["request"])
    assert to_tag(stack.last) == stack.transaction.to_tag


def test_stateless_answer_after_a_provisional(new_stack):
    """After a provisional response a stateless answer is a stateful one, with the same To tag (8.2.6.2)."""

    def ring_and_refuse(request, transaction):
        transaction.respond(request.response(180))
        challenge(request, transaction)

    stack = new_stack(answer=ring_and_refuse)
    stack.receive("INVITE")
    stack.receive("INVITE")

    assert (stack.sent(), stack.told()) == (["180", "401", "401"], ["request"])
    assert {to_tag(response) for response in stack.flow.responses} == {stack.transaction.to_tag}


def test_stateless_provisional_is_stateful(new_stack):
    """A provisional response cannot be the last word, so `respond_statelessly` sends it as `respond` does (8.2.7)."""
    stack = new_stack(answer=lambda request, transaction: transaction.respond_statelessly(request.response(180)))
    stack.receive("INVITE")
    stack.receive("INVITE")

    assert (stack.sent(), stack.told()) == (["180", "180"], ["request"])


def test_stateless_answer_is_the_last(new_stack):
    """After a stateless answer every other is dropped, and an exception only logged (8.2.7)."""

    def challenge_and_more(request, transaction):
        challenge(request, transaction)
        challenge(request, transaction)
        transaction.respond(request.response(404))
        raise SIPError(403)

    stack = new_stack(answer=challenge_and_more)
    stack.receive("INVITE")

    assert stack.sent() == ["401"]
    assert stack.told() == ["request", "ended: answered"]


def test_stateless_answer_that_cannot_be_sent(new_stack):
    """A stateless answer that cannot be sent is told and counted as any other (17.2.4)."""
    stack = new_stack(answer=challenge)
    stack.flow.failure = "no route to host"
    stack.receive("INVITE")

    assert stack.told() == ["request", "ended: transport failed"]
    assert stack.layer.counters["send_failures"] == 1


# Requests that are malformed


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (MessageSyntaxError("Malformed To header field"), "Malformed To header field"),
        (MessageSyntaxError("The version is 3.0", status=505), "Version Not Supported"),
        (MessageSyntaxError("The message is too long", status=513), "The message is too long"),
    ],
)
def test_malformed_request_is_refused(new_stack, fault, reason):
    """A malformed request is answered with the status of its fault and a To tag, statelessly (8.2.7, 21.4.1)."""
    stack = new_stack()
    stack.layer.refuse_malformed(make_request(), fault, stack.flow)

    assert (stack.last.status, stack.last.reason) == (fault.status, reason)
    assert to_tag(stack.last)
    assert stack.layer.counters["malformed"] == 1
    assert stack.told() == []


def test_malformed_ack_is_not_answered(new_stack):
    """An ACK is never answered, malformed or not (17)."""
    stack = new_stack()
    stack.layer.refuse_malformed(make_request("ACK"), MessageSyntaxError("Malformed To header field"), stack.flow)

    assert stack.sent() == []
    assert stack.layer.counters["malformed"] == 1


@pytest.mark.parametrize(("method", "sent"), [("INVITE", ["400"]), ("CANCEL", ["400 CANCEL"]), ("ACK", [])])
def test_malformed_from_counts_where_it_is_needed(new_stack, method, sent):
    """Without the cookie From is needed for matching, and refused if it is malformed; else it is ignored (8.2.2)."""
    stack = new_stack()
    octets = make_request(method, branch="1").to_bytes().replace(b"From: Alice <", b"From: Alice <<")
    stack.inject(parse_message(octets))
    assert (stack.sent(), stack.told()) == (sent, [])

    stack.inject(parse_message(octets.replace(b"branch=1", b"branch=z9hG4bK1")))
    assert stack.layer.counters["malformed"] == 1


# What the transaction user may do: answer at once, later, twice, never


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_second_final_response_is_dropped(new_stack, method):
    """Of two final responses only the first is sent, at once or later (17.2.1, 17.2.2)."""

    def answer(request, transaction):
        transaction.respond(request.response(404))
        transaction.respond(request.response(503))

    stack = new_stack(answer=answer)
    stack.receive(method)
    stack.respond(600)

    assert stack.sent() == ["404"]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_send_failure_within_request_received(new_stack, transport, method):
    """If the answer given at once cannot be sent, the transaction is over, and what follows is dropped (17.2.4)."""

    def answer(request, transaction):
        transaction.respond(request.response(404))
        transaction.respond(request.response(503))
        transaction.respond_statelessly(request.response(401))
        raise SIPError(486)

    stack = new_stack(transport, answer)
    stack.flow.failure = "no route to host"
    stack.receive(method)

    assert stack.told() == ["request", "ended: transport failed"]
    assert stack.transaction.request is None
    assert (stack.layer.counters["owed"], stack.layer.counters["waiting"]) == (0, 0)
    assert stack.clock.getDelayedCalls() == []


@pytest.mark.requirement("17.2.4-3")
def test_send_failure_of_a_retransmission(new_stack):
    """If a retransmission by Timer G cannot be sent, the transaction is over (17.2.4)."""
    stack = new_stack(answer=answering(302))
    stack.receive("INVITE")
    stack.flow.failure = "no route to host"
    stack.step(0.5)

    assert stack.told() == ["request", "ended: transport failed"]
    assert stack.clock.getDelayedCalls() == []


def test_server_header(new_stack):
    """Every response has the Server header field given, stateless ones too, unless it brings its own (20.35)."""
    stack = new_stack(server_header="ours/1", max_transactions=1)
    stack.receive("INVITE")
    stack.receive("MESSAGE")
    stack.receive("CANCEL")
    stack.respond(180, headers=[("Server", "theirs/2")])
    stack.respond(404)

    assert [response.headers.get("Server") for response in stack.flow.responses] == [
        "ours/1",
        "ours/1",
        "theirs/2",
        "ours/1",
    ]


# Exceptions of the transaction user


def at_once(error):
    """Return what raises *error*."""

    def answer(request, transaction):
        raise error

    return answer


def as_deferred(error):
    """Return what returns a `Deferred` that fails with *error*."""
    return lambda request, transaction: fail(error)


def as_coroutine(error):
    """Return the coroutine function that raises *error*."""

    async def answer(request, transaction):
        raise error

    return answer


def after_a_wait(error):
    """Return the coroutine function that waits for a while, and then raises *error*."""

    async def answer(request, transaction):
        waiting = Deferred()
        transaction.identity = waiting
        await waiting
        raise error

    return answer


RAISING = [at_once, as_deferred, as_coroutine, after_a_wait]


def receive_and_wait(stack, method):
    """Inject a request, and let who waits go on."""
    stack.receive(method)
    if stack.transaction.identity is not None:
        stack.transaction.identity.callback(None)


@pytest.mark.parametrize("raising", RAISING)
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_sip_error_is_the_answer(new_stack, method, raising):
    """A `SIPError` is the answer, with its reason and header fields, however it is raised (8.2)."""
    error = SIPError(480, "Gone Fishing", headers=[("Retry-After", "3600")])
    stack = new_stack(answer=raising(error))
    receive_and_wait(stack, method)

    assert (stack.last.status, stack.last.reason) == (480, "Gone Fishing")
    assert stack.last.headers.get("Retry-After") == "3600"
    assert to_tag(stack.last) == stack.transaction.to_tag
    assert stack.sent() == ["480"]


@pytest.mark.parametrize("raising", RAISING)
def test_syntax_error_is_the_answer(new_stack, raising):
    """A `MessageSyntaxError` of a header field that was asked for is answered with its status and reason (21.4.1)."""
    error = MessageSyntaxError("Malformed Contact header field")

    def answer(request, transaction):
        error.request = request  # as the request's own attributes do
        return raising(error)(request, transaction)

    stack = new_stack(answer=answer)
    receive_and_wait(stack, "INVITE")

    assert (stack.last.status, stack.last.reason) == (400, "Malformed Contact header field")
    assert stack.sent() == ["400"]


@pytest.mark.parametrize("raising", RAISING)
def test_syntax_error_elsewhere_is_500(new_stack, logged_failures, raising):
    """A `MessageSyntaxError` in anything but the request is our fault: logged, and not blamed on the client."""
    stack = new_stack(answer=raising(MessageSyntaxError("Malformed URI")))
    receive_and_wait(stack, "INVITE")

    assert stack.sent() == ["500"]
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest.mark.parametrize("raising", RAISING)
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_other_exception_is_500(new_stack, logged_failures, method, raising):
    """Any other exception is logged once, and answered 500 without details (21.5.1)."""
    stack = new_stack(answer=raising(RuntimeError("a fault of the handler's")))
    receive_and_wait(stack, method)

    assert stack.sent() == ["500"]
    assert b"fault" not in stack.flow.sent[-1][0]
    (event,) = logged_failures
    assert event["log_failure"].getErrorMessage() == "a fault of the handler's"
    logged_failures.clear()


@pytest.mark.parametrize("error", [SIPError(486, "\ud800"), MessageSyntaxError("two\r\nlines")])
def test_refusal_that_cannot_be_sent_is_500(new_stack, logged_failures, error):
    """An exception that holds what no response can is a fault of its maker's, and answered 500 (21.5.1)."""
    stack = new_stack(answer=at_once(error))
    stack.receive("INVITE")

    assert stack.sent() == ["500"]
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest.mark.parametrize(
    ("method", "status"), [("INVITE", 180), ("INVITE", 200), ("INVITE", 404), ("MESSAGE", 200), ("MESSAGE", 404)]
)
def test_faulty_response_is_500(new_stack, logged_failures, method, status):
    """A response that cannot be put into octets is an exception of who made it, and answered 500 (21.5.1)."""
    stack = new_stack(answer=answering(status, body="text, not bytes"))
    stack.receive(method)

    assert stack.sent() == ["500"]
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_exception_after_the_answer(new_stack, logged_failures):
    """What is raised after the final response changes nothing: a refusal is dropped, any other exception logged."""

    def answer_and_raise(error):
        def answer(request, transaction):
            transaction.respond(request.response(404))
            raise error

        return answer

    stack = new_stack(answer=answer_and_raise(SIPError(486)))
    stack.receive("INVITE")
    assert (stack.sent(), logged_failures) == (["404"], [])

    stack = new_stack(answer=answer_and_raise(RuntimeError()))
    stack.receive("INVITE")
    assert stack.sent() == ["404"]
    assert len(logged_failures) == 1
    logged_failures.clear()


class Raising(RecordingTransactionUser):
    """Raises *error* from each method but `request_received`, while it lasts."""

    def __init__(self, error, answer=None):
        super().__init__(answer)
        self.error = error

    def _raise(self):
        if self.error is not None:
            raise self.error

    def ack_received(self, ack, flow):
        super().ack_received(ack, flow)
        self._raise()

    def transaction_cancelled(self, transaction):
        super().transaction_cancelled(transaction)
        self._raise()

    def transaction_ended(self, transaction, reason):
        super().transaction_ended(transaction, reason)
        self._raise()


def test_exception_in_transaction_cancelled(new_stack, logged_failures):
    """An exception from `transaction_cancelled` is the answer to the INVITE, as it is from `request_received`."""
    user = Raising(SIPError(487))
    stack = new_stack(user=user)
    stack.receive("INVITE")
    stack.receive("CANCEL")
    assert (stack.sent(), logged_failures) == (["200 CANCEL", "487"], [])

    user.error = RuntimeError()
    stack.receive("INVITE", branch="z9hG4bK2")
    stack.receive("CANCEL", branch="z9hG4bK2")
    assert stack.sent() == ["200 CANCEL", "500"]
    assert len(logged_failures) == 1
    logged_failures.clear()
    user.error = None


def test_exception_in_ack_received(new_stack, logged_failures):
    """An exception from `ack_received` is logged once; an ACK is never answered (17)."""
    stack = new_stack(user=Raising(SIPError(500)))
    stack.receive("ACK")

    assert stack.sent() == []
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_exception_in_transaction_ended(new_stack, logged_failures, transport):
    """An exception from `transaction_ended` is logged once, and the transaction is forgotten all the same (17.2.1)."""
    user = Raising(RuntimeError(), answering(404))
    stack = new_stack(transport, user=user)
    stack.receive("MESSAGE")
    stack.step(32)

    assert stack.told() == ["request", "ended: answered"]
    assert len(logged_failures) == 1
    logged_failures.clear()
    stack.receive("MESSAGE")
    assert stack.told()[0] == "request"
    logged_failures.clear()
    user.error = None


# Bounds


def test_bound_on_transactions(new_stack):
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
        "waiting": 0,
        "waiting_octets": 0,
        "refused": 2,
        "malformed": 0,
        "waiting_dropped": 0,
        "ack_timeouts": 0,
        "send_failures": 0,
    }


def test_bound_spares_what_is_known(new_stack):
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


def test_bound_counts_only_what_is_owed(new_stack):
    """A transaction that waits out its timer is owed nothing, and does not count against the bound (17.2.2)."""
    stack = new_stack(answer=answering(404), max_transactions=1)
    for number in range(5):
        stack.receive("MESSAGE", branch=f"z9hG4bK{number}")

    assert stack.sent() == ["404"] * 5
    assert (stack.layer.counters["owed"], stack.layer.counters["waiting"]) == (0, 5)


def test_503_that_cannot_be_sent(new_stack):
    """A stateless refusal that cannot be sent is counted, and nothing else comes of it (17.2.4)."""
    stack = new_stack(max_transactions=0)
    stack.flow.failure = "no route to host"
    stack.receive("MESSAGE")

    assert (stack.layer.counters["refused"], stack.layer.counters["send_failures"]) == (1, 1)
    assert stack.told() == []


def test_bound_on_waiting_transactions(new_stack):
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
def test_no_waiting_at_all(new_stack, status):
    """With room for none, each transaction is dropped as it begins to wait, the INVITE's too (17.2.1)."""
    stack = new_stack(answer=answering(status), max_waiting=0)
    stack.receive("MESSAGE")
    stack.receive("INVITE")
    stack.receive("CANCEL", branch="z9hG4bK2")
    stack.receive("ACK")

    assert stack.told()[:4] == ["request", "ended: answered", "request", "ended: answered"]
    assert (stack.layer.counters["owed"], stack.layer.counters["waiting"]) == (0, 0)
    assert stack.clock.getDelayedCalls() == []


def test_dropped_transaction_ends_as_it_would_have(new_stack):
    """What is told of a transaction that is dropped is what its timer would have told: here, that it was cancelled."""
    stack = new_stack(max_waiting=0)
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.respond(487)
    stack.receive("ACK")

    assert stack.told() == ["request", "cancelled", "ended: cancelled"]


def test_counters_are_read_only(new_stack):
    """`counters` is a view that nobody can write to."""
    with pytest.raises(TypeError):
        new_stack().layer.counters["refused"] = 1


# Stopping


def test_drain_with_nothing_owed(new_stack):
    """With nothing owed, draining is done at once, whatever waits out a timer."""
    stack = new_stack(answer=answering(404))
    stack.receive("MESSAGE")

    assert stack.layer.drain(5.0).called


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_drain_waits_for_what_is_owed(new_stack, transport):
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


def test_drain_has_a_limit(new_stack):
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


def test_drain_twice(new_stack):
    """Who asks to drain while that is going on, or after it, is told too, and nobody is forgotten."""
    stack = new_stack()
    stack.receive("MESSAGE")
    first, second = stack.layer.drain(5.0), stack.layer.drain(5.0)
    assert (first.called, second.called) == (False, False)

    stack.respond(404)

    assert (first.called, second.called) == (True, True)
    assert stack.layer.drain(5.0).called


def test_stop_ends_everything(new_stack):
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


def test_stop_from_within_drain(new_stack):
    """Who drains may stop as soon as that is done, though the last transaction is just entering its next state."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.layer.drain(5.0).addCallback(lambda _: stack.layer.stop())
    stack.respond(302)
    stack.receive("ACK")

    assert stack.told() == ["request", "ended: shutdown"]
    assert stack.clock.getDelayedCalls() == []


def test_answer_from_within_the_end(new_stack):
    """A transaction user that answers a transaction as it ends is not heard (17.2.1)."""

    class User(RecordingTransactionUser):
        def transaction_ended(self, transaction, reason):
            super().transaction_ended(transaction, reason)
            transaction.respond(stack.request.response(500))
            transaction.respond_statelessly(stack.request.response(500))

    stack = new_stack(user=User())
    stack.receive("INVITE")
    stack.layer.stop()

    assert stack.sent() == ["503"]
    assert stack.told() == ["request", "ended: shutdown"]


# Whatever comes, in whatever order

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
def test_any_order(new_stack, events, at_once, transport, max_transactions, max_waiting, drained_after):
    """In any order of inputs each transaction ends exactly once, the bounds hold, and nothing is left behind."""
    answers = iter(at_once)

    def answer(request, transaction):
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


def test_flows_are_told_apart(new_stack):
    """A response goes by the route that came with the request, and `flow` is where the request came from (18.2.2)."""
    stack = new_stack()
    route = RecordingFlow(remote_address=("192.0.2.1", 5099))
    stack.layer.request_received(make_request("MESSAGE"), stack.flow, route)

    assert stack.transaction.flow is stack.flow
    stack.transaction.respond(make_request("MESSAGE").response(200))
    assert (len(stack.flow.sent), len(route.sent)) == (0, 1)


def test_octets_that_wait_are_bounded(new_stack):
    """Responses kept for retransmissions are bounded in octets too; the oldest is dropped, and counted."""
    stack = new_stack(answer=lambda request, transaction: transaction.respond(request.response(200, body=b"x" * 1000)))
    stack.layer._max_waiting_octets = 5000
    for number in range(10):
        stack.receive("OPTIONS", branch=f"z9hG4bK{number}")

    assert stack.layer.counters["waiting_octets"] <= 5000
    assert stack.layer.counters["waiting"] + stack.layer.counters["waiting_dropped"] == 10
    assert stack.layer.counters["waiting"] >= 3
