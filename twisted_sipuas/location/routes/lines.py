"""On which line of a TOML text is a value? What `tomllib` does not tell, for faults in what it read."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Path", "line_of"]

Path = tuple["str | int", ...]
"""Keys, and places in arrays from 0, that lead to a value."""

_TOKEN = re.compile(
    r'''
    """(?:[^\\]|\\.)*?"{3,5} | \'\'\'.*?\'{3,5}
    | "(?:[^"\\\n]|\\.)*" | '[^'\n]*'
    | \#[^\n]* | \n | [ \t\r]+ | [\[\]{},=.] | [^ \t\r\n\[\]{},=."'\#]+
    ''',
    re.VERBOSE | re.DOTALL,
)


def line_of(text: str, path: Sequence[str | int]) -> int:
    """Return the line, from 1, of the value that *path* leads to in the valid TOML *text*, or of what holds it."""
    lines = _Lines(text).lines
    for length in range(len(path), 0, -1):
        line = lines.get(tuple(path[:length]))
        if line is not None:
            return line
    return 1


class _Lines:
    """A walk through a valid TOML text; `lines` maps the path of each value to the line of its key or its begin."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._tokens = [token for token in _TOKEN.findall(text) if token[0] not in " \t\r#"]
        self._at = 0
        self._line = 1
        self._arrays: dict[Path, int] = {}  # the place of the latest table in each array of tables
        table: Path = ()
        while self._at < len(self._tokens):
            if self._peek() == "\n":
                self._next()
            elif self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else "\n"

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        self._line += token.count("\n")
        return token

    def _header(self) -> Path:
        """Take ``[a.b]`` or ``[[a.b]]``, and return the path of the table that it begins."""
        line = self._line
        self._next()
        is_array = self._peek() == "["
        if is_array:
            self._next()
        path: Path = ()
        keys = self._keys("]")
        for key in keys[:-1]:
            path = self._latest((*path, key))
        path = (*path, keys[-1])
        if is_array:
            self._next()
            self._arrays[path] = self._arrays.get(path, -1) + 1
        path = self._latest(path)
        self.lines.setdefault(path, line)
        return path

    def _latest(self, path: Path) -> Path:
        place = self._arrays.get(path)
        return path if place is None else (*path, place)

    def _keys(self, end: str) -> list[str]:
        keys = []
        while (token := self._next()) != end:
            if token[0] in "\"'":
                keys.append(next(iter(tomllib.loads(f"{token} = 0"))))
            elif token != ".":
                keys.append(token)
        return keys

    def _pair(self, table: Path) -> None:
        line = self._line
        path = (*table, *self._keys("="))
        self.lines[path] = line
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._peek() == "[":
            self._next()
            place = 0
            while (token := self._peek()) != "]":
                if token in "\n,":
                    self._next()
                    continue
                item = (*path, place)
                self.lines[item] = self._line
                self._value(item)
                place += 1
            self._next()
        elif self._peek() == "{":
            self._next()
            while (token := self._peek()) != "}":
                if token in "\n,":
                    self._next()
                else:
                    self._pair(path)
            self._next()
        else:
            while self._peek() not in ("\n", ",", "]", "}"):
                self._next()
