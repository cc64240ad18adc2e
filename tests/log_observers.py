"""A function as an observer of the log: Twisted takes any callable, which zope.interface cannot know."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.logger import ILogObserver, LogEvent

__all__ = ["log_observer"]


def log_observer(observe: Callable[[LogEvent], None]) -> ILogObserver:
    """Return *observe* as what `globalLogPublisher` takes; a decorator too."""
    return cast(ILogObserver, observe)
