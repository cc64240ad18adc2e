"""Who is at fault: the peer's bytes, a refusal with a status, the network, our caller, or the set-up.

Misuse by our caller is a plain `ValueError` or `TypeError`, as Python programmers expect; the other four are here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twisted_sipuas.syntax.message import Request

__all__ = ["MessageSyntaxError", "SIPError", "StartError", "TransportError", "UnavailableError", "refuse_line_breaks"]


def refuse_line_breaks(text: str, what: str) -> str:
    """Return *text*, or raise `ValueError` if it could break out of its line of a message.

    CR and LF would start a header field of the attacker's choice (response splitting), NUL ends strings elsewhere.

    *what* names the value in the error.
    """
    if "\r" in text or "\n" in text or "\0" in text:
        raise ValueError(f"{what} must not contain CR, LF or NUL")
    return text


class MessageSyntaxError(ValueError):
    """The bytes of the peer are not the SIP message they should be.

    *reason* says what is wrong and names the header field; it becomes the reason phrase of the answer, and so quotes
    no octet of the peer's. *status* is what a server should answer with (RFC 3261, 21.4.1 and 21.5.6). *request* is
    as much of the request as could be read, if that is enough to answer it, else None: then there is nothing to say.
    *headers* is the header section that holds the faulty field, where it is known by that alone.
    """

    def __init__(
        self, reason: str, *, status: int = 400, request: Request | None = None, headers: object = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.request = request
        self.headers = headers

    def is_about(self, request: Request) -> bool:
        """Whether the fault is in *request*, so that its sender is to be told; else it is a fault of ours."""
        return self.request is request or (self.headers is not None and self.headers is request.headers)


class SIPError(Exception):
    """Raised by a handler, a check or a location service, this is the answer to the request.

    *status* is the final status code, 300 to 699; *reason* the reason phrase, by default the RFC's own; *headers* are
    further ``(name, value)`` pairs for the response. *rule* names what decided, for logs; it is never sent.

    Raises `ValueError` for a status that is no refusal, and for CR, LF or NUL in any text.
    """

    def __init__(
        self,
        status: int,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        rule: str | None = None,
    ) -> None:
        if not 300 <= status <= 699:
            raise ValueError(f"a SIPError has a status from 300 to 699, not {status}")
        if reason is not None:
            refuse_line_breaks(reason, "a reason phrase")
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)
        for name, value in self.headers:
            refuse_line_breaks(name, "a header field name")
            refuse_line_breaks(value, f"the {name} header field")
        self.rule = rule
        super().__init__(f"{status} {reason}" if reason else str(status))


class UnavailableError(SIPError):
    """What was asked cannot answer now: a location service that is down (503), too slow (504), or talks nonsense (500).

    Unlike any other `SIPError` it decides nothing about the request, so that another service may be asked. *status*,
    *reason* and *rule* are as there; *retry_after* is when to try again, in seconds, for a 503 (21.5.4).
    """

    def __init__(
        self, reason: str | None = None, *, status: int = 503, retry_after: int = 5, rule: str | None = None
    ) -> None:
        super().__init__(status, reason, [("Retry-After", str(retry_after))] if status == 503 else (), rule)


class TransportError(Exception):
    """A message could not be sent, and another try on the same flow would fare no better (RFC 3261, 17.2.4)."""


class StartError(Exception):
    """The server cannot start; the one line of its text says why and what to do about it."""
