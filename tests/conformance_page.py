"""Make docs/conformance.md: of every requirement, whether it is tested, and by what.

It is made of tests/requirements.md, of tests/requirements-not-applicable.txt, and of the requirements that tests name.
Without --run pytest is asked for these, and runs nothing; with it, what a run wrote is taken, and only a test that
passed there counts.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "conformance.md"
REQUIREMENTS = ROOT / "tests" / "requirements.md"
NOT_APPLICABLE = ROOT / "tests" / "requirements-not-applicable.txt"
COMMAND = "python tests/conformance_page.py"

TESTED, EXCUSED, OPEN = STATES = ("tested", "not applicable", "open")
LEVELS = "MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "RECOMMENDED", "NOT RECOMMENDED", "MAY", "IS"

_ROW = re.compile(r"\| (?P<id>[\d.]+-\d+) \| (?P<level>[A-Z ]+) \| (?P<summary>[^|]+) \|")

HEAD = f"""# Conformance

<!-- Made by `{COMMAND}`; what is written here by hand is lost. -->

What RFC 3261, and the RFCs that changed it, ask of a user agent server, a redirect server and a registrar, and which
tests of this project defend it. A test may name a requirement if it fails when that alone is broken. The summaries are
our own words; where a wording matters, the RFC has it. An id is a section of RFC 3261 and a position in it, or the
number of a later RFC and a position. The level is the RFC's own word; IS marks what a server does by the RFC
without such a word.

Files of tests are in `tests/`.
"""


class Mistake(Exception):
    """What stands in the way of a page, said in one line."""


@dataclass(frozen=True)
class Requirement:
    """A row of tests/requirements.md."""

    id: str
    level: str
    summary: str
    section: str


@dataclass(frozen=True)
class Row:
    """A requirement with what became of it: the tests that defend it, or why none does."""

    requirement: Requirement
    state: str
    tests: tuple[str, ...] = ()
    """Node IDs without parameters, in order."""
    reason: str = ""


def read_requirements(text: str) -> list[Requirement]:
    """Return the requirements that *text*, Markdown, has in the tables of its sections."""
    requirements: dict[str, Requirement] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| ") and not line.startswith("| id "):
            match = _ROW.fullmatch(line)
            if match is None or match["level"] not in LEVELS or match["id"] in requirements:
                raise Mistake(f"requirements.md, line {number}: no row of a new id, a level and a summary: {line}")
            requirements[match["id"]] = Requirement(section=section, **match.groupdict())
    return list(requirements.values())


def read_reasons(text: str) -> dict[str, str]:
    """Return, by id, the reasons for which requirements do not apply: *text* has one a line, behind the id."""
    reasons = {}
    for number, line in enumerate(text.splitlines(), 1):
        id_, _, reason = line.partition(" ")
        if not reason or id_ in reasons:
            raise Mistake(f"requirements-not-applicable.txt, line {number}: no new id with a reason: {line}")
        reasons[id_] = reason.replace("|", "\\|")
    return reasons


def judge(
    requirements: Iterable[Requirement], reasons: Mapping[str, str], report: Mapping[str, Any], *, ran: bool
) -> list[Row]:
    """Return a row for each of the *requirements*; with *ran*, one with a test that did not pass is open.

    *report* is what `--requirement-report` writes. Raises `Mistake` if a test or a reason is for no requirement, or
    both are for the same.
    """
    requirements = list(requirements)
    known = {requirement.id for requirement in requirements}
    tests: dict[str, list[str]] = {}
    for test, told in sorted(report.items()):
        for id_ in told["requirements"]:
            if id_ not in known:
                raise Mistake(f"{test} names {id_}, which requirements.md does not have")
            tests.setdefault(id_, []).append(test)
    for id_ in reasons:
        if id_ not in known:
            raise Mistake(f"requirements-not-applicable.txt names {id_}, which requirements.md does not have")
        if id_ in tests:
            raise Mistake(f"requirements-not-applicable.txt names {id_}, which {tests[id_][0]} tests")
    rows = []
    for requirement in requirements:
        named = tuple(tests.get(requirement.id, ()))
        if requirement.id in reasons:
            rows.append(Row(requirement, EXCUSED, reason=reasons[requirement.id]))
        elif named and not (ran and any(report[test]["outcome"] != "passed" for test in named)):
            rows.append(Row(requirement, TESTED, named))
        else:
            rows.append(Row(requirement, OPEN, named))
    return rows


def page(rows: list[Row]) -> str:
    """Return the page that shows *rows*: their counts, and then a table of each section."""
    parts = [HEAD, _counts(rows)]
    section = None
    for row in rows:
        if row.requirement.section != section:
            section = row.requirement.section
            parts.append(f"\n## {section}\n\n| id | level | requirement | state | tests, or why it does not apply |\n")
            parts.append("|---|---|---|---|---|\n")
        cells = (row.requirement.id, row.requirement.level, row.requirement.summary, row.state)
        parts.append(f"| {' | '.join(cells)} | {row.reason or _by_file(row.tests)} |\n")
    return "".join(parts)


def _counts(rows: list[Row]) -> str:
    counted = Counter((row.requirement.level, row.state) for row in rows)
    lines = [f"\n| level | requirements | {' | '.join(STATES)} |", "|---|" + "--:|" * (1 + len(STATES))]
    for level in LEVELS:
        numbers = [counted[level, state] for state in STATES]
        if any(numbers):
            lines.append(f"| {level} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    totals = [sum(row.state == state for row in rows) for state in STATES]
    lines.append(f"| all | {len(rows)} | {' | '.join(map(str, totals))} |")
    return "\n".join(lines) + "\n"


def _by_file(tests: Iterable[str]) -> str:
    """Return *tests*, node IDs in order, with each file named once."""
    files: dict[str, list[str]] = {}
    for test in tests:
        file, _, name = test.partition("::")
        files.setdefault(file.removeprefix("tests/"), []).append(f"`{name}`")
    return "; ".join(f"`{file}`: {', '.join(names)}" for file, names in files.items())


def collect() -> dict[str, Any]:
    """Return what the tests name, by having pytest collect them."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        pytest = [sys.executable, "-m", "pytest", "--collect-only", "-qq", f"--requirement-report={report}"]
        done = subprocess.run(pytest, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Mistake(f"pytest could not collect the tests:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return read_report(report)


def read_report(file: Path) -> dict[str, Any]:
    """Return what pytest wrote to *file*."""
    try:
        report: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Mistake(f"{file} is no report of pytest --requirement-report: {error}") from None
    return report


def main(arguments: list[str] | None = None) -> None:
    """Write the page, or with --check say what is wrong with it."""
    parser = argparse.ArgumentParser(description="Make docs/conformance.md.")
    parser.add_argument("--run", type=Path, metavar="FILE", help="what pytest --requirement-report=FILE wrote")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is old or a row is open")
    options = parser.parse_args(arguments)
    try:
        requirements = read_requirements(REQUIREMENTS.read_text("utf-8"))
        reasons = read_reasons(NOT_APPLICABLE.read_text("utf-8"))
        report = collect() if options.run is None else read_report(options.run)
        rows = judge(requirements, reasons, report, ran=options.run is not None)
    except Mistake as mistake:
        sys.exit(str(mistake))
    still_open = [
        f"{row.requirement.id} is open: {', '.join(row.tests) or 'no test names it'}"
        for row in rows
        if row.state == OPEN
    ]
    made = page(rows)
    if not options.check:
        PAGE.write_text(made, "utf-8")
    elif still_open:
        sys.exit("\n".join(still_open))
    elif not PAGE.exists() or PAGE.read_text("utf-8") != made:
        sys.exit(f"{PAGE.relative_to(ROOT)} is out of date; {COMMAND} mends it")


if __name__ == "__main__":
    main()
