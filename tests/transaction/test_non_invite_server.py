"""Does the non-INVITE server transaction do in every state what figure 8 of RFC 3261 and RFC 4320 say?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.transaction.figures import Figures
from twisted_sipuas.transaction.server import State
from twisted_sipuas.transaction.timers import Timers

TRYING, PROCEEDING, COMPLETED, TERMINATED = State.TRYING, State.PROCEEDING, State.COMPLETED, State.TERMINATED

SITUATIONS = {
    "Trying": (TRYING, []),
    "Proceeding": (PROCEEDING, ["Timer E at T2"]),
    "Completed": (COMPLETED, ["TU 2xx"]),
    "silent": (COMPLETED, ["TU 408"]),
    "Terminated": (TERMINATED, ["TU 2xx", "Timer J"]),
}
"""The states, and which inputs after the request lead there; Completed twice, for it remembers what was sent."""

INPUTS = {
    "MESSAGE": lambda stack: stack.receive("MESSAGE"),
    "ACK": lambda stack: stack.receive("ACK"),
    "CANCEL": lambda stack: stack.receive("CANCEL"),
    "TU 100": lambda stack: stack.respond(100),
    "TU 101-199": lambda stack: stack.respond(180),
    "TU 2xx": lambda stack: stack.respond(200),
    "TU 3xx-6xx": lambda stack: stack.respond(404),
    "TU 408": lambda stack: stack.respond(408),
    "200 ms": lambda stack: stack.step(0.2, by=0.2),
    "Timer E at T2": lambda stack: stack.step(3.5),
    "Timer J": lambda stack: stack.step(32),
}
"""What can happen. A timer is the time that it takes since the state was entered, whether it was started or not.

Timer E is the client's; when it has grown to T2, RFC 4320 asks for a 100.
"""

# What is sent, the next state, what the transaction user is told.
UNRELIABLE = {
    "Trying": {
        "MESSAGE": ("", TRYING, ""),
        "ACK": ("", TRYING, "ack"),
        "CANCEL": ("200 CANCEL", TRYING, ""),
        "TU 100": ("", TRYING, ""),
        "TU 101-199": ("", TRYING, ""),
        "TU 2xx": ("200", COMPLETED, ""),
        "TU 3xx-6xx": ("404", COMPLETED, ""),
        "TU 408": ("", COMPLETED, ""),
        "200 ms": ("", TRYING, ""),
        "Timer E at T2": ("100", PROCEEDING, ""),
        "Timer J": ("100", PROCEEDING, ""),
    },
    "Proceeding": {
        "MESSAGE": ("100", PROCEEDING, ""),
        "ACK": ("", PROCEEDING, "ack"),
        "CANCEL": ("200 CANCEL", PROCEEDING, ""),
        "TU 100": ("100", PROCEEDING, ""),
        "TU 101-199": ("", PROCEEDING, ""),
        "TU 2xx": ("200", COMPLETED, ""),
        "TU 3xx-6xx": ("404", COMPLETED, ""),
        "TU 408": ("", COMPLETED, ""),
        "200 ms": ("", PROCEEDING, ""),
        "Timer E at T2": ("", PROCEEDING, ""),
        "Timer J": ("", PROCEEDING, ""),
    },
    "Completed": {
        "MESSAGE": ("200", COMPLETED, ""),
        "ACK": ("", COMPLETED, "ack"),
        "CANCEL": ("200 CANCEL", COMPLETED, ""),
        "TU 100": ("", COMPLETED, ""),
        "TU 101-199": ("", COMPLETED, ""),
        "TU 2xx": ("", COMPLETED, ""),
        "TU 3xx-6xx": ("", COMPLETED, ""),
        "TU 408": ("", COMPLETED, ""),
        "200 ms": ("", COMPLETED, ""),
        "Timer E at T2": ("", COMPLETED, ""),
        "Timer J": ("", TERMINATED, "ended: answered"),
    },
    "Terminated": {
        "MESSAGE": ("", TERMINATED, "request"),
        "ACK": ("", TERMINATED, "ack"),
        "CANCEL": ("481 CANCEL", TERMINATED, ""),
        "TU 100": ("", TERMINATED, ""),
        "TU 101-199": ("", TERMINATED, ""),
        "TU 2xx": ("", TERMINATED, ""),
        "TU 3xx-6xx": ("", TERMINATED, ""),
        "TU 408": ("", TERMINATED, ""),
        "200 ms": ("", TERMINATED, ""),
        "Timer E at T2": ("", TERMINATED, ""),
        "Timer J": ("", TERMINATED, ""),
    },
}
UNRELIABLE["silent"] = {**UNRELIABLE["Completed"], "MESSAGE": ("", COMPLETED, "")}

# Timer J is zero: Completed is left as it is entered. A 100 may be sent at any time (RFC 4320, 4.1).
_FINAL = {
    "TU 2xx": ("200", TERMINATED, "ended: answered"),
    "TU 3xx-6xx": ("404", TERMINATED, "ended: answered"),
    "TU 408": ("", TERMINATED, "ended: answered"),
}
RELIABLE = {
    "Trying": {**UNRELIABLE["Trying"], **_FINAL, "TU 100": ("100", PROCEEDING, "")},
    "Proceeding": {**UNRELIABLE["Proceeding"], **_FINAL},
    "Terminated": UNRELIABLE["Terminated"],
}

FIGURES = Figures("MESSAGE", SITUATIONS, INPUTS, UNRELIABLE, RELIABLE)


def test_figures_are_total() -> None:
    """Figure 8 as held here has every state that is not an INVITE's, with every input (17.2.2)."""
    FIGURES.check_is_total(set(State) - {State.CONFIRMED, State.ACCEPTED}, {"Completed", "silent"})


@pytest.mark.requirement("17.2.2-1", "17.2.2-2", "17.2.2-3", "17.2.2-4", "17.2.2-5", "17.2.2-6", "17.2.2-7")
@pytest.mark.requirement("17.2.2-8", "17.2.2-10", "17.2.2-11", "17.2.2-12", "17.2.2-13")
@pytest.mark.requirement("4320-1", "4320-2", "4320-3", "4320-4", "9.2-7", "9.2-8")
@pytest.mark.parametrize(("transport", "situation", "event"), FIGURES.cells)
def test_figure(new_stack: Callable[..., Any], transport: Any, situation: Any, event: Any) -> None:
    """Each state answers each input with what figure 8 and RFC 4320 say: sent, next state, told (17.2.2)."""
    FIGURES.check(new_stack(transport), situation, event)


@pytest.mark.requirement("17.2.4-2", "17.2.4-3")
@pytest.mark.parametrize(("transport", "situation", "event"), FIGURES.cells)
def test_figure_when_sending_fails(new_stack: Callable[..., Any], transport: Any, situation: Any, event: Any) -> None:
    """Where a response is due and cannot be sent, the transaction user is told and the state is Terminated (17.2.4)."""
    FIGURES.check_when_sending_fails(new_stack(transport), situation, event)


@pytest.mark.requirement("17.2.2-9", "17.2.2-10", "17.2.2-12", "17.2.2-13")
def test_timer_j_on_unreliable_transports(new_stack: Callable[..., Any]) -> None:
    """For 64*T1 each retransmission brings back the final response; then it is a new request (17.2.2)."""
    stack = new_stack("UDP")
    stack.receive("MESSAGE")
    stack.respond(202)
    stack.step(31.5)
    stack.receive("MESSAGE")
    assert (stack.sent(), stack.told()) == (["202", "202"], ["request"])
    assert len({data for data, _ in stack.flow.sent}) == 1

    stack.step(0.5)
    assert stack.told() == ["ended: answered"]

    stack.receive("MESSAGE")
    assert (stack.sent(), stack.told()) == ([], ["request"])


@pytest.mark.requirement("17.2.2-9", "17.2.2-13")
@pytest.mark.parametrize("transport", ["TCP", "TLS"])
def test_timer_j_on_reliable_transports(new_stack: Callable[..., Any], transport: Any) -> None:
    """On reliable transports the transaction is destroyed with the final response, and needs no timer (17.2.2)."""
    stack = new_stack(transport)
    stack.receive("MESSAGE")
    stack.respond(202)

    assert stack.told() == ["request", "ended: answered"]
    assert stack.clock.getDelayedCalls() == []
    assert stack.layer.counters["owed"] == stack.layer.counters["waiting"] == 0


@pytest.mark.requirement("4320-2", "4320-3")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_late_100(new_stack: Callable[..., Any], transport: Any) -> None:
    """A 100 is sent once, as a client's Timer E reaches T2: 3.5 s after the request, not before (RFC 4320, 4.1)."""
    stack = new_stack(transport)
    stack.receive("MESSAGE")

    assert stack.step(32) == [3.5]
    assert stack.sent() == ["100"]
    assert ";tag=" not in stack.last.headers.get("To")


@pytest.mark.requirement("4320-3")
def test_late_100_follows_t1_and_t2(new_stack: Callable[..., Any]) -> None:
    """The 100 comes when an interval that doubles from T1 is reset to T2, whatever these are (RFC 4320, 4.1)."""
    stack = new_stack(timers=Timers(t1=0.25, t2=4.0))
    stack.receive("MESSAGE")

    assert stack.step(16, by=0.25) == [3.75]


@pytest.mark.parametrize("answered", [0.5, 3.0])
def test_no_100_after_the_final_response(new_stack: Callable[..., Any], answered: Any) -> None:
    """A request that is answered before 3.5 s have passed gets no 100 (RFC 4320, 4.1)."""
    stack = new_stack()
    stack.receive("MESSAGE")
    stack.step(answered)
    stack.respond(200)
    stack.step(31.5)

    assert stack.sent() == ["200"]


@pytest.mark.requirement("8.2.6.1-3", "8.2.6.1-4", "8.2.6.1-5")
def test_late_100_has_the_timestamp(new_stack: Callable[..., Any]) -> None:
    """The Timestamp of the request is copied into its 100, with the seconds that we took (8.2.6.1)."""
    stack = new_stack()
    stack.receive("MESSAGE", headers=(("Timestamp", "54"),))
    stack.step(3.5)

    assert stack.last.headers.get_all("Timestamp") == ["54 3.500"]


@pytest.mark.requirement("17.2.2-7", "17.2.2-8")
@pytest.mark.parametrize("status", [200, 299, 300, 404, 487, 500, 699])
@pytest.mark.parametrize("late", [False, True])
def test_final_responses(new_stack: Callable[..., Any], status: int, late: Any) -> None:
    """Every final response is sent, from Trying and from Proceeding, and leads to Completed (17.2.2)."""
    stack = new_stack()
    stack.receive("MESSAGE")
    stack.step(4 if late else 0)
    assert stack.sent() == (["100"] if late else [])

    stack.respond(status)

    assert stack.sent() == [str(status)]
    assert stack.transaction.state is COMPLETED


@pytest.mark.requirement("4320-1")
@pytest.mark.parametrize("status", [101, 180, 199])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_no_provisional_but_100(new_stack: Callable[..., Any], transport: Any, status: int) -> None:
    """No provisional response other than 100 is sent to a non-INVITE, at no time on no transport (RFC 4320, 4.1)."""
    stack = new_stack(transport)
    stack.receive("MESSAGE")
    stack.respond(status)
    stack.step(4)
    stack.respond(status)

    assert stack.sent() == ["100"]


@pytest.mark.requirement("4320-4")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("late", [False, True])
def test_408_is_never_sent(new_stack: Callable[..., Any], transport: Any, late: Any) -> None:
    """No 408 is sent to a non-INVITE; the request is then met with silence until Timer J (RFC 4320, 4.2)."""
    stack = new_stack(transport)
    stack.receive("MESSAGE")
    stack.step(4 if late else 0)
    stack.sent()

    stack.respond(408)
    if transport == "UDP":
        stack.receive("MESSAGE")
    stack.step(32)

    assert stack.sent() == []
    assert stack.told() == ["request", "ended: answered"]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_faulty_response_changes_nothing(new_stack: Callable[..., Any], transport: Any) -> None:
    """A response that cannot be put into octets is its maker's error, and an answer is still owed (17.2.2)."""
    stack = new_stack(transport)
    stack.receive("MESSAGE")

    with pytest.raises(TypeError):
        stack.respond(200, body="text, not bytes")

    assert stack.transaction.request is stack.request
    stack.respond(500)
    assert stack.sent() == ["500"]
