"""What address does a From, To, Contact, Route and their like hold, as a typed value?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.addresses import (
    Contact,
    From,
    PAssertedIdentity,
    Path,
    RecordRoute,
    ReferredBy,
    ReferTo,
    ReplyTo,
    Route,
    ServiceRoute,
    To,
)
from twisted_sipuas.syntax.fields import CSeq, FieldValue, NameAddr, Via
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.uri import SIPURI

# kind: field, is_list, a value
KINDS: dict[type[FieldValue], tuple[str, bool, str]] = {
    From: ("From", False, '"Alice" <sip:alice@example.com>;tag=1'),
    To: ("To", False, "sip:bob@example.com;tag=2"),
    ReplyTo: ("Reply-To", False, "Bob <sip:bob@biloxi.com>"),
    ReferTo: ("Refer-To", False, "<sip:dave@example.com?Replaces=a%3Bto-tag%3Db>"),
    ReferredBy: ("Referred-By", False, '<sip:r@example.com>;cid="20398823.2UWQFN309shb3@example.com"'),
    PAssertedIdentity: ("P-Asserted-Identity", True, '"Cullen Jennings" <sip:fluffy@cisco.com>'),
    Contact: ("Contact", True, "<sip:a@b>;q=0.5;expires=60"),
    Route: ("Route", True, "<sip:p1.example.com;lr>"),
    RecordRoute: ("Record-Route", True, "Proxy <sip:p1.example.com;lr>;x=y"),
    Path: ("Path", True, "<sip:p1.example.com;lr;ob>"),
    ServiceRoute: ("Service-Route", True, "<sip:p1.example.com;lr>"),
    Via: ("Via", True, "SIP/2.0/UDP h:5060;branch=z9hG4bKx"),
    CSeq: ("CSeq", False, "1 INVITE"),
}
HOPS = [Route, RecordRoute, Path, ServiceRoute]

EQUAL: dict[str, tuple[object, object]] = {
    "Via: case and white space": (Via("SIP/2.0/udp H : 5060;BRANCH=a;x"), Via("SIP / 2.0 / UDP h:5060 ;x;branch=a")),
    "Via: spelling of IPv6": (Via("SIP/2.0/UDP [::0:1]"), Via("SIP/2.0/UDP [::1]")),
    "Via: built": (Via.build("udp", "h", 5060, {"branch": "a"}), Via("SIP/2.0/UDP h:5060;branch=a")),
    "CSeq: leading zeros": (CSeq("0009  INVITE"), CSeq.build(9, "INVITE")),
    "address: brackets and quotes": (NameAddr('"Bob" <sip:a@B>;x="y"'), NameAddr("Bob <sip:a@b> ;X=y")),
    "address: bare": (To("sip:a@b;tag=1"), To("<sip:%61@b>;tag=1")),
    "address: order of parameters": (Contact("<sip:a@b>;x;q=1"), Contact("<sip:a@b>;q=1;x")),
    "address: malformed URI": (NameAddr("<sip:a@b@c>"), NameAddr("<sip:a@b@c >")),
}

UNEQUAL: dict[str, tuple[object, object]] = {
    "Via: transport": (Via("SIP/2.0/UDP h"), Via("SIP/2.0/TCP h")),
    "Via: host": (Via("SIP/2.0/UDP h"), Via("SIP/2.0/UDP i")),
    "Via: default port": (Via("SIP/2.0/UDP h"), Via("SIP/2.0/UDP h:5060")),
    "Via: case of the branch": (Via("SIP/2.0/UDP h;branch=a"), Via("SIP/2.0/UDP h;branch=A")),
    "CSeq: number": (CSeq("1 INVITE"), CSeq("2 INVITE")),
    "CSeq: case of the method": (CSeq("1 INVITE"), CSeq("1 invite")),
    "address: URI": (NameAddr("<sip:a@b>"), NameAddr("<sip:a@c>")),
    "address: display name": (NameAddr("Bob <sip:a@b>"), NameAddr("bob <sip:a@b>")),
    "address: flag or empty value": (NameAddr("<sip:a@b>;x"), NameAddr('<sip:a@b>;x=""')),
    "address: another header field": (From("<sip:a@b>"), To("<sip:a@b>")),
    "address: none at all": (From("<sip:a@b>"), "<sip:a@b>"),
}

BUILT: dict[str, tuple[object, str]] = {
    "Via": (Via.build("tcp", "h"), "SIP/2.0/TCP h"),
    "Via with all of it": (
        Via.build("UDP", "h", 5060, [("branch", "z9hG4bKx"), ("rport", None)]),
        "SIP/2.0/UDP h:5060;branch=z9hG4bKx;rport",
    ),
    "Via with IPv6": (
        Via.build("TLS", "2001:db8::1", parameters={"received": "::1", "maddr": "[::2]"}),
        "SIP/2.0/TLS [2001:db8::1];received=::1;maddr=[::2]",
    ),
    "Via with IPv6 in brackets": (Via.build("WSS", "[::1]", 5061), "SIP/2.0/WSS [::1]:5061"),
    "CSeq": (CSeq.build(4711, "INVITE"), "4711 INVITE"),
    "CSeq at its limit": (CSeq.build(2**32 - 1, "x"), "4294967295 x"),
    "address": (NameAddr.build("sip:a@b"), "<sip:a@b>"),
    "address with a name": (From.build("sip:a@b", 'A "B" \\', {"tag": "x"}), '"A \\"B\\" \\\\" <sip:a@b>;tag=x'),
    "address of a URI": (Route.build(SIPURI("sip:h;lr")), "<sip:h;lr>"),
    "address with values": (
        NameAddr.build("tel:+1", "", [("a", None), ("b", "c d"), ("e", '"f,g"'), ("h", ""), ("i", '"')]),
        '<tel:+1>;a;b="c d";e="f,g";h="";i="\\""',
    ),
    "Contact": (Contact.build("sip:a@b", q=0.5, expires=60), "<sip:a@b>;q=0.5;expires=60"),
    "Contact at its limits": (Contact.build("sip:a@b", q=0, expires=2**32 - 1), "<sip:a@b>;q=0;expires=4294967295"),
    "Contact with parameters": (Contact.build("sip:a@b", "A", {"x": "y"}, q=1.0), '"A" <sip:a@b>;x=y;q=1'),
}

MISUSE: dict[str, Callable[[], object]] = {
    "Via: no transport": lambda: Via.build("", "h"),
    "Via: host in the transport": lambda: Via.build("UDP h", "i"),
    "Via: no host": lambda: Via.build("UDP", ""),
    "Via: port in the host": lambda: Via.build("UDP", "h:5060"),
    "Via: parameter in the host": lambda: Via.build("UDP", "h;rport"),
    "Via: line break in the host": lambda: Via.build("UDP", "h\r\n"),
    "Via: no IPv6 address": lambda: Via.build("UDP", "1::2::3"),
    "Via: port 0": lambda: Via.build("UDP", "h", 0),
    "Via: port above 65535": lambda: Via.build("UDP", "h", 65536),
    "Via: parameter name": lambda: Via.build("UDP", "h", None, {"a b": None}),
    "Via: parameter twice": lambda: Via.build("UDP", "h", None, [("a", None), ("A", "b")]),
    "Via: line break in a value": lambda: Via.build("UDP", "h", None, {"a": "\r\nE: 1"}),
    "CSeq: negative": lambda: CSeq.build(-1, "INVITE"),
    "CSeq: above 2**32-1": lambda: CSeq.build(2**32, "INVITE"),
    "CSeq: no number": lambda: CSeq.build(1.0, "INVITE"),  # type: ignore[arg-type]  # what is wrong with it
    "CSeq: no method": lambda: CSeq.build(1, ""),
    "CSeq: two methods": lambda: CSeq.build(1, "INVITE ACK"),
    "address: no URI": lambda: NameAddr.build(""),
    "address: bracket in the URI": lambda: NameAddr.build("sip:a@b>;x=<"),
    "address: line break in the name": lambda: NameAddr.build("sip:a@b", "a\r\nE: 1"),
    "address: NUL in the name": lambda: NameAddr.build("sip:a@b", "\0"),
    "address: line break in a value": lambda: NameAddr.build("sip:a@b", "", {"x": '"\n"'}),
    "address: parameter name": lambda: NameAddr.build("sip:a@b", "", {"": "x"}),
    "address: tag without a value": lambda: From.build("sip:a@b", "", {"tag": None}),
    "address: tag that is no token": lambda: From.build("sip:a@b", "", {"tag": "a b"}),
    "Contact: q above 1": lambda: Contact.build("sip:a@b", q=1.5),
    "Contact: q that is no number": lambda: Contact.build("sip:a@b", q=float("nan")),
    "Contact: negative expires": lambda: Contact.build("sip:a@b", expires=-1),
    "Contact: q twice": lambda: Contact.build("sip:a@b", "", {"Q": "1"}, q=1),
}


@pytest.mark.parametrize(("kind", "field", "is_list", "text"), [(k, *v) for k, v in KINDS.items()])
def test_kinds(kind: type[FieldValue], field: str, is_list: bool, text: str) -> None:
    """Each header field has its own kind, and the section is asked for it by that (7.3.1)."""
    assert (kind.field, kind.is_list) == (field, is_list)
    headers = Headers([(field, text), (field, f"{text}, {text}" if is_list else text)])
    value = headers.one(kind)
    assert type(value) is kind
    assert str(value) == text
    assert headers.every(kind) == (value,) * (3 if is_list else 2)
    assert Headers().one(kind) is None
    assert repr(value).startswith(f"<{kind.__name__} ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "<", '"', "a b", "<sip:a@b>;;", "a\r\n", "-1 INVITE"], ids=repr)
def test_faults(kind: type[FieldValue], text: str) -> None:
    """A malformed value is refused with a reason that names its header field (21.4.1)."""
    with pytest.raises(MessageSyntaxError, match=f"^Malformed {kind.field} header field$"):
        kind.parse(text)


@pytest.mark.parametrize("kind", HOPS)
@pytest.mark.parametrize("text", ["sip:h", "sip:h;lr"])
def test_a_hop_is_in_brackets(kind: type[Route] | type[Path], text: str) -> None:
    """Without brackets nobody could tell whose parameter lr is, so the grammar has only a name-addr (25.1)."""
    with pytest.raises(MessageSyntaxError):
        kind.parse(text)
    assert str(kind.parse(f" <{text}>").uri) == text


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL.keys())
def test_equality(one: object, other: object) -> None:
    """Values are equal, and found in a set, if their components are, however they were spelt (7.3.1, 19.1.4)."""
    assert one == other
    assert one in {other}


@pytest.mark.parametrize(("one", "other"), UNEQUAL.values(), ids=UNEQUAL.keys())
def test_inequality(one: object, other: object) -> None:
    """Values that differ in a component, or are of different header fields, are not equal (7.3.1, 19.1.4)."""
    assert one != other


@pytest.mark.parametrize(("value", "text"), BUILT.values(), ids=BUILT.keys())
def test_build(value: object, text: str) -> None:
    """What is built of components prints in the canonical form, and is what that parses to (25.1)."""
    assert str(value) == text
    assert type(value)(text) == value  # type: ignore[call-arg]  # the constructor of each takes text


@pytest.mark.parametrize("misuse", MISUSE.values(), ids=MISUSE.keys())
def test_misuse(misuse: Callable[[], object]) -> None:
    """Components that make no value are our caller's fault, not the peer's (25.1)."""
    with pytest.raises(ValueError) as caught:
        misuse()
    assert not isinstance(caught.value, MessageSyntaxError)


def test_build_again_from_what_was_parsed() -> None:
    """The parts of a value that was parsed build an equal one: a value in quotes is not quoted twice (25.1)."""
    address = NameAddr('"A, B" <sip:a@b;lr>;x="y;\\"z\\"";q=1;flag;v=[::1]')
    assert NameAddr.build(address.uri, address.display_name, address.parameters) == address
    via = Via('SIP/2.0/UDP [::1]:5;received=::2;x="a b";rport')
    assert Via.build(via.transport, via.host, via.port, via.parameters) == via


texts = st.text() | st.text(st.sampled_from('"\\<>;=, :[]ab\r\n\0'))


@given(texts, st.dictionaries(st.from_regex(TOKEN, fullmatch=True) | texts, st.none() | texts, max_size=3))
def test_whatever_is_built_parses_again(name: str, parameters: dict[str, str | None]) -> None:
    """Whatever is built holds the components it was built from and no others, or is refused (25.1)."""
    try:
        address = Contact.build("sip:a@b", name, parameters)
    except ValueError as error:
        if isinstance(error, MessageSyntaxError):
            raise
        return
    assert not set("\r\n\0") & set(str(address))
    again = Contact.parse(str(address))
    assert again == address
    assert (again.display_name, str(again.uri)) == (name, "sip:a@b")
    assert list(again.parameters) == [key.lower() for key in parameters]


@given(texts, texts, st.none() | st.integers())
def test_whatever_via_is_built_parses_again(transport: str, host: str, port: int | None) -> None:
    """The same holds for a Via (20.42)."""
    try:
        via = Via.build(transport, host, port)
    except ValueError as error:
        if isinstance(error, MessageSyntaxError):
            raise
        return
    assert (via.transport, via.host.strip("[]"), via.port) == (transport.upper(), host.strip("[]"), port)
    assert Via.parse(str(via)) == via


@given(st.sampled_from(list(KINDS)), texts)
def test_any_text_parses_or_raises_the_one_error(kind: type[FieldValue], text: str) -> None:
    """Any text at all is a value or a `MessageSyntaxError`, and a value has no line break (25.1)."""
    with contextlib.suppress(MessageSyntaxError):
        value = kind.parse(text)
        assert value == kind.parse(str(value))
        assert not set("\r\n") & set(str(value))


@pytest.mark.requirement("8217-1")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, NameAddr)], ids=lambda kind: kind.field)
def test_brackets_in_every_header_field(kind: type[NameAddr]) -> None:
    """Not only in Contact, From and To: without brackets no comma, semicolon or question mark is the URI's (RFC 8217).

    Where only the form with brackets is allowed, nothing else is taken.
    """
    bracketed = kind("<sip:a,b@c;transport=tcp?x=y>;q=1")
    assert (bracketed.uri_text, bracketed.parameters) == ("sip:a,b@c;transport=tcp?x=y", {"q": "1"})
    for uri in ("sip:a,b@c", "sip:a@b?x=y"):
        with pytest.raises(MessageSyntaxError):
            kind(uri)
    if kind in HOPS:
        with pytest.raises(MessageSyntaxError):
            kind("sip:b@c;transport=tcp")
    else:
        assert (kind("sip:b@c;transport=tcp").uri_text, kind("sip:b@c;x=y").parameters) == ("sip:b@c", {"x": "y"})
