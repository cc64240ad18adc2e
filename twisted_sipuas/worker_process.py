"""How is a worker process started, and what do it and its parent tell each other?

What passes between the two are lines. A worker reads from standard input, first its `Assignment`, as JSON, then words:

    reload  read files again
    drain   refuse new requests, and say "drained" when nothing is owed
    stop    end
    hasten  end, whatever is owed

The end of it is the end of the parent, and so of the worker. It writes to descriptor 3:

    log EVENT       a log event, as JSON
    listening       it serves
    failed TEXT     it cannot start, as JSON
    drained         nothing is owed any more
    counters MAP    its counters, as JSON
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from twisted.internet.protocol import ProcessProtocol
from twisted.logger import LogEvent, eventFromJSON
from twisted.python.failure import Failure

__all__ = ["FIRST_SOCKET", "REPORTS", "Assignment", "Slot", "WorkerProcess"]

REPORTS = 3
"""The descriptor that a worker writes its reports to."""

FIRST_SOCKET = 4
"""The first of the descriptors that are its sockets."""

_LONGEST_LINE = 1024 * 1024  # octets of one report

# The parent's module path comes first, before anything else is imported: the current directory may be anybody's. A
# terminal and systemd send their signals to workers too, but what these have to do their parent tells them.
_PROGRAM = """\
import sys; sys.path[:] = sys.argv.pop(1).split(":")
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1): signal.signal(number, lambda *_: None)
from twisted_sipuas.worker import main; main()
"""


class Assignment(NamedTuple):
    """What a worker is to do."""

    number: int
    """Which of the workers it is, from 1."""
    arguments: list[str]
    """The command line behind ``sipuas``, as given."""
    directory: str
    """Where that was given: relative names in it may be looked up there as soon as it is read."""
    reactor: str
    """The module whose function ``install`` installs the reactor that the parent has."""
    key: str
    """The secret that workers share, in hexadecimal digits."""
    descriptors: list[list[int]]
    """The sockets of each listener."""


class Slot(Protocol):
    """Who is told of a worker."""

    def serving(self) -> None:
        """The worker listens."""

    def failed(self, why: str) -> None:
        """The worker cannot start."""

    def drained(self) -> None:
        """The worker owes nothing any more."""

    def counted(self, counters: Mapping[str, int]) -> None:
        """These are the counters of the worker now."""

    def log(self, event: LogEvent) -> None:
        """The worker logs *event*."""

    def printed(self, line: str) -> None:
        """The worker has printed *line* past its log."""

    def ended(self, how: str) -> None:
        """The worker has ended."""


class WorkerProcess(ProcessProtocol):
    """One worker process, for the *slot* that it is in."""

    transport: Any

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._lines = {descriptor: _Lines() for descriptor in (1, 2, REPORTS)}
        self._last_printed = ""
        self._has_ended = False
        self.is_serving = False
        self.is_drained = False

    def start(self, reactor: Any, assignment: Assignment, inherited: Mapping[int, int]) -> None:
        """Start the process, for *assignment*, with our descriptors *inherited* as its own; raises `OSError`."""
        arguments = [sys.executable, "-c", _PROGRAM, ":".join(sys.path), f"worker {assignment.number}"]
        descriptors = {0: "w", 1: "r", 2: "r", REPORTS: "r", **inherited}
        reactor.spawnProcess(self, sys.executable, arguments, env=None, childFDs=descriptors)
        self.tell(json.dumps(assignment))

    def tell(self, words: str) -> None:
        """Send a line."""
        self.transport.write(f"{words}\n".encode())

    def kill(self) -> None:
        """End the process now."""
        if self.transport.pid is not None:
            os.kill(self.transport.pid, signal.SIGKILL)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Take what it reports, and what it prints."""
        for line in self._lines[childFD].feed(data):
            if childFD == REPORTS:
                self._report(*line.partition(" ")[::2])
            else:
                self._last_printed = line
                self._slot.printed(line)

    def childConnectionLost(self, childFD: int) -> None:
        """All is told. Before the reactor runs nobody else tells that it has ended."""
        if childFD in self._lines:
            del self._lines[childFD]
            if not self._lines and not self.is_serving and not self._has_ended:
                self._slot.failed(f"it ended before it served{self._last_printed and f': {self._last_printed}'}")

    def processExited(self, reason: Failure) -> None:
        """It has ended; another process may still hold what it had for its output."""
        status: Any = reason.value
        how = (
            f"ended with status {status.exitCode}" if status.signal is None else f"was ended by signal {status.signal}"
        )
        self._has_ended = True
        self._slot.ended(how)

    def _report(self, word: str, text: str) -> None:
        if word == "log":
            self._slot.log(eventFromJSON(text))
        elif self._has_ended:
            return  # the place may be another one's by now
        elif word == "listening":
            self.is_serving = True
            self._slot.serving()
        elif word == "failed":
            self._slot.failed(json.loads(text))
        elif word == "drained":
            self.is_drained = True
            self._slot.drained()
        elif word == "counters":
            self._slot.counted(json.loads(text))


class _Lines:
    """Makes lines of what comes in pieces; what is too long for one is dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that *data* ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "backslashreplace")
        if len(self._rest) > _LONGEST_LINE:
            self._rest = b""
