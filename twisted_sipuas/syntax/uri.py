"""URIs: SIP and SIPS (RFC 3261, 19.1), tel (RFC 3966), any other scheme kept whole."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from twisted_sipuas.errors import MessageSyntaxError, refuse_line_breaks

__all__ = [
    "SIPURI",
    "URI",
    "TelURI",
    "address_of_record",
    "canonical_domain",
    "canonical_host",
    "parse_uri",
    "unescape",
]

# Lenient where a client's slip can only mean one thing (an unescaped "#" or UTF-8 in the user part, "_" in a host
# name, a ";" behind the last parameter), strict where two servers could read it in two ways (a second "@", a space, a
# bracket).
_SIP_URI = re.compile(
    r"""
    (?P<scheme>[Ss][Ii][Pp][Ss]?):
    (?:(?P<user>[^\x00-\x20\x7f<>"@:]+)(?P<password>:[^\x00-\x20\x7f<>"@]*)?@)?
    (?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_\-][A-Za-z0-9_.\-]*)
    (?::(?P<port>[0-9]{1,5}))?
    (?P<rest>[;?].*)?
    """,
    re.VERBOSE | re.DOTALL,
)
_REST_OF_SIP_URI = re.compile(r'((?:;[^\x00-\x20\x7f<>"@;?]*)*)(?:\?([^\x00-\x20\x7f<>"@]+))?')
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_\-][A-Za-z0-9_.\-]*")
_TEL_URI = re.compile(
    r"""
    [Tt][Ee][Ll]:
    (?P<number>[^\x00-\x20\x7f<>";]+)
    (?P<parameters>(?:;[^\x00-\x20\x7f<>";]*)*)
    """,
    re.VERBOSE,
)
# RFC 3966, 3: a global number, or a local one, without visual separators. The grammar would take hexadecimal digits
# alone for a local number; that is a word in the wrong place, and so there has to be a digit, a "*" or a "#".
_TEL_NUMBER = re.compile(r"\+[0-9]+|[A-Fa-f]*[0-9*#][0-9A-Fa-f*#]*")
# A user part that is a telephone number though ``user=phone`` does not say so: digits, or a "+" and separators too.
_NUMBER_BY_LOOK = re.compile(r"\+[.()\-]*[0-9][0-9.()\-]*|[0-9*#]+")
_OTHER_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):(?P<rest>[^\x00-\x20\x7f<>\"]+)")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_VISUAL_SEPARATORS = str.maketrans("", "", "-.()")

_NO_PARAMETERS: Mapping[str, str | None] = MappingProxyType({})
_OWN_CLASS = frozenset(("sip", "sips", "tel"))  # schemes that `URI` leaves to its subclasses

# 19.1.4: characters outside the reserved set are equal to their escaped form.
_RESERVED = frozenset(";/?:@&=+$,%")

# 19.1.4: a URI that has one of these does not match one that lacks it, even at its default. The text of 19.1.4 leaves
# transport out of this list; its examples ("can resolve to different transports") put it in.
_NEVER_IGNORED = frozenset(("user", "ttl", "method", "maddr", "transport"))


def unescape(text: str) -> str:
    """Return *text* with every ``%HH`` replaced by the octet it stands for, once (RFC 3261, 19.1.2)."""
    if "%" not in text:
        return text
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def _normalised(text: str) -> str:
    """Return *text* so that two texts equal under 19.1.4 become the same: escapes undone where that is safe."""
    if "%" not in text:
        return text

    def character(match: re.Match[str]) -> str:
        octet = chr(int(match[1], 16))
        return match[0].upper() if octet in _RESERVED or not "\x20" < octet < "\x7f" else octet

    return _ESCAPE.sub(character, text)


def canonical_host(host: str) -> str:
    """Return *host* (a name, an IPv4 address or a bracketed IPv6 reference) in the one spelling we compare.

    Raises `MessageSyntaxError` for brackets around what is no IPv6 address. Three colons in a row, which the grammar
    of RFC 3261 wrongly asks for before an embedded IPv4 address, count as two (RFC 5118, 4.10). The dot of the root
    behind a name does not count.
    """
    if host[:1] != "[":
        return host.lower().removesuffix(".")
    try:
        packed = socket.inet_pton(socket.AF_INET6, host[1:-1].replace(":::", "::"))
    except OSError:
        raise MessageSyntaxError("Malformed IPv6 reference") from None
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]"


def canonical_domain(text: str) -> str:
    """Return the domain or address *text* in the spelling of `canonical_host`; raises `ValueError` if it is none.

    An IPv6 address may come without brackets, a name with the dot of the root.
    """
    host = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    if _HOST.fullmatch(host) is None or ".." in host:
        raise ValueError(f"{text!r} is no domain and no IP address")
    return canonical_host(host)


class URI:
    """A URI of a scheme we know nothing about, kept whole (RFC 3261, 25.1 absoluteURI).

    `scheme` is in lower case, `text` is the URI as it was received or given. Schemes with a class of their own are
    refused: `parse_uri` finds the class.
    """

    __slots__ = ("_key", "scheme", "text")

    scheme: str
    text: str
    _key: tuple[object, ...]

    def __init__(self, text: str) -> None:
        match = _OTHER_URI.fullmatch(text)
        if match is None:
            raise MessageSyntaxError("Malformed URI")
        self.text = text
        self.scheme = match["scheme"].lower()
        if self.scheme in _OWN_CLASS:
            raise MessageSyntaxError("URI of a scheme that has a class of its own")
        self._key = (self.scheme, match["rest"])

    @property
    def telephone_number(self) -> TelURI | None:
        """The telephone number that this URI is, or has as its user part (RFC 3261, 19.1.6); None if there is none.

        A user part is one if ``user=phone`` says so, or if it is digits (with ``*`` and ``#``) or begins with a ``+``.
        """
        return None

    def equivalent(self, other: URI) -> bool:
        """Whether *other* names the same resource, by the rules of its scheme (RFC 3261, 19.1.4 for SIP)."""
        return self == other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, URI):
            return NotImplemented
        return type(self) is type(other) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text!r}>"


class TelURI(URI):
    """A telephone number (RFC 3966), not to be changed.

    `number` has a leading ``+`` if it is global, no visual separators, and hexadecimal digits in upper case.
    `parameters` maps names in lower case to values as received (None for a flag), and is read-only. A local number
    should have a phone-context (5.1.5), but is accepted without, as many phones send none.

    ``==`` and ``hash`` go by section 4: visual separators do not count in the number, in ext and in a phone-context
    that is a number; nor do the order of parameters, case, and whether an unreserved character is escaped.
    """

    __slots__ = ("number", "parameters")

    number: str
    parameters: Mapping[str, str | None]

    def __init__(self, text: str) -> None:
        match = _TEL_URI.fullmatch(text)
        number = "" if match is None else unescape(match["number"]).translate(_VISUAL_SEPARATORS)
        if match is None or _TEL_NUMBER.fullmatch(number) is None:
            raise MessageSyntaxError("Malformed tel URI")
        self.text = text
        self.scheme = "tel"
        self.number = number.upper()
        self.parameters = _uri_parameters(match["parameters"], "tel") if match["parameters"] else _NO_PARAMETERS
        self._key = (
            "tel",
            self.number,
            frozenset((name, _comparable_in_tel(name, value or "")) for name, value in self.parameters.items()),
        )

    @property
    def telephone_number(self) -> TelURI:
        """See `URI.telephone_number`."""
        return self

    @property
    def is_global(self) -> bool:
        """Whether the number is unique in the world, rather than within its phone-context (RFC 3966, 5.1.4)."""
        return self.number[0] == "+"

    @property
    def phone_context(self) -> str | None:
        """The phone-context in the one spelling we compare, a domain or the start of a global number; None if absent.

        It is where a local number is valid (RFC 3966, 5.1.5).
        """
        return _comparable_in_tel("phone-context", self.parameters.get("phone-context") or "") or None


class SIPURI(URI):
    """A SIP or SIPS URI (RFC 3261, 19.1.1), not to be changed: nothing but its speed forbids setting an attribute.

    `user` and `password` are as received, escapes and all (`unescape` undoes them), or None; `host` is as received,
    brackets included; `port` is None if absent. `parameters` maps names in lower case to values (None for a flag),
    and is read-only; `headers` is the text behind the ``?``.

    ``==`` and ``hash`` compare normalised components. `equivalent` is the comparison of 19.1.4, which ignores
    parameters that only one side has, and so is not transitive.
    """

    __slots__ = ("headers", "host", "parameters", "password", "port", "user")

    user: str | None
    password: str | None
    host: str
    port: int | None
    parameters: Mapping[str, str | None]
    headers: str | None

    def __init__(self, text: str) -> None:
        match = _SIP_URI.fullmatch(text)
        if match is None:
            raise MessageSyntaxError("Malformed SIP URI")
        scheme, user, password, host, port, rest = match.groups()
        self.text = text
        self.scheme = scheme.lower()
        self.user = user
        self.password = None if password is None else password[1:]
        self.host = host
        if port is None:
            self.port = None
        else:
            self.port = number = int(port)
            if not 0 < number <= 65535:
                raise MessageSyntaxError("Malformed port in a SIP URI")
        if rest is None:
            self.parameters = _NO_PARAMETERS
            self.headers = None
        else:
            match = _REST_OF_SIP_URI.fullmatch(rest)
            if match is None:
                raise MessageSyntaxError("Malformed SIP URI")
            parameters, self.headers = match.groups()
            self.parameters = _uri_parameters(parameters, "SIP") if parameters else _NO_PARAMETERS
        if host[0] == "[":
            canonical_host(host)
        elif ".." in host:
            raise MessageSyntaxError("Malformed host in a SIP URI")
        self._key = ()

    @classmethod
    def build(
        cls,
        host: str,
        user: str | None = None,
        *,
        port: int | None = None,
        scheme: str = "sip",
        parameters: Iterable[tuple[str, str | None]] = (),
        password: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> SIPURI:
        """Return the URI of these components.

        *user*, *password*, parameter values, and names and values of *headers* are plain text, and are escaped here;
        an IPv6 *host* may come without its brackets. Raises `ValueError` if they do not make a SIP URI (RFC 3261,
        19.1.1).
        """
        refuse_line_breaks(host, "a host")
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        if password is not None and user is None:
            raise ValueError("a password needs a user")
        secret = "" if password is None else f":{_escape(password, _PASSWORD_UNESCAPED)}"
        text = f"{scheme}:" + (f"{_escape(user, _USER_UNESCAPED)}{secret}@" if user is not None else "") + host
        if port is not None:
            text += f":{port}"
        names = []
        for name, value in parameters:
            names.append(name.lower())
            text += f";{name}" if value is None else f";{name}={_escape(value, _PARAMETER_UNESCAPED)}"
        try:
            uri = cls(text)
            for name, content in headers:
                uri = uri.with_header(name, content)
        except MessageSyntaxError as fault:
            raise ValueError(f"these components make no SIP URI: {fault.reason}") from None
        if (uri.scheme, uri.host, uri.port, list(uri.parameters)) != (scheme.lower(), host, port, names):
            raise ValueError("a component of a SIP URI must not hold another")
        return uri

    def with_header(self, name: str, value: str) -> SIPURI:
        """Return this URI with the header field *name*, *value* behind those that it has, escaped (19.1.1).

        Raises `ValueError` for an empty name.
        """
        if not name:
            raise ValueError("a header of a SIP URI needs a name")
        separator = "?" if self.headers is None else "&"
        return SIPURI(f"{self.text}{separator}{_escape(name, _HEADER_UNESCAPED)}={_escape(value, _HEADER_UNESCAPED)}")

    def with_host(self, host: str, port: int | None = None) -> SIPURI:
        """Return the URI of the same scheme and user at another *host* and *port*.

        The user part is copied as it is, escapes and all, and so is the parameter ``user``, which tells how to read it.
        What leads to the old host or is for it alone is left out: every other parameter, password and header fields. An
        IPv6 *host* may come without its brackets. Raises `ValueError` for what is no host or port.
        """
        there = SIPURI.build(host, port=port).text.removeprefix("sip:")
        user = "" if self.user is None else f"{self.user}@"
        how_to_read_it = self.parameters.get("user")
        return SIPURI(f"{self.scheme}:{user}{there}{f';user={how_to_read_it}' if how_to_read_it else ''}")

    @property
    def telephone_number(self) -> TelURI | None:
        """See `URI.telephone_number`."""
        user = self.user or ""
        is_phone = (self.parameters.get("user") or "").lower() == "phone"
        if not (is_phone or _NUMBER_BY_LOOK.fullmatch(unescape(user.partition(";")[0]))):
            return None
        try:
            return TelURI(f"tel:{user}")
        except MessageSyntaxError:
            return None

    @property
    def user_parameters(self) -> Mapping[str, str | None]:
        """The parameters inside the user part, as a telephone number has them (19.1.6): ``isub``, ``npdi``, ``rn``.

        Names are in lower case; of two of one name the first counts.
        """
        parameters: dict[str, str | None] = {}
        for parameter in (self.user or "").split(";")[1:]:
            name, equals, value = parameter.partition("=")
            if name:
                parameters.setdefault(unescape(name).lower(), unescape(value) if equals else None)
        return parameters

    @property
    def header_fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields behind the ``?`` as names and values, unescaped (19.1.1); never to be acted on unread."""
        pairs = (header.partition("=") for header in (self.headers or "").split("&") if header)
        return tuple((unescape(name), unescape(value)) for name, _, value in pairs)

    def equivalent(self, other: URI) -> bool:
        """Whether *other* is equivalent by RFC 3261, 19.1.4."""
        if not isinstance(other, SIPURI):
            return False
        host = self.host
        if host != other.host and host[0] != "[" and canonical_host(host) != canonical_host(other.host):
            return False  # the usual cases, without taking anything apart
        if self.port != other.port or (self.user != other.user and "%" not in f"{self.user}{other.user}"):
            return False
        return self._components()[:5] == other._components()[:5] and _parameters_match(
            self.parameters, other.parameters
        )

    def _components(self) -> tuple[object, ...]:
        if not self._key:
            self._key = (
                self.scheme,
                None if self.user is None else _normalised(self.user),
                None if self.password is None else _normalised(self.password),
                (canonical_host(self.host), self.port),
                _sorted_headers(self.headers),
                frozenset((name, _comparable_in_sip(name, value)) for name, value in self.parameters.items()),
            )
        return self._key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, URI):
            return NotImplemented
        return isinstance(other, SIPURI) and self._components() == other._components()

    def __hash__(self) -> int:
        return hash(self._components())


# 25.1: unreserved and user-unreserved; the same for password, param-unreserved and hnv-unreserved.
_MARKS = "-_.!~*'()"
_USER_UNESCAPED = _MARKS + "&=+$,;?/"
_PASSWORD_UNESCAPED = _MARKS + "&=+$,"
_PARAMETER_UNESCAPED = _MARKS + "[]/:&+$"
_HEADER_UNESCAPED = _MARKS + "[]/?:+$"


def _escape(text: str, unescaped: str) -> str:
    return "".join(
        chr(octet) if chr(octet).isascii() and (chr(octet).isalnum() or chr(octet) in unescaped) else f"%{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )


def _uri_parameters(text: str, kind: str) -> Mapping[str, str | None]:
    parameters: dict[str, str | None] = {}
    pieces = text[1:].split(";")
    if not pieces[-1]:
        pieces.pop()  # a ";" behind the last parameter
    for parameter in pieces:
        name, equals, value = parameter.partition("=")
        if "%" in name:
            name = unescape(name)
        parameters[name.lower()] = value if equals else None
    if "" in parameters or len(parameters) != len(pieces):
        # RFC 3261, 19.1.1 and RFC 3966, 3: no parameter name more than once
        raise MessageSyntaxError(f"Malformed parameters in a {kind} URI")
    return MappingProxyType(parameters)


def _comparable_in_sip(name: str, value: str | None) -> str:
    """The *value* of the parameter *name* as 19.1.4 compares it; a flag is equal to an empty value."""
    text = _normalised(value or "").lower()
    if name != "maddr":
        return text
    try:
        return canonical_host(text)
    except MessageSyntaxError:
        return text


def _comparable_in_tel(name: str, value: str) -> str:
    """The *value* of the parameter *name* as RFC 3966, 4 compares it."""
    text = _ESCAPE.sub(_unreserved_or_escape, value).lower()
    if name == "ext" or (name == "phone-context" and text.startswith("+")):
        return text.translate(_VISUAL_SEPARATORS)
    return canonical_host(text) if name == "phone-context" and text[:1] != "[" else text


def _unreserved_or_escape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character.isascii() and (character.isalnum() or character in _MARKS) else match[0]


def _parameters_match(mine: Mapping[str, str | None], theirs: Mapping[str, str | None]) -> bool:
    for name in mine.keys() | theirs.keys():
        if name in mine and name in theirs:
            if _comparable_in_sip(name, mine[name]) != _comparable_in_sip(name, theirs[name]):
                return False
        elif name in _NEVER_IGNORED:
            return False
    return True


def _sorted_headers(text: str | None) -> tuple[tuple[str, str], ...]:
    """The ``?name=value&...`` part as 19.1.4 compares it: never ignored, in any order, names without regard to case.

    One that is there twice is not equal to one that is there once.
    """
    if text is None:
        return ()
    pairs = (header.partition("=") for header in text.split("&"))
    return tuple(sorted((_normalised(name).lower(), _normalised(value)) for name, _, value in pairs))


def parse_uri(text: str) -> URI:
    """Return the `SIPURI`, `TelURI` or `URI` that *text* is; raises `MessageSyntaxError` if it is none."""
    if text.startswith("sip:"):
        return SIPURI(text)  # the usual case
    scheme = text[:5].lower()
    if scheme.startswith("sip:") or scheme == "sips:":
        return SIPURI(text)
    if scheme.startswith("tel:"):
        return TelURI(text)
    return URI(text)


def address_of_record(uri: URI) -> str:
    """Return the canonical form of *uri*, which is the key of its bindings (RFC 3261, 10.3 step 5).

    Used for the To of a REGISTER and for the Request-URI of a look-up alike. All URI parameters are gone, and so are
    the port and the password, which 19.1.1 (table 1) does not allow in To. Escaped characters are unescaped, the host
    is as `canonical_host` spells it, and ``sips:`` becomes ``sip:``, as both name one user (RFC 5630, 5.2). A global
    telephone number is its digits; a local one keeps its phone-context, without which it names nobody (RFC 3966,
    5.1.5). A URI of another scheme stands for itself.
    """
    if isinstance(uri, SIPURI):
        host, user = canonical_host(uri.host), uri.user
        if user is None:
            return f"sip:{host}"
        return f"sip:{unescape(user) if '%' in user else user}@{host}"
    if isinstance(uri, TelURI):
        context = None if uri.is_global else uri.phone_context
        return f"tel:{uri.number}" if context is None else f"tel:{uri.number};phone-context={context}"
    return uri.text
