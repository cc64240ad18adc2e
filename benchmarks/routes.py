"""What does a look-up in a routes file cost with 10, 1,000 and 100,000 prefixes, and does reading them hold others up?

usage: python benchmarks/routes.py

Reported is the CPU time of a look-up, the median of rounds that take the tables in turns, and its ratio to that with 10
prefixes; all tables have prefixes of the same lengths. Then a service reads 100,000 prefixes again while its reactor
has a timer due every millisecond: reported is how late that was at worst, and how late without any reading. It takes
about a minute.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred

from twisted_sipuas.location.routes import RoutesLocationService
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.syntax.uri import parse_uri

_COUNTS = (10, 1_000, 100_000)
_LENGTHS = (3, 4, 5, 6, 7)  # digits
_GATEWAYS = 20
_LOOKUPS = 20_000
_ROUNDS = 7
_TICK = 0.001
_QUIET_TIME = 2.0

_REQUEST: Any = parse_message(
    b"INVITE sip:x@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@h>\r\n"
    b"Call-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
)


def _prefixes(count: int) -> list[str]:
    """Return *count* prefixes of the usual lengths, each length having its share as far as there are so many."""
    chance = random.Random(count)
    prefixes: set[str] = set()
    for place in range(count):
        length = _LENGTHS[place % len(_LENGTHS)]
        while len(prefixes) == place:
            prefix = "+" + "".join(chance.choices("0123456789", k=length))
            if prefix in prefixes:
                length = max(_LENGTHS)
            prefixes.add(prefix)
    return sorted(prefixes)


def _service(path: Path) -> RoutesLocationService:
    service = RoutesLocationService(str(path), reactor)
    service.privilegedStartService()
    return service


def _write_csv(directory: Path, prefixes: list[str], gateways: int = _GATEWAYS) -> Path:
    rows = [f"{prefix},gw{number % gateways}.example.net" for number, prefix in enumerate(prefixes)]
    (directory / "rates.csv").write_text("\n".join(["prefix,gateway", *rows, ""]))
    path = directory / "routes.toml"
    path.write_text('[[route]]\nfile = "rates.csv"\ntargets = ["sip:{number}@{gateway}"]\n')
    return path


def _write_table(directory: Path, prefixes: list[str]) -> Path:
    lines = [f'"{prefix}" = "sip:{{number}}@gw{number % 20}.example.net"' for number, prefix in enumerate(prefixes)]
    path = directory / "table.toml"
    path.write_text("\n".join(["[[route]]", "[route.table]", *lines, ""]))
    return path


def _report_lookups(directory: Path) -> None:
    services, uris = {}, {}
    times: dict[int, list[float]] = {}
    for count in _COUNTS:
        prefixes = _prefixes(count)
        services[count] = _service(_write_csv(directory, prefixes))
        chance = random.Random(0)
        uris[count] = [parse_uri(f"sip:{chance.choice(prefixes)}5551212@h;user=phone") for _ in range(_LOOKUPS)]
        times[count] = []
    for _ in range(_ROUNDS):
        for count in _COUNTS:
            lookup = services[count].lookup
            start = time.process_time()
            for uri in uris[count]:
                lookup(uri, _REQUEST)
            times[count].append((time.process_time() - start) / _LOOKUPS)
    least = statistics.median(times[_COUNTS[0]])
    for count in _COUNTS:
        middle = statistics.median(times[count])
        print(f"{count:>7,} prefixes: {middle * 1e6:5.1f} us a look-up, {middle / least:4.2f} times that with 10")


async def _worst_delay(done: Deferred[Any]) -> float:
    """Return by how many seconds a timer of the reactor was late at worst until *done*."""
    worst = 0.0
    due = time.perf_counter() + _TICK

    def tick() -> None:
        nonlocal worst, due
        now = time.perf_counter()
        worst = max(worst, now - due)
        due = now + _TICK

    ticking = task.LoopingCall(tick)
    ticking.start(_TICK, now=False)
    await done
    ticking.stop()
    return worst


async def _report_reload(what: str, path: Path) -> None:
    service = _service(path)
    service.startService()
    reloads = service.counters["reloads"]
    service.reload()
    start = time.perf_counter()
    done: Deferred[None] = Deferred()

    def look() -> None:
        if service.counters["reloads"] > reloads:
            done.callback(None)
        else:
            reactor.callLater(0.01, look)

    look()
    worst = await _worst_delay(done)
    print(f"{what}: read in {time.perf_counter() - start:4.1f} s, a timer at worst {worst * 1e3:4.1f} ms late")
    service.stopService()


async def _main(_: object) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _report_lookups(directory)
        quiet = await _worst_delay(task.deferLater(reactor, _QUIET_TIME))
        print(f"no reading: a timer at worst {quiet * 1e3:4.1f} ms late")
        prefixes = _prefixes(100_000)
        await _report_reload("CSV, 20 gateways", _write_csv(directory, prefixes))
        await _report_reload("CSV, each prefix a gateway of its own", _write_csv(directory, prefixes, len(prefixes)))
        await _report_reload("TOML table", _write_table(directory, prefixes))


if __name__ == "__main__":
    task.react(lambda reactor: Deferred.fromCoroutine(_main(reactor)))
