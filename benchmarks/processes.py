"""What the benchmarks that compare servers share: servers and clients in processes of their own, and their CPU time."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "FAST",
    "OURS",
    "Server",
    "has_kamailio",
    "kamailio",
    "load",
    "load_from",
    "measure",
    "own_server",
    "report",
    "run_ours",
]

OURS = "twisted-sipuas"
FAST = "kamailio"
"""The name of kamailio with its fast allocator."""

_HERE = Path(__file__).parent
_KAMAILIO = """
debug=0
log_stderror=yes
fork=yes
children=1
disable_tcp=yes
auto_aliases=no
listen=udp:127.0.0.1:{port}
mpath="{modules}"
"""


def _processors() -> tuple[set[int], set[int]]:
    """Return the processors of the server and of the client."""
    usable = sorted(os.sched_getaffinity(0))
    return (set(usable), set(usable)) if len(usable) < 2 else ({usable[0]}, {usable[1]})


_SERVER, _CLIENT = _processors()


class Server(NamedTuple):
    """A server that runs: the process that leads its session, and its UDP port on 127.0.0.1."""

    process: int
    port: int


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _session(process: int) -> str:
    """Return the session of *process*, by /proc/PID/stat; empty if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[3]
    except OSError:
        return ""


def cpu_time(server: Server) -> float:
    """Return the seconds of CPU time that the scheduler accounts to all threads of all processes of *server*."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    members = [number for number in numbers if _session(number) == str(server.process)]
    accounts = [account for number in members for account in Path(f"/proc/{number}/task").glob("*/schedstat")]
    return sum(int(account.read_text().split()[0]) for account in accounts) / 1e9


@contextmanager
def _serving(command: list[str], port: int, is_pinned: bool = True) -> Iterator[Server]:
    """Run *command*, which serves *port*, in a session of its own, once it answers; on the server's processor alone
    if *is_pinned*.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, _SERVER if is_pinned else _SERVER | _CLIENT),
    )
    server = Server(process.pid, port)
    try:
        _wait_for(server)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def own_server(*command: str, is_pinned: bool = True) -> Iterator[Server]:
    """Run Python with *command*, in which ``{port}`` stands for the port that it has to serve; see `_serving`."""
    port = _free_port()
    with _serving([sys.executable, *(part.format(port=port) for part in command)], port, is_pinned) as server:
        yield server


def _kamailio_modules() -> Path | None:
    return next(iter(sorted(Path("/usr").glob("lib*/**/kamailio/modules"))), None)


def _kamailio_program() -> str | None:
    return shutil.which("kamailio") or shutil.which("kamailio", path="/usr/sbin:/usr/local/sbin")


def has_kamailio() -> bool:
    """Whether kamailio is installed; says so if it is not."""
    if _kamailio_program() is not None and _kamailio_modules() is not None:
        return True
    print("kamailio is not installed; nothing to compare with")
    return False


@contextmanager
def kamailio(configuration: str, allocator: str | None = "fm") -> Iterator[Server]:
    """Run kamailio, with one worker, by *configuration*; with another memory *allocator* than its own, or None."""
    program = _kamailio_program()
    assert program is not None
    port = _free_port()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "kamailio.cfg")
        file.write_text(_KAMAILIO.format(port=port, modules=_kamailio_modules()) + configuration)
        memory = ["-m", "2048"] if allocator is None else ["-m", "2048", "-x", allocator, "-X", allocator]
        command = [program, "-DD", "-E", *memory, "-f", str(file), "-Y", scratch, "-w", scratch]
        with _serving(command, port) as server:
            yield server


def load(server: Server, method: str, count: int, *, status: int | None = 200, users: int = 1, cseq: int = 1) -> int:
    """Let the client run, as `load.py` says; returns how many requests were answered *status*, None for any."""
    return load_from(1, server, method, count, status=status, users=users, cseq=cseq)


def load_from(
    clients: int,
    server: Server,
    method: str,
    count: int,
    *,
    status: int | None = 200,
    users: int = 1,
    cseq: int = 1,
    is_pinned: bool = True,
) -> int:
    """Let so many *clients* at a time, each with a port of its own, send *count* requests together; see `load`."""
    arguments = [str(item) for item in (server.port, method, status or "", count // clients, users, cseq)]
    running = [
        subprocess.Popen(
            [sys.executable, str(_HERE / "load.py"), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, _CLIENT if is_pinned else _SERVER | _CLIENT),
        )
        for _ in range(clients)
    ]
    answered = others = 0
    for client in running:
        printed, _ = client.communicate()
        if client.returncode:
            raise SystemExit(f"a client failed with status {client.returncode}")
        answered += int(printed.split()[0])
        others += int(printed.split()[1])
    if others and count > 1:
        print(f"    {others} of {count} {method} were lost, or answered with another status than {status}")
    return answered


def _wait_for(server: Server) -> None:
    """Wait until *server* answers."""
    for _ in range(50):
        if load(server, "OPTIONS", 1, status=None):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on UDP port {server.port}")


def measure(servers: dict[str, Server], ask: Callable[[Server], int], rounds: int) -> dict[str, list[float]]:
    """Return the microseconds of CPU time that each of *servers* takes for a request; they take turns.

    *ask* sends requests to a server and returns how many were answered.
    """
    results: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            before = cpu_time(server)
            answered = ask(server)
            results[name].append((cpu_time(server) - before) / answered * 1e6)
    return results


def report(what: str, results: dict[str, list[float]]) -> None:
    """Print the *results* of `measure` for *what*: medians and spread, and ours as a multiple of each other's."""
    ours = statistics.median(results[OURS])
    for name, times in results.items():
        median = statistics.median(times)
        line = f"{what:20} {name:21} {median:6.1f} µs of CPU ({min(times):.1f} to {max(times):.1f})"
        print(line if name == OURS else f"{line}; ours {ours / median:.2f} times that")


def run_ours(script: str) -> list[str]:
    """Run *script*, of this directory, and return the words that it prints."""
    done = subprocess.run([sys.executable, str(_HERE / script)], check=True, capture_output=True, text=True)
    return done.stdout.split()
