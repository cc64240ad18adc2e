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

from processes import Server, cpu_time, load_from, own_server

_ROUNDS = 5
_CLIENTS = 8
_REQUESTS = 16_000
_LISTEN = "udp:{port}:interface=127.0.0.1:tcp=no"
_ROUTES = '[[route]]\ntargets = "sip:{user}@192.0.2.9"\n'
_ONE, _TWO = "one process", "two workers"


def _run(running: ExitStack, *what: str) -> dict[str, Server]:
    """Run the server once in each way."""
    bounds = ["--trust", "127.0.0.0/8", "--max-lag", "0"]  # those of one source are not what is measured
    command = ["-m", "twisted_sipuas", *what, *bounds, "--listen", _LISTEN, "--workers"]
    return {
        name: running.enter_context(own_server(*command, number, is_pinned=False))
        for name, number in ((_ONE, "1"), (_TWO, "2"))
    }


def _measure(servers: dict[str, Server], status: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the microseconds of CPU time of each of *servers* for a request, and how many it answers in a second."""
    times: dict[str, list[float]] = {name: [] for name in servers}
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(_ROUNDS):
        for name, server in servers.items():
            before, began = cpu_time(server), time.monotonic()
            answered = _ask(server, status)
            rates[name].append(answered / (time.monotonic() - began))
            times[name].append((cpu_time(server) - before) / answered * 1e6)
    return times, rates


def _ask(server: Server, status: int) -> int:
    return load_from(_CLIENTS, server, "INVITE", _REQUESTS, status=status, is_pinned=False)


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
                servers = _run(running, *what)
                for server in servers.values():
                    _ask(server, status)
                times, rates = _measure(servers, status)
            _report(name, "µs of CPU", times)
            _report(name, "a second", rates)


if __name__ == "__main__":
    main()
