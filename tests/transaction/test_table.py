"""Does the table find each transaction by key and method, also where one key has several (RFC 3261, 17.2.3 and 9.2)?"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.testing import make_request
from twisted_sipuas.transaction.table import TransactionTable, response_key, transaction_key

Kept = namedtuple("Kept", "key method number")


class Entry(Kept):
    """A transaction, as far as the table looks at it; equal to itself only."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


METHODS = ["INVITE", "CANCEL", "DANCE", "JUMP"]
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "remove"]), st.sampled_from("ab"), st.sampled_from(METHODS)),
    max_size=40,
)


@given(OPERATIONS)
def test_as_a_dictionary(operations: Any) -> None:
    """In any order of additions and removals it holds what a dictionary by key and method would."""
    table: TransactionTable[Any] = TransactionTable()
    model: dict[Any, Any] = {}
    for number, (operation, key, method) in enumerate(operations):
        if operation == "add" and (key, method) not in model:
            model[key, method] = Entry(key, method, number)
            table.add(model[key, method])
        elif operation == "remove":
            table.remove(Entry(key, method, number))  # which is not kept
            if (key, method) in model:
                table.remove(model.pop((key, method)))
        assert len(table) == len(model)
        assert set(table) == set(model.values())
        for a_key in "ab":
            of_key = [entry for entry in model.values() if entry.key == a_key]
            for a_method in METHODS:
                assert table.get(a_key, a_method) is model.get((a_key, a_method))
            assert table.only(a_key) is (of_key[0] if len(of_key) == 1 else None)
            cancelled = table.cancelled_by(a_key)
            if (a_key, "INVITE") in model:
                assert cancelled is model[a_key, "INVITE"]
            else:
                others = [entry for entry in of_key if entry.method != "CANCEL"]
                assert cancelled in others if others else cancelled is None


def test_key_with_a_cookie_is_never_one_without() -> None:
    """No branch can be made to look like what RFC 2543 clients are matched by."""
    with_cookie = transaction_key(make_request(branch="z9hG4bK-sip:bob@example.com"))
    without = transaction_key(make_request(branch="1"))

    assert without.startswith("\n")
    assert not with_cookie.startswith("\n")


def response(**fields: Any) -> Any:
    """Return the octets of a 200 to a request with *fields*."""
    return make_request("OPTIONS", **fields).response(200).to_bytes("tag")


def test_response_key() -> None:
    """A response of ours has the key of its request, and the method of its CSeq (17.2.3)."""
    request = make_request("OPTIONS")

    assert response_key(response()) == (transaction_key(request), "OPTIONS")


def test_response_that_is_cut_short() -> None:
    """What is cut off is not read, in the middle of a line neither; without CSeq the method is not known."""
    octets = response()
    via, cseq = octets.index(b"\r\nVia"), octets.index(b"\r\nCSeq")
    for length in range(len(octets)):
        found = response_key(octets[:length])
        if length < octets.index(b"\r\n", via + 2) + 2:
            assert found is None
        elif length < octets.index(b"\r\n", cseq + 2) + 2:
            assert found == (transaction_key(make_request("OPTIONS")), None)
        else:
            assert found == (transaction_key(make_request("OPTIONS")), "OPTIONS")


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"SIP/2.0 200 OK\r\nVia: nonsense\r\n\r\n",
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1\r\nCSeq: 1 OPTIONS\r\n\r\n",
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=1\r\nCSeq: 1 OPTIONS\r\n\r\n",
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nCSeq: nonsense\r\n\r\n",
        make_request("OPTIONS").to_bytes(),
    ],
)
def test_what_is_no_response_of_ours(octets: bytes) -> None:
    """Anything else has no key, and neither has a response to an RFC 2543 client: it does not tell the Request-URI."""
    assert response_key(octets) is None


@given(st.binary(max_size=200), st.integers(0, 300), st.binary(max_size=5))
def test_any_octets(octets: bytes, where: Any, inserted: Any) -> None:
    """Whatever the octets are, they have a key or none, and raise nothing."""
    response_key(octets)
    response_key(b"SIP/2.0 " + octets)
    response_key(response()[:where] + inserted + response()[where:])


def test_long_key_is_kept_short() -> None:
    """However long a branch is, what is kept of it is not, and it is found again."""
    long, other = (make_request("INVITE", branch=f"z9hG4bK{'x' * 30_000}{end}") for end in "12")
    assert len(transaction_key(long)) < 600
    assert transaction_key(long) != transaction_key(other)
    assert response_key(long.response(486).to_bytes()) == (transaction_key(long), "INVITE")
