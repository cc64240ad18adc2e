"""Does a CANCEL do what RFC 3261, 9.2, says, to the right transaction?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.transaction.answers import answering, to_tag
from twisted_sipuas import SIPError, UserAgentServer
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingTransactionUser, make_request
from twisted_sipuas.transaction.server import State


@pytest.mark.requirement("9.2-1", "9.2-8")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_cancel(new_stack: Callable[..., Any], transport: Any) -> None:
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
def test_cancel_has_the_to_tag_of_its_invite(new_stack: Callable[..., Any], to: Any) -> None:
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
def test_cancel_of_nothing(new_stack: Callable[..., Any], other: Any) -> None:
    """A CANCEL that matches no transaction is answered 481, with a To tag, and the user is not troubled (9.2)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.receive("CANCEL", **other)

    assert stack.sent() == ["481 CANCEL"]
    assert to_tag(stack.last)
    assert stack.told() == ["request"]


def test_cancel_of_nothing_leaves_nothing(new_stack: Callable[..., Any]) -> None:
    """A CANCEL that matches nothing is answered without a transaction, and alike if it comes again (8.2.7)."""
    stack = new_stack()
    stack.receive("CANCEL")
    stack.receive("CANCEL")

    assert stack.flow.sent[0] == stack.flow.sent[1]
    assert stack.layer.counters["owed"] == stack.layer.counters["waiting"] == 0


def test_cancel_does_not_match_cancel(new_stack: Callable[..., Any]) -> None:
    """A CANCEL is not its own target, nor is an ACK's (9.2)."""
    stack = new_stack()
    stack.receive("CANCEL")
    stack.receive("CANCEL")

    assert stack.sent() == ["481 CANCEL", "481 CANCEL"]
    assert stack.told() == []


@pytest.mark.requirement("9.2-5", "9.2-8", "9.2-9")
@pytest.mark.parametrize("status", [200, 302])
def test_cancel_after_the_final_response(new_stack: Callable[..., Any], status: int) -> None:
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
    "method", "BYE DANCE INFO MESSAGE NOTIFY OPTIONS PRACK PUBLISH REFER REGISTER SUBSCRIBE UPDATE invite".split()
)
def test_cancel_of_another_method(new_stack: Callable[..., Any], method: str) -> None:
    """A CANCEL of a request other than INVITE is answered 200 and has no effect (9.2)."""
    stack = new_stack()
    stack.receive(method)
    stack.receive("CANCEL")

    assert stack.sent() == ["200 CANCEL"]
    assert stack.told() == ["request"]
    assert not stack.transaction.cancelled


@pytest.mark.requirement("9.2-10")
def test_cancel_has_a_transaction_of_its_own(new_stack: Callable[..., Any]) -> None:
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


def test_response_from_within_transaction_cancelled(new_stack: Callable[..., Any]) -> None:
    """The transaction user may answer 487 from within `transaction_cancelled`, after the CANCEL's 200 (9.2)."""

    class User(RecordingTransactionUser):
        def transaction_cancelled(self, transaction: Any) -> None:
            super().transaction_cancelled(transaction)
            transaction.respond(transaction.request.response(487))
            transaction.respond(stack.request.response(486))

    stack = new_stack(user=User())
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.receive("ACK")

    assert stack.sent() == ["200 CANCEL", "487"]
    assert stack.transaction.state is State.CONFIRMED


def test_response_from_within_when_cancelled(new_stack: Callable[..., Any]) -> None:
    """Who waits for the CANCEL may answer at once; `transaction_cancelled` follows all the same (9.2)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.transaction.when_cancelled().addCallback(lambda _: stack.respond(487))
    stack.receive("CANCEL")

    assert stack.sent() == ["200 CANCEL", "487"]
    assert stack.told() == ["request", "cancelled"]


def test_nothing_is_told_after_the_end(new_stack: Callable[..., Any]) -> None:
    """If who waits for the CANCEL cannot send an answer, the end of the transaction is the last told (17.2.4)."""
    stack = new_stack("TCP")
    stack.receive("INVITE")
    stack.transaction.when_cancelled().addCallback(lambda _: stack.respond(487))
    stack.flow.failure = "the connection is gone"
    stack.receive("CANCEL")

    assert stack.told() == ["request", "ended: transport failed"]


def test_cancel_where_the_branch_has_several(new_stack: Callable[..., Any]) -> None:
    """Of several requests that a CANCEL matches, the INVITE is the one it can do something about (9.2)."""
    stack = new_stack()
    for method in ("DANCE", "INVITE", "MESSAGE"):
        stack.receive(method)
    stack.receive("CANCEL")

    assert stack.sent() == ["200 CANCEL"]
    assert [transaction.cancelled for transaction in stack.transactions] == [False, True, False]


@pytest.mark.requirement("9.2-2")
def test_malformed_cancel_cancels_nothing(new_stack: Callable[..., Any]) -> None:
    """A CANCEL that the general checks of 8.2 refuse is answered so, and has no effect (9.2)."""
    stack = new_stack()
    stack.receive("INVITE", branch="1")
    octets = make_request("CANCEL", branch="1").to_bytes().replace(b"From: Alice <", b"From: Alice <<")
    stack.inject(parse_message(octets))

    assert stack.sent() == ["400 CANCEL"]
    assert stack.told() == ["request"]


@pytest.mark.requirement("9.2-3")
def test_cancel_is_not_challenged_and_its_require_is_ignored(new_stack: Callable[..., Any]) -> None:
    """A CANCEL cannot be sent again with credentials, and Require in it means nothing: 200, never 401 or 420 (9.2)."""

    class Guarded(UserAgentServer):
        def authenticate(self, request: Request, transaction: Any) -> None:
            if request.method == "CANCEL":
                raise SIPError(401)

        def handle_INVITE(self, request: Request, transaction: Any) -> Any:
            return Deferred()

    stack = new_stack(user=Guarded())
    stack.user.authenticator = stack.user
    stack.user.use_clock(stack.clock)
    stack.receive("INVITE")
    stack.receive("CANCEL", headers=(("Require", "nosuch"), ("Proxy-Require", "nosuch")))

    assert stack.sent() == ["200 CANCEL", "487"]


def test_waiting_for_a_cancel_that_can_change_nothing(new_stack: Callable[..., Any]) -> None:
    """After the final response nobody waits for a CANCEL any more, and who asks is not remembered (9.2)."""
    stack = new_stack(answer=answering(200))
    stack.receive("MESSAGE")
    waiter = stack.transaction.when_cancelled()
    stack.receive("CANCEL")

    assert not waiter.called
    assert stack.transaction._cancel_waiters is None
