"""What parts does a body have? (RFC 3261, 8.2.3 and 20.11; RFC 2046, 5.1; RFC 5621)

Not by the standard library's `email` parser: it takes a bare LF for the end of a line, so that binary content can end
its part early, and it holds 64 kB of nested multiparts for a second, or raises `RecursionError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.media import ContentDisposition, ContentType

__all__ = ["MAX_DEPTH", "MAX_PARTS", "BodyPart", "parse_body"]

MAX_DEPTH = 8
"""How many multiparts may be one inside the other."""

MAX_PARTS = 100
"""How many parts a body may have, those that are multiparts included."""

_FOLD = re.compile(r"\r\n[ \t]+")
_LINE_BREAK = re.compile(r"[\r\n\0]")
# RFC 2046, 5.1.1, and any other visible character: no more can go wrong with them.
_BOUNDARY = re.compile(r"[\x20-\x7e]{0,69}[\x21-\x7e]")


@dataclass(frozen=True, slots=True)
class BodyPart:
    """A body, or a part of a multipart body."""

    headers: Headers
    """Those of the part; those of the message, if this is its whole body."""

    content: bytes
    """As received: no Content-Transfer-Encoding and no Content-Encoding is undone."""

    content_type: str
    """The media type in lower case without parameters, ``text/plain`` for a part that names none (RFC 2046, 5.1)."""

    is_optional: bool
    """Whether Content-Disposition says that a receiver may ignore it (RFC 3261, 20.11)."""

    parts: tuple[BodyPart, ...] = ()
    """The parts of a multipart, in order.

    Empty for all else, for a multipart with a Content-Encoding, and for a malformed one that may be ignored.
    """

    @property
    def is_encoded(self) -> bool:
        """Whether its content is under a Content-Encoding (7.4.1)."""
        return not _is_identity(self.headers.get("Content-Encoding"))

    def leaves(self) -> Iterator[BodyPart]:
        """Return an iterator over those that have no parts themselves, in order: what a receiver makes use of."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()


def parse_body(headers: Headers, body: bytes) -> BodyPart:
    """Return *body*, the body of a message with *headers*, and all the parts that it has.

    A body that is no multipart is one part. A multipart of any subtype has parts (RFC 2046, 5.1.7).

    Raises `MessageSyntaxError` for a multipart body that is none, and for one past `MAX_DEPTH` or `MAX_PARTS`; then
    the status is 413.
    """
    try:
        return _Walk().part(headers, body, "", 0)
    except MessageSyntaxError as fault:
        raise MessageSyntaxError(fault.reason, status=fault.status, headers=headers) from None


class _Walk:
    """One walk over a body: knows how many parts it has seen."""

    def __init__(self) -> None:
        self._seen = 0

    def part(self, headers: Headers, content: bytes, default_type: str, depth: int) -> BodyPart:
        """Return the part with *headers* and *content*, *depth* multiparts down."""
        field = headers.get("Content-Type")
        if field is None:
            field = default_type
        media_type = _media_type(field)
        part = BodyPart(headers, content, media_type, _is_optional(headers.get("Content-Disposition")))
        if not media_type.startswith("multipart/") or not _is_identity(headers.get("Content-Encoding")):
            return part
        try:
            return replace(part, parts=self._parts(part, _boundary(field), depth))
        except MessageSyntaxError:
            if part.is_optional:
                return part
            raise

    def _parts(self, part: BodyPart, boundary: str, depth: int) -> tuple[BodyPart, ...]:
        if depth == MAX_DEPTH:
            raise MessageSyntaxError("Multipart bodies are nested too deeply", status=413)
        default_type = "message/rfc822" if part.content_type == "multipart/digest" else "text/plain"
        return tuple(
            self.part(*_headers_and_content(octets), default_type, depth + 1)
            for octets in self._split(part.content, boundary)
        )

    def _split(self, content: bytes, boundary: str) -> Iterator[bytes]:
        """Return an iterator over the octets of each part, without the preamble and the epilogue (RFC 2046, 5.1.1).

        A delimiter is a whole line. 5.1.1 lets a line that merely begins with one end a part too; a boundary that is
        the beginning of an inner one would then cut the inner parts off.
        """
        delimiter = re.compile(rb"\r\n--" + re.escape(boundary.encode()) + rb"(--)?[ \t]*(?:\r\n|\Z)")
        content = b"\r\n" + content  # the CRLF before a delimiter belongs to it, and the first may lack it
        start = None
        for match in delimiter.finditer(content):
            if start is not None:
                self._seen += 1
                if self._seen > MAX_PARTS:
                    raise MessageSyntaxError("The body has too many parts", status=413)
                yield content[start : match.start()]
                if match[1]:
                    return
            elif match[1]:
                break
            start = match.end()
        if start is None:
            raise MessageSyntaxError("Malformed multipart body")
        self._seen += 1
        yield content[start:]  # the last delimiter was forgotten, or cut off: what there is of the part is told


def _headers_and_content(octets: bytes) -> tuple[Headers, bytes]:
    """Return the header section and the content of the part that *octets* are; the former may be empty."""
    head, _, content = (b"\r\n" + octets).partition(b"\r\n\r\n")
    text = _FOLD.sub(" ", head.decode("utf-8", "surrogateescape"))
    lines = [line for line in text.split("\r\n") if line]
    headers, fault = Headers.parse(lines)
    if fault is not None or any(map(_LINE_BREAK.search, lines)):
        raise MessageSyntaxError("Malformed header section in a multipart body")
    return headers, content


def _media_type(content_type: str) -> str:
    """Return what *content_type* says before its parameters, in lower case, without the white space of 25.1."""
    main, slash, subtype = content_type.partition(";")[0].partition("/")
    return (main.strip(" \t") + slash + subtype.strip(" \t")).lower()


def _boundary(content_type: str) -> str:
    """Return the boundary that *content_type*, the header field of a multipart, names."""
    boundary = ContentType.parse(content_type).parameters.get("boundary")
    if boundary is None or _BOUNDARY.fullmatch(boundary) is None:
        raise MessageSyntaxError("Malformed boundary in the Content-Type header field")
    return boundary


def _is_identity(encoding: str | None) -> bool:
    return encoding is None or encoding.lower() == "identity"


def _is_optional(disposition: str | None) -> bool:
    """Whether *disposition* says ``handling=optional``; a malformed one does not, and "required" is the default."""
    if disposition is None:
        return False
    try:
        return ContentDisposition.parse(disposition).handling == "optional"
    except MessageSyntaxError:
        return False
