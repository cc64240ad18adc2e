"""What runs in one of several workers? The service of the parent's own options, on the sockets that it has bound.

What the parent tells and is told is said in `twisted_sipuas.worker_process`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from twisted.logger import ILogObserver, LogEvent, eventAsJSON, globalLogBeginner
from twisted.python import usage
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import StartError
from twisted_sipuas.logs import Logger
from twisted_sipuas.transport.listen import InheritedListen, parse_listen
from twisted_sipuas.worker_process import REPORTS, Assignment

if TYPE_CHECKING:
    from twisted_sipuas.service import SIPService

__all__ = ["main"]

_log = Logger()

_ORPHAN_TIME = 3.0  # seconds that a worker has to end by itself when its parent is gone
_COUNTERS_INTERVAL = 5.0  # seconds between two looks at whether they have changed


def main() -> None:
    """Serve until told to stop, or until the parent is gone."""
    words = os.fdopen(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.set_inheritable(REPORTS, False)
    reports = _Reports(os.fdopen(REPORTS, "wb"))
    line = words.readline()
    if not line:
        return  # the parent is gone already
    assignment = Assignment(*json.loads(line))
    globalLogBeginner.beginLoggingTo([reports])
    importlib.import_module(assignment.reactor).install()
    from twisted.internet import reactor

    try:
        service = _service(assignment, reactor)
        _Work(service, reactor, reports, words).run()
    except (StartError, usage.UsageError, ValueError, OSError) as error:
        reports.tell("failed", str(error))
        sys.exit(1)
    except Exception as error:
        _log.failure("worker {number} failed", number=assignment.number)
        reports.tell("failed", f"{type(error).__name__}: {error}; the log has more")
        sys.exit(1)


def _service(assignment: Assignment, reactor: Any) -> SIPService:
    """Return the service that the command line describes, as the parent would make it, on its sockets."""
    from twisted_sipuas.tap import Options, sip_service  # imports what asks for a reactor, and would install one

    options = Options()
    options.key = bytes.fromhex(assignment.key)
    here = os.getcwd()  # that of the running server, which need not be where the command line was given
    if assignment.directory == here:
        options.parseOptions(assignment.arguments)
    else:
        with suppress(OSError):  # as who it is now it may not get there; what is there it could not read either
            os.chdir(assignment.directory)
        options.parseOptions(assignment.arguments)
        os.chdir(here)
    inherited = [
        InheritedListen(parse_listen(text), tuple(descriptors))
        for text, descriptors in zip(options["listen"], assignment.descriptors, strict=True)
    ]
    return sip_service(options, reactor, inherited)


@implementer(ILogObserver)
class _Reports:
    """Tells the parent, on *pipe*; from any thread, a line at a time. It may block, as a log file may."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = threading.RLock()

    def __call__(self, event: LogEvent) -> None:
        """Tell of a log *event*."""
        failure = event.get("log_failure")
        if failure is not None:
            event = {**event, "log_failure": _with_text(failure)}
        self._write(f"log {eventAsJSON(event)}\n")

    def tell(self, word: str, value: object = None) -> None:
        """Tell *word*, and *value* with it."""
        self._write(f"{word}\n" if value is None else f"{word} {json.dumps(value)}\n")

    def _write(self, line: str) -> None:
        with self._lock, suppress(OSError):  # the parent may be gone, of which another pipe tells
            self._pipe.write(line.encode("ascii", "backslashreplace"))
            self._pipe.flush()


def _with_text(failure: Failure) -> Failure:
    """Return *failure* with the text of its exception in place of that, of which JSON would leave nothing."""
    made = Failure.__new__(Failure)
    made.__dict__.update(failure.__dict__, value=failure.getErrorMessage())
    return made


class _Work:
    """Runs *service* until *words*, from the parent, tell to stop or end."""

    def __init__(self, service: SIPService, reactor: Any, reports: _Reports, words: BinaryIO) -> None:
        self._service = service
        self._reactor = reactor
        self._reports = reports
        self._words = words
        self._counters: dict[str, int] = {}
        self._is_hasty = False
        self._is_stopping = False

    def run(self) -> None:
        """Start the service and run the reactor until it is stopped; raises `StartError`."""
        self._service.when_listening().addCallbacks(self._listening, self._failed)
        self._service.privilegedStartService()
        self._service.startService()
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop_service)
        self._reactor.callWhenRunning(_leave_stopping_to_parent)
        threading.Thread(target=self._listen, name="parent", daemon=True).start()
        self._reactor.run()

    def _listening(self, _: object) -> None:
        self._reports.tell("listening")
        self._tell_counters()

    def _failed(self, failure: Failure) -> None:
        self._reports.tell("failed", failure.getErrorMessage())
        self._stop()

    def _tell_counters(self) -> None:
        counters = dict(self._service.counters)
        if counters != self._counters:
            self._counters = counters
            self._reports.tell("counters", counters)
        self._reactor.callLater(_COUNTERS_INTERVAL, self._tell_counters)

    # What the parent says

    def _listen(self) -> None:
        """Do what the parent says, in a thread of its own: should the reactor hang, its end is noticed all the same."""
        words: dict[bytes, Callable[[], object]] = {
            b"reload": self._service.reload,
            b"drain": self._drain,
            b"stop": self._stop,
            b"hasten": self._hasten,
        }
        for line in self._words:
            self._reactor.callFromThread(words[line.strip()])
        self._reactor.callFromThread(self._hasten)  # a server that takes the parent's place wants the sockets
        time.sleep(_ORPHAN_TIME)
        os._exit(1)

    def _drain(self) -> None:
        self._service.drain().addCallback(lambda _: self._reports.tell("drained"))

    def _stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._reactor.stop()

    def _hasten(self) -> None:
        self._is_hasty = True
        self._service.hasten_stop()
        self._stop()

    def _stop_service(self) -> object:
        self._is_stopping = True
        stopped = self._service.stopService()
        if self._is_hasty:
            self._service.hasten_stop()
        return stopped


def _leave_stopping_to_parent() -> None:
    """Have SIGTERM, which the reactor has taken for itself, do nothing again: the parent has workers stop together."""
    signal.signal(signal.SIGTERM, lambda *_: None)
