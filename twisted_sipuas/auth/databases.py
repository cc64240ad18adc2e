"""How is a database with a table ``subscriber`` opened, be it a SQLite file or PostgreSQL? Everything here blocks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from twisted_sipuas.auth.files import check_path, content, full_path
from twisted_sipuas.database_pool import DatabaseConnection, DatabaseError

__all__ = ["SQLiteSubscriberDatabase", "SubscriberConnection", "SubscriberDatabase", "postgres_subscriber_database"]

_BUSY_TIME = 1.0  # seconds that another program has to finish a transaction of its own


class SubscriberConnection(DatabaseConnection, Protocol):
    """A `DatabaseConnection` that can be asked for rows."""

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that *statement* gives with *parameters*; raises `DatabaseError`."""


class SubscriberDatabase(Protocol):
    """A database with a table ``subscriber``."""

    description: str
    """One phrase for logs, without secrets."""
    placeholder: str
    """What stands for a parameter in a statement."""
    columns: str
    """The statement that gives the names of the columns of the table."""
    is_local: bool
    """Whether it has to be there when the server starts; one on another machine may come later."""
    threads: int
    """How many look-ups may be under way at a time, each on a connection of its own."""

    def connect(self) -> SubscriberConnection:
        """Return a new connection; raises `DatabaseError`."""


class SQLiteSubscriberDatabase:
    """The SQLite file *path*, which another program may write; it is opened for reading alone.

    A relative *path* is taken from where `full_path` says when it is first opened.
    """

    placeholder = "?"
    columns = "SELECT name FROM pragma_table_info('subscriber')"
    is_local = True
    threads = 1

    def __init__(self, path: str) -> None:
        self.path = check_path(path)
        self.description = f"subscriber:sqlite:{path}"
        self._full_path: Path | None = None

    def connect(self) -> _SQLiteConnection:
        """See `SubscriberDatabase`."""
        self._full_path = self._full_path or Path(full_path(self.path))
        with _translated(self._full_path):
            return _SQLiteConnection(self._full_path)


class _SQLiteConnection:
    """A `SubscriberConnection` to the SQLite file *path*."""

    is_usable = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIME, isolation_level=None, check_same_thread=False
        )

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """See `SubscriberConnection`."""
        with _translated(self._path):
            return self._connection.execute(statement, tuple(parameters)).fetchall()

    def interrupt(self) -> None:
        """See `DatabaseConnection`."""
        self._connection.interrupt()

    def close(self) -> None:
        """See `DatabaseConnection`."""
        self._connection.close()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Raise `DatabaseError` for an error of SQLite about the file *path*."""
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(f"{path}: {error}") from None


class _PostgresSubscriberDatabase:
    placeholder = "%s"
    columns = (
        "SELECT attname::text FROM pg_attribute "
        "WHERE attrelid = to_regclass('subscriber') AND attnum > 0 AND NOT attisdropped"
    )
    is_local = False
    threads = 4

    def __init__(self, database: Any) -> None:
        self.description = f"subscriber:{database.description}"
        self.connect = database.connect


def postgres_subscriber_database(dsn: str) -> SubscriberDatabase:
    """Return the PostgreSQL database that *dsn* is the connection string of, or ``@`` and a file that has it.

    Raises `ValueError` for what is none, without quoting it: it may hold a password.
    """
    try:
        from twisted_sipuas.postgresql import PostgresDatabase
    except ModuleNotFoundError as error:
        raise ValueError(
            f"needs the module {error.name}, which is not installed: pip install 'twisted-sipuas[postgres]'"
        ) from None
    return _PostgresSubscriberDatabase(PostgresDatabase(content(dsn[1:]) if dsn.startswith("@") else dsn))
