"""`sip_server`: a scripted SIP server for tests that block, say because they run a client program and wait for it.

All of a process's servers have one reactor of their own, in a thread of its own: the test's thread may then wait as it
pleases, whether the process has another reactor that runs (as with pytest-twisted, which runs tests inside of it), one
that does not, or none at all. That thread begins with the first server and does not keep the process from ending.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from twisted.internet.threads import blockingCallFromThread
from twisted.python import threadable

from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.message import Response
from twisted_sipuas.testing.ladder import Ladder
from twisted_sipuas.testing.scripted import STOPPED, STRAYS, ReceivedRequest, ScriptedServer
from twisted_sipuas.testing.steps import Expected, Step, Unmet, play

__all__ = ["BlockingServer", "sip_server"]

_T = TypeVar("_T")


class _ReactorThread:
    """A reactor that runs in a thread, and is nobody else's; `twisted.internet.reactor` stays whatever it is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reactor: Any = None
        self._thread: threading.Thread | None = None

    @property
    def is_current(self) -> bool:
        """Whether it is this thread that is running."""
        return threading.current_thread() is self._thread

    def get(self) -> Any:
        """Return the reactor, running."""
        with self._lock:
            if self._reactor is None:
                reactor = _new_reactor()
                is_running = threading.Event()
                reactor.callWhenRunning(is_running.set)
                self._thread = threading.Thread(target=_run, args=(reactor,), name="sip_server", daemon=True)
                self._thread.start()
                is_running.wait()
                self._reactor = reactor
            return self._reactor


_thread = _ReactorThread()


def _new_reactor() -> Any:
    try:
        from twisted.internet.epollreactor import EPollReactor
    except ImportError:  # no Linux
        from twisted.internet.selectreactor import SelectReactor

        return SelectReactor()
    return EPollReactor()


def _run(reactor: Any) -> None:
    """Run *reactor*; the process's "I/O thread" stays what it is, that of the reactor which is installed."""
    before = threadable.ioThread
    reactor.startRunning(installSignalHandlers=False)
    threadable.ioThread = before
    reactor.mainLoop()


class BlockingServer:
    """A `ScriptedServer` whose methods wait; made by `sip_server`, which starts and stops it."""

    def __init__(self, host: str, port: int, strays: Mapping[str, int], timeout: float) -> None:
        self._reactor = _thread.get()
        self._server = ScriptedServer(
            self._reactor, host, port, strays=strays, timeout=timeout, in_reactor=self._in_reactor
        )
        self._script: _Script | None = None

    @property
    def address(self) -> Address:
        """Where it listens, by UDP and TCP: ``host`` and ``port``."""
        return self._server.address

    @property
    def uri(self) -> str:
        """Its SIP URI, ``sip:HOST:PORT``; what a client may have for its registrar, its proxy or whom it calls."""
        return self._server.uri

    @property
    def ladder(self) -> Ladder:
        """What was exchanged, a line a message."""
        return self._server.ladder

    def expect(self, what: str, *, timeout: float | None = None, **header_fields: object) -> ReceivedRequest:
        """Wait for the next request, which has to be of the method *what*; raises `AssertionError` if it is not.

        *timeout* is in seconds. *header_fields* are as for the step `expect`: ``Expires="60"``.
        """
        __tracebackhide__ = True
        request: ReceivedRequest = self.expect_message(Expected.of(what, None, header_fields), timeout)
        return request

    def expect_response(
        self, status: int, method: str | None = None, *, timeout: float | None = None, **header_fields: object
    ) -> Response:
        """Wait for the response to what was sent by `ReceivedRequest.send`, which has to have *status*."""
        __tracebackhide__ = True
        response: Response = self.expect_message(Expected.of(status, method, header_fields), timeout)
        return response

    def nothing(self, seconds: float = 0.0) -> None:
        """See that within *seconds* nothing comes that was not expected; raises `AssertionError` if something does."""
        time.sleep(seconds)
        unexpected = self._in_reactor(self._server.unexpected)
        if unexpected is not None:
            raise Unmet(unexpected, self.ladder)

    def play(self, *steps: Step | str) -> None:
        """Have *steps* played from now on, while the test does something else: runs a client, and waits for it.

        The steps are `expect`, `answer`, `send` (within the dialog of the latest INVITE), `step`, `nothing` and `do`.
        `finish`, or leaving the context manager, waits for their end.
        """
        self.finish()
        self._script = _Script(self, steps)

    def expect_message(self, expected: Expected, timeout: float | None = None) -> Any:
        """Wait for the next message, which has to be the one *expected*."""
        __tracebackhide__ = True  # for pytest: what is of interest is in the message
        try:
            return self._in_reactor(self._server.expect_message, expected, timeout)
        except Unmet as unmet:
            raise unmet.with_traceback(None) from None

    def finish(self) -> None:
        """Wait until the steps of `play` are done; raises `AssertionError` if one of them failed."""
        script, self._script = self._script, None
        if script is not None:
            script.finish()

    def script_failure(self) -> Exception | None:
        """Return how the steps of `play` failed, None if they did not, or only because the server was stopped."""
        script, self._script = self._script, None
        return None if script is None else script.failure()

    def start(self) -> None:
        """Listen."""
        self._in_reactor(self._server.start)

    def stop(self) -> None:
        """Listen no more."""
        self._in_reactor(self._server.stop)

    def _in_reactor(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call *function* in the reactor's thread, and wait for what comes of it."""
        if _thread.is_current:
            return function(*arguments)
        return blockingCallFromThread(self._reactor, function, *arguments)


class _Script:
    """Steps that are played in a thread: the player of a server."""

    def __init__(self, server: BlockingServer, steps: tuple[Step | str, ...]) -> None:
        self._server = server
        self._latest: ReceivedRequest | None = None
        self._invite: ReceivedRequest | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._play, args=(steps,), name="script", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the end of the steps; raises what they raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def failure(self) -> Exception | None:
        """Return why the steps came to an early end, None if they did not, or only because the server was stopped."""
        self._thread.join()
        failure = self._failure
        return None if isinstance(failure, Unmet) and failure.text == STOPPED else failure

    def _play(self, steps: tuple[Step | str, ...]) -> None:
        try:
            play(self, steps, self._server.ladder)
        except Exception as failure:
            self._failure = failure  # for `finish`

    def send_step(self, method: str, **fields: Any) -> None:
        """See `Player`."""
        if self._invite is None:
            raise AssertionError(f"there is no call to send {method} in; expect an INVITE first")
        self._invite.send(method, **fields)

    def resend_step(self) -> None:
        """See `Player`; what a server sends again is its answer."""
        request = self._answerable("send again to")
        if not request.answers:
            raise AssertionError(f"there is no answer to {request.method} that could be sent again")
        request.answer_octets(request.answers[-1])

    def expect_step(self, expected: Expected) -> None:
        """See `Player`."""
        message = self._server.expect_message(expected)
        if isinstance(message, ReceivedRequest):
            self._latest = self._latest if message.method == "ACK" else message
            self._invite = message if message.method == "INVITE" else self._invite

    def answer_step(self, status: int, **fields: Any) -> None:
        """See `Player`; an INVITE is answered, though a CANCEL came and was answered meanwhile."""
        request = self._answerable("answer")
        if request.method == "CANCEL" and _is_answered(request) and self._invite is not None:
            request = self._invite
        request.answer(status, **fields)

    def time_step(self, seconds: float) -> None:
        """See `Player`."""
        time.sleep(seconds)

    def nothing_step(self) -> None:
        """See `Player`."""
        self._server.nothing()

    def _answerable(self, what: str) -> ReceivedRequest:
        if self._latest is None:
            raise AssertionError(f"there is no request to {what}; expect one first")
        return self._latest


def _is_answered(request: ReceivedRequest) -> bool:
    return bool(request.answers) and not request.answers[-1].startswith(b"SIP/2.0 1")


@contextmanager
def sip_server(
    *steps: Step | str,
    host: str = "127.0.0.1",
    port: int = 0,
    strays: Mapping[str, int] = STRAYS,
    timeout: float = 5.0,
) -> Iterator[BlockingServer]:
    """A SIP server that does what you say, to test a client with: a context manager, for tests that block.

    It listens at *host* by UDP and TCP, on *port*, or without on one that is free: see its `uri`. Say what it does as
    you go along, by `BlockingServer.expect`, or beforehand by *steps*, which are played while your test runs a client.
    *strays* are methods that are answered by themselves, each with its status, where something else is expected: by
    default OPTIONS with 200. *timeout* is how many seconds each message may take.

    In the end every step has to be done, and every request expected; else it raises `AssertionError`.

    >>> with sip_server(expect("REGISTER", Expires="60"), answer(200)) as server:
    ...     your_client_registers_at(server.uri)
    """
    server = BlockingServer(host, port, strays, timeout)
    server.start()
    try:
        if steps:
            server.play(*steps)
        yield server
        server.finish()
        server.nothing()
    except BaseException as failure:
        server.stop()
        if not isinstance(failure, Exception):
            raise
        reason = server.script_failure()
        if reason is None or reason is failure:
            raise
        raise reason from failure  # what went wrong for the client went wrong for the script first
    else:
        server.stop()
