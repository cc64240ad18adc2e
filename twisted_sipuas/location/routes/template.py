"""How does text of a request get into a target? What was called, and templates that it cannot break out of.

What a caller writes into the Request-URI is put into a target as text of the one place that the template gives it: a
user part, the value of a parameter. Whatever could end that place is escaped, or the target is not made at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.location.target import Target
from twisted_sipuas.syntax.uri import SIPURI, URI, TelURI, canonical_domain, canonical_host, parse_uri, unescape

__all__ = [
    "BUILT_IN",
    "Called",
    "TargetTemplate",
    "TextTemplate",
    "URITemplate",
    "number_of",
    "placeholders",
]

BUILT_IN = ("user", "number", "domain", "scheme")
"""The placeholders that every route knows."""

_PLACEHOLDER = re.compile(r"\{([^{}:]*)(?::(-?[0-9]{1,3})(?::([0-9]{1,3}))?)?\}")
_SCHEME = "{scheme}:"
"""What a URI begins with whose scheme is SIPS for who called by SIPS, and SIP for others."""

_BRACE = re.compile(r"[{}]")

_PHONE_NUMBER = re.compile(r"\+[0-9]+|[A-Fa-f]*[0-9*#][0-9A-Fa-f*#]*")
_NUMBER_BY_LOOK = re.compile(r"\+[.()\-]*[0-9][0-9.()\-]*|[0-9*#]+")
_VISUAL_SEPARATORS = str.maketrans("", "", "-.()")
_TEL_DIGITS = re.compile(r"[+0-9A-Fa-f*#]+")

# 25.1: what may stand in a user part unescaped. An escape that is one stays as it is: "%3B" is not ";" (19.1.4).
_NO_USER_CHARACTER = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-_.!~*'()&=+$,;?/%]")
_NEEDS_NO_ESCAPE = re.compile(r"[A-Za-z0-9\-_.!~*'+]*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")
_ANY_URI = parse_uri("sip:0")


def _escaped(text: str) -> str:
    """Return *text* as it may stand in any place of a URI, and as a token of a header field.

    Nothing is left but unreserved characters, of these no parentheses, ``+`` and escapes.
    """
    if _NEEDS_NO_ESCAPE.fullmatch(text):
        return text
    return quote(text, safe="!*'+", errors="surrogateescape")


def number_of(user: str, *, is_phone: bool = False) -> str | None:
    """Return the telephone number that *user*, without parameters and escapes, is: no visual separators; or None.

    With *is_phone*, that is ``user=phone``, it is one by RFC 3966, local ones with hexadecimal digits too. Without, it
    has to look like one: digits alone, or a ``+`` first and visual separators allowed.
    """
    if is_phone:
        number = user.translate(_VISUAL_SEPARATORS)
        return number.upper() if _PHONE_NUMBER.fullmatch(number) else None
    return user.translate(_VISUAL_SEPARATORS) if _NUMBER_BY_LOOK.fullmatch(user) else None


class Called(NamedTuple):
    """What a Request-URI says, as routes compare it."""

    domain: str | None
    """The host as `canonical_host` spells it; of a tel URI its phone-context, if that is a domain (RFC 3966, 5.1.5)."""
    user: str | None
    """The number if it is one, else the user part, unescaped."""
    number: str | None
    """The telephone number without visual separators and parameters."""
    dialled: str | None
    """What prefixes are compared with: the routing number where there is one (RFC 4694), else the number."""
    user_part: str | None
    """The whole user part that stands for the same in another SIP URI, parameters like ``npdi`` included (19.1.6)."""
    scheme: str | None
    """``sips`` if that is the scheme, ``sip`` for SIP and tel URIs."""

    @property
    def values(self) -> dict[str, str | None]:
        """What placeholders stand for; that of a whole user part has a name that none can have."""
        return {
            "user": self.user,
            "number": self.number,
            "domain": self.domain,
            "scheme": self.scheme,
            "user part": self.user_part,
        }

    @classmethod
    def of(cls, uri: URI) -> Called:
        """Return what *uri* says; nothing at all for a scheme that is neither SIP nor tel."""
        if isinstance(uri, SIPURI):
            domain = canonical_host(uri.host)
            if uri.user is None:
                return cls(domain, None, None, None, None, uri.scheme)
            head, semicolon, _ = uri.user.partition(";")
            number = number_of(unescape(head), is_phone=uri.parameters.get("user") == "phone")
            user_part = _NO_USER_CHARACTER.sub(_escape_match, uri.user)
            if number is None:
                return cls(domain, unescape(uri.user), None, None, user_part, uri.scheme)
            routing = _routing_number(uri.user_parameters) if semicolon else None
            return cls(domain, number, number, routing or number, user_part, uri.scheme)
        if isinstance(uri, TelURI):
            number = uri.number
            _, semicolon, parameters = uri.text.partition(";")
            user_part = _escaped(number) + semicolon + _NO_USER_CHARACTER.sub(_escape_match, parameters)
            dialled = _routing_number(uri.parameters) or number
            return cls(_context_domain(uri), number, number, dialled, user_part, "sip")
        return _NOTHING


_NOTHING = Called(None, None, None, None, None, None)


def _escape_match(match: re.Match[str]) -> str:
    return quote(match[0], safe="", errors="surrogateescape")


def _routing_number(parameters: Mapping[str, str | None]) -> str | None:
    """Return the number to route by after a number portability look-up (RFC 4694, ``rn``), or None."""
    routing = parameters.get("rn")
    return None if routing is None else number_of(unescape(routing), is_phone=True)


def _context_domain(uri: TelURI) -> str | None:
    context = uri.phone_context
    if context is None or context.startswith("+"):
        return None
    try:
        return canonical_domain(context)
    except ValueError:
        return None


class _Place(NamedTuple):
    """A placeholder in a template: the text before it, its name and slice, and what makes its text fit."""

    before: str
    name: str
    start: int | None
    stop: int | None
    kind: str
    """One of ``user`` (all of it), ``text``, ``header``, ``host``, ``digits`` and ``words``."""

    def filled(self, values: Mapping[str, str | None]) -> str | None:
        """Return the text for this place, or None if *values* have none that fits."""
        kind = self.kind
        if kind == "user":
            return values["user part"]
        value = values[self.name]
        if value is None:
            return None
        if self.start is not None:
            value = value[self.start : self.stop]
        if kind == "text":
            return _escaped(value)
        if kind == "header":  # unescaped once by who makes a header field of it (19.1.1), it is one word there still
            return _escaped(_escaped(value))
        if kind == "digits":
            return value if _TEL_DIGITS.fullmatch(value) else None
        if kind == "words":
            return _CONTROLS.sub(" ", value)
        return value  # a domain is one by its syntax


def _slice(match: re.Match[str]) -> tuple[int | None, int | None]:
    if match[2] is None:
        return None, None
    start = int(match[2])
    if match[3] is None:
        return start, None
    stop = start + int(match[3])
    return start, stop if start >= 0 or stop < 0 else None


def _check_braces(text: str, whole: str) -> None:
    if _BRACE.search(text):
        raise ValueError(f"{whole!r} has a brace of no placeholder: expected one like {{user}} or {{number:3}}")


class Template:
    """Text with placeholders, ``{name}`` or ``{name:offset}`` or ``{name:offset:length}``, each in a place of a kind.

    An *offset* counts from the end if it is negative. Raises `ValueError` for a brace that is part of no placeholder.
    """

    __slots__ = ("_places", "_rest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        places = []
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            start, stop = _slice(match)
            before = text[end : match.start()]
            _check_braces(before, text)
            places.append(_Place(before, match[1], start, stop, self._kind(match)))
            end = match.end()
        self._rest = text[end:]
        _check_braces(self._rest, text)
        self._places = tuple(places)

    def _kind(self, match: re.Match[str]) -> str:
        """Return the kind of the place where the placeholder *match* is; raises `ValueError` where none may be."""
        raise NotImplementedError

    @property
    def is_fixed(self) -> bool:
        """Whether there is no placeholder."""
        return not self._places

    def filled_with(self, text: str) -> str:
        """Return the text with *text* for each placeholder, as it is: for whoever judges its form."""
        return "".join(place.before + text for place in self._places) + self._rest

    def filled(self, values: Mapping[str, str | None]) -> str | None:
        """Return the text for *values*, or None if one is not there or does not fit."""
        text = ""
        for place in self._places:
            piece = place.filled(values)
            if piece is None:
                return None
            text += place.before + piece
        return text + self._rest


def placeholders(text: str) -> list[str]:
    """Return the names of the placeholders in *text*."""
    return [match[1] for match in _PLACEHOLDER.finditer(text)]


class TextTemplate(Template):
    """A template of text that is no URI: of *kind* ``text``, a token, or ``words``, for people."""

    __slots__ = ("_text_kind",)

    def __init__(self, text: str, kind: str = "text") -> None:
        self._text_kind = kind
        super().__init__(text)

    def _kind(self, match: re.Match[str]) -> str:
        return self._text_kind


class URITemplate(Template):
    """A template of a URI. Raises `ValueError` for what is none, and for a placeholder where a caller must not choose.

    The port, names of parameters and, but for ``{scheme}`` and ``{domain}``, scheme and host are the operator's.
    """

    __slots__ = ("_masked", "is_for_sips", "uri")

    uri: URI | None
    """The URI, where it is fixed."""
    is_for_sips: bool
    """Whether who called by SIPS may be sent there: not from there to SIP."""

    def __init__(self, text: str) -> None:
        # Digits in the place of placeholders: what is a URI with them has its parts where the template has them.
        self._masked = _PLACEHOLDER.sub(lambda match: "0" * len(match[0]), text)
        super().__init__(text)
        try:
            uri = parse_uri("sip:" + self._masked[len(_SCHEME) :] if self._is_by_scheme else self._masked)
        except MessageSyntaxError as fault:
            raise ValueError(f"{text!r} is no URI: {fault.reason}") from None
        self.uri = uri if self.is_fixed else None
        self.is_for_sips = self._is_by_scheme or uri.scheme != "sip"
        del self._masked

    @property
    def _is_by_scheme(self) -> bool:
        return self.text.startswith(_SCHEME)

    def made(self, values: Mapping[str, str | None]) -> URI | None:
        """Return the URI for *values*, or None if they do not fit."""
        if self.uri is not None:
            return self.uri
        text = self.filled(values)
        if text is None:
            return None
        try:
            return parse_uri(text)
        except MessageSyntaxError:
            return None  # "sip:{number:3}@gw", and the number has three digits

    def _kind(self, match: re.Match[str]) -> str:
        masked, start = self._masked, match.start()
        scheme, colon, _ = masked.partition(":")
        begin = len(scheme) + 1
        if self._is_by_scheme:
            if start == 0:
                return "text"
            scheme = "sip"
        if not colon or start < begin:
            raise ValueError(f"{match[0]} is in the scheme: expected sip:, sips:, tel: or {_SCHEME} before it")
        scheme = scheme.lower()
        if scheme == "tel":
            return self._named(match, ";") if ";" in masked[:start] else "digits"
        if scheme not in ("sip", "sips"):
            return "text"
        at = masked.find("@")
        if start < at:
            return self._kind_in_userinfo(match, masked[begin:at], begin)
        host = at + 1 if at >= 0 else begin
        before = masked[host:start]
        if "?" in before:
            return self._named(match, "?&", "header")
        if ";" in before:
            return self._named(match, ";")
        if match[0] != "{domain}" or ":" in before:
            raise ValueError(f"{match[0]} is in the host or port: expected only {{domain}}, and as host")
        return "host"

    def _kind_in_userinfo(self, match: re.Match[str], userinfo: str, start: int) -> str:
        if match[0] == "{user}" and len(userinfo) == len(match[0]):
            return "user"
        before = userinfo[: match.start() - start]
        if ":" in before:
            raise ValueError(f"{match[0]} is in a password: expected no placeholder there")
        return self._named(match, ";") if ";" in before else "text"

    def _named(self, match: re.Match[str], separators: str, kind: str = "text") -> str:
        """Return *kind* if the placeholder is behind the ``=`` of a parameter or header of this URI."""
        before = self._masked[: match.start()]
        if "=" not in before[max(map(before.rfind, separators)) :]:
            raise ValueError(f"{match[0]} would name a parameter: expected it behind a name and =")
        return kind


class TargetTemplate:
    """What makes a `Target` of a request: the templates of its *uri*, and of what else its Contact says.

    *weight* is that among other targets. Raises `ValueError` as `Target` does.
    """

    __slots__ = ("_display_name", "_expires", "_fixed", "_parameters", "_uri", "is_for_sips", "q", "weight")

    def __init__(
        self,
        uri: URITemplate,
        *,
        q: float | None = None,
        expires: int | None = None,
        display_name: TextTemplate | None = None,
        parameters: Iterable[tuple[str, TextTemplate | None]] = (),
        weight: int | None = None,
    ) -> None:
        self._uri = uri
        self._display_name = display_name
        self._parameters = tuple(parameters)
        self._expires = expires
        self.q = q
        self.weight = weight
        self.is_for_sips = uri.is_for_sips
        self._fixed: Target | None = None
        Target(_ANY_URI, q=q, expires=expires, parameters=[(name, None) for name, _ in self._parameters])
        texts = (display_name, *(value for _, value in self._parameters))
        if uri.uri is not None and all(text is None or text.is_fixed for text in texts):
            self._fixed = self._target(uri.uri, {}, q)

    def made(self, values: Mapping[str, str | None], q: float | None) -> Target | None:
        """Return the target for *values* with the preference *q*, or None if they do not fit it."""
        if self._fixed is not None and q == self.q:
            return self._fixed
        uri = self._uri.made(values)
        return None if uri is None else self._target(uri, values, q)

    def _target(self, uri: URI, values: Mapping[str, str | None], q: float | None) -> Target | None:
        display_name = "" if self._display_name is None else self._display_name.filled(values)
        if display_name is None:
            return None
        parameters = []
        for name, template in self._parameters:
            value = None if template is None else template.filled(values)
            if value is None and template is not None:
                return None
            parameters.append((name, value))
        return Target(uri, q=q, expires=self._expires, display_name=display_name, parameters=parameters)
