"""What becomes of a request whose handler errs? One error in the log that names the handler, and an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from tests.uas.caller import CALL_ID, Caller, Phone
from twisted_sipuas import SIPError
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing import make_request
from twisted_sipuas.uas.dialog import DialogState


@pytest.fixture
def errors() -> Iterator[Any]:
    """The texts of what is logged as an error or worse, in order."""
    texts = []

    @provider(ILogObserver)
    def observe(event: Any) -> None:
        if event["log_level"] >= LogLevel.error:
            texts.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


class Server(Phone):
    """Has one handler more, which does the same as that of INVITE."""

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        return self.answer(request, transaction)


# The same, by each kind of handler


def plainly(result: Any) -> Any:
    return result


async def in_a_coroutine(result: Any) -> Any:
    await succeed(None)
    return result


def in_a_deferred(result: Any) -> Any:
    return succeed(result)


KINDS = pytest.mark.parametrize("kind", [plainly, in_a_coroutine, in_a_deferred])
METHODS = pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])


@METHODS
@KINDS
@pytest.mark.parametrize("result", ["yes", b"SIP/2.0 200 OK", 200, (200, "OK"), None, Phone, succeed])
def test_what_is_no_response(method: str, kind: Any, result: Any, errors: Any, logged_failures: list[LogEvent]) -> None:
    """A handler that returns nothing, having answered nothing, or what is no `Response`: 500, and what it returned."""
    caller = Caller(Server(lambda request, transaction: kind(result))).send(method)
    assert (caller.last.status, caller.last.reason) == (500, "Server Internal Error")
    assert len(errors) == len(logged_failures) == 1
    said = (
        "returned None and has not answered" if result is None else f"returned {type(result).__name__}, not a Response"
    )
    assert errors == [f"Server.handle_{method} failed"]
    assert f"Server.handle_{method} {said}" in str(logged_failures[0]["log_failure"].value)
    assert caller.is_over
    logged_failures.clear()


@METHODS
@KINDS
def test_provisional_response_for_an_answer(
    method: str, kind: Any, errors: Any, logged_failures: list[LogEvent]
) -> None:
    """A handler that returns a 1xx is told that this is no answer, and its caller gets 500."""
    caller = Caller(Server(lambda request, transaction: kind(request.response(183)))).send(method)
    assert caller.statuses == [500]
    assert errors == [f"Server.handle_{method} failed"]
    assert "a provisional response is for respond()" in str(logged_failures[0]["log_failure"].value)
    assert caller.is_over
    logged_failures.clear()


@METHODS
@KINDS
def test_response_to_another_request(method: str, kind: Any, errors: Any, logged_failures: list[LogEvent]) -> None:
    """A handler that returns what it once made of another request is told so, and its caller gets 500 (8.2.6.2)."""
    kept = []

    def answer(request: Request, transaction: Any) -> Any:
        kept.append(request.response(200, headers=[("Via", "SIP/2.0/UDP proxy.example.com")]))
        return kind(kept[0])

    server = Server(answer)
    assert Caller(server).send(method).statuses == [200]
    caller = Caller(server).send(method, branch="z9hG4bKanother", call_id="another")
    assert caller.statuses == [500]
    assert errors == [f"Server.handle_{method} failed"]
    said = f"Server.handle_{method} returned <Response 200 OK>, made of another request"
    assert str(logged_failures[0]["log_failure"].value) == said
    logged_failures.clear()


@pytest.mark.parametrize("via", ["{}", "{}, SIP/2.0/UDP 192.0.2.77;branch=z9hG4bKproxied"])
def test_response_made_by_hand(via: Any) -> None:
    """A response that a handler puts together itself, with the Via of its request, is sent as it is (8.2.6.2)."""

    def answer(request: Request, transaction: Any) -> Any:
        rows = [(name, request.headers.get(name) or "") for name in ("CSeq", "From", "To", "Call-ID")]
        return Response(486, None, [*rows, ("v", via.format(request.via.text))])

    assert Caller(Phone(answer)).send("INVITE").statuses == [486]


def raising(request: Request, transaction: Any) -> None:
    raise RuntimeError("a fault of the handler's")


def failing(request: Request, transaction: Any) -> Any:
    return fail(RuntimeError("a fault of the handler's"))


async def raising_later(request: Request, transaction: Any) -> None:
    await succeed(None)
    raise RuntimeError("a fault of the handler's")


def responding_with_text(request: Request, transaction: Any) -> None:
    transaction.respond("200 OK")


def naming_a_telephone(request: Request, transaction: Any) -> Any:
    return request.response(200, contacts=["tel:+1"])


@pytest.mark.parametrize("answer", [raising, failing, raising_later, responding_with_text, naming_a_telephone])
@pytest.mark.parametrize("rings", [False, True])
def test_exception(answer: Any, rings: Any, errors: Any, logged_failures: list[LogEvent]) -> None:
    """A handler that raises is logged once, its caller gets 500, and of the early dialog nothing is left."""

    def faulty(request: Request, transaction: Any) -> Any:
        if rings:
            transaction.respond(request.response(180))
        return answer(request, transaction)

    caller = Caller(Server(faulty)).invite()
    assert caller.statuses == [180, 500] if rings else [500]
    assert (caller.last.reason, caller.last.body) == ("Server Internal Error", b"")
    assert errors == ["Server.handle_INVITE failed"]
    assert caller.is_over
    assert caller.send("INFO", to=caller.last.headers.get("To")).last.status == 481
    logged_failures.clear()


# Too much of an answer


def twice(first: Any, second: Any) -> Any:
    """Return a handler that answers with *first*, and then with *second* as well."""

    def answer(request: Request, transaction: Any) -> None:
        transaction.respond(request.response(first))
        transaction.respond(request.response(second))

    return answer


def once_more(first: Any, second: Any) -> Any:
    """Return a handler that answers with *first*, and then returns *second*."""

    async def answer(request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(first))
        await succeed(None)
        return request.response(second)

    return answer


def then_refused(first: Any, second: Any) -> Any:
    """Return a handler that answers with *first*, and then raises *second*, or returns it if that cannot be raised."""

    def answer(request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(first))
        if second < 300:
            return request.response(second)
        raise SIPError(second)

    return answer


@METHODS
@pytest.mark.parametrize("how", [twice, once_more, then_refused])
@pytest.mark.parametrize(("first", "second"), [(486, 486), (486, 200), (200, 486), (200, 200), (200, 202), (302, 404)])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_answers_twice(method: str, how: Any, first: Any, second: Any, transport: Any, errors: Any) -> None:
    """Of two final responses the client gets the first; the other is an error in the log that names the handler."""
    caller = Caller(Server(how(first, second)), transport=transport).send(method)
    assert caller.statuses == [first]
    assert errors == [f"Server.handle_{method} sent {second} after the final response; it was dropped"]
    counters = caller.service.counters
    assert counters["transactions_dropped_responses"] + counters["acceptances_dropped"] == 1


@METHODS
@pytest.mark.parametrize("final", [200, 486])
@pytest.mark.parametrize("late", [100, 180, 199])
def test_provisional_response_after_the_final_one(method: str, final: Any, late: Any, errors: Any) -> None:
    """A 1xx after the final response is dropped, and an error in the log that names the handler."""
    caller = Caller(Server(twice(final, late))).send(method)
    assert caller.statuses == [final]
    assert errors == [f"Server.handle_{method} sent {late} after the final response; it was dropped"]


def test_call_that_was_answered_twice(errors: Any) -> None:
    """The call that the first answer made goes on: it is that answer which is resent, until its ACK."""
    caller = Caller(Server(twice(200, 299))).invite().step(1)
    assert caller.statuses == [200, 200]
    caller.ack()
    assert caller.dialog.state is DialogState.CONFIRMED
    assert caller.send("BYE").last.status == 200
    assert caller.is_over
    assert len(errors) == 1


@pytest.mark.parametrize("status", [200, 486])
def test_exception_after_the_answer(status: int, errors: Any, logged_failures: list[LogEvent]) -> None:
    """What a handler raises after its answer is logged, and the answer stands."""

    def answer(request: Request, transaction: Any) -> None:
        transaction.respond(request.response(status))
        raise RuntimeError("a fault of the handler's")

    caller = Caller(Server(answer)).invite()
    assert caller.statuses == [status]
    assert caller.dialog is None or caller.dialog.state is DialogState.CONFIRMED
    assert (caller.dialog is None) is (status == 486)
    assert errors == ["Server.handle_INVITE failed"]
    logged_failures.clear()


def test_handler_cancelled_after_its_answer_is_no_fault(errors: Any) -> None:
    """What a handler still says as its call was cancelled is dropped in silence."""
    later: Deferred[Any] = Deferred(lambda deferred: None)

    async def answer(request: Request, transaction: Any) -> None:
        try:
            await later
        finally:
            transaction.respond(request.response(200))

    caller = Caller(Server(answer)).send("INVITE")
    caller.send("CANCEL", branch="z9hG4bK1", cseq=1)
    assert caller.statuses == [200, 487]
    assert errors == []
    assert caller.is_over


# Elsewhere


def test_taken_by_a_stateless_server(logged_failures: list[LogEvent]) -> None:
    """Without transactions no call can be taken: an error in the log, and 500 (8.2.7)."""
    caller = Caller(is_stateless=True).invite()
    assert caller.statuses == [500]
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_faulty_hooks(errors: Any, logged_failures: list[LogEvent]) -> None:
    """A hook that raises is logged with its name, and nothing else comes of it."""

    class Hooked(Phone):
        def handle_ACK(self, ack: Any, dialog: Any) -> None:
            raise RuntimeError("of handle_ACK")

        async def dialog_ended(self, dialog: Any, reason: Any) -> None:  # type: ignore[override]
            raise RuntimeError("of dialog_ended")

    Hooked.__qualname__ = "Hooked"
    caller = Caller(Hooked()).called().send("BYE")
    assert caller.statuses == [200, 200]
    assert errors == ["Hooked.handle_ACK failed", "Hooked.dialog_ended failed"]
    logged_failures.clear()


def test_fault_of_a_bye_handler(errors: Any, logged_failures: list[LogEvent]) -> None:
    """A handler of BYE that raises is logged by its name, and the call is over all the same (15.1.2)."""

    class Faulty(Phone):
        def handle_BYE(self, request: Request, transaction: Any) -> None:
            raise RuntimeError("a fault of the handler's")

    Faulty.__qualname__ = "Faulty"
    caller = Caller(Faulty()).called().send("BYE")
    assert caller.last.status == 500
    assert errors == ["Faulty.handle_BYE failed"]
    assert caller.is_over
    logged_failures.clear()


@pytest.mark.parametrize("name", ["From", "To", "Call-ID", "CSeq", "Contact"])
def test_malformed_ack(name: str, errors: Any) -> None:
    """An ACK that cannot be read is met with silence, in the log too: anybody can send them by the thousand."""

    class Careful(Phone):
        def handle_ACK(self, ack: Any, dialog: Any) -> None:
            super().handle_ACK(ack, dialog)
            assert ack.contacts == ()

    caller = Caller(Careful()).invite()
    ack = make_request("ACK", call_id=CALL_ID, to=caller.to, branch="z9hG4bKack")
    rows = [row for row in ack.headers if row[0] != name]
    caller.service.message_received(Request("ACK", ack.uri_text, [*rows, (name, "<<<")]), caller.flow)
    assert caller.server.heard == (["ACK"] if name == "Contact" else [])
    assert errors == []
    assert len(caller.flow.sent) == 1


# Classes that cannot be meant


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("supported", "100rel", "Odd.supported is a text: expected a tuple, as in ('100rel',)"),
        ("required_extensions", "timer", "Odd.required_extensions is a text: "),
        ("schemes", "sip", "Odd.schemes is a text: "),
        ("accept", "application/sdp", "Odd.accept is a text: "),
        ("accept", {"INVITE": "application/sdp"}, "Odd.accept['INVITE'] is a text: "),
        ("accept_encoding", "gzip", "Odd.accept_encoding is a text: "),
        ("accept_language", "en", "Odd.accept_language is a text: "),
        ("handle_errors", print, "Odd.handle_errors would be called for a method errors, as it came from the network"),
        ("handle_invite", print, "Odd.handle_invite would be called for a method invite, "),
        ("handle_", print, "Odd.handle_ would be called for a method , "),
        ("handle_CANCEL", print, "Odd.handle_CANCEL would never be called: "),
    ],
)
def test_class_that_cannot_be_meant(name: str, value: str, said: str) -> None:
    """A text where several are asked for, and a handler that nobody can have meant for one, are refused at once."""
    with pytest.raises(TypeError) as raised:
        type("Odd", (Phone,), {name: value})
    assert str(raised.value).startswith(said)
