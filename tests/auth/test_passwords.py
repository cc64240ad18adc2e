"""Is a file of users read as it is documented, whatever is in it?"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.auth.digest import HASHES
from twisted_sipuas.auth.passwords import Secrets, parse_users

MD5 = b"0" * 31 + b"A"
SHA = b"1" * 64


def users(*lines: bytes, realm: str = "example.com") -> Any:
    return parse_users([line + b"\n" for line in lines], realm)


def test_passwords() -> None:
    """A line is cut at its first colon, and nothing of the password is taken away."""
    read = users(b"alice:secret", b"bob: a:b ", b"", b"  ", b"# carol:x", b"dave:#1\r", b"J\xe4son:\xff")
    assert {user: secrets.password for user, secrets in read.secrets.items()} == {
        b"alice": b"secret",
        b"bob": b" a:b ",
        b"dave": b"#1",
        b"J\xe4son": b"\xff",
    }
    assert read.hashes == set(HASHES)


def test_hashes() -> None:
    """A line that ends in a colon and 32 or 64 hexadecimal digits has a hash of its realm: MD5, or mostly SHA-256."""
    read = users(
        b"alice:example.com:" + MD5,
        b"alice:example.com:" + SHA,
        b"alice:example.com:{sha-512-256}" + SHA,
        b"bob:{MD5}" + MD5,  # no realm: a password
        b"carol:example.org:" + MD5,
        b"dave:secret",
        b"dave:example.com:" + MD5,
    )
    assert read.secrets == {
        b"alice": Secrets(None, {"MD5": MD5, "SHA-256": SHA, "SHA-512-256": SHA}),
        b"bob": Secrets(b"{MD5}" + MD5, {}),
        b"dave": Secrets(b"secret", {"MD5": MD5}),
    }


def test_realm_with_a_colon() -> None:
    """A realm is all between the first colon and the last."""
    assert users(b"alice:a:b:" + MD5, realm="a:b").secrets[b"alice"].hashes == {"MD5": MD5}


def test_hash_is_no_password() -> None:
    """A hash for another realm lets nobody in: who steals it from elsewhere has no password here."""
    assert users(b"alice:example.org:" + MD5).secrets == {}


def test_htdigest() -> None:
    """What Apache's htdigest writes is MD5 of user, realm and password (RFC 7616, 3.4.2)."""
    digits = hashlib.md5(b"alice:example.com:secret").hexdigest().encode()
    assert users(b"alice:example.com:" + digits).secrets[b"alice"].hashes == {"MD5": digits}


@pytest.mark.parametrize(
    ("lines", "hashes"),
    [
        ([b"alice:secret", b"bob:example.com:" + MD5], {"MD5"}),
        ([b"alice:example.com:" + SHA, b"alice:example.com:" + MD5], {"MD5", "SHA-256"}),
        ([], set(HASHES)),
    ],
)
def test_hashes_in_common(lines: Any, hashes: Any) -> None:
    """The hashes are those that digests of every user may be made with."""
    assert users(*lines).hashes == hashes


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b"# users", b"alice"], "line 2: expected user:password"),
        ([b":secret"], "line 1: expected user:password"),
        ([b"alice:"], "line 1: expected user:password"),
        ([b"alice:a-secret", b"", b"alice:b-secret"], "line 3: a second password"),
        ([b"alice:example.com:" + MD5] * 2, "line 2: a second hash"),
        ([b"alice:example.com:{SHA-1}" + MD5], "line 1: {SHA-1}: expected one of SHA-512-256"),
        ([b"alice:example.com:{MD5}" + SHA], "line 1: {MD5}: expected one of"),
        ([b"alice:example.com:" + MD5, b"bob:example.com:" + SHA], "no algorithm in common"),
    ],
)
def test_mistakes(lines: list[bytes], said: str) -> None:
    """A mistake is told with the number of its line, and without what stands there."""
    with pytest.raises(ValueError) as raised:
        users(*lines)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)
    assert MD5.decode() not in str(raised.value)


@given(st.lists(st.binary(max_size=120)))
def test_any_file(lines: list[bytes]) -> None:
    """Any file is read, or refused with one line that says why."""
    said = ""
    try:
        parse_users(lines, "example.com")
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
