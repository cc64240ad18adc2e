"""What table do the routes of a document make? All of them together, each way to match once."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from twisted_sipuas.location.routes.lines import Path
from twisted_sipuas.location.routes.pattern import MAX_STEPS
from twisted_sipuas.location.routes.rules import RouteSection, TargetText, check_placeholders, target_texts
from twisted_sipuas.location.routes.section import Fault, RowPlace, Section, Where
from twisted_sipuas.location.routes.table import Route, RouteTable, Targets
from twisted_sipuas.location.routes.template import BUILT_IN, number_of, placeholders

__all__ = ["Routes", "Rows", "routes_of"]

_PREFIX = re.compile(r"\+?[0-9A-F*#]{1,32}")
_KEY_COLUMNS = ("prefix", "user")
_Item = TypeVar("_Item")
_TURN = 0.002  # seconds of work, and
_BREATH = 0.0001  # seconds of rest behind them


class Rows(NamedTuple):
    """A file with rows."""

    header: RowPlace
    """Its line with the names of the columns."""
    columns: Sequence[str]
    rows: Iterator[tuple[RowPlace, Mapping[str, str]]]
    """Each row, as cells by column."""


class Routes(NamedTuple):
    """The table, and what is to be told of it."""

    table: RouteTable
    total: int
    """How many ``[[route]]`` there are."""
    names: frozenset[str]
    """Those that routes are given; ``route 3`` is none."""


class _Entry(NamedTuple):
    """One way to find a route."""

    where: Where
    route: Route
    user: str = ""
    prefix: str = ""


def routes_of(document: Mapping[str, Any], rows_of: Callable[[str], Rows]) -> Routes:
    """Return the routes of *document*; *rows_of* opens the file of a name, and raises `ValueError` if it cannot.

    Raises `Fault`.
    """
    sections = _sections(document)
    table = RouteTable()
    for section in sections:
        for entry, domain in _ways(section, rows_of):
            _, _, user, prefix = entry
            if not table.add(entry.route, domain=domain, user=user, prefix=prefix, is_first=section.is_first):
                raise _found_before(entry, domain, section, sections, rows_of)
    return Routes(table, len(sections), frozenset(section.name for section in sections if "name" in section))


def _sections(document: Mapping[str, Any]) -> list[RouteSection]:
    """Return each ``[[route]]``, the patterns together within their bound."""
    top = Section(document, (), ("route",), "tables [[route]]")
    values = top.values.get("route")
    if not isinstance(values, list) or not values:
        raise Fault(top.at("route"), "expected one [[route]] at least")
    sections = []
    steps = 0
    for number, value in enumerate(values):
        section = RouteSection(value, number)
        steps += 0 if section.pattern is None else section.pattern.steps
        if steps > MAX_STEPS:
            raise section.fault("pattern", "pattern: all patterns together could take too long: expected fewer")
        sections.append(section)
    return sections


def _ways(section: RouteSection, rows_of: Callable[[str], Rows]) -> Iterator[tuple[_Entry, str]]:
    """Yield each way to find *section*, and each domain."""
    domains = tuple(section.domains())
    for entry in _entries(section, rows_of):
        for domain in domains:
            yield entry, domain


def _found_before(
    entry: _Entry, domain: str, section: RouteSection, sections: list[RouteSection], rows_of: Callable[[str], Rows]
) -> Fault:
    """Return the fault that the way to find *entry* is there already; where, is found by going through all again."""
    earlier = (
        other.where
        for each in sections
        if each.is_first == section.is_first and (each.pattern is None or each is section)
        for other, at in _ways(each, rows_of)
        if (at, other.user, other.prefix) == (domain, entry.user, entry.prefix)
    )
    user, prefix = entry.user, entry.prefix
    what = f"the user {user}" if user else f"the prefix {prefix}" if prefix else "every user"
    return Fault(entry.where, f"{what}{domain and f' at {domain}'} has a route already", next(earlier, None))


def _entries(section: RouteSection, rows_of: Callable[[str], Rows]) -> Iterator[_Entry]:
    """Yield each way to find *section*, in any of its domains."""
    if section.selector == "file":
        yield from _of_file(section, rows_of)
        return
    if section.selector == "table":
        yield from _of_table(section)
        return
    targets = section.targets(section.texts_of_targets)
    route = section.route(lambda key: targets)
    if section.selector == "user":
        for path, user in section.texts("user"):
            yield _Entry(path, route, user=_user(user, path))
    elif section.selector == "prefix":
        for path, prefix in section.texts("prefix"):
            yield _Entry(path, route, prefix=_prefix(prefix, path))
    else:
        yield _Entry(section.path, route)


def _prefix(text: str, where: Where) -> str:
    if _PREFIX.fullmatch(text) is None:
        raise Fault(where, f"prefix: expected up to 32 digits, perhaps behind a +, without separators, not {text!r}")
    return text


def _user(text: str, where: Where) -> str:
    if not text:
        raise Fault(where, "user: expected a user, not nothing")
    number = number_of(text)
    if number is not None and number != text:
        raise Fault(where, f"user: expected the number without separators, {number}, not {text!r}")
    return text


class _Variants:
    """What makes the targets of a route with very many users or prefixes, of the text that is kept for each.

    Texts cost little memory, and nothing when Python looks for garbage, however many there are; *make* takes one to the
    targets. The latest `kept` are kept.
    """

    kept = 1000

    def __init__(self, make: Callable[[str], Targets]) -> None:
        self._texts: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._made = lru_cache(self.kept)(make)

    def is_known(self, text: str) -> bool:
        """Whether there is another key with the same *text*."""
        return text in self._known

    def add(self, key: str, text: str) -> None:
        """Keep *text* for *key*."""
        self._texts[key] = self._known.setdefault(text, text)

    def targets(self, key: str) -> Targets:
        """Return the targets of *key*."""
        return self._made(self._texts[key])


def _unhurried(items: Iterable[_Item]) -> Iterator[_Item]:
    """Yield *items*, and rest now and then: another thread, the reactor's, runs then rather than when Python makes it.

    What Python lets a thread have by itself, 5 ms, would be a long time for each packet that comes meanwhile.
    """
    rested = time.monotonic()
    for item in items:
        if time.monotonic() - rested > _TURN:
            time.sleep(_BREATH)
            rested = time.monotonic()
        yield item


def _of_table(section: RouteSection) -> Iterator[_Entry]:
    """Yield each prefix of the table that *section* has."""

    def make(text: str, path: Path = ()) -> Targets:
        return section.targets(target_texts(json.loads(text), path))

    variants = _Variants(make)
    route = section.route(variants.targets)
    for prefix, value in _unhurried(section.table().items()):
        where = section.at("table", prefix)
        text = json.dumps(value, default=str)  # a date, which is no target either
        if not variants.is_known(text):
            make(text, where)
        variants.add(_prefix(prefix, where), text)
        yield _Entry(where, route, prefix=prefix)


def _of_file(section: RouteSection, rows_of: Callable[[str], Rows]) -> Iterator[_Entry]:
    """Yield each row of the file that *section* names."""
    try:
        header, columns, rows = rows_of(section.text("file"))
    except ValueError as error:
        raise section.fault("file", f"file: {error}") from None
    key_column = _key_column(header, columns)
    used = _used_columns(section, columns)
    check = _prefix if key_column == "prefix" else _user

    def make(text: str, place: RowPlace | None = None) -> Targets:
        cells = dict(zip(used, json.loads(text), strict=True))
        return section.targets(_completed(section, cells, place), place)

    variants = _Variants(make)
    route = section.route(variants.targets)
    place: RowPlace | None = None
    for place, cells in _unhurried(rows):
        text = json.dumps([cells[column] for column in used])
        if not variants.is_known(text):
            make(text, place)
        key = check(cells[key_column], place)
        variants.add(key, text)
        yield _Entry(place, route, **{key_column: key})
    if place is None:
        raise Fault(header, "expected one row at least behind the names of the columns")


def _key_column(header: RowPlace, columns: Sequence[str]) -> str:
    """Return which column says who is called."""
    present = [column for column in columns if column in _KEY_COLUMNS]
    if len(present) != 1:
        raise Fault(header, f"expected one column prefix, or one column user, not the columns {', '.join(columns)}")
    for column in columns:
        if column in BUILT_IN and column not in _KEY_COLUMNS:
            raise Fault(header, f"a column is named {column}, as a placeholder is: expected another name")
    return present[0]


def _used_columns(section: RouteSection, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that the targets of *section* name; raises `Fault` for a placeholder that there is not."""
    names = set()
    for target in section.texts_of_targets:
        for path, text in target.texts():
            check_placeholders(text, {*section.known, *columns}, path)
            names.update(placeholders(text))
    return tuple(column for column in columns if column in names and column not in section.known)


def _completed(section: RouteSection, cells: Mapping[str, str], place: RowPlace | None) -> list[TargetText]:
    """Return the targets for a row of *cells*; one that names an empty cell is left out."""
    completed = [target.completed(cells) for target in section.texts_of_targets]
    present = [target for target in completed if target is not None]
    if completed and not present:
        raise Fault(place or section.path, "expected a target: the cells that those of the route name are empty")
    return present
