"""Answers that leave nothing behind (RFC 3261, 8.2.7)."""

from __future__ import annotations

import hashlib

from twisted_sipuas.syntax.message import Request

__all__ = ["stateless_tag"]

# What tells requests apart, in their own text: a retransmission has the same (17.2.3, 8.2.6.2).
_IDENTIFYING = ("Via", "From", "To", "Call-ID", "CSeq")


def stateless_tag(request: Request, secret: bytes) -> str:
    """Return the To tag for *request* that every retransmission of it gets, and nobody can guess (8.2.7, 19.3).

    *secret* is the random key of the service, at most 64 octets.
    """
    digest = hashlib.blake2b(key=secret, digest_size=8)
    headers = request.headers
    for name in _IDENTIFYING:
        digest.update((headers.get(name) or "").encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
