"""Is a server without transactions what RFC 3261, 8.2.7, asks for, and the same to its transaction user?"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface.verify import verifyObject

from tests.transaction.answers import answering, challenge, to_tag
from twisted_sipuas import MemoryBindingStore, RedirectServer, Registrar, SIPError, UserAgentServer
from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import EndReason, IServerTransaction
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.transaction.layer import TransactionLayer
from twisted_sipuas.transaction.stateless import StatelessLayer

METHODS = pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])


@pytest.fixture
def new_stack(new_stack: Callable[..., Any]) -> Any:
    """Makes a `Stack` whose layer keeps no transactions."""
    return lambda *arguments, **options: new_stack(*arguments, is_stateless=True, **options)


class Slow(UserAgentServer):
    """Takes its time for everything."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self.pending: list[Any] = []
        self.asked = 0

    def handle_INVITE(self, request: Request, transaction: Any) -> Any:
        self.asked += 1
        self.pending.append(Deferred())
        return self.pending[-1]

    handle_MESSAGE = handle_INVITE


@pytest.mark.requirement("8.2.7-1", "8.2.7-2", "8.2.7-8")
@METHODS
@pytest.mark.parametrize("status", [200, 302, 486])
def test_retransmission_is_answered_as_the_first_was(new_stack: Callable[..., Any], method: str, status: int) -> None:
    """A request that comes again is answered again, octet by octet the same (8.2.7)."""
    stack = new_stack(answer=answering(status))
    for _ in range(2):
        stack.receive(method)

    assert stack.told() == ["request", "ended: answered"] * 2
    assert stack.sent() == [str(status)] * 2
    assert stack.flow.sent[0] == stack.flow.sent[1]
    assert to_tag(stack.last)


@pytest.mark.requirement("8.2.7-3", "8.2.7-5")
@METHODS
def test_nothing_is_kept(new_stack: Callable[..., Any], method: str) -> None:
    """After the answer there is no transaction and no timer; a response is sent once, and resent never (8.2.7)."""
    stack = new_stack(answer=answering(486))
    stack.receive(method)

    assert stack.layer.counters["owed"] == 0
    assert stack.clock.getDelayedCalls() == []
    assert stack.step(64) == []
    assert stack.transaction.ended
    assert stack.transaction.request is None
    assert not stack.transaction.is_stateful
    assert not stack.transaction.is_merged
    stack.respond(200)
    assert stack.sent() == ["486"]


@pytest.mark.requirement("8.2.7-4")
@METHODS
@pytest.mark.parametrize("how", ["respond", "respond_statelessly"])
@pytest.mark.parametrize("status", [100, 180, 199])
def test_no_provisional_responses(new_stack: Callable[..., Any], method: str, how: Any, status: int) -> None:
    """A provisional response is swallowed, at once and later, and the final one still goes out (8.2.7)."""
    stack = new_stack(answer=lambda request, transaction: getattr(transaction, how)(request.response(status)))
    stack.receive(method)
    stack.respond(status)
    assert stack.step(64) == []

    stack.respond(480)

    assert stack.sent() == ["480"]


@pytest.mark.requirement("8.2.7-6")
def test_ack_is_ignored(new_stack: Callable[..., Any]) -> None:
    """An ACK does nothing, and the transaction user does not see it (8.2.7)."""
    stack = new_stack(answer=answering(486))
    stack.receive("INVITE")
    stack.receive("ACK", to=stack.last.headers.get("To"))
    stack.receive("ACK", branch="z9hG4bKother")

    assert (stack.sent(), stack.told()) == (["486"], ["request", "ended: answered"])
    assert stack.layer.counters["malformed"] == 0


@pytest.mark.requirement("8.2.7-7")
def test_cancel_is_ignored(new_stack: Callable[..., Any]) -> None:
    """A CANCEL is not answered, and cancels nothing, even what is pending (8.2.7)."""
    stack = new_stack()
    stack.receive("INVITE")
    waiter = stack.transaction.when_cancelled()
    stack.receive("CANCEL")
    stack.receive("CANCEL", branch="z9hG4bKother")
    stack.layer.refuse_malformed(make_request("CANCEL"), MessageSyntaxError("Malformed To header field"), stack.flow)

    assert (stack.sent(), stack.told()) == ([], ["request"])
    assert not waiter.called
    assert not stack.transaction.cancelled
    stack.respond(486)
    assert stack.sent() == ["486"]


@pytest.mark.requirement("8.2.7-2")
def test_registrar_is_ruled_out(new_stack: Callable[..., Any]) -> None:
    """What a retransmission is not the same to again cannot be stateless, and it is said at once (8.2.7)."""
    registrar = Registrar(MemoryBindingStore(Clock()))
    for user in (registrar, RedirectServer([], registrar=registrar)):
        with pytest.raises(ValueError, match="cannot be stateless"):
            StatelessLayer(user, Clock())
    for allowed in (RedirectServer([]), UserAgentServer(), RecordingTransactionUser()):
        StatelessLayer(allowed, Clock())


@pytest.mark.requirement("8.2.7-9")
def test_same_answers_as_with_transactions(new_stack: Callable[..., Any]) -> None:
    """The answers are those of a stateful server, To tag apart: checks, handlers and refusals (8.2.7)."""

    class Server(UserAgentServer):
        def handle_INVITE(self, request: Request, transaction: Any) -> Any:
            return request.response(302, contacts=["sip:bob@192.0.2.7"])

        async def handle_MESSAGE(self, request: Request, transaction: Any) -> None:
            raise SIPError(403)

    requests: list[dict[str, Any]] = [
        {"method": "INVITE"},
        {"method": "INVITE", "headers": (("Require", "nosuch"),)},
        {"method": "MESSAGE"},
        {"method": "OPTIONS"},
        {"method": "DANCE"},
        {"method": "INVITE", "uri": "x:y"},
        {"method": "INVITE", "to": "<sip:bob@example.com>;tag=1"},
    ]
    stacks = [new_stack(user=Server()), new_stack(user=Server())]
    stacks[1].layer = TransactionLayer(stacks[1].user, stacks[1].clock)
    for number, fields in enumerate(requests):
        for stack in stacks:
            stack.receive(**{"branch": f"z9hG4bK{number}", "call_id": str(number), **fields})
    ours, theirs = ([data.replace(tag_of(data), b"") for data, _ in stack.flow.sent] for stack in stacks)

    assert ours == theirs
    assert stacks[0].sent() == ["302", "420", "403", "200", "501", "416", "481"]


def tag_of(data: bytes) -> Any:
    """Return the To tag in the octets *data* of a response."""
    return to_tag(parse_message(data)).encode()


@pytest.mark.requirement("8.2.7-9")
@METHODS
def test_challenge_by_a_stateful_server_is_stateless(new_stack: Callable[..., Any], method: str) -> None:
    """`respond_statelessly` is the choice per request; here it is `respond` (8.2.7)."""
    stack = new_stack(answer=challenge)
    stack.receive(method)

    assert (stack.sent(), stack.told()) == (["401"], ["request", "ended: answered"])


def test_interface() -> None:
    """Its transactions have all that `IServerTransaction` names (8.2.7)."""
    user = RecordingTransactionUser()
    layer = StatelessLayer(user, Clock())
    flow = RecordingFlow()
    layer.request_received(make_request(), flow, flow)

    verifyObject(IServerTransaction, user.calls[0][2])


@pytest.mark.requirement("8.2.7-8", "19.3-2")
def test_shared_key(new_stack: Callable[..., Any]) -> None:
    """Servers that share a key make the same To tags, those of other keys others, stateful ones too (8.2.7)."""
    stacks = [
        new_stack(answer=challenge, key=b"k" * 16),
        new_stack(answer=challenge, key=b"k" * 16),
        new_stack(answer=challenge, key=b"l" * 16),
        new_stack(answer=challenge),
    ]
    stacks[1].layer = TransactionLayer(stacks[1].user, stacks[1].clock, key=b"k" * 16)
    for stack in stacks:
        stack.receive("INVITE")
    tags = [to_tag(stack.last) for stack in stacks]

    assert tags[0] == tags[1]
    assert len(set(tags)) == 3


def test_tag_is_that_of_other_versions(new_stack: Callable[..., Any]) -> None:
    """Servers that share a key make the same To tags, be one of them of another version than the other (8.2.7)."""
    stack = new_stack(answer=answering(480), key=b"k" * 16)
    texts = "SIP/2.0/UDP h;branch=z9hG4bK1", "<sip:a@h>;tag=1", "<sip:b@h>", "c@h", "1 INVITE"
    stack.inject(Request("INVITE", "sip:b@h", zip(("Via", "From", "To", "Call-ID", "CSeq"), texts, strict=True)))

    told_apart_by = "".join(f"{text}\n" for text in texts).encode()
    assert to_tag(stack.last) == blake2b(told_apart_by, key=b"k" * 16, digest_size=8).hexdigest()


@pytest.mark.parametrize("length", [0, 15, 65])
def test_key_of_another_length(length: Any) -> None:
    """A key that is too short to be secret, or longer than the hash takes, is its giver's error."""
    with pytest.raises(ValueError, match="octets"):
        StatelessLayer(RecordingTransactionUser(), Clock(), key=bytes(length))


# Handlers that take their time


@METHODS
def test_retransmission_of_what_is_pending_is_ignored(new_stack: Callable[..., Any], method: str) -> None:
    """While a handler is at a request, its retransmissions are ignored; other methods of its branch are not (8.2.7)."""
    stack = new_stack(user=Slow())
    stack.user.use_clock(stack.clock)
    request = stack.receive(method)
    stack.receive(method)
    assert stack.user.asked == 1
    stack.receive("OPTIONS")
    assert stack.sent() == ["200"]

    stack.user.pending[0].callback(request.response(486))

    assert stack.sent() == ["486"]
    stack.receive(method)
    assert stack.user.asked == 2


@METHODS
def test_pending_requests_are_bounded(new_stack: Callable[..., Any], method: str) -> None:
    """Past the bound a request gets 503 with Retry-After, until a handler is done (8.2.7)."""
    stack = new_stack(max_transactions=1)
    stack.receive(method)
    stack.receive(method)
    stack.receive("OPTIONS")
    assert stack.sent() == ["503"]
    assert stack.last.headers.get("Retry-After") == "5"
    held = stack.transaction.request.size
    assert stack.layer.counters == {
        "owed": 1,
        "owed_octets": held,
        "refused": 1,
        "malformed": 0,
        "send_failures": 0,
        "dropped_responses": 0,
        "withheld": 0,
    }

    stack.respond(200)
    stack.receive("OPTIONS")

    assert stack.told() == ["request", "ended: answered", "request"]


@pytest.mark.parametrize(("method", "seconds", "status"), [("INVITE", 180, "480"), ("MESSAGE", 30, "504")])
def test_handlers_time_out(new_stack: Callable[..., Any], method: str, seconds: float, status: int) -> None:
    """A handler has as long as in a stateful server, and is cancelled then (8.2.7)."""
    stack = new_stack(user=Slow())
    stack.user.use_clock(stack.clock)
    stack.receive(method)
    stack.step(seconds - 0.5)
    assert stack.sent() == []

    stack.step(0.5)

    assert stack.sent() == [status]
    assert stack.layer.counters["owed"] == 0
    assert (stack.user.counters["handlers"], stack.user.counters["handler_timeouts"]) == (0, 1)
    assert stack.clock.getDelayedCalls() == []


@pytest.mark.requirement("4320-4")
def test_no_408_to_a_non_invite(new_stack: Callable[..., Any]) -> None:
    """A 408 to a non-INVITE is not sent here either: it would come when the client has given up (RFC 4320, 4.2)."""
    stack = new_stack(answer=answering(408))
    stack.receive("MESSAGE")
    assert (stack.sent(), stack.told()) == ([], ["request", "ended: answered"])

    stack.receive("INVITE")
    assert stack.sent() == ["408"]


# What goes wrong


@pytest.mark.parametrize("error", [RuntimeError("a fault of the handler's"), SIPError(486, "\ud800")])
@METHODS
def test_exception_is_500(
    new_stack: Callable[..., Any], logged_failures: list[LogEvent], method: str, error: Any
) -> None:
    """An exception is logged once and answered 500, as with transactions (21.5.1)."""

    def answer(request: Request, transaction: Any) -> None:
        raise error

    stack = new_stack(answer=answer)
    stack.receive(method)

    assert stack.sent() == ["500"]
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_faulty_response_changes_nothing(new_stack: Callable[..., Any]) -> None:
    """A response that cannot be put into octets is its maker's error, and an answer is still owed."""
    stack = new_stack()
    stack.receive("MESSAGE")
    with pytest.raises(TypeError):
        stack.respond(200, body="text, not bytes")

    assert stack.layer.counters["owed"] == 1
    stack.respond(500)
    assert stack.sent() == ["500"]


def test_malformed_request(new_stack: Callable[..., Any]) -> None:
    """What matching needs and cannot be read is refused; in an ACK and a CANCEL it is ignored (8.2.7)."""
    stack = new_stack()
    for method in ("INVITE", "ACK", "CANCEL"):
        octets = make_request(method, branch="1").to_bytes().replace(b"From: Alice <", b"From: Alice <<")
        stack.inject(parse_message(octets))

    assert (stack.sent(), stack.told()) == (["400"], [])
    assert stack.layer.counters["malformed"] == 1


@pytest.mark.requirement("17.2.4-2")
@pytest.mark.parametrize("redelivered", [None, False, True])
def test_failure_to_send(new_stack: Callable[..., Any], redelivered: Any) -> None:
    """What cannot be sent is told and counted, unless another way is being tried (17.2.4, 18.2.2)."""
    tried = []

    def redeliver(octets: bytes, route: Any) -> Any:
        tried.append((octets, route))
        return redelivered

    stack = new_stack(answer=answering(486), redeliver=redeliver)
    stack.flow.failure = "no route to host"
    stack.receive("INVITE")

    ((octets, route),) = tried
    response = parse_message(octets)
    assert isinstance(response, Response)
    assert (response.status, route) == (486, stack.flow)
    assert stack.told() == ["request", "ended: answered" if redelivered else "ended: transport failed"]
    assert stack.layer.counters["send_failures"] == (0 if redelivered else 1)


def test_undeliverable_response_is_forgotten_already(new_stack: Callable[..., Any]) -> None:
    """A notice that a response did not arrive finds nothing (8.2.7)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.layer.sending_failed(make_request("INVITE").response(486).to_bytes())
    stack.respond(486)

    assert stack.sent() == ["486"]


# Stopping


def test_drain_and_stop(new_stack: Callable[..., Any]) -> None:
    """Draining refuses what is new and waits for what is pending; stopping answers that with 503."""
    stack = new_stack()
    first = stack.receive("INVITE", branch="z9hG4bK1")
    stack.receive("INVITE", branch="z9hG4bK2")
    drained = stack.layer.drain(5.0)
    stack.receive("MESSAGE")
    assert stack.sent() == ["503"]
    stack.transactions[0].respond(first.response(486))
    assert not drained.called

    stack.step(5)
    assert drained.called
    stack.layer.stop()

    assert stack.sent() == ["486", "503"]
    assert [call[2] for call in stack.user.calls if call[0] == "transaction_ended"] == [
        EndReason.ANSWERED,
        EndReason.SHUTDOWN,
    ]
    assert stack.clock.getDelayedCalls() == []


def test_drained_with_the_last_answer(new_stack: Callable[..., Any]) -> None:
    """With the last handler done, draining is done."""
    stack = new_stack()
    stack.receive("INVITE")
    drained = stack.layer.drain(5.0)
    stack.respond(486)

    assert drained.called
