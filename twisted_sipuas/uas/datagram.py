"""Does a response fit into a datagram, where it has to travel in one (18.1.1)?"""

from __future__ import annotations

from collections.abc import Iterable

from twisted_sipuas.syntax.message import Request, Response

__all__ = ["excess", "shorten"]

_MAX_OCTETS = 65000  # a datagram holds 65507, and the To tag and Server are still to come


def excess(response: Response, request: Request, added: Iterable[str]) -> int:
    """Return how many octets *response* to *request* has too many for a datagram; 0 if it fits.

    *added* are the texts that it has besides what it repeats of *request*; nearly always they alone tell that it does.
    """
    if 0 < request.size < _MAX_OCTETS // 2 - 4 * sum(map(len, added)):
        return 0
    return max(0, len(response.to_bytes()) - _MAX_OCTETS)


def shorten(contacts: list[str], octets: int) -> None:
    """Drop from the end of *contacts* as many as make a response shorter by so many *octets*; perhaps all of them."""
    while contacts and octets > 0:
        octets -= len(f"Contact: {contacts.pop()}\r\n".encode("utf-8", "surrogateescape"))
