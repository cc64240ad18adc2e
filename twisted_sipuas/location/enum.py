"""`ENUMLocationService`: where a telephone number is reached by SIP, as the DNS says (RFC 6116)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from twisted.internet.defer import CancelledError, DeferredSemaphore, TimeoutError
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.names import dns
from twisted.names.error import DNSNameError
from zope.interface import implementer

from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.interfaces import ILocationService
from twisted_sipuas.location.naptr import DOMAIN_NAME, MAX_DOMAIN_NAME, Rule, domain_of, number_of
from twisted_sipuas.location.target import Redirection, Target
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import SIPURI, URI
from twisted_sipuas.transport.locate import NameServerResolver, default_resolver, of_name

__all__ = ["ENUMLocationService", "make"]

_PATIENCE = (0.5, 1.0, 2.0)  # seconds until a query that is lost is sent again, to each name server in turn
_MAX_NEXT_DOMAINS = 5  # RFC 6116, 5.2.1: more than 5 non-terminal NAPTRs may be taken for a loop
_MAX_AGE = 86_400  # seconds that an answer is kept, whatever its TTL
_MAX_AGE_OF_NOTHING = 10_800  # RFC 2308, 5
_DIGITS_LENGTH = 2 * 15  # what a number of 15 digits adds to the suffix

_Group = list[SIPURI]  # those that are preferred alike
_Answer = tuple[list[dns.RRHeader], list[dns.RRHeader], list[dns.RRHeader]]  # answers, authority, additional


class _Known(NamedTuple):
    """What the DNS said of a domain name, and until when it holds."""

    until: float
    rules: tuple[Rule, ...]


class _Search:
    """One look-up: the number, the domain names that were asked for, and why one could not be."""

    __slots__ = ("asked", "failure", "number")

    def __init__(self, number: str) -> None:
        self.number = number
        self.asked: set[str] = set()
        self.failure: Exception | None = None


@implementer(ILocationService)
class ENUMLocationService:
    """Redirects calls for global telephone numbers to the SIP URIs that NAPTR records below *suffix* make of them.

    Anything but a number is left to the next service, and so is a number that the DNS does not know, or knows no SIP
    URI of. *resolver* is asked as `twisted.names` does; *clock* tells the time.

    Records are considered by order, then preference. The first order of which a record makes a URI is the answer, with
    all the URIs of that order: q is 1 for the most preferred, 0.9 for the next, and so on, down to 0.1. A non-terminal
    record leads to the records of another domain, five in one look-up. A record that is malformed, or leads back or to
    nothing, is passed over.

    What the DNS says is kept for as long as that says, one day at most; nothing is kept of what it failed to say.
    """

    max_records: ClassVar[int] = 32
    """Records of one domain that are considered, those of the least order first."""

    max_queries: ClassVar[int] = 64
    """Queries at a time, each of which takes a socket; more wait for their turn."""

    max_known: ClassVar[int] = 10_000
    """Domain names whose records are kept; past them the oldest goes."""

    def __init__(self, suffix: str, resolver: IResolver, clock: IReactorTime, *, description: str = "") -> None:
        self.suffix = suffix.removesuffix(".").lower()
        if DOMAIN_NAME.fullmatch(self.suffix) is None or len(self.suffix) > MAX_DOMAIN_NAME - _DIGITS_LENGTH:
            raise ValueError("expected a domain name such as e164.arpa")
        self.description = description or f"enum:{self.suffix}"
        self._resolver: Any = resolver
        self._clock = clock
        self._turns = DeferredSemaphore(self.max_queries)
        self._known: dict[str, _Known] = {}
        self._counters = {"queries": 0, "known_hits": 0, "faulty_records": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of how many queries were made and how many were not, as the answer was known; of how many
        domain names it is; and of how often a malformed record was passed over.
        """
        return MappingProxyType({**self._counters, "known": len(self._known)})

    def lookup(self, request_uri: URI, request: Request) -> object:
        """See `ILocationService`."""
        number = number_of(request_uri)
        return None if number is None else self._look_up(_Search(number))

    async def _look_up(self, search: _Search) -> Redirection | None:
        groups = await self._uris_of(domain_of(search.number, self.suffix), search)
        if not groups and search.failure is not None:
            raise search.failure
        targets: dict[str, Target] = {}
        for rank, group in enumerate(groups):
            for uri in group:
                targets.setdefault(uri.text, Target(uri, q=max(10 - rank, 1) / 10))
        return Redirection(targets.values()) if targets else None

    async def _uris_of(self, domain: str, search: _Search) -> list[_Group]:
        """Return the URIs of the first order of *domain* that has any, the most preferred group first."""
        if domain in search.asked or len(search.asked) > _MAX_NEXT_DOMAINS:
            return []
        search.asked.add(domain)
        try:
            rules = await self._rules(domain)
        except UnavailableError as failure:
            search.failure = failure  # 5.2.1: the query is not abandoned, but goes on where it was led here from
            return []
        for _, of_one_order in groupby(rules, attrgetter("order")):
            groups: list[_Group] = []
            for _, preferred_alike in groupby(of_one_order, attrgetter("preference")):
                groups += await self._groups(preferred_alike, search)
            if groups:
                return groups
        return []

    async def _groups(self, rules: Iterable[Rule], search: _Search) -> list[_Group]:
        """Return the URIs of *rules*, preferred alike: first what they make themselves, then where they lead."""
        made: _Group = []
        led_to: list[_Group] = []
        for rule in rules:
            if rule.is_terminal and rule.is_for_sip:
                uri = self._uri(rule, search.number)
                made += [] if uri is None else [uri]
            elif (domain := rule.next_domain) is not None:
                led_to += await self._uris_of(domain, search)
        return [made, *led_to] if made else led_to

    def _uri(self, rule: Rule, number: str) -> SIPURI | None:
        try:
            return rule.uri(number)
        except ValueError:
            self._counters["faulty_records"] += 1
            return None

    def _rule(self, record: dns.Record_NAPTR) -> Rule | None:
        """Return *record* as a rule; None if it has octets that are no UTF-8, which is the character set (3.4)."""
        texts = (record.flags.string, record.service.string, record.regexp.string, record.replacement.name)
        try:
            return Rule(record.order, record.preference, *(text.decode() for text in texts))
        except UnicodeDecodeError:
            self._counters["faulty_records"] += 1
            return None

    async def _rules(self, domain: str) -> Sequence[Rule]:
        """Return the rules of *domain* in the order of considering them, from what is known or the DNS.

        Raises `UnavailableError`.
        """
        now = self._clock.seconds()
        known = self._known.get(domain)
        if known is not None and now < known.until:
            self._counters["known_hits"] += 1
            return known.rules
        answers, authority = await self._ask(domain)
        rules = [rule for record in of_name(answers, domain, dns.Record_NAPTR) if (rule := self._rule(record))]
        rules.sort(key=attrgetter("order", "preference"))  # those alike stay as they came (5.2)
        del rules[self.max_records :]
        self._keep(domain, tuple(rules), now + (_age(answers) if rules else _age_of_nothing(authority)))
        return rules

    async def _ask(self, domain: str) -> tuple[Sequence[dns.RRHeader], Sequence[dns.RRHeader]]:
        """Return the answers of the DNS and its authority section; a name that does not exist has no answers."""
        await self._turns.acquire()
        self._counters["queries"] += 1
        try:
            answer: _Answer = await self._resolver.lookupNamingAuthorityPointer(domain, _PATIENCE)
        except CancelledError:
            raise
        except DNSNameError as error:
            message = error.args[0] if error.args else None
            return (), message.authority if isinstance(message, dns.Message) else ()
        except TimeoutError as error:
            raise UnavailableError(status=504, rule="no answer from the DNS") from error
        except Exception as error:  # SERVFAIL, REFUSED, rubbish, no descriptor left: it is not this that says no
            raise UnavailableError(rule=f"{type(error).__name__} from the DNS") from error
        finally:
            self._turns.release()
        return answer[0], answer[1]

    def _keep(self, domain: str, rules: tuple[Rule, ...], until: float) -> None:
        self._known.pop(domain, None)
        if until <= self._clock.seconds():
            return
        if len(self._known) >= self.max_known:
            del self._known[next(iter(self._known))]
        self._known[domain] = _Known(until, rules)


def _age(answers: Iterable[dns.RRHeader]) -> int:
    """Return for how many seconds *answers* hold, aliases among them too."""
    return min(_MAX_AGE, *(answer.ttl for answer in answers))


def _age_of_nothing(authority: Iterable[Any]) -> int:
    """Return for how many seconds there is nothing (RFC 2308, 5); none if no SOA record says it."""
    says = [record for record in authority if isinstance(record.payload, dns.Record_SOA)]
    return min(_MAX_AGE_OF_NOTHING, *(min(record.ttl, record.payload.minimum) for record in says)) if says else 0


def _name_servers(text: str) -> list[tuple[str, int]]:
    """Return the addresses in *text*, ``HOST[:PORT]`` with commas between them, an IPv6 host in brackets."""
    servers = []
    for server in text.split(","):
        host, _, port = server.rpartition(":") if server.count(":") == 1 or "]:" in server else (server, "", "53")
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            address = None
        if address is None or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
            raise ValueError(f"{server!r} is no name server: expected ADDRESS or ADDRESS:PORT")
        servers.append((str(address), int(port)))
    return servers


def make(argument: str, options: dict[str, str], reactor: Any) -> ENUMLocationService:
    """See `ILocationServicePlugin`: ``enum:SUFFIX[@ADDRESS[:PORT],...]`` has no options.

    Behind the ``@`` are the name servers to ask, rather than those of the system. They are no option of their own,
    since an option cannot hold the colon that an address may need.
    """
    suffix, at, servers = argument.partition("@")
    if not at:
        return ENUMLocationService(suffix, default_resolver(reactor), reactor)
    named = _name_servers(servers)
    resolver = NameServerResolver(reactor, lambda: named)
    return ENUMLocationService(suffix, resolver, reactor, description=f"enum:{argument}")
