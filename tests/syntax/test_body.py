"""Are the parts of a body found, octet for octet, and is a body that has none of what it promises refused?"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.body import MAX_DEPTH, MAX_PARTS, BodyPart, parse_body
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.parsing import parse_message

TORTURE = Path(__file__).parents[1] / "data" / "torture"

OFFER = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n"


def parsed(content_type: str | None, body: bytes, disposition: str | None = None) -> BodyPart:
    """Return *body* as one that came with these header fields."""
    rows = [("Content-Type", content_type), ("Content-Disposition", disposition)]
    return parse_body(Headers((name, value) for name, value in rows if value is not None), body)


def multipart(*parts: bytes, boundary: str = "b") -> bytes:
    """Return the multipart body of *parts*, each with its own header section."""
    delimiter = f"--{boundary}".encode()
    return b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"


def part(content_type: str, content: bytes, *lines: str) -> bytes:
    """Return a part with this content, and *lines* in its header section besides Content-Type."""
    return "\r\n".join([f"Content-Type: {content_type}", *lines, "", ""]).encode() + content


def nested(depth: int) -> bytes:
    """Return a body with *depth* multiparts one inside the other, around one text."""
    body = b"text"
    for level in range(depth):
        content_type = "text/plain" if level == 0 else f"multipart/mixed;boundary=b{level - 1}"
        body = multipart(part(content_type, body), boundary=f"b{level}")
    return body


@pytest.mark.parametrize(
    "content_type", ["Application/SDP", "application/sdp ; x=y", "application / sdp", "application/sdp;;"]
)
def test_a_body_that_is_no_multipart_is_one_part(content_type: str) -> None:
    """Its media type is compared without regard to case and parameters (7.4.1)."""
    body = parsed(content_type, OFFER)
    assert (body.content_type, body.content, body.parts) == ("application/sdp", OFFER, ())
    assert list(body.leaves()) == [body]


def test_a_body_without_content_type() -> None:
    """A body without Content-Type is of no type that anybody could understand (20.15)."""
    assert parsed(None, OFFER).content_type == ""


@pytest.mark.parametrize("subtype", ["mixed", "alternative", "related", "signed", "nobody-knows-this"])
def test_a_multipart_of_any_subtype_is_walked(subtype: str) -> None:
    """An unknown subtype of multipart is treated as multipart/mixed (RFC 2046, 5.1.7)."""
    body = parsed(
        f"Multipart/{subtype.title()}; boundary=b",
        multipart(part("text/plain", b"hello"), part("application/SDP", OFFER, "Content-ID: <1@x>")),
    )
    assert body.content_type == f"multipart/{subtype}"
    assert [(inner.content_type, inner.content) for inner in body.parts] == [
        ("text/plain", b"hello"),
        ("application/sdp", OFFER),
    ]
    assert body.parts[1].headers.get("content-id") == "<1@x>"


def test_torture_multipart() -> None:
    """The binary signature of RFC 4475's mpart01, with bare LFs and all, comes out octet for octet (3.1.1.11)."""
    data = (TORTURE / "rfc4475" / "mpart01.dat").read_bytes()
    message = parse_message(data)
    text, signature = parse_body(message.headers, message.body).parts
    assert (text.content_type, text.content) == ("text/plain", b"Hello")
    assert (signature.content_type, len(signature.content)) == ("application/octet-stream", 342)
    assert signature.content in data


@given(st.lists(st.binary() | st.text(st.sampled_from("\r\n-b\0 \t")).map(str.encode), min_size=1, max_size=5))
def test_content_comes_out_octet_for_octet(contents: list[bytes]) -> None:
    """Any octets but the delimiter itself are content: NUL, bare CR, bare LF, dashes (RFC 2046, 5.1.1)."""
    boundary = "the boundary that is in none of them"
    body = parsed(
        f'multipart/mixed;boundary="{boundary}"',
        multipart(*(part("application/x", content) for content in contents), boundary=boundary),
    )
    assert [inner.content for inner in body.parts] == contents


@pytest.mark.parametrize(
    "line", [b"\n--b\n", b"\r--b\r", b"x--b\r\n", b"\r\n--bb\r\n", b"\r\n--b x\r\n", b"\r\n--b-\r\n"]
)
def test_what_is_no_delimiter_is_content(line: bytes) -> None:
    """A delimiter is a whole line between CRLFs (RFC 2046, 5.1.1)."""
    content = b"x" + line + b"y"
    (inner,) = parsed("multipart/mixed;boundary=b", multipart(part("text/plain", content))).parts
    assert inner.content == content


def test_preamble_epilogue_and_padding_are_no_parts() -> None:
    """What is before the first delimiter and after the last is ignored, so is white space at the end of one (5.1.1)."""
    octets = b"preamble\r\n--b \t\r\n\r\nx\r\n--b-- \r\nepilogue\r\n--b\r\n\r\ny\r\n--b--"
    (inner,) = parsed("multipart/mixed;boundary=b", octets).parts
    assert inner.content == b"x"


def test_the_last_delimiter_may_end_the_body() -> None:
    """The closing delimiter needs no CRLF behind it (RFC 2046, 5.1.1)."""
    (inner,) = parsed("multipart/mixed;boundary=b", b"--b\r\n\r\nx\r\n--b--").parts
    assert inner.content == b"x"


@pytest.mark.parametrize(
    ("octets", "headers", "content"),
    [
        (b"", 0, b""),
        (b"\r\n", 0, b""),
        (b"\r\n\r\nx", 0, b"\r\nx"),
        (b"c: text/plain\r\n", 1, b""),
        (b"c: text/plain\r\n\r\n", 1, b""),
        (b"c: text/plain\r\nX: a\r\n\tb\r\n\r\nx", 2, b"x"),
    ],
)
def test_the_header_section_of_a_part(octets: bytes, headers: int, content: bytes) -> None:
    """A part may have no header section, and no content; header lines are folded as elsewhere (RFC 2046, 5.1)."""
    (inner,) = parsed("multipart/mixed;boundary=b", multipart(octets)).parts
    assert (inner.content_type, len(inner.headers), inner.content) == ("text/plain", headers, content)


def test_the_default_type_of_a_part() -> None:
    """A part that names no type is text, in multipart/digest a message (RFC 2046, 5.1 and 5.1.5)."""
    (text,) = parsed("multipart/mixed;boundary=b", multipart(b"\r\nx")).parts
    (message,) = parsed("multipart/digest;boundary=b", multipart(b"\r\nx")).parts
    assert (text.content_type, message.content_type) == ("text/plain", "message/rfc822")


@pytest.mark.parametrize(
    ("boundary", "meant"),
    [("b", "b"), ('"b c"', "b c"), (r'"b\c"', "bc"), ("b=/:?", "b=/:?"), ("b--", "b--"), (f"{'b' * 70}", "b" * 70)],
)
def test_boundary(boundary: str, meant: str) -> None:
    """A boundary may be quoted, and may end in what marks the last delimiter (RFC 2046, 5.1.1)."""
    body = parsed(f"multipart/mixed; x=y; BOUNDARY={boundary}", multipart(b"\r\nx", b"\r\ny", boundary=meant))
    assert [inner.content for inner in body.parts] == [b"x", b"y"]


@pytest.mark.parametrize(
    "parameters", ["", ";boundary", ";boundary=", ';boundary=""', ';boundary="b "', f";boundary={'b' * 71}", ";;", ";="]
)
def test_malformed_boundary(parameters: str) -> None:
    """A multipart without a boundary that can be one is refused (RFC 2046, 5.1.1)."""
    with pytest.raises(MessageSyntaxError, match=r"Malformed (boundary in the )?Content-Type header field"):
        parsed(f"multipart/mixed{parameters}", multipart(b"\r\nx"))


@pytest.mark.parametrize("octets", [b"", b"x", b"--bb\r\n\r\nx", b"--b--", b"\n--b\n\nx\n--b--\n"])
def test_what_is_no_multipart(octets: bytes) -> None:
    """A multipart has at least one part, behind its boundary (RFC 2046, 5.1.1)."""
    with pytest.raises(MessageSyntaxError, match="Malformed multipart body"):
        parsed("multipart/mixed;boundary=b", octets)


@pytest.mark.parametrize(
    "octets", [b"x\r\n\r\n", b"x y: z\r\n\r\n", b"x: y\nz: \r\n\r\n", b"x: \0\r\n\r\n", b"x: \r\r\n\r\n"]
)
def test_malformed_header_section(octets: bytes) -> None:
    """A part begins with header lines or with an empty line (RFC 2046, 5.1)."""
    with pytest.raises(MessageSyntaxError, match="Malformed header section in a multipart body"):
        parsed("multipart/mixed;boundary=b", multipart(octets))


def test_nested_multiparts() -> None:
    """A part may be a multipart, whose boundary may begin with that of the outer one (RFC 2046, 5.1.2)."""
    inner = multipart(part("text/html", b"<p>"), part("text/plain", b"p"), boundary="bb")
    octets = multipart(part("multipart/alternative;boundary=bb", inner), part("application/sdp", OFFER))
    body = parsed("multipart/mixed;boundary=b", octets)
    assert [leaf.content_type for leaf in body.leaves()] == ["text/html", "text/plain", "application/sdp"]
    assert [part.content_type for part in body.parts] == ["multipart/alternative", "application/sdp"]


def test_the_depth_is_bounded() -> None:
    """So many multiparts may be one inside the other, and no more."""
    (leaf,) = parsed(f"multipart/mixed;boundary=b{MAX_DEPTH - 1}", nested(MAX_DEPTH)).leaves()
    assert leaf.content == b"text"
    with pytest.raises(MessageSyntaxError, match="nested too deeply") as caught:
        parsed(f"multipart/mixed;boundary=b{MAX_DEPTH}", nested(MAX_DEPTH + 1))
    assert caught.value.status == 413


def test_the_number_of_parts_is_bounded() -> None:
    """So many parts may a body have, at whatever depth, and no more."""
    inner = part("multipart/mixed;boundary=i", multipart(*[b""] * 49, boundary="i"))
    assert len(list(parsed("multipart/mixed;boundary=b", multipart(inner, inner)).leaves())) == MAX_PARTS - 2
    with pytest.raises(MessageSyntaxError, match="too many parts") as caught:
        parsed("multipart/mixed;boundary=b", multipart(inner, inner, b""))
    assert caught.value.status == 413


@pytest.mark.requirement("8.2.3-5")
@pytest.mark.parametrize(
    ("disposition", "is_optional"),
    [
        ("render;handling=optional", True),
        ("attachment; x=y ; Handling = OPTIONAL", True),
        ("render", False),
        ("render;handling=required", False),
        ("render;handling", False),
        ("render;handling=optional;;", False),
        ('render;x=";handling=optional"', False),
        (None, False),
    ],
)
def test_handling(disposition: str | None, is_optional: bool) -> None:
    """A body or a part may be ignored only if it says so (20.11)."""
    assert parsed("text/plain", b"x", disposition).is_optional is is_optional
    lines = [] if disposition is None else [f"Content-Disposition: {disposition}"]
    (inner,) = parsed("multipart/mixed;boundary=b", multipart(part("text/plain", b"x", *lines))).parts
    assert inner.is_optional is is_optional


def test_a_malformed_part_that_may_be_ignored_is_ignored() -> None:
    """A fault in what nobody needs is no fault of the body (8.2.2, 20.11)."""
    malformed = part("multipart/mixed", b"x", "Content-Disposition: render;handling=optional")
    ignored, offer = parsed("multipart/mixed;boundary=b", multipart(malformed, part("application/sdp", OFFER))).parts
    assert (ignored.is_optional, ignored.parts, ignored.content) == (True, (), b"x")
    assert offer.content == OFFER


def test_an_encoded_multipart_is_not_walked() -> None:
    """Where Content-Encoding says that the octets are something else, they are not looked into (20.12)."""
    rows = [("Content-Type", "multipart/mixed;boundary=b"), ("e", "gzip")]
    assert parse_body(Headers(rows), b"\x1f\x8b").parts == ()
    assert parse_body(Headers([rows[0], ("e", "Identity")]), multipart(b"")).parts


@given(st.lists(st.sampled_from([b"--", b"b", b"i", b"\r\n", b"\n", b" ", b"c:", b"multipart/x;boundary=i", b"x"])))
def test_any_bytes_are_a_body_or_raise_the_one_error(pieces: list[bytes]) -> None:
    """Any bytes are a multipart body or a `MessageSyntaxError`; all of a part is in the body (RFC 2046, 5.1)."""
    octets = b"".join(pieces)
    try:
        body = parsed("multipart/mixed;boundary=b", octets)
    except MessageSyntaxError:
        return
    assert body.parts
    assert all(leaf.content in octets for leaf in body.leaves())


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\n--", b"\r\n--c"])
def test_last_delimiter_is_missing(end: bytes) -> None:
    """A part that nothing closes goes to the end of the body: some senders forget the last one (RFC 2046, 5.1.1)."""
    headers = Headers([("Content-Type", "multipart/mixed;boundary=b")])
    body = parse_body(headers, b"--b\r\nContent-Type: a/b\r\n\r\none\r\n--b\r\nContent-Type: c/d\r\n\r\ntwo" + end)
    assert [(part.content_type, part.content) for part in body.parts] == [("a/b", b"one"), ("c/d", b"two" + end)]
