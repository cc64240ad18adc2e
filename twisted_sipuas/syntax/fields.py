"""Header field values: what one value of Via, From, To, Contact, CSeq and their like says (RFC 3261, 20 and 25)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from twisted_sipuas.errors import MessageSyntaxError, refuse_line_breaks
from twisted_sipuas.syntax.grammar import (
    PARAMETER,
    QUOTED_STRING,
    TOKEN,
    delta_seconds,
    parse_parameters,
    quote,
    unquote,
)
from twisted_sipuas.syntax.uri import URI, canonical_host, parse_uri

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CSeq", "Contact", "FieldValue", "NameAddr", "Via"]

_NAME_ADDR = re.compile(rf'(?:({QUOTED_STRING})[ \t]*|([^<"\x00\r\n]*))<([^<>"\x00\r\n]*)>[ \t]*(.*)', re.DOTALL)
_NOT_IN_BARE_ADDRESS = re.compile(r'[<>"?, \t\x00\r\n]')
_VIA = re.compile(
    r"""
    [A-Za-z0-9\-.!%*_+`'~]+ [ \t]*/[ \t]* [A-Za-z0-9\-.!%*_+`'~]+ [ \t]*/[ \t]* ([A-Za-z0-9\-.!%*_+`'~]+)
    [ \t]+ (\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+) (?:[ \t]*:[ \t]*([0-9]{1,5}))? [ \t]*
    """,
    re.VERBOSE | re.DOTALL,
)
_CSEQ = re.compile(r"([0-9]{1,20})[ \t]+([A-Za-z0-9\-.!%*_+`'~]+)")
_BARE_VALUE = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-.!%*_+`'~]+")
_IPV6_ADDRESS = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+")
_QUOTED_VALUE = re.compile(QUOTED_STRING, re.DOTALL)
_QVALUE = re.compile(r"[01](?:\.[0-9]*)?|\.[0-9]+")

_LONGEST_KEPT = 80  # characters of a text whose parse is kept for the next time

_Parameters = Mapping[str, "str | None"] | Iterable[tuple[str, "str | None"]]


def _pairs(parameters: _Parameters) -> list[tuple[str, str | None]]:
    """Return *parameters* as pairs; raises `ValueError` unless each name is a token and given once."""
    pairs = list(parameters.items() if isinstance(parameters, Mapping) else parameters)
    names = set()
    for name, _ in pairs:
        if TOKEN.fullmatch(name) is None:
            raise ValueError("a parameter name has to be a token")
        if name.lower() in names:
            raise ValueError(f"the parameter {name} is given twice")
        names.add(name.lower())
    return pairs


def _printed(name: str, value: str | None) -> str:
    """Return one parameter as it stands in a message: *value* as it is if the grammar allows that, else quoted."""
    if value is None:
        return f";{name}"
    refuse_line_breaks(value, f"the parameter {name}")
    if _BARE_VALUE.fullmatch(value) is None and _QUOTED_VALUE.fullmatch(value) is None:
        value = quote(value)
    return f";{name}={value}"


def _comparable(parameters: Mapping[str, str | None]) -> frozenset[tuple[str, str | None]]:
    return frozenset((name, None if value is None else unquote(value)) for name, value in parameters.items())


class _ByValue:
    """What is equal to another of its class if their components are."""

    __slots__ = ()

    def _key(self) -> tuple[object, ...]:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _ByValue):
            return NotImplemented
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))


class FieldValue(_ByValue):
    """A value that one header field owns, so that `Headers.one` and `Headers.every` can be asked for its class.

    `field` is the long name of the header field. `is_list` says whether one row may hold several values, separated by
    commas (7.3.1).
    """

    __slots__ = ()

    field: ClassVar[str]
    is_list: ClassVar[bool] = False

    if TYPE_CHECKING:

        def __init__(self, text: str) -> None: ...

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the value that *text* is; raises `MessageSyntaxError` naming the field if it is none."""
        try:
            return cls(text.strip(" \t"))
        except MessageSyntaxError:
            raise MessageSyntaxError(f"Malformed {cls.field} header field") from None


@lru_cache(maxsize=1024)  # a proxy sends all its requests with the same
def _parse_sent_by(text: str) -> tuple[str, str, int | None, str]:
    """Return transport, host, port and `Via.sent_by` of the Via value that begins with *text*, up to its parameters."""
    match = _VIA.fullmatch(text)
    if match is None:
        raise MessageSyntaxError("Malformed Via header field")
    transport, host, digits = match.groups()
    port = None if digits is None else int(digits)
    if port is not None and not 0 < port <= 65535:
        raise MessageSyntaxError("Malformed port in the Via header field")
    try:
        canonical = canonical_host(host)
    except MessageSyntaxError:
        raise MessageSyntaxError("Malformed Via header field") from None
    if port is None:
        return transport.upper(), host, None, canonical
    return transport.upper(), host, port, f"{canonical}:{port}"


class Via(FieldValue):
    """One value of a Via header field (20.42).

    `transport` is in upper case. `host` and `port` are the sent-by, `port` None if absent. `parameters` are as
    `parse_parameters` returns them. Values are equal if these are; a host has no case then.
    """

    __slots__ = ("host", "parameters", "port", "sent_by", "text", "transport")

    field = "Via"
    is_list = True

    text: str
    transport: str
    host: str
    port: int | None
    parameters: dict[str, str | None]
    sent_by: str
    """The sent-by as it is compared for matching (17.2.3): host in lower case, port if there is one."""

    def __init__(self, text: str) -> None:
        self.text = text
        head, semicolon, parameters = text.partition(";")
        known = _parse_sent_by if len(head) <= _LONGEST_KEPT else _parse_sent_by.__wrapped__
        self.transport, self.host, self.port, self.sent_by = known(head)
        try:
            self.parameters = parse_parameters(semicolon + parameters) if semicolon else {}
        except MessageSyntaxError:
            raise MessageSyntaxError("Malformed Via header field") from None

    @classmethod
    def build(cls, transport: str, host: str, port: int | None = None, parameters: _Parameters = ()) -> Self:
        """Return the value of these components in its canonical form.

        An IPv6 *host* may come without its brackets. *parameters*, a mapping or pairs, are as `parse_parameters`
        returns them, and a value that needs quotes gets them. Raises `ValueError` if they do not make a Via (25.1).
        """
        if TOKEN.fullmatch(transport) is None:
            raise ValueError("a transport has to be a token")
        transport = transport.upper()
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        text = f"SIP/2.0/{transport} {host}" + ("" if port is None else f":{port}")
        for name, value in _pairs(parameters):
            # 25.1: this one alone holds an IPv6 address without brackets
            bare = value is not None and name.lower() == "received" and _IPV6_ADDRESS.fullmatch(value)
            text += f";{name}={value}" if bare else _printed(name, value)
        try:
            via = cls(text)
        except MessageSyntaxError:
            raise ValueError("these components make no Via") from None
        if (via.host, via.port) != (host, port):
            raise ValueError("a component of a Via must not hold another")
        return via

    @property
    def branch(self) -> str | None:
        """The branch parameter, or None."""
        return self.parameters.get("branch")

    def stamped(self, received: str | None, rport: int) -> Via:
        """Return this value with *received* (None: without), and *rport* in place of an rport that was there.

        What claimed to be received or rport already is gone, everything else is as it was (18.2.1, RFC 3581, 4).
        """
        end = self.text.find(";")
        if end < 0:
            end = len(self.text)
        pieces = [self.text[:end].rstrip(" \t")]
        parameters = dict(self.parameters)
        parameters.pop("received", None)
        for parameter in PARAMETER.finditer(self.text, end):
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
        via.sent_by = self.sent_by
        return via

    def with_parameters(self, parameters: Mapping[str, str]) -> Via:
        """Return this value with *parameters*, names in lower case, at its end in place of its own of these names.

        Raises `MessageSyntaxError` if that makes no Via.
        """
        head, semicolon, tail = self.text.partition(";")
        pieces = [head.rstrip(" \t")]
        for parameter in PARAMETER.finditer(semicolon + tail):
            if parameter[1].lower() not in parameters:
                pieces.append(parameter[0].strip(" \t"))
        pieces += [f";{name}={value}" for name, value in parameters.items()]
        return Via("".join(pieces))

    def _key(self) -> tuple[object, ...]:
        return self.transport, canonical_host(self.host), self.port, _comparable(self.parameters)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Via {self.text!r}>"


class NameAddr(_ByValue):
    """One value of From, To, Contact, Route and their like: a name-addr or addr-spec with parameters (20.10, 20.20).

    `uri_text` is the URI as received, `parameters` are those of the header field, as `parse_parameters` returns them.
    Without angle brackets every parameter belongs to the header field (20). Values of one class are equal if URI,
    display name and parameters are.
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
        else:
            uri, semicolon, parameters = text.partition(";")
            self._display = ""
            self.uri_text = uri.rstrip(" \t")
            parameters = semicolon + parameters
            if not self.uri_text or _NOT_IN_BARE_ADDRESS.search(self.uri_text):
                raise MessageSyntaxError("Malformed address")
        self.parameters = parsed = parse_parameters(parameters) if parameters else {}
        if "tag" in parsed:
            tag = parsed["tag"]
            if tag is None or tag[0] == '"':  # 25.1: a token; what clients make of base64 is let pass
                raise MessageSyntaxError("Malformed address")  # ours would come beside it

    @classmethod
    def build(cls, uri: URI | str, display_name: str = "", parameters: _Parameters = ()) -> Self:
        """Return the value of these components in its canonical form: with angle brackets, a display name in quotes.

        *display_name* is plain text. *parameters*, a mapping or pairs, are as `parse_parameters` returns them, and a
        value that needs quotes gets them. Raises `ValueError` if they do not make an address (25.1).
        """
        try:
            uri = uri if isinstance(uri, URI) else parse_uri(uri)
            refuse_line_breaks(display_name, "a display name")
            text = f"{quote(display_name)} <{uri}>" if display_name else f"<{uri}>"
            address = cls(text + "".join(_printed(name, value) for name, value in _pairs(parameters)))
        except MessageSyntaxError as fault:
            raise ValueError(f"these components make no address: {fault.reason}") from None
        address._uri = uri
        return address

    @property
    def display_name(self) -> str:
        """The display name without quotes and escapes; empty if there is none."""
        return unquote(self._display.strip(" \t")) if self._display else ""

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

    def _key(self) -> tuple[object, ...]:
        try:
            uri: URI | str = self.uri
        except MessageSyntaxError:
            uri = self.uri_text  # a fault for who asks for the URI (8.2.2), not for who compares
        return uri, self.display_name, _comparable(self.parameters)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text!r}>"


class Contact(NameAddr, FieldValue):
    """One value of a Contact header field (20.10); the ``*`` of a REGISTER is one whose `uri` is malformed."""

    __slots__ = ()

    field = "Contact"
    is_list = True

    @classmethod
    def build(
        cls,
        uri: URI | str,
        display_name: str = "",
        parameters: _Parameters = (),
        *,
        q: float | None = None,
        expires: int | None = None,
    ) -> Self:
        """Return the value of these components, as `NameAddr.build` does.

        *q* is the preference from 0 to 1, of which three digits are kept, *expires* is in seconds (20.10).
        """
        pairs = _pairs(parameters)
        if q is not None:
            if not 0 <= q <= 1:
                raise ValueError("q has to be from 0 to 1")
            digits = f"{q:.3f}"
            pairs.append(("q", digits.rstrip("0").rstrip(".")))
        if expires is not None:
            if not isinstance(expires, int) or not 0 <= expires <= 0xFFFFFFFF:
                raise ValueError("expires has to be a whole number from 0 to 2**32-1")
            pairs.append(("expires", f"{expires:d}"))
        return super().build(uri, display_name, pairs)

    @property
    def q(self) -> float | None:
        """The preference from 0 to 1, or None if absent or malformed."""
        if "q" not in self.parameters:
            return None
        value = unquote(self.parameters["q"] or "")  # RFC 2543 had it in quotes
        if _QVALUE.fullmatch(value) is None:
            return None
        return min(float(value), 1.0)

    @property
    def expires(self) -> int | None:
        """The expires parameter in seconds, or None if absent; a malformed one counts as 3600 (8.3, 20.10)."""
        if "expires" not in self.parameters:
            return None
        seconds = delta_seconds(unquote(self.parameters["expires"] or ""))  # RFC 2543 had it in quotes
        return 3600 if seconds is None else seconds


class CSeq(FieldValue):
    """A CSeq header field (20.16): `number` and `method`; equal to another of the same."""

    __slots__ = ("method", "number")

    field = "CSeq"

    number: int
    method: str

    def __init__(self, text: str) -> None:
        number, _, method = text.partition(" ")
        if len(number) < 10 and number.isdigit() and number.isascii() and method.isalpha() and method.isascii():
            self.number, self.method = int(number), method  # as nearly all are
            return
        match = _CSEQ.fullmatch(text)
        if match is None:
            raise MessageSyntaxError("Malformed CSeq header field")
        number, self.method = match.groups()
        self.number = int(number)
        if self.number > 0xFFFFFFFF:
            raise MessageSyntaxError("Malformed CSeq header field")

    @classmethod
    def build(cls, number: int, method: str) -> Self:
        """Return the CSeq of these; raises `ValueError` for a number above 2**32-1 and a method that is no token."""
        if not isinstance(number, int) or not 0 <= number <= 0xFFFFFFFF:
            raise ValueError("a CSeq number has to be a whole number from 0 to 2**32-1")
        if TOKEN.fullmatch(method) is None:
            raise ValueError("a method has to be a token")
        return cls(f"{number:d} {method}")

    def _key(self) -> tuple[object, ...]:
        return self.number, self.method

    def __str__(self) -> str:
        return f"{self.number} {self.method}"

    def __repr__(self) -> str:
        return f"<CSeq {self.number} {self.method}>"
