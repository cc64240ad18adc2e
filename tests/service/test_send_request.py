"""Does the service send requests of its own, find their responses, and end its calls before it stops?"""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredQueue, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface.verify import verifyObject

from tests.any_reactor import reactor
from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import Address, IRequestSender
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.framing import KEEP_ALIVE, StreamFramer
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.syntax.uri import SIPURI, parse_uri
from twisted_sipuas.testing import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.transaction.admission import Protection


def bye(body: bytes = b"") -> Any:
    """A BYE without a Via, as a transaction user makes it."""
    rows = [
        ("Max-Forwards", "70"),
        ("From", "<sip:bob@example.com>;tag=b"),
        ("To", "<sip:alice@example.com>;tag=a"),
        ("Call-ID", "1@192.0.2.1"),
        ("CSeq", "7 BYE"),
    ]
    return Request("BYE", "sip:alice@192.0.2.1", rows, body)


def request_in(octets: bytes) -> Request:
    request = parse_message(octets)
    assert isinstance(request, Request)
    return request


class World:
    """A service without sockets on a clock; `results` has what became of its requests."""

    def __init__(self, user: Any = None, flow: Any = None, **options: Any) -> None:
        self.clock = Clock()
        self.user = user or RecordingTransactionUser()
        self.service = SIPService(self.clock, self.user, protection=Protection(max_lag=0), **options)
        self.flow = flow or RecordingFlow("UDP", ("192.0.2.1", 40000))
        self.results: list[Any] = []
        self.stopped: list[Any] = []
        self.service.startService()

    def send(self, next_hop: str = "sip:alice@192.0.2.1:40000", is_proven: bool = False, body: bytes = b"") -> Any:
        """Send a BYE; returns the octets, if they went out."""
        before = len(self.flow.sent)
        self.service.send_request(bye(body), SIPURI(next_hop), self.flow, is_proven).addBoth(self.results.append)
        return self.flow.sent[-1][0] if len(self.flow.sent) > before else None

    def answer(self, octets: Any, status: Any = 200) -> None:
        """The peer answers what was sent."""
        response = parse_message(request_in(octets).response(status).to_bytes("a"))
        self.service.message_received(response, self.flow)

    def stop(self) -> None:
        self.service.stopService().addCallback(self.stopped.append)


def test_request_and_response() -> None:
    """A request goes to the next hop by the peer's socket, and its response is handed back, not stray (17.1.3)."""
    world = World()
    verifyObject(IRequestSender, world.service)
    octets = world.send("sip:alice@192.0.2.1:5070")
    assert world.flow.sent[-1][1] == Address("192.0.2.1", 5070)
    assert world.service.counters["requests_pending"] == 1
    world.answer(octets, 100)
    assert world.results == []
    world.answer(octets)
    assert [response.status for response in world.results] == [200]
    assert world.service.counters["stray_responses"] == 0
    world.stop()
    assert world.clock.getDelayedCalls() == []


def test_stray_response() -> None:
    """A response to no request of ours is counted, and changes nothing (18.1.2)."""
    world = World()
    octets = world.send()
    world.answer(octets.replace(b"z9hG4bK", b"z9hG4bKx"))
    assert world.service.counters["stray_responses"] == 1
    assert world.results == []
    world.stop()


@pytest.mark.parametrize(
    ("transport", "advertised", "sent_by"),
    [
        ("UDP", ("198.51.100.1", 5060), "UDP 198.51.100.1:5060"),
        ("UDP", ("2001:db8::1", 5070), "UDP [2001:db8::1]:5070"),
        ("TCP", ("sip.example.com", 5060), "TCP sip.example.com:5060"),
        ("TLS", ("sip.example.com", 5061), "TLS sip.example.com:5061"),
    ],
)
def test_sent_by(transport: Any, advertised: Any, sent_by: str) -> None:
    """The sent-by of the Via is the advertised address of the flow, always with its port (18.1.1)."""
    flow: Any = RecordingFlow(transport, ("192.0.2.1", 40000))
    flow.advertised_address = Address(*advertised)
    flow.towards = lambda address: flow
    world = World(flow=flow)
    octets = world.send()
    assert octets.split(b"\r\n")[1].decode().startswith(f"Via: SIP/2.0/{sent_by};branch=z9hG4bK")
    world.stop()


@pytest.mark.requirement("18.4-1")
def test_request_lost() -> None:
    """An ICMP error for a request fails it; one for a response is none of its business (18.4)."""
    world = World()
    octets = world.send()
    response = request_in(octets).response(200).to_bytes("a")
    world.service.sending_failed(response[:200], world.flow)
    assert world.results == []
    world.service.sending_failed(octets[:200], world.flow)
    assert world.results[0].check(TransportError)
    assert world.clock.getDelayedCalls() == []


def test_no_way() -> None:
    """A next hop to which there is no way fails the request, and the counters tell of it."""
    world = World(flow=RecordingFlow("UDP", ("192.0.2.1", 40000)))
    assert world.send("sip:alice@192.0.2.99;transport=tcp") is None
    assert world.results[0].check(TransportError)
    assert world.service.counters["requests_not_followed"] == 1
    assert world.service.counters["requests_pending"] == 0


def test_no_response() -> None:
    """Without a response the request fails after 64*T1 (17.1.2.2, Timer F)."""
    world = World()
    world.send()
    world.clock.pump([0.5] * 63)
    assert world.results == []
    world.clock.pump([0.5] * 1)
    assert world.results[0].check(TransportError)
    assert world.clock.getDelayedCalls() == []


def test_sender_is_handed_on() -> None:
    """A transaction user that wants to send requests is given the service."""
    given: list[Any] = []
    user: Any = RecordingTransactionUser()
    user.use_sender = given.append
    service = SIPService(Clock(), user)
    assert given == [service]


def test_trace_is_handed_on() -> None:
    """The trace of a service is that of its layer."""
    traced = []
    world = World(trace=lambda request, response, flow: traced.append((request.method, response.status, flow)))
    request = make_request("MESSAGE")
    world.service.message_received(request, world.flow)
    world.user.calls[0][2].respond(request.response(202))
    assert traced == [("MESSAGE", 202, world.flow)]
    world.stop()


# Stopping


class Calls(RecordingTransactionUser):
    """A transaction user with a call; `end_calls` sends BYE."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: Deferred[Any] | None = None
        self.world: Any = None

    def end_calls(self) -> Any:
        self.world.send()
        self.ended = Deferred()
        return self.ended

    @classmethod
    def in_world(cls) -> Any:
        user = cls()
        user.world = World(user)
        return user.world, user


def test_calls_are_ended() -> None:
    """To stop is to end the calls, at once, and to wait until that is done."""
    world, user = Calls.in_world()
    world.stop()
    octets = world.flow.sent[-1][0]
    assert octets.startswith(b"BYE ")
    assert world.stopped == []
    world.answer(octets)
    assert [response.status for response in world.results] == [200]
    user.ended.callback(None)
    assert world.stopped == [None]
    assert world.clock.getDelayedCalls() == []


def test_requests_in_progress_are_waited_for_too() -> None:
    """That the calls have ended does not end the wait for what is owed an answer."""
    world, user = Calls.in_world()
    request = make_request("MESSAGE")
    world.service.message_received(request, world.flow)
    world.stop()
    user.ended.callback(None)
    assert world.stopped == []
    user.calls[0][2].respond(request.response(202))
    assert world.stopped == [None]
    assert world.clock.getDelayedCalls() == []


def test_calls_have_five_seconds() -> None:
    """After 5 seconds the calls are given up: their requests fail, who ended them is told, and no timer is left."""
    world, user = Calls.in_world()
    world.stop()
    world.clock.pump([0.25] * 19)
    assert (world.stopped, user.ended.called) == ([], False)
    world.clock.pump([0.25])
    assert world.stopped == [None]
    assert user.ended.called
    assert world.results[0].check(TransportError)
    assert world.clock.getDelayedCalls() == []


def test_hasten_stop() -> None:
    """Who is in a hurry waits for no call."""
    world, _ = Calls.in_world()
    world.stop()
    world.service.hasten_stop()
    assert world.stopped == [None]
    assert world.clock.getDelayedCalls() == []


@pytest.mark.parametrize("is_late", [False, True])
def test_end_calls_fails(logged_failures: list[LogEvent], is_late: bool) -> None:
    """A transaction user that fails to end its calls is logged, and the service stops all the same."""
    world, user = Calls.in_world()
    failure = RuntimeError("no such call")
    no_calls: dict[Any, Any] = {}
    user.end_calls = lambda: fail(failure) if is_late else no_calls[failure]
    world.stop()
    assert world.stopped == [None]
    assert [event["log_failure"].value.args[0] for event in logged_failures] in ([failure], ["no such call"])
    logged_failures.clear()
    assert world.clock.getDelayedCalls() == []


def test_peers_bye_while_stopping() -> None:
    """While the calls are being ended the peer's own BYE reaches the transaction user, and a new call does not."""
    world, user = Calls.in_world()
    world.stop()
    request = make_request("BYE", branch="z9hG4bK1", to="<sip:bob@example.com>;tag=b")
    world.service.message_received(request, world.flow)
    user.calls[0][2].respond(request.response(200))
    world.service.message_received(make_request("INVITE", branch="z9hG4bK2"), world.flow)
    assert [response.status for response in world.flow.responses] == [200, 503]
    world.service.hasten_stop()


def test_send_while_stopped() -> None:
    """A request after the stop fails, and leaves no timer; after the next start it is sent."""
    world = World()
    world.stop()
    assert world.send() is None
    assert world.results.pop().check(TransportError)
    assert world.clock.getDelayedCalls() == []
    world.service.startService()
    assert world.send() is not None
    world.stop()


# On sockets


class Peer(DatagramProtocol):
    """A UDP peer; `requests` has what it received."""

    transport: Any

    def __init__(self) -> None:
        self.requests: Any = DeferredQueue()

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        message = parse_message(data)
        if isinstance(message, Request):
            self.requests.put(message)
            self.transport.write(message.response(200).to_bytes("a"), addr)


class StreamPeer(Protocol):
    """A TCP peer; its factory's `requests` has what it received."""

    transport: Any

    def __init__(self, requests: Any) -> None:
        self.requests = requests
        self.framer = StreamFramer()

    def dataReceived(self, data: bytes) -> None:
        self.framer.receive(data)
        while (octets := self.framer.next_message()) is not None:
            if octets is not KEEP_ALIVE and isinstance(message := parse_message(octets), Request):
                self.requests.put(message)
                self.transport.write(message.response(200).to_bytes("a"))


class StreamPeers(Factory):
    def __init__(self) -> None:
        self.requests: Any = DeferredQueue()

    def buildProtocol(self, addr: Any) -> Any:
        return StreamPeer(self.requests)


class Serving:
    """A service on loopback, whose transaction user keeps the flows of what comes."""

    def __init__(self, listen: str = "udp:0:interface=127.0.0.1") -> None:
        self.flows: Any = DeferredQueue()
        user = RecordingTransactionUser(self._answer)
        self.service = SIPService(reactor, user, [listen])

    def _answer(self, request: Request, transaction: Any) -> None:
        transaction.respond(request.response(200))
        self.flows.put(transaction.flow)

    async def __aenter__(self) -> Any:
        self.service.startService()
        self.port = self.service.listening[0].address.port
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.service.stopService()


OPTIONS = make_request("OPTIONS", branch="z9hG4bK1", sent_by="client.invalid;rport")


@pytest_twisted.ensureDeferred
async def test_by_udp() -> None:
    """By UDP the request leaves from the port that the peer sent to (18.1.1; RFC 3581, 4)."""
    async with Serving() as serving:
        peer = Peer()
        port = reactor.listenUDP(0, peer, interface="127.0.0.1")
        peer.transport.write(OPTIONS.to_bytes(), ("127.0.0.1", serving.port))
        flow = await serving.flows.get()
        next_hop = parse_uri(f"sip:alice@127.0.0.1:{port.getHost().port}")
        response = await serving.service.send_request(bye(), next_hop, flow, False)
        assert response.status == 200
        request = await peer.requests.get()
        assert request.via.sent_by == f"127.0.0.1:{serving.port}"
        await port.stopListening()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("transport", "size"), [("tcp", 0), ("udp", 1100)])
async def test_by_a_new_connection(transport: Any, size: int) -> None:
    """For TCP, and for a request whose Via makes it too large for UDP, a connection is opened (18.1.1)."""
    async with Serving() as serving:
        peers, peer = StreamPeers(), Peer()
        listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(peers)
        port = reactor.listenUDP(0, peer, interface="127.0.0.1")
        peer.transport.write(OPTIONS.to_bytes(), ("127.0.0.1", serving.port))
        flow = await serving.flows.get()
        next_hop = parse_uri(f"sip:alice@127.0.0.1:{listening.getHost().port};transport={transport}")
        response = await serving.service.send_request(bye(b"x" * size), next_hop, flow, False)
        assert response.status == 200
        assert (await peers.requests.get()).via.transport == "TCP"
        assert serving.service.counters["connections"] == 1
        await port.stopListening()
        await listening.stopListening()


@pytest.mark.requirement("18.4-3")
@pytest_twisted.ensureDeferred
async def test_connection_refused() -> None:
    """A request whose connection is refused fails at once, and not after the 32 seconds of Timer F (18.4)."""
    async with Serving() as serving:
        peer = Peer()
        port = reactor.listenUDP(0, peer, interface="127.0.0.1")
        peer.transport.write(OPTIONS.to_bytes(), ("127.0.0.1", serving.port))
        flow = await serving.flows.get()
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            next_hop = parse_uri(f"sip:alice@127.0.0.1:{nobody.getsockname()[1]};transport=tcp")
            with pytest.raises(TransportError, match="no way to the next hop by TCP"):
                await serving.service.send_request(bye(), next_hop, flow, False)
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_by_the_connection_that_there_is() -> None:
    """A peer that connected to us gets the request on its connection, wherever it says it is (RFC 5923)."""
    async with Serving() as serving:
        peer = StreamPeer(DeferredQueue())
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", serving.port), peer)
        peer.transport.write(OPTIONS.to_bytes().replace(b"/UDP", b"/TCP"))
        flow = await serving.flows.get()
        response = await serving.service.send_request(bye(), parse_uri("sip:alice@192.0.2.9"), flow, False)
        assert response.status == 200
        assert (await peer.requests.get()).via.sent_by == f"127.0.0.1:{serving.port}"
        peer.transport.abortConnection()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("listen", ["udp:0:interface=127.0.0.1", "udp:0:interface=0.0.0.0"])
async def test_by_udp_after_a_connection(listen: Any) -> None:
    """Where the connection is gone, and the next hop is by UDP, the request leaves by our own socket (18.1.1).

    If that is bound to all addresses, sent-by is the one that the connection led to.
    """
    async with Serving(listen) as serving:
        peer = Peer()
        port = reactor.listenUDP(0, peer, interface="127.0.0.1")
        flow = RecordingFlow("TCP", ("127.0.0.1", 1), ("127.0.0.1", serving.port))
        flow.closed = True
        next_hop = parse_uri(f"sip:alice@127.0.0.1:{port.getHost().port}")
        response = await serving.service.send_request(bye(), next_hop, flow, False)
        assert response.status == 200
        assert (await peer.requests.get()).via.sent_by == f"127.0.0.1:{serving.port}"
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_sent_by_of_a_new_connection() -> None:
    """In place of a connection that is gone, sent-by is where that one came to, not where we connect from (18.1.1)."""
    async with Serving() as serving:
        peers = StreamPeers()
        listening = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(peers)
        flow = RecordingFlow("TCP", ("127.0.0.1", 1), ("127.0.0.1", serving.port))
        flow.closed = True
        next_hop = parse_uri(f"sip:alice@127.0.0.1:{listening.getHost().port};transport=tcp")
        await serving.service.send_request(bye(), next_hop, flow, False)
        assert (await peers.requests.get()).via.sent_by == f"127.0.0.1:{serving.port}"
        await listening.stopListening()
