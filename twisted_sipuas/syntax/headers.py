"""The header section: rows in order, looked up by name, long or compact (RFC 3261, 7.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

from twisted_sipuas.errors import MessageSyntaxError, refuse_line_breaks
from twisted_sipuas.syntax.grammar import TOKEN, split_list

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["COMPACT_NAMES", "Headers"]

_NAMES = (
    "Accept Accept-Encoding Accept-Language Alert-Info Allow Authentication-Info Authorization Call-ID Call-Info "
    "Contact Content-Disposition Content-Encoding Content-Language Content-Length Content-Type CSeq Date Error-Info "
    "Event Expires From In-Reply-To Max-Forwards Min-Expires MIME-Version Organization P-Asserted-Identity Path "
    "Priority Proxy-Authenticate Proxy-Authorization Proxy-Require RAck Reason Record-Route Refer-To Referred-By "
    "Reply-To Require Retry-After Route RSeq Server Service-Route Session-Expires Subject Supported Timestamp To "
    "Unsupported User-Agent Via Warning WWW-Authenticate"
).split()
_COMPACT = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}
COMPACT_NAMES = {key: letter for letter, key in _COMPACT.items()}
"""The compact form of each header field name that has one, by its long name in lower case (7.3.3)."""

# The spellings that nearly every message uses, straight to their key; `_key` serves the rest.
_KEYS = {
    **{name: name.lower() for name in _NAMES},
    **{name.lower(): name.lower() for name in _NAMES},
    **_COMPACT,
    **{letter.upper(): key for letter, key in _COMPACT.items()},
}

# 7.3.1: rows of these are not one comma-separated list, since their values hold commas of their own.
_NOT_JOINED = frozenset(("authorization", "proxy-authenticate", "proxy-authorization", "www-authenticate"))


class _Value(Protocol):
    """A typed header field value, as `Headers.one` and `Headers.every` ask for it."""

    field: ClassVar[str]
    is_list: ClassVar[bool]  # whether a row may hold several values, separated by commas (7.3.1)

    @classmethod
    def parse(cls, text: str) -> Self: ...


class _Fault(NamedTuple):
    """What is kept of a header field that turned out malformed, so that it is not parsed again."""

    reason: str


_T = TypeVar("_T")
_ValueT = TypeVar("_ValueT", bound=_Value)


def _key(name: str) -> str:
    """Return the lower-case long form of *name*; raises `ValueError` if it is no token."""
    if TOKEN.fullmatch(name) is None:
        raise ValueError("a header field name has to be a token")
    name = name.lower()
    return _KEYS.get(name, name)


class Headers:
    """An immutable header section: ``(name, value)`` rows in order.

    A name is found in any spelling, without regard to case, long or compact (7.3.3). Values are text as received,
    without the white space around them; octets that are not UTF-8 are surrogates and come out again byte for byte.

    *rows* are the pairs to start from. Raises `ValueError` for CR, LF or NUL, or a name that is no token.
    """

    __slots__ = ("_index", "_parsed", "_rows")

    _rows: list[tuple[str, str]]
    _index: dict[str, list[str]]
    _parsed: dict[tuple[object, bool], Any]  # made by `_parsed_once`, for most headers are never asked

    def __init__(self, rows: Iterable[tuple[str, str]] = ()) -> None:
        self._rows = []
        self._index = {}
        for name, value in rows:
            refuse_line_breaks(value, f"the {name} header field")
            value = value.strip(" \t")
            self._index.setdefault(_KEYS.get(name) or _key(name), []).append(value)
            self._rows.append((name, value))

    @classmethod
    def parse(cls, lines: Iterable[str]) -> tuple[Headers, MessageSyntaxError | None]:
        """Return the header section of *lines* (unfolded, without line ends), and the first fault found or None.

        A faulty line is left out; whether it matters is for the caller to say (8.2.2).
        """
        headers = cls.__new__(cls)
        rows = headers._rows = []
        index = headers._index = {}
        fault = None
        keys = _KEYS
        for line in lines:
            name, colon, value = line.partition(": ")  # as nearly every line is written
            key = keys.get(name)
            if key is None or not colon:
                name, colon, value = line.partition(":")
                name = name.rstrip(" \t")
                try:
                    key = _key(name)
                except ValueError:
                    fault = fault or MessageSyntaxError("Malformed header field name")
                    continue
                if not colon:
                    fault = fault or MessageSyntaxError("Header line without a colon")
                    continue
            value = value.strip(" \t")
            if key in index:
                index[key].append(value)
            else:
                index[key] = [value]
            rows.append((name, value))
        return headers, fault

    @classmethod
    def of_rows(cls, rows: list[tuple[str, str]]) -> Headers:
        """Return the header section of *rows* that are known to be clean: no line breaks, names that are tokens."""
        headers = cls.__new__(cls)
        headers._rows = rows
        index = headers._index = {}
        for name, value in rows:
            index.setdefault(_KEYS.get(name) or _key(name), []).append(value)
        return headers

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first row's value of the header field *name*, or *default*."""
        values = self._index.get(_KEYS.get(name) or _key(name))
        return values[0] if values else default

    @property
    def index(self) -> Mapping[str, Sequence[str]]:
        """The values of every row by the key of the header field, its long name in lower case; not to be changed."""
        return self._index

    def rows(self, key: str) -> Sequence[str]:
        """Return the values of every row of the header field *key*, its long name in lower case; not to be changed."""
        return self._index.get(key, ())

    def get_all(self, name: str) -> list[str]:
        """Return the values of every row of the header field *name*, in order, commas and all."""
        return list(self._index.get(_KEYS.get(name) or _key(name), ()))

    def count(self, name: str) -> int:
        """Return how many rows of the header field *name* there are."""
        return len(self._index.get(_KEYS.get(name) or _key(name), ()))

    def values(self, name: str) -> list[str]:
        """Return the single values of the header field *name*: rows and comma lists alike (7.3.1).

        Raises `MessageSyntaxError` naming the field for a list that is malformed.
        """
        key = _KEYS.get(name) or _key(name)
        rows = self._index.get(key, ())
        if key in _NOT_JOINED:
            return list(rows)
        if len(rows) == 1 and rows[0] and "," not in rows[0]:
            return [rows[0]]
        try:
            return [value for row in rows for value in split_list(row)]
        except MessageSyntaxError:
            raise MessageSyntaxError(f"Malformed {name} header field", headers=self) from None

    def added(self, name: str, value: str) -> Headers:
        """Return these headers with one more row at the end; raises `ValueError` as the constructor does."""
        return Headers.of_rows([*self._rows, *Headers([(name, value)])])

    def overwrite_via(self, value: str, former: str | None = None) -> bool:
        """Put *value*, which has no line break, into the first Via row, which has to be there; returns whether it did.

        With *former* it does so only if that, the very object, is the value of the first row of all: where a Via nearly
        always is, and quickest to replace. The one change that there is, for who has just received these headers: what
        others know of does not change.
        """
        rows = self._rows
        name, held = rows[0]
        if held is former:
            rows[0] = (name, value)
        elif former is not None:
            return False
        else:
            position = next(at for at, (name, _) in enumerate(rows) if _KEYS.get(name) == "via" or _key(name) == "via")
            rows[position] = (rows[position][0], value)
        self._index["via"][0] = value
        return True

    def one(self, kind: type[_ValueT]) -> _ValueT | None:
        """Return the first value of the header field that *kind* is for, parsed on first use; None if there is none.

        There is none if the field is absent, and if a list is empty, which may mean something else: ask ``in``. Raises
        `MessageSyntaxError` naming the field if it is malformed, and if rows that have to be one differ (7.3.1).
        """

        def parse() -> _ValueT | None:
            texts = self._texts(kind)
            if len(texts) > 1 and not kind.is_list and kind.field.lower() not in _NOT_JOINED and len(set(texts)) > 1:
                raise MessageSyntaxError(f"More than one {kind.field} header field")
            return kind.parse(texts[0]) if texts else None

        return self._parsed_once((kind, False), parse)

    def every(self, kind: type[_ValueT]) -> tuple[_ValueT, ...]:
        """Return all values of the header field that *kind* is for, rows and comma lists alike; as `one` does."""
        return self._parsed_once((kind, True), lambda: tuple(map(kind.parse, self._texts(kind))))

    def _texts(self, kind: type[_Value]) -> list[str]:
        return self.values(kind.field) if kind.is_list else self.get_all(kind.field)

    def _parsed_once(self, key: tuple[object, bool], parse: Callable[[], _T]) -> _T:
        try:
            parsed = self._parsed
        except AttributeError:
            parsed = self._parsed = {}
        if key not in parsed:
            try:
                parsed[key] = parse()
            except MessageSyntaxError as fault:
                parsed[key] = _Fault(fault.reason)
        value = parsed[key]
        if isinstance(value, _Fault):
            raise MessageSyntaxError(value.reason, headers=self)
        parsed_value: _T = value
        return parsed_value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (_KEYS.get(name) or _key(name)) in self._index

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return self._index == other._index if isinstance(other, Headers) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # values are lists: equal headers, no hash

    def __repr__(self) -> str:
        return f"Headers({self._rows!r})"
