"""Does the layer survive requests that are malformed, and a transaction user that fails or does too much?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogEvent

from tests.transaction.answers import answering, to_tag
from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingTransactionUser, make_request

# Requests that are malformed


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (MessageSyntaxError("Malformed To header field"), "Malformed To header field"),
        (MessageSyntaxError("The version is 3.0", status=505), "Version Not Supported"),
        (MessageSyntaxError("The message is too long", status=513), "The message is too long"),
    ],
)
def test_malformed_request_is_refused(new_stack: Callable[..., Any], fault: Any, reason: Any) -> None:
    """A malformed request is answered with the status of its fault and a To tag, statelessly (8.2.7, 21.4.1)."""
    stack = new_stack()
    stack.layer.refuse_malformed(make_request(), fault, stack.flow)

    assert (stack.last.status, stack.last.reason) == (fault.status, reason)
    assert to_tag(stack.last)
    assert stack.layer.counters["malformed"] == 1
    assert stack.told() == []


def test_malformed_ack_is_not_answered(new_stack: Callable[..., Any]) -> None:
    """An ACK is never answered, malformed or not (17)."""
    stack = new_stack()
    stack.layer.refuse_malformed(make_request("ACK"), MessageSyntaxError("Malformed To header field"), stack.flow)

    assert stack.sent() == []
    assert stack.layer.counters["malformed"] == 1


@pytest.mark.parametrize(("method", "sent"), [("INVITE", ["400"]), ("CANCEL", ["400 CANCEL"]), ("ACK", [])])
def test_malformed_from_counts_where_it_is_needed(new_stack: Callable[..., Any], method: str, sent: Any) -> None:
    """Without the cookie From is needed for matching, and refused if it is malformed; else it is ignored (8.2.2)."""
    stack = new_stack()
    octets = make_request(method, branch="1").to_bytes().replace(b"From: Alice <", b"From: Alice <<")
    stack.inject(parse_message(octets))
    assert (stack.sent(), stack.told()) == (sent, [])

    stack.inject(parse_message(octets.replace(b"branch=1", b"branch=z9hG4bK1")))
    assert stack.layer.counters["malformed"] == 1


# What the transaction user may do: answer at once, later, twice, never


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_second_final_response_is_dropped(new_stack: Callable[..., Any], method: str) -> None:
    """Of two final responses only the first is sent, at once or later (17.2.1, 17.2.2)."""

    def answer(request: Request, transaction: Any) -> None:
        transaction.respond(request.response(404))
        transaction.respond(request.response(503))

    stack = new_stack(answer=answer)
    stack.receive(method)
    stack.respond(600)

    assert stack.sent() == ["404"]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_send_failure_within_request_received(new_stack: Callable[..., Any], transport: Any, method: str) -> None:
    """If the answer given at once cannot be sent, the transaction is over, and what follows is dropped (17.2.4)."""

    def answer(request: Request, transaction: Any) -> None:
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
def test_send_failure_of_a_retransmission(new_stack: Callable[..., Any]) -> None:
    """If a retransmission by Timer G cannot be sent, the transaction is over (17.2.4)."""
    stack = new_stack(answer=answering(302))
    stack.receive("INVITE")
    stack.flow.failure = "no route to host"
    stack.step(0.5)

    assert stack.told() == ["request", "ended: transport failed"]
    assert stack.clock.getDelayedCalls() == []


@pytest.mark.requirement("20.41-1")
def test_server_header(new_stack: Callable[..., Any]) -> None:
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


def at_once(error: Any) -> Any:
    """Return what raises *error*."""

    def answer(request: Request, transaction: Any) -> None:
        raise error

    return answer


def as_deferred(error: Any) -> Any:
    """Return what returns a `Deferred` that fails with *error*."""
    return lambda request, transaction: fail(error)


def as_coroutine(error: Any) -> Any:
    """Return the coroutine function that raises *error*."""

    async def answer(request: Request, transaction: Any) -> None:
        raise error

    return answer


def after_a_wait(error: Any) -> Any:
    """Return the coroutine function that waits for a while, and then raises *error*."""

    async def answer(request: Request, transaction: Any) -> None:
        waiting: Deferred[Any] = Deferred()
        transaction.identity = waiting
        await waiting
        raise error

    return answer


RAISING = [at_once, as_deferred, as_coroutine, after_a_wait]


def receive_and_wait(stack: Any, method: str) -> None:
    """Inject a request, and let who waits go on."""
    stack.receive(method)
    if stack.transaction.identity is not None:
        stack.transaction.identity.callback(None)


@pytest.mark.parametrize("raising", RAISING)
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_sip_error_is_the_answer(new_stack: Callable[..., Any], method: str, raising: Any) -> None:
    """A `SIPError` is the answer, with its reason and header fields, however it is raised (8.2)."""
    error = SIPError(480, "Gone Fishing", headers=[("Retry-After", "3600")])
    stack = new_stack(answer=raising(error))
    receive_and_wait(stack, method)

    assert (stack.last.status, stack.last.reason) == (480, "Gone Fishing")
    assert stack.last.headers.get("Retry-After") == "3600"
    assert to_tag(stack.last) == stack.transaction.to_tag
    assert stack.sent() == ["480"]


@pytest.mark.parametrize("raising", RAISING)
def test_syntax_error_is_the_answer(new_stack: Callable[..., Any], raising: Any) -> None:
    """A `MessageSyntaxError` of a header field that was asked for is answered with its status and reason (21.4.1)."""
    error = MessageSyntaxError("Malformed Contact header field")

    def answer(request: Request, transaction: Any) -> Any:
        error.request = request  # as the request's own attributes do
        return raising(error)(request, transaction)

    stack = new_stack(answer=answer)
    receive_and_wait(stack, "INVITE")

    assert (stack.last.status, stack.last.reason) == (400, "Malformed Contact header field")
    assert stack.sent() == ["400"]


@pytest.mark.parametrize("raising", RAISING)
def test_syntax_error_elsewhere_is_500(
    new_stack: Callable[..., Any], logged_failures: list[LogEvent], raising: Any
) -> None:
    """A `MessageSyntaxError` in anything but the request is our fault: logged, and not blamed on the client."""
    stack = new_stack(answer=raising(MessageSyntaxError("Malformed URI")))
    receive_and_wait(stack, "INVITE")

    assert stack.sent() == ["500"]
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest.mark.parametrize("raising", RAISING)
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_other_exception_is_500(
    new_stack: Callable[..., Any], logged_failures: list[LogEvent], method: str, raising: Any, kind: Any
) -> None:
    """Any other exception, also that of `sys.exit`, is logged once, and answered 500 without details (21.5.1)."""
    stack = new_stack(answer=raising(kind("a fault of the handler's")))
    receive_and_wait(stack, method)

    assert stack.sent() == ["500"]
    assert b"fault" not in stack.flow.sent[-1][0]
    (event,) = logged_failures
    assert event["log_failure"].getErrorMessage() == "a fault of the handler's"
    logged_failures.clear()


@pytest.mark.parametrize("error", [SIPError(486, "\ud800"), MessageSyntaxError("two\r\nlines")])
def test_refusal_that_cannot_be_sent_is_500(
    new_stack: Callable[..., Any], logged_failures: list[LogEvent], error: Any
) -> None:
    """An exception that holds what no response can is a fault of its maker's, and answered 500 (21.5.1)."""
    stack = new_stack(answer=at_once(error))
    stack.receive("INVITE")

    assert stack.sent() == ["500"]
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest.mark.parametrize(
    ("method", "status"), [("INVITE", 180), ("INVITE", 200), ("INVITE", 404), ("MESSAGE", 200), ("MESSAGE", 404)]
)
def test_faulty_response_is_500(
    new_stack: Callable[..., Any], logged_failures: list[LogEvent], method: str, status: int
) -> None:
    """A response that cannot be put into octets is an exception of who made it, and answered 500 (21.5.1)."""
    stack = new_stack(answer=answering(status, body="text, not bytes"))
    stack.receive(method)

    assert stack.sent() == ["500"]
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_exception_after_the_answer(new_stack: Callable[..., Any], logged_failures: list[LogEvent]) -> None:
    """What is raised after the final response changes nothing: a refusal is dropped, any other exception logged."""

    def answer_and_raise(error: Any) -> Any:
        def answer(request: Request, transaction: Any) -> None:
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

    def __init__(self, error: Any, answer: Any = None) -> None:
        super().__init__(answer)
        self.error = error

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def ack_received(self, ack: Any, flow: Any) -> None:
        super().ack_received(ack, flow)
        self._raise()

    def transaction_cancelled(self, transaction: Any) -> None:
        super().transaction_cancelled(transaction)
        self._raise()

    def transaction_ended(self, transaction: Any, reason: Any) -> None:
        super().transaction_ended(transaction, reason)
        self._raise()


def test_exception_in_transaction_cancelled(new_stack: Callable[..., Any], logged_failures: list[LogEvent]) -> None:
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


def test_exception_in_ack_received(new_stack: Callable[..., Any], logged_failures: list[LogEvent]) -> None:
    """An exception from `ack_received` is logged once; an ACK is never answered (17)."""
    stack = new_stack(user=Raising(SIPError(500)))
    stack.receive("ACK")

    assert stack.sent() == []
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("error", [RuntimeError(), SystemExit()])
def test_exception_in_transaction_ended(
    new_stack: Callable[..., Any], logged_failures: list[LogEvent], transport: Any, error: Any
) -> None:
    """An exception from `transaction_ended` is logged once, and the transaction is forgotten all the same (17.2.1)."""
    user = Raising(error, answering(404))
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
