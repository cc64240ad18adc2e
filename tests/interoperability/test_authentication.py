"""Do clients that are not ours prove who they are, and does a server that is guessed at and flooded hold?"""

from __future__ import annotations

import itertools
import os
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.auth.client import authorization
from tests.interoperability.clients import baresip_arguments, wait_for
from tests.interoperability.conftest import Server

SCENARIO = Path(__file__).with_name("authenticated.xml")
REALM = "127.0.0.1"
WINDOW = 10  # requests that are on their way at a time
CONTACT = "sip:alice@127.0.0.1:5099"


def guarded(make_server: Callable[..., Server], directory: Path, *arguments: str) -> Server:
    """Return a running server that knows alice by her password."""
    (directory / "users").write_text("# who may register\nalice:secret\n")
    return make_server("--location", "memory:", "--auth", "file:users", "--realm", REALM, *arguments)


class Sender:
    """A client at *host* with a UDP socket; each request is numbered."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(2)
        self.at = "{}:{}".format(*self._socket.getsockname())
        self._numbers = itertools.count(1)

    def send(self, method: str, uri: str, *further: str) -> None:
        number = next(self._numbers)
        lines = [
            f"{method} {uri} SIP/2.0", f"Via: SIP/2.0/UDP {self.at};branch=z9hG4bK{number};rport", "Max-Forwards: 70",
            f"From: <sip:alice@{REALM}>;tag=1", f"To: <sip:alice@{REALM}>", f"Call-ID: {number}@{self.at}",
            f"CSeq: {number} {method}", *further, "Content-Length: 0", "", "",
        ]  # fmt: skip
        self._socket.send("\r\n".join(lines).encode())

    def receive(self) -> str:
        return self._socket.recv(65535).decode()

    def ask(self, method: str, uri: str, *further: str) -> str:
        self.send(method, uri, *further)
        return self.receive()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def sender(host: str, port: int) -> Iterator[Sender]:
    client = Sender(host, port)
    try:
        yield client
    finally:
        client.close()


def challenge_in(answer: str) -> str:
    assert answer.startswith("SIP/2.0 401 "), answer
    challenges: list[str] = re.findall(r"WWW-Authenticate: (.*)\r\n", answer)
    (challenge,) = challenges
    return challenge


@pytest.mark.interoperability
@pytest.mark.requirement("26.3.1-3")
def test_sipsak(make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path) -> None:
    """sipsak registers by its password, and not by another; the log has neither its digest nor a nonce."""
    server = guarded(make_server, tmp_path, "--trace")
    for password, status in (("secret", 0), ("guess", 2)):
        done = run_client(
            "sipsak", "-U", "-i", "-vvv", "-C", CONTACT, "-x", "120", "-a", password,
            "-s", f"sip:alice@{REALM}:{server.port}",
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        assert "Authorization: Digest" in done.stdout
        for secret in re.findall(r'(?:nonce|response)="([^"]+)"', done.stdout):
            assert secret not in server.log
    assert "200 OK" in server.log
    assert "secret" not in server.log


@pytest.mark.interoperability
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_baresip(
    make_server: Callable[..., Any], start_client: Callable[..., Any], tmp_path: Path, transport: Any
) -> None:
    """baresip registers by its password, and goes on with its nonce; with another it does not."""
    server = guarded(make_server, tmp_path, "--trace")
    for password, said in (("secret", "200 OK"), ("guess", "401 Unauthorized")):
        directory = tmp_path / password
        arguments = baresip_arguments(directory, server.port, transport, registers=True, password=password)
        start_client("baresip", *arguments).wait_for(said)
    wait_for(r"REGISTER sip:.* 200 OK", lambda: server.log)


@pytest.mark.interoperability
@pytest.mark.parametrize("qop", ["auth", "auth,auth-int"])
@pytest.mark.parametrize("mode", ["u1", "t1"])
def test_sipp(
    make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path, qop: Any, mode: Any
) -> None:
    """SIPp's own digest registers and calls, ten times at once; of two qop it takes the one that covers the body."""
    server = guarded(make_server, tmp_path, "--auth-qop", qop)
    trace = tmp_path / "messages.log"
    done = run_client(
        "sipp", f"127.0.0.1:{server.port}", "-sf", str(SCENARIO), "-i", "127.0.0.1", "-m", "10", "-r", "10", "-nostdin",
        "-t", mode, "-trace_msg", "-message_file", str(trace),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + trace.read_text()
    assert ("qop=auth-int" in trace.read_text()) == (qop == "auth,auth-int")


def test_password_is_changed(make_server: Callable[..., Any], tmp_path: Path) -> None:
    """A password that is changed in the file counts a second later, without a restart."""
    server = guarded(make_server, tmp_path)
    (tmp_path / "users").write_text("alice:changed\n")
    time.sleep(1.1)
    with sender("127.0.0.1", server.port) as client:
        challenge = challenge_in(client.ask("REGISTER", f"sip:{REALM}"))
        for password, status in (("secret", "401"), ("changed", "200")):
            digest = authorization(challenge, "alice", password, "REGISTER", f"sip:{REALM}")
            assert client.ask("REGISTER", f"sip:{REALM}", f"Authorization: {digest}").startswith(f"SIP/2.0 {status}")


def test_guessing(make_server: Callable[..., Any], tmp_path: Path) -> None:
    """Of 10,000 wrong passwords a dozen is looked at, and meanwhile another client registers in less than 100 ms."""
    server = guarded(make_server, tmp_path, "--trace", "--max-rate", "0")  # the delay alone, not the bound of a source
    is_over = Event()

    def guess() -> None:
        with sender("127.0.0.2", server.port) as guesser:
            challenge = challenge_in(guesser.ask("REGISTER", f"sip:{REALM}"))
            digest = authorization(challenge, method="REGISTER", uri=f"sip:{REALM}", response=f"{0:032x}")
            for number in range(10_000):
                guesser.send("REGISTER", f"sip:{REALM}", f"Authorization: {digest.replace('0' * 32, f'{number:032x}')}")
                if number >= WINDOW:
                    assert guesser.receive().startswith("SIP/2.0 401 ")
        is_over.set()

    thread = Thread(target=guess)
    thread.start()
    took = []
    try:
        with sender("127.0.0.1", server.port) as client:
            while not is_over.is_set() and thread.is_alive():
                began = time.monotonic()
                challenge = challenge_in(client.ask("REGISTER", f"sip:{REALM}"))
                digest = authorization(challenge, method="REGISTER", uri=f"sip:{REALM}")
                answer = client.ask("REGISTER", f"sip:{REALM}", f"Contact: <{CONTACT}>", f"Authorization: {digest}")
                took.append(time.monotonic() - began)
                assert answer.startswith("SIP/2.0 200 "), answer
                time.sleep(0.02)
    finally:
        thread.join()
    assert is_over.is_set(), "every guess was answered"
    assert len(took) > 10
    assert statistics.median(took) < 0.1
    looked_at = server.log.count("(22.1-15)")
    assert 3 <= looked_at < 15
    assert server.log.count("(too early after wrong passwords)") > 9_900


def resident(process: int) -> int:
    """Return the resident memory of *process* in octets."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def flood(client: Sender, number: int) -> None:
    """Send so many INVITEs, each of a call of its own, and take their challenges."""
    for sent in range(number):
        client.send("INVITE", f"sip:alice@{REALM}", f"Contact: <{CONTACT}>")
        if sent >= WINDOW:
            client.receive()
    for _ in range(min(number, WINDOW)):
        client.receive()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell what memory is resident")
def test_memory(make_server: Callable[..., Any], tmp_path: Path) -> None:
    """INVITEs that nobody answers for leave nothing behind, not even an object each, which has 16 octets (8.2.7)."""
    server = guarded(make_server, tmp_path)
    with sender("127.0.0.1", server.port) as client:
        flood(client, 5_000)  # what Python sets aside for itself
        before = resident(server.process_id)
        flood(client, 50_000)  # more would show no more, at 16 octets each, and 200,000 take a minute
        grown = resident(server.process_id) - before
    assert grown < 16 * 50_000
