"""Which bytes are a message, what does it say, and what may a response hold?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.syntax.fields import NameAddr
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import answerable_part, content_length, parse_message
from twisted_sipuas.syntax.status import reason_phrase
from twisted_sipuas.syntax.uri import SIPURI

ROWS = {
    "Via": "SIP/2.0/UDP pc33.atlanta.example.com;branch=z9hG4bK776asdhds",
    "From": "Alice <sip:alice@atlanta.example.com>;tag=1928301774",
    "To": "Bob <sip:bob@biloxi.example.com>",
    "Call-ID": "a84b4c76e66710@pc33.atlanta.example.com",
    "CSeq": "314159 INVITE",
}
START_LINE = "INVITE sip:bob@biloxi.example.com SIP/2.0"
STATUS_LINE = "SIP/2.0 200 OK"


def octets(*more: str, start: str = START_LINE, body: bytes = b"", without: str = "", **changed: Any) -> bytes:
    """Return a message: the five mandatory rows, some *changed* or left out, and *more* lines at the end."""
    rows = {**ROWS, **{name.replace("_", "-"): value for name, value in changed.items()}}
    rows.pop(without, None)
    lines = [start, *(f"{name}: {value}" for name, value in rows.items()), *more]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def request(data: bytes) -> Request:
    """Return the request that *data* is."""
    message = parse_message(data)
    assert isinstance(message, Request)
    return message


def fault(data: bytes) -> MessageSyntaxError:
    """Return what is wrong with *data*."""
    with pytest.raises(MessageSyntaxError) as caught:
        parse_message(data)
    return caught.value


def lines(response: Response, to_tag: str | None = "our-tag") -> list[str]:
    """Return the lines of *response* as it is sent, without Content-Length."""
    head, _, _ = response.to_bytes(to_tag).partition(b"\r\n\r\n")
    text = head.decode("utf-8", "surrogateescape").split("\r\n")
    assert text[-1].startswith("Content-Length: ")
    return text[:-1]


# Requests


def test_request() -> None:
    """A request is its start line, its header section and its body (7.1)."""
    received = request(octets("Subject: x", "m: <sip:a@b>, sip:c@d;q=0.1", "Contact: *", body=b"\r\n\r\n\xff\0"))
    assert (received.method, received.uri_text) == ("INVITE", "sip:bob@biloxi.example.com")
    assert received.uri == SIPURI("sip:bob@biloxi.example.com")
    assert received.via.host == "pc33.atlanta.example.com"
    assert received.from_.tag == "1928301774"
    assert received.to.display_name == "Bob"
    assert (received.cseq.number, received.cseq.method) == (314159, "INVITE")
    assert received.call_id == ROWS["Call-ID"]
    assert [contact.q for contact in received.contacts] == [None, 0.1]
    assert received.headers.get("s") == "x"
    assert received.body == b"\r\n\r\n\xff\0"


@pytest.mark.parametrize("method", ["INVITE", "invite", "!x-%.`'~*_+1"])
def test_any_token_is_a_method(method: str) -> None:
    """A method is any token, and its case counts (7.1, 25.1)."""
    received = request(octets(start=f"{method} sip:a@b SIP/2.0", CSeq=f"1 {method}"))
    assert received.method == method


@pytest.mark.requirement("7.1-1")
@pytest.mark.parametrize("version", ["SIP/2.0", "sip/2.0", "Sip/2.0"])
def test_version_without_regard_to_case(version: str) -> None:
    """SIP-Version is compared without regard to case, and sent in upper case (7.1)."""
    assert request(octets(start=f"INVITE sip:a@b {version}")).to_bytes().startswith(b"INVITE sip:a@b SIP/2.0\r\n")
    response = parse_message(octets(start=f"{version} 200 OK"))
    assert response.to_bytes().startswith(b"SIP/2.0 200 OK\r\n")


@pytest.mark.parametrize("version", ["SIP/7.0", "SIP/2.1", "SIP/2.00", "SIP/1.0", "sip/3.0", "SIP/x"])
def test_another_version(version: str) -> None:
    """A version that is not 2.0 gets 505, in an answer if it looks like a request at all (21.5.6)."""
    error = fault(octets(start=f"INVITE sip:a@b {version}"))
    assert error.status == 505
    assert error.request is not None
    assert error.request.via.branch == "z9hG4bK776asdhds"


@pytest.mark.parametrize(
    "start",
    [
        "GET / HTTP/1.1",
        "INVITE sip:a@b",
        "INVITE",
        "",
        "x",
        "INVITE sip:a@b 2.0",
        "SIP/2.0",
        "INV@TE sip:a@b SIP/2.0",
        "SIP/2.0 200",
        "SIP/2.0 20 OK",
        "SIP/2.0 2000 OK",
        "SIP/2.0 700 OK",
        "SIP/2.0 099 OK",
        "SIP/2.0  200 OK",
        "SIP/2.0 4294967301 better not break the receiver",
        "SIP/3.0 200 OK",
        "SIP/2.0 2\u0660\u0660 OK",
        "\u017fIP/2.0 200 OK",
        'SIP/2.0 200 "\\\0"',
    ],
)
def test_not_sip(start: str) -> None:
    """What has no Request-Line cannot be answered, and a malformed response is discarded (7.1, 7.2, 18.1.2)."""
    assert fault(octets(start=start)).request is None


@pytest.mark.requirement("7.1-2")
@pytest.mark.parametrize("uri", ["<sip:a@b>", "sip:a@b; lr", "sip:a b@c", "sip:a b c@d"])
@pytest.mark.parametrize("version", ["SIP/2.0", "sip/2.0"])
def test_space_and_brackets_in_the_request_uri(uri: str, version: str) -> None:
    """A Request-URI has no space and is not in angle brackets (7.1); what is refused can be answered."""
    error = fault(octets(start=f"INVITE {uri} {version}"))
    assert (error.status, error.reason) == (400, "Malformed Request-Line")
    assert error.request is not None


@pytest.mark.parametrize(
    "start",
    [
        "INVITE  sip:a@b SIP/2.0",
        "INVITE sip:a@b  SIP/2.0",
        "INVITE sip:a@b SIP/2.0 ",
        " INVITE sip:a@b SIP/2.0",
        "INVITE\tsip:a@b SIP/2.0",
        "INVITE sip:a@b x\tsip/2.0",
        "INVITE\tX sip:a@b sip/2.0",
        "INVITE sip:a\tb sip/2.0",
        "INVITE  SIP/2.0 SIP/2.0",
        "INVITE sip:a@b\u2003SIP/2.0",
    ],
)
def test_white_space_in_the_request_line(start: str) -> None:
    """There are two single spaces in a Request-Line and no other white space (7.1); the refusal can be sent."""
    error = fault(octets(start=start))
    assert (error.status, error.reason) == (400, "Malformed Request-Line")
    assert error.request is not None
    assert error.request.method == "INVITE"


@pytest.mark.parametrize(
    "uri",
    [
        "sip:2001:db8::1",
        "sip:a@b@c",
        "bob",
        *(
            pytest.param(uri, marks=pytest.mark.requirement("7.1-2"))
            for uri in ("sip:a\tb@c", "sip:a\x01@b", "sip:a\x7f@b", 'sip:"\\\0"@b', "x:\x1f")
        ),
    ],
)
def test_malformed_request_uri(uri: str) -> None:
    """A malformed Request-URI is found by who asks for it, and can be answered (8.2.2.1)."""
    received = request(octets(start=f"INVITE {uri} SIP/2.0"))
    with pytest.raises(MessageSyntaxError, match="Malformed Request-URI") as caught:
        received.uri  # noqa: B018  # the property raises
    assert caught.value.request is received


@pytest.mark.parametrize("fold", ["\r\n ", "\r\n\t", " \r\n \t "])
def test_folding(fold: str) -> None:
    """A line that begins with white space continues the one before it (7.3.1)."""
    received = request(
        octets(f"Subject:{fold}I know{fold}you", f"Route: <sip:a>,{fold}<sip:b>", CSeq=f"314159{fold}INVITE")
    )
    subject = received.headers.get("Subject")
    assert subject is not None
    assert subject.split() == ["I", "know", "you"]
    assert "\r" not in subject + "\n".join(received.headers.get_all("Route"))
    assert received.headers.values("Route") == ["<sip:a>", "<sip:b>"]
    assert received.cseq.number == 314159


@pytest.mark.requirement("7-1")
@pytest.mark.parametrize(
    "data",
    {
        "LF alone everywhere": octets().replace(b"\r\n", b"\n"),
        "CR alone everywhere": octets().replace(b"\r\n", b"\r"),
        "LF in a value": octets("Subject: a\nX: b"),
        "CR in a value": octets("Subject: a\rX: b"),
        "CR at the end of a value": octets("Subject: a\r"),
        "CR LF swapped": octets("Subject: a\n\rX: b"),
        "CR before a fold": octets("Subject: a\r\r\n b"),
        "LF in a quoted-pair": octets('Subject: "\\\n"'),
    }.items(),
    ids=lambda item: item[0],
)
def test_lines_end_in_crlf(data: tuple[str, bytes]) -> None:
    """A CR or LF elsewhere would be copied into a response, and so there is none (7, 25.1)."""
    error = fault(data[1])
    assert (error.status, error.request) == (400, None)


@pytest.mark.parametrize(
    "data",
    {
        "NUL in a value": octets("Subject: a\0b"),
        "NUL in a quoted-string": octets('Subject: "a\0b"'),
        "NUL behind an escaped backslash": octets('Subject: "\\\\\0"'),
        "NUL behind a backslash outside quotes": octets("Subject: \\\0"),
        "NUL in an unterminated quote": octets('Subject: "\\\0'),
        "NUL in the Request-Line": octets(start="INVITE sip:a\0@b SIP/2.0"),
    }.items(),
    ids=lambda item: item[0],
)
def test_nul(data: tuple[str, bytes]) -> None:
    """A NUL that is no quoted-pair would be copied into a response too, and so there is none (25.1)."""
    error = fault(data[1])
    assert (error.status, error.request) == (400, None)


@pytest.mark.parametrize("value", ['"\\\0"', '"a \\" \\\0 \\\\" <x>', '"" "\\\0\\\0"'])
def test_nul_as_a_quoted_pair(value: str) -> None:
    """In a quoted-string an escaped NUL is allowed (25.1 quoted-pair)."""
    assert request(octets(f"Subject: {value}")).headers.get("Subject") == value


@pytest.mark.requirement("7-1")
def test_header_section_without_an_end() -> None:
    """The empty line is there even without a body, and without it the request may be cut short (7)."""
    error = fault(octets().removesuffix(b"\r\n"))
    assert error.reason == "The header section has no end"
    assert error.request is not None
    assert error.request.headers.get("CSeq") == ROWS["CSeq"]


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n\r\n", b"\n"])
def test_empty_lines_before_a_datagram(before: bytes) -> None:
    """Empty lines before the start line are ignored (7.5)."""
    assert request(before + octets()).method == "INVITE"


@pytest.mark.requirement("20-2")
@pytest.mark.parametrize("name", ROWS)
def test_mandatory_header_field_is_missing(name: str) -> None:
    """A request has Via, From, To, Call-ID and CSeq; without a Via it cannot be answered (8.1.1, 8.2.6.2)."""
    error = fault(octets(without=name))
    assert (error.status, error.reason) == (400, f"Missing {name} header field")
    assert (error.request is None) == (name == "Via")


@pytest.mark.parametrize("name", ["Via", "To", "Call-ID", "CSeq"])
def test_mandatory_header_field_is_empty(name: str) -> None:
    """An empty value is as good as none (8.1.1)."""
    error = fault(octets(**dict[str, Any]({name.replace("-", "_"): ""})))
    assert error.status == 400
    assert name in error.reason


@pytest.mark.parametrize("row", ["f: <sip:x@y>;tag=1", "t: <sip:x@y>", "i: x", "CSEQ: 314159 INVITE"])
def test_mandatory_header_field_is_given_twice(row: str) -> None:
    """From, To, Call-ID and CSeq occur once, by whatever name (7.3.1, 20)."""
    error = fault(octets(row))
    assert error.status == 400
    assert error.reason.startswith("More than one ")
    assert error.request is not None


@pytest.mark.parametrize(
    ("cseq", "reason"),
    [
        ("314159 OPTIONS", "The method of CSeq is not that of the request"),
        ("314159 invite", "The method of CSeq is not that of the request"),
        ("INVITE", "Malformed CSeq header field"),
        ("4294967296 INVITE", "Malformed CSeq header field"),
    ],
)
def test_cseq_contradicts_the_request(cseq: str, reason: str) -> None:
    """CSeq has the method of the request, whose case counts (8.1.1.5)."""
    error = fault(octets(CSeq=cseq))
    assert (error.status, error.reason) == (400, reason)
    assert error.request is not None


@pytest.mark.requirement("21.4.1-1")
@pytest.mark.parametrize("name", ["From", "Contact"])
def test_reason_names_a_field_that_is_read_late(name: str) -> None:
    """What is not parsed before somebody needs it names its field too, if it is malformed (21.4.1)."""
    fields: dict[str, Any] = {name: "<nonsense-from-the-peer"}
    received = request(octets(**fields))
    with pytest.raises(MessageSyntaxError) as caught:
        received.contacts if name == "Contact" else received.from_  # noqa: B018  # the properties raise
    assert caught.value.reason == f"Malformed {name} header field"


@pytest.mark.requirement("21.4.1-1")
@pytest.mark.parametrize(
    "changed",
    [
        {"Via": "SIP/2.0/UDP h;;"},
        {"Via": "SIP/2.0/UDP [1::2::3]"},
        {"Via": "SIP/2.0/UDP a;branch=x,,SIP/2.0/UDP b"},
        {"Via": "nonsense-from-the-peer"},
        {"To": '"unterminated <sip:a@b>'},
        {"To": "<sip:a@b>;tag"},
        {"To": "nonsense-from-the-peer <"},
        {"CSeq": "nonsense-from-the-peer"},
    ],
    ids=str,
)
def test_reason_names_the_field_and_quotes_nothing(changed: dict[str, Any]) -> None:
    """The reason phrase of a 400 names the field and has no octet of the peer's in it (21.4.1)."""
    [(name, value)] = changed.items()
    error = fault(octets(**changed))
    assert error.reason == f"Malformed {name} header field"
    assert error.request is not None
    assert error.request.headers.get(name) == value


@pytest.mark.requirement("8.2.2-2")
@pytest.mark.parametrize(
    "line",
    [
        "Contact: <",
        "Date: yesterday",
        "Max-Forwards: many",
        "Supported: ,,",
        "Route: nonsense;;",
        "Expires: -1",
        "Record-Route:",
        "X: ;;,,;;,;",
    ],
)
def test_fault_in_a_header_field_that_is_not_needed(line: str) -> None:
    """A malformed header field that the request does not need is no fault of the request (8.2.2)."""
    assert request(octets(line)).method == "INVITE"


@pytest.mark.parametrize("line", ["Contact: <", "m: sip:a@b?x", "Contact: a,,b", "Contact: <sip:a@b>;x;x"])
def test_malformed_contact_names_its_field(line: str) -> None:
    """Who asks for the contacts is told that they are malformed, and of which request (21.4.1)."""
    received = request(octets(line))
    with pytest.raises(MessageSyntaxError, match=r"^Malformed Contact header field$") as caught:
        received.contacts  # noqa: B018  # the property raises
    assert caught.value.request is received


def test_malformed_from_names_its_field() -> None:
    """So is who asks for From, which only dialogs and old transactions need (8.2.2, 21.4.1)."""
    received = request(octets(From='"A'))
    with pytest.raises(MessageSyntaxError, match=r"^Malformed From header field$") as caught:
        received.from_  # noqa: B018  # the property raises
    assert caught.value.request is received


@pytest.mark.requirement("8.2.2-2")
@pytest.mark.parametrize("line", ["Foobar roobar", "Foo bar: x", ": x", "X-\xe9: x"])
def test_line_that_is_no_header_field(line: str) -> None:
    """A line without a colon, or without a token before it, is ignored, and goes into no response (8.2.2)."""
    received = request(octets(line))
    assert received.headers == request(octets()).headers
    assert line.encode() not in received.response(200).to_bytes("tag")


@pytest.mark.parametrize(
    "changes",
    {
        "malformed CSeq": {"CSeq": "1"},
        "malformed To": {"To": "<"},
        "missing From": {"without": "From"},
        "another version": {"start": "ACK sip:a@b SIP/7.0"},
        "malformed Request-Line": {"start": "ACK  sip:a@b SIP/2.0"},
    }.items(),
    ids=lambda item: item[0],
)
def test_ack_is_never_answered(changes: tuple[str, dict[str, str]]) -> None:
    """No response is ever sent to an ACK, malformed or not (17.1.1.3, 17.2.1)."""
    data = octets(**{"start": "ACK sip:a@b SIP/2.0", "CSeq": "314159 ACK", **changes[1]})  # type: ignore[arg-type]
    assert fault(data).request is None


def test_non_utf8_text_comes_back_byte_for_byte() -> None:
    """Octets that are not UTF-8 go into the response as they came (8.2.6.2)."""
    name = b'"\xff caf\xe9 \xed\xa0\x80 \xc3" <sip:\xfe@b>'
    received = request(octets().replace(b"Alice <sip:alice@atlanta.example.com>", name))
    assert b"\r\nFrom: " + name + b";tag=1928301774\r\n" in received.response(200).to_bytes("x")
    assert b"\r\nFrom: " + name + b";tag=1928301774\r\n" in received.to_bytes()


# Bodies in datagrams


@pytest.mark.parametrize(
    ("rows", "body"),
    {
        "exact": (["Content-Length: 4"], b"body"),
        "compact": (["l: 4"], b"body"),
        "leading zeros": (["Content-Length: 0004"], b"body"),
        "twice the same": (["Content-Length: 4", "l: 04"], b"body"),
        "folded": (["Content-Length:\r\n 4"], b"body"),
        "zero": (["Content-Length: 0"], b""),
    }.values(),
    ids=lambda value: str(value),
)
@pytest.mark.requirement("18.3-1")
def test_octets_behind_content_length_are_discarded(rows: list[str], body: bytes) -> None:
    """In a datagram what is behind Content-Length does not count (18.3)."""
    assert request(octets(*rows, body=body + b"\r\nINVITE sip:evil@h SIP/2.0\r\n\r\n")).body == body


@pytest.mark.requirement("18.3-5")
def test_no_content_length_in_a_datagram() -> None:
    """Without Content-Length the body runs to the end of the datagram (18.3)."""
    assert request(octets(body=b"v=0\r\n\r\nx")).body == b"v=0\r\n\r\nx"


@pytest.mark.requirement("18.3-2", "18.3-4")
def test_request_shorter_than_content_length() -> None:
    """A request that ends before its Content-Length is reached can be answered 400 (18.3)."""
    error = fault(octets("Content-Length: 5", body=b"body"))
    assert (error.status, error.reason) == (400, "The body is shorter than Content-Length")
    assert error.request is not None


@pytest.mark.requirement("18.3-2", "18.3-3")
def test_response_shorter_than_content_length() -> None:
    """A response that ends before its Content-Length is reached is discarded (18.3)."""
    assert fault(octets("Content-Length: 5", start=STATUS_LINE, body=b"body")).request is None


MALFORMED_LENGTHS = {
    "empty": [""],
    "negative": ["-1"],
    "signed": ["+4"],
    "hexadecimal": ["0x4"],
    "fraction": ["4.0"],
    "two in one": ["4, 4"],
    "with a unit": ["4 octets"],
    "superscript": ["²"],
    "Arabic digits": ["\u0664"],
    "absurd": ["9" * 5000],
    "eleven digits": ["10000000000"],
    "contradiction": ["4", "5"],
    "one of two malformed": ["4", "four"],
}


@pytest.mark.parametrize("values", MALFORMED_LENGTHS.values(), ids=MALFORMED_LENGTHS.keys())
def test_malformed_content_length(values: list[str]) -> None:
    """Content-Length is digits, and all of its rows agree (20.14)."""
    with pytest.raises(MessageSyntaxError, match="Content-Length"):
        content_length(values)
    error = fault(octets(*(f"Content-Length: {value}" for value in values), body=b"body"))
    assert (error.status, error.reason) == (400, "Malformed Content-Length header field")
    assert error.request is not None


@pytest.mark.parametrize(
    ("data", "is_answerable"),
    {
        "whole request": (octets(), True),
        "head without its body": (octets("Content-Length: 9999"), True),
        "malformed": (octets(CSeq="x"), True),
        "ACK": (octets(start="ACK sip:a@b SIP/2.0", CSeq="314159 ACK"), False),
        "no Via": (octets(without="Via"), False),
        "response": (octets(start=STATUS_LINE), False),
        "rubbish": (b"\xff", False),
    }.values(),
)
def test_answerable_part(data: bytes, is_answerable: bool) -> None:
    """A request too large to read is refused by its head alone, if its sender can recognise the answer (21.5.7)."""
    part = answerable_part(data)
    assert (part is not None) == is_answerable
    assert part is None or part.headers.get("Call-ID") == ROWS["Call-ID"]


# Responses that are received


def test_received_response() -> None:
    """A response is its status line, its header section and its body (7.2)."""
    response = parse_message(octets("Content-Length: 2", start="SIP/2.0 486 Schon wieder  besetzt ü", body=b"abc"))
    assert isinstance(response, Response)
    assert (response.status, response.reason, response.body) == (486, "Schon wieder  besetzt ü", b"ab")
    assert response.headers.get("Call-ID") == ROWS["Call-ID"]


def test_received_response_with_an_empty_reason() -> None:
    """The reason phrase may be empty, and stays so (7.2; RFC 4475, 3.1.1.13)."""
    response = parse_message(octets(start="SIP/2.0 100 "))
    assert response.to_bytes().startswith(b"SIP/2.0 100 \r\n")


@pytest.mark.parametrize("name", ROWS)
def test_received_response_without_a_mandatory_header_field(name: str) -> None:
    """A response that cannot be matched is discarded (8.1.3, 18.1.2)."""
    assert fault(octets(start=STATUS_LINE, without=name)).request is None


# Responses that are sent (8.2.6)

FORKED = octets(
    "v: SIP/2.0/TCP second.example.com;branch=z9hG4bK2 , SIP/2.0/UDP third.example.com",
    "Record-Route: <sip:p1;lr>",
    "Via: SIP / 2.0 / TLS fourth.example.com",
)


@pytest.mark.requirement("8.2.6.2-1")
def test_response_copies_from() -> None:
    """From equals that of the request (8.2.6.2)."""
    assert f"From: {ROWS['From']}" in lines(request(octets()).response(200))


@pytest.mark.requirement("8.2.6.2-2")
def test_response_copies_call_id() -> None:
    """Call-ID equals that of the request (8.2.6.2)."""
    assert f"Call-ID: {ROWS['Call-ID']}" in lines(request(octets()).response(200))


@pytest.mark.requirement("8.2.6.2-3")
def test_response_copies_cseq() -> None:
    """CSeq equals that of the request, leading zeros and all (8.2.6.2)."""
    assert "CSeq: 0009  INVITE" in lines(request(octets(CSeq="0009  INVITE")).response(200))


@pytest.mark.requirement("8.2.6.2-4", "8.2.6.2-5")
def test_response_copies_via_in_order() -> None:
    """The Via values equal those of the request, in their order (8.2.6.2)."""
    sent = [line for line in lines(request(FORKED).response(200)) if line.startswith("Via: ")]
    assert sent == [
        f"Via: {ROWS['Via']}",
        "Via: SIP/2.0/TCP second.example.com;branch=z9hG4bK2 , SIP/2.0/UDP third.example.com",
        "Via: SIP / 2.0 / TLS fourth.example.com",
    ]


@pytest.mark.requirement("8.2.6.2-6")
def test_response_keeps_the_to_tag_of_the_request() -> None:
    """With a To tag in the request, that of the response equals it (8.2.6.2)."""
    assert "To: <sip:b@c> ; TAG = theirs" in lines(request(octets(To="<sip:b@c> ; TAG = theirs")).response(200))


@pytest.mark.requirement("8.2.6.2-7", "8.2.6.2-8")
@pytest.mark.parametrize(
    "to", ["Bob <sip:bob@b>", "sip:bob@b;x=y", "<sip:bob@b;tag=of-the-uri>", '"a;tag=b" <sip:c@d>']
)
def test_response_gets_our_to_tag(to: str) -> None:
    """Without a To tag in the request, ours is added to its To, which is else unchanged (8.2.6.2)."""
    received = request(octets(To=to))
    assert f"To: {to};tag=our-tag" in lines(received.response(486))
    assert f"To: {to};tag=our-tag" in lines(Response(486, headers=received.headers))


@pytest.mark.parametrize("status", [101, 180, 199, 200, 302, 401, 500, 603])
def test_every_response_but_100_gets_our_to_tag(status: int) -> None:
    """Provisional and final responses carry the tag alike (8.2.6.2)."""
    assert f"To: {ROWS['To']};tag=our-tag" in lines(request(octets()).response(status))


def test_100_gets_no_to_tag() -> None:
    """A 100 is hop by hop and is sent without a tag (8.2.6.2)."""
    assert f"To: {ROWS['To']}" in lines(request(octets()).response(100))


def test_to_tag_is_written_on_the_way_out() -> None:
    """One response is sent under whichever tag its transaction has, and itself stays as it was."""
    response = request(octets()).response(200)
    assert f"To: {ROWS['To']};tag=a" in lines(response, "a")
    assert f"To: {ROWS['To']};tag=b" in lines(response, "b")
    assert f"To: {ROWS['To']}" in lines(response, None)
    assert response.headers.get("To") == ROWS["To"]


def test_response_to_a_folded_request() -> None:
    """Folds are undone in what is copied, so that no copy can be read otherwise (7.3.1)."""
    received = request(octets(From="Alice\r\n  <sip:a@b>\r\n\t;tag=x"))
    assert "From: Alice <sip:a@b> ;tag=x" in lines(received.response(200))


def test_response_to_a_request_that_is_refused() -> None:
    """What cannot be read is copied all the same, as the sender has to recognise it (8.2.6.2)."""
    error = fault(octets("To: second", "i: second", To="<sip:a"))
    assert error.request is not None
    sent = lines(error.request.response(error.status, error.reason))
    assert sent[0] == f"SIP/2.0 400 {error.reason}"
    assert [line for line in sent if line.startswith(("To", "Call-ID"))] == [
        "To: <sip:a;tag=our-tag",
        "To: second;tag=our-tag",
        f"Call-ID: {ROWS['Call-ID']}",
        "Call-ID: second",
    ]


def test_what_a_response_adds() -> None:
    """Contacts, further header fields and a body come behind the copied rows, in the order given (8.2.6, 20.10)."""
    response = request(octets()).response(
        302,
        "Elsewhere",
        headers=[("Retry-After", "5"), ("Warning", "399 h x")],
        contacts=["sip:a,b@c", SIPURI("sip:d@e?f=g"), "Bob <sip:h@i>;q=0.1", "*"],
        body=b"\xff\r\n",
        content_type="text/plain",
        rule="test",
    )
    assert (response.status, response.reason, response.rule) == (302, "Elsewhere", "test")
    data = response.to_bytes("t", server="ours")
    assert data == (
        octets(
            "Contact: <sip:a,b@c>",
            "Contact: <sip:d@e?f=g>",
            "Contact: Bob <sip:h@i>;q=0.1",
            "Contact: *",
            "Retry-After: 5",
            "Warning: 399 h x",
            "Content-Type: text/plain",
            "Server: ours",
            "Content-Length: 3",
            start="SIP/2.0 302 Elsewhere",
            To=f"{ROWS['To']};tag=t",
            body=b"\xff\r\n",
        )
    )
    assert b"test" not in data


def test_server_of_the_response_wins() -> None:
    """A Server header field that the response has is not given twice (20.35)."""
    response = request(octets()).response(200, headers=[("Server", "its own")])
    assert b"\r\nServer: its own\r\n" in response.to_bytes("t", server="ours")
    assert b"ours" not in response.to_bytes("t", server="ours")


@pytest.mark.requirement("20.14-1")
@pytest.mark.parametrize("name", ["Content-Length", "l", "L", "CONTENT-LENGTH", "cOnTeNt-lEnGtH"])
def test_content_length_is_ours(name: str) -> None:
    """There is one Content-Length, which is right, whatever a handler says (20.14)."""
    for body in (b"", b"four"):
        data = (
            request(octets()).response(200, headers=[(name, "9999")], body=body, content_type="text/plain").to_bytes()
        )
        assert b"9999" not in data
        assert data.endswith(b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert request(octets()).response(200).to_bytes().endswith(b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.requirement("7.4.1-1")
@pytest.mark.parametrize("name", ["Content-Type", "content-type", "c"])
def test_body_has_a_type(name: str) -> None:
    """A response with a body tells its type, or is a mistake of our caller; no coding is told unless it is given."""
    received = request(octets())
    assert received.response(200, body=b"x", headers=[(name, "text/plain")]).headers.get("Content-Type") == "text/plain"
    response = received.response(200, body=b"x", content_type="text/plain")
    assert response.headers.get("Content-Type") == "text/plain"
    assert "Content-Encoding" not in response.headers
    with pytest.raises(ValueError, match="a body needs a content_type"):
        received.response(200, body=b"x")


@pytest.mark.requirement("7.4.2-1")
def test_body_is_sent_in_one_piece() -> None:
    """However long a body is, it is sent as it is, and by no transfer coding: Content-Length tells its end (7.4.2)."""
    body = bytes(range(256)) * 400
    head, _, sent = request(octets()).response(200, body=body, content_type="x/y").to_bytes().partition(b"\r\n\r\n")
    assert sent == body
    assert b"\r\nContent-Length: 102400" in head
    assert b"transfer-encoding" not in head.lower()


SPLIT = ["\r\nX: y", "a\rb", "a\nb", "a\0b", "\r\n\r\n", "\n"]
PLACES: dict[str, Callable[[str], object]] = {
    "reason": lambda text: request(octets()).response(200, text),
    "header field": lambda text: request(octets()).response(200, headers=[("X", text)]),
    "header field name": lambda text: request(octets()).response(200, headers=[(text, "x")]),
    "contact": lambda text: request(octets()).response(302, contacts=[text]),
    "bracketed contact": lambda text: request(octets()).response(302, contacts=[f"<sip:a@b>;x={text}"]),
    "content type": lambda text: request(octets()).response(200, body=b"x", content_type=text),
    "reason of a Response": lambda text: Response(200, text),
    "header field of a Response": lambda text: Response(200, headers=[("X", text)]),
    "header field name of a Response": lambda text: Response(200, headers=[(text, "x")]),
    "reason of a SIPError": lambda text: SIPError(400, text),
    "header field of a SIPError": lambda text: SIPError(400, headers=[("X", text)]),
    "header field name of a SIPError": lambda text: SIPError(400, headers=[(text, "x")]),
    "method of a Request": lambda text: Request(f"X{text}", "sip:a@b"),
    "Request-URI": lambda text: Request("X", f"sip:a@b{text}"),
    "header field of a Request": lambda text: Request("X", "sip:a@b", [("X", text)]),
}


@pytest.mark.parametrize("text", SPLIT, ids=repr)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_response_splitting_is_refused(place: Callable[[str], object], text: str) -> None:
    """CR, LF and NUL from our caller are a plain `ValueError`: nothing starts a line of its own (7.3.1, 25.1)."""
    with pytest.raises(ValueError) as caught:
        place(text)
    assert not isinstance(caught.value, MessageSyntaxError)


@pytest.mark.parametrize("status", [-1, 0, 99, 700, 1000])
def test_status_that_is_none(status: int) -> None:
    """A status code is from 100 to 699 (7.2), and that of a refusal from 300 (21.3)."""
    with pytest.raises(ValueError):
        request(octets()).response(status)
    with pytest.raises(ValueError):
        SIPError(status)


@pytest.mark.parametrize("status", [100, 200, 299])
def test_sip_error_is_a_refusal(status: int) -> None:
    """A provisional response or a success is no error (21.1, 21.2)."""
    with pytest.raises(ValueError):
        SIPError(status)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (200, "OK"),
        (486, "Busy Here"),
        (505, "Version Not Supported"),
        (299, "OK"),
        (499, "Bad Request"),
        (699, "Busy Everywhere"),
        (199, "Early Dialog Terminated"),
        (198, "Trying"),
    ],
)
def test_default_reason_phrase(status: int, reason: str) -> None:
    """A code without a phrase of its own gets that of its class (21, 8.1.3.2)."""
    assert reason_phrase(status) == reason
    assert Response(status).reason == reason


def test_response_is_immutable() -> None:
    """A response that was handed to a transaction cannot change under it."""
    response = request(octets()).response(200)
    for name in ("status", "reason", "body", "rule", "headers", "anything"):
        with pytest.raises(AttributeError):
            setattr(response, name, None)


# What the transport changes in a request


@pytest.mark.parametrize("is_stamped", [True, False])
def test_response_does_not_follow_its_request(is_stamped: bool) -> None:
    """A response has the Via that its request had, however it is printed; one made later has the new one (8.2.6.2)."""
    received = request(octets(Via="SIP/2.0/UDP h;rport;branch=z9hG4bK1"))
    early = received.response(100)
    printed = early.to_bytes()
    if is_stamped:
        received.stamp_via("192.0.2.1", 5060)
    else:
        received.overwrite_via(received.via.with_parameters({"oc": "10"}))

    assert early.to_bytes() == printed
    assert early.headers.values("Via") == ["SIP/2.0/UDP h;rport;branch=z9hG4bK1"]
    assert b"\r\nv: SIP/2.0/UDP h;rport;branch=z9hG4bK1\r\n" in early.to_bytes(compact=True)
    assert not early.is_for(received)
    late = received.response(200)
    assert f"\r\nVia: {received.via.text}\r\n".encode() in late.to_bytes()
    assert late.headers.values("Via") == [received.via.text]


def test_response_with_more_headers_is_for_the_same_request() -> None:
    """Whether a response is for a request is told by the topmost Via, whatever stands in those below (8.2.6.2)."""
    received = request(octets("Via: ,"))
    assert received.response(200).with_headers([("Allow", "INVITE")]).is_for(received)


def test_stamp_via() -> None:
    """Only the topmost Via value changes, be it the first of a row or a row of its own (18.2.1)."""
    for row in (ROWS["Via"], f"{ROWS['Via']}, SIP/2.0/UDP b;x=1 ,SIP/2.0/UDP c"):
        received = request(octets("v: SIP/2.0/UDP d", Via=row))
        received.stamp_via("192.0.2.1", 5060)
        assert received.via.parameters["received"] == "192.0.2.1"
        before = request(octets("v: SIP/2.0/UDP d", Via=row)).headers.values("Via")
        assert received.headers.values("Via") == [f"{before[0]};received=192.0.2.1", *before[1:]]
        assert request(received.to_bytes()).via.text == received.via.text


@pytest.mark.parametrize(
    "parameters",
    [
        ";rport",
        ";rport;x=1",
        ";x=1 ;rport ;y",
        ";rportx;rport",
        ";RPORT",
        ";rport=9",
        ";rport=",
        ";rport;",
        ';x=";rport";rport',
        ';x=";rport";RPORT',
        ';rport;x=";received=1"',
        ";received=1;rport",
        ";rport;received=1",
        ";maddr=1.2.3.4;rport;branch=z9hG4bKrport",
        "",
        ";x",
    ],
)
@pytest.mark.parametrize("further", ["", ", SIP/2.0/UDP other;rport;received=1.1.1.1"])
@pytest.mark.parametrize("received", ["192.0.2.1", "2001:db8::1", None])
def test_stamp_via_in_every_form(parameters: str, further: str, received: str | None) -> None:
    """However the topmost Via is written, it says the same afterwards, and is as `Via.stamped` has it (18.2.1)."""
    value = f"SIP/2.0/UDP h{parameters}"
    stamped = request(octets(Via=value + further))
    expected = stamped.via.stamped(received, 40000)
    stamped.stamp_via(received, 40000)
    assert stamped.via == expected
    assert stamped.via.text.replace(" ", "") == expected.text.replace(" ", "")
    again = request(stamped.to_bytes())
    assert again.via == expected
    assert again.headers.values("Via") == [stamped.via.text, *([further[2:]] if further else [])]


def test_request_of_our_own() -> None:
    """A request that is made is printed with a Content-Length, and parses to the same (7.1)."""
    made = Request("INVITE", SIPURI("sip:bob@biloxi.example.com"), ROWS.items(), b"body")
    again = request(made.to_bytes())
    assert (again.method, again.uri_text, again.body) == (made.method, made.uri_text, b"body")
    assert list(again.headers) == [*made.headers, ("Content-Length", "4")]


@pytest.mark.parametrize("uri", ["sip:a b", "sip:a\tb", "sip:a\x7f"])
def test_request_of_our_own_with_a_space_in_its_uri(uri: str) -> None:
    """A Request-URI holds no white space and no control character (7.1)."""
    with pytest.raises(ValueError):
        Request("INVITE", uri)


def test_headers_object_is_taken_as_it_is() -> None:
    """What was received can be given on without being checked a second time, escaped NUL and all (25.1)."""
    received = request(octets('Subject: "\\\0"')).headers
    assert Response(200, headers=received).headers is received
    assert isinstance(received, Headers)


def test_request_uri_over_its_bound() -> None:
    """A Request-URI that is longer than allowed is a fault for 414, and the request can be answered (21.4.12)."""
    uri = "sip:" + "x" * 100 + "@example.com"
    data = octets(start=f"INVITE {uri} SIP/2.0")
    assert isinstance(parse_message(data, max_uri=len(uri)), Request)
    with pytest.raises(MessageSyntaxError) as caught:
        parse_message(data, max_uri=len(uri) - 1)
    assert (caught.value.status, caught.value.reason) == (414, "The Request-URI is too long")
    assert caught.value.request is not None


def test_compact_names_out() -> None:
    """With compact names a message says the same in fewer octets (7.3.3)."""
    received = request(octets())
    response = received.response(302, contacts=["sip:bob@192.0.2.4"], headers=[("Subject", "x"), ("X-Other", "y")])
    compact = response.to_bytes("tag", compact=True)
    names = [line.partition(b": ")[0].decode() for line in compact.split(b"\r\n")[1:-2]]
    assert names == ["v", "f", "t", "i", "CSeq", "m", "s", "X-Other", "l"]
    assert parse_message(compact).headers == parse_message(response.to_bytes("tag")).headers
    assert request(received.to_bytes(compact=True)).headers == request(received.to_bytes()).headers


@pytest.mark.parametrize("given", [{"to_tag": "x\r\nEvil: 1"}, {"server": "x\r\nEvil: 1"}, {"server": "x\0"}])
def test_what_is_added_on_the_way_out_stays_in_its_line(given: dict[str, Any]) -> None:
    """Neither the To tag nor the Server header field can begin a line of its own (7.3.1)."""
    with pytest.raises(ValueError, match="must not contain CR, LF or NUL"):
        request(octets()).response(200).to_bytes(**given)


@pytest.mark.parametrize("end", ["", ";", " ; ", ";x=y;"])
def test_to_tag_behind_a_trailing_semicolon(end: str) -> None:
    """The To tag is a parameter of its own, also behind a semicolon that came with nothing after it (8.2.6.2)."""
    received = request(octets(To=f"<sip:bob@biloxi.example.com>{end}"))
    answered = parse_message(received.response(200).to_bytes("our-tag"))
    assert isinstance(answered, Response)
    assert NameAddr(answered.headers.get("To") or "").tag == "our-tag"
