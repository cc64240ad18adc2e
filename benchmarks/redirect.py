"""Do a redirected call and a refreshed registration cost more with more bindings, and what memory does one take?

usage: python benchmarks/redirect.py

The server is the one that users start, `sipuas` with its bindings in memory, once with 1,000 of them and once with
1,000,000; over UDP on the loopback interface a client sends each requests in turns. Reported is the CPU time that the
system accounts to the server: for an INVITE that is redirected with a 302, and its ACK; and for a REGISTER that
refreshes a binding. Then the memory that a binding takes. With two processors the server has one to itself. It takes
about five minutes. What these cost beside others is in `table.py`.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from peers import ours
from processes import Client, Server, client_of, cpu_time, run_script

_ROUNDS = 5
_REQUESTS = 10_000
_FEW, _MANY = 1_000, 1_000_000
_TIMER_J = 33  # seconds: until then the transactions of what was registered take their share of the memory


def _time(server: Server, client: Client, kind: str, status: int, users: int) -> float:
    """Return the microseconds of CPU time of *server* for an exchange of *kind*."""
    before = cpu_time(server)
    result = client.run(kind, status, users=users, count=_REQUESTS)
    return (cpu_time(server) - before) / result.right * 1e6


def _compare() -> None:
    with ExitStack() as running:
        asked = {}
        for users in (_FEW, _MANY):
            server = running.enter_context(ours("--location", "memory:")())
            client = running.enter_context(client_of(server))
            result = client.run("register", 200, users=users, count=users)
            assert result.right == users, result
            asked[users] = server, client
        time.sleep(_TIMER_J)
        for what, kind, status in (("INVITE, 302, ACK", "invite", 302), ("REGISTER, refreshed", "register", 200)):
            times: dict[int, list[float]] = {users: [] for users in asked}
            for _ in range(_ROUNDS + 1):
                for users, pair in asked.items():
                    times[users].append(_time(*pair, kind, status, users))
            few, many = (statistics.median(values[1:]) for values in times.values())  # the first ones warm up
            print(f"{what:20} {_FEW:,} bindings: {few:.1f} µs, {_MANY:,}: {many:.1f} µs; {many / few - 1:+.0%}")


def main() -> None:
    """Measure, and print."""
    _compare()
    (octets,) = run_script("redirect_memory.py")
    print(f"memory: {octets} octets a binding")


if __name__ == "__main__":
    main()
