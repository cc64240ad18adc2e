"""Do wrong passwords slow down who sends them, and nobody else?"""

from __future__ import annotations

import pytest

from twisted_sipuas.auth.delays import Delays

PAIR = (b"alice", "192.0.2.1")


@pytest.fixture
def delays():
    return Delays(max_pairs=3)


def attempt(delays, now, pair=PAIR, is_right=False):
    """Make one attempt, and return whether it was looked at."""
    if not delays.begin(pair, now):
        return False
    if is_right:
        delays.succeeded(pair)
    else:
        delays.failed(pair, now)
    delays.end(pair)
    return True


def test_delay_grows(delays):
    """After three mistakes, each further attempt is looked at after twice the time, a minute at most."""
    looked_at = [now for now in range(400) if attempt(delays, now)]
    assert looked_at == [0, 1, 2, 3, 5, 9, 17, 33, 65, 125, 185, 245, 305, 365]


def test_what_comes_too_early_changes_nothing(delays):
    """However many attempts come too early, the next one that is looked at is no later for it."""
    looked_at = sum(attempt(delays, now / 10) for now in range(10_000) for _ in range(10))
    assert looked_at == 9 + (1000 - 65) // 60
    assert delays.counters["too_early"] == 100_000 - looked_at
    assert delays.counters["wrong"] == looked_at


def test_others_are_not_delayed(delays):
    """Neither another user of the same source nor the same user elsewhere waits."""
    while attempt(delays, 0):
        pass
    assert attempt(delays, 0, (b"bob", "192.0.2.1"))
    assert attempt(delays, 0, (b"alice", "192.0.2.2"), is_right=True)
    assert not attempt(delays, 0)


def test_right_password_ends_the_delay(delays):
    """Once the right password came, there are as many free mistakes as in the beginning."""
    for _ in range(3):
        attempt(delays, 0)
    assert not attempt(delays, 0.9, is_right=True)
    assert attempt(delays, 1.0, is_right=True)
    assert [attempt(delays, 1.0) for _ in range(4)] == [True, True, True, False]


def test_mistakes_are_forgotten(delays):
    """After a quarter of an hour without a wrong password nothing is remembered."""
    for _ in range(3):
        attempt(delays, 0)
    assert attempt(delays, 900)
    assert delays.counters["delays"] == 1
    assert attempt(delays, 900)


def test_bound(delays):
    """Of too many pairs, the one that failed longest ago is forgotten, and that is counted."""
    for user in (b"a", b"b", b"c", b"a", b"d"):
        attempt(delays, 0, (user, "192.0.2.1"))
    assert delays.counters == {"wrong": 5, "too_early": 0, "delays_dropped": 1, "delays": 3}


def test_attempts_at_once(delays):
    """While a slow checker looks, no more than a few passwords of a pair are on their way; later on one."""
    assert [delays.begin(PAIR, 0) for _ in range(10)] == [True] * 8 + [False] * 2
    for _ in range(8):
        delays.failed(PAIR, 0)
        delays.end(PAIR)
    assert [delays.begin(PAIR, 100) for _ in range(2)] == [True, False]
    delays.end(PAIR)
    assert delays.begin(PAIR, 100)
    assert delays.begin((b"bob", "192.0.2.1"), 100)


def test_names_are_not_kept(delays):
    """What is remembered of a pair is of one size, however long the name is."""
    attempt(delays, 0, (b"a" * 30_000, "192.0.2.1"))
    assert all(isinstance(key, int) for key in delays._failures)
