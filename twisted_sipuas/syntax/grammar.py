"""What are tokens, quoted-strings, lists, parameters and dates, in whatever header field (RFC 3261, 7.3.1 and 25.1)?"""

from __future__ import annotations

import math
import re
import time
from functools import lru_cache

from twisted_sipuas.errors import MessageSyntaxError

__all__ = [
    "PARAMETER",
    "QUOTED_STRING",
    "TOKEN",
    "delta_seconds",
    "format_date",
    "parse_parameters",
    "quote",
    "split_list",
    "unquote",
]

TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
"""One token (25.1); to be used with ``fullmatch``."""

QUOTED_STRING = r'"(?:[^"\\\x00\r\n]|\\[^\r\n])*"'
"""The pattern of a quoted-string (25.1), as text for others."""

_LIST_ITEM = re.compile(rf'[^,"<]*(?:(?:{QUOTED_STRING}|<[^>]*>)[^,"<]*)*', re.DOTALL)
PARAMETER = re.compile(
    rf"""[ \t]*;[ \t]*([A-Za-z0-9\-.!%*_+`'~]+)[ \t]*(?:=[ \t]*({QUOTED_STRING}|[^\x00-\x20\x7f;,"<>]+)?)?[ \t]*""",
    re.DOTALL,
)
"""One parameter with its semicolon (25.1): its name, and its value or None."""
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_PLAIN_NAMES = frozenset("branch expires lr maddr q received rport tag transport ttl user".split())

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def split_list(text: str) -> list[str]:
    """Return the values of a comma-separated list; commas in quotes and in angle brackets separate nothing (7.3.1).

    An empty text has no value, and one comma behind the last value adds none. Raises `MessageSyntaxError` for any other
    empty value, an unterminated quote or an unterminated angle bracket.
    """
    if "," not in text:
        return [text] if text else []
    items: list[str] = []
    position = 0
    while True:
        match = _LIST_ITEM.match(text, position)
        assert match is not None, "the pattern matches the empty text"
        position = match.end()
        item = match[0].strip(" \t")
        if not item and items and position == len(text):
            return items  # "Require: 100rel,": a slip that can only mean one thing
        if not item or (position < len(text) and text[position] != ","):
            raise MessageSyntaxError("Malformed list")
        items.append(item)
        if position == len(text):
            return items
        position += 1


def parse_parameters(text: str) -> dict[str, str | None]:
    """Return the ``;name=value`` parameters that *text* is, names in lower case, a flag's value None.

    A quoted value keeps its quotes. Slips that can only mean one thing are no fault: ``;name=`` is a flag, and one
    semicolon may stand at the end. Raises `MessageSyntaxError` for anything else, and for a name given twice (7.3.1).
    """
    parameters: dict[str, str | None] = {}
    if text[:1] == ";":  # as nearly every message has them, without a pattern for each
        for piece in text[1:].split(";"):
            name, equals, value = piece.partition("=")
            if name not in _PLAIN_NAMES or name in parameters:
                break
            if not equals:
                parameters[name] = None
            elif value.isalnum() or TOKEN.fullmatch(value) is not None:
                parameters[name] = value
            else:
                break
        else:
            return parameters
        parameters = {}
    position, end = 0, len(text)
    while position < end:
        match = PARAMETER.match(text, position)
        if match is None:
            if text[position:].strip(" \t") == ";":
                break
            raise MessageSyntaxError("Malformed parameters")
        name = match[1].lower()
        if name in parameters:
            raise MessageSyntaxError("A parameter is given twice")
        parameters[name] = match[2]
        position = match.end()
    return parameters


def quote(text: str) -> str:
    """Return *text* as a quoted-string (25.1)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    """Return what *text*, a token or a quoted-string, stands for: without quotes and escapes (25.1)."""
    return _QUOTED_PAIR.sub(r"\1", text[1:-1]) if text.startswith('"') else text


def delta_seconds(text: str | None) -> int | None:
    """Return the seconds that *text* says, at most 2**32-1, or None if it says none (25.1 delta-seconds)."""
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return min(int(digits or "0"), 0xFFFFFFFF) if len(digits) <= 10 else 0xFFFFFFFF


def format_date(seconds: float) -> str:
    """Return the SIP-date of *seconds* since the epoch, in English whatever the locale (20.17)."""
    return _format_date(math.floor(seconds))


@lru_cache(maxsize=16)  # a busy server prints the same second again and again
def _format_date(seconds: int) -> str:
    at = time.gmtime(seconds)
    return (
        f"{_WEEKDAYS[at.tm_wday]}, {at.tm_mday:02d} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04d} "
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} GMT"
    )
