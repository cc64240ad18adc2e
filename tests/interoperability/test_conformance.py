"""Does the command that judges SIP servers find nothing broken in ours, as an operator starts it?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interoperability.conftest import free_port
from tests.interoperability.test_tls import write_certificate

pytestmark = pytest.mark.interoperability

ROUTES = '[[route]]\nuser = "alice"\ntargets = "sip:alice@192.0.2.7:5070"\n'
SERVERS = {
    "redirect": (["--location", "routes:routes.toml"], ["--uri", "sip:alice@127.0.0.1"]),
    "uas": (["--mode", "stateful"], ["--uri", "sip:bob@127.0.0.1"]),
    "registrar": (["--location", "memory:", "--domain", "127.0.0.1"], ["--uri", "sip:127.0.0.1"]),
    "stateless": (["--mode", "stateless"], ["--uri", "sip:bob@127.0.0.1"]),
}
"""By role: the options of the server, and those of the command."""


def judging(server: str, *arguments: str) -> subprocess.Popen[str]:
    """Start the command on *server*."""
    return subprocess.Popen(
        [sys.executable, "-m", "twisted_sipuas.conformance", server, *arguments],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end of *process*, and return its exit status and what it printed."""
    try:
        printed, error = process.communicate(timeout=150)
    finally:
        process.kill()
    return process.returncode, printed, error


@pytest.mark.parametrize("role", SERVERS)
def test_nothing_of_ours_is_broken(make_server: Any, tmp_path: Path, role: Any) -> None:
    """The command gives exit status 0, strictly, for our server in each role, by UDP and TCP at a time."""
    (tmp_path / "routes.toml").write_text(ROUTES)
    options, arguments = SERVERS[role]
    server = make_server(*options)
    running = [
        judging(
            f"{transport}:127.0.0.1:{server.port}", "--role", role, "--aor", f"sip:{transport}@127.0.0.1", *arguments,
            "--strict", "--timeout", "10", "--json",
        )
        for transport in ("udp", "tcp")
    ]  # fmt: skip
    for exit_status, printed, error in map(outcome, running):
        assert error == ""
        assert_nothing_broken(printed)
        assert exit_status == 0


def test_by_tls(make_server: Any, tmp_path: Path) -> None:
    """It is the same by TLS, whatever the certificate."""
    write_certificate(tmp_path, "server")
    listen = "ssl:{port}:privateKey=server-key.pem:certKey=server.pem:interface=127.0.0.1"
    options, arguments = SERVERS["registrar"]
    server = make_server(*options, listen=listen)
    exit_status, printed, error = outcome(
        judging(
            f"tls:127.0.0.1:{server.port}", "--role", "registrar", *arguments, "--strict", "--timeout", "10", "--json"
        )
    )
    assert error == ""
    assert_nothing_broken(printed)
    assert exit_status == 0


def assert_nothing_broken(printed: str) -> None:
    results = json.loads(printed)["results"]
    assert [result for result in results if result["outcome"] == "broken"] == []
    assert len([result for result in results if result["outcome"] == "holds"]) > 50


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_nobody_there(transport: Any) -> None:
    """Where nothing listens the command gives exit status 2, and says so in one line."""
    exit_status, printed, error = outcome(
        judging(f"{transport}:127.0.0.1:{free_port()}", "--role", "uas", "--timeout", "0.5")
    )
    assert (exit_status, printed) == (2, "")
    assert "127.0.0.1" in error
    assert len(error.splitlines()) == 1


def test_sipp_is_found_out(sipp_port: Any) -> None:
    """The command sees in SIPp's own scenario of a user agent server what that leaves out, and what it keeps."""
    uri = f"sip:service@127.0.0.1:{sipp_port}"
    sections = ["--only", "11", "--only", "12.1.1", "--only", "15.1.2"]
    exit_status, printed, _ = outcome(
        judging(f"udp:127.0.0.1:{sipp_port}", "--role", "uas", "--uri", uri, *sections, "--json")
    )
    outcomes = {result["check"]: result["outcome"] for result in json.loads(printed)["results"]}
    assert exit_status == 1
    assert outcomes["options_is_answered"] == "broken"
    assert outcomes["record_routes_are_copied"] == "broken"
    assert outcomes["acceptance_has_contact"] == "holds"
    assert outcomes["bye_gets_2xx"] == "holds"


@pytest.fixture
def sipp_port(start_client: Any) -> Any:
    """The port at which SIPp answers calls, by the scenario that it has built in."""
    port = free_port()
    start_client("sipp", "-sn", "uas", "-i", "127.0.0.1", "-p", str(port), "-nostdin")
    return port
