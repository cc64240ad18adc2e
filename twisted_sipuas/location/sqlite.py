"""`SQLiteBindingStore`: bindings that survive a restart, and the death of the process or of the machine.

Reads come from memory. Writes go to a `BindingDatabase` through one thread, in groups: while one transaction is being
committed the next one gathers. A binding is visible, and its REGISTER answered 200, once the commit is done (RFC 3261,
10.3 step 7).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from zope.interface import implementer

from twisted_sipuas.errors import SIPError
from twisted_sipuas.interfaces import IBindingStore
from twisted_sipuas.location.binding import Binding
from twisted_sipuas.location.database import BindingDatabase, Change
from twisted_sipuas.location.table import BindingTable
from twisted_sipuas.logs import Logger

__all__ = ["SQLiteBindingStore", "make"]

_log = Logger()


class _Write(NamedTuple):
    """One change on its way to the disk."""

    address_of_record: str
    bindings: tuple[Binding, ...]
    change: Change
    done: Deferred[bool] | None
    """What `replace` returned; None if the change is in memory already, since it is what a sweep left."""


@implementer(IBindingStore)
class SQLiteBindingStore(BindingTable):
    """Keeps bindings in the SQLite file *path*, all of them in memory too.

    *reactor* provides `IReactorTime` and `IReactorFromThreads`. The file is opened by `privilegedStartService`, or by
    `startService`; `StartError` says why it cannot be. A relative *path* is taken from ``$STATE_DIRECTORY`` if that is
    set, as systemd does, else from the directory that is current then. The file is locked for as long as it is open.

    Past *max_addresses* addresses-of-record new ones get 503, and so does what comes while *max_pending* changes wait
    for the disk.
    """

    stop_time: ClassVar[float] = 10.0
    """Seconds that a disk has, when the service stops, for what is still to be written."""

    def __init__(self, path: str, reactor: Any, *, max_addresses: int = 1_000_000, max_pending: int = 10_000) -> None:
        if not path or "\0" in path:
            raise ValueError("expected the name of a file, without NUL")
        super().__init__(reactor, max_addresses=max_addresses)
        self.path = path
        self.description = f"sqlite:{path}"
        self.max_pending = max_pending
        self._reactor: IReactorFromThreads = reactor
        self._database: BindingDatabase | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._queue: list[_Write] = []
        self._is_writing = False
        self._is_failing = False
        # By address-of-record with a change on its way: who else wants to change it meanwhile.
        self._pending: dict[str, list[Deferred[bool]]] = {}
        self._promised = 0  # Deferreds that have not fired
        self._failed = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of what is held, what waits for the disk, what was refused and what could not be written."""
        return MappingProxyType({**super().counters, "pending": self._promised, "failed": self._failed})

    def replace(self, address_of_record: str, version: object, bindings: Iterable[Binding]) -> Deferred[bool]:
        """See `IBindingStore`; fires with True when the change is on the disk.

        A change that meets another of the same address-of-record on its way has lost the race; its Deferred fires
        with False when that other one is done with, so that whoever tries again sees what came of it. Raises
        `SIPError` 503 when a bound is reached or the store is not running; a change that cannot be written fails with
        `SIPError` 500 (10.3 step 7).
        """
        if self._writer is None:
            raise SIPError(503, headers=[("Retry-After", "5")], rule="not running")
        if not self._is_current(address_of_record, version):
            return succeed(False)
        if self._promised >= self.max_pending:
            self._refused += 1
            raise SIPError(503, headers=[("Retry-After", "5")], rule="max_pending")
        done: Deferred[bool] = Deferred()
        if address_of_record in self._pending:
            self._pending[address_of_record].append(done)
        else:
            bindings = tuple(bindings)
            if bindings:
                self._check_room(address_of_record, len(self._pending))
            change = Change.of(address_of_record, bindings)
            self._pending[address_of_record] = []
            self._enqueue(_Write(address_of_record, bindings, change, done))
        self._promised += 1
        return done

    def _swept(self, address_of_record: str, bindings: tuple[Binding, ...]) -> None:
        """Drop from the file what was swept from memory, unless a change on its way does so anyway."""
        if address_of_record not in self._pending:
            change = Change.of(address_of_record, bindings)
            self._enqueue(_Write(address_of_record, bindings, change, None))

    # IService

    def privilegedStartService(self) -> None:
        """Open the file and read the bindings; raises `StartError`."""
        super().privilegedStartService()
        directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or os.getcwd()
        database = BindingDatabase(os.path.realpath(os.path.join(directory, self.path)))
        try:
            for address, bindings in database.load(self._clock.seconds()):
                self._put(address, bindings)
        except BaseException:
            database.close()
            raise
        self._database = database

    def startService(self) -> None:
        """Take changes from now on. The thread starts here and no earlier, as none survives becoming a daemon."""
        if self._database is None:
            self.privilegedStartService()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sipuas-sqlite")
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Take no more changes; fires when all those taken are on the disk and the file is closed."""
        super().stopService()
        database, writer = self._database, self._writer
        stopped: Deferred[None] = Deferred()
        if database is None or writer is None:
            if database is not None:
                database.close()
            stopped.callback(None)
        else:
            if self._queue:
                self._write_queue()
            closing = writer.submit(database.close)  # the thread does one thing after the other
            closing.add_done_callback(lambda _: self._reactor.callFromThread(stopped.callback, None))
            stopped.addCallback(lambda _: writer.shutdown())
            stopped.addTimeout(self.stop_time, self._clock, self._give_up)
        self._database = self._writer = None
        return stopped

    def _give_up(self, result: object, seconds: float) -> None:
        _log.error(
            "{path}: {count} changes are not on the disk after {seconds:g} s, and nobody waits for them any more",
            path=self.path,
            count=self._promised,
            seconds=seconds,
        )

    # Writing

    def _enqueue(self, write: _Write) -> None:
        self._queue.append(write)
        if not self._is_writing:
            self._write_queue()

    def _write_queue(self) -> None:
        """Hand everything that waits to the thread, as one transaction."""
        assert self._database is not None, "only a running store takes changes"
        assert self._writer is not None, "only a running store takes changes"
        batch, self._queue = self._queue, []
        self._is_writing = True
        writing = self._writer.submit(self._database.write, [write.change for write in batch])
        writing.add_done_callback(lambda done: self._reactor.callFromThread(self._written, batch, done.exception()))

    def _written(self, batch: list[_Write], error: BaseException | None) -> None:
        """Make *batch* visible if its transaction was committed, and then tell those who wait for it."""
        self._note(batch, error)
        if error is None:
            for write in batch:
                if write.done is not None:
                    self._put(write.address_of_record, write.bindings)
        for write in batch:
            if write.done is not None:
                losers = self._pending.pop(write.address_of_record)
                self._promised -= 1 + len(losers)
                _tell(write.done, error)
                for loser in losers:
                    loser.callback(False)
        self._is_writing = False
        if self._queue:
            self._write_queue()

    def _note(self, batch: list[_Write], error: BaseException | None) -> None:
        """Log when writing begins to fail, and when it works again."""
        if error is not None:
            self._failed += len(batch)
            if not self._is_failing:
                _log.error("{path}: cannot write bindings, registrations get 500: {error}", path=self.path, error=error)
        elif self._is_failing:
            _log.info("{path}: bindings are being written again", path=self.path)
        self._is_failing = error is not None


def _tell(done: Deferred[bool], error: BaseException | None) -> None:
    if error is None:
        done.callback(True)
    else:
        done.errback(SIPError(500, rule="10.3-39"))


def make(argument: str, options: dict[str, str], reactor: Any) -> SQLiteBindingStore:
    """See `ILocationServicePlugin`: ``sqlite:FILE`` has no options."""
    return SQLiteBindingStore(argument, reactor)
