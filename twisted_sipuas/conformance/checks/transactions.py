"""Do server transactions behave as 17.2 says?"""

from __future__ import annotations

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.exchange import Answer, Exchange

__all__: list[str] = []

_INVITED = ("redirect", "uas")
_UDP = ("UDP",)
_STREAMS = ("TCP", "TLS")
_LATE = 0.5  # seconds: the 200 ms of 17.2.1, and time for a busy network
_ATTEMPTS = 3  # of which one has to be in time, for a machine may be busy


@judges("17.2.1-2", Level.MUST, "an INVITE gets 100, or another response within 200 ms", roles=_INVITED)
def invite_is_answered_at_once(client: Client) -> None:
    for _ in range(_ATTEMPTS):
        exchange = client.send("INVITE")
        client.wait(exchange, until=lambda: bool(exchange.answers))  # noqa: B023  # called at once
        if not exchange.answers:
            raise Broken("no answer")
        seconds = exchange.answers[0].time - exchange.sent_at
        if seconds - client.round_trip <= _LATE:
            return
    raise Broken(f"{exchange.answers[0].name} after {seconds:.1f} s, and nothing before")


@judges("17.2.1-4", Level.SHOULD_NOT, "a 100 has no To tag", roles=_INVITED)
def trying_has_no_tag(client: Client) -> None:
    client.specimen("INVITE")
    tryings = [answer for exchange in client.exchanges for answer in exchange.answers if answer.status == 100]
    if not tryings:
        raise NotJudged("no 100 came")
    if any(answer.to_tag for answer in tryings):
        raise Broken(f"100 has To: {tryings[0].text('To')}")


@judges("17.2.1-7", Level.MUST, "an INVITE that comes again gets the latest response again", roles=_INVITED)
def repeated_invite_gets_response(client: Client) -> None:
    exchange = client.send("INVITE", acknowledges=False)
    client.wait(exchange, until=lambda: bool(exchange.answers))
    if not exchange.answers:
        raise Broken("no answer")
    try:
        client.resend(exchange)
    except Broken as seen:
        if exchange.final is not None and exchange.final.status >= 300:
            raise NotJudged(f"{seen}, and it was refused; 17.2.1-15 is about that") from None
        raise


@judges("17.2.1-14", Level.IS, "a refusal is sent again until its ACK", roles=_INVITED, transports=_UDP)
def refusal_is_sent_again(client: Client) -> None:
    exchange, _ = _refused(client)
    client.gather(2.5, until=lambda: len(exchange.finals) > 1)
    if len(exchange.finals) < 2:
        raise Broken("one final response within 2.5 s without an ACK")


@judges("17.2.1-12", Level.IS, "a refusal is not sent again by a stream", roles=_INVITED, transports=_STREAMS)
def refusal_is_sent_once_on_streams(client: Client) -> None:
    exchange, answer = _refused(client)
    client.gather(1.2)
    if len(exchange.finals) > 1:
        raise Broken(f"{answer.name} came {len(exchange.finals)} times")


@judges("17.2.1-15", Level.SHOULD, "an INVITE that comes again gets the refusal again", roles=_INVITED)
def repeated_invite_gets_refusal(client: Client) -> None:
    exchange, answer = _refused(client)
    for again in client.resend(exchange):
        _expect_same(again, answer)


@judges("17.2.1-16", Level.MUST, "the ACK ends the retransmissions", roles=_INVITED, transports=_UDP)
def ack_ends_retransmissions(client: Client) -> None:
    exchange, answer = _refused(client)
    client.ack(exchange, answer)
    client.settle(0.1)
    count = len(exchange.finals)
    client.gather(1.7)
    if len(exchange.finals) > count + 1:  # one may have crossed the ACK
        raise Broken(f"{answer.name} came {len(exchange.finals) - count} times after the ACK")


@judges("17.2.1-17", Level.IS, "further ACKs are absorbed", roles=_INVITED)
def further_acks_are_absorbed(client: Client) -> None:
    exchange, answer = _refused(client)
    client.ack(exchange, answer)
    client.settle(0.1)
    count = len(exchange.answers)
    client.ack(exchange, answer)
    client.settle(0.5)
    if len(exchange.answers) > count:
        raise Broken(f"{exchange.answers[-1].name} after the second ACK")


@judges("22.1-12", Level.MUST_NOT, "an ACK is not challenged, nor answered at all")
def ack_is_not_answered(client: Client) -> None:
    client.usual(client.method)
    exchange = client.send("ACK", to=f"<{client.target.uri}>;tag=no-such-dialog")
    client.gather(1.0)
    if exchange.answers:
        raise Broken(f"an ACK got {exchange.answers[0].name}")


@judges(
    "17.2.2-10",
    Level.MUST,
    "a request that comes again gets the same response",
    roles=("redirect", "uas", "registrar"),
    transports=_UDP,
)
def repeated_request_gets_same_response(client: Client) -> None:
    if client.method == "INVITE":
        raise NotJudged("OPTIONS is not answered")
    exchange = client.send()
    first = client.final(exchange)
    for again in client.resend(exchange):
        _expect_same(again, first)


@judges("17.2.3-1", Level.IS, "another sent-by is another transaction", transports=_UDP)
def sent_by_tells_transactions_apart(client: Client) -> None:
    first = client.prepare()
    client.transmit(first.octets, first.channel)
    client.final(first)
    second = client.prepare(channel=client.open(), branch=first.branch)
    client.insist(second, lambda: _is_answered(second))
    if not _is_answered(second):
        raise Broken("no answer to a request with the branch of another and a sent-by of its own")


@judges("17.2.3-5", Level.IS, "without the cookie, requests are told apart by Call-ID")
def call_id_tells_old_requests_apart(client: Client) -> None:
    client.ask(branch="1")
    second = client.prepare(branch="1")
    client.insist(second, lambda: _is_answered(second))
    if not _is_answered(second):
        raise Broken("two requests with branch=1 got one response")


def _refused(client: Client) -> tuple[Exchange, Answer]:
    """Return an INVITE that was refused or redirected, and whose ACK is still due, with that response."""
    headers = (("Require", "x-conformance-unknown"),) if client.target.role == "uas" else ()
    exchange = client.send("INVITE", headers=headers, acknowledges=False)
    answer = client.final(exchange)
    if answer.status < 300:
        raise NotJudged(f"INVITE got {answer.name}, where a refusal was needed")
    client.expect_transaction(answer)
    return exchange, answer


def _expect_same(again: Answer, first: Answer) -> None:
    if again.status < 200:
        return
    for seen, wanted in ((again.name, first.name), (again.text("To"), first.text("To"))):
        if seen != wanted:
            raise Broken(f"{seen}, and {wanted} the first time")


def _is_answered(exchange: Exchange) -> bool:
    call_id = exchange.request.call_id
    return any(answer.headers.get("Call-ID") == call_id for answer in exchange.answers)
