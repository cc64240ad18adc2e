"""Does the time to parse grow with the length of the input, and not with its square?

Each test takes one part of the parser, and puts 16 kB and then 64 kB of each of many units (a character or a token,
again and again) into each of the places where it may come.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import time
from collections.abc import Callable

import pytest

from twisted_sipuas import syntax
from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.body import parse_body
from twisted_sipuas.syntax.fields import CSeq, NameAddr, Via
from twisted_sipuas.syntax.framing import StreamFramer
from twisted_sipuas.syntax.grammar import delta_seconds, parse_parameters, quote, split_list
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import answerable_part, parse_message
from twisted_sipuas.syntax.uri import address_of_record, parse_uri, unescape
from twisted_sipuas.syntax.values import HeaderValue

pytestmark = pytest.mark.no_cover  # the time that is measured is to be that of the parser

SMALL, LARGE = 16 * 1024, 64 * 1024
FACTOR = 8
"""How many times as long the larger input may take: it is 4 for linear time and 16 for quadratic time."""

TOO_SHORT = 0.001
"""Seconds that tell nothing, and that nobody minds."""

CHARACTERS = [*'a0 \t"\\<>,;=:@%?&.-[/+', "\0", "\r", "\n"]
TOKENS = [
    *("\r\n", "\r\n ", "\r\n \t", " \r\n", "\r\nX: y", "\r\nX", "\r\n\r\n", "\r\nVia: SIP/2.0/UDP h", "\r\nl: 1"),
    *(",a", " ,", "0,", ";a", ";a=b", "; ", " ;", ";=", ';a="', ';a="b"', "&a=b", "a b", "/ ", " /", "a@", "a.", "::"),
    *('""', '" "', '"a" ', '",', '\\"', '"\\', "\\\\", "\\\0", '"\0', '"\\\0', '"<', "<>", "<a>,", "<,", ">,", "a <"),
    *('"a"<b>,', "<sip:a@b>;q=1,", "SIP/2.0/UDP h,", "%41", "%2", "sip:"),
]
UNITS = [unit.encode() for unit in (*CHARACTERS, *TOKENS)] + [b"\xff", b"\xc3"]

MESSAGE = (
    b"INVITE sip:bob@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP h:5060;branch=z9hG4bKx;rport\r\n"
    b"From: <sip:alice@example.com>;tag=1\r\n"
    b"To: <sip:bob@example.com>\r\n"
    b"Call-ID: x@y\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.1>\r\n"
    b"Content-Length: 0\r\n"
    b"\r\n"
)
ADDRESSES = [
    *("#", '"#', '"#"', '"#" <sip:a@b>', '"\\#" <sip:a@b>', "# <sip:a@b>", "<#", "<#>", "<sip:#>", "<sip:#@b>"),
    *("<sip:a@#>", "<sip:a@b;#>", "<sip:a@b;c=#>", "<sip:a@b?#>", "<tel:#>", "<x:#>", "sip:#", "sip:a@b#", "sip:a@b;#"),
    *(
        "<sip:a@b>#",
        "<sip:a@b> #",
        "<sip:a@b>;#",
        "<sip:a@b>;c=#",
        '<sip:a@b>;c="#"',
        '<sip:a@b>;c="#',
        "<sip:a@b>;tag=#",
    ),
]
VIAS = [
    *("#", "SIP/2.0/UDP #", "SIP#/2.0/UDP h", "SIP/#2.0/UDP h", "SIP/2.0/#UDP h", "SIP/2.0/UDP h#", "SIP/2.0/UDP [#]"),
    *("SIP/2.0/UDP h:#", "SIP/2.0/UDP h;#", "SIP/2.0/UDP h;branch=#", 'SIP/2.0/UDP h;x="#"', "SIP/2.0/UDP h;rport#"),
    *("SIP/2.0/UDP h, #", "SIP/2.0/UDP h;x=y#, SIP/2.0/UDP h", "SIP/2.0/UDP h #"),
]
URIS = [
    *(
        "#",
        "sip:#",
        "sip:#@b",
        "sip:a:#@b",
        "sip:a@#",
        "sip:a@b:#",
        "sip:a@[#]",
        "sip:a@b;#",
        "sip:a@b;c=#",
        "sip:a@b?#",
    ),
    *("sip:a@b;c?#", "sip:a#", "sips:#", "tel:#", "tel:+1#", "tel:+1;#", "x:#", "x#"),
]
LISTS = ["#", "a#", "#a", '"#"', '"#', "<#>", "<#", "a,#", "#,a"]


def line(name: str, value: str) -> bytes:
    """Return `MESSAGE` with *value* in the place of that of the header field *name*."""
    before, colon, after = MESSAGE.partition(f"\r\n{name}: ".encode())
    return before + colon + value.encode() + b"\r\n" + after.partition(b"\r\n")[2]


def first_line(text: str) -> bytes:
    """Return `MESSAGE` with *text* for its start line."""
    return text.encode() + b"\r\n" + MESSAGE.partition(b"\r\n")[2]


MESSAGES = {
    "all of it": [b"#", MESSAGE + b"#", b"#" + MESSAGE],
    "start line": list(map(first_line, ["#", "#INVITE sip:a SIP/2.0", "INVITE sip:a #", "SIP/2.0 200 #", "SIP/#"])),
    "Request-URI": [first_line(f"INVITE {uri} SIP/2.0") for uri in URIS],
    "header lines": [MESSAGE[:-2] + row + b"\r\n\r\n" for row in (b"#", b"X#: y", b"X: #", b"#: y", b"X: y\r\n#")],
    "Via": [line("Via", value) for value in ["#", "SIP/2.0/UDP h;branch=x#", "SIP/2.0/UDP h, #"]],
    "From": [line("From", value) for value in ["#", '"#" <sip:a@b>', "<sip:a@b>;x=y#"]],
    "To": [line("To", value) for value in ["#", '"#" <sip:a@b>', "<sip:a@b>;x=y#"]],
    "Contact": [line("Contact", value) for value in ["#", "<sip:a@b>;x=y#", "<sip:a@b>, #"]],
    "other mandatory fields": [
        *(line("Call-ID", value) for value in ["#", "x@#"]),
        *(line("CSeq", value) for value in ["#", "1#", "1 #", "#1 INVITE", "1 #INVITE"]),
        *(line("Content-Length", value) for value in ["#", "0#", "#0", "0, #"]),
    ],
    "credentials": [
        MESSAGE[:-2] + b"Authorization: " + text + b"\r\n\r\n" for text in (b"#", b"Digest #", b'Digest a="#"')
    ],
}


def seconds(run: Callable[[bytes], object], data: bytes) -> float:
    """Return how long this thread computes to *run* with *data*."""
    start = time.thread_time()
    run(data)
    return time.thread_time() - start


def check(run: Callable[[bytes], object], template: bytes, units: list[bytes] = UNITS) -> None:
    """Fail if *run* takes more than linear time for *template* with many times a unit in the place of its ``#``."""
    before, _, after = template.partition(b"#")
    for unit in units:
        small = before + unit * (SMALL // len(unit)) + after
        large = before + unit * (LARGE // len(unit)) + after
        best_small = best_large = float("inf")
        for _ in range(5):  # what else the machine does only ever makes it slower
            best_large = min(best_large, seconds(run, large))
            if best_large < TOO_SHORT:
                break
            best_small = min(best_small, seconds(run, small))
            if best_large < FACTOR * best_small:
                break
        else:
            times = f"{best_small * 1000:.1f} ms for 16 kB and {best_large * 1000:.1f} ms for 64 kB"
            pytest.fail(f"{times} of {unit!r} in {template!r}")


def read(data: bytes) -> None:
    """Parse the message *data*, all that is parsed when first asked for, and what answers it."""
    try:
        message = parse_message(data)
    except MessageSyntaxError as fault:
        if fault.request is not None:
            fault.request.response(fault.status, fault.reason).to_bytes("tag")
        return
    message.to_bytes()
    for name in dict.fromkeys(name for name, _ in message.headers):
        with contextlib.suppress(MessageSyntaxError):
            message.headers.values(name)
    if isinstance(message, Request):
        read_lazily_parsed(message)
        message.response(200).to_bytes("tag")
        message.via.stamped("192.0.2.1", 5060)


def read_lazily_parsed(request: Request) -> None:
    with contextlib.suppress(MessageSyntaxError):
        read_uri(str(request.uri))
    addresses: list[NameAddr] = [request.to]
    with contextlib.suppress(MessageSyntaxError):
        addresses.append(request.from_)
    with contextlib.suppress(MessageSyntaxError):
        addresses += request.contacts
    for address in addresses:
        repr(address), address.display_name
        with contextlib.suppress(MessageSyntaxError):
            address_of_record(address.uri)


def read_uri(text: str) -> None:
    uri, again = parse_uri(text), parse_uri(text)
    assert uri == again
    assert uri.equivalent(again)
    assert hash(uri) == hash(again)
    address_of_record(uri)


def with_text(parse: Callable[[str], object]) -> Callable[[bytes], None]:
    """Return what calls *parse* with the text of its argument, and takes `MessageSyntaxError` for an answer."""

    def run(data: bytes) -> None:
        with contextlib.suppress(MessageSyntaxError):
            parse(data.decode("utf-8", "surrogateescape"))

    return run


@pytest.mark.parametrize("place", MESSAGES)
def test_messages(place: str) -> None:
    """A message is parsed, answered and printed in linear time, whatever is in whichever place (7)."""
    for template in MESSAGES[place]:
        check(read, template)


def test_refusals() -> None:
    """So is what can be read of a message that is cut off (21.4.1)."""
    for template in (b"#", MESSAGE[:-4] + b"#", line("Via", "#")[:-4]):
        check(answerable_part, template)


@pytest.mark.parametrize(
    ("parse", "templates"),
    [
        (read_uri, URIS),
        (NameAddr, ADDRESSES),
        (Via, VIAS),
        (split_list, LISTS),
        (parse_parameters, ["#", ";#", ";a=#", ';a="#', ';a="#"', ";a #", ";a=b;#"]),
        (CSeq, ["#", "1#", "1 #"]),
        (delta_seconds, ["#", "0#"]),
        (unescape, ["#"]),
        (quote, ["#"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values(parse: Callable[[str], object], templates: list[str]) -> None:
    """The values of header fields, each on its own, are parsed in linear time (20, 25)."""
    for template in templates:
        check(with_text(parse), template.encode())


def kinds_of_values(base: type[HeaderValue] = HeaderValue) -> list[type[HeaderValue]]:
    """Return all the classes of typed header field values."""
    for module in pkgutil.iter_modules(syntax.__path__, "twisted_sipuas.syntax."):
        importlib.import_module(module.name)
    kinds = {kind for child in base.__subclasses__() for kind in (child, *kinds_of_values(child))}
    return sorted((kind for kind in kinds if hasattr(kind, "field")), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", kinds_of_values(), ids=lambda kind: kind.__name__)
def test_typed_values(kind: type[HeaderValue]) -> None:
    """So are those that have a class of their own, which are also printed and hashed in linear time (20, 25)."""

    def parse(text: str) -> None:
        value = kind.parse(text)
        str(value), hash(value)

    for template in (b"#", b"a#", b"1#", b"a/b;c=#", b'a="#"', b"a;b#;c", b"Digest a=b, #", b'399 h "#"'):
        check(with_text(parse), template)


def framed(size: int) -> Callable[[bytes], None]:
    """Return what frames its argument in pieces of *size* octets."""

    def run(data: bytes) -> None:
        framer = StreamFramer(max_header=4 * LARGE, max_message=4 * LARGE)
        with contextlib.suppress(MessageSyntaxError):
            for start in range(0, len(data), size):
                framer.receive(data[start : start + size])
                while framer.next_message() is not None:
                    pass

    return run


@pytest.mark.parametrize("size", [8 * LARGE, 1000, 16])
def test_framing(size: int) -> None:
    """A stream is framed in linear time, fed whole or in pieces (18.3)."""
    short = b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"
    with_body = line("Content-Length", str(LARGE))
    units = [*UNITS, short, MESSAGE, b"\r\n" + short, b"\r\n\r\n" + short]
    for template in (b"#", MESSAGE + b"#", MESSAGE[:-4] + b"#", MESSAGE[:-4] + b"\r\nX: #\r\n\r\n", with_body + b"#"):
        check(framed(size), template, units)


@pytest.mark.parametrize(
    "content_type",
    ["multipart/mixed;boundary=b", "multipart/mixed;boundary=--", 'multipart/mixed;boundary="b b"'],
)
def test_bodies(content_type: str) -> None:
    """A body is taken apart in linear time, whatever is in whichever place (8.2.3)."""
    headers = Headers([("Content-Type", content_type)])

    def run(data: bytes) -> None:
        with contextlib.suppress(MessageSyntaxError):
            parse_body(headers, data)

    nested = b"--b\r\nContent-Type: multipart/mixed;boundary=b\r\n\r\n"
    units = [*UNITS, b"\r\n--b", b"\r\n--b\r\n", b"--b--", b"\r\n--b ", b"\r\n--b--", b"\r\n----", b"\r\n--b b", nested]
    last = b"\r\n--b--"
    for template in (
        b"#",
        b"--b\r\n#",
        b"--b#",
        b"--b\r\n\r\n#" + last,
        b"--b\r\nX: #\r\n\r\n" + last,
        nested * 7 + b"#",
    ):
        check(run, template, units)


def test_header_fields_of_bodies() -> None:
    """So are the header fields that say what the body is (20.11, 20.15)."""

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape").translate({0: None, 10: None, 13: None})
        for name in ("Content-Type", "Content-Disposition"):
            with contextlib.suppress(MessageSyntaxError):
                parse_body(Headers([(name, text)]), b"--b\r\n\r\nx\r\n--b--")

    for template in (
        b"#",
        b"a#b/c",
        b"a/#b",
        b"multipart/#",
        b"multipart/mixed#",
        b"multipart/mixed;#",
        b'multipart/mixed;boundary="#"',
    ):
        check(run, template)
