"""Which answers of a location service are kept, so that it need not be asked again?"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, NamedTuple

from twisted.internet.interfaces import IReactorTime

from twisted_sipuas.errors import SIPError
from twisted_sipuas.location.target import Redirection, Target
from twisted_sipuas.syntax.uri import URI, address_of_record

__all__ = ["Answer", "Answers"]


class Answer(NamedTuple):
    """What a look-up gave, and when, for which address-of-record."""

    at: float
    address_of_record: str
    found: Redirection | SIPError | None


class Answers:
    """Answers by the text of the Request-URI, each for *seconds*; those used last stay where they are too many."""

    max_kept: ClassVar[int] = 10_000
    """Answers kept; past them the one goes that was not asked for the longest."""

    max_characters: ClassVar[int] = 2000
    """Of a Request-URI and its answer together; longer ones are not kept."""

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._kept: OrderedDict[str, Answer] = OrderedDict()
        self._texts: dict[str, set[str]] = {}  # the keys of _kept by address-of-record

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, request_uri: URI) -> Answer | None:
        """Return what is known of *request_uri*, as it is now; None if nothing is."""
        text = request_uri.text
        known = self._kept.get(text)
        if known is None:
            return None
        age = self._clock.seconds() - known.at
        answer = _aged(known, int(age)) if age < self._seconds else None
        if answer is None:
            self._drop(text)
        else:
            self._kept.move_to_end(text)
        return answer

    def keep(self, request_uri: URI, found: Redirection | SIPError | None) -> None:
        """Keep *found* as the answer for *request_uri*, if that is not too long."""
        text = request_uri.text
        if text in self._kept:
            self._drop(text)
        if len(text) + _characters(found) > self.max_characters:
            return
        if len(self._kept) >= self.max_kept:
            self._drop(next(iter(self._kept)))
        address = address_of_record(request_uri)
        self._kept[text] = Answer(self._clock.seconds(), address, found)
        self._texts.setdefault(address, set()).add(text)

    def forget(self, address_of_record: str) -> None:
        """Drop what is known of *address_of_record*, which has changed."""
        for text in self._texts.pop(address_of_record, ()):
            del self._kept[text]

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
        self._texts.clear()

    def _drop(self, text: str) -> None:
        address = self._kept.pop(text).address_of_record
        texts = self._texts[address]
        texts.remove(text)
        if not texts:
            del self._texts[address]


def _characters(found: Redirection | SIPError | None) -> int:
    if found is None:
        return 0
    targets = found.targets if isinstance(found, Redirection) else ()
    return sum(len(str(target)) for target in targets) + sum(len(name) + len(value) for name, value in found.headers)


def _aged(answer: Answer, age: int) -> Answer | None:
    """Return *answer* as it is after *age* seconds: what is to expire has less left; None if nothing has any."""
    found = answer.found
    if not isinstance(found, Redirection) or all(target.expires is None for target in found.targets):
        return answer
    targets = [_with_expires(target, age) for target in found.targets if target.expires is None or target.expires > age]
    return answer._replace(found=Redirection(targets, found.status, found.headers)) if targets else None


def _with_expires(target: Target, age: int) -> Target:
    if target.expires is None:
        return target
    return Target(
        target.uri,
        q=target.q,
        expires=target.expires - age,
        display_name=target.display_name,
        parameters=target.parameters,
    )
