"""`Subscribers`: users in a database that another program, such as kamailio or OpenSIPS, keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameDigestHash, IUsernameHashedPassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, maybeDeferred
from zope.interface import implementer

from twisted_sipuas.auth.credentials import DigestCredentials
from twisted_sipuas.auth.databases import SubscriberConnection, SubscriberDatabase
from twisted_sipuas.auth.digest import HASHES
from twisted_sipuas.auth.subscriber import SubscriberTable, Subscription, subscription_of
from twisted_sipuas.database_pool import DatabaseError, DatabasePool
from twisted_sipuas.errors import StartError, UnavailableError

__all__ = ["Subscribers"]


@implementer(ICredentialsChecker)
class Subscribers(Service):
    """A `twisted.cred` checker of the table ``subscriber`` in *database*; see `SubscriberTable`.

    Nothing is kept: every look-up asks the database, in a thread of a `DatabasePool`, and fails with `UnavailableError`
    if that cannot be asked, or *max_pending* wait already. A *database* that is local has to be there when the service
    starts, or `StartError` ends that.

    *reactor* provides `IReactorTime` and `IReactorFromThreads`.
    """

    credentialInterfaces = (IUsernameHashedPassword, IUsernameDigestHash)

    def __init__(self, database: SubscriberDatabase, reactor: Any, *, max_pending: int = 1000) -> None:
        self.description = database.description
        self.hashes = frozenset(HASHES)  # until the table says otherwise
        self._database = database
        self._table: SubscriberTable | None = None
        self._pool: DatabasePool[SubscriberConnection] = DatabasePool(
            database.connect, self._prepare, self.description, reactor, size=database.threads, max_pending=max_pending
        )

    @property
    def counters(self) -> Mapping[str, int]:
        """Those of its `DatabasePool`."""
        return self._pool.counters

    def requestAvatarId(self, credentials: DigestCredentials) -> Deferred[Any]:
        """See `ICredentialsChecker`."""
        whose = subscription_of(credentials)
        if whose is None:
            raise UnauthorizedLogin

        def identify(found: tuple[SubscriberTable, list[tuple[Any, ...]]]) -> str:
            table, rows = found
            if not table.is_right(credentials, whose, rows):
                raise UnauthorizedLogin
            return whose.identity

        return self._pool.run(lambda connection: self._select(connection, whose)).addCallback(identify)

    # In a thread of the pool

    def _prepare(self, connection: SubscriberConnection) -> None:
        """Look at the table with the first *connection*; raises `DatabaseError` if it is none of subscribers."""
        if self._table is not None:
            return
        columns = [str(name) for (name,) in connection.rows(self._database.columns)]
        try:
            table = SubscriberTable("subscriber", columns, self._database.placeholder)
        except ValueError as error:
            raise DatabaseError(str(error)) from None
        hashes = []
        for name in HASHES:
            exceptions = table.exceptions(name)
            if exceptions is not None and not connection.rows(exceptions):
                hashes.append(name)
        self.hashes = frozenset(hashes)
        self._table = table

    def _select(
        self, connection: SubscriberConnection, whose: Subscription
    ) -> tuple[SubscriberTable, list[tuple[Any, ...]]]:
        assert self._table is not None, "every connection has been prepared"
        return self._table, connection.rows(self._table.select, (whose.username, whose.domain))

    # IService

    def privilegedStartService(self) -> None:
        """Look at the table, if it has to be there; raises `StartError`."""
        super().privilegedStartService()
        if self._database.is_local and self._table is None:
            try:
                connection = self._database.connect()
                try:
                    self._prepare(connection)
                finally:
                    connection.close()
            except DatabaseError as error:
                raise StartError(f"cannot read users by --auth {self.description}: {error}") from None

    def startService(self) -> None:
        """Answer from now on, and have the log say if the database cannot be asked."""
        self.privilegedStartService()
        super().startService()
        self._pool.startService()
        looked = maybeDeferred(self._pool.run, lambda connection: None)
        looked.addErrback(lambda failure: failure.trap(UnavailableError) and None)

    def stopService(self) -> Deferred[None]:
        """Answer no more; fires when the look-ups that were taken are done, or have taken too long."""
        super().stopService()
        return self._pool.stopService()
