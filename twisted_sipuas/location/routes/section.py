"""What does a table of a TOML document hold? Its values, types checked, and faults that know where they are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from twisted_sipuas.location.routes.lines import Path

__all__ = ["Fault", "RowPlace", "Section", "Where", "did_you_mean", "one_line"]

_LINE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class RowPlace(NamedTuple):
    """A line of a file with rows."""

    file: str
    line: int


Where: TypeAlias = "Path | RowPlace"


class Fault(Exception):
    """What is wrong, and where: at a value of the document, or in a row. *earlier* is what it clashes with."""

    def __init__(self, where: Where, text: str, earlier: Where | None = None) -> None:
        super().__init__(text)
        self.where = where
        self.text = text
        self.earlier = earlier


class Section:
    """A table of the document, at *path*, that may have the keys *known*; *form* is what is expected where it is none.

    Its methods raise `Fault` for a value of another type than they return.
    """

    def __init__(self, values: object, path: Path, known: Sequence[str], form: str) -> None:
        if not isinstance(values, dict):
            raise Fault(path, f"expected {form}, not {values!r}")
        self.values: dict[str, Any] = values
        self.path = path
        for key in values:
            if key not in known:
                raise self.fault(key, f"the key {key} is unknown: {did_you_mean(key, known)}")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def at(self, *more: str | int) -> Path:
        """Return the path of what is inside."""
        return (*self.path, *more)

    def fault(self, key: str, text: str) -> Fault:
        """Return the fault *text* at *key*."""
        return Fault(self.at(key), text)

    def text(self, key: str, default: str = "") -> str:
        """Return the line of text that *key* has."""
        return one_line(self.values.get(key, default), self.at(key), key)

    def texts(self, key: str) -> Iterator[tuple[Path, str]]:
        """Yield each line of text that *key* has, with its path: the one, or those of an array."""
        value = self.values[key]
        if not isinstance(value, list):
            yield self.at(key), one_line(value, self.at(key), key)
            return
        if not value:
            raise self.fault(key, f"{key}: expected one at least")
        for place, item in enumerate(value):
            yield self.at(key, place), one_line(item, self.at(key, place), key)

    def whole(self, key: str, most: int) -> int | None:
        """Return the whole number from 0 to *most* that *key* has, or None if it is not there."""
        value = self.values.get(key)
        if value is None or (type(value) is int and 0 <= value <= most):
            return value
        raise self.fault(key, f"{key}: expected a whole number from 0 to {most}, not {value!r}")


def one_line(value: object, where: Where, key: str) -> str:
    """Return *value*, one line of text that *key* has; raises `Fault` if it is none."""
    if not isinstance(value, str):
        raise Fault(where, f"{key}: expected text in quotes, not {value!r}")
    if _LINE.fullmatch(value) is None:
        raise Fault(where, f"{key}: expected one line without control characters, not {value!r}")
    return value


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return what is to be said of *word*, which is none of *known*."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, 1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(words)}"
