"""Is a kind of location service that others add found and used, and does a broken one harm nobody else?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from tests.examples.test_examples import ROOT, Example, load
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing import make_request

SOURCE = ROOT / "examples" / "location_plugin"
TARGETS = "sip:desk@192.0.2.7 sip:voicemail@192.0.2.8"


@pytest.fixture
def path(tmp_path: Path) -> Any:
    """A PYTHONPATH with the project and the example on it, of which Twisted may cache what plugins it has."""
    plugin = tmp_path / "plugin"
    shutil.copytree(SOURCE, plugin, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    return os.pathsep.join([str(ROOT), str(plugin)])


@pytest.fixture
def broken(tmp_path: Path) -> Any:
    """A directory with a plugin that fails to import."""
    plugins = tmp_path / "broken" / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "broken_plugin.py").write_text("import no_such_module\n")
    return str(tmp_path / "broken")


@pytest.fixture
def office_hours() -> Any:
    """The example's module."""
    return load("location_plugin/office_hours.py")


def sipuas(path: Any, *arguments: Any) -> Any:
    """Run the command to its end, and return what it says."""
    return subprocess.run(
        [sys.executable, "-m", "twisted_sipuas", *arguments],
        env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def test_is_listed(path: Any) -> None:
    """`sipuas --help-location` lists the kind beside ours, with its form and options."""
    done = sipuas(path, "--help-location")
    assert done.returncode == 0
    assert done.stderr == ""
    kinds = [line.partition(":")[0].partition("[")[0] for line in done.stdout.splitlines() if line[0] != " "]
    assert {"memory", "sqlite", "enum", "http", "hours"} <= set(kinds)
    assert "hours:OPEN_URI CLOSED_URI redirects by the time of day." in done.stdout


@pytest.mark.parametrize(("days", "target"), [(0, "sip:desk@192.0.2.7"), (2, "sip:voicemail@192.0.2.8")])
def test_redirects(path: Any, tmp_path: Path, days: Any, target: Any) -> None:
    """A call is redirected by the kind, open today and closed where it is open in two days."""
    today = datetime.now(timezone.utc) + timedelta(minutes=1)  # the test may run over midnight
    day = (today + timedelta(days=days)).strftime("%a").lower()
    arguments = ["--listen", "udp:0", "--location", f"hours,open=0000-2359,days={day}:{TARGETS}"]
    server = Example(tmp_path, "-m", "twisted_sipuas", *arguments, PYTHONPATH=path, TZ="UTC0")
    try:
        (answer,) = server.ask("INVITE", "sip:office@127.0.0.1")
    finally:
        server.stop()
    assert answer.startswith("SIP/2.0 302 Moved Temporarily\r\n")
    assert f"Contact: <{target}>\r\n" in answer
    assert "redirecting to what office hours from 00:00 to 23:59 says" in server.log


def test_mistake(path: Any) -> None:
    """A mistake in its text is a usage error of one line, like those of ours."""
    done = sipuas(path, "--location", "hours,days=yesterday:sip:a@h sip:b@h")
    assert done.returncode == 1
    assert "days=yesterday: expected a day or DAY-DAY, of mon, tue" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("", [(2, 9, True), (2, 16.9, True), (2, 17, False), (2, 8.9, False), (5, 12, False), (6, 12, False)]),
        (",open=0800-1230", [(2, 8, True), (2, 12.4, True), (2, 12.5, False)]),
        (",days=sat-mon", [(5, 12, True), (6, 12, True), (0, 12, True), (1, 12, False)]),
        (",days=sun", [(6, 12, True), (5, 12, False)]),
    ],
)
def test_office_hours(office_hours: Any, text: Any, hours: Any) -> None:
    """Office hours begin and end on the minute, on the days that they are for."""
    clock = Clock()
    options = dict(setting.split("=") for setting in text.split(",")[1:])
    service = office_hours.make(TARGETS, options, clock)
    monday = datetime(2026, 11, 23)
    for day, hour, is_open in hours:
        clock.rightNow = (monday + timedelta(days=day, hours=hour)).timestamp()
        (target,) = service.lookup(parse_uri("sip:office@h"), make_request()).targets
        assert (target.uri.user == "desk") == is_open


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("", {}),
        ("sip:a@h", {}),
        (TARGETS, {"open": "9-17"}),
        (TARGETS, {"open": "0900-2500"}),
        (TARGETS, {"open": "1700-0900"}),
        (TARGETS, {"days": "mon-someday"}),
        (TARGETS, {"zone": "Mars/Phobos"}),
    ],
)
def test_mistakes(office_hours: Any, argument: Any, options: Any) -> None:
    """What makes no office hours is a ValueError."""
    with pytest.raises(ValueError):
        office_hours.make(argument, options, Clock())


def test_broken_plugin_in_the_list(path: Any, broken: Any) -> None:
    """A plugin that cannot be imported is told of, and every other kind is listed all the same."""
    done = sipuas(os.pathsep.join([path, broken]), "--help-location")
    assert done.returncode == 0
    for kind in ("memory:", "sqlite:", "enum:", "http:", "hours:"):
        assert f"\n{kind}" in f"\n{done.stdout}"
    assert "No module named 'no_such_module'" in done.stderr


@pytest.mark.parametrize("location", ["memory:", f"hours:{TARGETS}"])
def test_broken_plugin_beside_others(path: Any, broken: Any, tmp_path: Path, location: Any) -> None:
    """A server with a kind of ours, or of others, answers whatever else is broken."""
    everything = os.pathsep.join([path, broken])
    server = Example(
        tmp_path, "-m", "twisted_sipuas", "--listen", "udp:0", "--location", location, PYTHONPATH=everything
    )
    try:
        (answer,) = server.ask("INVITE", "sip:office@127.0.0.1")
    finally:
        server.stop()
    assert answer.startswith("SIP/2.0 404 " if location == "memory:" else "SIP/2.0 302 ")
