"""Which extensions and methods does a message name? Require, Supported, Allow and their like (RFC 3261, 20)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from twisted_sipuas.syntax.values import HeaderValue, token

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Allow", "OptionTag", "ProxyRequire", "Require", "Supported", "Unsupported"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OptionTag(HeaderValue):
    """One option tag (19.2), `tag` in lower case; the header fields that list such are its subclasses."""

    is_list = True

    tag: str

    def __post_init__(self) -> None:
        self._normalise(tag=token(self.tag, "an option tag").lower())

    @classmethod
    def _parse(cls, text: str) -> Self:
        return cls(text)

    def __str__(self) -> str:
        return self.tag


class Require(OptionTag):
    """An extension that the UAS has to support (20.32)."""

    __slots__ = ()
    field = "Require"


class ProxyRequire(OptionTag):
    """An extension that every proxy has to support (20.29)."""

    __slots__ = ()
    field = "Proxy-Require"


class Supported(OptionTag):
    """An extension that the sender supports (20.37)."""

    __slots__ = ()
    field = "Supported"


class Unsupported(OptionTag):
    """An extension that was required and is not supported (20.40)."""

    __slots__ = ()
    field = "Unsupported"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Allow(HeaderValue):
    """A method that the sender serves (20.5); the case of a method counts (7.1)."""

    field = "Allow"
    is_list = True
    exact: ClassVar[frozenset[str]] = frozenset(("method",))

    method: str

    def __post_init__(self) -> None:
        token(self.method, "a method")

    @classmethod
    def _parse(cls, text: str) -> Self:
        return cls(text)

    def __str__(self) -> str:
        return self.method
