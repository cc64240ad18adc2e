"""Do servers that share a PostgreSQL database agree, is what it says believed, and does it come and go in peace?"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import formatEvent, globalLogPublisher

from tests.log_observers import log_observer
from tests.postgres_process import PASSWORD, PostgresProcess
from twisted_sipuas.database_pool import DatabaseError, DatabasePool
from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.location import GuardedBindingStore, location_service, postgres_table
from twisted_sipuas.location.binding import Binding
from twisted_sipuas.location.postgres import PostgresBindingStore
from twisted_sipuas.location.postgres_table import PostgresBindingTable
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing import BINDING_STORE_CHECKS, BindingStoreCase, make_request

BOB = "sip:bob@example.com"
TABLE = "sipuas_bindings"


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A PostgreSQL that runs."""
    server = PostgresProcess("max_connections=40")
    server.start()
    yield server
    server.remove()


@pytest.fixture
def schema(server: Any) -> Iterator[str]:
    """The name of a schema that is empty, and gone after the test."""
    name = f"test_{time.monotonic_ns()}"
    server.ask(f"CREATE SCHEMA {name}")
    yield name
    server.ask(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def ask(server: Any, schema: str) -> Callable[..., Any]:
    """Return what asks the database, in the schema of the test."""
    return lambda statement, *parameters: server.ask(statement, *parameters, schema=schema)


@pytest.fixture
def make_store(server: Any, schema: str, clock: Any) -> Iterator[Callable[..., Any]]:
    """Start a store in the schema of the test, as its owner or as a user given; each is stopped in the end."""
    stores = []

    def make(*, dsn: Any = None, **arguments: Any) -> PostgresBindingStore:
        store = PostgresBindingStore(dsn or server.dsn(schema), clock, **arguments)
        store.startService()
        stores.append(store)
        return store

    yield make
    for store in stores:
        clock.result(store.stopService())
    assert clock.getDelayedCalls() == []
    assert database_threads() == []


def database_threads() -> list[Any]:
    return [thread for thread in threading.enumerate() if thread.name == "sipuas-database"]


@pytest.fixture
def store(make_store: Callable[..., Any]) -> Any:
    return make_store()


@pytest.fixture
def make_user(server: Any, schema: str, ask: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Make a user who may use the schema and no more than is said; returns the connection string."""
    made = []

    def make(attributes: str = "", granted: str = "") -> Any:
        made.append("guest")
        ask(f"CREATE ROLE guest LOGIN PASSWORD 'g' {attributes}")
        ask(f"GRANT USAGE ON SCHEMA {schema} TO guest")
        if granted:
            ask(f"GRANT {granted} ON ALL TABLES IN SCHEMA {schema} TO guest")
        return server.dsn(schema, "guest", "g")

    yield make
    for name in made:
        ask(f"DROP OWNED BY {name}")
        ask(f"DROP ROLE {name}")


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """What was logged, line by line."""
    lines = []

    @log_observer
    def observe(event: dict[str, Any]) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def put(clock: Any) -> Callable[..., Any]:
    """Make bindings those of an address-of-record, and return whether that was done."""

    def put(store: PostgresBindingStore, address: str, *bindings: Binding) -> Any:
        _, version = clock.result(store.bindings(address))
        return clock.result(store.replace(address, version, bindings))

    return put


@pytest.fixture
def until(clock: Any) -> Callable[..., Any]:
    """Let threads hand in what they have, and time pass fifty times as fast, until a condition holds."""

    def until(condition: Callable[..., Any]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            pause: Deferred[Any] = Deferred()
            timer = threading.Timer(0.02, clock.callFromThread, [pause.callback, None])
            timer.start()
            clock.result(pause)
            timer.join()
            clock.advance(1)

    return until


@pytest.fixture
def idle_store(store: PostgresBindingStore, clock: Any, until: Callable[..., Any]) -> PostgresBindingStore:
    """A store that has just started, and swept: what it does from here on is what the test asks for."""
    until(lambda: len(clock.getDelayedCalls()) == 2)  # the pool's, and that of the next sweep
    return store


class Lock:
    """Keeps the row of BOB locked in a transaction of its own, so that a change of it waits."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn)
        self._connection.execute(f"SELECT 1 FROM {TABLE} WHERE address_of_record = %s FOR UPDATE", [BOB.encode()])

    def release(self) -> None:
        self._connection.close()


@pytest.fixture
def lock(server: Any, schema: str) -> Iterator[Callable[..., Any]]:
    """Return what makes a `Lock`."""
    locks = []

    def lock() -> Lock:
        locks.append(Lock(server.dsn(schema)))
        return locks[-1]

    yield lock
    for made in locks:
        made.release()


@pytest.fixture
def waiting(server: Any) -> Callable[..., Any]:
    """Return the process numbers of the store's connections that wait for a lock, once there are so many."""

    def waiting(count: int = 1) -> list[int]:
        deadline = time.monotonic() + 10
        while True:
            found = server.ask("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            if len(found) == count:
                return [pid for (pid,) in found]
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return waiting


def refusal(clock: Any, asked: Callable[..., Any]) -> UnavailableError:
    """Return the `UnavailableError` that calling *asked* raises, at once or later."""
    with pytest.raises(UnavailableError) as raised:
        clock.result(asked())
    return raised.value


def look_up(store: Any, uri: str = BOB) -> Any:
    return store.lookup(parse_uri(uri), make_request())


# What every store does


@pytest.mark.parametrize("check", BINDING_STORE_CHECKS)
def test_contract(store: PostgresBindingStore, clock: Any, check: Callable[..., Any]) -> None:
    """It passes the checks that every `IBindingStore` has to pass."""
    clock.result(Deferred.fromCoroutine(check(BindingStoreCase(store, clock, clock.advance))))


def test_restart(
    make_store: Callable[..., Any], clock: Any, put: Callable[..., Any], binding: Callable[..., Any]
) -> None:
    """Bindings outlive the store that made them."""
    store = make_store()
    put(store, BOB, binding(q=0.5))
    clock.result(store.stopService())
    assert clock.result(make_store().bindings(BOB))[0] == (binding(q=0.5),)


def test_start_again(
    store: PostgresBindingStore, clock: Any, put: Callable[..., Any], binding: Callable[..., Any]
) -> None:
    """A store that was stopped can be started again, and refuses what is asked in between."""
    clock.result(store.stopService())
    assert refusal(clock, lambda: look_up(store)).status == 503
    store.startService()
    assert put(store, BOB, binding()) is True


# Several servers


def test_seen_at_once(
    make_store: Callable[..., Any], clock: Any, put: Callable[..., Any], binding: Callable[..., Any]
) -> None:
    """What one server was told is what another one answers."""
    here, there = make_store(), make_store()
    put(here, BOB, binding())
    assert [str(target.uri) for target in clock.result(look_up(there)).targets] == ["sip:bob@192.0.2.4"]
    put(there, BOB)
    assert clock.result(look_up(here)) is None


def test_hammer(make_store: Callable[..., Any], clock: Any, binding: Callable[..., Any]) -> None:
    """Of all changes by one version, whoever makes them at the same time, one alone is told that it was made."""
    stores = [make_store(), make_store()]
    won = []

    async def change(number: int) -> None:
        store = stores[number % 2]
        for attempt in range(20):
            _, version = await store.bindings(BOB)
            bindings = () if attempt % 5 == 4 else (binding(f"sip:{number}.{attempt}@h"), binding())
            if await store.replace(BOB, version, bindings):
                won.append((version, bindings))

    clock.result(gatherResults([Deferred.fromCoroutine(change(number)) for number in range(12)]))
    versions = [version for version, _ in won]
    assert len(versions) == len(set(versions))
    assert 12 < len(won) < 12 * 20, "there was a race, and all got on"
    found, last = clock.result(stores[0].bindings(BOB))
    assert found in [bindings for _, bindings in won]
    assert last not in versions


def test_start_at_once(make_store: Callable[..., Any], clock: Any, log: list[Any]) -> None:
    """Servers that find an empty database at the same time make one table of it, and none has to complain."""
    stores = [make_store() for _ in range(5)]
    asked = [look_up(store) for store in stores for _ in range(8)]
    assert clock.result(gatherResults(asked)) == [None] * 40
    assert not [line for line in log if line.startswith("postgres:")]


def test_migration(
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    ask: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table of an older version is brought to the present one, once, and its bindings are kept."""
    put(make_store(), BOB, binding())
    step = "ALTER TABLE {table} ADD COLUMN more integer NOT NULL DEFAULT 7"
    monkeypatch.setattr(postgres_table, "_STEPS", (*postgres_table._STEPS, step))
    stores = [make_store() for _ in range(5)]
    found = clock.result(gatherResults([store.bindings(BOB) for store in stores]))
    assert [bindings for bindings, _ in found] == [(binding(),)] * 5
    assert ask(f"SELECT more FROM {TABLE}") == [(7,)]
    assert ask(f"SELECT version FROM {TABLE}_schema") == [(2,)]


def test_newer_schema(make_store: Callable[..., Any], clock: Any, ask: Callable[..., Any], log: list[Any]) -> None:
    """A table of a later version of this program is left alone, and the log says so."""
    clock.result(look_up(make_store()))
    ask(f"UPDATE {TABLE}_schema SET version = 9")
    assert refusal(clock, lambda: look_up(make_store())).status == 503
    (line,) = [line for line in log if "cannot be used" in line]
    assert line.endswith("the schema of the table sipuas_bindings is version 9, and this program knows 1")


@pytest.fixture
def telephony(server: Any) -> Iterator[str]:
    """The name of another schema."""
    server.ask("CREATE SCHEMA telephony")
    yield "telephony"
    server.ask("DROP SCHEMA telephony CASCADE")


def test_table_option(
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    ask: Callable[..., Any],
    telephony: str,
) -> None:
    """Another table, in another schema even, has bindings of its own."""
    stores = [make_store(), make_store(table="trunks"), make_store(table=f"{telephony}.sipuas_bindings")]
    for number, store in enumerate(stores):
        put(store, BOB, binding(f"sip:{number}@h"))
    found = [clock.result(store.bindings(BOB))[0] for store in stores]
    assert found == [(binding(f"sip:{number}@h"),) for number in range(3)]
    assert ask(f"SELECT uri FROM {telephony}.sipuas_bindings") == [([b"sip:2@h"],)]


# The end of what expired


def test_sweep(
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    ask: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    """Servers sweep together what expired, in batches, and leave what did not, or what is being changed."""
    stores = [make_store(), make_store()]
    for store in stores:
        store.sweep_batch = 10
    for number in range(95):
        put(stores[0], f"sip:{number}@h", binding(left=5), binding("tel:+1", left=30))
    put(stores[0], BOB, binding(left=5), binding("tel:+1", left=10_000))
    until(lambda: sum(store.counters["swept"] for store in stores) == 95)
    assert ask(f"SELECT address_of_record FROM {TABLE}") == [(BOB.encode(),)]
    assert min(store.counters["swept"] for store in stores) > 0


def test_sweep_leaves_what_is_locked(
    store: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    ask: Callable[..., Any],
    lock: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    """A sweep does not wait for an address-of-record that is being changed; it takes the others."""
    store.sweep_interval = 5
    put(store, BOB, binding(left=5))
    put(store, "sip:other@h", binding(left=5))
    held = lock()
    until(lambda: store.counters["swept"] == 1)
    assert ask(f"SELECT address_of_record FROM {TABLE}") == [(BOB.encode(),)]
    held.release()
    until(lambda: store.counters["swept"] == 2)


def test_fast_clock(
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    ask: Callable[..., Any],
) -> None:
    """A server whose clock is fast does not sweep what is alive by the database's clock."""
    clock.rightNow = time.time()
    put(make_store(), BOB, binding(left=100))
    clock.rightNow += 1000
    late = make_store()
    assert clock.result(late.bindings(BOB))[0] == ()
    assert ask(f"SELECT count(*) FROM {TABLE}") == [(1,)]


def test_removal_leaves_nothing(
    store: PostgresBindingStore,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    ask: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    """An address-of-record whose bindings were removed is gone from the table too, a while later."""
    put(store, BOB, binding())
    put(store, BOB)
    assert ask(f"SELECT cardinality(uri) FROM {TABLE}") == [(0,)]
    until(lambda: store.counters["swept"] == 1)
    assert ask(f"SELECT count(*) FROM {TABLE}") == [(0,)]


# A database that comes and goes


@pytest.fixture
def restarted(server: Any) -> Iterator[Any]:
    """The server, running again after the test whatever became of it."""
    yield server
    server.stop()
    server.be_standby(False)
    server.start()


def test_down_at_start(
    make_store: Callable[..., Any],
    clock: Any,
    restarted: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    log: list[Any],
    until: Callable[..., Any],
) -> None:
    """A server starts without its database, says so once, answers 503 with Retry-After, and goes on by itself."""
    restarted.stop()
    store = make_store()
    until(lambda: store.counters["unreachable"] >= 3)
    for asked in (lambda: look_up(store), lambda: store.bindings(BOB), lambda: store.replace(BOB, None, [binding()])):
        error = refusal(clock, asked)
        assert error.status == 503
        assert dict(error.headers)["Retry-After"]
    (line,) = [line for line in log if "cannot be used" in line]
    assert "Connection refused" in line
    restarted.start()
    until(lambda: any("answers again" in line for line in log))
    assert put(store, BOB, binding()) is True


def test_restart_in_mid_life(
    idle_store: PostgresBindingStore,
    clock: Any,
    restarted: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    log: list[Any],
    until: Callable[..., Any],
) -> None:
    """A database that stops makes look-ups fail at once, and what it had is there when it is back."""
    kept = binding(left=1000)
    put(idle_store, BOB, kept)
    restarted.stop()
    assert refusal(clock, lambda: look_up(idle_store)).status == 503
    until(lambda: idle_store.counters["connections"] == 0)
    for _ in range(10):
        with pytest.raises(UnavailableError):
            look_up(idle_store)  # which does not even return a Deferred
    restarted.start()
    until(lambda: any("answers again" in line for line in log))
    assert clock.result(idle_store.bindings(BOB))[0] == (kept,)
    assert len([line for line in log if line.startswith("postgres:")]) == 2


def test_restart_between_two_requests(
    idle_store: PostgresBindingStore,
    clock: Any,
    restarted: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    log: list[Any],
) -> None:
    """A restart that no request met is not noticed by any."""
    put(idle_store, BOB, binding())
    restarted.stop()
    restarted.start()
    assert put(idle_store, BOB, binding("tel:+1")) is True
    assert clock.result(idle_store.bindings(BOB))[0] == (binding("tel:+1"),)
    assert idle_store.counters["failed"] == 0


def test_standby(
    idle_store: PostgresBindingStore,
    clock: Any,
    restarted: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    log: list[Any],
) -> None:
    """A copy that takes no changes is good for look-ups, and not asked to sweep; promoted, it takes registrations."""
    put(idle_store, BOB, binding(left=1000))
    restarted.stop()
    restarted.be_standby(True)
    restarted.start()
    assert clock.result(look_up(idle_store)) is not None
    clock.advance(idle_store.sweep_interval)
    clock.result(look_up(idle_store))
    assert log == []
    _, version = clock.result(idle_store.bindings(BOB))
    assert refusal(clock, lambda: idle_store.replace(BOB, version, ())).status == 503
    assert log[0].endswith("refuses what it is asked: cannot execute UPDATE in a read-only transaction")
    restarted.ask("SELECT pg_promote()")
    assert put(idle_store, BOB, binding("tel:+1")) is True


def test_no_place_for_another_connection(
    make_store: Callable[..., Any], make_user: Callable[..., Any], clock: Any, server: Any
) -> None:
    """Where the database lets in fewer connections than wanted, those that there are do the work of all."""
    clock.result(look_up(make_store()))
    store = make_store(dsn=make_user("CONNECTION LIMIT 1", "SELECT"))
    assert clock.result(gatherResults([look_up(store) for _ in range(40)])) == [None] * 40


# What became of a change whose connection broke?


def test_terminated_while_it_waits(
    idle_store: PostgresBindingStore,
    clock: Any,
    server: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    lock: Callable[..., Any],
    waiting: Callable[..., Any],
) -> None:
    """A change whose connection is ended before it was made is made by another one."""
    put(idle_store, BOB, binding())
    _, version = clock.result(idle_store.bindings(BOB))
    held = lock()
    done = idle_store.replace(BOB, version, [binding("tel:+1")])
    (pid,) = waiting()
    server.ask("SELECT pg_terminate_backend(%s)", pid)
    waiting()
    held.release()
    assert clock.result(done) is True
    assert clock.result(idle_store.bindings(BOB))[0] == (binding("tel:+1"),)


@pytest.fixture
def lose_answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Have the connection break after the next change is committed, before its answer; then call what is given."""

    def lose(then: Callable[..., Any] = lambda: None) -> None:
        made = PostgresBindingTable.make

        def make(self: Any, connection: Any, change: Any) -> None:
            monkeypatch.undo()
            assert made(self, connection, change) is True
            then()
            connection.interrupt()
            raise DatabaseError("the connection broke")

        monkeypatch.setattr(PostgresBindingTable, "make", make)

    return lose


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("after", [1, 0])
def test_answer_lost(
    store: PostgresBindingStore,
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    lose_answer: Callable[..., Any],
    before: int,
    after: int,
) -> None:
    """A change that was committed, and its answer lost, is found to have been made: new ones, others, and removal."""
    put(store, BOB, *[binding()] * before)
    _, version = clock.result(store.bindings(BOB))
    lose_answer()
    assert clock.result(store.replace(BOB, version, [binding("tel:+1")] * after)) is True
    assert clock.result(store.bindings(BOB))[0] == (binding("tel:+1"),) * after


@pytest.mark.requirement("10.3-39")
def test_answer_lost_and_changed_by_others(
    store: PostgresBindingStore,
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    ask: Callable[..., Any],
    lose_answer: Callable[..., Any],
) -> None:
    """If others have changed it meanwhile, nobody knows: that is a failure, 500, and no lost race to try again."""
    put(store, BOB, binding())
    _, version = clock.result(store.bindings(BOB))
    lose_answer(lambda: ask(f"UPDATE {TABLE} SET version = gen_random_uuid()"))
    error = refusal(clock, lambda: store.replace(BOB, version, [binding("tel:+1")]))
    assert (error.status, error.rule) == (500, "10.3-39")


@pytest.mark.requirement("10.3-39")
def test_crash_in_the_middle(
    idle_store: PostgresBindingStore,
    clock: Any,
    restarted: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    lock: Callable[..., Any],
    waiting: Callable[..., Any],
) -> None:
    """A change that was under way when the database crashed is not said to be made; a look-up just fails with 503."""
    put(idle_store, BOB, binding())
    _, version = clock.result(idle_store.bindings(BOB))
    lock()
    done = idle_store.replace(BOB, version, [binding("tel:+1")])
    waiting()
    restarted.crash()
    assert refusal(clock, lambda: done).status == 500


def test_frozen_connection(
    make_store: Callable[..., Any],
    clock: Any,
    server: Any,
    schema: str,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection on which no answer comes is broken, and another one asked."""
    monkeypatch.setattr(DatabasePool, "answer_time", 0.3)
    store = make_store(threads=1)
    put(store, BOB, binding())
    ((pid,),) = server.ask("SELECT pid FROM pg_stat_activity WHERE application_name = 'twisted-sipuas'")
    os.kill(pid, signal.SIGSTOP)
    try:
        asked = look_up(store)
        until(lambda: asked.called)
        assert clock.result(asked) is not None
    finally:
        os.kill(pid, signal.SIGCONT)
    assert store.counters["interrupted"] == 1


# Bounds


def test_bound_on_pending(
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    lock: Callable[..., Any],
    waiting: Callable[..., Any],
) -> None:
    """While too many wait for a connection, more are refused with 503 and Retry-After, at once."""
    store = make_store(threads=1, max_pending=2)
    put(store, BOB, binding())
    _, version = clock.result(store.bindings(BOB))
    held = lock()
    done = store.replace(BOB, version, [binding("tel:+1")])
    waiting()
    asked = [look_up(store), look_up(store)]
    with pytest.raises(UnavailableError) as raised:
        look_up(store)
    assert dict(raised.value.headers)["Retry-After"]
    assert (store.counters["pending"], store.counters["refused"]) == (2, 1)
    held.release()
    assert clock.result(done) is True
    clock.result(gatherResults(asked))
    assert store.counters["pending"] == 0


def test_cancelled_while_it_waits(
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    lock: Callable[..., Any],
    waiting: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look-up that nobody waits for any more is not made."""
    store = make_store(threads=1)
    put(store, BOB, binding())
    _, version = clock.result(store.bindings(BOB))
    held = lock()
    done = store.replace(BOB, version, ())
    waiting()
    read = PostgresBindingTable.read
    addresses: Any = []
    monkeypatch.setattr(
        PostgresBindingTable,
        "read",
        lambda self, connection, address_of_record: (
            addresses.append(address_of_record) or read(self, connection, address_of_record)
        ),
    )
    given_up, other = look_up(store, "sip:given_up@h"), look_up(store, "sip:other@h")
    given_up.cancel()
    with pytest.raises(CancelledError):
        clock.result(given_up)
    held.release()
    clock.result(done)
    clock.result(other)
    assert addresses == [b"sip:other@h"]


def test_stop_waits(
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    lock: Callable[..., Any],
    waiting: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    """What was taken before the stop is done, and its promise kept; nothing is taken after it."""
    store = make_store(threads=1)
    put(store, BOB, binding())
    _, version = clock.result(store.bindings(BOB))
    held = lock()
    done, later = store.replace(BOB, version, [binding("tel:+1")]), look_up(store)
    waiting()
    stopped = store.stopService()
    with pytest.raises(UnavailableError):
        look_up(store)
    held.release()
    assert clock.result(done) is True
    assert str(clock.result(later).targets[0].uri) == "tel:+1"
    clock.result(stopped)


def test_stop_is_bounded(
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    lock: Callable[..., Any],
    waiting: Callable[..., Any],
) -> None:
    """A database that does not answer keeps no server from stopping."""
    store = make_store(threads=1)
    put(store, BOB, binding())
    _, version = clock.result(store.bindings(BOB))
    held = lock()
    done = store.replace(BOB, version, [binding("tel:+1")])
    waiting()
    stopped = store.stopService()
    clock.advance(9)
    assert not stopped.called
    clock.advance(1)
    assert stopped.called
    held.release()
    clock.result(done)
    for thread in database_threads():
        thread.join(5)


# Faults that the operator has to mend


def test_wrong_password(
    make_store: Callable[..., Any], clock: Any, server: Any, schema: str, log: list[Any], until: Callable[..., Any]
) -> None:
    """A wrong password is named as the fault in one line, which does not tell it."""
    store = make_store(dsn=server.dsn(schema, password="not the password"))
    assert refusal(clock, lambda: look_up(store)).status == 503
    until(lambda: store.counters["unreachable"] >= 2)
    (line,) = [line for line in log if line.startswith("postgres:")]
    assert 'password authentication failed for user "postgres"' in line
    assert "not the password" not in " ".join(log)
    assert "\n" not in line


def test_may_not_make_the_table(
    make_user: Callable[..., Any], make_store: Callable[..., Any], clock: Any, schema: str, log: list[Any]
) -> None:
    """That a user may not make the table is said in the log, once."""
    store = make_store(dsn=make_user())
    assert refusal(clock, lambda: look_up(store)).status == 503
    clock.result(store.stopService())
    (line,) = [line for line in log if line.startswith("postgres:")]
    assert line.endswith(f"cannot be used: permission denied for schema {schema}")


def test_may_not_write(
    make_user: Callable[..., Any],
    make_store: Callable[..., Any],
    clock: Any,
    put: Callable[..., Any],
    binding: Callable[..., Any],
    log: list[Any],
) -> None:
    """A user that may read alone looks up; a registration gets 503, and the log says why, not again and again."""
    put(make_store(), BOB, binding())
    store = make_store(dsn=make_user("", "SELECT"))
    assert clock.result(look_up(store)) is not None
    _, version = clock.result(store.bindings(BOB))
    for _ in range(5):
        assert refusal(clock, lambda: store.replace(BOB, version, ())).status == 503
    clock.result(store.stopService())
    (line,) = [line for line in log if line.startswith("postgres:")]
    assert line.endswith("refuses what it is asked: permission denied for table sipuas_bindings")


def test_table_of_others(make_store: Callable[..., Any], clock: Any, ask: Callable[..., Any], log: list[Any]) -> None:
    """A table of that name that is none of ours is left as it is, and the log says so."""
    ask(f"CREATE TABLE {TABLE} (x integer)")
    assert refusal(clock, lambda: look_up(make_store())).status == 503
    (line,) = {line for line in log if line.startswith("postgres:")}
    assert line.endswith('cannot be used: relation "sipuas_bindings" already exists')


def test_unencodable(store: PostgresBindingStore, binding: Callable[..., Any]) -> None:
    """Text that no received octets make is refused at once."""
    with pytest.raises(UnicodeEncodeError):
        store.replace(BOB, None, [binding(display_name="\ud800")])


# The text of --location


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("postgres:", "postgres:"),
        ("postgres:host=/run/postgresql dbname=sip password=secret", "postgres:host=/run/postgresql dbname=sip"),
        ("postgres,pool=2,table=a.b_1:host=a,b port=1,2 user='a b'", "postgres:user='a b' host=a,b port=1,2"),
        (
            "postgres:postgresql://sip:s%40cret@[2001:db8::1]:5432/sip?sslmode=require&sslpassword=secret",
            "postgres:user=sip dbname=sip host=2001:db8::1 port=5432",
        ),
    ],
)
def test_texts(clock: Any, text: str, description: str) -> None:
    """Both forms of a connection string are taken; what is shown of it has no secret, and nothing is opened yet."""
    store = location_service(text, clock)
    assert isinstance(store, GuardedBindingStore)
    assert sorted(store.description.removeprefix("postgres:").split()) == sorted(
        description.removeprefix("postgres:").split()
    )
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgres:secret", "expected a connection string of libpq, such as 'host=db.example dbname=sip', or "),
        ("postgres:host=x password=secret more", "expected a connection string of libpq"),
        ("postgres:hots=secret", "expected a connection string of libpq"),
        ("postgres:postgresql://u:p@secret@h/d", "a password in a URL needs its @, / and : written as %40, %2F and"),
        ("postgres:postgresql://u:se/cret@h/d", "a password in a URL needs its @, / and : written as %40, %2F and"),
        ("postgres:port=secret", "expected a number as port"),
        ("postgres:connect_timeout=secret", "expected a number as connect_timeout"),
        ("postgres:host=a\npassword=secret", "a connection string must not contain CR, LF or NUL"),
        (
            "postgres,table=A:",
            "table=A: expected a name of at most 48 lower-case letters, digits and _, or SCHEMA.NAME",
        ),
        ("postgres,table=a.b.c:", "table=a.b.c: expected a name of"),
        ('postgres,table=a";--:', 'table=a";--: expected a name of'),
        ("postgres,table=:", "table=: expected a name of"),
        ("postgres,pool=0:", "pool=0: expected a whole number from 1 to 64"),
        ("postgres,pool=x:", "pool=x: expected a whole number from 1 to 64"),
        ("postgres,tables=x:", "'tables' is no option of postgres"),
    ],
)
def test_mistakes(clock: Any, text: str, said: str) -> None:
    """A mistake is a ValueError that says what was expected, and quotes nothing that may be a password."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    (_, _, why) = str(raised.value).partition("': ")
    assert why.startswith(said)
    assert "secret" not in why
    assert "cret@" not in why


def test_password_of_many_kinds(clock: Any, server: Any, schema: str) -> None:
    """A password with characters that have a meaning in either form works in both."""
    quoted = PASSWORD.replace("'", "%27").replace("/", "%2F").replace("@", "%40").replace(" ", "%20")
    for dsn in (
        server.dsn(schema),
        f"postgresql://postgres:{quoted}@127.0.0.1:{server.port}/postgres?options=-csearch_path%3D{schema}",
    ):
        store: Any = location_service(f"postgres:{dsn}", clock)
        store.startService()
        assert clock.result(look_up(store)) is None
        clock.result(store.stopService())
