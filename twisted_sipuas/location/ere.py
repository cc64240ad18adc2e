"""Does a POSIX extended regular expression match a telephone number, and what do its parentheses hold?

The expressions come from DNS zones of others (RFC 3402, 3.2), and Python's `re` may take years over one of 30
characters, however short the number: ``(.|.|.|.)`` 16 times over is enough. This one tries each step at each place of
the number once at most, so that what it costs is the product of two lengths, both bounded.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

__all__ = ["Expression"]

_ALPHABET = "+0123456789"
_ALL = frozenset(_ALPHABET)
_DIGITS = frozenset("0123456789")
_CLASSES = {
    **dict.fromkeys(("digit", "xdigit", "alnum"), _DIGITS),
    "punct": frozenset("+"),
    **dict.fromkeys(("print", "graph"), _ALL),
    **dict.fromkeys(("alpha", "upper", "lower", "space", "blank", "cntrl"), frozenset[str]()),
}
_INTERVAL = re.compile(r"([0-9]{1,3})(?:(,)([0-9]{1,3})?)?\}")
_MAX_REPEATS = 255  # POSIX's RE_DUP_MAX
_MAX_STEPS = 500
_MAX_DEPTH = 20
_GROUPS = 10  # the whole match, and as many as a replacement can refer to


class _Do(enum.Enum):
    """What a step does."""

    TAKE = "take one of its characters"
    EITHER = "go on at its first step, and if that leads nowhere at its second"
    GO = "go on at its first step"
    SAVE = "note where it is, as the begin or end of a group"
    BEGIN = "be at the begin"
    END = "be at the end"


class _Step(NamedTuple):
    """A step of a program; *first* and *second* count steps from it on, or are the number of what is saved."""

    do: _Do
    first: int = 1
    second: int = 0
    characters: frozenset[str] = frozenset()


_Program = list[_Step]


class Expression:
    """A POSIX extended regular expression (IEEE 1003.1, 9.4) for strings of ``+`` and digits.

    Of several ways to match the first one counts, as in Perl, where POSIX wants the longest. Collating symbols are not
    supported, and what POSIX leaves undefined is a mistake. Raises `ValueError` for a mistake, and for an expression
    that is too large when its repetitions are written out.
    """

    def __init__(self, text: str) -> None:
        parser = _Parser(text)
        self._program = [_Step(_Do.SAVE, 0), *parser.alternatives(), _Step(_Do.SAVE, 1)]
        if parser.rest:
            raise ValueError("unmatched parenthesis")
        if len(self._program) > _MAX_STEPS:
            raise ValueError("too large")
        self.groups = parser.groups

    def match(self, number: str) -> list[str] | None:
        """Return what the whole expression and its first nine groups matched in *number*; None if it does not match.

        A group that took no part is empty.
        """
        tried: set[tuple[int, int]] = set()
        for begin in range(len(number) + 1):
            spans = self._spans(number, begin, tried)
            if spans is not None:
                return [number[start:end] for start, end in zip(spans[::2], spans[1::2], strict=True)]
        return None

    def _spans(self, number: str, begin: int, tried: set[tuple[int, int]]) -> list[int] | None:
        """Return where groups begin and end in the first match from *begin* on; None if there is none.

        What was *tried* before led nowhere: without back-references nothing else decides how it goes on.
        """
        ways: list[tuple[int, int, list[int]]] = [(0, begin, [0] * (2 * _GROUPS))]
        while ways:
            at, place, spans = ways.pop()
            if at == len(self._program):
                return spans
            if (at, place) in tried:
                continue
            tried.add((at, place))
            do, first, second, characters = self._program[at]
            if do is _Do.EITHER:
                ways += [(at + second, place, spans), (at + first, place, spans)]
            elif do is _Do.GO:
                ways.append((at + first, place, spans))
            elif do is _Do.SAVE:
                spans = spans if first >= len(spans) else [*spans[:first], place, *spans[first + 1 :]]
                ways.append((at + 1, place, spans))
            elif do is _Do.TAKE:
                if number[place : place + 1] in characters:
                    ways.append((at + 1, place + 1, spans))
            elif place == (0 if do is _Do.BEGIN else len(number)):
                ways.append((at + 1, place, spans))
        return None


class _Parser:
    """Turns the text of an expression into a program, one construct a method; `rest` is what is not yet read."""

    def __init__(self, text: str) -> None:
        self.rest = text
        self.groups = 0
        self._depth = 0

    def alternatives(self) -> _Program:
        """Read branches with ``|`` between them."""
        program = self._branch()
        if not self._takes("|"):
            return program
        others = self.alternatives()
        return [_Step(_Do.EITHER, 1, len(program) + 2), *program, _Step(_Do.GO, len(others) + 1), *others]

    def _branch(self) -> _Program:
        program: _Program = []
        while self.rest and self.rest[0] not in "|)":
            program += self._piece()
            if len(program) > _MAX_STEPS:
                raise ValueError("too large")
        if not program:
            raise ValueError("an alternative is empty")
        return program

    def _piece(self) -> _Program:
        """Read one thing to match, and how often."""
        is_anchor = self.rest[0] in "^$"
        program = self._atom()
        while self.rest and self.rest[0] in "*+?{":
            if is_anchor:
                raise ValueError("an anchor cannot be repeated")
            program = _repeated(program, *self._repeats())
        return program

    def _repeats(self) -> tuple[int, int | None]:
        """Read how often something is repeated: the least number, and the greatest or None."""
        sign = self._next()
        if sign != "{":
            return (1 if sign == "+" else 0), (1 if sign == "?" else None)
        match = _INTERVAL.match(self.rest)
        if match is None:
            raise ValueError("a malformed interval")
        self.rest = self.rest[match.end() :]
        least = int(match[1])
        most = None if match[2] and not match[3] else int(match[3] or least)
        if max(least, most or 0) > _MAX_REPEATS or (most is not None and most < least):
            raise ValueError("an interval that cannot be")
        return least, most

    def _atom(self) -> _Program:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return [_Step(_Do.TAKE, characters=self._bracket())]
        if character == ".":
            return [_Step(_Do.TAKE, characters=_ALL)]
        if character in "^$":
            return [_Step(_Do.BEGIN if character == "^" else _Do.END)]
        if character in "*+?{":
            raise ValueError("nothing to repeat")
        if character == "\\":
            character = self._next()
            if character.isalnum():
                raise ValueError("a backslash before a letter or digit")
        return [_Step(_Do.TAKE, characters=frozenset(character) & _ALL)]

    def _group(self) -> _Program:
        self.groups += 1
        number = self.groups
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("too many parentheses in one another")
        program = self.alternatives()
        if not self._takes(")"):
            raise ValueError("unmatched parenthesis")
        self._depth -= 1
        return [_Step(_Do.SAVE, 2 * number), *program, _Step(_Do.SAVE, 2 * number + 1)]

    def _bracket(self) -> frozenset[str]:
        """Read a bracket expression, and return the characters of numbers that it stands for."""
        is_negated = self._takes("^")
        characters: frozenset[str] = frozenset()
        is_first = True
        while is_first or not self._takes("]"):
            is_first = False
            if self.rest[:2] == "[:":
                name, end, self.rest = self.rest[2:].partition(":]")
                if not end or name not in _CLASSES:
                    raise ValueError("an unknown character class")
                characters |= _CLASSES[name]
                continue
            low = high = self._bracket_character()
            if self.rest[:1] == "-" and self.rest[1:2] != "]":
                self._next()
                high = self._bracket_character()
                if high < low:
                    raise ValueError("a range that ends before it begins")
            characters |= {character for character in _ALPHABET if low <= character <= high}
        return _ALL - characters if is_negated else characters

    def _bracket_character(self) -> str:
        if self.rest[:2] in ("[.", "[=", "[:"):
            raise ValueError("a collating symbol")
        return self._next()

    def _takes(self, character: str) -> bool:
        """Read *character* if it is next, and return whether it was."""
        if self.rest[:1] != character:
            return False
        self.rest = self.rest[1:]
        return True

    def _next(self) -> str:
        if not self.rest:
            raise ValueError("it has no end")
        character, self.rest = self.rest[0], self.rest[1:]
        return character


def _repeated(program: _Program, least: int, most: int | None) -> _Program:
    """Return *program* to be done *least* to *most* times, any number of times if that is None."""
    size = len(program)
    if size * max(least + 1, most or 0) > _MAX_STEPS:
        raise ValueError("too large")
    if most is None:
        optional = [_Step(_Do.EITHER, 1, size + 2), *program, _Step(_Do.GO, -size - 1)]
    else:
        optional = []
        for _ in range(most - least):
            optional = [_Step(_Do.EITHER, 1, size + 1 + len(optional)), *program, *optional]
    return program * least + optional
