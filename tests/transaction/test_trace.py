"""Is what goes out told to who traces it, once, and is what does not go out told to the log?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.logger import LogEvent, capturedLogs

from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import make_request

IN_DIALOG = "<sip:bob@example.com>;tag=b"


class Traced:
    """A `Stack` with a trace; `lines` has what it was called with, in short."""

    def __init__(self, new_stack: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self.lines: list[Any] = []
        self.stack = new_stack(*arguments, trace=self.trace, **options)

    def trace(self, request: Request, response: Any, flow: Any) -> None:
        what = "" if response is None else f" {response.status} {response.rule}"
        self.lines.append(f"{request.method}{what} to {flow.remote_address.host}")


@pytest.mark.parametrize("is_stateless", [False, True])
def test_responses_are_traced(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """Each response is traced as it goes out, with its rule, or else with the name of what sent it."""
    traced = Traced(new_stack, is_stateless=is_stateless)
    traced.stack.user.handler_name = lambda method: f"Desk.handle_{method}"
    traced.stack.receive("INVITE")
    traced.stack.respond(180)
    traced.stack.respond(486, rule="busy")
    provisional = [] if is_stateless else ["INVITE 180 Desk.handle_INVITE to 192.0.2.1"]
    assert traced.lines == [*provisional, "INVITE 486 busy to 192.0.2.1"]


def test_name_without_handler_name(new_stack: Callable[..., Any]) -> None:
    """A transaction user that does not name its handlers stands for them by its class."""
    traced = Traced(new_stack)
    traced.stack.receive("MESSAGE")
    traced.stack.respond(202)
    assert traced.lines == ["MESSAGE 202 RecordingTransactionUser to 192.0.2.1"]


def test_retransmissions_are_not_traced(new_stack: Callable[..., Any]) -> None:
    """What is sent again, by a timer or for a request that came again, is traced the first time only."""
    traced = Traced(new_stack)
    traced.stack.receive("INVITE")
    traced.stack.step(0.2, by=0.2)
    traced.stack.receive("INVITE")
    traced.stack.respond(486, rule="busy")
    traced.stack.receive("INVITE")
    traced.stack.step(4)
    assert traced.stack.sent()[:4] == ["100", "100", "486", "486"]
    assert traced.lines == ["INVITE 100 17.2.1-2 to 192.0.2.1", "INVITE 486 busy to 192.0.2.1"]


def test_2xx_is_traced_once(new_stack: Callable[..., Any]) -> None:
    """A 2xx to an INVITE that the transaction user sends again is traced the first time only (13.3.1.4)."""
    traced = Traced(new_stack)
    traced.stack.receive("INVITE")
    for _ in range(3):
        traced.stack.respond(200, rule="taken")
    assert traced.stack.sent() == ["200"] * 3
    assert traced.lines == ["INVITE 200 taken to 192.0.2.1"]


@pytest.mark.parametrize("is_stateless", [False, True])
@pytest.mark.parametrize("how", ["respond", "respond_statelessly"])
def test_silence_is_traced(new_stack: Callable[..., Any], is_stateless: bool, how: Any) -> None:
    """A 180 to a non-INVITE does not go out and is not traced; nor does a 408, and the trace says so (RFC 4320)."""

    def answer(request: Request, transaction: Any) -> None:
        transaction.respond(request.response(180))
        getattr(transaction, how)(request.response(408))

    traced = Traced(new_stack, answer=answer, is_stateless=is_stateless)
    traced.stack.receive("MESSAGE")
    assert traced.stack.sent() == []
    assert traced.lines == ["MESSAGE to 192.0.2.1"]


@pytest.mark.parametrize("method", ["ACK", "CANCEL"])
def test_what_a_stateless_server_ignores_is_traced(new_stack: Callable[..., Any], method: str) -> None:
    """An ACK and a CANCEL are ignored without transactions, and the trace says so (8.2.7)."""
    traced = Traced(new_stack, is_stateless=True)
    traced.stack.receive(method)
    assert (traced.lines, traced.stack.told()) == ([f"{method} to 192.0.2.1"], [])


def test_malformed_ack_is_traced(new_stack: Callable[..., Any]) -> None:
    """An ACK that is malformed is answered by nothing, as every ACK, and traced as one (8.2.7)."""
    traced = Traced(new_stack)
    traced.stack.layer.refuse_malformed(make_request("ACK"), MessageSyntaxError("odd"), traced.stack.flow)
    assert (traced.lines, traced.stack.sent()) == (["ACK to 192.0.2.1"], [])


def test_answers_of_the_layer_are_traced(new_stack: Callable[..., Any]) -> None:
    """What the layer answers by itself is traced too: CANCEL, a refusal for a bound, a malformed request."""
    traced = Traced(new_stack, max_transactions=1)
    traced.stack.receive("INVITE")
    traced.stack.receive("CANCEL")
    traced.stack.receive("MESSAGE", branch="z9hG4bK2")
    traced.stack.layer.refuse_malformed(make_request("OPTIONS"), MessageSyntaxError("odd"), traced.stack.flow)
    assert traced.lines == [
        "CANCEL 200 9.2-8 to 192.0.2.1",
        "MESSAGE 503 bound to 192.0.2.1",
        "OPTIONS 400 syntax to 192.0.2.1",
    ]
    traced.stack.respond(487)


def test_stateless_answer_is_traced(new_stack: Callable[..., Any]) -> None:
    """An answer that leaves nothing behind is traced as any other (8.2.7)."""

    def answer(request: Request, transaction: Any) -> None:
        transaction.respond_statelessly(request.response(401, rule="22.1"))

    traced = Traced(new_stack, answer=answer)
    traced.stack.receive("MESSAGE")
    assert traced.lines == ["MESSAGE 401 22.1 to 192.0.2.1"]


def test_ack_is_traced(new_stack: Callable[..., Any]) -> None:
    """An ACK is traced if it reaches the transaction user, not if the transaction absorbs it (13.3.1.4, 17.2.1)."""
    traced = Traced(new_stack)
    traced.stack.receive("INVITE")
    traced.stack.respond(486, rule="busy")
    traced.stack.receive("ACK", to=traced.stack.last.headers.get("To"))
    assert traced.lines == ["INVITE 486 busy to 192.0.2.1"]
    traced.stack.receive("ACK", branch="z9hG4bKack", to=IN_DIALOG)
    assert traced.lines[1:] == ["ACK to 192.0.2.1"]


@pytest.mark.parametrize("is_stateless", [False, True])
def test_trace_that_raises(new_stack: Callable[..., Any], logged_failures: list[LogEvent], is_stateless: bool) -> None:
    """A trace that raises is logged, and the answer goes out as it would have."""

    def trace(*_: Any) -> None:
        raise RuntimeError("disk full")

    stack = new_stack(trace=trace, is_stateless=is_stateless)
    stack.receive("MESSAGE")
    stack.respond(202)
    assert stack.sent() == ["202"]
    assert [event["log_failure"].getErrorMessage() for event in logged_failures] == ["disk full"]
    logged_failures.clear()


# Responses that come too late


def errors(events: Any) -> Any:
    return [event["log_format"].format(**event) for event in events if event["log_level"].name == "error"]


@pytest.mark.parametrize("is_stateless", [False, True])
@pytest.mark.parametrize(("method", "first"), [("INVITE", 486), ("MESSAGE", 200)])
@pytest.mark.parametrize("second", [180, 200, 500])
def test_dropped_response(
    new_stack: Callable[..., Any], method: str, first: Any, second: Any, is_stateless: bool
) -> None:
    """A response after the final one is not sent; the log says once whose it was, and it is counted (17.2.2)."""
    stack = new_stack(is_stateless=is_stateless)
    stack.user.handler_name = lambda name: f"Desk.handle_{name}"
    stack.receive(method)
    stack.respond(first)
    with capturedLogs() as events:
        stack.respond(second)
    assert errors(events) == [f"Desk.handle_{method} sent {second} after the final response; it was dropped"]
    assert stack.layer.counters["dropped_responses"] == 1
    assert stack.sent() == [str(first)]


def test_raised_after_the_answer(new_stack: Callable[..., Any]) -> None:
    """A refusal that is raised after the answer is a response that comes too late."""

    def answer(request: Request, transaction: Any) -> None:
        transaction.respond(request.response(200))
        raise SIPError(486)

    with capturedLogs() as events:
        stack = new_stack(answer=answer)
        stack.receive("MESSAGE")
    assert errors(events) == ["RecordingTransactionUser sent 486 after the final response; it was dropped"]
    assert stack.layer.counters["dropped_responses"] == 1


def test_second_2xx_is_not_dropped(new_stack: Callable[..., Any]) -> None:
    """A 2xx to an INVITE that was accepted is sent, and any other response dropped (RFC 6026, 7.1)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.respond(200)
    stack.respond(200)
    assert stack.layer.counters["dropped_responses"] == 0
    stack.respond(486)
    assert stack.layer.counters["dropped_responses"] == 1
    assert stack.sent() == ["200", "200"]


def cancelled(stack: Any) -> None:
    stack.receive("CANCEL")
    stack.respond(487)


def unacknowledged(stack: Any) -> None:
    stack.respond(486)
    stack.step(32)


def unsendable(stack: Any) -> None:
    stack.flow.failure = "no route to host"
    stack.respond(486)


def stopped(stack: Any) -> None:
    stack.layer.stop()


@pytest.mark.parametrize("end", [cancelled, unacknowledged, unsendable, stopped])
def test_dropped_in_silence(new_stack: Callable[..., Any], end: Any) -> None:
    """Where a transaction ended without its handler's doing, the handler could not know, and nothing is logged."""
    stack = new_stack()
    stack.receive("INVITE")
    end(stack)
    with capturedLogs() as events:
        stack.respond(200)
    assert errors(events) == []
    assert stack.layer.counters["dropped_responses"] == 0


# While the service stops


@pytest.mark.parametrize("is_stateless", [False, True])
def test_requests_in_a_dialog_while_draining(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """While calls are being ended the peer's BYE is handed over, and what is in no dialog refused (15.1.2)."""
    stack = new_stack(is_stateless=is_stateless)
    stack.layer.drain(5)
    stack.receive("BYE", to=IN_DIALOG)
    stack.respond(200)
    stack.receive("OPTIONS", branch="z9hG4bK2")
    assert stack.sent() == ["200", "503"]


@pytest.mark.parametrize("is_stateless", [False, True])
def test_bound_while_draining(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """The bound on what is owed an answer holds in a dialog too, also while the service stops."""
    stack = new_stack(is_stateless=is_stateless, max_transactions=1)
    stack.receive("INVITE")
    stack.layer.drain(5)
    stack.receive("BYE", branch="z9hG4bK2", to=IN_DIALOG)
    assert stack.sent() == ["503"]
    stack.respond(486)


@pytest.mark.parametrize("is_stateless", [False, True])
def test_malformed_to_while_draining(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """A request whose To cannot be read is answered 400, whether the service is about to stop or not (21.4.1)."""
    stack = new_stack(is_stateless=is_stateless)
    stack.layer.drain(5)
    stack.inject(malformed())
    assert stack.sent() == ["400"]


@pytest.mark.parametrize("is_stateless", [False, True])
def test_requests_in_a_dialog_after_the_stop(new_stack: Callable[..., Any], is_stateless: bool) -> None:
    """When the layer has stopped nothing is handed over any more, and what comes still is refused."""
    stack = new_stack(is_stateless=is_stateless)
    stack.layer.drain(5)
    stack.layer.stop()
    stack.receive("BYE", to=IN_DIALOG)
    assert (stack.sent(), stack.told()) == (["503"], [])


def malformed() -> Any:
    """A request with a To that cannot be read."""
    request = make_request("OPTIONS")
    rows = [(name, "<<<" if name == "To" else value) for name, value in request.headers]
    return Request(request.method, request.uri_text, rows)
