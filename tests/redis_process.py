"""A real Redis for a test: started in a folder of its own, killed, frozen and brought back as the test wants."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

START_TIMEOUT = 20.0


def free_port(but: int = 0) -> int:
    """Return a free port, not *but*, below those that the system gives to clients: a server is to come back on it."""
    ports = [port for port in range(6400, 9999) if port != but]
    for port in random.sample(ports, 300):  # or two test runs would find the same one
        with socket.socket() as tcp:
            try:
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port of four digits is free")


class RedisProcess:
    """One `redis-server` with the arguments given, on a free `port` of 127.0.0.1; it keeps what it acknowledged.

    *password* is that of its default user. `arguments` may be added to before the start. Skips the test where Redis
    is not installed.
    """

    def __init__(self, directory: Path, *arguments: str, password: str = "") -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        self.password = password
        self._directory = directory
        self.arguments = [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", *arguments,
        ]  # fmt: skip
        if password:
            self.arguments += ["--requirepass", password]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            log_text = (self._directory / "redis.log").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.01)

    def freeze(self) -> None:
        """Have it take connections and octets, and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(15)
            self._process = None

    def cli(self, *command: str) -> str:
        """Return what `redis-cli` prints for *command*."""
        password = ["-a", self.password, "--no-auth-warning"] if self.password else []
        done = subprocess.run(
            ["redis-cli", "-p", str(self.port), *password, *command], capture_output=True, check=True, timeout=15
        )
        return done.stdout.decode(errors="replace").strip()

    def _answers(self) -> bool:
        """Whether it says that it is up, which it may also do by asking for a password."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it is not running"
        self._process.send_signal(number)
