"""Does the INVITE server transaction do in every state what figure 7 of RFC 3261 and RFC 6026 say?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.transaction.figures import Figures
from twisted_sipuas.transaction.server import State
from twisted_sipuas.transaction.timers import Timers

PROCEEDING, COMPLETED, CONFIRMED, ACCEPTED, TERMINATED = (
    State.PROCEEDING,
    State.COMPLETED,
    State.CONFIRMED,
    State.ACCEPTED,
    State.TERMINATED,
)

SITUATIONS = {
    "new": (PROCEEDING, []),
    "Proceeding": (PROCEEDING, ["TU 1xx"]),
    "cancelled": (PROCEEDING, ["TU 1xx", "CANCEL"]),
    "Completed": (COMPLETED, ["TU 3xx-6xx"]),
    "Confirmed": (CONFIRMED, ["TU 3xx-6xx", "ACK"]),
    "Accepted": (ACCEPTED, ["TU 2xx"]),
    "Terminated": (TERMINATED, ["TU 3xx-6xx", "ACK", "Timer I"]),
}
"""The states, and which inputs after the INVITE lead there; Proceeding three times, for it remembers what was sent."""

INPUTS = {
    "INVITE": lambda stack: stack.receive("INVITE"),
    "ACK": lambda stack: stack.receive("ACK"),
    "CANCEL": lambda stack: stack.receive("CANCEL"),
    "TU 1xx": lambda stack: stack.respond(180),
    "TU 2xx": lambda stack: stack.respond(200),
    "TU 3xx-6xx": lambda stack: stack.respond(302),
    "200 ms": lambda stack: stack.step(0.2, by=0.2),
    "Timer G": lambda stack: stack.step(0.5),
    "Timer I": lambda stack: stack.step(5),
    "Timer H, L": lambda stack: stack.step(32),
}
"""What can happen. A timer is the time that it takes since the state was entered, whether it was started or not."""

RETRANSMITTED = ", ".join(["302"] * 10)

# What is sent, the next state, what the transaction user is told.
UNRELIABLE = {
    "new": {
        "INVITE": ("", PROCEEDING, ""),
        "ACK": ("", PROCEEDING, ""),
        "CANCEL": ("200 CANCEL", PROCEEDING, "cancelled"),
        "TU 1xx": ("180", PROCEEDING, ""),
        "TU 2xx": ("200", ACCEPTED, ""),
        "TU 3xx-6xx": ("302", COMPLETED, ""),
        "200 ms": ("100", PROCEEDING, ""),
        "Timer G": ("100", PROCEEDING, ""),
        "Timer I": ("100", PROCEEDING, ""),
        "Timer H, L": ("100", PROCEEDING, ""),
    },
    "Proceeding": {
        "INVITE": ("180", PROCEEDING, ""),
        "ACK": ("", PROCEEDING, ""),
        "CANCEL": ("200 CANCEL", PROCEEDING, "cancelled"),
        "TU 1xx": ("180", PROCEEDING, ""),
        "TU 2xx": ("200", ACCEPTED, ""),
        "TU 3xx-6xx": ("302", COMPLETED, ""),
        "200 ms": ("", PROCEEDING, ""),
        "Timer G": ("", PROCEEDING, ""),
        "Timer I": ("", PROCEEDING, ""),
        "Timer H, L": ("", PROCEEDING, ""),
    },
    "cancelled": {
        "INVITE": ("180", PROCEEDING, ""),
        "ACK": ("", PROCEEDING, ""),
        "CANCEL": ("200 CANCEL", PROCEEDING, ""),
        "TU 1xx": ("180", PROCEEDING, ""),
        "TU 2xx": ("200", ACCEPTED, ""),
        "TU 3xx-6xx": ("302", COMPLETED, ""),
        "200 ms": ("", PROCEEDING, ""),
        "Timer G": ("", PROCEEDING, ""),
        "Timer I": ("", PROCEEDING, ""),
        "Timer H, L": ("", PROCEEDING, ""),
    },
    "Completed": {
        "INVITE": ("302", COMPLETED, ""),
        "ACK": ("", CONFIRMED, ""),
        "CANCEL": ("200 CANCEL", COMPLETED, ""),
        "TU 1xx": ("", COMPLETED, ""),
        "TU 2xx": ("", COMPLETED, ""),
        "TU 3xx-6xx": ("", COMPLETED, ""),
        "200 ms": ("", COMPLETED, ""),
        "Timer G": ("302", COMPLETED, ""),
        "Timer I": ("302, 302, 302", COMPLETED, ""),
        "Timer H, L": (RETRANSMITTED, TERMINATED, "ended: ACK timeout"),
    },
    "Confirmed": {
        "INVITE": ("", CONFIRMED, ""),
        "ACK": ("", CONFIRMED, ""),
        "CANCEL": ("200 CANCEL", CONFIRMED, ""),
        "TU 1xx": ("", CONFIRMED, ""),
        "TU 2xx": ("", CONFIRMED, ""),
        "TU 3xx-6xx": ("", CONFIRMED, ""),
        "200 ms": ("", CONFIRMED, ""),
        "Timer G": ("", CONFIRMED, ""),
        "Timer I": ("", TERMINATED, "ended: answered"),
        "Timer H, L": ("", TERMINATED, "ended: answered"),
    },
    "Accepted": {
        "INVITE": ("", ACCEPTED, ""),
        "ACK": ("", ACCEPTED, "ack"),
        "CANCEL": ("200 CANCEL", ACCEPTED, ""),
        "TU 1xx": ("", ACCEPTED, ""),
        "TU 2xx": ("200", ACCEPTED, ""),
        "TU 3xx-6xx": ("", ACCEPTED, ""),
        "200 ms": ("", ACCEPTED, ""),
        "Timer G": ("", ACCEPTED, ""),
        "Timer I": ("", ACCEPTED, ""),
        "Timer H, L": ("", TERMINATED, "ended: answered"),
    },
    "Terminated": {
        "INVITE": ("", TERMINATED, "request"),
        "ACK": ("", TERMINATED, "ack"),
        "CANCEL": ("481 CANCEL", TERMINATED, ""),
        "TU 1xx": ("", TERMINATED, ""),
        "TU 2xx": ("", TERMINATED, ""),
        "TU 3xx-6xx": ("", TERMINATED, ""),
        "200 ms": ("", TERMINATED, ""),
        "Timer G": ("", TERMINATED, ""),
        "Timer I": ("", TERMINATED, ""),
        "Timer H, L": ("", TERMINATED, ""),
    },
}

# Timer G is not started, and Timer I is zero: Confirmed is left as it is entered.
RELIABLE = {situation: row for situation, row in UNRELIABLE.items() if situation != "Confirmed"}
RELIABLE["Completed"] = {
    **UNRELIABLE["Completed"],
    "ACK": ("", TERMINATED, "ended: answered"),
    "Timer G": ("", COMPLETED, ""),
    "Timer I": ("", COMPLETED, ""),
    "Timer H, L": ("", TERMINATED, "ended: ACK timeout"),
}

FIGURES = Figures("INVITE", SITUATIONS, INPUTS, UNRELIABLE, RELIABLE)


def test_figures_are_total() -> None:
    """Figure 7 as held here has every state but Trying, which is not an INVITE's, with every input (17.2.1)."""
    FIGURES.check_is_total(set(State) - {State.TRYING}, {"Confirmed"})


@pytest.mark.requirement("17.2.1-1", "17.2.1-5", "17.2.1-6", "17.2.1-7", "17.2.1-8", "17.2.1-9", "17.2.1-10")
@pytest.mark.requirement("17.2.1-11", "17.2.1-15", "17.2.1-16", "17.2.1-17", "17.2.1-18", "17.2.1-19", "17.2.1-21")
@pytest.mark.requirement("17.2.1-22", "17.2.3-6", "6026-1", "6026-2", "6026-3", "6026-4", "9.2-5", "9.2-8")
@pytest.mark.parametrize(("transport", "situation", "event"), FIGURES.cells)
def test_figure(new_stack: Callable[..., Any], transport: Any, situation: Any, event: Any) -> None:
    """Each state answers each input with what figure 7 and RFC 6026 say: sent, next state, told (17.2.1)."""
    FIGURES.check(new_stack(transport), situation, event)


@pytest.mark.requirement("17.2.4-2", "17.2.4-3")
@pytest.mark.parametrize(("transport", "situation", "event"), FIGURES.cells)
def test_figure_when_sending_fails(new_stack: Callable[..., Any], transport: Any, situation: Any, event: Any) -> None:
    """Where a response is due and cannot be sent, the transaction user is told and the state is Terminated (17.2.4)."""
    FIGURES.check_when_sending_fails(new_stack(transport), situation, event)


@pytest.mark.requirement("17.2.1-14", "17.2.1-18", "17.2.1-19")
def test_retransmission_times(new_stack: Callable[..., Any]) -> None:
    """Timer G resends a 302 after T1, then at intervals that double up to T2, until Timer H at 64*T1 (17.2.1)."""
    stack = new_stack("UDP")
    stack.receive("INVITE")
    stack.respond(302, contacts=["sip:bob@192.0.2.7"])

    assert stack.step(31.5) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert len({data for data, _ in stack.flow.sent}) == 1
    assert stack.told() == ["request"]

    assert stack.step(0.5) == []
    assert stack.told() == ["ended: ACK timeout"]
    assert stack.layer.counters["ack_timeouts"] == 1
    assert stack.step(64) == []


@pytest.mark.requirement("17.2.1-12", "17.2.1-13")
@pytest.mark.parametrize("transport", ["TCP", "TLS"])
def test_nothing_is_resent_on_reliable_transports(new_stack: Callable[..., Any], transport: Any) -> None:
    """On reliable transports there is no Timer G, but Timer H waits 64*T1 all the same (17.2.1)."""
    stack = new_stack(transport)
    stack.receive("INVITE")
    stack.respond(302)

    assert stack.step(31.5) == []
    assert stack.told() == ["request"]
    stack.step(0.5)
    assert stack.told() == ["ended: ACK timeout"]


@pytest.mark.requirement("17.2.1-16", "17.2.1-17")
@pytest.mark.parametrize(("before", "resent"), [(0, []), (2, [0.5, 1.5]), (8, [0.5, 1.5, 3.5, 7.5])])
def test_ack_stops_retransmission(new_stack: Callable[..., Any], before: Any, resent: Any) -> None:
    """After the ACK nothing is resent, whenever it comes, and further ACKs are absorbed (17.2.1)."""
    stack = new_stack("UDP")
    stack.receive("INVITE")
    stack.respond(302)
    assert stack.step(before) == resent

    stack.receive("ACK")
    stack.receive("ACK")

    assert stack.step(64) == []
    assert stack.told() == ["request", "ended: answered"]


@pytest.mark.requirement("17.2.1-20", "17.2.1-21")
def test_timer_i_is_t4_on_unreliable_transports(new_stack: Callable[..., Any]) -> None:
    """An ACKed transaction absorbs more ACKs for T4, then it is gone (17.2.1)."""
    stack = new_stack("UDP")
    stack.receive("INVITE")
    stack.respond(486)
    stack.receive("ACK")
    stack.step(4.5)
    assert stack.told() == ["request"]

    stack.step(0.5)

    assert stack.told() == ["ended: answered"]
    stack.receive("ACK")
    assert stack.told() == ["ack"]


@pytest.mark.requirement("17.2.1-20", "17.2.1-22")
def test_timer_i_is_zero_on_reliable_transports(new_stack: Callable[..., Any]) -> None:
    """On reliable transports an ACKed transaction is destroyed at once, and needs no timer for it (17.2.1)."""
    stack = new_stack("TCP")
    stack.receive("INVITE")
    stack.respond(486)
    stack.receive("ACK")

    assert stack.told() == ["request", "ended: answered"]
    assert stack.clock.getDelayedCalls() == []


@pytest.mark.requirement("6026-1", "6026-2", "6026-4")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_timer_l(new_stack: Callable[..., Any], transport: Any) -> None:
    """A 2xx leaves the transaction in Accepted for 64*T1 on all transports, where the INVITE is absorbed (RFC 6026)."""
    stack = new_stack(transport)
    stack.receive("INVITE")
    stack.respond(200)
    stack.step(31.5)
    stack.receive("INVITE")
    assert (stack.sent(), stack.told()) == (["200"], ["request"])

    stack.step(0.5)
    assert stack.told() == ["ended: answered"]

    stack.receive("INVITE")
    assert stack.told() == ["request"]


@pytest.mark.requirement("17.2.1-8", "17.2.1-10", "17.2.1-11", "6026-1")
@pytest.mark.parametrize(
    ("status", "state"),
    [(200, ACCEPTED), (202, ACCEPTED), (299, ACCEPTED)]
    + [(status, COMPLETED) for status in (300, 399, 401, 487, 500, 600, 699)],
)
def test_final_responses(new_stack: Callable[..., Any], status: int, state: Any) -> None:
    """Every 2xx leads to Accepted, every 300 to 699 to Completed, and either is sent (17.2.1; RFC 6026)."""
    stack = new_stack()
    stack.receive("INVITE")

    stack.respond(status)

    assert stack.sent() == [str(status)]
    assert stack.transaction.state is state


@pytest.mark.requirement("17.2.1-6", "17.2.1-7")
def test_latest_provisional_is_resent(new_stack: Callable[..., Any]) -> None:
    """Each provisional response is sent, and a retransmitted INVITE brings back the latest of them (17.2.1)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.respond(180)
    stack.respond(183)
    assert stack.sent() == ["180", "183"]

    stack.receive("INVITE")

    assert stack.sent() == ["183"]
    assert stack.flow.sent[-1] == stack.flow.sent[-2]


@pytest.mark.requirement("17.2.1-7")
def test_100_is_resent(new_stack: Callable[..., Any]) -> None:
    """The 100 that the transaction sent by itself is a provisional response like others, and is resent (17.2.1)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.step(0.2, by=0.2)

    stack.receive("INVITE")

    assert stack.sent() == ["100", "100"]


@pytest.mark.requirement("6026-3")
def test_2xx_is_resent_by_transaction_user(new_stack: Callable[..., Any]) -> None:
    """In Accepted no 2xx is sent but those that the transaction user gives, and these all are (RFC 6026)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.respond(200)
    assert stack.step(16) == []

    stack.respond(200)
    stack.respond(200)

    assert stack.sent() == ["200", "200", "200"]


def test_timers_follow_base_values(new_stack: Callable[..., Any]) -> None:
    """Timers G, H and I are made of T1, T2 and T4, whatever these are (17.2.1; table 4)."""
    stack = new_stack("UDP", timers=Timers(t1=0.25, t2=1.0, t4=2.0))
    stack.receive("INVITE")
    stack.respond(404)
    assert stack.step(6, by=0.25) == [0.25, 0.75, 1.75, 2.75, 3.75, 4.75, 5.75]
    stack.receive("ACK")
    stack.step(1.75, by=0.25)
    assert stack.told() == ["request"]
    stack.step(0.25, by=0.25)
    assert stack.told() == ["ended: answered"]

    stack.receive("INVITE", branch="z9hG4bKanother")
    stack.transactions[1].respond(stack.request.response(404))
    stack.step(16, by=0.25)
    assert stack.told() == ["request", "ended: ACK timeout"]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_cancelled_transaction_ends_so(new_stack: Callable[..., Any], transport: Any) -> None:
    """The end of a transaction that a CANCEL led to a 487, which was acknowledged, is called that (9.2)."""
    stack = new_stack(transport)
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.respond(487)
    stack.receive("ACK")
    stack.step(5)

    assert stack.told() == ["request", "cancelled", "ended: cancelled"]


@pytest.mark.requirement("17.2.1-19")
def test_missing_ack_is_told_for_cancelled_transaction(new_stack: Callable[..., Any]) -> None:
    """Timer H is what the transaction user is told of, even where a CANCEL came first (17.2.1)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.respond(487)
    stack.step(32)

    assert stack.told() == ["request", "cancelled", "ended: ACK timeout"]


def test_call_taken_in_spite_of_cancel_ends_answered(new_stack: Callable[..., Any]) -> None:
    """A 2xx that follows a CANCEL is an answer: the transaction was not ended by the CANCEL (9.2)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.receive("CANCEL")
    stack.respond(200)
    stack.step(32)

    assert stack.told() == ["request", "cancelled", "ended: answered"]


@pytest.mark.parametrize("status", [180, 200, 302])
def test_faulty_response_changes_nothing(new_stack: Callable[..., Any], status: int) -> None:
    """A response that cannot be put into octets is its maker's error, and an answer is still owed (17.2.1)."""
    stack = new_stack()
    stack.receive("INVITE")

    with pytest.raises(TypeError):
        stack.respond(status, body="text, not bytes")

    assert stack.transaction.request is stack.request
    assert stack.step(0.2, by=0.1) == [0.2]
    stack.respond(486)
    assert stack.sent() == ["100", "486"]


def test_request_is_let_go_with_the_final_response(new_stack: Callable[..., Any]) -> None:
    """After the final response only match key, tag and octets are needed, so the request is not kept (17.2.1)."""
    stack = new_stack()
    stack.receive("INVITE")
    stack.respond(180)
    assert stack.transaction.request is stack.request

    stack.respond(302)

    assert stack.transaction.request is None
