"""Do the messages that the RFCs publish for testing parse, or fail, as the RFCs say they do?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.framing import StreamFramer
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.syntax.uri import SIPURI, URI, TelURI, unescape

DIRECTORY = Path(__file__).parents[1] / "data" / "torture"
MESSAGES: dict[str, dict[str, Any]] = {
    f"rfc{entry['rfc']}-{entry['name']}": entry
    for entry in json.loads((DIRECTORY / "manifest.json").read_text(encoding="utf-8"))["messages"]
}

# Invalid, and the parser says so: status and reason.
REFUSED = {
    "rfc4475-badinv01": (400, "Malformed Via header field"),
    "rfc4475-clerr": (400, "The body is shorter than Content-Length"),
    "rfc4475-ncl": (400, "Malformed Content-Length header field"),
    "rfc4475-scalar02": (400, "Malformed CSeq header field"),
    "rfc4475-quotbal": (400, "Malformed To header field"),
    "rfc4475-ltgtruri": (400, "Malformed Request-Line"),
    "rfc4475-lwsruri": (400, "Malformed Request-Line"),
    "rfc4475-lwsstart": (400, "Malformed Request-Line"),
    "rfc4475-trws": (400, "Malformed Request-Line"),
    "rfc4475-baddn": (400, "The header section has no end"),
    "rfc4475-badvers": (505, "Version Not Supported"),
    "rfc4475-mismatch01": (400, "The method of CSeq is not that of the request"),
    "rfc4475-mismatch02": (400, "The method of CSeq is not that of the request"),
    "rfc4475-insuf": (400, "Missing From header field"),
    "rfc4475-multi01": (400, "More than one From header field"),
    "rfc4475-mcl01": (400, "Malformed Content-Length header field"),
}

# Invalid, and nothing may or can be sent back.
DISCARDED = {
    "rfc4475-scalarlg": "Malformed CSeq header field",
    "rfc4475-bigcode": "Malformed Status-Line",
    "rfc4475-test": "Malformed Request-Line",  # no version and no Via: nobody would recognise an answer
}

# Invalid, and yet parsed: why, and what raises when somebody asks for it.
LEFT_TO_OTHERS = {
    "rfc4475-escruri": ("a liberal element ignores the headers of a Request-URI; nobody acts on them", None),
    "rfc4475-baddate": ("a server does not need the Date of a request (8.2.2)", None),
    "rfc4475-badaspec": ("white space just inside the angle brackets can mean one thing only", None),
    "rfc4475-badbranch": ("the transaction layer decides what a branch is worth (17.2.3)", None),
    "rfc4475-regbadct": ("the registrar refuses it, for nobody else needs the Contact of a REGISTER", "contacts"),
    "rfc5118-ipv6-bad": ("the transaction user refuses it when it reads the Request-URI (8.2.2.1)", "uri"),
}

UNKNOWN_SCHEMES = {"rfc4475-unkscm": "nobodyknowsthisscheme", "rfc4475-novelsc": "soap.beep"}


def octets(name: str) -> bytes:
    """Return the message of this name as it is on the wire."""
    result: bytes = (DIRECTORY / MESSAGES[name]["file"]).read_bytes()
    return result


def request(name: str) -> Request:
    """Return the valid request of this name."""
    message = parse_message(octets(name))
    assert isinstance(message, Request)
    return message


def named(kind: str) -> list[str]:
    """Return the names of the messages of *kind*."""
    return [name for name, entry in MESSAGES.items() if entry["kind"].startswith(kind)]


def test_every_message_is_here() -> None:
    """No file is left out of the manifest, and no invalid message out of the tables."""
    assert {DIRECTORY / entry["file"] for entry in MESSAGES.values()} == set(DIRECTORY.rglob("*.dat"))
    assert sorted(named("invalid")) == sorted([*REFUSED, *DISCARDED, *LEFT_TO_OTHERS])


@pytest.mark.parametrize("name", named("valid request"))
def test_valid_request(name: str) -> None:
    """A valid request parses, and so does everything in it that a server asks for."""
    received = request(name)
    scheme = UNKNOWN_SCHEMES.get(name)
    if scheme is None:
        assert isinstance(received.uri, SIPURI | TelURI)
    else:
        assert type(received.uri) is URI
        assert received.uri.scheme == scheme
    for address in (received.from_, received.to, *received.contacts):
        assert address.uri.scheme
    assert received.via.sent_by
    assert received.cseq.method == received.method
    assert received.response(200).to_bytes("tag")


@pytest.mark.parametrize("name", named("valid response"))
def test_valid_response(name: str) -> None:
    """A valid response parses."""
    response = parse_message(octets(name))
    assert isinstance(response, Response)
    assert octets(name).startswith(f"SIP/2.0 {response.status} {response.reason}\r\n".encode())


@pytest.mark.parametrize(("name", "answer"), REFUSED.items(), ids=REFUSED.keys())
def test_refused(name: str, answer: tuple[int, str]) -> None:
    """An invalid request is answered with a status that the RFC names."""
    assert answer[0] in MESSAGES[name]["status"]
    with pytest.raises(MessageSyntaxError) as caught:
        parse_message(octets(name))
    assert (caught.value.status, caught.value.reason) == answer
    assert caught.value.request is not None
    assert caught.value.request.response(*answer).to_bytes("tag").startswith(b"SIP/2.0 %d " % answer[0])


@pytest.mark.parametrize(("name", "reason"), DISCARDED.items(), ids=DISCARDED.keys())
def test_discarded(name: str, reason: str) -> None:
    """An invalid response, or what cannot be answered, is discarded."""
    assert MESSAGES[name].get("silent") or MESSAGES[name].get("may_be_silent")
    with pytest.raises(MessageSyntaxError) as caught:
        parse_message(octets(name))
    assert (caught.value.reason, caught.value.request) == (reason, None)


@pytest.mark.parametrize(("name", "where"), LEFT_TO_OTHERS.items(), ids=LEFT_TO_OTHERS.keys())
def test_left_to_others(name: str, where: tuple[str, str | None]) -> None:
    """An invalid request whose fault not every server minds is refused by who does."""
    received = request(name)
    _, attribute = where
    if attribute is None:
        assert MESSAGES[name]["lenient"]
        assert received.uri.scheme == "sip"
    else:
        with pytest.raises(MessageSyntaxError) as caught:
            getattr(received, attribute)
        assert caught.value.status in MESSAGES[name]["status"]
        assert caught.value.request is received


NO_LENGTH = {"rfc4475-inv2543", "rfc3665-3.08-19", "rfc3665-3.11-01", "rfc3665-3.11-08"}


@pytest.mark.parametrize("name", [name for name in named("valid") if name != "rfc4475-dblreq"])
def test_valid_message_on_a_stream(name: str) -> None:
    """Content-Length frames a valid message on a stream; without one the stream is given up (18.3)."""
    framer = StreamFramer()
    data = octets(name)
    if name in NO_LENGTH:
        framer.receive(data)
        with pytest.raises(MessageSyntaxError, match="Missing Content-Length"):
            framer.next_message()
        return
    messages = []
    for position in range(len(data)):
        framer.receive(data[position : position + 1])
        if (message := framer.next_message()) is not None:
            messages.append(message)
    assert messages == [data]
    assert not framer.is_mid_message


@pytest.mark.parametrize(
    ("name", "reason"),
    {
        "rfc4475-clerr": None,
        "rfc4475-baddn": None,
        "rfc4475-ncl": "Malformed Content-Length header field",
        "rfc4475-mcl01": "Malformed Content-Length header field",
        "rfc4475-test": "The stream is not SIP",
    }.items(),
)
def test_invalid_message_on_a_stream(name: str, reason: str | None) -> None:
    """A stream waits for what is missing, and is given up where its framing is lost (18.3)."""
    framer = StreamFramer()
    framer.receive(octets(name))
    if reason is None:
        assert framer.next_message() is None
        assert framer.is_mid_message
    else:
        with pytest.raises(MessageSyntaxError) as caught:
            framer.next_message()
        assert caught.value.reason == reason


# What the RFCs say of single messages


def test_wsinv() -> None:
    """White space, folds and compact names where nobody expects them (RFC 4475, 3.1.1.1)."""
    received = request("rfc4475-wsinv")
    assert received.to.tag == "1918181833n"
    assert received.from_.display_name == 'J Rosenberg \\"'
    assert (received.from_.tag, received.from_.uri_text) == ("98asjd8", "sip:jdrosen@example.com")
    assert (received.cseq.number, received.cseq.method) == (9, "INVITE")
    assert (received.via.host, received.via.branch) == ("192.0.2.2", "390skdjuw")
    assert len(received.headers.values("Via")) == 3
    assert received.headers.get("Subject") == ""
    assert received.headers.get("UnknownHeaderWithUnusualValue") == ";;,,;;,;"
    [contact] = received.contacts
    assert (contact.display_name, contact.parameters["newparam"], contact.q) == ('Quoted string ""', "newvalue", 0.33)
    assert "secondparam" in contact.parameters


def test_intmeth() -> None:
    """The characters of every rule of the grammar (RFC 4475, 3.1.1.2)."""
    received = request("rfc4475-intmeth")
    assert received.method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert isinstance(received.uri, SIPURI)
    assert received.uri.user == "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert received.uri.password == "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert received.to.display_name == "BEL:\a NUL:\0 DEL:\x7f"
    assert received.from_.tag == "_token~1'+`*%!-."
    assert received.from_.parameters["fromparam''~+*_!.-%"] == '"работающий"'
    assert received.call_id == "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"
    assert received.headers.get("extensionheader-!.%*+_`'~") == "\ufeff大停電"


def test_esc01() -> None:
    """An escape is undone once (RFC 4475, 3.1.1.3)."""
    received = request("rfc4475-esc01")
    assert isinstance(received.uri, SIPURI)
    assert unescape(received.uri.user or "") == "sips:user@example.com"
    [contact] = received.contacts
    assert isinstance(contact.uri, SIPURI)
    assert {name: unescape(value or "") for name, value in contact.uri.parameters.items()} == {
        "lr": "",
        "name": "value%41",
    }


def test_escnull() -> None:
    """A NUL does not cut a user part short: there are two contacts, and two users (RFC 4475, 3.1.1.4)."""
    first, second = (contact.uri for contact in request("rfc4475-escnull").contacts)
    assert not first.equivalent(second)


def test_esc02() -> None:
    """A ``%`` is no escape in a method, a display name, a tag or a header name (RFC 4475, 3.1.1.5)."""
    received = request("rfc4475-esc02")
    assert received.method == "RE%47IST%45R"
    assert received.to.display_name == "%Z%45"
    assert received.from_.tag == "f232jadfj23"
    assert len(received.contacts) == 2


def test_dblreq() -> None:
    """What is behind Content-Length is not read in a datagram, and a second request on a stream (RFC 4475, 3.1.1.8)."""
    received = request("rfc4475-dblreq")
    assert (received.method, received.body) == ("REGISTER", b"")
    framer = StreamFramer()
    framer.receive(octets("rfc4475-dblreq"))
    messages = [parse_message(framer.next_message() or b"") for _ in range(2)]
    assert [message.headers.get("CSeq") for message in messages] == ["8 REGISTER", "8 INVITE"]
    with pytest.raises(MessageSyntaxError):  # its INVITE says 150 octets, and is of 155
        framer.next_message()


def test_semiuri() -> None:
    """A semicolon in a user part begins no parameter (RFC 4475, 3.1.1.9)."""
    uri = request("rfc4475-semiuri").uri
    assert isinstance(uri, SIPURI)
    assert (unescape(uri.user or ""), uri.parameters) == ("user;par=u@example.net", {})


def test_cparam() -> None:
    """A parameter behind a bare URI is the header field's, one within brackets the URI's (RFC 4475, 3.3.12, 3.3.13)."""
    parameters = {}
    for name in ("rfc4475-cparam01", "rfc4475-cparam02"):
        [contact] = request(name).contacts
        assert isinstance(contact, Contact)
        assert isinstance(contact.uri, SIPURI)
        parameters[name] = (contact.parameters, contact.uri.parameters)
    assert parameters == {
        "rfc4475-cparam01": ({"unknownparam": None}, {}),
        "rfc4475-cparam02": ({}, {"unknownparam": None}),
    }


def test_regescrt() -> None:
    """The escaped headers of a Contact URI stay part of it (RFC 4475, 3.3.14)."""
    [contact] = request("rfc4475-regescrt").contacts
    assert isinstance(contact.uri, SIPURI)
    assert contact.uri.headers == "Route=%3Csip:sip.example.com%3E"


def test_port_of_an_ipv6_reference() -> None:
    """What is within the brackets is address, what is behind them port (RFC 5118, 4.3 and 4.4)."""
    ambiguous, unambiguous = request("rfc5118-port-ambiguous").uri, request("rfc5118-port-unambiguous").uri
    assert isinstance(ambiguous, SIPURI)
    assert isinstance(unambiguous, SIPURI)
    assert (ambiguous.host, ambiguous.port) == ("[2001:db8::10:5070]", None)
    assert (unambiguous.host, unambiguous.port) == ("[2001:db8::10]", 5070)


def test_received_with_and_without_brackets() -> None:
    """Both spellings of an IPv6 address in received are read (RFC 5118, 4.5)."""
    received = {
        name: request(f"rfc5118-via-received-param-{name}").via.parameters["received"]
        for name in ("with-delim", "no-delim")
    }
    assert received == {"with-delim": "[2001:db8::9:255]", "no-delim": "2001:db8::9:255"}


def test_three_colons() -> None:
    """Three colons before an embedded IPv4 address mean two (RFC 5118, 4.10)."""
    three, two = request("rfc5118-ipv6-bug-abnf-3-colons").uri, request("rfc5118-ipv6-correct-abnf-2-colons").uri
    assert three.equivalent(two)


@pytest.mark.parametrize("name", [name for name in named("") if name.startswith("rfc5118-")])
def test_archive_of_rfc_5118_as_it_is(name: str) -> None:
    """The archive of RFC 5118 ends its lines in LF alone; such a message is refused, and is no worse than that (7)."""
    with pytest.raises(MessageSyntaxError) as caught:
        parse_message(octets(name).replace(b"\r\n", b"\n"))
    assert caught.value.request is None
