"""What do the tests of location share? A clock that also takes what threads hand in, and stores that are stopped."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_sipuas.location import Binding, MemoryBindingStore, SQLiteBindingStore
from twisted_sipuas.location.routes.files import RoutesFiles

NOW = 1_700_000_000.0


class ThreadedClock(Clock):
    """A `Clock` with `callFromThread`: what threads hand in is run when a result is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = NOW
        self._calls: Any = queue.SimpleQueue()

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        self._calls.put((function, arguments))

    def take_from_thread(self) -> None:
        """Run the next thing that a thread hands in, once it does."""
        function, arguments = self._calls.get(timeout=5)
        function(*arguments)

    def result(self, value: Any) -> Any:
        """Return *value*, or what it is a Deferred of, waiting for threads if need be."""
        if not isinstance(value, Deferred):
            return value
        results: list[Any] = []
        value.addBoth(results.append)
        while not results:
            self.take_from_thread()
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]


@pytest.fixture
def clock() -> ThreadedClock:
    return ThreadedClock()


@pytest.fixture
def routes_of(tmp_path: Path) -> Callable[..., Any]:
    """Return the routes that a text, and rows by the name of their file, say."""

    def routes_of(text: str, **rows: Any) -> Any:
        for name, content in rows.items():
            (tmp_path / f"{name}.csv").write_text(content)
        path = tmp_path / "routes.toml"
        path.write_text(text)
        return RoutesFiles(str(path)).read()

    return routes_of


@pytest.fixture
def binding(clock: ThreadedClock) -> Callable[..., Any]:
    """Make a binding that has *left* seconds."""

    def binding(uri: str = "sip:bob@192.0.2.4", left: Any = 60, **more: Any) -> Binding:
        return Binding(uri, clock.seconds() + left, "call", 1, **more)

    return binding


@pytest.fixture
def make_store(clock: Any, tmp_path: Path) -> Iterator[Any]:
    """Start a store of a kind, with further arguments; every one is stopped in the end."""
    stores = []

    def make(kind: Any, **arguments: Any) -> Any:
        if kind == "memory":
            store: Any = MemoryBindingStore(clock, **arguments)
        else:
            store = SQLiteBindingStore(str(tmp_path / "bindings.sqlite"), clock, **arguments)
        store.privilegedStartService()
        store.startService()
        stores.append(store)
        return store

    yield make
    for store in stores:
        if store.running:
            clock.result(store.stopService())
    assert clock.getDelayedCalls() == []
