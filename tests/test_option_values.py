"""Is the text of an option taken for what it says, and a mistake told by one text wherever it is made?"""

from __future__ import annotations

from functools import partial

import pytest

from twisted_sipuas.option_values import seconds, taken, whole_number


@pytest.mark.parametrize("text", ["", "0", "-1", "+1", "1.0", "1e1", " 1", "101", "\u0661", "9" * 5000, "x"])
def test_no_whole_number(text: str) -> None:
    """A whole number is made of ASCII digits alone, and within its bounds."""
    with pytest.raises(ValueError) as raised:
        whole_number(text, 1, 100)
    assert str(raised.value) == "expected a whole number from 1 to 100"


def test_whole_number() -> None:
    """Both bounds count, and without an upper one a number may have ten digits."""
    assert [whole_number(text, 1, 100) for text in ("1", "007", "100")] == [1, 7, 100]
    assert whole_number("9999999999", 0) == 9_999_999_999
    with pytest.raises(ValueError, match=r"^expected a whole number from 0$"):
        whole_number("10000000000", 0)


@pytest.mark.parametrize("text", ["", "0", "-1", "inf", "nan", "x"])
def test_no_seconds(text: str) -> None:
    """Seconds are a number that ends, above 0 if none would be of no use."""
    with pytest.raises(ValueError, match=r"^expected a number of seconds$"):
        seconds(text)


def test_seconds() -> None:
    """Parts of a second count, and 0 where it may be."""
    assert seconds("0.5") == 0.5
    assert seconds("0", may_be_zero=True) == 0


def test_taken() -> None:
    """What is taken is no longer there for others, and a mistake names the option and what was given."""
    options = {"pool": "3", "cache": "x"}
    assert taken(options, "pool", partial(whole_number, least=1)) == 3
    assert taken(options, "pool", seconds) is None
    with pytest.raises(ValueError, match=r"^cache=x: expected a number of seconds$"):
        taken(options, "cache", seconds)
    assert options == {}
