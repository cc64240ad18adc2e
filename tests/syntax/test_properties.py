"""What holds for any bytes at all? Hypothesis looks for those for which it does not."""

from __future__ import annotations

import contextlib
import itertools
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.fields import NameAddr, Via
from twisted_sipuas.syntax.framing import StreamFramer
from twisted_sipuas.syntax.grammar import TOKEN, split_list
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import answerable_part, parse_message
from twisted_sipuas.syntax.uri import SIPURI, address_of_record, canonical_host, parse_uri

VALID = (
    b"INVITE sip:bob@example.com;user=phone SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP h:5060;branch=z9hG4bKx;rport, SIP/2.0/TCP [::1];received=192.0.2.1\r\n"
    b'From: "A, \\"B\\" <c>" <sip:a%41@b;lr?x=y>;tag=1\r\n'
    b"t: sip:bob@example.com;x=y\r\n"
    b"Call-ID: x@y\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"m: <sip:a@b>;q=0.5;expires=60, tel:+1-2;q=1\r\n"
    b"Content-Length: 4\r\n"
    b"\r\n"
    b"body"
)
NAMES = [
    "Via",
    "v",
    "From",
    "f",
    "To",
    "t",
    "Call-ID",
    "CSeq",
    "Contact",
    "m",
    "Content-Length",
    "l",
    "Route",
    "Subject",
]
PIECES = [
    *re.findall(rb"[A-Za-z0-9.%-]+|[^A-Za-z0-9.%-]", VALID),
    *(name.encode() for name in NAMES),
    b"\r\n",
    b"\r\n ",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\\\0",
    b"\\",
    b'"',
    b"<",
    b">",
    b"[",
    b"]",
    b":::",
    b"::",
    b"%",
    b"%00",
    b"%zz",
    b"\xff",
    "ü".encode(),
    "\u017f".encode(),
    b"SIP/2.0",
    b"sip/2.0",
    b"SIP/7.0",
    b"ACK",
    b"sips:",
    b"tel:",
    b"urn:",
    b"65536",
    b"0",
    b"-1",
    b"99999999999",
    b"*",
    b"@",
    b"\t",
    b" ",
    b";",
    b",",
    b"=",
    b"?",
]

pieces = st.sampled_from(PIECES)
rows = st.builds(lambda name, value: name.encode() + b": " + b"".join(value), st.sampled_from(NAMES), st.lists(pieces))


@st.composite
def nearly_valid(draw: st.DrawFn) -> bytes:
    """A valid message, some of whose octets were taken out and others put in."""
    data = VALID
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 8))
        data = data[:start] + b"".join(draw(st.lists(pieces, max_size=3))) + data[end:]
    return data


@st.composite
def with_other_values(draw: st.DrawFn) -> bytes:
    """The mandatory header fields of a message, some of their values made of pieces, and further rows."""
    head, _, body = VALID.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for _ in range(draw(st.integers(0, 3))):
        lines.insert(draw(st.integers(1, len(lines))), draw(rows))
    if draw(st.booleans()):
        position = draw(st.integers(0, len(lines) - 1))
        name, colon, _ = lines[position].partition(b": ")
        lines[position] = name + colon + b"".join(draw(st.lists(pieces)))
    if draw(st.booleans()):
        lines[0] = draw(st.sampled_from([b"SIP/2.0 200 ", b"SIP/2.0 486 "])) + b"".join(draw(st.lists(pieces)))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


anything = st.one_of(st.binary(), st.lists(pieces).map(b"".join), nearly_valid(), with_other_values())


def read(data: bytes) -> tuple[Request | Response | None, MessageSyntaxError | None]:
    """Return the message that *data* is, or why it is none."""
    try:
        return parse_message(data), None
    except MessageSyntaxError as error:
        return None, error


def read_everything(request: Request) -> None:
    """Ask for all that is parsed when first asked for; none of it raises anything but `MessageSyntaxError`."""
    with contextlib.suppress(MessageSyntaxError):
        uri = request.uri
        assert uri == parse_uri(str(uri))
        assert hash(uri) == hash(parse_uri(str(uri)))
        assert uri.equivalent(uri)
        assert not uri.equivalent(parse_uri("sip:nobody@nowhere.invalid;maddr=x"))
        address_of_record(uri)
        if isinstance(uri, SIPURI):
            canonical_host(uri.host)
    addresses: list[NameAddr] = [request.to]
    with contextlib.suppress(MessageSyntaxError):
        addresses.append(request.from_)
    with contextlib.suppress(MessageSyntaxError):
        addresses += request.contacts
        for contact in request.contacts:
            assert contact.q is None or 0 <= contact.q <= 1
            assert contact.expires is None or 0 <= contact.expires < 2**32
    for address in addresses:
        assert isinstance(address.display_name + repr(address) + str(address.tag), str)
        with contextlib.suppress(MessageSyntaxError):
            address_of_record(address.uri)
    for name, _ in request.headers:
        with contextlib.suppress(MessageSyntaxError):
            request.headers.values(name)


@given(anything)
@settings(max_examples=500)
@example(b"")
@example(VALID)
@example(VALID.replace(b"INVITE sip:bob@example.com;user=phone SIP/2.0", b'SIP/2.0 200 "\\\0"'))
def test_any_bytes_parse_or_raise_the_one_error(data: bytes) -> None:
    """Any bytes are a message or a `MessageSyntaxError`, whose request can be answered if there is one (7)."""
    message, fault = read(data)
    if fault is not None:
        assert fault.status in (400, 505)
        if fault.request is not None:
            fault.request.response(fault.status, fault.reason).to_bytes("tag")
    if message is not None:
        message.to_bytes()
        assert isinstance(message.headers.get("Call-ID"), str)
        if isinstance(message, Request):
            read_everything(message)
            assert message.cseq.method == message.method
            assert message.via.stamped("192.0.2.1", 5060).parameters["received"] == "192.0.2.1"
            assert message.via.sent_by
            message.response(200).to_bytes("tag")
    answerable_part(data)


@given(st.text(st.sampled_from('sipteu:;=?&@%41[]."<> ,\\\0\r\né\udcff')) | st.text())
@settings(max_examples=300)
def test_any_text_is_a_value_or_raises_the_one_error(text: str) -> None:
    """The same holds for a URI, an address and a list on their own, with whatever text (25.1)."""
    for parse in (parse_uri, NameAddr, split_list, lambda text: address_of_record(NameAddr(text).uri)):
        with contextlib.suppress(MessageSyntaxError):
            parse(text)


@given(anything)
@settings(max_examples=500)
def test_print_and_parse_again(data: bytes) -> None:
    """What was parsed and is printed parses to the same; only Content-Length is written anew (7, 20.14)."""
    message, _ = read(data)
    if message is None:
        return
    printed = message.to_bytes()
    again = parse_message(printed)
    assert type(again) is type(message)
    assert again.body == message.body
    assert [row for row in again.headers if row[0].lower() not in ("content-length", "l")] == [
        row for row in message.headers if row[0].lower() not in ("content-length", "l")
    ]
    assert again.headers.get_all("Content-Length") == [str(len(message.body))]
    if isinstance(message, Request):
        assert isinstance(again, Request)
        assert (again.method, again.uri_text) == (message.method, message.uri_text)
    else:
        assert isinstance(again, Response)
        assert (again.status, again.reason) == (message.status, message.reason)
    assert again.to_bytes() == printed


def framed(pieces: list[bytes]) -> list[object]:
    """Return the messages of a stream that comes in *pieces*, and at the end why it could not go on, if so."""
    framer = StreamFramer()
    found: list[object] = []
    for piece in pieces:
        framer.receive(piece)
        try:
            while (message := framer.next_message()) is not None:
                found.append(message)
        except MessageSyntaxError as error:
            return [*found, (error.status, error.reason)]
    return found


streams = st.lists(
    st.one_of(st.sampled_from([VALID, b"\r\n", b"\r\n\r\n", b"\r", b"\0", b"SIP/2.0 200 \r\nl: 0\r\n\r\n"]), anything)
).map(b"".join)


@given(streams, st.lists(st.integers(0, 600)))
@settings(max_examples=500)
def test_framing_does_not_depend_on_the_cuts(stream: bytes, cuts: list[int]) -> None:
    """However the bytes of a stream are cut, the messages and the reason to give up are the same (18.3)."""
    positions = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    cut = [stream[start:end] for start, end in itertools.pairwise(positions)]
    whole = framed([stream])
    assert framed(cut) == whole
    assert framed([stream[position : position + 1] for position in range(len(stream))]) == whole


@given(anything)
def test_framing_and_parsing_agree(data: bytes) -> None:
    """A message that was framed is all of it one message, or malformed: nothing hides behind its end (18.3)."""
    for message in framed([data]):
        if isinstance(message, bytes):
            found, _ = read(message)
            _, _, body = message.partition(b"\r\n\r\n")
            assert found is None or found.body == body


@given(anything)
@settings(max_examples=500)
def test_what_is_received_cannot_split_a_response(data: bytes) -> None:
    """A response has the rows that were copied and no others, and no NUL but in a quoted-string (8.2.6.2, 25.1)."""
    message, fault = read(data)
    request = message if fault is None else fault.request
    if not isinstance(request, Request):
        return
    reason = None if fault is None else fault.reason
    head, end, body = request.response(400, reason).to_bytes("tag").partition(b"\r\n\r\n")
    assert (end, body) == (b"\r\n\r\n", b"")
    names = [name for name in ("Via", "From", "To", "Call-ID", "CSeq") for _ in request.headers.get_all(name)]
    lines = head.split(b"\r\n")
    assert [line.partition(b": ")[0].decode() for line in lines[1:]] == [*names, "Content-Length"]
    for line in lines:
        assert b"\r" not in line
        assert b"\n" not in line
        assert b"\0" not in re.sub(rb'"(?:[^"\\\0]|\\.)*"', b"", line)


texts = st.text() | st.text(st.sampled_from("\r\n\0 :<>;,ab\x85\u2028"))


@given(reason=texts, name=texts, value=texts, contact=texts, content_type=texts)
@settings(max_examples=300)
def test_what_a_handler_says_cannot_split_a_response(
    reason: str, name: str, value: str, contact: str, content_type: str
) -> None:
    """CR, LF, NUL and a name that is no token are refused with `ValueError`; other text stays in its line (7.3.1)."""
    request = parse_message(VALID)
    assert isinstance(request, Request)
    text = reason + name + value + contact + content_type
    try:
        data = request.response(
            200, reason, headers=[(f"X{name}", value)], contacts=[contact], content_type=content_type
        ).to_bytes("tag")
    except ValueError:
        if not set("\r\n\0") & set(text) and TOKEN.fullmatch(f"X{name}"):
            raise
        return
    assert not set("\r\n\0") & set(text)
    lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    names = ["Via", "From", "To", "Call-ID", "CSeq", "Contact", f"X{name}", "Content-Type", "Content-Length"]
    assert lines[0] == b"SIP/2.0 200 " + reason.encode()
    for line, expected in zip(lines[1:], names, strict=True):
        assert line.startswith(f"{expected}: ".encode())
        assert not {b"\r"[0], b"\n"[0], 0} & set(line)


@given(st.text(), st.text(min_size=1), st.text())
def test_built_uris_hold_what_they_were_built_from(user: str, name: str, value: str) -> None:
    """A URI that is built has its components and no others, or is refused with `ValueError` (19.1.2)."""
    try:
        uri = SIPURI.build("example.com", user, parameters=[(name, value)])
    except ValueError as error:
        if isinstance(error, MessageSyntaxError):
            raise
        return
    again = parse_uri(str(uri))
    assert isinstance(again, SIPURI)
    assert again == uri
    assert address_of_record(again) == f"sip:{user}@example.com"
    assert (again.host, again.port, list(again.parameters), again.headers) == (
        "example.com",
        None,
        [name.lower()],
        None,
    )


STAMPED = st.lists(
    st.sampled_from([";rport", ";RPORT=5", ";received=192.0.2.1", " ; branch = x", ';q="a;rport"', ";x", ";ttl=1"]),
    max_size=6,
)


@given(STAMPED, st.none() | st.just("198.51.100.7"))
def test_stamped_via_is_what_it_would_be_parsed_to(parameters: list[str], received: str | None) -> None:
    """A Via that was stamped says the same as its text when that is parsed (18.2.1)."""
    try:
        via = Via("SIP/2.0/UDP example.com:5070" + "".join(parameters))
    except MessageSyntaxError:
        return
    stamped = via.stamped(received, 40000)
    parsed = Via(stamped.text)
    for name in ("transport", "host", "port", "parameters"):
        assert getattr(stamped, name) == getattr(parsed, name)
    assert stamped.parameters.get("received") == received
