"""`UserAgentServer`: from a request to the method of yours that answers it (RFC 3261, 8.2)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from twisted_sipuas.deferreds import waited_for
from twisted_sipuas.interfaces import EndReason, IAuthenticator, IFlow, IServerTransaction, ITransactionUser
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.uri import canonical_domain
from twisted_sipuas.uas import inspection

__all__ = ["UserAgentServer"]

_PREFIX = "handle_"


class _Watched:
    """A handler that is at it: its `Deferred`, and the timer that bounds it."""

    __slots__ = ("pending", "timer")

    def __init__(self, pending: Deferred[Any]) -> None:
        self.pending = pending
        self.timer: IDelayedCall | None = None

    def stop_timer(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


@implementer(ITransactionUser)
class UserAgentServer:
    """A transaction user that you subclass: ``handle_METHOD(self, request, transaction)`` answers requests of METHOD.

    A handler is a plain method, one returning a `Deferred`, or ``async def``. It returns the final `Response`
    (``request.response(486)``), or raises `SIPError`, or has answered by ``transaction.respond``. Any other exception
    is logged once and answered 500. Allow, 405 and 501 follow from the handlers that the class has.

    *authenticator* is asked who sent a request before anything else. *domains* are the domains that are served,
    besides the server's own addresses; by default any. *clock* gives the time, and is the reactor's by default.
    """

    supported: ClassVar[Collection[str]] = ()
    """Option tags that your handlers implement; 420 and Supported follow (8.2.2.3, 20.37)."""

    accept: ClassVar[Iterable[str] | Mapping[str, Iterable[str]] | None] = None
    """Media types of request bodies that your handlers understand, for all methods or by method; 415 and Accept
    follow (8.2.3). None: any."""

    schemes: ClassVar[Collection[str]] = ("sip", "sips", "tel")
    """URI schemes served in the Request-URI; others get 416 (8.2.2.1)."""

    checks: ClassVar[tuple[inspection.Check, ...]] = (
        inspection.method,
        inspection.request_uri_scheme,
        inspection.request_uri_domain,
        inspection.merged,
        inspection.require,
        inspection.content_type,
    )
    """What a request has to pass before its handler is called, in the order of 8.2."""

    invite_timeout: ClassVar[float] = 180.0
    """Seconds a handler has for an INVITE; then the answer is 480 and the handler is cancelled."""

    handler_timeout: ClassVar[float] = 30.0
    """Seconds a handler has for any other request, less than its client waits; then the answer is 504."""

    allow: tuple[str, ...] = ()
    supported_tags: frozenset[str] = frozenset()
    _handlers: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls._handlers = {name[len(_PREFIX) :]: name for name in dir(cls) if name.startswith(_PREFIX)}
        methods = set(cls._handlers)
        if "INVITE" in methods:
            methods |= {"ACK", "CANCEL"}  # 20.5: they are understood too
        cls.allow = tuple(sorted(methods))
        cls.supported_tags = frozenset(tag.lower() for tag in cls.supported)

    def __init__(
        self,
        *,
        authenticator: IAuthenticator | None = None,
        domains: Iterable[str] = (),
        clock: IReactorTime | None = None,
    ) -> None:
        self.authenticator = authenticator
        self.domains = frozenset(map(canonical_domain, domains))
        self.clock = clock
        self._pending: dict[IServerTransaction, _Watched] = {}
        self._handler_timeouts = 0

    @property
    def needs_transactions(self) -> bool:
        """Whether it cannot be run stateless, since a retransmission is not the same to it again (8.2.7)."""
        return False

    @property
    def services(self) -> tuple[IService, ...]:
        """What has to be started before this transaction user, and stopped after it."""
        return ()

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of what this server's bounds did, and of what is at work now."""
        return {"handlers": len(self._pending), "handler_timeouts": self._handler_timeouts}

    @property
    def description(self) -> str:
        """One phrase for logs."""
        return type(self).__qualname__

    def use_clock(self, clock: IReactorTime) -> None:
        """Take the time from *clock*, unless one was given already; a service gives its own."""
        if self.clock is None:
            self.clock = clock

    # ITransactionUser

    def request_received(self, request: Request, transaction: IServerTransaction) -> Deferred[None] | None:
        """See `ITransactionUser`."""
        if self.authenticator is not None and self.needs_authentication(request, transaction.flow):
            answer: object = self._authenticate(self.authenticator, request, transaction)
        else:
            answer = self._inspect_and_handle(request, transaction)
        pending = waited_for(answer)
        if pending is None:
            self._answer(answer, request, transaction)
            return None
        self._pending[transaction] = _Watched(pending)
        pending.addBoth(self._finished, transaction)
        if transaction in self._pending:
            self._watch(request, transaction)
        pending.addCallback(self._answer, request, transaction)
        return pending

    def ack_received(self, ack: Request, flow: IFlow) -> None:
        """See `ITransactionUser`; an ACK for nothing that we know is met with silence."""

    def transaction_cancelled(self, transaction: IServerTransaction) -> None:
        """Answer the INVITE 487 and cancel its handler (9.2)."""
        if transaction.request is not None:
            transaction.respond(transaction.request.response(487, rule="9.2-6"))
        self._abandon(transaction)

    def transaction_ended(self, transaction: IServerTransaction, reason: EndReason) -> None:
        """Cancel the handler, if the transaction ended before its answer; what it does behind that is its own."""
        if reason is not EndReason.ANSWERED:
            self._abandon(transaction)

    # For subclasses

    def needs_authentication(self, request: Request, flow: IFlow) -> bool:
        """Whether the authenticator is to be asked about *request*; override for another policy (22.1)."""
        return True

    def handle(self, request: Request, transaction: IServerTransaction) -> object:
        """Return what the handler of the request's method returns; every check has been passed."""
        return getattr(self, self._handlers[request.method])(request, transaction)

    def handle_OPTIONS(self, request: Request, transaction: IServerTransaction) -> object:
        """Tell what this server can do (11.2)."""
        headers = [("Allow", ", ".join(self.allow))]
        accepted = self.accepted_types("INVITE")
        headers.append(("Accept", "*/*" if accepted is None else ", ".join(accepted)))
        headers += [("Accept-Encoding", "identity"), ("Accept-Language", "*")]
        headers.append(("Supported", ", ".join(self.supported)))
        return request.response(200, headers=headers, rule="11.2-1")

    def accepted_types(self, method: str) -> tuple[str, ...] | None:
        """Return the media types that the handler of *method* understands, or None if it takes any."""
        accept = self.accept
        if isinstance(accept, Mapping):
            accept = accept.get(method)
        return None if accept is None else tuple(accept)

    def timeout_status(self, request: Request) -> int:
        """Return the status that *request* gets when its handler has taken too long."""
        return 480 if request.method == "INVITE" else 504

    # How an answer comes about

    def _inspect_and_handle(self, request: Request, transaction: IServerTransaction) -> object:
        for check in self.checks:
            check(self, request, transaction)
        return self.handle(request, transaction)

    async def _authenticate(
        self, authenticator: IAuthenticator, request: Request, transaction: IServerTransaction
    ) -> object:
        identity = authenticator.authenticate(request, transaction)
        pending = waited_for(identity)
        transaction.identity = identity if pending is None else await pending
        answer = self._inspect_and_handle(request, transaction)
        pending = waited_for(answer)
        return answer if pending is None else await pending

    def _answer(self, answer: object, request: Request, transaction: IServerTransaction) -> None:
        """Send what a handler returned; the layer answers 500 for what is no answer."""
        if isinstance(answer, Response):
            if answer.status < 200:
                raise TypeError(
                    f"{self._name_of(request)} returned {answer!r}; a provisional response is for respond()"
                )
            transaction.respond(answer)
        elif answer is not None:
            raise TypeError(f"{self._name_of(request)} returned {type(answer).__name__}, not a Response")
        elif transaction.request is not None:
            raise TypeError(f"{self._name_of(request)} returned None and has not answered")

    def _name_of(self, request: Request) -> str:
        return f"{type(self).__qualname__}.{self._handlers.get(request.method, 'handle')}"

    # Handlers that take their time

    def _watch(self, request: Request, transaction: IServerTransaction) -> None:
        """Bound the time of a handler that is at it still; cancel it at once if its transaction is over already."""
        if transaction.ended and transaction.outcome is not EndReason.ANSWERED:
            self._abandon(transaction)
            return
        assert self.clock is not None, "a service gives its clock to its transaction user"
        is_invite = request.method == "INVITE"
        seconds = self.invite_timeout if is_invite else self.handler_timeout
        timer = self.clock.callLater(seconds, self._timed_out, transaction)
        self._pending[transaction].timer = timer

    def _timed_out(self, transaction: IServerTransaction) -> None:
        request = transaction.request
        self._handler_timeouts += 1
        if request is not None:
            transaction.outcome = EndReason.HANDLER_TIMEOUT
            transaction.respond(request.response(self.timeout_status(request), rule="handler_timeout"))
        self._abandon(transaction)

    def _finished(self, result: object, transaction: IServerTransaction) -> object:
        """The handler is done; what one that was abandoned still says is dropped in silence."""
        watched = self._pending.pop(transaction, None)
        if watched is None:
            return None
        watched.stop_timer()
        return result

    def _abandon(self, transaction: IServerTransaction) -> None:
        """Cancel the handler of *transaction*, if one is still at it."""
        watched = self._pending.pop(transaction, None)
        if watched is not None:
            watched.stop_timer()
            watched.pending.cancel()


UserAgentServer.__init_subclass__()
