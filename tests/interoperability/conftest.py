"""A server as an operator starts it: `twistd` in a child process, found and stopped by the test."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.interoperability.clients import Client
from tests.interoperability.stores import shared_store, store_text  # noqa: F401  # fixtures, found by being here

START_TIMEOUT = 20.0


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of four digits that is free for UDP and TCP; sipsak cuts a fifth digit off."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.sample(range(6100, 9999), 300):  # or two test runs on a machine would find the same one
        with socket.socket(family, socket.SOCK_DGRAM) as udp, socket.socket(family) as tcp:
            try:
                udp.bind((host, port))
                tcp.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("no port of four digits is free")


def twistd() -> str:
    """Return the path of the `twistd` that belongs to the Python that runs the tests."""
    beside = Path(sys.executable).with_name("twistd")
    found = str(beside) if beside.exists() else shutil.which("twistd")
    assert found is not None, "Twisted is installed without its twistd script"
    return found


class Server:
    """One `twistd -n sipuas` with the arguments given, in a directory of its own; `log` is what it printed.

    It listens on a free port of *host*, as *listen* says with that `port` put in. *command* is what runs it.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        host: str = "127.0.0.1",
        listen: str = "udp:{port}",
        command: Sequence[str] = (),
    ) -> None:
        self.port = free_port(host)
        self.directory = directory
        self._log_path = directory / f"log-{self.port}"  # several servers may share the directory
        listen = listen.format(port=self.port)
        self._arguments = [*command, twistd(), "-n", "--pidfile=", "sipuas", "--listen", listen, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        return self._log_path.read_text(errors="replace")

    @property
    def process_id(self) -> int:
        """The number of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it says that it listens."""
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._arguments,
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while "Listening on" not in self.log:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def reload(self) -> None:
        """Send SIGHUP, as `systemctl reload` and certificate renewal hooks do."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """Kill the server as `kill -9` does: it gets no chance to save anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server as an operator does."""
        if self._process is not None:
            self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(15)
        self._process = None


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return what starts a `Server` with what that takes; all are stopped after the test."""
    servers = []

    def make(*arguments: str, **options: Any) -> Server:
        server = Server(tmp_path, *arguments, **options)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def run_client(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs a SIP client to its end, in the test's directory; skips where it is not installed.

    *command* is what runs the client, where that is not the test itself.
    """

    def run(program: str, *arguments: str, command: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"{program} is not installed")
        return subprocess.run(
            [*command, path, *arguments],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=60,
        )

    return run


@pytest.fixture
def start_client(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Return what starts a `Client`; all are stopped after the test. Skips where the program is not installed."""
    clients: list[Client] = []

    def start(program: str, *arguments: str) -> Client:
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"{program} is not installed")
        clients.append(Client(tmp_path, len(clients), [path, *arguments]))
        return clients[-1]

    yield start
    for client in clients:
        client.stop()
