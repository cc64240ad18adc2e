"""Which handlers take their time, how much have they, and what ends them before that (9.2, 13.3.1, 15.1.2)?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import EndReason, IServerTransaction
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.scalars import Expires
from twisted_sipuas.uas.invitation import Invitation
from twisted_sipuas.uas.session import Sessions

__all__ = ["HandlersAtWork"]

_log = Logger()


class _Server(Protocol):
    """What bounds the handlers of a server."""

    clock: IReactorTime

    @property
    def invite_timeout(self) -> float:
        """Seconds for an INVITE."""

    @property
    def handler_timeout(self) -> float:
        """Seconds for any other request."""

    def timeout_status(self, request: Request) -> int:
        """Return the status that *request* gets when its handler has taken too long."""

    def handler_name(self, method: str) -> str:
        """Return what logs call the handler of *method*."""


class _AtWork:
    """A handler that is at work: the `Deferred` of its answer, what it was given, and the timer that bounds it.

    `status` is what is answered when the time is up.
    """

    __slots__ = ("is_cancelled", "pending", "request", "shown", "status", "timer")

    def __init__(self, pending: Deferred[Any], request: Request, shown: IServerTransaction) -> None:
        self.pending = pending
        self.request = request
        self.shown = shown
        self.status = 0
        self.timer: IDelayedCall | None = None
        self.is_cancelled = False


class HandlersAtWork:
    """The handlers of *server* that have not returned yet; *calls* are its calls, if it takes any.

    One is cancelled when its request is answered in its place, or nobody waits for the answer any more. What it does
    behind an answer of its own is its own, within the same time.
    """

    def __init__(self, server: _Server, calls: Sessions | None) -> None:
        self._server = server
        self._calls = calls
        self._at_work: dict[IServerTransaction, _AtWork] = {}
        self._timeouts = 0

    @property
    def counters(self) -> Mapping[str, int]:
        """How many ``handlers`` there are, and how many requests were answered because one took too long."""
        return {"handlers": len(self._at_work), "handler_timeouts": self._timeouts}

    def wait_for(
        self, pending: Deferred[Any], request: Request, transaction: IServerTransaction, shown: IServerTransaction
    ) -> Deferred[Any]:
        """Return *pending*, what the handler of *request* says, which has its time for that and no more.

        *shown* is what the handler was given of *transaction*. If it is cancelled, what it says is dropped in silence,
        and *pending* fires with None.
        """
        handler = self._at_work[transaction] = _AtWork(pending, request, shown)
        pending.addBoth(self._returned, transaction)
        if transaction in self._at_work:
            self._bound(handler, transaction)
        return pending

    def refuse(self, transaction: IServerTransaction, rule: str) -> None:
        """Answer the request of *transaction* 487 and cancel its handler, if the answer is owed still."""
        request = transaction.request
        if request is not None:
            transaction.outcome = EndReason.CANCELLED
            transaction.respond(request.response(487, rule=rule))
            self.cancel(transaction)

    def cancel(self, transaction: IServerTransaction) -> None:
        """Cancel the handler of *transaction*, if one is at work.

        One that goes on all the same, for it was running just then or has something to put in order, is cancelled once
        more after `handler_timeout`, and then forgotten.
        """
        handler = self._at_work.get(transaction)
        if handler is None or handler.is_cancelled:
            return
        handler.is_cancelled = True
        self._let_go(handler)
        if isinstance(handler.shown, Invitation):
            handler.shown.close()
        self._cancel(handler, transaction)
        if transaction in self._at_work:
            handler.timer = self._clock.callLater(self._server.handler_timeout, self._give_up, transaction)

    @property
    def _clock(self) -> IReactorTime:
        assert self._server.clock is not None, "a service gives its clock to its transaction user"
        return self._server.clock

    def _bound(self, handler: _AtWork, transaction: IServerTransaction) -> None:
        """Bound the time of *handler*; cancel it at once if its request was answered in its place already."""
        is_owed = transaction.request is not None
        if not is_owed and transaction.outcome is not EndReason.ANSWERED:
            self.cancel(transaction)
            return
        seconds, handler.status = self._time_for(handler.request)
        handler.timer = self._clock.callLater(seconds, self._timed_out, transaction)
        if isinstance(handler.shown, Invitation):
            handler.shown.start_reminding()
        if is_owed and self._calls is not None and transaction.dialog is not None:
            self._calls.pends(handler.request, transaction)

    def _time_for(self, request: Request) -> tuple[float, int]:
        """Return the seconds that there are for *request*, and the status that it gets then."""
        status = self._server.timeout_status(request)
        if request.method != "INVITE":
            return self._server.handler_timeout, status
        seconds, expires = self._server.invite_timeout, _expires(request)
        if expires is not None and expires < seconds:
            return expires, 487  # 13.3.1
        return seconds, status

    def _timed_out(self, transaction: IServerTransaction) -> None:
        request = transaction.request
        if request is not None:
            self._timeouts += 1
            transaction.outcome = EndReason.HANDLER_TIMEOUT
            status = self._at_work[transaction].status
            transaction.respond(request.response(status, rule="13.3.1-2" if status == 487 else "handler_timeout"))
        self.cancel(transaction)

    def _cancel(self, handler: _AtWork, transaction: IServerTransaction) -> None:
        try:
            handler.pending.cancel()
        except Exception:  # from a canceller of the user's
            self._forget(handler, transaction)
            _log.failure("{handler} failed as it was cancelled", handler=self._name(handler))

    def _give_up(self, transaction: IServerTransaction) -> None:
        handler = self._at_work[transaction]
        self._cancel(handler, transaction)
        if transaction in self._at_work:
            self._forget(handler, transaction)
            _log.error("{handler} was cancelled twice and goes on; it is forgotten", handler=self._name(handler))

    def _returned(self, result: object, transaction: IServerTransaction) -> object:
        handler = self._at_work.get(transaction)
        if handler is None:
            return None
        self._forget(handler, transaction)
        return None if handler.is_cancelled else result

    def _forget(self, handler: _AtWork, transaction: IServerTransaction) -> None:
        self._at_work.pop(transaction, None)
        self._let_go(handler)

    def _let_go(self, handler: _AtWork) -> None:
        """Stop what goes on only while *handler* is at work."""
        if handler.timer is not None and handler.timer.active():
            handler.timer.cancel()
        if isinstance(handler.shown, Invitation):
            handler.shown.stop_waiting()
        if self._calls is not None and handler.shown.dialog is not None:
            self._calls.pends_no_longer(handler.request, handler.shown.dialog)

    def _name(self, handler: _AtWork) -> str:
        return self._server.handler_name(handler.request.method)


def _expires(request: Request) -> int | None:
    """Return the Expires of an INVITE in seconds; None without one that can be read (13.3.1, 8.2.2)."""
    try:
        expires = request.headers.one(Expires)
    except MessageSyntaxError:
        return None
    return None if expires is None else expires.seconds
