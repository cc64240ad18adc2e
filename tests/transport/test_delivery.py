"""Does a response find its other way when its flow failed, and can nobody make it, or us, go where they please?"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from twisted.names import common, dns
from twisted.names.error import DNSNameError
from twisted.names.server import DNSServerFactory

from tests.any_reactor import reactor
from twisted_sipuas.interfaces import Address
from twisted_sipuas.testing import RecordingFlow, make_request
from twisted_sipuas.transport.delivery import ResponseDelivery
from twisted_sipuas.transport.flow import DatagramFlow
from twisted_sipuas.transport.locate import NameServerResolver
from twisted_sipuas.transport.routing import response_route, stamp
from twisted_sipuas.transport.udp import SIPDatagramProtocol

SOURCE = ("192.0.2.1", 40000)
TRUSTED = "192.0.2.1"
TIMEOUT = 5.0


class Zone(common.ResolverBase):
    """An IResolver that knows the addresses of names; `queries` has the names asked for, SILENT ones never answer."""

    def __init__(self, **names: list[str]) -> None:
        super().__init__()
        self.names = {f"{name}.example.com": addresses for name, addresses in names.items()}
        self.services: list[dns.Record_SRV] = []
        self.queries: list[str] = []
        self.silent = False

    def _lookup(self, name: bytes, cls: int, type: int, timeout: Any) -> Deferred[Any]:
        self.queries.append(name.decode())
        if self.silent:
            return Deferred()
        records: list[Any] = self.services if type == dns.SRV else []
        if type == dns.A:
            records = [dns.Record_A(address) for address in self.names.get(name.decode(), [])]
        if not records:
            return fail(DNSNameError(name))
        return succeed(([dns.RRHeader(name, type, dns.IN, 60, record) for record in records], [], []))


class Bench:
    """A `ResponseDelivery` and all that it is handed. `calls` has what it did, in order."""

    def __init__(self, trusted: str | None = TRUSTED, zone: Zone | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.zone = zone or Zone(ua=["192.0.2.7"])
        self.calls: list[tuple[object, ...]] = []
        self.attempts: list[Deferred[Any]] = []
        self.failures: list[bytes] = []
        self.delivery = ResponseDelivery(
            self.clock,
            options.pop("connect", self.connect),
            is_trusted=lambda host: host == trusted,
            resolver=options.pop("resolver", self.resolver),
            failed=options.pop("failed", self.failures.append),
            **options,
        )

    def connect(self, transport: str, address: Address, host: str) -> Deferred[Any]:
        self.calls.append((transport, str(address), host))
        self.attempts.append(Deferred(lambda _: self.calls.append(("cancelled", str(address)))))
        return self.attempts[-1]

    def resolver(self) -> Zone:
        self.calls.append(("resolver",))
        return self.zone

    def connected(self, attempt: int = -1, transport: str = "TCP") -> RecordingFlow:
        """The attempt succeeds."""
        flow = RecordingFlow(transport)
        self.attempts[attempt].callback(flow)
        return flow

    def refused(self, attempt: int = -1) -> None:
        """The attempt fails."""
        self.attempts[attempt].errback(ConnectionRefusedError())

    def counted(self) -> dict[str, int]:
        return {name: count for name, count in self.delivery.counters.items() if count}

    def is_idle(self) -> bool:
        return not self.clock.getDelayedCalls()


def response(flow: Any, sent_by: str = "ua.example.com", transport: str | None = None, cseq: int = 1) -> bytes:
    """The response to a request that came on *flow* with this Via."""
    request = make_request("OPTIONS", sent_by=sent_by, transport=transport or flow.transport, cseq=cseq)
    stamp(request, flow)
    return request.response(200).to_bytes("tag")


def stream(transport: str = "TCP", source: tuple[str, int] = SOURCE) -> RecordingFlow:
    """A connection that is gone."""
    flow = RecordingFlow(transport, source)
    flow.failure = "gone"
    return flow


# 18.2.2, reliable transports


@pytest.mark.requirement("18.2.2-4", "17.2.4-1")
@pytest.mark.parametrize(
    ("transport", "sent_by", "destination", "host"),
    [
        ("TCP", "ua.example.com", "192.0.2.1:5060", "ua.example.com"),
        ("TCP", "ua.example.com:5070", "192.0.2.1:5070", "ua.example.com"),
        ("TLS", "ua.example.com", "192.0.2.1:5061", "ua.example.com"),
        ("TLS", "ua.example.com:5070", "192.0.2.1:5070", "ua.example.com"),
        ("TCP", "192.0.2.1", "192.0.2.1:5060", "192.0.2.1"),
        ("TCP", "198.51.100.9:5080", "192.0.2.1:5080", "198.51.100.9"),
    ],
)
@pytest.mark.parametrize("trusted", [None, TRUSTED])
def test_reconnected(transport: str, sent_by: str, destination: str, host: str, trusted: str | None) -> None:
    """For a lost connection one is opened to the source address, at the port of sent-by or the default (18.2.2)."""
    bench = Bench(trusted)
    gone = stream(transport)
    octets = response(gone, sent_by)
    assert bench.delivery.redeliver(octets, gone)
    assert bench.calls == [(transport, destination, host)]
    flow = bench.connected(transport=transport)
    assert [data for data, _ in flow.sent] == [octets]
    assert bench.counted() == {"reconnected": 1}
    assert bench.failures == []
    assert bench.is_idle()


@pytest.mark.requirement("18.2.2-4")
def test_ipv6_source() -> None:
    """The same for IPv6."""
    bench = Bench()
    gone = stream(source=("2001:db8::1", 40000))
    assert bench.delivery.redeliver(response(gone, "[2001:db8::2]:5070"), gone)
    assert bench.calls == [("TCP", "[2001:db8::1]:5070", "[2001:db8::2]")]


@pytest.mark.requirement("18.2.2-5", "3263-1")
def test_relocated() -> None:
    """If the source takes no connection, and is trusted, the addresses of sent-by are tried in their order (18.2.2)."""
    bench = Bench(zone=Zone(ua=["192.0.2.7", "192.0.2.1", "192.0.2.8", "192.0.2.9"]))
    gone = stream()
    octets = response(gone, "ua.example.com:5070")
    assert bench.delivery.redeliver(octets, gone)
    bench.refused()
    bench.refused()
    flow = bench.connected()
    assert bench.calls == [
        ("TCP", "192.0.2.1:5070", "ua.example.com"),
        ("resolver",),
        ("TCP", "192.0.2.7:5070", "ua.example.com"),
        ("TCP", "192.0.2.8:5070", "ua.example.com"),
    ]
    assert [data for data, _ in flow.sent] == [octets]
    assert bench.counted() == {"relocated": 1}
    assert bench.failures == []
    assert bench.is_idle()


@pytest.mark.requirement("18.2.2-5", "18.2.2-10")
def test_relocated_to_numeric() -> None:
    """A numeric sent-by is an address to try; nobody is asked for it (RFC 3263, 5)."""
    bench = Bench()
    gone = stream()
    assert bench.delivery.redeliver(response(gone, "198.51.100.9:5080"), gone)
    bench.refused()
    assert [call for call in bench.calls if call != ("resolver",)] == [
        ("TCP", "192.0.2.1:5080", "198.51.100.9"),
        ("TCP", "198.51.100.9:5080", "198.51.100.9"),
    ]
    assert bench.zone.queries == []


@pytest.mark.requirement("18.2.2-5")
def test_service_of_transport() -> None:
    """Without a port the SRV records for the transport of the flow are asked for (RFC 3263, 5)."""
    bench = Bench(zone=Zone(ua=["192.0.2.7"]))
    bench.zone.services = [dns.Record_SRV(0, 0, 5099, "ua.example.com")]
    gone = stream("TLS")
    assert bench.delivery.redeliver(response(gone), gone)
    bench.refused()
    assert bench.zone.queries[0] == "_sips._tcp.ua.example.com"
    assert bench.calls[-1] == ("TLS", "192.0.2.7:5099", "ua.example.com")


@pytest.mark.requirement("17.2.4-1")
def test_all_ways_failed() -> None:
    """If no way works the transport's user is told, once (17.2.4)."""
    bench = Bench()
    gone = stream()
    octets = response(gone)
    assert bench.delivery.redeliver(octets, gone)
    bench.refused()
    assert bench.failures == []
    bench.refused()
    assert bench.failures == [octets]
    assert bench.counted() == {"failed": 1}
    assert bench.is_idle()


def test_failed_at_once() -> None:
    """What is known to fail before `redeliver` returns is its own answer."""
    bench = Bench(connect=lambda *_: fail(ConnectionRefusedError()))
    gone = stream()
    assert not bench.delivery.redeliver(response(gone), gone)
    assert bench.failures == []
    assert bench.counted() == {"failed": 1}
    assert bench.is_idle()


def test_connect_raises() -> None:
    """To raise instead of failing makes no difference."""

    def connect(*_: object) -> Deferred[Any]:
        raise ValueError("no TLS here")

    bench = Bench(None, connect=connect)
    gone = stream()
    assert not bench.delivery.redeliver(response(gone), gone)
    assert bench.is_idle()


@pytest.mark.requirement("18.2.2-4")
@pytest.mark.parametrize(("flow", "via"), [("TLS", "TLS"), ("TLS", "TCP"), ("TCP", "TLS")])
def test_never_in_clear(flow: str, via: str) -> None:
    """What came by TLS, as the connection or the Via says, goes by TLS at every step (RFC 3263, 5)."""
    bench = Bench()
    gone = stream(flow)
    assert bench.delivery.redeliver(response(gone, transport=via), gone)
    bench.refused()
    bench.refused()
    connects = [call for call in bench.calls if call != ("resolver",)]
    assert connects == [("TLS", "192.0.2.1:5061", "ua.example.com"), ("TLS", "192.0.2.7:5061", "ua.example.com")]


# Shared connections


@pytest.mark.requirement("18.2.2-4")
def test_shared_attempt() -> None:
    """Responses for one peer wait for one connection and go out in their order."""
    bench = Bench()
    gone = stream()
    octets = [response(gone, cseq=number) for number in range(1, 4)]
    assert all(bench.delivery.redeliver(data, gone) for data in octets)
    assert len(bench.calls) == 1
    flow = bench.connected()
    assert [data for data, _ in flow.sent] == octets
    assert bench.counted() == {"reconnected": 3}


def test_shared_failure() -> None:
    """If that one fails, it failed for all of them."""
    bench = Bench(None)
    gone = stream()
    octets = [response(gone, cseq=number) for number in range(1, 4)]
    for data in octets:
        assert bench.delivery.redeliver(data, gone)
    bench.refused()
    assert bench.failures == octets
    assert bench.is_idle()


def test_kept() -> None:
    """A connection that was opened is used again while it is open, and opened anew when it is not."""
    bench = Bench()
    gone = stream()
    assert bench.delivery.redeliver(response(gone), gone)
    flow = bench.connected()
    assert bench.delivery.redeliver(response(gone), gone)
    assert len(flow.sent) == 2
    assert len(bench.calls) == 1
    flow.closed = True
    assert bench.delivery.redeliver(response(gone), gone)
    assert len(bench.calls) == 2
    assert len(bench.connected().sent) == 1


def test_kept_for_another() -> None:
    """Another port, transport or, for TLS, name to be verified is another connection; for TCP the name is nothing."""
    bench = Bench()
    tcp, tls = stream(), stream("TLS")
    for flow, sent_by in [
        (tcp, "ua.example.com:5070"),
        (tcp, "UA2.example.com:5070"),
        (tcp, "ua.example.com:5071"),
        (tls, "ua.example.com:5070"),
        (tls, "UA.example.com:5070"),
        (tls, "ua2.example.com:5070"),
    ]:
        assert bench.delivery.redeliver(response(flow, sent_by), flow)
    assert bench.calls == [
        ("TCP", "192.0.2.1:5070", "ua.example.com"),
        ("TCP", "192.0.2.1:5071", "ua.example.com"),
        ("TLS", "192.0.2.1:5070", "ua.example.com"),
        ("TLS", "192.0.2.1:5070", "ua2.example.com"),
    ]


def test_kept_bound() -> None:
    """No more connections are kept than responses may wait; those that are closed make room first."""
    bench = Bench(max_pending=2)
    gone = stream()

    def redelivered(port: int) -> RecordingFlow | None:
        before = len(bench.calls)
        assert bench.delivery.redeliver(response(gone, f"ua.example.com:{port}"), gone)
        return bench.connected() if len(bench.calls) > before else None

    first, second = redelivered(5071), redelivered(5072)
    assert first is not None
    assert second is not None
    assert redelivered(5073) is not None
    assert redelivered(5072) is None
    assert redelivered(5071) is not None, "the oldest one made room"
    assert redelivered(5073) is None
    assert redelivered(5072) is not None
    assert bench.calls == [("TCP", f"192.0.2.1:{port}", "ua.example.com") for port in (5071, 5072, 5073, 5071, 5072)]


def test_closed_makes_room() -> None:
    """A connection that is closed is not kept in place of an open one."""
    bench = Bench(max_pending=2)
    gone = stream()
    flows = []
    for port in (5071, 5072):
        assert bench.delivery.redeliver(response(gone, f"ua.example.com:{port}"), gone)
        flows.append(bench.connected())
    flows[1].closed = True
    assert bench.delivery.redeliver(response(gone, "ua.example.com:5073"), gone)
    bench.connected()
    assert bench.delivery.redeliver(response(gone, "ua.example.com:5071"), gone)
    assert len(flows[0].sent) == 2


def test_lost_at_once() -> None:
    """A new connection that takes nothing has failed; the next way is tried."""
    bench = Bench()
    gone = stream()
    assert bench.delivery.redeliver(response(gone), gone)
    bench.attempts[0].callback(stream())
    assert bench.calls[-1] == ("TCP", "192.0.2.7:5060", "ua.example.com")


def test_nothing_is_left() -> None:
    """An attempt that is over, and a connection that was closed, are held on to by nobody here."""
    attempts, flows = [], []

    def connect(*_: object) -> Deferred[Any]:
        flow = RecordingFlow("TCP")
        attempt = succeed(flow)
        attempts.append(weakref.ref(attempt))
        flows.append(flow)
        return attempt

    bench = Bench(connect=connect)
    gone = stream()
    assert bench.delivery.redeliver(response(gone), gone)
    flows[0].closed = True
    first = weakref.ref(flows.pop())
    assert bench.delivery.redeliver(response(gone), gone)
    gc.collect()
    assert [attempt() for attempt in attempts] == [None, None]
    assert first() is None


# 18.2.2, UDP


def datagram_flow(port: int = 5060, host: str = TRUSTED) -> RecordingFlow:
    return RecordingFlow("UDP", (host, port))


@pytest.mark.requirement("18.2.2-9", "3263-1")
def test_datagram_relocated() -> None:
    """A datagram for a trusted source that did not arrive goes to the first other address of sent-by (18.2.2)."""
    bench = Bench(zone=Zone(ua=["192.0.2.1", "192.0.2.7", "192.0.2.8"]))
    flow = datagram_flow()
    octets = response(flow)
    assert bench.delivery.redeliver(octets, flow)
    assert flow.sent == [(octets, Address("192.0.2.7", 5060))]
    assert bench.zone.queries == ["_sip._udp.ua.example.com", "ua.example.com", "ua.example.com"]
    assert bench.counted() == {"relocated": 1}
    assert bench.is_idle()


@pytest.mark.parametrize("sent_by", ["192.0.2.1", "192.0.2.1:5070"])
def test_sent_by_is_source(sent_by: str) -> None:
    """A sent-by that is the source address needed no received, and is no other way (18.2.2)."""
    bench = Bench()
    flow = datagram_flow(5070 if ":" in sent_by else 5060)
    octets = response(flow, sent_by)
    assert b"received" not in octets
    assert not bench.delivery.redeliver(octets, flow)
    assert flow.sent == []


@pytest.mark.requirement("18.2.2-10")
def test_sent_by_port() -> None:
    """Where rport had the first try go elsewhere, sent-by with its own port is another way (RFC 3581, 4)."""
    bench = Bench()
    flow = datagram_flow(40000)
    octets = response(flow, "192.0.2.1:5070;rport")
    assert bench.delivery.redeliver(octets, flow)
    assert flow.sent == [(octets, Address("192.0.2.1", 5070))]


@pytest.mark.requirement("18.2.2-9")
@pytest.mark.parametrize(
    ("sent_by", "source"),
    [
        ("ua.example.com:5070", ("192.0.2.1", 5070)),
        ("ua.example.com:5070", ("192.0.2.1", 40000)),
        ("ua.example.com:5070;rport", ("192.0.2.1", 40000)),
        ("ua.example.com", ("192.0.2.1", 40000)),
        ("[2001:db8::9]", ("192.0.2.1", 5060)),
        ("ua.example.com:5070;rport", ("2001:db8::1", 40000)),
        ("[2001:DB8::2]:5070", ("2001:db8::1", 40000)),
    ],
)
def test_first_destination(sent_by: str, source: tuple[str, int]) -> None:
    """Where the response went first is known by its Via, as the routing has it."""
    bench = Bench(source[0], zone=Zone(ua=["192.0.2.7"]))
    bench.zone.silent = True
    flow = RecordingFlow("UDP", source)
    request = make_request("OPTIONS", sent_by=sent_by)
    stamp(request, flow)
    route = response_route(request, flow)
    octets = request.response(200).to_bytes("tag")
    assert bench.delivery.redeliver(octets, route)
    assert bench.calls == [("resolver",)]


@pytest.mark.requirement("18.2.2-9")
def test_second_failure() -> None:
    """An error for the second address starts no third round, even if that one is trusted as well."""
    bench = Bench()
    flow = datagram_flow()
    octets = response(flow)
    assert bench.delivery.redeliver(octets, flow)
    bench.calls.clear()
    for second in (Address("192.0.2.7", 5060), Address(TRUSTED, 5061)):
        assert not bench.delivery.redeliver(octets, flow.towards(second))
    assert bench.calls == []
    assert len(flow.sent) == 1


def test_datagram_not_sent() -> None:
    """An address that the socket cannot send to is passed over; if there is none left, that was in vain."""

    class Choosy(RecordingFlow):
        def towards(self, address: Address, ttl: int | None = None) -> RecordingFlow:
            flow = super().towards(address)
            flow.failure = "network is unreachable" if address.host == "192.0.2.7" else None
            return flow

    bench = Bench(zone=Zone(ua=["192.0.2.7", "192.0.2.8"], other=["192.0.2.7"]))
    flow = Choosy("UDP", (TRUSTED, 5060))
    assert bench.delivery.redeliver(response(flow), flow)
    assert [address for _, address in flow.sent] == [Address("192.0.2.8", 5060)]
    assert not bench.delivery.redeliver(response(flow, "other.example.com"), flow)
    assert bench.counted() == {"relocated": 1, "failed": 1}


def test_datagram_nowhere_else() -> None:
    """A sent-by that stands for nothing but the address that failed is no other way."""
    bench = Bench(zone=Zone(ua=[TRUSTED]))
    flow = datagram_flow()
    assert not bench.delivery.redeliver(response(flow), flow)
    assert not bench.delivery.redeliver(response(flow, "unknown.example.com"), flow)
    assert flow.sent == []


# Attacks


@pytest.mark.requirement("18.2.2-4", "18.2.2-5")
@pytest.mark.parametrize(
    "via",
    [
        "198.51.100.66:5060",
        "victim.example.com",
        "victim.example.com:5060",
        "ua.example.com:5060;maddr=198.51.100.66",
        "ua.example.com:5060;maddr=239.1.1.1;ttl=255",
        "ua.example.com:5060;received=198.51.100.66",
        "ua.example.com:5060;rport=22;received=198.51.100.66",
        "127.0.0.1:5060",
        "localhost:5060",
        "169.254.169.254:80",
    ],
)
@pytest.mark.parametrize("transport", ["TCP", "TLS"])
@pytest.mark.parametrize("is_stamped", [True, False])
def test_untrusted(via: str, transport: str, is_stamped: bool) -> None:
    """An untrusted source has us connect to itself only and ask for no name, whatever its Via says."""
    bench = Bench(None, zone=Zone(victim=["198.51.100.66"], ua=["198.51.100.66"]))
    gone = stream(transport)
    octets = response(gone, via)
    if not is_stamped:
        octets = make_request("OPTIONS", sent_by=via, transport=transport).response(200).to_bytes("tag")
    assert bench.delivery.redeliver(octets, gone)
    assert [(kind, str(address).rpartition(":")[0]) for kind, address, _ in bench.calls] == [(transport, "192.0.2.1")]
    bench.refused()
    assert len(bench.calls) == 1
    assert bench.zone.queries == []
    assert bench.failures == [octets]


@pytest.mark.requirement("18.2.2-9")
@pytest.mark.parametrize(
    "via",
    [
        "198.51.100.66:5060",
        "victim.example.com",
        "ua.example.com:5060;maddr=198.51.100.66",
        "ua.example.com:5060;received=198.51.100.66",
        "ua.example.com:5060;rport;received=198.51.100.66",
    ],
)
@pytest.mark.parametrize("source", [("192.0.2.1", 5060), ("192.0.2.1", 40000), ("198.51.100.66", 5060)])
def test_untrusted_datagram(via: str, source: tuple[str, int]) -> None:
    """Nor does it have a datagram sent anywhere else, or a name asked for."""
    bench = Bench(None, zone=Zone(victim=["198.51.100.66"], ua=["198.51.100.66"]))
    flow = RecordingFlow("UDP", source)
    request = make_request("OPTIONS", sent_by=via)
    unstamped = request.response(200).to_bytes("tag")
    stamp(request, flow)
    for octets in (unstamped, request.response(200).to_bytes("tag")):
        assert not bench.delivery.redeliver(octets, flow)
        assert not bench.delivery.redeliver(octets, response_route(request, flow))
    assert bench.calls == []
    assert flow.sent == []


def test_forged_via() -> None:
    """That a Via names a trusted source helps nobody whose address is another."""
    bench = Bench()
    flow = RecordingFlow("UDP", ("198.51.100.66", 5060))
    octets = response(datagram_flow(), "ua.example.com")
    assert b";received=192.0.2.1" in octets
    assert not bench.delivery.redeliver(octets, flow)
    assert bench.calls == []


@pytest.mark.parametrize("parameters", ["maddr=198.51.100.66", "received=198.51.100.66", "maddr=victim.example.com"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_trusted_parameters(parameters: str, transport: str) -> None:
    """Of a trusted source the sent-by is followed, not what else its Via says (RFC 3263, 5)."""
    bench = Bench()
    flow = RecordingFlow(transport, (TRUSTED, 5060))
    assert bench.delivery.redeliver(response(flow, f"ua.example.com;{parameters}"), flow)
    if transport == "TCP":
        bench.refused()
        assert bench.calls[-1] == ("TCP", "192.0.2.7:5060", "ua.example.com")
    else:
        assert [address for _, address in flow.sent] == [Address("192.0.2.7", 5060)]
    assert "victim.example.com" not in bench.zone.queries


@pytest.mark.parametrize("sent_by", ["ua.example.com", "127.0.0.1", "169.254.169.254", "[::1]", "[fe80::1]", "0.0.0.0"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_closer_than_source(sent_by: str, transport: str) -> None:
    """No name or address leads a response from a source elsewhere to loopback or to our link."""
    bench = Bench(zone=Zone(ua=["127.0.0.1", "127.8.8.8", "169.254.169.254"]))
    flow = RecordingFlow(transport, (TRUSTED, 5060))
    redelivered = bench.delivery.redeliver(response(flow, sent_by), flow)
    if transport == "TCP":
        assert redelivered
        assert bench.calls.pop(0) == ("TCP", "192.0.2.1:5060", sent_by)
        bench.refused()
        assert len(bench.failures) == 1
    else:
        assert not redelivered
    assert bench.calls == [("resolver",)]
    assert flow.sent == []


def test_loopback_source() -> None:
    """A source on this machine may be told of others on it."""
    bench = Bench("127.0.0.1")
    flow = RecordingFlow("UDP", ("127.0.0.1", 5070))
    assert bench.delivery.redeliver(response(flow, "127.0.0.2:5070"), flow)
    assert [address for _, address in flow.sent] == [Address("127.0.0.2", 5070)]


def test_link_local_source() -> None:
    """A source on the link may be told of others on it, but not of loopback."""
    bench = Bench("169.254.1.1")
    flow = RecordingFlow("UDP", ("169.254.1.1", 5060))
    assert bench.delivery.redeliver(response(flow, "169.254.1.2"), flow)
    assert not bench.delivery.redeliver(response(flow, "127.0.0.1"), flow)
    assert [address for _, address in flow.sent] == [Address("169.254.1.2", 5060)]


def test_unix_socket() -> None:
    """The peer of a UNIX socket has no address, and so no other way."""
    bench = Bench("")
    gone = stream(source=("", 0))
    assert not bench.delivery.redeliver(response(gone), gone)
    assert bench.calls == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda octets: b"",
        lambda octets: octets[:40],
        lambda octets: octets[:-2],
        lambda octets: octets.replace(b"Content-Length: 0", b"Content-Length: 9"),
        lambda octets: octets.replace(b"ua.example.com", b"ua.example.com:0"),
        lambda octets: octets.replace(b"ua.example.com", b"ua.example.com:99999"),
        lambda octets: octets.replace(b"ua.example.com", b""),
        lambda octets: octets.replace(b"Via:", b"Vai:"),
        lambda octets: octets.replace(b"Via: ", b"Via: ,"),
        lambda octets: b"\xff" + octets,
        lambda octets: make_request("OPTIONS").to_bytes(),
    ],
)
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_no_response(spoil: Callable[[bytes], bytes], transport: str) -> None:
    """What is not one whole response of ours, such as the part that an ICMP error quotes, is sent nowhere."""
    bench = Bench()
    flow = RecordingFlow(transport, (TRUSTED, 5060))
    octets = response(flow)
    spoilt = spoil(octets)
    assert spoilt != octets
    assert not bench.delivery.redeliver(spoilt, flow)
    assert bench.calls == []
    assert flow.sent == []


@pytest.mark.parametrize(
    "rport",
    [b"rport", b"rport=", b"rport=x", b"rport=999999999999", b"rport=0", b"rport=\xc2\xb2", b"rport=" + b"9" * 5000],
)
def test_odd_rport(rport: bytes) -> None:
    """An rport that is none of ours counts for nothing."""
    bench = Bench()
    flow = datagram_flow()
    octets = response(flow).replace(b";received", b";" + rport + b";received")
    bench.delivery.redeliver(octets, flow)
    assert [address.host for _, address in flow.sent] in ([], ["192.0.2.7"])


# Bounds


def test_connect_deadline() -> None:
    """A connection that does not come about is given up after the timeout, and the next way is tried."""
    bench = Bench(timeout=TIMEOUT)
    gone = stream()
    octets = response(gone)
    assert bench.delivery.redeliver(octets, gone)
    bench.clock.advance(TIMEOUT)
    bench.clock.advance(TIMEOUT)
    assert bench.calls == [
        ("TCP", "192.0.2.1:5060", "ua.example.com"),
        ("cancelled", "192.0.2.1:5060"),
        ("resolver",),
        ("TCP", "192.0.2.7:5060", "ua.example.com"),
        ("cancelled", "192.0.2.7:5060"),
    ]
    assert bench.failures == [octets]
    assert bench.is_idle()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_location_deadline(transport: str) -> None:
    """A location that does not come about is given up after the timeout."""
    bench = Bench(timeout=TIMEOUT)
    bench.zone.silent = True
    flow = RecordingFlow(transport, (TRUSTED, 5060))
    octets = response(flow)
    assert bench.delivery.redeliver(octets, flow)
    if transport == "TCP":
        bench.refused()
    bench.clock.advance(TIMEOUT)
    assert bench.failures == [octets]
    assert bench.counted() == {"failed": 1}
    assert len(bench.zone.queries) == 1
    assert bench.is_idle()


def test_whole_deadline() -> None:
    """However many addresses there are, after 64*T1 nobody waits for the response any more (17.1)."""
    bench = Bench(zone=Zone(ua=[f"192.0.2.{number}" for number in range(100, 120)]), timeout=TIMEOUT)
    gone = stream()
    octets = response(gone)
    assert bench.delivery.redeliver(octets, gone)
    bench.clock.pump([1.0] * 31)
    assert bench.failures == []
    bench.clock.advance(1.0)
    assert bench.failures == [octets]
    bench.clock.pump([1.0] * 10)
    assert len([call for call in bench.calls if call[0] == "TCP"]) == 7
    assert bench.counted() == {"failed": 1}
    assert bench.is_idle()


def test_pending_bound() -> None:
    """What is more than may wait is refused and counted, and there is room again later."""
    bench = Bench(None, max_pending=2)
    gone = [RecordingFlow("TCP", (f"192.0.2.{number}", 40000)) for number in range(1, 4)]
    assert bench.delivery.redeliver(response(gone[0]), gone[0])
    assert bench.delivery.redeliver(response(gone[1]), gone[1])
    assert not bench.delivery.redeliver(response(gone[2]), gone[2])
    assert bench.counted() == {"refused": 1}
    bench.refused(0)
    assert bench.delivery.redeliver(response(gone[2]), gone[2])
    assert len(bench.attempts) == 3


def test_share_of_a_source() -> None:
    """One source may have a fifth of what may wait, however many others there are; IPv6 counts by network."""
    bench = Bench(None, max_pending=10)
    for hosts in (["192.0.2.1"] * 3, ["2001:db8::1", "2001:db8::2", "2001:db8::3"]):
        flows = [RecordingFlow("TCP", (host, 40000)) for host in hosts]
        taken = [bench.delivery.redeliver(response(flow, f"a:{5070 + at}"), flow) for at, flow in enumerate(flows)]
        assert taken == [True, True, False]
    bench.refused(0)
    flow = RecordingFlow("TCP", ("192.0.2.1", 40000))
    assert bench.delivery.redeliver(response(flow, "a:5080"), flow)


def test_counters_are_read_only() -> None:
    """The counters are for reading."""
    counters: Any = Bench().delivery.counters
    assert counters == {"reconnected": 0, "relocated": 0, "refused": 0, "failed": 0}
    with pytest.raises(TypeError):
        counters["failed"] = 1


# Stop


def test_stop() -> None:
    """Stopping ends connections and locations on their way, tells nobody of them, and takes nothing more."""
    bench = Bench()
    bench.zone.silent = True
    gone, flow = stream(), datagram_flow()
    assert bench.delivery.redeliver(response(gone), gone)
    assert bench.delivery.redeliver(response(flow), flow)
    stopped: list[None] = []
    bench.delivery.stop().addCallback(stopped.append)
    assert stopped == [None]
    assert bench.calls == [
        ("TCP", "192.0.2.1:5060", "ua.example.com"),
        ("resolver",),
        ("cancelled", "192.0.2.1:5060"),
    ]
    assert bench.failures == []
    assert bench.is_idle()
    assert not bench.delivery.redeliver(response(gone), gone)
    assert len(bench.calls) == 3


def test_stop_waits() -> None:
    """It is over when the last attempt is, as one that has to close something first."""
    closing: Deferred[None] = Deferred()

    def connect(*_: object) -> Deferred[Any]:
        attempt: Deferred[Any] = Deferred()
        return attempt.addErrback(lambda failure: closing.addCallback(lambda _: failure))

    bench = Bench(connect=connect)
    gone = stream()
    assert bench.delivery.redeliver(response(gone), gone)
    stopped: list[None] = []
    bench.delivery.stop().addCallback(stopped.append)
    assert stopped == []
    closing.callback(None)
    assert stopped == [None]


def test_stop_idle() -> None:
    """With nothing pending it is over at once, again and again."""
    bench = Bench()
    stopped: list[None] = []
    bench.delivery.stop().addCallback(stopped.append)
    bench.delivery.stop().addCallback(stopped.append)
    assert stopped == [None, None]


# Faults of who uses it


def test_failing_callback(logged_failures: list[LogEvent]) -> None:
    """A `failed` that raises is logged, and does not keep others from being told."""
    told: list[bytes] = []

    def failed(octets: bytes) -> None:
        told.append(octets)
        raise RuntimeError("oops")

    bench = Bench(None, failed=failed)
    gone = stream()
    for number in (1, 2):
        assert bench.delivery.redeliver(response(gone, cseq=number), gone)
    bench.refused()
    assert len(told) == 2
    assert [event["log_failure"].type for event in logged_failures] == [RuntimeError, RuntimeError]
    logged_failures.clear()
    assert bench.is_idle()


def test_no_resolver(logged_failures: list[LogEvent]) -> None:
    """A resolver that cannot be made is logged, and the response has failed."""

    def resolver() -> Zone:
        raise RuntimeError("oops")

    bench = Bench(resolver=resolver)
    flow = datagram_flow()
    assert not bench.delivery.redeliver(response(flow), flow)
    assert [event["log_failure"].type for event in logged_failures] == [RuntimeError]
    logged_failures.clear()
    assert bench.is_idle()


# Live


@pytest.mark.requirement("18.2.2-9", "3263-1")
@pytest_twisted.ensureDeferred
async def test_live_datagram() -> None:
    """By a real socket and a real name server, the response arrives where its sent-by is."""
    arrived: Deferred[bytes] = Deferred()

    class Peer(DatagramProtocol):
        def datagramReceived(self, data: bytes, address: object) -> None:
            arrived.callback(data)

    zone = Zone(ua=["127.0.0.1"])
    name_server = reactor.listenUDP(0, dns.DNSDatagramProtocol(DNSServerFactory(clients=[zone])), interface="127.0.0.1")
    servers = [("127.0.0.1", name_server.getHost().port)]
    no_receiver: Any = None
    protocol = SIPDatagramProtocol(no_receiver)
    ours = reactor.listenUDP(0, protocol, interface="127.0.0.1")
    peer = reactor.listenUDP(0, Peer(), interface="127.0.0.1")
    delivery = ResponseDelivery(
        reactor,
        lambda *_: fail(ConnectionRefusedError()),
        is_trusted=lambda host: host == "127.0.0.1",
        resolver=lambda: NameServerResolver(reactor, lambda: servers),
        failed=lambda octets: arrived.errback(AssertionError(octets)),
    )
    unreachable = DatagramFlow(protocol, ("127.0.0.1", 9))
    octets = response(unreachable, f"ua.example.com:{peer.getHost().port};rport")
    assert delivery.redeliver(octets, unreachable)
    assert await arrived == octets
    assert delivery.counters["relocated"] == 1
    for step in (delivery.stop, ours.stopListening, peer.stopListening, name_server.stopListening):
        await step()


@pytest_twisted.ensureDeferred
async def test_live_stop() -> None:
    """A location by a name server that says nothing leaves no timer and no socket when it is stopped."""
    silent = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
    servers = [("127.0.0.1", silent.getHost().port)]
    delivery = ResponseDelivery(
        reactor,
        lambda *_: fail(ConnectionRefusedError()),
        is_trusted=lambda host: True,
        resolver=lambda: NameServerResolver(reactor, lambda: servers),
        failed=lambda octets: None,
    )
    gone = stream()
    assert delivery.redeliver(response(gone), gone)
    await delivery.stop()
    await silent.stopListening()
