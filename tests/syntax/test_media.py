"""What is a body, and what bodies does a peer take?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.media import (
    Accept,
    AcceptEncoding,
    AcceptLanguage,
    ContentDisposition,
    ContentEncoding,
    ContentType,
)
from twisted_sipuas.syntax.values import HeaderValue

# text: the value, and its canonical form
VALUES = {
    "application/sdp": (ContentType("application", "sdp"), "application/sdp"),
    "Text / HTML ; Charset = ISO-8859-4": (
        ContentType("text", "html", {"charset": "ISO-8859-4"}),
        "text/html;charset=ISO-8859-4",
    ),
    'multipart/mixed;boundary="a;b=\\"c\\", d"': (
        ContentType("multipart", "mixed", {"boundary": 'a;b="c", d'}),
        'multipart/mixed;boundary="a;b=\\"c\\", d"',
    ),
    "multipart/mixed;boundary=a=b?c": (
        ContentType("multipart", "mixed", {"boundary": "a=b?c"}),
        'multipart/mixed;boundary="a=b?c"',
    ),
    'text/plain;x=""': (ContentType("text", "plain", {"x": ""}), 'text/plain;x=""'),
    "*/*": (Accept(), "*/*"),
    "text/*": (Accept("text"), "text/*"),
    "application/x-private;level=1;Q=0.70;y": (
        Accept("application", "x-private", {"level": "1", "y": None}, 0.7),
        "application/x-private;level=1;y;q=0.7",
    ),
    "text/html;q=0": (Accept("text", "html", q=0), "text/html;q=0"),
    "text/html;q=1.000": (Accept("text", "html"), "text/html"),
    "GZIP": (AcceptEncoding("gzip"), "gzip"),
    "* ; q = 0. ;x=y": (AcceptEncoding("*", 0, {"x": "y"}), "*;q=0;x=y"),
    "en-GB;q=0.8": (AcceptLanguage("en-gb", 0.8), "en-gb;q=0.8"),
    "es-419": (AcceptLanguage("es-419"), "es-419"),
    "Tar": (ContentEncoding("tar"), "tar"),
    "session": (ContentDisposition("session"), "session"),
    "Render; Handling=Optional": (ContentDisposition("render", "optional"), "render;handling=optional"),
    'attachment;filename="a b";handling=x;y': (
        ContentDisposition("attachment", "x", {"filename": "a b", "y": None}),
        'attachment;handling=x;filename="a b";y',
    ),
}

FAULTS = {
    "type: empty": (ContentType, ""),
    "type: no subtype": (ContentType, "text"),
    "type: empty subtype": (ContentType, "text/"),
    "type: two slashes": (ContentType, "text/a/b"),
    "type: two values": (ContentType, "text/plain, text/html"),
    "type: parameter without a value": (ContentType, "text/plain;charset"),
    "type: parameter twice": (ContentType, "text/plain;a=b;A=b"),
    "type: unterminated quote": (ContentType, 'text/plain;a="b'),
    "type: NUL in quotes": (ContentType, 'text/plain;a="\\\0"'),
    "accept: subtype of all types": (Accept, "*/html"),
    "accept: no subtype": (Accept, "*"),
    "accept: q without a value": (Accept, "*/*;q"),
    "accept: q above 1": (Accept, "*/*;q=1.001"),
    "accept: q below 0": (Accept, "*/*;q=-1"),
    "accept: four decimal places": (Accept, "*/*;q=0.1234"),
    "accept: q without a zero": (Accept, "*/*;q=.5"),
    "accept: q no number": (Accept, "*/*;q=high"),
    "accept: digits of another script": (Accept, "*/*;q=\u0660"),
    "encoding: space": (AcceptEncoding, "g zip"),
    "encoding: q": (AcceptEncoding, "gzip;q=2"),
    "language: subtag of nine letters": (AcceptLanguage, "languages"),
    "language: empty subtag": (AcceptLanguage, "en-"),
    "language: digits first": (AcceptLanguage, "1-en"),
    "language: q": (AcceptLanguage, "en;q=x"),
    "coding: parameter": (ContentEncoding, "gzip;x"),
    "disposition: empty": (ContentDisposition, ""),
    "disposition: handling without a value": (ContentDisposition, "render;handling"),
    "disposition: handling empty": (ContentDisposition, 'render;handling=""'),
    "disposition: handling twice": (ContentDisposition, "render;handling=optional;handling=required"),
}

MISUSE = {
    "space": lambda: ContentType("text", "pl ain"),
    "line break": lambda: ContentType("text", "plain", {"x": "a\r\nEvil: y"}),
    "NUL": lambda: ContentDisposition("render", None, {"x": "\0"}),
    "line break in a name": lambda: ContentDisposition("render", None, {"x\n": "y"}),
    "name in two cases": lambda: ContentType("text", "plain", {"x": "a", "X": "a"}),
    "no value": lambda: ContentType("text", "plain", {"x": None}),
    "q as a parameter": lambda: Accept("text", "plain", {"Q": "1"}),
    "handling as a parameter": lambda: ContentDisposition("render", None, {"handling": "optional"}),
    "q above 1": lambda: AcceptEncoding("gzip", 1.1),
    "q no number": lambda: AcceptLanguage("en", float("nan")),
    "language": lambda: AcceptLanguage("en_GB"),
    "coding": lambda: ContentEncoding(""),
}

KINDS = [Accept, AcceptEncoding, AcceptLanguage, ContentDisposition, ContentEncoding, ContentType]

tokens = st.from_regex(TOKEN, fullmatch=True)
plain = st.text().filter(lambda text: not set("\r\n\0") & set(text))


def parameters(values: st.SearchStrategy[str | None], *reserved: str) -> st.SearchStrategy[dict[str, str | None]]:
    """Parameters that a constructor takes: names that are the same in lower case are one name."""
    return st.dictionaries(tokens.map(str.lower).filter(lambda name: name not in reserved), values, max_size=3)


flags = plain | st.none()
qs = st.floats(0, 1)
languages = st.from_regex(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,2}", fullmatch=True)
values = st.one_of(
    st.builds(ContentType, tokens, tokens, parameters(plain)),
    st.builds(Accept, tokens.filter(lambda name: name != "*"), tokens, parameters(flags, "q"), qs),
    st.builds(AcceptEncoding, tokens, qs, parameters(flags, "q")),
    st.builds(AcceptLanguage, languages, qs, parameters(flags, "q")),
    st.builds(ContentEncoding, tokens),
    st.builds(ContentDisposition, tokens, st.none() | tokens, parameters(flags, "handling")),
)


@pytest.mark.parametrize(("text", "value", "canonical"), [(k, *v) for k, v in VALUES.items()], ids=VALUES.keys())
def test_values(text: str, value: HeaderValue, canonical: str) -> None:
    """A value is taken apart, with white space where 25.1 allows it, and printed in one form (20.1 to 20.15)."""
    parsed = type(value).parse(text)
    assert parsed == value
    assert hash(parsed) == hash(value)
    assert str(parsed) == canonical
    assert type(value).parse(canonical) == value


@pytest.mark.parametrize(("kind", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_faults(kind: type[HeaderValue], text: str) -> None:
    """What the grammar does not allow is the peer's fault, and the reason names the header field (25.1, 21.4.1)."""
    with pytest.raises(MessageSyntaxError, match=f"^Malformed {kind.field} header field$"):
        kind.parse(text)


def test_components() -> None:
    """Types and names are in lower case, values are plain text (7.3.1, 20.15)."""
    value = ContentType.parse('Multipart/MIXED;Boundary="a \\"b\\""')
    assert (value.type, value.subtype, value.media_type) == ("multipart", "mixed", "multipart/mixed")
    assert value.parameters == {"boundary": 'a "b"'}
    assert repr(ContentType("text", "plain")) == "<ContentType 'text/plain'>"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (ContentType("TEXT", "Plain"), ContentType("text", "plain"), True),
        (ContentType("a", "b", {"x": "y", "z": ""}), ContentType("a", "b", {"Z": "", "X": "y"}), True),
        (ContentType("a", "b", {"x": "y"}), ContentType("a", "b", {"x": "Y"}), False),
        (ContentType("a", "b"), ContentType("a", "b", {"x": "y"}), False),
        (ContentEncoding("gzip"), AcceptEncoding("gzip"), False),
        (ContentEncoding("gzip"), "gzip", False),
    ],
)
def test_equality(one: object, other: object, equal: bool) -> None:
    """Types have no case and parameters no order, but a boundary has its case (7.3.1, 20.15)."""
    assert (one == other) is equal
    assert (len({one, other}) == 1) is equal


@pytest.mark.parametrize(
    ("accept", "content_type", "included"),
    [
        ("*/*", "text/plain", True),
        ("text/*", "TEXT/plain;charset=utf-8", True),
        ("text/*", "image/png", False),
        ("text/html;level=1;q=0.5", "text/html;x=y;level=1", True),
        ("text/html;level=1", "text/html", False),
        ("text/html", "text/plain", False),
    ],
)
def test_media_range(accept: str, content_type: str, included: bool) -> None:
    """A range includes the types that its stars stand for, and that have its parameters (20.1)."""
    assert Accept.parse(accept).includes(ContentType.parse(content_type)) is included


@pytest.mark.parametrize("misuse", MISUSE.values(), ids=MISUSE.keys())
def test_misuse(misuse: Callable[[], HeaderValue]) -> None:
    """What makes no value is our caller's mistake, never blamed on the peer (25.1)."""
    with pytest.raises(ValueError) as caught:
        misuse()
    assert not isinstance(caught.value, MessageSyntaxError)


def test_values_do_not_change() -> None:
    """Neither a component nor a parameter can be set, not even through the mapping that was given."""
    given_parameters: dict[str, str | None] = {"x": "y"}
    value = ContentType("text", "plain", given_parameters)
    given_parameters["x"] = "z"
    assert value.parameters == {"x": "y"}
    with pytest.raises(AttributeError):
        value.type = "image"  # type: ignore[misc]  # what is tested
    with pytest.raises(TypeError):
        value.parameters["x"] = "z"  # type: ignore[index]  # what is tested
    assert not hasattr(value, "__dict__")


@given(values)
def test_print_and_parse_again(value: HeaderValue) -> None:
    """Whatever is made prints to one line that parses to the same value (25.1)."""
    text = str(value)
    assert not set("\r\n\0") & set(text)
    assert type(value).parse(text) == value
    assert str(type(value).parse(text)) == text


@given(st.sampled_from(KINDS), st.text(st.sampled_from('aQq/*;=.01"\\ \t,-\0\r\né\udcff')) | st.text())
def test_any_text_parses_or_raises_the_one_error(kind: type[HeaderValue], text: str) -> None:
    """Any text at all is a value that prints and parses again, or a `MessageSyntaxError` (25.1)."""
    with contextlib.suppress(MessageSyntaxError):
        value = kind.parse(text)
        assert kind.parse(str(value)) == value


def test_range_with_a_charset_in_another_case() -> None:
    """The value of a parameter like charset has no case when a range is compared (20.1, RFC 2046, 4.1.2)."""
    assert Accept.parse("text/plain;charset=utf-8").includes(ContentType.parse("text/plain; Charset=UTF-8"))
