"""Which route does a Request-URI take, and where does it lead? The table, the look-up, and the draw by weight.

Nothing here reads a file or keeps a time: a `RouteTable` is made, looked up in, and replaced as a whole.

Of the routes that match, the most specific one answers. First the domain counts, as a user means something within a
domain only: one that is named, then ``*.`` before a parent domain, the nearest first, then none; a route for any domain
may be put before all others. Then the user counts: named whole, then by the longest prefix of the number, then neither.
Of the routes that are equal in both, those with a pattern come first, in the order in which they were added. A route
whose target needs what the Request-URI does not have does not match, nor does one that leads from SIPS to SIP only.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

from twisted_sipuas.errors import SIPError
from twisted_sipuas.location.routes.pattern import UserPattern
from twisted_sipuas.location.routes.template import Called, TargetTemplate, TextTemplate
from twisted_sipuas.location.target import Redirection, Target
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import URI

__all__ = ["Draw", "Refusal", "Route", "RouteTable", "Targets", "draw_by_call_id"]

Draw: TypeAlias = "Callable[[Request], Iterator[float]]"
"""What gives the numbers, each above 0 and below 1, that a request's targets are drawn by."""


def draw_by_call_id(key: bytes) -> Draw:
    """Return a `Draw` that gives one call the same numbers each time, and that nobody can foretell without *key*.

    A retransmission that is handled anew, as a stateless server does, must get the same response (8.2.7); and a caller
    that has to try again, with credentials for one, is not sent elsewhere.
    """

    def draw(request: Request) -> Iterator[float]:
        call_id = request.call_id.encode("utf-8", "surrogateescape")
        block = 0
        while True:
            digest = blake2b(call_id, key=key, salt=block.to_bytes(16, "big")).digest()
            for number in struct.unpack("<8Q", digest):
                yield ((number >> 11) + 0.5) / 2**53
            block += 1

    return draw


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer of a route that leads nowhere."""

    status: int
    """400 to 699."""
    reason: str | None
    """The reason phrase, None for the RFC's own."""


class Targets:
    """The targets of one answer, at least one of them with another weight than 0, if they have weights.

    Then they are drawn by their weights, among those of one q: in an order, which the q of the answer tells, or, if it
    *takes_one*, one alone. A weight of 0 takes a target out of service. Who called by SIPS is not sent to
    SIP: for him there are the other targets alone.
    """

    __slots__ = ("_for_sips", "_is_drawn", "_takes_one", "_templates")

    def __init__(self, templates: Iterable[TargetTemplate], *, takes_one: bool = False) -> None:
        self._templates = tuple(template for template in templates if template.weight != 0)
        self._for_sips = tuple(template for template in self._templates if template.is_for_sips)
        self._is_drawn = any(template.weight is not None for template in self._templates)
        self._takes_one = takes_one

    def made(self, values: Mapping[str, str | None], request: Request, draw: Draw) -> list[Target] | None:
        """Return the targets for *values*, or None if there are none, or these do not fit each of them."""
        templates = self._for_sips if values["scheme"] == "sips" else self._templates
        if not templates:
            return None
        if not self._is_drawn:
            made = [template.made(values, template.q) for template in templates]
        else:
            order = _drawn(templates, draw(request))
            if self._takes_one:
                made = [order[0].made(values, None)]
            else:
                made = [template.made(values, q) for template, q in zip(order, _preferences(len(order)), strict=True)]
        targets = [target for target in made if target is not None]
        return targets if len(targets) == len(made) else None


class Route:
    """Where requests are sent that a route matches.

    *name* is for people. *answer* is a refusal, or what gives the `Targets` for the user or the prefix by which the
    route was found, which is empty if it is for any. *pattern* has to match the user too. *status* and *headers* are
    those of a `Redirection`.
    """

    __slots__ = ("_answer", "_headers", "_status", "alone", "name", "pattern")

    def __init__(
        self,
        name: str,
        answer: Refusal | Callable[[str], Targets],
        *,
        pattern: UserPattern | None = None,
        status: int | None = None,
        headers: Iterable[tuple[str, TextTemplate]] = (),
    ) -> None:
        self.name = name
        self.pattern = pattern
        self.alone = (self,)
        self._answer = answer
        self._status = status
        self._headers = tuple(headers)

    def answer(self, called: Called, key: str, request: Request, draw: Draw) -> Redirection | SIPError | None:
        """Return the answer to *request*, or None if this route, found by *key*, does not match what was *called*."""
        values = called.values
        if self.pattern is not None:
            groups = self.pattern.groups(called.user)
            if groups is None:
                return None
            values.update(groups)
        headers = [(name, value.filled(values)) for name, value in self._headers]
        present = [(name, value) for name, value in headers if value is not None]
        if len(present) < len(headers):
            return None
        if isinstance(self._answer, Refusal):
            return SIPError(self._answer.status, self._answer.reason, present, rule=self.name)
        targets = self._answer(key).made(values, request, draw)
        return None if targets is None else Redirection(targets, self._status, present)


def _drawn(targets: Sequence[TargetTemplate], numbers: Iterator[float]) -> list[TargetTemplate]:
    """Return *targets*, higher q first; among equals the chance to come next is proportional to the weight.

    The least of exponentially distributed times, each with the weight as its rate, is that of each target with just
    this chance; and so on for what is left (Efraimidis and Spirakis).
    """

    def key(target: TargetTemplate) -> tuple[float, float]:
        weight = 1 if target.weight is None else target.weight
        return -1.0 if target.q is None else -target.q, -math.log(next(numbers)) / weight

    return sorted(targets, key=key)


def _preferences(count: int) -> Iterator[float | None]:
    """Yield a q for each of *count* targets in their order: 1, 0.9, 0.8, and in smaller steps where they are many."""
    for place in range(count):
        yield round(1 - place / max(count, 10), 3) if count > 1 else None


class _Scope:
    """The routes of one domain, or of any."""

    __slots__ = ("lengths", "others", "prefixes", "users")

    def __init__(self) -> None:
        self.users: dict[str, tuple[Route, ...]] = {}
        self.prefixes: dict[str, tuple[Route, ...]] = {}
        self.lengths: tuple[int, ...] = ()
        """The lengths that prefixes have, longest first: a look-up tries each, however many prefixes there are."""
        self.others: tuple[Route, ...] = ()

    def matching(self, called: Called) -> Iterator[tuple[str, tuple[Route, ...]]]:
        """Yield the routes that may match *called* in the order in which they are to be asked, and what finds them."""
        user, dialled = called.user, called.dialled
        if user is not None and user in self.users:
            yield user, self.users[user]
        if dialled is not None:
            for length in self.lengths:
                prefix = dialled[:length]
                if prefix in self.prefixes:
                    yield prefix, self.prefixes[prefix]
        yield "", self.others


class RouteTable:
    """Routes by domain, user and prefix; see the module for which one answers."""

    def __init__(self) -> None:
        self._first = _Scope()
        self._any = _Scope()
        self._domains: dict[str, _Scope] = {}
        self._parents: dict[str, _Scope] = {}  # by ".example.com" for *.example.com
        self._parent_lengths: tuple[int, ...] = ()

    @property
    def prefixes(self) -> int:
        """The number of prefixes, each once for every domain."""
        return sum(len(scope.prefixes) for scope in self._scopes())

    @property
    def users(self) -> int:
        """The number of users that are named, each once for every domain."""
        return sum(len(scope.users) for scope in self._scopes())

    def add(self, route: Route, *, domain: str = "", user: str = "", prefix: str = "", is_first: bool = False) -> bool:
        """Have *route* answer for *domain*, for *user* or for numbers that begin with *prefix*; empty is any.

        *domain* is as `canonical_host` spells it, perhaps with ``*.`` before it; with *is_first* it does not count.
        Returns whether the route was added: not if it is there, or another that matches just the same without pattern.
        """
        scope = self._first if is_first else self._scope(domain)
        if user:
            present, table, key = scope.users.get(user), scope.users, user
        elif prefix:
            present, table, key = scope.prefixes.get(prefix), scope.prefixes, prefix
            if len(prefix) not in scope.lengths:
                scope.lengths = tuple(sorted((*scope.lengths, len(prefix)), reverse=True))
        else:
            joined = _joined(scope.others, route)
            if joined is None:
                return False
            scope.others = joined
            return True
        joined = route.alone if present is None else _joined(present, route)
        if joined is None:
            return False
        table[key] = joined
        return True

    def lookup(self, uri: URI, request: Request, draw: Draw) -> tuple[Route, Redirection | SIPError] | None:
        """Return the route for *uri* and its answer to *request*, or None if no route matches."""
        called = Called.of(uri)
        for scope in self._asked(called.domain):
            for key, routes in scope.matching(called):
                for route in routes:
                    answer = route.answer(called, key, request, draw)
                    if answer is not None:
                        return route, answer
        return None

    def _asked(self, domain: str | None) -> Iterator[_Scope]:
        """Yield the scopes that *domain* is in, in the order in which they are to be asked."""
        yield self._first
        if domain is not None:
            scope = self._domains.get(domain)
            if scope is not None:
                yield scope
            for length in self._parent_lengths:
                scope = self._parents.get(domain[-length:]) if length < len(domain) else None
                if scope is not None:
                    yield scope
        yield self._any

    def _scope(self, domain: str) -> _Scope:
        """Return the scope of *domain*, a new one if there is none."""
        if not domain:
            return self._any
        if not domain.startswith("*."):
            return self._domains.setdefault(domain, _Scope())
        parent = domain[1:]
        if len(parent) not in self._parent_lengths:
            self._parent_lengths = tuple(sorted((*self._parent_lengths, len(parent)), reverse=True))
        return self._parents.setdefault(parent, _Scope())

    def _scopes(self) -> Iterator[_Scope]:
        yield self._first
        yield self._any
        yield from self._domains.values()
        yield from self._parents.values()


def _joined(routes: tuple[Route, ...], route: Route) -> tuple[Route, ...] | None:
    """Return *routes* with *route* in its place, one without a pattern last; None if there would be two such.

    Nor may one be there twice.
    """
    if route in routes:
        return None
    if route.pattern is not None:
        return (*(each for each in routes if each.pattern), route, *(each for each in routes if not each.pattern))
    return None if routes and routes[-1].pattern is None else (*routes, route)
