"""How is a PostgreSQL server reached, what is asked of it, and why did that fail? By `psycopg`, in a thread.

Everything here blocks, but for making a `PostgresDatabase`; `DatabasePool` calls it where that does no harm.
"""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from twisted_sipuas.database_pool import DatabaseError
from twisted_sipuas.errors import refuse_line_breaks

__all__ = ["PostgresConnection", "PostgresDatabase", "checked_table"]

_EXPECTED = (
    "expected a connection string of libpq, such as 'host=db.example dbname=sip', or postgresql://USER@HOST/NAME"
)

_DEFAULTS = {
    "fallback_application_name": "twisted-sipuas",
    "connect_timeout": "3",
    # An idle connection that a firewall has forgotten is found out before it is needed.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
"""What a connection string may say otherwise."""

_SETTINGS = "SET statement_timeout = 4000; SET default_transaction_isolation = 'read committed'"
"""Statements are bounded in time, in milliseconds, below `DatabasePool.answer_time`; and a statement that waited for
another transaction goes by what that has left, as every conditional change here relies on."""

_SHOWN = ("host", "hostaddr", "port", "dbname", "user", "service")

_TABLE = re.compile(r"(?:[a-z_][a-z0-9_]{0,47}\.)?[a-z_][a-z0-9_]{0,47}")


def checked_table(name: str) -> str:
    """Return *name*, that of a table and perhaps of its schema before it; raises `ValueError` for what is no such name.

    It is short enough for names that begin like it.
    """
    if _TABLE.fullmatch(name) is None:
        raise ValueError(
            f"table={name}: expected a name of at most 48 lower-case letters, digits and _, or SCHEMA.NAME"
        )
    return name


class PostgresDatabase:
    """The database that *dsn* is the connection string of, in one of the two forms that libpq knows.

    Raises `ValueError` for what is none, without quoting it: it may hold a password.
    """

    def __init__(self, dsn: str) -> None:
        refuse_line_breaks(dsn, "a connection string")
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
        except psycopg.Error:
            raise ValueError(_EXPECTED) from None
        if any("@" in given.get(name, "") for name in ("host", "port", "dbname")):
            raise ValueError("a password in a URL needs its @, / and : written as %40, %2F and %3A")
        for name in ("port", "connect_timeout"):
            if re.fullmatch(r"[0-9,]*", given.get(name, "")) is None:
                raise ValueError(f"expected a number as {name}")
        self._conninfo = make_conninfo("", **{**_DEFAULTS, **given})
        shown = {name: given[name] for name in _SHOWN if name in given}
        self.description = f"postgres:{make_conninfo('', **shown)}"

    def connect(self) -> PostgresConnection:
        """Return a new connection; raises `DatabaseError`."""
        with _translated():
            return PostgresConnection(psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=0))


class PostgresConnection:
    """A `DatabaseConnection` to PostgreSQL: each statement is a transaction, but in a block of `transaction`.

    The statements of `rows` and `change` are prepared when they are first used. Every method raises `DatabaseError`.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)
        # A descriptor of our own for the same socket: the number of libpq's may stand for another one at any time.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        try:
            self.script(_SETTINGS)
        except DatabaseError:
            self.close()
            raise

    @property
    def is_usable(self) -> bool:
        """See `DatabaseConnection`. A server that has something to say to a client that asked nothing is ending."""
        return (
            not self._connection.closed
            and self._connection.pgconn.transaction_status == TransactionStatus.IDLE
            and not self._readable.poll(0)
        )

    @property
    def is_standby(self) -> bool:
        """Whether the server is a copy that takes no changes, as those from version 14 tell."""
        return self._connection.pgconn.parameter_status(b"in_hot_standby") == b"on"

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that *statement* gives with *parameters*, which stand for each ``%s``."""
        with _translated():
            self._cursor.execute(statement.encode(), parameters)
            return self._cursor.fetchall()

    def change(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """Return how many rows *statement* has changed."""
        with _translated():
            self._cursor.execute(statement.encode(), parameters)
            return self._cursor.rowcount

    def script(self, statements: str) -> None:
        """Execute *statements*, all or none of them, none prepared."""
        with _translated():
            self._connection.execute(statements.encode(), prepare=False)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is done in the block one transaction, which an exception rolls back."""
        with _translated(), self._connection.transaction():
            yield

    def interrupt(self) -> None:
        """See `DatabaseConnection`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the server or `close` was faster

    def close(self) -> None:
        """See `DatabaseConnection`."""
        self._connection.close()
        self._socket.close()


@contextmanager
def _translated() -> Iterator[None]:
    """Raise `DatabaseError` for an error of the driver."""
    try:
        yield
    except psycopg.Error as error:
        raise DatabaseError(_reason(error)) from None


def _reason(error: psycopg.Error) -> str:
    """Return in one line what *error* says: of the server's message the first part, which quotes no values."""
    text = error.diag.message_primary or str(error)
    lines = dict.fromkeys(" ".join(line.split()) for line in text.splitlines())
    return "; ".join(filter(None, lines))[:500]
