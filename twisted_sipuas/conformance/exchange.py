"""What was asked, and what came back? Requests as they are sent, and answers read without judging them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from twisted_sipuas.conformance.check import Broken
from twisted_sipuas.conformance.wire import Channel
from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.fields import Contact, NameAddr, Via
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request

__all__ = ["Answer", "Exchange", "read_answer"]

_FOLD = re.compile(r"\r\n[ \t]+")
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9]{2}) ?(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """A response as it came; header fields may be missing or malformed."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    octets: bytes
    time: float
    channel: Channel
    source: Address

    @property
    def is_final(self) -> bool:
        """Whether it is no 1xx."""
        return self.status >= 200

    @property
    def name(self) -> str:
        """What it is, for people: ``405 Method Not Allowed``."""
        return f"{self.status} {self.reason}".strip()

    def text(self, name: str) -> str:
        """Return the first value of the header field *name*; raises `Broken` if it is missing."""
        value = self.headers.get(name)
        if value is None:
            raise Broken(f"{self.name} has no {name}")
        return value

    def values(self, name: str) -> list[str]:
        """Return every value of the header field *name*; raises `Broken` if it is malformed."""
        try:
            return self.headers.values(name)
        except MessageSyntaxError:
            raise Broken(f"{self.name} has a malformed {name}: {self.headers.get(name)}") from None

    def tokens(self, name: str) -> set[str]:
        """Return the values of the header field *name* in lower case, without parameters."""
        return {value.partition(";")[0].strip().lower() for value in self.values(name)}

    def address(self, name: str) -> NameAddr:
        """Return the header field *name*, From or To, parsed; raises `Broken` if that cannot be."""
        try:
            return NameAddr(self.text(name))
        except MessageSyntaxError:
            raise Broken(f"{self.name} has a malformed {name}: {self.text(name)}") from None

    @property
    def to_tag(self) -> str | None:
        """The tag in To."""
        return self.address("To").tag

    @property
    def contacts(self) -> list[Contact]:
        """The Contacts; raises `Broken` for one that is malformed."""
        try:
            return [Contact(value) for value in self.values("Contact")]
        except MessageSyntaxError:
            raise Broken(f"{self.name} has a malformed Contact: {self.headers.get('Contact')}") from None

    @property
    def vias(self) -> list[Via]:
        """The Via values, one at least; raises `Broken` if there is none, and for one that is malformed."""
        self.text("Via")
        try:
            return [Via(value) for value in self.values("Via")]
        except MessageSyntaxError:
            raise Broken(f"{self.name} has a malformed Via: {self.headers.get('Via')}") from None


def read_answer(octets: bytes, time: float, channel: Channel, source: Address) -> Answer | None:
    """Return the response that *octets* are, whatever is wrong with it; None if they do not even begin as one."""
    head, _, body = octets.partition(b"\r\n\r\n")
    lines = _FOLD.sub(" ", head.decode("utf-8", "surrogateescape")).split("\r\n")
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        return None
    headers, _ = Headers.parse(lines[1:])
    return Answer(int(match[1]), match[2], headers, body, octets, time, channel, source)


@dataclass(eq=False)
class Exchange:
    """A request that was sent, and what came back for it."""

    request: Request
    octets: bytes
    channel: Channel
    branch: str
    sent_at: float
    sent_count: int = 1
    """How many times it was sent, as far as by what `Client.wait` and `Client.insist` do."""
    answers: list[Answer] = field(default_factory=list)
    acknowledges: bool = True
    """Whether the ACK for a final response to an INVITE is sent by itself."""
    is_acknowledged: bool = False
    is_over: bool = False
    """Whether the call that the INVITE made was ended."""

    @property
    def method(self) -> str:
        """The method of the request."""
        return self.request.method

    @property
    def final(self) -> Answer | None:
        """The first final response, None as long as there is none."""
        return next((answer for answer in self.answers if answer.is_final), None)

    @property
    def finals(self) -> list[Answer]:
        """Every final response, sent again and again perhaps."""
        return [answer for answer in self.answers if answer.is_final]

    @property
    def provisional(self) -> Answer | None:
        """The latest provisional response that is no 100."""
        return next((answer for answer in reversed(self.answers) if 100 < answer.status < 200), None)

    def is_answered_by(self, answer: Answer) -> bool:
        """Whether *answer* has the branch and the method of this request (17.1.3)."""
        return self.has_branch_of(answer) and self._has_method_of(answer)

    def has_branch_of(self, answer: Answer) -> bool:
        """Whether *answer* has the branch: enough, where CSeq is not what was sent."""
        return bool(self.branch) and f"branch={self.branch}" in (answer.headers.get("Via") or "")

    def has_call_id_of(self, answer: Answer) -> bool:
        """Whether *answer* has the Call-ID and the method: enough, where Via is not what was sent."""
        return self._has_method_of(answer) and answer.headers.get("Call-ID") == self.request.headers.get("Call-ID")

    def _has_method_of(self, answer: Answer) -> bool:
        words = (answer.headers.get("CSeq") or self.method).split()
        return bool(words) and words[-1] == self.method
