"""Requests and responses as values, and how they are printed (RFC 3261, 7 and 8.2.6)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, overload

from twisted_sipuas.errors import MessageSyntaxError, refuse_line_breaks
from twisted_sipuas.syntax.fields import Contact, CSeq, NameAddr, Via
from twisted_sipuas.syntax.grammar import TOKEN, split_list
from twisted_sipuas.syntax.headers import COMPACT_NAMES, Headers
from twisted_sipuas.syntax.status import reason_phrase
from twisted_sipuas.syntax.uri import URI, parse_uri

__all__ = ["KNOWN_METHODS", "Request", "Response"]

_CONTROL = re.compile(r"[\x00-\x20\x7f]")


KNOWN_METHODS = frozenset(
    "ACK BYE CANCEL INFO INVITE MESSAGE NOTIFY OPTIONS PRACK PUBLISH REFER REGISTER SUBSCRIBE UPDATE".split()
)
"""The methods of RFC 3261 and of the RFCs that added to it; 21.5.2 asks which ones we recognise."""
_ECHOED = (("Via", "via"), ("From", "from"), ("To", "to"), ("Call-ID", "call-id"), ("CSeq", "cseq"))
_PLAIN_NAMES = frozenset(
    "Accept Accept-Encoding Accept-Language Allow Content-Type Date Min-Expires Retry-After Supported".split()
)
_OURS_NAMES = frozenset(("content-length", "l", "server"))
_TO_NAMES = frozenset(("To", "TO", "to", "t", "T"))
_END_OF_TO = "; \t"  # what may stand behind the last parameter
_SERVER_NAMES = frozenset(("Server", "SERVER", "server"))
_TYPE_NAMES = frozenset(("content-type", "c"))
_LENGTH_NAMES = frozenset(("content-length", "l"))

_T = TypeVar("_T")


class _parsed_once(Generic[_T]):
    """A property that is computed when first asked for and then is a plain attribute.

    `functools.cached_property` does the same with a lock, which before Python 3.12 costs more than most of our parses.
    """

    def __init__(self, parse: Callable[[Request], _T]) -> None:
        self._parse = parse
        self._name = parse.__name__
        self.__doc__ = parse.__doc__

    @overload
    def __get__(self, request: None, owner: type) -> _parsed_once[_T]: ...

    @overload
    def __get__(self, request: Request, owner: type) -> _T: ...

    def __get__(self, request: Request | None, owner: type) -> _parsed_once[_T] | _T:
        if request is None:
            return self
        value = request.__dict__[self._name] = self._parse(request)
        return value


class _Echo:
    """What every response repeats of the request with *headers*: Via, From, To, Call-ID and CSeq (8.2.6.2).

    `to` is the value of To, `before` and `after` are what is printed around it. Raises `LookupError` or `ValueError`
    if there is not just one of each, but of Via.
    """

    __slots__ = ("after", "before", "to")

    def __init__(self, headers: Headers) -> None:
        index = headers.index
        (from_,), (self.to,), (call_id,), (cseq,) = index["from"], index["to"], index["call-id"], index["cseq"]
        vias = index["via"]
        via = vias[0] if len(vias) == 1 else "\r\nVia: ".join(vias)
        self.before = f"Via: {via}\r\nFrom: {from_}\r\nTo: "
        self.after = f"\r\nCall-ID: {call_id}\r\nCSeq: {cseq}"

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The same as rows; of what was printed, for the request may be given another Via."""
        lines = f"{self.before}{self.to}{self.after}".split("\r\n")
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


def _echoed(headers: Headers) -> list[tuple[str, str]]:
    """Return the rows of what every response repeats of the request with *headers*, whatever there is of each."""
    index = headers.index
    return [(name, value) for name, key in _ECHOED for value in index.get(key, ())]


class Request:
    """A SIP request (RFC 3261, 7.1).

    `method`, `uri_text`, `headers` and `body` are as received; `uri`, `via`, `from_`, `to`, `cseq` and `contacts` are
    parsed when first asked for, and then raise `MessageSyntaxError` naming the field if it is malformed.

    *headers* is a `Headers` or the pairs to make one of. Raises `ValueError` for a method that is no token and for
    CR, LF or NUL in any text.
    """

    method: str
    uri_text: str
    headers: Headers
    body: bytes
    size: int = 0
    """How many octets it was received as; 0 for a request of our own."""
    flow: Any = None
    """The `IFlow` that it came on, which knows where from; None for a request of our own."""

    def __init__(
        self, method: str, uri: str | URI, headers: Headers | Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> None:
        if TOKEN.fullmatch(method) is None:
            raise ValueError("a method has to be a token")
        self.method = method
        self.uri_text = str(uri)
        if _CONTROL.search(self.uri_text):
            raise ValueError("a Request-URI must not contain white space or control characters")
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body = body

    @classmethod
    def _received(cls, method: str, uri_text: str, headers: Headers) -> Request:
        request = cls.__new__(cls)
        request.method = method
        request.uri_text = uri_text
        request.headers = headers
        request.body = b""
        return request

    @_parsed_once
    def uri(self) -> URI:
        """The Request-URI (8.1.1.1)."""
        try:
            return parse_uri(self.uri_text)
        except MessageSyntaxError:
            raise MessageSyntaxError("Malformed Request-URI", request=self) from None

    @_parsed_once
    def via(self) -> Via:
        """The topmost Via value (20.42)."""
        row = self._single("Via")
        if "," in row:
            row = self.headers.values("Via")[0]
        try:
            return Via(row)
        except MessageSyntaxError as fault:
            raise MessageSyntaxError(fault.reason, request=self) from None

    @_parsed_once
    def from_(self) -> NameAddr:
        """The From header field (20.20)."""
        return self._address("From")

    @_parsed_once
    def to(self) -> NameAddr:
        """The To header field (20.39)."""
        return self._address("To")

    @_parsed_once
    def cseq(self) -> CSeq:
        """The CSeq header field (20.16)."""
        try:
            return CSeq(self._single("CSeq"))
        except MessageSyntaxError as fault:
            raise MessageSyntaxError(fault.reason, request=self) from None

    @_parsed_once
    def contacts(self) -> tuple[Contact, ...]:
        """The values of Contact; the ``*`` of a REGISTER is none of them: ask `headers` for it (20.10)."""
        try:
            return tuple([Contact(value) for value in self.headers.values("Contact") if value != "*"])
        except MessageSyntaxError:
            raise MessageSyntaxError("Malformed Contact header field", request=self) from None

    @property
    def call_id(self) -> str:
        """The Call-ID (20.8)."""
        return self._single("Call-ID")

    def _single(self, name: str) -> str:
        value = self.headers.get(name)
        if not value:
            raise MessageSyntaxError(f"Missing {name} header field", request=self)
        return value

    def _address(self, name: str) -> NameAddr:
        try:
            return NameAddr(self._single(name))
        except MessageSyntaxError as fault:
            reason = fault.reason if fault.reason.startswith("Missing") else f"Malformed {name} header field"
            raise MessageSyntaxError(reason, request=self) from None

    def response(
        self,
        status: int,
        reason: str | None = None,
        *,
        headers: Iterable[tuple[str, str]] = (),
        contacts: Iterable[object] = (),
        body: bytes = b"",
        content_type: str | None = None,
        rule: str | None = None,
    ) -> Response:
        """Return a response to this request by RFC 3261, 8.2.6; the transaction adds the To tag and sends it.

        Via, From, To, Call-ID and CSeq are the request's own text. *contacts* are URIs, `Target`s or whole Contact
        values as text; a URI is put between angle brackets. *headers* are further ``(name, value)`` pairs. *rule*
        names what decided, for logs; it is never sent.

        Raises `ValueError` for a status outside 100 to 699, for CR, LF or NUL in any text, and for a Require that names
        an extension which the request's Supported does not: it must not be applied (8.2.4). A 421 may name any.
        Raises it too for a body whose type neither *content_type* nor *headers* tells (7.4.1).
        """
        rows = []
        for contact in contacts:
            text = refuse_line_breaks(str(contact), "the Contact header field")
            rows.append(("Contact", f"<{text}>" if "<" not in text and text != "*" else text))
        is_plain = True
        for name, value in headers if content_type is None else (*headers, ("Content-Type", content_type)):
            refuse_line_breaks(value, f"the {name} header field")
            if name not in _PLAIN_NAMES:
                if TOKEN.fullmatch(name) is None:
                    raise ValueError("a header field name has to be a token")
                if len(name) == 7 and status != 421 and name.lower() == "require":
                    self._check_supported(value)
                is_plain = is_plain and name.lower() not in _OURS_NAMES
            rows.append((name, value))
        echo = self._echo if is_plain else None
        if echo is None:
            rows = [*_echoed(self.headers), *rows]
        response = Response._of_rows(status, reason, rows, body, rule, self._to_has_tag, echo)
        if body and content_type is None and not any(name.lower() in _TYPE_NAMES for name, _ in rows):
            raise ValueError("a body needs a content_type")
        return response

    @_parsed_once
    def _echo(self) -> _Echo | None:
        """What every response repeats; None if it cannot be printed as always."""
        try:
            return _Echo(self.headers)
        except (LookupError, ValueError):
            return None

    def _check_supported(self, require: str) -> None:
        """Raise `ValueError` if *require*, of a response, names what the request's Supported does not (8.2.4)."""
        supported = {tag.lower() for tag in self.headers.values("Supported")}
        if any(tag.lower() == "100rel" for tag in self.headers.values("Require")):
            supported.add("100rel")  # RFC 3262, 3: this one may, and then has to be, applied to what requires it
        for tag in split_list(require):
            if tag.lower() not in supported:
                raise ValueError(f"the request does not support {tag!r}, so no response may require it")

    @property
    def _to_has_tag(self) -> bool:
        try:
            return "tag" in self.to.parameters
        except MessageSyntaxError:
            return False  # a To that we refuse with a 400 gets its tag at the end, where it belongs if anywhere

    def stamp_via(self, received: str | None, rport: int) -> None:
        """Note in the topmost Via value what `Via.stamped` says (18.2.1), before anybody else reads the request."""
        via = self.via
        text, parameters = via.text, via.parameters
        if "rport" in parameters and "received" not in parameters and received is not None and '"' not in text:
            head, flag, tail = text.partition(";rport")  # as nearly every client sends it, and nothing need be parsed
            if flag and (not tail or (tail[0] == ";" and tail[-1] != ";")):
                stamped = f"{head};rport={rport}{tail};received={received}"
                if self.headers.overwrite_via(stamped, text):
                    via.text = stamped
                    parameters["rport"], parameters["received"] = str(rport), received
                    self.__dict__.pop("_echo", None)
                    return
        self.overwrite_via(via.stamped(received, rport))

    def overwrite_via(self, via: Via) -> None:
        """Put *via* in place of the topmost Via value, before anybody else reads the request."""
        row = self.headers.rows("via")[0]
        self.__dict__["via"] = via
        self.__dict__.pop("_echo", None)
        self.headers.overwrite_via(", ".join([via.text, *split_list(row)[1:]]) if "," in row else via.text)

    def to_bytes(self, *, compact: bool = False) -> bytes:
        """Return the request as it goes on the wire, with a Content-Length that is right.

        With *compact*, header field names are in their compact form where they have one (7.3.3).
        """
        return _to_bytes(f"{self.method} {self.uri_text} SIP/2.0", self.headers, self.body, compact)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.uri_text}>"


class _Settable:
    """What a `Response` consists of, while it can be set: by `object.__setattr__` that takes four times as long."""

    __slots__ = ("_added", "_echo", "_headers", "_to_has_tag", "body", "reason", "rule", "status")

    def __init__(
        self,
        status: int,
        reason: str | None,
        rows: list[tuple[str, str]],
        body: bytes,
        rule: str | None,
        to_has_tag: bool | None = None,
        echo: _Echo | None = None,
    ) -> None:
        if not 100 <= status <= 699:
            raise ValueError(f"a status code is from 100 to 699, not {status}")
        if not isinstance(body, bytes):
            raise TypeError(f"a body is bytes, not {type(body).__name__}")
        self.status = status
        self.reason = reason_phrase(status) if reason is None else refuse_line_breaks(reason, "a reason phrase")
        self.body = body
        self.rule = rule
        self._echo = echo  # what is printed before all others; then there is no Server and no Content-Length in _added
        self._added = rows
        self._headers: Headers | None = None
        self._to_has_tag = to_has_tag


class Response(_Settable):
    """A SIP response (RFC 3261, 7.2); immutable.

    `rule` names what decided for it, and is never sent. Raises `ValueError` for a status outside 100 to 699, and for
    CR, LF or NUL in any text.
    """

    __slots__ = ()

    status: int
    reason: str
    body: bytes
    rule: str | None

    def __init__(
        self,
        status: int,
        reason: str | None = None,
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        rule: str | None = None,
    ) -> None:
        if not isinstance(headers, Headers):
            headers = Headers(headers)
        values = _Settable(status, reason, list(headers), body, rule)
        values._headers = headers
        for name in _Settable.__slots__:
            object.__setattr__(self, name, getattr(values, name))

    @staticmethod
    def _of_rows(
        status: int,
        reason: str | None,
        rows: list[tuple[str, str]],
        body: bytes,
        rule: str | None,
        to_has_tag: bool,
        echo: _Echo | None = None,
    ) -> Response:
        """Return the response with *rows*, which are known to be clean, behind those of *echo*."""
        response: Any = _Settable(status, reason, rows, body, rule, to_has_tag, echo)
        response.__class__ = Response
        made: Response = response
        return made

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Response is immutable")

    @property
    def _rows(self) -> list[tuple[str, str]]:
        return self._added if self._echo is None else [*self._echo.rows, *self._added]

    @property
    def headers(self) -> Headers:
        """The header section, without what is added on the way out: To tag, Server, Content-Length."""
        if self._headers is None:
            object.__setattr__(self, "_headers", Headers.of_rows(self._rows))
        assert self._headers is not None
        return self._headers

    def is_for(self, request: Request) -> bool:
        """Whether this is a response to *request*: its topmost Via is that of the request (8.2.6.2, 17.1.3)."""
        if self._echo is not None and self._echo is request._echo:
            return True
        via, rows = request.via.text, self._rows
        if rows and rows[0][1] == via:  # as `Request.response` makes it, whatever the rows behind it are
            return True
        return self.headers.values("Via")[:1] == [via]

    def with_headers(self, rows: Iterable[tuple[str, str]]) -> Response:
        """Return this response with further header fields, ``(name, value)`` pairs.

        Raises `ValueError` as the constructor does.
        """
        rows = [*self._rows, *Headers(rows)]
        return Response._of_rows(self.status, self.reason, rows, self.body, self.rule, self._has_to_tag())

    def to_bytes(self, to_tag: str | None = None, server: str | None = None, *, compact: bool = False) -> bytes:
        """Return the response as it goes on the wire, with a Content-Length that is right.

        *to_tag* is added to To, unless a tag is there already or this is a 100 (8.2.6.2). *server* is the value of the
        Server header field where the response has none of its own. With *compact*, header field names are in their
        compact form where they have one (7.3.3).
        """
        if self._echo is not None and not compact:
            return self._plain_bytes(self._echo, to_tag, server)
        rows = self._rows
        if to_tag is not None and self.status != 100 and not self._has_to_tag():
            refuse_line_breaks(to_tag, "a To tag")
            tag = f";tag={to_tag}"
            rows = [(name, value.rstrip(_END_OF_TO) + tag if name in _TO_NAMES else value) for name, value in rows]
        if (
            server
            and refuse_line_breaks(server, "a Server header field")
            and not any(name in _SERVER_NAMES for name, _ in self._rows)
        ):
            rows = [*rows, ("Server", server)]
        return _to_bytes(f"SIP/2.0 {self.status} {self.reason}", rows, self.body, compact)

    def _plain_bytes(self, echo: _Echo, to_tag: str | None, server: str | None) -> bytes:
        """Return what `to_bytes` does for a response to a request of which everything is known: nearly every one."""
        to = echo.to
        if to_tag is not None and not self._to_has_tag and self.status != 100:
            to = f"{to.rstrip(_END_OF_TO)};tag={refuse_line_breaks(to_tag, 'a To tag')}"
        added = "".join([f"{name}: {value}\r\n" for name, value in self._added])
        if server:
            added += f"Server: {refuse_line_breaks(server, 'a Server header field')}\r\n"
        text = (
            f"SIP/2.0 {self.status} {self.reason}\r\n{echo.before}{to}{echo.after}\r\n"
            f"{added}Content-Length: {len(self.body)}\r\n\r\n"
        )
        return text.encode("utf-8", "surrogateescape") + self.body

    def _has_to_tag(self) -> bool:
        if self._to_has_tag is None:
            try:
                has_tag = NameAddr(self.headers.get("To") or "").tag is not None
            except MessageSyntaxError:
                has_tag = False
            object.__setattr__(self, "_to_has_tag", has_tag)
        return bool(self._to_has_tag)

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}>"


def _to_bytes(start_line: str, rows: Iterable[tuple[str, str]], body: bytes, compact: bool = False) -> bytes:
    if compact:
        rows = [(COMPACT_NAMES.get(name.lower(), name), value) for name, value in rows]
    lines = [start_line]
    lines += [
        f"{name}: {value}"
        for name, value in rows
        if len(name) not in (1, 14) or name.lower() not in _LENGTH_NAMES  # the length first: it is cheaper
    ]
    lines.append(f"{'l' if compact else 'Content-Length'}: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body
