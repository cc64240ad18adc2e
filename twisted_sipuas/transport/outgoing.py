"""By what flow does a request of ours go? RFC 3261, 18.1.1; RFC 3263, section 4. And the connections that we open.

Within a dialog the peer says where requests go, by Contact and Record-Route, and it may say so in order to have us send
to a third party. So that is followed only where it hurts nobody, or for a peer that has shown where it is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.python.failure import Failure

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import Address, IFlow
from twisted_sipuas.syntax.uri import SIPURI, canonical_host
from twisted_sipuas.transport.flow import StreamFlow, plain_host
from twisted_sipuas.transport.locate import locate

__all__ = ["Connect", "OutgoingConnections", "OutgoingFlows", "is_in_reach", "is_numeric"]

_LONGEST_SEARCH = 32.0  # seconds: 64*T1, as long as a response is waited for
_LONGEST_DATAGRAM = 1300  # octets: 18.1.1, where the MTU of the path is not known

Connect = Callable[[str, Address, str], "Deferred[IFlow]"]


class OutgoingFlows:
    """Finds the flow for a request of ours.

    *connections* are those for TCP and TLS. *datagram_flow* is called with an `Address` and returns a UDP flow to it
    by one of our own sockets, or None. *is_trusted* is asked with a source address whether the names and addresses that
    it gave may be followed; *resolver* gives what names are looked up with. *timeout* is in seconds, for one look-up.
    *max_searches* bounds the requests that wait for their flow; more fail.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connections: OutgoingConnections,
        *,
        datagram_flow: Callable[[Address], IFlow | None],
        is_trusted: Callable[[str], bool],
        resolver: Callable[[], IResolver],
        timeout: float = 5.0,
        max_searches: int = 1000,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._datagram_flow = datagram_flow
        self._is_trusted = is_trusted
        self._resolver = resolver
        self._timeout = timeout
        self._max_searches = max_searches
        self._searches: set[Deferred[IFlow]] = set()
        self._is_stopped = False
        self._counters = {"searches_refused": 0, "not_followed": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """How many requests wait for their flow (``searches``), how many more were refused, and how often the next hop
        was not one to follow (``not_followed``).
        """
        return MappingProxyType({**self._counters, "searches": len(self._searches)})

    def flow_for(self, next_hop: SIPURI, flow: IFlow, is_proven: bool, size: int = 0) -> Deferred[IFlow]:
        """Return the flow for a request of *size* octets to *next_hop*, within a dialog.

        *flow* is what the peer's latest request came on: a connection that is open still is used whatever *next_hop*
        says, for the peer may be behind NAT (RFC 5923). *is_proven* says that the peer receives what is sent to it.
        Then, or if *flow* comes from this machine or from who is trusted, *next_hop* may be anywhere but closer to us
        than the peer is. Otherwise a datagram goes to the peer itself.

        Fails with `TransportError` if there is no way, or none was found in time.
        """
        search = Deferred.fromCoroutine(self._flow_for(next_hop, flow, is_proven, size))
        search.addTimeout(_LONGEST_SEARCH, self._clock)
        search.addErrback(_given_up)
        if not search.called:
            self._searches.add(search)
            search.addBoth(self._ended, search)
        return search

    def stop(self) -> None:
        """Give up every search, and begin none any more; no timer is left."""
        self._is_stopped = True
        for search in list(self._searches):
            search.cancel()

    def _ended(self, result: IFlow | Failure, search: Deferred[IFlow]) -> IFlow | Failure:
        self._searches.discard(search)
        return result

    async def _flow_for(self, next_hop: SIPURI, flow: IFlow, is_proven: bool, size: int) -> IFlow:
        is_secure = next_hop.scheme == "sips"
        if flow.is_reliable and not flow.closed and (flow.transport == "TLS" or not is_secure):
            return flow
        if isinstance(flow, StreamFlow) and flow.is_proxied:
            raise TransportError("the connection by the proxy is gone, and there is no other way to its peer")
        transport = "TLS" if is_secure else (next_hop.parameters.get("transport") or "udp").upper()
        if transport not in ("UDP", "TCP", "TLS"):
            raise TransportError("the transport that the next hop asks for is none of ours")
        if self._is_stopped or len(self._searches) >= self._max_searches:
            self._counters["searches_refused"] += 1
            raise TransportError("too many requests wait for a way to their next hop, or the service stopped")
        addresses = await self._addresses(next_hop, transport, flow, is_proven)
        if transport == "UDP":
            return await self._by_datagram(addresses, next_hop.host, flow, size)
        return await self._by_connection(transport, addresses, next_hop.host)

    async def _addresses(self, next_hop: SIPURI, transport: str, flow: IFlow, is_proven: bool) -> list[Address]:
        """Return where *next_hop* is, as far as it may be followed (RFC 3263, 4.2)."""
        source = flow.remote_address.host
        if not is_numeric(source):
            return []
        host = next_hop.parameters.get("maddr") or next_hop.host
        may_follow = is_proven or ipaddress.ip_address(source).is_loopback or self._is_trusted(source)
        if not may_follow and not _is_spelling_of(source, host):
            self._counters["not_followed"] += 1
            return []
        found = await locate(host, next_hop.port, transport, self._resolver(), self._clock, self._timeout)
        followed = [address for address in found if address.host == source or is_in_reach(address.host, source)]
        if found and not followed:
            self._counters["not_followed"] += 1
        return followed

    async def _by_datagram(self, addresses: list[Address], host: str, flow: IFlow, size: int) -> IFlow:
        if size > _LONGEST_DATAGRAM and addresses:
            connection = await self._connections.to("TCP", addresses[0], host)
            if connection is not None:
                return connection
        if not addresses and not flow.is_reliable:
            return flow
        for address in addresses:
            is_alike = (":" in address.host) == (":" in flow.remote_address.host)
            found = flow.towards(address) if not flow.is_reliable and is_alike else self._datagram_flow(address)
            if found is not None:
                return found
        raise TransportError("there is no way to the next hop by UDP")

    async def _by_connection(self, transport: str, addresses: list[Address], host: str) -> IFlow:
        for address in addresses:
            connection = await self._connections.to(transport, address, host)
            if connection is not None:
                return connection
        raise TransportError(f"there is no way to the next hop by {transport}")


class _Peer(NamedTuple):
    """Whom a connection leads to: what is sent to equal ones shares it."""

    transport: str
    address: Address
    host: str
    """For TLS the name that the certificate was verified for; else empty."""


class OutgoingConnections:
    """The connections that we opened; what goes to one peer shares one, open or on its way.

    *connect* is called with a transport (``TCP`` or ``TLS``), an `Address` and the host that a certificate is to be
    for; it returns a `Deferred` of the flow, which may be cancelled. *timeout* is in seconds, for one connection; at
    most *max_kept* are kept for what else is sent there.
    """

    def __init__(self, clock: IReactorTime, connect: Connect, timeout: float, max_kept: int) -> None:
        self._clock = clock
        self._connect = connect
        self._timeout = timeout
        self._max_kept = max_kept
        self._kept: dict[_Peer, IFlow] = {}
        self._attempts: dict[_Peer, Deferred[Any]] = {}
        self._waiting: dict[_Peer, list[Deferred[IFlow | None]]] = {}

    def to(self, transport: str, address: Address, host: str) -> Deferred[IFlow | None]:
        """Return the connection to *address*, opened if there is none; None if that fails or takes too long."""
        peer = _Peer(transport, address, host.lower() if transport == "TLS" else "")
        waiter: Deferred[IFlow | None] = Deferred()
        kept = self._kept.get(peer)
        if kept is not None and not kept.closed:
            waiter.callback(kept)
            return waiter
        waiters = self._waiting.setdefault(peer, [])
        waiters.append(waiter)
        if len(waiters) == 1:
            attempt = maybeDeferred(self._connect, transport, address, host)
            attempt.addTimeout(self._timeout, self._clock)
            self._attempts[peer] = attempt
            # However it failed, there is another way to try, or there is not.
            attempt.addErrback(lambda _: None).addCallback(lambda flow: self._ended(peer, flow))
        return waiter

    def give_up(self) -> list[Deferred[Any]]:
        """Cancel every attempt; returns what fires when they have ended."""
        attempts = list(self._attempts.values())
        for attempt in attempts:
            attempt.cancel()
        return attempts

    def _ended(self, peer: _Peer, flow: IFlow | None) -> None:
        del self._attempts[peer]
        if flow is not None:
            self._keep(peer, flow)
        for waiter in self._waiting.pop(peer):
            waiter.callback(flow)

    def _keep(self, peer: _Peer, flow: IFlow) -> None:
        """Keep *flow* for what is sent next; the oldest one that is kept makes room, and stays open as it is."""
        self._kept = {other: kept for other, kept in self._kept.items() if not kept.closed}
        while len(self._kept) >= self._max_kept:
            del self._kept[next(iter(self._kept))]
        self._kept[peer] = flow


def _given_up(failure: Failure) -> NoReturn:
    """Say in one way that there is none."""
    failure.trap(TimeoutError, CancelledError)
    raise TransportError("no way to the next hop was found in time")


def _is_spelling_of(address: str, host: str) -> bool:
    """Whether *host*, as a URI has it, stands for the numeric *address*."""
    try:
        return plain_host(canonical_host(host).strip("[]")) == address
    except MessageSyntaxError:  # a maddr may be anything
        return False


def is_numeric(host: str) -> bool:
    """Whether *host* is an address; a UNIX socket has none."""
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_in_reach(host: str, source: str) -> bool:
    """Whether the address *host* may be followed for *source*: none that is closer to this machine than *source* is.

    On loopback and on the link there are services that trust whoever is there. A private address that a source on the
    Internet names, or one that a carrier's customers share (RFC 6598), is one in its own network, behind its NAT, and
    in ours it is somebody else's.
    """
    located, origin = ipaddress.ip_address(host), ipaddress.ip_address(source)
    if origin.is_loopback:
        return True
    if located.is_loopback or (located.is_link_local and not origin.is_link_local):
        return False
    return located.is_global or not origin.is_global
