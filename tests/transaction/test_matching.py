"""Is each request handed to the transaction that it belongs to (RFC 3261, 17.2.3)?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.transaction.answers import answering
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import make_request
from twisted_sipuas.transaction.server import State

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
def test_cookie_other_transaction(new_stack: Callable[..., Any], method: str, other: Any) -> None:
    """With the magic cookie, another branch or another sent-by is another transaction (17.2.3)."""
    stack = new_stack()
    stack.receive(method, **WITH_COOKIE)
    stack.receive(method, **{**WITH_COOKIE, **other})

    assert stack.told() == ["request", "request"]


@pytest.mark.requirement("17.2.3-1")
@pytest.mark.parametrize("methods", [("INVITE", "MESSAGE"), ("MESSAGE", "INFO"), ("MESSAGE", "message")])
def test_cookie_other_method(new_stack: Callable[..., Any], methods: Any) -> None:
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
def test_cookie_retransmission(new_stack: Callable[..., Any], method: str, other: Any) -> None:
    """With the magic cookie, branch, sent-by and method are all that counts; a host has no case (17.2.3)."""
    stack = new_stack()
    stack.receive(method, **WITH_COOKIE)
    stack.receive(method, **{**WITH_COOKIE, **other})

    assert stack.told() == ["request"]


@pytest.mark.parametrize("cookie", ["Z9HG4BK", "z9hg4bk"])
def test_cookie_has_no_case(new_stack: Callable[..., Any], cookie: Any) -> None:
    """The magic cookie is a token, and known in any case (8.1.1.7, 7.3.1)."""
    stack = new_stack()
    stack.receive("MESSAGE", branch=f"{cookie}1", call_id="one")
    stack.receive("MESSAGE", branch=f"{cookie}1", call_id="two")

    assert stack.told() == ["request"]


@pytest.mark.requirement("17.2.3-1")
@pytest.mark.parametrize("other", [{"branch": "z9hG4bKnashds9"}, {"sent_by": "other.example.com:5060"}])
def test_cookie_ack_of_another_transaction(new_stack: Callable[..., Any], other: Any) -> None:
    """An ACK acknowledges the INVITE with its branch and sent-by, and no other (17.2.3)."""
    stack = new_stack(answer=answering(486))
    stack.receive("INVITE", **WITH_COOKIE)

    stack.receive("ACK", **{**WITH_COOKIE, **other})
    assert stack.told() == ["request", "ack"]
    assert stack.transaction.state is State.COMPLETED

    stack.receive("ACK", **WITH_COOKIE)
    assert stack.told() == []
    state: State = stack.transaction.state
    assert state is State.CONFIRMED


@pytest.mark.requirement("18.2.1-8")
def test_ack_for_2xx_reaches_the_transaction_user(new_stack: Callable[..., Any]) -> None:
    """The ACK for a 2xx has a branch of its own, is no transaction's, and is the transaction user's (17, 13.3.1.4)."""
    stack = new_stack(answer=answering(200))
    stack.receive("INVITE")
    ack = stack.receive("ACK", branch="z9hG4bKack", to=stack.last.headers.get("To"))

    assert stack.told() == ["request", "ack"]
    assert stack.user.calls[-1] == ("ack_received", ack, stack.flow)
    assert stack.sent() == ["200"]


@pytest.mark.parametrize("branch", ["z9hG4bK", "Z9HG4BK"])
def test_cookie_without_identifier(new_stack: Callable[..., Any], branch: Any) -> None:
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
def test_2543_other_transaction(new_stack: Callable[..., Any], method: str, other: Any) -> None:
    """Without the cookie, each of the fields that 17.2.3 lists makes another transaction of it."""
    stack = new_stack()
    stack.receive(method, **WITHOUT_COOKIE)
    stack.receive(method, **{**WITHOUT_COOKIE, **other})

    assert stack.told() == ["request", "request"]


@pytest.mark.requirement("17.2.3-5")
def test_2543_other_method(new_stack: Callable[..., Any]) -> None:
    """Without the cookie, the method of CSeq counts too (17.2.3)."""
    stack = new_stack()
    stack.receive("BYE", **WITHOUT_COOKIE)
    stack.receive("INFO", **WITHOUT_COOKIE)

    assert stack.told() == ["request", "request"]


@pytest.mark.parametrize("method", ["INVITE", "BYE"])
@pytest.mark.parametrize("to", ["<sip:bob@example.com>", "<sip:bob@example.com>;tag=b"])
def test_2543_retransmission(new_stack: Callable[..., Any], method: str, to: Any) -> None:
    """Without the cookie, a request that is equal in all these fields is a retransmission (17.2.3)."""
    stack = new_stack()
    stack.receive(method, **{**WITHOUT_COOKIE, "to": to})
    stack.receive(method, **{**WITHOUT_COOKIE, "to": to}, headers=(("User-Agent", "another"),))

    assert stack.told() == ["request"]


def test_2543_without_branch(new_stack: Callable[..., Any]) -> None:
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
def test_2543_ack(new_stack: Callable[..., Any], to: Any) -> None:
    """Without the cookie, an ACK has all that the INVITE had, and the To tag of the response (17.2.3)."""
    stack = new_stack(answer=answering(486))
    stack.receive("INVITE", **{**WITHOUT_COOKIE, "to": to})
    stack.receive("ACK", **{**WITHOUT_COOKIE, "to": stack.last.headers.get("To")})

    assert stack.told() == ["request"]
    state: State = stack.transaction.state
    assert state is State.CONFIRMED


@pytest.mark.requirement("17.2.3-4")
@pytest.mark.parametrize("other", OTHER, ids=OTHER_IDS)
@pytest.mark.parametrize("to", ["<sip:bob@example.com>", "<sip:bob@example.com>;tag=b"], ids=["INVITE", "re-INVITE"])
def test_2543_ack_of_another_transaction(new_stack: Callable[..., Any], to: Any, other: Any) -> None:
    """Without the cookie, an ACK that differs in any of these fields acknowledges something else (17.2.3)."""
    stack = new_stack(answer=answering(486))
    stack.receive("INVITE", **{**WITHOUT_COOKIE, "to": to})
    stack.receive("ACK", **{**WITHOUT_COOKIE, "to": stack.last.headers.get("To"), **other})

    assert stack.told() == ["request", "ack"]
    assert stack.transaction.state is State.COMPLETED


def test_2543_ack_for_2xx(new_stack: Callable[..., Any]) -> None:
    """The ACK of an RFC 2543 client for a 2xx matches the INVITE's transaction, which hands it on (RFC 6026, 7.1)."""
    stack = new_stack(answer=answering(200))
    stack.receive("INVITE", branch="1")
    stack.receive("ACK", branch="1", to=stack.last.headers.get("To"))

    assert stack.told() == ["request", "ack"]


def test_2543_cancel(new_stack: Callable[..., Any]) -> None:
    """A CANCEL of an RFC 2543 client finds its INVITE by the fields that 17.2.3 lists (9.2)."""
    stack = new_stack()
    stack.receive("INVITE", branch="1")
    stack.receive("CANCEL", branch="1", call_id="another")
    stack.receive("CANCEL", branch="1")

    assert stack.sent() == ["481 CANCEL", "200 CANCEL"]
    assert stack.told() == ["request", "cancelled"]
