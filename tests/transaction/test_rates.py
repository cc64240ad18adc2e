"""Does a source get its rate and its burst, no more, and is it forgotten in time?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from twisted_sipuas.transaction.rates import Rates


def taken(rates: Any, source: str = "a", tries: int = 1000) -> Any:
    """How many of so many *tries* are admitted now."""
    return sum(rates.admit(source) for _ in range(tries))


def test_burst_and_rate() -> None:
    """A source may have the burst at once, and from then on the rate, whatever others have."""
    clock = Clock()
    rates = Rates(clock, rate=10, burst=20)
    assert taken(rates) == 20
    assert taken(rates, "b") == 20
    clock.advance(0.55)
    assert taken(rates) == 5
    clock.advance(100)
    assert taken(rates) == 20


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), max_size=60))
def test_never_more_than_the_bucket_holds(steps: Any) -> None:
    """In any pattern of time and tries, what is admitted is what a token bucket that was full at first lets through."""
    clock = Clock()
    rates = Rates(clock, rate=8, burst=16)
    tokens = 16.0
    for eighths, tries in steps:
        clock.advance(eighths / 8)
        tokens = min(16.0, tokens + eighths)
        expected = min(tries, int(tokens))
        assert taken(rates, tries=tries) == expected
        tokens -= expected


def test_amounts() -> None:
    """What is asked for may have any amount; one too big for what is left leaves that to a smaller one."""
    clock = Clock()
    rates = Rates(clock, rate=1000, burst=65536)
    assert rates.admit("a", 65000)
    assert not rates.admit("a", 600)
    assert rates.admit("a", 500)
    clock.advance(1)
    assert rates.admit("a", 1000)


def test_forgotten_in_time() -> None:
    """Once its bucket must be full again a source is not kept, and while it may not be full, it is."""
    clock = Clock()
    rates = Rates(clock, rate=10, burst=20)
    for number in range(50):
        rates.admit(str(number))
    clock.advance(1.9)
    assert taken(rates, "0") == 20
    clock.advance(0.2)
    assert taken(rates, "0") in (1, 2), "what it had 0.2 s ago counts"
    clock.advance(2.1)
    rates.admit("another")
    assert len(rates) <= 2


def test_clock_set_back() -> None:
    """A clock that is set back locks nobody out."""
    clock = Clock()
    clock.advance(1000)
    rates = Rates(clock, rate=10, burst=20)
    assert taken(rates) == 20
    clock.rightNow -= 900
    assert taken(rates) == 20
    assert taken(rates) == 0


def test_bounded_number_of_sources() -> None:
    """However many sources there are, few are remembered, and the counter tells of those forgotten too soon."""
    rates = Rates(Clock(), rate=10, burst=20, most=100)
    for number in range(1000):
        assert rates.admit(str(number))
    assert len(rates) <= 200
    assert rates.forgotten == 800
    assert taken(rates, "999") == 19


@pytest.mark.parametrize("others", [50, 99])
def test_others_do_not_reset_it(others: Any) -> None:
    """As long as the table has room, what others do does not give a source more than it may have."""
    rates = Rates(Clock(), rate=10, burst=20, most=100)
    assert taken(rates) == 20
    for number in range(others):
        rates.admit(str(number))
    assert taken(rates) == 0
