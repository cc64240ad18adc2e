"""`RedisBindingStore`: bindings that several servers share, in a Redis.

Each address-of-record has one key, so that all there is to know of it is read, and changed, at once; see `redis_value`.
Whatever one server has been told that it is stored, the others find from then on, as they ask the same Redis.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, TypeVar

import txredisapi
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.interfaces import IBindingStore
from twisted_sipuas.location.binding import Binding, redirection, unexpired
from twisted_sipuas.location.redis_connections import RedisConnection, RedisConnections
from twisted_sipuas.location.redis_server import RedisServer
from twisted_sipuas.location.redis_value import NOTHING, REPLACE, expiry, packed, unpacked
from twisted_sipuas.location.rows import octets
from twisted_sipuas.location.target import Redirection
from twisted_sipuas.location.trust_root import trust_root
from twisted_sipuas.logs import Logger
from twisted_sipuas.option_values import taken, whole_number
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import URI, address_of_record

__all__ = ["RedisBindingStore", "make"]

_log = Logger()

_MAX_DB = 99_999
_MAX_CONNECTIONS = 100

_Made = TypeVar("_Made")

_CODES = {
    "WRONGTYPE": "the key holds no string",
    "READONLY": "it is a read-only replica",
    "NOREPLICAS": "it has not the replicas that it is to have (min-replicas-to-write)",
    "OOM": "its memory is full (maxmemory)",
    "MISCONF": "it cannot write to its disk",
    "NOPERM": "its ACL does not let this user",
    "NOAUTH": "it asks for a password",
    "MOVED": "it is a node of a Redis Cluster, whose redirections are not followed",
    "CLUSTERDOWN": "it is a node of a Redis Cluster that is down",
    "BUSY": "it is busy with a script of somebody else",
    "LOADING": "it is loading its data",
    "MASTERDOWN": "it is a replica without its master",
}
"""What the codes in an error of Redis mean to an operator."""

_CODE = re.compile(rf"\b({'|'.join(_CODES)})\b")  # anywhere: Redis 6 has that of a script's command inside


@implementer(IBindingStore)
class RedisBindingStore(Service):
    """Keeps bindings in *server*, which other servers may use at the same time.

    A key is *prefix* and the canonical address-of-record. *reactor* provides `IReactorTime`, whose clock the bindings
    go by, and what an endpoint connects with. *pool* connections are kept while the service runs; commands share them,
    *max_pending* at most. Without a connection, and past that bound, everything fails at once with `UnavailableError`,
    and so does what is in flight when its connection ends. Starting neither waits for Redis nor fails without; what
    comes meanwhile waits for the first try to connect, and only for that.

    A change that fails in flight may have been made all the same: its answer is lost, not the change. What a Redis does
    not keep is lost to all servers; how far it keeps what it acknowledged is its set-up: appendonly on one machine,
    min-replicas-to-write with replicas, whose replication is asynchronous even so.
    """

    is_shared: ClassVar[bool] = True
    """See `IBindingStore`."""

    connect_timeout: ClassVar[float] = 3.0
    """Seconds that it may take to connect."""

    command_timeout: ClassVar[float] = 3.0
    """Seconds that a command may take; then its connection is given up."""

    stranger_interval: ClassVar[float] = 60.0
    """Seconds between two log lines about keys that hold something else."""

    replica_patience: ClassVar[float] = 10.0
    """Seconds that a connection to a read-only replica is kept at least; then the name is looked up anew, as after a
    failover it may mean another server."""

    def __init__(
        self, server: RedisServer, reactor: Any, *, prefix: str = "sipuas:", pool: int = 2, max_pending: int = 10_000
    ) -> None:
        self.description = f"redis:{server.description}"
        self._prefix = octets(prefix)
        self._clock = reactor
        self._connections = RedisConnections(
            server.endpoint(reactor, self.connect_timeout),
            lambda connection: connection.begin(server.username, server.password, server.db),
            reactor,
            size=pool,
            max_pending=max_pending,
            connect_timeout=self.connect_timeout,
            command_timeout=self.command_timeout,
            description=self.description,
        )
        self._reading = _Complaint(self.description, "bindings cannot be read", "bindings are read again")
        self._changing = _Complaint(self.description, "bindings cannot be changed", "bindings are changed again")
        self._strangers_told = -math.inf
        self._counters = {"commands_lost": 0, "commands_refused": 0, "strange_values": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of the connections and what is in flight on them, of what was refused for the bound, lost
        with its connection, or refused by Redis, and of values found that are none of ours.
        """
        return MappingProxyType({**self._connections.counters, **self._counters})

    def lookup(self, request_uri: URI, request: Request) -> Deferred[Redirection | None]:
        """See `ILocationService`; raises `UnavailableError`."""
        return self._read(address_of_record(request_uri), self._redirection)

    def bindings(self, address_of_record: str) -> Deferred[tuple[tuple[Binding, ...], bytes]]:
        """See `IBindingStore`; raises `UnavailableError`."""
        return self._read(address_of_record, self._current)

    def replace(self, address_of_record: str, version: object, bindings: Iterable[Binding]) -> Deferred[bool]:
        """See `IBindingStore`; raises `UnavailableError`."""
        key = self._prefix + octets(address_of_record)
        begun = self._connections.when_begun()
        if begun is not None:
            return begun.addCallback(lambda _: self.replace(address_of_record, version, bindings))
        bindings = tuple(bindings)
        value, until = (packed(bindings), expiry(bindings)) if bindings else (b"", 0)
        connection = self._connections.pick()
        changing: Deferred[int] = connection.eval(REPLACE, [key], [version, value, until])
        return changing.addCallbacks(
            self._changed, self._failed, errbackArgs=(key, connection, self._changing)
        )  # fmt: skip

    # IService

    def startService(self) -> None:
        """Begin to connect; this waits for nothing."""
        super().startService()
        self._connections.start()

    def stopService(self) -> Deferred[None]:
        """Take no more; fires when what is in flight has its answer and the connections are closed."""
        super().stopService()
        return Deferred.fromCoroutine(self._connections.stop())

    # Answers

    def _read(self, address_of_record: str, make: Callable[[tuple[Binding, ...], bytes], _Made]) -> Deferred[_Made]:
        """Return a `Deferred` of what *make* makes of the bindings of *address_of_record* and their version."""
        begun = self._connections.when_begun()
        if begun is not None:
            return begun.addCallback(lambda _: self._read(address_of_record, make))
        key = self._prefix + octets(address_of_record)
        connection = self._connections.pick()
        reading: Deferred[bytes | None] = connection.get(key)
        return reading.addCallbacks(
            self._found, self._failed, callbackArgs=(key, make), errbackArgs=(key, connection, self._reading)
        )

    def _found(self, value: bytes | None, key: bytes, make: Callable[[tuple[Binding, ...], bytes], _Made]) -> _Made:
        self._reading.end()
        if value is None:
            return make((), NOTHING)
        try:
            return make(*unpacked(value))
        except ValueError:
            self._leave_alone(key, "it holds no bindings of ours")

    def _redirection(self, bindings: tuple[Binding, ...], version: bytes) -> Redirection | None:
        return redirection(bindings, self._clock.seconds())

    def _current(self, bindings: tuple[Binding, ...], version: bytes) -> tuple[tuple[Binding, ...], bytes]:
        return unexpired(bindings, self._clock.seconds()), version

    def _changed(self, was_current: int) -> bool:
        self._changing.end()
        return was_current == 1

    def _failed(self, failure: Failure, key: bytes, connection: RedisConnection, complaint: _Complaint) -> Failure:
        """Say what became of a command that failed, as the exception that is the answer to the request."""
        if failure.check(txredisapi.ResponseError):
            text = str(failure.value)
            found = _CODE.search(text)
            code = found[0] if found else ""
            if code == "WRONGTYPE":
                self._leave_alone(key, _CODES[code])
            self._counters["commands_refused"] += 1
            complaint.begin(f"{_CODES[code]} ({code})" if code else text)
            if code == "READONLY" and connection.age > self.replica_patience:
                connection.give_up()
            raise UnavailableError(rule=f"refused by Redis: {code or text}") from None
        if failure.check(txredisapi.RedisError):
            self._counters["commands_lost"] += 1
            raise UnavailableError(rule="the connection to Redis ended") from None
        return failure

    def _leave_alone(self, key: bytes, reason: str) -> NoReturn:
        """Refuse to read or change what is no value of ours: what it means is for people to find out.

        Redis does not fail with that: nobody else's look-up is to suffer for it.
        """
        self._counters["strange_values"] += 1
        now = self._clock.seconds()
        if now - self._strangers_told >= self.stranger_interval:
            self._strangers_told = now
            _log.error(
                "{what}: the key {key} is left alone, and requests for it get 500: {reason}",
                what=self.description,
                key=key,
                reason=reason,
            )
        raise UnavailableError(status=500, rule="a key of Redis holds something else")


class _Complaint:
    """Tells the log when something begins to go wrong, or does for another reason, and when it goes well again."""

    def __init__(self, what: str, trouble: str, relief: str) -> None:
        self._what = what
        self._trouble = trouble
        self._relief = relief
        self._reason = ""

    def begin(self, reason: str) -> None:
        """It goes wrong for *reason*."""
        if reason != self._reason:
            self._reason = reason
            _log.error("{what}: {trouble}: {reason}", what=self._what, trouble=self._trouble, reason=reason)

    def end(self) -> None:
        """It goes well."""
        if self._reason:
            self._reason = ""
            _log.info("{what}: {relief}", what=self._what, relief=self._relief)


def make(argument: str, options: dict[str, str], reactor: Any) -> RedisBindingStore:
    """See `ILocationServicePlugin`: ``redis:HOST[:PORT]`` or a URL, with the options db, prefix, pool and ca."""
    db = taken(options, "db", partial(whole_number, least=0, most=_MAX_DB))
    pool = taken(options, "pool", partial(whole_number, least=1, most=_MAX_CONNECTIONS))
    prefix = options.pop("prefix", "sipuas")
    if not prefix:
        raise ValueError("prefix: expected what the keys are to begin with")
    server = RedisServer.from_text(argument, db=db, trust_root=taken(options, "ca", trust_root))
    return RedisBindingStore(server, reactor, prefix=f"{prefix}:", pool=pool or 2)
