"""Does each example do what it says, as it stands?"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.interoperability.clients import wait_for
from twisted_sipuas.testing import expect, scenario, send, step

ROOT = Path(__file__).parents[2]

_numbers = itertools.count()  # of requests: one with the branch of another is a retransmission of that


def load(name: str) -> Any:
    """Return the module of the example in the file *name*."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "examples" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Example:
    """An example as a child process on a free port; `ask` sends it a request and returns what it answers.

    *arguments* are those of Python, or of another *program*; *more* is variables of the environment.
    """

    def __init__(self, directory: Path, *arguments: str, program: str = sys.executable, **more: str) -> None:
        self.log_path = directory / "log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *arguments],
                cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while "Listening on udp:127.0.0.1:" not in self.log:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        self.port = int(self.log.partition("Listening on udp:127.0.0.1:")[2].partition(",")[0])

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def ask(
        self, method: str, uri: str, *header_lines: str, body: str = "", branch: str = "", source: str = ""
    ) -> list[str]:
        """Send a request, a new one unless *branch* says otherwise, and return the responses up to the final one.

        That to an INVITE is acknowledged. *source* is the address to send from.
        """
        branch = branch or f"{next(_numbers)}"
        responses: list[str] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.bind((source, 0))
            client.sendto(request(method, uri, *header_lines, branch=branch) + body.encode(), ("127.0.0.1", self.port))
            while not responses or responses[-1].startswith("SIP/2.0 1"):
                responses.append(client.recv(65535).decode())
            if method == "INVITE":
                client.sendto(request("ACK", uri, branch=branch), ("127.0.0.1", self.port))
        return responses

    def wait_for(self, pattern: str) -> None:
        """Wait until *pattern* is in the log."""
        wait_for(pattern, lambda: self.log)

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(15)


def request(method: str, uri: str, *header_lines: str, branch: str) -> bytes:
    """Return the header section of a request; an ACK is for the INVITE."""
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK{branch}",
        "From: <sip:test@127.0.0.1>;tag=1",
        f"To: <{uri}>",
        f"Call-ID: {branch}",
        f"CSeq: 1 {method}",
        "Contact: <sip:test@127.0.0.1>",
        *header_lines,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


@pytest.fixture
def example(tmp_path: Path) -> Any:
    """Return what starts an example by its file name; it is stopped after the test."""
    started = []

    def start(name: str, *arguments: str) -> Example:
        started.append(Example(tmp_path, str(ROOT / "examples" / name), "udp:0", *arguments))
        return started[-1]

    yield start
    for process in started:
        assert process.stop() == 0
        assert "Traceback" not in process.log


def test_least_cost(example: Any) -> None:
    """The longest prefix decides, and the cheapest gateway has the highest q."""
    server = example("least_cost.py")
    (answer,) = server.ask("INVITE", "sip:4930123@127.0.0.1")
    assert answer.startswith("SIP/2.0 302 Moved Temporarily\r\n")
    assert "Contact: <sip:4930123@berlin.example.net>;q=1\r\nContact: <sip:4930123@gw2.example.net>;q=0.5\r\n" in answer
    (answer,) = server.ask("OPTIONS", "tel:+49-89-123")
    assert "Contact: <sip:+4989123@gw2.example.net>;q=1\r\nContact: <sip:+4989123@gw1.example.net>;q=0.5\r\n" in answer
    (answer,) = server.ask("OPTIONS", "sips:+49891;isub=%3B@127.0.0.1;user=phone")
    assert "Contact: <sips:+49891;isub=%3B@gw2.example.net;user=phone>;q=1\r\n" in answer
    (answer,) = server.ask("OPTIONS", "sip:33123@127.0.0.1")
    assert answer.startswith("SIP/2.0 404 No Rate For This Number\r\n")


def test_greeter(example: Any) -> None:
    """A message is answered and logged, a call rings and then is busy."""
    server = example("greeter.py")
    (answer,) = server.ask("MESSAGE", "sip:bob@127.0.0.1", "Content-Type: text/plain", body="hello")
    assert answer.startswith("SIP/2.0 200 OK\r\n")
    assert "'sip:test@127.0.0.1' says 'hello'" in server.log
    server.ask("MESSAGE", "sip:bob@127.0.0.1", "Content-Type: text/plain", body="hello\nforged \x1b[2J")
    assert r"says 'hello\nforged \x1b[2J'" in server.log
    ringing, busy = server.ask("INVITE", "sip:bob@127.0.0.1")
    assert ringing.startswith("SIP/2.0 180 Ringing\r\n")
    assert busy.startswith("SIP/2.0 486 Busy Here\r\n")


def test_greeter_by_the_clock_of_a_test() -> None:
    """The greeter takes the time from its clock, so that the test kit can move it."""
    scenario(load("greeter.py").Greeter(), send("INVITE"), expect(180), step(1), expect(486), send("ACK"))


def test_with_web(example: Any) -> None:
    """What is set on the page is where calls are redirected to, and the page counts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = example("with_web.py", f"tcp:{port}:interface=127.0.0.1")

    def page(data: bytes | None = None) -> str:
        with urlopen(f"http://127.0.0.1:{port}/", data, timeout=5) as answer:
            return str(answer.read(), "utf-8")

    (answer,) = server.ask("INVITE", "sip:support@127.0.0.1")
    assert answer.startswith("SIP/2.0 480 Nobody Is on Duty\r\n")
    assert "sip:bob@192.0.2.7" in page(b"contact=sip:bob@192.0.2.7")
    (answer,) = server.ask("INVITE", "sip:support@127.0.0.1")
    assert "Contact: <sip:bob@192.0.2.7>\r\n" in answer
    assert "Calls so far: 1." in page()
    with pytest.raises(HTTPError, match="400"):
        page(b"contact=<script>")
    assert "Calls so far: 1." in page()


def test_number_portability(example: Any, tmp_path: Path) -> None:
    """A number goes on with npdi, and with rn if the table has it (RFC 4694); SIGHUP has the table read again."""
    table = tmp_path / "ported"
    table.write_text((ROOT / "examples" / "ported_numbers.txt").read_text())
    server = example("number_portability.py", str(table), "gw.example.net")

    def contact(uri: str) -> str:
        (answer,) = server.ask("OPTIONS", uri)
        assert answer.startswith("SIP/2.0 302 Moved Temporarily\r\n")
        return str(answer.partition("Contact: ")[2].partition("\r\n")[0])

    ported = "<sip:+441632960083;npdi;rn=+441632960999@gw.example.net;user=phone>"
    assert contact("sip:+441632960083@127.0.0.1") == ported
    assert contact("tel:+44-1632-960083;rn=+1") == ported
    assert contact("sips:+441632960085@127.0.0.1") == "<sips:+441632960085;npdi@gw.example.net;user=phone>"
    looked_up = "+441632960083;npdi;rn=+4412"
    assert contact(f"sip:{looked_up}@127.0.0.1") == f"<sip:{looked_up}@gw.example.net;user=phone>"
    in_order = "<sip:+441632960084;isub=4;cic=+1;npdi;rn=+441632960998@gw.example.net;user=phone>"
    assert contact("tel:+441632960084;cic=+1;isub=4") == in_order
    for nobody in ("sip:bob@127.0.0.1", "tel:110;phone-context=+44"):
        (answer,) = server.ask("OPTIONS", nobody)
        assert answer.startswith("SIP/2.0 404 ")

    table.write_text("+441632960083 no number\n")
    server.reload()
    server.wait_for("ported:1: expected two numbers")
    assert contact("sip:+441632960083@127.0.0.1") == ported
    table.write_text("+441632960083 +441632960001\n")
    server.reload()
    deadline = time.monotonic() + 20
    while "rn=+441632960001" not in contact("sip:+441632960083@127.0.0.1"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_hunt_group(example: Any) -> None:
    """Who is not heard gets no calls; while nobody is heard the answer is 503 with Retry-After."""
    server = example("hunt_group.py", "127.0.0.1", "127.0.0.2:5080", "127.0.0.3")
    (answer,) = server.ask("INVITE", "sip:4930123@127.0.0.1")
    assert answer.startswith("SIP/2.0 503 No Gateway Is Alive\r\n")
    assert "\r\nRetry-After: 30\r\n" in answer
    (answer,) = server.ask("OPTIONS", "sip:127.0.0.1", source="127.0.0.2")
    assert answer.startswith("SIP/2.0 200 OK\r\n")
    (answer,) = server.ask("INVITE", "sip:a%3Bb@127.0.0.1")
    assert answer.startswith("SIP/2.0 302 Moved Temporarily\r\n")
    assert answer.count("Contact: ") == 1
    assert "Contact: <sip:a%3Bb@127.0.0.2:5080>;q=1\r\n" in answer


def test_honeypot(example: Any, tmp_path: Path) -> None:
    """Every request is one line of JSON, whatever is in it; no password is right, and the server says it is a PBX."""
    server = example("honeypot.py", "requests.jsonl")
    (answer,) = server.ask("REGISTER", "sip:127.0.0.1")
    assert answer.startswith("SIP/2.0 401 Unauthorized\r\n")
    assert "\r\nServer: Asterisk PBX " in answer
    nonce = answer.partition('nonce="')[2].partition('"')[0]
    digest = (
        f'Authorization: Digest username="100\\"}}\u2028", realm="asterisk", nonce="{nonce}", uri="sip:h", response="'
    )
    for response in ("0" * 32, "malformed"):
        (answer,) = server.ask("REGISTER", "sip:127.0.0.1", f'{digest}{response}"')
        assert answer.startswith("SIP/2.0 401 ")
    agent = "User-Agent: " + '"}\t\x1b[2J\udc80' + "x" * 1000
    (answer,) = server.ask("OPTIONS", "sip:100@127.0.0.1", agent)
    assert answer.startswith("SIP/2.0 200 ")
    assert "INVITE, MESSAGE, NOTIFY, OPTIONS" in answer
    (answer,) = server.ask("INVITE", "sip:900@127.0.0.1")
    assert answer.startswith("SIP/2.0 401 ")
    (answer,) = server.ask("INVITE", "sip:malformed@127.0.0.1", "Content-Length: x")
    assert answer.startswith("SIP/2.0 400 ")

    text = (tmp_path / "requests.jsonl").read_bytes()
    assert text.isascii()
    assert max(map(len, text.split(b"\n"))) < 2000
    entries = [entry for entry in map(json.loads, text.split(b"\n")[:-1]) if entry["method"] != "ACK"]
    assert [(entry["method"], entry["status"]) for entry in entries] == [
        ("REGISTER", 401), ("REGISTER", 401), ("REGISTER", 401), ("OPTIONS", 200), ("INVITE", 401), ("INVITE", 400)
    ]  # fmt: skip
    assert entries[1]["digest"] == {
        "username": '100"}\u2028',
        "realm": "asterisk",
        "uri": "sip:h",
        "response": "0" * 32,
    }
    assert entries[3]["user-agent"].startswith('"}\t\x1b[2J\\udc80xxx')
    assert entries[4]["uri"] == "sip:900@127.0.0.1"
    assert entries[4]["source"].startswith("127.0.0.1:")
    assert entries[4]["from"] == "<sip:test@127.0.0.1>;tag=1"
    assert datetime.fromisoformat(entries[4]["time"]).tzinfo == timezone.utc


def test_honeypot_on_standard_output(example: Any) -> None:
    """With - for a file the lines are on standard output, plain, for the next program to read."""
    server = example("honeypot.py", "-")
    (answer,) = server.ask("REGISTER", "sip:127.0.0.1")
    assert answer.startswith("SIP/2.0 401 ")
    (line,) = [line for line in server.log.splitlines() if line.startswith("{")]
    assert json.loads(line)["status"] == 401


def test_test_double(tmp_path: Path) -> None:
    """The tests of a client pass, in a pytest run of a user."""
    if shutil.which("sipsak") is None:
        pytest.skip("sipsak is not installed")
    command = [sys.executable, "-m", "pytest", "-p", "pytest_twisted_sipuas", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(
        [*command, ROOT / "examples" / "test_double.py", "--rootdir", tmp_path],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout
