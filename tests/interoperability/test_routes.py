"""Does a server follow its routes file while it runs, and send a SIPp call where the file says now?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interoperability.clients import wait_for

SCENARIO = Path(__file__).with_name("routed_by_file.xml")

pytestmark = pytest.mark.interoperability


def call(run_client: Callable[..., Any], directory: Path, port: int, number: Any, contact: Any) -> None:
    """Call *number* with SIPp, which is content if it is redirected to *contact*."""
    scenario = directory / "scenario.xml"
    scenario.write_text(
        SCENARIO.read_text().replace("CONTACT", re.escape(contact).replace("<", "&lt;").replace(">", "&gt;"))
    )
    done = run_client(
        "sipp", f"127.0.0.1:{port}", "-sf", str(scenario), "-s", number, "-i", "127.0.0.1", "-m", "1", "-nostdin",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def replace(path: Path, text: str) -> None:
    """Put *text* into the place of the file *path* as a whole, as editors do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_calls_follow_the_file(make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path) -> None:
    """A call goes where the file says, after a change where it says then, and there still when the file is broken."""
    routes, rates = tmp_path / "routes.toml", tmp_path / "rates.csv"
    routes.write_text('[[route]]\nfile = "rates.csv"\ntargets = "sip:{number}@{gateway}"\n')
    rates.write_text("prefix,gateway\n+49,de.example.net\n+4930,berlin.example.net\n")
    server = make_server("--location", "routes:routes.toml")
    call(run_client, tmp_path, server.port, "+49-30-123", "<sip:+4930123@berlin.example.net>")
    call(run_client, tmp_path, server.port, "+4940123", "<sip:+4940123@de.example.net>")

    replace(rates, "prefix,gateway\n+49,eu.example.net\n")
    wait_for(r"routes\.toml was read: 1 routes", lambda: server.log)
    call(run_client, tmp_path, server.port, "+4930123", "<sip:+4930123@eu.example.net>")

    replace(rates, "prefix,gateway\n+49,eu.example.net\n+43\n")
    wait_for(
        r"rates\.csv:3: expected 2 cells, prefix, gateway, not 1: the routes stay as they were", lambda: server.log
    )
    call(run_client, tmp_path, server.port, "+4930123", "<sip:+4930123@eu.example.net>")

    replace(rates, "prefix,gateway\n+49,new.example.net\n")
    server.reload()
    wait_for(r"(?s)was read.*was read", lambda: server.log)
    call(run_client, tmp_path, server.port, "+4930123", "<sip:+4930123@new.example.net>")


def test_wrong_file_at_start(make_server: Callable[..., Any], tmp_path: Path) -> None:
    """A server whose routes file is wrong does not start, and says in one line where the fault is."""
    (tmp_path / "routes.toml").write_text('[[route]]\ntargets = "sip:{usr}@h"\n')
    with pytest.raises(AssertionError) as raised:
        make_server("--location", "routes:routes.toml")
    said = f"sipuas: {tmp_path}/routes.toml:2: 'sip:{{usr}}@h': there is no placeholder {{usr}}: did you mean user?"
    assert said in str(raised.value)
    assert "Traceback" not in str(raised.value)
