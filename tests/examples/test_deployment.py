"""Do the files that start the server elsewhere, for twistd, systemd and Docker, start it here?"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.examples.test_examples import ROOT, Example
from tests.interoperability.conftest import free_port, twistd

EXAMPLES = ROOT / "examples"
SYSTEMD = EXAMPLES / "systemd"
DOCKER = EXAMPLES / "docker"

# As systemd does it (sd_listen_fds): the sockets from 3 on, in the order of the unit file, and the process becomes the
# service's. Arguments: the address, the port, the kinds of the sockets, and the command.
AS_SYSTEMD = """\
import os, socket, sys
host, port, kinds, *command = sys.argv[1:]
sockets = [socket.socket(socket.AF_INET, getattr(socket, kind)) for kind in kinds.split(",")]
for number, each in enumerate(sockets):
    each.bind((host, int(port)))
    if each.type == socket.SOCK_STREAM:
        each.listen()
    os.dup2(each.fileno(), 100 + number, inheritable=False)
for number in range(len(sockets)):
    os.dup2(100 + number, 3 + number)
names = ":".join(["sipuas.socket"] * len(sockets))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Example]]:
    """Return what starts an `Example`, which is stopped after the test, and ends as twistd does: by the signal."""
    started: list[Example] = []

    def begin(*arguments: str, program: str, **more: str) -> Example:
        started.append(Example(tmp_path, *arguments, program=program, **more))
        return started[-1]

    yield begin
    for process in started:
        assert process.stop() in (0, -signal.SIGTERM), process.log
        assert "Traceback" not in process.log


def settings(unit: str) -> dict[str, list[str]]:
    """Return what the unit file *unit* sets, continued lines put together."""
    text = re.sub(r"\\\n\s*", "", (SYSTEMD / unit).read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_tac(start: Callable[..., Example]) -> None:
    """The .tac file is a registrar, and the rule that is in it comes after what users registered."""
    server = start("-ny", str(EXAMPLES / "sipuas.tac"), "--pidfile=", program=twistd(), SIP_LISTEN="udp:0")
    (answer,) = server.ask("REGISTER", "sip:127.0.0.1")
    assert answer.startswith("SIP/2.0 200 ")
    (answer,) = server.ask("INVITE", "sip:bob@127.0.0.1")
    assert answer.startswith("SIP/2.0 302 ")
    assert "Contact: <sip:operator@pbx.example.net>\r\n" in answer


def test_systemd_units_are_sound(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing in the units, but that the server is not installed where they say."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in ("sipuas.service", "sipuas.socket"):
        text = (SYSTEMD / unit).read_text().replace("/opt/sipuas/bin/twistd", twistd())
        (tmp_path / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "sipuas.socket", tmp_path / "sipuas.service"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd(start: Callable[..., Example], tmp_path: Path) -> None:
    """The service's own command line serves the sockets of the socket unit, and asks for the users' passwords."""
    sockets = [name for name in settings("sipuas.socket") if name.startswith("Listen")]
    assert sockets == ["ListenDatagram", "ListenStream"]  # in the order that the service counts by
    assert settings("sipuas.service")["LoadCredential"] == ["users:/etc/sipuas.users"]
    (tmp_path / "users").write_text("alice:secret\n")
    (command,) = settings("sipuas.service")["ExecStart"]
    program, *arguments = shlex.split(command.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)))
    assert program == "/opt/sipuas/bin/twistd"
    port = free_port()
    kinds = "SOCK_DGRAM,SOCK_STREAM"
    server = start("-c", AS_SYSTEMD, "127.0.0.1", str(port), kinds, twistd(), *arguments, program=sys.executable)
    assert f"Listening on udp:127.0.0.1:{port}, tcp:127.0.0.1:{port}\n" in server.log
    (answer,) = server.ask("REGISTER", "sip:127.0.0.1")
    assert answer.startswith("SIP/2.0 401 ")
    assert 'realm="example.com"' in answer
    healthcheck = subprocess.run([sys.executable, str(DOCKER / "healthcheck.py"), str(port)], timeout=20)
    assert healthcheck.returncode == 0


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage of the Dockerfile with their arguments, continued lines put together."""
    text = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text())
    found: list[list[tuple[str, str]]] = []
    for line in text.splitlines():
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append([])
        elif name and not name.startswith("#"):
            found[-1].append((name, arguments))
    return found


class Image:
    """What the Dockerfile would make, below *directory*, as far as that goes without Docker and root."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.build, self.final = stages()
        self.places = {
            "/opt/sipuas": str(directory / "opt"),
            "/etc/sipuas": str(directory / "etc"),
            "0.0.0.0": "127.0.0.1",
            "5060": str(port),
        }
        for name in ("source", "etc"):
            (directory / name).mkdir()
        for name, arguments in [*self.build, *self.final]:
            if name == "COPY" and not arguments.startswith("--from=build "):
                *sources, target = arguments.split()
                self.copy(sources, target)

    def here(self, text: str) -> str:
        """Return *text* with places of the image put where they are here."""
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def copy(self, sources: list[str], target: str) -> None:
        """Copy *sources*, of the project, as the builder does; directories without what is made in them."""
        destination = self.directory / "source" / target if target.startswith(".") else Path(self.here(target))
        for source in sources:
            assert (ROOT / source).exists(), source
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
                shutil.copytree(ROOT / source, destination, ignore=ignored)
            else:
                destination.parent.mkdir(exist_ok=True)
                shutil.copy(ROOT / source, destination)

    def run_build(self) -> None:
        """Run what the build stage runs, as its shell would; skip the test where no package index is reached."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        for name, arguments in self.build:
            if name != "RUN":
                continue
            done = subprocess.run(
                ["/bin/sh", "-ec", self.here(arguments)],
                cwd=self.directory / "source", env=environment, capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            if "No matching distribution" in done.stderr:
                pytest.skip(f"pip reaches no package index: {done.stderr.strip()[-300:]}")
            assert done.returncode == 0, done.stderr

    def command(self, *names: str) -> list[str]:
        """Return the command of the instructions *names*, each a JSON list, one behind the other."""
        words: list[str] = []
        for name in names:
            (text,) = (arguments for other, arguments in self.final if other == name)
            words += json.loads(self.here(text[text.index("[") :]))
        return words


def test_docker(start: Callable[..., Example], tmp_path: Path) -> None:
    """What the image is made of is there and installs, its command redirects calls, and its health check tells so."""
    port = free_port()
    image = Image(tmp_path, port)
    image.run_build()
    assert list((tmp_path / "opt").rglob("dropin.cache"))  # Twisted's, which has to be written by who may
    (tmp_path / "etc" / "routes.toml").write_text('[[route]]\ntargets = "sip:{user}@gateway.example.net"\n')
    healthcheck = image.command("HEALTHCHECK")
    down = subprocess.run(healthcheck, capture_output=True, text=True, timeout=20)
    assert (down.returncode, down.stdout) == (1, "")
    assert down.stderr == f"port {port}: [Errno 111] Connection refused\n"

    program, *arguments = image.command("ENTRYPOINT", "CMD")
    server = start(*arguments, program=program)
    (answer,) = server.ask("INVITE", "sip:bob@127.0.0.1")
    assert "Contact: <sip:bob@gateway.example.net>\r\n" in answer
    up = subprocess.run(healthcheck, capture_output=True, text=True, timeout=20)
    assert (up.returncode, up.stdout, up.stderr) == (0, "", "")


def test_image_runs_without_privileges() -> None:
    """The image runs as a user of its own, serves the ports of SIP, and is stopped by what stops the server well."""
    final = dict(stages()[-1])
    assert final["USER"] not in ("root", "0")
    assert final["EXPOSE"] == "5060/udp 5060/tcp"
    assert final["STOPSIGNAL"] == "SIGTERM"
