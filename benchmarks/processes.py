"""What the benchmarks that ask servers share: servers and clients in processes of their own, CPU time and memory."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "Client",
    "Result",
    "Server",
    "Unavailable",
    "client_of",
    "cpu_time",
    "free_port",
    "memory",
    "pause",
    "python_server",
    "resume",
    "run_script",
    "serving",
]

_HERE = Path(__file__).parent
_CSEQS = itertools.count(1, 1_000_000)  # where each run begins: what a phone has sent before is always smaller


class Unavailable(Exception):
    """A server that cannot be measured here, and why."""


class Server(NamedTuple):
    """A server that runs: the process that leads its session, and its port on 127.0.0.1."""

    process: int
    port: int


class Result(NamedTuple):
    """What a client says of a run, see `load.py`."""

    right: int
    wrong: int
    lost: int
    seconds: float
    busy: float
    p50: float = float("nan")
    p99: float = float("nan")

    @property
    def rate(self) -> float:
        """Exchanges in a second that went right."""
        return self.right / self.seconds if self.seconds else 0.0


def _processors() -> tuple[set[int], set[int]]:
    """Return the processors of the server and of the client."""
    usable = sorted(os.sched_getaffinity(0))
    return (set(usable), set(usable)) if len(usable) < 2 else ({usable[0]}, {usable[1]})


_SERVER, _CLIENT = _processors()


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free for UDP and TCP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            port = int(udp.getsockname()[1])
            try:
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _members(server: Server) -> list[Path]:
    """Return the directories in /proc of all processes of the session of *server*."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                session = (entry / "stat").read_text().rpartition(")")[2].split()[3]
            except OSError:
                continue  # it is gone
            if session == str(server.process):
                members.append(entry)
    return members


def pause(server: Server) -> None:
    """Stop all processes of *server*, so that the processor is another's."""
    _signal(server, signal.SIGSTOP)


def resume(server: Server) -> None:
    """Let *server* go on."""
    _signal(server, signal.SIGCONT)


def _signal(server: Server, number: signal.Signals) -> None:
    for member in _members(server):
        with suppress(ProcessLookupError):  # it is gone
            os.kill(int(member.name), number)


def cpu_time(server: Server) -> float:
    """Return the seconds of CPU time that the scheduler accounts to all threads of all processes of *server*."""
    accounts = [account for member in _members(server) for account in member.glob("task/*/schedstat")]
    return sum(int(account.read_text().split()[0]) for account in accounts) / 1e9


def memory(server: Server) -> float:
    """Return the octets of resident memory of all processes of *server*, what they share counted once."""
    rollups = [(member / "smaps_rollup").read_text() for member in _members(server)]
    kibibytes = [line.split()[1] for rollup in rollups for line in rollup.splitlines() if line.startswith("Pss:")]
    return 1024 * sum(int(number) for number in kibibytes)


@contextmanager
def serving(
    command: list[str],
    port: int,
    *,
    is_pinned: bool = True,
    directory: str | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[Server]:
    """Run *command*, which serves *port*, in a session of its own; on the server's processor alone if *is_pinned*."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, _SERVER if is_pinned else _SERVER | _CLIENT),
    )
    server = Server(process.pid, port)
    try:
        yield server
    finally:
        resume(server)
        _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    """End the session of *process*."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except ProcessLookupError:
        process.wait()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def python_server(*command: str, is_pinned: bool = True, **options: Any) -> Iterator[Server]:
    """Run Python with *command*, in which ``{port}`` stands for the port that it has to serve; see `serving`."""
    port = free_port()
    arguments = [part.replace("{port}", str(port)) for part in command]
    with serving([sys.executable, *arguments], port, is_pinned=is_pinned, **options) as server:
        yield server


class Client:
    """A client of one server, in a process of its own; see `client_of`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, kind: str, status: int | None, **how: Any) -> None:
        """Begin a run of exchanges of *kind*, which should end with *status*; *how* is as `load.py` takes it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"kind": kind, "status": status, "cseq": next(_CSEQS), **how}) + "\n")
        self._process.stdin.flush()

    def result(self) -> Result:
        """Wait for the end of the run; raises `Unavailable` if the client failed."""
        return Result(**json.loads(self.line()))

    def run(self, kind: str, status: int | None, **how: Any) -> Result:
        """Do both."""
        self.begin(kind, status, **how)
        return self.result()

    def line(self) -> str:
        """Wait for the next line of the client; raises `Unavailable` if it ended, with what it said last."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip().splitlines()
            raise Unavailable(said[-1] if said else f"the client ended with status {self._process.wait()}")
        return line


@contextmanager
def client_of(
    server: Server, transport: str = "udp", connections: int = 1, *, is_pinned: bool = True
) -> Iterator[Client]:
    """Run a client of *server*, on the client's processor alone if *is_pinned*, once the server answers it.

    Raises `Unavailable` if that does not answer.
    """
    process = subprocess.Popen(
        [sys.executable, str(_HERE / "load.py"), transport, str(server.port), str(connections)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, _CLIENT if is_pinned else _SERVER | _CLIENT),
    )
    with process:
        try:
            client = Client(process)
            client.line()
            yield client
        finally:
            process.kill()


def run_script(script: str) -> list[str]:
    """Run *script*, of this directory, and return the words that it prints."""
    done = subprocess.run([sys.executable, str(_HERE / script)], check=True, capture_output=True, text=True)
    return done.stdout.split()
