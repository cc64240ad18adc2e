"""Is one datagram one message, and does nothing that comes or cannot be sent stop the socket?"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import MessageLengthError
from twisted.internet.testing import FakeDatagramTransport, MemoryReactor
from twisted.logger import LogEvent
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import Address, IFlow, IMessageReceiver
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing import make_request
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.udp import MAX_DATAGRAM, SIPDatagramPort, SIPDatagramProtocol

SOURCE = ("192.0.2.1", 40000)
REQUEST = make_request("OPTIONS").to_bytes()
OTHER_REQUEST = make_request("MESSAGE", body=b"hello").to_bytes()


@implementer(IMessageReceiver)
class Receiver:
    """Keeps what it is handed; *react* is called with each flow."""

    def __init__(self, react: Callable[[IFlow], object] = lambda flow: None) -> None:
        self.messages: list[Request | Response] = []
        self.faults: list[MessageSyntaxError] = []
        self.flows: list[IFlow] = []
        self.undelivered: list[tuple[bytes, Address]] = []
        self.react = react

    def message_received(self, message: Request | Response, flow: IFlow) -> None:
        self.messages.append(message)
        self.flows.append(flow)
        self.react(flow)

    def syntax_error_received(self, error: MessageSyntaxError, flow: IFlow) -> None:
        self.faults.append(error)
        self.flows.append(flow)
        self.react(flow)

    def sending_failed(self, octets: bytes, flow: IFlow) -> None:
        self.undelivered.append((octets, flow.remote_address))


class Transport(FakeDatagramTransport):
    """A datagram transport that raises *failure* instead of sending."""

    def __init__(self, host: object = None, failure: Exception | None = None) -> None:
        super().__init__()
        self.host = IPv4Address("UDP", "198.51.100.1", 5060) if host is None else host
        self.failure = failure

    def getHost(self) -> object:
        return self.host

    def write(self, packet: bytes, addr: Any = None) -> None:
        if self.failure is not None:
            raise self.failure
        super().write(packet, addr)


def connected(
    receiver: Receiver, transport: Transport | None = None, **bounds: int
) -> tuple[SIPDatagramProtocol, Transport]:
    """A protocol whose socket is bound."""
    transport = transport or Transport()
    protocol = SIPDatagramProtocol(receiver, TransportLimits()._replace(**bounds))
    protocol.makeConnection(transport)
    return protocol, transport


def test_message() -> None:
    """One datagram is one message, and its flow says where it came from and where to (18.2.1)."""
    receiver = Receiver()
    protocol, transport = connected(receiver)
    protocol.datagramReceived(REQUEST, SOURCE)
    (message,), (flow,) = receiver.messages, receiver.flows
    assert isinstance(message, Request)
    assert message.to_bytes() == REQUEST
    verifyObject(IFlow, flow)
    assert (flow.transport, flow.is_reliable, flow.peer_certificate) == ("UDP", False, None)
    assert (flow.local_address, flow.remote_address) == (Address("198.51.100.1", 5060), Address(*SOURCE))
    flow.send(b"answer")
    flow.towards(Address("192.0.2.1", 5060)).send(b"elsewhere")
    assert transport.written == [(b"answer", SOURCE), (b"elsewhere", ("192.0.2.1", 5060))]


@pytest.mark.requirement("18.3-1", "18.3-5")
@pytest.mark.parametrize(
    ("length", "body"), [(b"Content-Length: 3\r\n", b"one"), (b"l: 0\r\n", b""), (b"", b"one and two")]
)
def test_body(length: bytes, body: bytes) -> None:
    """Octets beyond Content-Length are discarded; without one, the body runs to the end of the datagram (18.3)."""
    receiver = Receiver()
    protocol, _ = connected(receiver)
    head = REQUEST.replace(b"Content-Length: 0\r\n", length)
    protocol.datagramReceived(head + b"one and two", SOURCE)
    assert [message.body for message in receiver.messages] == [body]


@pytest.mark.requirement("18.3-2", "18.3-4")
def test_short_request() -> None:
    """A request that ends before its Content-Length is one to be answered 400 (18.3)."""
    receiver = Receiver()
    protocol, _ = connected(receiver)
    protocol.datagramReceived(REQUEST.replace(b"Content-Length: 0", b"Content-Length: 1"), SOURCE)
    (fault,) = receiver.faults
    assert fault.status == 400
    assert fault.request is not None


@pytest.mark.requirement("18.3-3")
def test_short_response() -> None:
    """A response that ends before its Content-Length is discarded (18.3)."""
    receiver = Receiver()
    protocol, _ = connected(receiver)
    response = make_request().response(200).to_bytes("tag")
    protocol.datagramReceived(response.replace(b"Content-Length: 0", b"Content-Length: 1"), SOURCE)
    assert receiver.messages == []
    assert [fault.request for fault in receiver.faults] == [None]


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\t\r\n "])
def test_keep_alive(data: bytes) -> None:
    """Nothing but white space is a keep-alive, and gets no answer over UDP (RFC 5626, 3.5.1 and 4.4.2)."""
    receiver = Receiver()
    protocol, transport = connected(receiver)
    protocol.datagramReceived(data, SOURCE)
    assert receiver.flows == []
    assert transport.written == []


def test_message_after_a_keep_alive() -> None:
    """CRLFs before the start line of a datagram are ignored (7.5)."""
    receiver = Receiver()
    protocol, _ = connected(receiver)
    protocol.datagramReceived(b"\r\n\r\n" + REQUEST, SOURCE)
    assert len(receiver.messages) == 1


def test_no_memory() -> None:
    """A datagram that is broken off leaves nothing behind for the next one (18.3)."""
    receiver = Receiver()
    protocol, _ = connected(receiver)
    protocol.datagramReceived(REQUEST[:-2], SOURCE)
    protocol.datagramReceived(OTHER_REQUEST, SOURCE)
    assert [message.to_bytes() for message in receiver.messages] == [OTHER_REQUEST]
    assert len(receiver.faults) == 1


@given(st.binary(max_size=300))
def test_any_datagram(data: bytes) -> None:
    """Any datagram is a message, a syntax error or a keep-alive, and raises nothing (18.3)."""
    receiver = Receiver()
    protocol, _ = connected(receiver)
    protocol.datagramReceived(data, SOURCE)
    assert len(receiver.flows) <= 1


@given(st.lists(st.tuples(st.integers(0, len(OTHER_REQUEST) - 1), st.binary(max_size=3)), max_size=6))
def test_damaged_datagram(damages: list[tuple[int, bytes]]) -> None:
    """However a request is damaged, it is a message or a syntax error (18.3)."""
    data = bytearray(OTHER_REQUEST)
    for position, octets in damages:
        data[position : position + 1] = octets
    receiver = Receiver()
    protocol, _ = connected(receiver)
    protocol.datagramReceived(bytes(data), SOURCE)
    assert len(receiver.flows) == 1


def test_bound_of_a_message() -> None:
    """A message of max_message octets is taken, one longer is to be refused 513 (21.5.7)."""
    receiver = Receiver()
    protocol, _ = connected(receiver, max_message=len(OTHER_REQUEST))
    protocol.datagramReceived(OTHER_REQUEST, SOURCE)
    assert len(receiver.messages) == 1
    protocol.datagramReceived(OTHER_REQUEST + b"!", SOURCE)
    (fault,) = receiver.faults
    assert fault.status == 513
    assert fault.request is not None
    assert fault.request.call_id == make_request().call_id


def test_bound_of_a_header_section() -> None:
    """A header section of max_header octets is taken, one longer is to be refused 513, however short the message."""
    receiver = Receiver()
    head = OTHER_REQUEST.index(b"\r\n\r\n") + 4
    protocol, _ = connected(receiver, max_header=head)
    protocol.datagramReceived(OTHER_REQUEST, SOURCE)
    assert len(receiver.messages) == 1
    protocol.datagramReceived(OTHER_REQUEST.replace(b"MESSAGE", b"MESSAGES"), SOURCE)
    (fault,) = receiver.faults
    assert fault.status == 513
    assert fault.request is not None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, ("198.51.100.1", 5060)),
        (Address("sip.example.com", 0), ("sip.example.com", 5060)),
        (Address("sip.example.com", 5070), ("sip.example.com", 5070)),
    ],
)
def test_advertised_address(given: Address | None, told: tuple[str, int]) -> None:
    """A flow tells the address that others are to be told; its port is the socket's own unless one was given."""
    receiver = Receiver()
    protocol = SIPDatagramProtocol(receiver, advertised_address=given)
    protocol.makeConnection(Transport())
    protocol.datagramReceived(REQUEST, SOURCE)
    (flow,) = receiver.flows
    assert flow.advertised_address == told
    assert flow.local_address == ("198.51.100.1", 5060)


def test_too_long_and_no_request() -> None:
    """Too long and not even a request: there is nobody to be told 513."""
    receiver = Receiver()
    protocol, _ = connected(receiver, max_message=100)
    protocol.datagramReceived(b"x" * 101, SOURCE)
    protocol.datagramReceived(make_request().response(200).to_bytes("tag"), SOURCE)
    assert [fault.request for fault in receiver.faults] == [None, None]
    assert receiver.messages == []


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.EINVAL, "Invalid argument"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMSGSIZE, "Message too long"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        MessageLengthError("message too long"),
        OverflowError("port must be 0-65535"),
        ValueError("no address"),
    ],
)
def test_what_the_system_refuses(failure: Exception) -> None:
    """A datagram that the system refuses is a TransportError that says why, and no other exception (17.2.4)."""
    protocol, _ = connected(Receiver(), Transport(failure=failure))
    with pytest.raises(TransportError) as raised:
        protocol.send(b"answer", SOURCE)
    assert str(failure) in str(raised.value)


@pytest.mark.parametrize(
    "failure",
    [
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        InterruptedError(errno.EINTR, "Interrupted system call"),
        OSError(errno.ENOBUFS, "No buffer space available"),
    ],
)
def test_full_send_buffer(failure: Exception) -> None:
    """A datagram for which there is no room is lost like any other, and no fault of the flow (18.1.1, 17.2.4)."""
    protocol, _ = connected(Receiver(), Transport(failure=failure))
    protocol.send(b"answer", SOURCE)


def test_closed() -> None:
    """Before the socket is bound and after it is closed, nothing can be sent, and the flow says so."""
    receiver = Receiver()
    protocol = SIPDatagramProtocol(receiver)
    with pytest.raises(TransportError):
        protocol.send(b"answer", SOURCE)
    transport = Transport()
    protocol.makeConnection(transport)
    protocol.datagramReceived(REQUEST, SOURCE)
    (flow,) = receiver.flows
    assert not flow.closed
    protocol.doStop()
    assert flow.closed
    with pytest.raises(TransportError):
        flow.send(b"answer")
    assert transport.written == []


@pytest.mark.parametrize(
    ("source", "remote"),
    [
        (("2001:db8::9", 7), ("2001:db8::9", 7)),
        (("::ffff:192.0.2.9", 7), ("192.0.2.9", 7)),
        (("fe80::1%2", 7), ("fe80::1", 7)),
    ],
)
def test_dual_stack(source: tuple[str, int], remote: tuple[str, int]) -> None:
    """On an IPv6 socket IPv4 peers look like IPv4, and are answered by the address that the socket knows (RFC 4291)."""
    receiver = Receiver()
    protocol, transport = connected(receiver, Transport(IPv6Address("UDP", "::", 5060)))
    protocol.datagramReceived(REQUEST, source)
    (flow,) = receiver.flows
    assert flow.remote_address == remote
    flow.send(b"answer")
    flow.towards(Address("192.0.2.9", 5060)).send(b"elsewhere")
    assert transport.written == [(b"answer", source), (b"elsewhere", ("::ffff:192.0.2.9", 5060))]


class FakeSocket:
    """A non-blocking UDP socket on which *datagrams* wait; an exception among them is raised."""

    def __init__(self, datagrams: list[Any]) -> None:
        self.datagrams = datagrams
        self.sent: list[tuple[bytes, Any]] = []
        self.pending_error: OSError | None = None

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        if not self.datagrams:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        item = self.datagrams.pop(0)
        if isinstance(item, Exception):
            raise item
        data, address = item
        return data[:size], address

    def sendto(self, data: bytes, address: Any) -> int:
        if self.pending_error is not None:
            pending, self.pending_error = self.pending_error, None
            raise pending
        self.sent.append((data, address))
        return len(data)

    def sendmsg(self, pieces: tuple[bytes], ancillary: Any, flags: int, address: Any) -> int:
        return self.sendto(pieces[0], address)

    def recvmsg(self, size: int, space: int, flags: int) -> tuple[bytes, Any, int, Any]:
        """There is no report on the error queue."""
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def port_with(receiver: Receiver, datagrams: list[Any], interface: str = "198.51.100.1") -> Any:
    """A port on a fake socket."""
    protocol = SIPDatagramProtocol(receiver)
    port: Any = SIPDatagramPort(5060, protocol, interface, MAX_DATAGRAM, MemoryReactor())
    port.socket = FakeSocket(datagrams)
    port.connected = True
    host = (IPv6Address if ":" in interface else IPv4Address)("UDP", interface, 5060)
    port.getHost = lambda: host
    protocol.makeConnection(port)
    return port


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", REQUEST, b"x" * 65507])
def test_batch(data: bytes) -> None:
    """One wake-up reads at most `batch` datagrams, however short or long; the rest is read in its turn."""
    waiting = [(data, SOURCE)] * 7
    port = port_with(Receiver(), waiting)
    port.batch = 3
    left = []
    for _ in range(4):
        port.doRead()
        left.append(len(waiting))
    assert left == [4, 1, 0, 0]


def test_long_turn() -> None:
    """Requests that take their time have others wait no longer than a few milliseconds, however many they are."""
    waiting = [(REQUEST, SOURCE)] * 40
    port = port_with(Receiver(lambda flow: time.sleep(0.0005)), waiting)
    port.doRead()
    assert len(waiting) in (32, 24), "the time is looked at after every eighth"


def test_largest_datagram() -> None:
    """A datagram is not cut, up to the largest there is (18.1.1)."""
    receiver = Receiver()
    data = make_request("MESSAGE", body=b"x" * 65000).to_bytes()
    port_with(receiver, [(data, SOURCE)]).doRead()
    assert [len(message.body) for message in receiver.messages] == [65000]


def test_errors_of_earlier_datagrams() -> None:
    """An ICMP error for what was sent to one peer does not keep the next peer's request from being read (18.4)."""
    receiver = Receiver()
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    unreachable = OSError(errno.EHOSTUNREACH, "No route to host")
    port_with(receiver, [refused, (REQUEST, SOURCE), unreachable, (OTHER_REQUEST, SOURCE)]).doRead()
    assert len(receiver.messages) == 2


def test_error_of_an_earlier_datagram_when_sending() -> None:
    """An ICMP error for what was sent to one peer does not keep the next peer's answer from being sent (18.4)."""
    port = port_with(Receiver(), [])
    port.socket.pending_error = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    port.protocol.send(b"answer", SOURCE)
    assert port.socket.sent == [(b"answer", SOURCE)]


def test_exception_of_a_receiver(logged_failures: list[LogEvent]) -> None:
    """A receiver that raises is logged, and the next datagram is served all the same."""

    def fail(flow: IFlow) -> None:
        raise RuntimeError("a fault of ours")

    receiver = Receiver(fail)
    port_with(receiver, [(REQUEST, SOURCE), (OTHER_REQUEST, SOURCE)]).doRead()
    assert len(receiver.messages) == 2
    assert [event["log_failure"].type for event in logged_failures] == [RuntimeError] * 2
    logged_failures.clear()


def test_closed_while_reading() -> None:
    """A port that is closed by what it has just received reads no further."""
    receiver = Receiver(lambda flow: setattr(port, "connected", False))
    port = port_with(receiver, [(REQUEST, SOURCE)] * 3)
    port.doRead()
    assert len(receiver.messages) == 1


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (("2001:db8::9", 7, 0, 0), ("2001:db8::9", 7)),
        (("fe80::9", 7, 0, 2), ("fe80::9%2", 7)),
        (("::ffff:192.0.2.9", 7, 0, 0), ("::ffff:192.0.2.9", 7)),
    ],
)
def test_ipv6_source(source: tuple[str, int, int, int], destination: tuple[str, int]) -> None:
    """The answer to a link-local peer leaves by the interface on which its request came (RFC 4007, 6)."""
    receiver = Receiver()
    port = port_with(receiver, [(REQUEST, source)], "::")
    port.doRead()
    (flow,) = receiver.flows
    flow.send(b"answer")
    flow.towards(Address(flow.remote_address.host, 5060)).send(b"elsewhere")
    assert port.socket.sent == [(b"answer", destination), (b"elsewhere", (destination[0], 5060))]


def test_many_sources() -> None:
    """The flow of a source is the same for each of its datagrams, and flows are kept in bounded number."""
    receiver = Receiver()
    protocol, _ = connected(receiver)
    for port in (1, 2, 1):
        protocol.datagramReceived(REQUEST, ("192.0.2.1", port))
    first, second, third = receiver.flows
    assert first is third
    assert first is not second
    for port in range(1, 5000):
        protocol.datagramReceived(REQUEST, ("192.0.2.1", port))
    assert len(protocol._flows) <= 1024
    assert [flow.remote_address.port for flow in receiver.flows[3:]] == list(range(1, 5000))
