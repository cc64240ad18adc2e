"""Does OPTIONS tell what 11.2 asks for?"""

from __future__ import annotations

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import CHALLENGES, Client
from twisted_sipuas.conformance.exchange import Answer

__all__: list[str] = []

_UAS = ("uas",)
_OF_THE_OFFER = (415, 488, 606)  # what an INVITE gets for what it offers


@judges("11-1", Level.MUST, "OPTIONS is answered", roles=("uas", "stateless"))
def options_is_answered(client: Client) -> None:
    if client.method != "OPTIONS" or client.specimen("OPTIONS") is None:
        raise Broken("OPTIONS is not answered")
    answer = client.usual("OPTIONS")
    if answer.status in (405, 501):
        raise Broken(f"OPTIONS got {answer.name}")


@judges("11.2-2", Level.MUST, "OPTIONS gets the status that an INVITE would get", roles=_UAS)
def options_as_invite(client: Client) -> None:
    invite, options = client.usual("INVITE"), client.usual("OPTIONS")
    if options.status != invite.status:
        if invite.status in _OF_THE_OFFER or CHALLENGES & {invite.status, options.status}:
            raise NotJudged(f"INVITE got {invite.name}, and OPTIONS, which has no offer, {options.name}")
        raise Broken(f"OPTIONS got {options.name}, INVITE {invite.name}")


@judges("11.2-4", Level.SHOULD, "the 200 to OPTIONS has Allow", roles=_UAS)
def options_has_allow(client: Client) -> None:
    _expect(client, "Allow")


@judges("11.2-5", Level.SHOULD, "the 200 to OPTIONS has Accept", roles=_UAS)
def options_has_accept(client: Client) -> None:
    _expect(client, "Accept")


@judges("11.2-6", Level.SHOULD, "the 200 to OPTIONS has Accept-Encoding", roles=_UAS)
def options_has_accept_encoding(client: Client) -> None:
    _expect(client, "Accept-Encoding")


@judges("11.2-7", Level.SHOULD, "the 200 to OPTIONS has Accept-Language", roles=_UAS)
def options_has_accept_language(client: Client) -> None:
    _expect(client, "Accept-Language")


@judges("11.2-8", Level.SHOULD, "the 200 to OPTIONS has Supported", roles=_UAS)
def options_has_supported(client: Client) -> None:
    _expect(client, "Supported")


@judges("11-2", Level.MAY, "OPTIONS with Max-Forwards: 0 is answered, not refused with 483", roles=("uas", "stateless"))
def max_forwards_is_for_proxies(client: Client) -> None:
    answer = client.ask("OPTIONS", headers=(("Max-Forwards", "0"),))
    if answer.status == 483:
        raise Broken(f"OPTIONS with Max-Forwards: 0 got {answer.name}")


def _expect(client: Client, name: str) -> None:
    answer: Answer = client.usual("OPTIONS")
    if answer.status != 200:
        raise NotJudged(f"OPTIONS got {answer.name}")
    if name not in answer.headers:
        raise Broken(f"200 lacks {name}")
