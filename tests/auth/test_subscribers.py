"""Are the subscriber tables of kamailio and OpenSIPS read as their own servers read them?"""

from __future__ import annotations

import sqlite3

import pytest
import pytest_twisted
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError

from tests.auth.client import REALM
from tests.auth.test_password_file import Question
from twisted_sipuas import StartError, UnavailableError
from twisted_sipuas.auth import SQLiteSubscribers
from twisted_sipuas.auth.digest import HASHES, ha1

# As their own schemas have it; kamailio 5.6 and OpenSIPS 3.4.
KAMAILIO = """CREATE TABLE subscriber (id INTEGER PRIMARY KEY NOT NULL, username VARCHAR(64) DEFAULT '' NOT NULL,
    domain VARCHAR(64) DEFAULT '' NOT NULL, password VARCHAR(64) DEFAULT '' NOT NULL, ha1 VARCHAR(128) DEFAULT '' NOT
    NULL, ha1b VARCHAR(128) DEFAULT '' NOT NULL, CONSTRAINT subscriber_account_idx UNIQUE (username, domain))"""
OPENSIPS = """CREATE TABLE subscriber (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    username CHAR(64) DEFAULT '' NOT NULL, domain CHAR(64) DEFAULT '' NOT NULL,
    password CHAR(25) DEFAULT '' NOT NULL, ha1 CHAR(64) DEFAULT '' NOT NULL,
    ha1_sha256 CHAR(64) DEFAULT '' NOT NULL, ha1_sha512t256 CHAR(64) DEFAULT '' NOT NULL,
    CONSTRAINT ORIG_subscriber_account_idx UNIQUE (username, domain))"""


class Table:
    """A subscriber table in a file, made by *schema*; `open` starts a checker of it, which the test stops."""

    def __init__(self, path, schema):
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute(schema)
        self.checker = None

    def add(self, username, domain=REALM, **columns):
        columns = {"username": username, "domain": domain, **columns}
        places = ", ".join("?" * len(columns))
        self.connection.execute(
            f"INSERT INTO subscriber ({', '.join(columns)}) VALUES ({places})", tuple(columns.values())
        )

    def open(self, **options):
        from twisted.internet import reactor

        self.checker = SQLiteSubscribers(str(self.path), reactor, **options)
        self.checker.startService()
        return self.checker


@pytest.fixture(params=[KAMAILIO, OPENSIPS], ids=["kamailio", "OpenSIPS"])
def table(request, tmp_path):
    made = Table(tmp_path / "subscribers.sqlite", request.param)
    yield made
    if made.checker is not None:
        pytest_twisted.blockon(made.checker.stopService())
    made.connection.close()


@pytest.fixture
def opensips(tmp_path):
    made = Table(tmp_path / "subscribers.sqlite", OPENSIPS)
    yield made
    if made.checker is not None:
        pytest_twisted.blockon(made.checker.stopService())
    made.connection.close()


@pytest_twisted.ensureDeferred
async def test_password(table):
    """A clear password serves for every hash; who that is has the domain in its name."""
    table.add("alice", password="secret")
    checker = table.open()
    assert checker.hashes == set(HASHES)
    for hash_name in HASHES:
        assert await checker.requestAvatarId(Question("alice", "secret", hash_name)) == f"alice@{REALM}"
    for user, password in (("alice", "guess"), ("alice", ""), ("bob", "secret"), ("alice@example.org", "secret")):
        with pytest.raises(UnauthorizedLogin):
            await checker.requestAvatarId(Question(user, password))


@pytest_twisted.ensureDeferred
async def test_ha1(table):
    """Where passwords are not kept, ha1 serves, for MD5 alone."""
    table.add("alice", ha1=ha1("MD5", b"alice", REALM, b"secret"))
    checker = table.open()
    assert checker.hashes == {"MD5"}
    assert await checker.requestAvatarId(Question("alice", "secret", "MD5")) == f"alice@{REALM}"
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "secret"))


@pytest_twisted.ensureDeferred
async def test_further_hashes(opensips):
    """OpenSIPS has columns for the hashes of RFC 8760."""
    opensips.add(
        "alice",
        ha1_sha256=ha1("SHA-256", b"alice", REALM, b"secret"),
        ha1_sha512t256=ha1("SHA-512-256", b"alice", REALM, b"secret"),
    )
    checker = opensips.open()
    assert checker.hashes == {"SHA-256", "SHA-512-256"}
    for hash_name in checker.hashes:
        assert await checker.requestAvatarId(Question("alice", "secret", hash_name)) == f"alice@{REALM}"


@pytest_twisted.ensureDeferred
async def test_username_with_a_domain(table):
    """A username may have a domain: then that is the row's, and ha1b is the hash, where there is one."""
    columns = [row[1] for row in table.connection.execute("PRAGMA table_info(subscriber)")]
    digits = ha1("MD5", b"bob@example.org", REALM, b"secret")
    if "ha1b" in columns:
        table.add("bob", "example.org", ha1="0" * 32, ha1b=digits)
    else:
        table.add("bob", "example.org", ha1=digits, password="secret")
    checker = table.open()
    assert await checker.requestAvatarId(Question("bob@example.org", "secret", "MD5")) == "bob@example.org"
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("bob", "secret", "MD5"))


@pytest_twisted.ensureDeferred
async def test_users_of_one_name(table):
    """Users of one name in several domains are several people."""
    table.add("alice", REALM, password="secret")
    table.add("alice", "example.org", password="other")
    checker = table.open()
    assert await checker.requestAvatarId(Question("alice", "secret")) == f"alice@{REALM}"
    assert await checker.requestAvatarId(Question("alice@EXAMPLE.org", "other")) == "alice@example.org"
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "other"))


@pytest_twisted.ensureDeferred
async def test_change(table):
    """What another program writes counts from the next look-up on."""
    checker = table.open()
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "secret"))
    table.add("alice", password="secret")
    assert await checker.requestAvatarId(Question("alice", "secret")) == f"alice@{REALM}"


@pytest_twisted.ensureDeferred
async def test_statement_is_not_to_be_injected(table):
    """A name is a value, whatever is in it."""
    table.add("alice", password="secret")
    checker = table.open()
    for name in ("' OR '1'='1", "alice'--", '"', "\\"):
        with pytest.raises(UnauthorizedLogin):
            await checker.requestAvatarId(Question(name, "secret"))


@pytest_twisted.ensureDeferred
async def test_name_that_is_no_text(table):
    """Octets that are no UTF-8 name nobody, and break nothing."""
    question = Question("alice", "secret")
    question.username = b"\xff"
    checker = table.open()
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(question)


@pytest_twisted.ensureDeferred
async def test_table_that_cannot_be_read(table):
    """While the table cannot be read, the answer is 503, and it is no wrong password."""
    table.add("alice", password="secret")
    checker = table.open()
    table.connection.execute("ALTER TABLE subscriber RENAME TO gone")
    for _ in range(2):
        with pytest.raises(UnavailableError) as raised:
            await checker.requestAvatarId(Question("alice", "secret"))
        assert raised.value.status == 503
    table.connection.execute("ALTER TABLE gone RENAME TO subscriber")
    assert await checker.requestAvatarId(Question("alice", "secret")) == f"alice@{REALM}"


@pytest_twisted.ensureDeferred
async def test_bound(table):
    """Past the bound look-ups fail at once, and are counted; a cancelled one makes room once the thread knows."""
    checker = table.open(max_pending=1)
    waiting = checker.requestAvatarId(Question("alice", "secret"))
    with pytest.raises(UnavailableError):
        checker.requestAvatarId(Question("alice", "secret"))
    assert checker.counters == {"pending": 1, "refused": 1}
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    while checker.counters["pending"]:
        await wait()
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "secret"))


def wait():
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    return deferLater(reactor, 0.01)


def test_not_running():
    """Before it is started, and after it is stopped, the answer is 503."""
    with pytest.raises(UnavailableError):
        SQLiteSubscribers("x", None).requestAvatarId(Question("alice", "secret"))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "unable to open database file"),
        ("CREATE TABLE other (x)", "no columns username, domain"),
        ("CREATE TABLE subscriber (username, domain)", "no columns username, domain"),
        ("CREATE TABLE subscriber (username, ha1)", "no columns username, domain"),
    ],
)
def test_table_that_is_none(tmp_path, schema, said):
    """A file that cannot be used when the service starts ends that with one line, and is not made."""
    path = tmp_path / "subscribers.sqlite"
    if schema is not None:
        connection = sqlite3.connect(path)
        connection.execute(schema)
        connection.close()
    checker = SQLiteSubscribers(str(path), None)
    with pytest.raises(StartError, match=said) as raised:
        checker.startService()
    assert str(path) in str(raised.value)
    assert checker.stopService() is None
    assert path.exists() == (schema is not None)
