"""Are bindings in Redis what they were, whatever is in them, and is anything else refused?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.location import Binding
from twisted_sipuas.location.redis_value import VERSION_SIZE, expiry, packed, unpacked

RECEIVED = st.binary(max_size=40).map(lambda octets: octets.decode("utf-8", "surrogateescape"))
BINDINGS = st.builds(
    Binding,
    RECEIVED,
    st.floats(0, 1e11),
    RECEIVED,
    st.integers(0, 2**32),
    st.none() | st.floats(0, 1),
    RECEIVED,
    RECEIVED,
    RECEIVED,
)
START = b"1 aaaaaaaaaaaaaaaaaaaa "


@given(st.lists(BINDINGS, min_size=1, max_size=4))
def test_round_trip(bindings: list[Binding]) -> None:
    """Bindings of whatever was received come back as they were, to the octet, in order."""
    found, version = unpacked(packed(bindings))
    assert found == tuple(bindings)
    assert len(version) == VERSION_SIZE


def test_compact() -> None:
    """Fields at the end that have their default take no room."""
    value = packed([Binding("tel:+1", 5.0, "a@b", 7), Binding("tel:+2", 5.5, "a@b", 7, path="<sip:p;lr>")])
    assert value[VERSION_SIZE:] == b' [["tel:+1",5.0,"a@b",7],["tel:+2",5.5,"a@b",7,null,"","","<sip:p;lr>"]]'


def test_octets_are_kept() -> None:
    """Text is the octets received, so that people can read and search it."""
    assert 'b\xe4\udcff"'.encode("utf-8", "surrogateescape") in packed([Binding("b\xe4\udcff", 5.0, "", 7)])


def test_versions() -> None:
    """No version is given twice, for the same bindings neither."""
    bindings = [Binding("tel:+1", 5.0, "", 7)]
    assert len({unpacked(packed(bindings))[1] for _ in range(1000)}) == 1000


def test_text_that_was_never_received() -> None:
    """Text that no received octets make is refused, as with every store."""
    with pytest.raises(UnicodeEncodeError):
        packed([Binding("\ud800", 5.0, "", 7)])


def test_expiry() -> None:
    """Redis keeps a value until its last binding is over, and half a minute for its clock."""
    assert expiry([Binding("a", 5.0001, "", 7), Binding("b", 3.0, "", 7)]) == 35001


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"hello",
        b"2" + START[1:] + b"[]",
        START[:-1],
        START,
        START[:-1] + b"x[]",
        START + b"{}",
        START + b"[1]",
        START + b"[[]]",
        START + b'[["a",1.0,"b"]]',
        START + b'[["a","1.0","b",1]]',
        START + b'[["a",NaN,"b",1]]',
        START + b'[["a",1e999,"b",1]]',
        START + b'[["a",' + b"9" * 400 + b',"b",1]]',
        START + b'[["a",-1.0,"b",1]]',
        START + b'[["a",true,"b",1]]',
        START + b'[["a",1.0,"b",1.0]]',
        START + b'[["a",1.0,"b",true]]',
        START + b'[["a",1.0,"b",-1]]',
        START + b'[["a",1.0,"b",1,"q"]]',
        START + b'[["a",1.0,"b",1,true]]',
        START + b'[["a",1.0,"b",1,1.1]]',
        START + b'[["a",1.0,"b",1,' + b"9" * 400 + b"]]",
        START + b'[["a",1.0,"b",1,null,"","","",""]]',
        START + b'[["a",1.0,"b",1,null,"","",7]]',
        START + b"[" * 100_000,
        START + b"[[\xff]]",
        START + b"9" * 5000,
    ],
)
def test_strange_value(value: bytes) -> None:
    """What is none of ours is a ValueError, whatever it is."""
    with pytest.raises(ValueError):
        unpacked(value)


@given(st.binary(max_size=60))
def test_any_value(text: bytes) -> None:
    """Any octets behind a version are bindings or a ValueError."""
    try:
        unpacked(START + text)
    except ValueError:
        pass
