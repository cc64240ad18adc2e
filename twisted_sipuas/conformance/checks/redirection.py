"""Does a redirect server redirect as 8.3 says, whatever it does not understand?"""

from __future__ import annotations

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.exchange import Answer
from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.uri import parse_uri

__all__: list[str] = []

_REDIRECT = ("redirect",)


@judges("8.3-1", Level.IS, "it sends no requests of its own", roles=_REDIRECT)
def sends_no_requests(client: Client) -> None:
    client.usual("INVITE")
    client.gather(0.5)
    if client.requests:
        raise Broken(f"it sent {client.requests[0].method}")


@judges("8.3-2", Level.IS, "an INVITE is redirected or refused, never accepted", roles=_REDIRECT)
def never_accepts(client: Client) -> None:
    answer = client.usual("INVITE")
    if answer.status < 300:
        raise Broken(f"INVITE got {answer.name}")


@judges("8.3-6", Level.IS, "a 300, 301 or 302 has one or more Contacts", roles=_REDIRECT)
def names_contacts(client: Client) -> None:
    answer = _redirection(client)
    if not answer.contacts:
        raise Broken(f"{answer.name} lacks Contact")


@judges("8.3-9", Level.MUST_NOT, "no Contact is the Request-URI itself", roles=_REDIRECT)
def does_not_redirect_to_itself(client: Client) -> None:
    answer = _redirection(client)
    asked = parse_uri(client.target.uri)
    for contact in answer.contacts:
        try:
            if contact.uri.equivalent(asked):
                raise Broken(f"{answer.name} for {asked} has Contact: {contact}")
        except MessageSyntaxError:
            raise Broken(f"{answer.name} has a malformed URI in Contact: {contact}") from None


@judges("8.3-3", Level.SHOULD, "a CANCEL gets 2xx", roles=_REDIRECT)
def cancel_gets_2xx(client: Client) -> None:
    exchange = client.send("INVITE", acknowledges=False)
    client.expect_transaction(client.final(exchange))
    answer = client.final(client.cancel(exchange))
    if answer.status >= 300:
        raise Broken(f"CANCEL of an INVITE got {answer.name}")


@judges("8.3-4", Level.IS, "it keeps the transaction: an INVITE sent again gets the same", roles=_REDIRECT)
def keeps_the_transaction(client: Client) -> None:
    exchange = client.send("INVITE", acknowledges=False)
    first = client.final(exchange)
    for again in client.resend(exchange):
        if again.is_final and (again.status, again.headers.get("To")) != (first.status, first.headers.get("To")):
            raise Broken(f"{again.name}, To: {again.headers.get('To')}; first {first.name}, To: {first.text('To')}")


@judges("8.3-16", Level.MUST, "a header field that is not understood is ignored", roles=_REDIRECT)
def ignores_header_fields(client: Client) -> None:
    _redirection(client)
    client.expect_usual(client.ask("INVITE", headers=(("X-Conformance-Unknown", "a"),)), "INVITE")


@judges("8.3-16", Level.MUST, "an option tag in Require is ignored", roles=_REDIRECT)
def ignores_require(client: Client) -> None:
    _redirection(client)
    client.expect_usual(client.ask("INVITE", headers=(("Require", "x-conformance-unknown"),)), "INVITE")


@judges("8.3-16", Level.MUST, "a method that is not understood is redirected", roles=_REDIRECT)
def redirects_unknown_methods(client: Client) -> None:
    _redirection(client)
    client.expect_usual(client.ask("CONFORM"), "INVITE")


@judges("13.3.1.2-2", Level.IS, "the ACK for a redirection ends it; nothing answers the ACK", roles=_REDIRECT)
def ack_is_absorbed(client: Client) -> None:
    exchange = client.send("INVITE")
    client.final(exchange)
    client.settle()
    count = len(exchange.answers)
    client.gather(1.7)
    if len(exchange.answers) > count + 1:  # one may have crossed the ACK
        raise Broken(f"{exchange.answers[-1].name} came {len(exchange.answers) - count} times after the ACK")


def _redirection(client: Client) -> Answer:
    """Return the 300, 301 or 302 to a plain INVITE; raises `NotJudged` if there is none."""
    answer = client.usual("INVITE")
    if answer.status not in (300, 301, 302):
        raise NotJudged(f"INVITE {client.target.uri} got {answer.name}; --uri names whom it redirects")
    return answer
