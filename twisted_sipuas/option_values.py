"""What does the text of an option stand for? Numbers, each with one text for its fault, and what names the option."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeVar

__all__ = ["seconds", "taken", "whole_number"]

_DIGITS = re.compile(r"[0-9]{1,10}")

_Value = TypeVar("_Value")


def whole_number(text: str, least: int, most: int | None = None) -> int:
    """Return the whole number that *text* is; raises `ValueError` if it is none from *least* to *most*."""
    if _DIGITS.fullmatch(text) and least <= int(text) and (most is None or int(text) <= most):
        return int(text)
    raise ValueError(f"expected a whole number from {least}" + ("" if most is None else f" to {most}"))


def seconds(text: str, *, may_be_zero: bool = False) -> float:
    """Return the seconds that *text* says; raises `ValueError` if it does not, or says that there is no end."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf or (number == 0 and not may_be_zero):
        raise ValueError("expected a number of seconds")
    return number


def taken(options: dict[str, str], name: str, read: Callable[[str], _Value]) -> _Value | None:
    """Take the option *name* out of *options*, and return what *read* makes of it; None if it is not there.

    Raises the `ValueError` of *read* with the option named.
    """
    if name not in options:
        return None
    text = options.pop(name)
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{name}={text}: {error}") from None
