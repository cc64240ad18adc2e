"""`UserAgentServer`: from a request to the method of yours that answers it (RFC 3261, 8.2 and 11 to 15)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.deferreds import after, begun, waited_for
from twisted_sipuas.errors import SIPError
from twisted_sipuas.interfaces import (
    EndReason,
    IAuthenticator,
    IFlow,
    IRequestSender,
    IServerTransaction,
    ITransactionUser,
)
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.uri import URI, canonical_domain
from twisted_sipuas.uas import inspection
from twisted_sipuas.uas.dialog import Dialog, DialogEnd, check_caller, remote_target
from twisted_sipuas.uas.handlers import HandlersAtWork
from twisted_sipuas.uas.invitation import Invitation
from twisted_sipuas.uas.session import Sessions, no_dialog

__all__ = ["UserAgentServer"]

_PREFIX = "handle_"
_ANSWERED = EndReason.ANSWERED  # before Python 3.12, to name a member by its class takes ten times as long
_COLLECTIONS = ("supported", "accept", "accept_encoding", "accept_language", "required_extensions", "schemes")


@implementer(ITransactionUser)
class UserAgentServer:
    """A transaction user that you subclass: ``handle_METHOD(self, request, transaction)`` answers requests of METHOD.

    A handler is a plain method, one returning a `Deferred`, or ``async def``. It returns the final `Response`
    (``request.response(486)``), or raises `SIPError`, or has answered by ``transaction.respond``. Any other exception
    is logged once and answered 500. Allow, 405 and 501 follow from the handlers that the class has.

    With ``handle_INVITE`` it takes calls. A 2xx to an INVITE makes a `Dialog`, ``transaction.dialog``; the 2xx is
    resent until its ACK comes, BYE is answered, and requests within the dialog reach their handlers with
    ``transaction.dialog`` set; those of a dialog that there is not get 481. `handle_ACK` and `dialog_ended` tell what
    becomes of it.

    *authenticator* is asked who sent a request before anything else, where `needs_authentication` says so. *domains*
    are the domains that are served, besides the server's own addresses; by default any. *clock* gives the time, and is
    the reactor's by default.
    """

    supported: ClassVar[Collection[str]] = ()
    """Option tags that your handlers implement; 420 and Supported follow (8.2.2.3, 20.37)."""

    accept: ClassVar[Iterable[str] | Mapping[str, Iterable[str]] | None] = None
    """Media types of request bodies that your handlers understand, for all methods or by method; 415 and Accept
    follow (8.2.3). None: any."""

    accept_encoding: ClassVar[Collection[str]] = ()
    """Content codings of request bodies that your handlers understand, besides identity; 415 and Accept-Encoding
    follow (8.2.3)."""

    accept_language: ClassVar[Collection[str]] = ()
    """Languages of request bodies that your handlers understand; 415 and Accept-Language follow (8.2.3). Empty: any."""

    required_extensions: ClassVar[Collection[str]] = ()
    """Option tags without which you can serve no request: one that does not support them gets 421 (8.2.4).

    Within a dialog they are not asked for again."""

    schemes: ClassVar[Collection[str]] = ("sip", "sips", "tel")
    """URI schemes served in the Request-URI; others get 416 (8.2.2.1)."""

    authenticated_methods: Collection[str] | None = None
    """The methods that the authenticator is asked about; None: all of them. Never ACK and CANCEL (22.1)."""

    authenticates_in_dialogs: ClassVar[bool] = False
    """Whether the authenticator is asked about requests in a dialog too; who made that was let in, and it is known by a
    tag that nobody can guess."""

    checks: ClassVar[tuple[inspection.Check, ...]] = (
        inspection.method,
        inspection.request_uri_scheme,
        inspection.request_uri_domain,
        inspection.request_uri_user,
        inspection.merged,
        inspection.require,
        inspection.content_type,
        inspection.acceptable,
        inspection.extensions,
    )
    """What a request has to pass before its handler is called, in the order of 8.2."""

    invite_timeout: ClassVar[float] = 180.0
    """Seconds a handler has for an INVITE; then the answer is 480 and the handler is cancelled.

    An Expires of less counts, and then the answer is 487 (13.3.1). What a handler does behind its answer it does within
    the same time, and goes on with though the caller hangs up: `dialog_ended` is what tells that."""

    handler_timeout: ClassVar[float] = 30.0
    """Seconds a handler has for any other request, less than its client waits; then the answer is 504."""

    max_dialogs: int = 10_000
    """Calls at a time; an INVITE beyond gets 503."""

    max_call_time: float = 7200.0
    """Seconds that a call may last; then it is ended by BYE."""

    allow: tuple[str, ...] = ()
    supported_tags: frozenset[str] = frozenset()
    _handlers: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls._handlers = handlers = {name[len(_PREFIX) :]: name for name in dir(cls) if name.startswith(_PREFIX)}
        _check_definition(cls, handlers)
        methods = set(handlers) - {"ACK"}  # which is answered by nobody
        if "INVITE" in methods:
            methods |= {"ACK", "CANCEL"}  # 20.5: they are understood too
        elif cls.handle_BYE is UserAgentServer.handle_BYE:
            methods.discard("BYE")  # there is no call to end
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
        self.clock: IReactorTime = clock  # type: ignore[assignment]  # until a service gives its own, by `use_clock`
        self._calls = Sessions(self) if "INVITE" in self._handlers else None
        self._at_work = HandlersAtWork(self, self._calls)

    @property
    def needs_transactions(self) -> bool:
        """Whether it cannot be run stateless, since a retransmission is not the same to it again (8.2.7)."""
        return False

    @property
    def services(self) -> tuple[IService, ...]:
        """What has to be started before this transaction user, and stopped after it: those of its authenticator."""
        return tuple(self._of_authenticator("services", ()))

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of what this server's bounds did, and of what is at work now."""
        calls = {} if self._calls is None else self._calls.counters
        asked = {f"authentication_{name}": value for name, value in self._of_authenticator("counters", {}).items()}
        return {**self._at_work.counters, **calls, **asked}

    @property
    def description(self) -> str:
        """One phrase for logs."""
        return type(self).__qualname__

    def use_clock(self, clock: IReactorTime) -> None:
        """Take the time from *clock*, unless one was given already; a service gives its own."""
        if self.clock is None:
            self.clock = clock
        self._of_authenticator("use_clock", lambda clock: None)(clock)

    def use_sender(self, sender: IRequestSender) -> None:
        """Send BYE by *sender*; a service gives itself."""
        if self._calls is not None:
            self._calls.sender = sender

    def end_calls(self) -> Deferred[None]:
        """End every call by BYE; the `Deferred` fires when there is none. To cancel it is to forget those left."""
        return succeed(None) if self._calls is None else self._calls.end_all()

    def is_in_dialog(self, request: Request) -> bool:
        """Whether *request* is in a dialog that stands; a service takes it even when it has too much to do.

        A call stands once its ACK has come: anybody can make one that has none, and under any address.
        """
        if self._calls is not None and self._calls.is_in_call(request):
            return True
        return request.to.tag is not None and self.knows_dialog(request)

    # ITransactionUser

    def request_received(self, request: Request, transaction: IServerTransaction) -> Deferred[None] | None:
        """See `ITransactionUser`."""
        if self._calls is not None:
            return self._call_request_received(request, transaction, self._calls)
        return self._begin(request, transaction, transaction)

    def ack_received(self, ack: Request, flow: IFlow) -> object:
        """See `ITransactionUser`; an ACK for nothing that we know is met with silence."""
        calls = self._calls
        dialog = None if calls is None else calls.ack_received(ack, flow)
        return None if calls is None or dialog is None else calls.hooks.run(self.handle_ACK, ack, dialog)

    def transaction_cancelled(self, transaction: IServerTransaction) -> None:
        """Answer the INVITE 487 and cancel its handler (9.2)."""
        self._at_work.refuse(transaction, "9.2-6")

    def transaction_ended(self, transaction: IServerTransaction, reason: EndReason) -> None:
        """Cancel the handler, if the transaction ended before its answer; what it does behind that is its own."""
        if reason is not _ANSWERED:
            self._at_work.cancel(transaction)

    def refuse_pending(self, transaction: IServerTransaction) -> None:
        """Answer a request of a dialog that is over 487, and cancel its handler (15.1.2)."""
        self._at_work.refuse(transaction, "15.1.2-8")

    # For subclasses

    def needs_authentication(self, request: Request, flow: IFlow) -> bool:
        """Whether the authenticator is to be asked about *request*; override for another policy (22.1).

        By default it is about all of the `authenticated_methods` but OPTIONS for the server itself, and about requests
        in a dialog only if the server `authenticates_in_dialogs`.
        """
        methods = self.authenticated_methods
        return (methods is None or request.method in methods) and not inspection.is_for_server(request)

    def serves_user(self, uri: URI) -> bool:
        """Whether there is such a user as the Request-URI *uri* names; override to have others answered 404."""
        return True

    def admit(self, request: Request) -> object:
        """Whether a call would be taken: asked for an INVITE, and for OPTIONS, which tells that (11.2).

        Override it, as a plain method or ``async def``: False refuses with 486, and `SIPError` with its status.
        """
        return True

    def knows_dialog(self, request: Request) -> bool:
        """Whether *request*, which has a To tag, is of a dialog that this server does not keep itself (12.2.2).

        Of one that your handlers made, say for SUBSCRIBE, or that was made before a restart. Otherwise it gets 481.
        """
        return False

    def handle_ACK(self, ack: Request, dialog: Dialog) -> object:
        """The ACK for the 2xx to an INVITE came, the first one: *dialog* stands (13.3.1.4).

        It may be ``async def``, and has `handler_timeout`; so has `dialog_ended`. The service's end waits for them.
        """

    def dialog_ended(self, dialog: Dialog, reason: DialogEnd) -> object:
        """The call of *dialog*, which was confirmed, is over."""

    def handler_name(self, method: str) -> str:
        """Return what logs call the handler of *method*."""
        return f"{type(self).__qualname__}.{self._handlers.get(method, 'handle')}"

    def handle(self, request: Request, transaction: IServerTransaction) -> object:
        """Return what the handler of the request's method returns; every check has been passed."""
        return getattr(self, self._handlers[request.method])(request, transaction)

    def handle_OPTIONS(self, request: Request, transaction: IServerTransaction) -> object:
        """Tell what this server can do, with the status that an INVITE would have got (11.2)."""
        if self._calls is None or transaction.dialog is not None:
            return self._options(request, transaction)
        return self._if_admitted(self._calls, request, transaction, self._options)

    def handle_BYE(self, request: Request, transaction: IServerTransaction) -> object:
        """Answer a BYE, whose dialog is over already (15.1.2); it is served by a class that takes calls."""
        return request.response(200, rule="15.1.2-5")

    def capabilities(self, request: Request, transaction: IServerTransaction) -> bytes:
        """Return the session description for the 200 to OPTIONS, ``application/sdp``; by default none (11.2).

        It is asked for only if the request takes that type.
        """
        return b""

    def accepted_types(self, method: str) -> tuple[str, ...] | None:
        """Return the media types that the handler of *method* understands, or None if it takes any."""
        accept = self.accept
        if isinstance(accept, Mapping):
            accept = accept.get(method)
        return None if accept is None else tuple(accept)

    def timeout_status(self, request: Request) -> int:
        """Return the status that *request* gets when its handler has taken too long."""
        return 480 if request.method == "INVITE" else 504

    def _of_authenticator(self, name: str, default: Any) -> Any:
        """Return what the authenticator has as *name*; a server that is its own has it already."""
        authenticator: Any = self.authenticator
        return default if authenticator is self else getattr(authenticator, name, default)

    # How an answer comes about

    def _call_request_received(
        self, request: Request, transaction: IServerTransaction, calls: Sessions
    ) -> Deferred[None] | None:
        """Take a request of a server that takes calls: it may be in a dialog, or make one."""
        transaction.dialog = calls.dialog_of(request)
        if request.method != "INVITE":
            return self._begin(request, transaction, transaction)
        invitation = Invitation(transaction, calls, self)
        try:
            pending = self._begin(request, transaction, invitation)
        except BaseException:
            invitation.close()
            raise
        if pending is not None:
            pending.addErrback(_closing, invitation)
        return pending

    def _begin(
        self, request: Request, transaction: IServerTransaction, shown: IServerTransaction
    ) -> Deferred[None] | None:
        """Have *request* answered; *shown* is what its handler sees of *transaction*."""
        asks = self.authenticator is not None and (transaction.dialog is None or self.authenticates_in_dialogs)
        if asks and self.needs_authentication(request, transaction.flow):
            answer = self._authenticate(request, shown)
        else:
            answer = self._inspect_and_handle(request, shown)
        answer = begun(answer)
        pending = waited_for(answer)
        if pending is None:
            self._answer(answer, request, shown)
            return None
        return self._at_work.wait_for(pending, request, transaction, shown).addCallback(self._answer, request, shown)

    def _inspect_and_handle(self, request: Request, transaction: IServerTransaction) -> object:
        for check in self.checks:
            check(self, request, transaction)
        calls = self._calls
        if calls is not None:
            dialog = transaction.dialog
            if dialog is not None:
                if request.method == "INVITE" and request.contacts:
                    remote_target(request)
                calls.check_order(request, dialog, transaction.flow)
                if request.method == "BYE":
                    calls.bye_received(request, dialog)
                elif isinstance(transaction, Invitation):
                    transaction.take_place()
            elif request.to.tag is not None or request.method == "BYE":
                if not self.knows_dialog(request):
                    raise no_dialog(request)
                if isinstance(transaction, Invitation):
                    check_caller(request)
                    calls.check_room()
                    transaction.take_place()
            elif request.method == "INVITE":
                check_caller(request)
                return self._if_admitted(calls, request, transaction, self.handle)
        return self.handle(request, transaction)

    def _if_admitted(
        self,
        calls: Sessions,
        request: Request,
        transaction: IServerTransaction,
        handle: Callable[[Request, IServerTransaction], object],
    ) -> object:
        """Return what *handle* returns, if a call would be taken; a coroutine only if `admit` makes us wait."""
        calls.check_room()
        if isinstance(transaction, Invitation):
            transaction.take_place()

        def go_on(verdict: object) -> object:
            if not verdict:
                raise SIPError(486, rule="13.3.1.3-1")
            return handle(request, transaction)

        verdict = self.admit(request)
        pending = waited_for(verdict)
        return go_on(verdict) if pending is None else after(pending, go_on)

    def _options(self, request: Request, transaction: IServerTransaction) -> Response:
        """Return the 200 to OPTIONS (11.2)."""
        accepted = self.accepted_types("INVITE")
        headers = [
            ("Allow", ", ".join(self.allow)),
            ("Accept", "*/*" if accepted is None else ", ".join(accepted)),
            ("Accept-Encoding", inspection.encodings(self)),
            ("Accept-Language", inspection.languages(self)),
            ("Supported", ", ".join(self.supported)),
        ]
        body, content_type = b"", "application/sdp"
        if self._calls is not None and inspection.accepts(request, (content_type,)):
            body = self.capabilities(request, transaction)
        return request.response(
            200, headers=headers, body=body, content_type=content_type if body else None, rule="11.2-1"
        )

    def _authenticate(self, request: Request, transaction: IServerTransaction) -> object:
        """Ask who sent *request*, and go on with it; a challenge is raised here and now, if nothing is waited for."""

        def go_on(identity: object) -> object:
            transaction.identity = identity
            return self._inspect_and_handle(request, transaction)

        assert self.authenticator is not None, "somebody is there to be asked"
        identity = self.authenticator.authenticate(request, transaction)
        pending = waited_for(identity)
        return go_on(identity) if pending is None else after(pending, go_on)

    def _answer(self, answer: object, request: Request, transaction: IServerTransaction) -> None:
        """Send what a handler returned; the layer answers 500 for what is no answer."""
        if isinstance(answer, Response):
            if answer.status < 200:
                raise TypeError(
                    f"{self.handler_name(request.method)} returned {answer!r}; a provisional response is for respond()"
                )
            if not answer.is_for(request):
                raise TypeError(f"{self.handler_name(request.method)} returned {answer!r}, made of another request")
            transaction.respond(answer)
        elif answer is not None:
            raise TypeError(f"{self.handler_name(request.method)} returned {type(answer).__name__}, not a Response")
        elif transaction.request is not None:
            raise TypeError(f"{self.handler_name(request.method)} returned None and has not answered")


def _check_definition(cls: type[UserAgentServer], handlers: Iterable[str]) -> None:
    """Raise `TypeError` for what cannot be meant in the class *cls*, which has *handlers* for those methods."""
    for method in handlers:
        name = f"{cls.__qualname__}.{_PREFIX}{method}"
        if method == "CANCEL":
            raise TypeError(f"{name} would never be called: a CANCEL has the handler of its INVITE cancelled (9.2)")
        if not method or method != method.upper():
            raise TypeError(f"{name} would be called for a method {method}, as it came from the network: rename it")
    accept = cls.accept
    values = {name: getattr(cls, name) for name in _COLLECTIONS}
    values.update(
        {f"accept[{method!r}]": types for method, types in accept.items()} if isinstance(accept, Mapping) else {}
    )
    for name, value in values.items():
        if isinstance(value, str):
            raise TypeError(f"{cls.__qualname__}.{name} is a text: expected a tuple, as in ({value!r},)")


def _closing(failure: Failure, invitation: Invitation) -> Failure:
    """The INVITE is refused for what was raised: end what it has begun, and let the layer answer."""
    invitation.close()
    return failure


UserAgentServer.__init_subclass__()
