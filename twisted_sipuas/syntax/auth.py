"""Which credentials does a request bring, and which challenge does a response put? As text; nothing is computed here.

RFC 3261, 20.7, 20.27, 20.28, 20.44 and 25.1. These header fields are no comma-separated lists: every row is one value.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from twisted_sipuas.syntax.grammar import TOKEN, quote
from twisted_sipuas.syntax.values import HeaderValue, frozen_parameters, token, unquote

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Authorization", "Challenge", "Credentials", "ProxyAuthenticate", "ProxyAuthorization", "WWWAuthenticate"]

_SCHEME = re.compile(r"([A-Za-z0-9\-.!%*_+`'~]+)[ \t]+(.*)", re.DOTALL)
_PARAMETER = re.compile(
    r"""([A-Za-z0-9\-.!%*_+`'~]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\x00-\x20\x7f,"]+)[ \t]*(?:,[ \t]*(?=.)|\Z)""",
    re.DOTALL,
)
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*")

# 25.1, and RFC 8898 for Bearer, have these in quotes even where a token would do; they differ in qop alone.
_QUOTED_BY_BOTH = frozenset(("authz_server", "domain", "error", "nonce", "opaque", "realm", "scope"))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _SchemeAndParameters(HeaderValue):
    """A scheme and its parameters, names in lower case and values as plain text, without quotes and escapes.

    `token68` is what stands in their place with some schemes, such as the access token of Bearer (RFC 8898), else None.
    """

    exact: ClassVar[frozenset[str]] = frozenset(("token68",))
    quoted: ClassVar[frozenset[str]]

    scheme: str
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    token68: str | None = None

    def __post_init__(self) -> None:
        token(self.scheme, "an authentication scheme")
        self._normalise(parameters=frozen_parameters(self.parameters, flags=False))
        if bool(self.parameters) is (self.token68 is not None):
            raise ValueError("a scheme is followed either by parameters or by one token")
        if self.token68 is not None and (_TOKEN68.fullmatch(self.token68) is None or self.is_digest):
            raise ValueError(f"malformed token after {self.scheme}")

    @classmethod
    def _parse(cls, text: str) -> Self:
        match = _SCHEME.fullmatch(text)
        if match is None:
            raise ValueError("no scheme")
        scheme, rest = match.groups()
        if _TOKEN68.fullmatch(rest):
            return cls(scheme, token68=rest)
        parameters: dict[str, str | None] = {}
        position = 0
        while position < len(rest):
            parameter = _PARAMETER.match(rest, position)
            if parameter is None:
                raise ValueError("malformed parameter")
            name = parameter[1].lower()
            if name in parameters:
                raise ValueError("a parameter is given twice")
            parameters[name] = unquote(parameter[2])
            position = parameter.end()
        return cls(scheme, parameters)

    @property
    def is_digest(self) -> bool:
        """Whether the scheme is Digest (22.4)."""
        return self.scheme.lower() == "digest"

    def __str__(self) -> str:
        if self.token68 is not None:
            return f"{self.scheme} {self.token68}"
        pairs = ((name, value or "") for name, value in self.parameters.items())
        return f"{self.scheme} " + ", ".join(f"{name}={self._printed(name, value)}" for name, value in pairs)

    def _printed(self, name: str, value: str) -> str:
        return quote(value) if name in self.quoted or TOKEN.fullmatch(value) is None else value


class Credentials(_SchemeAndParameters):
    """What a client says to be let in; the header fields that say it are its subclasses."""

    __slots__ = ()
    quoted = _QUOTED_BY_BOTH | {"cnonce", "response", "uri", "username"}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.scheme} ...>"  # what it proves could be guessed at, or used


class Authorization(Credentials):
    """Credentials for a UAS or a registrar (20.7)."""

    __slots__ = ()
    field = "Authorization"


class ProxyAuthorization(Credentials):
    """Credentials for a proxy (20.28)."""

    __slots__ = ()
    field = "Proxy-Authorization"


class Challenge(_SchemeAndParameters):
    """What a server asks for; the header fields that ask are its subclasses."""

    __slots__ = ()
    quoted = _QUOTED_BY_BOTH | {"qop"}


class WWWAuthenticate(Challenge):
    """The challenge of a UAS or a registrar, in a 401 (20.44)."""

    __slots__ = ()
    field = "WWW-Authenticate"


class ProxyAuthenticate(Challenge):
    """The challenge of a proxy, in a 407 (20.27)."""

    __slots__ = ()
    field = "Proxy-Authenticate"
