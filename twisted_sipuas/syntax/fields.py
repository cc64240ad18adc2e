"""Header field values: what one value of Via, From, To, Contact, CSeq and their like says (RFC 3261, 20 and 25)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.uri import URI, canonical_host, parse_uri

__all__ = [
    "TOKEN",
    "CSeq",
    "Contact",
    "NameAddr",
    "Via",
    "delta_seconds",
    "format_date",
    "parse_parameters",
    "quote",
    "split_list",
]

TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
"""One token (25.1); to be used with ``fullmatch``."""

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_LIST_ITEM = re.compile(rf'[^,"<]*(?:(?:{_QUOTED}|<[^>]*>)[^,"<]*)*', re.DOTALL)
_PARAMETER = re.compile(
    rf"""[ \t]*;[ \t]*([A-Za-z0-9\-.!%*_+`'~]+)[ \t]*(?:=[ \t]*({_QUOTED}|[^\x00-\x20\x7f;,"<>]+))?[ \t]*""",
    re.DOTALL,
)
_NAME_ADDR = re.compile(rf'(?:({_QUOTED})[ \t]*|([^<"]*))<([^<>"]*)>(.*)', re.DOTALL)
_VIA = re.compile(
    r"""
    [A-Za-z0-9\-.!%*_+`'~]+ [ \t]*/[ \t]* [A-Za-z0-9\-.!%*_+`'~]+ [ \t]*/[ \t]* ([A-Za-z0-9\-.!%*_+`'~]+)
    [ \t]+ (\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+) (?:[ \t]*:[ \t]*([0-9]{1,5}))? [ \t]* (;.*)?
    """,
    re.VERBOSE | re.DOTALL,
)
_CSEQ = re.compile(r"([0-9]{1,20})[ \t]+([A-Za-z0-9\-.!%*_+`'~]+)")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_QVALUE = re.compile(r"[01](?:\.[0-9]*)?|\.[0-9]+")

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def split_list(text: str) -> list[str]:
    """Return the values of a comma-separated list; commas in quotes and in angle brackets separate nothing (7.3.1).

    An empty text has no value. Raises `MessageSyntaxError` for an empty value between others, an unterminated quote or
    an unterminated angle bracket.
    """
    if "," not in text:
        return [text] if text else []
    items = []
    position = 0
    while True:
        match = _LIST_ITEM.match(text, position)
        assert match is not None, "the pattern matches the empty text"
        position = match.end()
        item = match[0].strip(" \t")
        if not item or (position < len(text) and text[position] != ","):
            raise MessageSyntaxError("Malformed list")
        items.append(item)
        if position == len(text):
            return items
        position += 1


def parse_parameters(text: str) -> dict[str, str | None]:
    """Return the ``;name=value`` parameters that *text* is, names in lower case, a flag's value None.

    A quoted value keeps its quotes. Raises `MessageSyntaxError` for anything else, and for a name given twice (7.3.1).
    """
    parameters: dict[str, str | None] = {}
    position, end = 0, len(text)
    while position < end:
        match = _PARAMETER.match(text, position)
        if match is None:
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


def delta_seconds(text: str | None) -> int | None:
    """Return the seconds that *text* says, at most 2**32-1, or None if it says none (25.1 delta-seconds)."""
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return min(int(digits or "0"), 0xFFFFFFFF) if len(digits) <= 10 else 0xFFFFFFFF


def format_date(seconds: float) -> str:
    """Return the SIP-date of *seconds* since the epoch, in English whatever the locale (20.17)."""
    at = time.gmtime(seconds)
    return (
        f"{_WEEKDAYS[at.tm_wday]}, {at.tm_mday:02d} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04d} "
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} GMT"
    )


class Via:
    """One value of a Via header field (20.42).

    `transport` is in upper case. `host` and `port` are the sent-by, `port` None if absent. `parameters` are as
    `parse_parameters` returns them.
    """

    __slots__ = ("host", "parameters", "port", "text", "transport")

    text: str
    transport: str
    host: str
    port: int | None
    parameters: Mapping[str, str | None]

    def __init__(self, text: str) -> None:
        match = _VIA.fullmatch(text)
        if match is None:
            raise MessageSyntaxError("Malformed Via header field")
        transport, self.host, port, parameters = match.groups()
        self.text = text
        self.transport = transport.upper()
        self.port = None if port is None else int(port)
        if self.port is not None and not 0 < self.port <= 65535:
            raise MessageSyntaxError("Malformed port in the Via header field")
        try:
            if self.host[0] == "[":
                canonical_host(self.host)
            self.parameters = parse_parameters(parameters) if parameters else {}
        except MessageSyntaxError:
            raise MessageSyntaxError("Malformed Via header field") from None

    @property
    def branch(self) -> str | None:
        """The branch parameter, or None."""
        return self.parameters.get("branch")

    @property
    def sent_by(self) -> str:
        """The sent-by as it is compared for matching (17.2.3): host in lower case, port if there is one."""
        host = canonical_host(self.host)
        return host if self.port is None else f"{host}:{self.port}"

    def stamped(self, received: str | None, rport: int) -> Via:
        """Return this value with *received* (None: without), and *rport* in place of an rport that was there.

        What claimed to be received or rport already is gone, everything else is as it was (18.2.1, RFC 3581, 4).
        """
        match = _VIA.fullmatch(self.text)
        assert match is not None, "it was parsed before"
        end = match.start(4) if match[4] else len(self.text)
        pieces = [self.text[:end].rstrip(" \t")]
        parameters = dict(self.parameters)
        parameters.pop("received", None)
        for parameter in _PARAMETER.finditer(self.text, end):
            name = parameter[1].lower()
            if name == "rport":
                parameters[name] = str(rport)
                pieces.append(f";rport={rport}")
            elif name != "received":
                pieces.append(parameter[0].strip(" \t"))
        if received is not None:
            parameters["received"] = received
            pieces.append(f";received={received}")
        via = Via.__new__(Via)  # every part of it is known: to parse it again would double the price of a request
        via.text = "".join(pieces)
        via.transport, via.host, via.port, via.parameters = self.transport, self.host, self.port, parameters
        return via

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Via {self.text!r}>"


class NameAddr:
    """One value of From, To, Contact, Route and their like: a name-addr or addr-spec with parameters (20.10, 20.20).

    `uri_text` is the URI as received, `parameters` are those of the header field, as `parse_parameters` returns them.
    Without angle brackets every parameter belongs to the header field (20).
    """

    __slots__ = ("_display", "_uri", "parameters", "text", "uri_text")

    text: str
    uri_text: str
    parameters: Mapping[str, str | None]

    def __init__(self, text: str) -> None:
        self.text = text
        self._uri: URI | None = None
        match = _NAME_ADDR.fullmatch(text)
        if match is not None:
            quoted, display, uri, parameters = match.groups()
            self._display: str = quoted or display
            self.uri_text = uri.strip(" \t")
            parameters = parameters.lstrip(" \t")
        else:
            uri, semicolon, parameters = text.partition(";")
            self._display = ""
            self.uri_text = uri.rstrip(" \t")
            parameters = semicolon + parameters
            if not self.uri_text or any(octet in self.uri_text for octet in '<>"?, \t'):
                raise MessageSyntaxError("Malformed address")
        self.parameters = parsed = parse_parameters(parameters) if parameters else {}
        if "tag" in parsed and parsed["tag"] is None:
            raise MessageSyntaxError("Malformed address")  # 25.1: a tag has a value; ours would come beside it

    @property
    def display_name(self) -> str:
        """The display name without quotes and escapes; empty if there is none."""
        if self._display.startswith('"'):
            return _QUOTED_PAIR.sub(r"\1", self._display[1:-1])
        return self._display.strip(" \t")

    @property
    def uri(self) -> URI:
        """The URI, parsed when first asked for; raises `MessageSyntaxError` if it is malformed."""
        if self._uri is None:
            self._uri = parse_uri(self.uri_text)
        return self._uri

    @property
    def tag(self) -> str | None:
        """The tag parameter, or None (19.3)."""
        return self.parameters.get("tag")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text!r}>"


class Contact(NameAddr):
    """One value of a Contact header field (20.10)."""

    __slots__ = ()

    @property
    def q(self) -> float | None:
        """The preference from 0 to 1, or None if absent or malformed."""
        value = self.parameters.get("q")
        if value is None or _QVALUE.fullmatch(value) is None:
            return None
        return min(float(value), 1.0)

    @property
    def expires(self) -> int | None:
        """The expires parameter in seconds, or None if absent; a malformed one counts as 3600 (8.3, 20.10)."""
        if "expires" not in self.parameters:
            return None
        seconds = delta_seconds(self.parameters["expires"])
        return 3600 if seconds is None else seconds


class CSeq:
    """A CSeq header field (20.16): `number` and `method`."""

    __slots__ = ("method", "number")

    number: int
    method: str

    def __init__(self, text: str) -> None:
        match = _CSEQ.fullmatch(text)
        if match is None:
            raise MessageSyntaxError("Malformed CSeq header field")
        number, self.method = match.groups()
        self.number = int(number)
        if self.number > 0xFFFFFFFF:
            raise MessageSyntaxError("Malformed CSeq header field")

    def __str__(self) -> str:
        return f"{self.number} {self.method}"

    def __repr__(self) -> str:
        return f"<CSeq {self.number} {self.method}>"
