"""Is nobody whose address was forged sent much more than the forger sent us (RFC 9000, 8.1, has the same rule)?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface import implementer

from twisted_sipuas import MemoryBindingStore, Redirection, RedirectServer, Registrar, SIPError, UserAgentServer
from twisted_sipuas.interfaces import IAuthenticator, ILocationService
from twisted_sipuas.service import SIPService
from twisted_sipuas.testing import RecordingTransactionUser, make_request
from twisted_sipuas.transaction.admission import Protection
from twisted_sipuas.transport.udp import SIPDatagramProtocol

CHALLENGE = 'Digest realm="example.com", qop="auth", algorithm={}, nonce="{}"'
CHALLENGES = [("WWW-Authenticate", CHALLENGE.format(name, "n" * 60)) for name in ("SHA-512-256", "SHA-256", "MD5")]


class Socket:
    """A service behind a UDP socket that is none: `sent` has what it sends."""

    def __init__(self, user: Any, **options: Any) -> None:
        self.clock = Clock()
        self.service = SIPService(self.clock, user, **options)
        self._protocol = SIPDatagramProtocol(self.service)
        self._protocol.closed = False
        self._protocol.send = lambda data, destination, info=None: self.sent.append(data)  # type: ignore[method-assign]
        self.sent: list[bytes] = []

    def receive(self, data: bytes, source: tuple[str, int] = ("192.0.2.1", 5060)) -> list[bytes]:
        """Take a datagram, and return what was sent at once."""
        before = len(self.sent)
        self._protocol.datagramReceived(data, source)
        return self.sent[before:]


def challenging(request: Any, transaction: Any) -> None:
    raise SIPError(401, headers=CHALLENGES)


def refusing(request: Any, transaction: Any) -> None:
    transaction.respond_statelessly(request.response(403, headers=[("Warning", '399 x "No"')]))


def talkative(request: Any, transaction: Any) -> None:
    transaction.respond(request.response(200, body=b"x" * 5000, content_type="text/plain"))


STATELESS: dict[str, Callable[[], Socket]] = {
    "challenged": lambda: Socket(RecordingTransactionUser(challenging), server_header="a server of some name/1.0"),
    "refused": lambda: Socket(RecordingTransactionUser(refusing), server_header="a server of some name/1.0"),
    "full": lambda: Socket(RecordingTransactionUser(), max_transactions=0, server_header="s" * 50),
    "beyond the rate": lambda: Socket(
        RecordingTransactionUser(talkative), protection=Protection(max_rate=1e-9, rate_burst=1), trust=[]
    ),
    "without transactions": lambda: Socket(RecordingTransactionUser(talkative), is_stateless=True),
}

tokens = st.text("abcXYZ019-.!%*_+`'~", max_size=4)
values = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=12)
names = st.sampled_from(
    ["Via", "v", "From", "f", "To", "t", "Call-ID", "i", "CSeq", "Content-Length", "l", "Max-Forwards"]
)
likely = st.sampled_from(
    "SIP/2.0/UDP a,SIP/2.0/UDP a;branch=z9hG4bK1;rport,<sip:a@b>;tag=1,sip:a,a,1 OPTIONS,1 INVITE,0,".split(",")
)
rows = st.lists(st.tuples(names, st.one_of(likely, values)), max_size=8)
start_lines = st.builds(
    " ".join,
    st.tuples(
        st.one_of(st.sampled_from(["OPTIONS", "INVITE", "A"]), tokens),
        st.one_of(st.sampled_from(["sip:a", "a:b"]), values),
        st.sampled_from(["SIP/2.0", "SIP/3.0", "sip/2.0"]),
    ),
)


@st.composite
def requests(draw: Any) -> bytes:
    """A request that may be all right, as short as can be, or malformed in any way."""
    lines = [draw(start_lines), *(f"{name}:{value}" for name, value in draw(rows)), "", ""]
    rest: bytes = draw(st.binary(max_size=20))
    return "\r\n".join(lines).encode() + rest


@st.composite
def short_requests(draw: Any) -> bytes:
    """A request with all that it needs, and little more."""
    method = draw(st.sampled_from(["OPTIONS", "INVITE", "MESSAGE", "CANCEL"]))
    via = draw(st.sampled_from(["SIP/2.0/UDP a", "SIP/2.0/UDP a;rport", "SIP/2.0/UDP a;rport;branch=z9hG4bK1"]))
    rows = [f"v:{via}", "f:a:b", "t:a:b", "i:1", f"CSeq:1 {method}"]
    dropped = draw(st.sampled_from([None, *range(5)]))
    rows = [row for place, row in enumerate(rows) if place != dropped]
    padding = draw(st.integers(0, 300))
    return "\r\n".join([f"{method} a:b SIP/2.0", *rows, f"S:{'x' * padding}", "", ""]).encode()


@given(st.sampled_from([*STATELESS]), st.one_of(requests(), short_requests(), st.binary(max_size=60)))
def test_stateless_answers(kind: str, data: bytes) -> None:
    """What is answered without a transaction is at most three times as long as what came, whatever came (8.2.7)."""
    socket = STATELESS[kind]()
    if kind == "beyond the rate":
        socket.receive(make_request(call_id="first", branch="z9hG4bKfirst").to_bytes())
    answers = socket.receive(data)
    assert len(answers) <= 1
    assert sum(map(len, answers)) <= 3 * len(data)


def shortest(method: str = "OPTIONS", padding: int = 0) -> bytes:
    rows = ["v:SIP/2.0/UDP a;branch=z9hG4bK1", "f:a:b", "t:a:b", "i:1", f"CSeq:1 {method}"]
    return "\r\n".join([f"{method} a:b SIP/2.0", *rows, f"S:{'x' * padding}", "", ""]).encode()


def test_challenges_of_a_short_request() -> None:
    """Of three challenges that are too long for their request the last is sent, and the Server field left out."""
    socket = STATELESS["challenged"]()
    shapes = []
    for padding in range(400, 20, -1):
        (answer,) = socket.receive(shortest(padding=padding))
        shape = (answer.count(b"WWW-Authenticate"), b"Server: " in answer)
        if shape not in shapes:
            shapes.append(shape)
    assert shapes == [(3, True), (3, False), (1, False)]
    assert b"algorithm=MD5" in answer
    assert socket.service.counters["transactions_withheld"] == 0
    assert socket.receive(shortest()) == []
    assert socket.service.counters["transactions_withheld"] == 1


def test_usual_requests_are_answered_in_full() -> None:
    """To a request as clients send them every refusal goes out whole, three challenges included."""
    for kind in ("challenged", "refused", "full", "beyond the rate"):
        socket = STATELESS[kind]()
        answers = [socket.receive(make_request(branch=f"z9hG4bK{n}", call_id=f"{n}").to_bytes()) for n in (1, 2)][1]
        assert len(answers) == 1
        assert socket.service.counters["transactions_withheld"] == 0


def test_long_answer_without_transactions() -> None:
    """A server without transactions sends 500 in place of what is too long for its request, and says why."""
    (answer,) = STATELESS["without transactions"]().receive(make_request("MESSAGE").to_bytes())
    assert answer.startswith(b"SIP/2.0 500 The Answer Is Too Long for UDP\r\n")
    trusted = Socket(RecordingTransactionUser(talkative), is_stateless=True, trust=["192.0.2.0/24"])
    (answer,) = trusted.receive(make_request("MESSAGE").to_bytes())
    assert answer.startswith(b"SIP/2.0 200 ")


@implementer(ILocationService)
class Table:
    """Sends everybody to ten targets."""

    description = "a table"

    def lookup(self, request_uri: Any, request: Any) -> Redirection:
        return Redirection([f"sip:{number}@gateway-{number}.example.com" for number in range(10)])


def test_redirection_with_ten_targets() -> None:
    """A redirection with ten targets goes out whole, though it is longer than its request, and is resent (17.2.1)."""
    socket = Socket(RedirectServer([Table()]))
    (answer,) = socket.receive(make_request().to_bytes())
    assert answer.count(b"Contact:") == 10
    socket.clock.advance(0.5)
    assert socket.sent == [answer] * 2


def listing(socket: Socket, number: int, source: str = "192.0.2.1") -> list[bytes]:
    """Ask for the bindings of bob, for the time of that *number*."""
    data = make_request("REGISTER", "sip:example.com", to="<sip:bob@example.com>", branch=f"z9hG4bK{number}",
                        call_id=f"query {number}").to_bytes()  # fmt: skip
    return socket.receive(data, (source, 5060))


@pytest.fixture
def registrar() -> Socket:
    """A registrar with a hundred bindings of bob, registered by ten REGISTERs from another host."""
    store = MemoryBindingStore(Clock())
    socket = Socket(Registrar(store))
    for number in range(10):
        contacts = ", ".join(f"<sip:bob@phone-{number}-{place}.example.com>" for place in range(10))
        request = make_request("REGISTER", "sip:example.com", to="<sip:bob@example.com>", branch=f"z9hG4bKr{number}",
                               call_id=f"r{number}", headers=(("Contact", contacts),))  # fmt: skip
        socket.receive(request.to_bytes(), ("198.51.100.1", 5060))
    return socket


def test_listing_of_a_hundred_contacts(registrar: Socket) -> None:
    """A listing is sent as long as its source has 64 KiB a minute left beyond three times its own octets."""
    lengths = [sum(map(len, listing(registrar, number))) for number in range(30)]
    assert lengths[0] > 5000
    assert sum(lengths) <= 65536 + 30 * 3 * 400
    assert lengths[-1] == 0
    assert registrar.service.counters["transactions_withheld"] == lengths.count(0)
    assert listing(registrar, 99, "192.0.2.2") != [], "another source has its own"
    registrar.clock.advance(30)
    assert listing(registrar, 100) != []


def test_asking_again_for_a_listing(registrar: Socket) -> None:
    """A retransmission is as good as any other request to have a response sent by forgery, and counts as one.

    Who did not get the answer asks again, as if it was lost, and gets it when there is room (17.1.2.2).
    """
    lengths = [sum(map(len, listing(registrar, 1))) for _ in range(30)]
    assert 0 < sum(lengths) <= 65536 + 30 * 3 * 400
    assert lengths.count(0) > 10
    registrar.clock.advance(20)
    (answer,) = listing(registrar, 1)
    assert answer.count(b"Contact:") == 100


def test_answer_withheld_at_first(registrar: Socket) -> None:
    """An answer that was not sent at first is kept for the retransmission that there is room for."""
    while listing(registrar, registrar.service.counters["transactions_waiting"]):
        pass
    assert listing(registrar, 1000) == []
    registrar.clock.advance(20)
    assert listing(registrar, 1000)[0].count(b"Contact:") == 100


@implementer(IAuthenticator)
class Everybody:
    """Takes everybody's word for it."""

    def authenticate(self, request: Any, transaction: Any) -> str:
        transaction.identity = "bob"
        return "bob"


class Library(UserAgentServer):
    """Has long answers."""

    def handle_INFO(self, request: Any, transaction: Any) -> Any:
        return request.response(200, body=b"x" * 20_000, content_type="text/plain")

    handle_SUBSCRIBE = handle_INFO


@pytest.mark.parametrize(
    "options",
    [{"trust": ["192.0.2.0/24"]}, {"authenticator": Everybody()}],
    ids=["trusted", "authenticated"],
)
def test_who_is_known_gets_everything(options: dict[str, Any]) -> None:
    """A source that is trusted, or that authenticated itself, may have any number of long answers."""
    authenticator = options.pop("authenticator", None)
    socket = Socket(Library(authenticator=authenticator), **options)
    answers = [
        socket.receive(make_request("SUBSCRIBE", branch=f"z9hG4bK{n}", call_id=f"{n}").to_bytes()) for n in range(20)
    ]
    assert all(len(answer) == 1 for answer in answers)
    socket = Socket(Library())
    answers = [
        socket.receive(make_request("SUBSCRIBE", branch=f"z9hG4bK{n}", call_id=f"{n}").to_bytes()) for n in range(20)
    ]
    assert answers.count([]) > 10


def most(received: int, seconds: float) -> float:
    """How many octets one source may get in so many *seconds* for those *received*."""
    return 3 * received + 65536 + seconds * 65536 / 60


@pytest.mark.parametrize("status", [180, 200, 300, 486])
@pytest.mark.parametrize("length", [200, 3000, 20_000])
def test_responses_to_an_unproven_invite(status: int, length: int) -> None:
    """Every response to an INVITE counts as it is sent, the first time and each other, by whatever it is resent."""

    def answer(request: Any, transaction: Any) -> None:
        def resend() -> None:
            if not transaction.ended:
                transaction.respond(response)
                socket.clock.callLater(0.5, resend)

        response = request.response(status, body=b"x" * length, content_type="text/plain")
        transaction.respond(response)
        if status < 300:
            socket.clock.callLater(0.5, resend)

    socket = Socket(RecordingTransactionUser(answer))
    data = [shortest("INVITE").replace(b"i:1", b"i:%d" % n).replace(b"bK1", b"bK%d" % n) for n in range(5)]
    for request in data:
        socket.receive(request)
        socket.receive(request)
    socket.clock.pump([0.5] * 60)
    assert len(socket.sent) >= 1
    assert sum(map(len, socket.sent)) <= most(2 * sum(map(len, data)), 30)


def test_long_response_is_sent_once() -> None:
    """One response that is longer than those that a source may have unacknowledged is not resent (17.2.1)."""

    def answer(request: Any, transaction: Any) -> None:
        transaction.respond(request.response(300, body=b"x" * 20_000, content_type="text/plain"))

    socket = Socket(RecordingTransactionUser(answer))
    assert len(socket.receive(shortest("INVITE"))) == 1
    socket.clock.pump([0.5] * 64)
    assert len(socket.sent) == 1
    assert socket.service.counters["transactions_sent_once"] == 1


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_withheld_is_traced_as_silence(method: str) -> None:
    """An answer that is not sent, for it is too long, is not traced as if it had been."""
    lines: list[Any] = []

    def answer(request: Any, transaction: Any) -> None:
        transaction.respond(request.response(300, body=b"x" * 66_000, content_type="text/plain"))

    socket = Socket(RecordingTransactionUser(answer), trace=lambda request, response, flow: lines.append(response))
    assert socket.receive(shortest(method)) == []
    assert lines == [None]
    assert socket.service.counters["transactions_withheld"] == 1


def test_unacknowledged_redirections() -> None:
    """Redirections beyond those that a source may have unacknowledged are sent once, and long ones as far as 64 KiB."""

    def redirect(request: Any, transaction: Any) -> None:
        transaction.respond(request.response(300, contacts=[f"sip:{n}@gateway.example.com" for n in range(100)]))

    socket = Socket(RecordingTransactionUser(redirect))
    data = [make_request(branch=f"z9hG4bK{n}", call_id=f"{n}").to_bytes() for n in range(200)]
    received = sum(map(len, data))
    at_once = [socket.receive(request) for request in data]
    assert sum(map(len, socket.sent)) <= 3 * received + 65536 + 20 * 500 + 5000
    assert at_once[-1] == []
    assert socket.service.counters["transactions_withheld"] > 100
