"""How is a location service asked that may be slow, or down? With a deadline, a cache, and a rest when it fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, cast

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.deferreds import bounded, waited_for
from twisted_sipuas.errors import SIPError, UnavailableError
from twisted_sipuas.interfaces import IBindingStore, ILocationService
from twisted_sipuas.location.answers import Answers
from twisted_sipuas.location.target import Redirection
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import URI

__all__ = ["CircuitBreaker", "GuardedBindingStore", "GuardedLocationService", "guarded"]

_log = Logger()


class CircuitBreaker:
    """Leaves what keeps failing alone for a while, so that nobody waits for it and it can recover.

    After *max_failures* in a row it opens: nothing is let through for *rest* seconds. Then one try, the trial, is; if
    that fails too, the next rest is twice as long, *max_rest* at most. If it succeeds, the breaker closes.

    Whoever makes a try says how it went: `succeeded`, `failed` or `given_up`, with what `admit` returned for it. What
    was begun before the breaker opened says nothing about the time after that, and does not count.
    """

    __slots__ = (
        "_clock",
        "_failures",
        "_is_on_trial",
        "_max_failures",
        "_max_rest",
        "_next_rest",
        "_rest",
        "_round",
        "_until",
    )

    def __init__(
        self, clock: IReactorTime, *, max_failures: int = 5, rest: float = 1.0, max_rest: float = 30.0
    ) -> None:
        self._clock = clock
        self._max_failures = max_failures
        self._rest = rest
        self._max_rest = max_rest
        self._next_rest = rest
        self._failures = 0
        self._until: float | None = None
        self._is_on_trial = False
        self._round = 1  # of tries: another begins with each trial, and ends as the breaker opens

    @property
    def is_open(self) -> bool:
        """Whether it has opened, and no success has closed it again."""
        return self._until is not None

    def admit(self) -> int:
        """Return the number of the round that a try made now belongs to; 0 if none may be made."""
        if self._until is None:
            return self._round
        if self._is_on_trial or self._clock.seconds() < self._until:
            return 0
        self._is_on_trial = True
        self._round += 1
        return self._round

    def succeeded(self, number: int) -> None:
        """A try of the round *number* went well."""
        if number == self._round:
            self._failures = 0
            self._until = None
            self._next_rest = self._rest
            self._is_on_trial = False

    def failed(self, number: int) -> None:
        """A try of the round *number* failed."""
        if number != self._round:
            return
        self._failures += 1
        if self._is_on_trial or self._failures >= self._max_failures:
            self._until = self._clock.seconds() + self._next_rest
            self._next_rest = min(2 * self._next_rest, self._max_rest)
            self._is_on_trial = False
            self._round += 1

    def given_up(self, number: int) -> None:
        """A try of the round *number* was given up by who made it, which tells nothing."""
        if number == self._round:
            self._is_on_trial = False


@implementer(ILocationService)
class GuardedLocationService(Service):
    """Asks *service*, an `ILocationService`, with a deadline, a cache and a `CircuitBreaker`.

    A look-up that takes longer than *lookup_timeout* seconds is cancelled and fails with `UnavailableError` 504. With
    *cache*, the answer for a Request-URI, a refusal or nothing too, is given again for so many seconds, whatever else
    the request says, within the bounds of `Answers`; an ``expires`` that has run down is told as it is. A service that
    has failed too often in a row is not asked for a while: then a look-up fails with 503 at once. That does not count
    an `UnavailableError` raised at once, not by way of a `Deferred`: a service that knows that it is down is not
    spared.

    It is started and stopped with *service*, where that is a service.
    """

    def __init__(
        self,
        service: ILocationService,
        clock: IReactorTime,
        *,
        lookup_timeout: float = 2.0,
        cache: float = 0.0,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self.service = service
        self.lookup_timeout = lookup_timeout
        self.cache = cache
        self._clock = clock
        self._breaker = breaker or CircuitBreaker(clock)
        self._answers = Answers(clock, cache)
        self._counters = {"timeouts": 0, "failures": 0, "not_asked": 0, "cache_hits": 0}

    @property
    def description(self) -> str:
        """That of the service."""
        description: str = self.service.description
        return description

    @property
    def counters(self) -> Mapping[str, int]:
        """Those of the service, and how many look-ups took too long (``timeouts``), failed (these included), were
        not made since too many had failed (``not_asked``), and were answered as before (``cache_hits``).
        """
        inner: Mapping[str, int] = getattr(self.service, "counters", {})
        return MappingProxyType({**inner, **self._counters, "cached": len(self._answers)})

    def lookup(self, request_uri: URI, request: Request) -> Redirection | Deferred[Any] | None:
        """See `ILocationService`."""
        if not self.cache:
            return cast("Redirection | Deferred[Any] | None", self._ask_service(request_uri, request))
        known = self._answers.get(request_uri)
        if known is not None:
            self._counters["cache_hits"] += 1
            return _given(known.found)
        try:
            found = self._ask_service(request_uri, request)
        except SIPError as refusal:
            self._refused(request_uri, Failure(refusal))
            raise
        if isinstance(found, Deferred):
            return found.addCallbacks(partial(self._keep, request_uri), partial(self._refused, request_uri))
        return self._keep(request_uri, cast("Redirection | None", found))

    def _ask_service(self, request_uri: URI, request: Request) -> object:
        return self._asked(self.lookup_timeout, self.service.lookup, request_uri, request)

    def _asked(self, timeout: float | None, function: Any, *arguments: object) -> Any:
        """Return what *function* returns, or a `Deferred` of it that fails after *timeout* seconds, if not None."""
        number = self._breaker.admit()
        if not number:
            self._counters["not_asked"] += 1
            raise UnavailableError(rule="circuit breaker")
        try:
            found = function(*arguments)
        except UnavailableError:
            # It knows itself that it is down, and nobody waited for that: there is nothing to spare, and to leave it
            # alone would only keep it away when it is back.
            self._counters["failures"] += 1
            self._breaker.given_up(number)
            raise
        except BaseException as error:
            self._note(number, error)
            raise
        pending = waited_for(found)
        if pending is None:
            self._note(number, None)
            return found
        return Deferred.fromCoroutine(self._waited(number, pending, timeout))

    async def _waited(self, number: int, pending: Deferred[Any], timeout: float | None) -> Any:
        try:
            found = await bounded(pending, self._clock, timeout)
        except TimeoutError as error:
            self._counters["timeouts"] += 1
            self._note(number, error)
            raise UnavailableError(status=504, rule="lookup_timeout") from None
        except (CancelledError, GeneratorExit):
            self._breaker.given_up(number)
            raise
        except BaseException as error:
            self._note(number, error)
            raise
        self._note(number, None)
        return found

    def _note(self, number: int, error: BaseException | None) -> None:
        """Count how a try of the round *number* went, and log when the service begins and ceases to be left alone."""
        breaker = self._breaker
        was_open = breaker.is_open
        if error is None or (isinstance(error, SIPError) and not isinstance(error, UnavailableError)):
            breaker.succeeded(number)
        else:
            self._counters["failures"] += 1
            if isinstance(error, UnavailableError) and error.status == 500:
                breaker.succeeded(number)  # it answers, if wrongly, and to others perhaps rightly
            else:
                breaker.failed(number)
        if breaker.is_open and not was_open:
            why = f"{error} ({error.rule})" if isinstance(error, UnavailableError) and error.rule else error
            _log.error("{what} fails and is left alone for a while: {why}", what=self.description, why=why)
        elif was_open and not breaker.is_open:
            _log.info("{what} answers again", what=self.description)

    def _keep(self, request_uri: URI, found: Redirection | None) -> Redirection | None:
        """Remember *found* as the answer for *request_uri*, if it is one."""
        if found is None or isinstance(found, Redirection):
            self._answers.keep(request_uri, found)
        return found

    def _refused(self, request_uri: URI, failure: Failure) -> Failure:
        refusal = failure.value
        if isinstance(refusal, SIPError) and not isinstance(refusal, UnavailableError):
            self._answers.keep(request_uri, _anew(refusal))
        return failure

    def reload(self) -> None:
        """Have the service reload, if it can; what was answered before is still kept for its time."""
        getattr(self.service, "reload", lambda: None)()

    # IService

    def privilegedStartService(self) -> None:
        """Do the same to the service."""
        super().privilegedStartService()
        if IService.providedBy(self.service):
            self.service.privilegedStartService()

    def startService(self) -> None:
        """Start the service."""
        if IService.providedBy(self.service):
            self.service.startService()
        super().startService()

    def stopService(self) -> Deferred[Any]:
        """Stop the service; what was kept is forgotten."""
        super().stopService()
        self._answers.clear()
        return maybeDeferred(self.service.stopService if IService.providedBy(self.service) else lambda: None)


@implementer(IBindingStore)
class GuardedBindingStore(GuardedLocationService):
    """The same for an `IBindingStore`: reading bindings has the deadline too.

    A change has none: one that is given up may be made all the same, and nobody could tell the client either way. What
    was kept of its address-of-record is forgotten with it.
    """

    service: IBindingStore

    @property
    def is_shared(self) -> bool:
        """See `IBindingStore`."""
        return getattr(self.service, "is_shared", False)

    def bindings(self, address_of_record: str) -> object:
        """See `IBindingStore`."""
        return self._asked(self.lookup_timeout, self.service.bindings, address_of_record)

    def replace(self, address_of_record: str, version: object, bindings: Iterable[Any]) -> object:
        """See `IBindingStore`."""
        done = self._asked(None, self.service.replace, address_of_record, version, bindings)
        if isinstance(done, Deferred):
            return done.addBoth(self._changed, address_of_record)
        return self._changed(done, address_of_record)

    def _changed(self, result: object, address_of_record: str) -> object:
        """Forget what was answered about *address_of_record*: it is another now, or may be."""
        self._answers.forget(address_of_record)
        return result


def guarded(
    service: ILocationService, clock: IReactorTime, *, lookup_timeout: float = 2.0, cache: float = 0.0
) -> GuardedLocationService:
    """Return *service* guarded; the result stores bindings if *service* does."""
    kind = GuardedBindingStore if IBindingStore.providedBy(service) else GuardedLocationService
    return kind(service, clock, lookup_timeout=lookup_timeout, cache=cache)


def _given(found: Redirection | SIPError | None) -> Redirection | None:
    """Return *found*, or raise the refusal that it is, anew: each has a traceback of its own."""
    if isinstance(found, SIPError):
        raise _anew(found)
    return found


def _anew(refusal: SIPError) -> SIPError:
    return SIPError(refusal.status, refusal.reason, refusal.headers, refusal.rule)
