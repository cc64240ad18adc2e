"""An interactive shell on a terminal of its own, for what happens when somebody presses TAB."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from select import select

import pytest

_DEADLINE = 30.0
_PROMPT = "ready> "
_LIST_KEYS = {"bash": "\x1b?", "zsh": "\x04"}  # Alt-? and Ctrl-D
_EMPTY_LINE = "\x05\x15"  # Ctrl-E and Ctrl-U
_CONTROLS = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[=>])|\r")


class Shell:
    """A shell that reads keys, in *directory*; *setup* are the lines that it is given first."""

    def __init__(self, command: list[str], directory: Path, setup: Sequence[str]) -> None:
        program = shutil.which(command[0])
        if program is None:
            pytest.skip(f"{command[0]} is not installed")
        environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "TERM": "xterm", "PS1": _PROMPT}
        self._list_key = _LIST_KEYS[command[0]]
        self._marks = 0
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(directory)
            os.execve(program, command, environment)
        self._read_until(_PROMPT)
        for line in ("stty columns 80 rows 100", *setup):
            self.run(line)

    def choices(self, line: str) -> str:
        """Return what the shell shows when it is asked for the choices that there are behind *line*."""
        return self._press(line + self._list_key + _EMPTY_LINE)

    def run(self, line: str) -> str:
        """Return what the shell shows while *line*, which may have TABs in it, is typed, and then done."""
        return self._press(f"{line}; ")

    def _press(self, keys: str) -> str:
        """Press *keys*; then have the shell say a mark, which is not in what is typed, so that its echo is none."""
        self._marks += 1
        os.write(self._terminal, f"{keys}echo end''-{self._marks}\r".encode())
        # Before its prompt the shell does not read keys as keys.
        return self._read_until(f"\nend-{self._marks}\n") + self._read_until(_PROMPT)

    def _read_until(self, mark: str) -> str:
        seen = b""
        end = time.monotonic() + _DEADLINE
        while mark.encode() not in seen:
            readable, _, _ = select([self._terminal], [], [], max(0, end - time.monotonic()))
            assert readable, f"the shell does not say {mark!r}: {seen!r}"
            seen = _CONTROLS.sub(b"", seen + os.read(self._terminal, 1))
        return seen.decode()

    def close(self) -> None:
        """End the shell."""
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._terminal)
