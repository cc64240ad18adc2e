"""What other ways are there for a response that its flow could not take? RFC 3261, 18.2.2; RFC 3263, section 5.

By the letter, a request could have us connect, send and ask for names wherever its Via says. So a new connection goes
to the packet's source address alone, and what the Via names is located only for a trusted source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

from twisted.internet.defer import CancelledError, Deferred, DeferredList, TimeoutError
from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.python.failure import Failure

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import Address, IFlow
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.fields import Via
from twisted_sipuas.syntax.message import Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.transport.locate import default_port, locate
from twisted_sipuas.transport.outgoing import Connect, OutgoingConnections, is_in_reach, is_numeric

__all__ = ["ResponseDelivery"]

_log = Logger()

_SOURCES_AT_LEAST = 5  # sources that it takes to use up what there is
_LONGEST = 32.0  # seconds: 64*T1, after which no client transaction waits for the response any more (17.1)


class ResponseDelivery:
    """Tries the other ways for responses that their flow could not take (18.2.2).

    *clock* gives the time. *connect* makes `connections`, as `OutgoingConnections` takes it. *is_trusted* is asked with
    a source address whether names and addresses that the source gave may be followed; *resolver* gives what names are
    looked up with. *failed* is called with the octets of a response that could not be delivered after all. *timeout* is
    in seconds, for each connection and for each location. *max_pending* bounds the responses that wait, of which one
    source (`Address.network`) may have a fifth, and the connections that are kept.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connect: Connect,
        *,
        is_trusted: Callable[[str], bool],
        resolver: Callable[[], IResolver],
        failed: Callable[[bytes], None],
        timeout: float = 5.0,
        max_pending: int = 100,
    ) -> None:
        self._clock = clock
        self.connections = OutgoingConnections(clock, connect, timeout, max_pending)
        self._is_trusted = is_trusted
        self._resolver = resolver
        self._failed = failed
        self._timeout = timeout
        self._max_pending = max_pending
        self._pending: set[Deferred[None]] = set()
        self._per_source: Counter[str] = Counter()
        self._stopped = False
        self._counters = {"reconnected": 0, "relocated": 0, "refused": 0, "failed": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """How many responses went by a new connection to the source (``reconnected``) or to an address that was located
        (``relocated``), were not tried because too many waited (``refused``), or were tried in vain (``failed``).
        """
        return MappingProxyType(self._counters)

    def redeliver(self, octets: bytes, flow: IFlow) -> bool:
        """Try another way for *octets*, a whole response of ours that *flow* could not take.

        Returns True if it was sent another way or that is being tried: then ``failed(octets)`` is called, never before
        this returns, if it does not work. Returns False if there is no other way, or none for part of a response.
        """
        via = _top_via(octets)
        if via is None or self._stopped or not is_numeric(flow.remote_address.host):
            return False
        if not flow.is_reliable and not self._may_relocate(via, flow):
            return False
        source = flow.remote_address.network
        share = max(1, self._max_pending // _SOURCES_AT_LEAST)
        if len(self._pending) >= self._max_pending or self._per_source[source] >= share:
            self._counters["refused"] += 1
            return False
        deliver = self._by_connection if flow.is_reliable else self._by_datagram
        outcome: list[bool] = []
        delivery = Deferred.fromCoroutine(deliver(octets, flow, via))
        delivery.addTimeout(_LONGEST, self._clock)
        delivery.addErrback(_undelivered)
        ended = delivery.addCallback(outcome.append)
        if outcome:  # known at once
            self._counters["failed"] += not outcome[0]
            return outcome[0]
        self._pending.add(ended)
        self._per_source[source] += 1
        ended.addCallback(lambda _: self._ended(ended, octets, outcome[0], source))
        return True

    def stop(self) -> Deferred[None]:
        """Give up all that is pending, and take nothing more; fires when that is done.

        For what is given up `failed` is not called. Connections that were opened are the caller's to close.
        """
        self._stopped = True
        pending = list(self._pending)
        for delivery in pending:
            delivery.cancel()
        return DeferredList([*pending, *self.connections.give_up()]).addCallback(lambda _: None)

    def _may_relocate(self, via: Via, flow: IFlow) -> bool:
        """Whether a datagram that did not get to *flow* may go elsewhere.

        Only when it was the first way that failed: an error for the second must not start a third.
        """
        return flow.remote_address == _first_destination(via) and self._is_trusted(flow.remote_address.host)

    async def _by_connection(self, octets: bytes, flow: IFlow, via: Via) -> bool:
        """Send *octets* to the source by a new connection (18.2.2-4), else to where its sent-by is (18.2.2-5)."""
        # RFC 3263, 5: a response for TLS goes by TLS. Something in front of us may have taken that off.
        transport = "TLS" if "TLS" in (via.transport, flow.transport) else "TCP"
        source = Address(flow.remote_address.host, via.port or default_port(transport))
        if await self._sent_by_connection(octets, transport, source, via.host):
            self._counters["reconnected"] += 1
            return True
        if not self._is_trusted(source.host):
            return False
        for address in await self._located(via, transport, source):
            if await self._sent_by_connection(octets, transport, address, via.host):
                self._counters["relocated"] += 1
                return True
        return False

    async def _by_datagram(self, octets: bytes, flow: IFlow, via: Via) -> bool:
        """Send *octets* to the first address of its sent-by that the socket can send to (18.2.2-9)."""
        for address in await self._located(via, "UDP", flow.remote_address):
            if _sent(octets, flow.towards(address)):
                self._counters["relocated"] += 1
                return True
        return False

    async def _located(self, via: Via, transport: str, tried: Address) -> list[Address]:
        """Return where the sent-by of *via* is, without *tried* and what is out of its reach."""
        found = await locate(via.host, via.port, transport, self._resolver(), self._clock, self._timeout)
        return [address for address in found if address != tried and is_in_reach(address.host, tried.host)]

    async def _sent_by_connection(self, octets: bytes, transport: str, address: Address, host: str) -> bool:
        flow = await self.connections.to(transport, address, host)
        return flow is not None and _sent(octets, flow)

    def _ended(self, delivery: Deferred[None], octets: bytes, delivered: bool, source: str) -> None:
        self._pending.discard(delivery)
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]
        if delivered or self._stopped:
            return
        self._counters["failed"] += 1
        try:
            self._failed(octets)
        except Exception:
            _log.failure("what was to take note of an undelivered response failed")


def _top_via(octets: bytes) -> Via | None:
    """Return the topmost Via of *octets*, or None unless they are one whole response."""
    try:
        response = parse_message(octets)
        return Via(response.headers.values("Via")[0]) if isinstance(response, Response) else None
    except MessageSyntaxError:
        return None


def _first_destination(via: Via) -> Address:
    """Return where a response with *via*, which was stamped, goes first by UDP (18.2.2; RFC 3581, 4).

    The host is empty without received: then sent-by is the source itself, and stands for no other address.
    """
    host = via.parameters.get("received") or ""
    rport = via.parameters.get("rport") or ""
    port = int(rport) if rport.isascii() and rport.isdigit() and len(rport) <= 5 else via.port
    return Address(host, port or default_port("UDP"))


def _sent(octets: bytes, flow: IFlow) -> bool:
    try:
        flow.send(octets)
    except TransportError:
        return False
    return True


def _undelivered(failure: Failure) -> bool:
    """Take a delivery that was cut short; anything but time running out is an error of ours or our caller's."""
    if failure.check(TimeoutError, CancelledError) is None:
        _log.failure("a response could not be redelivered", failure)
    return False
