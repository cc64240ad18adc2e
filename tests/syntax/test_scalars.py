"""When, for how long, how often and why?"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.scalars import (
    Date,
    Expires,
    MaxForwards,
    MinExpires,
    MinSE,
    Reason,
    RetryAfter,
    SessionExpires,
    Timestamp,
    Warning,
)
from twisted_sipuas.syntax.values import HeaderValue

LARGEST = 2**32 - 1

# the value: texts that say it, its canonical form first
VALUES = {
    Expires(0): ["0", "000"],
    Expires(60): ["60", " 60\t", "0000000000000000000000060"],
    Expires(LARGEST): ["4294967295", "4294967296", "9" * 60000],
    MinExpires(3600): ["3600"],
    MinExpires(LARGEST): ["4294967295", "100000000000000000"],
    MaxForwards(0): ["0"],
    MaxForwards(70): ["70", "0070", "0" * 60000 + "70"],
    MaxForwards(255): ["255"],
    Date(1289690940): ["Sat, 13 Nov 2010 23:29:00 GMT", "Mon, 13 Nov 2010 23:29:00 GMT"],
    Date(1709164801): ["Thu, 29 Feb 2024 00:00:01 GMT"],
    Date(0): ["Thu, 01 Jan 1970 00:00:00 GMT"],
    Date(-1): ["Wed, 31 Dec 1969 23:59:59 GMT"],
    Timestamp(54): ["54"],
    Timestamp(0.1): ["0.1"],
    Timestamp(Decimal("1234567890.123456789")): ["1234567890.123456789"],
    Timestamp(54, 0.5): ["54 0.5", "54. \t.5", "54.0 0.50"],
    Timestamp(1, 0): ["1 0", "1 ."],
    RetryAfter(18000): ["18000"],
    RetryAfter(18000, duration=3600): ["18000;duration=3600", "18000 ; Duration = 3600"],
    RetryAfter(120, "I'm in a meeting"): ["120 (I'm in a meeting)", "120(I\\'m in a meeting)"],
    RetryAfter(1, ""): ["1 ()"],
    RetryAfter(1, "a (b; \\c), (", None, {"x": None}): [
        "1 (a \\(b; \\\\c\\), \\();x",
        "1 (a (b; \\\\c), \\() ;x",
    ],
    RetryAfter(LARGEST, None, LARGEST): ["4294967295;duration=4294967295", f"{'9' * 50};duration={'9' * 50}"],
    SessionExpires(1800): ["1800"],
    SessionExpires(4000, "uac"): ["4000;refresher=uac", "4000 ; Refresher=UAC"],
    SessionExpires(90, "uas", {"x": "a b"}): ['90;refresher=uas;x="a b"', '90;x="a b";refresher=uas'],
    SessionExpires(LARGEST): ["4294967295", "4294967296"],
    MinSE(90): ["90"],
    MinSE(90, {"lr": None}): ["90;lr", "90 ; LR"],
    Warning(307, "isi.edu", "Session parameter 'foo' not understood"): [
        "307 isi.edu \"Session parameter 'foo' not understood\"",
        "307 ISI.EDU  \"Session parameter 'foo' not understood\"",
    ],
    Warning(1, "[::1]:5060", 'a, "b"'): ['001 [::1]:5060 "a, \\"b\\""'],
    Warning(399, "h:5060", ""): ['399 h:5060 ""'],
    Reason("SIP", 200, "Call completed elsewhere"): [
        'SIP;cause=200;text="Call completed elsewhere"',
        'sip ;text="Call completed elsewhere"; Cause=0200',
    ],
    Reason("Q.850", 16, "Terminated"): ['Q.850;cause=16;text="Terminated"', "q.850;cause=16;text=Terminated"],
    Reason("preemption"): ["preemption"],
    Reason("SIP", None, None, {"x": None, "y": "z"}): ["SIP;x;y=z", "SIP;Y=z;X"],
}

FAULTS = {
    Expires: ["", "-1", "+1", "1.5", "1 2", "1;x", "soon", "²", "\u0661", "Thu, 01 Dec 1994 16:00:00 GMT"],
    MinExpires: ["", "-1", "x"],
    MaxForwards: ["", "-1", "256", "300", "9" * 60000, "0x10", "\u0661"],
    Date: [
        "",
        "Fri, 01 Jan 2010 16:00:00 EST",
        "Fri, 01 Jan 2010 16:00:00",
        "Fri, 01 Jan 2010 16:00:00 gmt",
        "fri, 01 Jan 2010 16:00:00 GMT",
        "Fri, 1 Jan 2010 16:00:00 GMT",
        "Fri, 01 Jan 10 16:00:00 GMT",
        "Fri, 01 Foo 2010 16:00:00 GMT",
        "Friday, 01-Jan-10 16:00:00 GMT",
        "Fri Jan  1 16:00:00 2010",
        "Fri, 29 Feb 2010 16:00:00 GMT",
        "Fri, 00 Jan 2010 16:00:00 GMT",
        "Fri, 01 Jan 0000 16:00:00 GMT",
        "Fri, 01 Jan 2010 24:00:00 GMT",
        "Fri, 01 Jan 2010 23:60:00 GMT",
        "Fri, 01 Jan 2010 23:59:60 GMT",
        "Fri, 0\u0661 Jan 2010 16:00:00 GMT",
    ],
    Timestamp: ["", ".5", "-1", "+1", "1e3", "nan", "1 2 3", "1,5", "1 -1", "9" * 33, "0." + "1" * 33, "\u0661"],
    RetryAfter: [
        "",
        "-1",
        "soon",
        "(a) 1",
        "1 (a",
        "1 (a\\)",
        "1 (a))",
        "1 (a)b",
        "1 (a)(b)",
        "1 a",
        "1;duration",
        "1;duration=x",
        "1;duration=1;duration=1",
        "1 (\\\0)",
    ],
    SessionExpires: ["", "x", "-1", "1;refresher", "1;refresher=", "1;refresher=me", "1;refresher=uac;refresher=uas"],
    MinSE: ["", "x", "90,90", "90;;x"],
    Warning: [
        "",
        "307",
        "307 isi.edu",
        'x isi.edu "a"',
        '30 isi.edu "a"',
        '1812 overture "In Progress"',
        '307 "a"',
        "307 isi.edu a",
        '307 isi.edu "a',
        '307 isi.edu "a"b',
        '307 i@si "a"',
        '307 isi.edu "\\\0"',
    ],
    Reason: [
        "",
        ";cause=1",
        "S P;cause=1",
        "SIP;cause",
        "SIP;cause=",
        "SIP;cause=x",
        "SIP;cause=-1",
        "SIP;cause=99999999999",
        "SIP;text",
        'SIP;text="a',
        "SIP;cause=1;cause=1",
        'SIP;text="\\\0"',
    ],
}

MISUSE = {
    "expires: negative": lambda: Expires(-1),
    "expires: too large": lambda: Expires(2**32),
    "expires: no whole number": lambda: Expires(1.5),  # type: ignore[arg-type]  # what is tested
    "expires: text": lambda: Expires("1\r\nEvil: x"),  # type: ignore[arg-type]  # what is tested
    "max-forwards: too large": lambda: MaxForwards(256),
    "date: no year": lambda: Date(10**12),
    "date: no whole number": lambda: Date(0.5),  # type: ignore[arg-type]  # what is tested
    "timestamp: negative": lambda: Timestamp(-1),
    "timestamp: infinite": lambda: Timestamp(float("inf")),
    "timestamp: no number": lambda: Timestamp(1, float("nan")),
    "timestamp: too large": lambda: Timestamp(Decimal("1e32")),
    "timestamp: too many digits": lambda: Timestamp(Decimal("1e-33")),
    "timestamp: absurd": lambda: Timestamp(Decimal("1e999999")),
    "retry-after: line break": lambda: RetryAfter(1, "a\r\nEvil: x"),
    "retry-after: duration": lambda: RetryAfter(1, None, -1),
    "retry-after: duration as a parameter": lambda: RetryAfter(1, None, None, {"duration": "1"}),
    "session-expires: refresher": lambda: SessionExpires(1, "proxy"),
    "session-expires: refresher empty": lambda: SessionExpires(1, ""),
    "min-se: negative": lambda: MinSE(-1),
    "min-se: parameter": lambda: MinSE(1, {"a b": None}),
    "warning: code": lambda: Warning(1000, "a", "b"),
    "warning: agent": lambda: Warning(399, "a b", "c"),
    "warning: line break": lambda: Warning(399, "a", "b\nc"),
    "reason: protocol": lambda: Reason("S P"),
    "reason: cause": lambda: Reason("SIP", -1),
    "reason: NUL": lambda: Reason("SIP", 1, "\0"),
    "reason: cause as a parameter": lambda: Reason("SIP", None, None, {"Cause": "1"}),
}

tokens = st.from_regex(TOKEN, fullmatch=True)
plain = st.text().filter(lambda text: not set("\r\n\0") & set(text))
seconds = st.integers(0, LARGEST)
exact = st.decimals(0, 10**12, places=9) | st.floats(0, 1e15).filter(lambda number: number == 0 or number > 1e-15)
parameters = st.dictionaries(
    tokens.map(str.lower).filter(lambda name: name not in ("cause", "duration", "refresher", "text")),
    plain | st.none(),
    max_size=3,
)
values = st.one_of(
    st.builds(Expires, seconds),
    st.builds(MinExpires, seconds),
    st.builds(MaxForwards, st.integers(0, 255)),
    st.builds(Date, st.integers(-62135596800, 253402300799)),
    st.builds(Timestamp, exact, st.none() | exact),
    st.builds(RetryAfter, seconds, st.none() | plain, st.none() | seconds, parameters),
    st.builds(SessionExpires, seconds, st.sampled_from([None, "uac", "UAS"]), parameters),
    st.builds(MinSE, seconds, parameters),
    st.builds(Warning, st.integers(0, 999), tokens, plain),
    st.builds(Reason, tokens, st.none() | st.integers(0, 10**10 - 1), st.none() | plain, parameters),
)


@pytest.mark.parametrize(("value", "texts"), VALUES.items(), ids=lambda part: repr(part)[:40])
def test_values(value: HeaderValue, texts: list[str]) -> None:
    """A value is taken apart as 25.1 has it, numbers that are too large capped, and printed in one form (20)."""
    assert str(value) == texts[0]
    for text in texts:
        parsed = type(value).parse(text)
        assert parsed == value
        assert hash(parsed) == hash(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(kind, text) for kind, texts in FAULTS.items() for text in texts],
    ids=lambda part: part[:40] if isinstance(part, str) else part.field,
)
def test_faults(kind: type[HeaderValue], text: str) -> None:
    """What the grammar does not allow is the peer's fault, and the reason names the header field (25.1, 21.4.1)."""
    with pytest.raises(MessageSyntaxError, match=f"^Malformed {kind.field} header field$"):
        kind.parse(text)


@pytest.mark.parametrize("misuse", MISUSE.values(), ids=MISUSE.keys())
def test_misuse(misuse: Callable[[], HeaderValue]) -> None:
    """What makes no value is our caller's mistake, never blamed on the peer (25.1)."""
    with pytest.raises(ValueError) as caught:
        misuse()
    assert not isinstance(caught.value, MessageSyntaxError)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Expires(1), MinExpires(1)),
        (Timestamp(1), Timestamp(1, 0)),
        (RetryAfter(1, "a"), RetryAfter(1, "A")),
        (RetryAfter(1), RetryAfter(1, "")),
        (Warning(1, "a", "b"), Warning(1, "a", "B")),
        (Reason("SIP", 1, "a"), Reason("SIP", 1, "A")),
    ],
    ids=str,
)
def test_inequality(one: HeaderValue, other: HeaderValue) -> None:
    """Header fields are told apart, and so is text for people that differs in case only (7.3.1)."""
    assert one != other
    assert one != str(one)


@given(st.datetimes(timezones=st.just(datetime.timezone.utc)))
def test_date_is_seconds_since_the_epoch(moment: datetime.datetime) -> None:
    """A date is what Python's own clock says of it (20.17)."""
    moment = moment.replace(microsecond=0)
    seconds = int(moment.timestamp())
    assert Date.parse(str(Date(seconds))).seconds == seconds
    assert str(Date(seconds))[-12:] == moment.strftime("%H:%M:%S GMT")


@given(values)
def test_print_and_parse_again(value: HeaderValue) -> None:
    """Whatever is made prints to one line that parses to the same value (25.1)."""
    text = str(value)
    assert not set("\r\n\0") & set(text)
    assert type(value).parse(text) == value
    assert str(type(value).parse(text)) == text


@given(
    st.sampled_from(list(FAULTS)),
    st.text(st.sampled_from('019.;=()"\\ \t,-ca\0\r\né\udcff\u0661')) | st.text(),
)
def test_any_text_parses_or_raises_the_one_error(kind: type[HeaderValue], text: str) -> None:
    """Any text at all is a value that prints and parses again, or a `MessageSyntaxError` (25.1)."""
    with contextlib.suppress(MessageSyntaxError):
        value = kind.parse(text)
        assert kind.parse(str(value)) == value
