"""How fast is the server, beside others? Prints a table in Markdown, which is the one of the README.

usage: python benchmarks/table.py [CASE ...] [--rounds N] [--seconds S] [--warm-up N] [--readme]

Each server has a processor to itself, and the client, `load.py`, another, if there are two. The servers of a case take
turns, and each has --rounds of them; shown are the medians, and in parentheses the least and the greatest. In each turn
a client

- keeps up to 64 exchanges outstanding for --seconds: the CPU time that the system accounts to all processes of the
  server, and the exchanges in a second. Where the client was at work all the time, and not the server the slower one,
  these are "at least" so many;
- then for as long begins exchanges at half of that rate, evenly, whatever the answers do: the latency from the time
  that each was due, of half of them, and of 99 in 100. That of a call ends with the 200 to its BYE.

All others are stopped meanwhile: a stateful server ends thousands of transactions seconds after its turn, which would
be at the cost of whose turn that is then. It does so before its own next turn, and what that takes is in no figure:
about a tenth of what the exchanges took, of ours and of kamailio.

Before the first turn each server is asked --warm-up times; then its memory is read, with what it keeps of these.

Ours is the server that users start, with no option but those that the table names and where it listens; its loopback
peer is bound by all that any other is, but for the number of new requests in a second. What the peers are is in
`peers.py` and in `servers`; those that are not installed are left out, which is said. All of it takes about seven
minutes.

--readme puts the table into README.md, between its markers.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cases import CASES, Case
from peers import Start, versions
from processes import Client, Result, Server, Unavailable, client_of, cpu_time, memory, pause, resume, run_script

README = Path(__file__).parents[1] / "README.md"
MARKERS = "<!-- benchmarks -->", "<!-- /benchmarks -->"

_SETTLING = 0.5  # seconds that a server has, when it goes on, for what was due while it was stopped
_BUSY = 0.9  # the share of its time from which on a client is what bounds the rate
_HEADER = (
    "| exchange | server | CPU, µs | ours / this | exchanges/s | p50, ms | p99, ms | memory, MB |",
    "|---|---|--:|--:|--:|--:|--:|--:|",
)


@dataclass
class Row:
    """What was measured of one server in one case, a value a round."""

    cpu: list[float] = field(default_factory=list)  # seconds an exchange
    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    memory: float = 0.0
    is_bounded_by_client: bool = False
    asked: int = 0
    failed: int = 0

    def count(self, result: Result) -> Result:
        """Count the exchanges of *result* that did not go right, and return it."""
        self.asked += result.right + result.wrong + result.lost
        self.failed += result.wrong + result.lost
        if not result.right:
            raise Unavailable("it gave no right answer")
        return result


class Running:
    """A server of a *case* and its client."""

    def __init__(self, case: Case, server: Server, client: Client) -> None:
        self._case = case
        self._server = server
        self._client = client
        self.row = Row()

    def warm_up(self, count: int) -> None:
        """Let the users register, where the server takes that, ask *count* times, read the memory, and stop it."""
        users = self._case.users
        if self._case.registers:
            self._client.run("register", None, users=users, count=users)
        self._ask(count=count)
        self.row.memory = memory(self._server)
        pause(self._server)

    def measure(self, seconds: float) -> None:
        """Have one turn."""
        resume(self._server)
        try:
            time.sleep(_SETTLING)
            self._measure(seconds)
        finally:
            pause(self._server)

    def _measure(self, seconds: float) -> None:
        before = cpu_time(self._server)
        saturated = self._ask(seconds=seconds)
        self.row.cpu.append((cpu_time(self._server) - before) / saturated.right)
        self.row.rates.append(saturated.rate)
        self.row.is_bounded_by_client |= saturated.busy > _BUSY
        paced = self._ask(seconds=seconds, rate=saturated.rate / 2)
        self.row.p50.append(paced.p50)
        self.row.p99.append(paced.p99)

    def _ask(self, **how: float) -> Result:
        case = self._case
        return self.row.count(self._client.run(case.kind, case.status, users=case.users, **how))


def measure(case: Case, rounds: int, seconds: float, warm_up: int) -> tuple[dict[str, Row], list[str]]:
    """Return what was measured of each server of *case*, and what there is to say about them."""
    servers: dict[str, Running] = {}
    notes: list[str] = []
    with ExitStack() as stack:
        for name, start in case.servers.items():
            try:
                servers[name] = _start(stack, case, start, warm_up)
            except Unavailable as reason:
                notes.append(f"{name} is left out: {reason}")
        for _ in range(rounds):
            for name, running in list(servers.items()):
                try:
                    running.measure(seconds)
                except Unavailable as reason:
                    notes.append(f"{name} is left out: {reason}")
                    del servers[name]
    rows = {name: running.row for name, running in servers.items()}
    for name, row in rows.items():
        if row.failed:
            notes.append(f"{name}: {row.failed:,} of {row.asked:,} exchanges were lost, or ended with another status")
    return rows, [f"{case.title}: {note}" for note in notes]


def _start(stack: ExitStack, case: Case, start: Start, warm_up: int) -> Running:
    """Start a server, which *stack* ends, with its client, and ask it *warm_up* times."""
    with ExitStack() as starting:
        server = starting.enter_context(start())
        running = Running(case, server, starting.enter_context(client_of(server, case.transport, case.connections)))
        running.warm_up(warm_up)
        stack.push(starting.pop_all())
    return running


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def lines_of(title: str, rows: dict[str, Row]) -> list[str]:
    """Return the lines of the table for one case, whose first server is compared with the others."""
    lines = []
    for name, row in rows.items():
        first = next(iter(rows))
        ratio = "" if name == first else f"{statistics.median(rows[first].cpu) / statistics.median(row.cpu):.2f}"
        at_least = "at least " if row.is_bounded_by_client else ""
        cells = (
            title if name == first else "",
            name,
            _spread([seconds * 1e6 for seconds in row.cpu], ".1f"),
            ratio,
            at_least + _spread(row.rates, ",.0f"),
            _spread([seconds * 1e3 for seconds in row.p50], ".2f"),
            _spread([seconds * 1e3 for seconds in row.p99], ".2f"),
            f"{row.memory / 1e6:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def put_into(readme: str, table: str) -> str:
    """Return *readme* with *table* between its markers; raises `ValueError` if it has none."""
    begin, end = MARKERS
    if not re.search(f"{begin}.*{end}", readme, re.DOTALL):
        raise ValueError(f"there is no {begin} with a {end} after it")
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", readme, count=1, flags=re.DOTALL)


def _machine() -> str:
    names = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processors = len(os.sched_getaffinity(0))
    system = ".".join(platform.release().split(".")[:2])
    return f"{processors} processors {names[0] if names else platform.machine()}, {platform.system()} {system}"


def _footer(arguments: argparse.Namespace) -> str:
    said = [
        f"{_machine()}; {', '.join(versions())}",
        f"Turns of each server: {arguments.rounds}, with {arguments.seconds:g} s at saturation, and as long at half of"
        " that for the latency; shown are median, least and greatest",
        f"Memory: after {arguments.warm_up:,} exchanges",
        '"At least": the client could send no faster',
    ]
    if not arguments.cases:
        said.append(f"A transaction of ours that waits takes {run_script('transactions_memory.py')[0]} octets")
    return ". ".join(said) + "."


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure the server beside others, and print a table in Markdown.",
        epilog=f"cases: {', '.join(CASES)}; without any, all of them",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="what to measure")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each half of a turn (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=10_000, help="exchanges before the first turn (%(default)s)")
    parser.add_argument("--readme", action="store_true", help="put the table of all cases into README.md")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"{unknown[0]} is no case; there are {', '.join(CASES)}")
    if arguments.rounds < 1 or arguments.warm_up < 1 or not arguments.seconds > 0:
        parser.error("--rounds, --seconds and --warm-up have to be greater than 0")
    if arguments.readme and arguments.cases:
        parser.error("--readme takes all cases, and so names none")
    return arguments


def main() -> None:
    """Measure, and print or write."""
    arguments = _arguments()
    lines, notes = list(_HEADER), []
    for name in arguments.cases or CASES:
        case = CASES[name]
        print(f"{name} ...", file=sys.stderr)
        rows, said = measure(case, arguments.rounds, arguments.seconds, arguments.warm_up)
        lines += lines_of(case.title, rows)
        notes += said
    table = "\n".join([*lines, "", _footer(arguments), *(f"\n{note}." for note in notes)])
    if arguments.readme:
        README.write_text(put_into(README.read_text(), table))
    else:
        print(table)


if __name__ == "__main__":
    main()
