"""What does ``--help`` show, and what can be completed? The options in groups, each with its value and its default."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from twisted.python import usage

__all__ = [
    "DescribedOption",
    "OptionGroup",
    "completions",
    "filled",
    "grouped_options",
    "usage_text",
    "words_completer",
]

_GROUPS: Mapping[str, str] = {
    "What answers": "mode answer handler domain server-header",
    "Where it listens": "listen advertise tls-client-ca workers",
    "Where calls go": "location help-location lookup-timeout on-lookup-failure redirect-status max-targets",
    "Registrations": """registrar no-registrar allow-anonymous-registration
        min-expires max-expires default-expires max-contacts""",
    "Passwords": "auth help-auth realm auth-methods auth-algorithms auth-qop",
    "Who may send, and how much": "allow deny trust max-rate rate-burst over-rate max-lag",
    "Bounds": """max-dialogs max-call-time max-transactions max-connections max-connections-per-source
        idle-timeout message-timeout max-message max-header""",
    "What it tells": "trace version help",
}
"""The options in the order in which they are read best; a test knows that none is missing."""

_VALUES: Mapping[str, str] = {
    "advertise": "HOST[:PORT]",
    "allow": "NET",
    "answer": "STATUS",
    "auth": "CHECKER",
    "auth-algorithms": "LIST",
    "auth-methods": "LIST",
    "auth-qop": "auth|auth-int|auth,auth-int",
    "default-expires": "SECONDS",
    "deny": "NET",
    "domain": "NAME",
    "handler": "PACKAGE.MODULE.CLASS",
    "idle-timeout": "SECONDS",
    "listen": "DESCRIPTION",
    "location": "DESCRIPTION",
    "lookup-timeout": "SECONDS",
    "max-call-time": "SECONDS",
    "max-connections": "N",
    "max-connections-per-source": "N",
    "max-contacts": "N",
    "max-dialogs": "N",
    "max-expires": "SECONDS",
    "max-header": "OCTETS",
    "max-lag": "SECONDS",
    "max-message": "OCTETS",
    "max-rate": "N",
    "max-targets": "N",
    "max-transactions": "N",
    "message-timeout": "SECONDS",
    "min-expires": "SECONDS",
    "mode": "redirect|stateful|stateless",
    "on-lookup-failure": "answer|next",
    "over-rate": "503|silence",
    "rate-burst": "N",
    "realm": "NAME",
    "redirect-status": "300|301|302|auto",
    "server-header": "TEXT",
    "tls-client-ca": "FILE",
    "trust": "NET",
    "workers": "N",
}
"""What is written for an option's value: the values themselves where there are few."""

_BEGINNINGS: Mapping[str, tuple[str, ...]] = {
    "auth": ("file:", "subscriber:sqlite:", "subscriber:postgres:"),
    "listen": ("udp:", "tcp:", "ssl:", "haproxy:", "systemd:"),
}
_REPEATABLE = frozenset("allow auth deny domain listen location trust".split())

_DEFAULT = re.compile(r"\s*\[default: ([^]]*)\]\.?")
_NO_BREAK = "\N{NO-BREAK SPACE}"
_TEXT_COLUMN = 26
_LONGEST_LINE = 100  # longer ones are hard to read, however wide the terminal


@dataclass(frozen=True)
class DescribedOption:
    """What is to be known of one option; *value* is empty for a flag, *default* where there is none."""

    name: str
    value: str
    meaning: str
    default: str
    is_repeatable: bool
    words: tuple[str, ...]
    """What the value is or, if it ends in a colon, begins with; empty where that is not known."""

    @property
    def form(self) -> str:
        """The option as it is written, with what stands for its value."""
        return f"--{self.name} {self.value}".rstrip()


@dataclass(frozen=True)
class OptionGroup:
    """Options that are read together, under one *title*."""

    title: str
    options: tuple[DescribedOption, ...]


def grouped_options(options: usage.Options) -> Iterator[OptionGroup]:
    """Yield all that *options*, those of ``twistd sipuas``, can be told."""
    for title, names in _GROUPS.items():
        yield OptionGroup(title, tuple(_described(options, name) for name in names.split()))


def _described(options: usage.Options, name: str) -> DescribedOption:
    text = " ".join((options.docs[name] or "").split())
    if stated := _DEFAULT.search(text):
        default, meaning = stated[1], _DEFAULT.sub("", text)
    else:
        known = options.defaults.get(name)
        default, meaning = "" if known is None else f"{known:g}" if isinstance(known, float) else str(known), text
    value = _VALUES[name] if f"{name}=" in options.longOpt else ""
    return DescribedOption(
        name=name,
        value=value,
        meaning=meaning if meaning.endswith((".", ")")) else f"{meaning}.",
        default=default if value or stated else "",
        is_repeatable=name in _REPEATABLE,
        words=_words(name, value),
    )


def usage_text(description: str, options: usage.Options, width: int | None = None) -> str:
    """Return what follows the first line of ``--help``, as wide as the terminal but no wider than is read well."""
    width = width or min(shutil.get_terminal_size().columns, _LONGEST_LINE)
    groups = [
        f"{group.title}:\n" + "".join(_entry(option, width) for option in group.options)
        for group in grouped_options(options)
    ]
    return "\n".join(["", filled(description, width, others="") + "\n", *groups])


def _entry(option: DescribedOption, width: int) -> str:
    """Return the lines of one option: its form, and beside or below that what it means."""
    text = option.meaning
    if option.default:
        text += f" [default: {option.default}]".replace("default: ", f"default:{_NO_BREAK}")
    indent = " " * _TEXT_COLUMN
    form = f"  {option.form}"
    if len(form) + 2 <= _TEXT_COLUMN:
        return filled(text, width, first=form.ljust(_TEXT_COLUMN), others=indent) + "\n"
    return f"{form}\n{filled(text, width, first=indent, others=indent)}\n"


def filled(text: str, width: int = 79, *, first: str = "", others: str = "    ") -> str:
    """Return *text* in lines of *width*, with what they begin with; a word is never cut, so a longer one stands out."""
    lines = textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace(_NO_BREAK, " ")


def completions() -> usage.Completions:
    """Return what Twisted has zsh complete behind ``twistd sipuas``; the kinds of ``--location`` are not known here."""
    return usage.Completions(
        multiUse=sorted(_REPEATABLE),
        optActions={name: _completer(name, value) for name, value in _VALUES.items()},
    )


def words_completer(words: Iterable[str]) -> usage.Completer:
    """Return what has zsh complete one of *words*."""
    return usage.CompleteList([word.replace(":", r"\:") for word in words])


def _completer(name: str, value: str) -> usage.Completer:
    if words := _words(name, value):
        return words_completer(words)
    return usage.CompleteFiles() if value == "FILE" else usage.Completer(value)


def _words(name: str, value: str) -> tuple[str, ...]:
    return tuple(value.split("|")) if "|" in value else _BEGINNINGS.get(name, ())
