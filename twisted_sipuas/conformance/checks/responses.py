"""Is a response built from its request as 8.2.6 says?"""

from __future__ import annotations

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.exchange import Answer
from twisted_sipuas.syntax.fields import NameAddr, Via

__all__: list[str] = []

_TRANSACTIONS = ("redirect", "uas")


@judges("8.2.6.1-1", Level.SHOULD_NOT, "no provisional response to a non-INVITE request")
def no_provisional_to_non_invite(client: Client) -> None:
    for exchange in client.exchanges:
        if exchange.method not in ("INVITE", "ACK"):
            for answer in exchange.answers:
                if answer.status < 200:
                    raise Broken(f"{exchange.method} got {answer.name}")
    client.usual(client.method)


@judges("8.2.6.1-3", Level.MUST, "a 100 has the Timestamp of the request", roles=_TRANSACTIONS)
def timestamp_in_100(client: Client) -> None:
    exchange = client.send("INVITE", headers=(("Timestamp", "54.21"),))
    client.gather(1.0, until=lambda: bool(exchange.answers))
    tryings = [answer for answer in exchange.answers if answer.status == 100]
    if not tryings:
        raise NotJudged("no 100 came")
    if not tryings[0].text("Timestamp").startswith("54.21"):
        raise Broken(f"Timestamp: {tryings[0].text('Timestamp')}, for 54.21")


@judges("8.2.6.2-1", Level.MUST, "From is that of the request")
def from_is_copied(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            if answer.address("From") != exchange.request.from_:
                raise Broken(f"{answer.name} to {exchange.method} has From: {answer.text('From')}")


@judges("8.2.6.2-2", Level.MUST, "Call-ID is that of the request")
def call_id_is_copied(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            if answer.text("Call-ID") != exchange.request.call_id:
                raise Broken(f"{answer.name} to {exchange.method} has Call-ID: {answer.text('Call-ID')}")


@judges("8.2.6.2-3", Level.MUST, "CSeq is that of the request")
def cseq_is_copied(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            if answer.text("CSeq").split() != (exchange.request.headers.get("CSeq") or "").split():
                raise Broken(f"{answer.name} to {exchange.method} has CSeq: {answer.text('CSeq')}")


@judges("8.2.6.2-4", Level.MUST, "every Via value is that of the request")
def vias_are_copied(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            expected = [_as_sent(Via(value)) for value in exchange.request.headers.values("Via")]
            found = [_as_sent(via) for via in answer.vias]
            if sorted(found) != sorted(expected):
                raise Broken(f"{answer.name} to {exchange.method} has Via: {', '.join(answer.values('Via'))}")


@judges("8.2.6.2-5", Level.MUST, "Via values are in the order of the request")
def vias_are_in_order(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            expected = [Via(value).sent_by for value in exchange.request.headers.values("Via")]
            found = [via.sent_by for via in answer.vias]
            if found != expected and sorted(found) == sorted(expected):
                raise Broken(f"{answer.name} to {exchange.method} has Via: {', '.join(answer.values('Via'))}")


@judges("8.2.6.2-6", Level.MUST, "a To that has a tag is left as it is")
def to_with_tag_is_copied(client: Client) -> None:
    to = f"<{client.target.uri}>;tag=from-elsewhere"
    answer = client.ask(to=to)
    if answer.address("To") != NameAddr(to):
        raise Broken(f"{answer.name} has To: {answer.text('To')}")


@judges("8.2.6.2-7", Level.MUST, "a To without a tag keeps its URI")
def to_uri_is_copied(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            if answer.address("To").uri != exchange.request.to.uri:
                raise Broken(f"{answer.name} to {exchange.method} has To: {answer.text('To')}")


@judges("8.2.6.2-8", Level.MUST, "a To without a tag gets one")
def to_gets_a_tag(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            if answer.status != 100 and not answer.to_tag:
                raise Broken(f"{answer.name} to {exchange.method} has To: {answer.text('To')}")


@judges("8.2.6.2-10", Level.MUST, "all responses to one request have the same To tag")
def to_tag_stays(client: Client) -> None:
    exchange = client.send()
    answer = client.final(exchange)
    if exchange.channel.transport == "UDP" and exchange.method != "INVITE":
        client.transmit(exchange.octets, exchange.channel, "again")
        client.gather(client.target.timeout, until=lambda: len(exchange.finals) > 1)
        _expect_one_tag([answer, *exchange.finals])
    for specimen in client.specimens:
        _expect_one_tag([answer for answer in specimen.answers if answer.status != 100])


@judges("19.3-1", Level.MUST, "another request gets another To tag")
def tags_differ(client: Client) -> None:
    tags = [client.ask().to_tag for _ in range(3)]
    if len(set(tags)) < len(tags):
        raise Broken(f"the tags of three requests are {', '.join(map(str, tags))}")


@judges("8.2.4-1", Level.MUST_NOT, "no extension in a response to who supports none")
def no_extension_unasked(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            if "Require" in answer.headers:
                raise Broken(f"{answer.name} to {exchange.method} has Require: {answer.text('Require')}")


@judges("20.14-1", Level.MUST, "Content-Length is that of the body, and there on streams")
def content_length_is_right(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            length = answer.headers.get("Content-Length")
            if length is None and answer.channel.transport == "UDP":
                continue
            if length is None or not length.isdecimal() or int(length) != len(answer.body):
                raise Broken(f"{answer.name} has Content-Length: {length}, and {len(answer.body)} octets of body")


@judges("7-1", Level.MUST, "every response has its CRLFs, and an empty line at the end")
def lines_end_in_crlf(client: Client) -> None:
    for exchange in client.specimens:
        for answer in exchange.answers:
            head, end, _ = answer.octets.partition(b"\r\n\r\n")
            if not end or head.count(b"\n") != head.count(b"\r\n"):
                raise Broken(f"{answer.name} to {exchange.method} begins {answer.octets[:40]!r}")


def _as_sent(via: Via) -> tuple[str, str, list[tuple[str, str | None]]]:
    """Return what a Via value was before the server noted where it came from (18.2.1, RFC 3581)."""
    parameters = [(name, value) for name, value in via.parameters.items() if name not in ("received", "rport")]
    return via.transport, via.sent_by, sorted(parameters, key=str)


def _expect_one_tag(answers: list[Answer]) -> None:
    tags = {answer.to_tag for answer in answers}
    if len(tags) > 1:
        raise Broken(f"the tags are {', '.join(sorted(map(str, tags)))}")
