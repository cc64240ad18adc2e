"""Does an expression from a foreign zone match what POSIX says, and never take long over it?"""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.location.ere import Expression

NUMBER = "+441632960083"


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("^.*$", [NUMBER]),
        (r"^(\+441632960083)$", [NUMBER, NUMBER]),
        (r"^\+44([0-9]{3})(.*)$", [NUMBER, "163", "2960083"]),
        (r"^\+44(.{2,4})(0*)", ["+441632", "1632", ""]),
        (r"\+(1|44|4)([[:digit:]]+)3$", [NUMBER, "44", "163296008"]),
        ("[^+]+", ["441632960083"]),
        ("[]+-][4-]", ["+4"]),
        ("[1-36]+2", ["1632"]),
        ("(0|00)83$", ["0083", "00"]),
        ("(x)?44", ["44", ""]),
        ("9{1}6{1,}", ["96"]),
        ("(4)+", ["44", "4"]),
        ("[[:punct:]][[:xdigit:]]", ["+4"]),
        ("[[:alpha:][:space:]]*3$", ["3"]),
        ("a|b|3$", ["3"]),
        ("(4*)*1", ["441", "44"]),
        ("^44", None),
        ("[[:lower:]]", None),
        (r"\.", None),
        ("é|x", None),
        ("(4*)*x", None),
    ],
)
def test_match(text: str, groups: list[str] | None) -> None:
    """The whole match and its groups are those of POSIX, leftmost first (IEEE 1003.1, 9.4)."""
    found = Expression(text).match(NUMBER)
    assert found == (None if groups is None else (groups + [""] * 10)[:10])


@pytest.mark.parametrize(
    "text",
    [
        "", "a|", "|a", "()4", "(", ")", "(a", "a)", "()", "*", "+44", "^+44", "$*", "{1}", "a{", "a{x}", "a{2,1}",
        "a{256}", "a{,2}", "[", "[]", "[a", "[9-1]", "[[:digits:]]", "[[:digit:", "[[.x.]]", "[[=x=]]", "[0-[:digit:]]",
        "\\", r"\d", r"(4)\1", "(" * 21 + "4" + ")" * 21, "((4{100}){100}){100}", "4{200}" * 3,
    ],
)  # fmt: skip
def test_mistake(text: str) -> None:
    """What POSIX leaves undefined, what it forbids, and what would be too large is a ValueError."""
    with pytest.raises(ValueError):
        Expression(text)


@pytest.mark.parametrize(
    "text",
    ["(.|.|.|.)" * 25 + "x", "(.*)" * 60 + "x", "((((((((.*)*)*)*)*)*)*)*)*x", "(.{0,15}){0,14}x", "(.*|.+)*x"],
)
def test_bounded_work(text: str) -> None:
    """What takes a backtracking matcher ages is done in as many tries as the expression has steps, at each place."""
    expression = Expression(text)
    tried: set[Any] = set()
    for begin in range(17):
        assert expression._spans("+" + "1" * 15, begin, tried) is None
    assert len(tried) <= 500 * 17


PIECES = st.sampled_from(["4", "1", ".", "[0-9]", "[^4]", r"\+", "(4|41)", "(6.)", "(4+)", "^", "$"])
REPEATS = st.sampled_from(["", "*", "+", "?", "{2}", "{1,}", "{0,3}"])


@given(st.lists(st.tuples(PIECES, REPEATS), min_size=1, max_size=6), st.text("+0146", max_size=16))
def test_as_python(pieces: list[Any], number: str) -> None:
    """Where Python's own `re` reads an expression alike, it finds the same."""
    text = "".join(piece + ("" if piece in "^$" else repeat) for piece, repeat in pieces)
    found = re.search(text.replace("$", r"\Z"), number)
    groups = Expression(text).match(number)
    assert (groups is None) == (found is None)
    if found is not None:
        assert groups is not None
        assert groups[: 1 + len(found.groups())] == [found[0], *(group or "" for group in found.groups())]


@given(st.text("+01()[]{}|*?^$.\\-:,a", max_size=40))
def test_any_text(text: str) -> None:
    """Any text is an expression, which matches or does not, or a ValueError."""
    try:
        expression = Expression(text)
    except ValueError:
        return
    expression.match(NUMBER)
