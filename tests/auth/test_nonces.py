"""Does a nonce say what it should, and is each of its counts good for one request?"""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.auth.nonces import NonceCounts, Nonces

KEY = bytes(range(32))
SOURCE = "192.0.2.1"


def test_nonces_differ() -> None:
    """No two clients get the same nonce, however many are challenged in one second."""
    nonces = Nonces("example.com")
    assert len({nonces.issue(5, SOURCE) for _ in range(1000)}) == 1000


def test_nonce_says_when_it_was_made() -> None:
    """A nonce carries the time in it, so that none has to be kept."""
    nonces = Nonces("example.com", KEY)
    assert nonces.issued(nonces.issue(1_700_000_000.9, SOURCE), SOURCE) == (1_700_000_000, True)


def test_key() -> None:
    """With the same key, say after a restart, nonces are known again; by default every server has one of its own."""
    nonce = Nonces("example.com", KEY).issue(7, SOURCE)
    assert Nonces("example.com", KEY).issued(nonce, SOURCE) == (7, True)
    assert Nonces("example.org", KEY).issued(nonce, SOURCE) is None
    assert Nonces("example.com").issued(nonce, SOURCE) is None
    with pytest.raises(ValueError):
        Nonces("example.com", b"short")


def test_nonce_is_of_one_source() -> None:
    """A nonce says whether it was issued to the source that it comes from: no other one can be given it to use."""
    nonces = Nonces("example.com", KEY)
    nonce = nonces.issue(7, SOURCE)
    assert nonces.issued(nonce, "192.0.2.2") == (7, False)


@given(st.integers(0, 35), st.characters(codec="utf-8"))
def test_forged(position: int, character: str) -> None:
    """A nonce in which anything was changed is none of ours."""
    nonces = Nonces("example.com", KEY)
    nonce = nonces.issue(7, SOURCE)
    changed = nonce[:position] + character + nonce[position + 1 :]
    assert nonces.issued(changed, SOURCE) == ((7, True) if changed == nonce else None)


@given(st.one_of(st.text(max_size=40), st.binary(min_size=27, max_size=27).map(lambda o: base64.b64encode(o).decode())))
def test_no_nonce(text: str) -> None:
    """Any text may come as a nonce, and is none."""
    assert Nonces("example.com").issued(text, SOURCE) is None


@pytest.fixture
def counts() -> NonceCounts:
    return NonceCounts(300, window=4, max_nonces=2)


def use(
    counts: NonceCounts, number: int, request: int | None = None, nonce: str = "n", issued: int = 100, now: int = 100
) -> bool:
    return counts.use(nonce, issued, number, hash((nonce, number)) if request is None else request, "c", now)


@pytest.mark.requirement("7616-1")
def test_count_is_used_once(counts: NonceCounts) -> None:
    """A count serves for one request; the same request may come again (RFC 7616, 5.4; 8.2.7)."""
    assert use(counts, 1)
    assert use(counts, 1)
    assert not use(counts, 1, request=5)
    assert use(counts, 2)
    assert not use(counts, 1, request=5)
    assert use(counts, 1), "a merged request may come late"
    assert counts.counters["replays"] == 2


def test_requests_may_overtake_each_other(counts: NonceCounts) -> None:
    """A count may be lower than one that came before, within the window (RFC 7616, 3.4.6)."""
    assert use(counts, 5)
    assert use(counts, 3)
    assert use(counts, 2)
    assert not use(counts, 1), "out of the window"
    assert not use(counts, 3, request=5)


def test_window_is_bounded(counts: NonceCounts) -> None:
    """However many counts of a nonce are used, those remembered are as many as the window has."""
    for number in range(1, 1000):
        assert use(counts, number)
    assert len(counts._used["n"].requests) <= 4


def test_client_that_does_not_count(counts: NonceCounts) -> None:
    """Without a count, a nonce serves for one request (RFC 2069)."""
    assert use(counts, 0)
    assert use(counts, 0)
    assert not use(counts, 0, request=5)


def test_nonces_are_forgotten_in_time(counts: NonceCounts) -> None:
    """A nonce that is too old for use is not remembered any longer."""
    use(counts, 1)
    use(counts, 1, nonce="m", issued=500, now=500)
    assert counts.counters["nonces"] == 1


def test_bound(counts: NonceCounts) -> None:
    """When too many nonces are in use, the oldest is forgotten, and then nothing that is as old is taken."""
    for nonce, issued in (("a", 100), ("b", 101), ("c", 102)):
        assert use(counts, 1, nonce=nonce, issued=issued)
    assert counts.counters == {"replays": 0, "nonces_dropped": 1, "nonces": 2}
    assert not use(counts, 1, nonce="a", issued=100), "or it could be used again"
    assert not use(counts, 1, nonce="d", issued=100)
    assert use(counts, 1, nonce="e", issued=103)


def test_first_cnonce(counts: NonceCounts) -> None:
    """The first cnonce of a nonce is remembered, for its -sess algorithms."""
    assert counts.first_cnonce("n") is None
    counts.use("n", 100, 1, 1, "first", 100)
    counts.use("n", 100, 2, 2, "second", 100)
    assert counts.first_cnonce("n") == "first"


@pytest.mark.parametrize("bounds", [{"window": 0}, {"max_nonces": 0}])
def test_no_room(bounds: dict[str, int]) -> None:
    """A memory of nothing would let no client in."""
    with pytest.raises(ValueError):
        NonceCounts(300, **bounds)
