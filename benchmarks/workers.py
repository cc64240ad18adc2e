"""What do two workers cost and bring, beside one process?

usage: python benchmarks/workers.py

The server is the one that users start, `sipuas` with a file of routes, once as one process and once with two workers;
eight clients, each a peer of its own, send it INVITEs over UDP on the loopback interface, which it redirects with a
302, and the ACKs; or refuses with a 480, with `--mode stateless`. They take turns.

Servers and clients have all processors. Reported is the CPU time that the system accounts to all processes of the
server for a request, which should be the same: then workers on processors of their own bring as much as there are of
them. And how many requests were answered in a second; the clients take their share of the processors, which workers
cannot have too, so on few processors this says as much of the clients. It takes about two minutes.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from processes import Client, Server, client_of, cpu_time, python_server

_ROUNDS = 5
_CLIENTS = 8
_REQUESTS = 2_000  # of each
_LISTEN = "udp:{port}:interface=127.0.0.1:tcp=no"
_ROUTES = '[[route]]\ntargets = "sip:{user}@192.0.2.9"\n'
_ONE, _TWO = "one process", "two workers"


class _Asked:
    """A server, and its clients, each with a port of its own."""

    def __init__(self, running: ExitStack, workers: str, *what: str) -> None:
        bounds = ["--max-lag", "0"]  # it is late while the clients have the processors
        command = ["-m", "twisted_sipuas", *what, *bounds, "--listen", _LISTEN, "--workers", workers]
        self._server: Server = running.enter_context(python_server(*command, is_pinned=False))
        self._clients: list[Client] = [
            running.enter_context(client_of(self._server, is_pinned=False)) for _ in range(_CLIENTS)
        ]
        self.times: list[float] = []
        self.rates: list[float] = []

    def ask(self, status: int) -> int:
        """Let the clients send their INVITEs together; returns how many were answered as they should."""
        for client in self._clients:
            client.begin("invite", status, count=_REQUESTS)
        right = sum(client.result().right for client in self._clients)
        if right < _REQUESTS * _CLIENTS:
            print(f"    {_REQUESTS * _CLIENTS - right} of {_REQUESTS * _CLIENTS} went wrong")
        return right

    def measure(self, status: int) -> None:
        """Keep the microseconds of CPU time of an exchange, and how many there were in a second."""
        before, began = cpu_time(self._server), time.monotonic()
        right = self.ask(status)
        self.rates.append(right / (time.monotonic() - began))
        self.times.append((cpu_time(self._server) - before) / right * 1e6)


def _report(what: str, unit: str, results: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in results.items()}
    for name, values in results.items():
        spread = f"({min(values):.1f} to {max(values):.1f})"
        ratio = "" if name == _ONE else f"; {medians[name] / medians[_ONE]:.2f} times that of one"
        print(f"{what:16} {name:12} {medians[name]:8.1f} {unit} {spread}{ratio}")


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as scratch:
        routes = Path(scratch, "routes.toml")
        routes.write_text(_ROUTES)
        cases = (("redirect 302", 302, "--location", f"routes:{routes}"), ("stateless 480", 480, "--mode", "stateless"))
        for name, status, *what in cases:
            with ExitStack() as running:
                servers = {_ONE: _Asked(running, "1", *what), _TWO: _Asked(running, "2", *what)}
                for server in servers.values():
                    server.ask(status)
                for _ in range(_ROUNDS):
                    for server in servers.values():
                        server.measure(status)
            _report(name, "µs of CPU", {way: server.times for way, server in servers.items()})
            _report(name, "a second", {way: server.rates for way, server in servers.items()})


if __name__ == "__main__":
    main()
