"""Is the right address found for a response whose way failed, and is no harm done by who owns the names?"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IUDPTransport
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import FakeDatagramTransport
from twisted.names import client, common, dns
from twisted.names.error import DNSNameError, DNSServerError
from twisted.names.server import DNSServerFactory

from tests.any_reactor import reactor
from twisted_sipuas.interfaces import Address
from twisted_sipuas.transport.locate import MAX_ADDRESSES, NameServerResolver, default_port, default_resolver, locate

TIMEOUT = 5.0
SILENT = object()
_TYPES = {dns.A: "A", dns.AAAA: "AAAA", dns.SRV: "SRV"}


class Zone(common.ResolverBase):
    """An IResolver that knows *rows*, each a name and a record, and follows aliases as a name server does.

    `queries` has the type and name of each query. `trouble` says what becomes of those to some name or type: an
    exception to raise or to fail with, or SILENT. `answers` has whole answers to give.
    """

    def __init__(self, *rows: tuple[str, Any]) -> None:
        super().__init__()
        self.rows = [(name.encode(), record) for name, record in rows]
        self.queries: list[tuple[str, str]] = []
        self.patience: list[Sequence[float]] = []
        self.trouble: dict[str, Any] = {}
        self.answers: dict[str, list[Any]] = {}
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0

    def _lookup(self, name: bytes, cls: int, type: int, timeout: Any) -> Deferred[Any]:
        text = name.decode()
        self.queries.append((_TYPES[type], text))
        self.patience.append(timeout)
        trouble = self.trouble.get(text) or self.trouble.get(_TYPES[type])
        if trouble is SILENT:
            self.waiting.append(Deferred(lambda _: self._count_cancelled()))
            return self.waiting[-1]
        if isinstance(trouble, Exception):
            return fail(trouble)
        if trouble is not None:
            raise trouble("at once")
        if text in self.answers:
            return succeed((self.answers[text], [], []))
        return succeed((found, [], [])) if (found := self._found(name, type)) else fail(DNSNameError(name))

    def _found(self, name: bytes, type: int) -> list[dns.RRHeader]:
        found = []
        for owner, record in self.rows:
            if owner == name and record.TYPE in (type, dns.CNAME):
                found.append(dns.RRHeader(owner, record.TYPE, dns.IN, 60, record))
                if record.TYPE == dns.CNAME:
                    return found + self._found(record.name.name, type)
        return found

    def _count_cancelled(self) -> None:
        self.cancelled += 1


def a(name: str, address: str) -> tuple[str, Any]:
    return name, dns.Record_A(address, 60)


def aaaa(name: str, address: str) -> tuple[str, Any]:
    return name, dns.Record_AAAA(address, 60)


def cname(name: str, target: str) -> tuple[str, Any]:
    return name, dns.Record_CNAME(target, 60)


def srv(name: str, priority: int, weight: int, port: int, target: str | bytes) -> tuple[str, Any]:
    return name, dns.Record_SRV(priority, weight, port, target, 60)


def located(
    zone: Any, host: str, port: int | None = None, transport: str = "UDP", randint: Callable[[int, int], int] = max
) -> list[Address]:
    """What is found at once, as nothing here takes time."""
    clock = Clock()
    results: list[Any] = []
    locate(host, port, transport, zone, clock, TIMEOUT, randint=randint).addBoth(results.append)
    assert not clock.getDelayedCalls()
    assert results, "it has not ended"
    assert isinstance(results[0], list)
    return results[0]


# RFC 3263, section 5


@pytest.mark.parametrize(("transport", "port"), [("UDP", 5060), ("TCP", 5060), ("TLS", 5061)])
def test_default_port(transport: str, port: int) -> None:
    """Without a port 5060 is meant, and 5061 for TLS (18.2.2; 19.1.2)."""
    assert default_port(transport) == port


@pytest.mark.requirement("18.2.2-10", "3263-1")
@pytest.mark.parametrize(
    ("host", "port", "transport", "expected"),
    [
        ("192.0.2.1", 5070, "UDP", Address("192.0.2.1", 5070)),
        ("192.0.2.1", None, "UDP", Address("192.0.2.1", 5060)),
        ("192.0.2.1", None, "TCP", Address("192.0.2.1", 5060)),
        ("192.0.2.1", None, "TLS", Address("192.0.2.1", 5061)),
        ("192.0.2.1.", None, "UDP", Address("192.0.2.1", 5060)),
        ("[2001:DB8:0::1]", None, "UDP", Address("2001:db8::1", 5060)),
        ("[2001:db8::1]", 5070, "TLS", Address("2001:db8::1", 5070)),
        ("[::1]", None, "UDP", Address("::1", 5060)),
        ("127.0.0.1", None, "UDP", Address("127.0.0.1", 5060)),
        ("[::ffff:192.0.2.1]", 5070, "UDP", Address("192.0.2.1", 5070)),
    ],
)
def test_numeric(host: str, port: int | None, transport: str, expected: Address) -> None:
    """A numeric sent-by is the address itself, with its port or the default; nobody is asked (RFC 3263, 5)."""
    zone = Zone()
    assert located(zone, host, port, transport) == [expected]
    assert zone.queries == []


@pytest.mark.requirement("3263-1")
def test_port() -> None:
    """A name with a port stands for its A and AAAA records with that port; SRV is not asked for (RFC 3263, 5)."""
    zone = Zone(
        a("ua.example.com", "192.0.2.1"),
        a("ua.example.com", "192.0.2.2"),
        aaaa("ua.example.com", "2001:db8::1"),
        srv("_sip._udp.ua.example.com", 0, 0, 5099, "other.example.com"),
    )
    expected = [Address("192.0.2.1", 5070), Address("192.0.2.2", 5070), Address("2001:db8::1", 5070)]
    assert located(zone, "ua.example.com", 5070) == expected
    assert zone.queries == [("A", "ua.example.com"), ("AAAA", "ua.example.com")]


@pytest.mark.requirement("3263-1")
@pytest.mark.parametrize(("transport", "service"), [("UDP", "_sip._udp"), ("TCP", "_sip._tcp"), ("TLS", "_sips._tcp")])
def test_service(transport: str, service: str) -> None:
    """A name without a port is asked for its SRV records of the transport; the port is theirs (RFC 3263, 5)."""
    zone = Zone(
        srv(f"{service}.example.com", 0, 0, 5081, "one.example.com"),
        a("one.example.com", "192.0.2.1"),
        aaaa("one.example.com", "2001:db8::1"),
        a("example.com", "192.0.2.99"),
    )
    assert located(zone, "example.com", None, transport) == [Address("192.0.2.1", 5081), Address("2001:db8::1", 5081)]
    assert zone.queries == [("SRV", f"{service}.example.com"), ("A", "one.example.com"), ("AAAA", "one.example.com")]


@pytest.mark.requirement("3263-1")
@pytest.mark.parametrize(("transport", "port"), [("UDP", 5060), ("TLS", 5061)])
def test_no_service(transport: str, port: int) -> None:
    """Without SRV records it is the A and AAAA records with the default port (RFC 3263, 4.2 and 5)."""
    zone = Zone(a("example.com", "192.0.2.1"), aaaa("example.com", "2001:db8::1"))
    assert located(zone, "example.com", None, transport) == [Address("192.0.2.1", port), Address("2001:db8::1", port)]


def test_root_target() -> None:
    """One SRV record with the target "." says that there is no such service, so nothing else is asked (RFC 2782)."""
    zone = Zone(a("example.com", "192.0.2.1"), srv("_sip._udp.example.com", 0, 0, 0, b"."))
    assert located(zone, "example.com") == []
    zone.rows[-1][1].target = dns.Name(b"")  # which is how it comes from the wire
    assert located(zone, "example.com") == []
    assert zone.queries == [("SRV", "_sip._udp.example.com")] * 2


def test_priority() -> None:
    """The lowest priority comes first, whatever its weight (RFC 2782)."""
    zone = Zone(
        srv("_sip._udp.example.com", 20, 60000, 5060, "late.example.com"),
        srv("_sip._udp.example.com", 10, 0, 5060, "early.example.com"),
        srv("_sip._udp.example.com", 10, 5, 5061, "early.example.com"),
        a("late.example.com", "192.0.2.3"),
        a("early.example.com", "192.0.2.1"),
    )
    addresses = located(zone, "example.com")
    assert {str(address) for address in addresses[:2]} == {"192.0.2.1:5060", "192.0.2.1:5061"}
    assert addresses[2:] == [Address("192.0.2.3", 5060)]


@pytest.mark.parametrize(
    ("chosen", "ports"),
    [
        # weights 0, 1 and 3, so that the running sums are 0, 1 and 4
        ([0, 0, 0], [5000, 5001, 5003]),
        ([1, 0, 0], [5001, 5000, 5003]),
        ([2, 1, 0], [5003, 5001, 5000]),
        ([4, 0, 1], [5003, 5000, 5001]),
        ([0, 2, 0], [5000, 5003, 5001]),
    ],
)
def test_weight(chosen: list[int], ports: list[int]) -> None:
    """Of one priority the first running sum of weights that reaches the number drawn is next (RFC 2782)."""
    zone = Zone(
        srv("_sip._udp.example.com", 1, 3, 5003, "a.example.com"),
        srv("_sip._udp.example.com", 1, 0, 5000, "a.example.com"),
        srv("_sip._udp.example.com", 1, 1, 5001, "a.example.com"),
        a("a.example.com", "192.0.2.1"),
    )
    ranges = []

    def randint(least: int, greatest: int) -> int:
        ranges.append((least, greatest))
        return chosen[len(ranges) - 1]

    assert [address.port for address in located(zone, "example.com", randint=randint)] == ports
    assert ranges[0] == (0, 4)
    assert all(least == 0 for least, _ in ranges)


def test_aliases() -> None:
    """An alias leads to the addresses of the name it stands for, whatever the case (RFC 1034, 3.6.2)."""
    zone = Zone(
        cname("ua.example.com", "b.example.net"), cname("b.example.net", "c.example"), a("c.example", "192.0.2.1")
    )
    assert located(zone, "ua.example.com", 5060) == [Address("192.0.2.1", 5060)]
    zone.answers["ua.EXAMPLE.com"] = [
        dns.RRHeader(b"UA.example.com", dns.CNAME, dns.IN, 60, dns.Record_CNAME("B.example.net")),
        dns.RRHeader(b"b.Example.net", dns.A, dns.IN, 60, dns.Record_A("192.0.2.2")),
    ]
    assert located(zone, "ua.EXAMPLE.com.", 5060) == [Address("192.0.2.2", 5060)]


def test_double() -> None:
    """An address that two names have is given once."""
    zone = Zone(
        srv("_sip._udp.example.com", 1, 0, 5060, "a.example.com"),
        srv("_sip._udp.example.com", 2, 0, 5060, "b.example.com"),
        a("a.example.com", "192.0.2.1"),
        aaaa("a.example.com", "::ffff:192.0.2.1"),
        a("b.example.com", "192.0.2.1"),
    )
    assert located(zone, "example.com") == [Address("192.0.2.1", 5060)]


# Failures


@pytest.mark.parametrize(
    "trouble",
    [DNSServerError(b""), NotImplementedError(), OSError("no route"), TimeoutError(), ValueError, KeyError],
    ids=repr,
)
def test_failure(trouble: object) -> None:
    """A query that fails is one without an answer, however it fails; what else can be asked is asked."""
    zone = Zone(a("example.com", "192.0.2.1"), aaaa("example.com", "2001:db8::1"))
    zone.trouble = {"SRV": trouble, "A": trouble}
    assert located(zone, "example.com") == [Address("2001:db8::1", 5060)]


@pytest.mark.parametrize("answer", [None, (), ([], []), ([None], [], []), 7], ids=repr)
def test_nonsense(answer: object) -> None:
    """A resolver that gives something else than an answer gives none."""
    zone = Zone()
    zone.query = zone._lookup = lambda *_: succeed(answer)  # type: ignore[method-assign, assignment]
    assert located(zone, "example.com") == []


def test_deadline() -> None:
    """There is one deadline for all queries; what was found until then counts, and nothing more is asked."""
    zone = Zone(
        srv("_sip._udp.example.com", 1, 0, 5060, "a.example.com"),
        srv("_sip._udp.example.com", 2, 0, 5060, "slow.example.com"),
        srv("_sip._udp.example.com", 3, 0, 5060, "b.example.com"),
        a("a.example.com", "192.0.2.1"),
        a("b.example.com", "192.0.2.2"),
    )
    zone.trouble = {"SRV": SILENT, "slow.example.com": SILENT}
    clock = Clock()
    results: list[list[Address]] = []
    locate("example.com", None, "UDP", zone, clock, TIMEOUT).addCallback(results.append)
    clock.advance(TIMEOUT - 1)
    zone.waiting[0].callback((zone._found(b"_sip._udp.example.com", dns.SRV), [], []))
    clock.advance(0.9)
    assert results == []
    clock.advance(0.1)
    assert results == [[Address("192.0.2.1", 5060)]]
    assert zone.cancelled == 1
    assert zone.queries[-1] == ("A", "slow.example.com")
    assert not clock.getDelayedCalls()
    assert all(sum(patience) <= TIMEOUT for patience in zone.patience)


def test_cancel() -> None:
    """Cancelling the search cancels the query, and leaves no timer."""
    zone, clock = Zone(), Clock()
    zone.trouble = {"A": SILENT}
    searching = locate("example.com", 5060, "UDP", zone, clock, TIMEOUT)
    results: list[Any] = []
    searching.addErrback(lambda failure: results.append(failure.type))
    searching.cancel()
    assert results == [CancelledError]
    assert zone.cancelled == 1
    assert zone.queries == [("A", "example.com")]
    assert not clock.getDelayedCalls()


# Hostile zones


def test_many_addresses() -> None:
    """Of a huge answer the first few addresses are taken, and nothing more is asked then."""
    zone = Zone(*(a("example.com", f"192.0.2.{number}") for number in range(200)))
    addresses = located(zone, "example.com", 5060)
    assert addresses == [Address(f"192.0.2.{number}", 5060) for number in range(MAX_ADDRESSES)]
    assert zone.queries == [("A", "example.com")]


def test_many_targets() -> None:
    """Of many SRV records the first few are followed, whether anything is there or not."""
    zone = Zone(*(srv("_sip._udp.example.com", number, 0, 5060, f"t{number}.example.com") for number in range(3000)))
    assert located(zone, "example.com") == []
    assert zone.queries[1::2] == [("A", f"t{number}.example.com") for number in range(8)]
    assert len(zone.queries) == 1 + 8 * 2


@pytest.mark.parametrize(
    "aliases",
    [
        [("example.com", "example.com")],
        [("example.com", "b.example"), ("b.example", "example.com")],
        [("example.com", "b.example"), ("b.example", "c.example"), ("c.example", "b.example")],
    ],
)
def test_alias_loop(aliases: list[tuple[str, str]]) -> None:
    """Aliases that go in a circle lead nowhere."""
    zone = Zone()
    zone.answers["example.com"] = [
        dns.RRHeader(name.encode(), dns.CNAME, dns.IN, 60, dns.Record_CNAME(target, 60)) for name, target in aliases
    ]
    assert located(zone, "example.com", 5060) == []
    assert zone.queries == [("A", "example.com"), ("AAAA", "example.com")]


def test_long_chain() -> None:
    """So do aliases of aliases beyond any use."""
    names = [f"n{number}.example" for number in range(2000)]
    zone = Zone()
    zone.answers[names[0]] = [
        *(dns.RRHeader(name.encode(), dns.CNAME, dns.IN, 60, cname("", to)[1]) for name, to in pairwise(names)),
        dns.RRHeader(names[-1].encode(), dns.A, dns.IN, 60, dns.Record_A("192.0.2.1")),
    ]
    assert located(zone, names[0], 5060) == []


def test_unasked() -> None:
    """Records in the answer that are for another name, or of another type, are not taken."""
    zone = Zone()
    zone.answers["example.com"] = [
        dns.RRHeader(b"other.example", dns.A, dns.IN, 60, dns.Record_A("192.0.2.66")),
        dns.RRHeader(b"example.com", dns.TXT, dns.IN, 60, dns.Record_TXT(b"192.0.2.66")),
        dns.RRHeader(b"example.com", dns.A, dns.IN, 60, dns.UnknownRecord(b"\xc0\x00\x02\x42")),
        dns.RRHeader(b"example.com", dns.A, dns.IN, 60, dns.Record_A("192.0.2.1")),
    ]
    assert located(zone, "example.com", 5060) == [Address("192.0.2.1", 5060)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..example",
        ".example",
        "a" * 64 + ".example",
        ".".join(["a" * 50] * 6),
        "127.1",
        "0",
        "192.0.2.256",
        "192.0.2.01",
        "2130706433",
        "2001:db8::1%eth0",
        "fe80::1%1",
        "[::1",
        "[]",
        "exa mple.com",
        "exämple.com",
        "example.com\r\nX",
        "a\0b.example",
        "*.example",
    ],
)
def test_no_name(name: str) -> None:
    """What is no domain name is neither asked for nor read as an address, whether a Via or an SRV record says it."""
    zone = Zone(srv("_sip._udp.example.com", 0, 0, 5060, name.encode("utf-8")))
    assert located(zone, name) == []
    assert located(zone, name, 5060) == []
    assert zone.queries == []
    assert located(zone, "example.com") == []
    assert zone.queries == [("SRV", "_sip._udp.example.com")]


@pytest.mark.parametrize("target", ["192.0.2.66", "127.0.0.1"])
def test_address_as_target(target: str) -> None:
    """An SRV record whose target is an address is none: a target is a domain name (RFC 2782)."""
    zone = Zone(srv("_sip._udp.example.com", 0, 0, 5060, target), a("example.com", "192.0.2.1"))
    assert located(zone, "example.com") == []
    assert zone.queries == [("SRV", "_sip._udp.example.com")]


@pytest.mark.parametrize("label", [b"\xff\xfe", b"a\xc3\xa4", b"a b", b"\x00", b"a/b"])
def test_odd_octets(label: bytes) -> None:
    """Odd octets in the target of an SRV record are asked of nobody."""
    zone = Zone(srv("_sip._udp.example.com", 0, 0, 5060, label + b".example.com"))
    assert located(zone, "example.com") == []
    assert len(zone.queries) == 1


def test_long_service() -> None:
    """A name too long to have an SRV record still has addresses."""
    name = ".".join(["a" * 49] * 5)
    assert len(name) == 249
    zone = Zone(a(name, "192.0.2.1"))
    assert located(zone, name) == [Address("192.0.2.1", 5060)]
    assert zone.queries == [("A", name), ("AAAA", name)]


@pytest.mark.parametrize("address", ["224.0.1.75", "0.0.0.0", "255.255.255.255", "240.0.0.1"])
def test_no_peer(address: str) -> None:
    """An address at which there is no one peer is dropped, in a record and as a sent-by."""
    zone = Zone(a("example.com", address), aaaa("example.com", f"::ffff:{address}"))
    assert located(zone, "example.com", 5060) == []
    assert located(zone, address, 5060) == []


@pytest.mark.parametrize("address", ["ff02::1", "::"])
def test_no_peer_of_ipv6(address: str) -> None:
    """The same for IPv6."""
    zone = Zone(aaaa("example.com", address))
    assert located(zone, "example.com", 5060) == []
    assert located(zone, f"[{address}]", 5060) == []


def test_no_port() -> None:
    """A service on port 0 is none."""
    zone = Zone(
        srv("_sip._udp.example.com", 0, 0, 0, "a.example.com"),
        srv("_sip._udp.example.com", 1, 0, 5060, "a.example.com"),
        a("a.example.com", "192.0.2.1"),
    )
    assert located(zone, "example.com") == [Address("192.0.2.1", 5060)]


@given(host=st.text(), target=st.binary(), port=st.none() | st.integers(1, 65535))
def test_any_name(host: str, target: bytes, port: int | None) -> None:
    """Whatever a Via and a zone say, there is a list, and no name that DNS cannot carry is asked for."""
    zone = Zone(srv("_sip._udp.example.com", 0, 0, 5060, target))
    assert len(located(zone, host, port)) <= 1
    assert located(zone, "example.com") == []
    for _, name in zone.queries:
        labels = name.split(".")
        assert len(name) <= 253
        assert all(0 < len(label) <= 63 for label in labels)


# Resolvers


class Network(Clock):
    """A reactor on which datagrams go nowhere; `datagrams` has where to."""

    def __init__(self) -> None:
        super().__init__()
        self.datagrams: list[tuple[str, int]] = []
        self.open = 0

    def listenUDP(self, port: int, protocol: DatagramProtocol, interface: str = "", maxPacketSize: int = 0) -> Any:
        transport: Any = FakeDatagramTransport()
        transport.write = lambda data, address: self.datagrams.append(address)
        transport.stopListening = self._close
        self.open += 1
        protocol.makeConnection(transport)
        return transport

    def _close(self) -> None:
        self.open -= 1


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 192.0.2.53\n", ["192.0.2.53"]),
        ("search example.com\nnameserver 192.0.2.53 # x\n\nnameserver\t2001:db8::53\n", ["192.0.2.53", "2001:db8::53"]),
        (
            "".join(f"nameserver 192.0.2.{number}\n" for number in range(1, 6)),
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
        ),
        ("", ["127.0.0.1"]),
        ("nameserver\nnameserver ns.example.com\nnameserver 1.2.3.4.5\n#nameserver 192.0.2.1", ["127.0.0.1"]),
        ("\xff\xfe\0", ["127.0.0.1"]),
        (None, ["127.0.0.1"]),
    ],
)
def test_configuration(tmp_path: Path, text: str | None, servers: list[str]) -> None:
    """The name servers are those of resolv.conf, at most three, by default this machine's (resolv.conf(5))."""
    configuration = tmp_path / "resolv.conf"
    if text is not None:
        configuration.write_text(text, "latin-1")
    network = Network()
    resolver = default_resolver(network, str(tmp_path / "hosts"), str(configuration))
    results: list[list[Address]] = []
    locate("ua.example.com", 5060, "UDP", resolver, network, TIMEOUT).addCallback(results.append)
    network.pump([0.25] * 20)
    assert results == [[]]
    assert network.datagrams[: len(servers)] == [(server, 53) for server in servers]
    assert set(network.datagrams) == {(server, 53) for server in servers}
    assert not network.getDelayedCalls()
    assert network.open == 0


def test_hosts_file(tmp_path: Path) -> None:
    """The hosts file is asked first; a change in it counts at once."""
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.1 ua ua.example.com\n2001:db8::1 ua.example.com\n")
    resolver = default_resolver(Network(), str(hosts), str(tmp_path / "resolv.conf"))
    assert located(resolver, "ua.example.com", 5060) == [Address("192.0.2.1", 5060), Address("2001:db8::1", 5060)]
    hosts.write_text("192.0.2.2 ua.example.com\n2001:db8::1 ua.example.com\n")
    assert located(resolver, "ua.example.com", 5060)[0] == Address("192.0.2.2", 5060)


def test_shared_query() -> None:
    """Cancelling one search ends no other for the same name."""
    network = Network()
    resolver = NameServerResolver(network, lambda: [("192.0.2.53", 53)])
    ended: list[str] = []
    first = locate("example.com", 5060, "UDP", resolver, network, TIMEOUT)
    first.addErrback(lambda failure: ended.append("first"))
    locate("example.com", 5060, "UDP", resolver, network, TIMEOUT).addCallback(lambda _: ended.append("second"))
    first.cancel()
    assert ended == ["first"]
    assert network.open == 1


# Live


class Server(DNSServerFactory):
    """A DNS server that cuts long answers in datagrams (RFC 1035, 4.2.1), as Twisted's own does not."""

    noisy = False

    def sendReply(self, protocol: Any, message: Any, address: Any) -> None:
        message.maxSize = 0 if address is None else 512
        super().sendReply(protocol, message, address)


@contextlib.asynccontextmanager
async def served(zone: Zone) -> AsyncIterator[int]:
    """The port of a name server that knows *zone*, by UDP and TCP."""
    factory = Server(clients=[zone])
    stream = reactor.listenTCP(0, factory, interface="127.0.0.1")
    port = stream.getHost().port
    datagram = reactor.listenUDP(port, dns.DNSDatagramProtocol(factory), interface="127.0.0.1")
    try:
        yield port
    finally:
        await stream.stopListening()
        await datagram.stopListening()
        for connection in list(factory.connections):
            connection.transport.abortConnection()


def resolvers(port: int) -> list[Any]:
    servers = [("127.0.0.1", port)]
    return [client.Resolver(servers=servers), NameServerResolver(reactor, lambda: servers)]


@pytest.mark.requirement("3263-1")
@pytest.mark.parametrize("which", [0, 1])
@pytest_twisted.ensureDeferred
async def test_live(which: int) -> None:
    """A real name server's answers lead to the addresses (RFC 3263, 5)."""
    zone = Zone(
        srv("_sip._udp.example.com", 1, 0, 5070, "alias.example.com"),
        srv("_sip._udp.example.com", 2, 0, 5080, "two.example.com"),
        srv("_sip._udp.example.com", 3, 0, 0, ""),
        cname("alias.example.com", "one.example.com"),
        a("one.example.com", "192.0.2.1"),
        aaaa("one.example.com", "2001:db8::1"),
        a("two.example.com", "192.0.2.2"),
    )
    async with served(zone) as port:
        addresses = await locate("example.com", None, "UDP", resolvers(port)[which], reactor, TIMEOUT)
    assert addresses == [Address("192.0.2.1", 5070), Address("2001:db8::1", 5070), Address("192.0.2.2", 5080)]


@pytest_twisted.ensureDeferred
async def test_live_root_target() -> None:
    """A "." from the wire says that there is no such service."""
    zone = Zone(srv("_sip._udp.example.com", 0, 0, 0, ""), a("example.com", "192.0.2.1"))
    async with served(zone) as port:
        assert await locate("example.com", None, "UDP", resolvers(port)[1], reactor, TIMEOUT) == []
    assert zone.queries == [("SRV", "_sip._udp.example.com")]


@pytest_twisted.ensureDeferred
async def test_live_long_answer() -> None:
    """An answer too long for a datagram is asked for again by TCP, and the connection is not left behind."""
    zone = Zone(*(srv("_sip._udp.example.com", 1, 0, 5060, f"t{number}.example.com") for number in range(100)))
    zone.rows.append((b"_sip._udp.example.com", dns.Record_SRV(0, 0, 5060, "best.example.com")))
    zone.rows.append((b"best.example.com", dns.Record_A("192.0.2.1")))
    async with served(zone) as port:
        addresses = await locate("example.com", None, "UDP", resolvers(port)[1], reactor, TIMEOUT)
    assert addresses == [Address("192.0.2.1", 5060)]
    assert zone.queries[:2] == [("SRV", "_sip._udp.example.com")] * 2


@pytest_twisted.ensureDeferred
async def test_live_silence() -> None:
    """A name server that says nothing costs the deadline, and no timer or socket is left."""
    silent = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
    resolver = resolvers(silent.getHost().port)[1]
    assert await locate("example.com", None, "UDP", resolver, reactor, 0.05) == []
    await silent.stopListening()


@pytest_twisted.ensureDeferred
async def test_live_silence_by_stream() -> None:
    """So does one that says nothing on the connection that it asked for."""
    met: Deferred[None] = Deferred()
    gone: Deferred[None] = Deferred()

    class Silent(Protocol):
        def dataReceived(self, data: bytes) -> None:
            met.callback(None)

        def connectionLost(self, *_: object) -> None:
            gone.callback(None)

    class Truncating(DatagramProtocol):
        transport: IUDPTransport

        def datagramReceived(self, data: bytes, address: Any) -> None:
            query = dns.Message()
            query.fromStr(data)
            answer = dns.Message(id=query.id, answer=1, trunc=1)
            answer.queries = query.queries
            self.transport.write(answer.toStr(), address)

    stream = reactor.listenTCP(0, Factory.forProtocol(Silent), interface="127.0.0.1")
    datagram = reactor.listenUDP(stream.getHost().port, Truncating(), interface="127.0.0.1")
    searching = locate("example.com", 5060, "UDP", resolvers(stream.getHost().port)[1], reactor, TIMEOUT)
    searching.addErrback(lambda failure: failure.trap(CancelledError))
    await met
    searching.cancel()
    await gone
    await stream.stopListening()
    await datagram.stopListening()
