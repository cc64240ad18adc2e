"""Is the client polite to the server, and can nothing that a server sends hurt it?"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.servers import SERVERS, client_of
from tests.conformance.virtual import HOST, Fault, altered, both, doubled, followed, ignores, replies, status
from twisted_sipuas.conformance import CHECKS, Outcome, Unusable, acquaint, chosen, judge, run
from twisted_sipuas.conformance.client import LONGEST_RUN, MOST_MESSAGES, MOST_OCTETS
from twisted_sipuas.syntax.message import Request

BY_NAME = {check.name: check for check in CHECKS}


def ours(client: Any) -> Any:
    """Return what *client* sent."""
    return [passed for passed in client.ladder if passed.source.host == HOST]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("server", SERVERS)
def test_a_run_is_slow_and_bounded(server: Any, transport: Any) -> None:
    """At most 50 messages a second are sent, and fewer than the bound in a whole run."""
    client = client_of(server, transport)
    acquaint(client)
    list(run(client, chosen(SERVERS[server][0], transport)))
    times = [passed.time for passed in ours(client)]
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.02 - 1e-9
    assert client.sent_count == len(times) < MOST_MESSAGES
    assert times[-1] < LONGEST_RUN


def test_past_its_bounds_nothing_is_sent() -> None:
    """Past the number of messages, or the time, of one run, nothing more is sent and nothing judged."""
    client: Any = client_of("uas", "UDP")
    acquaint(client)
    client.sent_count = MOST_MESSAGES
    results = list(run(client, chosen("uas", "UDP", ["18.3"])))
    assert {(result.outcome, result.remark) for result in results} == {
        (Outcome.NOT_JUDGED, "the run has reached its bound")
    }
    client.sent_count = 10
    client.wire.network.step(LONGEST_RUN)
    assert judge(client, BY_NAME["surplus_is_discarded"]).remark == "the run has reached its bound"
    assert client.sent_count == 10


def test_past_its_octets_nothing_is_kept() -> None:
    """Past the octets that one run may receive, nothing more is kept, sent and judged."""
    client: Any = client_of("uas", "UDP")
    acquaint(client)
    client.received_octets = MOST_OCTETS
    before = len(client.exchanges)
    results = list(run(client, chosen("uas", "UDP", ["18.3"])))
    assert all(not exchange.answers for exchange in client.exchanges[before:])
    assert {result.remark for result in results[1:]} == {"the run has reached its bound"}


def test_what_was_begun_is_ended_past_its_bounds() -> None:
    """A call and a binding that are there as the run reaches its bound are ended, within the number of messages."""
    client: Any = client_of("uas", "UDP")
    acquaint(client)
    client.send("INVITE")
    client.gather(1.0)
    client.sent_count = MOST_MESSAGES - 50
    client.finish()
    assert ours(client)[-1].message.method == "BYE"

    client = client_of("registrar", "UDP")
    acquaint(client)
    client.ask("REGISTER", headers=(("Contact", "<sip:desk@192.0.2.1>"),))
    client.wire.network.step(LONGEST_RUN)
    results = list(run(client, chosen("registrar", "UDP", ["10.3-21"])))
    assert results[0].remark == "the run has reached its bound"
    client.is_ending = True
    assert client.ask("REGISTER").contacts == []


@pytest.mark.parametrize("server", ["uas", "telephone", "unattended"])
def test_no_call_is_left(server: Any) -> None:
    """Each INVITE of a run has its ACK, and each call its BYE, or its CANCEL where it only rang."""
    client: Any = client_of(server, "UDP")
    acquaint(client)
    list(run(client, chosen("uas", "UDP")))
    client.wire.network.step(40)
    assert not [request for request in client.requests if request.method == "BYE"], client.ladder
    for exchange in client.exchanges:
        if exchange.method == "INVITE" and exchange.final is not None and exchange.final.status < 300:
            call_id = exchange.request.headers.get("Call-ID")
            byes = [other for other in client.exchanges if other.method == "BYE"]
            assert exchange.is_acknowledged
            assert call_id in [bye.request.headers.get("Call-ID") for bye in byes]


def test_a_call_that_is_answered_late_is_ended() -> None:
    """A call that is taken after the check is over has its ACK and its BYE at the end of the next."""
    client = client_of("slow", "TCP")
    late = client.send("INVITE")
    client.finish()
    client.gather(3)
    assert late.final is not None
    client.finish()
    assert [passed.message.method for passed in ours(client)] == ["INVITE", "ACK", "BYE"]


@pytest.mark.parametrize("fault", [Fault, lambda: replies("403 Forbidden", r"Contact: \*")])
def test_a_registrar_is_left_as_it_was(fault: Any) -> None:
    """After a run the address-of-record has no binding, whether or not the server lets all be removed at once."""
    client = client_of("registrar", "UDP", fault())
    acquaint(client)
    list(run(client, chosen("registrar", "UDP")))
    assert client.ask("REGISTER").contacts == []


def test_an_address_of_record_in_use_is_not_touched() -> None:
    """Nobody's bindings are removed: an address-of-record that has some is refused before anything is changed."""
    client = client_of("registrar", "UDP")
    client.ask("REGISTER", headers=(("Contact", "<sip:somebody@192.0.2.9>"),))
    with pytest.raises(Unusable, match="has bindings"):
        acquaint(client)
    assert [contact.uri_text for contact in client.ask("REGISTER").contacts] == ["sip:somebody@192.0.2.9"]


def test_without_options_invite_is_used() -> None:
    """Where OPTIONS is not answered, that alone is broken, and the rest is judged by INVITE."""
    client = client_of("uas", "UDP", ignores("^OPTIONS"))
    acquaint(client)
    results = list(run(client, chosen("uas", "UDP")))
    assert [result.check.id for result in results if result.outcome is Outcome.BROKEN] == ["11-1"]
    assert len([result for result in results if result.outcome is Outcome.HOLDS]) > 50


@pytest.mark.parametrize("name", ["received_is_the_source", "rport_is_filled_in"])
def test_a_nat_between(name: Any) -> None:
    """Where the server sees another address than ours, as behind a NAT, what it says of it is not held against it."""
    client = client_of("uas", "UDP", altered(r";received=[^;\r]*", ";received=203.0.113.9"))
    client.specimen("OPTIONS")
    assert judge(client, BY_NAME[name]).outcome is Outcome.NOT_JUDGED


def test_a_server_that_dies() -> None:
    """Where a server ceases to answer, one check says so, and the rest is not judged: nothing is held against it."""
    seen = []

    def die(text: Any) -> Any:
        if "Content-Length: 9999" in text:
            seen.append(text)
        return None if seen else text

    client = client_of("uas", "UDP", Fault(to_server=die))
    acquaint(client)
    results = list(run(client, chosen("uas", "UDP", ["18.3"])))
    assert [(result.check.id, result.outcome, result.remark) for result in results] == [
        ("18.3-1", Outcome.HOLDS, ""),
        ("18.3-4", Outcome.BROKEN, "no answer"),
        ("18.3-5", Outcome.NOT_JUDGED, "nothing is answered since the check of 18.3-4"),
    ]


def test_a_server_that_says_nothing() -> None:
    """A server that answers nothing is not judged."""
    with pytest.raises(Unusable, match=r"198\.51\.100\.1:5060 does not answer OPTIONS by UDP"):
        acquaint(client_of("uas", "UDP", ignores("")))


def test_a_server_that_only_rings() -> None:
    """A telephone that answers no OPTIONS and lets an INVITE ring is not said to answer nothing."""
    with pytest.raises(Unusable, match="has no final answer within 2 s, but 180 Ringing, by UDP"):
        acquaint(client_of("unattended", "UDP", ignores("^OPTIONS")))


@pytest.mark.parametrize(
    "fault", [lambda: doubled("SIP/2.0"), lambda: followed("INVITE"), lambda: followed("NONSENSE")]
)
@pytest.mark.parametrize("server", ["redirect", "uas", "registrar"])
def test_a_server_that_says_too_much(server: Any, fault: Any) -> None:
    """Responses and requests that nobody asked for neither stop the run nor have more sent than its bound."""
    client = client_of(server, "UDP", both(Fault(), fault()))
    acquaint(client)
    list(run(client, chosen(SERVERS[server][0], "UDP")))
    assert client.sent_count <= MOST_MESSAGES


def test_a_flood_of_responses() -> None:
    """A server that sends each response a thousand times gets no ACK for each, and no memory of ours."""
    client = client_of("redirect", "UDP", Fault(to_client=lambda text: [text] * 1000))
    acquaint(client)
    list(run(client, chosen("redirect", "UDP", ["8.3"])))
    assert client.sent_count <= MOST_MESSAGES
    assert max(len(exchange.answers) for exchange in client.exchanges) <= 100


def test_a_cseq_that_is_empty() -> None:
    """A response whose CSeq is empty is judged like any other."""

    def change(text: Any) -> Any:
        return [text.replace("SIP/2.0 405", "SIP/2.0 200").replace("CSeq: 1 PUBLISH", "CSeq: ")]

    client = client_of("uas", "UDP", Fault(to_client=change))
    acquaint(client)
    assert (
        judge(client, BY_NAME["known_method_gets_405"]).remark
        == "PUBLISH, which is not in Allow, got 200 Method Not Allowed"
    )


@given(st.data())
def test_whatever_a_server_sends(data: Any) -> None:
    """Whatever octets of its responses are others, every check ends in a result."""
    server = data.draw(st.sampled_from(["redirect", "uas", "registrar"]))
    checks = chosen(SERVERS[server][0], "UDP")
    check = data.draw(st.sampled_from(checks))
    cut, junk = data.draw(st.integers(0, 400)), data.draw(st.text(st.characters(max_codepoint=255), max_size=8))
    length = data.draw(st.integers(0, 12))

    def change(text: Any) -> Any:
        return [text[:cut] + junk + text[cut + length :]]

    client = client_of(server, "UDP", Fault(to_client=change))
    try:
        acquaint(client)
    except Unusable:
        return
    assert judge(client, check).outcome in Outcome


def test_requests_are_well_formed_unless_a_check_says_otherwise() -> None:
    """A plain request is one that our own parser, which is strict, takes: nothing is broken by our own fault."""
    client = client_of("uas", "UDP")
    exchange = client.prepare("INVITE")
    start = (
        rb"INVITE sip:bob@198\.51\.100\.1 SIP/2\.0\r\nVia: SIP/2\.0/UDP 192\.0\.2\.1:\d+;branch=z9hG4bK\w+;rport\r\n"
    )
    assert re.match(start, exchange.octets)
    assert isinstance(exchange.request, Request)
    for name in ("Max-Forwards", "From", "To", "Call-ID", "CSeq", "Contact", "Content-Type", "User-Agent"):
        assert exchange.request.headers.count(name) == 1


def test_status_is_used() -> None:
    """A registrar that refuses is not judged by what only a success shows."""
    client = client_of("registrar", "UDP", status("200", "403 Forbidden"))
    acquaint(client)
    results = list(run(client, chosen("registrar", "UDP", ["10.3"])))
    judged = {result.check.id for result in results if result.outcome is not Outcome.NOT_JUDGED}
    assert judged <= {"10.3-2", "10.3-11", "10.3-17"}
