"""Does one source's flood leave others their answers, and does a slow handler end in 503 instead of a queue?"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.service.test_busy import running
from twisted_sipuas.testing import make_request

PATIENCE = 0.1  # seconds that a client is to wait at most

SLOW = {"max_rate": 50, "rate_burst": 100, "max_lag": 1}
"""On a machine that has others to serve, one of our turns may take long."""

SERVER = """
import json, sys, threading, time
from twisted.internet import reactor
from twisted_sipuas import SIPService, UserAgentServer
from twisted_sipuas.transaction.admission import Protection

options = json.loads(sys.argv[1])
seconds = options.pop("seconds", 0)
protection = Protection(**options.pop("protection", {}))

class Slow(UserAgentServer):
    def handle_MESSAGE(self, request, transaction):
        time.sleep(seconds)
        return request.response(200)

service = SIPService(reactor, Slow(), ["udp:0:tcp=no"], protection=protection, **options)
service.startService()
print(service.listening[0].address.port, flush=True)

def heed():
    for line in sys.stdin:
        reactor.callFromThread(lambda: print(json.dumps(dict(service.counters)), flush=True))

threading.Thread(target=heed, daemon=True).start()
reactor.run()
"""

FLOOD = """
import socket, sys, time
from twisted_sipuas.testing import make_request

kind, port, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
flood = socket.socket(type=socket.SOCK_DGRAM)
flood.setblocking(False)
flood.bind(("127.0.0.2", 0))
flood.connect(("127.0.0.1", port))
sent_by = "127.0.0.2:%d" % flood.getsockname()[1]
request = make_request("MESSAGE", "sip:127.0.0.1", branch="z9hG4bKNUMBER", call_id="NUMBER", sent_by=sent_by).to_bytes()
if kind == "malformed":
    request = request.replace(b"Max-Forwards", b"CSeq")
head, middle, tail = request.split(b"NUMBER")
print("started", flush=True)
number, began = 0, time.monotonic()
while True:
    for number in range(number, number + max(1, rate // 100)):
        try:
            flood.send(b"%b%d%b%d%b" % (head, number, middle, number, tail))
            flood.recv(65536)
        except OSError:
            pass
    number += 1
    time.sleep(max(0, began + number / rate - time.monotonic()))
"""


class Server:
    """A service in a process of its own that answers MESSAGE with 200."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.port = int(process.stdout.readline())
        self._number = 0

    @property
    def counters(self) -> dict[str, int]:
        """The counters of the service, as its reactor gets round to it."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        counters: dict[str, int] = json.loads(self._process.stdout.readline())
        return counters

    def ask(self) -> tuple[int, float]:
        """Send a MESSAGE from 127.0.0.3; return the status, and the seconds that it took with a client's resending."""
        self._number += 1
        began = time.perf_counter()
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.3", 0))
            client.connect(("127.0.0.1", self.port))
            sent_by = f"127.0.0.3:{client.getsockname()[1]}"
            number = f"{sent_by}-{self._number}"
            request = make_request(
                "MESSAGE", "sip:127.0.0.1", branch=f"z9hG4bK{number}", call_id=number, sent_by=sent_by
            )
            for wait in (0.5, 1, 2, 4, 4):
                client.settimeout(wait)
                client.send(request.to_bytes())
                try:
                    return int(client.recv(4096)[8:11]), time.perf_counter() - began
                except TimeoutError:
                    continue
        raise AssertionError("no answer")


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    with running(SERVER, json.dumps(options)) as process:
        yield Server(process)


@contextmanager
def flooding(server: Server, kind: str, rate: int) -> Iterator[None]:
    with running(FLOOD, kind, str(server.port), str(rate)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield
        assert process.poll() is None, "the flood came to an end"


@pytest.mark.parametrize(
    ("kind", "options", "counter"),
    [
        ("requests", {"protection": SLOW}, "rate_refused"),
        ("requests", {"protection": {**SLOW, "answers_over_rate": False}}, "rate_refused"),
        ("malformed", {"protection": SLOW}, "rate_refused"),
        ("malformed", {"deny": ["127.0.0.2"]}, "datagrams_denied"),
    ],
    ids=["beyond the rate", "beyond the rate, silently", "malformed", "denied"],
)
def test_others_are_served(kind: str, options: dict[str, Any], counter: str) -> None:
    """While one source floods us with what is refused, another gets its answers in time, and none of them is a 503."""
    with serving(**options) as server, flooding(server, kind, 3000):
        time.sleep(0.5)
        answers = [server.ask() for _ in range(50)]
        counters = server.counters
    waits = sorted(wait for _, wait in answers)
    print(  # noqa: T201  # figures for who runs it with -s
        f"\n{kind}: median {statistics.median(waits) * 1000:.1f} ms, 90 % {waits[44] * 1000:.1f} ms, "
        f"{counters[counter]} {counter}"
    )
    assert {status for status, _ in answers} == {200}
    assert statistics.median(waits) < PATIENCE
    assert sum(wait > PATIENCE for wait in waits) <= 5, "a few may wait, for other programs run here too"
    assert counters[counter] > 500


def test_slow_handler() -> None:
    """With a handler that takes 20 ms, and four times as many requests as that leaves room for, the rest is refused.

    And in time: without the bound every request waits for all those before it. After the flood all are taken again.
    """
    with serving(seconds=0.02, protection={"max_rate": 0}) as server:
        with flooding(server, "requests", 200):
            time.sleep(4)  # for the share to settle
            answers = [server.ask() for _ in range(20)]
            counters = server.counters
        waits = [wait for _, wait in answers]
        print(  # noqa: T201  # figures for who runs it with -s
            f"\nslow handler: median {statistics.median(waits) * 1000:.1f} ms, longest {max(waits) * 1000:.1f} ms, "
            f"{counters['overload_loss']} % refused, lag {counters['lag']} ms"
        )
        assert 503 in {status for status, _ in answers}
        assert counters["overload_refused"] > 100
        assert statistics.median(waits) < 0.5, "a client would resend, and add to the load"
        time.sleep(3)
        assert {server.ask()[0] for _ in range(10)} == {200}
        assert server.counters["overload_loss"] == 0
