"""Which checks are made, in what order, and what comes of each?"""

from __future__ import annotations

from collections.abc import Generator, Iterable

from twisted_sipuas.conformance import checks as _checks  # fills CHECKS  # noqa: F401
from twisted_sipuas.conformance.check import CHECKS, Broken, Check, NotJudged, Outcome, Result
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.errors import MessageSyntaxError

__all__ = ["Unusable", "acquaint", "chosen", "judge", "run"]


class Unusable(Exception):
    """There is no server there that could be judged; the text says why."""


def chosen(role: str, transport: str, only: Iterable[str] = ()) -> list[Check]:
    """Return the checks of a server in *role* by *transport*, in the order of a report.

    With *only*, those whose id is among these, or begins with one and goes on with a full stop or a hyphen.
    """
    wanted = tuple(only)
    found = [check for check in CHECKS if role in check.roles and transport in check.transports]
    if wanted:
        found = [check for check in found if any(_is_of(check.id, id) for id in wanted)]
    return sorted(found, key=lambda check: check.order)


def _is_of(id: str, wanted: str) -> bool:
    return id == wanted or id.startswith((f"{wanted}.", f"{wanted}-"))


def acquaint(client: Client) -> None:
    """Find out what *client*'s server answers; raises `Unusable` if that is nothing.

    A server that does not answer OPTIONS is asked by INVITE in its place. So that nobody's registrations are lost, an
    address-of-record that has bindings is not used.
    """
    method = client.method
    try:
        if client.specimen(method) is None:
            client.unanswered.add(method)
            if method == "REGISTER" or client.specimen("INVITE") is None:
                raise Unusable(f"{client.wire.server} {_silence(client, method)} by {client.wire.transport}")
            client.method = "INVITE"
        elif method == "REGISTER":
            bound = client.usual(method).contacts if client.usual(method).status == 200 else []
            if bound:
                raise Unusable(f"{client.target.aor} has bindings, which would be lost; --aor names another")
    except NotJudged as fault:
        raise Unusable(f"{client.wire.server} by {client.wire.transport}: {fault}") from None
    except Broken as fault:
        raise Unusable(f"the answer cannot be read: {fault}") from None
    finally:
        _finish(client)


def _silence(client: Client, method: str) -> str:
    """Say how nothing final was answered to *method*, nor to what else was tried."""
    came = [exchange.answers[-1].name for exchange in client.exchanges if exchange.answers]
    if not came:
        return f"does not answer {method}"
    return f"has no final answer within {client.target.timeout:g} s, but {came[-1]},"


def run(client: Client, checks: Iterable[Check]) -> Generator[Result, None, None]:
    """Make *checks* in turn, and yield what comes of each.

    A server that has ceased to answer anything is not judged any further.
    """
    last: str | None = None
    try:
        for check in checks:
            if last is not None:
                yield Result(check, Outcome.NOT_JUDGED, f"nothing is answered since the check of {last}")
                continue
            unanswered = client.unanswered_count
            yield judge(client, check)
            if client.unanswered_count > unanswered and not _answers(client):
                last = check.id
    finally:  # whoever asks for no more results, or interrupts, leaves no binding behind either
        if client.target.role == "registrar":
            _remove_bindings(client)


def judge(client: Client, check: Check) -> Result:
    """Make one *check*, and end what it has begun."""
    try:
        check.judge(client)
    except Broken as seen:
        return Result(check, Outcome.BROKEN, str(seen))
    except NotJudged as why:
        return Result(check, Outcome.NOT_JUDGED, str(why))
    except MessageSyntaxError as fault:
        return Result(check, Outcome.BROKEN, f"what came cannot be read: {fault.reason}")
    finally:
        _finish(client)
    return Result(check, Outcome.HOLDS)


def _finish(client: Client) -> None:
    """End what is open, as far as that goes."""
    try:
        client.finish()
    except (Broken, NotJudged, MessageSyntaxError):
        pass  # what cannot be ended is left to the server's own timers


def _answers(client: Client) -> bool:
    """Whether the server answers a plain request."""
    try:
        client.ask()
    except (Broken, NotJudged, MessageSyntaxError):
        return False
    finally:
        _finish(client)
    return True


def _remove_bindings(client: Client) -> None:
    """Leave no binding behind: each is removed by its name, for not every server takes ``*``."""
    client.is_ending = True
    try:
        bound = client.ask("REGISTER").contacts
        if bound:
            client.ask("REGISTER", headers=tuple(("Contact", f"<{contact.uri_text}>;expires=0") for contact in bound))
    except (Broken, NotJudged, ValueError):
        pass  # then they expire
    finally:
        client.is_ending = False
