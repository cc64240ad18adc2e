"""What do the tests of authentication share? A checker that knows alice, and keeps count of what it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword
from twisted.cred.error import UnauthorizedLogin
from twisted.logger import globalLogPublisher
from zope.interface import implementer

from tests.log_observers import log_observer


@implementer(ICredentialsChecker)
class Asked:
    """Knows the password of alice; `names` are those that it was asked for."""

    credentialInterfaces = (IUsernameHashedPassword,)

    def __init__(self, passwords: Any) -> None:
        self.passwords = passwords
        self.names: list[Any] = []

    def requestAvatarId(self, credentials: Any) -> Any:
        self.names.append(credentials.username)
        password = self.passwords.get(credentials.username)
        if password is None or not credentials.checkPassword(password):
            raise UnauthorizedLogin
        return credentials.username


@pytest.fixture
def checker() -> Asked:
    return Asked({b"alice": b"secret"})


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """The lines that are logged."""
    lines = []

    @log_observer
    def note(event: dict[str, Any]) -> None:
        lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(note)
    yield lines
    globalLogPublisher.removeObserver(note)
