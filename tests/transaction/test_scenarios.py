"""Do whole sequences come out as a SIP person expects, step by step?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.requirement("17.2.1-7", "17.2.1-14", "17.2.1-15", "17.2.1-16", "17.2.1-20")
def test_redirected_call_over_udp(new_stack: Callable[..., Any]) -> None:
    """INVITE, 302, and the ACK is lost once: the 302 is resent until an ACK comes (17.2.1)."""
    stack = new_stack("UDP")

    # Alice calls; the location service takes a while.
    stack.receive("INVITE")
    stack.step(0.2, by=0.1)
    assert stack.sent() == ["100"]

    # She does not see the 100, and calls again.
    stack.step(0.3, by=0.1)
    stack.receive("INVITE")
    assert stack.sent() == ["100"]

    # Bob is found elsewhere.
    stack.respond(302, contacts=["sip:bob@192.0.2.7"])
    assert stack.sent() == ["302"]
    assert stack.last.headers.get("Contact") == "<sip:bob@192.0.2.7>"

    # Her first retransmission crosses the 302, which is resent for it.
    stack.receive("INVITE")
    assert stack.sent() == ["302"]

    # Her ACK is lost: the 302 comes again after 0.5 s and after another second.
    stack.step(2)
    assert stack.sent() == ["302", "302"]

    # This time the ACK arrives, twice, and there is silence.
    stack.receive("ACK", to=stack.last.headers.get("To"))
    stack.receive("ACK", to=stack.last.headers.get("To"))
    stack.step(4.5)
    assert stack.sent() == []

    # After 5 seconds all is over, and the transaction user has seen one call.
    assert stack.told() == ["request"]
    stack.step(0.5)
    assert stack.told() == ["ended: answered"]


@pytest.mark.requirement("17.2.1-12", "17.2.1-20")
def test_redirected_call_over_tcp(new_stack: Callable[..., Any]) -> None:
    """INVITE, 302, ACK on a connection: everything once, and over with the ACK (17.2.1)."""
    stack = new_stack("TCP")

    # Alice calls, and is redirected at once.
    stack.receive("INVITE")
    stack.respond(302, contacts=["sip:bob@192.0.2.7"])
    assert stack.sent() == ["302"]

    # Her ACK takes its time, and nothing is resent: TCP does that.
    stack.step(20)
    assert stack.sent() == []

    # The ACK comes, and all is over.
    stack.receive("ACK", to=stack.last.headers.get("To"))
    assert stack.told() == ["request", "ended: answered"]
    assert stack.clock.getDelayedCalls() == []


@pytest.mark.requirement("9.2-8", "9.2-9", "9.2-10", "8.2.6.2-10")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_cancelled_call(new_stack: Callable[..., Any], transport: Any) -> None:
    """INVITE, 180, CANCEL, 200 to the CANCEL, 487 to the INVITE, ACK (9.2)."""
    stack = new_stack(transport)

    # Alice calls, Bob's telephone rings.
    stack.receive("INVITE")
    stack.respond(180)
    assert stack.sent() == ["180"]

    # She hangs up before he answers.
    stack.receive("CANCEL")
    assert stack.sent() == ["200 CANCEL"]
    assert stack.told() == ["request", "cancelled"]

    # The call is refused with 487; all responses have one To tag.
    stack.respond(487)
    assert stack.sent() == ["487"]
    assert len({response.headers.get("To") for response in stack.flow.responses}) == 1

    # She sent the CANCEL again before she saw the 200.
    stack.receive("CANCEL")
    assert stack.sent() == ["200 CANCEL"]

    # Her ACK ends it.
    stack.receive("ACK", to=stack.last.headers.get("To"))
    stack.step(5)
    assert stack.sent() == []
    assert stack.told() == ["ended: cancelled"]


@pytest.mark.requirement("9.2-5")
def test_cancel_that_crosses_the_200(new_stack: Callable[..., Any]) -> None:
    """INVITE, 200, and a CANCEL that comes too late: the call stands, and its ACK is the transaction user's (9.2)."""
    stack = new_stack("UDP")

    # Alice calls, Bob answers.
    stack.receive("INVITE")
    stack.respond(200)
    assert stack.sent() == ["200"]

    # Alice gave up at that moment: her CANCEL is answered, and that is all.
    stack.receive("CANCEL")
    assert stack.sent() == ["200 CANCEL"]

    # The 200 was lost, so the transaction user sends it again; the INVITE alone brings nothing back.
    stack.receive("INVITE")
    assert stack.sent() == []
    stack.respond(200)
    assert stack.sent() == ["200"]

    # Her ACK, a transaction of its own, reaches the transaction user.
    stack.receive("ACK", branch="z9hG4bKack", to=stack.last.headers.get("To"))
    stack.step(32)
    assert stack.told() == ["request", "ack", "ended: answered"]


@pytest.mark.requirement("17.2.2-6", "17.2.2-10", "4320-3")
def test_slow_message_over_udp(new_stack: Callable[..., Any]) -> None:
    """MESSAGE, whose handler takes four seconds: retransmissions are absorbed, a late 100 stops them, then 202."""
    stack = new_stack("UDP")

    # A message comes, and is sent again as Timer E asks, after 0.5 s, 1 s and 2 s; nothing is said yet.
    stack.receive("MESSAGE")
    for wait in (0.5, 1, 2):
        assert stack.sent() == []
        stack.step(wait)
        stack.receive("MESSAGE")

    # At 3.5 s there is a 100, and the retransmission that crossed it brings it back.
    assert stack.sent() == ["100", "100"]

    # The handler is done.
    stack.step(0.5)
    stack.respond(202)
    assert stack.sent() == ["202"]

    # That was lost, so the request comes again, and so does the answer.
    stack.step(4)
    stack.receive("MESSAGE")
    assert stack.sent() == ["202"]

    # 32 seconds after the answer all is over.
    stack.step(28)
    assert stack.told() == ["request", "ended: answered"]


@pytest.mark.requirement("17.2.1-18", "17.2.1-19")
def test_caller_who_vanished(new_stack: Callable[..., Any]) -> None:
    """INVITE, 486, and no ACK ever: the 486 goes out eleven times, and the transaction user hears of it (17.2.1)."""
    stack = new_stack("UDP")

    # Alice calls, and is gone.
    stack.receive("INVITE")
    stack.respond(486)
    assert stack.step(32) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert stack.sent() == ["486"] * 11

    # Nobody waits for her any longer.
    assert stack.told() == ["request", "ended: ACK timeout"]
    assert stack.clock.getDelayedCalls() == []
