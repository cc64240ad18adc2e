"""What does one header field value say, and where does it end?"""

from __future__ import annotations

import calendar

import pytest

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.fields import Contact, CSeq, NameAddr, Via
from twisted_sipuas.syntax.grammar import delta_seconds, format_date, parse_parameters, quote, split_list

# text: transport, host, port, parameters
VIAS = {
    "SIP/2.0/UDP pc33.atlanta.com": ("UDP", "pc33.atlanta.com", None, {}),
    "SIP/2.0/UDP erlang.bell-telephone.com:5060;branch=z9hG4bK87asdks7": (
        "UDP",
        "erlang.bell-telephone.com",
        5060,
        {"branch": "z9hG4bK87asdks7"},
    ),
    "SIP / 2.0 / UDP first.example.com: 4000;ttl=16 ;maddr=224.2.0.1 ;branch=z9hG4bKa7c6a8dlze.1": (
        "UDP",
        "first.example.com",
        4000,
        {"ttl": "16", "maddr": "224.2.0.1", "branch": "z9hG4bKa7c6a8dlze.1"},
    ),
    "SIP/2.0/tcp [2001:db8::9:1]:5061;received=[2001:db8::9:255];branch=z9hG4bKas3": (
        "TCP",
        "[2001:db8::9:1]",
        5061,
        {"received": "[2001:db8::9:255]", "branch": "z9hG4bKas3"},
    ),
    "SIP/2.0/UDP [::1];received=2001:db8::9:255": ("UDP", "[::1]", None, {"received": "2001:db8::9:255"}),
    "SIP/2.0/UNKNOWN-1 h\t;Branch = a ; rport": ("UNKNOWN-1", "h", None, {"branch": "a", "rport": None}),
    "SIP/2.0/UDP h;": ("UDP", "h", None, {}),
    "SIP/2.0/UDP h;branch=a;rport=;": ("UDP", "h", None, {"branch": "a", "rport": None}),
    'SIP/2.0/UDP h;x="a;b=\\"c\\"";y': ("UDP", "h", None, {"x": '"a;b=\\"c\\""', "y": None}),
}

VIA_FAULTS = {
    "empty": "",
    "no sent-by": "SIP/2.0/UDP",
    "no white space": "SIP/2.0/UDP;branch=x",
    "no transport": "SIP/2.0 h",
    "empty port": "SIP/2.0/UDP h:",
    "port 0": "SIP/2.0/UDP h:0",
    "port above 65535": "SIP/2.0/UDP h:65536",
    "IPv6 without brackets": "SIP/2.0/UDP 2001:db8::1",
    "brackets around no IPv6 address": "SIP/2.0/UDP [1::2::3]",
    "empty parameters": "SIP/2.0/UDP 192.0.2.15;;;;",
    "parameter without a name": "SIP/2.0/UDP h;=x",
    "two semicolons at the end": "SIP/2.0/UDP h;branch=a;;",
    "parameter twice": "SIP/2.0/UDP h;branch=a;Branch=a",
    "text behind the sent-by": "SIP/2.0/UDP h x",
    "two sent-bys": "SIP/2.0/UDP h,i",
    "unterminated quote": 'SIP/2.0/UDP h;x="a',
    "line break in a quote": 'SIP/2.0/UDP h;x="\r\nE: 1"',
    "escaped line break in a quote": 'SIP/2.0/UDP h;x="\\\nE: 1"',
    "NUL in a quote": 'SIP/2.0/UDP h;x="\0"',
}

# text, received, rport: text
STAMPED = [
    ("SIP/2.0/UDP h;branch=a", "192.0.2.9", 9, "SIP/2.0/UDP h;branch=a;received=192.0.2.9"),
    ("SIP/2.0/UDP h;rport;branch=a", "192.0.2.9", 9, "SIP/2.0/UDP h;rport=9;branch=a;received=192.0.2.9"),
    ("SIP/2.0/UDP h;RPort=1;branch=a", "2001:db8::1", 9, "SIP/2.0/UDP h;rport=9;branch=a;received=2001:db8::1"),
    ("SIP/2.0/UDP h;received=203.0.113.1;b", "192.0.2.9", 9, "SIP/2.0/UDP h;b;received=192.0.2.9"),
    ("SIP/2.0/UDP h;Received=[::1];b", None, 9, "SIP/2.0/UDP h;b"),
    ("SIP/2.0/UDP h", None, 9, "SIP/2.0/UDP h"),
    ("SIP / 2.0 / UDP h : 4000 ; x = 1 ;rport", "::1", 9, "SIP / 2.0 / UDP h : 4000; x = 1;rport=9;received=::1"),
    ("SIP/2.0/UDP h;rport=;x=;", "192.0.2.9", 9, "SIP/2.0/UDP h;rport=9;x=;received=192.0.2.9"),
    ("SIP/2.0/UDP h ; ", "192.0.2.9", 9, "SIP/2.0/UDP h;received=192.0.2.9"),
    ('SIP/2.0/UDP h;x=";received=a;rport";rport', None, 9, 'SIP/2.0/UDP h;x=";received=a;rport";rport=9'),
]

# text: display name, URI text, parameters
ADDRESSES = {
    '"A. G. Bell" <sip:agb@bell-telephone.com> ;tag=a48s': (
        "A. G. Bell",
        "sip:agb@bell-telephone.com",
        {"tag": "a48s"},
    ),
    "Bob <sip:bob@biloxi.com>": ("Bob", "sip:bob@biloxi.com", {}),
    "Bob  Smith<sip:bob@biloxi.com>": ("Bob  Smith", "sip:bob@biloxi.com", {}),
    '"Bob"<sip:bob@biloxi.com>': ("Bob", "sip:bob@biloxi.com", {}),
    '"" <sip:bob@biloxi.com>': ("", "sip:bob@biloxi.com", {}),
    "<sip:bob@biloxi.com;lr>;x;TAG=y": ("", "sip:bob@biloxi.com;lr", {"x": None, "tag": "y"}),
    '"Bell, Alexander; <a@b> \\"AGB\\" \\\\" <sip:agb@h?a=b>': ('Bell, Alexander; <a@b> "AGB" \\', "sip:agb@h?a=b", {}),
    '"caf\\é \\\0" <sip:a@b>': ("café \0", "sip:a@b", {}),
    "<sip:bob@biloxi.com > ; a = b": ("", "sip:bob@biloxi.com", {"a": "b"}),
    '<sip:a@b>;x="c;d,e>"': ("", "sip:a@b", {"x": '"c;d,e>"'}),
    "sip:bob@biloxi.com;tag=a;lr": ("", "sip:bob@biloxi.com", {"tag": "a", "lr": None}),
    "sip:bob@biloxi.com ;tag=a": ("", "sip:bob@biloxi.com", {"tag": "a"}),
    "tel:+1-201-555-0123;tag=a": ("", "tel:+1-201-555-0123", {"tag": "a"}),
    "<sip:a@b>;": ("", "sip:a@b", {}),
    "sip:a@b ;tag=a; ": ("", "sip:a@b", {"tag": "a"}),
    "<sip:a@b>;tag=x/y=": ("", "sip:a@b", {"tag": "x/y="}),
    "<sip:a@b>;x=;tag=_-.!%*+`'~": ("", "sip:a@b", {"x": None, "tag": "_-.!%*+`'~"}),
    '<sip:a@b>;x="\\\0"': ("", "sip:a@b", {"x": '"\\\0"'}),
    "<urn:service:sos>": ("", "urn:service:sos", {}),
}

ADDRESS_FAULTS = {
    "empty": "",
    "unterminated quote": '"Mr. J. User <sip:j.user@example.com>',
    "text behind the quote": '"a" b <sip:a@b>',
    "bracket not closed": "<sip:a@b",
    "bracket not opened": "sip:a@b>",
    "quote in the URI": '<sip:"a"@b>',
    "two bracketed URIs": "<sip:a@b><sip:c@d>",
    "text behind the bracket": "<sip:a@b>x",
    "parameter twice": "<sip:a@b>;tag=x;Tag=y",
    "tag without a value": "<sip:a@b>;tag",
    "tag with an empty value": "<sip:a@b>;tag=",
    "tag in quotes": '<sip:a@b>;tag="x"',
    "two semicolons at the end": "<sip:a@b>;;",
    "line break in a quoted value": '<sip:a@b>;x="\r\nE: 1"',
    "escaped line break in a quoted value": '<sip:a@b>;x="\\\r\nE: 1"',
    "NUL in a quoted value": '<sip:a@b>;x="\0"',
    "line break in a quoted display name": '"\n" <sip:a@b>',
    "line break in a display name": "a\r\nE: 1 <sip:a@b>",
    "line break in the URI": "<sip:a\r\nE: 1@b>",
    "line break in a bare URI": "sip:a\r\n@b",
    "empty parameter": "<sip:a@b>;;tag=x",
    "parameters alone": ";tag=x",
    "display name without brackets": "Bob sip:bob@biloxi.com",
}


@pytest.mark.parametrize(("text", "parts"), VIAS.items(), ids=VIAS.keys())
def test_via(text: str, parts: tuple[object, ...]) -> None:
    """A Via value is taken apart with white space wherever 20.42 and 25.1 allow it."""
    via = Via(text)
    assert (via.transport, via.host, via.port, via.parameters) == parts
    assert via.branch == via.parameters.get("branch")
    assert str(via) == text


@pytest.mark.parametrize("text", VIA_FAULTS.values(), ids=VIA_FAULTS.keys())
def test_via_faults(text: str) -> None:
    """A malformed Via value is refused with a reason that names the field (20.42, 21.4.1)."""
    with pytest.raises(MessageSyntaxError, match="Via"):
        Via(text)


@pytest.mark.parametrize(
    ("text", "sent_by"),
    [
        ("SIP/2.0/UDP Example.COM", "example.com"),
        ("SIP/2.0/UDP example.com : 5060", "example.com:5060"),
        ("SIP/2.0/UDP [2001:DB8:0::1]:5070", "[2001:db8::1]:5070"),
    ],
)
def test_sent_by(text: str, sent_by: str) -> None:
    """sent-by is compared without regard to case, and with its port if it has one (17.2.3)."""
    assert Via(text).sent_by == sent_by


@pytest.mark.parametrize(("text", "received", "rport", "stamped"), STAMPED)
def test_stamped(text: str, received: str | None, rport: int, stamped: str) -> None:
    """Only received and rport change; what the request itself said of them is gone (18.2.1; RFC 3581, 4)."""
    via = Via(text).stamped(received, rport)
    assert via.text == stamped
    assert via.parameters.get("received") == received


@pytest.mark.parametrize(("text", "parts"), ADDRESSES.items(), ids=ADDRESSES.keys())
def test_address(text: str, parts: tuple[object, ...]) -> None:
    """An address is display name, URI and parameters, where quotes and brackets hide what they hold (20.10, 25.1)."""
    address = NameAddr(text)
    assert (address.display_name, address.uri_text, address.parameters) == parts
    assert address.tag == address.parameters.get("tag")
    assert str(address.uri) == address.uri_text
    assert str(address) == text


@pytest.mark.parametrize("text", ADDRESS_FAULTS.values(), ids=ADDRESS_FAULTS.keys())
def test_address_faults(text: str) -> None:
    """What is neither name-addr nor addr-spec with parameters is refused (20.10, 25.1)."""
    with pytest.raises(MessageSyntaxError):
        NameAddr(text)


@pytest.mark.requirement("20-1")
def test_parameters_of_a_bare_address_belong_to_the_header_field() -> None:
    """Without angle brackets a parameter is the header field's, within them the URI's (20, 20.10)."""
    bare, bracketed = Contact("sip:a@b;transport=tcp"), Contact("<sip:a@b;transport=tcp>")
    assert (str(bare.uri), bare.parameters) == ("sip:a@b", {"transport": "tcp"})
    assert (str(bracketed.uri), bracketed.parameters) == ("sip:a@b;transport=tcp", {})


@pytest.mark.requirement("20-1")
@pytest.mark.parametrize("uri", ["sip:a@b?x=y", "sip:a,b@c", "sip:a@b?Route=%3Csip:c%3E"])
def test_bare_address_holds_no_comma_and_no_question_mark(uri: str) -> None:
    """A URI with a comma or a question mark has to be in angle brackets (20, 20.10)."""
    with pytest.raises(MessageSyntaxError):
        NameAddr(uri)
    assert NameAddr(f"<{uri}>").uri_text == uri


def test_address_with_a_malformed_uri() -> None:
    """A malformed URI is found only when the URI is asked for, as not every server needs it (8.2.2)."""
    address = NameAddr("<sip:2001:db8::1>;tag=x")
    assert address.tag == "x"
    with pytest.raises(MessageSyntaxError):
        address.uri  # noqa: B018  # the property raises


@pytest.mark.parametrize(
    ("parameter", "q"),
    [
        ("", None),
        (";q=0", 0.0),
        (";q=1", 1.0),
        (";Q=0.7", 0.7),
        (";q=1.000", 1.0),
        (";q=.5", 0.5),
        (";q=1.5", 1.0),
        (";q", None),
        (";q=2", None),
        (";q=-1", None),
        (";q=nan", None),
        (";q=1e3", None),
        (";q=\u0660", None),
        (';q="0.5"', 0.5),
        (';q="\\1"', 1.0),
        (';q="high"', None),
        (';q=""', None),
    ],
)
def test_contact_q(parameter: str, q: float | None) -> None:
    """q is a number from 0 to 1, in quotes or not, and anything else counts as absent (20.10)."""
    assert Contact(f"<sip:a@b>{parameter}").q == q


@pytest.mark.parametrize(
    ("parameter", "expires"),
    [
        ("", None),
        (";expires=0", 0),
        (";Expires=3601", 3601),
        (";expires=4294967295", 2**32 - 1),
        (";expires=4294967296", 2**32 - 1),
        (";expires", 3600),
        (";expires=-1", 3600),
        (";expires=soon", 3600),
        (';expires="0"', 0),
        (';expires="60"', 60),
        (';expires=""', 3600),
        (';expires="Thu, 01 Dec 1994 16:00:00 GMT"', 3600),
    ],
)
def test_contact_expires(parameter: str, expires: int | None) -> None:
    """expires may be in quotes, as in RFC 2543, and a malformed one counts as 3600 (20.10)."""
    assert Contact(f"<sip:a@b>{parameter}").expires == expires


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("60", 60),
        ("0000000000000000000000060", 60),
        ("4294967295", 2**32 - 1),
        ("4294967296", 2**32 - 1),
        ("9" * 60000, 2**32 - 1),
        (None, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1 ", None),
        ("²", None),
        ("\u0666", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_delta_seconds(text: str | None, seconds: int | None) -> None:
    """Seconds are digits, from 0 to 2**32-1; more counts as that (25.1 and 20.19)."""
    assert delta_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "number", "method"),
    [
        ("4711 INVITE", 4711, "INVITE"),
        ("0 x", 0, "x"),
        ("0009 \t INVITE", 9, "INVITE"),
        ("4294967295 !x-%.`'~", 2**32 - 1, "!x-%.`'~"),
    ],
)
def test_cseq(text: str, number: int, method: str) -> None:
    """CSeq is a number below 2**32 and a method (20.16)."""
    cseq = CSeq(text)
    assert (cseq.number, cseq.method) == (number, method)
    assert str(cseq) == f"{number} {method}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "INVITE",
        "1INVITE",
        "INVITE 1",
        "-1 INVITE",
        "1.5 INVITE",
        "4294967296 INVITE",
        "9" * 60000 + " INVITE",
        "1 INVITE x",
        "1 IN VITE",
        "1 INV@TE",
        "\u0661 INVITE",
    ],
    ids=lambda text: text[:20],
)
def test_cseq_faults(text: str) -> None:
    """Whatever else is refused with a reason that names the field (20.16, 21.4.1)."""
    with pytest.raises(MessageSyntaxError, match="CSeq"):
        CSeq(text)


@pytest.mark.parametrize(
    ("text", "items"),
    {
        "": [],
        "a": ["a"],
        "a,b": ["a", "b"],
        "100rel,": ["100rel"],
        "a, b , ": ["a", "b"],
        "a ,\tb , c": ["a", "b", "c"],
        '"a,b" <sip:a@h>, <sip:c,d@h>;e="f,g"': ['"a,b" <sip:a@h>', '<sip:c,d@h>;e="f,g"'],
        '"a\\",b", c': ['"a\\",b"', "c"],
        '"a<b", "c>d"': ['"a<b"', '"c>d"'],
        '<sip:a"b@h>, c': ['<sip:a"b@h>', "c"],
        'Digest realm="a, b", nonce="c"': ['Digest realm="a, b"', 'nonce="c"'],
    }.items(),
)
def test_split_list(text: str, items: list[str]) -> None:
    """A comma separates values unless it is in quotes or in angle brackets (7.3.1, 25.1)."""
    assert split_list(text) == items


@pytest.mark.parametrize(
    "text",
    [
        ",",
        " ,",
        ",,",
        ",a",
        "a,,",
        "a, ,",
        ",a,",
        "a,,b",
        "a, ,b",
        'a,"b',
        'a,b "c',
        "a,<b",
        "a,b <c",
        '"a\\",b',
        "<a,b",
    ],
)
def test_split_list_faults(text: str) -> None:
    """A list has no empty value but one at its end, no open quote and no open bracket (7.3.1, 25.1)."""
    with pytest.raises(MessageSyntaxError):
        split_list(text)


@pytest.mark.parametrize(
    ("text", "parameters"),
    {
        "": {},
        ";lr": {"lr": None},
        ";": {},
        ";a;": {"a": None},
        ";a=b ; ": {"a": "b"},
        ";a=": {"a": None},
        ";a= ;b = c": {"a": None, "b": "c"},
        " ; A = b ;C": {"a": "b", "c": None},
        ';a="b;c=\\"d\\", e"': {"a": '"b;c=\\"d\\", e"'},
        ";a=[::1];b=1.5;c=%41": {"a": "[::1]", "b": "1.5", "c": "%41"},
        ";x=a=b": {"x": "a=b"},
        ";x=\udcff": {"x": "\udcff"},
    }.items(),
)
def test_parse_parameters(text: str, parameters: dict[str, str | None]) -> None:
    """Names are in lower case, values as received, and an empty one or one semicolon more is no fault (7.3.1)."""
    assert parse_parameters(text) == parameters


@pytest.mark.parametrize(
    "text",
    [
        "x",
        ";;",
        ";;a",
        ";a;;",
        ";a; ;",
        ";a;x y",
        ";=a",
        ";a=;a",
        ";a=b c",
        ";a= b c",
        ";a b",
        ';a="b',
        ';a="b"c',
        ";a=b,c",
        ";a=<b>",
        ";a=\0",
        ";a@=b",
    ],
)
def test_parse_parameters_faults(text: str) -> None:
    """What the grammar of 25.1 does not allow among parameters is refused."""
    with pytest.raises(MessageSyntaxError):
        parse_parameters(text)


@pytest.mark.requirement("7.3.1-3")
@pytest.mark.parametrize("text", [";a;a", ";a=1;b;a=1", ";tag=x;TAG=y"])
def test_parameter_given_twice(text: str) -> None:
    """A parameter name occurs once, whatever its case (7.3.1)."""
    with pytest.raises(MessageSyntaxError):
        parse_parameters(text)


@pytest.mark.parametrize("text", ["", "Bob", 'a "b" \\ c', "\\", '"', "é, <x>;"])
def test_quote(text: str) -> None:
    """A text that is quoted comes out of the parser as it was (25.1 quoted-string)."""
    assert NameAddr(f"{quote(text)} <sip:a@b>").display_name == text
    assert split_list(f"{quote(text)} <sip:a@b>, c")[1:] == ["c"]


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ((2010, 11, 13, 23, 29, 0), "Sat, 13 Nov 2010 23:29:00 GMT"),
        ((2024, 2, 29, 0, 0, 1), "Thu, 29 Feb 2024 00:00:01 GMT"),
        ((1970, 1, 1, 0, 0, 0), "Thu, 01 Jan 1970 00:00:00 GMT"),
    ],
)
def test_format_date(moment: tuple[int, ...], text: str) -> None:
    """A date is in GMT, in English, with two digits for the day; the first is 20.17's own example."""
    assert format_date(calendar.timegm(moment) + 0.9) == text
