"""Do wrong passwords slow down who sends them, and nobody else?"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from twisted_sipuas import UnavailableError
from twisted_sipuas.auth.delays import Delays

PAIR = (b"alice", "192.0.2.1")
_GUESSES = count()


@pytest.fixture
def delays() -> Delays:
    return Delays(max_pairs=3)


def attempt(delays: Any, now: Any, pair: Any = PAIR, is_right: bool = False, guess: Any = None) -> bool:
    """Make one attempt, by default unlike others, and return whether it was looked at."""
    if not delays.begin(pair, now):
        return False
    if is_right:
        delays.succeeded(pair)
    else:
        delays.failed(pair, next(_GUESSES) if guess is None else guess, now)
    delays.end(pair)
    return True


def test_delay_grows(delays: Delays) -> None:
    """After three mistakes, each further attempt is looked at after twice the time, a minute at most."""
    looked_at = [now for now in range(400) if attempt(delays, now)]
    assert looked_at == [0, 1, 2, 3, 5, 9, 17, 33, 65, 125, 185, 245, 305, 365]


def test_what_comes_too_early_changes_nothing(delays: Delays) -> None:
    """However many attempts come too early, the next one that is looked at is no later for it."""
    looked_at = sum(attempt(delays, now / 10) for now in range(10_000) for _ in range(10))
    assert looked_at == 9 + (1000 - 65) // 60
    assert delays.counters["too_early"] == 100_000 - looked_at
    assert delays.counters["wrong"] == looked_at


def test_others_are_not_delayed(delays: Delays) -> None:
    """Neither another user of the same source nor the same user elsewhere waits."""
    while attempt(delays, 0):
        pass
    assert attempt(delays, 0, (b"bob", "192.0.2.1"))
    assert attempt(delays, 0, (b"alice", "192.0.2.2"), is_right=True)
    assert not attempt(delays, 0)


def test_right_password_ends_the_delay(delays: Delays) -> None:
    """Once the right password came, there are as many free mistakes as in the beginning."""
    for _ in range(3):
        attempt(delays, 0)
    assert not attempt(delays, 0.9, is_right=True)
    assert attempt(delays, 1.0, is_right=True)
    assert [attempt(delays, 1.0) for _ in range(4)] == [True, True, True, False]


def test_mistakes_are_forgotten(delays: Delays) -> None:
    """After a quarter of an hour without a wrong password nothing is remembered."""
    for _ in range(3):
        attempt(delays, 0)
    assert attempt(delays, 900)
    assert delays.counters["delays"] == 1
    assert attempt(delays, 900)


def test_bound(delays: Delays) -> None:
    """Of too many pairs, the one that failed longest ago is forgotten, and that is counted."""
    for user in (b"a", b"b", b"c", b"a", b"d"):
        attempt(delays, 0, (user, "192.0.2.1"))
    counters = delays.counters
    assert (counters["wrong"], counters["delays_dropped"], counters["delays"]) == (5, 1, 3)


def begun(delays: Any, pair: Any, now: Any, number: int) -> tuple[int, ...]:
    """Begin *number* attempts, and return how many are looked at, and how many are too many at once."""
    looked_at = too_many = 0
    for _ in range(number):
        try:
            looked_at += delays.begin(pair, now)
        except UnavailableError:
            too_many += 1
    return looked_at, too_many


def test_attempts_at_once(delays: Delays) -> None:
    """While nothing was wrong a slow checker may look at many; more are told to come later, not that they are wrong."""
    assert begun(delays, PAIR, 0, 110) == (100, 10)
    assert begun(delays, (b"bob", "192.0.2.1"), 0, 1) == (1, 0)
    assert delays.counters["too_early"] == 0


def test_attempts_at_once_of_a_known_user(delays: Delays) -> None:
    """A pair that has succeeded may have more of them, as a trunk needs."""
    attempt(delays, 0, is_right=True)
    assert begun(delays, PAIR, 0, 1010) == (1000, 10)


def test_guesses_at_once(delays: Delays) -> None:
    """Once something was wrong only a few are looked at at a time, and one while there is a delay."""
    attempt(delays, 0)
    assert begun(delays, PAIR, 0, 10) == (8, 2)
    for guess in range(8):
        delays.failed(PAIR, guess, 0)
        delays.end(PAIR)
    assert begun(delays, PAIR, 100, 2) == (1, 0)
    delays.end(PAIR)
    assert begun(delays, PAIR, 100, 2) == (1, 0)


def test_retransmission_counts_once(delays: Delays) -> None:
    """The same wrong digest, however often it is sent, is one wrong password (17.1.2.2: Timer E resends it)."""
    for _ in range(10):
        assert attempt(delays, 0, guess="a")
    assert delays.counters["wrong"] == 1
    assert [attempt(delays, 0, guess=guess) for guess in "bbccaa"] == [True, True, True, False, False, False]


def test_spraying() -> None:
    """Who tries each of many users once from one source is slowed down to a password in ten seconds."""
    delays = Delays()
    looked_at = [attempt(delays, number / 10, (number, "192.0.2.1")) for number in range(10_000)]
    assert looked_at[:30] == [True] * 30
    assert 30 + 95 < sum(looked_at) <= 30 + 100
    assert attempt(delays, 1000, (b"alice", "192.0.2.2"), is_right=True), "elsewhere nobody waits"
    assert attempt(delays, 1000 + 300, (b"new", "192.0.2.1"), is_right=True), "and there not for long"


def test_spraying_does_not_slow_down_who_is_known() -> None:
    """A pair that has succeeded does not wait for what others of its source do."""
    delays = Delays()
    attempt(delays, 0, is_right=True)
    while attempt(delays, 0, (next(_GUESSES), "192.0.2.1")):
        pass
    assert attempt(delays, 0)
    assert attempt(delays, 0, is_right=True)
    assert not attempt(delays, 0, (b"bob", "192.0.2.1"), is_right=True)


def test_spraying_by_way_of_a_slow_checker() -> None:
    """However many are looked at at once, the source is done with its wait after an hour."""
    delays = Delays()
    users = [(number, "192.0.2.1") for number in range(1000)]
    assert all(delays.begin(pair, 0) for pair in users)
    for pair in users:
        delays.failed(pair, 0, 0)
        delays.end(pair)
    assert not attempt(delays, 3000, (b"bob", "192.0.2.1"))
    assert attempt(delays, 3600, (b"bob", "192.0.2.1"))


def test_names_are_not_kept(delays: Delays) -> None:
    """What is remembered of a pair is of one size, however long the name is."""
    attempt(delays, 0, (b"a" * 30_000, "192.0.2.1"))
    assert all(isinstance(key, int) for key in delays._failures)
