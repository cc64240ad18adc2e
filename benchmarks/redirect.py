"""What do a redirected call and a refreshed registration cost, in time and in memory, beside kamailio's?

usage: python benchmarks/redirect.py

The server is the one that users start, `sipuas` with its bindings in memory; over UDP on the loopback interface a
client sends bursts of requests. Reported is the CPU time that the system accounts to the server: for an INVITE that is
redirected with a 302, and its ACK; and for a REGISTER that refreshes a binding, of 100,000 that there are. If kamailio
is installed, it answers the same in turns with ours, in one worker: by `lookup` and `sl_send_reply`, without a
transaction, and by `save`, its bindings in memory; once with its fast allocator and once with its own.

Then the same for ours with 1,000 and with 1,000,000 bindings, in turns, and the memory that a binding takes. With two
processors the server has one to itself. It takes about six minutes; with the argument `quick` it ends after the
comparison with kamailio.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from processes import FAST, OURS, Server, has_kamailio, kamailio, load, measure, own_server, report, run_ours

_ROUNDS = 5
_REQUESTS = 10_000
_BINDINGS = 100_000
_FEW, _MANY = 1_000, 1_000_000
_TIMER_J = 33  # seconds: until then the transactions of what was registered take their share of the memory
_CONFIGURATION = """
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("usrloc", "db_mode", 0)
modparam("usrloc", "hash_size", 17)
request_route {
    if (method == "ACK") drop;
    if (method == "REGISTER") {
        save("location");
        exit;
    }
    if (method == "INVITE") {
        if (lookup("location")) sl_send_reply("302", "Moved Temporarily");
        else sl_send_reply("404", "Not Found");
        exit;
    }
    sl_send_reply("200", "OK");
}
"""


class Phones:
    """So many users of one server, each registered with one contact; they refresh that when told to."""

    def __init__(self, users: int) -> None:
        self._users = users
        self._cseq: dict[Server, int] = {}

    def register(self, server: Server) -> int:
        """Register every user; returns how many could."""
        return self._send(server, self._users)

    def refresh(self, server: Server) -> int:
        """Let some of them register again; returns how many could."""
        return self._send(server, _REQUESTS)

    def _send(self, server: Server, count: int) -> int:
        cseq = self._cseq[server] = self._cseq.get(server, 0) + 1
        if count <= self._users:
            return load(server, "REGISTER", count, users=self._users, cseq=cseq)
        return sum(self._send(server, self._users) for _ in range(count // self._users))

    def call(self, server: Server) -> int:
        """Call some of them; returns how many calls were redirected."""
        return load(server, "INVITE", _REQUESTS, status=302, users=self._users)


@contextmanager
def _redirecting() -> Iterator[Server]:
    """Run the server as users do."""
    listen = "udp:{port}:interface=127.0.0.1:tcp=no"
    with own_server("-m", "twisted_sipuas", "--location", "memory:", "--listen", listen) as server:
        yield server


def _compare_with_kamailio() -> None:
    phones = Phones(_BINDINGS)
    with ExitStack() as running:
        servers = {OURS: running.enter_context(_redirecting())}
        if has_kamailio():
            servers[FAST] = running.enter_context(kamailio(_CONFIGURATION))
            servers[f"{FAST}, own memory"] = running.enter_context(kamailio(_CONFIGURATION, allocator=None))
        for server in servers.values():
            phones.register(server)
            phones.call(server)
        report("INVITE, 302, ACK", measure(servers, phones.call, _ROUNDS))
        report("REGISTER, refreshed", measure(servers, phones.refresh, _ROUNDS))


def _compare_with_more_bindings() -> None:
    few, many = Phones(_FEW), Phones(_MANY)
    with _redirecting() as small, _redirecting() as large:
        few.register(small)
        many.register(large)
        time.sleep(_TIMER_J)
        servers = {f"{_FEW:,} bindings": small, f"{_MANY:,} bindings": large}

        def told(of_few: Callable[[Server], int], of_many: Callable[[Server], int]) -> Callable[[Server], int]:
            return lambda server: (of_few if server == small else of_many)(server)

        for what, ask in (
            ("INVITE, 302, ACK", told(few.call, many.call)),
            ("REGISTER, refreshed", told(few.refresh, many.refresh)),
        ):
            measure(servers, ask, 1)
            times = measure(servers, ask, _ROUNDS)
            medians = {name: statistics.median(values) for name, values in times.items()}
            low, high = medians.values()
            figures = ", ".join(f"{name}: {median:.1f} µs" for name, median in medians.items())
            print(f"{what:20} {figures}; {high / low - 1:+.0%}")


def main() -> None:
    """Measure, and print."""
    _compare_with_kamailio()
    if sys.argv[1:] != ["quick"]:
        _compare_with_more_bindings()
        (octets,) = run_ours("redirect_memory.py")
        print(f"memory: {octets} octets a binding")


if __name__ == "__main__":
    main()
