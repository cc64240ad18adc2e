"""Stores that several servers share, as tests stop them and bring them back; a further kind is a further param."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.postgres_process import PostgresProcess
from tests.redis_process import RedisProcess


class SharedStore(Protocol):
    """A store that runs when the test begins, and keeps what it acknowledged over a stop."""

    text: str
    """What ``--location`` is to say."""

    def stop(self) -> None:
        """Have it go away at once, with all connections to it."""

    def start(self) -> None:
        """Bring it back where it was, and wait until it answers."""

    def remove(self) -> None:
        """End it, and leave nothing behind."""


class SharedRedis:
    """A Redis, see `SharedStore`."""

    def __init__(self, directory: Path) -> None:
        self._redis = RedisProcess(directory)
        self.text = f"redis:127.0.0.1:{self._redis.port}"
        self.start = self._redis.start
        self.stop = self.remove = self._redis.kill


class SharedPostgres:
    """A PostgreSQL, see `SharedStore`; it has a directory of its own, for it is not root's."""

    def __init__(self, directory: Path) -> None:
        self._postgres = PostgresProcess()
        self.text = f"postgres:{self._postgres.dsn()}"
        self.start = self._postgres.start
        self.stop = self._postgres.crash
        self.remove = self._postgres.remove


@pytest.fixture(params=[SharedPostgres, SharedRedis])
def shared_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SharedStore]:
    """Return a store of each kind, running; it is stopped after the test, and after the servers that use it."""
    store: SharedStore = request.param(tmp_path / "store")
    store.start()
    yield store
    store.remove()


@pytest.fixture
def store_text(shared_store: SharedStore) -> str:
    """Return what ``--location`` is to say for `shared_store`."""
    return shared_store.text
