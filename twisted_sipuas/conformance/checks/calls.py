"""Are calls accepted, kept and ended as 12 to 15 say?"""

from __future__ import annotations

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.draft import SDP
from twisted_sipuas.conformance.exchange import Answer, Exchange
from twisted_sipuas.errors import MessageSyntaxError

__all__: list[str] = []

_UAS = ("uas",)
_EXPIRED = 3.0  # seconds: those of Expires, and time for a busy network
_TAG_OF_NOBODY = ";tag=no-such-dialog"


# The 2xx


@judges("12.1.1-3", Level.MUST, "the 2xx has a Contact", roles=_UAS)
def acceptance_has_contact(client: Client) -> None:
    if not _acceptance(client).contacts:
        raise Broken("2xx lacks Contact")


@judges("12.1.1-4", Level.MUST, "that Contact is a SIP or SIPS URI", roles=_UAS)
def contact_is_sip(client: Client) -> None:
    for contact in _acceptance(client).contacts:
        try:
            scheme = contact.uri.scheme
        except MessageSyntaxError:
            scheme = "malformed"
        if scheme not in ("sip", "sips"):
            raise Broken(f"Contact: {contact}")


@judges("12.1.1-1", Level.MUST, "the 2xx has every Record-Route, with its parameters", roles=_UAS)
def record_routes_are_copied(client: Client) -> None:
    sent, got = _record_routes(client)
    if sorted(got) != sorted(sent):
        raise Broken(f"Record-Route: {', '.join(got) or 'none'}, for {', '.join(sent)}")


@judges("12.1.1-2", Level.MUST, "Record-Route keeps its order", roles=_UAS)
def record_routes_are_in_order(client: Client) -> None:
    sent, got = _record_routes(client)
    if got != sent and sorted(got) == sorted(sent):
        raise Broken(f"Record-Route: {', '.join(got)}, for {', '.join(sent)}")


@judges("13.3.1.4-1", Level.SHOULD, "the 2xx has Allow", roles=_UAS)
def acceptance_has_allow(client: Client) -> None:
    if "Allow" not in _acceptance(client).headers:
        raise Broken("2xx lacks Allow")


@judges("13.3.1.4-2", Level.SHOULD, "the 2xx has Supported", roles=_UAS)
def acceptance_has_supported(client: Client) -> None:
    if "Supported" not in _acceptance(client).headers:
        raise Broken("2xx lacks Supported")


@judges("13.3.1.4-4", Level.MUST, "the 2xx to an offer has the answer", roles=_UAS)
def offer_is_answered(client: Client) -> None:
    _expect_description(_acceptance(client), "an offer")


@judges("13.3.1.4-5", Level.MUST, "the 2xx to an INVITE without an offer has one", roles=_UAS)
def offer_is_made(client: Client) -> None:
    exchange = client.call(body=b"")
    assert exchange.final is not None
    _expect_description(exchange.final, "no offer")


@judges("13.3.1.4-6", Level.IS, "the 2xx is sent again until its ACK, by any transport", roles=_UAS)
def acceptance_is_sent_again(client: Client) -> None:
    exchange = client.call(acknowledges=False)
    client.gather(2.5, until=lambda: len(exchange.finals) > 1)
    if len(exchange.finals) < 2:
        raise Broken("one 2xx within 2.5 s without an ACK")


@judges("13.3.1.4-6", Level.IS, "the 2xx is not sent again after its ACK", roles=_UAS)
def acceptance_ends_with_ack(client: Client) -> None:
    exchange = client.call()
    client.settle(0.2)
    count = len(exchange.finals)
    client.gather(1.7)
    if len(exchange.finals) > count + 1:  # one may have crossed the ACK
        raise Broken(f"{len(exchange.finals) - count} more after the ACK")


@judges("6026-2", Level.MUST, "an INVITE that comes again makes no second call", roles=_UAS)
def retransmission_is_no_second_call(client: Client) -> None:
    exchange = client.call(acknowledges=False)
    client.transmit(exchange.octets, exchange.channel)
    client.gather(1.0)
    tags = {answer.to_tag for answer in exchange.finals}
    if len(tags) > 1 or any(answer.status >= 300 for answer in exchange.finals):
        raise Broken(f"got {', '.join(f'{answer.name} with tag {answer.to_tag}' for answer in exchange.finals)}")


@judges("13.3.1.1-3", Level.MUST, "provisional responses and the 2xx are of one dialog", roles=_UAS)
def one_dialog(client: Client) -> None:
    exchange = client.call()
    tags = {answer.to_tag for answer in exchange.answers if answer.status > 100}
    if exchange.provisional is None:
        raise NotJudged("no provisional response but 100 came")
    if len(tags) > 1:
        raise Broken(f"the tags are {', '.join(sorted(map(str, tags)))}")


@judges("13.3.1-2", Level.SHOULD, "an INVITE that rings past its Expires gets 487", roles=_UAS)
def expired_invite_gets_487(client: Client) -> None:
    exchange = client.send("INVITE", headers=(("Expires", "1"),))
    client.wait(exchange, _EXPIRED)
    if exchange.final is None:
        if not exchange.answers:
            raise Broken("no answer")
        raise Broken(f"Expires: 1 got {exchange.answers[-1].name}, and nothing more within {_EXPIRED:g} s")
    if exchange.final.status == 487:
        return
    if (
        exchange.final.time - exchange.sent_at - client.round_trip < 1.5
    ):  # it may have been on its way as the time was up
        raise NotJudged(f"INVITE was answered {exchange.final.name} before it expired")
    raise Broken(f"the expired INVITE got {exchange.final.name}")


# Requests within a dialog


@judges("11.2-3", Level.IS, "OPTIONS within a dialog gets 200", roles=_UAS)
def options_in_dialog(client: Client) -> None:
    if "OPTIONS" in client.unanswered:
        raise NotJudged("OPTIONS is not answered")
    answer = _ask_within(client, client.call(), "OPTIONS")
    if answer.status != 200:
        raise Broken(f"OPTIONS within the dialog got {answer.name}")


@judges("12.2.2-4", Level.MUST, "if a request of an unknown dialog is refused, then with 481", roles=_UAS)
def unknown_dialog_gets_481(client: Client) -> None:
    answer = client.ask("INVITE", to=f"<{client.target.uri}>{_TAG_OF_NOBODY}")
    if answer.status >= 300:
        client.expect_refusal(answer, 481, "INVITE with an unknown To tag")


@judges("12.2.2-7", Level.MUST, "a CSeq lower than the one before gets 500", roles=_UAS)
def lower_cseq_gets_500(client: Client) -> None:
    exchange = client.call(cseq=100)
    answer = _ask_within(client, exchange, "BYE", cseq=99)
    exchange.is_over = answer.status < 300
    if answer.status != 500:
        raise Broken(f"BYE with CSeq 99 after 100 got {answer.name}")


@judges("12.2.2-8", Level.SHOULD, "a gap in CSeq is accepted", roles=_UAS)
def gap_in_cseq_is_accepted(client: Client) -> None:
    exchange = client.call()
    answer = _bye(client, exchange, cseq=50)
    if answer.status >= 300:
        raise Broken(f"BYE with CSeq 50 after 1 got {answer.name}")


# BYE


@judges("15.1.2-5", Level.MUST, "BYE gets 2xx", roles=_UAS)
def bye_gets_2xx(client: Client) -> None:
    answer = _bye(client, client.call())
    if answer.status >= 300:
        raise Broken(f"BYE got {answer.name}")


@judges("15.1.2-2", Level.SHOULD, "BYE of no dialog gets 481", roles=_UAS)
def stray_bye_gets_481(client: Client) -> None:
    answer = client.ask("BYE", to=f"<{client.target.uri}>{_TAG_OF_NOBODY}")
    client.expect_refusal(answer, 481, "BYE with an unknown To tag")


@judges("15.1.2-2", Level.SHOULD, "BYE without a To tag gets 481", roles=_UAS)
def bye_without_tag_gets_481(client: Client) -> None:
    client.expect_refusal(client.ask("BYE"), 481, "BYE without a To tag")


@judges("15-1", Level.SHOULD, "BYE ends the dialog: another gets 481", roles=_UAS)
def bye_ends_the_dialog(client: Client) -> None:
    exchange = client.call()
    if _bye(client, exchange).status >= 300:
        raise NotJudged("BYE was refused")
    answer = _ask_within(client, exchange, "BYE", cseq=exchange.request.cseq.number + 2)
    if answer.status != 481:
        raise Broken(f"BYE after BYE got {answer.name}")


def _acceptance(client: Client) -> Answer:
    """Return the 2xx to a plain INVITE; raises `NotJudged` if there is none."""
    answer = client.usual("INVITE")
    if answer.status >= 300:
        raise NotJudged(f"INVITE was answered {answer.name}")
    return answer


def _record_routes(client: Client) -> tuple[list[str], list[str]]:
    """Return the Record-Route values of an INVITE and of its 2xx, without white space."""
    host = client.channel.local
    sent = [f"<sip:{host};lr;x-unknown=1>;field=a", f"<sip:two@{host};lr>"]
    exchange = client.call(headers=tuple(("Record-Route", value) for value in sent))
    assert exchange.final is not None
    return sent, ["".join(value.split()) for value in exchange.final.values("Record-Route")]


def _expect_description(answer: Answer, what: str) -> None:
    kind = (answer.headers.get("Content-Type") or "no body").partition(";")[0].strip().lower()
    if not answer.body or (kind != SDP and not kind.startswith("multipart/")):
        raise Broken(f"{answer.name} to {what} has {kind}")


def _ask_within(client: Client, exchange: Exchange, method: str, cseq: int | None = None) -> Answer:
    sent = client.within(exchange, method, cseq=cseq)
    client.transmit(sent.octets, sent.channel)
    return client.final(sent)


def _bye(client: Client, exchange: Exchange, cseq: int | None = None) -> Answer:
    exchange.is_over = True
    return _ask_within(client, exchange, "BYE", cseq)
