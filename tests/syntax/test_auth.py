"""Which credentials does a request bring, and which challenge does a response put?"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.auth import (
    Authorization,
    Challenge,
    Credentials,
    ProxyAuthenticate,
    ProxyAuthorization,
    WWWAuthenticate,
)
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.values import HeaderValue

# text: the value, and its canonical form
VALUES = {
    'Digest username="Alice", realm="atlanta.com",nonce="84a4", response="7" , uri="sip:a,b@c" ,qop=auth,nc=00000001': (
        Authorization(
            "Digest",
            {
                "username": "Alice",
                "realm": "atlanta.com",
                "nonce": "84a4",
                "response": "7",
                "uri": "sip:a,b@c",
                "qop": "auth",
                "nc": "00000001",
            },
        ),
        'Digest username="Alice", realm="atlanta.com", nonce="84a4", response="7", uri="sip:a,b@c", qop=auth, '
        "nc=00000001",
    ),
    'DIGEST\tRealm = "a \\"b\\" \\\\, c", algorithm=MD5,stale=FALSE,qop="auth,auth-int",opaque=""': (
        WWWAuthenticate(
            "DIGEST",
            {
                "realm": 'a "b" \\, c',
                "algorithm": "MD5",
                "stale": "FALSE",
                "qop": "auth,auth-int",
                "opaque": "",
            },
        ),
        'DIGEST realm="a \\"b\\" \\\\, c", algorithm=MD5, stale=FALSE, qop="auth,auth-int", opaque=""',
    ),
    'Digest qop=auth, algorithm="SHA-256"': (
        ProxyAuthenticate("Digest", {"qop": "auth", "algorithm": "SHA-256"}),
        'Digest qop="auth", algorithm=SHA-256',
    ),
    "Digest nonce=bm9uY2U==": (ProxyAuthorization("Digest", {"nonce": "bm9uY2U=="}), 'Digest nonce="bm9uY2U=="'),
    "NoOneKnowsThisScheme opaque-data=here": (
        Authorization("NoOneKnowsThisScheme", {"opaque-data": "here"}),
        "NoOneKnowsThisScheme opaque-data=here",
    ),
    "Bearer eyJ0.eyJp.c2ln==": (Authorization("Bearer", token68="eyJ0.eyJp.c2ln=="), "Bearer eyJ0.eyJp.c2ln=="),
    'Bearer authz_server="https://a/b", scope=sip': (
        WWWAuthenticate("Bearer", {"authz_server": "https://a/b", "scope": "sip"}),
        'Bearer authz_server="https://a/b", scope="sip"',
    ),
}

FAULTS = {
    "empty": "",
    "scheme alone": "Digest",
    "scheme that is no token": 'Di"gest a=b',
    "parameter without a scheme": 'realm="a"',
    "Digest with a single token": "Digest abc",
    "no value": "Digest realm=",
    "no name": 'Digest ="a"',
    "no comma": 'Digest realm="a" nonce="b"',
    "semicolons": 'Digest realm="a";nonce="b"',
    "comma at the end": 'Digest realm="a",',
    "comma at the beginning": 'Digest ,realm="a"',
    "empty parameter": 'Digest realm="a",,nonce="b"',
    "parameter twice": 'Digest realm="a",REALM="a"',
    "unterminated quote": 'Digest realm="a',
    "quote escaped at the end": 'Digest realm="a\\"',
    "text behind a quote": 'Digest realm="a"b',
    "two challenges in one row": 'Digest realm="a", Basic realm="b"',
    "NUL in quotes": 'Digest realm="\\\0"',
}

KINDS = [Authorization, ProxyAuthorization, WWWAuthenticate, ProxyAuthenticate]

tokens = st.from_regex(TOKEN, fullmatch=True)
plain = st.text().filter(lambda text: not set("\r\n\0") & set(text))
names = st.sampled_from(["realm", "nonce", "qop", "uri", "algorithm"]) | tokens.map(str.lower)
token68s = st.from_regex(r"[A-Za-z0-9._~+/-]+={0,2}", fullmatch=True)
values = st.one_of(
    st.builds(
        lambda kind, *parts: kind(*parts), st.sampled_from(KINDS), tokens, st.dictionaries(names, plain, min_size=1)
    ),
    st.builds(
        lambda kind, scheme, token68: kind(scheme, token68=token68),
        st.sampled_from(KINDS),
        tokens.filter(lambda scheme: scheme.lower() != "digest"),
        token68s,
    ),
)


@pytest.mark.parametrize(
    ("text", "value", "canonical"), [(k, *v) for k, v in VALUES.items()], ids=[text[:30] for text in VALUES]
)
def test_values(text: str, value: HeaderValue, canonical: str) -> None:
    """Quotes and escapes are undone, and put back where 25.1 asks for them (20.7, 20.27, 20.28, 20.44)."""
    parsed = type(value).parse(text)
    assert parsed == value
    assert hash(parsed) == hash(value)
    assert str(parsed) == canonical
    assert type(value).parse(canonical) == value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", FAULTS.values(), ids=FAULTS.keys())
def test_faults(kind: type[HeaderValue], text: str) -> None:
    """What the grammar does not allow is the peer's fault, and the reason names the header field (25.1, 21.4.1)."""
    with pytest.raises(MessageSyntaxError, match=f"^Malformed {kind.field} header field$"):
        kind.parse(text)


def test_components() -> None:
    """Names are in lower case, values are plain text, and the scheme is as it was (22.4)."""
    value = Authorization.parse('digest Username="a\\"b"')
    assert (value.scheme, value.is_digest, value.parameters, value.token68) == (
        "digest",
        True,
        {"username": 'a"b'},
        None,
    )
    assert isinstance(value, Credentials)
    assert isinstance(WWWAuthenticate("Digest", {"realm": "a"}), Challenge)
    assert not Authorization("Bearer", token68="a").is_digest


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (Authorization("Digest", {"a": "b"}), Authorization("DIGEST", {"A": "b"}), True),
        (Authorization("Digest", {"a": "b", "c": "d"}), Authorization("Digest", {"c": "d", "a": "b"}), True),
        (Authorization("Digest", {"realm": "b"}), Authorization("Digest", {"realm": "B"}), False),
        (Authorization("Bearer", token68="b"), Authorization("Bearer", token68="B"), False),
        (Authorization("Digest", {"a": "b"}), ProxyAuthorization("Digest", {"a": "b"}), False),
    ],
)
def test_equality(one: object, other: object, equal: bool) -> None:
    """Schemes and names have no case, parameters no order; what is quoted is compared exactly (7.3.1)."""
    assert (one == other) is equal
    assert (len({one, other}) == 1) is equal


@pytest.mark.parametrize(
    ("scheme", "parameters", "token68"),
    [
        ("", {"a": "b"}, None),
        ("Di gest", {"a": "b"}, None),
        ("Digest\r\nEvil: x", {"a": "b"}, None),
        ("Digest", {}, None),
        ("Digest", {}, "abc"),
        ("Bearer", {"a": "b"}, "abc"),
        ("Bearer", {}, ""),
        ("Bearer", {}, "a b"),
        ("Digest", {"a": None}, None),
        ("Digest", {"a": "b\r\nEvil: x"}, None),
        ("Digest", {"a": "\0"}, None),
        ("Digest", {"a b": "c"}, None),
        ("Digest", {"a": "c", "A": "c"}, None),
    ],
)
def test_misuse(scheme: str, parameters: dict[str, str | None], token68: str | None) -> None:
    """What makes no value is our caller's mistake, never blamed on the peer (25.1)."""
    with pytest.raises(ValueError) as caught:
        Authorization(scheme, parameters, token68)
    assert not isinstance(caught.value, MessageSyntaxError)


@given(values)
def test_print_and_parse_again(value: HeaderValue) -> None:
    """Whatever is made prints to one line that parses to the same value (25.1)."""
    text = str(value)
    assert not set("\r\n\0") & set(text)
    assert type(value).parse(text) == value
    assert str(type(value).parse(text)) == text


pieces = st.sampled_from(
    ["Digest ", "Bearer ", "realm", "=", '"', "\\", ",", " ", "\t", "a", "==", ";", "\0", "é", "\udcff"]
)


@given(st.sampled_from(KINDS), st.lists(pieces).map("".join) | st.text())
def test_any_text_parses_or_raises_the_one_error(kind: type[HeaderValue], text: str) -> None:
    """Any text at all is a value that prints and parses again, or a `MessageSyntaxError` (25.1)."""
    with contextlib.suppress(MessageSyntaxError):
        value = kind.parse(text)
        assert kind.parse(str(value)) == value
