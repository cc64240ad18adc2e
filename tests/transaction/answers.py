"""What do the tests of transactions let a transaction user answer?"""

from __future__ import annotations

from twisted_sipuas.syntax.fields import NameAddr


def to_tag(response):
    """Return the To tag of *response*, or None."""
    return NameAddr(response.headers.get("To")).tag


def answering(status, **fields):
    """Return what answers every request with *status* at once."""
    return lambda request, transaction: transaction.respond(request.response(status, **fields))


def challenge(request, transaction):
    """Refuse *request* and keep nothing."""
    transaction.respond_statelessly(request.response(401))
