"""When, for how long, how often and why? The header fields that say a time, a count or a reason."""

from __future__ import annotations

import calendar
import dataclasses
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from twisted_sipuas.errors import refuse_line_breaks
from twisted_sipuas.syntax.grammar import format_date, quote
from twisted_sipuas.syntax.values import (
    HeaderValue,
    frozen_parameters,
    plain_parameters,
    print_parameters,
    seconds,
    token,
    unquote,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Date",
    "Expires",
    "MaxForwards",
    "MinExpires",
    "MinSE",
    "Reason",
    "RetryAfter",
    "SessionExpires",
    "Timestamp",
    "Warning",
]

_MAX_SECONDS = 0xFFFFFFFF
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = re.compile(
    rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),[ ]([0-9]{{2}})[ ]({'|'.join(_MONTHS)})[ ]([0-9]{{4}})"
    r"[ ]([0-9]{2}):([0-9]{2}):([0-9]{2})[ ]GMT"
)
_EARLIEST_DATE = calendar.timegm((1, 1, 1, 0, 0, 0))
_LATEST_DATE = calendar.timegm((9999, 12, 31, 23, 59, 59))
_SMALL_NUMBER = re.compile(r"0*([0-9]{1,10})")
# The grammar of 20.38 has no bound; a clock with more digits than these says nothing.
_TIMESTAMP = re.compile(r"([0-9]{1,32}(?:\.[0-9]{0,32})?)(?:[ \t]+([0-9]{0,32}(?:\.[0-9]{0,32})?))?")
_TIMESTAMP_BOUND = Decimal(10) ** 32
_WARNING = re.compile(r'([0-9]{3})[ \t]+([^ \t"]+)[ \t]+("(?:[^"\\]|\\.)*")', re.DOTALL)
_WARN_AGENT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-.!%*_+`'~]+)(?::[0-9]{1,5})?")
_RETRY_AFTER = re.compile(r"([0-9]+)[ \t]*(.*)", re.DOTALL)
_IN_COMMENT = re.compile(r"[^()\\]+|\\.|[()]", re.DOTALL)
_COMMENT_SPECIAL = re.compile(r"[()\\]")


def _check_number(number: int, bound: int, what: str) -> None:
    """Raise `ValueError` naming *what* unless *number* is whole, and from 0 to *bound*."""
    if not isinstance(number, int) or not 0 <= number <= bound:
        raise ValueError(f"{what} has to be a whole number from 0 to {bound}")


def _number(text: str | None) -> int:
    match = _SMALL_NUMBER.fullmatch(text or "")
    if match is None:
        raise ValueError("no number, or one too large")
    return int(match[1])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Seconds(HeaderValue):
    seconds: int

    def __post_init__(self) -> None:
        _check_number(self.seconds, _MAX_SECONDS, self.field)

    @classmethod
    def _parse(cls, text: str) -> Self:
        return cls(seconds(text))

    def __str__(self) -> str:
        return str(self.seconds)


class Expires(_Seconds):
    """How many `seconds` a message or its content stays valid (20.19); a peer's larger number counts as 2**32-1."""

    __slots__ = ()
    field = "Expires"


class MinExpires(_Seconds):
    """The least `seconds` for which a registrar takes a binding (20.23); a larger number counts as 2**32-1."""

    __slots__ = ()
    field = "Min-Expires"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MaxForwards(HeaderValue):
    """How many more `hops` a request may make, 0 to 255 (20.22)."""

    field = "Max-Forwards"

    hops: int

    def __post_init__(self) -> None:
        _check_number(self.hops, 255, self.field)

    @classmethod
    def _parse(cls, text: str) -> Self:
        return cls(_number(text))

    def __str__(self) -> str:
        return str(self.hops)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Date(HeaderValue):
    """When a message was first sent (20.17), in `seconds` since the epoch.

    Only the form of RFC 1123 is understood, and only GMT. The day of the week says nothing that the rest does not, and
    may be wrong in what a peer sends.
    """

    field = "Date"

    seconds: int

    def __post_init__(self) -> None:
        if not isinstance(self.seconds, int) or not _EARLIEST_DATE <= self.seconds <= _LATEST_DATE:
            raise ValueError("a date has to be whole seconds, in a year from 1 to 9999")

    @classmethod
    def _parse(cls, text: str) -> Self:
        match = _DATE.fullmatch(text)
        if match is None:
            raise ValueError("no date of RFC 1123 in GMT")
        day, month, year, *time = match.groups()
        hour, minute, second = map(int, time)
        at = datetime.datetime(int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second)
        return cls(calendar.timegm(at.timetuple()))

    def __str__(self) -> str:
        return format_date(self.seconds)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Timestamp(HeaderValue):
    """When the UAC sent a request by its own clock, and the `delay` of the UAS before it responded (20.38).

    Both are seconds, and exact: a float is taken for the decimal number that Python prints for it. At most 32 digits
    stand before the point and 32 behind it.
    """

    field = "Timestamp"

    seconds: Decimal | float
    delay: Decimal | float | None = None

    def __post_init__(self) -> None:
        self._normalise(
            seconds=self._exact(self.seconds), delay=None if self.delay is None else self._exact(self.delay)
        )

    @staticmethod
    def _exact(number: Decimal | float) -> Decimal:
        exact = Decimal(str(number))
        exponent = exact.as_tuple().exponent
        if not isinstance(exponent, int) or not 0 <= exact < _TIMESTAMP_BOUND or exponent < -32:
            raise ValueError("a timestamp has to be 0 or more, of at most 32 digits before and behind the point")
        return exact.copy_abs()

    @classmethod
    def _parse(cls, text: str) -> Self:
        match = _TIMESTAMP.fullmatch(text)
        if match is None:
            raise ValueError("no timestamp")
        sent, delay = match.groups()
        if delay is None:
            return cls(Decimal(sent))
        return cls(Decimal(sent), Decimal(f"0{delay}"))  # 25.1 allows a delay of a point and no digit

    def __str__(self) -> str:
        return f"{self.seconds:f}" if self.delay is None else f"{self.seconds:f} {self.delay:f}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RetryAfter(HeaderValue):
    """After how many `seconds` to try again, for what `duration` in seconds that will do, and a `comment` (20.33).

    A peer's number above 2**32-1 counts as that.
    """

    field = "Retry-After"
    exact: ClassVar[frozenset[str]] = frozenset(("comment",))

    seconds: int
    comment: str | None = None
    duration: int | None = None
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_number(self.seconds, _MAX_SECONDS, self.field)
        if self.comment is not None:
            refuse_line_breaks(self.comment, "a comment")
        if self.duration is not None:
            _check_number(self.duration, _MAX_SECONDS, "a duration")
        self._normalise(parameters=frozen_parameters(self.parameters, reserved=("duration",)))

    @classmethod
    def _parse(cls, text: str) -> Self:
        match = _RETRY_AFTER.fullmatch(text)
        if match is None:
            raise ValueError("no delta-seconds")
        number, rest = match.groups()
        comment = None
        if rest.startswith("("):
            comment, rest = _comment(rest)
        parameters = plain_parameters(rest)
        duration = seconds(parameters.pop("duration")) if "duration" in parameters else None
        return cls(seconds(number), comment, duration, parameters)

    def __str__(self) -> str:
        comment = "" if self.comment is None else f" ({_COMMENT_SPECIAL.sub(_escaped, self.comment)})"
        duration = "" if self.duration is None else f";duration={self.duration}"
        return f"{self.seconds}{comment}{duration}{print_parameters(self.parameters.items())}"


def _comment(text: str) -> tuple[str, str]:
    """Return the comment that *text* begins with, as plain text, and the rest; comments nest (25.1)."""
    pieces: list[str] = []
    depth = 0
    for match in _IN_COMMENT.finditer(text):
        piece = match[0]
        depth += (piece == "(") - (piece == ")")
        if depth == 0:
            return "".join(pieces[1:]), text[match.end() :].lstrip(" \t")
        pieces.append(piece[1:] if piece[0] == "\\" else piece)
    raise ValueError("unterminated comment")


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SessionExpires(HeaderValue):
    """In how many `seconds` a session ends unless refreshed, and by whom: "uac", "uas" or None (RFC 4028, 4)."""

    field = "Session-Expires"

    seconds: int
    refresher: str | None = None
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_number(self.seconds, _MAX_SECONDS, self.field)
        if self.refresher is not None:
            self._normalise(refresher=self.refresher.lower())
            if self.refresher not in ("uac", "uas"):
                raise ValueError("the refresher is uac or uas")
        self._normalise(parameters=frozen_parameters(self.parameters, reserved=("refresher",)))

    @classmethod
    def _parse(cls, text: str) -> Self:
        number, semicolon, rest = text.partition(";")
        parameters = plain_parameters(semicolon + rest)
        refresher = parameters.pop("refresher") or "" if "refresher" in parameters else None
        return cls(seconds(number.rstrip(" \t")), refresher, parameters)

    def __str__(self) -> str:
        refresher = "" if self.refresher is None else f";refresher={self.refresher}"
        return f"{self.seconds}{refresher}{print_parameters(self.parameters.items())}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MinSE(HeaderValue):
    """The least `seconds` that a session may last without a refresh (RFC 4028, 5)."""

    field = "Min-SE"

    seconds: int
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_number(self.seconds, _MAX_SECONDS, self.field)
        self._normalise(parameters=frozen_parameters(self.parameters))

    @classmethod
    def _parse(cls, text: str) -> Self:
        number, semicolon, rest = text.partition(";")
        return cls(seconds(number.rstrip(" \t")), plain_parameters(semicolon + rest))

    def __str__(self) -> str:
        return f"{self.seconds}{print_parameters(self.parameters.items())}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Warning(HeaderValue):
    """A `code` of three digits, the `agent` that warns (a host, maybe with a port, or a pseudonym), `text` (20.43)."""

    field = "Warning"
    is_list = True
    exact: ClassVar[frozenset[str]] = frozenset(("text",))

    code: int
    agent: str
    text: str

    def __post_init__(self) -> None:
        _check_number(self.code, 999, "a warning code")
        if _WARN_AGENT.fullmatch(self.agent) is None:
            raise ValueError("a warning agent has to be a host, a host and port, or a token")
        refuse_line_breaks(self.text, "the text of a warning")

    @classmethod
    def _parse(cls, text: str) -> Self:
        match = _WARNING.fullmatch(text)
        if match is None:
            raise ValueError("no warning")
        return cls(int(match[1]), match[2], unquote(match[3]))

    def __str__(self) -> str:
        return f"{self.code:03d} {self.agent} {quote(self.text)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Reason(HeaderValue):
    """Why a request was sent: the `cause` as a number of `protocol` ("SIP", "Q.850"), and as `text` (RFC 3326, 2)."""

    field = "Reason"
    is_list = True
    exact: ClassVar[frozenset[str]] = frozenset(("text",))

    protocol: str
    cause: int | None = None
    text: str | None = None
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        token(self.protocol, "the protocol of a reason")
        if self.cause is not None:
            _check_number(self.cause, 9_999_999_999, "a cause")
        if self.text is not None:
            refuse_line_breaks(self.text, "the text of a reason")
        self._normalise(parameters=frozen_parameters(self.parameters, reserved=("cause", "text")))

    @classmethod
    def _parse(cls, text: str) -> Self:
        protocol, semicolon, rest = text.partition(";")
        parameters = plain_parameters(semicolon + rest)
        cause = _number(parameters.pop("cause")) if "cause" in parameters else None
        if parameters.get("text", "") is None:
            raise ValueError("the text of a reason needs a value")
        return cls(protocol.rstrip(" \t"), cause, parameters.pop("text", None), parameters)

    def __str__(self) -> str:
        cause = "" if self.cause is None else f";cause={self.cause}"
        text = "" if self.text is None else f";text={quote(self.text)}"  # RFC 3326 has it in quotes always
        return f"{self.protocol}{cause}{text}{print_parameters(self.parameters.items())}"
