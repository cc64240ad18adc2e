"""Does a stateless user agent server keep to what 8.2.7 leaves it?"""

from __future__ import annotations

from twisted_sipuas.conformance.check import Broken, Level, judges
from twisted_sipuas.conformance.client import Client

__all__: list[str] = []

_STATELESS = ("stateless",)


@judges("8.2.7-1", Level.IS, "a request that comes again is answered again", roles=_STATELESS)
def answers_again(client: Client) -> None:
    exchange = client.send()
    first = client.final(exchange)
    for again in client.resend(exchange):
        if again.name != first.name:
            raise Broken(f"{again.name}, and {first.name} the first time")


@judges("8.2.7-4", Level.MUST_NOT, "it sends no 1xx", roles=_STATELESS)
def sends_no_provisional(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            if answer.status < 200:
                raise Broken(f"{exchange.method} got {answer.name}")


@judges("8.2.7-5", Level.MUST_NOT, "it does not retransmit responses", roles=_STATELESS)
def does_not_retransmit(client: Client) -> None:
    exchange = client.send("INVITE", acknowledges=False)
    client.final(exchange)
    client.gather(1.7)
    if len(exchange.finals) > exchange.sent_count:
        raise Broken(f"{exchange.finals[-1].name} came {len(exchange.finals)} times without an ACK")


@judges("8.2.7-6", Level.MUST, "it ignores ACK", roles=_STATELESS)
def ignores_ack(client: Client) -> None:
    exchange = client.send("INVITE", acknowledges=False)
    answer = client.final(exchange)
    client.settle()
    count = len(exchange.answers)
    client.ack(exchange, answer)
    client.gather(0.5)
    if len(exchange.answers) > count:
        raise Broken(f"{exchange.answers[-1].name} after the ACK")


@judges("8.2.7-7", Level.MUST, "it ignores CANCEL", roles=_STATELESS)
def ignores_cancel(client: Client) -> None:
    exchange = client.send("INVITE", acknowledges=False)
    client.final(exchange)
    cancel = client.cancel(exchange)
    client.gather(1.0, until=lambda: bool(cancel.answers))
    if cancel.answers:
        raise Broken(f"CANCEL got {cancel.answers[0].name}")


@judges("8.2.7-8", Level.MUST, "the same request always gets the same To tag", roles=_STATELESS)
def same_tag_again(client: Client) -> None:
    exchange = client.send("INVITE", acknowledges=False)
    first = client.final(exchange)
    for again in client.resend(exchange):
        if again.to_tag != first.to_tag:
            raise Broken(f"tag={again.to_tag}, and tag={first.to_tag} the first time")
