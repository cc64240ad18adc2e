"""Are the subscriber tables of kamailio and OpenSIPS read as their own servers read them?"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred

from tests.auth.client import REALM
from tests.auth.test_password_file import Question
from tests.postgres_process import PostgresProcess
from twisted_sipuas import StartError, UnavailableError
from twisted_sipuas.auth import Subscribers
from twisted_sipuas.auth.databases import SQLiteSubscriberDatabase, postgres_subscriber_database
from twisted_sipuas.auth.digest import HASHES, ha1

# As their own schemas have it: kamailio 5.6 and OpenSIPS 3.4, each for both databases.
KAMAILIO = """CREATE TABLE subscriber (id {key}, username VARCHAR(64) DEFAULT '' NOT NULL,
    domain VARCHAR(64) DEFAULT '' NOT NULL, password VARCHAR(64) DEFAULT '' NOT NULL,
    ha1 VARCHAR(128) DEFAULT '' NOT NULL, ha1b VARCHAR(128) DEFAULT '' NOT NULL,
    CONSTRAINT subscriber_account_idx UNIQUE (username, domain))"""
OPENSIPS = """CREATE TABLE subscriber (id {key}, username CHAR(64) DEFAULT '' NOT NULL,
    domain CHAR(64) DEFAULT '' NOT NULL, password CHAR(25) DEFAULT '' NOT NULL, ha1 CHAR(64) DEFAULT '' NOT NULL,
    ha1_sha256 CHAR(64) DEFAULT '' NOT NULL, ha1_sha512t256 CHAR(64) DEFAULT '' NOT NULL,
    CONSTRAINT ORIG_subscriber_account_idx UNIQUE (username, domain))"""


class Table:
    """A subscriber table; `open` starts a checker of it, which `close` stops."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self.checker: Any = None

    def execute(self, statement: str) -> None:
        raise NotImplementedError

    def add(self, username: str, domain: str = REALM, **columns: Any) -> None:
        columns = {"username": username, "domain": domain, **columns}
        values = ", ".join(f"'{value}'" for value in columns.values())
        self.execute(f"INSERT INTO subscriber ({', '.join(columns)}) VALUES ({values})")

    def start(self, database: Any, **options: Any) -> Any:
        from twisted.internet import reactor

        self.checker = Subscribers(database, REALM, reactor, **options)
        self.checker.startService()
        return self.checker

    def close(self) -> None:
        if self.checker is not None:
            pytest_twisted.blockon(self.checker.stopService())


class SQLiteTable(Table):
    """One in a SQLite file."""

    def __init__(self, schema: str, path: Path) -> None:
        super().__init__(schema)
        self.path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self.execute(schema.format(key="INTEGER PRIMARY KEY NOT NULL"))

    def execute(self, statement: str) -> None:
        self._connection.execute(statement)

    def open(self, **options: int) -> Any:
        return self.start(SQLiteSubscriberDatabase(str(self.path)), **options)

    def close(self) -> None:
        super().close()
        self._connection.close()


class PostgresTable(Table):
    """One in PostgreSQL."""

    def __init__(self, schema: str, process: Any) -> None:
        super().__init__(schema)
        self.process = process
        self.execute("DROP TABLE IF EXISTS subscriber, gone")
        self.execute(schema.format(key="SERIAL PRIMARY KEY NOT NULL"))

    def execute(self, statement: str) -> None:
        self.process.ask(statement)

    def open(self, **options: int) -> Any:
        return self.start(postgres_subscriber_database(self.process.dsn()), **options)


@pytest.fixture(scope="module")
def process() -> Iterator[Any]:
    running = PostgresProcess()
    running.start()
    yield running
    running.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def make_table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return what makes a table of a schema in the database that the test is for."""
    made: list[Any] = []

    def make(schema: Any) -> Any:
        if request.param == "sqlite":
            made.append(SQLiteTable(schema, tmp_path / "subscribers.sqlite"))
        else:
            made.append(PostgresTable(schema, request.getfixturevalue("process")))
        return made[-1]

    yield make
    for table in made:
        table.close()


@pytest.fixture(params=[KAMAILIO, OPENSIPS], ids=["kamailio", "OpenSIPS"])
def table(request: pytest.FixtureRequest, make_table: Callable[..., Any]) -> Any:
    return make_table(request.param)


async def opened(table: PostgresTable | SQLiteTable, **options: Any) -> Any:
    """Return a checker that has looked at *table*."""
    checker = table.open(**options)
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("nobody", "secret"))
    return checker


@pytest_twisted.ensureDeferred
async def test_password(table: PostgresTable | SQLiteTable) -> None:
    """A clear password serves for every hash; who that is has the domain in its name."""
    table.add("alice", password="secret")
    checker = await opened(table)
    assert checker.hashes == set(HASHES)
    for hash_name in HASHES:
        assert await checker.requestAvatarId(Question("alice", "secret", hash_name)) == f"alice@{REALM}"
    for user, password in (("alice", "guess"), ("alice", ""), ("bob", "secret"), ("alice@example.org", "secret")):
        with pytest.raises(UnauthorizedLogin):
            await checker.requestAvatarId(Question(user, password))


@pytest_twisted.ensureDeferred
async def test_ha1(table: PostgresTable | SQLiteTable) -> None:
    """Where passwords are not kept, ha1 serves, for MD5 alone."""
    table.add("alice", ha1=ha1("MD5", b"alice", REALM, b"secret"))
    checker = await opened(table)
    assert checker.hashes == {"MD5"}
    assert await checker.requestAvatarId(Question("alice", "secret", "MD5")) == f"alice@{REALM}"
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "secret"))


@pytest_twisted.ensureDeferred
async def test_ha1_and_password(table: PostgresTable | SQLiteTable) -> None:
    """Where both are there ha1 counts, as in those servers unless they compute it from passwords."""
    table.add("alice", password="clear", ha1=ha1("MD5", b"alice", REALM, b"secret"))
    checker = await opened(table)
    assert await checker.requestAvatarId(Question("alice", "secret", "MD5")) == f"alice@{REALM}"
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "clear", "MD5"))


@pytest_twisted.ensureDeferred
async def test_change_of_hashes(table: PostgresTable | SQLiteTable) -> None:
    """Which hashes there are is looked at again when the server reloads, and from time to time."""
    table.add("alice", ha1=ha1("MD5", b"alice", REALM, b"secret"))
    checker = await opened(table)
    assert checker.hashes == {"MD5"}
    table.execute("UPDATE subscriber SET password = 'secret'")
    checker.reload()
    while checker.hashes != set(HASHES):  # a look that was under way may have seen the table before and after
        await wait()


@pytest_twisted.ensureDeferred
async def test_further_hashes(make_table: Callable[..., Any]) -> None:
    """OpenSIPS has columns for the hashes of RFC 8760."""
    opensips = make_table(OPENSIPS)
    opensips.add(
        "alice",
        ha1_sha256=ha1("SHA-256", b"alice", REALM, b"secret"),
        ha1_sha512t256=ha1("SHA-512-256", b"alice", REALM, b"secret"),
    )
    checker = await opened(opensips)
    assert checker.hashes == {"SHA-256", "SHA-512-256"}
    for hash_name in checker.hashes:
        assert await checker.requestAvatarId(Question("alice", "secret", hash_name)) == f"alice@{REALM}"


@pytest_twisted.ensureDeferred
async def test_username_with_a_domain(table: PostgresTable | SQLiteTable) -> None:
    """A username may have a domain: then that is the row's, and ha1b is the hash, where there is one."""
    digits = ha1("MD5", b"bob@example.org", REALM, b"secret")
    if table.schema is KAMAILIO:
        table.add("bob", "example.org", ha1="0" * 32, ha1b=digits)
    else:
        table.add("bob", "example.org", ha1=digits, password="secret")
    checker = await opened(table)
    assert await checker.requestAvatarId(Question("bob@example.org", "secret", "MD5")) == "bob@example.org"
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("bob", "secret", "MD5"))


@pytest_twisted.ensureDeferred
async def test_users_of_one_name(table: PostgresTable | SQLiteTable) -> None:
    """Users of one name in several domains are several people."""
    table.add("alice", REALM, password="secret")
    table.add("alice", "example.org", password="other")
    checker = await opened(table)
    assert await checker.requestAvatarId(Question("alice", "secret")) == f"alice@{REALM}"
    assert await checker.requestAvatarId(Question("alice@EXAMPLE.org", "other")) == "alice@example.org"
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "other"))


@pytest_twisted.ensureDeferred
async def test_change(table: PostgresTable | SQLiteTable) -> None:
    """What another program writes counts from the next look-up on."""
    checker = await opened(table)
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "secret"))
    table.add("alice", password="secret")
    assert await checker.requestAvatarId(Question("alice", "secret")) == f"alice@{REALM}"


@pytest_twisted.ensureDeferred
async def test_statement_is_not_to_be_injected(table: PostgresTable | SQLiteTable) -> None:
    """A name is a value, whatever is in it."""
    table.add("alice", password="secret")
    checker = await opened(table)
    for name in ("' OR '1'='1", "alice'--", '"', "\\"):
        with pytest.raises(UnauthorizedLogin):
            await checker.requestAvatarId(Question(name, "secret"))


@pytest_twisted.ensureDeferred
async def test_name_that_is_no_text(table: PostgresTable | SQLiteTable) -> None:
    """Octets that are no UTF-8 name nobody, and break nothing."""
    question = Question("alice", "secret")
    question.username = b"\xff"
    checker = await opened(table)
    with pytest.raises(UnauthorizedLogin):
        await checker.requestAvatarId(Question("alice", "secret"))


@pytest_twisted.ensureDeferred
async def test_name_that_ends_in_a_space(table: PostgresTable | SQLiteTable) -> None:
    """A CHAR of SQL does not tell spaces at its end: such names would be one user, each with a delay of its own."""
    table.add("alice", password="secret")
    checker = await opened(table)
    for name in ("alice ", f"alice@{REALM} "):
        with pytest.raises(UnauthorizedLogin):
            await checker.requestAvatarId(Question(name, "secret"))


@pytest_twisted.ensureDeferred
async def test_table_that_cannot_be_read(table: PostgresTable | SQLiteTable) -> None:
    """While the table cannot be read, the answer is 503, and it is no wrong password."""
    table.add("alice", password="secret")
    checker = await opened(table)
    table.execute("ALTER TABLE subscriber RENAME TO gone")
    for _ in range(2):
        with pytest.raises(UnavailableError) as raised:
            await checker.requestAvatarId(Question("alice", "secret"))
        assert raised.value.status == 503
    table.execute("ALTER TABLE gone RENAME TO subscriber")
    assert await checker.requestAvatarId(Question("alice", "secret")) == f"alice@{REALM}"


@pytest_twisted.ensureDeferred
async def test_bound(table: PostgresTable | SQLiteTable) -> None:
    """Past the bound look-ups fail at once, and are counted."""
    checker = await opened(table, max_pending=5)
    waiting = [maybeDeferred(checker.requestAvatarId, Question("alice", "secret")) for _ in range(100)]
    reasons = [type(failure.value) for _, failure in await DeferredList(waiting, consumeErrors=True)]
    assert set(reasons) == {UnauthorizedLogin, UnavailableError}
    assert checker.counters["refused"] == reasons.count(UnavailableError)


@pytest_twisted.ensureDeferred
async def test_postgres_that_is_down(process: Any) -> None:
    """A database on another machine may be away at the start and later: meanwhile 503, and then it serves."""
    table = PostgresTable(KAMAILIO, process)
    table.add("alice", password="secret")
    process.stop()
    try:
        checker = table.open()
        assert checker.hashes == set(HASHES)
        with pytest.raises(UnavailableError):
            await checker.requestAvatarId(Question("alice", "secret"))
    finally:
        process.start()
    answer = None
    while answer is None:
        try:
            answer = await checker.requestAvatarId(Question("alice", "secret"))
        except UnavailableError:
            await wait()
    assert answer == f"alice@{REALM}"
    await checker.stopService()


def wait() -> Deferred[Any]:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    return deferLater(reactor, 0.01)


def test_not_running() -> None:
    """Before it is started, and after it is stopped, the answer is 503."""
    checker: Any = Subscribers(SQLiteSubscriberDatabase("x"), REALM, None)
    with pytest.raises(UnavailableError):
        checker.requestAvatarId(Question("alice", "secret"))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "unable to open database file"),
        ("CREATE TABLE other (x)", "no columns username, domain"),
        ("CREATE TABLE subscriber (username, domain)", "no columns username, domain"),
        ("CREATE TABLE subscriber (username, ha1)", "no columns username, domain"),
    ],
)
def test_table_that_is_none(tmp_path: Path, schema: str | None, said: str) -> None:
    """A file that cannot be used when the service starts ends that with one line, and is not made."""
    path = tmp_path / "subscribers.sqlite"
    if schema is not None:
        connection = sqlite3.connect(path)
        connection.execute(schema)
        connection.close()
    checker = Subscribers(SQLiteSubscriberDatabase(str(path)), REALM, None)
    with pytest.raises(StartError, match=said) as raised:
        checker.startService()
    assert str(path) in str(raised.value)
    assert path.exists() == (schema is not None)
