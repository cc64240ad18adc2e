"""Do digests come out as the RFCs compute them, whoever computes them?"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.auth.client import response
from twisted_sipuas.auth.digest import ALGORITHMS, Digest, challenge, ha1, octets
from twisted_sipuas.syntax.auth import WWWAuthenticate


def digest(**changes: str | None) -> Any:
    """A digest of Mufasa's, as RFC 2617, 3.5, has it."""
    values = {
        "username": "Mufasa",
        "realm": "testrealm@host.com",
        "nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093",
        "uri": "/dir/index.html",
        "qop": "auth",
        "nc": "00000001",
        "cnonce": "0a4f113b",
        "response": "6629fae49393a05397450978507c4ef1",
    }
    return Digest.of({**values, **changes})


# (what it is, parameters, password, method)
RFC_7616 = {
    "realm": "http-auth@example.org",
    "uri": "/dir/index.html",
    "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
}
EXAMPLES: dict[str, Any] = {
    "RFC 2617, 3.5": ({}, "Circle Of Life"),
    "RFC 2069, 2.4, as corrected": (
        {"qop": None, "response": "1949323746fe6a43ef61f9606e7febea"},
        "CircleOfLife",
    ),
    "RFC 7616, 3.9.1, MD5": (
        {**RFC_7616, "algorithm": "MD5", "response": "8ca523f5e9506fed4657c9700eebdbec"},
        "Circle of Life",
    ),
    "RFC 7616, 3.9.1, SHA-256": (
        {
            **RFC_7616,
            "algorithm": "SHA-256",
            "response": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        },
        "Circle of Life",
    ),
    "RFC 7616, 3.9.2, without userhash, as corrected": (
        {
            "username": "J\u00e4s\u00f8n Doe",
            "realm": "api@example.org",
            "uri": "/doe.json",
            "algorithm": "SHA-512-256",
            "nonce": "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            "cnonce": "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
            "response": "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5",
        },
        "Secret, or not?",
    ),
}


@pytest.mark.requirement("8760-2", "22.4-9")
@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples(name: str) -> None:
    """The examples of the RFCs come out as they print them, those without qop too."""
    changes, password = EXAMPLES[name]
    given_digest = digest(**changes)
    secret = ha1(given_digest.algorithm.hash_name, given_digest.username, given_digest.realm, password.encode())
    assert given_digest.expected(secret, "GET") == changes.get("response", given_digest.response)
    assert given_digest.is_proof(secret, "GET")
    assert not given_digest.is_proof(secret, "POST")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters=":\r\n\0"), max_size=20)


@given(
    algorithm=st.sampled_from(sorted(algorithm.name for algorithm in ALGORITHMS.values())),
    username=TEXT, password=TEXT, realm=TEXT, nonce=TEXT, uri=TEXT, cnonce=TEXT.filter(bool),
    method=st.sampled_from(["INVITE", "REGISTER", "invite"]),
    qop=st.sampled_from([None, "auth", "auth-int"]),
    count=st.integers(1, 0xFFFFFFFF), body=st.binary(max_size=50), other=TEXT,
)  # fmt: skip
def test_round_trip(
    algorithm: str,
    username: str,
    password: str,
    realm: str,
    nonce: str,
    uri: str,
    cnonce: str,
    method: str,
    qop: str | None,
    count: int,
    body: bytes,
    other: str,
) -> None:
    """What a client computes by the RFCs, we find right; with another password, nonce or uri, wrong."""
    nc = f"{count:08x}"
    computed = response(
        algorithm, username, realm, password, nonce, method, uri, qop=qop, nc=nc, cnonce=cnonce, body=body
    )
    values = {"username": username, "realm": realm, "nonce": nonce, "uri": uri, "algorithm": algorithm,
              "response": computed, "qop": qop, "nc": nc, "cnonce": cnonce}  # fmt: skip
    received = Digest.of(values)
    name = received.algorithm.hash_name
    secret = ha1(name, octets(username), realm, octets(password))
    assert received.is_proof(secret, method, body)
    assert received.count == (0 if qop is None else count)
    assert received.is_proof(ha1(name, octets(username), realm, octets(other)), method, body) == (other == password)
    for name, value in (("nonce", nonce), ("uri", uri)):
        assert Digest.of({**values, name: other}).is_proof(secret, method, body) == (other == value)
    if qop == "auth-int":
        assert not received.is_proof(secret, method, body + b".")


@pytest.mark.requirement("22.4-7")
def test_empty_body() -> None:
    """The hash of a body that is not there is that of the empty string (22.4)."""
    empty = hashlib.md5(b"").hexdigest()
    assert empty == "d41d8cd98f00b204e9800998ecf8427e"
    received = digest(qop="auth-int")
    secret = ha1("MD5", b"Mufasa", "testrealm@host.com", b"Circle Of Life")
    a2 = hashlib.md5(f"GET:/dir/index.html:{empty}".encode()).hexdigest()
    data = f"{secret}:{received.nonce}:00000001:0a4f113b:auth-int:{a2}"
    assert received.expected(secret, "GET") == hashlib.md5(data.encode()).hexdigest()


@pytest.mark.requirement("8760-3")
@pytest.mark.parametrize(("algorithm", "length"), [("MD5", 32), ("SHA-256", 64), ("SHA-512-256", 64), ("md5-SESS", 32)])
def test_length_of_a_response(algorithm: Any, length: Any) -> None:
    """A response is as long as its algorithm makes it, no more and no less (RFC 8760, 2.5)."""
    assert digest(algorithm=algorithm, response="0" * length).algorithm.length == length
    for wrong in (length - 1, length + 1, 96 - length):
        with pytest.raises(ValueError, match="length"):
            digest(algorithm=algorithm, response="0" * wrong)


FAULTS: dict[str, dict[str, Any]] = {
    "no username": {"username": None},
    "no realm": {"realm": None},
    "no nonce": {"nonce": None},
    "no uri": {"uri": None},
    "no response": {"response": None},
    "unknown algorithm": {"algorithm": "SHA-1"},
    "qop without nc": {"nc": None},
    "qop without cnonce": {"cnonce": None},
    "nc that is no number": {"nc": "0000000g"},
    "nc of nine digits": {"nc": "000000001"},
    "nc zero": {"nc": "00000000"},
    "session without cnonce": {"algorithm": "MD5-sess", "qop": None, "cnonce": None},
    "endless cnonce": {"cnonce": "0" * 257},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_digest(fault: str) -> None:
    """Parameters that are missing or malformed make no digest (RFC 7616, 3.4)."""
    with pytest.raises(ValueError):
        digest(**FAULTS[fault])


def test_upper_case() -> None:
    """Hexadecimal digits have no case in a response, nor has the name of an algorithm (7.3.1)."""
    upper = digest(response="6629FAE49393A05397450978507C4EF1", algorithm="md5")
    assert upper.is_proof(ha1("MD5", b"Mufasa", "testrealm@host.com", b"Circle Of Life").upper(), "GET")


def test_octets_that_are_no_utf_8() -> None:
    """A username is the octets that were sent, whatever they are."""
    text = b"J\xe4son".decode("utf-8", "surrogateescape")
    assert digest(username=text).username == b"J\xe4son"


def test_session_goes_on_with_its_first_cnonce() -> None:
    """The secret of a -sess algorithm may be made with the first cnonce of a nonce (RFC 7616, 3.4.2)."""
    secret = ha1("SHA-256", b"Mufasa", "testrealm@host.com", b"Circle Of Life")
    fields: dict[str, Any] = {"qop": "auth", "nc": "00000002", "cnonce": "second", "body": b""}
    computed = response(
        "SHA-256-sess",
        "Mufasa",
        "testrealm@host.com",
        "Circle Of Life",
        "n",
        "GET",
        "u",
        **fields,
        session_cnonce="first",
    )
    received = digest(algorithm="SHA-256-sess", nonce="n", uri="u", nc="00000002", cnonce="second", response=computed)
    assert received.is_proof(secret, "GET", session_cnonce="first")
    assert not received.is_proof(secret, "GET")


def test_challenge() -> None:
    """A challenge is what 20.44 prints: everything quoted but stale and algorithm (RFC 7616, 3.3)."""
    text = challenge('Atlanta "A"', "n", ALGORITHMS["sha-256"], "auth,auth-int", is_stale=True, opaque="o")
    assert text == (
        'Digest realm="Atlanta \\"A\\"", nonce="n", opaque="o", stale=true, algorithm=SHA-256, qop="auth,auth-int"'
    )
    assert WWWAuthenticate.parse(text).parameters["realm"] == 'Atlanta "A"'
    with pytest.raises(ValueError):
        challenge("a\r\nb", "n", ALGORITHMS["md5"], "auth")


def test_digests_do_not_tell_themselves() -> None:
    """The text of a digest for logs has nothing that a password could be guessed from."""
    assert "6629fae4" not in repr(digest())
