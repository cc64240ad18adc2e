"""What went over the network, as people read it: one line a message."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message

__all__ = ["Ladder", "Passed", "read", "summary"]

_LONGEST_QUOTE = 40  # octets of what is no SIP


class Passed(NamedTuple):
    """One message that was sent: when, by whom, to whom, and what became of it."""

    time: float
    source: Address
    destination: Address
    transport: str
    message: Request | Response | bytes
    """The octets, if they are no SIP message."""
    note: str = ""
    """``lost`` or ``twice``, say; empty for what arrived as it should."""

    def __str__(self) -> str:
        note = f"  [{self.note}]" if self.note else ""
        return f"{self.time:9.3f}  {self.source} -> {self.destination} {self.transport}  {summary(self.message)}{note}"


class Ladder:
    """The messages of one test, the latest *kept* of them; its text has a line for each."""

    def __init__(self, kept: int = 10_000) -> None:
        self._passed: deque[Passed] = deque(maxlen=kept)

    def add(self, passed: Passed) -> None:
        """Note a message."""
        self._passed.append(passed)

    @property
    def latest(self) -> Passed:
        """The latest message."""
        return self._passed[-1]

    def __iter__(self) -> Iterator[Passed]:
        return iter(tuple(self._passed))  # in one go, for another thread may add to it

    def __len__(self) -> int:
        return len(self._passed)

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no message at all"


def read(octets: bytes) -> Request | Response | bytes:
    """Return the message that *octets* are, or themselves if they are none."""
    try:
        return parse_message(octets)
    except MessageSyntaxError:
        return octets


def summary(message: Request | Response | bytes) -> str:
    """Return what *message* is, in a few words: ``INVITE sip:bob@example.com``, ``200 OK (BYE)``.

    >>> from twisted_sipuas.testing import make_request
    >>> from twisted_sipuas.testing.ladder import summary
    >>> summary(make_request("OPTIONS").response(486))
    '486 Busy Here (OPTIONS)'
    """
    if isinstance(message, Request):
        return f"{message.method} {message.uri_text}"
    if isinstance(message, Response):
        method = (message.headers.get("CSeq") or "?").rpartition(" ")[2]
        return f"{message.status} {message.reason} ({method})"
    return f"no SIP message: {message[:_LONGEST_QUOTE]!r}{'...' if len(message) > _LONGEST_QUOTE else ''}"
