"""How long does an INVITE wait for its answer, and what does the caller hear meanwhile (RFC 3261, 13.3.1)?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from tests.uas.caller import Caller, Phone
from twisted_sipuas.interfaces import EndReason
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import VirtualNetwork


class Waiting(Phone):
    """Answers when `later` fires, after the *provisional* responses."""

    def __init__(self, *provisional: Any, **options: Any) -> None:
        super().__init__(**options)
        self.provisional = provisional
        self.ended: list[Any] = []

    async def handle_INVITE(self, request: Request, transaction: Any) -> Any:
        for status in self.provisional:
            transaction.respond(request.response(status))
        self.later: Deferred[Any] = Deferred()
        self.transaction = transaction
        return request.response(await self.later)

    def ring(self, status: int = 180) -> None:
        self.transaction.respond(self.transaction.request.response(status))

    def transaction_ended(self, transaction: Any, reason: Any) -> None:
        super().transaction_ended(transaction, reason)
        self.ended.append(reason)


# Expires


@pytest.mark.requirement("13.3.1-1", "13.3.1-2")
@pytest.mark.parametrize("within", [False, True], ids=["INVITE", "re-INVITE"])
@pytest.mark.parametrize("expires", [1, 20, 179])
def test_expires(expires: Any, within: Any) -> None:
    """An INVITE that is not answered within its Expires gets 487, and not before (13.3.1)."""
    caller = Caller(Waiting())
    if within:
        caller.invite()
        caller.server.later.callback(200)
        caller.hear()
        caller.ack()
    caller.send("INVITE", headers=(("Expires", str(expires)),)).step(expires - 0.5)
    assert caller.flow.responses[-1].status < 300
    caller.step(0.5)
    assert caller.last.status == 487
    assert caller.dialog is None or within
    caller.server.later.addErrback(lambda _: None)


@pytest.mark.requirement("13.3.1-1")
@pytest.mark.parametrize("value", ["0", "soon", "3600"])
def test_expires_of_other_kinds(value: str) -> None:
    """An Expires of 0 is over at once; a malformed one counts as none, and a long one not beyond our own limit."""
    caller = Caller(Waiting()).send("INVITE", headers=(("Expires", value),))
    if value == "0":
        caller.clock.advance(0)
        assert caller.statuses == [487]
    else:
        caller.step(179.5)
        assert caller.last.status == 183
        caller.step(0.5)
        assert caller.last.status == 480


@pytest.mark.requirement("13.3.1-2")
@pytest.mark.parametrize("status", [200, 486])
def test_answered_before_it_expires(status: int) -> None:
    """After a final response nothing comes of Expires any more (13.3.1)."""
    server = Waiting()
    client = VirtualNetwork().client(server, transport="TCP", acknowledges=True)
    call = client.send("INVITE", headers=(("Expires", "5"),))
    server.later.callback(status)
    client.network.step(60)
    assert call.statuses == [status]


# Progress


@pytest.mark.requirement("13.3.1.1-2", "13.3.1.1-3")
def test_many_provisional_responses() -> None:
    """A handler may send any number of provisional responses, and all show the dialog of the 2xx (13.3.1.1)."""
    caller = Caller(Waiting(180, 183, 180, 199, 182)).invite()
    early = caller.dialog
    caller.server.ring(181)
    caller.server.later.callback(200)
    assert caller.statuses == [180, 183, 180, 199, 182, 181, 200]
    assert len({response.headers.get("To") for response in caller.flow.responses}) == 1
    assert caller.dialog is early
    assert caller.server.counters["dialogs"] == 1


@pytest.mark.requirement("13.3.1.1-4")
@pytest.mark.parametrize(("provisional", "reminder"), [((), 183), ((180,), 180), ((180, 182), 182), ((100,), 183)])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_reminder(provisional: Any, reminder: Any, transport: Any) -> None:
    """While the answer takes long, the caller hears a provisional response other than 100 every minute (13.3.1.1)."""
    server = Waiting(*provisional)
    client = VirtualNetwork().client(server, transport=transport, acknowledges=True)
    call = client.send("INVITE")
    client.network.step(149)
    at_once = provisional or (100,)
    assert call.statuses == [*at_once, reminder, reminder]
    assert client.times[len(at_once) :] == [60, 120]
    server.later.callback(486)
    client.network.step(120)
    assert call.statuses[len(at_once) + 2 :] == [486], "the final response is the last one"


@pytest.mark.requirement("13.3.1.1-4")
def test_reminder_counts_from_the_latest_response() -> None:
    """The minute begins anew with each provisional response of the handler's (13.3.1.1)."""
    caller = Caller(Waiting(180)).invite().step(50)
    caller.server.ring(182)
    caller.step(59.5)
    assert caller.statuses == [180, 182]
    caller.step(0.5)
    assert caller.statuses == [180, 182, 182]
    caller.server.later.callback(486)


def test_no_reminder_before_the_checks() -> None:
    """While it is being asked who sent an INVITE nothing is said that would make a dialog (8.2, 12.1.1)."""
    identity: Deferred[Any] = Deferred()

    class Doorkeeper:
        def authenticate(self, request: Request, transaction: Any) -> Any:
            return identity

    caller = Caller(Waiting(authenticator=Doorkeeper())).send("INVITE", headers=(("Contact", ""),)).step(150)
    assert caller.statuses == [100]
    identity.callback("alice")
    assert caller.statuses == [100, 400]
    assert caller.is_over


@pytest.mark.requirement("13.3.1.1-4")
def test_reminder_after_slow_authentication() -> None:
    """The minute goes on once it is known who calls (13.3.1.1)."""
    identity: Deferred[Any] = Deferred()

    class Doorkeeper:
        def authenticate(self, request: Request, transaction: Any) -> Any:
            return identity

    caller = Caller(Waiting(authenticator=Doorkeeper())).send("INVITE").step(90)
    identity.callback("alice")
    caller.step(30)
    assert caller.statuses == [100, 183]
    caller.server.later.callback(486)


# Every kind of answer


@pytest.mark.requirement("13.3.1-8")
@pytest.mark.parametrize("status", [180, 200, 302, 486, 600])
def test_answers_are_built_as_any_other(status: int) -> None:
    """Progress, acceptance, redirection and rejection have the header fields that 8.2.6 asks for (13.3.1)."""

    def answer(request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(status))
        return Deferred()

    caller = Caller(Phone(answer)).send("INVITE", headers=(("Via", "SIP/2.0/TCP proxy.example.com;branch=z9hG4bKx"),))
    assert caller.statuses == [status]
    for name in ("Via", "From", "Call-ID", "CSeq"):
        assert caller.last.headers.values(name) == caller.request.headers.values(name)
    to, _, tag = caller.last.headers.get("To").partition(";tag=")
    assert (to, bool(tag)) == ("<sip:bob@example.com>", True)


@pytest.mark.requirement("13.3.1.2-1")
@pytest.mark.parametrize("status", [300, 301, 302])
def test_redirection(status: int) -> None:
    """A handler that redirects gives one or more new addresses, and they are sent as given (13.3.1.2)."""
    new = ["sip:bob@192.0.2.4", "<sip:bob@192.0.2.5>;q=0.5"]
    caller = Caller(Phone(lambda request, transaction: request.response(status, contacts=new))).invite()
    assert caller.last.headers.values("Contact") == ["<sip:bob@192.0.2.4>", "<sip:bob@192.0.2.5>;q=0.5"]


@pytest.mark.requirement("13.3.1.2-2")
def test_redirection_is_resent_by_the_transaction() -> None:
    """The server transaction resends a 3xx until its ACK, and the handler is not asked again (13.3.1.2)."""
    asked = []

    def answer(request: Request, transaction: Any) -> Any:
        asked.append(request)
        return request.response(302, contacts=["sip:bob@192.0.2.4"])

    server = Phone(answer)
    client = VirtualNetwork().client(server)
    call = client.send("INVITE")
    client.network.step(4)
    assert call.statuses == [302] * 4
    assert len({response.to_bytes() for response in call.responses}) == 1
    call.ack()
    client.network.step(30)
    assert (call.statuses, len(asked), server.heard) == ([302] * 4, 1, [])


@pytest.mark.requirement("13.3.1.4-1", "13.3.1.4-2")
@pytest.mark.parametrize("within", [False, True], ids=["INVITE", "re-INVITE"])
def test_acceptance(within: Any) -> None:
    """The 2xx tells in Allow and Supported what may be asked for during the call (13.3.1.4)."""

    class Server(Phone):
        supported = ("timer", "100rel")

    caller = Caller(Server()).called() if within else Caller(Server())
    caller.invite()
    assert set(caller.last.headers.values("Allow")) == {"ACK", "BYE", "CANCEL", "INFO", "INVITE", "OPTIONS"}
    assert set(caller.last.headers.values("Supported")) == {"timer", "100rel"}


def test_acceptance_of_a_handlers_own() -> None:
    """Allow and Supported that the handler gives are not added to."""
    own = [("Allow", "INVITE, ACK"), ("Supported", "")]
    caller = Caller(Phone(lambda request, transaction: request.response(200, headers=own))).invite()
    assert [caller.last.headers.get_all(name) for name in ("Allow", "Supported")] == [["INVITE, ACK"], [""]]


def test_outcome_of_an_expired_invite() -> None:
    """A handler whose time is up is told so by the outcome of its transaction."""
    server = Waiting()
    client = VirtualNetwork().client(server, transport="TCP", acknowledges=True)
    client.send("INVITE", headers=(("Expires", "2"),))
    client.network.step(2)
    assert server.ended == [EndReason.HANDLER_TIMEOUT]


# A response that cannot be sent


@pytest.mark.requirement("17.2.4-3")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("within", [False, True], ids=["INVITE", "re-INVITE"])
@pytest.mark.parametrize("status", [100, 180, 200, 486])
def test_response_that_cannot_be_sent(status: int, within: Any, transport: Any) -> None:
    """An INVITE whose response cannot be sent is over: it takes no place, and there is no dialog by it (17.2.4)."""

    def answer(request: Request, transaction: Any) -> Any:
        caller.flow.failure = "no route"
        transaction.respond(request.response(status))
        caller.flow.failure = None
        return request.response(200) if status < 200 else None

    caller = Caller(transport=transport)
    if within:
        caller.called()
    caller.server.answer = answer
    caller.send("INVITE")
    assert caller.statuses == [200] * within
    assert caller.is_over is not within
    caller.server.answer = None
    assert caller.send("INVITE").last.status == 200
    assert caller.server.counters["dialogs"] == 1


@pytest.mark.parametrize("status", [180, 202])
def test_stateless_response_that_is_no_refusal(status: int, logged_failures: list[LogEvent]) -> None:
    """What makes a dialog cannot be sent and forgotten: an error in the log, and 500 (8.2.7, 12.1)."""
    caller = Caller(Phone(lambda request, transaction: transaction.respond_statelessly(request.response(status))))
    assert caller.invite().statuses == [500]
    assert "this is for refusals" in str(logged_failures[0]["log_failure"].value)
    assert caller.is_over
    logged_failures.clear()
