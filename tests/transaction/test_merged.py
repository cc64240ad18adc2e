"""Is a request that comes by two ways answered once, and refused with 482 the other time (RFC 3261, 8.2.2.2)?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from zope.interface import implementer

from twisted_sipuas import MemoryBindingStore, Redirection, RedirectServer, Registrar, Target, UserAgentServer
from twisted_sipuas.interfaces import ILocationService
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow, make_request


class Server(UserAgentServer):
    """Answers as *statuses* says, by method; None: not yet."""

    statuses: Any = {"INVITE": 486, "MESSAGE": 202}

    def handle_INVITE(self, request: Request, transaction: Any) -> Any:
        return transaction.when_cancelled() if self.statuses is None else request.response(486)

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        return request.response(202)


class Slow(Server):
    """Has not answered an INVITE yet."""

    statuses = None


@pytest.mark.requirement("8.2.2.2-1", "8.2.2.2-2")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize(
    "other",
    [{"branch": "z9hG4bK2"}, {"sent_by": "192.0.2.2"}, {"branch": "2"}],
    ids=["branch", "sent-by", "no cookie"],
)
def test_merged_request(new_stack: Any, method: str, other: Any) -> None:
    """From tag, Call-ID and CSeq of a transaction in progress, but not that transaction: 482 (8.2.2.2)."""
    stack = new_stack(user=Server())
    stack.receive(method)
    stack.receive(method, **other)
    stack.receive(method, **other)

    assert stack.sent()[1:] == ["482", "482"]


@pytest.mark.requirement("8.2.2.2-1")
def test_merged_with_a_request_that_is_not_answered_yet(new_stack: Any) -> None:
    """A transaction is in progress as soon as the transaction user has its request, answered or not (8.2.2.2)."""
    stack = new_stack(user=Slow(clock=None))
    stack.user.use_clock(stack.clock)
    stack.receive("INVITE")
    stack.receive("INVITE", branch="z9hG4bK2")
    assert stack.sent() == ["482"]

    stack.receive("CANCEL", branch="z9hG4bK3")
    assert stack.sent() == ["481 CANCEL"]


@pytest.mark.requirement("8.2.2.2-1")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_request_with_a_to_tag_is_not_compared(new_stack: Any, method: str) -> None:
    """A request with a To tag belongs to a dialog, and is never merged (8.2.2.2)."""
    stack = new_stack(user=Server())
    for branch in ("z9hG4bK1", "z9hG4bK2"):
        stack.receive(method, branch=branch, to="<sip:bob@example.com>;tag=1")

    assert "482" not in stack.sent()


@pytest.mark.requirement("8.2.2.2-2")
@pytest.mark.parametrize(
    "other",
    [{"from_tag": "x"}, {"call_id": "x"}, {"cseq": 2}, {"method": "INVITE"}],
    ids=["From tag", "Call-ID", "CSeq number", "CSeq method"],
)
def test_other_request_is_not_merged(new_stack: Any, other: Any) -> None:
    """A request that differs in one of From tag, Call-ID and CSeq, its method too, is another request (8.2.2.2)."""
    stack = new_stack(user=Server())
    stack.receive("MESSAGE")
    stack.receive(**{"method": "MESSAGE", "branch": "z9hG4bK2", **other})

    assert "482" not in stack.sent()


@pytest.mark.requirement("8.2.2.2-2")
@pytest.mark.parametrize(
    "row",
    [
        "From: Alice <sip:alice@example.com>;tag=9fxced76sl",
        "f: sip:alice@example.com;tag=9fxced76sl",
        'From: "A>;tag=x" <sip:alice@example.com>;x=">;tag=y";TAG=9fxced76sl',
        "From: <sip:alice@example.com;tag=z> ; tag = 9fxced76sl",
    ],
)
def test_from_tag_is_what_counts(new_stack: Any, row: Any) -> None:
    """The From tag is compared, however the header field is written, and nothing else of it (8.2.2.2)."""
    stack = new_stack(user=Server())
    stack.receive("MESSAGE")
    octets = make_request("MESSAGE", branch="z9hG4bK2").to_bytes()
    received = b"From: Alice <sip:alice@example.com>;tag=9fxced76sl"
    assert received in octets
    stack.inject(parse_message(octets.replace(received, row.encode())))

    assert stack.sent() == ["202", "482"]


def test_malformed_from_is_not_compared(new_stack: Any) -> None:
    """A From that cannot be read has no tag to be compared, and is no fault where it is not needed (8.2.2)."""
    stack = new_stack(user=Server())
    for branch in (b"z9hG4bK1", b"z9hG4bK2"):
        octets = make_request("MESSAGE").to_bytes().replace(b";tag=9fxced76sl", b';tag="1"')
        stack.inject(parse_message(octets.replace(b"z9hG4bK74bf9", branch)))

    assert stack.sent() == ["202", "202"]


@pytest.mark.requirement("8.2.2.2-1")
@pytest.mark.parametrize(("method", "seconds"), [("MESSAGE", 32), ("INVITE", 5)])
def test_merged_as_long_as_the_transaction_lasts(new_stack: Any, method: str, seconds: float) -> None:
    """A request is merged until the first transaction ends, with Timer J or I, and new after that (8.2.2.2)."""
    stack = new_stack(user=Server())
    stack.receive(method)
    if method == "INVITE":
        stack.receive("ACK", to=stack.last.headers.get("To"))
    stack.step(seconds - 0.5)
    stack.receive(method, branch="z9hG4bK2")
    stack.step(0.5)
    stack.receive(method, branch="z9hG4bK3")

    first, *others = [status for status in stack.sent() if status != "482"]
    assert others == [first]


def test_index_is_dropped_with_the_transaction(new_stack: Any) -> None:
    """Nothing is left in the index of what has ended, merged or not, whatever it ended by."""
    stack = new_stack("UDP", user=Server())
    for number in range(4):
        stack.receive("MESSAGE", branch=f"z9hG4bK{number}")
    stack.receive("INVITE")
    stack.step(64)

    assert stack.layer._merged == {}
    assert len(stack.layer._table) == 0


def test_answered_without_a_transaction(new_stack: Any) -> None:
    """A request that was refused without leaving anything behind is in progress nowhere (8.2.7, 8.2.2.2)."""
    stack = new_stack(answer=lambda request, transaction: transaction.respond_statelessly(request.response(401)))
    stack.receive("MESSAGE")
    stack.receive("MESSAGE", branch="z9hG4bK2")

    assert [transaction.is_merged for transaction in stack.transactions] == [False, False]


def test_registrar_refuses_a_merged_register(new_stack: Any) -> None:
    """A registrar is a UAS, and makes this check too (10.3, 8.2.2.2)."""
    stack = new_stack(user=Registrar(MemoryBindingStore(Clock()), clock=Clock()))
    for branch in ("z9hG4bK1", "z9hG4bK2"):
        stack.receive("REGISTER", uri="sip:example.com", branch=branch, to="<sip:bob@example.com>")

    assert stack.sent() == ["200", "482"]


@pytest.mark.requirement("8.3-16")
def test_redirect_server_redirects_each_branch(new_stack: Any) -> None:
    """A redirect server redirects every branch of a forked request: each may have another Request-URI (8.3)."""

    @implementer(ILocationService)
    class Locations:
        description = "one"

        def lookup(self, uri: Any, request: Request) -> Any:
            return Redirection([Target(f"sip:{uri.user}@192.0.2.9")])

    stack = new_stack(user=RedirectServer([Locations()]))
    stack.receive("INVITE", branch="z9hG4bK1")
    stack.receive("INVITE", uri="sip:carol@example.com", branch="z9hG4bK2", to="<sip:bob@example.com>")

    assert stack.sent() == ["302", "302"]
    assert stack.last.headers.get("Contact") == "<sip:carol@192.0.2.9>"


def test_index_holds_in_bound(new_stack: Any) -> None:
    """A transaction that the bound on waiting ones drops is dropped from the index too."""
    stack = new_stack(user=Server(), max_waiting=1)
    stack.receive("MESSAGE")
    stack.receive("MESSAGE", call_id="another", branch="z9hG4bK2")
    stack.receive("MESSAGE", branch="z9hG4bK3")

    assert stack.sent() == ["202", "202", "202"]


def test_other_flows_make_no_difference(new_stack: Any) -> None:
    """The ways by which a merged request comes are different ones, as a rule (8.2.2.2)."""
    stack = new_stack(user=Server())
    stack.receive("MESSAGE")
    other = RecordingFlow(remote_address=("192.0.2.2", 5060))
    stack.inject(make_request("MESSAGE", branch="z9hG4bK2", sent_by="192.0.2.2"), other)

    assert [response.status for response in other.responses] == [482]
