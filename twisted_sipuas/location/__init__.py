"""Where users can be reached (RFC 3261, 10): location services, and `location_service` to make one from its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted_sipuas.interfaces import IBindingStore
from twisted_sipuas.location.binding import Binding, Limits, Registration
from twisted_sipuas.location.memory import MemoryBindingStore
from twisted_sipuas.location.sqlite import SQLiteBindingStore
from twisted_sipuas.location.target import Redirection, Target

__all__ = [
    "Binding",
    "Limits",
    "MemoryBindingStore",
    "Redirection",
    "Registration",
    "SQLiteBindingStore",
    "Target",
    "location_service",
]


def location_service(text: str, reactor: Any) -> IBindingStore:
    """Return the location service that ``KIND[,option=value...]:REST`` describes, not yet started.

    The kinds are ``memory:`` and ``sqlite:FILE``; they have no options. ``@FILE`` as REST stands for what is in that
    file, without its last line end. Raises `ValueError` saying what is wrong and what was expected.
    """
    head, colon, rest = text.partition(":")
    kind, *options = head.split(",")
    if not colon or kind not in _KINDS:
        raise ValueError(f"{text!r} is no location service: expected memory: or sqlite:FILE")
    if options:
        raise ValueError(f"{text!r}: {options[0].partition('=')[0]!r} is no option of {kind}: expected none")
    if rest.startswith("@"):
        rest = _content(rest[1:])
    try:
        return _KINDS[kind](rest, reactor)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


def _memory(rest: str, reactor: Any) -> IBindingStore:
    if rest:
        raise ValueError("expected nothing behind memory:")
    return MemoryBindingStore(reactor)


_KINDS: dict[str, Callable[[str, Any], IBindingStore]] = {"memory": _memory, "sqlite": SQLiteBindingStore}


def _content(path: str) -> str:
    """Return what is in the file *path*, octet for octet, without its last line end."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text
