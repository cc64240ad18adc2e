"""What addresses does the sent-by of a Via stand for? RFC 3263, section 5: where a response goes when its way failed.

The names asked for are the peer's to choose, and the zones may be too. So the answers are bounded in number and time,
and nothing but DNS and the hosts file is asked: a name that some library would read as an address leads nowhere.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IConnector, IDelayedCall, IListeningPort, IReactorTime, IResolver
from twisted.names import client, common, dns, hosts, resolve
from twisted.python.failure import Failure

from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.uri import canonical_host

__all__ = ["MAX_ADDRESSES", "NameServerResolver", "default_port", "default_resolver", "locate", "of_name"]

MAX_ADDRESSES = 8
"""How many addresses `locate` gives at most."""

_MAX_TARGETS = 8  # SRV records that are followed
_MAX_ALIASES = 8  # CNAME records that are followed, one after another
_MAX_NAME_SERVERS = 3  # as resolv.conf(5) has it

_SERVICES = {"UDP": "_sip._udp.", "TCP": "_sip._tcp.", "TLS": "_sips._tcp."}
_DOMAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")

_Numeric = ipaddress.IPv4Address | ipaddress.IPv6Address
_Record = TypeVar("_Record")
_Result = TypeVar("_Result")
_Choose = Callable[[int, int], int]


def default_port(transport: str) -> int:
    """Return the port that *transport* means where none is given (18.2.2; 19.1.2)."""
    return 5061 if transport == "TLS" else 5060


def locate(
    via_host: str,
    via_port: int | None,
    transport: str,
    resolver: IResolver,
    clock: IReactorTime,
    timeout: float,
    *,
    randint: _Choose = random.randint,
) -> Deferred[list[Address]]:
    """Return where a response can go whose topmost Via has *via_host* and *via_port*, in order of trying (RFC 3263, 5).

    *via_host* is a name, an IPv4 address or a bracketed IPv6 reference; *transport* is ``UDP``, ``TCP`` or ``TLS``.
    *timeout* is in seconds, and for all queries together: what was found until then counts. *randint*, which takes its
    least and its greatest result, shares the load by the weights of SRV records (RFC 2782).

    The `Deferred` does not fail: where nothing is found, or *resolver* fails, the list is empty. It may be cancelled.
    """
    search = _Search(resolver, timeout, randint)
    searching = Deferred.fromCoroutine(search.run(via_host, via_port, transport))
    searching.addTimeout(timeout, clock)
    searching.addErrback(_time_is_up)
    return searching.addCallback(lambda _: search.found)


def _time_is_up(failure: Failure) -> None:
    failure.trap(TimeoutError)


class _Search:
    """One search and the addresses it found so far."""

    def __init__(self, resolver: IResolver, timeout: float, randint: _Choose) -> None:
        self.found: list[Address] = []
        self._resolver = resolver
        self._patience = (timeout / 4, timeout / 2)  # a lost query is repeated once within the time there is
        self._randint = randint

    async def run(self, host: str, port: int | None, transport: str) -> None:
        """Search for *host*."""
        numeric = _numeric(host)
        if numeric is not None:
            self._add(numeric, port or default_port(transport))
            return
        if port is None and _is_domain_name(host.removesuffix(".")):
            services = await self._records("lookupService", _SERVICES[transport] + host, dns.Record_SRV)
            for service in _in_order(services, self._randint):
                await self._add_addresses(_text(service.target), service.port)
            if services:  # "." as the one target says that there is no such service (RFC 2782)
                return
        await self._add_addresses(host, port or default_port(transport))

    async def _add_addresses(self, name: str, port: int) -> None:
        """Add the addresses of *name*; one after the other, so that what is known counts if time runs out."""
        for look_up, kind in (("lookupAddress", dns.Record_A), ("lookupIPV6Address", dns.Record_AAAA)):
            if len(self.found) < MAX_ADDRESSES:
                for record in await self._records(look_up, name, kind):
                    self._add(ipaddress.ip_address(record.address), port)

    def _add(self, numeric: _Numeric, port: int) -> None:
        numeric = getattr(numeric, "ipv4_mapped", None) or numeric
        is_reserved = numeric.version == 4 and numeric.is_reserved  # broadcast is among these
        if numeric.is_multicast or numeric.is_unspecified or is_reserved or not 0 < port <= 65535:
            return  # no one peer is there
        address = Address(str(numeric), port)
        if address not in self.found and len(self.found) < MAX_ADDRESSES:
            self.found.append(address)

    async def _records(self, look_up: str, name: str, kind: Callable[..., _Record]) -> list[Any]:
        """Return the records of *kind* that *name* has; none if it is no domain name or the query fails."""
        name = name.removesuffix(".")
        if not _is_domain_name(name):
            return []
        try:
            answers, _, _ = await getattr(self._resolver, look_up)(name, self._patience)
            return of_name(answers, name, kind)
        except CancelledError:
            raise
        except Exception:
            return []  # no such name, no server, rubbish from it: there is another name to try, or there is not


def _is_domain_name(name: str) -> bool:
    """Whether *name* can be asked for; one whose last label is a number would be an address (RFC 1123, 2.1)."""
    return len(name) <= 253 and _DOMAIN_NAME.fullmatch(name) is not None and not name.rpartition(".")[2].isdigit()


def _numeric(host: str) -> _Numeric | None:
    if "%" in host:
        return None  # a zone is of no meaning but on the peer's own machine
    try:
        return ipaddress.ip_address(canonical_host(host).strip("[]"))
    except ValueError:
        return None


def _text(name: dns.Name | None) -> str:
    return "" if name is None else name.name.decode("ascii", "replace")


def of_name(answers: Iterable[Any], name: str, kind: Any) -> list[Any]:
    """Return the records of *kind* in *answers*, resource records, that are for *name* or what it is an alias of."""
    records = [(_text(answer.name).lower().removesuffix("."), answer.payload) for answer in answers]
    aliases = {
        owner: _text(record.name).lower().removesuffix(".")
        for owner, record in records
        if isinstance(record, dns.Record_CNAME)
    }
    wanted = name.lower()
    for _ in range(_MAX_ALIASES):
        wanted = aliases.get(wanted, wanted)
    return [record for owner, record in records if owner == wanted and isinstance(record, kind)]


def _in_order(services: Sequence[dns.Record_SRV], randint: _Choose) -> Iterator[dns.Record_SRV]:
    """Give the first of *services* in the order that RFC 2782 says: by priority, then at random by weight."""
    left = sorted(services, key=lambda service: (service.priority, service.weight))
    for _ in range(min(len(left), _MAX_TARGETS)):
        rivals = [service.weight for service in left if service.priority == left[0].priority]
        threshold = randint(0, sum(rivals))
        position = 0
        while (threshold := threshold - rivals[position]) > 0:
            position += 1
        yield left.pop(position)


def default_resolver(
    reactor: Any, hosts_file: str = "/etc/hosts", configuration: str = "/etc/resolv.conf"
) -> IResolver:
    """Return an `IResolver` that asks the hosts file, then the name servers of *configuration*.

    Both files are read anew for each query, so a change counts at once, and nothing stays on *reactor* between
    queries. It keeps no answers: the cache of `twisted.names` has no bound, and the name servers have one.
    """
    name_servers = NameServerResolver(reactor, lambda: _name_servers(configuration))
    resolver: IResolver = resolve.ResolverChain([hosts.Resolver(hosts_file.encode()), name_servers])
    return resolver


def _name_servers(configuration: str) -> list[tuple[str, int]]:
    """Return the addresses that the file *configuration* names, by default this machine's (resolv.conf(5))."""
    try:
        lines = Path(configuration).read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    named = [row[1] for row in words if row[:1] == ["nameserver"] and len(row) > 1]
    servers = [(host, dns.PORT) for host in named if isIPAddress(host) or isIPv6Address(host)]
    return servers[:_MAX_NAME_SERVERS] or [("127.0.0.1", dns.PORT)]


class NameServerResolver(common.ResolverBase):
    """An `IResolver` that asks the recursive name servers that *servers* returns as ``(address, port)``.

    It is `twisted.names.client.Resolver`, but for this: when a query ends, in whatever way, no timer and no connection
    is left on *reactor*; and cancelling one query ends no other that asks the same.
    """

    def __init__(self, reactor: Any, servers: Callable[[], Sequence[tuple[str, int]]]) -> None:
        super().__init__()
        self._reactor = reactor
        self._servers = servers

    def _lookup(self, name: bytes, cls: int, type: int, timeout: Sequence[float] | None) -> Deferred[Any]:
        scope = _QueryReactor(self._reactor)
        resolver = client.Resolver(servers=list(self._servers()), reactor=scope)
        resolver.factory = _StreamFactory(resolver, scope)
        answered: Deferred[Any] = resolver.query(dns.Query(name, type, cls), timeout)
        return answered.addBoth(scope.ended)


class _StreamFactory(client.DNSClientFactory):
    """Makes the protocol for answers that are too long for a datagram; Twisted's own is tied to the global reactor."""

    noisy = False

    def __init__(self, controller: client.Resolver, reactor: _QueryReactor) -> None:
        super().__init__(controller)
        self._reactor = reactor

    def buildProtocol(self, addr: object) -> dns.DNSProtocol:
        """Return the protocol for one connection."""
        protocol = dns.DNSProtocol(self.controller, self._reactor)
        protocol.factory = self
        return protocol


class _QueryReactor:
    """As much of a reactor as one query needs; it remembers what was begun, so that it can be ended."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._timers: list[IDelayedCall] = []
        self._connectors: list[IConnector] = []

    def callLater(self, *arguments: Any) -> IDelayedCall:
        """See `IReactorTime`."""
        timer: IDelayedCall = self._reactor.callLater(*arguments)
        self._timers.append(timer)
        return timer

    def listenUDP(self, port: int, protocol: dns.DNSDatagramProtocol, **options: Any) -> IListeningPort:
        """See `IReactorUDP`; the resolver closes this itself when it has its answer or is cancelled."""
        protocol.noisy = False  # or it logs each query twice, as a port that starts and stops
        listening: IListeningPort = self._reactor.listenUDP(port, protocol, **options)
        return listening

    def connectTCP(self, *arguments: Any) -> IConnector:
        """See `IReactorTCP`."""
        connector: IConnector = self._reactor.connectTCP(*arguments)
        self._connectors.append(connector)
        return connector

    def ended(self, result: _Result | Failure) -> _Result | Failure:
        """End what is left, and return *result* as it is."""
        for timer in self._timers:
            try:
                timer.cancel()
            except (AlreadyCalled, AlreadyCancelled):
                pass
        for connector in self._connectors:
            connector.disconnect()
        return result
