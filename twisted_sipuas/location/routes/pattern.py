"""What does a regular expression cost at worst? Patterns for user parts, judged before they are used.

Python's ``re`` tries one way after another: an expression that is written carelessly takes longer for 30 characters
than a server lives, and nothing can stop it meanwhile. So the ways are counted, from the expression alone, for the
longest user part that it is tried on; what can be repeated without end in several ways is refused.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

__all__ = ["MAX_STEPS", "MAX_USER", "UserPattern"]

MAX_USER = 128
"""Characters of a user part that is tried; a longer one matches no pattern."""

MAX_STEPS = 2_000_000
"""What all patterns of a table may cost together; that many steps take some milliseconds."""

_STEPS_TO_BEGIN = 100  # that a pattern costs anyway

_TOKEN = re.compile(
    r"""
    (?P<single>\[\^?\]?(?:\\.|[^\]\\])*\])
    | (?P<comment>\(\?\#)
    | (?P<open>\((?:\?(?:P?<\w+>|P?[=>!:(]|<[=!]|[A-Za-z\-]*[:)]))?)
    | (?P<close>\))
    | (?P<alternative>\|)
    | (?P<times>[*+?]|\{(?=[0-9,])(?P<least>[0-9]*)(?P<range>,?)(?P<most>[0-9]*)\})[?+]?
    | (?P<character>\\.|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_REFERENCE = re.compile(r"\\[1-9]|\(\?(?:P=|\()")
"""Tokens that say what an earlier group matched, or ask whether it did."""


class _Ways(NamedTuple):
    """In how many ways a part of an expression can match: *fixed* ones, times those that *open* repetitions share."""

    fixed: int
    open: int
    atoms: int

    @property
    def is_one(self) -> bool:
        return self.fixed == 1 and self.open == 0

    @property
    def steps(self) -> int:
        """The bound for a text of `MAX_USER` characters: of so many, each repetition takes some of what is left."""
        return self.fixed * math.comb(MAX_USER + self.open, self.open) * self.atoms

    def and_then(self, other: _Ways) -> _Ways:
        return _Ways(self.fixed * other.fixed, self.open + other.open, self.atoms + other.atoms)

    def or_else(self, other: _Ways) -> _Ways:
        return _Ways(self.fixed + other.fixed, max(self.open, other.open), self.atoms + other.atoms)

    def times(self, least: int, most: int | None) -> _Ways:
        if most is None or (most > MAX_USER and least != most):
            if not self.is_one:
                raise ValueError("a group that can match in several ways is repeated without end")
            return _Ways(1, 1, self.atoms)
        if most > MAX_USER and not self.is_one:
            raise ValueError(f"a group that can match in several ways is repeated {most} times")
        count = 1 if self.is_one else most
        return _Ways(self.fixed**count * (most - least + 1), self.open * count, self.atoms * max(1, count))


_NONE = _Ways(1, 0, 0)
_SINGLE = _Ways(1, 0, 1)


def _ways(text: str) -> _Ways:
    """Return the ways of the valid expression *text*; raises `ValueError` for what they cannot be told of."""
    enclosing: list[tuple[_Ways | None, _Ways, _Ways]] = []
    # Of the group that is open: alternatives so far, the sequence before the last atom, and that atom.
    alternatives: _Ways | None = None
    sequence, atom = _NONE, _NONE
    for match in _TOKEN.finditer(text):
        if _REFERENCE.fullmatch(match[0]):
            raise ValueError("it refers to a group")
        if match["comment"]:
            raise ValueError("a comment may hide what it repeats")
        kind = match.lastgroup
        if kind in ("single", "character"):
            sequence, atom = sequence.and_then(atom), _SINGLE
        elif kind == "alternative":
            sequence = sequence.and_then(atom)
            alternatives, sequence, atom = _either(alternatives, sequence), _NONE, _NONE
        elif kind == "close":
            group = _either(alternatives, sequence.and_then(atom))
            alternatives, sequence, atom = enclosing.pop()
            sequence, atom = sequence.and_then(atom), group
        elif match["open"]:
            if not match["open"].endswith(")"):  # else it sets flags, and is no group
                enclosing.append((alternatives, sequence, atom))
                alternatives, sequence, atom = None, _NONE, _NONE
        else:
            atom = atom.times(*_times(match))
    if enclosing:  # whatever it is that Python reads in another way than this
        raise ValueError("its groups cannot be told apart")
    return _either(alternatives, sequence.and_then(atom))


def _either(alternatives: _Ways | None, last: _Ways) -> _Ways:
    return last if alternatives is None else alternatives.or_else(last)


def _times(match: re.Match[str]) -> tuple[int, int | None]:
    """Return how often at least and at most, None for no bound, the quantifier *match* repeats."""
    sign = match["times"]
    if sign[0] in "*+?":
        return (1 if sign[0] == "+" else 0), (1 if sign[0] == "?" else None)
    least = int(match["least"] or 0)
    if not match["range"]:
        return least, least
    return least, int(match["most"]) if match["most"] else None


class UserPattern:
    """A regular expression for whole user parts, at most *steps* long to try.

    Raises `ValueError` for what is no regular expression, and for one that could take too long.
    """

    __slots__ = ("_expression", "names", "steps")

    def __init__(self, text: str) -> None:
        try:
            self._expression = re.compile(text)
        except re.error as error:
            place = "" if error.pos is None else f" at character {error.pos + 1}"
            raise ValueError(f"{text!r} is no regular expression: {error.msg}{place}") from None
        if self._expression.flags & re.VERBOSE:
            raise ValueError(f"{text!r} has the flag x: expected the expression without it")
        try:
            self.steps = _ways(text).steps + _STEPS_TO_BEGIN
        except ValueError as reason:
            raise ValueError(
                f"{text!r} could take for ever, as {reason}: expected no repetition or alternatives within a repeated "
                "group, no reference to one, and no comment"
            ) from None
        if self.steps > MAX_STEPS:
            raise ValueError(f"{text!r} could take too long: expected fewer repetitions (three times .* is the most)")
        groups = self._expression.groups
        self.names = frozenset((*map(str, range(1, groups + 1)), *self._expression.groupindex))
        """The placeholders that it gives: numbers from 1, and names of groups."""

    def groups(self, user: str | None) -> dict[str, str] | None:
        """Return what its groups match in *user*, by number and name, the empty text for none; None if it does not."""
        match = None if user is None or len(user) > MAX_USER else self._expression.fullmatch(user)
        if match is None:
            return None
        groups = match.groupdict("")
        for number, text in enumerate(match.groups(""), 1):
            groups[str(number)] = text
        return groups
