"""Which hosts receive what we send them? Who has not shown it is sent neither the same again and again nor too much.

A response to an INVITE is resent until its ACK comes (RFC 3261, 17.2.1). On UDP the source of an INVITE may be forged,
and then a third party is sent eleven responses for one request; and a response may be many times as long as its
request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from twisted_sipuas.interfaces import Address
from twisted_sipuas.transaction.rates import Rates

__all__ = ["FOR_AN_OCTET", "Sources", "trusts_nobody"]

_PROVEN_FOR = 600.0  # seconds
_MAX_PROVEN = 10_000
_MORE_IF_PROVEN = 50  # times as many responses as others may have
_UNIT = 500  # octets; a longer response counts as several
FOR_AN_OCTET = 3  # octets that a source which may be forged gets for each of its own, as in RFC 9000, 8.1
_MORE_AT_ONCE = 65536  # octets beyond these: the longest answer that there is,
_MORE_A_SECOND = _MORE_AT_ONCE / 60  # once a minute


def trusts_nobody(host: str) -> bool:
    """Return False: the default of who says which hosts are trusted."""
    return False


class Sources:
    """Counts the responses to INVITEs that wait for their ACK, by source, and bounds them by *limit*.

    A response of more than 500 octets counts as several. A source is an `Address.network`: for IPv6 all the addresses
    that one host may have. It is proven for ten minutes by an ACK with a To tag that we made and sent there, for nobody
    else can know that, or until an ACK does not come; meanwhile it may have 50 times as many. At most 10,000 are
    remembered, those proven last.

    Of octets any source may have three times as many as it sent, and 64 KiB a minute beyond; a proven one, or one whose
    host *is_trusted* knows, any number.
    """

    def __init__(self, clock: IReactorTime, limit: int, is_trusted: Callable[[str], bool] = trusts_nobody) -> None:
        self._clock = clock
        self._limit = limit
        self._is_trusted = is_trusted
        self._more = Rates(clock, _MORE_A_SECOND, _MORE_AT_ONCE)
        self._unacknowledged: dict[str, int] = {}
        self._proven: OrderedDict[str, float] = OrderedDict()  # until when, the earliest first

    @property
    def unacknowledged(self) -> int:
        """How many sources have responses that wait for an ACK."""
        return len(self._unacknowledged)

    @property
    def proven(self) -> int:
        """How many sources are remembered as proven."""
        return len(self._proven)

    def admit(self, source: str, octets: int) -> bool:
        """Count a response of *octets* for *source*, and return True; False if it has as many as it may have."""
        count = self._unacknowledged.get(source, 0)
        limit = self._limit
        if count >= limit and not (self._is_proven(source) and count < limit * _MORE_IF_PROVEN):
            return False
        self._unacknowledged[source] = count + 1 + octets // _UNIT
        return True

    def admit_length(self, sent: int, received: int, address: Address) -> bool:
        """Whether *address* may be *sent* so many octets for those *received* from it; if so they count."""
        network = address.network
        more = sent - FOR_AN_OCTET * received
        return self._is_proven(network) or self._is_trusted(address.host) or self._more.admit(network, more)

    def release(self, source: str, octets: int) -> None:
        """A response of *octets* for *source* is not waited for any longer."""
        count = self._unacknowledged[source] - 1 - octets // _UNIT
        if count:
            self._unacknowledged[source] = count
        else:
            del self._unacknowledged[source]

    def disprove(self, source: str) -> None:
        """An ACK that *source* owed did not come: it may be forged now."""
        self._proven.pop(source, None)

    def prove(self, source: str) -> None:
        """An ACK showed that *source* receives what we send it."""
        now = self._clock.seconds()
        proven = self._proven
        proven[source] = now + _PROVEN_FOR
        proven.move_to_end(source)
        while len(proven) > _MAX_PROVEN or next(iter(proven.values())) <= now:
            proven.popitem(last=False)

    def _is_proven(self, source: str) -> bool:
        until = self._proven.get(source)
        return until is not None and until > self._clock.seconds()
