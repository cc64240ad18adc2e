"""How is a database asked by a driver that blocks, without the reactor waiting? By a few threads, a connection each.

`DatabasePool` knows no driver and no SQL. It sees to what every use of a database over the network has to: what waits
is bounded in number and in time, a connection that broke is replaced, and what a broken one was asked can be asked
again. While there is no connection to be had everything fails at once, one line in the log says why, and the pool
keeps trying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.logs import Logger

__all__ = ["DatabaseConnection", "DatabaseError", "DatabasePool", "LostConnectionError"]

_log = Logger()


class DatabaseError(Exception):
    """The database did not do what it was asked; the text says why in one line, without secrets."""


class LostConnectionError(UnavailableError):
    """The connection broke, and it could not be found out on another one what became of what was asked (503)."""


class _UnreachableError(Exception):
    """A thread has no connection, and can make none now."""


class DatabaseConnection(Protocol):
    """A connection as the pool knows it; used by one thread, but for `interrupt`."""

    @property
    def is_usable(self) -> bool:
        """Whether it is open, idle and, as far as can be told without asking, alive.

        After a failure, False says that what was asked for may have been done or may not.
        """

    def interrupt(self) -> None:
        """Have whatever is waited for here fail at once; called from another thread, and does not wait itself."""

    def close(self) -> None:
        """Close it; a second time has no effect."""


def _nothing(connection: object) -> None:
    """What a probe asks."""


_Connection = TypeVar("_Connection", bound=DatabaseConnection)
_Result = TypeVar("_Result")


class _Job(NamedTuple):
    """What the database is to be asked, and who waits for it."""

    first: Callable[[Any], Any]
    again: Callable[[Any], Any]
    done: Deferred[Any]
    """It has been called already where nobody waits any more: a Deferred that is cancelled fires."""
    since: float
    is_probe: bool = False
    """Whether it is there to find out if the database is back."""


class DatabasePool(Service, Generic[_Connection]):
    """Runs functions of a connection in *size* threads of its own, which start and end with this service.

    *connect* opens a connection, within a time of its own. *prepare* is called with each new one, before it is used.
    Both raise `DatabaseError`. *description* names the database in logs. *reactor* provides `IReactorTime` and
    `IReactorFromThreads`. While *max_pending* functions wait, more are refused.
    """

    answer_time: ClassVar[float] = 6.0
    """Seconds that a function has, and again on another connection; then its connection is broken by force. A database
    that is there bounds its statements itself: this is for one that is there no more, or does not move."""

    max_wait: ClassVar[float] = 8.0
    """Seconds that a function may wait for a thread. With `answer_time` and the time to connect, each twice, this adds
    up to less than the 32 s for which a client waits (Timer F)."""

    retry_time: ClassVar[float] = 1.0
    """Seconds between two tries to connect, of all threads together, while there is no connection to be had; and of a
    thread, while others have one."""

    stop_time: ClassVar[float] = 10.0
    """Seconds that what was taken has to be done when the service stops."""

    complaint_time: ClassVar[float] = 3600.0
    """Seconds before the same complaint about what was refused is logged again."""

    max_complaints: ClassVar[int] = 100
    """Complaints that are remembered for that; past them all are forgotten."""

    def __init__(
        self,
        connect: Callable[[], _Connection],
        prepare: Callable[[_Connection], None],
        description: str,
        reactor: Any,
        *,
        size: int = 4,
        max_pending: int = 1000,
    ) -> None:
        self.description = description
        self.size = size
        self.max_pending = max_pending
        self.connect = connect
        self.prepare = prepare
        self.is_down = False
        self.stopping = Event()
        self._reactor = reactor
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._all_workers: tuple[_Worker, ...] = ()
        self._workers: set[_Worker] = set()  # those whose thread has not ended
        self._watch_call: IDelayedCall | None = None
        self._fault: str | None = None
        self._is_probing = False
        self._complaints: dict[str, float] = {}  # when each was logged
        self._stopped: Deferred[None] = Deferred()
        self._counters = {"refused": 0, "failed": 0, "interrupted": 0, "unreachable": 0}

    @property
    def has_connections(self) -> bool:
        """Whether a thread has a connection, or is trying to get one."""
        return any(worker.connection is not None or worker.is_connecting for worker in self._all_workers)

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view: functions that wait for a thread (``pending``), were refused since too many did
        (``refused``), and failed (``failed``); connections that there are (``connections``), that were broken since
        the database took too long (``interrupted``), and that could not be made (``unreachable``).
        """
        held = {
            "pending": self._jobs.qsize(),
            "connections": sum(worker.connection is not None for worker in self._workers),
        }
        return MappingProxyType({**held, **self._counters})

    def run(
        self, first: Callable[[_Connection], _Result], again: Callable[[_Connection], _Result] | None = None
    ) -> Deferred[_Result]:
        """Call *first* with a connection in a thread; returns a `Deferred` of what it returns.

        If the connection breaks under it, *again*, by default the same, is called with another one, once: *first* may
        have been done, or not. Fails with `UnavailableError` if the database cannot be asked, or says no; with
        `LostConnectionError` if that leaves open what was done. Cancelled while it waits, nothing is called.

        Raises `UnavailableError` at once where it is known that the database cannot be asked.
        """
        if not self.running:
            raise UnavailableError(rule="not running")
        if self.is_down:
            self._counters["failed"] += 1
            raise UnavailableError(rule="unreachable")
        if self._jobs.qsize() >= self.max_pending:
            self._counters["refused"] += 1
            raise UnavailableError(rule="max_pending")
        done: Deferred[_Result] = Deferred()
        self._jobs.put(_Job(first, again or first, done, monotonic()))
        return done

    # IService

    def startService(self) -> None:
        """Start the threads, and no earlier, as none survives becoming a daemon. They connect when there is work."""
        super().startService()
        self.stopping = Event()
        self._jobs = SimpleQueue()
        self._stopped = Deferred()
        self.is_down = self._is_probing = False
        self._all_workers = tuple([_Worker(self, self._jobs) for _ in range(self.size)])
        self._workers = set(self._all_workers)
        for worker in self._all_workers:
            worker.start()
        self._watch_call = self._reactor.callLater(self.retry_time, self._watch)

    def stopService(self) -> Deferred[None]:
        """Take no more functions; fires when those taken are done and the connections closed, or `stop_time` is up."""
        super().stopService()
        if self._watch_call is not None:
            self._watch_call.cancel()
            self._watch_call = None
        if not self._workers:
            return succeed(None)
        self.stopping.set()
        for _ in self._workers:
            self._jobs.put(None)
        stopped = self._stopped
        stopped.addTimeout(self.stop_time, self._reactor, self._give_up)
        return stopped

    def _give_up(self, result: object, seconds: float) -> None:
        _log.error("{what} was not done after {seconds:g} s, and is left", what=self.description, seconds=seconds)
        for worker in self._workers:
            worker.interrupt()

    def _watch(self) -> None:
        """Break the connections on which an answer takes too long, and find out whether the database is back."""
        self._watch_call = self._reactor.callLater(self.retry_time, self._watch)
        now = monotonic()
        if self.is_down and not self._is_probing:
            self._is_probing = True
            probe: Deferred[None] = Deferred()
            probe.addCallbacks(self._is_back, self._is_still_down)
            self._jobs.put(_Job(_nothing, _nothing, probe, now, is_probe=True))
        for worker in self._workers:
            since = worker.busy_since  # the thread may change it at any time
            if since is not None and now - since > self.answer_time:
                self._counters["interrupted"] += 1
                worker.interrupt()

    def _is_back(self, _: None) -> None:
        self._is_probing = self.is_down = False
        self.connected()

    def _is_still_down(self, _: Failure) -> None:
        self._is_probing = False

    # What the threads tell

    def tell(self, function: Callable[..., None], *arguments: object) -> None:
        """Call *function* in the reactor's thread; the only method that another thread calls."""
        self._reactor.callFromThread(function, *arguments)

    def finished(self, job: _Job, result: object) -> None:
        """*job* came to *result*, which may be a `Failure`."""
        if isinstance(result, Failure) and not job.is_probe:
            self._counters["failed"] += 1
        job.done.callback(result)

    def refused(self, reason: str) -> None:
        """The database is there, but did not do what it was asked."""
        now = monotonic()
        if reason not in self._complaints or now - self._complaints[reason] >= self.complaint_time:
            if len(self._complaints) >= self.max_complaints:
                self._complaints.clear()
            self._complaints[reason] = now
            _log.error("{what} refuses what it is asked: {reason}", what=self.description, reason=reason)

    def connected(self) -> None:
        """A thread has a connection."""
        if self._fault is not None:
            self._fault = None
            _log.info("{what} answers again", what=self.description)

    def unreachable(self, reason: str) -> None:
        """A thread could not connect."""
        self._counters["unreachable"] += 1
        if reason != self._fault:
            self._fault = reason
            _log.error("{what} cannot be used: {reason}", what=self.description, reason=reason)

    def ended(self, worker: _Worker) -> None:
        """The thread of *worker* is at its end; with the last of them the service has stopped."""
        self._workers.discard(worker)
        worker.join()  # it has nothing left to do
        if self._workers:
            return
        while True:  # what a thread has put back after the others were told to end
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is not None:
                self.finished(job, Failure(UnavailableError(rule="not running")))
        if not self._stopped.called:
            self._stopped.callback(None)


class _Worker(Thread):
    """A thread of *pool*, and the connection that it alone uses. It does what is in *jobs*, until that is None."""

    def __init__(self, pool: DatabasePool[Any], jobs: SimpleQueue[_Job | None]) -> None:
        # A daemon, so that the process can end even if the database does not let go of it: see `stop_time`.
        super().__init__(name="sipuas-database", daemon=True)
        self.connection: Any = None
        self.busy_since: float | None = None
        self.is_connecting = False
        self._pool = pool
        self._jobs = jobs

    def interrupt(self) -> None:
        """Break the connection; called by the reactor's thread."""
        connection = self.connection
        if connection is not None:
            connection.interrupt()

    def run(self) -> None:
        """Do one job after the other."""
        while (job := self._jobs.get()) is not None:
            if not job.done.called:
                self._do(job)
        self._close()
        self._pool.tell(self._pool.ended, self)

    def _do(self, job: _Job) -> None:
        if monotonic() - job.since > self._pool.max_wait:
            self._finish(job, Failure(UnavailableError(rule="max_wait")))
            return
        try:
            connection = self._connected(job.is_probe)
        except _UnreachableError:
            if not self._pool.is_down and not self._pool.stopping.is_set():
                # The database has no place for another connection, but there are some: one of those will do it.
                self._jobs.put(job)
                self._pool.stopping.wait(self._pool.retry_time)
            else:
                self._finish(job, Failure(UnavailableError(rule="unreachable")))
        except Exception:  # a fault of the program, and no reason for the thread to end
            self._finish(job, Failure())
        else:
            self._finish(job, self._result(job, connection))

    def _finish(self, job: _Job, result: object) -> None:
        self._pool.tell(self._pool.finished, job, result)

    def _result(self, job: _Job, connection: Any) -> object:
        """Return what *job* comes to, a `Failure` if it fails."""
        try:
            return self._call(job.first, connection)
        except DatabaseError as error:
            if connection.is_usable:
                return self._refusal(error, UnavailableError(rule="database"))
        except Exception:
            return Failure()
        try:
            return self._call(job.again, self._connected())
        except _UnreachableError:
            return Failure(LostConnectionError(rule="unreachable"))
        except DatabaseError as error:
            return self._refusal(error, LostConnectionError(rule="database"))
        except Exception:
            return Failure()

    def _call(self, function: Callable[[Any], _Result], connection: Any) -> _Result:
        self.busy_since = monotonic()
        try:
            return function(connection)
        finally:
            self.busy_since = None

    def _refusal(self, error: DatabaseError, answer: UnavailableError) -> Failure:
        self._pool.tell(self._pool.refused, str(error))
        return Failure(answer)

    def _connected(self, is_probe: bool = False) -> Any:
        """Return the connection, another one if it is there no more; raises `_UnreachableError` if there is none.

        While the database is down, only a probe tries to make one.
        """
        if self.connection is not None:
            if self.connection.is_usable:
                return self.connection
            self._close()
        pool = self._pool
        if pool.is_down and not is_probe:
            raise _UnreachableError
        try:
            self._connect()
        except DatabaseError as error:
            pool.is_down = not pool.has_connections
            pool.tell(pool.unreachable, str(error))
            raise _UnreachableError from None
        pool.is_down = False
        pool.tell(pool.connected)
        return self.connection

    def _connect(self) -> None:
        self.is_connecting = True
        try:
            self.connection = self._pool.connect()
            self._call(self._pool.prepare, self.connection)
        except BaseException:
            self._close()
            raise
        finally:
            self.is_connecting = False

    def _close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
