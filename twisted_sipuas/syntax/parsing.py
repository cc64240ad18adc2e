"""From bytes to a request or a response, and what a server needs of a request to answer it (RFC 3261, 7 and 8.1.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.fields import CSeq, NameAddr, Via
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import KNOWN_METHODS, Request, Response

__all__ = ["MAX_URI", "answerable_part", "content_length", "parse_message"]

_FOLD = re.compile(r"\r\n[ \t]+")
_STATUS_LINE = re.compile(r"[Ss][Ii][Pp]/2\.0 ([1-6][0-9]{2}) (.*)", re.DOTALL)
_QUOTED = re.compile(r'"(?:[^"\\\r\n\0]|\\[^\r\n])*("?)')  # unterminated ones too, or the search would be quadratic

# Exactly one of each is needed to answer and to match a request (8.1.1, 8.2.6.2). Max-Forwards is for proxies.
_MANDATORY = ("Via", "From", "To", "Call-ID", "CSeq")

MAX_URI = 8192
"""The length of a Request-URI that transports refuse with 414 unless told otherwise (21.4.12)."""


def parse_message(data: bytes, max_uri: int = MAX_URI) -> Request | Response:
    """Return the one message that the datagram *data* is, or raises `MessageSyntaxError`, for any bytes.

    A Request-URI of more than *max_uri* characters is a fault for 414. The error's ``request`` is set when what could
    be read is enough to answer it. Octets behind Content-Length are discarded (18.3). A fault in a header field that a
    server does not need is left for who asks for that field (8.2.2).
    """
    if data[:1] in (b"\r", b"\n"):
        data = data.lstrip(b"\r\n")
    head, end, body = data.partition(b"\r\n\r\n")
    text = head.decode("utf-8", "surrogateescape")
    if "\r\n " in text or ("\t" in text and "\r\n\t" in text):
        text = _FOLD.sub(" ", text)
    lines = text.split("\r\n")
    breaks = len(lines) - 1
    fault = None
    if text.count("\n") != breaks or text.count("\r") != breaks or ("\0" in text and _has_bare_nul(text)):
        # Not worth answering: these header fields are about to be copied into a response.
        raise MessageSyntaxError("CR, LF or NUL inside a line")
    if not end:
        fault = MessageSyntaxError("The header section has no end")
        lines = [line for line in lines if line]
    if lines and lines[0][:4].upper() == "SIP/":
        return _parse_response(lines, body, fault)
    try:
        request = _parse_request(lines, body, fault, max_uri)
    except MessageSyntaxError as error:
        if error.request is not None:
            error.request.size = len(data)
        raise
    request.size = len(data)
    return request


def _has_bare_nul(text: str) -> bool:
    """Whether *text* has a NUL other than as a quoted-pair of a quoted-string, where 25.1 allows it."""
    return "\0" in _QUOTED.sub(lambda quoted: "" if quoted[1] else quoted[0], text)


def _parse_request(lines: list[str], body: bytes, fault: MessageSyntaxError | None, max_uri: int) -> Request:
    method, uri_text, line_fault = _request_line(lines[0] if lines else "")
    if len(uri_text) > max_uri:
        line_fault = line_fault or MessageSyntaxError("The Request-URI is too long", status=414)
    headers, _ = Headers.parse(lines[1:])  # 8.2.2: a line that is no header field is ignored; nobody can need it
    request = Request._received(method, uri_text, headers)
    fault = line_fault or fault
    try:
        if fault is not None:
            raise fault
        _check(request)
        request.body = _body(headers, body)
    except MessageSyntaxError as error:
        error.request = request if _is_answerable(request) else None
        raise
    return request


def _request_line(line: str) -> tuple[str, str, MessageSyntaxError | None]:
    """Return method and Request-URI, and the fault of the line or None; raises if it is no SIP request at all."""
    parts = line.split(" ")
    if len(parts) == 3 and parts[2] == "SIP/2.0":
        method, uri_text, _ = parts
        if (method in KNOWN_METHODS or TOKEN.fullmatch(method)) and uri_text and uri_text[0] != "<":
            return method, uri_text, None
    words = line.split()
    if len(words) < 3 or not words[-1].upper().startswith("SIP/"):
        raise MessageSyntaxError("Malformed Request-Line")
    if TOKEN.fullmatch(words[0]) is None:
        raise MessageSyntaxError("Malformed method")
    if words[-1].upper() != "SIP/2.0":
        return words[0], words[1], MessageSyntaxError("Version Not Supported", status=505)
    if parts == words and len(words) == 3 and words[1][0] != "<":
        return words[0], words[1], None  # 7.1: the version is compared without regard to case
    return words[0], words[1], MessageSyntaxError("Malformed Request-Line")


def _check(request: Request) -> None:
    """Raise `MessageSyntaxError` unless *request* has what every server needs of it (8.1.1)."""
    index = request.headers.index
    try:
        via = index["via"][0]
        (from_text,), (to_text,), (call_id,), (cseq_text,) = index["from"], index["to"], index["call-id"], index["cseq"]
    except (KeyError, ValueError):
        raise _missing_or_repeated(index) from None
    if not (via and from_text and to_text and call_id and cseq_text):
        raise _missing_or_repeated(index)
    # A fault in these is found now; `parsed_once` would come to the same at twice the price.
    parsed = request.__dict__
    cseq = parsed["cseq"] = CSeq(cseq_text)
    if cseq.method != request.method:
        raise MessageSyntaxError("The method of CSeq is not that of the request")
    if "," in via:
        via = request.headers.values("Via")[0]
    parsed["via"] = Via(via)
    try:
        parsed["to"] = NameAddr(to_text)
    except MessageSyntaxError:
        raise MessageSyntaxError("Malformed To header field") from None


def _missing_or_repeated(index: Mapping[str, Sequence[str]]) -> MessageSyntaxError:
    """Return the fault of a header section of which one of the mandatory fields is missing, repeated or empty."""
    for name in _MANDATORY:
        values = index.get(name.lower(), ())
        if len(values) != 1 and (not values or name != "Via"):
            return MessageSyntaxError(f"{'More than one' if values else 'Missing'} {name} header field")
        if not values[0]:
            return MessageSyntaxError(f"Malformed {name} header field")
    raise AssertionError("every mandatory header field is there")


def answerable_part(head: bytes) -> Request | None:
    """Return what can be read of the request whose start line and header section are *head*, for refusing it.

    None if there is not enough to answer it.
    """
    try:
        message = parse_message(head)
    except MessageSyntaxError as error:
        return error.request
    return message if isinstance(message, Request) and _is_answerable(message) else None


def _is_answerable(request: Request) -> bool:
    """Whether a response could be recognised by who sent the request: it has a Via, and is no ACK (17.1.1.3)."""
    return request.method != "ACK" and "Via" in request.headers


def _body(headers: Headers, octets: bytes) -> bytes:
    """Return the body by Content-Length, or all octets without one (18.3, datagrams)."""
    lengths = headers.rows("content-length")
    if not lengths:
        return octets
    length = content_length(lengths)
    if length > len(octets):
        raise MessageSyntaxError("The body is shorter than Content-Length")
    return octets[:length]


def content_length(values: Sequence[str]) -> int:
    """Return the one number that all *values* of Content-Length say; raises `MessageSyntaxError` otherwise (20.14)."""
    if len(values) == 1 and len(values[0]) <= 10 and values[0].isascii() and values[0].isdigit():
        return int(values[0])
    numbers = {int(value) if value.isascii() and value.isdigit() and len(value) <= 10 else -1 for value in values}
    if len(numbers) != 1 or -1 in numbers:
        raise MessageSyntaxError("Malformed Content-Length header field")
    return numbers.pop()


def _parse_response(lines: list[str], body: bytes, fault: MessageSyntaxError | None) -> Response:
    match = _STATUS_LINE.fullmatch(lines[0])
    headers, _ = Headers.parse(lines[1:])
    if match is None or "\0" in match[2]:
        fault = MessageSyntaxError("Malformed Status-Line")
    if fault is not None:
        raise fault
    assert match is not None
    for name in _MANDATORY:
        if name not in headers:
            raise MessageSyntaxError(f"Missing {name} header field")
    CSeq(headers.get("CSeq") or "")
    return Response(int(match[1]), match[2], headers, _body(headers, body))
