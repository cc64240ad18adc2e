"""Which secrets does a ``subscriber`` table hold, in the columns that kamailio and OpenSIPS give it?"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from twisted_sipuas.auth.credentials import DigestCredentials
from twisted_sipuas.auth.digest import octets

__all__ = ["SubscriberTable", "Subscription", "subscription_of"]

_HASH_COLUMNS = {"MD5": "ha1", "SHA-256": "ha1_sha256", "SHA-512-256": "ha1_sha512t256"}
_OPTIONAL = ("password", *_HASH_COLUMNS.values(), "ha1b")


class Subscription(NamedTuple):
    """Whose row is meant: the key of the table, and what the digest was computed with besides."""

    username: str
    domain: str
    is_qualified: bool
    """Whether the client's username was ``username@domain``, so that ``ha1b`` is the hash of it and ``ha1`` is not."""

    @property
    def identity(self) -> str:
        """Who that is: users of one name in several domains are several people."""
        return f"{self.username}@{self.domain}"


def subscription_of(credentials: DigestCredentials) -> Subscription | None:
    """Return whose row to look for, or None if that is no text; a username without a domain is of the realm's."""
    try:
        text = credentials.username.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    username, at, domain = text.rpartition("@")
    return Subscription(username, domain.lower(), True) if at else Subscription(text, credentials.realm, False)


class SubscriberTable:
    """The table *name*, of which *columns* are there: ``username``, ``domain`` and some secrets.

    Those are ``password``, clear, and H(A1) in ``ha1`` (MD5), ``ha1_sha256``, ``ha1_sha512t256``, or ``ha1b`` for
    clients that give ``username@domain`` as their username. An empty one is not there. *placeholder* stands for a
    parameter in the statements.

    Raises `ValueError` for a table that is none of these.
    """

    def __init__(self, name: str, columns: Collection[str], placeholder: str) -> None:
        self.columns = tuple(column for column in _OPTIONAL if column in columns)
        if not {"username", "domain"} <= set(columns) or not self.columns:
            raise ValueError(f"the table {name} has no columns username, domain, and password or ha1")
        # A CHAR of SQL is filled up with spaces, which this takes away.
        selected = ", ".join(f"CAST({column} AS text)" for column in self.columns)
        self.select = f"SELECT {selected} FROM {name} WHERE username = {placeholder} AND domain = {placeholder}"
        """Gives the row of a username and a domain."""
        self._name = name

    def exceptions(self, hash_name: str) -> str | None:
        """Return the statement that gives a row if there is a user for whom *hash_name* cannot be checked.

        None if it can be for nobody.
        """
        known = [column for column in ("password", _HASH_COLUMNS[hash_name]) if column in self.columns]
        if not known:
            return None
        lacking = " AND ".join(f"({column} IS NULL OR {column} = '')" for column in known)
        return f"SELECT 1 FROM {self._name} WHERE {lacking} LIMIT 1"

    def is_right(self, credentials: DigestCredentials, whose: Subscription, rows: Iterable[tuple[object, ...]]) -> bool:
        """Whether a secret in *rows*, the result of `select`, is the one that *credentials* were made with."""
        column = _HASH_COLUMNS[credentials.hash_name]
        if whose.is_qualified:
            column = "ha1b" if credentials.hash_name == "MD5" else ""
        is_right = False
        for row in rows:
            secrets = {name: _octets(value) for name, value in zip(self.columns, row, strict=True) if value}
            digits, password = secrets.get(column), secrets.get("password")
            if digits is not None:
                is_right |= credentials.checkHash(digits)
            elif password is not None:
                is_right |= credentials.checkPassword(password)
        return is_right


def _octets(value: object) -> bytes:
    return value if isinstance(value, bytes) else octets(str(value))
