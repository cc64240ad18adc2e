"""Which transaction does a message belong to (RFC 3261, 17.2.3 and 9.2)?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.fields import CSeq, Via
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request

__all__ = ["TransactionTable", "has_identifier", "merge_key", "response_key", "transaction_key"]

_MAGIC_COOKIE = "z9hG4bK"
_LONGEST_KEY = 512  # characters


class _Matched(Protocol):
    """What is kept in a `TransactionTable`."""

    @property
    def key(self) -> str:
        """The `transaction_key` of its request."""

    @property
    def method(self) -> str:
        """The method of its request."""


_T = TypeVar("_T", bound=_Matched)


def transaction_key(request: Request, to_tag: str | None = None) -> str:
    """Return what *request* has in common with its retransmissions, its ACK and its CANCEL (17.2.3).

    With the magic cookie that is branch and sent-by. Without it, as RFC 2543 clients send, it is what 17.2.3 lists for
    them; *to_tag* then takes the place of the request's own. The method comes on top, where it counts. Raises
    `MessageSyntaxError` if one of these is malformed.
    """
    via = request.via
    branch = via.parameters.get("branch")
    if branch is not None and _is_identifier(branch):
        return _bounded(f"{branch} {via.sent_by}")
    from_tag = request.from_.tag or ""
    if to_tag is None:
        to_tag = request.to.tag or ""
    # The line break is in no key with a cookie, so that nobody can make one kind look like the other.
    return _bounded(f"\n{request.uri_text} {from_tag} {to_tag} {request.call_id} {request.cseq.number} {via.text}")


def _bounded(key: str) -> str:
    """Return *key*, or what stands for one that is so long that only a flood of them is of use to its sender."""
    if len(key) <= _LONGEST_KEY:
        return key
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape")).hexdigest()


def has_identifier(via: Via) -> bool:
    """Whether the branch identifies the transaction: the magic cookie with something behind it (RFC 4475, 3.2.1)."""
    return _is_identifier(via.branch or "")


def _is_identifier(branch: str) -> bool:
    return (branch.startswith(_MAGIC_COOKIE) or branch[:7].lower() == _MAGIC_COOKIE.lower()) and len(branch) > 7


def merge_key(request: Request) -> int | None:
    """Return what *request* has in common with itself as it comes by other ways: From tag, Call-ID, CSeq (8.2.2.2).

    None for a request with a To tag, which is not compared, or without a From that can be read. It is a hash of 64
    bits, which takes a fifth of the memory of the texts. Two requests have the same by chance once in 10**19 times,
    and nobody can bring that about, for Python keys its hash of text.
    """
    try:
        if "tag" in request.to.parameters:
            return None
        call_id = request.headers.index["call-id"][0]
        return hash((_from_tag(request), call_id, request.cseq.number, request.method))
    except (MessageSyntaxError, LookupError):
        return None


def _from_tag(request: Request) -> str | None:
    """Return the From tag, without reading the whole of From where it is written as nearly always."""
    head, _, tag = request.headers.index["from"][0].rpartition(">;tag=")
    return tag if head and tag.isalnum() else request.from_.tag


def response_key(octets: bytes) -> tuple[str, str | None] | None:
    """Return key and method of the transaction that sent the response *octets*, of which the end may be missing.

    The method is None if it comes behind the end. None for what is no response of ours, whatever it is; and for one
    without the magic cookie, whose key is not to be had from it.
    """
    head, end, _ = octets.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    if not end:
        lines.pop()  # it may have been cut short
    if not lines or not lines[0].startswith("SIP/2.0 "):
        return None
    try:
        headers, _ = Headers.parse(lines[1:])
        via = Via(headers.values("Via")[0])
        cseq = headers.get("CSeq")
        method = None if cseq is None else CSeq(cseq).method
    except (MessageSyntaxError, IndexError):
        return None
    return (_bounded(f"{via.branch} {via.sent_by}"), method) if has_identifier(via) else None


class TransactionTable(Generic[_T]):
    """The transactions by their key and, of one key, by their method.

    As a rule a key has one transaction, which is then kept as it is; an INVITE and its CANCEL have the same.
    """

    def __init__(self) -> None:
        self._transactions: dict[str, _T | dict[str, _T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[_T]:
        for held in list(self._transactions.values()):
            yield from list(held.values()) if isinstance(held, dict) else (held,)

    def get(self, key: str, method: str) -> _T | None:
        """Return the transaction of *key* and *method*, or None (17.2.3)."""
        held = self._transactions.get(key)
        if held is None:
            return None
        if isinstance(held, dict):
            return held.get(method)
        return held if held.method == method else None

    def cancelled_by(self, key: str) -> _T | None:
        """Return the transaction that a CANCEL of *key* is for: of any method but CANCEL, the INVITE first (9.2)."""
        held = self._transactions.get(key)
        if not isinstance(held, dict):
            return None if held is None or held.method == "CANCEL" else held
        return held.get("INVITE") or next((held[method] for method in reversed(held) if method != "CANCEL"), None)

    def only(self, key: str) -> _T | None:
        """Return the transaction of *key*, of whatever method, if there is just one."""
        held = self._transactions.get(key)
        return None if isinstance(held, dict) else held

    def add(self, transaction: _T) -> None:
        """Keep *transaction*; there is none of its key and method."""
        key = transaction.key
        held = self._transactions.setdefault(key, transaction)
        self._length += 1
        if held is transaction:
            return
        if isinstance(held, dict):
            held[transaction.method] = transaction
        else:
            self._transactions[key] = {held.method: held, transaction.method: transaction}

    def remove(self, transaction: _T) -> None:
        """Forget *transaction*, if it is kept."""
        key = transaction.key
        held = self._transactions.get(key)
        if held is transaction:
            del self._transactions[key]
        elif isinstance(held, dict) and held.get(transaction.method) is transaction:
            del held[transaction.method]
            if len(held) == 1:
                (self._transactions[key],) = held.values()
        else:
            return
        self._length -= 1
