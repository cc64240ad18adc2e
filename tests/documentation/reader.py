"""A reader who does what a page of the documentation says: writes its files, types its commands, and compares."""

from __future__ import annotations

import doctest
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 30.0
COMMAND_TIMEOUT = 300.0  # one installs from a package index

_BLOCK = re.compile(r"(?:`([\w-]+\.\w+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FIRST_LINE = re.compile(r"# ([\w-]+\.\w+)\n")
_SERVER = re.compile(r"sipuas .*--listen|twistd -n")

_VARIES = (
    (r"\r", ""),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", "TIME"),
    (r"127\.0\.0\.1:\d{5}", "127.0.0.1:PORT"),
    (r"tag=(?!9fxced76sl)[0-9a-f]+", "tag=TAG"),  # but for that of `make_request`
    (r"branch=z9hG4bK[0-9a-f]+", "branch=BRANCH"),
    (r"(Call-ID:?) ([0-9a-f]{16}|\d+@127\.0\.0\.1)", r"\1 CALL-ID"),
    (r"(twisted-sipuas[ /])\d[\w.]+", r"\1VERSION"),
    (r"Twisted [\d.]+", "Twisted VERSION"),
    (r"in \d+\.\d+s", "in SECONDS"),
)
"""What is otherwise each time, and what stands for it."""


class Block(NamedTuple):
    """A fenced block of a page, and the name of the file that it is, if it is one."""

    file_name: str | None
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of *page*, a path below the documentation's folder.

    A block is a file if its name stands before it, in a line that ends in a colon, or in a comment on its first line.
    """
    found = []
    for name, language, text in _BLOCK.findall((ROOT / "docs" / page).read_text()):
        first = _FIRST_LINE.match(text)
        found.append(Block(first[1] if first else name or None, language, text))
    return found


def plain(text: str) -> str:
    """Return *text* without what is otherwise each time."""
    for pattern, replacement in _VARIES:
        text = re.sub(pattern, replacement, text)
    return text


def assert_same(expected: str, got: str) -> None:
    """Compare what a page shows with what was printed; a line of three dots stands for any lines."""
    expected, got = plain(expected), plain(got)
    assert doctest.OutputChecker().check_output(expected, got, doctest.ELLIPSIS), f"expected\n{expected}\ngot\n{got}"


class Reader:
    """Two terminals in *directory*, one of which is for servers; *ports* are those to take for ports of the page.

    Programs are looked for in *path* first. What the variables of the test run say to Python is not said to it, but
    *environment* is.

    A block that is a file is written. One of ``console`` is typed, each line that begins with ``$``, and what follows
    is what it prints. A server is left running until the next one; a block of ``console`` without any command is what
    it has printed since. Other blocks are for looking at.
    """

    def __init__(self, directory: Path, ports: Mapping[int, int], path: Path, **environment: str) -> None:
        self._ports = ports
        self._environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL"))
            },
            "PATH": f"{path}:{os.environ['PATH']}",
            **environment,
        }
        self._shell = subprocess.Popen(
            ["bash", "--norc"], cwd=directory, env=self._environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
        )  # fmt: skip
        self._server: subprocess.Popen[bytes] | None = None
        self._log = directory / "server.log"
        self._seen = 0

    def follow(self, block: Block) -> None:
        """Do what *block* says."""
        text = block.text
        for port, free in self._ports.items():
            text = text.replace(str(port), str(free))
        if block.file_name is not None:
            (self.working_directory / block.file_name).write_text(text)
            return
        if block.language != "console":
            return
        before, *typed = re.split(r"^\$ ", text, flags=re.MULTILINE)
        if before:
            self._expect_of_server(before)
        for command in typed:
            line, _, expected = command.replace("\\\n", " ").partition("\n")
            if _SERVER.match(line):
                self._start_server(line)
                self._expect_of_server(expected)
                continue
            status, printed = self._run(line)
            if status and line.startswith("pip install"):
                pytest.skip(f"pip reaches no package index: {printed[-300:]}")
            assert expected or not status, f"{line}\n{printed}"
            if not line.startswith("pip install"):  # which may say that there is a newer pip
                assert_same(expected, printed)

    @property
    def working_directory(self) -> Path:
        """Where the shell is."""
        return Path(self._run("pwd")[1].strip())

    def close(self) -> None:
        """Press Ctrl-C, and leave."""
        self._stop_server()
        self._shell.kill()
        self._shell.communicate()

    def _run(self, command: str) -> tuple[int, str]:
        """Run *command* in the shell; return its exit status, and what it printed."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null; echo '<<<' $? '>>>'\n".encode())
        deadline = time.monotonic() + COMMAND_TIMEOUT
        printed = b""
        while (end := re.search(rb"<<< (\d+) >>>\n$", printed)) is None:
            readable, _, _ = select.select([self._shell.stdout], [], [], deadline - time.monotonic())
            assert readable, f"{command}: not done after {COMMAND_TIMEOUT} s; printed {printed!r}"
            some = self._shell.stdout.read(65536)
            assert some, f"{command}: the shell ended; printed {printed!r}"
            printed += some
        return int(end[1]), printed[: end.start()].decode()

    def _start_server(self, command: str) -> None:
        self._stop_server()
        _, path = self._run("echo $PATH")
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.working_directory,
                env={**self._environment, "PATH": path.strip(), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._seen = 0

    def _expect_of_server(self, expected: str) -> None:
        """Wait until the server has printed the last line of *expected*, and compare; more may follow."""
        assert self._server is not None
        last = plain(expected).splitlines()[-1]
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            printed = self._log.read_text()[self._seen :]
            if last in plain(printed).splitlines():
                break
            assert self._server.poll() is None, printed
            assert time.monotonic() < deadline, f"expected\n{expected}\ngot\n{printed}"
            time.sleep(0.05)
        assert_same(f"{expected}...", printed)
        self._seen += len(printed)

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            assert self._server.wait(15) in (0, -signal.SIGINT), self._log.read_text()
            self._server = None
