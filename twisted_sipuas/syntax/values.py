"""What do all typed header field values have in common? They do not change, compare by value, and name their field."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from twisted_sipuas.errors import MessageSyntaxError, refuse_line_breaks
from twisted_sipuas.syntax.grammar import TOKEN, delta_seconds, parse_parameters, quote, unquote

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["HeaderValue", "frozen_parameters", "plain_parameters", "print_parameters", "seconds", "token", "unquote"]


class HeaderValue:
    """One value of a header field, typed; the base of frozen dataclasses.

    `field` is the long name of the header field. `is_list` says whether one row may hold several values, separated by
    commas (7.3.1). Values of one class are equal if their components are. Text has no case then (7.3.1), but for the
    attributes that `exact` names and for the values of parameters.
    """

    __slots__ = ()

    field: ClassVar[str]
    is_list: ClassVar[bool] = False
    exact: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the value that *text* is; raises `MessageSyntaxError` naming the field if it is none."""
        try:
            return cls._parse(text.strip(" \t"))
        except ValueError:  # the constructor's own, too: here it is the peer who chose what it is given
            raise MessageSyntaxError(f"Malformed {cls.field} header field") from None

    @classmethod
    def _parse(cls, text: str) -> Self:
        raise NotImplementedError

    def _key(self) -> tuple[object, ...]:
        return tuple(self._comparable(field.name) for field in dataclasses.fields(self))  # type: ignore[arg-type]  # every subclass is a dataclass

    def _comparable(self, name: str) -> object:
        value: Any = getattr(self, name)
        if isinstance(value, Mapping):
            return frozenset(value.items())
        return value.lower() if isinstance(value, str) and name not in self.exact else value

    def _normalise(self, **components: object) -> None:
        """Put *components* in the place of what the constructor was given; for ``__post_init__`` alone."""
        for name, value in components.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeaderValue):
            return NotImplemented
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self)!r}>"


def token(text: str, what: str) -> str:
    """Return *text* if it is a token (25.1); raises `ValueError` naming *what* otherwise."""
    if TOKEN.fullmatch(text) is None:
        raise ValueError(f"{what} has to be a token")
    return text


def seconds(text: str | None) -> int:
    """Return the delta-seconds that *text* says, at most 2**32-1; raises `ValueError` if it says none (25.1)."""
    number = delta_seconds(text)
    if number is None:
        raise ValueError("no delta-seconds")
    return number


def plain_parameters(text: str) -> dict[str, str | None]:
    """Return the ``;name=value`` parameters that *text* is, as `parse_parameters` does, but values unquoted."""
    return {name: None if value is None else unquote(value) for name, value in parse_parameters(text).items()}


def frozen_parameters(
    parameters: Mapping[str, str | None], *, reserved: Collection[str] = (), flags: bool = True
) -> Mapping[str, str | None]:
    """Return a copy of *parameters* that cannot change, names in lower case.

    Raises `ValueError` for a name that is no token, is given twice or is *reserved* (it has an argument of its own),
    for CR, LF or NUL in a value, and for a value None unless *flags* are allowed.
    """
    frozen: dict[str, str | None] = {}
    for name, value in parameters.items():
        name = token(name, "a parameter name").lower()
        if name in frozen or name in reserved:
            raise ValueError(f"the parameter {name} is given twice")
        if value is None:
            if not flags:
                raise ValueError(f"the parameter {name} needs a value")
        else:
            refuse_line_breaks(value, f"the parameter {name}")
        frozen[name] = value
    return MappingProxyType(frozen)


def print_parameters(parameters: Iterable[tuple[str, str | None]]) -> str:
    """Return *parameters* as they stand in a message, values quoted where they have to be (25.1)."""
    pieces = []
    for name, value in parameters:
        if value is None:
            pieces.append(f";{name}")
        else:
            pieces.append(f";{name}={value if TOKEN.fullmatch(value) else quote(value)}")
    return "".join(pieces)
