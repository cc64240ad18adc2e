"""Does the pool of database connections keep its bounds, get on with what it has, and come back by itself?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import gatherResults
from twisted.logger import formatEvent, globalLogPublisher

from tests.location.conftest import ThreadedClock
from tests.log_observers import log_observer
from twisted_sipuas.database_pool import DatabaseError, DatabasePool, LostConnectionError
from twisted_sipuas.errors import UnavailableError


class Connection:
    """A connection that is usable until it is interrupted or closed."""

    def __init__(self) -> None:
        self.is_usable = True
        self.is_closed = False

    def interrupt(self) -> None:
        self.is_usable = False

    def close(self) -> None:
        self.is_closed = True


class Database:
    """What a pool connects to: it lets in *places* connections, and none while it is down."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.places = 100
        self.tries = 0
        self.made: list[Any] = []
        self.fault = "down"

    def connect(self) -> Any:
        self.tries += 1
        if sum(not connection.is_closed for connection in self.made) >= self.places:
            raise DatabaseError(self.fault)
        self.made.append(Connection())
        return self.made[-1]


@pytest.fixture
def clock() -> Any:
    return ThreadedClock()


@pytest.fixture
def database(clock: Any) -> Any:
    return Database(clock)


@pytest.fixture
def make_pool(clock: Any, database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a pool of the size given; every one is stopped in the end, and has closed what it opened."""
    monkeypatch.setattr(DatabasePool, "retry_time", 0.05)
    pools = []

    def make(size: int = 1, **arguments: Any) -> Any:
        pool = DatabasePool(database.connect, lambda connection: None, "test", clock, size=size, **arguments)
        pool.startService()
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        clock.result(pool.stopService())
    assert all(connection.is_closed for connection in database.made)
    assert clock.getDelayedCalls() == []


@pytest.fixture
def log() -> Iterator[Any]:
    """The lines that the pool has logged."""
    lines = []

    @log_observer
    def observe(event: Any) -> None:
        if event.get("what") == "test":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def refusal(clock: Any, pool: Any, *functions: Any) -> Any:
    with pytest.raises(UnavailableError) as raised:
        clock.result(pool.run(*functions))
    return raised.value


def give(value: Any) -> Any:
    return lambda connection: value


def breaking(connection: Any) -> None:
    """Lose the connection."""
    connection.is_usable = False
    raise DatabaseError("lost")


def failing(connection: Any) -> None:
    """Fail, on a connection that is as good as before."""
    raise DatabaseError("no such table")


def test_connects_when_asked(make_pool: Any, clock: Any, database: Any) -> None:
    """A connection is made when there is something to ask, and kept."""
    pool = make_pool(3)
    assert database.tries == 0
    assert [clock.result(pool.run(give(number))) for number in range(20)] == list(range(20))
    assert 1 <= database.tries <= 3
    assert pool.counters["connections"] == database.tries


def test_what_connects_is_in_threads_of_its_own(make_pool: Any, clock: Any) -> None:
    """Functions run in threads of the pool, never in the reactor's."""
    names = clock.result(make_pool().run(lambda connection: threading.current_thread().name))
    assert names == "sipuas-database"


def test_any_exception_is_handed_on(make_pool: Any, clock: Any) -> None:
    """What is no fault of the database is handed on as it is, and the thread goes on."""
    pool = make_pool()
    with pytest.raises(ZeroDivisionError):
        clock.result(pool.run(lambda connection: 1 / 0))
    assert clock.result(pool.run(give(1))) == 1


def test_fault_in_connecting(make_pool: Any, clock: Any, database: Any) -> None:
    """So it is when the fault is in what connects or prepares."""
    database.places = None  # which no number can be compared with
    pool = make_pool()
    with pytest.raises(TypeError):
        clock.result(pool.run(give(1)))
    database.places = 1
    assert clock.result(pool.run(give(1))) == 1


def test_refused(make_pool: Any, clock: Any, database: Any, log: Any) -> None:
    """What the database refuses fails with 503 and is not asked again; the same complaint is logged once."""
    pool = make_pool()
    for _ in range(3):
        assert refusal(clock, pool, failing).status == 503
    assert log == ["test refuses what it is asked: no such table"]
    assert database.tries == 1


def test_complaints_are_bounded(make_pool: Any, clock: Any, log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many different things the database has to complain of, few are remembered."""
    monkeypatch.setattr(DatabasePool, "max_complaints", 3)
    pool = make_pool()

    def complain(connection: Any) -> None:
        raise DatabaseError(str(len(log)))

    for _ in range(10):
        refusal(clock, pool, complain)
    assert len(log) == 10
    assert len(pool._complaints) <= 3


def test_asked_again(make_pool: Any, clock: Any, database: Any) -> None:
    """What a connection broke under is asked on another one, by what is given for that."""
    pool = make_pool()
    assert clock.result(pool.run(breaking, give("again"))) == "again"
    assert database.tries == 2
    assert database.made[0].is_closed


@pytest.mark.parametrize("again", [breaking, failing])
def test_asked_again_in_vain(make_pool: Any, clock: Any, again: Any) -> None:
    """If that fails too, in whatever way, what became of it is not known."""
    assert isinstance(refusal(clock, make_pool(), breaking, again), LostConnectionError)


def test_not_asked_again_without_connection(make_pool: Any, clock: Any, database: Any) -> None:
    """So it is where there is no other connection to be had."""

    def breaking_for_good(connection: Any) -> None:
        database.places = 0
        breaking(connection)

    assert isinstance(refusal(clock, make_pool(), breaking_for_good, give(1)), LostConnectionError)


def test_connection_that_died_idle(make_pool: Any, clock: Any, database: Any) -> None:
    """A connection that is found to be dead is replaced before anything is asked on it."""
    pool = make_pool()
    clock.result(pool.run(give(1)))
    database.made[0].is_usable = False
    assert clock.result(pool.run(give(2), pytest.fail)) == 2


def test_down_and_back(make_pool: Any, clock: Any, database: Any, log: Any) -> None:
    """While there is no connection everything fails at once, and the pool itself finds out when there is one again."""
    database.places = 0
    pool = make_pool(4)
    assert refusal(clock, pool, give(1)).status == 503
    tries = database.tries
    for _ in range(100):
        with pytest.raises(UnavailableError):
            pool.run(give(1))
    assert database.tries == tries, "nothing was tried for these"
    database.places = 100
    deadline = time.monotonic() + 5
    while pool.is_down:
        assert time.monotonic() < deadline
        clock.advance(1)
        clock.take_from_thread()
    assert clock.result(pool.run(give(1))) == 1
    assert log == ["test cannot be used: down", "test answers again"]


def test_too_few_places(make_pool: Any, clock: Any, database: Any) -> None:
    """Where fewer connections are let in than there are threads, those do the work of all."""
    database.places = 1
    pool = make_pool(4)
    asked = [pool.run(give(number)) for number in range(200)]
    assert clock.result(gatherResults(asked)) == list(range(200))
    assert pool.counters["failed"] == 0


def test_waited_too_long(make_pool: Any, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has waited too long for a thread is not asked any more."""
    monkeypatch.setattr(DatabasePool, "max_wait", 0.1)
    pool = make_pool()
    slow, late = pool.run(lambda connection: time.sleep(0.2)), pool.run(pytest.fail)
    clock.result(slow)
    with pytest.raises(UnavailableError) as raised:
        clock.result(late)
    assert raised.value.rule == "max_wait"


def test_stop_while_there_are_too_few_places(make_pool: Any, clock: Any, database: Any) -> None:
    """A stop leaves no Deferred that never fires, wherever what was asked is then."""
    database.places = 1
    pool = make_pool(4)
    asked = [pool.run(give(number)) for number in range(50)]
    clock.result(pool.stopService())
    assert all(done.called for done in asked)
    for done in asked:
        done.addErrback(lambda failure: failure.trap(UnavailableError))
    pool.startService()
    assert clock.result(pool.run(give(1))) == 1


def test_stop_before_start(clock: Any, database: Any) -> None:
    """A pool that was never started has nothing to stop, and takes nothing."""
    pool = DatabasePool(database.connect, give(None), "test", clock)
    with pytest.raises(UnavailableError):
        pool.run(give(1))
    assert pool.stopService().called
