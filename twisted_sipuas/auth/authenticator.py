"""`DigestAuthenticator`: who sent a request, by its digest, and the challenge for one that does not prove it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, ClassVar, cast

from twisted.application.service import IService, Service
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import LoginFailed
from twisted.internet.defer import TimeoutError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from twisted_sipuas.auth.credentials import DigestCredentials, checkable_hashes
from twisted_sipuas.auth.delays import Delays, Pair
from twisted_sipuas.auth.digest import ALGORITHMS, QOP, Algorithm, Digest, challenge, octets
from twisted_sipuas.auth.nonces import NonceCounts, Nonces
from twisted_sipuas.deferreds import bounded, waited_for
from twisted_sipuas.errors import MessageSyntaxError, SIPError, StartError, UnavailableError, refuse_line_breaks
from twisted_sipuas.interfaces import IAuthenticator, IServerTransaction
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.auth import Authorization
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import SIPURI, canonical_domain, canonical_host, parse_uri

__all__ = ["DigestAuthenticator"]

# Against RFC 8760, 2.4, clients in wide use give up at a challenge that they do not know, wherever it stands: baresip
# 1.0, sipsak 0.9.8 and SIPp 3.6 do. So the others are for those to ask for who know their clients.
_DEFAULT_ALGORITHMS = ("MD5",)

# What makes a request that one and no other, together with Call-ID, CSeq and body. Neither Via nor Route nor the
# Request-URI does: proxies that fork change them (8.2.2.2).
_OF_THE_REQUEST = ("from", "to", "contact", "expires")

_log = Logger()


class _RefusedError(Exception):
    """A digest that does not prove who sent the request; *rule* says why."""

    def __init__(self, rule: str, *, is_stale: bool = False) -> None:
        super().__init__(rule)
        self.rule = rule
        self.is_stale = is_stale


@implementer(IAuthenticator)
class DigestAuthenticator:
    """Asks for a digest (RFC 3261, 22.4; RFC 7616; RFC 8760) and holds it against what *checkers* know of the user.

    *checkers* are `twisted.cred` checkers that take `IUsernameHashedPassword` or `IUsernameDigestHash` credentials;
    `ValueError` names one that takes neither. They are asked in order, and get a `DigestCredentials`. One that provides
    `IService` is started with the server. The identity is what the checker returns; octets become text.

    *realm* is what people are shown, and should hold a domain name of yours (22.1). *algorithms* are offered in their
    order, each in a challenge of its own, so name the strongest first (RFC 8760, 2.4); by default it is MD5 alone, for
    many clients give up at any other. One for which a checker cannot know every user's secret is left out, and if none
    remains the start ends with `StartError`. *qop* are the qualities of protection offered; ``auth-int`` covers the
    body, and fails where a middlebox changes it. *opaque* is handed to clients, if given; nothing depends on it.

    A nonce serves for *nonce_lifetime* seconds; then a right digest is answered with ``stale=true``, so that the client
    goes on with a new one without asking its user; and so is any digest on a nonce that another source was given.
    *key* is that of `Nonces`; *window* and *max_nonces* bound the memory of `NonceCounts`. *domains* are those served,
    in which the digest's uri may be, by default any; see `accepts_uri`.

    A checker that takes longer than *lookup_timeout* seconds is cancelled, and the answer is 504.
    """

    max_tried: ClassVar[int] = 4
    """Digests of our realm in one request that are tried, one after the other; each wrong one counts."""

    def __init__(
        self,
        checkers: Iterable[ICredentialsChecker],
        realm: str,
        *,
        algorithms: Iterable[str] = _DEFAULT_ALGORITHMS,
        qop: Iterable[str] = ("auth",),
        nonce_lifetime: float = 300.0,
        opaque: str | None = None,
        key: bytes | None = None,
        window: int = 32,
        max_nonces: int = 100_000,
        domains: Iterable[str] = (),
        lookup_timeout: float = 2.0,
        clock: IReactorTime | None = None,
    ) -> None:
        if not realm or any(ord(character) < 32 or character == "\x7f" for character in realm):
            raise ValueError("a realm is a line of text that people can read")
        self.checkers = tuple(checkers)
        for checker in self.checkers:
            if not checkable_hashes(checker.credentialInterfaces):
                raise ValueError(f"{type(checker).__qualname__} can give neither a password nor a hash for digests")
        self.realm = realm
        self.algorithms = tuple(map(_algorithm, algorithms))
        self.qop = tuple(qop)
        if not self.algorithms or not self.qop or not set(self.qop) <= set(QOP):
            raise ValueError(f"expected at least one algorithm, and qop of {' and '.join(QOP)}")
        self.nonce_lifetime = nonce_lifetime
        self.lookup_timeout = lookup_timeout
        self.clock = clock
        self._opaque = None if opaque is None else refuse_line_breaks(opaque, "an opaque")
        self._hosts = {canonical_domain(name) for name in domains}
        if self._hosts:
            self._hosts.add(realm.lower())
        self._last_possible = self._last_offered = self.algorithms
        self._nonces = Nonces(realm, key)
        self._counts = NonceCounts(nonce_lifetime, window=window, max_nonces=max_nonces)
        self._delays = Delays()
        self._start_check = _AlgorithmCheck(self._possible, self.algorithms)
        self._counters = {"challenges": 0, "stale": 0, "accepted": 0, "checker_timeouts": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view: challenges sent, requests accepted, and what the bounds did."""
        counters = {**self._counters, **self._counts.counters, **self._delays.counters}
        for number, checker in enumerate(self.checkers, 1):
            held = getattr(checker, "counters", {})
            counters.update({f"checker_{number}_{name}": value for name, value in held.items()})
        return counters

    @property
    def services(self) -> tuple[IService, ...]:
        """The checkers that have to be started, and what looks then whether there is an algorithm for all of them."""
        if not self.checkers:
            return ()
        started = tuple(cast(IService, checker) for checker in self.checkers if IService.providedBy(checker))
        return (*started, self._start_check)

    @property
    def description(self) -> str:
        """One phrase for logs, without secrets."""
        users = ", then ".join(getattr(checker, "description", type(checker).__name__) for checker in self.checkers)
        return f"digest in the realm {self.realm!r}, users of {users or 'no checker'}"

    def use_clock(self, clock: IReactorTime) -> None:
        """Take the time from *clock*, unless one was given already."""
        if self.clock is None:
            self.clock = clock

    def accepts_uri(self, uri: str, request: Request) -> bool:
        """Whether a digest that was made for *uri* may serve for *request*; override for another policy.

        Proxies may change the Request-URI on the way, so that the two need not be equivalent (22.4, item 5). By
        default *uri* has to be a SIP or SIPS URI in a domain that is served, the realm's, or that of the Request-URI;
        where it is not said what is served, in any: the nonce says already that the digest is for us.
        """
        try:
            parsed, request_uri = parse_uri(uri), request.uri
            if parsed.equivalent(request_uri):
                return True
            if not isinstance(parsed, SIPURI):
                return False
            host = canonical_host(parsed.host)
            if not self._hosts or host in self._hosts:
                return True
            return isinstance(request_uri, SIPURI) and host == canonical_host(request_uri.host)
        except MessageSyntaxError:
            return False

    def source_of(self, request: Request, transaction: IServerTransaction) -> str:
        """Return whom a nonce is for and who waits after wrong passwords: an IPv4 address, or an IPv6 /64.

        So all behind one proxy are one source; override it if proxies of yours take turns, or say whom they speak for.
        """
        source: str = transaction.flow.remote_address.network
        return source

    def authenticate(self, request: Request, transaction: IServerTransaction) -> Coroutine[Any, Any, object]:
        """See `IAuthenticator`; no checker is asked before everything else about the digest is as it should be."""
        source = self.source_of(request, transaction)
        digests = self._digests(request)
        if not digests:
            raise self._challenge(source, "22.2-2")
        return self._try(digests, request, source)

    async def _try(self, digests: list[Digest], request: Request, source: str) -> object:
        """Return the identity that the first right one of *digests* proves; else raise the challenge."""
        refused: _RefusedError | None = None
        for digest in digests:
            try:
                return await self._check(digest, request, source)
            except _RefusedError as error:
                if refused is None or (error.is_stale and not refused.is_stale):
                    refused = error
        assert refused is not None, "there was one at least"
        raise self._challenge(source, refused.rule, is_stale=refused.is_stale)

    @property
    def _now(self) -> float:
        assert self.clock is not None, "a service gives its clock to its transaction user"
        return self.clock.seconds()

    def _digests(self, request: Request) -> list[Digest]:
        """Return the digests of our realm that *request* brings, made as one of our challenges asks.

        What is malformed is not there: the answer is a challenge all the same, and it costs us nothing.
        """
        digests: list[Digest] = []
        for row in request.headers.rows("authorization"):
            try:
                credentials = Authorization.parse(row)
                if not credentials.is_digest or credentials.parameters.get("realm") != self.realm:
                    continue
                digest = Digest.of(credentials.parameters)
            except ValueError:
                continue
            if digest.algorithm in self._offered() and self._takes_qop(digest):
                digests.append(digest)
                if len(digests) == self.max_tried:
                    break
        return digests

    def _takes_qop(self, digest: Digest) -> bool:
        """Whether *digest* has a qop that we offer, or none and is what RFC 2069 knows (22.4)."""
        if digest.qop is not None:
            return digest.qop in self.qop
        return digest.algorithm.name == "MD5" and "auth" in self.qop

    def _possible(self) -> tuple[Algorithm, ...]:
        """Return the algorithms of ours that every checker can check for everybody."""
        possible = self.algorithms
        for checker in self.checkers:
            known = getattr(checker, "hashes", None)
            if known is None:
                known = checkable_hashes(checker.credentialInterfaces)
            possible = tuple(algorithm for algorithm in possible if algorithm.hash_name in known)
        return possible

    def _offered(self) -> tuple[Algorithm, ...]:
        """Return the algorithms that are possible; if there is none any more, those that were before."""
        possible = self._possible()
        if possible != self._last_possible:
            self._last_possible = possible
            if possible:
                self._last_offered = possible
                _log.info("Digest algorithms offered now: {names}", names=_names(possible))
            else:
                _log.warn("The users' secrets allow none of {names} for all of them", names=_names(self.algorithms))
        return self._last_offered

    def _challenge(self, source: str, rule: str, *, is_stale: bool = False) -> SIPError:
        """Return the 401: a new nonce, offered once by each algorithm, the one we like best first (RFC 8760, 2.4)."""
        self._counters["stale" if is_stale else "challenges"] += 1
        nonce = self._nonces.issue(self._now, source)
        qop = ",".join(self.qop)
        rows = [
            ("WWW-Authenticate", challenge(self.realm, nonce, algorithm, qop, is_stale=is_stale, opaque=self._opaque))
            for algorithm in self._offered()
        ]
        return SIPError(401, headers=rows, rule=rule)

    async def _check(self, digest: Digest, request: Request, source: str) -> object:
        """Return the identity if *digest* is right, and has not served before; else raise `_RefusedError`."""
        issued = self._nonces.issued(digest.nonce, source)
        if issued is None:
            raise _RefusedError("no nonce of ours")
        if not self.accepts_uri(digest.uri, request):
            raise _RefusedError("22.4-6")
        # The source may be forged, so that a wrong digest must not count; and so nobody looks whether it is right, or
        # that would be a way to guess which costs nothing. RFC 7616, 3.3, has a nonce that does not serve be stale.
        if not issued.is_of_source:
            raise _RefusedError("nonce of another source", is_stale=True)
        pair = (_delayed_user(digest.user, self.realm), source)
        if not self._delays.begin(pair, self._now):
            raise _RefusedError("too early after wrong passwords")
        try:
            return await self._prove(digest, issued.at, request, pair)
        finally:
            self._delays.end(pair)

    async def _prove(self, digest: Digest, issued: int, request: Request, pair: Pair) -> object:
        received = self._now
        is_right, identity = await self._ask(digest, request)
        if not is_right:
            self._delays.failed(pair, (digest.nonce, digest.count, digest.response), self._now)
            raise _RefusedError("22.1-15")
        # Neither an old nonce nor a repeated one says that the password is known to who sends this: it may have been
        # overheard. So they do not end a delay; and as honest clients are late too, they do not begin one.
        if not 0 <= received - issued <= self.nonce_lifetime:
            raise _RefusedError("7616-1", is_stale=True)
        seen = _seen(request, digest)
        if not self._counts.use(digest.nonce, issued, digest.count, seen, digest.cnonce, received):
            raise _RefusedError("7616-1", is_stale=True)
        self._delays.succeeded(pair)
        self._counters["accepted"] += 1
        return identity.decode("utf-8", "surrogateescape") if isinstance(identity, bytes) else identity

    async def _ask(self, digest: Digest, request: Request) -> tuple[bool, object]:
        """Return whether a checker found *digest* right, and who that is then."""
        was_checked = False
        for checker in self.checkers:
            cnonce = self._counts.first_cnonce(digest.nonce)
            credentials = DigestCredentials(digest, request.method, request.body, cnonce)
            try:
                identity = await self._answer(checker, credentials)
            except LoginFailed:
                identity = None
            else:
                if credentials.is_right:  # a checker that never looked lets nobody in
                    return True, identity
            was_checked = was_checked or credentials.was_checked
        if not was_checked:  # an unknown user is to cost what a wrong password costs
            DigestCredentials(digest, request.method, request.body).checkPassword(b"")
        return False, None

    async def _answer(self, checker: ICredentialsChecker, credentials: DigestCredentials) -> object:
        answer: object = checker.requestAvatarId(credentials)
        pending = waited_for(answer)
        if pending is None:
            return answer
        assert self.clock is not None, "a service gives its clock to its transaction user"
        try:
            return await bounded(pending, self.clock, self.lookup_timeout)
        except TimeoutError:
            self._counters["checker_timeouts"] += 1
            raise UnavailableError(status=504, rule="lookup_timeout") from None


class _AlgorithmCheck(Service):
    """Sees to it that there is an algorithm which the secrets of all users allow, once their checkers have started."""

    def __init__(self, possible: Callable[[], tuple[Algorithm, ...]], wanted: tuple[Algorithm, ...]) -> None:
        self._possible = possible
        self._wanted = wanted

    def privilegedStartService(self) -> None:
        """Raise `StartError` if there is none."""
        super().privilegedStartService()
        if not self._possible():
            raise StartError(
                f"--auth-algorithms: the users' secrets allow none of {_names(self._wanted)} for all of them"
            )


def _names(algorithms: Iterable[Algorithm]) -> str:
    return ", ".join(algorithm.name for algorithm in algorithms)


def _seen(request: Request, digest: Digest) -> int:
    """Return what stands for *request*, which came with *digest*: its retransmissions have the same, and no other."""
    rows = tuple(tuple(request.headers.rows(name)) for name in _OF_THE_REQUEST)
    return hash((request.call_id, request.cseq.number, request.method, digest.response, rows, request.body))


def _delayed_user(user: bytes, realm: str) -> bytes:
    """Return *user* as its wrong passwords are counted: the domain in one spelling, and left out if it is the realm."""
    name, at, domain = user.rpartition(b"@")
    if not at:
        return user
    domain = domain.lower().removesuffix(b".")
    return name if domain == octets(realm.lower()) else b"%b@%b" % (name, domain)


def _algorithm(name: str) -> Algorithm:
    algorithm = ALGORITHMS.get(name.lower())
    if algorithm is None:
        known = ", ".join(known.name for known in ALGORITHMS.values())
        raise ValueError(f"{name!r} is no digest algorithm: expected one of {known}")
    return algorithm
