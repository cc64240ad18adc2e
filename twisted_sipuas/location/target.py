"""What does a location service answer? `Target`s to try, and the `Redirection` that names them (RFC 3261, 8.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from twisted_sipuas.errors import refuse_line_breaks
from twisted_sipuas.syntax.grammar import TOKEN, quote
from twisted_sipuas.syntax.headers import COMPACT_NAMES
from twisted_sipuas.syntax.uri import URI, parse_uri

__all__ = ["Redirection", "Target", "contact_text", "is_of_response"]

_STATUSES = (None, 300, 301, 302, 380)  # 21.3.4: a 305 is of the user agent itself alone

# What a response to the request has anyway (8.2.6), what tells how to read it, and Require, which may not name what the
# caller does not support.
_OF_RESPONSE = frozenset(
    "call-id contact content-encoding content-length content-type cseq from record-route require to via".split()
)
_OF_RESPONSE_COMPACT = frozenset(COMPACT_NAMES[name] for name in _OF_RESPONSE if name in COMPACT_NAMES)


def is_of_response(name: str) -> bool:
    """Whether the header field *name* is an affair of the response itself, which a location service has no say in."""
    name = name.lower()
    return name in _OF_RESPONSE or name in _OF_RESPONSE_COMPACT


def contact_text(display_name: str, uri_text: str, q: float | None, expires: int | None, parameters: str) -> str:
    """Return one whole value of a Contact header field (20.10).

    *parameters* is text that begins with a semicolon, or empty. *q* has at most three decimals (25.1 qvalue).
    """
    text = f"{quote(display_name)} <{uri_text}>" if display_name else f"<{uri_text}>"
    if q is not None:
        text += f";q={f'{q:.3f}'.rstrip('0').rstrip('.')}"
    if expires is not None:
        text += f";expires={expires}"
    return text + parameters


class Target:
    """Where a caller is sent: one Contact of a redirection; immutable. ``str(target)`` is the whole Contact value.

    *uri* may be text, and is parsed. *parameters* are further ``(name, value)`` pairs of the Contact, a flag's value
    None; a value that needs quotes comes with them.

    Raises `ValueError` for what is no URI, for a number out of range, and for CR, LF or NUL in any text.
    """

    __slots__ = ("_uri", "display_name", "expires", "parameters", "q", "uri_text")

    uri_text: str
    """Where to send the next request, a URI of any scheme (8.3)."""
    q: float | None
    """The preference among several, 0 to 1; None counts as 1 (20.10)."""
    expires: int | None
    """For how many seconds the caller may keep this (8.3); None: for this once."""
    display_name: str
    """Shown to people; empty for none."""
    parameters: tuple[tuple[str, str | None], ...]
    """Further parameters of the Contact."""
    _uri: URI | None

    def __init__(
        self,
        uri: URI | str,
        *,
        q: float | None = None,
        expires: int | None = None,
        display_name: str = "",
        parameters: Iterable[tuple[str, str | None]] = (),
    ) -> None:
        if q is not None and not 0 <= q <= 1:
            raise ValueError(f"q is from 0 to 1, not {q}")
        if expires is not None and expires < 0:
            raise ValueError(f"expires is not negative, as {expires} is")
        if isinstance(uri, str):
            uri = parse_uri(uri)
        put = object.__setattr__
        put(self, "_uri", uri)
        put(self, "uri_text", uri.text)
        put(self, "q", q)
        put(self, "expires", expires)
        put(self, "display_name", refuse_line_breaks(display_name, "a display name") if display_name else "")
        put(self, "parameters", tuple(map(_checked, parameters)) if parameters else ())

    @classmethod
    def stored(cls, uri_text: str, q: float | None, expires: int | None) -> Target:
        """Return the target of values that were checked as they were stored; *uri_text* is not parsed anew for it."""
        target = cls.__new__(cls)
        put = object.__setattr__
        put(target, "_uri", None)
        put(target, "uri_text", uri_text)
        put(target, "q", q)
        put(target, "expires", expires)
        put(target, "display_name", "")
        put(target, "parameters", ())
        return target

    @property
    def uri(self) -> URI:
        """The URI of `uri_text`, parsed when it is first asked for."""
        uri = self._uri
        if uri is None:
            uri = parse_uri(self.uri_text)
            object.__setattr__(self, "_uri", uri)
        return uri

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Target is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Target is immutable")

    def __reduce__(self) -> tuple[object, ...]:
        made = partial(type(self), self.uri_text, q=self.q, expires=self.expires, display_name=self.display_name)
        return partial(made, parameters=self.parameters), ()

    def _key(self) -> tuple[object, ...]:
        return self.uri, self.q, self.expires, self.display_name, self.parameters

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Target) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        parameters = ""
        for name, value in self.parameters:
            parameters += f";{name}" if value is None else f";{name}={value}"
        return contact_text(self.display_name, self.uri_text, self.q, self.expires, parameters)

    def __repr__(self) -> str:
        return f"<Target {self}>"


def _checked(parameter: tuple[str, str | None]) -> tuple[str, str | None]:
    name, value = parameter
    if TOKEN.fullmatch(name) is None:
        raise ValueError("the name of a Contact parameter has to be a token")
    if value is not None:
        refuse_line_breaks(value, f"the {name} parameter of a Contact")
    return name, value


@dataclass(frozen=True, slots=True, init=False)
class Redirection:
    """The answer of a location service: where to go instead (8.3); immutable.

    *targets* may hold URIs and text as well as `Target`s. Raises `ValueError` as `Target` does, for a *status* that is
    no redirection to Contacts, for *headers* that the response has of its own, and for CR, LF or NUL in them.
    """

    targets: tuple[Target, ...]
    """Where the caller may go, in any order: q tells the preference."""
    status: int | None
    """300, 301, 302 or 380, or None for the server's own choice."""
    headers: tuple[tuple[str, str], ...]
    """Further ``(name, value)`` pairs for the response, none of those that `is_of_response`."""

    def __init__(
        self,
        targets: Iterable[Target | URI | str],
        status: int | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        if status not in _STATUSES:
            raise ValueError(f"a Redirection has the status 300, 301, 302 or 380, not {status}")
        put = object.__setattr__
        put(self, "targets", tuple([item if isinstance(item, Target) else Target(item) for item in targets]))
        put(self, "status", status)
        put(self, "headers", tuple(headers))
        for name, value in self.headers:
            refuse_line_breaks(name, "a header field name")
            refuse_line_breaks(value, f"the {name} header field")
            if is_of_response(name):
                raise ValueError(f"the {name} header field is the response's own")
