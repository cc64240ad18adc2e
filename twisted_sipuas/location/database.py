"""How are bindings kept in a SQLite file? Opening it, reading it, and changing it a transaction at a time.

Everything here blocks; `sqlite` says when and in which thread it is called.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from twisted_sipuas.errors import StartError
from twisted_sipuas.location.binding import Binding
from twisted_sipuas.location.rows import COLUMNS, binding_of, octets, row_of, text

__all__ = ["BindingDatabase", "Change"]

_VERSION = 2
_BUSY_TIME = 1.0  # seconds that a server which is just ending has to let go of the file

_SCHEMA = """
CREATE TABLE bindings (
    address_of_record BLOB NOT NULL,
    position INTEGER NOT NULL,
    uri BLOB NOT NULL,
    expires_at REAL NOT NULL,
    call_id BLOB NOT NULL,
    cseq INTEGER NOT NULL,
    q REAL,
    display_name BLOB NOT NULL,
    parameters BLOB NOT NULL,
    path BLOB NOT NULL DEFAULT x'',
    PRIMARY KEY (address_of_record, position)
) WITHOUT ROWID
"""
_MIGRATIONS = {
    1: "ALTER TABLE bindings ADD COLUMN path BLOB NOT NULL DEFAULT x''",
}
"""What makes of the schema of a version that of the next one."""

_SELECT = f"SELECT address_of_record, {', '.join(COLUMNS)} FROM bindings ORDER BY address_of_record, position"
_INSERT = (
    f"INSERT INTO bindings (address_of_record, position, {', '.join(COLUMNS)}) VALUES (?, ?{', ?' * len(COLUMNS)})"
)


class Change(NamedTuple):
    """All bindings that an address-of-record is to have, as rows; made by `Change.of`."""

    address_of_record: bytes
    rows: list[tuple[object, ...]]

    @classmethod
    def of(cls, address_of_record: str, bindings: Iterable[Binding]) -> Change:
        """Return the change to *bindings*; raises `UnicodeEncodeError` for text that no received octets make."""
        address = octets(address_of_record)
        return cls(address, [(address, position, *row_of(binding)) for position, binding in enumerate(bindings)])


class BindingDatabase:
    """The SQLite file *path*, open and locked: no other process can open it until this one closes it or dies.

    Reading the file from outside would be harmless, but a change from outside would not be seen, so neither is let
    in. A file that is not there is made, for its owner alone. May be used by one thread at a time, whichever it is.

    Raises `StartError` if the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        _make_file(path)
        try:
            self._connection = sqlite3.connect(path, timeout=_BUSY_TIME, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _start_error(path, _explanation(path, error)) from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise _start_error(path, _explanation(path, error)) from None
        except StartError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        """Lock the file, and make its table if it is new."""
        execute = self._connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("BEGIN IMMEDIATE")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise _start_error(self.path, f"its schema is version {version}, and this program knows {_VERSION}")
        if version == 0:
            if execute("SELECT 1 FROM sqlite_master").fetchone():
                raise _start_error(self.path, "it is the database of another program")
            execute(_SCHEMA)
        else:
            for older in range(version, _VERSION):
                execute(_MIGRATIONS[older])
        execute(f"PRAGMA user_version = {_VERSION}")
        execute("COMMIT")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")  # a commit is on the disk, come what may to the machine

    def load(self, now: float) -> Iterator[tuple[str, tuple[Binding, ...]]]:
        """Yield each address-of-record with its bindings; delete those that expired by *now* first.

        Raises `StartError`.
        """
        try:
            self._connection.execute("DELETE FROM bindings WHERE expires_at <= ?", (now,))
            for address, rows in groupby(self._connection.execute(_SELECT), itemgetter(0)):
                yield text(address), tuple(binding_of(row[1:]) for row in rows)
        except sqlite3.Error as error:
            raise _start_error(self.path, _explanation(self.path, error)) from None
        except ValueError:
            raise _start_error(self.path, "it has a binding that this program has not written") from None

    def write(self, changes: Iterable[Change]) -> None:
        """Make *changes* in the order given, in one transaction: all are on the disk, or `sqlite3.Error` is raised."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                connection.execute("DELETE FROM bindings WHERE address_of_record = ?", (change.address_of_record,))
                connection.executemany(_INSERT, change.rows)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite has rolled back some failures itself, a full disk for one
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file and let go of it."""
        self._connection.close()


def _make_file(path: str) -> None:
    """Make the file if there is none, for its owner alone whatever the umask; SQLite's journals take after it.

    One that is there is not opened: closing it again would drop the locks that this process may have on it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise _start_error(path, error.strerror or str(error)) from None


def _explanation(path: str, error: sqlite3.Error) -> str:
    """Return what *error* is about, where SQLite's own text does not tell."""
    text = str(error)
    if "locked" in text:
        return "it is in use by another process"
    if os.path.isdir(path):
        return "it is a directory"
    effective = os.access in os.supports_effective_ids
    for name, place in ((path, ""), (os.path.dirname(path), " for its directory")):
        if not os.access(name, os.R_OK | os.W_OK, effective_ids=effective):
            return f"permission denied{place}"
    return text


def _start_error(path: str, reason: str) -> StartError:
    return StartError(f"cannot open {path}: {reason}: choose another file with --location sqlite:FILE")
