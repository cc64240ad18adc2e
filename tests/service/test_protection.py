"""Does a service refuse what is too fast or too much, and does what was begun go on?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from tests.log_observers import log_observer
from twisted_sipuas import MemoryBindingStore, RedirectServer, Registrar, UserAgentServer
from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.transaction.admission import Protection
from twisted_sipuas.transport.udp import SIPDatagramProtocol

SLOW = Protection(max_rate=10, rate_burst=20)


class Phone(UserAgentServer):
    """Takes calls, and answers INFO in them."""

    def handle_INVITE(self, request: Any, transaction: Any) -> Any:
        return request.response(200)

    def handle_INFO(self, request: Any, transaction: Any) -> Any:
        return request.response(200)


def ok(request: Any, transaction: Any) -> None:
    transaction.respond(request.response(200))


class Server:
    """A service without sockets on a clock, and sources that send it requests like no other."""

    def __init__(self, user: Any = None, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.user: Any = RecordingTransactionUser(ok) if user is None else user
        self.service = SIPService(self.clock, self.user, **options)
        self.number = 0

    def send(self, method: str = "OPTIONS", source: str = "192.0.2.1", flow: Any = None, **fields: Any) -> int | None:
        """Send a request from *source*, and return the status of the answer; None if there is none."""
        self.number += 1
        fields = {"branch": f"z9hG4bK{self.number}", "call_id": f"{self.number}@x", **fields}
        flow = flow or RecordingFlow(remote_address=(source, 5060))
        before = len(flow.sent)
        self.service.message_received(make_request(method, **fields), flow)
        last: Any = parse_message(flow.sent[-1][0]) if len(flow.sent) > before else None
        self.last = last
        return None if last is None else int(last.status)

    def statuses(self, number: int, *arguments: Any, **fields: Any) -> set[int | None]:
        return {self.send(*arguments, **fields) for _ in range(number)}

    def turns(self, number: int, seconds: float) -> None:
        """Let so many turns of the reactor pass, each of so many *seconds*."""
        for _ in range(number):
            self.clock.advance(seconds)


# Rates


@pytest.mark.parametrize("is_stateless", [False, True])
def test_beyond_the_rate(is_stateless: bool) -> None:
    """Beyond burst and rate a source gets a stateless 503 without Retry-After, is counted, and others are served."""
    server = Server(protection=SLOW, is_stateless=is_stateless)
    assert server.statuses(20) == {200}
    assert server.statuses(5) == {503}
    assert "Retry-After" not in server.last.headers
    assert server.service.counters["rate_refused"] == 5
    assert server.service.counters["rate_sources"] == 1
    assert server.service.counters["transactions_owed"] == 0
    assert server.statuses(20, source="192.0.2.2") == {200}
    server.clock.advance(1)
    assert server.statuses(10) == {200}
    assert server.send() == 503


@pytest.mark.parametrize("is_stateless", [False, True])
def test_silence_beyond_the_rate(is_stateless: bool) -> None:
    """With silence what is beyond is not answered, and the trace says so."""
    lines: list[Any] = []
    server = Server(
        protection=SLOW._replace(answers_over_rate=False),
        is_stateless=is_stateless,
        trace=lambda request, response, flow: lines.append(response),
    )
    assert server.statuses(20) == {200}
    assert server.statuses(5) == {None}
    assert server.service.counters["rate_refused"] == 5
    assert lines[20:] == [None] * 5


def test_an_ipv6_site_is_one_source() -> None:
    """The addresses of an IPv6 network of 64 bits share one rate, and those of another have their own."""
    server = Server(protection=SLOW)
    assert {server.send(source=f"2001:db8::{number:x}") for number in range(20)} == {200}
    assert server.send(source="2001:db8::ffff") == 503
    assert server.send(source="2001:db8:0:1::1") == 200


@pytest.mark.parametrize("source", ["192.0.2.1", "127.0.0.1", "::1", ""])
def test_exempt(source: str) -> None:
    """Trusted sources, this machine and the peers of UNIX sockets may ask for any number."""
    server = Server(protection=SLOW, trust=["192.0.2.0/28"])
    assert server.statuses(100, flow=RecordingFlow("TCP", (source, 5060))) == {200}
    assert server.send(source="192.0.2.16") == 200


def test_by_default_a_trunk_is_served() -> None:
    """A trunk of 500 requests a second is within the defaults, whatever its address."""
    server = Server()
    for _ in range(100):
        assert server.statuses(50, flow=RecordingFlow()) == {200}
        server.clock.advance(0.1)
    assert server.service.counters["rate_refused"] == 0


def test_nothing_is_asked_for_bounds_that_are_off() -> None:
    """Where neither rate nor delay is bounded nobody is asked whether a request is in a dialog."""
    user = RecordingTransactionUser(ok)
    user.is_in_dialog = None  # type: ignore[attr-defined]  # which cannot be called
    server = Server(user, protection=Protection(max_rate=0, max_lag=0))
    assert server.send("INFO", to="<sip:bob@example.com>;tag=1") == 200


def test_any_rate() -> None:
    """With a rate of 0 there is no bound."""
    server = Server(protection=Protection(max_rate=0))
    assert server.statuses(5000, flow=RecordingFlow()) == {200}
    assert server.service.counters["rate_sources"] == 0


def test_what_was_begun_goes_on() -> None:
    """Beyond the rate retransmissions, ACK, CANCEL and requests in dialogs are served as before."""
    server = Server(Phone(), protection=SLOW)
    flow = RecordingFlow()
    assert server.send("INVITE", flow=flow, call_id="call", branch="z9hG4bKcall") == 200
    to = server.last.headers.get("To")
    ringing = Deferred[Any]()
    server.user.handle_INVITE = lambda request, transaction: ringing
    server.send("INVITE", flow=flow, call_id="ringing", branch="z9hG4bKringing")
    assert server.statuses(20, flow=flow) == {200, 503}
    assert server.send(flow=flow) == 503

    server.send("ACK", flow=flow, call_id="call", to=to)
    assert server.service.counters["dialogs"] == 1
    assert server.send("INFO", flow=flow, call_id="call", to=to, cseq=2) == 200
    assert server.send("INFO", flow=flow, call_id="another", to=to, cseq=2) == 503, "a To tag makes no dialog"
    assert server.send("CANCEL", flow=flow, call_id="ringing", branch="z9hG4bKringing") == 487
    assert server.send("CANCEL", flow=flow, call_id="another") == 503
    assert server.send("BYE", flow=flow, call_id="call", to=to, cseq=3) == 200


def test_requests_in_a_dialog_take_nothing_of_the_rate() -> None:
    """Requests in dialogs leave the rate to others of their source; ten times as many may come, and no more."""
    server = Server(Phone(), protection=SLOW)
    assert server.send("INVITE", call_id="call") == 200
    to = server.last.headers.get("To")
    server.send("ACK", call_id="call", to=to)
    infos = [server.send("INFO", call_id="call", to=to, cseq=2 + n) for n in range(210)]
    assert infos == [200] * 200 + [503] * 10
    assert server.statuses(19) == {200}
    assert server.send() == 503


def test_an_unacknowledged_call_is_no_exemption() -> None:
    """Requests in a call that was never acknowledged are bounded as any others: its caller may be forged."""
    server = Server(Phone(), protection=SLOW)
    server.send("INVITE", call_id="call")
    to = server.last.headers.get("To")
    infos = [server.send("INFO", call_id="call", to=to, cseq=2 + n) for n in range(30)]
    assert infos == [200] * 19 + [503] * 11


def test_retransmissions_are_not_counted() -> None:
    """A request that comes again is the same request: it takes nothing of the rate."""
    server = Server(protection=SLOW)
    assert server.statuses(100, branch="z9hG4bKsame", call_id="same", flow=RecordingFlow()) == {200}
    assert server.statuses(19) == {200}


def test_own_transaction_user_keeps_its_dialogs() -> None:
    """Where the transaction user does not say which dialogs there are, a To tag is taken for one."""
    server = Server(protection=SLOW)
    server.statuses(21)
    assert server.send("INFO", to="<sip:bob@example.com>;tag=1") == 200


def test_malformed_beyond_the_rate() -> None:
    """Malformed requests count too, and beyond the rate they are not answered at all."""
    server = Server(protection=SLOW)
    flow = RecordingFlow()
    protocol = SIPDatagramProtocol(server.service)
    protocol.send = lambda data, destination, info=None: flow.send(data)  # type: ignore[method-assign]
    data = make_request().to_bytes().replace(b"Call-ID", b"Other")
    for _ in range(30):
        protocol.datagramReceived(data, ("192.0.2.1", 5060))
    assert len(flow.sent) == 20
    assert server.service.counters["rate_refused"] == 10
    assert server.service.counters["transactions_malformed"] == 30


def test_the_log_says_who_is_too_fast(log: Callable[[], list[str]]) -> None:
    """A source that is too fast is named in the log, with what to do if it may be, once a minute at most."""
    server = Server(protection=SLOW)
    server.statuses(100)
    server.statuses(100, source="192.0.2.2")
    (line,) = log()
    assert line == "192.0.2.1 asks for more than 10 requests a second; see --max-rate, and --trust if it may"
    server.clock.advance(61)
    server.statuses(100)
    assert len(log()) == 2


# Overload


def overloaded(user: Any = None, **options: Any) -> Server:
    server = Server(user, protection=Protection(max_rate=0, max_lag=0.2), **options)
    server.service.startService()
    server.turns(10, 1)
    return server


@pytest.mark.parametrize("is_stateless", [False, True])
def test_new_requests_in_overload(is_stateless: bool, log: Callable[[], list[str]]) -> None:
    """While turns take too long nearly every new request gets a stateless 503 with Retry-After; then all are served."""
    server = overloaded(is_stateless=is_stateless)
    statuses = [server.send() for _ in range(100)]
    assert statuses.count(503) == 99
    server.statuses(2)
    assert server.last.headers.get("Retry-After") == "5"
    counters = server.service.counters
    assert counters["overload_refused"] >= 100
    assert counters["overload_loss"] == 99
    assert counters["lag"] == 900
    server.turns(30, 0.1)
    assert server.statuses(100) == {200}
    assert server.service.counters["overload_loss"] == 0
    assert sum("Overloaded" in line for line in log()) == 1
    server.service.stopService()


def test_registrations_in_overload() -> None:
    """A REGISTER is new, whatever it refreshes: it gets 503 too."""
    store = MemoryBindingStore(Clock())
    server = overloaded(RedirectServer([store], registrar=Registrar(store)))
    assert 503 in server.statuses(3, "REGISTER")
    server.service.stopService()


def test_what_was_begun_goes_on_in_overload() -> None:
    """ACK, CANCEL, retransmissions and requests in dialogs are served however late we are."""
    server = Server(Phone(), protection=Protection(max_lag=0.2))
    server.service.startService()
    flow = RecordingFlow("TCP")
    server.send("INVITE", flow=flow, call_id="call", branch="z9hG4bKcall")
    to = server.last.headers.get("To")
    server.send("ACK", flow=flow, call_id="call", to=to)
    server.turns(10, 1)
    assert 503 in server.statuses(10, flow=flow)
    assert server.statuses(10, "INFO", flow=flow, call_id="call", to=to, cseq=2) == {200}
    assert server.send("BYE", flow=flow, call_id="call", to=to, cseq=3) == 200
    assert server.service.counters["dialogs"] == 0
    server.service.stopService()


@pytest.mark.parametrize("is_stateless", [False, True])
def test_challenges_are_no_work(is_stateless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of challenged requests, from however many sources, is no reason to refuse others, nor to go on so."""

    def challenge_or_serve(request: Any, transaction: Any) -> None:
        now[0] += 0.001
        if request.method == "INVITE":
            raise SIPError(401)
        ok(request, transaction)

    now = [0.0]
    monkeypatch.setattr("twisted_sipuas.transaction.base.perf_counter", lambda: now[0])
    monkeypatch.setattr("twisted_sipuas.transport.listeners.Listeners.backlog", lambda listeners: 1.0)
    server = Server(RecordingTransactionUser(challenge_or_serve), is_stateless=is_stateless)
    server.service.startService()
    for method, statuses, is_refusing in (("INVITE", {401}, False), ("OPTIONS", {200, 503}, True)):
        answers: set[int | None] = set()
        for _ in range(10):
            answers |= {server.send(method, source=f"192.0.2.{number}") for number in range(100)}
            server.turns(1, 0.1)
        assert answers == statuses
        assert (server.service.counters["overload_loss"] > 0) is is_refusing
    for _ in range(25):
        server.statuses(100, "INVITE")
        server.turns(1, 0.1)
    assert server.service.counters["overload_loss"] == 0, "nor does it go on for challenges"
    server.service.stopService()


def test_work_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where overload is not measured, requests do not pay for the measurement."""
    monkeypatch.setattr("twisted_sipuas.transaction.base.perf_counter", None)
    assert Server(protection=Protection(max_lag=0)).send() == 200


def test_malformed_in_overload() -> None:
    """Malformed requests are not answered while there is no time."""
    server = overloaded()
    flow = RecordingFlow()
    server.service.syntax_error_received(MessageSyntaxError("a fault", request=make_request()), flow)
    assert flow.sent == []
    assert server.service.counters["overload_refused"] == 1
    server.service.stopService()


@pytest.mark.requirement("7339-1")
@pytest.mark.parametrize("is_stateless", [False, True])
def test_upstream_is_told(is_stateless: bool) -> None:
    """An upstream that offers it is told in every response what to hold back, and is not told to stay away."""
    server = overloaded(is_stateless=is_stateless)
    offer = '192.0.2.1;oc;oc-algo="loss"'
    assert {200, 503} == server.statuses(50, sent_by=offer)
    assert server.send(sent_by=offer) == 503
    assert "Retry-After" not in server.last.headers
    assert ';oc=99;oc-algo="loss";oc-validity=1000;oc-seq=' in (server.last.headers.get("Via") or "")
    server.send()
    assert ";oc" not in (server.last.headers.get("Via") or "")
    server.service.stopService()


@pytest.mark.requirement("7339-1", "8.2.7-8")
def test_stateless_tag_in_overload() -> None:
    """What is told anew with each retransmission does not change the To tag that these get without transactions."""
    server = Server(is_stateless=True)
    server.service.startService()
    tags = set()
    for _ in range(3):
        server.send(sent_by='192.0.2.1;oc;oc-algo="loss"', branch="z9hG4bK1", call_id="1")
        tags.add(server.last.headers.get("To"))
        server.turns(3, 1)
    assert len(tags) == 1
    server.service.stopService()


def test_overload_is_not_measured() -> None:
    """With a bound of 0 nothing is measured, and no upstream is told anything."""
    server = Server(protection=Protection(max_lag=0))
    server.service.startService()
    assert server.clock.getDelayedCalls() == []
    server.send(sent_by='192.0.2.1;oc;oc-algo="loss"')
    assert ";oc=" not in (server.last.headers.get("Via") or "")
    server.service.stopService()


@pytest.fixture
def log() -> Any:
    """Returns what was logged so far at level warn or above, without failures."""
    events: list[LogEvent] = []
    events_observer = log_observer(events.append)
    globalLogPublisher.addObserver(events_observer)
    yield lambda: [
        event["log_format"].format(**event) for event in events if event["log_level"].name in ("warn", "error")
    ]
    globalLogPublisher.removeObserver(events_observer)
