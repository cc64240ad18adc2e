"""`PostgresBindingStore`: bindings in a PostgreSQL database, which several servers may share.

Nothing is kept here: every look-up and every registration asks the database, so that all servers agree at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.database_pool import DatabasePool, LostConnectionError
from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.interfaces import IBindingStore
from twisted_sipuas.location.binding import Binding, redirection, unexpired
from twisted_sipuas.location.postgres_table import Change, PostgresBindingTable
from twisted_sipuas.location.rows import octets
from twisted_sipuas.location.target import Redirection
from twisted_sipuas.logs import Logger
from twisted_sipuas.option_values import taken, whole_number
from twisted_sipuas.postgresql import PostgresConnection, PostgresDatabase
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import URI, address_of_record

__all__ = ["PostgresBindingStore", "make"]

_DEFAULT_TABLE = "sipuas_bindings"
_MAX_THREADS = 64

_log = Logger()

_Found = tuple[tuple[Binding, ...], "UUID | None"]


@implementer(IBindingStore)
class PostgresBindingStore(Service):
    """Keeps bindings in the PostgreSQL database that *dsn*, a connection string of libpq, names.

    The table *table* is made when the database is first reached. *threads* is how many statements are under way at a
    time, each on a connection of its own; past *max_pending* that wait for one, look-ups and changes fail with 503.

    A database that cannot be reached makes them fail with 503 too, until it can be; the log says so, at the start
    already. The clocks of servers that share a database have to agree, for they judge what has expired.
    """

    is_shared: ClassVar[bool] = True
    """See `IBindingStore`."""

    sweep_interval: ClassVar[float] = 60.0
    """Seconds between two sweeps. Until then what expired costs space; it is never returned."""

    sweep_batch: ClassVar[int] = 1000
    """Addresses-of-record that one statement sweeps; if there are more, another follows."""

    def __init__(
        self, dsn: str, reactor: Any, *, table: str = _DEFAULT_TABLE, threads: int = 4, max_pending: int = 1000
    ) -> None:
        database = PostgresDatabase(dsn)
        self.description = database.description
        self._clock: IReactorTime = reactor
        self._table = PostgresBindingTable(table)
        self._pool: DatabasePool[PostgresConnection] = DatabasePool(
            database.connect, self._table.prepare, self.description, reactor, size=threads, max_pending=max_pending
        )
        self._sweep_call: IDelayedCall | None = None
        self._swept = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """Those of its `DatabasePool`, and the addresses-of-record that this server has swept (``swept``)."""
        return {**self._pool.counters, "swept": self._swept}

    def lookup(self, request_uri: URI, request: Request) -> Deferred[Redirection | None]:
        """See `ILocationService`."""
        return self._read(address_of_record(request_uri)).addCallback(self._redirection)

    def bindings(self, address_of_record: str) -> Deferred[_Found]:
        """See `IBindingStore`."""
        return self._read(address_of_record).addCallback(self._current)

    def replace(self, address_of_record: str, version: object, bindings: Iterable[Binding]) -> Deferred[bool]:
        """See `IBindingStore`; fires with True when the change is committed.

        Fails with `UnavailableError` 503 if it was not made, and 500 (10.3 step 7) if the connection broke and it
        cannot be found out whether it was.
        """
        assert version is None or isinstance(version, UUID), "the version is one that `bindings` gave"
        change = Change.of(address_of_record, version, bindings, self._clock.seconds())
        made = self._pool.run(partial(self._table.make, change=change), partial(self._table.settle, change=change))
        return made.addErrback(_unknown)

    def _read(self, address_of_record: str) -> Deferred[_Found]:
        return self._pool.run(partial(self._table.read, address_of_record=octets(address_of_record)))

    def _current(self, found: _Found) -> _Found:
        bindings, version = found
        return unexpired(bindings, self._clock.seconds()), version

    def _redirection(self, found: _Found) -> Redirection | None:
        return redirection(found[0], self._clock.seconds())

    # IService

    def startService(self) -> None:
        """Start, whether the database can be reached or not; the first sweep finds out, and the log says."""
        super().startService()
        self._pool.startService()
        self._sweep()

    def stopService(self) -> Deferred[None]:
        """Take no more look-ups and changes; fires when those taken are done, or have taken too long."""
        super().stopService()
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None
        return self._pool.stopService()

    # Sweeping

    def _sweep(self) -> None:
        self._sweep_call = None
        sweep = partial(self._table.sweep, now=self._clock.seconds(), at_most=self.sweep_batch)
        swept = maybeDeferred(self._pool.run, sweep)
        swept.addCallbacks(self._note_swept, _not_swept).addCallback(self._sweep_later)

    def _note_swept(self, count: int) -> bool:
        """Return whether there may be more to sweep."""
        self._swept += count
        return count >= self.sweep_batch

    def _sweep_later(self, is_more: bool) -> None:
        if self.running:
            self._sweep_call = self._clock.callLater(0 if is_more else self.sweep_interval, self._sweep)


def _not_swept(failure: Failure) -> bool:
    """Give up a sweep; of a database that could not be asked the pool has told."""
    if not failure.check(UnavailableError):
        _log.failure("expired bindings are not swept", failure)
    return False


def _unknown(failure: Failure) -> bool:
    """Whether a change was made is not known: a client is told that it failed, and registers again (10.3 step 7)."""
    failure.trap(LostConnectionError)
    raise UnavailableError(status=500, rule="10.3-39")


def make(argument: str, options: dict[str, str], reactor: Any) -> PostgresBindingStore:
    """See `ILocationServicePlugin`: ``postgres:DSN`` has the options ``table`` and ``pool``."""
    threads = taken(options, "pool", partial(whole_number, least=1, most=_MAX_THREADS))
    return PostgresBindingStore(argument, reactor, table=options.pop("table", _DEFAULT_TABLE), threads=threads or 4)
