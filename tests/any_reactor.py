"""The reactor, for tests that use more of it than Twisted's own annotations know."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as _reactor

__all__ = ["reactor"]

reactor: Any = _reactor
