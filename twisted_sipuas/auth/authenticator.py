"""`DigestAuthenticator`: who sent a request, by its digest, and the challenge for one that does not prove it."""

from __future__ import annotations

from collections.abc import Coroutine, Hashable, Iterable, Mapping
from typing import Any, cast

from twisted.application.service import IService
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import LoginFailed
from twisted.internet.defer import TimeoutError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from twisted_sipuas.auth.credentials import DigestCredentials, checkable_hashes
from twisted_sipuas.auth.delays import Delays
from twisted_sipuas.auth.digest import ALGORITHMS, QOP, Algorithm, Digest, challenge
from twisted_sipuas.auth.nonces import NonceCounts, Nonces
from twisted_sipuas.deferreds import bounded, waited_for
from twisted_sipuas.errors import MessageSyntaxError, SIPError, UnavailableError, refuse_line_breaks
from twisted_sipuas.interfaces import IAuthenticator, IServerTransaction
from twisted_sipuas.syntax.auth import Authorization
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import SIPURI, canonical_domain, canonical_host, parse_uri

__all__ = ["DigestAuthenticator"]

# Against RFC 8760, 2.4, clients in wide use give up at a challenge that they do not know, wherever it stands: baresip
# 1.0, sipsak 0.9.8 and SIPp 3.6 do. So the others are for those to ask for who know their clients.
_DEFAULT_ALGORITHMS = ("MD5",)


@implementer(IAuthenticator)
class DigestAuthenticator:
    """Asks for a digest (RFC 3261, 22.4; RFC 7616; RFC 8760) and holds it against what *checkers* know of the user.

    *checkers* are `twisted.cred` checkers that take `IUsernameHashedPassword` or `IUsernameDigestHash` credentials;
    `ValueError` names one that takes neither. They are asked in order, and get a `DigestCredentials`. One that provides
    `IService` is started with the server. The identity is what the checker returns; octets become text.

    *realm* is what people are shown, and should hold a domain name of yours (22.1). *algorithms* are offered in their
    order, each in a challenge of its own, so name the strongest first (RFC 8760, 2.4); by default it is MD5 alone, for
    many clients give up at any other. One for which a checker cannot know every user's secret is left out. *qop* are
    the qualities of protection offered; ``auth-int`` covers the body, and fails where a middlebox changes it. *opaque*
    is handed to clients, if given; nothing depends on it.

    A nonce serves for *nonce_lifetime* seconds; then a right digest is answered with ``stale=true``, so that the client
    goes on with a new one without asking its user. *key* is that of `Nonces`; *window* and *max_nonces* bound the
    memory of `NonceCounts`. *domains* are those served, in which the digest's uri may be; see `accepts_uri`.

    A checker that takes longer than *lookup_timeout* seconds is cancelled, and the answer is 504.
    """

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
        self._hosts = {canonical_domain(name) for name in domains} | {realm.lower()}
        self._nonces = Nonces(realm, key)
        self._counts = NonceCounts(nonce_lifetime, window=window, max_nonces=max_nonces)
        self._delays = Delays()
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
        """The checkers that have to be started."""
        return tuple(cast(IService, checker) for checker in self.checkers if IService.providedBy(checker))

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
        default *uri* has to be a SIP or SIPS URI in a domain that is served, the realm's, or that of the Request-URI.
        """
        try:
            parsed, request_uri = parse_uri(uri), request.uri
            if parsed.equivalent(request_uri):
                return True
            if not isinstance(parsed, SIPURI):
                return False
            host = canonical_host(parsed.host)
            if host in self._hosts:
                return True
            return isinstance(request_uri, SIPURI) and host == canonical_host(request_uri.host)
        except MessageSyntaxError:
            return False

    def authenticate(self, request: Request, transaction: IServerTransaction) -> Coroutine[Any, Any, object]:
        """See `IAuthenticator`; no checker is asked before everything else about the digest is as it should be."""
        digest = self._digest(request)
        if digest is None:
            raise self._challenge("22.2-2")
        issued = self._nonces.issued(digest.nonce)
        if issued is None:
            raise self._challenge("no nonce of ours")
        if not self.accepts_uri(digest.uri, request):
            raise self._challenge("22.4-6")
        pair = (digest.user, transaction.flow.remote_address.network)
        if not self._delays.begin(pair, self._now):
            raise self._challenge("too early after wrong passwords")
        return self._check(digest, issued, request, pair)

    @property
    def _now(self) -> float:
        assert self.clock is not None, "a service gives its clock to its transaction user"
        return self.clock.seconds()

    def _digest(self, request: Request) -> Digest | None:
        """Return the digest of our realm that *request* brings, made as one of our challenges asks; else None.

        What is malformed is not there: the answer is a challenge all the same, and it costs us nothing.
        """
        offered = self._offered()
        for row in request.headers.rows("authorization"):
            try:
                credentials = Authorization.parse(row)
                if not credentials.is_digest or credentials.parameters.get("realm") != self.realm:
                    continue
                digest = Digest.of(credentials.parameters)
            except ValueError:
                continue
            if digest.algorithm in offered and (digest.qop is None or digest.qop in self.qop):
                return digest
        return None

    def _offered(self) -> tuple[Algorithm, ...]:
        """Return the algorithms that every checker can check for everybody; if there is none, all of ours."""
        hashes: set[str] | None = None
        for checker in self.checkers:
            known = getattr(checker, "hashes", None)
            if known is None:
                known = checkable_hashes(checker.credentialInterfaces)
            hashes = set(known) if hashes is None else hashes & set(known)
        if hashes is None:
            return self.algorithms
        return tuple(algorithm for algorithm in self.algorithms if algorithm.hash_name in hashes) or self.algorithms

    def _challenge(self, rule: str, *, is_stale: bool = False) -> SIPError:
        """Return the 401: a new nonce, offered once by each algorithm, the one we like best first (RFC 8760, 2.4)."""
        self._counters["stale" if is_stale else "challenges"] += 1
        nonce = self._nonces.issue(self._now)
        qop = ",".join(self.qop)
        rows = [
            ("WWW-Authenticate", challenge(self.realm, nonce, algorithm, qop, is_stale=is_stale, opaque=self._opaque))
            for algorithm in self._offered()
        ]
        return SIPError(401, headers=rows, rule=rule)

    async def _check(self, digest: Digest, issued: int, request: Request, pair: Hashable) -> object:
        """Return the identity if *digest* is right, and has not served before; else raise the challenge."""
        received = self._now
        try:
            is_right, identity = await self._ask(digest, request)
            if not is_right:
                self._delays.failed(pair, self._now)
                raise self._challenge("22.1-15")
        finally:
            self._delays.end(pair)
        # Neither an old nonce nor a repeated one says that the password is known to who sends this: it may have been
        # overheard. So they do not end a delay; and as honest clients are late too, they do not begin one.
        if not 0 <= received - issued <= self.nonce_lifetime:
            raise self._challenge("7616-1", is_stale=True)
        seen = hash((request.call_id, request.cseq.number, request.method, digest.response))
        if not self._counts.use(digest.nonce, issued, digest.count, seen, digest.cnonce, received):
            raise self._challenge("7616-1", is_stale=True)
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


def _algorithm(name: str) -> Algorithm:
    algorithm = ALGORITHMS.get(name.lower())
    if algorithm is None:
        known = ", ".join(known.name for known in ALGORITHMS.values())
        raise ValueError(f"{name!r} is no digest algorithm: expected one of {known}")
    return algorithm
