"""How does a digest prove that its sender knows a password (RFC 7616, RFC 8760, RFC 2617, RFC 2069)? Values alone.

Text from messages is octets that were decoded with ``surrogateescape``; what is hashed is those octets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest

from twisted_sipuas.errors import refuse_line_breaks
from twisted_sipuas.syntax.grammar import quote

__all__ = ["ALGORITHMS", "HASHES", "QOP", "Algorithm", "Digest", "challenge", "ha1", "octets"]

HASHES = ("SHA-512-256", "SHA-256", "MD5")
"""The hash functions that RFC 8760 knows, the strongest first."""

QOP = ("auth", "auth-int")
"""The qualities of protection that RFC 7616, 3.3, knows."""

_LIBRARY_NAMES = {"SHA-512-256": "sha512_256", "SHA-256": "sha256", "MD5": "md5"}
_LENGTHS = {"SHA-512-256": 64, "SHA-256": 64, "MD5": 32}  # RFC 8760, 2.5: in hexadecimal digits
_NONCE_COUNT = re.compile(r"[0-9A-Fa-f]{1,8}")
_LONGEST_CNONCE = 256  # octets: the first one of a nonce is kept for its -sess algorithms


@dataclass(frozen=True)
class Algorithm:
    """A digest algorithm, such as ``SHA-256-sess``."""

    name: str
    """As it is printed in a challenge."""
    hash_name: str
    """The hash function that it is made with, and that stored secrets have to be made with: one of `HASHES`."""
    is_session: bool
    """Whether the secret is bound to the nonce and to the client's first cnonce (RFC 7616, 3.4.2)."""

    @property
    def length(self) -> int:
        """How many hexadecimal digits a response has (RFC 8760, 2.5)."""
        return _LENGTHS[self.hash_name]

    def hash(self, data: bytes) -> bytes:
        """Return H(data), the hash in lower-case hexadecimal digits."""
        return hashlib.new(_LIBRARY_NAMES[self.hash_name], data, usedforsecurity=False).hexdigest().encode()


def _algorithms() -> dict[str, Algorithm]:
    known = {}
    for name in HASHES:
        if _LIBRARY_NAMES[name] in hashlib.algorithms_available:  # OpenSSL may have been built without some
            known[name.lower()] = Algorithm(name, name, False)
            known[f"{name}-sess".lower()] = Algorithm(f"{name}-sess", name, True)
    return known


ALGORITHMS: Mapping[str, Algorithm] = _algorithms()
"""Every algorithm that this machine can compute, by its name in lower case (7.3.1)."""


def octets(text: str) -> bytes:
    """Return the octets that *text* was received as."""
    return text.encode("utf-8", "surrogateescape")


def ha1(hash_name: str, username: bytes, realm: str, password: bytes) -> str:
    """Return H(A1): what a server has to know of a user, in place of the password (RFC 7616, 3.4.2)."""
    return ALGORITHMS[hash_name.lower()].hash(b"%b:%b:%b" % (username, octets(realm), password)).decode("ascii")


@dataclass(frozen=True, slots=True, repr=False)
class Digest:
    """What a client sends as its proof: the parameters of a Digest Authorization, checked for their form alone."""

    username: bytes
    realm: str
    nonce: str
    uri: str
    response: str
    algorithm: Algorithm
    qop: str | None
    """None for a client of RFC 2069, which knows neither cnonce nor nc (22.4)."""
    nc: str
    cnonce: str

    @classmethod
    def of(cls, parameters: Mapping[str, str | None]) -> Digest:
        """Return the digest that *parameters* are; raises `ValueError` if they are none (RFC 7616, 3.4)."""
        values = {name: value for name, value in parameters.items() if value is not None}
        try:
            username, realm, nonce = values["username"], values["realm"], values["nonce"]
            uri, response = values["uri"], values["response"]
        except KeyError as missing:
            raise ValueError(f"no {missing.args[0]}") from None
        algorithm = ALGORITHMS.get(values.get("algorithm", "MD5").lower())
        if algorithm is None:
            raise ValueError("an algorithm that is not known")
        if len(response) != algorithm.length:
            raise ValueError("a response of the wrong length")
        qop, nc, cnonce = values.get("qop"), values.get("nc", ""), values.get("cnonce", "")
        if len(cnonce) > _LONGEST_CNONCE:
            raise ValueError("a cnonce of too many octets")
        if qop is not None:
            if not cnonce or _NONCE_COUNT.fullmatch(nc) is None or int(nc, 16) == 0:
                raise ValueError("a qop without cnonce and nc")
        elif algorithm.is_session and not cnonce:
            raise ValueError("a session without cnonce")
        return cls(octets(username), realm, nonce, uri, response, algorithm, qop, nc, cnonce)

    @property
    def user(self) -> bytes:
        """Whose secret it is: the username, without an ``@`` that has nothing behind it, as sipsak has it."""
        return self.username.removesuffix(b"@")

    @property
    def count(self) -> int:
        """The nonce count; 0 for a client that does not count."""
        return 0 if self.qop is None else int(self.nc, 16)

    def expected(self, ha1: str, method: str, body: bytes = b"", *, session_cnonce: str | None = None) -> str:
        """Return the response that whoever knows *ha1* computes for *method* and *body* (RFC 7616, 3.4.1).

        *session_cnonce* is the first cnonce that the client used with this nonce, by default the one here; the
        algorithms that end in -sess need it.
        """
        hashed = self.algorithm.hash
        nonce, cnonce = octets(self.nonce), octets(self.cnonce)
        secret = octets(ha1.lower())
        if self.algorithm.is_session:
            first = cnonce if session_cnonce is None else octets(session_cnonce)
            secret = hashed(b"%b:%b:%b" % (secret, nonce, first))
        a2 = b"%b:%b" % (octets(method), octets(self.uri))
        if self.qop == "auth-int":
            a2 += b":" + hashed(body)
        if self.qop is None:  # RFC 2069
            data = b"%b:%b" % (nonce, hashed(a2))
        else:
            data = b"%b:%b:%b:%b:%b" % (nonce, octets(self.nc), cnonce, octets(self.qop), hashed(a2))
        return hashed(b"%b:%b" % (secret, data)).decode("ascii")

    def is_proof(self, ha1: str, method: str, body: bytes = b"", *, session_cnonce: str | None = None) -> bool:
        """Whether the response is the expected one; takes the same time wherever they differ."""
        expected = self.expected(ha1, method, body, session_cnonce=session_cnonce)
        return compare_digest(octets(expected), octets(self.response.lower()))

    def __repr__(self) -> str:
        return f"<Digest {self.algorithm.name} in {self.realm!r}>"  # no more: what it proves could be guessed at


def challenge(
    realm: str, nonce: str, algorithm: Algorithm, qop: str, *, is_stale: bool = False, opaque: str | None = None
) -> str:
    """Return the value of WWW-Authenticate that asks for a digest (RFC 7616, 3.3; 20.44)."""
    text = f"Digest realm={quote(refuse_line_breaks(realm, 'a realm'))}, nonce={quote(nonce)}"
    if opaque is not None:
        text += f", opaque={quote(opaque)}"
    if is_stale:
        text += ", stale=true"
    return f'{text}, algorithm={algorithm.name}, qop="{qop}"'
