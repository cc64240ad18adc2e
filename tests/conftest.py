"""What must every test leave behind? A reactor as it found it, no lost error, and no Deferred that never fires."""

from __future__ import annotations

import functools
import gc
import inspect
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import pytest_twisted
from twisted.internet import defer
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

DEADLINE = 5.0
"""Seconds that a test's Deferred may take, unless its ``deadline`` marker says otherwise."""

# A busy machine is no fault of the code: what is slow is measured in benchmarks.
hypothesis.settings.register_profile("without deadline", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("without deadline")


def pytest_configure() -> None:
    """Keep what this run is told by its environment, such as --cov, from those of pytest that tests start."""
    os.environ.pop("PYTEST_ADDOPTS", None)


def pytest_collection_finish() -> None:
    """Set aside what was imported, so that the collection after each test is cheap."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Bound the test's own Deferred. pytest-timeout cannot do it: the reactor swallows its exception."""
    test = pyfuncitem.obj
    if hasattr(test, "hypothesis"):
        return
    marker = pyfuncitem.get_closest_marker("deadline")
    seconds = marker.args[0] if marker else DEADLINE

    @functools.wraps(test)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        from twisted.internet import reactor

        result = test(*args, **kwargs)
        if inspect.iscoroutine(result):
            result = defer.ensureDeferred(result)
        if isinstance(result, defer.Deferred):
            result.addTimeout(seconds, reactor)
        return result

    bounded._pytest_twisted_mark = None  # type: ignore[attr-defined]  # it is now a plain function returning a Deferred
    pyfuncitem.obj = bounded


@pytest.fixture
def logged_failures() -> list[LogEvent]:
    """Log events with a failure, so far. A test that expects some looks at them and clears the list."""
    return []


@pytest.fixture(autouse=True)
def clean_reactor(request: pytest.FixtureRequest, logged_failures: list[LogEvent]) -> Iterator[None]:
    """Fail the test that leaves a timer or a socket on the reactor, or a failure in the log."""
    from twisted.internet import reactor

    _turn(reactor)  # the first turn of all makes the reactor install its own wakers
    timers = set(reactor.getDelayedCalls())
    selectables = _selectables(reactor)
    observer = _FailureObserver(logged_failures)
    globalLogPublisher.addObserver(observer)
    try:
        yield
        _turn(reactor)  # two turns let closing ports and connections finish
        _turn(reactor)
        gc.collect()  # "Unhandled error in Deferred" is logged only when the Deferred is collected
    finally:
        globalLogPublisher.removeObserver(observer)

    left = []
    for call in reactor.getDelayedCalls():
        if call not in timers and call.active():
            left.append(f"left behind a timer: {call}")
            call.cancel()
    for selectable in _selectables(reactor) - selectables:
        left.append(f"left behind on the reactor: {selectable!r}")
        reactor.removeReader(selectable)
        reactor.removeWriter(selectable)
    left += [f"left behind in the log: {event['log_failure'].getTraceback()}" for event in logged_failures]
    if left and not request.node.get_closest_marker("dirty"):
        pytest.fail("\n".join(left), pytrace=False)


@implementer(ILogObserver)
class _FailureObserver:
    def __init__(self, failures: list[LogEvent]) -> None:
        self._failures = failures

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_failure") is not None:
            self._failures.append(event)


def _turn(reactor: Any) -> None:
    """Let the reactor run once through what is due."""
    done: defer.Deferred[None] = defer.Deferred()
    reactor.callLater(0, done.callback, None)
    pytest_twisted.blockon(done)


def _selectables(reactor: Any) -> set[Any]:
    return {*reactor.getReaders(), *reactor.getWriters()}
