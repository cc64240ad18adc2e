"""Is a router asked over HTTP as it should be, and does nothing it does harm us? With a real one, in this process."""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent, globalLogPublisher
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface.verify import verifyObject

from tests.any_reactor import reactor
from tests.interoperability.test_tls import write_certificate
from tests.log_observers import log_observer
from twisted_sipuas.errors import SIPError, UnavailableError
from twisted_sipuas.interfaces import ILocationService
from twisted_sipuas.location import location_service
from twisted_sipuas.location.http import HTTPLocationService
from twisted_sipuas.testing import make_request

NOT_KNOWN = (200, b"{}")


class Router(Resource):
    """Answers each question with what `answers` has next, and NOT_KNOWN then; `questions` has what was asked.

    An answer is a status, a body and headers; or None, for none at all.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Any] = []
        self.questions: list[Any] = []
        self.requests: list[Any] = []
        self.waiting: list[Any] = []
        self.gone: Deferred[Any] = Deferred()

    def render(self, request: Any) -> Any:
        self.requests.append(request)
        self.questions.append(request.content.read())
        answer = self.answers.pop(0) if self.answers else NOT_KNOWN
        if answer is None:
            request.notifyFinish().addErrback(lambda _: self.gone.callback(None))
            self.waiting.append(request)
            return NOT_DONE_YET
        status, body, *headers = answer
        request.setResponseCode(status)
        request.setHeader("Content-Type", "application/json")
        for name, value in headers:
            request.setHeader(name, value)
        return body


class Channel(HTTPChannel):
    """Keeps account of the connections that were made, and of those that are open."""

    def connectionMade(self) -> None:
        self.factory.made.append(self)
        self.factory.open.append(self)
        super().connectionMade()

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self.factory.open.remove(self)
        super().connectionLost(reason)


@contextlib.asynccontextmanager
async def listening(factory: Any, context: Any = None, interface: str = "127.0.0.1") -> AsyncIterator[Any]:
    """The port that *factory* listens on."""
    if context is None:
        port = reactor.listenTCP(0, factory, interface=interface)
    else:
        port = reactor.listenSSL(0, factory, context, interface=interface)
    try:
        yield port.getHost().port
    finally:
        await port.stopListening()


@contextlib.asynccontextmanager
async def asked(
    router: Router, text: str = "http:http://127.0.0.1:{port}/route", context: Any = None, **options: Any
) -> AsyncIterator[Any]:
    """A location service of *text* that asks *router*, and the site that serves it.

    In the end the service is stopped, and has closed its connections.
    """
    site: Any = Site(router)
    site.noisy = False
    site.made, site.open = [], []
    site.protocol = Channel
    async with listening(site, context, **options) as port:
        service: Any = location_service(text.format(port=port), reactor)
        service.startService()
        try:
            yield service, site
        finally:
            await service.stopService()
            while site.open:
                await deferLater(reactor, 0.01)


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def errors() -> Iterator[list[Any]]:
    """The lines that were logged as errors."""
    lines = []

    @log_observer
    def observe(event: dict[str, Any]) -> None:
        if event.get("log_namespace") == "twisted_sipuas.location.http":
            lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def lookup(service: Any, uri: str = "sip:bob@example.com", **options: Any) -> Any:
    request = make_request(uri=uri, **options)
    return service.lookup(request.uri, request)


async def raised_by(service: Any, **options: Any) -> Any:
    """Return the error that a look-up ends with."""
    with pytest.raises(SIPError) as raised:
        await lookup(service, **options)
    return raised.value


@pytest_twisted.ensureDeferred
async def test_question_and_answer(router: Router) -> None:
    """The question is posted as JSON, with who asks; the answer is where to go."""
    answer = {"targets": [{"uri": "sip:bob@192.0.2.7", "q": 0.7}], "status": 301, "headers": {"X-Route": "1"}}
    router.answers = [(200, json.dumps(answer).encode())]
    text = "http,headers=Subject+Diversion:http://127.0.0.1:{port}/route?tenant=7"
    async with asked(router, text) as (service, _):
        verifyObject(ILocationService, service)
        found = await lookup(service, headers=(("Subject", "lunch"),))
    assert [str(target) for target in found.targets] == ["<sip:bob@192.0.2.7>;q=0.7"]
    assert (found.status, found.headers) == (301, (("X-Route", "1"),))
    (request,) = router.requests
    assert (request.method, request.uri) == (b"POST", b"/route?tenant=7")
    assert request.getHeader("content-type") == "application/json"
    assert request.getHeader("accept") == "application/json"
    assert request.getHeader("user-agent") == "twisted-sipuas"
    assert request.getHeader("authorization") is None
    (question,) = map(json.loads, router.questions)
    assert (question["version"], question["user"], question["host"]) == (1, "bob", "example.com")
    assert question["headers"] == {"Subject": ["lunch"], "Diversion": []}


@pytest.mark.parametrize("answer", [NOT_KNOWN, (204, b""), (200, b"{}", ("Content-Type", "application/x+json; v=1"))])
@pytest_twisted.ensureDeferred
async def test_not_known(router: Router, answer: tuple[bytes | int, ...]) -> None:
    """An empty object, and a 204, leave the user to the next service."""
    router.answers = [answer]
    async with asked(router) as (service, _):
        assert await lookup(service) is None


@pytest_twisted.ensureDeferred
async def test_refusal(router: Router) -> None:
    """A refusal is the answer to the request, and no failure."""
    router.answers = [(200, b'{"refuse": {"status": 603, "reason": "Not Today"}}')]
    async with asked(router) as (service, _):
        error = await raised_by(service)
        assert service.counters["failures"] == 0
    assert not isinstance(error, UnavailableError)
    assert (error.status, error.reason) == (603, "Not Today")


@pytest_twisted.ensureDeferred
async def test_connections_are_not_logged(router: Router) -> None:
    """Neither that a connection was made nor that it ended is news, when all is well."""
    with capturedLogs() as logs:
        async with asked(router) as (service, site):
            await lookup(service)
        assert len(site.made) == 1
    assert [line for line in map(formatEvent, logs) if "Client" in line] == []  # the rest is the router's


@pytest.mark.requirement("21-1")
@pytest.mark.parametrize("status", [500, 502, 503, 408, 429])
@pytest_twisted.ensureDeferred
async def test_router_that_cannot_tell(router: Router, status: int) -> None:
    """A status that says nothing about the request gives 503 with Retry-After, and nothing of why to the caller."""
    router.answers = [(status, b"database down", ("Content-Type", "text/plain"))]
    async with asked(router) as (service, _):
        error = await raised_by(service)
    assert (error.status, error.reason, error.headers) == (503, None, (("Retry-After", "5"),))
    assert error.rule == f"HTTP status {status}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b'{"targets": ["bob"]}'), "targets[0].uri: expected a URI"),
        ((200, b"{}", ("Content-Type", "text/html")), "expected the Content-Type application/json"),
        ((400, b"{}"), "expected the HTTP status 200 or 204, not 400"),
        ((401, b"{}"), "expected the HTTP status 200 or 204, not 401"),
        ((404, b"{}"), "expected the HTTP status 200 or 204, not 404"),
        ((201, b"{}"), "expected the HTTP status 200 or 204, not 201"),
        ((302, b"{}", ("Location", "http://127.0.0.1:1/elsewhere")), "expected the HTTP status 200 or 204, not 302"),
        ((200, gzip.compress(b"{}"), ("Content-Encoding", "gzip")), "the answer: expected JSON"),
        ((200, b" " * 65_537), "expected no more than 65536 octets"),
        ((200, b" " * 5_000_000), "expected no more than 65536 octets"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_answer(router: Router, errors: list[str], answer: tuple[bytes | int, ...], said: str) -> None:
    """A wrong answer gives 500, and is logged with what was expected, without the secret; the same one once."""
    router.answers = [answer] * 20  # one more is taken where the connection is just being closed
    async with asked(router, "http:http://joe:secret@127.0.0.1:{port}/route?key=secret") as (service, _):
        error = await raised_by(service)
        for _ in range(8):
            await raised_by(service)
        assert service.counters["faults"] == service.counters["failures"] == 9
        assert service.counters["not_asked"] == 0, "it is no reason to leave it alone"
    assert isinstance(error, UnavailableError)
    assert (error.status, error.reason, error.headers) == (500, None, ())
    (line,) = errors
    assert line.endswith(f"/route gave a wrong answer, which is answered 500: {said}")
    assert "secret" not in line


@pytest_twisted.ensureDeferred
async def test_wrong_answers_in_the_log(router: Router, errors: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another fault is logged at once, the same again after five minutes, and what is remembered is bounded."""
    now = [0.0]
    async with asked(router) as (service, _):
        monkeypatch.setattr(service.service, "_reactor", Times(now))
        for seconds, status in [(0, 400), (1, 401), (2, 400), (299, 401), (300, 400), (301, 401)]:
            now[0] = seconds
            router.answers = [(status, b"")]
            await raised_by(service)
        assert [line[-3:] for line in errors] == ["400", "401", "400", "401"]
        for status in range(600, 700):
            service.service._faulty(str(status))
        assert len(service.service._faults) == 50


class Times:
    """The reactor, but for the time."""

    def __init__(self, now: list[float]) -> None:
        self._now = now

    def seconds(self) -> Any:
        return self._now[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


@pytest_twisted.ensureDeferred
async def test_connections_are_kept(router: Router) -> None:
    """A connection is kept for the next question, and so many at most are open at a time; more wait."""
    async with asked(router, "http,connections=2:http://127.0.0.1:{port}/") as (service, site):
        for _ in range(5):
            await lookup(service)
        assert len(site.made) == 1
        router.answers = [None, None]
        looking = [lookup(service) for _ in range(10)]
        while len(router.waiting) < 2:
            await deferLater(reactor, 0.01)
        assert service.counters["waiting"] == 8
        for request in router.waiting:
            request.setHeader("Content-Type", "application/json")
            request.write(b"{}")
            request.finish()
        assert await gatherResults(looking) == [None] * 10
        assert len(site.made) == 2
        assert service.counters["waiting"] == 0


@pytest_twisted.ensureDeferred
async def test_timeout_cancels_the_request(router: Router) -> None:
    """A question that takes too long is cancelled, with 504, and its connection closed; the next one is answered."""
    router.answers = [None]
    async with asked(router, "http,timeout=0.2:http://127.0.0.1:{port}/") as (service, site):
        error = await raised_by(service)
        await router.gone
        assert await lookup(service) is None
        assert len(site.made) == 2
        assert service.counters["asked_again"] == 0
    assert isinstance(error, UnavailableError)
    assert error.status == 504


@pytest_twisted.ensureDeferred
async def test_timeout_in_the_body(router: Router) -> None:
    """So is one whose answer begins and does not end."""
    router.answers = [None]
    async with asked(router, "http,timeout=0.2:http://127.0.0.1:{port}/") as (service, _):
        looking = lookup(service)
        while not router.waiting:
            await deferLater(reactor, 0.01)
        router.waiting[0].write(b"{")
        with pytest.raises(UnavailableError) as raised:
            await looking
        await router.gone
    assert raised.value.status == 504


@pytest_twisted.ensureDeferred
async def test_cancelled_by_who_asks(router: Router) -> None:
    """A look-up that nobody waits for any longer ends its HTTP request, and is no failure."""
    router.answers = [None]
    async with asked(router) as (service, _):
        looking = lookup(service)
        while not router.waiting:
            await deferLater(reactor, 0.01)
        looking.cancel()
        with pytest.raises(CancelledError):
            await looking
        await router.gone
        assert service.counters["failures"] == 0


class Closing(Protocol):
    """Closes each connection that a question comes on, but the last of them answers."""

    transport: Any
    factory: Any

    def dataReceived(self, data: bytes) -> None:
        self.factory.questions += 1
        if self.factory.questions > self.factory.closes:
            self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            self.transport.loseConnection()


@pytest.mark.parametrize(("closes", "status"), [(1, None), (2, 503)])
@pytest_twisted.ensureDeferred
async def test_connection_that_was_being_closed(closes: Any, status: int | None) -> None:
    """A question that a closing connection swallowed is asked once more, and then not again."""
    factory: Any = Factory.forProtocol(Closing)
    factory.noisy, factory.questions, factory.closes = False, 0, closes
    async with listening(factory) as port:
        service: Any = location_service(f"http:http://127.0.0.1:{port}/", reactor)
        if status is None:
            assert await lookup(service) is None
        else:
            assert (await raised_by(service)).status == status
        assert factory.questions == 2
        assert service.counters["asked_again"] == 1
        await service.stopService()


class Talking(Protocol):
    """Says *text* to whatever comes, and hangs up."""

    transport: Any
    text = b""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(self.text)
        self.transport.loseConnection()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}", None),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}", 503),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 503),
        (b"", 503),
    ],
)
@pytest_twisted.ensureDeferred
async def test_strange_server(text: bytes, status: int | None) -> None:
    """An answer that ends with its connection counts, one that is cut off does not, nor what is no HTTP."""
    factory = Factory.forProtocol(type("Said", (Talking,), {"text": text}))
    factory.noisy = False
    async with listening(factory) as port:
        service: Any = location_service(f"http:http://127.0.0.1:{port}/", reactor)
        if status is None:
            assert await lookup(service) is None
        else:
            assert (await raised_by(service)).status == status
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_nobody_there(router: Router) -> None:
    """A router that is not there gives 503, is left alone after some, and why is logged."""
    lines = []

    @log_observer
    def observe(event: dict[str, Any]) -> None:
        if event.get("log_namespace") == "twisted_sipuas.location.guarded":
            lines.append(event["log_format"].format(**event))

    async with asked(router) as (service, _):
        pass
    globalLogPublisher.addObserver(observe)
    for _ in range(7):
        error = await raised_by(service)
    globalLogPublisher.removeObserver(observe)
    assert error.status == 503
    assert service.counters["not_asked"] == 2
    (line,) = lines
    assert "fails and is left alone for a while: 503 (ConnectionRefusedError" in line


@pytest.mark.parametrize("options", [",cache=30", ",cache=30,timeout=1"])
@pytest_twisted.ensureDeferred
async def test_cache(router: Router, options: str) -> None:
    """With cache= a Request-URI is asked about once, and a wrong answer is not kept."""
    router.answers = [(200, b"?"), (200, b'{"targets": ["tel:+1"]}')]
    async with asked(router, f"http{options}:http://127.0.0.1:{{port}}/") as (service, _):
        assert (await raised_by(service)).status == 500
        await lookup(service)
        found = lookup(service)
        assert [target.uri.text for target in found.targets] == ["tel:+1"]
    assert len(router.questions) == 2


# Secrets


@pytest.mark.parametrize(
    ("userinfo", "authorization"),
    [("joe:secret@", "Basic am9lOnNlY3JldA=="), ("joe:a%40b@", "Basic am9lOmFAYg=="), ("joe@", "Basic am9l")],
)
@pytest_twisted.ensureDeferred
async def test_user_name_in_the_url(router: Router, userinfo: str, authorization: str) -> None:
    """User name and password of the URL are sent by basic authentication (RFC 7617), and shown nowhere."""
    async with asked(router, f"http:http://{userinfo}127.0.0.1:{{port}}/route?key=secret") as (service, _):
        await lookup(service)
        assert service.description.startswith("http:http://127.0.0.1:")
        assert service.description.endswith("/route")
    assert router.requests[0].getHeader("authorization") == authorization
    assert router.requests[0].uri == b"/route?key=secret"


@pytest_twisted.ensureDeferred
async def test_token(router: Router, tmp_path: Path) -> None:
    """A bearer token comes from a file (RFC 6750), and so may the whole URL."""
    (tmp_path / "token").write_text("s3cret.t0ken\n")
    async with asked(router, f"http,token={tmp_path}/token:http://127.0.0.1:{{port}}/") as (service, _):
        await lookup(service)
        assert "s3cret" not in service.description
    assert router.requests[0].getHeader("authorization") == "Bearer s3cret.t0ken"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http:", "'http:': expected a URL such as https://router.example/route"),
        ("http:router.example/x", "expected a URL such as https://router.example/route"),
        ("http:ftp://router.example/x", "expected a URL such as https://router.example/route"),
        ("http:http:///x", "expected a URL such as https://router.example/route"),
        ("http:http://router.example:99999/", "expected a URL such as https://router.example/route"),
        ("http:http://router.example:0/", "expected a URL such as https://router.example/route"),
        ("http:http://[::1/", "expected a URL such as https://router.example/route"),
        ("http:http://router.example/a b", "expected a URL such as https://router.example/route"),
        ("http:http://router.example/ä", "expected a URL such as https://router.example/route"),
        ("http:http://router.example/#x", "expected a URL such as https://router.example/route"),
        ("http,headers=:http://h/", "headers=: expected names of header fields with + between them"),
        ("http,headers=To+a b:http://h/", "headers=To+a b: expected names of header fields with + between them"),
        ("http,connections=0:http://h/", "connections=0: expected a whole number from 1 to 1000"),
        ("http,connections=9999:http://h/", "connections=9999: expected a whole number from 1 to 1000"),
        ("http,token=/nowhere:http://h/", "cannot read /nowhere: No such file or directory"),
        ("http,token={tmp}/two:http://h/", "token={tmp}/two: expected a token, in one word"),
        ("http,token={tmp}/odd:http://h/", "token={tmp}/odd: expected a token, in one word"),
        ("http,token={tmp}/one:http://joe:secret@h/", "expected either a token or a user name in the URL"),
        ("http,ca={tmp}/two:https://h/", "ca={tmp}/two: expected certificates in PEM"),
        ("http,ca={tmp}/odd:https://h/", "ca={tmp}/odd: expected certificates in PEM"),
        ("http,retries=3:http://h/", "'retries' is no option of http"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: str) -> None:
    """A mistake is a ValueError of one line that says what was expected, without a secret."""
    (tmp_path / "one").write_text("secret")
    (tmp_path / "two").write_text("secret secret")
    (tmp_path / "odd").write_bytes(b"\xff")
    with pytest.raises(ValueError) as raised:
        location_service(text.replace("{tmp}", str(tmp_path)), reactor)
    assert said.replace("{tmp}", str(tmp_path)) in str(raised.value)
    assert "secret" not in str(raised.value)


# https


@pytest_twisted.ensureDeferred
async def test_https(router: Router, tmp_path: Path) -> None:
    """A certificate is verified: that of a stranger gives 503, and one that ca= names is good (RFC 9110, 4.3.4)."""
    write_certificate(tmp_path, "router")
    write_certificate(tmp_path, "stranger")
    context = ssl.DefaultOpenSSLContextFactory(str(tmp_path / "router-key.pem"), str(tmp_path / "router.pem"))
    for ca, is_good in [("router", True), ("stranger", False), (None, False)]:
        text = f"http{f',ca={tmp_path}/{ca}.pem' if ca else ''}:https://127.0.0.1:{{port}}/"
        async with asked(router, text, context) as (service, _):
            if is_good:
                assert await lookup(service) is None
            else:
                error = await raised_by(service)
                assert error.status == 503
                assert "certificate verify failed" in error.rule
    assert len(router.questions) == 1


@pytest.mark.parametrize("text", ["http:https://h/", "http,ca=ca.pem:http://h/"])
def test_https_without_what_it_takes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Where TLS is not installed, https is a mistake that says what to install."""
    monkeypatch.setitem(sys.modules, "twisted.internet.ssl", None)
    with pytest.raises(ValueError, match=r"which is not installed: pip install 'twisted-sipuas\[tls\]'$"):
        location_service(text, reactor)


@pytest_twisted.ensureDeferred
async def test_ipv6(router: Router) -> None:
    """The host of the URL may be an IPv6 address."""
    async with asked(router, "http:http://[::1]:{port}/", interface="::1") as (service, _):
        assert await lookup(service) is None
    assert router.requests[0].getHeader("host").startswith("[::1]:")


def test_in_a_program() -> None:
    """A program may make one itself; a URL without a path asks for the root (RFC 9110, 4.2.3)."""
    assert HTTPLocationService("http://router.example", reactor).description == "http:http://router.example/"
