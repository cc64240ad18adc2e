"""What does a `twisted.cred` checker see of a digest? Credentials to hold a password, or a hash of it, against."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.cred.credentials import IUsernameDigestHash, IUsernameHashedPassword
from zope.interface import Interface, implementer

from twisted_sipuas.auth.digest import HASHES, Digest, ha1, octets

__all__ = ["DigestCredentials", "checkable_hashes"]


@implementer(IUsernameHashedPassword, IUsernameDigestHash)
class DigestCredentials:
    """The credentials of one request, as `ICredentialsChecker.requestAvatarId` takes them.

    A checker looks for the secret of `username` and calls `checkPassword` or `checkHash` with it. `is_right` says
    whether one of them was right, `was_checked` whether one was called at all.

    *method* and *body* are of the request, *first_cnonce* is the one that the client began to use its nonce with.
    """

    username: bytes
    """As received; to be compared octet by octet."""
    realm: str
    """Ours: the hash that `checkHash` takes is made with it."""
    hash_name: str
    """Which hash `checkHash` takes: ``MD5``, ``SHA-256`` or ``SHA-512-256``."""

    def __init__(self, digest: Digest, method: str, body: bytes = b"", first_cnonce: str | None = None) -> None:
        self.username = digest.user
        self.realm = digest.realm
        self.hash_name = digest.algorithm.hash_name
        self.is_right = False
        self.was_checked = False
        self._digest = digest
        self._method = method
        self._body = body
        self._first_cnonce = first_cnonce

    def checkPassword(self, password: bytes | str) -> bool:
        """Whether the digest was made with *password*; see `IUsernameHashedPassword`."""
        if isinstance(password, str):
            password = octets(password)
        return self.checkHash(ha1(self.hash_name, self._digest.username, self.realm, password))

    def checkHash(self, digestHash: bytes | str) -> bool:
        """Whether the digest was made with the H(A1) *digestHash*, hexadecimal digits; see `IUsernameDigestHash`."""
        secret = digestHash.decode("ascii", "replace") if isinstance(digestHash, bytes) else digestHash
        self.was_checked = True
        is_right = self._is_proof(secret, None)
        if not is_right and self._digest.algorithm.is_session and self._first_cnonce is not None:
            is_right = self._is_proof(secret, self._first_cnonce)
        self.is_right = self.is_right or is_right  # a user may have several passwords
        return is_right

    def _is_proof(self, secret: str, session_cnonce: str | None) -> bool:
        return self._digest.is_proof(secret, self._method, self._body, session_cnonce=session_cnonce)

    def __repr__(self) -> str:
        return f"<DigestCredentials of {self.username!r}>"


def checkable_hashes(credential_interfaces: Iterable[type[Interface]]) -> frozenset[str]:
    """Return the hashes that digests may be made with for a checker of *credential_interfaces*; none if it is unfit.

    One that keeps passwords can check any; one that keeps hashes, as Twisted knows them, has those of RFC 2617.
    """
    interfaces = tuple(credential_interfaces)
    if IUsernameHashedPassword in interfaces:
        return frozenset(HASHES)
    return frozenset(("MD5",)) if IUsernameDigestHash in interfaces else frozenset()
