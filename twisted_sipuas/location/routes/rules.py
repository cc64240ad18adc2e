"""What does one ``[[route]]`` of a document say? Who matches it, and what answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from twisted_sipuas.location.routes.lines import Path
from twisted_sipuas.location.routes.pattern import UserPattern
from twisted_sipuas.location.routes.section import Fault, RowPlace, Section, Where, did_you_mean, one_line
from twisted_sipuas.location.routes.table import Refusal, Route, Targets
from twisted_sipuas.location.routes.template import BUILT_IN, TargetTemplate, TextTemplate, URITemplate, placeholders
from twisted_sipuas.location.target import is_of_response
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.uri import canonical_domain

__all__ = ["RouteSection", "TargetText", "check_placeholders", "target_texts"]

_SELECTORS = ("user", "prefix", "file", "table")
_ANSWERS = ("targets", "refuse", "table")
_ROUTE_KEYS = ("name", "first", "domain", *_SELECTORS, "pattern", "targets", "refuse", "status", "balance", "headers")
_TARGET_KEYS = ("uri", "q", "expires", "display_name", "parameters", "weight")
_STATUSES = (300, 301, 302, 380)

_REFUSAL = re.compile(r"([4-6][0-9]{2})(?: +([^\x00-\x20\x7f][^\x00-\x1f\x7f]*))?")
_PARAMETER_VALUE = re.compile(r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"')
_COLUMN = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _made(make: Callable[[str], Any], text: str, where: Where) -> Any:
    """Return what *make* makes of *text*; raises `Fault`."""
    try:
        return make(text)
    except ValueError as error:
        raise Fault(where, str(error)) from None


def check_placeholders(text: str, known: Collection[str], where: Where) -> None:
    """Raise `Fault` if *text* has a placeholder that is not *known*."""
    for name in placeholders(text):
        if name not in known:
            raise Fault(where, f"{text!r}: there is no placeholder {{{name}}}: {did_you_mean(name, known)}")


class TargetText(NamedTuple):
    """What is said of one target, of the right types, but with texts that a row may still have to complete."""

    path: Path
    uri: str
    q: float | None = None
    expires: int | None = None
    weight: int | None = None
    display_name: str = ""
    parameters: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def of(cls, value: object, path: Path) -> TargetText:
        """Return what *value* says: a URI, or a table that has one."""
        if isinstance(value, str):
            return cls(path, one_line(value, path, "a target"))
        section = Section(value, path, _TARGET_KEYS, 'a URI in quotes, or a table like { uri = "sip:...", q = 0.5 }')
        if "uri" not in section:
            raise Fault(path, "this target has no uri")
        q = section.values.get("q")
        if q is not None and (type(q) not in (int, float) or not 0 <= q <= 1):
            raise section.fault("q", f"q: expected a number from 0 to 1, not {q!r}")
        return cls(
            path,
            section.text("uri"),
            q,
            section.whole("expires", 2**32 - 1),
            section.whole("weight", 65_535),
            section.text("display_name"),
            tuple(_parameters(section.values.get("parameters", {}), section.at("parameters"))),
        )

    def texts(self) -> Iterator[tuple[Path, str]]:
        """Yield each text that may have placeholders, with its path."""
        yield (*self.path, "uri"), self.uri
        if self.display_name:
            yield (*self.path, "display_name"), self.display_name
        for name, value in self.parameters:
            if value is not None:
                yield (*self.path, "parameters", name), value

    def completed(self, cells: Mapping[str, str]) -> TargetText | None:
        """Return this with *cells* for the placeholders that have the name of one; None if such a cell is empty."""
        if any(cells.get(name) == "" for _, text in self.texts() for name in placeholders(text)):
            return None

        def complete(text: str) -> str:
            return _COLUMN.sub(lambda match: cells.get(match[1], match[0]), text)

        return self._replace(
            uri=complete(self.uri),
            display_name=complete(self.display_name),
            parameters=tuple((name, None if value is None else complete(value)) for name, value in self.parameters),
        )

    def _words(self, row: RowPlace | None) -> TextTemplate | None:
        if not self.display_name:
            return None
        template: TextTemplate = _made(
            partial(TextTemplate, kind="words"), self.display_name, row or (*self.path, "display_name")
        )
        return template

    def template(self, known: Collection[str], row: RowPlace | None) -> TargetTemplate:
        """Return the template with placeholders that are *known*; a fault is in *row*, if that completed the texts."""
        for path, text in self.texts():
            check_placeholders(text, known, row or path)
        return TargetTemplate(
            _made(URITemplate, self.uri, row or (*self.path, "uri")),
            q=self.q,
            expires=self.expires,
            display_name=self._words(row),
            parameters=[
                (name, None if value is None else _parameter(name, value, row or (*self.path, "parameters", name)))
                for name, value in self.parameters
            ],
            weight=self.weight,
        )


def target_texts(values: object, path: Path) -> tuple[TargetText, ...]:
    """Return what *values*, one target or an array of them, says of each."""
    if not isinstance(values, list):
        return (TargetText.of(values, path),)
    if not values:
        raise Fault(path, "targets: expected one at least")
    return tuple(TargetText.of(value, (*path, place)) for place, value in enumerate(values))


def _parameters(values: object, path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the parameters of a Contact that *values* are, a flag's value being ``true``."""
    if not isinstance(values, dict):
        raise Fault(path, f'parameters: expected a table like {{ methods = "INVITE", isfocus = true }}, not {values!r}')
    for name, value in values.items():
        if TOKEN.fullmatch(name) is None or name.lower() in ("q", "expires"):
            raise Fault((*path, name), f"parameters: expected a token, and neither q nor expires, not {name!r}")
        yield name, (None if value is True else one_line(value, (*path, name), name))


def _parameter(name: str, value: str, where: Where) -> TextTemplate:
    template: TextTemplate = _made(TextTemplate, value, where)
    form = template.filled_with("0")
    if not (TOKEN.fullmatch(form) or _PARAMETER_VALUE.fullmatch(form)):
        raise Fault(where, f"{name}: expected a token, or a quoted string with its quotes, not {value!r}")
    return template


class RouteSection(Section):
    """The ``[[route]]`` that is *values*, numbered from 0. Raises `Fault`."""

    def __init__(self, values: object, number: int) -> None:
        super().__init__(values, ("route", number), _ROUTE_KEYS, "a table [[route]]")
        self.name = self.text("name") or f"route {number + 1}"
        self.is_first = self._flag("first")
        if self.is_first:
            self._only_one(("first", "domain"))
        self.selector = self._only_one(_SELECTORS)
        if self._only_one(_ANSWERS) is None:
            raise Fault(self.path, f"this route answers nothing: expected one of {', '.join(_ANSWERS)}")
        self.pattern = self._pattern()
        self.known = frozenset((*BUILT_IN, *(self.pattern.names if self.pattern else ())))
        self.texts_of_targets = target_texts(self.values["targets"], self.at("targets")) if "targets" in self else ()
        self._refusal = self._read_refusal()
        self._status = self._read_status()
        self._headers = tuple(self._read_headers())

    def _only_one(self, keys: Sequence[str]) -> str | None:
        """Return which of *keys* is there, or None; raises `Fault` if several are."""
        given = [key for key in keys if key in self]
        if len(given) > 1:
            raise self.fault(given[1], f"expected one of {given[0]} and {given[1]} in a route, not both")
        return given[0] if given else None

    def _flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if type(value) is not bool:
            raise self.fault(key, f"{key}: expected true or false, not {value!r}")
        return value

    def _pattern(self) -> UserPattern | None:
        if "pattern" not in self:
            return None
        self._only_one(("user", "pattern"))
        pattern: UserPattern = _made(UserPattern, self.text("pattern"), self.at("pattern"))
        for name in pattern.names & {*BUILT_IN}:
            raise self.fault("pattern", f"pattern: a group is named {name}, as a placeholder is: expected another name")
        return pattern

    def _read_refusal(self) -> Refusal | None:
        if "refuse" not in self:
            return None
        self._only_one(("refuse", "status"))
        self._only_one(("refuse", "balance"))
        value = self.values["refuse"]
        match = _REFUSAL.fullmatch(str(value)) if type(value) in (int, str) else None
        if match is None:
            raise self.fault("refuse", f'refuse: expected a status from 400 to 699, or "404 Reason", not {value!r}')
        return Refusal(int(match[1]), match[2])

    def _read_status(self) -> int | None:
        status: int | None = self.values.get("status")
        if status is None or (type(status) is int and status in _STATUSES):
            return status
        raise self.fault("status", f"status: expected one of {', '.join(map(str, _STATUSES))}, not {status!r}")

    def _read_headers(self) -> Iterator[tuple[str, TextTemplate]]:
        values = self.values.get("headers", {})
        if not isinstance(values, dict):
            raise self.fault("headers", f'headers: expected a table like {{ Reason = "Q.850" }}, not {values!r}')
        section = Section(values, self.at("headers"), tuple(values), "a table")
        for name in values:
            if TOKEN.fullmatch(name) is None or is_of_response(name):
                raise section.fault(name, f"headers: expected a header field that is not the server's, not {name!r}")
            for path, text in section.texts(name):
                check_placeholders(text, self.known, path)
                yield name, _made(TextTemplate, text, path)

    def domains(self) -> Iterator[str]:
        """Yield each domain, canonical, or the empty text for any."""
        if "domain" not in self:
            yield ""
            return
        for path, text in self.texts("domain"):
            star = "*." if text.startswith("*.") else ""
            try:
                yield star + canonical_domain(text.removeprefix(star))
            except ValueError:
                raise Fault(path, f"domain: expected a domain, *.domain or an address, not {text!r}") from None

    def table(self) -> dict[str, Any]:
        """Return what ``table`` has for each prefix; a target, or an array of them."""
        table = self.values["table"]
        if not isinstance(table, dict) or not table:
            raise self.fault("table", f'table: expected prefixes with targets, like "+49" = "sip:...", not {table!r}')
        return table

    def targets(self, texts: Sequence[TargetText], row: RowPlace | None = None) -> Targets:
        """Return the targets that *texts* say; a fault is in *row*, if that completed them."""
        templates = [text.template(self.known, row) for text in texts]
        return Targets(templates, takes_one=self._takes_one(texts))

    def route(self, targets_of: Callable[[str], Targets]) -> Route:
        """Return the route, which *targets_of* gives the targets by user or prefix, unless it refuses."""
        answer = targets_of if self._refusal is None else self._refusal
        return Route(self.name, answer, pattern=self.pattern, status=self._status, headers=self._headers)

    def _takes_one(self, texts: Sequence[TargetText]) -> bool:
        """Return whether one target alone is to be named; raises `Fault` where weights say nothing."""
        weights = [text.weight for text in texts if text.weight is not None]
        for text in texts:
            if weights and text.weight is None:
                raise Fault(text.path, "expected a weight for this target too, as others have one")
        if weights and not any(weights):
            raise Fault((*texts[0].path, "weight"), "weight: expected one above 0 among the targets")
        balance = self.values.get("balance")
        if balance is None:
            return False
        if balance not in ("order", "one"):
            raise self.fault("balance", f'balance: expected "order" or "one", not {balance!r}')
        if not weights:
            raise self.fault("balance", "balance: expected a weight for each target")
        if balance == "one" and any(text.q is not None for text in texts):
            raise self.fault("balance", 'balance: expected no q with "one", which names one target alone')
        return bool(balance == "one")
