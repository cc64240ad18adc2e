"""Can what a caller writes into the Request-URI break out of the place that a target gives it?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.location.routes.template import Called, TargetTemplate, TextTemplate, URITemplate
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.uri import SIPURI, parse_uri, unescape


def made(template: Any, request_uri: Any) -> Any:
    """Return the URI that *template* makes of *request_uri*, as text, or None."""
    uri = URITemplate(template).made(Called.of(parse_uri(request_uri)).values)
    return None if uri is None else uri.text


@pytest.mark.parametrize(
    ("uri", "called"),
    [
        ("sip:bob@Example.COM.", ("example.com", "bob", None, None, "bob")),
        ("sip:example.com", ("example.com", None, None, None, None)),
        ("sip:b%6Fb%40x@h", ("h", "bob@x", None, None, "b%6Fb%40x")),
        ("sip:bob;x@h", ("h", "bob;x", None, None, "bob;x")),
        ("sip:112@h", ("h", "112", "112", "112", "112")),
        ("sip:10-20@h", ("h", "10-20", None, None, "10-20")),
        ("sip:10-20@h;user=phone", ("h", "1020", "1020", "1020", "10-20")),
        ("sip:+49-(30).12@h", ("h", "+493012", "+493012", "+493012", "+49-(30).12")),
        ("sip:%2B4930@h", ("h", "+4930", "+4930", "+4930", "%2B4930")),
        ("sip:b0b@h", ("h", "b0b", None, None, "b0b")),
        ("sip:b0b@h;user=phone", ("h", "B0B", "B0B", "B0B", "b0b")),
        ("sip:+4930;npdi;rn=+49-40@h", ("h", "+4930", "+4930", "+4940", "+4930;npdi;rn=+49-40")),
        ("sip:+4930;rn=x@h", ("h", "+4930", "+4930", "+4930", "+4930;rn=x")),
        ("sip:7042;phone-context=example.com@h", ("h", "7042", "7042", "7042", "7042;phone-context=example.com")),
        ("tel:+49-30", (None, "+4930", "+4930", "+4930", "+4930")),
        ("tel:+4930;npdi;rn=+4940", (None, "+4930", "+4930", "+4940", "+4930;npdi;rn=+4940")),
        ("tel:70;phone-context=Example.com", ("example.com", "70", "70", "70", "70;phone-context=Example.com")),
        ("tel:7042;phone-context=+49", (None, "7042", "7042", "7042", "7042;phone-context=+49")),
        ("tel:7042;phone-context=a%40b", (None, "7042", "7042", "7042", "7042;phone-context=a%40b")),
        ("tel:*21#", (None, "*21#", "*21#", "*21#", "*21%23")),
        ("mailto:bob@h", (None, None, None, None, None)),
        ("SIPS:bob@h", ("h", "bob", None, None, "bob")),
    ],
)  # fmt: skip
def test_what_is_called(uri: str, called: Any) -> None:
    """Numbers are what RFC 3966 and user=phone say, without separators; with rn they are routed by that (RFC 4694)."""
    assert Called.of(parse_uri(uri))[:-1] == called


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [("SIP:h", "sip"), ("sips:a@h", "sips"), ("sips:112@h", "sips"), ("tel:112", "sip"), ("mailto:a@h", None)],
)
def test_scheme_that_is_called(uri: str, scheme: Any) -> None:
    """Who calls by SIPS is told from all others; a telephone number is reached by SIP."""
    assert Called.of(parse_uri(uri)).scheme == scheme


@pytest.mark.parametrize("unit", ["1", "A", "-", ".1", "(", "%31", ";x", "a="])
@pytest.mark.parametrize("ending", ["", "x", "-", "1"])
def test_long_user_is_no_burden(unit: Any, ending: Any) -> None:
    """The longest user part is looked at in time that grows with its length: were it the square, this would not end."""
    for start in ("", "+", "+1;rn=", "+1;rn=+"):
        for parameters in ("", ";user=phone"):
            Called.of(parse_uri(f"sip:{start}{unit * 60_000}{ending}@h{parameters}"))


@pytest.mark.parametrize(
    ("template", "request_uri", "expected"),
    [
        ("sip:{user}@gw", "sip:bob@h", "sip:bob@gw"),
        ("sip:{user}@gw", "sip:b%3Bb;x=1@h", "sip:b%3Bb;x=1@gw"),
        ("sip:{user}@gw", "sip:b#%zz\xe4@h", "sip:b%23%25zz%C3%A4@gw"),
        ("sip:{user}@gw", "tel:+49-30;npdi", "sip:+4930;npdi@gw"),
        ("sip:{user}@gw", "sip:h", None),
        ("sip:x{user}@gw", "sip:b;x=1@h", "sip:xb%3Bx%3D1@gw"),
        ("sip:{number}@gw", "sip:+49-30;npdi@h", "sip:+4930@gw"),
        ("sip:{number}@gw", "sip:bob@h", None),
        ("sip:{number};npdi;rn=+4940@gw", "tel:+4930", "sip:+4930;npdi;rn=+4940@gw"),
        ("sip:00{number:1}@gw", "tel:+4930", "sip:004930@gw"),
        ("sip:{number:-2}@gw", "tel:+4930", "sip:30@gw"),
        ("sip:{number:-3:2}@gw", "tel:+4930", "sip:93@gw"),
        ("sip:{number:-2:2}@gw", "tel:+4930", "sip:30@gw"),
        ("sip:{number:1:2}@gw", "tel:+4930", "sip:49@gw"),
        ("sip:{number:9}@gw", "tel:+4930", None),
        ("sip:{number}@pbx.{domain}:5070", "sip:112@H", "sip:112@pbx.h:5070"),
        ("sip:{user}@{domain}", "sip:a@[::1]:5070", "sip:a@[::1]"),
        ("sip:{user}@pbx.{domain}", "sip:a@[::1]", None),
        ("sip:{user}@{domain}", "tel:112", None),
        ("sip:gw;x={user}", "sip:a;b%3Fc@h", "sip:gw;x=a%3Bb%3Fc"),
        ("sip:gw?X={user}", "sip:a%3E%26b@h", "sip:gw?X=a%253E%2526b"),
        ("tel:{number};ext={number}", "sip:49#@h;user=phone", "tel:49#;ext=49%23"),
        ("tel:+49{user}", "sip:bob@h", None),
        ("{scheme}:{user}@{domain}:5070;x={scheme}", "sips:bob@h", "sips:bob@h:5070;x=sips"),
        ("{scheme}:{user}@gw;x={user}", "sip:a;b@h", "sip:a;b@gw;x=a%3Bb"),
        ("{scheme}:{number}@gw", "tel:112", "sip:112@gw"),
        ("{scheme}:gw", "mailto:a@h", None),
        ("mailto:{user}@example.com", "sip:a%40b?c@h", "mailto:a%40b%3Fc@example.com"),
    ],
)
def test_filled(template: Any, request_uri: Any, expected: Any) -> None:
    """A whole user part stays as it was received; other text is escaped; what is not there or does not fit, is None."""
    assert made(template, request_uri) == expected


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{user}", "{user} is in the scheme: expected sip:, sips:, tel: or {scheme}: before it"),
        ("{user}:a@b", "{user} is in the scheme: expected sip:, sips:, tel: or {scheme}: before it"),
        ("{scheme}", "{scheme} is in the scheme: expected sip:, sips:, tel: or {scheme}: before it"),
        ("x{scheme}:a@b", "{scheme} is in the scheme: expected sip:, sips:, tel: or {scheme}: before it"),
        ("{scheme:1}:a@b", "{scheme:1} is in the scheme: expected sip:, sips:, tel: or {scheme}: before it"),
        ("{scheme}:a@{scheme}", "{scheme} is in the host or port: expected only {domain}, and as host"),
        ("{scheme}:a@h h", "'{scheme}:a@h h' is no URI: Malformed SIP URI"),
        ("sip:a@{user}", "{user} is in the host or port: expected only {domain}, and as host"),
        ("sip:{user}", "{user} is in the host or port: expected only {domain}, and as host"),
        ("sip:a@{domain:1}", "{domain:1} is in the host or port: expected only {domain}, and as host"),
        ("sip:a@h:{domain}", "{domain} is in the host or port: expected only {domain}, and as host"),
        ("sip:a:{user}@h", "{user} is in a password: expected no placeholder there"),
        ("sip:a;{user}=1@h", "{user} would name a parameter: expected it behind a name and ="),
        ("sip:a@h;x=1;{user}", "{user} would name a parameter: expected it behind a name and ="),
        ("sip:a@h?x=1&{user}=2", "{user} would name a parameter: expected it behind a name and ="),
        ("tel:1;{user}=2", "{user} would name a parameter: expected it behind a name and ="),
        ("sip:{user@h", "'sip:{user@h' has a brace of no placeholder: expected one like {user} or {number:3}"),
        ("sip:{user:x}@h", "'sip:{user:x}@h' has a brace of no placeholder: expected one like {user} or {number:3}"),
        ("sip:{user}@h h", "'sip:{user}@h h' is no URI: Malformed SIP URI"),
    ],
)
def test_places_that_are_the_operators(template: Any, said: Any) -> None:
    """Scheme and host but for those that were called, port, password and names of parameters take no placeholder."""
    with pytest.raises(ValueError) as raised:
        URITemplate(template)
    assert str(raised.value) == said


TEMPLATES = [
    "sip:{user}@gw.example",
    "sip:0{user}@gw.example",
    "sips:{user:1};npdi;rn={user}@gw.example:5061;x={user};lr?Subject={user}&X={user}",
    "sip:{number}@{domain};user=phone",
    "sip:gw.example;x={domain};y={number}?Route=%3Csip:{domain};lr%3E",
    "tel:{number};ext={user}",
    "urn:{user}",
    "{scheme}:{user}@gw.example;x={user}?X={user}",
]
USER_PARAMETERS = {TEMPLATES[2]: ["npdi", "rn"]}
HOSTILE_CHARACTERS = st.sampled_from([*"ab1+#;:?&=,/@<>[]%{}\"'\\ -.()*\r\n\0\x7fä\udc80"])
HOSTILE = st.text(HOSTILE_CHARACTERS | st.characters(codec="utf-8"), min_size=1)
ESCAPED = HOSTILE.map(lambda text: "".join(f"%{octet:02X}" for octet in text.encode("utf-8", "surrogatepass")))
USERS = st.lists(HOSTILE | ESCAPED, min_size=1, max_size=4).map("".join)
DOMAINS = st.sampled_from(["h", "Example.com.", "[::1]", "192.0.2.1", "a_b-c"])


def structure(uri: Any) -> Any:
    """Return what no caller may change of a URI: all but the text in the place of placeholders."""
    if not isinstance(uri, SIPURI):
        return uri.scheme, list(getattr(uri, "parameters", ()))
    headers = [name for name, _ in uri.header_fields]
    return uri.scheme, uri.host, uri.port, uri.password, list(uri.parameters), headers


@given(st.sampled_from(TEMPLATES), USERS, DOMAINS)
@example(TEMPLATES[2], "a%3B%40evil%3Fx%26y", "h")
@example(TEMPLATES[0], "a;b?c", "h")
def test_no_caller_changes_the_structure(template: Any, user: Any, domain: str) -> None:
    """Whatever the user part is, the target is the URI that the template says, or there is none (19.1.2, 25.1)."""
    try:
        request_uri = parse_uri(f"sip:{user}@{domain};user=phone")
    except MessageSyntaxError:
        assume(False)
    assume(isinstance(request_uri, SIPURI) and request_uri.user == user)
    called = Called.of(request_uri)
    uri = URITemplate(template).made(called.values)
    if uri is None:
        return
    usual = Called("h", "1", "1", "1", "1", "sip")._replace(domain=called.domain, scheme=called.scheme)
    assert structure(uri) == structure(URITemplate(template).made(usual.values))
    assert uri.text.isascii()
    assert uri.text.isprintable()
    assert not {*'<>" {}\\^`|'} & {*uri.text}
    if isinstance(uri, SIPURI) and uri.user is not None:
        if template in (TEMPLATES[0], TEMPLATES[-1]):
            assert unescape(uri.user) == unescape(user)
            assert uri.user.count(";") == user.count(";")
        else:
            assert [part.split("=")[0] for part in uri.user.split(";")[1:]] == USER_PARAMETERS.get(template, [])
    for _, value in getattr(uri, "header_fields", ()):
        assert not {*'<>\r\n;,"?&@'} & {*value} or value == f"<sip:{called.domain};lr>"


@given(USERS)
def test_contact_stays_one(user: Any) -> None:
    """Display name and parameters, whatever is called, stay those of one Contact (20.10)."""
    called = Called("h", user, None, None, None, "sip")
    template = TargetTemplate(
        URITemplate("sip:gw"),
        q=0.5,
        display_name=TextTemplate('"{user}\\', "words"),
        parameters=[("x", TextTemplate("{user}")), ("y", TextTemplate('"{user}"')), ("z", None)],
    )
    contact = Contact(str(template.made(called.values, 0.5)))
    assert contact.uri_text == "sip:gw"
    assert contact.q == 0.5
    assert list(contact.parameters) == ["q", "x", "y", "z"]
    assert contact.display_name.startswith('"')


def test_fixed_target_is_made_once() -> None:
    """A target without placeholders is the same object for every request."""
    template = TargetTemplate(URITemplate("sip:a@b"), q=0.5, expires=60, display_name=TextTemplate("A", "words"))
    assert template.made({}, 0.5) is template.made({}, 0.5)
    assert str(template.made({}, 0.5)) == '"A" <sip:a@b>;q=0.5;expires=60'
    assert str(template.made({}, 1)) == '"A" <sip:a@b>;q=1;expires=60'
