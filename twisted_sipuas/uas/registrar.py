"""`Registrar`: keeps the bindings of addresses-of-record as REGISTER requests ask (RFC 3261, 10.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

from twisted.application.service import IService
from twisted.internet.interfaces import IReactorTime

from twisted_sipuas.deferreds import waited_for
from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.interfaces import IAuthenticator, IBindingStore, IFlow, IServerTransaction
from twisted_sipuas.location.binding import Binding, Limits, Registration, apply, contact_value
from twisted_sipuas.syntax.grammar import format_date
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.uri import SIPURI, address_of_record
from twisted_sipuas.uas import inspection
from twisted_sipuas.uas.datagram import excess
from twisted_sipuas.uas.queues import Queues
from twisted_sipuas.uas.server import UserAgentServer

__all__ = ["Registrar"]


class Registrar(UserAgentServer):
    """A registrar (10.3): changes and lists the bindings in *store*, an `IBindingStore`.

    REGISTERs for one address-of-record are processed in the order received (10.3); each is applied whole or not at
    all, and answered 200 only when the store says that the change will last. *limits* bound the intervals and the
    number of contacts. *authenticator*, *domains* and *clock* are as for `UserAgentServer`. Where the authenticator
    takes its time, the order is that in which it lets them in: else anybody could hold up the REGISTERs of another.
    """

    checks: ClassVar[tuple[inspection.Check, ...]] = (
        inspection.method,
        inspection.request_uri_scheme,
        inspection.request_uri_domain,
        inspection.merged,
        inspection.require,
    )

    supported = ("path",)
    """Path is kept with the bindings and told to callers (RFC 3327)."""

    handler_timeout: ClassVar[float] = 32.0
    """Seconds that a store has; then the client has given up (Timer F), and nothing more is said: see
    `timeout_status`."""

    max_queued: ClassVar[int] = 30
    """REGISTERs that may wait for others of the same address-of-record, or `may_register`; more get 503."""

    max_attempts: ClassVar[int] = 5
    """How often a change is tried when another server changes the same address-of-record; then 503."""

    def __init__(
        self,
        store: IBindingStore,
        *,
        authenticator: IAuthenticator | None = None,
        domains: Iterable[str] = (),
        clock: IReactorTime | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(authenticator=authenticator, domains=domains, clock=clock)
        self.store = store
        self.limits = limits or Limits()
        self._queues = Queues()  # by address-of-record
        self._refused = {"queue_refusals": 0, "race_refusals": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """See `UserAgentServer`."""
        return {**super().counters, **self._refused}

    @property
    def needs_transactions(self) -> bool:
        """True: a retransmission would come as a REGISTER whose CSeq is not higher (8.2.7, 10.3)."""
        return True

    @property
    def services(self) -> tuple[IService, ...]:
        """See `UserAgentServer`; and the store, if it has to be started."""
        return (*super().services, cast(IService, self.store)) if IService.providedBy(self.store) else super().services

    def timeout_status(self, request: Request) -> int:
        """Return 408, which is never sent (RFC 4320): a change on its way may still be made, so nobody is told no."""
        return 408

    def may_register(self, identity: object, uri: SIPURI, request: Request) -> object:
        """Whether *identity* may change and list the bindings of the address-of-record *uri*; else 403 (10.3 step 4).

        Override it, as a plain method or ``async def``, for another policy. By default everybody may whose name, or
        name and domain, are those of *uri*; and where nobody is authenticated, anybody. A name with an ``@`` has its
        domain in it, and is never compared with the user part alone.
        """
        if self.authenticator is None:
            return True
        user, at, _ = (own := address_of_record(uri).removeprefix("sip:")).rpartition("@")
        return bool(at) and (identity == own or (identity == user and "@" not in user))

    async def handle_REGISTER(self, request: Request, transaction: IServerTransaction) -> Response:
        """Steps 4 to 8 of 10.3."""
        uri = _registered(request)
        address = address_of_record(uri)
        if self._queues.length(address) > self.max_queued:
            self._refused["queue_refusals"] += 1
            raise SIPError(503, headers=[("Retry-After", "5")], rule="max_queued")
        place = self._queues.enter(address)
        try:
            verdict: object = self.may_register(transaction.identity, uri, request)
            pending = waited_for(verdict)
            if not (verdict if pending is None else await pending):
                raise SIPError(403, rule="10.3-15")
            if not inspection.is_served(self, uri, transaction.flow):
                raise SIPError(404, rule="10.3-17")
            registration = Registration.from_request(request, self.limits)
            turn = self._queues.turn_of(place)
            if turn is not None:
                await turn
            return await self._register(request, transaction.flow, address, registration)
        finally:
            self._queues.leave(place)

    async def _register(self, request: Request, flow: IFlow, address: str, registration: Registration) -> Response:
        """Steps 6 to 8: change the bindings all at once, and list those that there are now."""
        assert self.clock is not None, "a service gives its clock to its transaction user"
        for _ in range(self.max_attempts):
            found: Any = self.store.bindings(address)
            pending = waited_for(found)
            bindings, version = found if pending is None else await pending
            now = self.clock.seconds()
            changed = apply(registration, bindings, now, self.limits)
            listing = _listing(request, flow, changed, now)
            if changed == bindings:
                return listing
            done: object = self.store.replace(address, version, changed)
            pending = waited_for(done)
            if done if pending is None else await pending:
                return listing
        self._refused["race_refusals"] += 1
        raise SIPError(503, headers=[("Retry-After", "1")], rule="max_attempts")


def _registered(request: Request) -> SIPURI:
    """Step 5: the address-of-record is in To; 10.2 wants a SIP or SIPS URI there."""
    try:
        uri = request.to.uri
    except MessageSyntaxError:
        raise SIPError(400, "Malformed To header field", rule="10.3-16") from None
    if not isinstance(uri, SIPURI):
        raise SIPError(400, "To Is No SIP Address-of-Record", rule="10.3-16")
    return uri


def _listing(request: Request, flow: IFlow, bindings: Iterable[Binding], now: float) -> Response:
    """Return the 200 of step 8; raises `SIPError` if it does not fit into a datagram and would have to."""
    contacts = [contact_value(binding, now) for binding in bindings]
    headers = [("Date", format_date(now))]
    if "Path" in request.headers:  # RFC 3327, 5.3: the 200 has it too
        headers += [("Path", path) for path in request.headers.values("Path")]
    response = request.response(200, contacts=contacts, headers=headers, rule="10.3-41")
    if not flow.is_reliable and excess(response, request, contacts):
        raise SIPError(500, "The Bindings Do Not Fit Into a Datagram", rule="18-5")
    return response
