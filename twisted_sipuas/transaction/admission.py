"""May a new request be taken, as far as its source and our load go?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime

from twisted_sipuas.interfaces import IFlow
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.transaction.overload import Overload
from twisted_sipuas.transaction.rates import Rates

__all__ = ["Admission", "Protection"]

_log = Logger()

_LOG_INTERVAL = 60.0  # seconds
_THIS_MACHINE = frozenset(("127.0.0.1", "::1", ""))  # where a proxy of ours may be; "" is a UNIX socket's peer


class Protection(NamedTuple):
    """What one source may ask of a server, and when it has too much to do. Each has a counter."""

    max_rate: float = 1000.0
    """New requests a second that one IPv4 address or one IPv6 network of 64 bits may have answered; 0: any number.

    Not counted are requests in dialogs, ACKs, retransmissions, the CANCEL of an INVITE that is there; and nothing
    of trusted sources and of this machine's own 127.0.0.1 and ::1."""
    rate_burst: float = 2000.0
    """How many of them may come at once."""
    answers_over_rate: bool = True
    """Whether what is beyond the rate gets 503; else silence."""
    max_lag: float = 0.2
    """Seconds that the reactor or what waits in a UDP socket may be late before new requests get 503; 0: any time."""


class Admission:
    """Decides by *protection* which new requests are too many.

    *is_trusted* says of a host whether it may ask for any number. *is_in_dialog* says whether a request is in a dialog:
    what was begun goes on whatever the load. *backlog* and *worked* are as for `Overload`.
    """

    def __init__(
        self,
        clock: IReactorTime,
        protection: Protection,
        *,
        is_trusted: Callable[[str], bool],
        is_in_dialog: Callable[[Request], bool],
        backlog: Callable[[], float],
        worked: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._protection = protection
        self._is_trusted = is_trusted
        self._is_in_dialog = is_in_dialog
        self._rates: Rates | None = None
        if protection.max_rate:
            self._rates = Rates(clock, protection.max_rate, max(1.0, protection.rate_burst))
        self.overload: Overload | None = None
        if protection.max_lag:
            self.overload = Overload(clock, protection.max_lag, backlog, worked)
        self._counters = {"rate_refused": 0, "overload_refused": 0}
        self._logged_at = -_LOG_INTERVAL

    @property
    def counters(self) -> Mapping[str, int]:
        """What was refused, what is remembered for it, and how late we are: ``lag`` in milliseconds."""
        rates, overload = self._rates, self.overload
        return {
            **self._counters,
            "rate_sources": 0 if rates is None else len(rates),
            "rate_sources_forgotten": 0 if rates is None else rates.forgotten,
            "overload_loss": 0 if overload is None else round(overload.loss),
            "lag": 0 if overload is None else round(overload.lag * 1000),
        }

    @property
    def answers_over_rate(self) -> bool:
        """Whether what is beyond the rate gets an answer."""
        return self._protection.answers_over_rate

    def refusal(self, request: Request, flow: IFlow) -> str | None:
        """Return the bound that *request*, a new one that came on *flow*, is beyond: ``rate`` or ``overload``; or None.

        Raises `MessageSyntaxError` if whether it is in a dialog cannot be told.
        """
        if self._is_over_rate(flow) and not self._is_in_dialog(request):
            return self._refused("rate")
        overload = self.overload
        if overload is not None and overload.loss and not self._is_in_dialog(request) and overload.refuses(flow):
            return self._refused("overload")
        return None

    def is_worth_refusing(self, flow: IFlow) -> bool:
        """Whether something malformed on *flow* is told so: not beyond the rate, and not while there is no time."""
        if self._is_over_rate(flow):
            self._refused("rate")
        elif self.overload is not None and self.overload.loss_on(flow):
            self._refused("overload")
        else:
            return True
        return False

    def _is_over_rate(self, flow: IFlow) -> bool:
        rates = self._rates
        if rates is None or rates.admit(flow.remote_address.network):
            return False
        host = flow.remote_address.host
        if host in _THIS_MACHINE or self._is_trusted(host):
            return False
        now = self._clock.seconds()
        if not self._logged_at <= now < self._logged_at + _LOG_INTERVAL:
            self._logged_at = now
            _log.warn(
                "{host} asks for more than {rate:g} requests a second; see --max-rate, and --trust if it may",
                host=host,
                rate=self._protection.max_rate,
            )
        return True

    def _refused(self, bound: str) -> str:
        self._counters[f"{bound}_refused"] += 1
        return bound
