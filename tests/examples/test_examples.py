"""Does each example do what it says, as it stands?"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]


class Example:
    """An example as a child process on a free port; `ask` sends it a request and returns what it answers.

    *arguments* are those of Python; *more* is variables of the environment.
    """

    def __init__(self, directory: Path, *arguments: str, **more: str) -> None:
        self.log_path = directory / "log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
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

    def ask(self, method: str, uri: str, *header_lines: str, body: str = "", branch: str = "example") -> list[str]:
        """Send a request, and return the responses up to the final one; that to an INVITE is acknowledged."""
        responses: list[str] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(request(method, uri, *header_lines, branch=branch) + body.encode(), ("127.0.0.1", self.port))
            while not responses or responses[-1].startswith("SIP/2.0 1"):
                responses.append(client.recv(65535).decode())
            if method == "INVITE":
                client.sendto(request("ACK", uri, branch=branch), ("127.0.0.1", self.port))
        return responses

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
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return what starts an example by its file name; it is stopped after the test."""
    started = []

    def start(name: str, *arguments: str) -> Example:
        started.append(Example(tmp_path, str(ROOT / "examples" / name), "udp:0", *arguments))
        return started[-1]

    yield start
    for process in started:
        assert process.stop() == 0
        assert "Traceback" not in process.log


def test_least_cost(example: Callable[..., Any]) -> None:
    """The longest prefix decides, and the cheapest gateway has the highest q."""
    server = example("least_cost.py")
    (answer,) = server.ask("INVITE", "sip:4930123@127.0.0.1")
    assert answer.startswith("SIP/2.0 300 Multiple Choices\r\n")
    assert "Contact: <sip:4930123@berlin.example.net>;q=1\r\nContact: <sip:4930123@gw2.example.net>;q=0.9\r\n" in answer
    (answer,) = server.ask("OPTIONS", "sip:33123@127.0.0.1")
    assert answer.startswith("SIP/2.0 404 No Rate For This Number\r\n")


def test_greeter(example: Callable[..., Any]) -> None:
    """A message is answered and logged, a call rings and then is busy."""
    server = example("greeter.py")
    (answer,) = server.ask("MESSAGE", "sip:bob@127.0.0.1", "Content-Type: text/plain", body="hello")
    assert answer.startswith("SIP/2.0 200 OK\r\n")
    assert "sip:test@127.0.0.1 says 'hello'" in server.log
    ringing, busy = server.ask("INVITE", "sip:bob@127.0.0.1")
    assert ringing.startswith("SIP/2.0 180 Ringing\r\n")
    assert busy.startswith("SIP/2.0 486 Busy Here\r\n")


def test_with_web(example: Callable[..., Any]) -> None:
    """What is set on the page is where calls are redirected to, and the page counts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = example("with_web.py", f"tcp:{port}:interface=127.0.0.1")

    def page(data: bytes | None = None) -> str:
        with urlopen(f"http://127.0.0.1:{port}/", data, timeout=5) as answer:
            result: str = answer.read().decode()
            return result

    (answer,) = server.ask("INVITE", "sip:support@127.0.0.1")
    assert answer.startswith("SIP/2.0 480 Nobody Is on Duty\r\n")
    assert "sip:bob@192.0.2.7" in page(b"contact=sip:bob@192.0.2.7")
    (answer,) = server.ask("INVITE", "sip:support@127.0.0.1", branch="another")
    assert "Contact: <sip:bob@192.0.2.7>\r\n" in answer
    assert "Calls so far: 1." in page()
    with pytest.raises(HTTPError, match="400"):
        page(b"contact=<script>")
    assert "Calls so far: 1." in page()


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
