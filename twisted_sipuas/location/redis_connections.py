"""How is a Redis server talked to? By connections that come back, with a deadline and a bound on what is in flight.

Of txredisapi this uses the protocol alone. Its pool keeps commands without bound while there is no connection, and
gives up for good on a connection whose AUTH or SELECT was refused, as it is when a Redis has too many clients.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, cast

import txredisapi
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import defer, error
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.logs import Logger

__all__ = ["RedisConnection", "RedisConnections", "UnusableError"]

_log = Logger()


class UnusableError(Exception):
    """There is no connection, or it is not to be used; the text says why in a few words."""


class RedisConnection(txredisapi.RedisProtocol):  # type: ignore[misc]
    """One connection. Its commands are sent at once, whatever else is in flight, and answered in order.

    What is not answered within *command_timeout* seconds, by *clock*, ends the connection, as nothing behind it will be
    either. All that is in flight then fails, with `txredisapi.ConnectionError`.
    """

    check_interval: ClassVar[float] = 0.5
    """Seconds between two looks at the deadlines: one timer for a connection, and none for a command."""

    max_idle: ClassVar[float] = 20.0
    """Seconds without a command after which a PING asks whether the connection is there still. Firewalls forget those
    that are idle, and without it the next call would be who finds out."""

    def __init__(self, clock: IReactorTime, command_timeout: float) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.reason = ""
        """Why the connection has ended; empty before."""
        self.is_given_up = False
        """Whether it was we who wanted its end."""
        self._clock = clock
        self._command_timeout = command_timeout
        self._began = clock.seconds()
        self._sent: deque[float] = deque()  # when each command in flight was
        self._last_sent = self._began
        self._check_call: IDelayedCall | None = None
        self._when_idle: Deferred[None] | None = None

    @property
    def pending(self) -> int:
        """Commands that are not answered, those that nobody waits for any longer among them."""
        return len(self._sent)

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return self._clock.seconds() - self._began

    async def begin(self, username: bytes, password: bytes, db: int) -> None:
        """Say who we are and choose the database; raises `UnusableError` if that is not to be."""
        step = "a password that was given"
        try:
            if password:
                await self.auth(password, username)
            step = f"the database {db}"
            if db:
                await self.select(db)
            step = "a command"
            await self.ping()
        except txredisapi.ResponseError as refusal:
            raise UnusableError(_refusal(step, str(refusal))) from None
        except txredisapi.RedisError:
            raise UnusableError(self.reason) from None

    async def become_idle(self) -> None:
        """Wait until nothing is in flight: all is answered, or the connection has ended."""
        if self._sent:
            self._when_idle = Deferred()
            await self._when_idle

    def give_up(self) -> None:
        """End the connection for another one, to whatever the name of the server means by now."""
        self.is_given_up = True
        self.transport.abortConnection()

    async def abort(self) -> None:
        """End the connection, if it has not ended, and wait until it has."""
        if self.connected:
            ended = self.whenDisconnected()
            self.transport.abortConnection()
            await ended

    # What txredisapi calls

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send a command, and return a `Deferred` of the answer."""
        sent: Any = super().execute_command(*arguments, **options)
        self._last_sent = self._clock.seconds()
        self._sent.append(self._last_sent)
        return sent

    def replyReceived(self, reply: object) -> None:
        """Take an answer, or for each command that will have none the error in its place."""
        if not self._sent:
            self._end("it answers what it was not asked")
            return
        self._sent.popleft()
        super().replyReceived(reply)
        if self._when_idle is not None and not self._sent:
            idle, self._when_idle = self._when_idle, None
            idle.callback(None)

    # IProtocol

    def connectionMade(self) -> None:
        """Watch the deadlines. Not as txredisapi does, whose AUTH and SELECT are here: see `begin`."""
        self.transport.setTcpNoDelay(True)
        self._check_call = self._clock.callLater(self.check_interval, self._check)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Take answers; who sends something else is no Redis."""
        try:
            super().dataReceived(data, unpause)
        except (txredisapi.RedisError, UnicodeError):
            self._end("it does not speak the protocol of Redis")

    def connectionLost(self, reason: Failure) -> None:
        """Fail what is in flight."""
        self.reason = self.reason or _explained(reason.value)
        if self._check_call is not None:
            self._check_call.cancel()
            self._check_call = None
        super().connectionLost(reason)

    def _check(self) -> None:
        self._check_call = self._clock.callLater(self.check_interval, self._check)
        now = self._clock.seconds()
        if self._sent and now - self._sent[0] >= self._command_timeout:
            self._end(f"no answer within {self._command_timeout:g} s")
        elif not self._sent and now - self._last_sent >= self.max_idle:
            self.ping().addErrback(lambda failure: failure.trap(txredisapi.RedisError))

    def _end(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.transport.abortConnection()


class RedisConnections:
    """Keeps *size* connections to *endpoint* open; *begin* makes a new one ready, or raises `UnusableError`.

    Nothing waits for a connection, but for the first try after `start`: without one `pick` fails. *description* names
    the server in the log, which tells once that there is no connection and why, and once that there is one again.
    """

    first_delay: ClassVar[float] = 0.1
    """Seconds from the end of a connection to the next try; twice that after each that fails."""

    max_delay: ClassVar[float] = 2.0
    """The longest that this delay becomes, but for a random part, so that many servers do not come all at once."""

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        begin: Callable[[RedisConnection], Any],
        clock: IReactorTime,
        *,
        size: int,
        max_pending: int,
        connect_timeout: float,
        command_timeout: float,
        description: str,
    ) -> None:
        self.max_pending = max_pending
        self._endpoint = endpoint
        self._begin = begin
        self._clock = clock
        self._size = size
        self._connect_timeout = connect_timeout
        self._description = description
        self._factory = Factory.forProtocol(lambda: RedisConnection(clock, command_timeout))
        self._factory.noisy = False
        self._ready: list[RedisConnection] = []
        self._loops: list[Deferred[None]] = []
        self._is_running = False
        self._beginning: list[Deferred[None]] | None = None  # who waits for the first try, while that is being made
        self._reason = ""  # why there is no connection, as it was logged
        self._refused = 0
        self._losses = 0

    @property
    def counters(self) -> dict[str, int]:
        """What is open and in flight, how many commands were refused for *max_pending*, and connections that ended."""
        return {
            "connections": len(self._ready),
            "pending": self._pending(),
            "refused": self._refused,
            "connections_lost": self._losses,
        }

    def _pending(self) -> int:
        return sum([connection.pending for connection in self._ready]) + len(self._beginning or ())

    def when_begun(self) -> Deferred[None] | None:
        """Return a new `Deferred` that fires when the first try to connect after `start` went well or failed.

        None says that it did: what comes with the start of the server need not be refused, and later nothing waits.
        Raises `UnavailableError` past *max_pending*.
        """
        if self._beginning is None:
            return None
        self._check_bound()
        waiter: Deferred[None] = Deferred()
        self._beginning.append(waiter)
        return waiter

    def pick(self) -> RedisConnection:
        """Return the connection with the least in flight; raises `UnavailableError`."""
        if not self._ready:
            raise UnavailableError(rule="no connection to Redis")
        self._check_bound()
        return min(self._ready, key=attrgetter("pending"))

    def _check_bound(self) -> None:
        if self._pending() >= self.max_pending:
            self._refused += 1
            raise UnavailableError(rule="max_pending")

    def start(self) -> None:
        """Open the connections, as soon as it can be done."""
        self._is_running = True
        self._beginning = []
        self._loops = [Deferred.fromCoroutine(self._keep()) for _ in range(self._size)]
        for loop in self._loops:
            loop.addErrback(self._ended)

    async def stop(self) -> None:
        """Wait for what is in flight, and close the connections."""
        self._is_running = False
        self._begun()
        ready, self._ready = self._ready, []
        for connection in ready:
            await connection.become_idle()
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await DeferredList(loops)

    async def _keep(self) -> None:
        """Keep one connection open until `stop` cancels this, of which an endpoint tells by an exception of its own."""
        delay = self.first_delay
        while True:
            began = self._clock.seconds()
            await self._connect()
            if not self._is_running:
                return
            if self._clock.seconds() - began > self.max_delay:
                delay = self.first_delay  # it lasted, or took its time to fail
            await deferLater(self._clock, delay * random.uniform(1, 1.5))
            delay = min(2 * delay, self.max_delay)

    async def _connect(self) -> None:
        """Have a connection, if there can be one, until it ends."""
        try:
            connecting = self._endpoint.connect(self._factory)
            connecting.addTimeout(self._connect_timeout, self._clock)
            reason = await self._use(cast(RedisConnection, await connecting))
        except Exception as failure:
            reason = _explained(failure)
        if self._is_running:
            self._note_down(reason)
            self._begun()

    async def _use(self, connection: RedisConnection) -> str:
        """Have *connection* in use until it ends; return why it did, if that is news."""
        try:
            await self._begin(connection)
            ended = connection.whenDisconnected()
            self._ready.append(connection)
            self._note_up()
            self._begun()
            await ended  # which is told before what is in flight fails: nobody picks this one for a second try
            self._losses += 1
            return "" if connection.is_given_up else connection.reason
        finally:
            if connection in self._ready:
                self._ready.remove(connection)
            await connection.abort()

    def _begun(self) -> None:
        """Let those go on who wait for the first try."""
        waiters, self._beginning = self._beginning or (), None
        for waiter in waiters:
            waiter.callback(None)

    def _ended(self, failure: Failure) -> None:
        """Take the end of `_keep`, which has none but by `stop`."""
        if failure.check(CancelledError) is None:
            _log.failure("{what}: a connection is given up", failure, what=self._description)

    def _note_down(self, reason: str) -> None:
        if reason and not self._ready and reason != self._reason:
            self._reason = reason
            _log.error(
                "{what} cannot be used, and what needs it gets 503: {reason}", what=self._description, reason=reason
            )

    def _note_up(self) -> None:
        if self._reason:
            self._reason = ""
            _log.info("{what} answers again", what=self._description)


def _explained(failure: BaseException | None) -> str:
    """Return in a few words why there is no connection."""
    match failure:
        case error.ConnectionRefusedError():
            return "connection refused"
        case error.DNSLookupError():
            return "there is no host of this name"
        case error.TimeoutError() | defer.TimeoutError() | error.ConnectingCancelledError():
            return "no connection in time"
        case error.ConnectionDone():
            return "it closed the connection"
        case VerificationError():
            return "its certificate is for another host"
        case SSL.Error(args=([*_, (*_, str(reason))],)):
            return f"TLS: {reason}"
    return " ".join(str(failure).split()) or type(failure).__name__


def _refusal(step: str, text: str) -> str:
    """Return why *step* was refused, by what Redis said.

    Of that the first word is told, which is a code: the rest may quote what was sent, and that may be a password.
    """
    code = text.split(" ", 1)[0]
    reason = {
        "NOAUTH": "it asks for a password: give it as redis://[USER]:PASSWORD@HOST",
        "WRONGPASS": "the password, or the user, is wrong",
        "LOADING": "it is loading its data",
        "MASTERDOWN": "it is a replica without its master",
    }.get(code)
    if "max number of clients" in text:
        reason = "it has all the clients that it takes (maxclients)"
    return reason or f"it refused {step} ({code})"
