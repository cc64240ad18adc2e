"""Does an answer leave from the address that was asked, and is an undeliverable one noticed? On real sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address, IFlow, IMessageReceiver
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing import make_request
from twisted_sipuas.transport import packets
from twisted_sipuas.transport.flow import DatagramFlow, PacketInfo
from twisted_sipuas.transport.packets import PacketInfoReader, read_error
from twisted_sipuas.transport.udp import MAX_DATAGRAM, SIPDatagramPort, SIPDatagramProtocol, datagram_port

reactor: Any = the_reactor

REQUEST = make_request("OPTIONS").to_bytes()
V4, V6 = socket.AF_INET, socket.AF_INET6

linux_only = pytest.mark.skipif(not packets._IS_LINUX, reason="only Linux tells")


@implementer(IMessageReceiver)
class Echo:
    """Answers every message on its flow, and keeps flows and failures."""

    def __init__(self) -> None:
        self.flows: list[IFlow] = []
        self.undelivered: Deferred[tuple[bytes, Address]] = Deferred()

    def message_received(self, message: Request | Response, flow: IFlow) -> None:
        self.flows.append(flow)
        flow.send(b"answer to " + message.to_bytes()[:7])

    def syntax_error_received(self, error: MessageSyntaxError, flow: IFlow) -> None:
        raise AssertionError(error)

    def sending_failed(self, octets: bytes, flow: IFlow) -> None:
        self.undelivered.callback((octets, flow.remote_address))


class Served:
    """A port on *interface*, and clients of it."""

    def __init__(self, interface: str) -> None:
        self.receiver = Echo()
        protocol = SIPDatagramProtocol(self.receiver)
        self.port = datagram_port(interface)(0, protocol, interface, MAX_DATAGRAM, reactor)
        self.port.startListening()
        self.number = self.port.getHost().port
        self.clients: list[socket.socket] = []

    def ask(self, family: int, source: str, destination: str) -> socket.socket:
        client = socket.socket(family, socket.SOCK_DGRAM)
        self.clients.append(client)
        client.bind((source, 0))
        client.setblocking(False)
        client.sendto(REQUEST, (destination, self.number))
        return client

    async def close(self) -> None:
        for client in self.clients:
            client.close()
        await self.port.stopListening()


async def until(condition: Any) -> None:
    """Let the reactor turn until *condition* holds; the test's deadline ends it otherwise."""
    while not condition():
        await deferLater(reactor, 0.001)


async def answer_to(client: socket.socket) -> tuple[bytes, Any]:
    while True:
        try:
            return client.recvfrom(2000)
        except BlockingIOError:
            await deferLater(reactor, 0.001)


@linux_only
@pytest.mark.requirement("3581-2")
@pytest.mark.parametrize(
    ("interface", "family", "source", "asked"),
    [
        ("0.0.0.0", V4, "127.0.0.1", "127.0.0.2"),
        ("0.0.0.0", V4, "127.0.0.2", "127.0.0.3"),
        ("::", V4, "127.0.0.1", "127.0.0.2"),
        ("::", V6, "::1", "::1"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wildcard(interface: str, family: int, source: str, asked: str) -> None:
    """Behind a wildcard address, too, an answer leaves from the address that the request came to (RFC 3581, 4)."""
    served = Served(interface)
    try:
        client = served.ask(family, source, asked)
        data, (host, port, *_) = await answer_to(client)
        assert (data, host, port) == (b"answer to OPTIONS", asked, served.number)
        (flow,) = served.receiver.flows
        assert flow.local_address == (asked, served.number)
        assert flow.towards(Address(source, 9)).local_address == (asked, served.number)
    finally:
        await served.close()


@linux_only
@pytest_twisted.ensureDeferred
async def test_adopted_wildcard() -> None:
    """The same goes for a socket that was bound by somebody else."""
    receiver = Echo()
    with socket.socket(V4, socket.SOCK_DGRAM) as bound, socket.socket(V4, socket.SOCK_DGRAM) as client:
        bound.bind(("0.0.0.0", 0))
        bound.setblocking(False)
        client.bind(("127.0.0.1", 0))
        client.setblocking(False)
        port = datagram_port("0.0.0.0").adopt(bound, SIPDatagramProtocol(receiver), reactor)
        port.startListening()
        client.sendto(REQUEST, ("127.0.0.2", bound.getsockname()[1]))
        _, (host, _) = await answer_to(client)
        assert host == "127.0.0.2"
        await port.stopListening()


@linux_only
@pytest.mark.requirement("18.4-1")
@pytest.mark.parametrize(
    ("interface", "family", "host"),
    [("127.0.0.1", V4, "127.0.0.1"), ("::1", V6, "::1"), ("0.0.0.0", V4, "127.0.0.1"), ("::", V4, "127.0.0.1")],
)
@pytest_twisted.ensureDeferred
async def test_unreachable_port(interface: str, family: int, host: str) -> None:
    """An answer to a port where nobody listens any more is reported as failed, and the socket goes on (18.4)."""
    served = Served(interface)
    try:
        client = served.ask(family, host, host)
        source = Address(*client.getsockname()[:2])
        client.close()
        assert await served.receiver.undelivered == (b"answer to OPTIONS", source)
        data, _ = await answer_to(served.ask(family, host, host))
        assert data == b"answer to OPTIONS"
    finally:
        await served.close()


@linux_only
@pytest_twisted.ensureDeferred
async def test_many_unreachable_ports() -> None:
    """Reports that pile up are all read, and keep neither requests nor the reactor from their turn."""
    served = Served("127.0.0.1")
    failed: list[Address] = []
    served.receiver.sending_failed = lambda octets, flow: failed.append(flow.remote_address)  # type: ignore[method-assign]
    try:
        for _ in range(200):
            served.ask(V4, "127.0.0.1", "127.0.0.1").close()
        await until(lambda: len(failed) == 200)
        await answer_to(served.ask(V4, "127.0.0.1", "127.0.0.1"))
    finally:
        await served.close()


class ErrorQueue:
    """A socket with one report on its error queue."""

    def __init__(self, level: int, kind: int, origin: int, icmp_type: int, code: int) -> None:
        error = struct.pack("=IBBBBII", 111, origin, icmp_type, code, 0, 0, 0) + bytes(16)
        self.report = (b"SIP/2.0 200 OK", [(level, kind, error)], 0, ("192.0.2.1", 5060))

    def recvmsg(self, size: int, space: int, flags: int) -> Any:
        return self.report


ICMP = (socket.IPPROTO_IP, 11, 2)
ICMPV6 = (socket.IPPROTO_IPV6, 25, 3)
REPORTED = (b"SIP/2.0 200 OK", ("192.0.2.1", 5060))


@linux_only
@pytest.mark.requirement("18.4-1")
@pytest.mark.parametrize(
    ("origin", "icmp_type", "code"),
    [
        *((ICMP, 3, code) for code in (0, 1, 2, 3, 5, 13)),
        (ICMP, 12, 0),
        *((ICMPV6, 1, code) for code in (0, 1, 3, 4)),
        (ICMPV6, 4, 1),
    ],
)
def test_icmp_that_tells_of_a_failure(origin: tuple[int, int, int], icmp_type: int, code: int) -> None:
    """Network, host, protocol or port unreachable and parameter problem are failures (18.4)."""
    assert read_error(ErrorQueue(*origin, icmp_type, code)) == REPORTED  # type: ignore[arg-type]


@linux_only
@pytest.mark.requirement("18.4-2")
@pytest.mark.parametrize(
    ("origin", "icmp_type", "code"),
    [(ICMP, 4, 0), (ICMP, 11, 0), (ICMP, 11, 1), (ICMP, 3, 4), (ICMPV6, 3, 0), (ICMPV6, 2, 0), ((0, 11, 1), 3, 3)],
)
def test_icmp_that_tells_of_none(origin: tuple[int, int, int], icmp_type: int, code: int) -> None:
    """Source quench and TTL exceeded are ignored (18.4), as is a datagram that will come in pieces."""
    assert read_error(ErrorQueue(*origin, icmp_type, code)) is None  # type: ignore[arg-type]


@pytest.fixture
def group() -> Iterator[tuple[socket.socket, str]]:
    """A member of a multicast group on loopback, and the group's address."""
    address = "239.255.42.99"
    with socket.socket(V4, socket.SOCK_DGRAM) as member:
        member.bind((address, 0))
        loopback = socket.inet_aton(address) + socket.inet_aton("127.0.0.1")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, loopback)
        member.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL, which the socket module of Python 3.10 lacks
        member.setblocking(False)
        yield member, address


@linux_only
@pytest.mark.requirement("18.2.2-7")
@pytest.mark.parametrize("interface", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("ttl", [1, 7])
@pytest_twisted.ensureDeferred
async def test_multicast(group: tuple[socket.socket, str], interface: str, ttl: int) -> None:
    """A response to a multicast group goes out with its time to live, by the interface asked (18.2.2)."""
    member, address = group
    served = Served(interface)
    try:
        await answer_to(served.ask(V4, "127.0.0.1", "127.0.0.1"))
        (flow,) = served.receiver.flows
        loopback = socket.inet_aton("127.0.0.1")
        served.port.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)  # as a route would say
        flow.towards(Address(address, member.getsockname()[1]), ttl).send(b"answer")
        while True:
            try:
                data, ancillary, _, source = member.recvmsg(100, 100)
                break
            except BlockingIOError:
                await deferLater(reactor, 0.001)
        assert (data, source) == (b"answer", ("127.0.0.1", served.number))
        assert [struct.unpack("=i", value) for _, _, value in ancillary] == [(ttl,)]
    finally:
        await served.close()


@linux_only
@pytest.mark.parametrize(
    ("level", "kind", "value", "local"),
    [
        (socket.IPPROTO_IP, 8, struct.pack("=i4s4s", 2, b"\xc0\0\2\1", b"\xef\0\0\1"), "192.0.2.1"),
        (socket.IPPROTO_IPV6, 50, socket.inet_pton(V6, "2001:db8::1") + struct.pack("=i", 2), "2001:db8::1"),
        (socket.IPPROTO_IPV6, 50, socket.inet_pton(V6, "::ffff:192.0.2.1") + struct.pack("=i", 2), "192.0.2.1"),
    ],
)
def test_packet_info(level: int, kind: int, value: bytes, local: str) -> None:
    """What the kernel says of a datagram is read once for each of our addresses; interfaces are left to the routes."""
    reader = PacketInfoReader(5060)
    info = reader([(level, kind, value)])
    assert info is not None
    assert info.local_address == (local, 5060)
    assert reader([(level, kind, value)]) is info
    ((_, _, answer),) = info.ancillary
    assert struct.pack("=i", 2) not in answer


@linux_only
def test_link_local_packet_info() -> None:
    """From a link-local address an answer leaves by the interface on which the request came (RFC 4007, 6)."""
    value = socket.inet_pton(V6, "fe80::1") + struct.pack("=i", 2)
    info = PacketInfoReader(5060)([(socket.IPPROTO_IPV6, 50, value)])
    assert info == PacketInfo(Address("fe80::1", 5060), [(socket.IPPROTO_IPV6, 50, value)])


@linux_only
@pytest.mark.parametrize("ancillary", [[], [(1, 2, b"")], [(socket.IPPROTO_IPV6, 50, b"\xff\2" + bytes(18))]])
def test_no_packet_info(ancillary: list[tuple[int, int, bytes]]) -> None:
    """Without it, and for an IPv6 multicast, the kernel chooses the source of the answer."""
    assert PacketInfoReader(5060)(ancillary) is None


@linux_only
def test_machine_with_a_network_of_its_own() -> None:
    """However many addresses a machine has, a bounded number is remembered."""
    reader = PacketInfoReader(5060)
    for number in range(3000):
        host = struct.pack("=i4s4s", 1, struct.pack("!I", number), bytes(4))
        assert reader([(socket.IPPROTO_IP, 8, host)]) is not None
    assert len(reader._known) <= 1024


def test_ttl_on_a_stock_port() -> None:
    """On a UDP port of Twisted's own a time to live cannot be given, and the datagram goes out without."""
    sent: list[tuple[bytes, Any]] = []

    class StockPort:
        def getHost(self) -> Any:
            return Address("198.51.100.1", 5060)

        def write(self, data: bytes, address: Any) -> None:
            sent.append((data, address))

    protocol = SIPDatagramProtocol(Echo())
    protocol.makeConnection(StockPort())  # type: ignore[arg-type]  # as much of it as is used
    DatagramFlow(protocol, ("192.0.2.1", 5060)).towards(Address("224.0.1.75", 5060), 1).send(b"answer")
    assert sent == [(b"answer", ("224.0.1.75", 5060))]


def test_kind_of_port() -> None:
    """Only a socket on a wildcard address pays for asking where a datagram came to."""
    assert [datagram_port(interface) is SIPDatagramPort for interface in ("127.0.0.1", "::1", "0.0.0.0", "::", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]
