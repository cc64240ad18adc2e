"""Which secret are keyed hashes made with?"""

from __future__ import annotations

import secrets

__all__ = ["secret_key"]

_LONGEST = 64  # octets, as BLAKE2b takes it


def secret_key(key: bytes | None) -> bytes:
    """Return *key*, by default a random one; raises `ValueError` for one that is too short or too long."""
    if key is None:
        return secrets.token_bytes(32)
    if not 16 <= len(key) <= _LONGEST:
        raise ValueError(f"a key has 16 to {_LONGEST} octets")
    return key
