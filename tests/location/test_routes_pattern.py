"""Is every pattern that is taken quick for every user part, and every one that is not refused with a reason?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.location.routes.pattern import MAX_USER, UserPattern


@pytest.mark.parametrize(
    ("text", "user", "groups"),
    [
        ("bob", "bob", {}),
        ("bob", "bobby", None),
        ("^bob$", "bob", {}),
        (r"([1-9])(7\d\d)", "1744", {"1": "1", "2": "744"}),
        (r"(?P<site>[1-9])-?(7\d\d)", "1-744", {"1": "1", "2": "744", "site": "1"}),
        ("(a)?b", "b", {"1": ""}),
        ("(?i)sales|support", "SALES", {}),
        ("(?!0)[0-9]+", "0123", None),
        (r"([0-9]{1,3}\.){3}[0-9]{1,3}", "192.0.2.1", {"1": "2."}),
        ("[]a]{2}", "a]", {}),
        ("a*", "a" * MAX_USER, {}),
        ("a*", "a" * (MAX_USER + 1), None),
        ("a*", None, None),
        ("[(?#]*", "#", {}),
    ],
)
def test_whole_user_matches(text: str, user: Any, groups: Any) -> None:
    """A pattern has to match the whole user, of bounded length; its groups are known by number and name."""
    pattern = UserPattern(text)
    assert pattern.groups(user) == groups
    assert groups is None or {*groups} == pattern.names


ENDLESS = ["(a+)+", "(a*)*", "(a|a)*", "(?:a?)+", "((a)*)*", "(a{2,3})*", "(?i:a+)+", "(?P<x>a|b)+", "(a?){300}"]
REFERENCES = [r"(a*)\1", "(?P<x>a*)(?P=x)", "(a)(?(1)b|c)"]
COMMENTS = [".*.*.*.*.*(?#()x", "(a+)(?#x)+", "a(?#)"]
LONG = [".*.*.*.*", "(a?){30}", "(a|a){20}", ".*?.*?.*?.*?", "[ab]*[bc]*[cd]*[de]*"]


@pytest.mark.parametrize("text", [*ENDLESS, *REFERENCES, *COMMENTS])
def test_endless_is_refused(text: str) -> None:
    """What can be repeated without end in several ways, and what cannot be counted, is refused: it may never end."""
    with pytest.raises(ValueError, match="could take for ever"):
        UserPattern(text)


@pytest.mark.parametrize("text", LONG)
def test_long_is_refused(text: str) -> None:
    """What ends, but after more steps than a server has time for, is refused."""
    with pytest.raises(ValueError, match="could take too long"):
        UserPattern(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(a", "'(a' is no regular expression: missing ), unterminated subpattern at character 1"),
        ("(?x) a", "'(?x) a' has the flag x: expected the expression without it"),
    ],
)
def test_faults(text: str, said: str) -> None:
    """A fault says what is wrong and where."""
    with pytest.raises(ValueError) as raised:
        UserPattern(text)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("text", "steps"),
    [("abc", 3), ("a*", 129), ("a{2,4}", 3), ("ab|cd", 8), ("(?:ab)*", 258), ("(a?b){2}", 16), (".*.*", 8385 * 2)],
)
def test_steps(text: str, steps: Any) -> None:
    """The bound counts ways: choices multiply, and repetitions share the characters that there are."""
    assert UserPattern(text).steps == steps + 100


ATOMS = st.sampled_from(["a", "[ab]", ".", "b"])
QUANTIFIERS = st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "*?", "{,4}"])
EXPRESSIONS = st.recursive(
    st.tuples(ATOMS, QUANTIFIERS).map("".join),
    lambda inner: (
        st.tuples(st.just("("), inner, st.just(")"), QUANTIFIERS).map("".join)
        | st.tuples(inner, inner).map("".join)
        | st.tuples(st.just("(?:"), inner, st.just("|"), inner, st.just(")"), QUANTIFIERS).map("".join)
    ),
    max_leaves=5,
)


@given(EXPRESSIONS)
def test_taken_is_quick(text: str) -> None:
    """An expression that is taken ends: this test would not, if one were taken that backtracks without bound."""
    try:
        pattern = UserPattern(text)
    except ValueError:
        return
    for user in ("a" * (MAX_USER - 1) + "!", "ab" * (MAX_USER // 2), "b" * MAX_USER):
        pattern.groups(user)
