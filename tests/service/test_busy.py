"""Is everybody served while some are idle, some slow, one floods and one does not read? On real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from twisted_sipuas.service import SIPService
from twisted_sipuas.testing import RecordingTransactionUser, make_request
from twisted_sipuas.transport.limits import TransportLimits

pytestmark = pytest.mark.no_cover  # the time that is measured is to be that of the server

reactor: Any = the_reactor

DEADLINE = 20.0  # seconds that anything may take
PATIENCE = 0.1  # seconds that a client is to wait at most

SERVER = """
import json, sys, threading
from twisted.internet import reactor
from twisted_sipuas import SIPService, UserAgentServer
from twisted_sipuas.transport.limits import TransportLimits

service = SIPService(reactor, UserAgentServer(), ["udp:0"], limits=TransportLimits(**json.loads(sys.argv[1])))
service.startService()
print(service.listening[0].address.port, flush=True)

def heed():
    for line in sys.stdin:
        print(json.dumps(dict(service.counters)), flush=True)
    reactor.callFromThread(lambda: service.stopService().addBoth(lambda _: reactor.stop()))

threading.Thread(target=heed).start()
reactor.run()
"""

FLOOD = """
import socket, sys, threading
from twisted_sipuas.testing import make_request

kind, port = sys.argv[1], int(sys.argv[2])
transport = "UDP" if kind == "datagrams" else "TCP"
flood = socket.socket(type=socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM)
flood.connect(("127.0.0.1", port))
sent_by = "127.0.0.1:%d" % flood.getsockname()[1]
options = dict(branch="z9hG4bKNUMBER", call_id="NUMBER", sent_by=sent_by, transport=transport)
head, middle, tail = make_request("OPTIONS", "sip:127.0.0.1", **options).to_bytes().split(b"NUMBER")

def read():
    while flood.recv(65536):
        pass

threading.Thread(target=read, daemon=True).start()
print("started", flush=True)
number = 0
while True:
    if kind == "pings":
        flood.sendall(b"\\r\\n\\r\\n" * 16000)
        continue
    requests = [b"%b%d%b%d%b" % (head, n, middle, n, tail) for n in range(number, number + 200)]
    number += 200
    if kind == "requests":
        flood.sendall(b"".join(requests))
    else:
        for request in requests:
            try:
                flood.send(request)
            except OSError:
                pass
"""


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python on *program*, talked to in lines."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class Server:
    """A service in a process of its own that answers OPTIONS with 200."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self.port = int(self._stdout.readline())

    @property
    def counters(self) -> dict[str, int]:
        """The counters of the service, now."""
        self._stdin.write("\n")
        self._stdin.flush()
        counters: dict[str, int] = json.loads(self._stdout.readline())
        return counters

    @property
    def memory(self) -> int:
        """The most octets of memory that the process had so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)


@contextlib.contextmanager
def running(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with start(program, *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def serving(**limits: float) -> Iterator[Server]:
    with running(SERVER, json.dumps(limits)) as process:
        yield Server(process)


@contextlib.contextmanager
def flooding(server: Server, kind: str) -> Iterator[None]:
    with running(FLOOD, kind, str(server.port)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield
        assert process.poll() is None, "the flood came to an end"


@contextlib.contextmanager
def connections(server: Server, number: int) -> Iterator[list[socket.socket]]:
    """Have so many connections to *server*."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.connect()) for _ in range(number)]


@contextlib.contextmanager
def trickling(slow: list[socket.socket], seconds: float) -> Iterator[None]:
    """Have each of *slow* send an octet of a request every so many *seconds*."""
    ended = threading.Event()

    def trickle() -> None:
        for octet in make_request("OPTIONS", transport="TCP").to_bytes()[:-4]:
            for connection in slow:
                with contextlib.suppress(OSError):  # it was cut off
                    connection.send(bytes([octet]))
            if ended.wait(seconds):
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wait_for_answer(server: Server, kind: socket.SocketKind) -> float:
    """Ask one OPTIONS from a new socket, and return how many seconds the answer took; it is resent as clients do."""
    began = time.perf_counter()
    with socket.socket(type=kind) as client:
        client.settimeout(0.5 if kind == socket.SOCK_DGRAM else DEADLINE)
        client.connect(("127.0.0.1", server.port))
        transport = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
        sent_by = f"127.0.0.1:{client.getsockname()[1]}"
        request = make_request("OPTIONS", "sip:127.0.0.1", call_id=sent_by, sent_by=sent_by, transport=transport)
        while True:
            client.sendall(request.to_bytes())
            try:
                assert client.recv(4096).startswith(b"SIP/2.0 200 ")
            except TimeoutError:
                assert time.perf_counter() - began < DEADLINE
                continue
            return time.perf_counter() - began


def assert_served_in_time(server: Server, kind: socket.SocketKind) -> None:
    """Assert that a request waits no more than `PATIENCE`; a few of 50 may, for other programs run here too."""
    waits = sorted(wait_for_answer(server, kind) for _ in range(50))
    late = sum(wait > PATIENCE for wait in waits)
    print(  # noqa: T201  # figures for who runs it with -s
        f"\n{kind.name}: median {statistics.median(waits) * 1000:.1f} ms, 90 % {waits[44] * 1000:.1f} ms, "
        f"longest {waits[-1] * 1000:.1f} ms"
    )
    assert statistics.median(waits) < PATIENCE
    assert late <= 5, f"{late} of 50 waited longer"


@pytest.mark.parametrize("flood", ["requests", "pings", "datagrams"])
def test_everybody_is_served(flood: str) -> None:
    """500 idle connections, 50 slow ones and one that floods keep nobody waiting (kamailio#2807, #4603).

    Where datagrams are the flood, others are lost in it: then it is a new connection that is served.
    """
    with (
        serving() as server,
        connections(server, 500) as idle,
        connections(server, 50) as slow,
        trickling(slow, 1),
        flooding(server, flood),
    ):
        assert_served_in_time(server, socket.SOCK_STREAM)
        if flood != "datagrams":
            assert_served_in_time(server, socket.SOCK_DGRAM)
        assert server.counters["connections"] >= len(idle) + len(slow)


def test_slow_ones_are_cut_off() -> None:
    """Who takes longer for a message than the message timeout is cut off, and counted; who is idle is not."""
    with serving(message_timeout=1) as server, connections(server, 5) as idle, connections(server, 50) as slow:
        with trickling(slow, 0.1):
            deadline = time.monotonic() + DEADLINE
            for connection in slow:
                with contextlib.suppress(ConnectionResetError):
                    connection.settimeout(max(0.1, deadline - time.monotonic()))
                    assert connection.recv(1) == b""
        while server.counters["connections"] > len(idle) and time.monotonic() < deadline:
            time.sleep(0.02)  # who is cut off learns it before the server has done with the connection
        assert server.counters["connections"] == len(idle)
        assert server.counters["connections_message_timeouts"] == len(slow)
        assert select.select(idle, [], [], 0)[0] == []


def send_and_never_read(port: int) -> tuple[int, float]:
    """Send requests until the server cuts the connection; return how many octets went, and how many seconds."""
    request = make_request("MESSAGE", transport="TCP", body=b"x" * 1000).to_bytes()
    sent = 0
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", port))
        began = time.monotonic()
        while True:
            try:
                sent += client.send(request * 50)
            except (ConnectionResetError, BrokenPipeError):
                return sent, time.monotonic() - began


@pytest.mark.deadline(30)
@pytest_twisted.ensureDeferred
async def test_who_never_reads() -> None:
    """Who sends requests and never reads is cut off within the message timeout, counted, and served no more till then.

    What waits to be sent is bounded: by what one read of the socket can ask for, beyond the buffers of the kernel.
    """
    answer_length, timeout = 20_000, 1.0
    most_waiting = 0
    service: SIPService

    def answer(request: Any, transaction: Any) -> None:
        nonlocal most_waiting
        transaction.respond(request.response(200, body=b"y" * answer_length, content_type="text/plain"))
        waiting = sum(
            len(writer.dataBuffer) + writer._tempDataLen
            for writer in reactor.getWriters()
            if hasattr(writer, "dataBuffer")
        )
        most_waiting = max(most_waiting, waiting)

    user = RecordingTransactionUser(answer)
    service = SIPService(reactor, user, ["udp:0"], limits=TransportLimits(message_timeout=timeout))
    service.startService()
    try:
        _, seconds = await deferToThread(send_and_never_read, service.listening[0].address.port)
        while service.counters["connections"]:
            await deferLater(reactor, 0.002)
        assert service.counters["connections_write_timeouts"] == 1
        assert timeout <= seconds < DEADLINE
        one_read = 65536 // 1000 + 1
        print(f"\n{len(user.calls)} requests served, {most_waiting} octets waited at most")  # noqa: T201
        assert most_waiting <= 65536 + one_read * (answer_length + 1000)
    finally:
        await service.stopService()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_for_those_who_never_read() -> None:
    """The memory that those take who never read has a bound, and is not what they send."""
    with serving(message_timeout=1) as server, ThreadPoolExecutor(3) as pool:
        send_and_never_read(server.port)  # what is imported and grown once does not count
        before = server.memory
        sent = sum(octets for octets, _ in pool.map(send_and_never_read, [server.port] * 3))
        grown = server.memory - before
        print(f"\nsent {sent} octets, grown by {grown}")  # noqa: T201
        assert grown < 8 * 1024 * 1024 < sent
        deadline = time.monotonic() + DEADLINE
        while server.counters["connections"]:
            assert time.monotonic() < deadline
        assert server.counters["connections_write_timeouts"] == 4
