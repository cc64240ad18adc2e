"""Is what --auth says made into the checker it stands for, and a mistake told without a password?"""

from __future__ import annotations

import pytest
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse

from tests.auth.client import REALM, Client, authorization
from twisted_sipuas.auth import PasswordFile, Subscribers, credentials_checker
from twisted_sipuas.auth.checkers import checker_forms


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("file:users", PasswordFile),
        ("subscriber:sqlite:kamailio.sqlite", Subscribers),
        ("memory:alice:secret", InMemoryUsernamePasswordDatabaseDontUse),
    ],
)
def test_kinds(text, kind):
    """Ours come before those that `strcred` finds."""
    assert type(credentials_checker(text, REALM, None)) is kind


def test_plugin():
    """A `strcred` text of Twisted's own works: names and passwords are octets for it too."""
    client = Client(credentials_checker("memory:alice:secret:J\u00e4son:\u00fc", REALM, None))
    assert client.send(authorization(client.challenge())).status == 200
    assert client.send(authorization(client.challenge(), username="J\u00e4son", password="\u00fc")).status == 200
    assert client.send(authorization(client.challenge(), password="guess")).status == 401
    assert client.server.identities == ["alice", "J\u00e4son"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nosuch:secret", "nosuch: no such checker: expected one of file:, subscriber:, memory:"),
        ("memory:alice-secret", "memory: its text is not what it expects (InvalidAuthArgumentString)"),
        ("unix", "unix: it can give neither a password nor a hash, which digests need"),
        ("anonymous", "anonymous: it can give neither"),
        ("file:", "file: expected the name of a file"),
        ("subscriber:mysql:secret", "subscriber: expected subscriber:sqlite:FILE or subscriber:postgres:DSN"),
        ("subscriber:postgres:secret", "subscriber: expected a connection string of libpq"),
        ("subscriber:postgres:@nowhere", "subscriber: cannot read nowhere: No such file or directory"),
        ("", "no such checker"),
    ],
)
def test_mistakes(text, said):
    """A checker that there is not, or that cannot serve digests, is refused in one line, without its text."""
    with pytest.raises(ValueError) as raised:
        credentials_checker(text, REALM, None)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def test_forms():
    """What can be given is listed, and what could not serve is not."""
    forms = [form.partition(":")[0] for form in checker_forms()]
    assert forms[:2] == ["file", "subscriber"]
    assert "memory" in forms
    assert not {"unix", "anonymous", "sshkey"} & set(forms)
