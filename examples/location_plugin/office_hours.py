"""Where does a call go at this time of day? ``hours,open=0900-1730,zone=Europe/Berlin:OPEN_URI CLOSED_URI``."""

from __future__ import annotations

import re
from datetime import datetime, time, tzinfo
from zoneinfo import ZoneInfo

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from twisted_sipuas import ILocationService, Redirection, Request
from twisted_sipuas.syntax.uri import URI

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@implementer(ILocationService)
class OfficeHours:
    """Redirects every call to *opened* in office hours, and to *closed* at any other time."""

    lookup_timeout = 0.0  # it answers at once, and so needs no deadline, no cache and no circuit breaker

    def __init__(
        self,
        opened: Redirection,
        closed: Redirection,
        clock: IReactorTime,
        *,
        hours: tuple[time, time] = (time(9), time(17)),
        days: frozenset[int] = frozenset(range(5)),
        zone: tzinfo | None = None,
    ) -> None:
        self.description = f"office hours from {hours[0]:%H:%M} to {hours[1]:%H:%M}"
        self._opened, self._closed = opened, closed
        self._clock = clock
        self._hours, self._days, self._zone = hours, days, zone

    def lookup(self, request_uri: URI, request: Request) -> Redirection:
        """See `ILocationService`."""
        now = datetime.fromtimestamp(self._clock.seconds(), self._zone)
        begin, end = self._hours
        return self._opened if now.weekday() in self._days and begin <= now.time() < end else self._closed


def parse_hours(text: str) -> tuple[time, time]:
    match = re.fullmatch(r"([0-9]{2})([0-9]{2})-([0-9]{2})([0-9]{2})", text)
    begin = end = time()
    if match is not None:
        numbers = [int(digits) for digits in match.groups()]
        try:
            begin, end = time(numbers[0], numbers[1]), time(numbers[2], numbers[3])
        except ValueError:
            pass  # told in the next line
    if not begin < end:
        raise ValueError(f"open={text}: expected HHMM-HHMM")
    return begin, end


def parse_days(text: str) -> frozenset[int]:
    first, _, last = text.partition("-")
    if first not in DAYS or (last or first) not in DAYS:
        raise ValueError(f"days={text}: expected a day or DAY-DAY, of {', '.join(DAYS)}")
    count = (DAYS.index(last or first) - DAYS.index(first)) % 7 + 1
    return frozenset((DAYS.index(first) + number) % 7 for number in range(count))


def make(argument: str, options: dict[str, str], reactor: IReactorTime) -> OfficeHours:
    """Called for ``--location hours...``: takes out of *options* what it knows; raises `ValueError` for a mistake."""
    opened, _, closed = argument.partition(" ")
    hours = parse_hours(options.pop("open", "0900-1700"))
    days = parse_days(options.pop("days", "mon-fri"))
    name = options.pop("zone", None)
    try:
        zone = None if name is None else ZoneInfo(name)
    except (KeyError, ValueError):
        raise ValueError(f"zone={name}: expected a time zone such as Europe/Berlin") from None
    return OfficeHours(Redirection([opened]), Redirection([closed]), reactor, hours=hours, days=days, zone=zone)
