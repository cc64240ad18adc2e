"""Which nonces are ours, how old are they, and which of their counts were used already (RFC 7616, 3.3 and 5.4)?

A nonce that was only issued is kept nowhere: it says itself when it was made, and that we made it. Only of those that
came back with a right digest something is remembered.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import struct
from collections import OrderedDict
from collections.abc import Mapping
from hmac import compare_digest
from itertools import count

__all__ = ["NonceCounts", "Nonces"]

_LONGEST_KEY = 64  # octets, as BLAKE2b takes it
_PLAIN = struct.Struct(">IIH")  # when it was issued, in seconds, and a number of 48 bits that makes it unlike others
_LENGTH = 32  # characters, of 24 octets
_MAC = 24 - _PLAIN.size


class Nonces:
    """Issues nonces for *realm*, and knows them again.

    A nonce is the time, a number and a keyed hash of both. *key*, 16 to 64 octets, is the secret of that hash, by
    default a random one: servers that share it, or one that is given it again after a restart, take each other's.
    """

    def __init__(self, realm: str, key: bytes | None = None) -> None:
        if key is not None and not 16 <= len(key) <= _LONGEST_KEY:
            raise ValueError(f"a key has 16 to {_LONGEST_KEY} octets")
        # Derived, since the same key may be given to what hashes something else, and for another realm.
        scope = hashlib.blake2b(realm.encode("utf-8", "surrogateescape"), key=key or secrets.token_bytes(32))
        self._key = scope.digest()
        self._numbers = count(secrets.randbits(47))

    def issue(self, now: float) -> str:
        """Return a nonce that nobody else gets."""
        number = next(self._numbers)
        plain = _PLAIN.pack(int(now) & 0xFFFFFFFF, number >> 16 & 0xFFFFFFFF, number & 0xFFFF)
        return base64.b64encode(plain + self._mac(plain)).decode("ascii")

    def issued(self, nonce: str) -> int | None:
        """Return when *nonce* was issued, in seconds; None if that was not here."""
        if len(nonce) != _LENGTH or not nonce.isascii():
            return None
        try:
            octets = base64.b64decode(nonce, validate=True)
        except ValueError:
            return None
        plain, mac = octets[: _PLAIN.size], octets[_PLAIN.size :]
        if not compare_digest(mac, self._mac(plain)):
            return None
        seconds: int = _PLAIN.unpack(plain)[0]
        return seconds

    def _mac(self, plain: bytes) -> bytes:
        return hashlib.blake2b(plain, key=self._key, digest_size=_MAC).digest()


class _Used:
    """What is remembered of a nonce: when it was issued, which counts came by which request, and the first cnonce."""

    __slots__ = ("cnonce", "highest", "issued", "requests")

    def __init__(self, issued: int, cnonce: str) -> None:
        self.issued = issued
        self.cnonce = cnonce
        self.highest = 0
        self.requests: dict[int, int] = {}


class NonceCounts:
    """Remembers which counts of which nonces were used, so that a digest serves for one request (RFC 7616, 5.4).

    A nonce is forgotten *lifetime* seconds after it was issued. Requests may overtake each other: a count may be lower
    than the highest one by less than *window*. At most *max_nonces* are remembered; beyond it the oldest is forgotten,
    and every nonce issued no later is taken for a used one, which costs its client a challenge.
    """

    def __init__(self, lifetime: float, *, window: int = 32, max_nonces: int = 100_000) -> None:
        if window < 1 or max_nonces < 1:
            raise ValueError("a window and a number of nonces are at least 1")
        self._lifetime = lifetime
        self._window = window
        self._max_nonces = max_nonces
        self._used: OrderedDict[str, _Used] = OrderedDict()
        self._forgotten = -1  # when the latest nonce was issued that was forgotten before its time
        self._counters = {"replays": 0, "nonces_dropped": 0}

    @property
    def counters(self) -> Mapping[str, int]:
        """What the bounds did, and how many nonces are remembered now."""
        return {**self._counters, "nonces": len(self._used)}

    def first_cnonce(self, nonce: str) -> str | None:
        """Return the cnonce that came with the first use of *nonce*, which its -sess algorithms go on with."""
        used = self._used.get(nonce)
        return None if used is None else used.cnonce

    def use(self, nonce: str, issued: int, number: int, request: int, cnonce: str, now: float) -> bool:
        """Note that *request* came with a right digest of *nonce* and the count *number*; return whether it may.

        *request* stands for all that tells one request from another: the same one may come again (8.2.7, 8.2.2.2).
        *number* is 0 for clients that do not count: they get one request out of a nonce.
        """
        self._expire(now)
        used = self._used.get(nonce)
        if used is None:
            if issued <= self._forgotten:
                self._counters["replays"] += 1
                return False
            used = self._used[nonce] = _Used(issued, cnonce)
            self._make_room()
        known = used.requests.get(number)
        if known == request:
            return True
        if known is not None or number <= used.highest - self._window:
            self._counters["replays"] += 1
            return False
        used.requests[number] = request
        used.highest = max(used.highest, number)
        if len(used.requests) > self._window:
            lowest = used.highest - self._window
            used.requests = {number: request for number, request in used.requests.items() if number > lowest}
        return True

    def _expire(self, now: float) -> None:
        """Forget the nonces that are too old for use; what stands in the way of some goes within another lifetime."""
        while self._used:
            nonce, used = next(iter(self._used.items()))
            if now - used.issued <= self._lifetime:
                return
            del self._used[nonce]

    def _make_room(self) -> None:
        while len(self._used) > self._max_nonces:
            _, used = self._used.popitem(last=False)
            self._forgotten = max(self._forgotten, used.issued)
            self._counters["nonces_dropped"] += 1
