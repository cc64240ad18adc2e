"""What is a URI taken apart into, when do two name the same resource, and under which key are bindings kept?"""

from __future__ import annotations

import itertools

import pytest

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.uri import (
    SIPURI,
    URI,
    TelURI,
    address_of_record,
    canonical_domain,
    canonical_host,
    parse_uri,
    unescape,
)

# text: its components; what is not named is None, {} or "sip"
COMPONENTS: dict[str, dict[str, object]] = {
    "sip:alice@atlanta.com": {"user": "alice", "host": "atlanta.com"},
    "sip:alice:secretword@atlanta.com;transport=tcp": {
        "user": "alice",
        "password": "secretword",
        "host": "atlanta.com",
        "parameters": {"transport": "tcp"},
    },
    "sips:alice@atlanta.com?subject=project%20x&priority=urgent": {
        "scheme": "sips",
        "user": "alice",
        "host": "atlanta.com",
        "headers": "subject=project%20x&priority=urgent",
    },
    "sip:+1-212-555-1212:1234@gateway.com;user=phone": {
        "user": "+1-212-555-1212",
        "password": "1234",
        "host": "gateway.com",
        "parameters": {"user": "phone"},
    },
    "sips:1212@gateway.com": {"scheme": "sips", "user": "1212", "host": "gateway.com"},
    "sip:alice@192.0.2.4": {"user": "alice", "host": "192.0.2.4"},
    "sip:atlanta.com;method=REGISTER?to=alice%40atlanta.com": {
        "host": "atlanta.com",
        "parameters": {"method": "REGISTER"},
        "headers": "to=alice%40atlanta.com",
    },
    "sip:alice;day=tuesday@atlanta.com": {"user": "alice;day=tuesday", "host": "atlanta.com"},
    "sip:a?b=c@example.com": {"user": "a?b=c", "host": "example.com"},
    "SiPs:Alice@Example.COM:5061;LR;Maddr=239.0.0.1": {
        "scheme": "sips",
        "user": "Alice",
        "host": "Example.COM",
        "port": 5061,
        "parameters": {"lr": None, "maddr": "239.0.0.1"},
    },
    "sip:alice:@example.com": {"user": "alice", "password": "", "host": "example.com"},
    "sip:example.com;x=": {"host": "example.com", "parameters": {"x": ""}},
    "sip:example.com;%6c%72;x=a%3Bb": {"host": "example.com", "parameters": {"lr": None, "x": "a%3Bb"}},
    "sip:[2001:db8::10]": {"host": "[2001:db8::10]"},
    "sip:[2001:db8::10:5070]": {"host": "[2001:db8::10:5070]"},
    "sip:u@[2001:DB8::10]:5070;lr": {"user": "u", "host": "[2001:DB8::10]", "port": 5070, "parameters": {"lr": None}},
    "sip:[::ffff:192.0.2.1]:1": {"host": "[::ffff:192.0.2.1]", "port": 1},
    "sip:[2001:db8:::192.0.2.1]": {"host": "[2001:db8:::192.0.2.1]"},
    "sip:root.example.": {"host": "root.example."},
    "sip:a@b;": {"user": "a", "host": "b"},
    "sip:a@b;lr;": {"user": "a", "host": "b", "parameters": {"lr": None}},
    "sip:a@b;?x=y": {"user": "a", "host": "b", "headers": "x=y"},
    "sip:under_score.example": {"host": "under_score.example"},
    "sip:*97#@pbx.example": {"user": "*97#", "host": "pbx.example"},
    "sip:jürgen@example.com": {"user": "jürgen", "host": "example.com"},
}

FAULTS = {
    "no host": "sip:",
    "no host behind a user": "sip:alice@",
    "empty user": "sip:@example.com",
    "user without a host": "sip:alice@;lr",
    "two at-signs": "sip:alice@evil.example@example.com",
    "at-sign in a parameter": "sip:alice@example.com;x=a@b",
    "space": "sip:alice smith@example.com",
    "tab": "sip:alice\t@example.com",
    "line feed": "sip:alice@example.com\n",
    "NUL": "sip:ali\0ce@example.com",
    "DEL": "sip:ali\x7fce@example.com",
    "angle brackets": "<sip:alice@example.com>",
    "quote": 'sip:"alice"@example.com',
    "empty port": "sip:example.com:",
    "port that is no number": "sip:example.com:sip",
    "port in Arabic digits": "sip:example.com:\u0665\u0660\u0666\u0660",
    "port above 65535": "sip:example.com:65536",
    "port of six digits": "sip:example.com:005060",
    "parameter twice": "sip:example.com;lr;LR",
    "parameter twice, once escaped": "sip:example.com;lr;%6Cr=on",
    "parameter without a name": "sip:example.com;=x",
    "empty parameter": "sip:example.com;;lr",
    "two semicolons at the end": "sip:example.com;;",
    "port 0": "sip:example.com:0",
    "host that is the root": "sip:.",
    "host that begins with a dot": "sip:.example.com",
    "host with an empty label": "sip:alice@example..com",
    "host with two dots at the end": "sip:example.com..",
    "question mark at the end": "sip:example.com?",
    "IPv6 without brackets": "sip:2001:db8::10",
    "IPv6 reference not closed": "sip:[2001:db8::10",
    "IPv6 reference not opened": "sip:2001:db8::10]",
    "IPv6 reference with a zone": "sip:[fe80::1%25eth0]",
    "IPv6 reference of nine groups": "sip:[1:2:3:4:5:6:7:8:9]",
    "IPv6 reference with :: twice": "sip:[1::2::3]",
    "IPv6 reference of four colons": "sip:[::::1]",
    "IPv6 reference around an IPv4 address": "sip:[192.0.2.1]",
    "IPv6 reference that is empty": "sip:[]",
    "host in another script": "sip:exämple.com",
    "no scheme": "alice@example.com",
    "empty": "",
    "scheme alone": "mailto:",
    "scheme that begins with a digit": "9p:x",
    "space in another scheme": "http://example.com/a b",
    "tel without a number": "tel:",
    "tel with parameters only": "tel:;x",
    "tel of letters": "tel:abc",
    "tel of a plus sign": "tel:+",
    "tel of visual separators": "tel:-.()",
    "tel with an authority": "tel://1",
    "tel with a plus sign inside": "tel:1+2",
    "tel with letters in a global number": "tel:+1A",
    "tel with digits of another script": "tel:\u0661",
    "tel with a parameter twice": "tel:+1;ext=1;EXT=2",
    "tel with an empty parameter": "tel:+1;;ext=1",
    "tel with a parameter without a name": "tel:+1;=1",
}

# 19.1.4 says of these pairs that they are equivalent; the last are of its rules rather than its examples.
EQUIVALENT = {
    "escapes, host and parameter names": (
        "sip:%61lice@atlanta.com;transport=TCP",
        "sip:alice@AtLanTa.CoM;Transport=tcp",
    ),
    "newparam on one side": ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
    "security on one side": ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
    "newparam here, security there": ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
    "order of parameters": (
        "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
        "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
    ),
    "order of headers": (
        "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
        "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
    ),
    "spellings of an IPv6 address": ("sip:u@[2001:db8:0:0::0010]", "sip:u@[2001:DB8::10]"),
    "scheme": ("SIP:u@example.com", "sip:u@example.com"),
    "case of a reserved character's escape": ("sip:a%3ab@example.com", "sip:a%3Ab@example.com"),
    "escape in a parameter value": ("sip:example.com;x=%61", "sip:example.com;x=A"),
    "dot of the root": ("sip:u@example.com.", "sip:u@Example.com"),
    "flag and empty value": ("sip:example.com;lr", "sip:example.com;lr="),
    "spellings of an IPv6 address in maddr": ("sip:h;maddr=[2001:db8:0::1]", "sip:h;maddr=[2001:DB8::1]"),
    "what is no address in maddr": ("sip:h;maddr=[a", "sip:h;maddr=[A"),
    "semicolon at the end": ("sip:example.com;x;", "sip:example.com;x"),
    "escape in a header": ("sip:example.com?Subject=%61", "sip:example.com?subject=a"),
    "lr on one side": ("sip:example.com;lr", "sip:example.com"),
}

NOT_EQUIVALENT = {
    "case of the user": ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
    "case of a user with an escape": ("sip:%41lice@atlanta.com", "sip:alice@atlanta.com"),
    "default port on one side": ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
    "default transport on one side": ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
    "another port and transport": ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
    "headers on one side": ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
    "name and address": ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
    "sip and sips": ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
    "a parameter's values": ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
    "user on one side": ("sip:biloxi.com", "sip:bob@biloxi.com"),
    "password on one side": ("sip:bob@biloxi.com", "sip:bob:pw@biloxi.com"),
    "case of the password": ("sip:bob:pw@biloxi.com", "sip:bob:PW@biloxi.com"),
    "user parameter on one side": ("sip:1@biloxi.com", "sip:1@biloxi.com;user=ip"),
    "ttl on one side": ("sip:biloxi.com", "sip:biloxi.com;ttl=1"),
    "method on one side": ("sip:biloxi.com", "sip:biloxi.com;method=INVITE"),
    "maddr on one side": ("sip:biloxi.com", "sip:biloxi.com;maddr=biloxi.com"),
    "escaped reserved character": ("sip:a%2Cb@biloxi.com", "sip:a,b@biloxi.com"),
    "what is escaped twice": ("sip:%2541@biloxi.com", "sip:A@biloxi.com"),
    "a header's values": ("sip:biloxi.com?a=1", "sip:biloxi.com?a=2"),
    "a header twice": ("sip:biloxi.com?x=1&x=1", "sip:biloxi.com?x=1"),
    "addresses in maddr": ("sip:h;maddr=[2001:db8::1]", "sip:h;maddr=[2001:db8::2]"),
    "another scheme": ("sip:biloxi.com", "tel:+1"),
}

EQUAL = {name: EQUIVALENT[name] for name in EQUIVALENT if not any(word in name for word in ("one side", "here"))}
UNEQUAL = {**NOT_EQUIVALENT, **{name: pair for name, pair in EQUIVALENT.items() if name not in EQUAL}}

TEL_EQUAL = {
    "visual separators": ("tel:+1-201-555-0123", "tel:+1(201)555.0123"),
    "scheme": ("TEL:+12015550123", "tel:+12015550123"),
    "order and case of parameters": (
        "tel:7042;phone-context=Example.com;ext=1",
        "tel:7042;EXT=1;phone-context=example.com",
    ),
    "visual separators in ext": ("tel:+1;ext=1-2.3", "tel:+1;ext=(12)3"),
    "visual separators in a numeric phone-context": ("tel:1;phone-context=+1-201", "tel:1;phone-context=+1201"),
    "dot of the root in phone-context": ("tel:1;phone-context=example.com.", "tel:1;phone-context=example.com"),
    "case of hexadecimal digits": ("tel:7a", "tel:7A"),
    "escaped hash": ("tel:*21%23", "tel:*21#"),
    "escape in a value": ("tel:+1;isub=%61%2E", "tel:+1;isub=A."),
    "escape in a name": ("tel:+1;%65xt=1", "tel:+1;ext=1"),
    "case of a reserved character's escape": ("tel:+1;x=%3a", "tel:+1;x=%3A"),
    "semicolon at the end": ("tel:+1;ext=1;", "tel:+1;ext=1"),
}
TEL_UNEQUAL = {
    "global and local number": ("tel:+12015550123", "tel:12015550123"),
    "phone-context": ("tel:7042;phone-context=example.com", "tel:7042;phone-context=example.net"),
    "a parameter on one side": ("tel:7042;phone-context=example.com", "tel:7042"),
    "separators in isub": ("tel:+1;isub=1-2", "tel:+1;isub=12"),
    "separators in a domain": ("tel:1;phone-context=a-b.example", "tel:1;phone-context=ab.example"),
    "escaped reserved character": ("tel:+1;x=%3A", "tel:+1;x=:"),
}


def pairs(table: dict[str, tuple[str, str]]) -> pytest.MarkDecorator:
    """Parametrise over the pairs of *table*, by its names."""
    return pytest.mark.parametrize(("first", "second"), table.values(), ids=table.keys())


@pytest.mark.parametrize(("text", "components"), COMPONENTS.items(), ids=COMPONENTS.keys())
def test_components(text: str, components: dict[str, object]) -> None:
    """A SIP URI is taken apart as 19.1.1 says, the examples of 19.1.3 and IPv6 references among them."""
    uri = parse_uri(text)
    assert isinstance(uri, SIPURI)
    absent: dict[str, object] = {
        "scheme": "sip",
        "user": None,
        "password": None,
        "port": None,
        "parameters": {},
        "headers": None,
    }
    assert {name: getattr(uri, name) for name in ("host", *absent)} == {**absent, **components}
    assert str(uri) == uri.text == text


@pytest.mark.parametrize("text", FAULTS.values(), ids=FAULTS.keys())
def test_faults(text: str) -> None:
    """What the grammar of 25.1 forbids, and what two servers could read in two ways, is a `MessageSyntaxError`."""
    with pytest.raises(MessageSyntaxError):
        parse_uri(text)


@pytest.mark.parametrize(
    ("text", "plain"),
    {
        "sips%3Auser%40example.com": "sips:user@example.com",
        "%25%34%31": "%41",
        "null-%00-null": "null-\0-null",
        "%c3%bc": "ü",
        "100%": "100%",
        "%zz": "%zz",
        "%ff": "\udcff",
        "\udcff%41": "\udcffA",
    }.items(),
)
def test_unescape(text: str, plain: str) -> None:
    """``%HH`` becomes its octet once and never again, and a lone ``%`` stands for itself (19.1.2)."""
    assert unescape(text) == plain


@pytest.mark.parametrize(
    ("text", "kind", "scheme"),
    [
        ("tel:+1-201-555-0123", TelURI, "tel"),
        ("TEL:911", TelURI, "tel"),
        ("nobodyKnowsThisScheme:totallyopaquecontent", URI, "nobodyknowsthisscheme"),
        ("soap.beep://192.0.2.103:3002", URI, "soap.beep"),
        ("urn:service:sos", URI, "urn"),
        ("sipx:alice@example.com", URI, "sipx"),
        ("telex:1", URI, "telex"),
    ],
)
def test_other_schemes(text: str, kind: type[URI], scheme: str) -> None:
    """A URI of any scheme is kept whole, so that the server can answer 416 to it (8.2.2.1)."""
    uri = parse_uri(text)
    assert type(uri) is kind
    assert (uri.scheme, str(uri)) == (scheme, text)


@pytest.mark.parametrize(
    ("text", "number", "is_global", "phone_context", "parameters"),
    [
        ("tel:+1-201-(555).0123;ext=12", "+12015550123", True, None, {"ext": "12"}),
        ("tel:7042", "7042", False, None, {}),
        (
            "TEL:7-a;X;Phone-Context=Example.COM.",
            "7A",
            False,
            "example.com",
            {"x": None, "phone-context": "Example.COM."},
        ),
        ("tel:863;phone-context=+1-914", "863", False, "+1914", {"phone-context": "+1-914"}),
        ("tel:*21%23;phone-context", "*21#", False, None, {"phone-context": None}),
        ("tel:1;phone-context=[x", "1", False, "[x", {"phone-context": "[x"}),
    ],
    ids=["global", "local without context", "domain", "number as context", "escaped hash", "bracket as context"],
)
def test_tel_components(
    text: str, number: str, is_global: bool, phone_context: str | None, parameters: dict[str, str | None]
) -> None:
    """A tel URI is a number without visual separators and parameters, and a phone-context may lack (RFC 3966, 3)."""
    uri = TelURI(text)
    assert (uri.number, uri.is_global, uri.phone_context) == (number, is_global, phone_context)
    assert uri.parameters == parameters
    assert (uri.scheme, str(uri)) == ("tel", text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (TelURI, "http://x"),
        (TelURI, "sip:1@example.com"),
        (SIPURI, "tel:+1"),
        (URI, "sip:@@@"),
        (URI, "SIPS:alice@example.com"),
        (URI, "Tel:+1"),
    ],
    ids=lambda item: item if isinstance(item, str) else item.__name__,
)
def test_a_class_refuses_the_schemes_of_others(kind: type[URI], text: str) -> None:
    """Each class checks its own scheme, so that no URI escapes the grammar of its scheme (25.1; RFC 3966, 3)."""
    with pytest.raises(MessageSyntaxError):
        kind(text)


@pytest.mark.parametrize("text", ["sip:h", "sip:h;lr", "tel:1", "tel:1;ext=2"])
def test_parameters_are_read_only(text: str) -> None:
    """The parameters of a URI cannot be changed behind its hash."""
    uri = parse_uri(text)
    assert isinstance(uri, (SIPURI, TelURI))
    with pytest.raises(TypeError):
        uri.parameters["x"] = "y"  # type: ignore[index]


@pytest.mark.requirement("19.1.4-1")
@pairs(EQUIVALENT)
def test_equivalent(first: str, second: str) -> None:
    """These are equivalent by 19.1.4, whichever of the two is asked."""
    assert parse_uri(first).equivalent(parse_uri(second))
    assert parse_uri(second).equivalent(parse_uri(first))


@pytest.mark.requirement("19.1.4-1")
@pairs(NOT_EQUIVALENT)
def test_not_equivalent(first: str, second: str) -> None:
    """These are not equivalent by 19.1.4, whichever of the two is asked."""
    assert not parse_uri(first).equivalent(parse_uri(second))
    assert not parse_uri(second).equivalent(parse_uri(first))


@pytest.mark.requirement("19.1.4-1")
def test_equivalence_is_not_transitive() -> None:
    """A URI without a parameter is equivalent to two that differ in it (19.1.4, last example)."""
    plain, on, off = map(
        SIPURI, ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off")
    )
    assert plain.equivalent(on)
    assert plain.equivalent(off)
    assert not on.equivalent(off)


@pairs(EQUAL | TEL_EQUAL)
def test_equal(first: str, second: str) -> None:
    """Two spellings of the same components are equal, and hash alike, as Python demands."""
    assert parse_uri(first) == parse_uri(second)
    assert hash(parse_uri(first)) == hash(parse_uri(second))


@pairs(UNEQUAL | TEL_UNEQUAL)
def test_unequal(first: str, second: str) -> None:
    """``==`` is transitive: a parameter that only one side has always counts, unlike in 19.1.4."""
    assert parse_uri(first) != parse_uri(second)
    assert parse_uri(second) != parse_uri(first)


def test_equal_only_within_a_scheme() -> None:
    """URIs of different kinds, and things that are no URI, are unequal rather than an error."""
    uris: list[object] = [parse_uri(text) for text in ("sip:1@h", "tel:1", "x:1@h")]
    for one, other in itertools.combinations([*uris, "sip:1@h", None], 2):
        assert one != other


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        (SIPURI.build("example.com"), "sip:example.com"),
        (SIPURI.build("example.com", "alice", port=5061, scheme="sips"), "sips:alice@example.com:5061"),
        (SIPURI.build("2001:db8::1", "alice"), "sip:alice@[2001:db8::1]"),
        (SIPURI.build("[2001:db8::1]", port=5070), "sip:[2001:db8::1]:5070"),
        (SIPURI.build("h", 'a:b@c d%<">\r\n\0'), "sip:a%3Ab%40c%20d%25%3C%22%3E%0D%0A%00@h"),
        (SIPURI.build("h", "+1;isub=2&=$,?/"), "sip:+1;isub=2&=$,?/@h"),
        (SIPURI.build("h", "ü\udcff"), "sip:%C3%BC%FF@h"),
        (SIPURI.build("h", parameters=[("lr", None), ("x", "a;b=c?d"), ("y", "")]), "sip:h;lr;x=a%3Bb%3Dc%3Fd;y="),
        (SIPURI.build("h", parameters=[("Maddr", "[::1]")]), "sip:h;Maddr=[::1]"),
        (SIPURI.build("h", "u", password="a:b@c;&=+$,/?"), "sip:u:a%3Ab%40c%3B&=+$,%2F%3F@h"),
        (SIPURI.build("h", "u", password=""), "sip:u:@h"),
        (SIPURI.build("h", headers=[("Subject", "a b&c=d"), ("a=b", "")]), "sip:h?Subject=a%20b%26c%3Dd&a%3Db="),
        (
            SIPURI.build("h", port=1, parameters=[("lr", None)], headers=[("x", "\r\n@;[]/?:+$")]),
            "sip:h:1;lr?x=%0D%0A%40%3B[]/?:+$",
        ),
    ],
    ids=str,
)
def test_build(uri: SIPURI, text: str) -> None:
    """Plain text becomes a URI, with what its place does not allow escaped (19.1.2, 25.1)."""
    assert str(uri) == text


@pytest.mark.parametrize("user", ["alice", "a:b@c", "%41", "ü", "\0\r\n", "\udcff", "a;b?c=d&e", '<">'])
def test_build_is_undone_by_unescape(user: str) -> None:
    """A user part that was built and is unescaped is the text it was built from (19.1.2)."""
    built = SIPURI.build("example.com", user).user
    assert built is not None
    assert unescape(built) == user


@pytest.mark.parametrize(
    "arguments",
    {
        "host with a space": {"host": "a b"},
        "host with a line break": {"host": "a\r\nb"},
        "host that holds a parameter": {"host": "example.com;lr"},
        "host that holds headers": {"host": "example.com?x=y"},
        "host that holds a user": {"host": "bob@example.com"},
        "host that holds a port": {"host": "example.com:5060"},
        "empty host": {"host": ""},
        "empty user": {"host": "h", "user": ""},
        "port above 65535": {"host": "h", "port": 65536},
        "port 0": {"host": "h", "port": 0},
        "negative port": {"host": "h", "port": -1},
        "host with a semicolon behind it": {"host": "example.com;"},
        "host with an empty label": {"host": "a..b"},
        "password without a user": {"host": "h", "password": "x"},
        "header without a name": {"host": "h", "headers": [("", "x")]},
        "another scheme": {"host": "h", "scheme": "http"},
        "scheme that holds a user": {"host": "h", "user": "b", "scheme": "sip:a"},
        "parameter name that holds two": {"host": "h", "parameters": [("a;b", None)]},
        "parameter name that holds a value": {"host": "h", "parameters": [("a=b", None)]},
        "parameter twice": {"host": "h", "parameters": [("a", "1"), ("A", "2")]},
        "empty parameter name": {"host": "h", "parameters": [("", None)]},
        "empty parameter name behind another": {"host": "h", "parameters": [("a", None), ("", None)]},
    }.items(),
    ids=lambda item: item[0],
)
def test_build_refuses(arguments: tuple[str, dict[str, object]]) -> None:
    """Components that make no URI, or another than they say, are our caller's mistake and never the peer's."""
    with pytest.raises(ValueError) as caught:
        SIPURI.build(**arguments[1])  # type: ignore[arg-type]
    assert not isinstance(caught.value, MessageSyntaxError)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sip:alice@example.com", "sip:alice@example.com"),
        ("SIP:%61lice@Example.COM", "sip:alice@example.com"),
        ("sip:alice@example.com;transport=tcp;lr?Subject=x", "sip:alice@example.com"),
        ("sip:alice:secret@example.com:5070", "sip:alice@example.com"),
        ("sips:alice@example.com", "sip:alice@example.com"),
        ("sip:Alice@example.com", "sip:Alice@example.com"),
        ("sip:example.com;lr", "sip:example.com"),
        ("sip:a@[2001:DB8:0::1]", "sip:a@[2001:db8::1]"),
        ("sip:a@[2001:db8:::192.0.2.1]", "sip:a@[2001:db8::c000:201]"),
        ("sip:a%40b@example.com", "sip:a@b@example.com"),
        ("sip:null%00@example.com", "sip:null\0@example.com"),
        ("sip:a@Example.com.", "sip:a@example.com"),
        ("tel:+1-201-555-0123", "tel:+12015550123"),
        ("tel:+1-201-555-0123;ext=1;phone-context=x.com", "tel:+12015550123"),
        ("tel:70-42;ext=1;Phone-Context=X.com", "tel:7042;phone-context=x.com"),
        ("tel:7042;phone-context=y.com.", "tel:7042;phone-context=y.com"),
        ("tel:7042;phone-context=+1-201", "tel:7042;phone-context=+1201"),
        ("tel:7042;phone-context=a%3Bb", "tel:7042;phone-context=a%3bb"),
        ("tel:70-42", "tel:7042"),
        ("urn:service:sos", "urn:service:sos"),
    ],
)
def test_address_of_record(text: str, key: str) -> None:
    """Every spelling of an address-of-record has one key: escapes undone, no parameters but phone-context (10.3)."""
    assert address_of_record(parse_uri(text)) == key


def test_canonical_host_of_a_name_and_an_address() -> None:
    """A name is compared in lower case, an IPv6 reference by the address it means (19.1.4; RFC 5118, 4.10)."""
    assert canonical_host("Example.COM") == "example.com"
    assert canonical_host("[2001:0DB8:::192.0.2.1]") == canonical_host("[2001:db8::c000:201]")
    assert canonical_host("Example.com.") == "example.com"


@pytest.mark.parametrize(
    ("text", "domain"),
    [("Example.com.", "example.com"), ("2001:DB8::1", "[2001:db8::1]"), ("[2001:DB8::1]", "[2001:db8::1]")],
)
def test_canonical_domain(text: str, domain: str) -> None:
    """A domain of the configuration is spelt as the hosts it is compared with (19.1.4)."""
    assert canonical_domain(text) == domain


@pytest.mark.parametrize("text", ["", ".", ".a", "a..b", "a..", "a b", "a;b", "[::1", "1::2::3"])
def test_canonical_domain_refuses(text: str) -> None:
    """What is no domain and no address is our caller's mistake, empty labels among it (25.1)."""
    with pytest.raises(ValueError):
        canonical_domain(text)


@pytest.mark.parametrize(
    ("text", "parameters"),
    {
        "sip:+12015550123;npdi;RN=%2B1201@gw.example;user=phone": {"npdi": None, "rn": "+1201"},
        "sip:7042;isub=1=2;isub=3;phone-context=example.com@h": {"isub": "1=2", "phone-context": "example.com"},
        "sip:alice;@h": {},
        "sip:alice@h;user=phone": {},
        "sip:h": {},
    }.items(),
)
def test_user_parameters(text: str, parameters: dict[str, str | None]) -> None:
    """A telephone number in the user part keeps its own parameters there (19.1.6, RFC 4694)."""
    assert SIPURI(text).user_parameters == parameters


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("sip:h", ()),
        ("sip:h?Subject=a%20b&Priority=urgent", (("Subject", "a b"), ("Priority", "urgent"))),
        ("sip:h?Route=%3Csip:x%3E&empty=&bare", (("Route", "<sip:x>"), ("empty", ""), ("bare", ""))),
    ],
)
def test_header_fields(text: str, fields: tuple[tuple[str, str], ...]) -> None:
    """What stands behind the question mark is names and values, with their escapes undone (19.1.1)."""
    assert SIPURI(text).header_fields == fields


@pytest.mark.parametrize(
    ("text", "host", "port", "moved"),
    [
        ("sip:bob@example.com", "gw.example.net", None, "sip:bob@gw.example.net"),
        ("sips:bob@example.com:5071", "gw.example.net", 5081, "sips:bob@gw.example.net:5081"),
        ("sip:example.com", "2001:db8::1", 5060, "sip:[2001:db8::1]:5060"),
        ("sip:a%3Bb;x=%20@h", "gw", None, "sip:a%3Bb;x=%20@gw"),
        ("sip:+49301;npdi@h;user=phone;transport=tcp;maddr=192.0.2.1;lr", "gw", None, "sip:+49301;npdi@gw;user=phone"),
        ("sip:bob:secret@h;user?Subject=x", "gw", None, "sip:bob@gw"),
    ],
)
def test_with_host(text: str, host: str, port: int | None, moved: str) -> None:
    """A URI at another host keeps its user as it is spelt, and nothing that was for the old host (19.1.1)."""
    assert SIPURI(text).with_host(host, port).text == moved


@pytest.mark.parametrize(("host", "port"), [("", None), ("a b", None), ("a@b", None), ("h;lr", None), ("h", 0)])
def test_with_host_refuses(host: str, port: int | None) -> None:
    """What is no host or port is our caller's mistake, and no way to smuggle in another component."""
    with pytest.raises(ValueError, match="SIP URI"):
        SIPURI("sip:bob@example.com").with_host(host, port)


@pytest.mark.parametrize(
    ("text", "number", "parameters"),
    [
        ("tel:+44-1632-960083;npdi", "+441632960083", {"npdi": None}),
        ("sip:+44(1632)960083;npdi;rn=+441632960999@h", "+441632960083", {"npdi": None, "rn": "+441632960999"}),
        ("sip:%2B441632960083@h", "+441632960083", {}),
        ("sips:110@h", "110", {}),
        ("sip:*21%23@h", "*21#", {}),
        ("sip:a1;phone-context=+44@h;user=phone", "A1", {"phone-context": "+44"}),
    ],
)
def test_telephone_number(text: str, number: str, parameters: dict[str, str | None]) -> None:
    """A SIP URI's user part is a telephone number where it says so or looks like one, parameters and all (19.1.6)."""
    found = parse_uri(text).telephone_number
    assert found is not None
    assert (found.number, dict(found.parameters)) == (number, parameters)


@pytest.mark.parametrize(
    "text",
    ["sip:h", "sip:bob@h", "sip:a1@h", "sip:+@h", "sip:bob@h;user=phone", "sip:1;a=1;a=2@h", "urn:service:sos"],
)
def test_no_telephone_number(text: str) -> None:
    """What names somebody, or is malformed as a number, is none; and it is no error to ask."""
    assert parse_uri(text).telephone_number is None
