"""Streams: where one message ends and the next begins (RFC 3261, 18.3; RFC 5626, 3.5.1)."""

from __future__ import annotations

import re

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.parsing import answerable_part, content_length

__all__ = ["KEEP_ALIVE", "StreamFramer"]

KEEP_ALIVE = b"\r\n\r\n"
"""What `StreamFramer.next_message` returns for the ping of RFC 5626, to be answered with one CRLF."""

_FOLD = re.compile(rb"\r\n[ \t]+")
_CONTENT_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:([^\r\n]*)", re.IGNORECASE)
_START_LINE = re.compile(rb"[A-Za-z0-9\-.!%*_+`'~]+ [^\r\n]* SIP/[0-9.]+[ \t]*|SIP/[0-9.]+ [^\r\n]*", re.IGNORECASE)
_LINE_START = re.compile(rb"[A-Za-z0-9\-.!%*_+`'~/]+(?: [^\r\n]*)?\r?")


class StreamFramer:
    """Cuts the bytes of one connection into messages; the one parser here that has a memory.

    Call `receive` with bytes as they come, then `next_message` until it returns None. However the bytes are cut, the
    messages are the same.

    *max_header* bounds start line and header section, *max_message* the whole message, both in octets.
    """

    def __init__(self, max_header: int = 65535, max_message: int = 65535) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._start_line_seen = False
        self._needed = 0  # length of the message at the front, once its header section has been read; else 0
        self._max_header = min(max_header, max_message)
        self._max_message = max_message

    def receive(self, data: bytes) -> None:
        """Take *data*, the next bytes of the stream."""
        self._buffer += data

    @property
    def is_mid_message(self) -> bool:
        """Whether a message has begun and is not whole yet; CRLFs between messages begin none."""
        return not KEEP_ALIVE.startswith(self._buffer)

    def next_message(self) -> bytes | None:
        """Return the next whole message, `KEEP_ALIVE` for a double CRLF between messages, or None for want of bytes.

        Raises `MessageSyntaxError` when the stream cannot be framed any further: the caller answers the error's
        ``request`` if it has one, and closes the connection. That is so for a Content-Length that is missing,
        malformed or contradicts another (18.3), for a bound overrun, and for whatever does not begin like SIP.
        """
        buffer = self._buffer
        if not self._needed:
            if buffer[:1] == b"\r" and (ping := self._leading_crlf()):
                return ping
            end = buffer.find(b"\r\n\r\n", self._searched)
            if end < 0:
                self._check_partial()
                return None
            self._needed = end + 4 + self._body_length(bytes(buffer[: end + 4]))
        if len(buffer) < self._needed:
            return None
        message = bytes(buffer[: self._needed])
        del buffer[: self._needed]
        self._needed = self._searched = 0
        self._start_line_seen = False
        return message

    def _leading_crlf(self) -> bytes | None:
        """Drop CRLFs before a start line (7.5); two in a row are a ping."""
        buffer = self._buffer
        while buffer[:2] == b"\r\n":
            if buffer[:4] == KEEP_ALIVE:
                del buffer[:4]
                return KEEP_ALIVE
            if len(buffer) < 4 and KEEP_ALIVE.startswith(buffer):
                return None  # half a ping, or a stray CRLF: what comes next tells
            del buffer[:2]
        return None

    def _check_partial(self) -> None:
        """Let go at once of what cannot become a SIP message; remember how far the end has been looked for."""
        buffer = self._buffer
        if KEEP_ALIVE.startswith(buffer):
            return
        if not self._start_line_seen:
            line_end = buffer.find(b"\r\n", self._searched)
            pattern, line = (_START_LINE, buffer[:line_end]) if line_end >= 0 else (_LINE_START, buffer[:64])
            if pattern.fullmatch(line) is None:
                raise MessageSyntaxError("The stream is not SIP")
            self._start_line_seen = line_end >= 0
        if len(buffer) > self._max_header:
            fault = "The header section is too long"
            raise MessageSyntaxError(fault, status=513, request=answerable_part(bytes(buffer)))
        self._searched = max(0, len(buffer) - 3)

    def _body_length(self, head: bytes) -> int:
        if _START_LINE.fullmatch(head, 0, head.find(b"\r\n")) is None:
            raise MessageSyntaxError("The stream is not SIP")
        if len(head) > self._max_header:
            raise MessageSyntaxError("The header section is too long", status=513, request=answerable_part(head))
        unfolded = _FOLD.sub(b" ", head) if b"\r\n " in head or b"\r\n\t" in head else head
        values = [value.decode("latin-1").strip(" \t") for value in _CONTENT_LENGTH.findall(unfolded)]
        if not values:
            raise MessageSyntaxError("Missing Content-Length header field", request=answerable_part(head))
        try:
            length = content_length(values)
        except MessageSyntaxError as fault:
            raise MessageSyntaxError(fault.reason, request=answerable_part(head)) from None
        if len(head) + length > self._max_message:
            raise MessageSyntaxError("The message is too long", status=513, request=answerable_part(head))
        return length
