"""What do the tests of transactions let a transaction user answer?"""

from __future__ import annotations

from typing import Any

from twisted_sipuas.syntax.fields import NameAddr
from twisted_sipuas.syntax.message import Request


def to_tag(response: Any) -> Any:
    """Return the To tag of *response*, or None."""
    return NameAddr(response.headers.get("To")).tag


def answering(status: int, **fields: Any) -> Any:
    """Return what answers every request with *status* at once."""
    return lambda request, transaction: transaction.respond(request.response(status, **fields))


def challenge(request: Request, transaction: Any) -> None:
    """Refuse *request* and keep nothing."""
    transaction.respond_statelessly(request.response(401))
