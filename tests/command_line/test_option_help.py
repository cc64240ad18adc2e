"""Is what ``--help`` shows easy to read, and complete?"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from twisted.python import usage

from tests.command_line.test_start import sipuas
from twisted_sipuas.option_help import filled, grouped_options
from twisted_sipuas.options import Options

TEXT_COLUMN = 26


def test_every_option_has_its_place() -> None:
    """No option is missing from the groups, and none is there twice."""
    shown = [option.name for group in grouped_options(Options()) for option in group.options]
    assert sorted(shown) == sorted(name.rstrip("=") for name in Options().longOpt)


def test_what_may_be_given_again_is_known() -> None:
    """The options that say so are those that are kept as a list."""
    options = Options()
    described = [option for group in grouped_options(options) for option in group.options]
    lists = {option.name for option in described if isinstance(options.get(option.name), list)}
    assert {option.name for option in described if option.is_repeatable} == lists
    assert {option.name for option in described if "again and again" in option.meaning} == lists


@pytest.mark.parametrize("width", [70, 80, 100])
def test_help_fits_the_terminal(width: int) -> None:
    """No line is longer than the terminal is wide, none ends in blanks, and no word is cut."""
    text = Options().getUsage(width)
    assert [line for line in text.splitlines() if len(line) > width or line != line.rstrip()] == []
    for group in grouped_options(Options()):
        for option in group.options:
            assert f"\n  {option.form}" in text
            assert option.meaning in " ".join(text.split())


def test_help_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS says how wide that is; beyond a hundred characters it is no longer followed."""
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, Options().getUsage().splitlines())) <= 70
    monkeypatch.setenv("COLUMNS", "300")
    assert 90 < max(map(len, Options().getUsage().splitlines())) <= 100


def test_meanings_stand_in_one_column() -> None:
    """A form that is too long has a line of its own, and the meaning begins where the others do."""
    lines = Options().getUsage(80).splitlines()
    below = lines[lines.index("  --max-connections-per-source N") + 1]
    beside = next(line for line in lines if line.startswith("  --max-connections N"))
    assert below[:TEXT_COLUMN].isspace()
    assert below[TEXT_COLUMN:].startswith("Connections of one address")
    assert beside[TEXT_COLUMN:].startswith("Connections; more are refused.")


def test_default_is_told_once() -> None:
    """Each default is told in one form, whether the option's own text or its value says it."""
    text = " ".join(Options().getUsage(80).split())
    assert (
        "--lookup-timeout SECONDS (redirect) Seconds that a look-up may take; then the answer is 504. [default: 2]"
        in text
    )
    assert "[default: 200 stateful, 480 stateless]" in text
    assert "Take REGISTER. [default: if a location service can store]" in text


def test_a_word_is_longer_than_the_line() -> None:
    """It stands out, for cut it could not be copied."""
    assert filled("see ssl:5061:privateKey=key.pem now", 10) == "see\n    ssl:5061:privateKey=key.pem\n    now"


SHOWN_VALUES = [
    (option.name, word)
    for group in grouped_options(Options())
    for option in group.options
    for word in option.words
    if not word.endswith(":")
]


@pytest.mark.parametrize(("name", "value"), SHOWN_VALUES)
def test_values_that_are_shown_are_taken(name: str, value: str) -> None:
    """Where the help lists the values of an option, each of them is one."""
    needed = ["--auth", "memory:alice:secret", "--realm", "example.com"] if name.startswith("auth-") else []
    options = Options()
    options.parseOptions([*needed, f"--{name}", value])
    assert options[name] == value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-rate", "many"], "--max-rate: 'many': expected a whole number from 0"),
        (["--lookup-timeout", "0"], "--lookup-timeout: '0': expected a number of seconds"),
    ],
)
def test_wrong_number(arguments: list[str], said: str) -> None:
    """A number that is none is told in one line, which begins with the option."""
    with pytest.raises(usage.UsageError) as raised:
        Options().parseOptions(arguments)
    assert str(raised.value) == said


def test_synopsis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first line is the command that was typed."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/sipuas", "--help"])
    assert str(Options()).startswith("Usage: sipuas [options]\n\nA SIP server.")
    shown = sipuas(tmp_path, "--help").stdout
    assert re.match(r"Usage: twistd \[options\] sipuas \[options\]\n\nA SIP server\.", shown)
