"""What is a check, and what can come of it?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from twisted_sipuas.conformance.client import Client

__all__ = ["CHECKS", "ROLES", "Broken", "Check", "Level", "NotJudged", "Outcome", "Result", "judges"]

ROLES = ("redirect", "uas", "registrar", "stateless")
"""What a server can be judged as."""


class Level(Enum):
    """How strongly a requirement binds, in the words of RFC 2119."""

    MUST = "MUST"
    MUST_NOT = "MUST NOT"
    SHOULD = "SHOULD"
    SHOULD_NOT = "SHOULD NOT"
    RECOMMENDED = "RECOMMENDED"
    MAY = "MAY"
    IS = "IS"
    """Stated by the RFC without one of these words; a server that conforms shows it all the same."""

    @property
    def is_required(self) -> bool:
        """Whether a server that breaks it does not conform."""
        return self in (Level.MUST, Level.MUST_NOT)


class Broken(Exception):
    """The requirement does not hold; the text says what was seen."""


class NotJudged(Exception):
    """Whether the requirement holds could not be seen; the text says why."""


class Outcome(Enum):
    """What comes of a check."""

    HOLDS = "holds"
    """Nothing was seen that breaks the requirement, where it would have shown."""
    BROKEN = "broken"
    """The server did what the requirement does not allow."""
    NOT_JUDGED = "not judged"
    """It did not come to where the requirement shows."""


class Result(NamedTuple):
    """The outcome of a check, and what was seen or why it was not judged; empty where the requirement holds."""

    check: Check
    outcome: Outcome
    remark: str = ""


class Check(NamedTuple):
    """A function that judges a requirement: it returns if that holds, or raises `Broken` or `NotJudged`."""

    id: str
    """The section of RFC 3261, or the number of another RFC, and the position in it: ``8.2.6.2-8``, ``3581-1``. For
    RFC 4475 it is the section of the torture message: ``4475-3.1.1.2``."""
    level: Level
    summary: str
    roles: frozenset[str]
    transports: frozenset[str]
    judge: Callable[[Client], None]

    @property
    def name(self) -> str:
        """The name of the function; no two have the same."""
        return self.judge.__name__

    @property
    def section(self) -> str:
        """The part of the id before the position, ``RFC 3581`` where it is the number of an RFC."""
        section = self.id.partition("-")[0]
        return f"RFC {section}" if "." not in section and len(section) == 4 else section

    @property
    def order(self) -> tuple[list[int], list[int]]:
        """Where it comes in a report: by section, then by position; other RFCs last."""
        section, _, position = self.id.partition("-")
        return [int(part) for part in section.split(".")], [int(part) for part in position.split(".")]


CHECKS: list[Check] = []
"""Every check; filled as the modules of `twisted_sipuas.conformance.checks` are imported."""


def judges(
    id: str,
    level: Level,
    summary: str,
    *,
    roles: Iterable[str] = ROLES,
    transports: Iterable[str] = ("UDP", "TCP", "TLS"),
) -> Callable[[Callable[[Client], None]], Callable[[Client], None]]:
    """Have the function that follows judge the requirement *id* for servers in *roles*, by *transports*."""

    def register(judge: Callable[[Client], None]) -> Callable[[Client], None]:
        CHECKS.append(Check(id, level, summary, frozenset(roles), frozenset(transports), judge))
        return judge

    return register
