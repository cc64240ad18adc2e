"""`HTTPLocationService`: where a user can be reached, as an HTTP server of the operator's says; see `json_lookup`."""

from __future__ import annotations

import importlib
import json
import re
from base64 import b64encode
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, succeed
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IConsumer, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from twisted_sipuas.errors import UnavailableError
from twisted_sipuas.interfaces import ILocationService
from twisted_sipuas.location.json_lookup import answer, question
from twisted_sipuas.location.target import Redirection
from twisted_sipuas.logs import Logger
from twisted_sipuas.option_values import taken, whole_number
from twisted_sipuas.paths import content
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import URI

__all__ = ["HTTPLocationService", "make"]

_log = Logger()

_IDLE_TIME = 30  # seconds that a connection is kept for another request
_MAX_CONNECTIONS = 1000
_REPEAT_TIME = 300.0  # seconds until the same fault is logged again
_MAX_FAULTS = 50  # that are remembered as logged
_NOT_NOW = (408, 429)  # besides 500 and above: a status that says nothing about the request
_JSON = re.compile(rb"application/(?:[a-z0-9.+-]+\+)?json[ \t]*(?:;.*)?", re.IGNORECASE | re.DOTALL)


class _Reply(NamedTuple):
    """What came back from the router."""

    code: int
    media_type: bytes
    octets: bytes


class _URL(NamedTuple):
    """A URL taken apart."""

    text: str
    """The URL to ask, without user name and password."""
    description: str
    """The same without the query too, for logs."""
    authorization: bytes | None
    """The value of an Authorization header field from user name and password, if there are any (RFC 7617)."""


@implementer(ILocationService)
class HTTPLocationService(Service):
    """Posts what a request is about to *url* as JSON, and takes the answer: `json_lookup` has both.

    A 200 with JSON is the answer, a 204 says that the user is not known. A router that cannot be reached, or answers
    408, 429 or 500 and above, gives `UnavailableError` 503; any other answer is a fault of its own, is logged, the same
    one every five minutes at most, and gives 500. Redirects are not followed, cookies not kept, and a question that a
    closing connection swallowed is asked once more.

    *headers* are names of header fields of the request to tell of. *token* is a bearer token (RFC 6750). *trust_root*
    says whose certificates are trusted, by default the system's. Of *connections* each has one request at a time, and
    is kept open for another; more requests wait for their turn.
    """

    max_answer: ClassVar[int] = 65_536
    """Octets of an answer; the connection of one that is longer is closed."""

    def __init__(
        self,
        url: str,
        reactor: Any,
        *,
        headers: Iterable[str] = (),
        token: str | None = None,
        trust_root: object = None,
        connections: int = 50,
    ) -> None:
        parsed = _parsed(url)
        if parsed.text.startswith("https:"):
            _tls()
        if token is not None and parsed.authorization is not None:
            raise ValueError("expected either a token or a user name in the URL")
        self.description = f"http:{parsed.description}"
        self._url = parsed.text.encode()
        self._reactor = reactor
        self._names = tuple(headers)
        self._headers = Headers({"Accept": ["application/json"], "Content-Type": ["application/json"]})
        self._headers.setRawHeaders("User-Agent", ["twisted-sipuas"])
        authorization = parsed.authorization if token is None else b"Bearer " + token.encode()
        if authorization is not None:
            self._headers.setRawHeaders("Authorization", [authorization])
        self._pool = _Connections(reactor)
        self._pool.maxPersistentPerHost = connections
        self._pool.cachedConnectionTimeout = _IDLE_TIME
        policy: IPolicyForHTTPS = BrowserLikePolicyForHTTPS(trust_root)
        self._agent = Agent(reactor, contextFactory=policy, pool=self._pool)
        self._turns = DeferredSemaphore(connections)
        self._faults: dict[str, float] = {}
        self._counters = {"asked": 0, "asked_again": 0, "faults": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of how many questions were asked, how many of them twice, how many answers were faulty, and
        how many questions wait for their turn now.
        """
        return MappingProxyType({**self._counters, "waiting": len(self._turns.waiting)})

    def lookup(self, request_uri: URI, request: Request) -> object:
        """See `ILocationService`."""
        return self._look_up(json.dumps(question(request_uri, request, self._names), separators=(",", ":")).encode())

    def stopService(self) -> Deferred[None]:
        """Close the connections."""
        super().stopService()
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    async def _look_up(self, octets: bytes) -> Redirection | None:
        await self._turns.acquire()
        try:
            reply = await self._ask(octets)
        except _TooLong:
            raise self._faulty(f"expected no more than {self.max_answer} octets") from None
        except Exception as error:
            raise UnavailableError(rule=_reason(error)) from error
        finally:
            self._turns.release()
        if reply.code >= 500 or reply.code in _NOT_NOW:
            raise UnavailableError(rule=f"HTTP status {reply.code}")
        try:
            return _understood(reply)
        except ValueError as error:
            raise self._faulty(str(error)) from None

    async def _ask(self, octets: bytes) -> _Reply:
        """Post *octets*, and return the reply; once more if the connection, an older one, was just being closed.

        That does no harm: a look-up changes nothing.
        """
        self._counters["asked"] += 1
        try:
            return await self._post(octets)
        except (RequestTransmissionFailed, ResponseNeverReceived) as error:
            if _was_cancelled(error):
                raise
        self._counters["asked_again"] += 1
        return await self._post(octets)

    async def _post(self, octets: bytes) -> _Reply:
        # Twisted's own client follows no redirect, keeps no cookie, and unpacks nothing, which would undo the bound.
        response: IResponse = await self._agent.request(b"POST", self._url, self._headers, _Octets(octets))
        body = _Body(self.max_answer)
        response.deliverBody(body)
        media_type = response.headers.getRawHeaders(b"content-type", [b""])[0]
        return _Reply(response.code, media_type, await body.received)

    def _faulty(self, fault: str) -> UnavailableError:
        """Log *fault*, unless it was not long ago, and return what to raise."""
        self._counters["faults"] += 1
        now = self._reactor.seconds()
        told = self._faults.get(fault)
        if told is None or now - told >= _REPEAT_TIME:
            if told is None and len(self._faults) >= _MAX_FAULTS:
                del self._faults[next(iter(self._faults))]
            self._faults[fault] = now
            _log.error("{what} gave a wrong answer, which is answered 500: {fault}", what=self.description, fault=fault)
        return UnavailableError(status=500, rule=f"wrong answer of the router: {fault}")


def _understood(reply: _Reply) -> Redirection | None:
    """Return what *reply* says; raises as `answer` does."""
    if reply.code == 204:
        return None
    if reply.code != 200:
        raise ValueError(f"expected the HTTP status 200 or 204, not {reply.code}")
    if _JSON.fullmatch(reply.media_type) is None:
        raise ValueError("expected the Content-Type application/json")
    return answer(reply.octets)


def _was_cancelled(error: BaseException | None) -> bool:
    """Whether *error* is how the HTTP client says that it was cancelled."""
    reasons: Sequence[Failure] = getattr(error, "reasons", ())
    return isinstance(error, (CancelledError, ConnectingCancelledError)) or any(
        _was_cancelled(reason.value) for reason in reasons
    )


def _reason(error: BaseException | None) -> str:
    """Return why there was no reply, for logs: what lies behind an error of the HTTP client that only wraps others."""
    reasons: Sequence[Failure] = getattr(error, "reasons", ())
    return _reason(reasons[0].value) if reasons else " ".join(f"{type(error).__name__} {error}".split())


@implementer(IStreamClientEndpoint)
class _Quiet:
    """*endpoint*, without a line in the log for each connection that it makes and another for its end."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """See `IStreamClientEndpoint`."""
        cast(Factory, protocolFactory).noisy = False
        return cast("Deferred[Any]", self._endpoint.connect(protocolFactory))


class _Connections(HTTPConnectionPool):
    """A pool that tells the log nothing."""

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """See `HTTPConnectionPool`."""
        return super().getConnection(key, _Quiet(endpoint))


class _TooLong(Exception):
    """An answer has more octets than there may be."""


@implementer(IBodyProducer)
class _Octets:
    """The body of a request, written in one go."""

    def __init__(self, octets: bytes) -> None:
        self.length = len(octets)
        self._octets = octets

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """See `IBodyProducer`."""
        consumer.write(self._octets)
        return succeed(None)

    def pauseProducing(self) -> None:
        """See `IBodyProducer`; there is nothing left to pause."""

    def resumeProducing(self) -> None:
        """See `IBodyProducer`."""

    def stopProducing(self) -> None:
        """See `IBodyProducer`."""


class _Body(Protocol):
    """Collects the body of a response, of *bound* octets at most; `received` may be cancelled."""

    def __init__(self, bound: int) -> None:
        self.received: Deferred[bytes] = Deferred(lambda _: self._close())
        self._bound = bound
        self._octets = bytearray()

    def dataReceived(self, data: bytes) -> None:
        """See `IProtocol`."""
        if len(self._octets) <= self._bound:
            self._octets += data
            if len(self._octets) > self._bound:
                self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See `IProtocol`; here it is the end of the body."""
        if self.received.called:
            return
        if len(self._octets) > self._bound:
            self.received.errback(_TooLong())
        elif reason.check(ResponseDone, PotentialDataLoss):  # the latter: it ends with the connection (RFC 9112, 6.3)
            self.received.callback(bytes(self._octets))
        else:
            self.received.errback(reason)

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def _parsed(url: str) -> _URL:
    """Take *url* apart; raises `ValueError`, which does not quote it, since there may be a password in it."""
    mistake = ValueError("expected a URL such as https://router.example/route")
    if re.fullmatch(r"[\x21-\x7e]+", url) is None:
        raise mistake
    try:
        parts = urlsplit(url)
        port = parts.port  # which says whether it is one
    except ValueError:
        raise mistake from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or port == 0:
        raise mistake
    user, at, place = parts.netloc.rpartition("@")
    path = parts.path or "/"
    text = urlunsplit((parts.scheme, place, path, parts.query, ""))
    authorization = b"Basic " + b64encode(unquote_to_bytes(user)) if at else None
    return _URL(text, urlunsplit((parts.scheme, place, path, "", "")), authorization)


def _token(path: str) -> str:
    """Return the token in the file *path*; raises `ValueError`."""
    token = content(path).strip()
    if re.fullmatch(r"[\x21-\x7e]+", token) is None:
        raise ValueError("expected a token, in one word")
    return token


def _tls() -> Any:
    """Return Twisted's module for TLS; raises `ValueError` saying what to install if it cannot be imported."""
    try:
        return importlib.import_module("twisted.internet.ssl")
    except ModuleNotFoundError as error:
        hint = "pip install 'twisted-sipuas[tls]'"
        raise ValueError(f"https needs the module {error.name}, which is not installed: {hint}") from None


def _trust_root(path: str) -> object:
    """Return whom to trust by the PEM file *path*, rather than by the system; raises `ValueError`."""
    _tls()
    root: object = importlib.import_module("twisted_sipuas.location.trust_root").trust_root(path)
    return root


def _header_names(text: str) -> list[str]:
    names = text.split("+")
    for name in names:
        if TOKEN.fullmatch(name) is None:
            raise ValueError("expected names of header fields with + between them")
    return names


_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "headers": ("headers", _header_names),
    "token": ("token", _token),
    "ca": ("trust_root", _trust_root),
    "connections": ("connections", partial(whole_number, least=1, most=_MAX_CONNECTIONS)),
}
"""The options of ``http:``, with the argument that each is for, and what reads it."""


def make(argument: str, options: dict[str, str], reactor: Any) -> HTTPLocationService:
    """See `ILocationServicePlugin`: ``http:URL``, and the options in `_OPTIONS`."""
    given: dict[str, Any] = {
        name: taken(options, option, read) for option, (name, read) in _OPTIONS.items() if option in options
    }
    return HTTPLocationService(argument, reactor, **given)
