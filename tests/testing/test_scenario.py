"""Does a scenario play what it says, and fail where a SIP person would see why?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from twisted_sipuas import UserAgentServer
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import VirtualNetwork, answer, do, expect, nothing, resend, scenario, send, step


class Phone(UserAgentServer):
    """Rings until `take` is called, or takes the call at once if that was before; ends its call when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: Deferred[Any] = Deferred()
        self.dialog: Any = None

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        return request.response(200, headers=[("X", "1"), ("X", "2")])

    async def handle_INVITE(self, request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(180))
        await self.answered
        self.answered = Deferred()
        return request.response(200)

    def handle_ACK(self, ack: Any, dialog: Any) -> None:
        self.dialog = dialog

    def take(self) -> None:
        self.answered.callback(None)

    def end(self) -> None:
        self.dialog.end()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_call(transport: Any) -> None:
    """A call from INVITE to BYE: ACK and BYE are within the dialog, the next INVITE is another call."""
    phone = Phone()
    scenario(
        phone,
        "Alice calls; Bob answers after a second.",
        send("INVITE"),
        expect(180, Contact=...),
        step(1),
        do(phone.take),
        expect(200, "INVITE"),
        send("ACK"),
        "She hangs up.",
        send("BYE"),
        expect(200, "BYE", Contact=None),
        step(32),
        "And calls again.",
        send("INVITE"),
        expect(180),
        nothing(),
        transport=transport,
    )


def test_request_of_the_server() -> None:
    """Bob hangs up: what the server asks is expected by its method, and answered."""
    phone = Phone()
    phone.take()
    client = scenario(
        phone,
        send("INVITE"),
        expect(180),
        expect(200),
        send("ACK"),
        do(phone.end),
        expect("BYE"),
        answer(200),
        step(60),
    )
    assert [request.method for request in client.requests] == ["BYE"]
    assert phone.counters["dialogs"] == 0


def test_cancel() -> None:
    """CANCEL is that of the INVITE, and so is the ACK for the 487."""
    scenario(
        Phone(),
        *(send("INVITE"), expect(180), send("CANCEL"), expect(200, "CANCEL"), expect(487, "INVITE"), send("ACK")),
        step(32),
    )


def test_resend() -> None:
    """The latest request is sent again, as it was."""
    scenario(Phone(), send("MESSAGE"), expect(200), resend(), expect(200))


def test_client_of_a_network() -> None:
    """A client of one's own network plays as well, on from where it is."""
    network = VirtualNetwork(latency=0.1)
    client = network.client(network.serve(Phone()))
    client.send("MESSAGE")
    network.step(1)
    assert scenario(client, send("MESSAGE"), nothing(), step(0.2), expect(200)) is client
    assert client.statuses == [200, 200]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([send("INVITE"), expect(200)], "expected 200, got 180 Ringing (INVITE)"),
        ([send("INVITE"), expect("BYE")], "expected BYE, got 180 Ringing (INVITE)"),
        ([send("INVITE"), expect(180), expect(200)], "expected 200, got nothing"),
        ([send("INVITE")], "expected nothing, got 180 Ringing (INVITE)"),
        ([send("INVITE"), nothing(), expect(180)], "expected nothing, got 180 Ringing (INVITE)"),
        ([send("MESSAGE"), expect(200, "INVITE")], "expected 200 (INVITE), got 200 OK (MESSAGE)"),
        (
            [send("MESSAGE"), expect(200, X="3")],
            "expected 200 with X: 3, got 200 OK (MESSAGE) with X: 1, 2",
        ),
        (
            [send("MESSAGE"), expect(200, X=None)],
            "expected 200 with no X, got 200 OK (MESSAGE) with X: 1, 2",
        ),
        (
            [send("MESSAGE"), expect(200, X="1, 2", Contact=...)],
            "expected 200 with X: 1, 2 and Contact: any, got 200 OK (MESSAGE) with Contact: none",
        ),
        ([send("ACK")], "there is no INVITE for the ACK; send one first"),
        ([send("CANCEL")], "there is no INVITE for the CANCEL; send one first"),
        ([answer(200)], "there is no request to answer; expect one first"),
        ([resend()], "nothing was sent that could be sent again"),
    ],
)
def test_failure(steps: Any, expected: Any) -> None:
    """What fails says what was expected and what came, at which step, and what was exchanged."""
    with pytest.raises(AssertionError) as failure:
        scenario(Phone(), "Alice calls.", *steps)
    text, told, exchanged = str(failure.value).split("\n\n")
    assert text == expected
    assert told.startswith("the steps:\n   # Alice calls.\n")
    assert told.count("\n-> ") == 1
    assert exchanged.startswith("what was exchanged:\n  ")


def test_header_fields() -> None:
    """A header field is compared as a whole, or with one of its rows."""
    scenario(Phone(), send("MESSAGE"), expect(200, X="2"), send("MESSAGE"), expect(200, X="1, 2"))


def test_other_exceptions_are_not_touched() -> None:
    """What a function of the test raises is what the test sees."""
    with pytest.raises(ZeroDivisionError):
        scenario(Phone(), do(lambda: 1 // 0))


class TrialTests(SynchronousTestCase):
    """Trial runs it as well."""

    def test_message(self) -> None:
        """A scenario in a test case of trial."""
        scenario(Phone(), send("MESSAGE"), expect(200))
