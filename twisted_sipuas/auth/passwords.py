"""What does a text file of users and passwords say? Lines in, secrets out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from twisted_sipuas.auth.digest import HASHES, octets

__all__ = ["Secrets", "Users", "parse_users"]

# Behind the first colon. A hash of 64 digits is of SHA-256 unless its algorithm is named in braces.
_HASHED = re.compile(rb"(?P<realm>.*):(?:\{(?P<hash>[A-Za-z0-9-]+)\})?(?P<digits>[0-9A-Fa-f]{64}|[0-9A-Fa-f]{32})")
_HASH_OF_LENGTH = {32: "MD5", 64: "SHA-256"}
_LENGTH_OF_HASH = {name: 32 if name == "MD5" else 64 for name in HASHES}


class Secrets(NamedTuple):
    """What is known of a user: the password, or hashes of it."""

    password: bytes | None
    hashes: dict[str, bytes]
    """H(A1) in hexadecimal digits, by the name of the hash function."""


class Users(NamedTuple):
    """What a file says: the secrets of each user, and the hashes that digests of all of them may be made with."""

    secrets: dict[bytes, Secrets]
    hashes: frozenset[str]


def parse_users(lines: Iterable[bytes], realm: str) -> Users:
    """Return the users that *lines* name for *realm*.

    A line is ``user:password``, cut at its first colon, or ``user:realm:H(A1)``, as htdigest writes it, or empty, or a
    comment that begins with ``#``. It is the second if what follows its last colon is 32 hexadecimal digits (MD5) or 64
    (SHA-256; or with ``{SHA-512-256}`` before them that), whatever comes before: no password can look so. Hashes for
    another realm are passed over. A user may have one line of each kind and hash.

    Raises `ValueError` with the number of the line that is wrong, and without its text.
    """
    secrets: dict[bytes, Secrets] = {}
    for number, line in enumerate(lines, 1):
        line = line.rstrip(b"\r\n")
        if not line.strip() or line.startswith(b"#"):
            continue
        user, colon, rest = line.partition(b":")
        if not (user and colon and rest):
            raise ValueError(f"line {number}: expected user:password or user:realm:hash")
        hashed = _HASHED.fullmatch(rest)
        if hashed is None:
            known = secrets.get(user, Secrets(None, {}))
            if known.password is not None:
                raise ValueError(f"line {number}: a second password of the same user")
            secrets[user] = known._replace(password=rest)
            continue
        name = _hash_name(hashed, number)
        if hashed["realm"] != octets(realm):
            continue
        hashes = secrets.setdefault(user, Secrets(None, {})).hashes
        if name in hashes:
            raise ValueError(f"line {number}: a second hash of the same user, realm and algorithm")
        hashes[name] = hashed["digits"]
    return Users(secrets, _common_hashes(secrets.values()))


def _hash_name(hashed: re.Match[bytes], number: int) -> str:
    length = len(hashed["digits"])
    if hashed["hash"] is None:
        return _HASH_OF_LENGTH[length]
    name = hashed["hash"].decode("ascii").upper()
    if _LENGTH_OF_HASH.get(name) != length:
        raise ValueError(
            f"line {number}: {{{name}}}: expected one of {', '.join(HASHES)}, and as many digits as it has"
        )
    return name


def _common_hashes(secrets: Iterable[Secrets]) -> frozenset[str]:
    common = set(HASHES)
    for secret in secrets:
        if secret.password is None:
            common &= set(secret.hashes)
            if not common:
                raise ValueError(
                    "its users have no algorithm in common: expected passwords, or hashes of the same kind"
                )
    return frozenset(common)
