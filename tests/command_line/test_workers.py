"""Do workers share the sockets of one server, outlive each other, and begin and end with their parent?"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from tests.redis_process import RedisProcess, free_port
from twisted_sipuas import Response, parse_message
from twisted_sipuas.options import Options
from twisted_sipuas.testing import make_request

ROUTES = '[[route]]\ntargets = "sip:{user}@192.0.2.9"\n'
DEADLINE = 20.0


class Phone:
    """A client on a UDP port of its own, and so, to a server, a peer of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self._asked = 0

    def send(self, method: str = "OPTIONS", user: str = "bob", **options: Any) -> None:
        self._asked += 1
        options.setdefault("branch", f"z9hG4bK{self.port}-{self._asked}")
        options.setdefault("sent_by", f"127.0.0.1:{self.port}")
        options.setdefault("call_id", f"{self.port}-{self._asked}")
        request = make_request(
            method, f"sip:{user}@127.0.0.1", to=options.pop("to", f"<sip:{user}@127.0.0.1>"), **options
        )
        self.socket.sendto(request.to_bytes(), ("127.0.0.1", self._server.port))

    def receive(self, seconds: float = 5) -> Response:
        """Return the next final response."""
        self.socket.settimeout(seconds)
        while True:
            response = parse_message(self.socket.recv(65535))
            assert isinstance(response, Response)
            if response.status >= 200:
                return response

    def ask(self, method: str = "OPTIONS", user: str = "bob", seconds: float = 5, **options: Any) -> Response:
        self.send(method, user, **options)
        return self.receive(seconds)

    @property
    def worker(self) -> int:
        """Which worker answers; the log of the trace tells."""
        self.ask()
        return self._server.workers_of(self.port)[-1]


class Server:
    """A `twistd sipuas` with two workers, and so many phones as a test wants."""

    def __init__(self, directory: Path, *arguments: str, twistd: tuple[str, ...] = ("-n", "--pidfile=")) -> None:
        self.directory = directory
        self.port = free_port(7000)
        self.log_path = directory / f"log-{self.port}"
        self._phones: list[Phone] = []
        if not any(argument.startswith("--listen") for argument in arguments):
            arguments = ("--listen", "udp:{port}", *arguments)
        if "--mode" not in arguments and "--location" not in arguments:
            (directory / "routes.toml").write_text(ROUTES)
            arguments = ("--location", "routes:routes.toml", *arguments)
        self.command = [
            *twistd_command(), *twistd, "sipuas", "--workers", "2", "--trace",
            *(argument.format(port=self.port) for argument in arguments),
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, pass_fds: tuple[int, ...] = ()) -> None:
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.directory, env=environment(), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, pass_fds=pass_fds,
            )  # fmt: skip
        self.wait_for("workers serve")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, count: int = 1) -> None:
        def said() -> bool:
            assert self.process is None or self.process.poll() is None, self.log
            return self.log.count(text) >= count

        wait_until(said, lambda: self.log)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def worker_pid(self, number: int) -> int:
        return self.worker_pids()[number]

    def worker_pids(self) -> dict[int, int]:
        return worker_pids(self.pid)

    def phone(self) -> Phone:
        self._phones.append(Phone(self))
        return self._phones[-1]

    def phones(self, *numbers: int) -> list[Phone]:
        """Return a phone at each of the workers *numbers*."""
        found: dict[int, Phone] = {}
        while not found.keys() >= set(numbers):
            assert len(self._phones) < 100, "no phone ends up there"
            phone = self.phone()
            found.setdefault(phone.worker, phone)
        return [found[number] for number in numbers]

    def workers_of(self, port: int) -> list[int]:
        """Return which workers answered what came from *port*, in order."""
        pattern = rf"\[worker (\d), [^]]*\] \S+ \S+ from 127\.0\.0\.1:{port} "
        wait_until(lambda: re.search(pattern, self.log) is not None, lambda: self.log)
        return [int(number) for number in re.findall(pattern, self.log)]

    def close(self) -> None:
        for phone in self._phones:
            phone.socket.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def twistd_command() -> list[str]:
    return [sys.executable, "-c", "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"]


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    paths = [str(root), sysconfig.get_path("purelib"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def worker_pids(parent: int) -> dict[int, int]:
    """Return the process of each worker of *parent*."""
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            last = Path(f"/proc/{child}/cmdline").read_text().rstrip("\0").split("\0")[-1]
        except OSError:
            continue
        if last.startswith("worker "):
            found[int(last.split()[1])] = int(child)
    return found


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(is_so: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return what makes a server, not yet started; it is gone after the test."""
    servers = []

    def make_server(*arguments: str, **options: Any) -> Server:
        servers.append(Server(tmp_path, *arguments, **options))
        return servers[-1]

    yield make_server
    for server in servers:
        server.close()


@pytest.fixture
def run(make: Callable[..., Server]) -> Callable[..., Server]:
    """Return what starts a server with two workers."""

    def start(*arguments: str, **options: Any) -> Server:
        server = make(*arguments, **options)
        server.start()
        return server

    return start


COLLECTOR = """
import gc
from twisted_sipuas import UserAgentServer

class Desk(UserAgentServer):
    def handle_MESSAGE(self, request, transaction):
        return request.response(200, headers=[("Subject", f"{gc.get_threshold()[0]} {gc.get_freeze_count() > 10_000}")])
"""


def test_garbage_is_looked_for_seldom(run: Callable[..., Server], tmp_path: Path) -> None:
    """The process that serves looks for garbage among few objects and seldom, since nobody is served meanwhile."""
    (tmp_path / "desks.py").write_text(COLLECTOR)
    server = run("--mode", "stateless", "--handler", "desks.Desk")
    assert server.phone().ask("MESSAGE").headers.get("Subject") == "10000 True"


# What workers serve


def test_peers_stay_with_one_worker(run: Any) -> None:
    """Both workers answer, and one UDP peer, that is one address and port, is always answered by the same of them."""
    server = run()
    phones = [server.phone() for _ in range(20)]
    for _ in range(3):
        for phone in phones:
            assert phone.ask().status == 302
    answered_by = [server.workers_of(phone.port) for phone in phones]
    assert all(len(set(workers)) == 1 for workers in answered_by), answered_by
    assert {workers[0] for workers in answered_by} == {1, 2}


def test_killed(run: Any) -> None:
    """A killed worker is replaced on its own sockets: what came meanwhile is answered, and no other peer notices."""
    server = run()
    one, two = server.phones(1, 2)
    killed, other = server.worker_pid(1), server.worker_pid(2)
    os.kill(killed, signal.SIGKILL)
    one.send()
    slowest = 0.0
    while "was ended by signal 9" not in server.log or server.log.count("worker 1, twisted_sipuas.service") < 4:
        began = time.monotonic()
        assert two.ask(seconds=2).status == 302
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1
    assert one.receive(10).status == 302, "it waited in the socket"
    assert (one.worker, two.worker) == (1, 2)
    assert server.worker_pid(1) not in (killed, other)
    assert server.worker_pid(2) == other
    assert "Worker 1 was ended by signal 9; another takes its place now" in server.log


@pytest.mark.parametrize(
    "listen",
    ["tcp:{port}:interface=127.0.0.1", "haproxy:tcp:{port}:interface=127.0.0.1", "ssl:{port}:interface=127.0.0.1"],
)
def test_streams(run: Any, tmp_path: Path, listen: Any) -> None:
    """Workers accept from one stream socket: no connection waits for a worker that is dead (TCP, TLS, PROXY)."""
    if listen.startswith("ssl"):
        make_certificate(tmp_path)
        listen += ":privateKey=key.pem:certKey=cert.pem"
    server = run("--listen", listen, "--location", write_routes(tmp_path))
    for killed in (None, 1, 2):
        if killed is not None:
            os.kill(server.worker_pid(killed), signal.SIGKILL)
        for number in range(10):
            assert ask_by_stream(server, listen.partition(":")[0], f"{killed}-{number}").status == 302
        server.wait_for("twisted_sipuas.service#info] Listening on", 2 + (killed or 0))
    kind = "tls" if listen.startswith("ssl") else "tcp"
    assert f"Listening on {kind}:127.0.0.1:{server.port}" in server.log


def ask_by_stream(server: Server, kind: str, name: str) -> Response:
    with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
        connection = plain
        if kind == "ssl":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(plain)
        transport = "TLS" if kind == "ssl" else "TCP"
        request = make_request(
            "OPTIONS", "sip:bob@127.0.0.1", branch=f"z9hG4bK{name}", call_id=name, transport=transport
        )
        head = b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 5060\r\n" if kind == "haproxy" else b""
        connection.sendall(head + request.to_bytes())
        response = parse_message(connection.recv(65535))
        connection.close()
    assert isinstance(response, Response)
    return response


def make_certificate(directory: Path) -> None:
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost".split(),
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip


def write_routes(directory: Path) -> str:
    (directory / "routes.toml").write_text(ROUTES)
    return "routes:routes.toml"


def test_systemd(make: Any, tmp_path: Path) -> None:
    """A stream socket that systemd opened is shared by workers too (sd_listen_fds)."""
    server = make("--listen", "systemd:domain=INET:name=tcp", "--location", write_routes(tmp_path))
    as_systemd = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='tcp'); "
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    with socket.create_server(("127.0.0.1", server.port)) as listening:
        listening.set_inheritable(True)
        server.command = [sys.executable, "-c", as_systemd, str(listening.fileno()), *server.command]
        server.start(pass_fds=(listening.fileno(),))
    os.kill(server.worker_pid(1), signal.SIGKILL)
    for number in range(10):
        assert ask_by_stream(server, "tcp", f"systemd-{number}").status == 302


def test_every_address(run: Any, tmp_path: Path) -> None:
    """Workers share a UDP port on every address too, of IPv4 and IPv6, and answer from the address that was asked."""
    server = run("--listen", "udp:{port}:interface=[::]", "--location", write_routes(tmp_path))
    phones = [server.phone() for _ in range(12)]
    for phone in phones:
        phone.socket.connect(("127.0.0.1", server.port))  # only what comes from there is received
        assert phone.ask().status == 302
    assert {server.workers_of(phone.port)[0] for phone in phones} == {1, 2}


# What workers share


def test_stateless_tags(run: Any) -> None:
    """Every worker gives one request, answered statelessly, the same To tag, as one server would (8.2.7)."""
    server = run("--mode", "stateless")
    at_sent_by = server.phone()
    tags = set()
    for _ in range(12):
        phone = server.phone()
        phone.send("INVITE", branch="z9hG4bKsame", call_id="same", sent_by=f"127.0.0.1:{at_sent_by.port}")
        tags.add(str(at_sent_by.receive().headers.get("To")).partition(";tag=")[2])
        server.workers_of(phone.port)
    assert "[worker 1, twisted_sipuas.trace#info]" in server.log
    assert "[worker 2, twisted_sipuas.trace#info]" in server.log
    assert len(tags) == 1


def test_nonces(run: Any, tmp_path: Path) -> None:
    """A digest on the nonce of one worker is good at the other one, as it is on one server's (RFC 7616, 5.4)."""
    (tmp_path / "passwords").write_text("alice:secret\n")
    server = run(
        "--location", write_routes(tmp_path), "--auth", "file:passwords", "--realm", "example.com"
    )  # fmt: skip
    one, two = server.phones(1, 2)
    challenge = one.ask("INVITE").headers.get("WWW-Authenticate") or ""
    found = re.search(r'nonce="([^"]+)"', challenge)
    assert found is not None
    nonce = found[1]
    answers = [
        two.ask("INVITE", headers=(("Authorization", credentials(nonce, password)),))
        for password in ("wrong", "secret")
    ]
    assert [answer.status for answer in answers] == [401, 302]


def credentials(nonce: str, password: str) -> str:
    """The Authorization of alice for an INVITE of bob, by MD5 and qop=auth."""

    def md5(*parts: str) -> str:
        return hashlib.md5(":".join(parts).encode()).hexdigest()

    uri = "sip:bob@127.0.0.1"
    response = md5(
        md5("alice", "example.com", password), nonce, "00000001", "own", "auth", md5("INVITE", uri)
    )  # fmt: skip
    return (
        f'Digest username="alice", realm="example.com", nonce="{nonce}", uri="{uri}", response="{response}", '
        'algorithm=MD5, qop=auth, nc=00000001, cnonce="own"'
    )


def test_shared_store(run: Any, tmp_path: Path) -> None:
    """What is registered at one worker the other one redirects to, with a store that processes can share."""
    redis = RedisProcess(tmp_path / "redis")
    redis.start()
    try:
        server = run("--location", f"redis:127.0.0.1:{redis.port}")
        one, two = server.phones(1, 2)
        contact = ("Contact", "<sip:alice@192.0.2.1>")
        assert one.ask("REGISTER", "alice", headers=[contact]).status == 200
        found = two.ask("INVITE", "alice")
        assert (found.status, found.headers.get("Contact", "").split(";")[0]) == (302, contact[1])
    finally:
        redis.kill()


HANDLER = """
import os, sys
from twisted.internet import reactor
from twisted_sipuas import UserAgentServer

class Desk(UserAgentServer):
    def handle_INVITE(self, request, transaction):
        return request.response(486, f"{type(reactor).__name__} in {os.getcwd()}")

    def handle_MESSAGE(self, request, transaction):
        raise OSError("no desk free")

    def handle_INFO(self, request, transaction):
        os.write(2, b"past every log\\n")
        os._exit(7)
"""


def test_as_the_parent(run: Any, tmp_path: Path) -> None:
    """A worker has the reactor, the directory and the handler class that its parent was started with."""
    (tmp_path / "desk.py").write_text(HANDLER)
    (tmp_path / "run").mkdir()
    server = run(
        "--mode", "stateless", "--handler", "desk.Desk", twistd=("-n", "--pidfile=", "-r", "poll", "--rundir", "run")
    )
    answer = server.phone().ask("INVITE")
    assert (answer.status, answer.reason) == (486, f"PollReactor in {tmp_path / 'run'}")


def test_log(run: Any, tmp_path: Path) -> None:
    """What a worker logs is in the parent's log, a traceback too, and says which worker it is of."""
    (tmp_path / "desk.py").write_text(HANDLER)
    server = run("--mode", "stateless", "--handler", "desk.Desk")
    phone = server.phone()
    number = phone.worker
    assert phone.ask("MESSAGE").status == 500
    server.wait_for("OSError: no desk free")
    assert f"[worker {number}, twisted_sipuas.transaction.base#critical] Desk.handle_MESSAGE failed" in server.log
    phone.send("INFO")
    server.wait_for(f"[worker {number}] past every log")
    server.wait_for(f"Worker {number} ended with status 7; another takes its place now")


# Signals


def test_hangup(run: Any) -> None:
    """SIGHUP has every worker read again what may have changed."""
    server = run()
    (server.directory / "routes.toml").write_text(ROUTES.replace("192.0.2.9", "192.0.2.10"))
    os.kill(server.pid, signal.SIGHUP)
    for number in (1, 2):
        server.wait_for(f"[worker {number}, twisted_sipuas.location.routes.service#info] {server.directory}")


@pytest.mark.parametrize("to_all", [False, True], ids=["the parent", "every process, as systemd does"])
def test_terminated(run: Any, to_all: Any) -> None:
    """SIGTERM: what is owed is finished, new requests get 503 from every worker until then, and then all have ended."""
    server = run()
    one, two = server.phones(1, 2)
    pids = [*server.worker_pids().values()]
    answer = one.ask("INVITE", branch="z9hG4bKowed", call_id="owed")
    assert answer.status == 302  # and no ACK yet
    began = time.monotonic()
    (os.killpg if to_all else os.kill)(server.pid, signal.SIGTERM)
    while (refusal := two.ask()).status != 503:
        assert time.monotonic() - began < 3
    assert int(refusal.headers.get("Retry-After", "0")) > 0
    time.sleep(0.7)  # both had the time to end, had they not waited for each other
    assert two.ask().status == 503
    assert one.receive(2).status == 302, "it is still resent (17.2.1, Timer G)"
    one.send("ACK", branch="z9hG4bKowed", call_id="owed", to=answer.headers.get("To"))
    assert server.process.wait(4) in (0, -signal.SIGTERM)
    assert time.monotonic() - began < 5
    assert not any(map(is_running, pids))
    assert "was ended by" not in server.log


def test_second_signal(run: Any) -> None:
    """A second SIGTERM ends the wait for what is still owed."""
    server = run()
    phone = server.phone()
    assert phone.ask("INVITE").status == 302
    os.kill(server.pid, signal.SIGTERM)
    while phone.ask().status != 503:
        pass
    began = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    server.process.wait(4)
    assert time.monotonic() - began < 3
    assert "Traceback" not in server.log


def test_parent_killed(run: Any) -> None:
    """Workers end with their parent, also one whose reactor hangs, and leave the port to the next server."""
    server = run()
    pids = server.worker_pids()
    os.kill(pids[2], signal.SIGSTOP)
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not is_running(pids[1]))
    os.kill(pids[2], signal.SIGCONT)
    wait_until(lambda: not is_running(pids[2]))
    server.start()
    assert server.phone().ask().status == 302


def test_stuck_worker_of_killed_parent(run: Any, tmp_path: Path) -> None:
    """A worker whose handler never returns ends with its parent all the same."""
    (tmp_path / "desk.py").write_text(HANDLER.replace('os.write(2, b"past every log\\n")', "while True: pass"))
    server = run("--mode", "stateless", "--handler", "desk.Desk")
    server.phone().send("INFO")
    pids = server.worker_pids()
    time.sleep(0.3)
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(map(is_running, pids.values())))


# Starting


@pytest.mark.parametrize(("listen", "workers"), [("udp:{port}", "1"), ("udp:{port}:tcp=no", "2")])
def test_second_server(run: Any, listen: Any, workers: Any) -> None:
    """A second server on the port, started by mistake, fails with one line, though workers share it."""
    server = run("--listen", listen)
    command = [*server.command, "--workers", workers]
    done = subprocess.run(command, cwd=server.directory, env=environment(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"sipuas: udp:127.0.0.1:{server.port}: Address already in use; choose another address or port with --listen"
    ]
    assert all(server.phone().ask().status == 302 for _ in range(8))


@pytest.mark.parametrize("daemon", [False, True], ids=["in the foreground", "as a daemon"])
def test_start_fault(make: Any, tmp_path: Path, daemon: Any) -> None:
    """What a worker cannot start with is the one line of a start that fails, with status 1; no process is left."""
    (tmp_path / "bad.toml").write_text("[[route]\n")
    server = make("--location", "routes:bad.toml", twistd=() if daemon else ("-n", "--pidfile="))
    done = subprocess.run(server.command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    line = next(line for line in done.stderr.splitlines() if line.startswith("sipuas: "))
    assert re.match(r"sipuas: worker [12]: .*/bad\.toml:1: .*--location routes:FILE", line)
    assert "Traceback" not in done.stdout + done.stderr
    if daemon:
        assert "Traceback" not in (tmp_path / "twistd.log").read_text()
        assert not (tmp_path / "twistd.pid").exists()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        wait_until(lambda: can_bind(free, server.port))


def can_bind(udp: socket.socket, port: int) -> bool:
    try:
        udp.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_daemon(make: Any, tmp_path: Path) -> None:
    """As a daemon the server is there when the command returns; workers log to its file, which SIGUSR1 rotates."""
    server = make(twistd=("--logfile", "log"))
    server.log_path = tmp_path / "log"
    done = subprocess.run(server.command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    parent = int((tmp_path / "twistd.pid").read_text())
    try:
        phones = [server.phone() for _ in range(12)]
        assert all(phone.ask().status == 302 for phone in phones)
        os.kill(parent, signal.SIGUSR1)
        wait_until(lambda: (tmp_path / "log.1").exists())
        assert "[worker 1, " in (tmp_path / "log.1").read_text()
        assert all(phone.ask().status == 302 for phone in phones)
        for number in (1, 2):
            server.wait_for(f"[worker {number}, twisted_sipuas.trace#info]")
    finally:
        pids = worker_pids(parent)
        os.kill(parent, signal.SIGTERM)
        wait_until(lambda: not (tmp_path / "twistd.pid").exists())
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids.values())))


def python_of_nobody() -> str | None:
    """Return a Python that we may become nobody with, who can run it and read the package then; root's own may be his.

    The system's is as good, with the packages of ours.
    """
    code = (
        "import os, subprocess, sys; os.setgid(65534); os.setuid(65534); "
        "sys.exit(subprocess.call([sys.executable, '-c', 'import twisted_sipuas.worker']))"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        if os.getuid() == 0 and subprocess.run([python, "-c", code], env=environment(), cwd="/").returncode == 0:
            return python
    return None


def test_dropped_privileges(make: Any) -> None:
    """With ``--uid`` the parent binds a port of root's, and workers are not root, nor is what replaces one."""
    python = python_of_nobody()
    if python is None:
        pytest.skip("not root, or others cannot read Python and the package")
    server = make("--mode", "stateless", twistd=("-n", "--pidfile=", "--uid", "65534", "--gid", "65534"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        port = next(port for port in range(700, 1000) if can_bind(probe, port))
    server.command = [python, *(argument.replace(str(server.port), str(port)) for argument in server.command[1:])]
    server.port = port
    server.start()
    one, _ = server.phones(1, 2)
    os.kill(server.worker_pid(1), signal.SIGKILL)
    assert one.ask("INVITE", seconds=10).status == 480
    assert {os.stat(f"/proc/{pid}").st_uid for pid in server.worker_pids().values()} == {65534}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "stateful"], "--workers: expected 1 with --mode stateful"),
        (
            ["--location", "memory:"],
            "--location memory: is for one process alone: expected what 2 can share, such as redis:",
        ),
        (["--location", "sqlite:x"], "--location sqlite:x is for one process alone"),
        (["--no-registrar"], "--location sqlite:sipuas.sqlite is for one process alone"),
        (["--location", "memory,cache=1:"], "--location memory,cache=...: is for one process alone"),
        (["--location", "redis:127.0.0.1", "--location", "memory:"], "--location memory: is for one process"),
        (["--listen", "udp:fd=3", "--mode", "stateless"], "--workers: --listen udp:fd=3 is one socket"),
        (["--workers", "0"], "--workers: '0': expected a whole number from 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_usage_error(arguments: Any, said: str) -> None:
    """What one process has to itself is a mistake with workers, and the text names what can be shared."""
    with pytest.raises(usage.UsageError, match=re.escape(said)):
        Options().parseOptions(["--workers", "2", *arguments])


@pytest.mark.parametrize(
    "location",
    ["redis:127.0.0.1", "redis,cache=5:127.0.0.1", "postgres:dbname=x", "routes:x", "enum:e164.arpa", "http:http://x/"],
)
def test_shared_locations(location: Any) -> None:
    """Every location service whose bindings are elsewhere, or that has none, may be asked by workers."""
    options = Options()
    options.parseOptions(["--workers", "2", "--location", location])
    assert options["workers"] == 2
