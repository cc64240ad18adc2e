"""What does a server transaction cost, in time and in memory, beside kamailio's?

usage: python benchmarks/transactions.py

Over UDP on the loopback interface, a client sends bursts of requests: OPTIONS answered 200, and INVITE answered 486 and
acknowledged. Reported is the CPU time that the system accounts to the server, for each transaction. If kamailio is
installed, it answers the same by `t_newtran` and `t_reply` of its `tm` module, in one worker, in turns with ours. With
two processors the server has one to itself. It takes about a minute.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from processes import FAST, OURS, has_kamailio, kamailio, load, measure, own_server, report, run_ours

_ROUNDS = 3
_CASES = (("OPTIONS", 200, 12_000), ("INVITE", 486, 8_000))
_WARM_UP = 2_000
_CONFIGURATION = """
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
request_route {
    if (method == "ACK") {
        t_check_trans();
        drop;
    }
    t_newtran();
    if (method == "INVITE") t_reply("486", "Busy Here");
    else t_reply("200", "OK");
}
"""


def main() -> None:
    """Measure, and print."""
    with ExitStack() as running:
        script = str(Path(__file__).with_name("transactions_server.py"))
        servers = {OURS: running.enter_context(own_server(script, "{port}"))}
        if has_kamailio():
            servers[FAST] = running.enter_context(kamailio(_CONFIGURATION))
        for method, status, count in _CASES:
            for server in servers.values():
                load(server, method, _WARM_UP, status=status)
            times = measure(servers, lambda server: load(server, method, count, status=status), _ROUNDS)  # noqa: B023
            report(method, times)
    grown, again, octets, calls, kept = run_ours("transactions_memory.py")
    print(f"memory   {grown} octets a transaction in Timer J, {octets} of them its response; {calls} reactor call")
    print(f"         {again} octets each for as many more after these ended; {kept} octets each not given back")


if __name__ == "__main__":
    main()
