"""Is a connection cut into the right messages, and is it gone when it should be, with no timer left?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer
from zope.interface.verify import verifyObject

from tests.log_observers import log_observer
from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import Address, IFlow, IMessageReceiver
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import make_request
from twisted_sipuas.transaction.timers import Timers
from twisted_sipuas.transport.connections import Connections
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.stream import SIPStreamFactory, SIPStreamProtocol

FIRST = make_request("MESSAGE", transport="TCP", cseq=1, body=b"one\r\n\r\n").to_bytes()
SECOND = make_request("OPTIONS", transport="TCP", cseq=2).to_bytes()
BAD = SECOND.replace(b"CSeq: 2 OPTIONS", b"CSeq: rubbish")
PING = b"\r\n\r\n"
PONG = b"\r\n"


@implementer(IMessageReceiver)
class Receiver:
    """Writes what it is handed into one list, messages as their octets and faults as their text."""

    def __init__(self, react: Callable[[IFlow], object] = lambda flow: None) -> None:
        self.calls: list[bytes | str] = []
        self.faults: list[MessageSyntaxError] = []
        self.flows: list[IFlow] = []
        self.react = react

    def message_received(self, message: Request | Response, flow: IFlow) -> None:
        self.calls.append(message.to_bytes())
        self.flows.append(flow)
        self.react(flow)

    def syntax_error_received(self, error: MessageSyntaxError, flow: IFlow) -> None:
        self.calls.append(error.reason)
        self.faults.append(error)
        self.flows.append(flow)
        if error.request is not None:
            flow.send(b"%d" % error.status)

    def sending_failed(self, octets: bytes, flow: IFlow) -> None:
        raise AssertionError("a connection tells by itself when it is closed")


class Transport(StringTransport):
    """A connection in memory: what the protocol closes is closed when `flush` lets the last octets leave."""

    def __init__(self, host: object = None, peer: object = None) -> None:
        super().__init__(
            host or IPv4Address("TCP", "198.51.100.1", 5060), peer or IPv4Address("TCP", "192.0.2.1", 40000)
        )
        self.protocol: Any = None
        self.producer: Any
        self.is_lost = False

    def flush(self) -> None:
        if self.disconnecting and not self.is_lost and self.producer is None:
            self.lose(Failure(ConnectionDone()))

    def abortConnection(self) -> None:
        super().abortConnection()
        self.lose(Failure(ConnectionAborted()))

    def lose(self, reason: Failure) -> None:
        """The connection is gone."""
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connectionLost(reason)


class World:
    """A factory on a clock, and the connections to it."""

    def __init__(self, receiver: Receiver | None = None, is_proxied: bool = False, **bounds: Any) -> None:
        self.clock = Clock()
        self.receiver = receiver or Receiver()
        self.factory = SIPStreamFactory(
            self.receiver, self.clock, TransportLimits()._replace(**bounds), is_proxied=is_proxied
        )

    @property
    def connections(self) -> Connections:
        return self.factory.connections

    @property
    def counted(self) -> dict[str, int]:
        """The counters that are not zero."""
        return {name: value for name, value in self.connections.counters.items() if value}

    def connect(self, transport: Transport | None = None) -> Transport:
        transport = transport or Transport()
        protocol = self.factory.buildProtocol(transport.getPeer())
        assert isinstance(protocol, SIPStreamProtocol)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport

    def feed(self, transport: Transport, *chunks: bytes) -> None:
        for chunk in chunks:
            if transport.is_lost or transport.disconnecting:
                break
            assert transport.protocol is not None
            transport.protocol.dataReceived(chunk)

    def step(self, seconds: float) -> None:
        """Advance the clock, a quarter of a second at a time."""
        self.clock.pump([0.25] * int(seconds * 4))

    def assert_nothing_left(self) -> None:
        assert self.clock.getDelayedCalls() == []
        assert len(self.connections) == 0


def whole(data: bytes) -> Iterable[bytes]:
    return [data]


def octet_by_octet(data: bytes) -> Iterable[bytes]:
    return [data[position : position + 1] for position in range(len(data))]


def in_sevens(data: bytes) -> Iterable[bytes]:
    return [data[position : position + 7] for position in range(0, len(data), 7)]


ANSWER = b"SIP/2.0 200 OK\r\n\r\n"
TRYING = b"SIP/2.0 100 Trying\r\n\r\n"

every_way = pytest.mark.parametrize("cut", [whole, octet_by_octet, in_sevens])


# Framing


@every_way
@pytest.mark.requirement("18.3-6")
def test_messages(cut: Callable[[bytes], Iterable[bytes]]) -> None:
    """However the stream is cut, Content-Length says where a message ends (18.3)."""
    world = World()
    transport = world.connect()
    world.feed(transport, *cut(FIRST + SECOND + b"\r\n" + FIRST))
    assert world.receiver.calls == [FIRST, SECOND, FIRST]
    assert not transport.disconnecting


@given(st.lists(st.integers(0, 4 * len(FIRST)), max_size=20))
def test_messages_cut_anywhere(places: list[int]) -> None:
    """Whatever the chunks, the messages are the same (18.3)."""
    data = FIRST + SECOND + PING + FIRST
    world = World()
    transport = world.connect()
    edges = [0, *sorted(place for place in places if place <= len(data)), len(data)]
    world.feed(transport, *(data[begin:end] for begin, end in itertools.pairwise(edges)))
    assert world.receiver.calls == [FIRST, SECOND, FIRST]
    assert transport.value() == PONG


@every_way
def test_message_after_a_bad_one(cut: Callable[[bytes], Iterable[bytes]]) -> None:
    """A bad message whose end is known is refused by itself, and the next one is served (18.3, 8.2)."""
    world = World()
    transport = world.connect()
    world.feed(transport, *cut(FIRST + BAD + SECOND))
    assert world.receiver.calls == [FIRST, "Malformed CSeq header field", SECOND]
    assert transport.value() == b"400"
    assert not transport.disconnecting


@pytest.mark.requirement("5626-3")
@every_way
def test_ping(cut: Callable[[bytes], Iterable[bytes]]) -> None:
    """A double CRLF between messages is answered with one CRLF at once (RFC 5626, 3.5.1 and 4.4.1)."""
    world = World()
    transport = world.connect()
    world.feed(transport, *cut(PING))
    assert transport.value() == PONG
    world.feed(transport, *cut(FIRST + PING + PING + SECOND))
    assert transport.value() == 3 * PONG
    assert world.receiver.calls == [FIRST, SECOND]


def test_single_crlf() -> None:
    """One CRLF before a start line is ignored, and no ping (7.5)."""
    world = World()
    transport = world.connect()
    world.feed(transport, b"\r\n" + FIRST + b"\r\n" + SECOND)
    assert world.receiver.calls == [FIRST, SECOND]
    assert transport.value() == b""


@pytest.mark.parametrize(
    ("data", "answer", "reason"),
    [
        (SECOND.replace(b"Content-Length: 0\r\n", b""), b"400", "Missing Content-Length header field"),
        (SECOND.replace(b"Length: 0", b"Length: x"), b"400", "Malformed Content-Length header field"),
        (SECOND.replace(b"Length: 0", b"Length: -1"), b"400", "Malformed Content-Length header field"),
        (SECOND.replace(b"Length: 0", b"Length: 0\r\nl: 5"), b"400", "Malformed Content-Length header field"),
        (SECOND.replace(b"Length: 0", b"Length: 65536"), b"513", "The message is too long"),
        (SECOND.replace(b"Length: 0", b"Length: 9999999999"), b"513", "The message is too long"),
    ],
)
@every_way
@pytest.mark.requirement("18.3-7")
def test_framing_fault(cut: Callable[[bytes], Iterable[bytes]], data: bytes, answer: bytes, reason: str) -> None:
    """Where nobody can say where the next message begins, the request is answered and the connection closed (18.3)."""
    world = World()
    transport = world.connect()
    world.feed(transport, *cut(FIRST + data + SECOND))
    assert world.receiver.calls == [FIRST, reason]
    assert transport.value() == answer
    assert transport.disconnecting
    assert not transport.disconnected, "the answer has to leave first"
    transport.flush()
    world.assert_nothing_left()
    assert world.counted == {}


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0" * 10,
        b"\x80\x9e\x01\x03\x01",
        b"*1\r\n$4\r\nPING\r\n",
        b"x y z\r\n",
        b"\n\n\n\n",
        b"\r\r\r\r",
        b"OPTIONS sip:a@b HTTP/1.0\r\n",
    ],
)
@every_way
def test_not_sip(cut: Callable[[bytes], Iterable[bytes]], data: bytes) -> None:
    """What does not begin like SIP is not waited for: the connection is closed at once, with nothing said."""
    world = World()
    transport = world.connect()
    world.feed(transport, *cut(data))
    assert transport.disconnecting
    assert transport.value() == b""
    assert world.receiver.calls == []
    assert world.counted == {"not_sip": 1}
    transport.flush()
    world.assert_nothing_left()


def test_endless_header_section() -> None:
    """A header section that does not end is not collected beyond the bound of a message."""
    world = World(max_message=1000)
    transport = world.connect()
    world.feed(transport, b"OPTIONS sip:a@b SIP/2.0\r\n", *[b"X: " + b"y" * 96 + b"\r\n"] * 20)
    assert transport.disconnecting
    assert world.counted == {"not_sip": 1}


@given(st.lists(st.binary(max_size=40) | st.sampled_from([FIRST, SECOND[:-4], BAD, PING, b"\r\n"]), max_size=8))
def test_any_stream(chunks: list[bytes]) -> None:
    """Any stream is messages, faults and keep-alives, or is closed; nothing is raised and no timer left (18.3)."""
    world = World()
    transport = world.connect()
    world.feed(transport, *chunks)
    world.step(301)
    transport.flush()
    assert transport.is_lost
    world.assert_nothing_left()


def test_nothing_after_the_fault() -> None:
    """Once a connection is being closed, what still comes on it is not looked at."""
    world = World()
    transport = world.connect()
    world.feed(transport, b"GET / HTTP/1.1\r\n")
    assert transport.protocol is not None
    transport.protocol.dataReceived(FIRST + PING)
    assert world.receiver.calls == []
    assert transport.value() == b""


def test_closed_while_reading() -> None:
    """A connection closed by what came on it serves nothing further of the same chunk."""
    world = World(Receiver(lambda flow: transport.protocol.close()))
    transport = world.connect()
    world.feed(transport, FIRST + SECOND + PING)
    assert world.receiver.calls == [FIRST]
    assert transport.value() == b""


# Flows


def test_flow() -> None:
    """The flow of a message is its connection, and leads there whatever the address (18.2.2, RFC 5626)."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST + SECOND)
    flow, same = world.receiver.flows
    assert flow is same
    verifyObject(IFlow, flow)
    assert (flow.transport, flow.is_reliable, flow.peer_certificate) == ("TCP", True, None)
    assert (flow.local_address, flow.remote_address) == (Address("198.51.100.1", 5060), Address("192.0.2.1", 40000))
    assert flow.towards(Address("203.0.113.66", 5060)) is flow
    flow.send(b"answer")
    assert transport.value() == b"answer"


@pytest.mark.parametrize(
    ("peer", "remote"),
    [
        (IPv6Address("TCP", "2001:db8::1", 7), ("2001:db8::1", 7)),
        (IPv6Address("TCP", "::ffff:192.0.2.9", 7), ("192.0.2.9", 7)),
        (IPv6Address("TCP", "fe80::1%eth0", 7), ("fe80::1", 7)),
        (UNIXAddress("/run/client"), ("", 0)),
    ],
)
def test_peer(peer: object, remote: tuple[str, int]) -> None:
    """The peer's address is one that can be put into a Via: no zone, no IPv4-mapped IPv6 (18.2.1)."""
    world = World()
    world.feed(world.connect(Transport(peer=peer)), FIRST)
    assert [flow.remote_address for flow in world.receiver.flows] == [remote]


def test_tls() -> None:
    """On TLS the flow says so, and asks for the peer's certificate when it is asked for it."""
    transport: Any = Transport()
    directlyProvides(transport, ISSLTransport)
    transport.getPeerCertificate = lambda: "certificate"
    world = World()
    world.feed(world.connect(transport), FIRST)
    (flow,) = world.receiver.flows
    assert (flow.transport, flow.peer_certificate) == ("TLS", "certificate")


def test_behind_haproxy() -> None:
    """Behind a proxy that says so, the peer is the client that the PROXY header names, not the proxy (18.2.1)."""
    world = World()
    transport = Transport(peer=IPv4Address("TCP", "203.0.113.80", 9))
    wrapper = HAProxyWrappingFactory(world.factory).buildProtocol(transport.getPeer())
    assert wrapper is not None
    wrapper.makeConnection(transport)
    wrapper.dataReceived(b"PROXY TCP4 192.0.2.77 198.51.100.9 4444 5061\r\n" + FIRST)
    (flow,) = world.receiver.flows
    assert (flow.remote_address, flow.local_address) == (("192.0.2.77", 4444), ("198.51.100.9", 5061))
    wrapper.connectionLost(Failure(ConnectionDone()))
    world.assert_nothing_left()


def test_lost_connection() -> None:
    """After the connection is lost its flow is closed, and sending is a TransportError that names the peer (17.2.4)."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST)
    (flow,) = world.receiver.flows
    assert not flow.closed
    transport.lose(Failure(ConnectionDone()))
    assert flow.closed
    with pytest.raises(TransportError, match=r"192\.0\.2\.1:40000"):
        flow.send(b"answer")
    assert transport.value() == b""
    world.assert_nothing_left()


@pytest.mark.parametrize("seconds", [0, 10, 31])
def test_lost_mid_message(seconds: float) -> None:
    """A connection lost in the middle of a message leaves no timer."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST[:40])
    world.step(seconds)
    transport.lose(Failure(ConnectionDone()))
    world.assert_nothing_left()


# Time


def test_message_timeout() -> None:
    """A message has 32 seconds from its first octet to its last, however many octets trickle in."""
    world = World()
    transport = world.connect()
    world.step(100)
    for octet in octet_by_octet(FIRST[:31]):
        world.feed(transport, octet)
        world.step(1)
    assert not transport.is_lost
    world.step(1)
    assert transport.disconnected
    assert transport.value() == b""
    assert world.counted == {"message_timeouts": 1}
    world.assert_nothing_left()


def test_message_in_time() -> None:
    """A message whose last octet comes in time is served, and the connection has its idle time again."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST[:-1])
    world.step(31)
    world.feed(transport, FIRST[-1:])
    assert world.receiver.calls == [FIRST]
    world.step(299)
    assert not transport.is_lost


def test_each_message_has_its_own_time() -> None:
    """A message that begins in the chunk in which another ends has the full time from there on."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST[:20])
    for _ in range(10):
        world.step(20)
        world.feed(transport, FIRST[20:] + FIRST[:20])
    assert world.receiver.calls == [FIRST] * 10
    assert not transport.is_lost
    world.step(33)
    assert transport.is_lost, "and no more than that"
    world.assert_nothing_left()


def test_trickling_message_after_a_whole_one() -> None:
    """A ping in the way does not lengthen the time of the message behind it."""
    world = World()
    transport = world.connect()
    world.feed(transport, PING + FIRST[:20])
    world.step(16)
    world.feed(transport, FIRST[20:30])
    world.step(17)
    assert transport.is_lost
    world.assert_nothing_left()


@pytest.mark.parametrize("begin", [b"", b"\r\n", b"\r"])
def test_idle_timeout(begin: bytes) -> None:
    """A connection without message or keep-alive for 300 seconds is cut (18: at least 64*T1)."""
    world = World()
    transport = world.connect()
    world.feed(transport, begin)
    world.step(299)
    assert not transport.is_lost
    world.step(2)
    assert transport.disconnected
    assert world.counted == {"idle_timeouts": 1}
    world.assert_nothing_left()


@pytest.mark.parametrize("data", [PING, FIRST, BAD])
def test_not_idle(data: bytes) -> None:
    """Each message and each keep-alive gives the connection its idle time anew (RFC 5626, 4.4.1)."""
    world = World()
    transport = world.connect()
    for _ in range(5):
        world.step(299)
        world.feed(transport, data)
    assert not transport.is_lost
    world.step(301)
    assert transport.is_lost
    world.assert_nothing_left()


def test_own_timeouts() -> None:
    """Both times can be chosen."""
    world = World(message_timeout=2, idle_timeout=4)
    idle, busy = world.connect(), world.connect()
    world.feed(busy, FIRST[:10])
    world.step(3)
    assert (idle.is_lost, busy.is_lost) == (False, True)
    world.step(2)
    assert idle.is_lost
    world.assert_nothing_left()


# Bounds


def test_max_connections() -> None:
    """A connection beyond the bound is dropped unserved, and one that goes makes room for another."""
    world = World(max_connections=2)
    first, second, third = world.connect(), world.connect(), world.connect()
    assert (first.is_lost, second.is_lost, third.disconnected) == (False, False, True)
    assert third.protocol is not None
    third.protocol.dataReceived(FIRST)
    assert world.receiver.calls == []
    assert len(world.connections) == 2
    assert world.counted == {"refused": 1}
    first.lose(Failure(ConnectionDone()))
    fourth = world.connect()
    world.feed(fourth, FIRST)
    assert world.receiver.calls == [FIRST]
    for transport in (second, fourth):
        transport.lose(Failure(ConnectionDone()))
    world.assert_nothing_left()


def source(host: str) -> Transport:
    return Transport(peer=IPv6Address("TCP", host, 40000) if ":" in host else IPv4Address("TCP", host, 40000))


def test_max_connections_per_source() -> None:
    """One address, or one IPv6 network of 64 bits, has so many connections; others have theirs."""
    world = World(max_connections_per_source=2)
    taken = [world.connect(source(host)) for host in ("192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::ffff:2")]
    for host in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::3"):
        transport = world.connect(source(host))
        assert transport.disconnected
        assert len(world.connections) == len(taken), "and it is not counted any longer"
    assert world.counted == {"refused_per_source": 3}
    taken += [world.connect(source("192.0.2.2")), world.connect(source("2001:db8:0:1::1"))]
    taken[0].lose(Failure(ConnectionDone()))
    taken.append(world.connect(source("192.0.2.1")))
    assert not taken[-1].is_lost
    for transport in taken:
        transport.lose(Failure(ConnectionDone()))
    world.assert_nothing_left()


def test_per_source_behind_a_proxy() -> None:
    """Behind a proxy the client that its header names is counted, and the proxy is not."""
    world = World(is_proxied=True, max_connections_per_source=1)
    wrappers = []
    for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        transport = Transport(peer=IPv4Address("TCP", "203.0.113.80", 9))
        wrapper = HAProxyWrappingFactory(world.factory).buildProtocol(transport.getPeer())
        assert wrapper is not None
        transport.protocol = wrapper.wrappedProtocol
        wrapper.makeConnection(transport)
        wrapper.dataReceived(f"PROXY TCP4 {client} 198.51.100.9 4444 5061\r\n".encode() + FIRST)
        wrappers.append((wrapper, transport))
    assert [transport.is_lost for _, transport in wrappers] == [False, True, False]
    assert world.counted == {"refused_per_source": 1}
    assert len(world.receiver.calls) == 2
    for wrapper, transport in wrappers:
        if not transport.is_lost:
            wrapper.connectionLost(Failure(ConnectionDone()))
    world.assert_nothing_left()


@pytest.mark.parametrize("client", ["x;maddr=203.0.113.66", "1.2.3", "::g", "fe80:::1", ""])
def test_no_address_behind_a_proxy(client: str) -> None:
    """A PROXY header whose client is no address puts nothing into a Via: the connection is let go (18.2.1)."""
    world = World(is_proxied=True)
    transport = Transport(peer=IPv4Address("TCP", "203.0.113.80", 9))
    wrapper = HAProxyWrappingFactory(world.factory).buildProtocol(transport.getPeer())
    assert wrapper is not None
    transport.protocol = wrapper.wrappedProtocol
    wrapper.makeConnection(transport)
    wrapper.dataReceived(f"PROXY TCP4 {client} 198.51.100.9 4444 5061\r\n".encode() + FIRST)
    assert transport.is_lost
    assert world.receiver.calls == []
    assert world.counted == {"not_sip": 1}
    world.assert_nothing_left()


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.9 192.0.2.1 abc 5060\r\n",
        b"PROXY TCP4 \xff\xfe 192.0.2.1 1 5060\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 -5 5060\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 99999999 5060\r\n",
    ],
)
def test_malformed_proxy_header(header: bytes) -> None:
    """What Twisted's reader of PROXY headers cannot read lets the connection go, and raises nothing."""
    world = World(is_proxied=True)
    transport = Transport(peer=IPv4Address("TCP", "203.0.113.80", 9))
    wrapper = HAProxyWrappingFactory(world.factory).buildProtocol(transport.getPeer())
    assert wrapper is not None
    transport.protocol = wrapper.wrappedProtocol
    wrapper.makeConnection(transport)
    wrapper.dataReceived(header + FIRST)
    assert transport.is_lost
    assert world.receiver.calls == []
    assert world.counted == {"not_sip": 1}
    world.assert_nothing_left()


def test_own_fault_behind_a_proxy() -> None:
    """A ValueError behind the PROXY header is a fault of ours, and not hidden."""

    def fail(flow: IFlow) -> None:
        raise ValueError("ours")

    world = World(Receiver(fail), is_proxied=True)
    transport = Transport(peer=IPv4Address("TCP", "203.0.113.80", 9))
    wrapper = HAProxyWrappingFactory(world.factory).buildProtocol(transport.getPeer())
    assert wrapper is not None
    wrapper.makeConnection(transport)
    with pytest.raises(ValueError, match="ours"):
        wrapper.dataReceived(b"PROXY TCP4 192.0.2.9 192.0.2.1 1 5060\r\n" + FIRST)
    wrapper.connectionLost(Failure(ConnectionDone()))
    world.assert_nothing_left()


def test_log_of_what_is_not_sip() -> None:
    """However many connections are let go, the log grows by one line a second, which says how many there were more."""
    lines: list[str] = []

    @log_observer
    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "twisted_sipuas.transport.stream":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        world = World()
        for _ in range(4):
            for _ in range(10):
                transport = world.connect()
                world.feed(transport, b"\0")
                transport.flush()
            world.step(1)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert len(lines) == 4
    assert lines[1].endswith("is let go: The stream is not SIP; 9 more before")
    assert world.counted == {"not_sip": 40}


def test_half_closed_after_a_refusal() -> None:
    """A refusal of what is malformed does not stand for the answer that the next request is owed (18.2.2)."""
    world = World()
    transport = world.connect()
    world.feed(transport, BAD + FIRST)
    assert transport.value() == b"400"
    world.receiver.flows[0].send(b"SIP/2.0 400 Bad Request\r\n\r\n")
    assert transport.protocol is not None
    transport.protocol.readConnectionLost()
    assert not transport.disconnecting
    world.receiver.flows[1].send(ANSWER)
    assert transport.disconnecting
    transport.flush()
    world.assert_nothing_left()


def test_max_header() -> None:
    """A header section beyond its own bound is refused with 513, though the message is within its bound (21.5.7)."""
    world = World(max_header=1000, max_message=5000)
    transport = world.connect()
    long_body = make_request("MESSAGE", transport="TCP", body=b"x" * 3000).to_bytes()
    world.feed(transport, long_body)
    assert world.receiver.calls == [long_body]
    long_head = make_request("MESSAGE", transport="TCP", headers=(("X", "y" * 1000),)).to_bytes()
    world.feed(transport, long_head)
    assert world.receiver.faults[0].status == 513
    assert transport.disconnecting
    transport.flush()
    world.assert_nothing_left()


@pytest.mark.requirement("18-1", "18-2")
def test_longest_transaction() -> None:
    """The time an idle connection has covers the longest life of a transaction, unless it is said otherwise (18)."""
    assert TransportLimits().idle_timeout >= Timers().lifetime
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST)
    world.step(Timers().lifetime)
    assert not transport.is_lost
    transport.lose(Failure(ConnectionDone()))
    world.assert_nothing_left()


def test_advertised_address() -> None:
    """A flow tells the address that others are to be told; its port is the connection's own unless one was given."""
    for advertised, told in (
        (None, ("198.51.100.1", 5060)),
        (Address("sip.example.com", 0), ("sip.example.com", 5060)),
        (Address("sip.example.com", 5070), ("sip.example.com", 5070)),
    ):
        world = World()
        world.factory.advertised_address = advertised
        transport: Transport = world.connect()
        world.feed(transport, FIRST)
        assert world.receiver.flows[0].advertised_address == told
        assert world.receiver.flows[0].local_address == ("198.51.100.1", 5060)
        transport.lose(Failure(ConnectionDone()))
        world.assert_nothing_left()


def secure_transport() -> Any:
    transport: Any = Transport()
    directlyProvides(transport, ISSLTransport)
    return transport


def test_handshake_that_never_ends() -> None:
    """A TLS handshake has the time of a message, not that of an idle connection."""
    world = World()
    transport = world.connect(secure_transport())
    world.step(33)
    assert transport.disconnected
    assert world.counted["message_timeouts"] == 1
    world.assert_nothing_left()


def test_handshake_that_fails() -> None:
    """A connection that is lost before TLS is ready is counted."""
    world = World()
    world.connect(secure_transport()).lose(Failure(ConnectionDone()))
    assert world.counted == {"handshakes_failed": 1}
    world.assert_nothing_left()


def test_handshake() -> None:
    """After the handshake the connection may be idle as others may."""
    world = World()
    transport = world.connect(secure_transport())
    assert transport.protocol is not None
    secure: list[object] = []
    transport.protocol.when_secure().addCallback(secure.append)
    world.step(20)
    assert secure == []
    transport.protocol.handshakeCompleted()
    assert secure == [None]
    transport.protocol.when_secure().addCallback(secure.append)
    assert secure == [None, None]
    world.step(299)
    assert not transport.is_lost
    world.step(2)
    assert world.counted == {"idle_timeouts": 1}
    world.assert_nothing_left()


def test_slow_reader() -> None:
    """A peer that does not read its answers gets no more of its requests read, until it does."""
    world = World()
    transport = world.connect()
    assert transport.producer is transport.protocol
    assert transport.streaming
    transport.producer.pauseProducing()
    assert transport.producerState == "paused"
    transport.producer.resumeProducing()
    assert transport.producerState == "producing"


def test_slow_reader_for_ever() -> None:
    """A peer that does not read its answers for 32 seconds is cut, and not spared because it goes on sending."""
    world = World(Receiver(lambda flow: transport.producer.pauseProducing()))
    transport = world.connect()
    world.feed(transport, FIRST + SECOND + FIRST[:9], SECOND)
    assert world.receiver.calls == [FIRST], "the answers to the others would have to be kept"
    world.step(31)
    assert not transport.is_lost
    world.step(2)
    assert transport.disconnected
    assert world.counted == {"write_timeouts": 1}
    world.assert_nothing_left()


def test_what_waits_for_a_slow_reader() -> None:
    """What came before a peer was found to be slow is taken when it has caught up."""
    world = World(Receiver(lambda flow: transport.producer.pauseProducing()))
    transport = world.connect()
    world.feed(transport, FIRST + SECOND)
    transport.producer.resumeProducing()
    assert world.receiver.calls == [FIRST, SECOND]
    assert transport.producerState == "paused"
    transport.producer.resumeProducing()
    assert transport.producerState == "producing"
    transport.lose(Failure(ConnectionDone()))
    world.assert_nothing_left()


@pytest.mark.parametrize("data", [FIRST, PING])
def test_others_have_their_turn(data: bytes) -> None:
    """However much comes in one piece, it is taken a batch at a time, and not read on before it is done."""
    answered: list[IFlow] = []
    world = World(Receiver(answered.append))
    transport = world.connect()
    world.feed(transport, data * 100)

    def taken() -> int:
        return len(answered) + int(transport.value().count(PONG))

    assert (taken(), transport.producerState) == (32, "paused")
    world.feed(transport, data * 10)
    assert taken() == 32
    world.clock.advance(0)  # which does all turns at once
    assert taken() == 110
    assert transport.producerState == "producing"
    transport.lose(Failure(ConnectionDone()))
    world.assert_nothing_left()


@pytest.mark.parametrize("end", ["close", "lose", "pause"])
def test_end_between_two_turns(end: str) -> None:
    """A connection that ends while messages wait for their turn leaves no timer, and what waits is not taken."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST * 50)
    assert transport.protocol is not None
    if end == "pause":
        transport.producer.pauseProducing()
        world.clock.advance(0)
        assert len(world.receiver.calls) == 32
        transport.producer.resumeProducing()
        assert len(world.receiver.calls) == 50
    if end == "lose":
        transport.lose(Failure(ConnectionDone()))
    else:
        transport.protocol.close()
        world.clock.advance(0)
        transport.flush()
    assert len(world.receiver.calls) == (50 if end == "pause" else 32)
    world.assert_nothing_left()


def test_slow_reader_that_catches_up() -> None:
    """A peer that has read its answers has its idle time again, or the time of the message that has begun."""
    world = World()
    idle, busy = world.connect(), world.connect()
    for transport, data in ((idle, FIRST), (busy, FIRST + SECOND[:9])):
        world.feed(transport, data)
        transport.producer.pauseProducing()
    world.step(20)
    for transport in (idle, busy):
        transport.producer.resumeProducing()
    world.step(31)
    assert not busy.is_lost
    world.step(2)
    assert (idle.is_lost, busy.is_lost) == (False, True)
    assert world.counted == {"message_timeouts": 1}
    idle.lose(Failure(ConnectionDone()))
    world.assert_nothing_left()


def test_slow_reader_when_closing() -> None:
    """A connection being closed is not read again when its peer has caught up."""
    world = World()
    transport = world.connect()
    producer = transport.producer
    producer.pauseProducing()
    transport.protocol.close()
    producer.resumeProducing()
    producer.stopProducing()
    assert transport.producerState == "paused"
    transport.flush()
    world.assert_nothing_left()


# Closing


def test_close() -> None:
    """Closing lets what was sent leave first; the flow is closed at once."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST)
    (flow,) = world.receiver.flows
    flow.send(b"answer")
    assert transport.protocol is not None
    transport.protocol.close()
    transport.protocol.close()
    assert transport.disconnecting
    assert not transport.disconnected
    assert flow.closed
    with pytest.raises(TransportError):
        flow.send(b"too late")
    transport.flush()
    assert transport.value() == b"answer"
    world.assert_nothing_left()


def test_half_closed_by_the_peer() -> None:
    """When the peer ends its half, what it was answered leaves before the connection is closed (18.2.2)."""
    world = World(Receiver(lambda flow: flow.send(ANSWER)))
    transport = world.connect()
    world.feed(transport, FIRST)
    verifyObject(IHalfCloseableProtocol, transport.protocol)
    transport.protocol.readConnectionLost()
    transport.protocol.writeConnectionLost()
    assert transport.disconnecting
    assert not transport.disconnected
    transport.flush()
    assert transport.value() == ANSWER
    world.assert_nothing_left()


def test_half_closed_while_an_answer_is_owed() -> None:
    """A peer that has ended its half still gets the answer that takes its time; then the connection is closed."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST)
    assert transport.protocol is not None
    transport.protocol.readConnectionLost()
    assert not transport.disconnecting
    world.receiver.flows[0].send(TRYING)
    assert not transport.disconnecting
    world.receiver.flows[0].send(ANSWER)
    assert transport.disconnecting
    transport.flush()
    assert transport.value() == TRYING + ANSWER
    world.assert_nothing_left()


def test_half_closed_and_never_answered() -> None:
    """A peer that has ended its half is not waited for longer than a message may take."""
    world = World(message_timeout=10)
    transport = world.connect()
    world.feed(transport, FIRST)
    assert transport.protocol is not None
    transport.protocol.readConnectionLost()
    world.step(9.5)
    assert not transport.is_lost
    world.step(1)
    assert transport.is_lost
    world.assert_nothing_left()


def test_close_in_the_middle_of_a_message() -> None:
    """The time of an unfinished message does not lengthen the 5 seconds that closing may take."""
    world = World()
    transport = world.connect()
    world.feed(transport, FIRST[:20])
    assert transport.protocol is not None
    transport.protocol.close()
    world.step(5.25)
    assert transport.disconnected
    world.assert_nothing_left()


def test_close_is_cut() -> None:
    """A peer that does not take the last octets within 5 seconds is cut off."""
    world = World()
    transport = world.connect()
    assert transport.protocol is not None
    transport.protocol.close()
    world.step(4.75)
    assert not transport.is_lost
    world.step(0.5)
    assert transport.disconnected
    world.assert_nothing_left()


def test_close_connections() -> None:
    """close_connections fires when every connection is gone, those cut after 5 seconds included."""
    world = World()
    prompt, slow, lost = world.connect(), world.connect(), world.connect()
    closed: list[object] = []
    lost.lose(Failure(ConnectionDone()))
    world.connections.close().addCallback(closed.append)
    prompt.flush()
    world.step(4.75)
    assert closed == []
    assert not slow.is_lost
    world.step(0.5)
    assert slow.disconnected
    assert closed == [None]
    world.assert_nothing_left()


def test_close_connections_twice() -> None:
    """Whoever asks for the connections to be closed is told when they are, the second who asks too."""
    world = World()
    transport = world.connect()
    closed: list[str] = []
    world.connections.close().addCallback(lambda _: closed.append("first"))
    world.connections.close().addCallback(lambda _: closed.append("second"))
    transport.flush()
    assert closed == ["first", "second"]
    world.assert_nothing_left()


def test_close_no_connections() -> None:
    """Without connections close_connections fires at once."""
    world = World()
    closed: list[object] = []
    world.connections.close().addCallback(closed.append)
    assert closed == [None]


def test_answers_go_to_their_own_connection() -> None:
    """Each of two connections from one address gets its own answers (18.2.2)."""
    world = World(Receiver(lambda flow: flow.send(b"answer %d" % flow.remote_address.port)))
    transports = [world.connect(Transport(peer=IPv4Address("TCP", "192.0.2.1", port))) for port in (1, 2)]
    for transport in transports:
        world.feed(transport, FIRST)
    assert [transport.value() for transport in transports] == [b"answer 1", b"answer 2"]


def test_parsed_once_framed() -> None:
    """What the framer cuts out is exactly what was sent."""
    request = parse_message(FIRST)
    assert isinstance(request, Request)
    assert request.to_bytes() == FIRST
