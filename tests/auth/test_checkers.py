"""Is what --auth says made into the checker it stands for, and a mistake told without a password?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse

from tests.auth.client import REALM, Client, authorization
from tests.auth.test_password_file import Question
from twisted_sipuas.auth import PasswordFile, Subscribers, credentials_checker
from twisted_sipuas.auth.checkers import checker_forms
from twisted_sipuas.auth.subscriber import subscription_of


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("file:users", PasswordFile),
        ("subscriber:sqlite:kamailio.sqlite", Subscribers),
        ("memory:alice:secret", InMemoryUsernamePasswordDatabaseDontUse),
    ],
)
def test_kinds(text: str, kind: type[Any]) -> None:
    """Ours come before those that `strcred` finds."""
    assert type(credentials_checker(text, REALM, None)) is kind


def test_plugin() -> None:
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
def test_mistakes(text: str, said: str) -> None:
    """A checker that there is not, or that cannot serve digests, is refused in one line, without its text."""
    with pytest.raises(ValueError) as raised:
        credentials_checker(text, REALM, None)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("realm", "domains", "domain"),
    [
        ("Example.COM.", [], "example.com"),
        ("Example.com", ["example.org"], "example.com"),
        ("Our Company", ["Example.org", "example.net"], "example.org"),
        ("Company", ["example.org"], "example.org"),
        ("pbx", ["example.org", "pbx"], "pbx"),
        ("Our Company", [], "Our Company"),
    ],
)
def test_domain_of_subscribers(realm: str, domains: list[str], domain: str) -> None:
    """A subscriber whose name has no domain is of the realm's, in the one spelling, or of the first that is served."""
    checker: Any = credentials_checker("subscriber:sqlite:s.sqlite", realm, None, domains)
    credentials: Any = Question("alice", "secret")
    subscription = subscription_of(credentials, checker._domain)
    assert subscription is not None
    assert subscription.identity == f"alice@{domain}"


def test_file_with_a_connection_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """@FILE is looked for where file: is, in $STATE_DIRECTORY if that is set."""
    (tmp_path / "dsn").write_text("host=db.example dbname=kamailio\n")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    checker: Any = credentials_checker("subscriber:postgres:@dsn", REALM, None)
    assert "db.example" in checker.description


def test_forms() -> None:
    """What can be given is listed, and what could not serve is not."""
    forms = [form.partition(":")[0] for form in checker_forms()]
    assert forms[:2] == ["file", "subscriber"]
    assert "memory" in forms
    assert not {"unix", "anonymous", "sshkey"} & set(forms)
