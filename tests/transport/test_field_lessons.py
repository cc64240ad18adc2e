"""What has gone wrong on the wire with other SIP servers: is each input of those threads harmless here?

One test for each thread that is about a transport, named in its docstring. Those about the location of bindings, about
TLS certificates and about dialogs are with their own tests.
"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import FakeDatagramTransport, StringTransport
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from tests.log_observers import log_observer
from twisted_sipuas.interfaces import Address, IServerTransaction
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.framing import StreamFramer
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingTransactionUser, make_request
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.stream import SIPStreamFactory, SIPStreamProtocol
from twisted_sipuas.transport.udp import SIPDatagramProtocol

PING, PONG = b"\r\n\r\n", b"\r\n"


def request(number: int, method: str = "MESSAGE", **options: object) -> bytes:
    """Return one of a row of different requests."""
    options.setdefault("transport", "TCP")
    return make_request(method, branch=f"z9hG4bK{number}", cseq=number, **options).to_bytes()  # type: ignore[arg-type]


class Stream(StringTransport):
    """A connection in memory."""

    def __init__(self, protocol: SIPStreamProtocol, peer: object) -> None:
        super().__init__(IPv4Address("TCP", "198.51.100.1", 5060), peer)
        self.protocol = protocol
        protocol.makeConnection(self)

    @property
    def is_open(self) -> bool:
        return not (self.disconnecting or self.disconnected)

    @property
    def answers(self) -> list[tuple[int, str | None]]:
        """Status and CSeq of each response written."""
        framer, found = StreamFramer(), []
        framer.receive(self.value())
        while (octets := framer.next_message()) is not None:
            response = parse_message(octets)
            assert isinstance(response, Response)
            found.append((response.status, response.headers.get("CSeq")))
        return found

    def receive(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.protocol.dataReceived(chunk)

    def loseConnection(self) -> None:
        super().loseConnection()
        if self.producer is None:
            self.protocol.connectionLost(Failure(ConnectionDone()))

    def abortConnection(self) -> None:
        super().abortConnection()
        self.protocol.connectionLost(Failure(ConnectionDone()))


class World:
    """A whole service without sockets. It answers 200, but leaves an INVITE to ring in silence."""

    def __init__(self) -> None:
        def answer(received: Request, transaction: IServerTransaction) -> None:
            if received.method != "INVITE":
                transaction.respond(received.response(200))

        self.clock = Clock()
        self.user = RecordingTransactionUser(answer)
        self.service = SIPService(self.clock, self.user)
        self.service.startService()
        datagrams: Any = FakeDatagramTransport()
        datagrams.getHost = lambda: IPv4Address("UDP", "198.51.100.1", 5060)
        self.datagrams: Any = datagrams
        self._datagram_protocol = SIPDatagramProtocol(self.service)
        self._datagram_protocol.makeConnection(self.datagrams)

    def connect(self, peer: object = None) -> Stream:
        factory = SIPStreamFactory(self.service, self.clock)
        protocol = factory.buildProtocol(None)
        assert isinstance(protocol, SIPStreamProtocol)
        return Stream(protocol, peer or IPv4Address("TCP", "192.0.2.1", 40000))

    def receive(self, datagram: bytes, source: tuple[str, int] = ("192.0.2.1", 40000)) -> None:
        self._datagram_protocol.datagramReceived(datagram, source)

    @property
    def answers(self) -> list[tuple[Response, tuple[str, int]]]:
        """The responses that went out in datagrams, and where to."""
        parsed = [(parse_message(data), where) for data, where in self.datagrams.written]
        return [(response, where) for response, where in parsed if isinstance(response, Response)]


@pytest.fixture
def world() -> World:
    return World()


# Streams


def test_partial_message_beside_whole_ones(world: World) -> None:
    """emiago/sipgo#145: whole messages that come together with part of another are not lost, and nor is that one."""
    stream = world.connect()
    last = request(3, "REGISTER")
    stream.receive(request(1, "REGISTER") + request(2, "REGISTER") + last[:100])
    assert stream.answers == [(200, "1 REGISTER"), (200, "2 REGISTER")]
    stream.receive(last[100:])
    assert stream.answers == [(200, f"{number} REGISTER") for number in (1, 2, 3)]


@pytest.mark.parametrize("is_header", [True, False], ids=["header section", "start line"])
def test_message_that_never_ends(world: World, is_header: bool) -> None:
    """emiago/sipgo#323: a message that is never finished is let go at the bound, and not collected beyond it."""
    stream = world.connect()
    stream.receive(b"INVITE sip:bob@example.com SIP/2.0\r\nVia: " if is_header else b"INVITE sip:")
    sent = 0
    while stream.is_open:
        stream.receive(b"a" * 1000)
        sent += 1000
        assert sent <= TransportLimits().max_header + 1000


def test_slow_message_that_never_ends(world: World) -> None:
    """emiago/sipgo#323: nor is it waited for, however steadily it trickles in."""
    stream = world.connect()
    stream.receive(request(1)[:100])
    for _ in range(int(TransportLimits().message_timeout) + 1):
        stream.receive(b"a")
        world.clock.advance(1)
    assert not stream.is_open


@pytest.mark.parametrize("stray", [b"\r\n", b"\r\n\r\n", b"\r\n\r\n\r\n"])
def test_stray_crlf_after_a_body(world: World, stray: bytes) -> None:
    """RestComm/jain-sip#195: a CRLF that Content-Length does not count ruins none of the messages behind it."""
    stream = world.connect()
    for number in range(1, 5):
        stream.receive(request(number, body=b"body") + stray)
    assert [answer for answer in stream.value().split(b"\r\n") if answer.startswith(b"CSeq")] == [
        b"CSeq: %d MESSAGE" % number for number in range(1, 5)
    ]
    assert stream.is_open


def test_stray_half_of_a_crlf(world: World) -> None:
    """RestComm/jain-sip#195: where Content-Length counts half a CRLF, the connection ends; it is no black hole."""
    stream = world.connect()
    body = b"body\r\n\r\n"
    stream.receive(request(1, body=body).replace(b"Content-Length: 8", b"Content-Length: 5") + request(2))
    assert stream.answers == [(200, "1 MESSAGE")]
    assert not stream.is_open


@pytest.mark.parametrize("length", [b"4294967295", b"2147483648", b"9" * 4300, b"-1", b"1e9", b"0x10"])
def test_absurd_content_length_on_a_stream(world: World, length: bytes) -> None:
    """haumacher/mjSIP#39: it is answered, that connection is closed, and the others are served."""
    stream, other = world.connect(), world.connect()
    stream.receive(request(1).replace(b"Content-Length: 0", b"Content-Length: " + length))
    ((status, _),) = stream.answers
    assert status in (400, 513)
    assert not stream.is_open
    other.receive(request(2))
    assert other.answers == [(200, "2 MESSAGE")]


@pytest.mark.parametrize("length", [b"4294967295", b"2147483648", b"9" * 4300, b"-1", b"1e9", b"0x10"])
def test_absurd_content_length_in_a_datagram(world: World, length: bytes) -> None:
    """haumacher/mjSIP#39: it is answered 400, and the next datagram is served."""
    world.receive(request(1, transport="UDP").replace(b"Content-Length: 0", b"Content-Length: " + length))
    world.receive(request(2, transport="UDP"))
    assert [response.status for response, _ in world.answers] == [400, 200]


def test_missing_content_length(world: World) -> None:
    """pjsip/pjproject#3960: a request without Content-Length is no black hole; the 400 names what is missing."""
    stream = world.connect()
    stream.receive(request(1).replace(b"Content-Length: 0\r\n", b""))
    assert stream.value().startswith(b"SIP/2.0 400 Missing Content-Length header field\r\n")
    assert not stream.is_open


def test_http_scanner(world: World) -> None:
    """siphon-project/siphon-sip#170: a scanner's request is no message; it is let go, with one line at debug level."""
    events: list[LogEvent] = []
    events_observer = log_observer(events.append)
    globalLogPublisher.addObserver(events_observer)
    try:
        stream = world.connect()
        stream.receive(b"GET /phpinfo.php HTTP/1.1\r\nHost: 198.51.100.1\r\nUser-Agent: Mozilla/5.0\r\n\r\n")
    finally:
        globalLogPublisher.removeObserver(events_observer)
    assert not stream.is_open
    assert stream.value() == b""
    assert [event["log_level"] for event in events] == [LogLevel.debug]
    assert world.service.counters["unanswerable"] == 0


# Keep-alive


def test_pongs_that_nobody_asked_for(world: World) -> None:
    """pjsip/pjproject#5254: the pong of a peer that takes two of ours for a ping does not cost the connection.

    A lone CRLF begins no message, so the time for one does not run; and it does not put later pings out of step.
    """
    stream = world.connect()
    stream.receive(PONG)
    world.clock.pump([1] * 200)
    assert stream.is_open
    for number in range(1, 4):
        stream.receive(PING)
        assert stream.value() == number * PONG
    stream.clear()
    stream.receive(request(1))
    assert stream.answers == [(200, "1 MESSAGE")]


def test_ping_pong_comes_to_an_end(world: World) -> None:
    """pjsip/pjproject#5254: two ends that take two pongs for a ping do not go on for ever."""
    one, other = world.connect(), world.connect()
    one.receive(PING * 8)
    for _ in range(10):
        for sender, receiver in ((one, other), (other, one)):
            octets = sender.value()
            sender.clear()
            receiver.receive(octets)
    assert one.value() == other.value() == b""
    assert one.is_open
    assert other.is_open


# Datagrams


def test_short_body(world: World) -> None:
    """twisted/twisted#2197: a datagram shorter than its Content-Length is answered 400, and raises nothing."""
    whole = request(1, transport="UDP", body=b"four")
    world.receive(whole[:-1])
    world.receive(whole.replace(b"z9hG4bK1", b"z9hG4bK2"))
    assert [response.status for response, _ in world.answers] == [400, 200]


def test_datagram_cut_anywhere(world: World) -> None:
    """twisted/twisted#2197: nor does a datagram that is cut anywhere else."""
    whole = request(1, transport="UDP")
    for length in range(len(whole)):
        world.receive(whole[:length])
    assert all(data.startswith(b"SIP/2.0 400 ") for data, _ in world.datagrams.written)
    world.receive(whole)
    assert world.datagrams.written[-1][0].startswith(b"SIP/2.0 200 ")


def test_unknown_via_parameter(world: World) -> None:
    """twisted/twisted#2220: a Via parameter that nobody knows does no harm, and goes back with the response."""
    world.receive(request(1, transport="UDP", sent_by="192.0.2.1;alias;x-hop=1"))
    ((response, _),) = world.answers
    assert response.status == 200
    assert response.headers.get("Via") == "SIP/2.0/UDP 192.0.2.1;alias;x-hop=1;branch=z9hG4bK1"


# Via, rport, received


def test_own_100(world: World) -> None:
    """emiago/sipgo#267: a 100 of our own goes where the Via says, as the other responses do."""
    world.receive(request(1, "INVITE", transport="UDP", sent_by="192.0.2.1:5070"))
    world.clock.advance(0.2)
    ((_, invite, transaction),) = world.user.calls
    transaction.respond(invite.response(486))
    assert [(response.status, where) for response, where in world.answers] == [
        (100, ("192.0.2.1", 5070)),
        (486, ("192.0.2.1", 5070)),
    ]


@pytest.mark.parametrize(("parameter", "port"), [("", 5060), (";rport", 40000)])
def test_inner_address(world: World, parameter: str, port: int) -> None:
    """livekit/sip#388: from behind a NAT, every response goes to the outer address, not to that of the Via."""
    world.receive(request(1, "INVITE", transport="UDP", sent_by=f"192.168.1.5{parameter}"), ("203.0.113.7", 40000))
    world.clock.advance(0.2)
    ((_, invite, transaction),) = world.user.calls
    for status in (180, 486):
        transaction.respond(invite.response(status))
    assert [(response.status, where) for response, where in world.answers] == [
        (status, ("203.0.113.7", port)) for status in (100, 180, 486)
    ]


# IPv6

FREESWITCH = (  # of livekit/sip#640, made whole
    b"OPTIONS sip:+40215700020@callmanager.voxbee.ro;transport=tcp SIP/2.0\r\n"
    b"Via: SIP/2.0/TCP [2001:67c:b0c:5::192];branch=z9hG4bKB5mrcD1BXK68a\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "+40710000010" <sip:+40710000010@[2001:67c:b0c:5::192]>;tag=5gQH6Hrmc42Ua\r\n'
    b"To: <sip:+40215700020@callmanager.voxbee.ro;transport=tcp>\r\n"
    b"Call-ID: 1\r\nCSeq: 1 OPTIONS\r\n"
    b"Contact: <sip:mod_sofia@[2001:67c:b0c:5::192]:5060;transport=tcp>\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def test_ipv6_in_via(world: World) -> None:
    """livekit/sip#640, emiago/sipgo#300: a request with IPv6 addresses in its header is served."""
    stream = world.connect(IPv6Address("TCP", "2001:67c:b0c:5::192", 40000))
    stream.receive(FREESWITCH)
    assert stream.answers == [(200, "1 OPTIONS")]
    assert b"\r\nVia: SIP/2.0/TCP [2001:67c:b0c:5::192];branch=z9hG4bKB5mrcD1BXK68a\r\n" in stream.value()


@pytest.mark.parametrize(
    ("claimed", "received"),
    [
        ("", "2001:db8::9:255"),
        (";received=[2001:db8::9:255]", "2001:db8::9:255"),
        (";received=[::1]", "2001:db8::9:255"),
    ],
)
def test_brackets_in_received(world: World, claimed: str, received: str) -> None:
    """pjsip/pjproject#2266: brackets in received are let pass, and what we put there has none (RFC 5118, 4.5)."""
    sent_by = f"[2001:db8::9:1]{claimed}"
    world.receive(request(1, transport="UDP", sent_by=sent_by), ("2001:db8::9:255", 5060))
    ((response, where),) = world.answers
    assert (response.status, where) == (200, ("2001:db8::9:255", 5060))
    via = response.headers.get("Via")
    assert via == f"SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bK1;received={received}"


# Advertised address


def test_advertised_address(world: World) -> None:
    """kamailio/kamailio#1973, #1209, OpenSIPS/opensips#1837: a handler reads it off the flow, on every transport."""
    advertised = Address("sip.example.com", 5070)
    datagrams = SIPDatagramProtocol(world.service, advertised_address=advertised)
    datagrams.makeConnection(world.datagrams)
    datagrams.datagramReceived(request(1, transport="UDP"), ("192.0.2.1", 40000))
    factory = SIPStreamFactory(world.service, world.clock, advertised_address=advertised)
    protocol = factory.buildProtocol(None)
    assert isinstance(protocol, SIPStreamProtocol)
    Stream(protocol, IPv4Address("TCP", "192.0.2.1", 40000)).receive(request(2))
    transactions = [call[2] for call in world.user.calls if call[0] == "request_received"]
    assert [transaction.flow.transport for transaction in transactions] == ["UDP", "TCP"]
    assert {transaction.flow.advertised_address for transaction in transactions} == {advertised}
