"""`SQLiteSubscribers`: users in a SQLite file that another program, such as kamailio, writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameDigestHash, IUsernameHashedPassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from twisted_sipuas.auth.credentials import DigestCredentials
from twisted_sipuas.auth.digest import HASHES
from twisted_sipuas.auth.files import check_path, full_path
from twisted_sipuas.auth.subscriber import SubscriberTable, Subscription, subscription_of
from twisted_sipuas.errors import StartError, UnavailableError

__all__ = ["SQLiteSubscribers"]

_log = Logger()

_TABLE = "subscriber"
_BUSY_TIME = 1.0  # seconds that another program has to finish a transaction of its own
_Rows = list[tuple[object, ...]]


@implementer(ICredentialsChecker)
class SQLiteSubscribers(Service):
    """A `twisted.cred` checker of the table ``subscriber`` in the SQLite file *path*; see `SubscriberTable`.

    The file is opened for reading alone when the service starts, which `StartError` ends if it cannot be; every look-up
    reads the table as it is then, in a thread. At most *max_pending* wait; beyond it they fail with `UnavailableError`.

    *reactor* provides `IReactorFromThreads`. A relative *path* is taken from ``$STATE_DIRECTORY`` if that is set, as
    systemd does, else from the directory that is current then.
    """

    credentialInterfaces = (IUsernameHashedPassword, IUsernameDigestHash)

    def __init__(self, path: str, reactor: Any, *, max_pending: int = 1000) -> None:
        self.path = check_path(path)
        self.description = f"subscriber:sqlite:{path}"
        self.hashes: frozenset[str] = frozenset()
        self.max_pending = max_pending
        self._reactor = reactor
        self._connection: sqlite3.Connection | None = None
        self._table: SubscriberTable | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._pending = 0
        self._is_failing = False
        self._refused = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """How many look-ups wait for their answer, and how many were refused since too many did."""
        return {"pending": self._pending, "refused": self._refused}

    def requestAvatarId(self, credentials: DigestCredentials) -> Deferred[Any]:
        """See `ICredentialsChecker`; fails with `UnavailableError` if the table cannot be read."""
        table = self._table
        if self._reader is None or table is None:
            raise UnavailableError(rule="not running")
        if self._pending >= self.max_pending:
            self._refused += 1
            raise UnavailableError(rule="max_pending")
        whose = subscription_of(credentials)
        if whose is None:
            raise UnauthorizedLogin
        reading = self._reader.submit(self._select, table.select, (whose.username, whose.domain))
        answer: Deferred[Any] = Deferred(lambda _: _cancel(reading))
        self._pending += 1
        reading.add_done_callback(lambda _: self._reactor.callFromThread(self._read, reading, answer))
        return answer.addCallback(lambda rows: self._identify(table, credentials, whose, rows))

    def _identify(
        self, table: SubscriberTable, credentials: DigestCredentials, whose: Subscription, rows: _Rows
    ) -> str:
        if not table.is_right(credentials, whose, rows):
            raise UnauthorizedLogin
        return whose.identity

    def _read(self, reading: Future[_Rows], answer: Deferred[Any]) -> None:
        """Tell who waits what was found, if anybody still does; log when look-ups begin to fail, and when they work."""
        self._pending -= 1
        if reading.cancelled():
            return
        error = reading.exception()
        if error is not None and not self._is_failing:
            _log.error("{what}: cannot read users: {error}", what=self.description, error=error)
        elif error is None and self._is_failing:
            _log.info("{what}: users are being read again", what=self.description)
        self._is_failing = error is not None
        if answer.called:
            return
        if error is None:
            answer.callback(reading.result())
        else:
            answer.errback(UnavailableError(rule=self.description))

    def _select(self, statement: str, arguments: tuple[str, ...] = ()) -> _Rows:
        """Return the rows of *statement*; may be called by one thread at a time."""
        assert self._connection is not None, "only a running checker reads"
        return self._connection.execute(statement, arguments).fetchall()

    # IService

    def privilegedStartService(self) -> None:
        """Open the file and look at the table; raises `StartError`."""
        super().privilegedStartService()
        path = Path(full_path(self.path))
        try:
            self._connection = sqlite3.connect(
                f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIME, isolation_level=None, check_same_thread=False
            )
            columns = [str(row[1]) for row in self._select(f"PRAGMA table_info({_TABLE})")]
            self._table = SubscriberTable(_TABLE, columns)
            self.hashes = frozenset(name for name in HASHES if self._is_checkable(self._table, name))
        except (sqlite3.Error, ValueError) as error:
            self._close()
            raise StartError(f"cannot read the users in {path}: {error}: see --auth") from None

    def _is_checkable(self, table: SubscriberTable, hash_name: str) -> bool:
        exceptions = table.exceptions(hash_name)
        return exceptions is not None and not self._select(exceptions)

    def startService(self) -> None:
        """Answer from now on. The thread starts here and no earlier, as none survives becoming a daemon."""
        if self._connection is None:
            self.privilegedStartService()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="sipuas-subscribers")
        super().startService()

    def stopService(self) -> Deferred[None] | None:
        """Answer no more; fires when the look-up that is under way is done and the file is closed."""
        super().stopService()
        reader, self._reader = self._reader, None
        if reader is None:
            self._close()
            return None
        stopped: Deferred[None] = Deferred()
        closing: Future[None] = reader.submit(self._close)  # the thread does one thing after the other
        closing.add_done_callback(lambda _: self._reactor.callFromThread(stopped.callback, None))
        return stopped.addCallback(lambda _: reader.shutdown())

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _cancel(reading: Future[_Rows]) -> None:
    """Let *reading* not begin, if it has not begun yet."""
    reading.cancel()
