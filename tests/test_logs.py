"""Is text from the network escaped in every log line, whatever path it takes there, and are secrets left out?"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher, textFileLogObserver
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas import RedirectServer, UserAgentServer
from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.interfaces import ILocationService
from twisted_sipuas.location.guarded import GuardedLocationService
from twisted_sipuas.logs import Logger, visible
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.trace import log_answer, trace_line
from twisted_sipuas.transport.stream import SIPStreamFactory
from twisted_sipuas.transport.udp import SIPDatagramProtocol

HOSTILE = "a\rb\nc\x1b[31md\u202ee\u200bf\x7fg\x9bh\udcffi"
"""Line breaks, terminal commands, text that turns round, and what is no UTF-8."""


@pytest.fixture
def logged(logged_failures: list[LogEvent]) -> Iterator[Callable[[], str]]:
    """Returns what twistd would have written to its log so far, but for the times of day."""
    out = io.StringIO()
    observer = textFileLogObserver(out, timeFormat=None)
    globalLogPublisher.addObserver(observer)
    yield out.getvalue
    globalLogPublisher.removeObserver(observer)
    logged_failures.clear()


def assert_harmless(text: str) -> None:
    """Assert that *text*, of some lines, is all plain to see."""
    assert text
    for character in "\r\x1b\u202e\u200b\x7f\x9b\udcff":
        assert character not in text
    lines = text.splitlines()
    assert all(line.replace("\t", "").isprintable() for line in lines)
    assert not any(line.startswith("c") for line in lines), "a forged line"


def service(user: Any) -> tuple[SIPService, RecordingFlow]:
    return SIPService(Clock(), user, trace=log_answer), RecordingFlow("TCP")


def handler_fails() -> None:
    class Failing(UserAgentServer):
        def handle_INFO(self, request: Request, transaction: Any) -> None:
            raise ValueError(HOSTILE)

        async def handle_MESSAGE(self, request: Request, transaction: Any) -> None:
            raise KeyError(HOSTILE)

    server, flow = service(Failing())
    server.message_received(make_request("INFO"), flow)
    server.message_received(make_request("MESSAGE", branch="z9hG4bK2"), flow)


def transaction_user_fails() -> None:
    def failing(request: Request, transaction: Any) -> None:
        raise RuntimeError(HOSTILE)

    server, flow = service(RecordingTransactionUser(failing))
    server.message_received(make_request(), flow)


def acknowledged_badly() -> None:
    class Failing(RecordingTransactionUser):
        def ack_received(self, ack: Any, flow: Any) -> None:
            raise ValueError(HOSTILE)

    server, flow = service(Failing())
    server.message_received(make_request("ACK"), flow)


def trace_fails() -> None:
    def failing(*_: object) -> None:
        raise ValueError(HOSTILE)

    server = SIPService(Clock(), UserAgentServer(), trace=failing)
    server.message_received(make_request(), RecordingFlow())


def look_up_fails() -> None:
    @implementer(ILocationService)
    class Table:
        description = f"http:{HOSTILE}"

        def lookup(self, request_uri: object, request: object) -> None:
            raise OSError(HOSTILE)

    server, flow = service(RedirectServer([Table()], asks_next_on_failure=True))
    server.message_received(make_request(), flow)


def malformed_requests() -> None:
    server, _ = service(UserAgentServer())
    protocol = SIPDatagramProtocol(server)
    protocol.send = lambda *_: None  # type: ignore[method-assign]
    hostile = HOSTILE.replace("\r", "").replace("\n", "")
    request = make_request(
        "OPTIONS", f"sip:{hostile.replace(' ', '')}".replace("\x1b", "").replace("\x7f", ""), call_id=hostile
    )
    for data in (
        request.to_bytes(),
        request.to_bytes().replace(b"CSeq", b"X"),
        request.to_bytes().replace(b"SIP/2.0\r", b"SIP/3.0\r"),
        f"{hostile} {hostile} SIP/2.0\r\nVia: {hostile}\r\n\r\n".encode("utf-8", "surrogateescape"),
    ):
        protocol.datagramReceived(data, ("192.0.2.1", 5060))


def datagram_fails() -> None:
    log_at = "twisted_sipuas.transport.udp"
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        Logger(log_at).failure("a datagram could not be handled")


def proxy_header() -> None:
    server, _ = service(UserAgentServer())
    for line in (
        b"PROXY TCP6 fe80::1%\x1b[31m\xe2\x80\xae ::1 1 2\r\nX",
        b"PROXY TCP4 \x1b[31m\x9b 127.0.0.1 1 2\r\nX",
        b"PROXY UNKNOWN \x1b[31m\r\nX",
        b"\x1b[31m\r\n\r\n",
    ):
        factory = HAProxyWrappingFactory(SIPStreamFactory(server, Clock(), is_proxied=True))
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        transport.abortConnection = lambda: None  # type: ignore[method-assign]
        protocol.makeConnection(transport)
        protocol.dataReceived(line)
        protocol.connectionLost(Failure(connectionDone.value))


def no_sip_on_a_stream() -> None:
    server, _ = service(UserAgentServer())
    protocol: Any = SIPStreamFactory(server, Clock()).buildProtocol(None)
    protocol.makeConnection(StringTransport())
    protocol.dataReceived(b"GET \x1b[31m HTTP/1.1\r\n\x9b\r\n\r\n")
    protocol.connectionLost(connectionDone)


def location_service_is_down() -> None:
    class Down:
        description = "http:x"

        def lookup(self, request_uri: object, request: object) -> Deferred[None]:
            failed: Deferred[None] = Deferred()
            failed.errback(UnavailableError(HOSTILE.replace("\r", "").replace("\n", "")))
            return failed

    guarded = GuardedLocationService(Down(), Clock(), lookup_timeout=1)  # type: ignore[arg-type]
    server, flow = service(RedirectServer([guarded]))
    for number in range(30):
        server.message_received(make_request(branch=f"z9hG4bK{number}", call_id=f"{number}"), flow)


def file_of_networks() -> None:
    Logger("twisted_sipuas.service").error("--allow and --deny stay as they were: {error}", error=ValueError(HOSTILE))


PATHS = [
    handler_fails,
    transaction_user_fails,
    acknowledged_badly,
    trace_fails,
    look_up_fails,
    malformed_requests,
    datagram_fails,
    proxy_header,
    no_sip_on_a_stream,
    location_service_is_down,
    file_of_networks,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_every_path_to_the_log(path: Callable[[], None], logged: Callable[[], str]) -> None:
    """Whatever way hostile text takes, it forges no line, commands no terminal and turns no text round."""
    path()
    assert_harmless(logged())


def test_every_module_logs_so() -> None:
    """No module of ours logs by Twisted's own logger, which prints what it is given."""
    import pathlib

    import twisted_sipuas

    for file in pathlib.Path(twisted_sipuas.__file__).parent.rglob("*.py"):
        if file.name != "logs.py":
            code = file.read_text()
            assert re.search(r"from twisted\.logger import .*\bLogger\b", code) is None, (
                file
            )  # an observer is no logger
            assert "from twisted import logger" not in code, file
            assert "from twisted.python import log" not in code, file


def test_failures_stay_failures(logged_failures: list[LogEvent]) -> None:
    """An observer that wants the exception itself has it, type, value and traceback."""
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        raised = error
        Logger().failure("{what} failed", what="x\x1b")
    (event,) = logged_failures
    assert event["log_failure"].value is raised
    assert event["log_failure"].check(ValueError)
    assert event["log_failure"].getTracebackObject() is not None
    assert event["log_failure"].getErrorMessage() == visible(HOSTILE)
    assert event["what"] == "x\\x1b"
    logged_failures.clear()


def test_bounded_length(logged: Callable[[], str]) -> None:
    """One part of a line has 4000 characters at most, for a header field may have 32768."""
    Logger().error("{text}", text="x" * 100_000)
    assert len(logged()) < 4200


@pytest.mark.parametrize("text", ["", "plain", "Übergröße 電話", "C:\\path"])
def test_visible_text_stays(text: str) -> None:
    """What is plain to see stays as it is, in any script."""
    assert visible(text) == text


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sip:bob@example.com", "sip:bob@example.com"),
        ("sip:bob:secret@example.com;lr", "sip:bob@example.com;lr"),
        ("SIPS:bob:secret:secret@example.com", "SIPS:bob@example.com"),
        ("sip:bob:sec@ret@example.com", "sip:bob@example.com"),
        ("sip:example.com?Authorization=secret", "sip:example.com?..."),
        ("sip:bob@example.com?Authorization=secret&x=secret@example.org", "sip:bob@example.com@example.org"),
        ("bob:secret@example.com", "bob:...@example.com"),
        ("http://bob:secret@example.com/", "http:...@example.com/"),
        ("tel:+1234", "tel:+1234"),
    ],
)
def test_secrets_of_a_uri(uri: str, shown: str) -> None:
    """The trace has no password and no header field of a Request-URI, well-formed or not."""
    line = trace_line(Request("INVITE", uri), None, RecordingFlow())
    assert line.startswith(f"INVITE {shown} from ")
    assert "secret" not in line


def test_credentials_are_not_logged(logged: Callable[[], str]) -> None:
    """Neither the trace nor the log of a handler's failure has the credentials of the request."""

    def failing(request: Request, transaction: Any) -> None:
        raise ValueError("no answer")

    server, flow = service(RecordingTransactionUser(failing))
    credentials = (("Authorization", 'Digest username="u", response="secret"'), ("Proxy-Authorization", "Basic secret"))
    server.message_received(make_request(headers=credentials), flow)
    assert "no answer" in logged()
    assert "secret" not in logged()
