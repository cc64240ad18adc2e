"""Does `UserAgentServer` answer as 8.2 asks, whatever kind of handler a subclass has?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent
from zope.interface import implementer

from twisted_sipuas import SIPError, SIPService, UserAgentServer
from twisted_sipuas.interfaces import EndReason, IAuthenticator
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.syntax.scalars import SessionExpires
from twisted_sipuas.testing import RecordingFlow, make_request


class Greeter(UserAgentServer):
    """One handler of each kind."""

    accept = {"MESSAGE": ("text/plain",)}
    supported = ("path",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.later: Deferred[Any] = Deferred()
        self.ended: list[Any] = []
        self.cancelled: list[Any] = []

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        return request.response(202)

    def handle_INFO(self, request: Request, transaction: Any) -> Any:
        return self.later

    async def handle_INVITE(self, request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(180))
        try:
            status = await self.later
        except CancelledError:
            self.cancelled.append(transaction)
            raise
        return request.response(status)

    def handle_UPDATE(self, request: Request, transaction: Any) -> None:
        raise SIPError(488, "No Such Offer", headers=[("Warning", '304 x "no"')])

    def handle_REFER(self, request: Request, transaction: Any) -> None:
        raise RuntimeError("a fault of the handler's")

    def handle_NOTIFY(self, request: Request, transaction: Any) -> None:
        """Neither answers nor returns an answer."""

    def handle_SUBSCRIBE(self, request: Request, transaction: Any) -> Any:
        return succeed(None).addCallback(lambda _: self.later)

    def handle_PRACK(self, request: Request, transaction: Any) -> Any:
        return request.response(180)

    def handle_PUBLISH(self, request: Request, transaction: Any) -> None:
        transaction.respond(request.response(204))

    def transaction_ended(self, transaction: Any, reason: Any) -> None:
        super().transaction_ended(transaction, reason)
        self.ended.append(reason)


class Call:
    """A server, a clock and a flow; `send` injects a request, `statuses` are those answered so far."""

    def __init__(self, server: Any = None) -> None:
        self.clock = Clock()
        self.server = Greeter() if server is None else server
        self.service = SIPService(self.clock, self.server)
        self.flow = RecordingFlow()

    def send(self, *arguments: Any, branch: str = "z9hG4bK1", **options: Any) -> Any:
        """Inject a request; with another branch it is of another call, unless *call_id* says otherwise."""
        options = {"call_id": branch, **options, "branch": branch}
        self.service.message_received(make_request(*arguments, **options), self.flow)
        return self

    @property
    def statuses(self) -> Any:
        return [response.status for response in self.flow.responses]

    @property
    def last(self) -> Any:
        return self.flow.responses[-1]


@pytest.fixture(name="call")
def new_call() -> Call:
    return Call()


def test_value(call: Call) -> None:
    """A `Response` that a handler returns is sent."""
    assert call.send("MESSAGE").statuses == [202]


def test_deferred(call: Call) -> None:
    """A handler's `Deferred` is waited for."""
    assert call.send("INFO").statuses == []
    call.server.later.callback(make_request("INFO", branch="z9hG4bK1").response(200))
    assert call.statuses == [200]


def test_coroutine(call: Call) -> None:
    """An ``async`` handler may send provisional responses before it returns the final one."""
    assert call.send().statuses == [180]
    call.server.later.callback(486)
    assert call.statuses == [180, 486]


def test_sip_error_is_the_answer(call: Call) -> None:
    """`SIPError` gives status, reason and header fields of the answer."""
    call.send("UPDATE")
    assert (call.last.status, call.last.reason) == (488, "No Such Offer")
    assert call.last.headers.get("Warning") == '304 x "no"'


@pytest.mark.parametrize("method", ["REFER", "NOTIFY", "PRACK"])
def test_fault_is_logged_once_and_answered_500(call: Call, method: str, logged_failures: list[LogEvent]) -> None:
    """Any other exception, no answer, and a 1xx for an answer, are logged once and answered 500 without details."""
    call.send(method)
    assert (call.last.status, call.last.reason, call.last.body) == (500, "Server Internal Error", b"")
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_answered_by_respond(call: Call) -> None:
    """A handler may answer through the transaction and return nothing."""
    assert call.send("PUBLISH").statuses == [204]


@pytest.mark.requirement("8.2.1-2", "8.2.1-3", "8.2.1-4", "20.5-1")
def test_method_not_allowed(call: Call) -> None:
    """A known method that is not served gets 405, and Allow lists those that are, with ACK, BYE and CANCEL (8.2.1)."""
    call.send("REGISTER")
    assert call.last.status == 405
    allowed = {"INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "MESSAGE", "INFO", "UPDATE", "REFER", "NOTIFY", "PUBLISH"}
    assert set(call.last.headers.values("Allow")) == allowed | {"SUBSCRIBE", "PRACK"}


@pytest.mark.requirement("21.5.2-1")
def test_method_unknown(call: Call) -> None:
    """A method that nobody knows gets 501 (21.5.2)."""
    call.send("DANCE")
    assert call.last.status == 501
    assert "MESSAGE" in call.last.headers.values("Allow")


@pytest.mark.requirement("8.2.2.1-4")
def test_scheme(call: Call) -> None:
    """A Request-URI of a scheme that is not supported gets 416 (8.2.2.1)."""
    assert call.send("MESSAGE", uri="nobodyKnowsThisScheme:totallyopaque").statuses == [416]


@pytest.mark.requirement("8.2.2.1-5")
@pytest.mark.parametrize(
    ("uri", "status"),
    [
        ("sip:bob@example.com", 202),
        ("sip:bob@EXAMPLE.com:5070", 202),
        ("sip:bob@[2001:DB8:0::1]", 202),
        ("sip:bob@198.51.100.1", 202),
        ("sip:bob@198.51.100.2", 404),
        ("sip:bob@example.org", 404),
        ("tel:+1", 404),
    ],
)
def test_domain(uri: str, status: int) -> None:
    """A Request-URI outside the domains served, and not the server's own address, gets 404 (8.2.2.1)."""
    assert Call(Greeter(domains=["Example.com.", "2001:db8::1"])).send("MESSAGE", uri=uri).statuses == [status]


@pytest.mark.requirement("3262-1")
def test_required_reliability(call: Any) -> None:
    """An INVITE that requires reliable provisional responses of a server without them gets none, but 420 (RFC 3262)."""
    call.send(headers=(("Require", "100rel"),))
    assert call.statuses == [420]
    assert call.last.headers.get("Unsupported") == "100rel"


@pytest.mark.requirement("8.2.2.3-1", "8.2.2.3-2")
def test_require(call: Call) -> None:
    """An option tag that is not supported gets 420, and Unsupported names exactly those (8.2.2.3)."""
    call.send("MESSAGE", headers=(("Require", "path, 100rel"), ("Require", "nosuch")))
    assert call.last.status == 420
    assert call.last.headers.values("Unsupported") == ["100rel", "nosuch"]


@pytest.mark.parametrize("require", ['"\\\0"', "no such", "<x>"])
def test_malformed_require(call: Call, require: Any, logged_failures: list[LogEvent]) -> None:
    """What is no option tag is refused, and not sent back (8.2.2.3, 25.1)."""
    request = make_request("MESSAGE", branch="z9hG4bK2", headers=(("Require", "X"),)).to_bytes()
    call.service.message_received(
        parse_message(request.replace(b"Require: X", b"Require: " + require.encode())), call.flow
    )
    assert (call.last.status, call.last.reason) == (400, "Malformed Require header field")


@pytest.mark.requirement("8.2.3-1", "8.2.3-2")
def test_content_type(call: Call) -> None:
    """A body of a type that the handler does not understand gets 415, with Accept (8.2.3)."""
    call.send("MESSAGE", headers=(("Content-Type", "Text/HTML;charset=utf-8"),), body=b"<p>")
    assert call.last.status == 415
    assert call.last.headers.values("Accept") == ["text/plain"]


@pytest.mark.requirement("8.2.3-3")
def test_content_encoding(call: Call) -> None:
    """A body under an encoding that is not understood gets 415, with Accept-Encoding (8.2.3)."""
    headers = (("Content-Type", "text/plain"), ("Content-Encoding", "gzip"))
    call.send("MESSAGE", headers=headers, body=b"\x1f\x8b")
    assert call.last.status == 415
    assert call.last.headers.values("Accept-Encoding") == ["identity"]
    assert "Accept" not in call.last.headers
    headers = (("Content-Type", "text/plain"), ("Content-Encoding", "identity"))
    assert call.send("MESSAGE", branch="z9hG4bK2", headers=headers, body=b"hello").last.status == 202


@pytest.mark.parametrize("accept", [("Text/Plain",), ("text/*",), ("*/*",)])
def test_accepted_ranges(accept: Any) -> None:
    """What a class accepts may be a range, in any case (20.1)."""

    class Server(UserAgentServer):
        def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
            return request.response(200)

    Server.accept = accept
    call = Call(Server())
    assert call.send("MESSAGE", headers=(("Content-Type", "text/PLAIN"),), body=b"x").statuses == [200]
    call.send("MESSAGE", branch="z9hG4bK2", headers=(("Content-Type", "image/png"),), body=b"x")
    assert call.last.status == (200 if accept == ("*/*",) else 415)


@pytest.mark.parametrize("ask", ["one", "every"])
def test_malformed_field_that_a_handler_asks_for(ask: Any) -> None:
    """A field that is malformed is the client's fault for a handler that asks for it: 400, and it is named (8.2.2)."""

    class Server(UserAgentServer):
        def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
            getattr(request.headers, ask)(SessionExpires)
            return request.response(200)

    call = Call(Server())
    call.send("MESSAGE", headers=(("Session-Expires", "soon"),))
    assert (call.last.status, call.last.reason) == (400, "Malformed Session-Expires header field")


@pytest.mark.requirement("8.2.3-5")
def test_optional_content(call: Call) -> None:
    """A body that may be ignored is never refused (8.2.3)."""
    headers = (("Content-Type", "text/html"), ("Content-Disposition", "render; handling=optional"))
    assert call.send("MESSAGE", headers=headers, body=b"<p>").statuses == [202]


@pytest.mark.requirement("8.2.2-1", "8.2.2-2")
def test_unknown_and_malformed_header_fields_are_ignored(call: Call) -> None:
    """A header field that is not understood, or malformed and not needed, is ignored (8.2.2)."""
    headers = (("P-Charging-Vector", ";;,,"), ("Contact", "<<<"), ("Date", "yesterday"), ("Max-Forwards", "-1"))
    assert call.send("MESSAGE", headers=headers).statuses == [202]


@pytest.mark.requirement("8.2-3")
def test_order_of_the_checks(call: Call) -> None:
    """The method is judged before the Request-URI, that before Require, and the content last (8.2)."""
    faults = (("Require", "nosuch"), ("Content-Type", "text/html"))
    assert call.send("DANCE", uri="x:y", headers=faults, body=b"x", branch="z9hG4bK1").last.status == 501
    assert call.send("MESSAGE", uri="x:y", headers=faults, body=b"x", branch="z9hG4bK2").last.status == 416
    assert call.send("MESSAGE", headers=faults, body=b"x", branch="z9hG4bK3").last.status == 420
    assert call.send("MESSAGE", headers=faults[1:], body=b"x", branch="z9hG4bK4").last.status == 415


@pytest.mark.requirement("11.2-4", "11.2-5", "11.2-6", "11.2-7", "11.2-8")
@pytest.mark.parametrize("name", ["Allow", "Accept", "Accept-Encoding", "Accept-Language", "Supported"])
def test_options(call: Call, name: str) -> None:
    """The 200 to OPTIONS tells what the server can do (11.2)."""
    call.send("OPTIONS")
    assert call.last.status == 200
    assert name in call.last.headers


@pytest.mark.requirement("9.2-6")
def test_cancel(call: Call, logged_failures: list[LogEvent]) -> None:
    """A CANCEL is answered 200, its INVITE 487, and the handler is cancelled; what it still raises is dropped (9.2)."""
    call.send().send("CANCEL")
    assert call.statuses == [180, 200, 487]
    assert len(call.server.cancelled) == 1
    assert logged_failures == []


@pytest.mark.parametrize(
    ("method", "status", "seconds"), [("INVITE", 480, 180), ("INFO", 504, 30), ("SUBSCRIBE", 504, 30)]
)
def test_handler_timeout(call: Call, method: str, status: int, seconds: Any) -> None:
    """A handler that takes too long is cancelled, and the answer is 480 to an INVITE, 504 to another request."""
    call.send(method)
    call.clock.pump([1] * (seconds - 1))
    assert status not in call.statuses
    call.clock.pump([1] * 2)
    assert call.last.status == status
    call.send("ACK")
    call.clock.pump([1] * 40)
    assert call.server.ended == [EndReason.HANDLER_TIMEOUT]
    assert call.clock.getDelayedCalls() == []


def test_transport_failure_cancels_the_handler(call: Call) -> None:
    """A transaction that fails takes its handler with it, and no timer is left (17.2.4)."""
    call.send()
    call.flow.failure = "no route"
    call.send()  # the retransmission makes the transaction resend its 180
    assert call.server.ended == [EndReason.TRANSPORT_FAILED]
    assert len(call.server.cancelled) == 1
    assert call.clock.getDelayedCalls() == []


def test_handler_of_an_ended_transaction() -> None:
    """A handler whose transaction ends before it first waits is cancelled at once (17.2.4)."""
    cancelled: list[Any] = []

    class Server(UserAgentServer):
        async def handle_INVITE(self, request: Request, transaction: Any) -> None:
            call.flow.failure = "no route"
            transaction.respond(request.response(180))
            await Deferred(cancelled.append)

    call = Call(Server())
    call.send()
    assert len(cancelled) == 1
    assert call.clock.getDelayedCalls() == []


@implementer(IAuthenticator)
class Doorkeeper:
    """Lets in who has an Authorization header field, sooner or later."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def authenticate(self, request: Request, transaction: Any) -> Any:
        if "Authorization" not in request.headers:
            raise SIPError(401, headers=[("WWW-Authenticate", 'Digest realm="x", nonce="1"')])
        return self.answer


@pytest.mark.parametrize("later", [False, True])
def test_authenticator(later: Any) -> None:
    """The authenticator decides before any other check, and its identity is on the transaction (8.2-3, 22.1)."""
    answer: Any = Deferred() if later else "alice"
    identities = []

    class Server(UserAgentServer):
        def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
            identities.append(transaction.identity)
            return request.response(200)

    call = Call(Server(authenticator=Doorkeeper(answer)))
    assert call.send("DANCE").statuses == [401]
    call.send("MESSAGE", branch="z9hG4bK2", headers=(("Authorization", "Digest ..."),))
    if later:
        answer.callback("alice")
    assert call.statuses == [401, 200]
    assert identities == ["alice"]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_handler_that_goes_on_after_its_answer(transport: Any) -> None:
    """A handler that has answered may go on, until its time is up, by whatever transport the request came."""
    done: list[Any] = []

    class Server(UserAgentServer):
        async def handle_MESSAGE(self, request: Request, transaction: Any) -> None:
            transaction.respond(request.response(202))
            await deferLater(call.clock, 1)
            done.append(request)

        async def handle_INFO(self, request: Request, transaction: Any) -> None:
            await deferLater(call.clock, 1)
            transaction.respond(request.response(200))
            await Deferred(done.append)

    call = Call(Server())
    call.flow = RecordingFlow(transport)
    call.send("MESSAGE", transport=transport)
    assert call.statuses == [202]
    call.clock.advance(1)
    assert len(done) == 1

    call.send("INFO", branch="z9hG4bK2", transport=transport)
    call.clock.advance(1)
    assert call.server.counters["handlers"] == 1
    call.clock.pump([1] * 30)
    assert len(done) == 2, "and is cancelled when its time is up"
    assert call.server.counters["handlers"] == 0


def test_cancelled_error_of_asyncio(call: Call, logged_failures: list[LogEvent]) -> None:
    """An `asyncio.CancelledError`, which is no `Exception`, is a fault like any other."""

    class Server(UserAgentServer):
        def handle_MESSAGE(self, request: Request, transaction: Any) -> None:
            raise asyncio.CancelledError

    call = Call(Server())
    call.send("MESSAGE")
    assert call.statuses == [500]
    logged_failures.clear()
