"""Is a server that conforms, but does not do what our own do, left unjudged rather than called broken?"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.conformance.servers import SERVERS, client_of
from tests.conformance.virtual import Fault, replies
from twisted_sipuas.conformance import CHECKS, Outcome, acquaint, chosen, judge, run

BY_NAME = {check.name: check for check in CHECKS}
_REFUSED = r"^(?!ACK|CANCEL)"


def refusing(line: str, of: str = _REFUSED) -> Fault:
    """Every request in which *of* is found is refused with *line* and another tag, as without state."""
    count = iter(range(10_000))
    return Fault(
        reply=lambda text: (
            answer.replace("tag=faulty", f"tag=faulty{next(count)}")
            if (answer := replies(line, of).reply(text)) is not None
            else None
        )
    )


def broken(server: str, fault: Fault, *only: str) -> dict[str, str]:
    """Return what is broken in *server* with *fault*, by UDP: the name of each check, and its remark."""
    client = client_of(server, "UDP", fault)
    acquaint(client)
    results = list(run(client, chosen(SERVERS[server][0], "UDP", only)))
    return {result.check.name: result.remark for result in results if result.outcome is Outcome.BROKEN}


@pytest.mark.parametrize("status", ["401 Unauthorized", "407 Proxy Authentication Required", "403 Forbidden"])
@pytest.mark.parametrize("server", ["uas", "registrar", "stateless"])
def test_a_server_that_first_asks_who_one_is(server: Any, status: Any) -> None:
    """What comes after authentication (8.2) is not held against a server that lets nobody past it."""
    seen = broken(
        server, refusing(status), "8.2.1", "8.2.2", "8.2.3", "10.3", "11", "11.2", "12.2.2", "15.1.2", "21.5.2"
    )
    assert seen == {}


@pytest.mark.parametrize("server", ["uas", "redirect"])
def test_a_challenge_without_a_transaction(server: Any) -> None:
    """A challenge may be sent without state (8.2.7), so that neither its repetition nor a CANCEL is looked at."""
    assert broken(server, refusing("401 Unauthorized"), "8.3-3", "9.2", "17.2.1") == {}


@pytest.mark.parametrize("status", ["404 Not Found", "480 Temporarily Unavailable"])
def test_a_user_who_is_not_there(status: Any) -> None:
    """To and Request-URI are inspected before Require and the body (8.2.2): who gets 404 cannot expect 420 and 415."""
    assert broken("uas", refusing(status), "8.2.2.3", "8.2.3", "12.2.2", "15.1.2") == {}


@pytest.mark.parametrize("status", ["488 Not Acceptable Here", "401 Unauthorized"])
def test_an_invite_that_is_refused_for_what_it_has(status: Any) -> None:
    """OPTIONS without an offer or credentials need not get the status of an INVITE refused for these (11.2)."""
    assert broken("uas", refusing(status, "^INVITE"), "11.2-2") == {}
    assert set(broken("uas", refusing("486 Busy Here", "^INVITE"), "11.2-2")) == {"options_as_invite"}


def test_options_refused_as_a_method() -> None:
    """A 405 is no support of OPTIONS, which every user agent has to have (11)."""
    assert broken("uas", replies("405 Method Not Allowed", "^OPTIONS"), "11-1") == {
        "options_is_answered": "OPTIONS got 405 Method Not Allowed"
    }


@pytest.mark.parametrize(
    ("longest", "outcome"), [(300, Outcome.NOT_JUDGED), (600, Outcome.NOT_JUDGED), (700, Outcome.HOLDS)]
)
def test_a_registrar_that_grants_little(longest: Any, outcome: Any) -> None:
    """A registrar may choose less than is asked for (10.3), and keeps 10.3-35 all the same."""
    cut = {f"Expires: {asked}": f"Expires: {min(longest, asked)}" for asked in (900, 600)}

    def shorten(text: str) -> str:
        for before, after in cut.items():
            if before in text:
                return text.replace(before, after)
        return text

    client = client_of("registrar", "UDP", Fault(to_server=shorten))
    acquaint(client)
    assert judge(client, BY_NAME["higher_cseq_updates"]).outcome is outcome


def test_a_registrar_that_takes_no_contact_of_ours() -> None:
    """A Record-Route is not to blame where the same REGISTER without one is refused."""
    assert broken("registrar", replies("403 Forbidden", r"^REGISTER.*Contact: <sip:desk"), "10.3-4") == {}


def test_another_domain_that_may_not_be_registered_for() -> None:
    """A 403 is for who may not change the bindings, which is looked at before the domain (10.3, 4 and 5)."""
    assert broken("one domain", replies("403 Forbidden", "^REGISTER.*@elsewhere"), "10.3-17") == {}


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize(
    ("server", "name"),
    [
        ("redirect", "invite_is_answered_at_once"),
        ("redirect", "repeated_invite_gets_response"),
        ("stateless", "answers_again"),
    ],
)
def test_a_datagram_that_is_lost(server: Any, name: Any, lost: Any) -> None:
    """By UDP a request is sent again, so that the loss of one is not held against the server."""
    count = itertools.count()
    client: Any = client_of(server, "UDP")
    acquaint(client)
    client.wire.fault.to_server = lambda text: None if text[:3] != "ACK" and next(count) == lost else text
    assert judge(client, BY_NAME[name]).outcome is Outcome.HOLDS, client.ladder


@pytest.mark.parametrize("latency", [0.3, 0.8])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("server", SERVERS)
def test_a_long_way(server: Any, transport: Any, latency: Any) -> None:
    """The time that the way to a server and back takes is not held against it, nor what was on its way meanwhile."""
    client: Any = client_of(server, transport)
    client.wire.network._latency = latency
    acquaint(client)
    results = list(run(client, chosen(SERVERS[server][0], transport)))
    assert [result for result in results if result.outcome is Outcome.BROKEN] == [], client.ladder
    assert client.round_trip == pytest.approx(2 * latency)


def test_a_refusal_that_is_not_sent_again() -> None:
    """That an INVITE which was refused gets that again is SHOULD (17.2.1-15), and not held to the MUST before it."""
    seen: set[str] = set()

    def first(text: str) -> str | None:
        known = text in seen and text.startswith("INVITE")
        seen.add(text)
        return None if known else text

    client = client_of("redirect", "TCP", Fault(to_server=first))
    acquaint(client)
    assert judge(client, BY_NAME["repeated_invite_gets_response"]).outcome is Outcome.NOT_JUDGED
    assert judge(client, BY_NAME["repeated_invite_gets_refusal"]).outcome is Outcome.BROKEN
