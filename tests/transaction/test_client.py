"""Does the non-INVITE client transaction do what figure 6 of RFC 3261 says, and is each response its own?"""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet.task import Clock

from twisted_sipuas.errors import TransportError
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow
from twisted_sipuas.transaction.client import ClientState, ClientTransactions, NonInviteClientTransaction
from twisted_sipuas.transaction.timers import Timers

TRYING, PROCEEDING, COMPLETED, TERMINATED = ClientState

BYE = Request(
    "BYE",
    "sip:alice@192.0.2.1",
    [
        ("Max-Forwards", "70"),
        ("From", "<sip:bob@example.com>;tag=b"),
        ("To", "<sip:alice@example.com>;tag=a"),
        ("Call-ID", "1@192.0.2.1"),
        ("CSeq", "7 BYE"),
    ],
)
SENT_BY = "198.51.100.1:5060"


def answer_to(request: Request, status: int, **changed: Any) -> Any:
    """The response that the peer sends; *changed* header fields take the place of those it has."""
    response = request.response(status)
    rows = [(name, changed.get(name, value)) for name, value in response.headers]
    return parse_message(Response(status, None, rows).to_bytes("a"))


class Client:
    """One request on its way; `results` has what became of it."""

    def __init__(self, transport: str = "UDP", **options: Any) -> None:
        self.clock = Clock()
        self.flow = RecordingFlow(transport)
        self.transactions = ClientTransactions(self.clock, **options)
        self.results: list[Any] = []
        self.send()
        (self.transaction,) = self.transactions._transactions.values()
        self._sent = self._told = 0

    def send(self, request: Request = BYE) -> None:
        """Send one more request."""
        self.transactions.send(request, self.flow, SENT_BY).addBoth(self.results.append)

    @property
    def request(self) -> Any:
        """The latest request as it was sent."""
        return parse_message(self.flow.sent[-1][0])

    def receive(self, status: int, **changed: Any) -> Any:
        """Let the peer answer; returns whether the response was taken."""
        return self.transactions.response_received(answer_to(self.request, status, **changed))

    def lose(self) -> None:
        """The network says that the request did not arrive."""
        self.transactions.request_lost(self.flow.sent[0][0][:300])

    def fire(self) -> None:
        """Let the transaction's own timer fire now, if it runs."""
        if self.transaction._queue is not None:
            self.transaction.stop_waiting()
            self.transaction.timed_out()

    def sending_times(self, seconds: float, by: float = 0.5) -> Any:
        """Let *seconds* pass; returns when something was sent."""
        times = []
        for _ in range(round(seconds / by)):
            before = len(self.flow.sent)
            self.clock.advance(by)
            times += [self.clock.seconds()] * (len(self.flow.sent) - before)
        return times

    def news(self) -> Any:
        """How many requests were sent, and what the transaction user was told, since the last time."""
        sent, told = len(self.flow.sent) - self._sent, self.results[self._told :]
        self._sent += sent
        self._told += len(told)
        return sent, ", ".join(str(item.status) if isinstance(item, Response) else "failed" for item in told)


SITUATIONS = {
    "Trying": (TRYING, []),
    "Proceeding": (PROCEEDING, ["1xx"]),
    "Completed": (COMPLETED, ["200"]),
    "Terminated": (TERMINATED, ["Timer F"]),
}
"""The states, and which inputs after the request lead there."""

INPUTS = {
    "1xx": lambda client: client.transaction.response_received(answer_to(client.request, 100)),
    "200": lambda client: client.transaction.response_received(answer_to(client.request, 200)),
    "300-699": lambda client: client.transaction.response_received(answer_to(client.request, 481)),
    "Timer E": lambda client: client.sending_times(0.5),
    "Timer F": lambda client: None if client.transaction.state is COMPLETED else client.fire(),
    "Timer K": lambda client: client.sending_times(5) if client.transaction.state is COMPLETED else None,
    "Transport Err.": lambda client: client.transaction.fail(TransportError("unreachable")),
}
"""What can happen. Timers F and K are one: Timer F is that it fires ahead of its time, Timer K that its time passes."""

_FINALS = {"200": (0, COMPLETED, "200"), "300-699": (0, COMPLETED, "481")}
_GIVEN_UP = {
    "Timer F": (0, TERMINATED, "failed"),
    "Transport Err.": (0, TERMINATED, "failed"),
}

UNRELIABLE = {
    "Trying": {"1xx": (0, PROCEEDING, ""), **_FINALS, "Timer E": (1, TRYING, ""), "Timer K": (0, TRYING, "")}
    | _GIVEN_UP,
    "Proceeding": {"1xx": (0, PROCEEDING, ""), **_FINALS, "Timer E": (1, PROCEEDING, "")}
    | {"Timer K": (0, PROCEEDING, "")}
    | _GIVEN_UP,
    "Completed": dict.fromkeys(INPUTS, (0, COMPLETED, "")) | {"Timer K": (0, TERMINATED, "")},
    "Terminated": dict.fromkeys(INPUTS, (0, TERMINATED, "")),
}
"""Figure 6: what is sent, the next state, and what the transaction user is told."""

_ENDED = {"200": (0, TERMINATED, "200"), "300-699": (0, TERMINATED, "481")}

RELIABLE = {
    "Trying": UNRELIABLE["Trying"] | _ENDED | {"Timer E": (0, TRYING, "")},
    "Proceeding": UNRELIABLE["Proceeding"] | _ENDED | {"Timer E": (0, PROCEEDING, "")},
    "Terminated": UNRELIABLE["Terminated"],
}
"""The same where Timer E is not started and Timer K is zero: Completed is left as it is entered."""

FIGURES = {"UDP": UNRELIABLE, "TCP": RELIABLE}


def test_figures_are_total() -> None:
    """Figure 6 as held here has every state, with every input (17.1.2.2)."""
    assert {state for state, _ in SITUATIONS.values()} == set(ClientState)
    assert set(UNRELIABLE) == set(SITUATIONS)
    assert set(RELIABLE) == set(SITUATIONS) - {"Completed"}
    for figure in FIGURES.values():
        assert all(set(row) == set(INPUTS) for row in figure.values())


@pytest.mark.parametrize(
    ("transport", "situation", "event"),
    [(kind, situation, event) for kind, rows in FIGURES.items() for situation, row in rows.items() for event in row],
)
def test_figure(transport: Any, situation: Any, event: Any) -> None:
    """Each state answers each input with what figure 6 says: sent, next state, told (17.1.2.2)."""
    client = Client(transport)
    state, events = SITUATIONS[situation]
    for earlier in events:
        INPUTS[earlier](client)
    client.news()
    assert client.transaction.state is state

    INPUTS[event](client)

    sent, next_state, told = FIGURES[transport][situation][event]
    assert client.news() == (sent, told)
    assert client.transaction.state is next_state
    client.transactions.stop()
    assert client.clock.getDelayedCalls() == []


def test_timer_e_in_trying() -> None:
    """On UDP the request is sent at intervals that double from T1 up to T2, until Timer F: 11 times (17.1.2.1)."""
    client = Client()
    assert client.sending_times(64) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert len({data for data, _ in client.flow.sent}) == 1, "18.1.1: they are the same"
    assert client.clock.getDelayedCalls() == []


def test_timer_e_in_proceeding() -> None:
    """After a provisional response the request is sent at intervals of T2, from the next time on (17.1.2.2)."""
    client = Client()
    client.sending_times(0.5)
    assert client.receive(100)
    assert client.sending_times(12) == [1.5, 5.5, 9.5]
    client.transactions.stop()


def test_timers_follow_t1_and_t2() -> None:
    """The intervals and Timer F are made of T1 and T2, whatever these are (17.1.2.2)."""
    client = Client(timers=Timers(t1=0.25, t2=1.0))
    assert client.sending_times(4, by=0.25) == [0.25, 0.75, 1.75, 2.75, 3.75]
    assert client.results == []
    client.sending_times(12, by=0.25)
    assert len(client.results) == 1
    assert client.clock.seconds() == 16


@pytest.mark.parametrize("transport", ["TCP", "TLS"])
def test_no_retransmission_on_reliable_transports(transport: Any) -> None:
    """On reliable transports the request is sent once, and a final response ends it all (17.1.2.2)."""
    client = Client(transport)
    assert client.sending_times(31.5) == []
    assert client.request.headers.values("Via")[0].startswith(f"SIP/2.0/{transport} ")
    assert client.receive(200)
    assert client.clock.getDelayedCalls() == []
    assert client.transactions.counters["pending"] == 0


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("is_proceeding", [False, True])
def test_timer_f(transport: Any, is_proceeding: bool) -> None:
    """Without a final response the transaction fails after 64*T1, and says so, not before (17.1.2.2)."""
    client = Client(transport)
    if is_proceeding:
        client.receive(100)
    client.sending_times(31.5)
    assert client.results == []
    client.sending_times(0.5)
    (failure,) = client.results
    assert failure.check(TransportError)
    assert "Timer F" in failure.getErrorMessage()
    assert client.clock.getDelayedCalls() == []
    assert not client.receive(200), "it comes too late"


def test_timer_k() -> None:
    """On UDP final responses that come again are absorbed for T4; then they are nobody's (17.1.2.2)."""
    client = Client()
    assert client.receive(200)
    client.sending_times(4.5)
    assert client.receive(200)
    assert client.receive(486)
    client.sending_times(0.5)
    assert not client.receive(200)
    assert [response.status for response in client.results] == [200]
    assert client.clock.getDelayedCalls() == []


def test_via() -> None:
    """The request gets a topmost Via with our sent-by, a branch with the magic cookie, and rport (8.1.1.7, 18.1.1)."""
    request = Client().request
    (via,) = request.headers.values("Via")
    assert re.fullmatch(rf"SIP/2\.0/UDP {SENT_BY};branch=z9hG4bK[0-9a-f]{{16,}};rport", via)
    assert next(iter(request.headers))[0] == "Via"
    assert [row for row in request.headers if row[0] not in ("Via", "Content-Length")] == list(BYE.headers)


def test_branches_differ() -> None:
    """Each request has a branch of its own: it is unique across space and time (8.1.1.7)."""
    client = Client()
    for _ in range(99):
        client.send()
    requests: list[Any] = [parse_message(data) for data, _ in client.flow.sent]
    assert len({request.via.branch for request in requests}) == 100
    client.transactions.stop()


def test_matching() -> None:
    """Each response goes to the request whose branch it has (17.1.3)."""
    client = Client()
    first = client.request
    client.send(Request("BYE", "sip:carol@192.0.2.1", BYE.headers))
    assert client.receive(200)
    assert client.transactions.response_received(answer_to(first, 481))
    assert [response.status for response in client.results] == [200, 481]
    client.transactions.stop()


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"Via": f"SIP/2.0/UDP {SENT_BY};branch=z9hG4bKother;rport"}, id="branch"),
        pytest.param({"Via": f"SIP/2.0/UDP {SENT_BY}"}, id="no branch"),
        pytest.param({"Via": "rubbish"}, id="malformed Via"),
        pytest.param({"CSeq": "7 OPTIONS"}, id="method"),
        pytest.param({"CSeq": "7"}, id="malformed CSeq"),
    ],
)
def test_not_ours(changed: Any) -> None:
    """A response with another branch, or another method in CSeq, is no response to the request (17.1.3)."""
    client = Client()
    rows = [(name, changed.get(name, value)) for name, value in client.request.response(200).headers]
    assert not client.transactions.response_received(Response(200, None, Headers(rows)))
    assert client.results == []
    client.transactions.stop()


def test_more_than_one_via() -> None:
    """A response with more than one Via value is discarded, for it was misrouted (8.1.3.3)."""
    client = Client()
    via = client.request.headers.get("Via")
    assert not client.receive(200, Via=f"{via}, SIP/2.0/UDP 203.0.113.1;branch=z9hG4bK1")
    assert client.results == []
    client.transactions.stop()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_sending_fails_at_once(transport: Any) -> None:
    """If the flow cannot take the request its user is told, and nothing is left of it (17.1.4)."""
    client = Client(transport)
    client.transactions.stop()
    transactions = ClientTransactions(client.clock)
    client.flow.failure = "no route to host"
    failed: list[Any] = []
    transactions.send(BYE, client.flow, SENT_BY).addErrback(failed.append)
    assert failed[0].check(TransportError)
    assert failed[0].getErrorMessage() == "no route to host"
    assert transactions.counters["pending"] == 0
    assert client.clock.getDelayedCalls() == []


def test_sending_fails_later() -> None:
    """The same if it is a retransmission that the flow cannot take (17.1.4)."""
    client = Client()
    client.flow.failure = "network is down"
    client.clock.advance(0.5)
    assert client.results[0].check(TransportError)
    assert client.clock.getDelayedCalls() == []


@pytest.mark.requirement("18.4-1")
def test_request_lost() -> None:
    """An ICMP error fails the transaction whose request it quotes (18.4)."""
    client = Client()
    client.lose()
    assert client.results[0].check(TransportError)
    assert client.clock.getDelayedCalls() == []


def test_request_lost_is_cut() -> None:
    """However short the quotation is, nothing breaks, and with its whole Via the transaction is found (18.4)."""
    client = Client()
    octets = client.flow.sent[0][0]
    end_of_via = octets.index(b";rport")
    for length in range(end_of_via):
        client.transactions.request_lost(octets[:length])
    assert client.results == []
    client.transactions.request_lost(octets[:end_of_via])
    assert len(client.results) == 1


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\r\n\r\n",
        b"BYE",
        b"\xff\x00\r\n:\r\n \r\nVia",
        b"BYE sip:a SIP/2.0\r\nVia: rubbish\r\n\r\n",
        b"BYE sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKother\r\n\r\n",
    ],
)
def test_request_lost_is_not_ours(octets: bytes) -> None:
    """A quotation of anything else changes nothing (18.4)."""
    client = Client()
    client.transactions.request_lost(octets)
    assert client.results == []
    client.transactions.stop()


def test_bound() -> None:
    """Beyond the bound a request fails, and is counted; when one is over there is room again."""
    client = Client("TCP", max_transactions=1)
    client.send()
    assert client.results.pop().check(TransportError)
    assert len(client.flow.sent) == 1
    assert client.transactions.counters == {"refused": 1, "pending": 1}
    client.receive(200)
    client.send()
    assert client.transactions.counters == {"refused": 1, "pending": 1}
    client.transactions.stop()


def test_stop() -> None:
    """To stop fails what waits, and leaves no timer: neither that of a request nor Timer K."""
    client = Client()
    client.receive(200)
    client.send()
    client.transactions.stop()
    assert [isinstance(result, Response) for result in client.results] == [True, False]
    assert client.results[1].check(TransportError)
    assert client.clock.getDelayedCalls() == []
    assert client.transactions.counters["pending"] == 0


def test_send_after_stop() -> None:
    """Who sends again because the service stopped is refused, and no timer is left."""
    client = Client()
    client.results = []
    waiting = client.transactions.send(BYE, client.flow, SENT_BY)
    waiting.addErrback(lambda _: client.send())
    client.transactions.stop()
    assert [bool(result.check(TransportError)) for result in client.results] == [True]
    assert len(client.flow.sent) == 2
    assert client.clock.getDelayedCalls() == []


def test_cancelled_by_its_user() -> None:
    """Who no longer waits for the response does not keep the transaction from its end."""
    client = Client()
    waiting = client.transactions.send(BYE, client.flow, SENT_BY)
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    assert client.receive(200)
    client.transactions.stop()


def test_transaction_is_small() -> None:
    """A transaction has no dictionary of its own: there may be many."""
    assert "__dict__" not in dir(NonInviteClientTransaction)
