"""How does text from the network get into the log? Escaped, so that it can neither forge a line nor command a terminal.

An exception quotes what it choked on, a PROXY header says what it likes, a certificate names whom it likes. No message
can know that of each of its parts; so every module here logs by this `Logger`, which looks at all of them.
"""

from __future__ import annotations

from twisted import logger
from twisted.python.failure import Failure

__all__ = ["Logger", "visible"]

_LONGEST = 4000  # characters of one part of a message


def visible(text: str, kept: str = "") -> str:
    """Return *text* with every character escaped that is not plain to see, but for those in *kept*.

    Those are control characters, also the invisible ones that turn the direction of text or hide in it, and octets that
    are no UTF-8.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in kept else character.encode("unicode_escape").decode()
        for character in text
    )


class Logger(logger.Logger):
    """Twisted's logger, with the parts of each message made `visible` and of bounded length.

    A failure stays one, for observers that want it; what is printed of it is escaped, its line breaks apart.
    """

    def emit(self, level: logger.LogLevel, format: str | None = None, **kwargs: object) -> None:
        """See `twisted.logger.Logger.emit`."""
        for name, value in kwargs.items():
            if isinstance(value, Failure):
                kwargs[name] = _VisibleFailure.of(value)
            elif not isinstance(value, (int, float)) and not name.startswith("log_"):
                text = str(value)
                kwargs[name] = visible(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
        super().emit(level, format, **kwargs)


class _VisibleFailure(Failure):
    """A failure whose texts are made `visible`."""

    @classmethod
    def of(cls, failure: Failure) -> _VisibleFailure:
        """Return *failure* as one of this kind."""
        made = cls.__new__(cls)
        made.__dict__.update(failure.__dict__)
        return made

    def getErrorMessage(self) -> str:
        """See `Failure`."""
        return visible(super().getErrorMessage())

    def getTraceback(self, elideFrameworkCode: int = 0, detail: str = "default") -> str:
        """See `Failure`."""
        return visible(super().getTraceback(elideFrameworkCode, detail), "\n")
