"""What checker does a text such as ``file:users`` describe? Ours, and what `twisted.cred.strcred` finds besides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.strcred import InvalidAuthType, findCheckerFactories, findCheckerFactory

from twisted_sipuas.auth.credentials import checkable_hashes
from twisted_sipuas.auth.databases import SQLiteSubscriberDatabase, postgres_subscriber_database
from twisted_sipuas.auth.digest import octets
from twisted_sipuas.auth.password_file import PasswordFile
from twisted_sipuas.auth.subscribers import Subscribers

__all__ = ["checker_forms", "credentials_checker"]

_OURS = {
    "file": "file:FILE has lines user:password, or user:realm:hash as htdigest writes them; it may change at any time.",
    "subscriber": "subscriber:sqlite:FILE, subscriber:postgres:DSN: the table subscriber of kamailio and OpenSIPS; "
    "@FILE as DSN reads it from that file.",
}


def checker_forms() -> Iterator[str]:
    """Yield for people the form of every text that `credentials_checker` takes, and what it is."""
    yield from _OURS.values()
    for factory in findCheckerFactories():
        if factory.authType not in _OURS and checkable_hashes(factory.credentialInterfaces):
            yield f"{factory.authType}:... is Twisted's or a plugin's: {factory.argStringFormat.strip()}"


def credentials_checker(text: str, realm: str, reactor: Any) -> ICredentialsChecker:
    """Return the checker that *text* describes, not yet started, for users of *realm*.

    Raises `ValueError` saying what is wrong and what was expected, without what *text* has behind the kind: it may be a
    password.
    """
    kind, _, argument = text.partition(":")
    try:
        if kind == "file":
            return PasswordFile(argument, realm, reactor)
        if kind == "subscriber":
            return _subscribers(argument, reactor)
        return _from_plugin(kind, argument)
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None


def _subscribers(argument: str, reactor: Any) -> ICredentialsChecker:
    kind, _, where = argument.partition(":")
    if kind == "sqlite":
        return Subscribers(SQLiteSubscriberDatabase(where), reactor)
    if kind == "postgres":
        return Subscribers(postgres_subscriber_database(where), reactor)
    raise ValueError("expected subscriber:sqlite:FILE or subscriber:postgres:DSN")


def _from_plugin(kind: str, argument: str) -> ICredentialsChecker:
    try:
        checker: ICredentialsChecker = findCheckerFactory(kind).generateChecker(argument)
    except InvalidAuthType:
        known = ", ".join(form.partition(":")[0] + ":" for form in checker_forms())
        raise ValueError(f"no such checker: expected one of {known}") from None
    except Exception as error:
        raise ValueError(f"its text is not what it expects ({type(error).__name__}); see --help-auth") from None
    if not checkable_hashes(checker.credentialInterfaces):
        raise ValueError("it can give neither a password nor a hash, which digests need; see --help-auth")
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):  # its text makes str, where it documents bytes
        checker.users = {_octets(name): _octets(password) for name, password in checker.users.items()}
    return checker


def _octets(value: str | bytes) -> bytes:
    return octets(value) if isinstance(value, str) else value
