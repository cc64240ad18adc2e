"""``twistd sipuas``: from the command line to a running service."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

from twisted.application.service import IService
from twisted.python.failure import Failure

from twisted_sipuas.errors import StartError
from twisted_sipuas.logs import Logger
from twisted_sipuas.options import Options
from twisted_sipuas.service import Listen, SIPService
from twisted_sipuas.supervisor import Supervisor
from twisted_sipuas.trace import log_answer
from twisted_sipuas.transaction.admission import Protection
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.listen import parse_listen
from twisted_sipuas.transport.shared import SharedListeners

__all__ = ["Options", "makeService"]

_log = Logger()

_ACCEPTED_AT_ONCE = 200  # connections that a listener accepts before those that are too many are closed again
_LOOKS = (10_000, 10, 20)
"""After so many objects more than before Python's garbage collector looks at new ones, after so many of these looks at
those that have outlived one, and after so many of those at all. Its own are 700, 10 and 10."""
_OTHER_FILES = 100  # descriptors that are no connection: listeners, database, log, event queue


def makeService(options: Options) -> IService:
    """Return the service that *options* describe."""
    from twisted.internet import reactor

    _log.info("{line}", line=options.authentication)
    service = (
        supervisor(options, reactor) if options["workers"] > 1 else sip_service(options, reactor, options["listen"])
    )
    _explain_start_errors(service, reactor)
    _heed_signals(service, reactor)
    return service


def supervisor(options: Options, reactor: Any) -> Supervisor:
    """Return what runs workers by *options*, each of which has the service that `sip_service` makes."""
    listen = list(map(parse_listen, options["listen"]))
    sockets = SharedListeners(reactor, listen, options["workers"], options["tls-client-ca"])
    return Supervisor(
        reactor,
        options["workers"],
        sockets,
        arguments=options.arguments,
        directory=os.getcwd(),
        key=options.key,
    )


def sip_service(options: Options, reactor: Any, listen: Sequence[Listen]) -> SIPService:
    """Return the service that *options* describe, on *listen*."""
    reactor.addSystemEventTrigger("after", "startup", _collect_garbage_seldom)
    return SIPService(
        reactor,
        options.transaction_user,
        listen,
        server_header=options["server-header"] or None,
        max_transactions=options["max-transactions"],
        limits=TransportLimits(
            max_message=options["max-message"],
            max_header=options["max-header"],
            max_connections=_fitting_connections(options["max-connections"], len(listen)),
            max_connections_per_source=options["max-connections-per-source"],
            message_timeout=options["message-timeout"],
            idle_timeout=options["idle-timeout"],
        ),
        advertise=options["advertise"],
        trust=options["trust"],
        allow=options["allow"],
        deny=options["deny"],
        protection=Protection(
            max_rate=options["max-rate"],
            rate_burst=options["rate-burst"],
            answers_over_rate=options["over-rate"] == "503",
            max_lag=options["max-lag"],
        ),
        tls_client_ca=options["tls-client-ca"],
        is_stateless=options["mode"] == "stateless",
        trace=log_answer if options["trace"] else None,
        key=options.key,
    )


def _collect_garbage_seldom() -> None:
    """Have the garbage collector look seldom at all that there is, and never at what was there at the start.

    Such a look holds up every request: where thousands of calls a second end, for 0.15 s every few seconds. Hardly a
    request leaves anything that only the collector can find. It is for the process as a whole, and so not for who
    embeds a service.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_LOOKS)


def _fitting_connections(wanted: int, listeners: int) -> int:
    """Raise the limit of open files so that *wanted* connections fit; return how many do, and log if they are fewer."""
    others = _OTHER_FILES + listeners * _ACCEPTED_AT_ONCE
    needed = wanted + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            fitting = max(1, soft - others)
            _log.warn("--max-connections: {fitting}, as this process may open {soft} files", fitting=fitting, soft=soft)
            return fitting
    return wanted


def _heed_signals(service: SIPService | Supervisor, reactor: Any) -> None:
    """Have SIGHUP reload, which would end the process otherwise, and a second SIGINT or SIGTERM hasten the stop."""

    def have(call: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        return lambda number, frame: reactor.callFromThread(call)

    def stopping() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, have(service.hasten_stop))

    signal.signal(signal.SIGHUP, have(service.reload))
    reactor.addSystemEventTrigger("before", "shutdown", stopping)


def _explain_start_errors(service: SIPService | Supervisor, reactor: Any) -> None:
    """Have a `StartError` of *service* end the process with its one line, no traceback, and exit status 1.

    It has to leave `privilegedStartService` as an ordinary exception: twistd then removes its pid file and, when
    daemonising, tells the parent process, which waits for it. Of the text twistd passes on 100 octets; so we keep the
    terminal until the service has started, and write the line ourselves. A daemon has it in its log too. An endpoint
    that fails later, once the reactor runs, stops it.
    """
    earlier = sys.excepthook
    terminal = os.dup(2)

    def started(_: object) -> None:
        os.close(terminal)
        sys.excepthook = earlier

    def failed(failure: Failure) -> None:
        os.write(terminal, f"sipuas: {failure.getErrorMessage()}\n".encode(errors="backslashreplace"))
        started(None)
        reactor.stop()

    service.when_listening().addCallbacks(started, failed)

    def explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, StartError):
            earlier(kind, error, traceback)
            return
        os.write(terminal, f"sipuas: {error}\n".encode(errors="backslashreplace"))
        if not os.path.samestat(os.fstat(terminal), os.fstat(2)):
            _log.critical("{error}", error=error)

    sys.excepthook = explain
