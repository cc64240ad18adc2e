"""Does a request of ours find its way, and can no peer send us where it pleases?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.names import common, dns
from twisted.names.error import DNSNameError

from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.uri import SIPURI
from twisted_sipuas.testing import RecordingFlow
from twisted_sipuas.transport.flow import StreamFlow
from twisted_sipuas.transport.outgoing import OutgoingConnections, OutgoingFlows, is_in_reach

SOURCE = ("192.0.2.1", 40000)
ELSEWHERE = "sip:alice@192.0.2.99:5070"
GLOBAL = ("8.8.8.8", 40000)


class Zone(common.ResolverBase):
    """An IResolver that knows what ua.example.com is; a silent one never answers."""

    def __init__(self, *addresses: Any) -> None:
        super().__init__()
        self.addresses = addresses
        self.queries: list[Any] = []
        self.silent = False

    def _lookup(self, name: Any, cls: Any, type: Any, timeout: Any) -> Any:
        self.queries.append(name.decode())
        if self.silent:
            return Deferred()
        if type != dns.A or name != b"ua.example.com":
            return fail(DNSNameError(name))
        return succeed(([dns.RRHeader(name, type, payload=dns.Record_A(it)) for it in self.addresses], [], []))


class Bench:
    """An `OutgoingFlows` and all that it is handed; `opened` has the connections that it asked for."""

    def __init__(self, *addresses: Any, trusted: Any = None, sockets: Any = ("192.0.2.200",), **options: Any) -> None:
        self.clock = Clock()
        self.zone = Zone(*(addresses or ("192.0.2.7",)))
        self.opened: list[Any] = []
        self.attempts: list[Any] = []
        self.sockets = sockets
        self.connections = OutgoingConnections(self.clock, self.connect, 5.0, 10)
        self.flows = OutgoingFlows(
            self.clock,
            self.connections,
            datagram_flow=self.datagram_flow,
            is_trusted=lambda host: host == trusted,
            resolver=lambda: self.zone,
            **options,
        )

    def connect(self, transport: Any, address: Any, host: str) -> Any:
        self.opened.append((transport, str(address), host))
        self.attempts.append(Deferred())
        return self.attempts[-1]

    def datagram_flow(self, address: Any) -> Any:
        for host in self.sockets:
            if (":" in host) == (":" in address.host):
                return RecordingFlow("UDP", address, (host, 5060))
        return None

    def connected(self, transport: str = "TCP") -> Any:
        """The latest attempt succeeds."""
        flow = RecordingFlow(transport)
        self.attempts[-1].callback(flow)
        return flow

    def refused(self) -> None:
        """The latest attempt fails."""
        self.attempts[-1].errback(ConnectionRefusedError())

    def find(self, next_hop: Any, flow: Any = None, is_proven: bool = False, size: Any = 0) -> Any:
        """Search; returns the list that has the result once it is there."""
        found: list[Any] = []
        search = self.flows.flow_for(SIPURI(next_hop), flow or RecordingFlow("UDP", SOURCE), is_proven, size)
        search.addBoth(found.append)
        return found

    def goes_to(self, next_hop: Any, flow: Any = None, is_proven: bool = False, size: int = 0) -> Any:
        """Where a datagram goes, or what connection is asked for; "nowhere" if there is no way."""
        before = len(self.opened)
        found = self.find(next_hop, flow, is_proven, size)
        if len(self.opened) > before:
            return self.opened[-1]
        assert found, "nothing is waited for"
        if not isinstance(found[0], RecordingFlow):
            assert found[0].check(TransportError)
            return "nowhere"
        return str(found[0].remote_address)


def gone(transport: str = "TCP", source: Any = SOURCE) -> Any:
    """A connection that is closed."""
    flow = RecordingFlow(transport, source)
    flow.closed = True
    return flow


# The connection that there is


@pytest.mark.parametrize(
    ("transport", "next_hop"),
    [
        ("TCP", "sip:alice@192.0.2.1"),
        ("TCP", ELSEWHERE),
        ("TCP", "sip:alice@10.0.0.1;transport=udp"),
        ("TCP", "sip:alice@ua.example.com;transport=sctp"),
        ("TLS", ELSEWHERE),
        ("TLS", "sips:alice@ua.example.com"),
        ("TLS", "sip:alice@192.0.2.1;transport=tcp;maddr=[zz]"),
    ],
)
@pytest.mark.parametrize("is_proven", [False, True])
def test_open_connection_is_used(transport: Any, next_hop: Any, is_proven: bool) -> None:
    """A connection from the peer that is open takes the request, whatever the next hop says (RFC 5923)."""
    bench = Bench()
    flow = RecordingFlow(transport, SOURCE)
    assert bench.find(next_hop, flow, is_proven) == [flow]
    assert (bench.opened, bench.zone.queries) == ([], [])


def test_sips_needs_tls() -> None:
    """A connection without TLS does not do for a sips next hop: one with TLS is opened (26.2.2)."""
    bench = Bench()
    flow = RecordingFlow("TCP", SOURCE)
    assert bench.goes_to("sips:alice@192.0.2.1", flow) == ("TLS", "192.0.2.1:5061", "192.0.2.1")


class _Sender:
    """What a `StreamFlow` sends by, with a proxy at the other end."""

    is_proxied = True
    advertised_address = None
    peer_certificate = None
    peer_identities = ()

    def __init__(self, closed: Any) -> None:
        self.closed = closed


@pytest.mark.parametrize(("closed", "next_hop"), [(True, "sip:alice@192.0.2.1"), (False, "sips:alice@192.0.2.1")])
def test_behind_a_proxy(closed: Any, next_hop: Any) -> None:
    """Where a proxy told who the peer is there is no way but its connection, for nobody knows that address is right."""
    bench = Bench(trusted="192.0.2.1")
    sender: Any = _Sender(closed)
    flow = StreamFlow(sender, "TCP", Address("198.51.100.1", 5060), Address(*SOURCE))
    assert bench.goes_to(next_hop, flow, is_proven=True) == "nowhere"


# RFC 3263, 4


@pytest.mark.parametrize(
    ("next_hop", "destination"),
    [
        ("sip:alice@192.0.2.7", "192.0.2.7:5060"),
        ("sip:alice@192.0.2.7:5070", "192.0.2.7:5070"),
        ("sip:alice@192.0.2.7;transport=UDP", "192.0.2.7:5060"),
        ("sip:alice@ua.example.com", "192.0.2.7:5060"),
        ("sip:alice@ua.example.com:5070", "192.0.2.7:5070"),
        ("sip:alice@nowhere.example.com;maddr=192.0.2.8", "192.0.2.8:5060"),
        ("sip:alice@192.0.2.8;maddr=ua.example.com", "192.0.2.7:5060"),
        ("sip:alice@192.0.2.7;transport=tcp", ("TCP", "192.0.2.7:5060", "192.0.2.7")),
        ("sip:alice@ua.example.com;transport=TCP", ("TCP", "192.0.2.7:5060", "ua.example.com")),
        ("sip:alice@ua.example.com;transport=tls", ("TLS", "192.0.2.7:5061", "ua.example.com")),
        ("sips:alice@ua.example.com", ("TLS", "192.0.2.7:5061", "ua.example.com")),
        ("sips:alice@ua.example.com:5071;transport=tcp", ("TLS", "192.0.2.7:5071", "ua.example.com")),
        ("sips:alice@ua.example.com;maddr=192.0.2.8", ("TLS", "192.0.2.8:5061", "ua.example.com")),
        ("sip:alice@192.0.2.7;transport=sctp", "nowhere"),
    ],
)
def test_located(next_hop: Any, destination: Any) -> None:
    """Transport, address and port are those that RFC 3263 finds; maddr wins, and TLS is for the host (RFC 3263, 4)."""
    assert Bench().goes_to(next_hop, is_proven=True) == destination


def test_unknown_transport_is_not_located() -> None:
    """For a transport that is not ours no name is asked for."""
    bench = Bench()
    assert bench.goes_to("sip:alice@ua.example.com;transport=sctp", is_proven=True) == "nowhere"
    assert bench.zone.queries == []


@pytest.mark.requirement("18.4-3")
def test_next_address() -> None:
    """If one address of a name cannot be connected to, the next is tried; then there is no way (RFC 3263, 4.3)."""
    bench = Bench("192.0.2.7", "192.0.2.8")
    found = bench.find("sip:alice@ua.example.com;transport=tcp", is_proven=True)
    bench.refused()
    assert found == []
    bench.refused()
    assert [address for _, address, _ in bench.opened] == ["192.0.2.7:5060", "192.0.2.8:5060"]
    assert found[0].check(TransportError)
    assert bench.clock.getDelayedCalls() == []


def test_connection_is_kept() -> None:
    """What goes to one peer shares one connection, on its way or open (18)."""
    bench = Bench()
    next_hop = "sip:alice@192.0.2.1;transport=tcp"
    first, second = bench.find(next_hop), bench.find(next_hop)
    flow = bench.connected()
    assert (first, second, bench.find(next_hop)) == ([flow], [flow], [flow])
    assert len(bench.opened) == 1
    flow.closed = True
    assert bench.find(next_hop) == []
    assert len(bench.opened) == 2


# Who may say where


@pytest.mark.parametrize(
    ("next_hop", "source", "destination"),
    [
        ("sip:alice@192.0.2.1:5070", SOURCE, "192.0.2.1:5070"),
        ("sip:alice@192.0.2.1", SOURCE, "192.0.2.1:5060"),
        ("sip:alice@ua.example.com;maddr=192.0.2.1", SOURCE, "192.0.2.1:5060"),
        ("sip:alice@[2001:DB8:0::1]:5070", ("2001:db8::1", 40000), "[2001:db8::1]:5070"),
        ("sip:alice@[::ffff:192.0.2.1]:5070", SOURCE, "192.0.2.1:5070"),
        ("sip:alice@10.0.0.1:5070", ("10.0.0.1", 40000), "10.0.0.1:5070"),
    ],
)
def test_source_is_followed(next_hop: Any, source: Any, destination: Any) -> None:
    """The port of the peer's own address is its to choose, in whatever spelling it names itself."""
    bench = Bench()
    assert bench.goes_to(next_hop, RecordingFlow("UDP", source)) == destination
    assert bench.flows.counters["not_followed"] == 0


@pytest.mark.parametrize(
    "next_hop", [ELSEWHERE, "sip:alice@ua.example.com", "sip:alice@192.0.2.1;maddr=192.0.2.99", "sip:a@h;maddr=[zz]"]
)
def test_others_are_not_followed(next_hop: Any) -> None:
    """Who has not shown where it is sends us to nobody else: a datagram goes back to it, and no name is asked for."""
    bench = Bench()
    flow = RecordingFlow("UDP", SOURCE)
    assert bench.find(next_hop, flow) == [flow]
    assert bench.goes_to(f"{next_hop};transport=tcp", flow) == "nowhere"
    assert bench.goes_to(f"{next_hop};transport=tcp", gone()) == "nowhere"
    assert bench.goes_to(next_hop, gone()) == "nowhere"
    assert (bench.opened, bench.zone.queries) == ([], [])
    assert bench.flows.counters["not_followed"] == 4


@pytest.mark.parametrize(
    ("source", "trusted", "is_proven"),
    [("192.0.2.1", None, True), ("192.0.2.1", "192.0.2.1", False), ("127.0.0.1", None, False)],
)
def test_others_are_followed(source: Any, trusted: Any, is_proven: bool) -> None:
    """A peer that is proven, trusted, or on this machine may send us elsewhere, also by name."""
    bench = Bench(trusted=trusted)
    flow = RecordingFlow("UDP", (source, 40000))
    assert bench.goes_to(ELSEWHERE, flow, is_proven) == "192.0.2.99:5070"
    assert bench.goes_to("sip:alice@ua.example.com", flow, is_proven) == "192.0.2.7:5060"
    assert bench.goes_to(f"{ELSEWHERE};transport=tcp", gone("TCP", (source, 1)), is_proven)[0] == "TCP"


@pytest.mark.parametrize(
    ("host", "source", "expected"),
    [
        ("127.0.0.1", "192.0.2.1", False),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "169.254.1.1", False),
        ("127.0.0.1", "127.0.0.2", True),
        ("10.0.0.1", "127.0.0.1", True),
        ("::1", "2001:db8::1", False),
        ("169.254.169.254", "192.0.2.1", False),
        ("169.254.169.254", "10.0.0.1", False),
        ("169.254.1.2", "169.254.1.1", True),
        ("fe80::1", "2001:db8::1", False),
        ("10.0.0.1", "8.8.8.8", False),
        ("172.16.0.1", "8.8.8.8", False),
        ("192.168.0.1", "8.8.8.8", False),
        ("100.64.0.1", "8.8.8.8", False),
        ("fd00::1", "2606:4700::1", False),
        ("fd00::1", "8.8.8.8", False),
        ("10.0.0.1", "192.168.0.1", True),
        ("8.8.8.8", "10.0.0.1", True),
        ("9.9.9.9", "8.8.8.8", True),
        ("2606:4700::2", "2606:4700::1", True),
    ],
)
def test_reach(host: str, source: Any, expected: Any) -> None:
    """Nobody sends us closer to this machine than it is, nor a source on the Internet to a private address."""
    assert is_in_reach(host, source) is expected


@pytest.mark.parametrize(
    "next_hop",
    [
        "sip:alice@127.0.0.1",
        "sip:alice@[::ffff:127.0.0.1]",
        "sip:alice@169.254.169.254:80",
        "sip:alice@10.0.0.1",
        "sip:alice@ua.example.com;maddr=127.0.0.1",
        "sip:alice@ua.example.com",
        "sip:alice@0.0.0.0",
        "sip:alice@224.0.1.75",
        "sip:alice@255.255.255.255",
    ],
)
def test_out_of_reach(next_hop: Any) -> None:
    """However proven and trusted a peer is, a datagram goes to itself rather than out of its reach."""
    bench = Bench("192.168.0.7", "127.0.0.1", trusted=GLOBAL[0])
    assert bench.goes_to(next_hop, RecordingFlow("UDP", GLOBAL), is_proven=True) == "8.8.8.8:40000"
    assert bench.goes_to(f"{next_hop};transport=tcp", gone("TCP", GLOBAL), is_proven=True) == "nowhere"


def test_part_is_out_of_reach() -> None:
    """Of the addresses of a name those within reach are followed."""
    bench = Bench("127.0.0.1", "9.9.9.9")
    assert bench.goes_to("sip:alice@ua.example.com", RecordingFlow("UDP", GLOBAL), is_proven=True) == "9.9.9.9:5060"
    assert bench.flows.counters["not_followed"] == 0


def test_unix_socket() -> None:
    """A peer without an address, on a UNIX socket, is followed nowhere."""
    bench = Bench()
    assert bench.goes_to(ELSEWHERE, gone("TCP", ("", 0)), is_proven=True) == "nowhere"


# Sockets


def test_same_socket() -> None:
    """A datagram leaves by the socket that the peer sends to."""
    bench = Bench()
    flow = RecordingFlow("UDP", SOURCE)
    (found,) = bench.find("sip:alice@192.0.2.1:5070", flow)
    assert found.sent is flow.sent


def test_other_family() -> None:
    """For an address of another family it is a socket of that family, or there is no way."""
    bench = Bench(sockets=("2001:db8::200",))
    (found,) = bench.find("sip:alice@[2001:db8::7]", is_proven=True)
    assert found.local_address.host == "2001:db8::200"
    bench.sockets = ()
    assert bench.goes_to("sip:alice@[2001:db8::7]", is_proven=True) == "nowhere"


def test_datagram_after_a_connection() -> None:
    """Where the connection is gone and the next hop is by UDP, it is by a socket of ours, if there is one."""
    bench = Bench()
    assert bench.goes_to("sip:alice@192.0.2.1:5070", gone()) == "192.0.2.1:5070"
    bench.sockets = ()
    assert bench.goes_to("sip:alice@192.0.2.1:5070", gone()) == "nowhere"


# 18.1.1


def test_large_request() -> None:
    """A request of more than 1300 octets for UDP goes by TCP to the same address (18.1.1)."""
    bench = Bench()
    assert bench.goes_to("sip:alice@192.0.2.1:5070", size=1300) == "192.0.2.1:5070"
    found = bench.find("sip:alice@192.0.2.1:5070", size=1301)
    assert bench.opened == [("TCP", "192.0.2.1:5070", "192.0.2.1")]
    flow = bench.connected()
    assert found == [flow]


def test_large_request_without_tcp() -> None:
    """If that connection fails, it goes by UDP after all (18.1.1)."""
    bench = Bench()
    found = bench.find("sip:alice@192.0.2.1:5070", size=1301)
    bench.refused()
    assert str(found[0].remote_address) == "192.0.2.1:5070"
    assert not found[0].is_reliable


def test_large_request_that_may_not_be_followed() -> None:
    """No connection is opened for a request that goes back to its peer's source only."""
    bench = Bench()
    assert bench.goes_to(ELSEWHERE, size=1301) == "192.0.2.1:40000"


# Bounds


def test_name_servers_are_silent() -> None:
    """A name that is not found in time is no way, and leaves no timer: the datagram goes to the peer (RFC 3263, 4)."""
    bench = Bench()
    bench.zone.silent = True
    flow = RecordingFlow("UDP", SOURCE)
    datagram = bench.find("sip:alice@ua.example.com", flow, is_proven=True)
    stream = bench.find("sip:alice@ua.example.com;transport=tcp", gone(), is_proven=True)
    bench.clock.advance(4.5)
    assert datagram == stream == []
    bench.clock.advance(0.5)
    assert datagram == [flow]
    assert stream[0].check(TransportError)
    assert bench.clock.getDelayedCalls() == []


def test_search_has_a_deadline() -> None:
    """However many addresses are tried in vain, after 64*T1 there is no way (17.1.2.2)."""
    bench = Bench(*(f"192.0.2.{number}" for number in range(50, 58)))
    found = bench.find("sip:alice@ua.example.com;transport=tcp", is_proven=True)
    bench.clock.pump([0.5] * 63)
    assert found == []
    bench.clock.advance(0.5)
    assert found[0].check(TransportError)
    bench.clock.pump([0.5] * 20)
    assert bench.clock.getDelayedCalls() == []
    assert bench.flows.counters["searches"] == 0


def test_bound_on_searches() -> None:
    """More requests than the bound do not wait for their flow; those that have one do not have to."""
    bench = Bench(max_searches=1)
    next_hop = "sip:alice@192.0.2.1;transport=tcp"
    bench.find(next_hop)
    assert bench.goes_to(next_hop) == "nowhere"
    assert bench.flows.counters == {"searches": 1, "searches_refused": 1, "not_followed": 0}
    open_one = RecordingFlow("TCP", SOURCE)
    assert bench.find(next_hop, open_one) == [open_one]
    bench.connected()
    assert bench.flows.counters["searches"] == 0
    assert bench.find(next_hop)[0].is_reliable


def test_stop() -> None:
    """To stop fails every search and begins none any more; with the connections given up no timer is left."""
    bench = Bench()
    next_hop = "sip:alice@192.0.2.1;transport=tcp"
    found = bench.find(next_hop)
    bench.flows.stop()
    bench.connections.give_up()
    assert found[0].check(TransportError)
    assert bench.goes_to(next_hop) == "nowhere"
    assert bench.clock.getDelayedCalls() == []
    assert bench.flows.counters["searches"] == 0
