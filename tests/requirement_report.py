"""Which tests name which requirements, and how did they end? A pytest plugin that writes it to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the option."""
    parser.addoption(
        "--requirement-report",
        type=Path,
        metavar="FILE",
        help="write to FILE, as JSON, which requirements each test names and whether it passed",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep a report if it is asked for."""
    file = config.getoption("requirement_report")
    if file is not None:
        config.pluginmanager.register(_Report(file))


class _Report:
    """Writes, of each test that names requirements: these, and ``passed``, ``failed`` or ``not run``.

    A test is one whatever its parameters are: it names what any of its cases names, and passed if all of them did.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._requirements: dict[str, set[str]] = {}
        self._outcomes: dict[str, dict[str, str]] = {}  # of each case, by its whole node ID

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            ids = [id_ for mark in item.iter_markers("requirement") for id_ in mark.args]
            if ids:
                self._requirements.setdefault(_test(item.nodeid), set()).update(ids)
            self._outcomes.setdefault(_test(item.nodeid), {})[item.nodeid] = "not run"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cases = self._outcomes[_test(report.nodeid)]
        if not report.passed or hasattr(report, "wasxfail"):
            cases[report.nodeid] = "failed"  # as was one that was skipped or is expected to: it defends nothing
        elif report.when == "call":
            cases[report.nodeid] = "passed"

    def pytest_sessionfinish(self) -> None:
        tests: dict[str, Any] = {}
        for test, ids in sorted(self._requirements.items()):
            outcomes = set(self._outcomes[test].values())
            outcome = next(kind for kind in ("failed", "not run", "passed") if kind in outcomes)
            tests[test] = {"requirements": sorted(ids), "outcome": outcome}
        self._file.write_text(json.dumps(tests, indent=1) + "\n", "utf-8")


def _test(node_id: str) -> str:
    """Return *node_id* without the parameters of the case."""
    return node_id.partition("[")[0]
