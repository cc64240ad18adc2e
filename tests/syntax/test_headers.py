"""Is a header field found under every name it may have, and are its values what was received?"""

from __future__ import annotations

import pytest

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.auth import WWWAuthenticate
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.scalars import Date, Expires, MaxForwards, Reason
from twisted_sipuas.syntax.tokens import Supported

# 7.3.3, 20 and the registry of the IANA.
COMPACT_NAMES = {
    "a": "Accept-Contact",
    "b": "Referred-By",
    "c": "Content-Type",
    "d": "Request-Disposition",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "j": "Reject-Contact",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
    "y": "Identity",
}


def parsed(*lines: str) -> Headers:
    """Return the headers of *lines*, which have no fault."""
    headers, fault = Headers.parse(lines)
    assert fault is None
    return headers


@pytest.mark.requirement("7.3.3-1")
@pytest.mark.parametrize(("compact", "long"), COMPACT_NAMES.items())
def test_compact_names(compact: str, long: str) -> None:
    """A compact name, in either case, and its long form are one name (7.3.3)."""
    headers = parsed(f"{compact}: 1", f"{long}: 2", f"{compact.upper()}: 3")
    for name in (compact, compact.upper(), long, long.lower()):
        assert headers.get_all(name) == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["Call-ID", "call-id", "CALL-ID", "cAlL-iD", "Call-ID \t", "I"])
def test_names_without_regard_to_case(name: str) -> None:
    """A name is found however it is spelt, with white space before its colon (7.3.1)."""
    assert parsed(f"{name}: x").get("Call-ID") == "x"


@pytest.mark.parametrize("spelling", ["X-Unknown", "x-unknown", "X-UNKNOWN"])
def test_unknown_names_without_regard_to_case(spelling: str) -> None:
    """So is a name that no RFC knows (7.3.1)."""
    headers = parsed("X-Unknown: 1")
    assert spelling in headers
    assert headers.get_all(spelling) == ["1"]
    assert headers.count(spelling) == 1


@pytest.mark.requirement("7.3.1-1")
@pytest.mark.parametrize(
    "lines",
    {
        "rows": ["Route: <sip:a,b@c>", "Route: d", "Route: e"],
        "one list": ["Route: <sip:a,b@c>, d,e"],
        "rows and a list": ["Route: <sip:a,b@c>", "Subject: f", "ROUTE: d ,e"],
    }.values(),
    ids=["rows", "one list", "rows and a list"],
)
def test_rows_and_comma_lists_are_one(lines: list[str]) -> None:
    """Rows of one name and the values of a list are the same values in the same order (7.3.1)."""
    assert parsed(*lines).values("Route") == ["<sip:a,b@c>", "d", "e"]


@pytest.mark.requirement("7.3.1-2")
@pytest.mark.parametrize("name", ["WWW-Authenticate", "Authorization", "Proxy-Authenticate", "Proxy-Authorization"])
def test_credentials_are_no_comma_list(name: str) -> None:
    """The commas of these four separate parameters, not values (7.3.1)."""
    rows = ['Digest realm="a", nonce="b"', 'Digest realm="c", nonce="d"']
    assert parsed(*(f"{name}: {row}" for row in rows)).values(name) == rows


@pytest.mark.parametrize("value", ["a,,b", '"a, b', "<a, b"])
def test_malformed_list_names_its_field(value: str) -> None:
    """A malformed list is a fault of its field, found when that field is asked for (8.2.2, 21.4.1)."""
    headers = parsed(f"Supported: {value}")
    with pytest.raises(MessageSyntaxError, match=r"^Malformed Supported header field$"):
        headers.values("Supported")


@pytest.mark.parametrize(
    ("line", "value"),
    {
        "Subject:x": "x",
        "Subject  \t : \t x y \t": "x y",
        "Subject:": "",
        "Subject: a: b": "a: b",
        "Subject: \xa0x\x0b": "\xa0x\x0b",
    }.items(),
)
def test_white_space_round_a_value(line: str, value: str) -> None:
    """Spaces and tabs round the colon and at the end are no part of name or value (7.3.1, 25.1 HCOLON)."""
    headers = parsed(line)
    assert headers.get("Subject") == value
    assert list(headers) == [("Subject", value)]


@pytest.mark.parametrize(
    ("line", "reason"),
    {
        "Foobar": "Header line without a colon",
        "Foo bar: x": "Malformed header field name",
        ": x": "Malformed header field name",
        " : x": "Malformed header field name",
        "Föö: x": "Malformed header field name",
        "F\0o: x": "Malformed header field name",
        "<x>: y": "Malformed header field name",
    }.items(),
)
def test_faulty_line_is_left_out(line: str, reason: str) -> None:
    """What the rest says is kept, so that the request can be refused with its own Via and To (8.2.6)."""
    headers, fault = Headers.parse(["To: a", line, "From: b", "No colon either"])
    assert fault is not None
    assert fault.reason == reason
    assert list(headers) == [("To", "a"), ("From", "b")]


def test_absent() -> None:
    """A header field that is not there is an answer, not an error (20)."""
    headers = parsed("To: x")
    assert headers.get("From") is None
    assert headers.get("From", "y") == "y"
    assert headers.get_all("From") == headers.values("From") == []
    assert headers.count("f") == 0
    assert "From" not in headers
    assert 5 not in headers


@pytest.mark.parametrize("change", ["a\r\nX: y", "a\rb", "a\nb", "a\0b", "\n"])
def test_line_breaks_are_refused(change: str) -> None:
    """No value of our caller's starts a line of its own: no response splitting (7.3.1)."""
    headers = Headers([("To", "a")])
    with pytest.raises(ValueError, match="Subject"):
        Headers([("Subject", change)])
    with pytest.raises(ValueError, match="Subject"):
        headers.added("Subject", change)


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "a\r\n", "é", "a "])
def test_name_that_is_no_token(name: str) -> None:
    """A name that is no token is our caller's mistake, never blamed on the peer (25.1)."""
    for attempt in (lambda: Headers([(name, "x")]), lambda: Headers().added(name, "x"), lambda: Headers().get(name)):
        with pytest.raises(ValueError) as caught:
            attempt()
        assert not isinstance(caught.value, MessageSyntaxError)


def test_added_leaves_the_original_as_it_was() -> None:
    """Headers are a value: a change makes others, with rows in order, and with compact names left compact."""
    headers = parsed("v: 1", "To: x", "Via: 2")
    added = headers.added("Subject", "s")
    assert list(headers) == [("v", "1"), ("To", "x"), ("Via", "2")]
    assert list(added) == [("v", "1"), ("To", "x"), ("Via", "2"), ("Subject", "s")]
    assert added.get("s") == "s"


def test_overwrite_via() -> None:
    """Who has received headers can put another value into the first Via row, whose name stays as it was spelled."""
    headers = parsed("To: x", "v: 1", "Via: 2")
    assert headers.overwrite_via("3")
    assert list(headers) == [("To", "x"), ("v", "3"), ("Via", "2")]
    assert headers.get_all("Via") == ["3", "2"]
    assert not headers.overwrite_via("4", "3"), "it is not the first row of all"
    assert headers.get_all("Via") == ["3", "2"]


def test_overwrite_via_that_is_the_first_row() -> None:
    """The value that is to be replaced has to be the one that is known."""
    headers = parsed("Via: SIP/2.0/UDP h", "To: x")
    held = headers.get("Via")
    assert not headers.overwrite_via("other", "SIP/2.0/UDP g")
    assert headers.overwrite_via("other", held)
    assert list(headers) == [("Via", "other"), ("To", "x")]
    assert headers.get("Via") == "other"


def test_received_quoted_nul_may_stay() -> None:
    """What was received with a NUL in a quoted-pair, which 25.1 allows, can still be added to."""
    headers = parsed('Subject: "\\\0"').added("X", "y")
    assert list(headers) == [("Subject", '"\\\0"'), ("X", "y")]


def test_equal_by_what_is_said() -> None:
    """Spelling of names and order among different names say nothing, order among rows of one name does (7.3.1)."""
    assert parsed("v: 1", "To: x", "v: 2") == parsed("to: x", "Via: 1", "VIA: 2")
    assert parsed("v: 1", "v: 2") != parsed("v: 2", "v: 1")
    assert parsed("v: 1, 2") != parsed("v: 1")


def test_one_and_every_value_typed() -> None:
    """Rows and comma lists are alike, in order, under every name the field has (7.3.1, 7.3.3)."""
    headers = parsed("k: 100rel, Timer", "Supported: path", "Expires: 60", "Reason: SIP;text=a, Q.850;cause=16")
    assert headers.every(Supported) == (Supported("100rel"), Supported("timer"), Supported("path"))
    assert headers.one(Supported) == Supported("100rel")
    assert headers.one(Expires) == Expires(60)
    assert headers.every(Reason) == (Reason("SIP", None, "a"), Reason("Q.850", 16))


def test_values_that_are_not_there() -> None:
    """An absent header field has no value, and neither has one that may be empty and is (20, 20.37)."""
    headers = parsed("Supported:")
    assert (headers.one(Expires), headers.every(Expires)) == (None, ())
    assert (headers.one(Supported), headers.every(Supported)) == (None, ())


@pytest.mark.requirement("7.3.1-2")
def test_rows_that_are_one_value_each() -> None:
    """The commas of a challenge and of a date separate no values (7.3.1, 20.17)."""
    headers = parsed(
        'WWW-Authenticate: Digest realm="a", nonce="b"',
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "WWW-Authenticate: Basic realm=c",
    )
    assert headers.every(WWWAuthenticate) == (
        WWWAuthenticate("Digest", {"realm": "a", "nonce": "b"}),
        WWWAuthenticate("Basic", {"realm": "c"}),
    )
    assert headers.one(Date) == Date(0)


@pytest.mark.parametrize(
    ("line", "kind"),
    [("Expires: soon", Expires), ("Expires:", Expires), ("Supported: a, b c", Supported), ("k: a,,b", Supported)],
    ids=["malformed", "empty", "malformed in a list", "malformed list"],
)
def test_malformed_values(line: str, kind: type[Expires | Supported]) -> None:
    """A malformed value is a fault each time that it is asked for, and names the field; never before (8.2.2)."""
    headers = parsed(line, "Date: yesterday")
    for _ in range(2):
        with pytest.raises(MessageSyntaxError, match=f"^Malformed {kind.field} header field$"):
            headers.every(kind)


def test_values_are_parsed_once() -> None:
    """What was asked for is kept, also that there is none; headers made from these ask anew."""
    headers = Headers([("Expires", "60"), ("Via", "x")])
    assert headers.one(Expires) is headers.one(Expires)
    assert headers.every(Expires) is headers.every(Expires)
    assert headers.one(Date) is None
    assert headers.one(Date) is None
    assert headers.added("Date", "Thu, 01 Jan 1970 00:00:00 GMT").one(Date) == Date(0)
    assert headers.one(Expires) == Expires(60)


def test_rows_that_have_to_be_one() -> None:
    """Two rows of a field that may occur once are a fault if they differ, and named (7.3.1)."""
    headers = Headers([("Expires", "0"), ("Expires", "60"), ("Max-Forwards", "70"), ("Max-Forwards", "70")])
    for _ in range(2):  # a fault is remembered too
        with pytest.raises(MessageSyntaxError, match=r"^More than one Expires header field$") as caught:
            headers.one(Expires)
        assert caught.value.headers is headers
    assert headers.one(MaxForwards) == MaxForwards(70)
