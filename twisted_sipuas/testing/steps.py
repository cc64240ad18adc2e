"""The plain words that sequences of messages are written in, and what becomes of them when they are played."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias

from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing.ladder import summary

__all__ = [
    "Expected",
    "Player",
    "Step",
    "Steps",
    "Unmet",
    "answer",
    "do",
    "expect",
    "nothing",
    "play",
    "resend",
    "send",
    "step",
]


class Player(Protocol):
    """What steps are played by: the one side of an exchange that a test is in the place of."""

    def send_step(self, method: str, **fields: Any) -> None:
        """Send a request."""

    def resend_step(self) -> None:
        """Send the latest request again."""

    def expect_step(self, expected: Expected) -> None:
        """See that the next message is the one *expected*; raises `AssertionError` if it is not."""

    def answer_step(self, status: int, **fields: Any) -> None:
        """Answer the latest request that was expected."""

    def time_step(self, seconds: float) -> None:
        """Let time pass."""

    def nothing_step(self) -> None:
        """See that no message is there; raises `AssertionError` if one is."""


class Step(NamedTuple):
    """One step: how it reads, and what plays it."""

    text: str
    play: Callable[[Player], object]

    def __str__(self) -> str:
        return self.text


class Unmet(AssertionError):
    """What was expected did not come. Its message says what did (`text`), and what was exchanged."""

    def __init__(self, text: str, exchanged: object, told: str = "") -> None:
        super().__init__("\n\n".join(filter(None, [text, told, f"what was exchanged:\n{_indented(exchanged)}"])))
        self.text = text


Steps: TypeAlias = "Iterable[Step | str]"
"""Steps, and between them plain words about what goes on."""


class Expected(NamedTuple):
    """What a message has to be: a status, or the method of a request, with certain header fields.

    The value of a header field is its text, None if it must not be there, or ``...`` for any.
    """

    what: int | str
    method: str | None = None
    """For a response: what it answers."""
    fields: tuple[tuple[str, object], ...] = ()

    @classmethod
    def of(cls, what: int | str, method: str | None = None, fields: dict[str, object] | None = None) -> Expected:
        """Return what `expect` describes; in names of *fields* an underscore stands for a hyphen."""
        rows = tuple((name.replace("_", "-"), value) for name, value in (fields or {}).items())
        return cls(what, method, rows)

    def is_kind_of(self, message: Request | Response) -> bool:
        """Whether *message* is what it should be, header fields aside."""
        if isinstance(message, Request):
            return self.what == message.method
        method = (message.headers.get("CSeq") or "").rpartition(" ")[2]
        return self.what == message.status and self.method in (None, method)

    def fault_in(self, message: Request | Response) -> str | None:
        """Return what is wrong with *message*, None if nothing is."""
        if not self.is_kind_of(message):
            return f"expected {self}, got {summary(message)}"
        for name, value in self.fields:
            found = message.headers.get_all(name)
            is_right = (
                bool(found) if value is ... else not found if value is None else value in (", ".join(found), *found)
            )
            if not is_right:
                there = ", ".join(found) if found else "none"
                return f"expected {self}, got {summary(message)} with {name}: {there}"
        return None

    def __str__(self) -> str:
        text = f"{self.what}" if self.method is None else f"{self.what} ({self.method})"
        rows = [f"no {name}" if value is None else f"{name}: {_named(value)}" for name, value in self.fields]
        return f"{text} with {' and '.join(rows)}" if rows else text


def send(method: str, **fields: Any) -> Step:
    """Send a request; *fields* are those of `make_request`.

    ACK and CANCEL are those of the latest INVITE. Others are within the dialog, once there is one.
    """
    what = fields.get("uri")
    return Step(f"send {method}{f' {what}' if what else ''}", lambda player: player.send_step(method, **fields))


def resend() -> Step:
    """Send the latest request again, as if the answer had been lost."""
    return Step("resend", lambda player: player.resend_step())


def expect(what: int | str, method: str | None = None, **header_fields: object) -> Step:
    """See that the next message is a response of the status *what*, or a request of the method *what*.

    *method* says which request is answered. *header_fields* are what it has to say, as ``Contact="<sip:bob@host>"`` or
    ``Retry_After=...`` for any, or None for a field that must not be there.
    """
    expected = Expected.of(what, method, header_fields)
    return Step(f"expect {expected}", lambda player: player.expect_step(expected))


def answer(status: int, reason: str | None = None, **fields: Any) -> Step:
    """Answer the latest request that was expected; *reason* and *fields* are those of `Request.response`."""
    return Step(f"answer {status}", lambda player: player.answer_step(status, reason=reason, **fields))


def step(seconds: float) -> Step:
    """Let time pass. What is received meanwhile can be expected afterwards."""
    return Step(f"step {seconds:g}", lambda player: player.time_step(seconds))


def nothing() -> Step:
    """See that there is no message which was not expected yet."""
    return Step("nothing", lambda player: player.nothing_step())


def do(function: Callable[..., object], *arguments: object) -> Step:
    """Call *function*: what else happens between two messages."""
    name = getattr(function, "__qualname__", repr(function))
    return Step(f"do {name}", lambda player: function(*arguments))


def play(player: Player, steps: Steps, exchanged: object) -> None:
    """Have *player* play *steps*; what fails says at which step, and *exchanged* what went over the network."""
    __tracebackhide__ = True  # for pytest: what is of interest is in the message
    steps = tuple(steps)
    for number, part in enumerate(steps):
        if isinstance(part, str):
            continue
        try:
            part.play(player)
        except AssertionError as error:
            text = error.text if isinstance(error, Unmet) else str(error)
            raise Unmet(text, exchanged, _told(steps, number)) from None


def _named(value: object) -> object:
    return "any" if value is ... else value


def _told(steps: tuple[Step | str, ...], failed: int) -> str:
    """Return *steps* as text, with an arrow at the one that *failed*."""
    lines = ["the steps:"]
    for number, part in enumerate(steps):
        mark = "->" if number == failed else "  "
        lines.append(f"{mark} {part}" if isinstance(part, Step) else f"   # {part}")
    return "\n".join(lines)


def _indented(text: object) -> str:
    return textwrap.indent(str(text), "  ")
