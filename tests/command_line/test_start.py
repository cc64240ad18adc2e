"""What does an operator see who starts the server with a mistake, or in a place where it cannot run?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def sipuas(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the server in the foreground, where it is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "twisted_sipuas", *arguments],
        cwd=directory, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def twistd(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `twistd` with *arguments*; without `-n` it becomes a daemon and the call returns at once."""
    code = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=directory, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def environment() -> dict[str, str]:
    """The tests' own, with the project on the path however pytest was started."""
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        result: int = bound.getsockname()[1]
        return result


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "proxy"], "--mode: 'proxy' is unknown: expected redirect"),
        (["--listen", "5060"], "--listen: '5060' is no listener: expected udp:PORT"),
        (["--listen", "udp:sip"], "--listen: 'sip' is not a port from 0 to 65535"),
        (["--listen", "udp:5060:interface=example.com"], "--listen: 'example.com' is no IP address"),
        (["--location", "ldap:x"], "--location: 'ldap:x' is no location service: expected one of memory:, sqlite:"),
        (["--location", "sqlite:"], "--location: 'sqlite:': expected the name of a file"),
        (["--redirect-status", "305"], "--redirect-status: '305': expected 300, 301, 302, auto"),
        (["--registrar", "--no-registrar"], "--registrar and --no-registrar: expected one of them"),
        (["--min-expires", "7200", "--max-expires", "3600"], "--min-expires: expected no more than --max-expires"),
        (["--max-targets", "0"], "--max-targets: '0': expected a whole number from 1"),
        (["--max-transactions", "many"], "--max-transactions: 'many': expected a whole number from 1"),
        (["--server-header", "a\nb"], "--server-header: expected one line"),
        (["--listen", "udp:5060:interface=0.0.0.0"], "could register as anybody"),
        (["--listen", "tcp:5060"], "could register as anybody"),
        (["--domain", "a b"], "--domain: 'a b' is no domain and no IP address"),
        (["--location", "memory:", "--location", "memory:"], "--location: 'memory:' is given twice"),
        (["--advertise", "a b"], "--advertise: 'a b' cannot be advertised: expected HOST or HOST:PORT"),
        (["--trust", "192.0.2.1/24"], "--trust: '192.0.2.1/24': expected a network such as 192.0.2.0/24"),
        (["--allow", "192.0.2.1/24"], "--allow: '192.0.2.1/24': expected a network such as 192.0.2.0/24"),
        (["--deny", "scanners"], "--deny: 'scanners': expected a network such as 192.0.2.0/24"),
        (["--max-rate", "-1"], "--max-rate: '-1': expected a whole number from 0"),
        (["--rate-burst", "0"], "--rate-burst: '0': expected a whole number from 1"),
        (["--over-rate", "403"], "--over-rate: '403': expected 503 or silence"),
        (["--max-lag", "-1"], "--max-lag: '-1': expected a number of seconds"),
        (["--tls-client-ca", "ca.pem"], "--tls-client-ca: expected a --listen ssl:PORT:privateKey=FILE"),
        (["--idle-timeout", "31"], "--idle-timeout: '31': expected a whole number from 32"),
        (["--listen", "ssl:5061"], "--listen: 'ssl:5061': expected privateKey=FILE and certKey=FILE"),
        (["--listen", "ssl:5061:privateKey=key.pem"], "could register as anybody"),
        (["surplus"], "'surplus': expected options only"),
        (["--unknown"], "--unknown"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_usage_error(tmp_path: Path, arguments: Any, said: str) -> None:
    """A mistake in an option ends with a line that names the option and what was expected, and with status 1."""
    done = sipuas(tmp_path, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert len(lines) == 2, "it is not to be looked for behind all that there is to know"
    assert lines[-1].startswith("sipuas: ")
    assert said in lines[-1]
    assert list(tmp_path.iterdir()) == []


def start_faults(directory: Path, port: int) -> dict[str, tuple[list[str], str]]:
    """The faults that only show when the server starts: arguments, and what the one line has to say."""
    (directory / "not-a-database").write_text("this is no database, and long enough to be looked at\n" * 20)
    return {
        "port in use": (["--location", "memory:", "--listen", f"udp:{port}"], f"127.0.0.1:{port}"),
        "no directory": (["--listen", "udp:0", "--location", "sqlite:missing/b.sqlite"], "missing/b.sqlite"),
        "no database": (["--listen", "udp:0", "--location", "sqlite:not-a-database"], "not-a-database"),
        "no certificate": (["--location", "memory:", "--listen", "ssl:0:interface=127.0.0.1:privateKey=missing.pem"],
                           "missing.pem"),
        "no list": (["--location", "memory:", "--listen", "udp:0", "--deny", "@missing.list"], "missing.list"),
        "no address of ours": (["--location", "memory:", "--no-registrar", "--listen", "udp:0:interface=192.0.2.1"],
                               "192.0.2.1"),
        "no socket number": (["--mode", "stateless", "--listen", "systemd:domain=INET:index=0"], "no such socket"),
        "no socket name": (["--mode", "stateless", "--listen", "systemd:domain=INET:name=tcp"], "no such socket"),
    }  # fmt: skip


FAULTS = [
    "port in use",
    "no directory",
    "no database",
    "no certificate",
    "no list",
    "no address of ours",
    "no socket number",
    "no socket name",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_start_error(tmp_path: Path, fault: Any) -> None:
    """A fault at start is one line that says what and what to do, with status 1 and no traceback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        arguments, said = start_faults(tmp_path, taken.getsockname()[1])[fault]
        done = sipuas(tmp_path, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert "--l" in lines[0] or "--deny" in lines[0], "it names the option to change"


@pytest.mark.parametrize("fault", FAULTS)
def test_start_error_of_a_daemon(tmp_path: Path, fault: Any) -> None:
    """When daemonising, the command fails with status 1 all the same, in bounded time, and no process is left."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        arguments, said = start_faults(tmp_path, taken.getsockname()[1])[fault]
        done = twistd(tmp_path, "sipuas", *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "twistd.pid").exists()
    assert said in (tmp_path / "twistd.log").read_text(), "the whole line is in the log"
    assert "Traceback" not in (tmp_path / "twistd.log").read_text()


def test_daemon(tmp_path: Path, port: int) -> None:
    """As a daemon the server answers, and keeps its database where it was started from, for its owner alone."""
    done = twistd(tmp_path, "--logfile=log", "sipuas", "--listen", f"udp:{port}")
    assert done.returncode == 0, done.stdout + done.stderr
    process = int((tmp_path / "twistd.pid").read_text())
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(options(client, port), ("127.0.0.1", port))
            assert client.recv(65535).startswith(b"SIP/2.0 200 OK\r\n")
        database = tmp_path / "sipuas.sqlite"
        assert database.stat().st_mode & 0o777 == 0o600
    finally:
        os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while (tmp_path / "twistd.pid").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not (tmp_path / "twistd.pid").exists(), "the daemon did not stop"


def options(client: socket.socket, port: int) -> bytes:
    """An OPTIONS for the server itself."""
    return (
        f"OPTIONS sip:127.0.0.1:{port} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;rport;branch=z9hG4bKoptions\r\n"
        "From: <sip:test@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: start\r\nCSeq: 1 OPTIONS\r\n\r\n"
    ).encode()


def test_help_and_version(tmp_path: Path) -> None:
    """`--help` names every option of the README's table, `--version` the project's own version."""
    shown = sipuas(tmp_path, "--help")
    assert shown.returncode == 0
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    in_table = {row.split("`")[1].split()[0] for row in readme.splitlines() if row.startswith("| `--")}
    in_help = {word.strip(",=") for word in shown.stdout.replace("=", " ").split() if word.startswith("--")}
    assert in_table <= in_help
    assert in_help - in_table <= {
        "--version",
        "--help",
        "--spew",
        "--help-reactors",
        "--help-auth",
        "--help-location",
        "--no-registrar",
    }
    assert sipuas(tmp_path, "--version").stdout.startswith("twisted-sipuas ")


class Running:
    """A server in the foreground on *port*; `log` is what it printed."""

    def __init__(self, directory: Path, port: int, *arguments: str, wrapper: tuple[str, ...] = ()) -> None:
        self.port = port
        self._log = directory / "log"
        command = [*wrapper, sys.executable, "-m", "twisted_sipuas", "--location", "memory:", *arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=directory, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                close_fds=not wrapper,
            )  # fmt: skip
        self.wait_for("Answering by")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def ask(self, method: str = "OPTIONS") -> bytes:
        """Return the answer to one request over UDP."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(options(client, self.port).replace(b"OPTIONS", method.encode()), ("127.0.0.1", self.port))
            return client.recv(65535)


@pytest.fixture
def run(tmp_path: Path, port: int) -> Iterator[Any]:
    """Return what starts a server on `port`; it is gone after the test."""
    started = []

    def start(*arguments: str, **options: Any) -> Running:
        started.append(Running(tmp_path, port, *(arguments or ("--listen", f"udp:{port}")), **options))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


def test_hangup(run: Any) -> None:
    """SIGHUP, which has nothing to reload here, does not end the server."""
    server = run()
    server.process.send_signal(signal.SIGHUP)
    assert server.ask().startswith(b"SIP/2.0 200")
    assert server.process.poll() is None


def test_second_signal(run: Any) -> None:
    """A second SIGTERM ends the wait for what is still owed, quietly; the first gives it 5 seconds."""
    server = run()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(options(client, server.port).replace(b"OPTIONS", b"INVITE"), ("127.0.0.1", server.port))
        assert client.recv(65535).startswith(b"SIP/2.0 ")  # and no ACK
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while not client.recv(65535).startswith(b"SIP/2.0 503"):  # until it is stopping, it answers as before
            client.sendto(options(client, server.port), ("127.0.0.1", server.port))
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(4)
        assert time.monotonic() - began < 4
    assert "Traceback" not in server.log


def test_systemd(run: Any, port: int) -> None:
    """Sockets that systemd opened are served: ``udp:fd=`` and ``systemd:`` beside each other (sd_listen_fds)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.create_server(("127.0.0.1", port)) as tcp:
        udp.bind(("127.0.0.1", port))
        as_systemd = (
            "import os, sys; os.dup2(int(sys.argv[1]), 8); os.dup2(int(sys.argv[2]), 4); os.dup2(8, 3); "
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='udp:tcp'); "
            "os.execv(sys.argv[3], sys.argv[3:])"
        )
        for bound in (udp, tcp):
            bound.set_inheritable(True)
        server = run(
            "--allow-anonymous-registration", "--listen", "udp:fd=3", "--listen", "systemd:domain=INET:name=tcp",
            wrapper=(sys.executable, "-c", as_systemd, str(udp.fileno()), str(tcp.fileno())),
        )  # fmt: skip
        assert server.ask().startswith(b"SIP/2.0 200")
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            head = options(client, port).replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP").replace(b"z9hG4bK", b"z9hG4bKtcp")
            client.sendall(head[:-2] + b"l: 0\r\n\r\n")
            assert client.recv(65535).startswith(b"SIP/2.0 200")
        assert server.log.count(f"tcp:127.0.0.1:{port}") == 1
