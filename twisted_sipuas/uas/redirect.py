"""`RedirectServer`: answers requests with where to go instead (RFC 3261, 8.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, cast

from twisted.application.service import IService
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from twisted_sipuas.deferreds import bounded, waited_for
from twisted_sipuas.errors import SIPError, UnavailableError
from twisted_sipuas.interfaces import EndReason, IAuthenticator, IFlow, ILocationService, IServerTransaction
from twisted_sipuas.location.target import Redirection, Target
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import KNOWN_METHODS, Request, Response
from twisted_sipuas.syntax.uri import SIPURI, URI, canonical_host
from twisted_sipuas.uas import inspection
from twisted_sipuas.uas.datagram import excess, shorten
from twisted_sipuas.uas.registrar import Registrar
from twisted_sipuas.uas.server import UserAgentServer

__all__ = ["RedirectServer"]

_log = Logger()

_COUNTED_TWICE = "registrar_authentication_"


class RedirectServer(UserAgentServer):
    """A redirect server (8.3): looks the Request-URI up in *locations*, in order, and answers with what it finds.

    Methods and Require tags that it does not know are redirected all the same (8.3). REGISTER goes to *registrar*, or
    gets 405 if there is none; a registrar without an authenticator gets that of this server. OPTIONS for the server
    itself, one whose Request-URI has no user part, gets 200.

    *redirect_status* is the status of a `Redirection` that names none: 300, 301 or 302, or None for 302 with one
    target and 300 with several. At most *max_targets* are named, those of the highest q first. *authenticator*,
    *domains* and *clock* are as for `UserAgentServer`.

    A look-up that takes longer than *lookup_timeout* seconds is cancelled, and the answer is 504; one of a location
    service that has a ``lookup_timeout`` of its own is left to it. A look-up that fails is the answer (504, 503, 500),
    unless *asks_next_on_failure*: then the next service is asked, and the failure is the answer only if none of those
    knows. A CANCEL, or the end of the connection that the request came on, cancels the look-up.
    """

    # 8.3: features that are not understood are ignored, even methods. What cannot be looked up is refused even so.
    # 8.2.2.2 is not for it: the branches of a forked request may all be redirected, and each to somewhere else.
    checks: ClassVar[tuple[inspection.Check, ...]] = (inspection.request_uri_scheme, inspection.request_uri_domain)

    def __init__(
        self,
        locations: Iterable[ILocationService],
        *,
        registrar: Registrar | None = None,
        authenticator: IAuthenticator | None = None,
        domains: Iterable[str] = (),
        clock: IReactorTime | None = None,
        redirect_status: int | None = 302,
        max_targets: int = 10,
        lookup_timeout: float = 2.0,
        asks_next_on_failure: bool = False,
    ) -> None:
        super().__init__(authenticator=authenticator, domains=domains, clock=clock)
        if redirect_status not in (None, 300, 301, 302):
            raise ValueError(f"redirect_status is 300, 301, 302 or None, not {redirect_status}")
        self.locations: Sequence[ILocationService] = tuple(locations)
        self.registrar = registrar
        if registrar is not None and registrar.authenticator is None:
            registrar.authenticator = authenticator
        self.redirect_status = redirect_status
        self.max_targets = max_targets
        self.lookup_timeout = lookup_timeout
        self.asks_next_on_failure = asks_next_on_failure
        self._lookups = {"lookup_timeouts": 0, "lookup_failures": 0, "lookups_given_up": 0}
        methods = {*KNOWN_METHODS} - ({"REGISTER"} if registrar is None else set())
        self.allow = tuple(sorted(methods))

    @property
    def counters(self) -> Mapping[str, int]:
        """See `UserAgentServer`; with those of the registrar and of the location services that have some.

        ``lookup_timeouts`` counts the look-ups that took too long, ``lookup_failures`` all that failed, and
        ``lookups_given_up`` those whose caller's connection ended.
        """
        counters = {**super().counters, **self._lookups}
        if self.registrar is not None:
            counters.update({f"registrar_{name}": value for name, value in self.registrar.counters.items()})
            if self.registrar.authenticator is self.authenticator:  # which has counted for both
                counters = {name: value for name, value in counters.items() if not name.startswith(_COUNTED_TWICE)}
        for number, location in enumerate(self.locations, 1):
            held = getattr(location, "counters", {})
            counters.update({f"location_{number}_{name}": value for name, value in held.items()})
        return counters

    @property
    def needs_transactions(self) -> bool:
        """Whether it is a registrar too; that one cannot be stateless (8.2.7)."""
        return self.registrar is not None

    @property
    def services(self) -> tuple[IService, ...]:
        """What has to be started, each once: the registrar may share its store and authenticator with this server."""
        registrar = () if self.registrar is None else self.registrar.services
        locations = (location for location in self.locations if IService.providedBy(location))
        return tuple(dict.fromkeys((*super().services, *locations, *registrar)))

    def request_received(self, request: Request, transaction: IServerTransaction) -> Deferred[None] | None:
        """See `ITransactionUser`."""
        if request.method == "REGISTER" and self.registrar is not None:
            return self.registrar.request_received(request, transaction)
        return super().request_received(request, transaction)

    def transaction_ended(self, transaction: IServerTransaction, reason: EndReason) -> None:
        """Cancel the look-up or the registration, if the transaction ended before it."""
        super().transaction_ended(transaction, reason)
        if self.registrar is not None:
            self.registrar.transaction_ended(transaction, reason)

    @property
    def description(self) -> str:
        """One phrase for logs: the location services in the order asked, and where REGISTER goes."""
        asked = ", then ".join(location.description for location in self.locations) or "no location service"
        stored = f"stored in {self.registrar.store.description}" if self.registrar else "refused"
        return f"redirecting to what {asked} says; REGISTER is {stored}"

    def use_clock(self, clock: IReactorTime) -> None:
        """See `UserAgentServer.use_clock`; the registrar's is the same."""
        super().use_clock(clock)
        if self.registrar is not None:
            self.registrar.use_clock(clock)

    def handle(self, request: Request, transaction: IServerTransaction) -> object:
        """Redirect *request*, or answer it where it is for the server itself."""
        if inspection.is_for_server(request):
            return self.handle_OPTIONS(request, transaction)
        if request.method == "REGISTER":
            raise SIPError(405, headers=[("Allow", ", ".join(self.allow))], rule="8.2.1-2")
        return self._look_up(request, transaction.flow, 0, None)

    def _look_up(self, request: Request, flow: IFlow, first: int, failure: Exception | None) -> object:
        """Ask the location services from the one numbered *first* on; a coroutine only if one makes us wait.

        *failure* is why one before could not tell.
        """
        for number in range(first, len(self.locations)):
            location = self.locations[number]
            try:
                found: Any = location.lookup(request.uri, request)
                pending = None if found is None or isinstance(found, Redirection) else _pending(found)
            except Exception as error:
                failure = self._failed(location, error)
                continue
            if pending is not None:
                return self._await_look_up(pending, request, flow, number, failure)
            if found is not None:
                return self._redirect(request, flow, found)
        raise failure or SIPError(404, rule="8.3-2")

    async def _await_look_up(
        self, pending: Deferred[Any], request: Request, flow: IFlow, number: int, failure: Exception | None
    ) -> object:
        location = self.locations[number]
        assert self.clock is not None, "a service gives its clock to its transaction user"
        is_left_to_it = getattr(location, "lookup_timeout", None) is not None
        waiting = bounded(pending, self.clock, None if is_left_to_it else self.lookup_timeout)
        closed = cast("Deferred[None]", flow.when_closed())
        closed.addCallbacks(lambda _: waiting.cancel(), lambda _: None)
        try:
            found = await waiting
            if not (found is None or isinstance(found, Redirection)):
                raise _wrong(found)
        except CancelledError:
            if not closed.called:
                raise
            self._lookups["lookups_given_up"] += 1
            raise SIPError(503, rule="connection closed") from None
        except TimeoutError:
            self._lookups["lookup_timeouts"] += 1
            failure = self._failed(location, UnavailableError(status=504, rule="lookup_timeout"))
            found = None
        except Exception as error:
            failure = self._failed(location, error)
            found = None
        finally:
            closed.cancel()
        if found is not None:
            return self._redirect(request, flow, found)
        answer = self._look_up(request, flow, number + 1, failure)
        later = waited_for(answer)
        return answer if later is None else await later

    def _failed(self, location: ILocationService, error: Exception) -> Exception:
        """Raise *error*, why *location* gave no answer; or return it, if the next one is to be asked all the same."""
        if isinstance(error, SIPError) and not isinstance(error, UnavailableError):
            raise error
        self._lookups["lookup_failures"] += 1
        if not self.asks_next_on_failure:
            raise error
        if not isinstance(error, UnavailableError):
            _log.failure("{what} failed, and the next one is asked", Failure(error), what=location.description)
        return error

    def _redirect(self, request: Request, flow: IFlow, found: Redirection) -> Response:
        """Return the 3xx that names as many of the targets *found*, those of the highest q first, as it may."""
        targets = [target for target in found.targets if _is_fit(target, request.uri)]
        if not targets:
            raise SIPError(404, rule="8.3-9")
        if len(targets) > 1:
            targets.sort(key=_preference, reverse=True)
            del targets[self.max_targets :]
        contacts = [str(target) for target in targets]
        while contacts:
            status = found.status or self.redirect_status or (302 if len(contacts) == 1 else 300)
            response = request.response(status, contacts=contacts, headers=found.headers, rule="8.3-6")
            added = [*contacts, *chain.from_iterable(found.headers)] if found.headers else contacts
            octets = 0 if flow.is_reliable else excess(response, request, added)
            if not octets:
                return response
            shorten(contacts, octets)
        raise SIPError(500, "The Targets Do Not Fit Into a Datagram", rule="18-5")


def _pending(found: object) -> Deferred[Any]:
    """Return the `Deferred` of what is *found*; raises `TypeError` for what a location service must not return."""
    pending = waited_for(found)
    if pending is None:
        raise _wrong(found)
    return pending


def _wrong(found: object) -> TypeError:
    return TypeError(f"a location service returned {type(found).__name__}, not a Redirection")


def _is_fit(target: Target, request_uri: URI) -> bool:
    """Whether a request for *request_uri* may be sent to *target*: not where it was (8.3), nor to less security."""
    if request_uri.scheme == "sip" and isinstance(request_uri, SIPURI):
        host = canonical_host(request_uri.host)
        if host[0] != "[" and host not in target.uri_text.lower():
            return True  # to another host, as nearly always: to parse where to would take as long as the look-up
    uri = target.uri
    if isinstance(uri, SIPURI) and request_uri.scheme == "sips" and uri.scheme != "sips":
        return False
    return not request_uri.equivalent(uri)


def _preference(target: Target) -> float:
    return 1.0 if target.q is None else target.q
