"""URIs: SIP and SIPS (RFC 3261, 19.1), tel (RFC 3966), any other scheme kept whole."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
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
# name), strict where two servers could read it in two ways (a second "@", a space, a bracket).
_SIP_URI = re.compile(
    r"""
    (?P<scheme>[Ss][Ii][Pp][Ss]?):
    (?:(?P<user>[^\x00-\x20\x7f<>"@:]+)(?P<password>:[^\x00-\x20\x7f<>"@]*)?@)?
    (?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+)
    (?::(?P<port>[0-9]{1,5}))?
    (?P<parameters>(?:;[^\x00-\x20\x7f<>"@;?]+)*)
    (?:\?(?P<headers>[^\x00-\x20\x7f<>"@]+))?
    """,
    re.VERBOSE,
)
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.\-]+")
_OTHER_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):(?P<rest>[^\x00-\x20\x7f<>\"]+)")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_VISUAL_SEPARATORS = str.maketrans("", "", "-.()")

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
    of RFC 3261 wrongly asks for before an embedded IPv4 address, count as two (RFC 5118, 4.10).
    """
    if not host.startswith("["):
        return host.lower()
    try:
        packed = socket.inet_pton(socket.AF_INET6, host[1:-1].replace(":::", "::"))
    except OSError:
        raise MessageSyntaxError("Malformed IPv6 reference") from None
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]"


def canonical_domain(text: str) -> str:
    """Return the domain or address *text* in the spelling of `canonical_host`; raises `ValueError` if it is none.

    An IPv6 address may come without brackets, a name with the dot of the root.
    """
    host = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text.removesuffix(".")
    if _HOST.fullmatch(host) is None:
        raise ValueError(f"{text!r} is no domain and no IP address")
    return canonical_host(host)


class URI:
    """A URI of a scheme we know nothing about, kept whole (RFC 3261, 25.1 absoluteURI).

    `scheme` is in lower case, `text` is the URI as it was received or given.
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
        self._key = (self.scheme, self._comparable(match["rest"]))

    def _comparable(self, rest: str) -> object:
        return rest

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
    """A telephone number (RFC 3966); visual separators and the order of parameters do not count when comparing."""

    __slots__ = ()

    @property
    def number(self) -> str:
        """The digits, with a leading ``+`` if the number is global."""
        return self.text.partition(":")[2].partition(";")[0].translate(_VISUAL_SEPARATORS)

    def _comparable(self, rest: str) -> object:
        number, _, parameters = rest.lower().partition(";")
        return number.translate(_VISUAL_SEPARATORS), frozenset(filter(None, parameters.split(";")))


class SIPURI(URI):
    """A SIP or SIPS URI (RFC 3261, 19.1.1); immutable.

    `user` and `password` are as received, escapes and all (`unescape` undoes them), or None; `host` is as received,
    brackets included; `port` is None if absent. `parameters` maps names in lower case to values (None for a flag),
    `headers` is the text behind the ``?``.

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
        scheme, user, password, host, port, parameters, headers = match.groups()
        self.text = text
        self.scheme = scheme.lower()
        self.user = user
        self.password = None if password is None else password[1:]
        self.host = host
        self.port = None if port is None else int(port)
        if self.port is not None and self.port > 65535:
            raise MessageSyntaxError("Malformed port in a SIP URI")
        self.parameters = _uri_parameters(parameters) if parameters else {}
        self.headers = headers
        if host[0] == "[":
            canonical_host(host)
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
    ) -> SIPURI:
        """Return the URI of these components.

        *user* and parameter values are plain text, and are escaped here; an IPv6 *host* may come without its
        brackets. Raises `ValueError` if they do not make a SIP URI (RFC 3261, 19.1.1).
        """
        refuse_line_breaks(host, "a host")
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        text = f"{scheme}:" + (f"{_escape(user, _USER_UNESCAPED)}@" if user is not None else "") + host
        if port is not None:
            text += f":{port}"
        names = []
        for name, value in parameters:
            names.append(name.lower())
            text += f";{name}" if value is None else f";{name}={_escape(value, _PARAMETER_UNESCAPED)}"
        try:
            uri = cls(text)
        except MessageSyntaxError as fault:
            raise ValueError(f"these components make no SIP URI: {fault.reason}") from None
        if (uri.scheme, uri.host, uri.port, list(uri.parameters)) != (scheme.lower(), host, port, names):
            raise ValueError("a component of a SIP URI must not hold another")
        return uri

    def equivalent(self, other: URI) -> bool:
        """Whether *other* is equivalent by RFC 3261, 19.1.4."""
        if not isinstance(other, SIPURI):
            return False
        if self.host[0] != "[" and self.host.lower() != other.host.lower():
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
                _header_set(self.headers),
                frozenset(
                    (name, None if value is None else _normalised(value).lower())
                    for name, value in self.parameters.items()
                ),
            )
        return self._key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, URI):
            return NotImplemented
        return isinstance(other, SIPURI) and self._components() == other._components()

    def __hash__(self) -> int:
        return hash(self._components())


# 25.1: unreserved and user-unreserved; unreserved and param-unreserved.
_MARKS = "-_.!~*'()"
_USER_UNESCAPED = _MARKS + "&=+$,;?/"
_PARAMETER_UNESCAPED = _MARKS + "[]/:&+$"


def _escape(text: str, unescaped: str) -> str:
    return "".join(
        chr(octet) if chr(octet).isascii() and (chr(octet).isalnum() or chr(octet) in unescaped) else f"%{octet:02X}"
        for octet in text.encode("utf-8", "surrogateescape")
    )


def _uri_parameters(text: str) -> dict[str, str | None]:
    parameters: dict[str, str | None] = {}
    for parameter in text[1:].split(";"):
        name, equals, value = parameter.partition("=")
        name = unescape(name).lower()
        if not name or name in parameters:  # 19.1.1: no parameter name more than once
            raise MessageSyntaxError("Malformed parameters in a SIP URI")
        parameters[name] = value if equals else None
    return parameters


def _parameters_match(mine: Mapping[str, str | None], theirs: Mapping[str, str | None]) -> bool:
    for name in mine.keys() | theirs.keys():
        if name in mine and name in theirs:
            if _normalised(mine[name] or "").lower() != _normalised(theirs[name] or "").lower():
                return False
        elif name in _NEVER_IGNORED:
            return False
    return True


def _header_set(text: str | None) -> frozenset[tuple[str, str]]:
    """The ``?name=value&...`` part as 19.1.4 compares it: never ignored, in any order, names without regard to case."""
    if text is None:
        return frozenset()
    pairs = (header.partition("=") for header in text.split("&"))
    return frozenset((_normalised(name).lower(), _normalised(value)) for name, _, value in pairs)


def parse_uri(text: str) -> URI:
    """Return the `SIPURI`, `TelURI` or `URI` that *text* is; raises `MessageSyntaxError` if it is none."""
    scheme = text[:5].lower()
    if scheme.startswith("sip:") or scheme == "sips:":
        return SIPURI(text)
    if scheme.startswith("tel:"):
        return TelURI(text)
    return URI(text)


def address_of_record(uri: URI) -> str:
    """Return the canonical form of *uri*, which is the key of its bindings (RFC 3261, 10.3 step 5).

    Used for the To of a REGISTER and for the Request-URI of a look-up alike. All URI parameters are gone, escaped
    characters are unescaped, and the host is in lower case. So are the port and the password, which 19.1.1 (table 1)
    does not allow in To; and ``sips:`` becomes ``sip:``, as both name one user (RFC 5630, 5.2). A URI of another
    scheme stands for itself.
    """
    if isinstance(uri, SIPURI):
        host = canonical_host(uri.host)
        return f"sip:{unescape(uri.user)}@{host}" if uri.user is not None else f"sip:{host}"
    if isinstance(uri, TelURI):
        return f"tel:{uri.number}"
    return uri.text
