"""Are requests received and responses sent as 18 and RFC 3581 say?"""

from __future__ import annotations

import re

from twisted_sipuas.conformance.check import Broken, Level, NotJudged, judges
from twisted_sipuas.conformance.client import Client
from twisted_sipuas.conformance.exchange import Answer

__all__: list[str] = []

_UDP = ("UDP",)
_STREAMS = ("TCP", "TLS")
_LARGE = 30_000  # octets; most systems let no larger datagram through than 65,507


# Datagrams, and where the response goes


@judges("18.2.1-3", Level.MUST, "where it listens by UDP it listens by TCP too", transports=_UDP)
def listens_by_tcp_too(client: Client) -> None:
    client.usual(client.method)
    try:
        channel = client.open("TCP")
    except NotJudged as fault:
        raise Broken(f"TCP {client.wire.server}: {fault}") from None
    client.expect_usual(client.ask(channel=channel))


@judges("18.2.1-5", Level.MUST, "a sent-by that is a name gets received")
def name_gets_received(client: Client) -> None:
    if "received" not in _top_via_of_name(client):
        raise Broken("sent-by client.invalid got no received")


@judges("18.2.1-6", Level.MUST, "received is the source address")
def received_is_the_source(client: Client) -> None:
    received = _top_via_of_name(client).get("received")
    if received is None:
        raise NotJudged("there is no received")
    if received.strip("[]") == client.channel.local.host:
        return
    if client.usual(client.method).vias[0].parameters.get("received") == received:
        raise NotJudged(f"received={received} in every response; a NAT between would do that")
    raise Broken(f"received={received}, sent from {client.channel.local.host}")


@judges("18.2.2-8", Level.MUST, "without rport a response goes to the port of sent-by", transports=_UDP)
def response_goes_to_sent_by_port(client: Client) -> None:
    listening, sending = client.open(), client.open()
    exchange = client.send(channel=sending, sent_by=str(listening.local), via_parameters="")
    client.gather(client.target.timeout, until=lambda: bool(exchange.finals))
    answer = exchange.final
    if answer is None:
        raise NotJudged("no response came to either port; a NAT between would do that")
    if answer.channel is not listening:
        raise Broken(f"the response for sent-by {listening.local} came to {sending.local}, the source")


@judges("3581-1", Level.MUST, "an empty rport is filled in, and received added", transports=_UDP)
def rport_is_filled_in(client: Client) -> None:
    answer = _answer_by_rport(client)
    parameters = answer.vias[0].parameters
    if parameters.get("rport") is None:
        raise NotJudged("rport is left empty: it does not support RFC 3581, which is an extension")
    received, local = parameters.get("received"), answer.channel.local
    if received is None:
        raise Broken("rport without received")
    if received.strip("[]") != local.host:
        raise NotJudged(f"received={received}, sent from {local.host}; a NAT between would do that")
    if parameters["rport"] != str(local.port):
        raise Broken(f"rport={parameters['rport']}, sent from port {local.port}")


@judges("3581-2", Level.MUST, "with rport a response goes back from where to where the request came", transports=_UDP)
def response_goes_back(client: Client) -> None:
    answer = _answer_by_rport(client)
    if answer.source != client.wire.server:
        raise Broken(f"the response came from {answer.source}")


@judges("18-5", Level.MUST, "a message of 30,000 octets is handled", transports=_UDP)
def large_message_is_handled(client: Client) -> None:
    client.ask(headers=tuple((f"X-Filling-{number}", "x" * 290) for number in range(_LARGE // 300)))


# Framing in datagrams


@judges("18.3-1", Level.MUST, "octets behind Content-Length are discarded", transports=_UDP)
def surplus_is_discarded(client: Client) -> None:
    client.expect_usual(client.ask(reword=lambda octets: octets + b"INVITE sip:surplus SIP/2.0\r\n\r\n"))


@judges("18.3-4", Level.SHOULD, "a request that ends before Content-Length gets 400", transports=_UDP)
def short_datagram_gets_400(client: Client) -> None:
    answer = client.ask(reword=lambda octets: re.sub(rb"Content-Length: \d+", b"Content-Length: 9999", octets))
    if answer.status != 400:
        raise Broken(f"Content-Length: 9999, which is not there, got {answer.name}")


@judges("18.3-5", Level.IS, "without Content-Length the datagram's end is the body's", transports=_UDP)
def datagram_needs_no_content_length(client: Client) -> None:
    client.expect_usual(client.ask(reword=lambda octets: re.sub(rb"Content-Length: \d+\r\n", b"", octets)))


# Streams


@judges("18.3-6", Level.IS, "two requests in one segment are both answered", transports=_STREAMS)
def requests_in_one_segment(client: Client) -> None:
    first, second = client.prepare(), client.prepare()
    client.transmit(first.octets + second.octets, first.channel)
    client.expect_usual(client.final(first))
    client.expect_usual(client.final(second))


@judges("18.3-6", Level.IS, "a request in pieces is answered", transports=_STREAMS)
def request_in_pieces(client: Client) -> None:
    exchange = client.prepare(body=b"0123456789", headers=(("Content-Disposition", "render;handling=optional"),))
    octets = exchange.octets
    for start, end in ((0, 7), (7, 60), (60, len(octets) - 14), (len(octets) - 14, len(octets) - 5)):
        client.transmit(octets[start:end], exchange.channel, "a piece")
        client.gather(0.05)
    if exchange.answers:
        raise Broken(f"{exchange.answers[0].name} before the end of the request")
    client.transmit(octets[-5:], exchange.channel, "a piece")
    client.final(exchange)


@judges("18.2.2-2", Level.MUST, "a response comes by the connection of its request", transports=_STREAMS)
def response_comes_by_the_connection(client: Client) -> None:
    first, second = client.open(), client.open()
    exchange = client.send(channel=first, sent_by=str(second.local))
    answer = client.final(exchange)
    if answer.channel is not first:
        raise Broken("the response came by another connection")


@judges("18-1", Level.RECOMMENDED, "a connection stays open after a response", transports=_STREAMS)
def connection_stays_open(client: Client) -> None:
    channel = client.open()
    client.ask(channel=channel)
    client.gather(1.5)
    if channel.is_closed:
        raise Broken("closed within 1.5 s")
    client.expect_usual(client.ask(channel=channel))


@judges("7.5-1", Level.MUST, "CRLFs ahead of the start line are ignored", transports=_STREAMS)
def leading_crlf_is_ignored(client: Client) -> None:
    client.expect_usual(client.ask(reword=lambda octets: b"\r\n\r\n" + octets))


@judges("5626-3", Level.MUST, "a double CRLF is answered with one", transports=_STREAMS)
def ping_is_answered(client: Client) -> None:
    before = client.keep_alives
    client.transmit(b"\r\n\r\n", client.channel, "a ping")
    client.gather(1.0, until=lambda: client.keep_alives > before)
    client.gather(0.2)
    if client.keep_alives == before:
        raise NotJudged("no answer: it does not support RFC 5626, which is an extension")
    if client.keep_alives > before + 1:
        raise Broken(f"{client.keep_alives - before} CRLFs came")


def _top_via_of_name(client: Client) -> dict[str, str | None]:
    """Return the parameters of the top Via in the response to a request whose sent-by is a name."""
    answer = client.ask(sent_by=f"client.invalid:{client.channel.local.port}", via_parameters="")
    return answer.vias[0].parameters


def _answer_by_rport(client: Client) -> Answer:
    """Return the response to a request with rport, and the port of another in sent-by."""
    listening, sending = client.open(), client.open()
    exchange = client.send(channel=sending, sent_by=str(listening.local))
    client.gather(client.target.timeout, until=lambda: bool(exchange.finals))
    answer = exchange.final
    if answer is None or answer.channel is not sending:
        raise NotJudged("rport is not followed: it does not support RFC 3581, which is an extension")
    return answer
