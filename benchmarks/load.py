"""The client of the benchmarks: sends requests to a server on 127.0.0.1, as it is told, and tells how it went.

usage: load.py udp|tcp|tls PORT CONNECTIONS

It waits until the server answers, opens the connections, over which the requests go in turn, and prints ``ready``. Then
each line of its standard input is an object in JSON, which says what to send: the arguments of `Exchanges` but for the
transport and the port, and

- ``count`` or ``seconds``: how many exchanges, or for how long;
- ``rate``: so many a second, whatever the answers do, each at its time. Without it there are always some outstanding,
  half a window to a whole one, so that the server has something to read as long as it is slower than the client.

It prints an object for each: how many exchanges went ``right``, and ``wrong``, by another status than the right one;
how many were ``lost``; the ``seconds`` until the last answer; how much of that the client was ``busy``; and, with a
``rate``, the latency ``p50`` and ``p99`` in seconds, each from the time when the request was due. It looks for answers
without a pause meanwhile, so that these do not wait for a sleeping client.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections import deque
from typing import Any

from links import LOST_AFTER, Link, connect
from messages import Exchanges

_WINDOW = 64


class Run:
    """One run of *exchanges* over *link*: *count* of them, or for so many *seconds*."""

    def __init__(self, link: Link, exchanges: Exchanges, count: int | None, seconds: float | None) -> None:
        self._link = link
        self._exchanges = exchanges
        self._count = count
        self._seconds = seconds
        self._begun = 0
        self._prepared: deque[bytes] = deque()
        self._outstanding: dict[int, float] = {}  # since when, by number
        self._latencies: list[float] = []
        self._right = self._wrong = self._lost = 0

    def _begin(self, since: float) -> None:
        """Send the next request, which was due at that time."""
        number = self._begun
        data = self._prepared.popleft() if self._prepared else self._exchanges.request(number)
        self._begun += 1
        self._outstanding[number] = since
        self._link.send(number, data)

    def _prepare(self, ahead: int) -> None:
        """Make requests while the server is at work."""
        for number in range(self._begun + len(self._prepared), self._begun + ahead):
            self._prepared.append(self._exchanges.request(number))

    def _take(self, messages: list[bytes]) -> None:
        for data in messages:
            step = self._exchanges.step(data)
            if step is None or step.number not in self._outstanding:
                continue
            for message in step.messages:
                self._link.send(step.number, message)
            if step.is_right is not None:
                self._latencies.append(time.perf_counter() - self._outstanding.pop(step.number))
                self._right += step.is_right
                self._wrong += not step.is_right

    def saturate(self) -> dict[str, float]:
        """Keep a window of exchanges outstanding; returns what is to be printed."""
        begin = last = time.perf_counter()
        while True:
            now = time.perf_counter()
            if len(self._outstanding) <= _WINDOW // 2:
                while len(self._outstanding) < _WINDOW and self._goes_on(now - begin):
                    self._begin(now)
                if not self._outstanding:
                    return self._result(last - begin)
                self._prepare(_WINDOW)
            messages = self._link.receive()
            if messages:
                self._take(messages)
                last = time.perf_counter()
            else:
                self._lost += len(self._outstanding)
                self._outstanding.clear()

    def _goes_on(self, elapsed: float) -> bool:
        if self._count is not None:
            return self._begun < self._count
        return elapsed < (self._seconds or 0)

    def pace(self, rate: float) -> dict[str, float]:
        """Begin so many exchanges a second, each at its time; returns what is to be printed."""
        total = self._count or max(1, int(rate * (self._seconds or 0)))
        begin = last = time.perf_counter()
        while self._begun < total or self._outstanding:
            now = time.perf_counter()
            due = begin + self._begun / rate
            if self._begun < total and due <= now:
                self._begin(due)
            messages = self._link.receive_at_once()
            if messages:
                self._take(messages)
                last = time.perf_counter()
            elif self._begun == total and now - last > LOST_AFTER:
                self._lost += len(self._outstanding)
                break
            elif due > now:
                self._prepare(min(_WINDOW, total - self._begun))
        self._latencies.sort()
        quantiles = {"p50": self._quantile(0.5), "p99": self._quantile(0.99)}
        return {**self._result(last - begin), **quantiles}

    def _quantile(self, share: float) -> float:
        return self._latencies[int(share * (len(self._latencies) - 1))] if self._latencies else float("nan")

    def _result(self, seconds: float) -> dict[str, float]:
        return {"right": self._right, "wrong": self._wrong, "lost": self._lost, "seconds": seconds}


def _run(link: Link, told: dict[str, Any]) -> dict[str, float]:
    count, seconds, rate = (told.pop(name, None) for name in ("count", "seconds", "rate"))
    run = Run(link, Exchanges(transport=link.transport, own_port=link.own_port, **told), count, seconds)
    gc.collect()
    busy, begin = time.process_time(), time.perf_counter()
    result = run.saturate() if rate is None else run.pace(rate)
    return {**result, "busy": (time.process_time() - busy) / (time.perf_counter() - begin)}


def main() -> None:
    """Open the connections, and do what each line says."""
    transport, port, connections = sys.argv[1:]
    gc.disable()  # a pause of the client would be a latency of the server; `_run` collects
    link = connect(transport, int(port), int(connections))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(link, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
