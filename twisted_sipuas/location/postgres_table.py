"""How are bindings kept in a table of PostgreSQL that several servers share? Its schema, and four statements.

An address-of-record is one row, with an array for each field of its bindings. So a change of all of them at once, if
they are what they were, is one statement, and each statement is a transaction of its own. A change gives the row a new
random version. It is made up by who changes, who knows it before the answer comes: if that is lost, the row tells
whether the change was made. No version is ever that of two changes.

With its last binding an address-of-record is not gone: the row stays for a while, without bindings and under a new
version like after any other change. Rows are deleted by `sweep` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID, uuid4

from twisted_sipuas.database_pool import DatabaseError, LostConnectionError
from twisted_sipuas.location.binding import Binding
from twisted_sipuas.location.rows import COLUMNS, binding_of, octets, row_of
from twisted_sipuas.postgresql import PostgresConnection, checked_table

__all__ = ["Change", "PostgresBindingTable"]

_STEPS = (
    """
    CREATE TABLE {table} (
        address_of_record bytea PRIMARY KEY,
        version uuid NOT NULL,
        ends_at double precision NOT NULL,
        uri bytea[] NOT NULL,
        expires_at double precision[] NOT NULL,
        call_id bytea[] NOT NULL,
        cseq bigint[] NOT NULL,
        q double precision[] NOT NULL,
        display_name bytea[] NOT NULL,
        parameters bytea[] NOT NULL,
        path bytea[] NOT NULL
    );
    CREATE INDEX {index} ON {table} (ends_at);
    COMMENT ON TABLE {table} IS 'Bindings of SIP addresses-of-record; times are in seconds since the epoch';
    """,
)
"""What makes the schema of version 1 of nothing, and of each version the next one."""

_REMOVAL_TIME = 60.0
"""Seconds that a row without bindings is kept, for those who want to know what became of their change."""

_TYPES = dict.fromkeys(COLUMNS, "bytea") | {
    "expires_at": "double precision",
    "cseq": "bigint",
    "q": "double precision",
}


class Change(NamedTuple):
    """What an address-of-record is to be changed to; made by `Change.of`."""

    address_of_record: bytes
    version: UUID | None
    """The version that it is to have now; None if there is to be none."""
    new_version: UUID
    ends_at: float
    """When the row is of no more use."""
    columns: list[str]
    """The fields of the bindings, for each the literal of an array with the values of all."""

    @classmethod
    def of(cls, address_of_record: str, version: UUID | None, bindings: Iterable[Binding], now: float) -> Change:
        """Return the change to *bindings*; raises `UnicodeEncodeError` for text that no received octets make."""
        rows = [row_of(binding) for binding in bindings]
        columns = [_array(values) for values in zip(*rows, strict=True)] or ["{}"] * len(COLUMNS)
        ends_at = max((row[1] for row in rows), default=now + _REMOVAL_TIME)
        return cls(octets(address_of_record), version, uuid4(), ends_at, columns)

    @property
    def is_to_nothing(self) -> bool:
        """Whether there are to be no bindings."""
        return self.columns[0] == "{}"


class PostgresBindingTable:
    """The table *name*, and the statements for it; every method is to be called with a `PostgresConnection`.

    Raises `ValueError` for what is no name. Methods raise `DatabaseError`.
    """

    def __init__(self, name: str) -> None:
        self.name = checked_table(name)
        schema, _, relation = name.rpartition(".")
        prefix = f'"{schema}".' if schema else ""
        table = f'{prefix}"{relation}"'
        self._names = {"table": table, "index": f'"{relation}_ends_at"'}
        self._schema_table = f'{prefix}"{relation}_schema"'
        places = [f"%s::{_TYPES[column]}[]" for column in COLUMNS]
        self._select = f"SELECT version, {', '.join(COLUMNS)} FROM {table} WHERE address_of_record = %s"
        self._exists = f"SELECT 1 FROM {table} WHERE address_of_record = %s"
        self._insert = (
            f"INSERT INTO {table} (version, ends_at, {', '.join(COLUMNS)}, address_of_record) "
            f"VALUES (%s, %s, {', '.join(places)}, %s) ON CONFLICT DO NOTHING"
        )
        assignments = ", ".join(f"{column} = {place}" for column, place in zip(COLUMNS, places, strict=True))
        self._update = (
            f"UPDATE {table} SET version = %s, ends_at = %s, {assignments} "
            f"WHERE address_of_record = %s AND version = %s"
        )
        # A server whose clock is fast deletes nothing that is alive by the database's. Rows that another server is
        # about to change, or to delete, are left to it.
        self._delete = (
            f"DELETE FROM {table} WHERE address_of_record = ANY (ARRAY("
            f"SELECT address_of_record FROM {table} "
            f"WHERE ends_at <= least(%s::double precision, extract(epoch FROM now())::double precision) "
            f"ORDER BY ends_at LIMIT %s FOR UPDATE SKIP LOCKED))"
        )

    # The schema

    def prepare(self, connection: PostgresConnection) -> None:
        """Make the table, or bring it to the present version, unless that was done."""
        if self._version(connection) == len(_STEPS):
            return
        # Of servers that start at the same time one does it; the others wait here, and find it done. The lock is taken
        # before the transaction, for what others have made is seen in full by one that begins later alone. If
        # anything fails the connection is closed, and the lock with it.
        connection.rows("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [self._schema_table])
        with connection.transaction():
            self._migrate(connection, self._version(connection))
        connection.rows("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [self._schema_table])

    def _migrate(self, connection: PostgresConnection, version: int) -> None:
        """Bring the table from *version* to the present one."""
        if version > len(_STEPS):
            raise DatabaseError(
                f"the schema of the table {self.name} is version {version}, and this program knows {len(_STEPS)}"
            )
        if version == 0:
            connection.script(f"CREATE TABLE {self._schema_table} AS SELECT 0 AS version")
        for step in _STEPS[version:]:
            connection.script(step.format(**self._names))
        connection.change(f"UPDATE {self._schema_table} SET version = %s", [len(_STEPS)])

    def _version(self, connection: PostgresConnection) -> int:
        """Return the version of the schema, 0 if there is none."""
        ((is_there,),) = connection.rows("SELECT to_regclass(%s) IS NOT NULL", [self._schema_table])
        return int(connection.rows(f"SELECT version FROM {self._schema_table}")[0][0]) if is_there else 0

    # Bindings

    def read(self, connection: PostgresConnection, address_of_record: bytes) -> tuple[tuple[Binding, ...], UUID | None]:
        """Return the bindings of *address_of_record*, expired or not, and their version; None if there is no row."""
        rows = connection.rows(self._select, [address_of_record])
        if not rows:
            return (), None
        version, *columns = rows[0]
        return tuple(map(binding_of, zip(*columns, strict=True))), version

    def make(self, connection: PostgresConnection, change: Change) -> bool:
        """Make *change* if its version is current; return whether it was."""
        values = (change.new_version, change.ends_at, *change.columns, change.address_of_record)
        if change.version is not None:
            return connection.change(self._update, (*values, change.version)) == 1
        if change.is_to_nothing:
            return not connection.rows(self._exists, [change.address_of_record])
        return connection.change(self._insert, values) == 1

    def settle(self, connection: PostgresConnection, change: Change) -> bool:
        """Make *change*, which was to be made on a connection that broke; return True when it is made, now or then.

        Made now, it was not made before, and the first try, should it still be under way, is too late. Raises
        `LostConnectionError` if others have changed the bindings since: ours may have come before.
        """
        if self.make(connection, change) or self.read(connection, change.address_of_record)[1] == change.new_version:
            return True
        raise LostConnectionError(rule="changed by others")

    def sweep(self, connection: PostgresConnection, now: float, at_most: int) -> int:
        """Delete rows whose bindings have all expired, *at_most* so many; return how many there were."""
        return 0 if connection.is_standby else connection.change(self._delete, [now, at_most])


def _array(values: Iterable[object]) -> str:
    """Return the literal of the array of *values*: what the driver makes of lists takes it longer than all the rest."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: object) -> str:
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'  # the backslash of a bytea in hexadecimal, escaped within quotes
    return "NULL" if value is None else repr(value)
