"""What do the tests of authentication share? A checker that knows alice, and keeps count of what it was asked."""

from __future__ import annotations

import pytest
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword
from twisted.cred.error import UnauthorizedLogin
from zope.interface import implementer


@implementer(ICredentialsChecker)
class Asked:
    """Knows the password of alice; `names` are those that it was asked for."""

    credentialInterfaces = (IUsernameHashedPassword,)

    def __init__(self, passwords):
        self.passwords = passwords
        self.names = []

    def requestAvatarId(self, credentials):
        self.names.append(credentials.username)
        password = self.passwords.get(credentials.username)
        if password is None or not credentials.checkPassword(password):
            raise UnauthorizedLogin
        return credentials.username


@pytest.fixture
def checker():
    return Asked({b"alice": b"secret"})
