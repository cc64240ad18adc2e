"""`Supervisor`: keeps several worker processes serving the same sockets, each as one server would alone.

A worker is a Python of its own that `twisted_sipuas.worker` runs in, not a fork of this process: twistd has installed
the reactor before any service is made, and two processes must not share what that keeps in the kernel (an epoll set, an
asyncio loop). Nor could a fork be made later, when a worker has died, of a process in which a reactor runs. It is
started when twistd has become a daemon and has dropped its privileges, and inherits both, with the sockets.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import LogEvent, globalLogPublisher

from twisted_sipuas.errors import StartError
from twisted_sipuas.logs import Logger
from twisted_sipuas.transport.shared import SharedListeners
from twisted_sipuas.worker_process import FIRST_SOCKET, Assignment, WorkerProcess

__all__ = ["Supervisor"]

_log = Logger()

_LONGEST_WAIT = 30.0  # seconds before another worker takes the place of one that keeps ending


class Supervisor(Service):
    """Runs *count* workers with the options *arguments*, which were given in *directory*, on *sockets*.

    *key* is the secret that they share. One that ends is replaced: at once, and with a growing delay if those that
    follow do not last. Its sockets stay open meanwhile. `counters` tells how many were lost, and what each counts.

    Sockets are bound in `privilegedStartService`; `startService` returns when every worker serves, and raises
    `StartError` if one cannot: only so can twistd tell who waits for the daemon. In a reactor that runs already it does
    not wait; `when_listening` tells then.
    """

    start_time: ClassVar[float] = 30.0
    """Seconds in which a worker has to serve."""

    steady_time: ClassVar[float] = 60.0
    """Seconds after which a worker has lasted, so that the next one starts without delay."""

    drain_time: ClassVar[float] = 6.0
    """Seconds that workers have for what they owe: one more than each takes."""

    stop_time: ClassVar[float] = 10.0
    """Seconds that they have then to close connections and stores; whoever is there still is killed."""

    def __init__(
        self, reactor: Any, count: int, sockets: SharedListeners, *, arguments: list[str], directory: str, key: bytes
    ) -> None:
        self._reactor = reactor
        self._sockets = sockets
        self._slots = [_Slot(self, reactor, number) for number in range(1, count + 1)]
        self._arguments = arguments
        self._directory = directory
        self._key = key
        self._is_bound = False
        self.is_starting = False
        self._waiters: list[Deferred[None]] = []
        self._drain_limit: IDelayedCall | None = None

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view: workers that serve, those lost so far, and the latest counters of each that came."""
        counters = {
            "workers_serving": sum(slot.is_serving for slot in self._slots),
            "workers_lost": sum(slot.lost for slot in self._slots),
        }
        for slot in self._slots:
            counters |= {f"worker_{slot.number}_{name}": value for name, value in slot.counters.items()}
        return MappingProxyType(counters)

    def when_listening(self) -> Deferred[None]:
        """Return a new `Deferred` that fires when every worker serves; it fails with `StartError` if one cannot."""
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        self._tell_waiters()
        return waiter

    # IService

    def privilegedStartService(self) -> None:
        """Bind the sockets; raises `StartError`."""
        super().privilegedStartService()
        self._sockets.open()
        self._is_bound = True

    def startService(self) -> None:
        """Start the workers; raises `StartError`."""
        if not self._is_bound:
            self.privilegedStartService()
        super().startService()
        self.is_starting = not self._reactor.running
        for slot in self._slots:
            slot.start()
        if not self.is_starting:
            return
        try:
            self._await_start()
        except BaseException:
            super().stopService()
            for slot in self._slots:
                slot.kill()
            self._is_bound = False
            self._sockets.close()
            raise
        finally:
            self.is_starting = False
        _log.info(
            "{count} workers serve {listening}",
            count=len(self._slots),
            listening=", ".join(map(str, self._sockets.listening)),
        )

    def _await_start(self) -> None:
        while not all(slot.is_serving for slot in self._slots):
            for slot in self._slots:
                if slot.fault is not None:
                    raise StartError(slot.fault)
            self._reactor.iterate(0.05)

    def stopService(self) -> Deferred[None]:
        """Have every worker stop as one server does: none ends before all are done with what they owe."""
        super().stopService()
        for slot in self._slots:
            slot.drain()
        self._drain_limit = self._reactor.callLater(self.drain_time, self._stop_workers)
        ended = DeferredList([slot.when_ended() for slot in self._slots])
        self.changed()
        return ended.addCallback(lambda _: self._close())

    def _stop_workers(self) -> None:
        if self._drain_limit is not None:
            if self._drain_limit.active():
                self._drain_limit.cancel()
            self._drain_limit = None
            for slot in self._slots:
                slot.stop(self.stop_time)

    def _close(self) -> Deferred[None]:
        self._is_bound = False
        self._stop_workers()
        return self._sockets.close()

    def hasten_stop(self) -> None:
        """Do not wait any longer for requests in progress; only while the service stops."""
        if not self.running:
            self._stop_workers()
            for slot in self._slots:
                slot.tell("hasten")

    def reload(self) -> None:
        """Have every worker read again what may have changed on disk."""
        for slot in self._slots:
            slot.tell("reload")

    # For its slots

    def assign(self, number: int) -> tuple[Assignment, dict[int, int]]:
        """Return what worker *number* is to do, and which of our descriptors are which of its own."""
        inherited: dict[int, int] = {}
        descriptors = []
        for of_item in self._sockets.descriptors(number - 1):
            own = range(FIRST_SOCKET + len(inherited), FIRST_SOCKET + len(inherited) + len(of_item))
            inherited.update(zip(own, of_item, strict=True))
            descriptors.append(list(own))
        reactor = type(self._reactor).__module__
        key = self._key.hex()
        return Assignment(number, self._arguments, self._directory, reactor, key, descriptors), inherited

    def changed(self) -> None:
        """A worker serves, cannot start, is done with what it owes, or has ended."""
        if not self.running and all(slot.is_drained for slot in self._slots):
            self._stop_workers()
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        faults = [slot.fault for slot in self._slots if slot.fault is not None]
        if faults and self.is_starting:
            return  # `startService` raises it
        if not faults and not all(slot.is_serving for slot in self._slots):
            return
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if faults:
                waiter.errback(StartError(faults[0]))
            else:
                waiter.callback(None)


class _Slot:
    """The place of one worker, whichever process has it."""

    def __init__(self, supervisor: Supervisor, reactor: Any, number: int) -> None:
        self.number = number
        self.lost = 0
        self.fault: str | None = None
        self.counters: Mapping[str, int] = {}
        self._supervisor = supervisor
        self._reactor = reactor
        self._worker: WorkerProcess | None = None
        self._in_a_row = 0  # workers that did not last
        self._started = 0.0
        self._timer: IDelayedCall | None = None  # until the worker has to serve, has to have ended, or is replaced
        self._waiters: list[Deferred[None]] = []

    @property
    def is_serving(self) -> bool:
        """Whether the worker listens."""
        return self._worker is not None and self._worker.is_serving

    @property
    def is_drained(self) -> bool:
        """Whether there is no worker, or it has said that it owes nothing any more."""
        return self._worker is None or self._worker.is_drained

    def start(self) -> None:
        """Start a worker."""
        self.fault = None
        self._started = self._reactor.seconds()
        self._timer = self._reactor.callLater(self._supervisor.start_time, self._not_serving)
        assignment, inherited = self._supervisor.assign(self.number)
        worker = WorkerProcess(self)
        try:
            worker.start(self._reactor, assignment, inherited)
        except OSError as error:  # no Python there, as after --chroot, or too many processes
            self.failed(f"cannot start {sys.executable}: {error.strerror}")
            self.ended("could not be started")
        else:
            self._worker = worker

    def tell(self, words: str) -> None:
        """Send *words* to the worker, if there is one."""
        if self._worker is not None:
            self._worker.tell(words)

    def drain(self) -> None:
        """Have the worker refuse new requests, and start no other one."""
        self._set_timer()
        self.tell("drain")

    def stop(self, seconds: float) -> None:
        """Have the worker end, in so many *seconds*."""
        if self._worker is not None:
            self._set_timer(seconds, self.kill)
            self._worker.tell("stop")

    def kill(self) -> None:
        """End the worker now."""
        self._set_timer()
        if self._worker is not None:
            self._worker.kill()

    def when_ended(self) -> Deferred[None]:
        """Return a new `Deferred` that fires when no worker is there."""
        if self._worker is None:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        return waiter

    def _set_timer(self, seconds: float = 0, call: Any = None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if call is None else self._reactor.callLater(seconds, call)

    def _not_serving(self) -> None:
        self.failed(f"it does not serve after {self._supervisor.start_time:g} s")
        self.kill()

    # From its worker

    def serving(self) -> None:
        """See `Slot`."""
        self._set_timer()
        self._supervisor.changed()

    def failed(self, why: str) -> None:
        """See `Slot`."""
        if self.fault is None:
            self.fault = f"worker {self.number}: {why}"
            if not self._supervisor.is_starting:  # else it is the fault of that
                _log.critical("{fault}", fault=self.fault)
            self._supervisor.changed()

    def drained(self) -> None:
        """See `Slot`."""
        self._supervisor.changed()

    def counted(self, counters: Mapping[str, int]) -> None:
        """See `Slot`."""
        self.counters = counters

    def log(self, event: LogEvent) -> None:
        """Log *event* as that of this worker."""
        level = getattr(event.get("log_level"), "name", "-")
        system = event.get("log_system") or f"{event.get('log_namespace', '-')}#{level}"
        event["log_system"] = f"worker {self.number}, {system}"
        globalLogPublisher(event)

    def printed(self, line: str) -> None:
        """Log *line* as that of this worker."""
        _log.warn("{line}", line=line, log_system=f"worker {self.number}")

    def ended(self, how: str) -> None:
        """The worker has ended; replace it unless the service stops."""
        self._worker = None
        self._set_timer()
        self.counters = {}
        if self._supervisor.is_starting:
            self.failed(f"it {how}")
        elif self._supervisor.running:
            self._replace(how)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)
        self._supervisor.changed()

    def _replace(self, how: str) -> None:
        self.lost += 1
        lasted = self._reactor.seconds() - self._started >= self._supervisor.steady_time
        self._in_a_row = 0 if lasted else self._in_a_row + 1
        delay = 0.0 if self._in_a_row <= 1 else min(2.0 ** min(self._in_a_row - 2, 10), _LONGEST_WAIT)
        _log.error(
            "Worker {number} {how}; another takes its place {when}",
            number=self.number,
            how=how,
            when=f"in {delay:g} s" if delay else "now",
        )
        self._set_timer(delay, self.start)
