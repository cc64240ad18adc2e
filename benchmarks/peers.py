"""Which servers does `table.py` compare? Ours, as users start it, and its peers where they are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path

from processes import Server, Unavailable, free_port, python_server, serving

__all__ = ["DEBIAN", "FAST", "Start", "aiosipua", "echo", "kamailio", "ours", "sippy", "twisted_sip", "versions"]

Start = Callable[[], AbstractContextManager[Server]]
"""Runs a server; raises `Unavailable` where it cannot."""

FAST, DEBIAN = "fm", None
"""kamailio's allocators: the fast one, and the one that it has when Debian starts it."""

_SERVERS = Path(__file__).with_name("servers")
_PATH = {"PYTHONPATH": f"{_SERVERS.parents[1]}{os.pathsep}{_SERVERS}"}  # where the package is, and our handler
_REASONS = {200: "OK", 302: "Moved Temporarily", 480: "Temporarily Unavailable", 486: "Busy Here"}
_LISTEN = {
    "udp": "udp:{port}:interface=127.0.0.1:tcp=no",
    "tcp": "tcp:{port}:interface=127.0.0.1",
    "tls": "ssl:{port}:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem",
}
_KAMAILIO = """
debug=0
log_stderror=yes
fork=yes
children=1
tcp_children=1
tcp_max_connections=4096
disable_tcp={without_tcp}
auto_aliases=no
listen={transport}:127.0.0.1:{port}
mpath="{modules}"
loadmodule "sl.so"
loadmodule "pv.so"
"""
_STATELESS = """
request_route {
    if (method == "ACK") drop;
    REGISTRAR
    if (method == "INVITE") sl_send_reply("STATUS", "REASON");
    else sl_send_reply("200", "OK");
}
"""
_STATEFUL = """
loadmodule "tm.so"
request_route {
    if (method == "ACK") {
        t_check_trans();
        drop;
    }
    REGISTRAR
    t_newtran();
    if (method == "INVITE") t_reply("STATUS", "REASON");
    else t_reply("200", "OK");
}
"""
_BINDINGS = """
loadmodule "usrloc.so"
loadmodule "registrar.so"
modparam("usrloc", "db_mode", 0)
modparam("usrloc", "hash_size", 17)
"""
_REGISTRAR = """
    if (method == "REGISTER") {
        save("location");
        exit;
    }
    if (method == "INVITE" && !lookup("location")) {
        sl_send_reply("404", "Not Found");
        exit;
    }
"""


def ours(*options: str, transport: str = "udp") -> Start:
    """Return what runs ours with *options*, and no other but where it listens, in a directory of its own."""

    @contextmanager
    def start() -> Iterator[Server]:
        with tempfile.TemporaryDirectory() as directory:
            if transport == "tls":
                _write_certificate(directory)
            command = ["-m", "twisted_sipuas", *options, "--listen", _LISTEN[transport]]
            with python_server(*command, directory=directory, environment=_PATH) as server:
                yield server

    return start


def _write_certificate(directory: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise Unavailable("openssl, which makes its certificate, is not installed")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([openssl, *command.split(), *files], cwd=directory, check=True, capture_output=True)


def kamailio(
    status: int,
    *,
    is_stateful: bool,
    has_registrar: bool = False,
    allocator: str | None = FAST,
    transport: str = "udp",
) -> Start:
    """Return what runs kamailio with one worker, which answers INVITE with *status*, OPTIONS with 200.

    It answers by `t_reply` of its module `tm` if it *is_stateful*, by `sl_send_reply` if not. With *has_registrar* an
    INVITE is answered for the users that `lookup` knows from `save`, which has them in memory.
    """
    routes = _STATEFUL if is_stateful else _STATELESS
    routes = routes.replace("STATUS", str(status)).replace("REASON", _REASONS[status])
    routes = routes.replace("REGISTRAR", _REGISTRAR if has_registrar else "")
    if has_registrar:
        routes = _BINDINGS + routes

    @contextmanager
    def start() -> Iterator[Server]:
        program, modules = _kamailio_program(), _kamailio_modules()
        if program is None or modules is None:
            raise Unavailable("kamailio is not installed")
        port = free_port()
        names = {"port": port, "modules": modules, "transport": transport}
        names["without_tcp"] = "yes" if transport == "udp" else "no"
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "kamailio.cfg")
            file.write_text(_KAMAILIO.format(**names) + routes)
            memory = ["-m", "2048"] if allocator is None else ["-m", "2048", "-x", allocator, "-X", allocator]
            command = [program, "-DD", "-E", *memory, "-f", str(file), "-Y", scratch, "-w", scratch]
            with serving(command, port) as server:
                yield server

    return start


def _kamailio_modules() -> Path | None:
    return next(iter(sorted(Path("/usr").glob("lib*/**/kamailio/modules"))), None)


def _kamailio_program() -> str | None:
    return shutil.which("kamailio") or shutil.which("kamailio", path="/usr/sbin:/usr/local/sbin")


def twisted_sip(status: int) -> Start:
    """Return what runs `twisted.protocols.sip`, which answers everything with *status*."""
    return lambda: python_server(str(_SERVERS / "with_twisted_sip.py"), str(status), "{port}")


def sippy(status: int) -> Start:
    """Return what runs sippy, which answers INVITE with *status*, and everything else with 200."""

    @contextmanager
    def start() -> Iterator[Server]:
        _require("sippy")
        script = str(_SERVERS / "with_sippy.py")
        with python_server(script, str(status), "{port}", environment={"SIPLOG_BEND": "none"}) as server:
            yield server

    return start


def aiosipua(status: int, transport: str = "udp") -> Start:
    """Return what runs aiosipua, which answers INVITE with *status*, and OPTIONS with 200."""

    @contextmanager
    def start() -> Iterator[Server]:
        _require("aiosipua")
        script = str(_SERVERS / "with_aiosipua.py")
        with python_server(script, transport, str(status), "{port}") as server:
            yield server

    return start


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Unavailable(f"{package} is not installed")


def echo(how: str) -> Start:
    """Return what runs a server that sends datagrams back: ``twisted`` or ``socket``."""
    return lambda: python_server(str(_SERVERS / "echo.py"), how, "{port}")


def versions() -> list[str]:
    """Return the names and versions of what is compared, as far as it is installed."""
    found = [f"Python {sys.version.split()[0]} ({_build()})"]
    for package in ("Twisted", "sippy", "aiosipua"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            pass
    program = _kamailio_program()
    if program is not None:
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout.split()
        found.append(f"kamailio {said[2]}")
    return found


def _build() -> str:
    """Say where this Python comes from, for how it was compiled makes it faster or slower by a fifth."""
    return "the system's" if sys.base_prefix == "/usr" else "compiled here"
