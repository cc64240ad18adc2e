"""What does a server transaction cost, in time and in memory, beside kamailio's?

usage: python benchmarks/transactions.py

Over UDP on the loopback interface, a client keeps a number of transactions going: OPTIONS answered 200, and INVITE
answered 486 and acknowledged. Reported is the CPU time that the system accounts to the server, for each transaction. If
kamailio is installed, it answers the same by `t_newtran` and `t_reply` of its `tm` module, in one worker, in turns with
ours. With two processors the server has one to itself. It takes about a minute.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
_ROUNDS = 3
_COUNTS = {"OPTIONS": 12_000, "INVITE": 8_000}
_WINDOW = 50
_WARM_UP = 2_000
_TICKS = os.sysconf("SC_CLK_TCK")
_KAMAILIO = """
debug=0
log_stderror=yes
fork=yes
children=1
disable_tcp=yes
auto_aliases=no
listen=udp:127.0.0.1:{port}
mpath="{modules}"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
request_route {{
    if (method == "ACK") {{
        t_check_trans();
        drop;
    }}
    t_newtran();
    if (method == "INVITE") t_reply("486", "Busy Here");
    else t_reply("200", "OK");
}}
"""


def _processors() -> tuple[set[int], set[int]]:
    """Return the processors of the server and of the client."""
    usable = sorted(os.sched_getaffinity(0))
    return (set(usable), set(usable)) if len(usable) < 2 else ({usable[0]}, {usable[1]})


_SERVER, _CLIENT = _processors()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _processes(leader: int) -> list[int]:
    """Return the processes of the session that *leader* leads."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [number for number in numbers if _account(number)[3:4] == [str(leader)]]


def _account(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on, none if the process is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_time(leader: int) -> float:
    """Return the seconds of CPU time that the processes of *leader*'s session have used."""
    accounts = [_account(process) for process in _processes(leader)]
    return sum(int(account[11]) + int(account[12]) for account in accounts if account) / _TICKS


@contextmanager
def _serving(command: list[str]) -> Iterator[int]:
    """Run *command*, in a session of its own on the server's processor; gives the process that leads it."""
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, _SERVER),
    )
    try:
        yield server.pid
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _load(port: int, method: str, count: int) -> int:
    """Let the client run; returns how many transactions were answered, and prints how many were not."""
    done = subprocess.run(
        [sys.executable, str(_HERE / "transactions_load.py"), str(port), method, str(count), str(_WINDOW)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: os.sched_setaffinity(0, _CLIENT),
    )
    answered, lost = map(int, done.stdout.split())
    if lost and count > 1:
        print(f"    {lost} of {count} {method} were lost")
    return answered


def _wait_for(port: int) -> None:
    """Wait until something answers on *port*."""
    for _ in range(20):
        if _load(port, "OPTIONS", 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on UDP port {port}")


def _measure(ports: dict[str, tuple[int, int]]) -> dict[tuple[str, str], list[float]]:
    """Return the microseconds of CPU time for a transaction, by server and method; *ports* has process and port."""
    results: dict[tuple[str, str], list[float]] = {}
    for method, count in _COUNTS.items():
        for _, port in ports.values():
            _load(port, method, _WARM_UP)
        for _ in range(_ROUNDS):
            for name, (process, port) in ports.items():
                before = _cpu_time(process)
                answered = _load(port, method, count)
                spent = _cpu_time(process) - before
                results.setdefault((name, method), []).append(spent / answered * 1e6)
    return results


def _report(results: dict[tuple[str, str], list[float]]) -> None:
    for (name, method), times in results.items():
        median = statistics.median(times)
        line = f"{method:8} {name:15} {median:6.1f} µs of CPU a transaction ({min(times):.1f} to {max(times):.1f})"
        theirs = results.get(("kamailio", method))
        if theirs is not None and name != "kamailio":
            line += f", {median / statistics.median(theirs):.2f} times kamailio's"
        print(line)


def _measure_memory() -> None:
    done = subprocess.run(
        [sys.executable, str(_HERE / "transactions_memory.py")], check=True, capture_output=True, text=True, timeout=120
    )
    grown, again, octets, calls, kept = done.stdout.split()
    print(f"memory   {grown} octets a transaction in Timer J, {octets} of them its response; {calls} reactor call")
    print(f"         {again} octets each for as many more after these ended; {kept} octets each not given back")


def main() -> None:
    """Measure, and print."""
    ours, theirs = _free_port(), _free_port()
    own_command = [sys.executable, str(_HERE / "transactions_server.py"), str(ours)]
    kamailio = shutil.which("kamailio") or shutil.which("kamailio", path="/usr/sbin:/usr/local/sbin")
    modules = next(iter(sorted(Path("/usr").glob("lib*/**/kamailio/modules"))), None)
    with tempfile.TemporaryDirectory() as scratch, _serving(own_command) as own_process:
        ports = {"twisted-sipuas": (own_process, ours)}
        _wait_for(ours)
        if kamailio is None or modules is None:
            print("kamailio is not installed; nothing to compare with")
            _report(_measure(ports))
        else:
            configuration = Path(scratch, "kamailio.cfg")
            configuration.write_text(_KAMAILIO.format(port=theirs, modules=modules))
            memory = "-x fm -X fm -m 2048".split()
            command = [kamailio, "-DD", "-E", *memory, "-f", str(configuration), "-Y", scratch, "-w", scratch]
            with _serving(command) as their_process:
                _wait_for(theirs)
                _report(_measure({**ports, "kamailio": (their_process, theirs)}))
    _measure_memory()


if __name__ == "__main__":
    main()
