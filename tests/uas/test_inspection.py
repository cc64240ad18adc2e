"""Is a request judged by the checks of 8.2, one by one, and does each refusal say which rule made it?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from tests.uas.caller import CALL_ID, Caller, Phone
from twisted_sipuas import SIPError, SIPService, UserAgentServer
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingFlow, make_request


class Server(Phone):
    """Takes calls and messages; `answer` is what its handler of MESSAGE does."""

    accept = {"INVITE": ("application/sdp",), "MESSAGE": ("text/plain",)}
    accept_language = ("en", "de-CH")
    supported = ("path", "100rel")

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        return request.response(202) if self.answer is None else self.answer(request, transaction)


@pytest.fixture
def caller() -> Any:
    return Caller(Server())


# 8.2.1: after authentication, the method


class Doorkeeper:
    """Lets in who has an Authorization header field."""

    def authenticate(self, request: Request, transaction: Any) -> None:
        if "Authorization" not in request.headers:
            raise SIPError(401, headers=[("WWW-Authenticate", 'Digest realm="x", nonce="1"')])


class Open(Server):
    """Asks nobody who he is."""

    def needs_authentication(self, request: Request, flow: Any) -> Any:
        return False


@pytest.mark.requirement("8.2.1-1")
@pytest.mark.parametrize(("method", "status"), [("REGISTER", 405), ("DANCE", 501), ("MESSAGE", 202)])
def test_method_is_examined_after_authentication(method: str, status: int) -> None:
    """The method is examined once it is known who asks, or nobody is asked (8.2.1)."""
    closed = Caller(Server(authenticator=Doorkeeper()))
    assert closed.send(method).last.status == 401
    assert closed.send(method, headers=(("Authorization", "Digest ..."),)).last.status == status
    assert Caller(Open(authenticator=Doorkeeper())).send(method).last.status == status


@pytest.mark.requirement("8.2.1-5")
@pytest.mark.parametrize("method", ["MESSAGE", "INVITE", "INFO", "OPTIONS"])
def test_served_method_goes_on_to_the_next_check(caller: Any, method: str) -> None:
    """A method that is served decides nothing yet: the Request-URI is looked at next (8.2.1)."""
    assert caller.send(method, uri="x:y").last.status == 416
    assert caller.send(method).last.status in (200, 202)


# 8.2.2: header fields


@pytest.mark.requirement("8.2.2.1-2")
@pytest.mark.parametrize("to", ["<nobodyKnowsThisScheme:x>", "<tel:+1555>", "<sip:nobody@elsewhere.example.net>"])
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_to_of_somebody_else(method: str, to: Any) -> None:
    """Whom To names, in whatever scheme, is no reason to refuse a request: the Request-URI decides (8.2.2.1)."""

    class Choosy(Server):
        def serves_user(self, uri: Any) -> Any:
            return uri.user == "bob"

    caller = Caller(Choosy(domains=["example.com"])).send(method, to=to)
    assert caller.last.status in (200, 202)


@pytest.mark.requirement("8.2.2.3-4")
@pytest.mark.parametrize("name", ["Require", "Proxy-Require"])
def test_require_in_cancel_and_ack(name: str) -> None:
    """Require and Proxy-Require are ignored in a CANCEL, and in an ACK, for whatever response (8.2.2.3)."""
    demand = ((name, "nosuch"),)
    ringing = Caller(Phone(lambda request, transaction: Deferred())).send("INVITE")
    ringing.send("CANCEL", branch="z9hG4bK1", cseq=1, headers=demand)
    assert ringing.statuses == [200, 487]
    ringing.send("ACK", branch="z9hG4bK1", cseq=1, to=ringing.last.headers.get("To"), headers=demand).step(10)
    assert ringing.statuses == [200, 487], "or it would be resent"
    taken = Caller().invite().ack(headers=demand).step(10)
    assert (taken.statuses, taken.server.heard) == ([200], ["ACK"])


@pytest.mark.requirement("20.32-1")
@pytest.mark.parametrize("within", [False, True], ids=["new", "within a dialog"])
@pytest.mark.parametrize("method", ["BYE", "INFO", "INVITE", "MESSAGE", "OPTIONS"])
def test_require_of_every_method(method: Any, within: Any) -> None:
    """Require is ignored in no request but ACK and CANCEL, and in no place (20.32)."""
    caller = Caller(Server()).called() if within else Caller(Server())
    if method == "BYE" and not within:
        caller.server.knows_dialog = lambda request: True
        caller.to = "<sip:bob@example.com>;tag=mine"
    caller.send(method, headers=(("Require", "path"), ("Require", "nosuch")))
    assert (caller.last.status, caller.last.headers.values("Unsupported")) == (420, ["nosuch"])


@pytest.mark.requirement("7.3.2-1")
@pytest.mark.parametrize(
    "name",
    [
        "Authentication-Info",
        "Error-Info",
        "Min-Expires",
        "Proxy-Authenticate",
        "Retry-After",
        "RSeq",
        "Server",
        "SIP-ETag",
        "Unsupported",
        "Warning",
        "WWW-Authenticate",
    ],
)
@pytest.mark.parametrize("value", ["3600", ";;"], ids=["well-formed", "malformed"])
def test_header_field_of_responses(name: Any, value: Any, caller: Any) -> None:
    """What only a response may have changes nothing in a request, well-formed or not (7.3.2, 20)."""
    stray = ((name, value),)
    statuses = [caller.send(method, headers=stray).last.status for method in ("OPTIONS", "MESSAGE", "INVITE")]
    assert statuses == [200, 202, 200]
    assert not {name, "Require"} & {row for row, _ in caller.last.headers}


@pytest.mark.requirement("7.3.2-1")
@pytest.mark.parametrize("name", ["Contact", "Expires", "Record-Route", "Alert-Info", "Organization"])
def test_header_field_of_other_requests(name: Any) -> None:
    """What BYE or MESSAGE may not have is not looked at there: neither answer nor dialog is other for it (7.3.2)."""
    caller = Caller(Server()).called()
    target = caller.dialog.remote_target
    assert caller.send("MESSAGE", headers=((name, "<sip:x@192.0.2.9>;;"),)).last.status == 202
    assert caller.dialog.remote_target == target
    assert caller.send("BYE", headers=((name, "<sip:x@192.0.2.9>;;"),)).last.status == 200


# 8.2.3: content


@pytest.mark.requirement("8.2.3-4")
@pytest.mark.parametrize(
    ("language", "status"),
    [("fr", 415), ("de", 415), ("de-AT", 415), ("fr, en", 202), ("EN-gb", 202), ("de-ch", 202), (None, 202)],
)
def test_content_language(caller: Any, language: Any, status: int) -> None:
    """A body in no language that is understood gets 415, and Accept-Language lists those that are (8.2.3)."""
    headers = (("Content-Type", "text/plain"), *(() if language is None else (("Content-Language", language),)))
    caller.send("MESSAGE", headers=headers, body=b"bonjour")
    assert caller.last.status == status
    assert caller.last.headers.values("Accept-Language") == ([] if status == 202 else ["en", "de-CH"])


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("text/html", 406),
        ("application/sdp;q=0", 406),
        ("", 406),
        ("application/sdp", 200),
        ("text/html, application/*;q=0.1", 200),
        ("*/*", 200),
        (";;", 200),
    ],
)
def test_accept(caller: Any, accept: Any, status: int) -> None:
    """An INVITE that takes none of the types an answer could have gets 406; a malformed Accept is ignored (20.1)."""
    caller.send("INVITE", headers=(("Accept", accept),))
    assert caller.last.status == status
    if status == 406:
        assert caller.last.headers.values("Accept") == ["application/sdp"]
    assert caller.send("INFO", to=None, headers=(("Accept", accept),)).last.status == 200


# 8.2.4: extensions


@pytest.mark.requirement("8.2.4-2", "8.2.4-5")
@pytest.mark.parametrize("supported", [(), (("Supported", "timer"),), (("Supported", ""),)])
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "OPTIONS"])
def test_baseline(caller: Any, method: str, supported: Any) -> None:
    """A client that offers none of the extensions we have is served without them, and never gets 421 (8.2.4)."""
    caller.send(method, headers=supported)
    assert caller.last.status in (200, 202)
    assert "Require" not in caller.last.headers


@pytest.mark.requirement("8.2.4-1", "8.2.4-7", "8.2.4-8")
@pytest.mark.parametrize("supported", [(), (("Supported", "100rel"),), (("Require", "path"),)])
def test_extension_that_is_not_offered(caller: Any, supported: Any, logged_failures: list[LogEvent]) -> None:
    """An extension that Supported does not name is not applied: it is a handler's fault, and no Require is sent.

    So only option tags that the client knows are ever in there (8.2.4).
    """
    caller.server.answer = lambda request, transaction: request.response(202, headers=[("Require", "path")])
    caller.send("MESSAGE", headers=supported)
    assert (caller.last.status, "Require" in caller.last.headers) == (500, False)
    assert len(logged_failures) == 1
    logged_failures.clear()


@pytest.mark.requirement("8.2.4-6")
@pytest.mark.parametrize("status", [202, 486])
def test_extension_that_is_applied(caller: Any, status: int) -> None:
    """What a handler applies of what the client offers, it names in Require, which is sent (8.2.4)."""
    caller.server.answer = lambda request, transaction: request.response(status, headers=[("Require", "path")])
    caller.send("MESSAGE", headers=(("Supported", "100rel, Path"),))
    assert (caller.last.status, caller.last.headers.values("Require")) == (status, ["path"])


@pytest.mark.requirement("3262-2")
@pytest.mark.parametrize(
    ("offer", "statuses"),
    [
        ((), [500]),
        ((("Supported", "timer"),), [500]),
        ((("Supported", "100rel"),), [183, 486]),
        ((("Require", "100REL"),), [183, 486]),
    ],
    ids=["none", "another", "supported", "required"],
)
def test_reliable_provisional_response(offer: Any, statuses: Any, caller: Any, logged_failures: Any) -> None:
    """A handler sends a provisional response reliably only to who supports or requires that (RFC 3262, 3)."""

    def answer(request: Any, transaction: Any) -> Any:
        transaction.respond(request.response(183, headers=[("Require", "100rel"), ("RSeq", "1")]))
        return request.response(486)

    caller.server.answer = answer
    caller.send("INVITE", headers=offer)
    assert caller.statuses == statuses
    assert len(logged_failures) == (statuses == [500])
    logged_failures.clear()


class Reliable(Server):
    """Cannot do without two extensions."""

    required_extensions = ("100rel", "path")


@pytest.mark.requirement("8.2.4-3", "8.2.4-4")
@pytest.mark.parametrize(
    ("headers", "missing"),
    [
        ((), ["100rel", "path"]),
        ((("Supported", "timer"),), ["100rel", "path"]),
        ((("Supported", "100REL"),), ["path"]),
        ((("Supported", "100rel, path"),), []),
        ((("Supported", "100rel"), ("Require", "path")), []),
    ],
)
def test_required_extensions(headers: Any, missing: Any) -> None:
    """A request that lacks what we cannot do without gets 421, with Require naming what it lacks (8.2.4)."""
    caller = Caller(Reliable()).send("INVITE", headers=headers)
    assert caller.last.status == (421 if missing else 200)
    assert caller.last.headers.values("Require") == missing


@pytest.mark.requirement("8.2.4-3")
def test_required_extensions_within_a_dialog() -> None:
    """What can be served without the extension is not refused: the BYE of a peer that has shown that it has it."""
    caller = Caller(Reliable()).called(headers=(("Supported", "100rel, path"),)).send("INFO").send("BYE")
    assert caller.statuses == [200, 200, 200]


# 8.2.5, 8.2.6: what comes then


@pytest.mark.requirement("8.2.5-1")
def test_processing_is_by_method() -> None:
    """A request that has passed the checks is for the handler of its method, and for no other (8.2.5)."""

    class Switch(UserAgentServer):
        def handle_INVITE(self, request: Request, transaction: Any) -> Any:
            return request.response(480)

        def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
            return request.response(202)

        def handle_REGISTER(self, request: Request, transaction: Any) -> Any:
            return request.response(302)

        def handle_BYE(self, request: Request, transaction: Any) -> Any:
            return request.response(204)

        def knows_dialog(self, request: Request) -> Any:
            return True

    caller = Caller(Switch())
    for method, status in [("INVITE", 480), ("MESSAGE", 202), ("REGISTER", 302), ("BYE", 204), ("OPTIONS", 200)]:
        assert caller.send(method).last.status == status


@pytest.mark.requirement("8.2.6-1")
def test_response_goes_to_the_transaction_of_its_request(caller: Any) -> None:
    """Of two requests that wait each gets its own answer, and from then on its retransmissions too (8.2.6)."""
    waiting: Any = []
    caller.server.answer = lambda request, transaction: waiting.append((request, Deferred())) or waiting[-1][1]
    requests = [caller.send("MESSAGE").request for _ in range(2)]
    for (request, later), status in zip(reversed(waiting), (202, 603), strict=True):
        later.callback(request.response(status))
    for request in requests:
        caller.service.message_received(request, caller.flow)
    assert len(waiting) == 2, "the transaction absorbs retransmissions"
    answers = [(response.status, response.headers.get("CSeq")) for response in caller.flow.responses]
    assert answers == [(202, "2 MESSAGE"), (603, "1 MESSAGE"), (603, "1 MESSAGE"), (202, "2 MESSAGE")]


# Which rule it was


class Choosy(Server):
    """Knows two users, of whom one is busy."""

    def serves_user(self, uri: Any) -> Any:
        return uri.user in ("bob", "busy")

    def admit(self, request: Any) -> Any:
        return request.uri.user == "bob"


@pytest.mark.parametrize(
    ("method", "fields", "status", "rule"),
    [
        ("MESSAGE", {}, 202, "Choosy.handle_MESSAGE"),
        ("OPTIONS", {}, 200, "11.2-1"),
        ("REGISTER", {}, 405, "8.2.1-2"),
        ("DANCE", {}, 501, "21.5.2-1"),
        ("MESSAGE", {"uri": "x:y"}, 416, "8.2.2.1-4"),
        ("MESSAGE", {"uri": "sip:bob@example.net"}, 404, "8.2.2.1-5"),
        ("MESSAGE", {"uri": "sip:carol@example.com"}, 404, "8.2.2.1-5"),
        ("MESSAGE", {"headers": (("Require", "nosuch"),)}, 420, "8.2.2.3-1"),
        ("MESSAGE", {"headers": (("Content-Type", "text/html"),)}, 415, "8.2.3-2"),
        ("MESSAGE", {"headers": (("Content-Type", "text/plain"), ("Content-Encoding", "x"))}, 415, "8.2.3-3"),
        ("MESSAGE", {"headers": (("Content-Type", "text/plain"), ("Content-Language", "fr"))}, 415, "8.2.3-4"),
        ("INVITE", {"headers": (("Accept", "text/html"), ("Content-Type", "application/sdp"))}, 406, "20.1"),
        ("INVITE", {"headers": (("Contact", ""), ("Content-Type", "application/sdp"))}, 400, "12.1.1-12"),
        ("INVITE", {"uri": "sip:busy@example.com"}, 486, "13.3.1.3-1"),
        ("INFO", {"to": "<sip:bob@example.com>;tag=1"}, 481, "12.2.2-4"),
        ("BYE", {}, 481, "15.1.2-2"),
    ],
)
def test_rule(method: str, fields: Any, status: Any, rule: Any) -> None:
    """Every refusal says by the id of a requirement what made it; an answer of a handler's is the handler's."""
    traced: list[Any] = []
    server = Choosy(domains=["example.com"])
    service = SIPService(Clock(), server, trace=lambda request, response, flow: traced.append(response))
    service.message_received(make_request(method, body=b"x" if "headers" in fields else b"", **fields), RecordingFlow())
    (response,) = traced
    assert (response.status, response.rule) == (status, rule)


def test_rule_of_a_merged_request() -> None:
    """A request that came by another way already says so (8.2.2.2)."""
    traced = []
    caller = Caller(
        Phone(lambda request, transaction: Deferred()),
        trace=lambda request, response, flow: traced.append((response.status, response.rule)),
    )
    caller.send("INVITE", call_id=CALL_ID, cseq=1).send("INVITE", call_id=CALL_ID, cseq=1)
    assert traced == [(482, "8.2.2.2-2")]


def test_rule_of_a_required_extension() -> None:
    """So does one that lacks an extension (8.2.4)."""
    traced = []
    caller = Caller(Reliable(), trace=lambda request, response, flow: traced.append((response.status, response.rule)))
    caller.send("INVITE")
    assert traced == [(421, "8.2.4-3")]


class Omnivore(Phone):
    """Takes messages of every type."""

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        return request.response(202)


@pytest.mark.requirement("8.2.3-3", "8.2.3-4")
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("Content-Encoding", "gzip", "Accept-Encoding"),
        ("Content-Encoding", "identity", None),
        ("Content-Language", "fr", "Accept-Language"),
        ("Content-Language", "en-GB", None),
        ("Content-Type", "application/octet-stream", None),
    ],
)
@pytest.mark.parametrize("is_optional", [False, True])
def test_server_of_every_type(name: str, value: str, told: Any, is_optional: Any) -> None:
    """Where any media type is understood, not every encoding and language is (8.2.3)."""

    class English(Omnivore):
        accept_language = ("en",)

    optional = (("Content-Disposition", "session;handling=optional"),) if is_optional else ()
    caller = Caller(English()).send("MESSAGE", headers=((name, value), *optional), body=b"hello")
    assert caller.last.status == (202 if told is None or is_optional else 415)
    assert told is None or is_optional or told in caller.last.headers
