"""Does the main job hold with clients that are not ours: register with sipsak, be redirected in SIPp?"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

SCENARIO = Path(__file__).with_name("redirected_call.xml")
CONTACT = "sip:alice@127.0.0.1:5099"

pytestmark = pytest.mark.interoperability

Client = Callable[..., subprocess.CompletedProcess[str]]


def register(run_client: Client, port: int, *, transport: str = "udp", expires: int = 120) -> str:
    """Register alice's contact with sipsak, and return what sipsak printed."""
    target = f"sip:alice@127.0.0.1:{port}"
    done = run_client(
        "sipsak", "-U", "-i", "-vvv", "-E", transport, "-C", CONTACT, "-x", str(expires), "-s", target
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def call(
    run_client: Client,
    directory: Path,
    port: int,
    transport: str,
    *,
    before_ack: int,
    after_ack: int,
    user: str = "alice",
) -> str:
    """Call *user* with SIPp, and return the trace of its messages."""
    scenario, trace = directory / "scenario.xml", directory / "messages.log"
    text = SCENARIO.read_text()
    scenario.write_text(text.replace('"BEFORE_ACK"', f'"{before_ack}"').replace('"AFTER_ACK"', f'"{after_ack}"'))
    trace.write_text("")
    done = run_client(
        "sipp", f"127.0.0.1:{port}", "-sf", str(scenario), "-s", user, "-i", "127.0.0.1", "-m", "1", "-nostdin",
        "-t", {"udp": "u1", "tcp": "t1"}[transport], "-trace_msg", "-message_file", str(trace),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + trace.read_text()
    return trace.read_text()


def times(trace: str, what: str) -> list[float]:
    """Return when messages that begin like *what* came or went, in seconds since the epoch."""
    entry = re.compile(r"-{20,} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+)\n[^\n]*\n\n" + re.escape(what))
    return [datetime.fromisoformat(stamp).timestamp() for stamp in entry.findall(trace)]


@pytest.mark.parametrize("location", ["sqlite:bindings.sqlite", "memory:"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_register_and_redirect(
    make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path, transport: Any, location: Any
) -> None:
    """A contact registered with sipsak is where SIPp's INVITE is sent to, by a 302 (8.3, 10.3)."""
    server = make_server("--location", location)
    assert f"<{CONTACT}>;expires=120" in register(run_client, server.port, transport=transport)
    trace = call(run_client, tmp_path, server.port, transport, before_ack=1, after_ack=1)
    assert len(times(trace, "SIP/2.0 302 ")) == 1


@pytest.mark.requirement("17.2.1-14")
def test_retransmissions_stop_at_the_ack(
    make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path
) -> None:
    """Over UDP the 302 comes again after 0.5 s and 1.5 s, and no more once it was acknowledged (17.2.1, Timer G)."""
    server = make_server()
    register(run_client, server.port)
    trace = call(run_client, tmp_path, server.port, "udp", before_ack=2200, after_ack=2200)
    first, *later = times(trace, "SIP/2.0 302 ")
    assert [moment - first for moment in later] == pytest.approx([0.5, 1.5], abs=0.2)
    (acknowledged,) = times(trace, "ACK ")
    assert later[-1] < acknowledged < first + 3.5, "the next one was due 3.5 s after the first"


@pytest.mark.requirement("17.2.1-12")
def test_no_retransmission_over_tcp(
    make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path
) -> None:
    """Over TCP the 302 is sent once, however late the ACK comes (17.2.1, Timer G)."""
    server = make_server()
    register(run_client, server.port)
    trace = call(run_client, tmp_path, server.port, "tcp", before_ack=2000, after_ack=1)
    assert len(times(trace, "SIP/2.0 302 ")) == 1


def test_options_for_the_server(make_server: Callable[..., Any], run_client: Callable[..., Any]) -> None:
    """OPTIONS for the server itself gets 200 and says what it can do (11.2)."""
    server = make_server()
    done = run_client("sipsak", "-vv", "-s", f"sip:127.0.0.1:{server.port}")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^Allow: .*REGISTER", done.stdout, re.MULTILINE)


def test_unknown_user_is_refused(make_server: Callable[..., Any], run_client: Callable[..., Any]) -> None:
    """A user without a binding is not found: 404 (8.3)."""
    server = make_server()
    done = run_client("sipsak", "-vv", "-s", f"sip:nobody@127.0.0.1:{server.port}")
    assert "SIP/2.0 404 Not Found" in done.stdout


def test_list_and_remove(make_server: Callable[..., Any], run_client: Callable[..., Any]) -> None:
    """sipsak lists the bindings, and removes all of them with Contact "*" (10.3)."""
    server = make_server()
    target = f"sip:alice@127.0.0.1:{server.port}"
    register(run_client, server.port)
    assert f"<{CONTACT}>" in run_client("sipsak", "-U", "-i", "-vvv", "-C", "empty", "-s", target).stdout
    assert run_client("sipsak", "-U", "-i", "-C", "*", "-x", "0", "-s", target).returncode == 0
    listed = run_client("sipsak", "-U", "-i", "-vvv", "-C", "empty", "-s", target).stdout
    assert "SIP/2.0 200 OK" in listed
    assert f"<{CONTACT}>" not in listed


def test_binding_survives_kill(make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path) -> None:
    """A binding that was answered 200 is there after `kill -9` and a restart (10.3: complete or not at all)."""
    server = make_server()
    register(run_client, server.port)
    server.kill()
    server.start()
    call(run_client, tmp_path, server.port, "udp", before_ack=1, after_ack=1)


def test_log_says_where_and_what(make_server: Callable[..., Any], tmp_path: Path) -> None:
    """Two lines of the log say where the server listens and which location services it asks."""
    server = make_server()
    assert re.search(rf"Listening on udp:127\.0\.0\.1:{server.port}, tcp:127\.0\.0\.1:{server.port}", server.log)
    assert "sqlite:sipuas.sqlite" in server.log
    assert (tmp_path / "sipuas.sqlite").exists()
