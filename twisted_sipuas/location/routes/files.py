"""What do the files say, and did they change? Reading a routes file and the files with rows that it names.

Everything here blocks; `service` says when and in which thread it is called.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from twisted_sipuas.location.routes.document import Routes, Rows, routes_of
from twisted_sipuas.location.routes.lines import line_of
from twisted_sipuas.location.routes.section import Fault, RowPlace, Where

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["FileState", "RoutesFileError", "RoutesFiles", "states_of"]

_MAX_OCTETS = 200_000_000
_TOML_PLACE = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$")
_COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DELIMITERS = ",;\t"


class FileState(NamedTuple):
    """What tells a file from what it was before: one that is written again, or another renamed into its place, and
    one that may be read now, or may no more.
    """

    modified: int
    """In nanoseconds."""
    changed: int
    """Likewise; its owner and its mode count here too."""
    size: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Return that of a file with *status*."""
        return cls(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)


class RoutesFileError(Exception):
    """The routes cannot be used; the one line of its text says in which file and line, why, and what was expected."""


def states_of(paths: Iterable[str]) -> dict[str, FileState | None]:
    """Return the state of each of *paths*, None for what is not there or cannot be looked at."""
    states: dict[str, FileState | None] = {}
    for path in paths:
        try:
            states[path] = FileState.of(os.stat(path))
        except OSError:
            states[path] = None
    return states


class RoutesFiles:
    """One reading of the routes file *path*, and of the files that it names, taken from its own directory.

    `states` are those of the files that were looked for, as they were when they were read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.states: dict[str, FileState | None] = {}

    def read(self) -> Routes:
        """Return the routes; raises `RoutesFileError`."""
        try:
            text = self._text(self.path)
        except ValueError as error:
            raise RoutesFileError(str(error)) from None
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RoutesFileError(_syntax_fault(self.path, text, str(error))) from None
        except RecursionError:
            raise RoutesFileError(f"{self.path}: its arrays and tables are nested too deeply") from None
        try:
            return routes_of(document, self._rows)
        except Fault as fault:
            earlier = f", at {self._place(text, fault.earlier)}" if fault.earlier is not None else ""
            raise RoutesFileError(f"{self._place(text, fault.where)}: {fault.text}{earlier}") from None

    def _place(self, text: str, where: Where) -> str:
        if isinstance(where, RowPlace):
            return f"{where.file}:{where.line}"
        return f"{self.path}:{line_of(text, where)}"

    def _text(self, path: str) -> str:
        """Return what is in the file *path*; raises `ValueError`, which names it."""
        self.states.update(states_of([path]))  # which counts if it is there and may not be read
        try:
            with open(path, "rb", opener=_open) as file:
                status = os.fstat(file.fileno())
                self.states[path] = FileState.of(status)
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError(f"{path}: expected an ordinary file")
                octets = file.read(_MAX_OCTETS + 1)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
        if len(octets) > _MAX_OCTETS:
            raise ValueError(f"{path}: expected {_MAX_OCTETS} octets at most")
        try:
            return octets.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = octets.count(b"\n", 0, error.start) + 1
            raise ValueError(f"{path}:{line}: expected UTF-8, not the octet 0x{octets[error.start]:02X}") from None

    def _rows(self, name: str) -> Rows:
        """Return the rows of the file *name*; raises `ValueError`."""
        if not name or "\0" in name:
            raise ValueError("expected the name of a file")
        path = os.path.join(os.path.dirname(self.path), name)
        text = self._text(path)
        rows = _cells(path, text)
        header, columns = next(rows, (RowPlace(path, 1), []))
        for column in columns:
            if _COLUMN_NAME.fullmatch(column) is None or columns.count(column) > 1:
                raise Fault(header, f"expected names of columns, each once, of letters, digits and _, not {column!r}")
        return Rows(header, columns, _named(columns, rows))


def _open(path: str, flags: int) -> int:
    """Open *path* without waiting, as for a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)


def _cells(path: str, text: str) -> Iterator[tuple[RowPlace, list[str]]]:
    """Yield each row of *text* but comments and empty lines; the first, of column names, shows what separates cells."""
    lines = io.StringIO(text, newline="")
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise Fault(RowPlace(path, reader.line_num), f"no row of cells: {error}") from None
        if row is None:
            return
        if row and not row[0].startswith("#"):
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield RowPlace(path, line), cells


def _named(
    columns: list[str], rows: Iterator[tuple[RowPlace, list[str]]]
) -> Iterator[tuple[RowPlace, Mapping[str, str]]]:
    for place, cells in rows:
        if len(cells) != len(columns):
            raise Fault(place, f"expected {len(columns)} cells, {', '.join(columns)}, not {len(cells)}")
        yield place, dict(zip(columns, cells, strict=True))


def _syntax_fault(path: str, text: str, said: str) -> str:
    match = _TOML_PLACE.search(said)
    if match is None:
        return f"{path}: no TOML: {said}"
    what = said[: match.start()]
    if match[1] is None:
        return f"{path}:{len(text.splitlines())}: no TOML: {what} at the end"
    return f"{path}:{match[1]}: no TOML: {what} at column {match[2]}"
