"""Does a telephone number lead to the URIs that its NAPTR records say, whatever else they say? RFC 6116."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, succeed
from twisted.internet.protocol import DatagramProtocol
from twisted.names import common, dns
from twisted.names.error import DNSNameError, DNSQueryRefusedError, DNSServerError
from twisted.names.server import DNSServerFactory
from zope.interface.verify import verifyObject

from tests.any_reactor import reactor
from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.interfaces import ILocationService
from twisted_sipuas.location import location_service
from twisted_sipuas.location.enum import ENUMLocationService
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing import make_request

DOMAIN = "3.8.0.0.6.9.2.3.6.1.4.4.e164.arpa"
NUMBER = "tel:+441632960083"
SILENT = object()


def naptr(
    order: int, preference: int, replacement: str, *, services: str = "E2U+sip", flags: str = "u", leads_to: str = ""
) -> Any:
    """Return a record that makes *replacement* of any number, or one that *leads_to* another domain."""
    if leads_to:
        return dns.Record_NAPTR(order, preference, b"", services.encode(), b"", leads_to.encode(), 60)
    regexp = replacement if replacement.startswith("!") else f"!^.*$!{replacement}!"
    return dns.Record_NAPTR(order, preference, flags.encode(), services.encode(), regexp.encode(), b"", 60)


class Zone(common.ResolverBase):
    """An IResolver that has the records of each domain name in `rows`, or an exception, or SILENT.

    `queries` has the names asked for. A name that is missing does not exist; `soa` is what says so.
    """

    def __init__(self, **rows: Any) -> None:
        super().__init__()
        self.rows = {name.replace("_", "."): records for name, records in rows.items()}
        self.queries: list[Any] = []
        self.soa = None
        self.cancelled = 0

    def _lookup(self, name: bytes, cls: int, type: int, timeout: tuple[float, ...]) -> Deferred[Any]:
        text = name.decode()
        assert type == dns.NAPTR
        self.queries.append(text)
        records = self.rows.get(text, DNSNameError)
        if records is SILENT:
            return Deferred(lambda _: self._count_cancelled())
        authority: list[Any] = (
            [] if self.soa is None else [dns.RRHeader(b"arpa", dns.SOA, ttl=self.soa.ttl, payload=self.soa)]
        )
        if records is DNSNameError:
            return fail(DNSNameError(self._message(authority)))
        if isinstance(records, Exception):
            return fail(records)
        return succeed(([dns.RRHeader(text, row.TYPE, ttl=row.ttl, payload=row) for row in records], authority, []))

    def _message(self, authority: list[Any]) -> Any:
        message = dns.Message(rCode=dns.ENAME)
        message.authority = authority
        return message

    def _count_cancelled(self) -> None:
        self.cancelled += 1


@pytest.fixture
def zone() -> Zone:
    return Zone()


@pytest.fixture
def service(zone: Zone, clock: Any) -> ENUMLocationService:
    return ENUMLocationService("e164.arpa", zone, clock)


def begin(service: Any, uri: Any = NUMBER) -> Deferred[Any]:
    """Look *uri* up, and return the Deferred of it."""
    return Deferred.fromCoroutine(service.lookup(parse_uri(uri), make_request()))


def targets(service: ENUMLocationService, clock: Any, uri: str = NUMBER) -> Any:
    """Look *uri* up, and return the Contacts found, None if the next service is to be asked."""
    found = clock.result(begin(service, uri))
    return None if found is None else [str(target) for target in found.targets]


def test_interface(service: ENUMLocationService) -> None:
    """It is a location service that says what it is."""
    verifyObject(ILocationService, service)
    assert service.description == "enum:e164.arpa"


@pytest.mark.parametrize("uri", ["sip:bob@example.com", "tel:112", "mailto:a@example.com"])
def test_no_number(service: ENUMLocationService, zone: Zone, uri: str) -> None:
    """What is no global number is the next service's at once, and the DNS is not asked (6116, 3.7)."""
    assert service.lookup(parse_uri(uri), make_request()) is None
    assert zone.queries == []


def test_example(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """The example of the RFC: SIP is the first choice, and others are not ours (6116, 4)."""
    zone.rows[DOMAIN] = [
        naptr(100, 50, r"!^(\+441632960083)$!sip:\1@example.com!"),
        naptr(100, 51, r"!^\+441632960083$!h323:operator@example.com!", services="E2U+h323"),
        naptr(100, 52, "mailto:info@example.com", services="E2U+email:mailto"),
    ]
    assert targets(service, clock) == ["<sip:+441632960083@example.com>;q=1"]
    assert zone.queries == [DOMAIN]


def test_order_then_preference(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """The first order that has a SIP URI is the answer, with q by preference; the same preference has the same q."""
    zone.rows[DOMAIN] = [
        naptr(200, 1, "sip:late@h"),
        naptr(100, 30, "sip:third@h"),
        naptr(100, 10, "sip:first@h"),
        naptr(100, 20, "sip:second@h"),
        naptr(100, 10, "sip:as-good@h"),
        naptr(100, 30, "sip:first@h"),
        naptr(50, 10, "h323:none@h", services="E2U+h323"),
    ]
    assert targets(service, clock) == [
        "<sip:first@h>;q=1", "<sip:as-good@h>;q=1", "<sip:second@h>;q=0.9", "<sip:third@h>;q=0.8"
    ]  # fmt: skip


def test_many_preferences(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """However many preferences there are, q stays in order and above zero, and the records considered are bounded."""
    zone.rows[DOMAIN] = [naptr(1, number, f"sip:{number}@h") for number in reversed(range(1000))]
    found = targets(service, clock)
    assert len(found) == ENUMLocationService.max_records
    assert found[:2] == ["<sip:0@h>;q=1", "<sip:1@h>;q=0.9"]
    assert found[-1] == "<sip:31@h>;q=0.1"


@pytest.mark.parametrize(
    "faulty",
    [
        naptr(1, 1, "!(!sip:a@h!"),
        naptr(1, 1, "tel:+1"),
        naptr(1, 1, "sip:a@h", services="E2U+h323"),
        naptr(1, 1, "sip:a@h", flags="p"),
        naptr(1, 1, "!^\\+1!sip:a@h!"),
        naptr(1, 1, "", leads_to="no such name."),
        dns.Record_NAPTR(1, 1, b"u", b"E2U+sip", b"!^.*$!sip:\xff@h!", b"", 60),
        dns.Record_NAPTR(1, 1, b"u", b"E2U+sip", b"!" + b"(.*)" * 60 + b"x!sip:a@h!", b"", 60),
        dns.Record_A("192.0.2.1", 60),
    ],
)
def test_faulty_record(service: ENUMLocationService, zone: Zone, clock: Any, faulty: Any) -> None:
    """A record that is malformed or not for us is passed over, and the next one counts, of a later order too (5.2)."""
    zone.rows[DOMAIN] = [faulty, naptr(2, 1, "sip:good@h")]
    assert targets(service, clock) == ["<sip:good@h>;q=1"]


def test_faulty_records_are_counted(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """How often a malformed record was passed over is counted."""
    zone.rows[DOMAIN] = [naptr(1, 1, "!(!sip:a@h!"), dns.Record_NAPTR(1, 1, b"u", b"E2U+sip", b"\xff", b"", 60)]
    assert targets(service, clock) is None
    assert service.counters["faulty_records"] == 2


def test_non_terminal(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """A record without flags leads to the records of another domain, whose order counts there alone (5.2)."""
    zone.rows[DOMAIN] = [naptr(100, 10, "sip:first@h"), naptr(100, 20, "", leads_to="Next.Example.")]
    zone.rows["next.example"] = [naptr(900, 2, "sip:third@h"), naptr(900, 1, "sip:second@h")]
    assert targets(service, clock) == ["<sip:first@h>;q=1", "<sip:second@h>;q=0.9", "<sip:third@h>;q=0.8"]


@pytest.mark.parametrize("trouble", [DNSServerError(), SILENT, DNSNameError, []])
def test_non_terminal_that_leads_nowhere(service: ENUMLocationService, zone: Zone, clock: Any, trouble: Any) -> None:
    """A problem behind a non-terminal record does not end the look-up: the next record counts (5.2.1)."""
    zone.rows[DOMAIN] = [naptr(1, 1, "", leads_to="lost.example"), naptr(2, 1, "sip:good@h")]
    zone.rows["lost.example"] = fail_in_time(trouble)
    assert targets(service, clock) == ["<sip:good@h>;q=1"]


def fail_in_time(trouble: Any) -> Any:
    """What a resolver does in the end about a name server that is SILENT."""
    return TimeoutError() if trouble is SILENT else trouble


def test_problem_behind_a_non_terminal_alone(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """Where nothing else is found, a name server that fails leaves the answer open: 503."""
    zone.rows[DOMAIN] = [naptr(1, 1, "", leads_to="lost.example")]
    zone.rows["lost.example"] = DNSServerError()
    with pytest.raises(UnavailableError):
        targets(service, clock)


def test_loop(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """A loop of non-terminal records is not entered, and the records beside it count (5.2.1)."""
    zone.rows[DOMAIN] = [naptr(1, 1, "", leads_to="a.example"), naptr(2, 1, "sip:good@h")]
    zone.rows["a.example"] = [naptr(1, 1, "", leads_to="b.example")]
    zone.rows["b.example"] = [naptr(1, 1, "", leads_to=DOMAIN), naptr(1, 2, "", leads_to="B.example")]
    assert targets(service, clock) == ["<sip:good@h>;q=1"]
    assert zone.queries == [DOMAIN, "a.example", "b.example"]


def test_chain(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """Five non-terminal records are followed, one more is not (5.2.1)."""
    zone.rows[DOMAIN] = [naptr(1, 1, "", leads_to="1.example")]
    for number in range(1, 5):
        zone.rows[f"{number}.example"] = [naptr(1, 1, "", leads_to=f"{number + 1}.example")]
    zone.rows["5.example"] = [naptr(1, 1, "sip:good@h")]
    assert targets(service, clock) == ["<sip:good@h>;q=1"]
    zone.rows["5.example"] = [naptr(1, 1, "", leads_to="6.example")]
    zone.rows["6.example"] = [naptr(1, 1, "sip:far@h")]
    clock.advance(60)
    assert targets(service, clock) is None
    assert "6.example" not in zone.queries


def test_wide_tree(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """However many non-terminal records there are, five are followed in one look-up."""
    zone.rows[DOMAIN] = [naptr(1, number, "", leads_to=f"{number}.example") for number in range(30)]
    assert targets(service, clock) is None
    assert len(zone.queries) == 6


def test_alias(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """The records of a name that is an alias count, and those of strangers in the same answer do not."""
    zone.rows[DOMAIN] = []
    stranger = dns.RRHeader(b"other.example", dns.NAPTR, ttl=60, payload=naptr(1, 1, "sip:evil@h"))
    alias = dns.RRHeader(DOMAIN, dns.CNAME, ttl=60, payload=dns.Record_CNAME(b"real.example", 60))
    record = dns.RRHeader(b"real.example", dns.NAPTR, ttl=60, payload=naptr(2, 1, "sip:good@h"))
    zone._lookup = lambda *_: succeed(([stranger, alias, record], [], []))  # type: ignore[method-assign]
    assert targets(service, clock) == ["<sip:good@h>;q=1"]


@pytest.mark.parametrize("records", [DNSNameError, [], [dns.Record_A("192.0.2.1", 60)]])
def test_nothing(service: ENUMLocationService, zone: Zone, clock: Any, records: list[Any] | type[Any]) -> None:
    """A name that does not exist, or has no NAPTR record, leaves the number to the next service."""
    zone.rows[DOMAIN] = records
    assert targets(service, clock) is None


@pytest.mark.parametrize(
    ("trouble", "status"),
    [(DNSServerError(), 503), (DNSQueryRefusedError(), 503), (OSError("no socket left"), 503), (TimeoutError(), 504)],
)
def test_trouble(service: ENUMLocationService, zone: Zone, clock: Any, trouble: Any, status: int) -> None:
    """A name server that fails, refuses or is silent says nothing about the number: 503 or 504; nothing is kept."""
    zone.rows[DOMAIN] = trouble
    with pytest.raises(UnavailableError) as raised:
        targets(service, clock)
    assert raised.value.status == status
    assert raised.value.reason is None
    zone.rows[DOMAIN] = [naptr(1, 1, "sip:good@h")]
    assert targets(service, clock) == ["<sip:good@h>;q=1"]


def test_cancel(service: ENUMLocationService, zone: Zone) -> None:
    """A look-up that nobody waits for is cancelled, and with it the query; its turn is another's."""
    zone.rows[DOMAIN] = SILENT
    for _ in range(2 * ENUMLocationService.max_queries):
        looking = begin(service)
        looking.addErrback(lambda failure: failure.trap(CancelledError))
        looking.cancel()
    assert zone.cancelled == len(zone.queries) == 2 * ENUMLocationService.max_queries


def test_queries_at_a_time(service: ENUMLocationService, zone: Zone) -> None:
    """So many queries are made at a time, and more wait for their turn."""
    zone.rows[DOMAIN] = SILENT
    looking = [begin(service) for _ in range(ENUMLocationService.max_queries + 2)]
    assert len(zone.queries) == ENUMLocationService.max_queries
    for each in looking:
        each.addErrback(lambda failure: failure.trap(CancelledError))
    looking[0].cancel()
    assert len(zone.queries) == ENUMLocationService.max_queries + 1
    looking[-1].cancel()
    for each in looking:
        each.cancel()
    assert zone.cancelled == len(zone.queries) == ENUMLocationService.max_queries + 1


def test_ttl(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """An answer holds for the least TTL in it, and then the DNS is asked again."""
    zone.rows[DOMAIN] = [naptr(1, 1, "sip:old@h"), naptr(1, 2, "sip:older@h")]
    zone.rows[DOMAIN][1].ttl = 30
    assert targets(service, clock) == ["<sip:old@h>;q=1", "<sip:older@h>;q=0.9"]
    zone.rows[DOMAIN] = [naptr(1, 1, "sip:new@h")]
    clock.advance(29.9)
    assert targets(service, clock) == ["<sip:old@h>;q=1", "<sip:older@h>;q=0.9"]
    assert service.counters["known_hits"] == 1
    clock.advance(0.1)
    assert targets(service, clock) == ["<sip:new@h>;q=1"]
    assert service.counters["queries"] == 2
    assert service.counters["known"] == 1


@pytest.mark.parametrize("records", [DNSNameError, []])
@pytest.mark.parametrize(("ttl", "minimum", "age"), [(300, 20, 20), (20, 300, 20), (10**6, 10**6, 10_800)])
def test_ttl_of_nothing(
    service: ENUMLocationService,
    zone: Any,
    clock: Any,
    records: list[Any] | type[Any],
    ttl: Any,
    minimum: Any,
    age: int,
) -> None:
    """That there is nothing holds as long as the SOA record says, three hours at most (RFC 2308, 5)."""
    zone.rows[DOMAIN] = records
    zone.soa = dns.Record_SOA(b"ns.arpa", b"hostmaster.arpa", minimum=minimum, ttl=ttl)
    assert targets(service, clock) is None
    clock.advance(age - 1)
    assert targets(service, clock) is None
    assert len(zone.queries) == 1
    clock.advance(1)
    assert targets(service, clock) is None
    assert len(zone.queries) == 2


def test_ttl_that_is_none(service: ENUMLocationService, zone: Zone, clock: Any) -> None:
    """A TTL of 0, and nothing without an SOA record, are not kept (RFC 2308, 5)."""
    assert targets(service, clock) is None
    zone.rows[DOMAIN] = [naptr(1, 1, "sip:once@h")]
    zone.rows[DOMAIN][0].ttl = 0
    assert targets(service, clock) == ["<sip:once@h>;q=1"]
    assert service.counters["known"] == 0


def test_bounded_cache(service: Any, zone: Any, clock: Any) -> None:
    """Past the bound on what is kept the oldest goes."""
    zone.soa = dns.Record_SOA(b"ns.arpa", b"hostmaster.arpa", minimum=60, ttl=60)
    service.max_known = 2
    for number in ("tel:+1", "tel:+2", "tel:+3", "tel:+3", "tel:+1"):
        assert targets(service, clock, number) is None
    assert zone.queries == [f"{digit}.e164.arpa" for digit in (1, 2, 3, 1)]
    assert service.counters["known"] == 2


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("enum:e164.arpa", "enum:e164.arpa"),
        ("enum:E164.example.", "enum:e164.example"),
        ("enum:e164.arpa@192.0.2.53", "enum:e164.arpa@192.0.2.53"),
        ("enum:e164.arpa@[::1]:5353,192.0.2.53:53,2001:db8::53",) * 2,
    ],
)
def test_text(clock: Any, text: str, description: str) -> None:
    """`enum:SUFFIX` asks the system's name servers, `enum:SUFFIX@ADDRESS:PORT` those given."""
    service: Any = location_service(text, clock)
    assert service.description == description
    assert isinstance(service.service, ENUMLocationService)
    assert service.lookup_timeout == 2.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("enum:", "'enum:': expected a domain name such as e164.arpa"),
        ("enum:a..b", "'enum:a..b': expected a domain name such as e164.arpa"),
        (f"enum:{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}", "expected a domain name such as e164.arpa"),
        ("enum:e164.arpa@", "'' is no name server: expected ADDRESS or ADDRESS:PORT"),
        ("enum:e164.arpa@localhost", "'localhost' is no name server: expected ADDRESS or ADDRESS:PORT"),
        ("enum:e164.arpa@192.0.2.53:0", "'192.0.2.53:0' is no name server: expected ADDRESS or ADDRESS:PORT"),
        ("enum:e164.arpa@192.0.2.53:65536", "'192.0.2.53:65536' is no name server"),
        ("enum:e164.arpa@192.0.2.53,", "'' is no name server"),
        ("enum,server=192.0.2.53:53:e164.arpa", "expected a domain name such as e164.arpa"),
    ],
)
def test_mistakes(clock: Any, text: str, said: str) -> None:
    """A mistake is a ValueError that says what was expected."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    assert said in str(raised.value)


# With a real name server


class Server(DNSServerFactory):
    """A DNS server that cuts long answers in datagrams (RFC 1035, 4.2.1), as Twisted's own does not."""

    noisy = False

    def sendReply(self, protocol: Any, message: Any, address: tuple[int | str, ...] | None) -> None:
        message.maxSize = 0 if address is None else 512
        super().sendReply(protocol, message, address)


@contextlib.asynccontextmanager
async def served(zone: Zone) -> AsyncIterator[Any]:
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


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("how_many", [3, 60])
async def test_live(zone: Zone, how_many: int) -> None:
    """A real name server's records lead to the targets, by TCP where they are too long for a datagram."""
    zone.rows[DOMAIN] = [naptr(1, number, rf"!^\+44(.*)$!sip:\1@h{number}!") for number in range(how_many)]
    async with served(zone) as port:
        service: Any = location_service(f"enum:e164.arpa@127.0.0.1:{port}", reactor)
        found = await service.lookup(parse_uri(NUMBER), make_request())
        assert await service.lookup(parse_uri("tel:+1"), make_request()) is None
    assert [target.uri.text for target in found.targets[:2]] == ["sip:1632960083@h0", "sip:1632960083@h1"]
    assert len(found.targets) == min(how_many, 32)


@pytest_twisted.ensureDeferred
async def test_live_failure(zone: Zone) -> None:
    """A name server that answers SERVFAIL gives 503."""
    zone.rows[DOMAIN] = OSError("which is SERVFAIL to its clients")
    async with served(zone) as port:
        service: Any = location_service(f"enum:e164.arpa@127.0.0.1:{port}", reactor)
        with pytest.raises(UnavailableError) as raised:
            await service.lookup(parse_uri(NUMBER), make_request())
    assert raised.value.status == 503


@pytest_twisted.ensureDeferred
async def test_live_silence() -> None:
    """A name server that says nothing costs the deadline, gives 504, and leaves no timer or socket."""
    silent = reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")
    service: Any = location_service(f"enum,timeout=0.1:e164.arpa@127.0.0.1:{silent.getHost().port}", reactor)
    with pytest.raises(UnavailableError) as raised:
        await service.lookup(parse_uri(NUMBER), make_request())
    assert raised.value.status == 504
    await silent.stopListening()


@pytest_twisted.ensureDeferred
async def test_live_second_server(zone: Zone) -> None:
    """Where the first name server is silent, the second is asked."""
    zone.rows[DOMAIN] = [naptr(1, 1, "sip:good@h")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        async with served(zone) as port:
            text = f"enum:e164.arpa@127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{port}"
            service: Any = location_service(text, reactor)
            found = await service.lookup(parse_uri(NUMBER), make_request())
    assert [target.uri.text for target in found.targets] == ["sip:good@h"]
