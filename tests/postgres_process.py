"""A real PostgreSQL for a test: made in a folder of its own, stopped, killed and brought back as the test wants."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

START_TIMEOUT = 20.0
PASSWORD = "owner's pass/word@1"
"""That of `postgres`, the user that everything belongs to."""


def free_port() -> int:
    """Return a free port below those that the system gives to clients: a server is to come back on it.

    Several runs of the tests on one machine look in different places.
    """
    first = 10_000 + os.getpid() % 200 * 100
    for port in range(first, first + 100):
        with socket.socket() as tcp:
            try:
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def programs() -> Path:
    """Return the directory of PostgreSQL's server programs; skips the test where they are not installed."""
    found = shutil.which("initdb")
    installed = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not installed or not (installed[-1] / "initdb").exists():
        pytest.skip("PostgreSQL is not installed: Debian package postgresql")
    return installed[-1]


class PostgresProcess:
    """One PostgreSQL server on a free `port` of 127.0.0.1, that asks for passwords.

    It refuses to be root's, so that root, who may run the tests, makes it somebody else's.
    """

    def __init__(self, *settings: str) -> None:
        self._programs = programs()
        is_root = os.geteuid() == 0
        # Those of pytest, and what $TMPDIR names, may be closed to all but root.
        self.directory = Path(tempfile.mkdtemp(prefix="sipuas-postgres-", dir="/tmp" if is_root else None))
        self._user: dict[str, Any] = {}
        if is_root:
            user = pwd.getpwnam("postgres")
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.port = free_port()
        self._settings = ["fsync=off", "listen_addresses=127.0.0.1", f"port={self.port}", *settings]
        self._process: subprocess.Popen[bytes] | None = None
        self._make()

    def _make(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        subprocess.run(
            [
                str(self._programs / "initdb"), "--no-sync", "--no-locale", "-E", "UTF8", "-U", "postgres",
                "-A", "scram-sha-256", "--pwfile", str(password), "-D", str(self.directory / "data"),
            ],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=self.directory, **self._user,
        )  # fmt: skip

    def dsn(self, schema: str = "public", user: str = "postgres", password: str = PASSWORD) -> str:
        """Return the connection string of *user*, who finds and makes tables in *schema*."""
        options = f"-c search_path={schema}"
        return make_conninfo(
            "", host="127.0.0.1", port=self.port, dbname="postgres", user=user, password=password, options=options
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [word for setting in self._settings for word in ("-c", setting)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._programs / "postgres"), "-D", str(self.directory / "data"), "-k", str(self.directory),
                    *settings,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.directory, **self._user,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            log_text = (self.directory / "log").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.05)

    def be_standby(self, is_standby: bool) -> None:
        """Be a copy, which takes no changes, or not, from the next start on; ``pg_promote()`` ends it too."""
        signal_file = self.directory / "data" / "standby.signal"
        if is_standby:
            signal_file.touch()
        else:
            signal_file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop it as an operator does who does not wait for clients: they lose their connections."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End it at once; it recovers when it is started again."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """Stop it if it runs, and remove all that there was."""
        self.stop()
        shutil.rmtree(self.directory)

    def ask(self, statement: str, *parameters: object, schema: str = "public") -> list[tuple[Any, ...]]:
        """Return what *statement* gives."""
        with psycopg.connect(self.dsn(schema), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def _answers(self) -> bool:
        """Whether it is this server, and no other that was faster to take the port, that answers."""
        try:
            return self.ask("SHOW data_directory") == [(str(self.directory / "data"),)]
        except psycopg.OperationalError:
            return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(15)
            self._process = None
