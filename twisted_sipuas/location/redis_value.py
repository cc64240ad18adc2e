"""How are the bindings of an address-of-record kept in Redis? As one string under one key, and changed by one script.

The string is a `VERSION_SIZE` octets long version, a space, and the bindings as JSON::

    1 hPFPmVYK4TQ4j7zXk2bq [["sip:bob@192.0.2.4",1732500000.0,"a84b4c76e66710",314159]]

Each binding is the list of its fields in their order, without those at the end that have their default, and the text in
it is the octets that were received, be they UTF-8 or not. So people can read it with ``redis-cli get``.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable
from typing import NoReturn

from twisted_sipuas.location.binding import Binding

__all__ = ["NOTHING", "REPLACE", "VERSION_SIZE", "expiry", "packed", "unpacked"]

_FORMAT = b"1 "  # the first octets of every value, and so a part of every version
_TOKEN_SIZE = 20
_LEAST = 4  # fields of a binding that have no default

VERSION_SIZE = len(_FORMAT) + _TOKEN_SIZE
"""Octets of a version. It is chosen at random by who makes a change, so none is ever given twice: also when a key was
removed, or expired, or a Redis without persistence forgot everything, where a number counted up would begin again."""

NOTHING = b""
"""The version of an address-of-record without bindings. This one does come back, and may: it stands for all that there
is to know, so that a change by it is right whatever happened in between."""

_GRACE = 30  # seconds

REPLACE = f"""\
if redis.call('GETRANGE', KEYS[1], 0, {VERSION_SIZE - 1}) ~= ARGV[1] then
    return 0
end
if ARGV[2] == '' then
    redis.call('DEL', KEYS[1])
else
    redis.call('SET', KEYS[1], ARGV[2])
    redis.call('PEXPIREAT', KEYS[1], ARGV[3])
end
return 1
""".encode()
"""Makes ARGV[2] the value of KEYS[1], until ARGV[3], if the version there is ARGV[1]; returns 1 if it was, else 0.

A script, and not WATCH with MULTI: Redis runs it as a whole between other commands, in one round trip, so that changes
of many addresses-of-record can be in flight on one connection. What WATCH watches belongs to the connection: of two
changes in flight, the EXEC of one would end the watch of the other, which then could no more lose its race. Each change
would need a connection to itself for three round trips. SET with PXAT would do in one what takes two here, from
Redis 6.2 on only."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of ours")


_decode = json.JSONDecoder(parse_constant=_refuse).decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def packed(bindings: Iterable[Binding]) -> bytes:
    """Return the value that keeps *bindings*, under a new version.

    Raises `UnicodeEncodeError` for text that no received octets make.
    """
    version = _FORMAT + secrets.token_urlsafe(15).encode()
    return version + b" " + _encode([_row(binding) for binding in bindings]).encode("utf-8", "surrogateescape")


def unpacked(value: bytes) -> tuple[tuple[Binding, ...], bytes]:
    """Return the bindings that *value* keeps, and its version; raises `ValueError` for what `packed` has not made."""
    version, space, text = value[:VERSION_SIZE], value[VERSION_SIZE : VERSION_SIZE + 1], value[VERSION_SIZE + 1 :]
    if not version.startswith(_FORMAT) or space != b" ":
        raise ValueError("no value of ours")
    try:
        rows = _decode(text.decode("utf-8", "surrogateescape"))
    except RecursionError:
        raise ValueError("no value of ours") from None
    if not isinstance(rows, list):
        raise ValueError("no value of ours")
    return tuple(map(_binding, rows)), version


def expiry(bindings: Iterable[Binding]) -> int:
    """Return when Redis may forget *bindings*, in milliseconds since the epoch: when the last one of them is over.

    That is by our clock, and Redis goes by its own. Some seconds are added, so that it drops nothing early where its
    clock is ahead; what is kept too long costs memory alone, as whoever reads it looks at its own clock.
    """
    return math.ceil((max(binding.expires_at for binding in bindings) + _GRACE) * 1000)


def _row(binding: Binding) -> list[object]:
    row: list[object] = [binding.uri_text, binding.expires_at, binding.call_id, binding.cseq]
    row += [binding.q, binding.display_name, binding.parameters, binding.path]
    while row[-1] is None or row[-1] == "":
        row.pop()
    return row


def _binding(row: object) -> Binding:
    if not isinstance(row, list) or not _LEAST <= len(row) <= len(Binding.__slots__):
        raise ValueError("no value of ours")
    return Binding(*row).checked()
