"""`RoutesLocationService`: look-ups in a routes file, which is read again when it changes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import SIPError, StartError
from twisted_sipuas.interfaces import ILocationService
from twisted_sipuas.location.routes.document import Routes
from twisted_sipuas.location.routes.files import FileState, RoutesFileError, RoutesFiles, states_of
from twisted_sipuas.location.routes.table import Draw, draw_by_call_id
from twisted_sipuas.location.target import Redirection
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import URI

__all__ = ["RoutesLocationService", "make"]

_log = Logger()

_States = dict[str, "FileState | None"]


class _Look(NamedTuple):
    """What a look at the files found, in the thread."""

    states: _States
    """Of the files as they are now or, where they were read, as they were then."""
    routes: Routes | None = None
    fault: str | None = None


@implementer(ILocationService)
class RoutesLocationService(Service):
    """Answers look-ups from the routes file *path*, and keeps up with it while it runs.

    *reactor* provides `IReactorTime` and `IReactorFromThreads`. *draw* gives the numbers by which targets with weights
    are drawn, by default `draw_by_call_id` with a key of its own.

    The files are read by `privilegedStartService`, or by `startService`; `StartError` says what is wrong with them.
    Every `interval` seconds a thread looks whether they changed. What changed and then did not for one interval is
    read, in that thread, and takes the place of the old routes as a whole. If it is wrong, the old routes stay and the
    log says once what is wrong. `reload` reads them at once.
    """

    lookup_timeout: ClassVar[float] = 0.0
    """Seconds that a look-up takes: the answer is there at once."""

    interval: ClassVar[float] = 1.0
    """Seconds between two looks at the files."""

    def __init__(self, path: str, reactor: Any, *, draw: Draw | None = None) -> None:
        if not path or "\0" in path:
            raise ValueError("expected the name of a file, without NUL")
        self.path = path
        self.description = f"routes:{path}"
        self._clock: IReactorTime = reactor
        self._reactor: IReactorFromThreads = reactor
        self._draw = draw or draw_by_call_id(secrets.token_bytes(32))
        self._routes: Routes | None = None
        self._hits: dict[str, int] = {}
        self._known: _States = {}  # as they were when they were last read, well or not
        self._changed: _States | None = None  # as they were at the last look, where that is something else
        self._thread: ThreadPoolExecutor | None = None
        self._is_looking = False
        self._is_wanted = False
        self._call: IDelayedCall | None = None
        self._counters = {"lookups": 0, "not_found": 0, "reloads": 0, "reload_failures": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view: what is held, look-ups and those without a route, readings that went well and that did
        not, and how often each route with a name answered, as ``hits_NAME``.
        """
        routes = self._routes
        held = {} if routes is None else {
            "routes": routes.total, "prefixes": routes.table.prefixes, "users": routes.table.users
        }  # fmt: skip
        return MappingProxyType(
            {**held, **self._counters, **{f"hits_{name}": hits for name, hits in self._hits.items()}}
        )

    def lookup(self, request_uri: URI, request: Request) -> Redirection | None:
        """See `ILocationService`; the answer is there at once. Raises the `SIPError` of a route that refuses."""
        assert self._routes is not None, "only a service that was started is asked"
        self._counters["lookups"] += 1
        found = self._routes.table.lookup(request_uri, request, self._draw)
        if found is None:
            self._counters["not_found"] += 1
            return None
        route, answer = found
        if route.name in self._hits:
            self._hits[route.name] += 1
        if isinstance(answer, SIPError):
            raise answer
        return answer

    def reload(self) -> None:
        """Read the files at once, changed or not; if a look at them is under way, when that is over."""
        if self._is_looking:
            self._is_wanted = True
        elif self._thread is not None:
            self._look(is_wanted=True)

    # IService

    def privilegedStartService(self) -> None:
        """Read the files; raises `StartError`."""
        super().privilegedStartService()
        self.path = os.path.abspath(self.path)  # twistd may go to another directory before it is read again
        look = _read(self.path)
        if look.routes is None:
            raise StartError(f"{look.fault}: mend it, or choose another file with --location routes:FILE")
        self._use(look.routes)
        self._known = look.states

    def startService(self) -> None:
        """Keep up with the files from now on. The thread starts here, as none survives becoming a daemon."""
        if self._routes is None:
            self.privilegedStartService()
        super().startService()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sipuas-routes")
        self._call = self._clock.callLater(self.interval, self._look)

    def stopService(self) -> None:
        """Look no more; what the thread still finds is dropped, and the next start reads the files again."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        self._routes = None
        self._changed = None
        self._is_looking = self._is_wanted = False

    # Looking

    def _look(self, is_wanted: bool = False) -> None:
        """Have the thread look at the files; with *is_wanted*, read them."""
        assert self._thread is not None, "only a running service looks"
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        self._is_looking = True
        thread = self._thread
        if is_wanted:
            looking = thread.submit(_read, self.path)
        else:
            looking = thread.submit(_looked, self.path, self._known, self._changed)

        def looked(done: Future[_Look]) -> None:
            if not done.cancelled():
                self._reactor.callFromThread(self._looked, thread, done)

        looking.add_done_callback(looked)

    def _looked(self, thread: ThreadPoolExecutor, done: Future[_Look]) -> None:
        """Use what was found, and have the thread look again."""
        if thread is not self._thread:
            return  # stopped meanwhile, and perhaps started again
        self._is_looking = False
        try:
            self._take(done.result())
        except Exception:
            self._counters["reload_failures"] += 1
            _log.failure("{path}: could not be looked at, and the old routes stay", Failure(), path=self.path)
        if self._is_wanted:
            self._is_wanted = False
            self._look(is_wanted=True)
        else:
            self._call = self._clock.callLater(self.interval, self._look)

    def _take(self, look: _Look) -> None:
        if look.routes is None and look.fault is None:
            self._changed = look.states if look.states != self._known else None
            return
        self._known = look.states
        self._changed = None
        if look.routes is None:
            self._counters["reload_failures"] += 1
            _log.error("{fault}: the routes stay as they were", fault=look.fault)
        else:
            self._counters["reloads"] += 1
            self._use(look.routes)
            _log.info("{path} was read: {count} routes", path=self.path, count=look.routes.total)

    def _use(self, routes: Routes) -> None:
        """Answer by *routes* from now on; the hits of routes that are there still are kept."""
        self._routes = routes
        self._hits = {name: self._hits.get(name, 0) for name in sorted(routes.names)}


def _looked(path: str, known: _States, changed: _States | None) -> _Look:
    """Look whether the files are still as *known*; read them if not, and they are as they were when found *changed*."""
    states = states_of(known)
    if states == known or states != changed:
        return _Look(states)
    look = _read(path)
    states = states_of(look.states)
    return look if states == look.states else _Look(states)  # they do not rest yet: it may be a bit of each


def _read(path: str) -> _Look:
    files = RoutesFiles(path)
    try:
        return _Look(files.states, routes=files.read())
    except RoutesFileError as error:
        return _Look(files.states, fault=str(error))


def make(argument: str, options: dict[str, str], reactor: Any) -> RoutesLocationService:
    """See `ILocationServicePlugin`: ``routes:FILE`` has no options."""
    return RoutesLocationService(argument, reactor)
