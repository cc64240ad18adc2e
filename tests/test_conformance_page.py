"""Does docs/conformance.md tell which requirements are tested, and is it caught when it does not?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import conformance_page
from tests.conformance_page import Mistake, judge, page, read_reasons, read_report, read_requirements

ROOT = Path(__file__).parents[1]

REQUIREMENTS = """# Requirements

## 8.2 UAS behaviour

| id | level | requirement |
|---|---|---|
| 8.2-1 | MUST | All or nothing. |
| 8.2-2 | SHOULD NOT | Nothing at all. |

## Later RFCs

| id | level | requirement |
|---|---|---|
| 3262-1 | MUST | Reliably. |
"""
REASONS = "3262-1 It is not | supported.\n"
BOTH = ["8.2-1", "8.2-2"]


def report(outcome: str = "passed", test: str = "tests/uas/test_it.py::test_it", requirements: list[str] = BOTH) -> Any:
    """Return what pytest reports of one test."""
    return {test: {"requirements": requirements, "outcome": outcome}}


def rows(reported: Any, *, ran: Any = True) -> Any:
    """Return the rows of what is *reported*."""
    return judge(read_requirements(REQUIREMENTS), read_reasons(REASONS), reported, ran=ran)


def states(reported: Any, *, ran: Any = True) -> Any:
    """Return the state of each row."""
    return [row.state for row in rows(reported, ran=ran)]


def test_states() -> None:
    """A row with a test is tested, one with a reason is not applicable, and one with neither is open."""
    assert states(report()) == ["tested", "tested", "not applicable"]
    assert states(report(requirements=["8.2-2"])) == ["open", "tested", "not applicable"]
    assert states({}) == ["open", "open", "not applicable"]


@pytest.mark.parametrize("outcome", ["failed", "not run"])
def test_outcome(outcome: Any) -> None:
    """A row is open if any test that names it did not pass in the run; where nothing ran, no outcome counts."""
    reported = report() | report(outcome, test="tests/test_other.py::test_it", requirements=["8.2-1"])
    assert states(reported) == ["open", "tested", "not applicable"]
    assert states(reported, ran=False) == ["tested", "tested", "not applicable"]


def test_page() -> None:
    """The page has counts by level, and a table of each section in which a test is named with its file once."""
    reported = report() | report(test="tests/uas/test_it.py::TestB::test_b", requirements=["8.2-2"])
    text = page(rows(reported | report(test="tests/test_a.py::test_a", requirements=["8.2-2"])))
    assert text.partition("| level |")[1:] == (
        "| level |",
        """ requirements | tested | not applicable | open |
|---|--:|--:|--:|--:|
| MUST | 2 | 1 | 1 | 0 |
| SHOULD NOT | 1 | 1 | 0 | 0 |
| all | 3 | 2 | 1 | 0 |

## 8.2 UAS behaviour

| id | level | requirement | state | tests, or why it does not apply |
|---|---|---|---|---|
| 8.2-1 | MUST | All or nothing. | tested | `uas/test_it.py`: `test_it` |
| 8.2-2 | SHOULD NOT | Nothing at all. | tested | `test_a.py`: `test_a`; `uas/test_it.py`: `TestB::test_b`, `test_it` |

## Later RFCs

| id | level | requirement | state | tests, or why it does not apply |
|---|---|---|---|---|
| 3262-1 | MUST | Reliably. | not applicable | It is not \\| supported. |
""",
    )


def test_page_depends_on_nothing_else() -> None:
    """In whatever order the tests ran, and whether or not they did, the page is the same."""
    one, other = report(), report(test="tests/test_other.py::test_it", requirements=["8.2-1"])
    assert page(rows(one | other)) == page(rows(other | one)) == page(rows(other | one, ran=False))


MISTAKES = {
    "mark of no row": (lambda: rows(report(requirements=["8.2-9"])), "test_it names 8.2-9"),
    "reason for no row": (
        lambda: judge(read_requirements(REQUIREMENTS), {"8.2-9": "x"}, {}, ran=False),
        "requirements-not-applicable.txt names 8.2-9",
    ),
    "reason beside a test": (lambda: rows(report(requirements=["3262-1"])), "3262-1, which tests/uas/test_it.py::"),
    "reason that is none": (lambda: read_reasons("8.2-1 x\n8.2-2\n"), "line 2: no new id with a reason: 8.2-2"),
    "two reasons": (lambda: read_reasons("8.2-1 x\n8.2-1 y\n"), "line 2: no new id"),
    "two rows": (lambda: read_requirements("| 1-1 | MUST | x |\n| 1-1 | MAY | y |\n"), "line 2: no row of a new id"),
    "unknown level": (lambda: read_requirements("| 1-1 | COULD | x |\n"), "line 1: no row"),
    "no level": (lambda: read_requirements("| 1-1 | x |\n"), "line 1: no row"),
    "no report": (lambda: read_report(Path("/nonexistent")), "/nonexistent is no report"),
}


@pytest.mark.parametrize(("act", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(act: Any, said: Any) -> None:
    """What the page cannot be made of is an error that says where it is."""
    with pytest.raises(Mistake, match=said.replace(".", r"\.")):
        act()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put three requirements in place of ours, and return what runs the command on a report."""
    monkeypatch.setattr(conformance_page, "ROOT", tmp_path)
    for name, text in (("REQUIREMENTS", REQUIREMENTS), ("NOT_APPLICABLE", REASONS), ("PAGE", "old")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(conformance_page, name, tmp_path / name)

    def run(reported: Any, *arguments: Any) -> Any:
        (tmp_path / "report.json").write_text(json.dumps(reported))
        conformance_page.main(["--run", str(tmp_path / "report.json"), *arguments])
        return conformance_page.PAGE.read_text()

    return run


def test_command(files: Any) -> None:
    """The command writes the page; with --check it writes nothing, and fails with what mends it if the page is old."""
    with pytest.raises(SystemExit) as caught:
        files(report(), "--check")
    assert caught.value.code == "PAGE is out of date; python tests/conformance_page.py mends it"
    assert conformance_page.PAGE.read_text() == "old"
    assert files(report()) == files(report(), "--check") == page(rows(report()))


def test_open_row(files: Any) -> None:
    """With --check a row that is open is a failure, with the tests that did not pass."""
    files(report("failed", requirements=["8.2-1"]))
    with pytest.raises(SystemExit) as caught:
        files(report("failed", requirements=["8.2-1"]), "--check")
    assert caught.value.code == "8.2-1 is open: tests/uas/test_it.py::test_it\n8.2-2 is open: no test names it"


def test_mistake_of_the_command(files: Any) -> None:
    """A mistake ends the command with one line."""
    with pytest.raises(SystemExit, match=r"names 8\.2-9, which requirements\.md does not have"):
        files(report(requirements=["8.2-9"]))


TESTS = """
import pytest

@pytest.mark.requirement("1-1")
class TestClass:
    @pytest.mark.requirement("1-2", "1-3")
    @pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.requirement("1-4"))])
    def test_passes(self, x):
        pass

    @pytest.mark.parametrize("x", [1, 2])
    def test_fails_once(self, x):
        assert x == 1

@pytest.fixture
def broken():
    yield
    raise ValueError

@pytest.mark.requirement("2-1")
def test_fails_afterwards(broken):
    pass

@pytest.mark.requirement("2-2")
@pytest.mark.xfail
def test_is_expected_to_fail():
    assert False

@pytest.mark.requirement("2-3")
def test_is_skipped():
    pytest.skip()

def test_names_nothing():
    pass
"""


@pytest.mark.parametrize("options", [[], ["--collect-only"]], ids=["run", "collect only"])
def test_report(tmp_path: Path, options: Any) -> None:
    """A test is reported once, with what each of its cases names, and as passed if all of them did."""
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = requirement\n")
    plugins = ["-p", "no:cacheprovider", "-p", "tests.requirement_report"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "--requirement-report=report.json", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        timeout=60,
        check=False,
    )
    told = read_report(tmp_path / "report.json")
    assert {test.partition("::")[2]: tuple(of.values()) for test, of in told.items()} == {
        "TestClass::test_fails_once": (["1-1"], "not run" if options else "failed"),
        "TestClass::test_passes": (["1-1", "1-2", "1-3", "1-4"], "not run" if options else "passed"),
        "test_fails_afterwards": (["2-1"], "not run" if options else "failed"),
        "test_is_expected_to_fail": (["2-2"], "not run" if options else "failed"),
        "test_is_skipped": (["2-3"], "not run" if options else "failed"),
    }
