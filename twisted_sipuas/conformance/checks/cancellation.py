"""Is a CANCEL processed as 9.2 says?"""

from __future__ import annotations

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.exchange import Exchange

__all__: list[str] = []

_SERVERS = ("redirect", "uas")
_A_MOMENT = 0.2  # seconds: for a final response that comes directly behind a provisional one


@judges("9.2-4", Level.SHOULD, "a CANCEL that matches nothing gets 481", roles=_SERVERS)
def unknown_cancel_gets_481(client: Client) -> None:
    answer = client.final(_stray_cancel(client))
    if answer.status != 481:
        raise Broken(f"CANCEL of nothing got {answer.name}")


@judges("9.2-8", Level.IS, "a CANCEL that matches gets 200", roles=_SERVERS)
def matched_cancel_gets_200(client: Client) -> None:
    invite, cancel = _cancelled(client)
    answer = client.final(cancel)
    if answer.status != 200:
        raise Broken(f"CANCEL of an INVITE{' that was answered' if invite.finals else ''} got {answer.name}")


@judges("9.2-9", Level.SHOULD, "the 200 to a CANCEL has the To tag of the INVITE's response", roles=_SERVERS)
def cancel_has_the_tag(client: Client) -> None:
    invite, cancel = _cancelled(client)
    answer = client.final(cancel)
    if answer.status != 200:
        raise NotJudged(f"CANCEL got {answer.name}")
    client.wait(invite)
    tags = [response.to_tag for response in invite.answers if response.status > 100]
    if not tags:
        raise NotJudged("the INVITE got no response but 100")
    if answer.to_tag != tags[0]:
        raise Broken(f"tag={answer.to_tag}, and tag={tags[0]} for the INVITE")


@judges("9.2-6", Level.SHOULD, "a cancelled INVITE gets 487", roles=("uas",))
def cancelled_invite_gets_487(client: Client) -> None:
    invite, cancel = _cancelled(client)
    if invite.final is not None:
        raise NotJudged(f"INVITE was answered {invite.final.name} before it could be cancelled")
    client.wait(cancel)
    is_first = cancel.final is None or invite.final is not None  # it was on its way as the CANCEL was
    answer = client.final(invite)
    if answer.status == 487:
        return
    if is_first:
        raise NotJudged(f"the INVITE got {answer.name} before the CANCEL had its answer")
    raise Broken(f"the cancelled INVITE got {answer.name}")


@judges("9.2-5", Level.IS, "a CANCEL changes nothing once a final response is out", roles=_SERVERS)
def late_cancel_changes_nothing(client: Client) -> None:
    invite, cancel = _cancelled(client)
    client.wait(cancel)
    if invite.final is None or invite.final.status == 487:
        raise NotJudged("INVITE had no final response yet")
    client.gather(1.2)
    statuses = {answer.status for answer in invite.finals}
    if len(statuses) > 1:
        raise Broken(f"INVITE got {' and then '.join(answer.name for answer in invite.finals)}")


@judges("9.2-7", Level.IS, "a CANCEL has no effect on other methods", roles=("redirect", "uas"))
def cancel_of_another_method(client: Client) -> None:
    exchange = client.prepare()
    client.transmit(exchange.octets, exchange.channel)
    client.cancel(exchange)
    client.expect_usual(client.final(exchange))


@judges("22.1-13", Level.MUST_NOT, "a CANCEL is not challenged", roles=_SERVERS)
def cancel_is_not_challenged(client: Client) -> None:
    answer = client.final(_stray_cancel(client))
    if answer.status in (401, 407):
        raise Broken(f"CANCEL got {answer.name}")


@judges("8.2.2.3-4", Level.MUST, "Require in a CANCEL is ignored", roles=_SERVERS)
def require_in_cancel_is_ignored(client: Client) -> None:
    _, cancel = _cancelled(client, headers=(("Require", "x-conformance-unknown"),))
    answer = client.final(cancel)
    if answer.status == 420:
        raise Broken(f"CANCEL with Require got {answer.name}")


def _stray_cancel(client: Client) -> Exchange:
    """Send a CANCEL of what was never sent."""
    return client.cancel(client.prepare("INVITE"))


def _cancelled(client: Client, headers: tuple[tuple[str, str], ...] = ()) -> tuple[Exchange, Exchange]:
    """Send an INVITE, and a CANCEL for it as soon as there is any response (9.1); the ACK is still due.

    Where the INVITE is accepted before that, one is cancelled that has to be refused: a 2xx ends the transaction.
    """
    invite = _answered(client, ())
    if invite.final is not None and invite.final.status < 300:
        invite = _answered(client, (("Require", "x-conformance-unknown"),))
        if invite.final is not None and invite.final.status < 300:
            raise NotJudged(f"INVITE was answered {invite.final.name} before it could be cancelled")
    if invite.final is not None:
        client.expect_transaction(invite.final)
    return invite, client.cancel(invite, headers)


def _answered(client: Client, headers: tuple[tuple[str, str], ...]) -> Exchange:
    """Return an INVITE that got some response, and no final one directly behind it."""
    invite = client.send("INVITE", acknowledges=False, headers=headers)
    client.wait(invite, until=lambda: bool(invite.answers))
    if not invite.answers:
        client.final(invite)  # which says so
    client.wait(invite, _A_MOMENT)
    return invite
