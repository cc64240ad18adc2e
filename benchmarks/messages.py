"""What does a client send? The messages of the exchanges that the benchmarks count, for `load.py`.

It makes no use of the package, so that every server is asked alike.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

__all__ = ["Exchanges", "Step"]

_STRIDE = 7919  # a prime, so that every user has a turn
# What ends the branch, for each transaction of a call has one of its own.
_OF_INVITE, _OF_ACK, _OF_BYE = "", "a", "b"
_COMMON = (
    "Via: SIP/2.0/{transport} 127.0.0.1:{own_port};branch=z9hG4bK-{run}-%(number)d{of};rport\r\n"
    "Max-Forwards: 70\r\n"
    "From: {sender};tag={run}%(number)d\r\n"
    "To: <sip:user%(user)d@127.0.0.1>%(to_tag)s\r\n"
    "Call-ID: {call_id}@127.0.0.1\r\n"
    "CSeq: {cseq} {method}\r\n"
    "Contact: <sip:{contact}>\r\n"
    "User-Agent: load\r\n"
)
_OFFER = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 49170 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
)
_BRANCH = re.compile(rb"branch=z9hG4bK-([0-9a-f]+)-([0-9]+)([ab]?)")
_TO_TAG = re.compile(rb"\r\nTo:[^\r\n]*(;tag=[^\r\n;]*)", re.IGNORECASE)
_CONTACT = re.compile(rb"\r\nContact:[^\r\n<]*<([^\r\n>]*)>", re.IGNORECASE)


class Step(NamedTuple):
    """What a message of the server means for an exchange."""

    number: int
    messages: tuple[bytes, ...]
    """What the client sends now."""
    is_right: bool | None
    """Whether it ended as it should; None if it goes on."""


class Exchanges:
    """Exchanges of one *kind*, each with a number, and how a server should answer.

    The kinds are ``options``; ``register``; ``invite``, with the ACK to a refusal or redirection; and ``call``: INVITE
    with an offer, 200, ACK, BYE, 200. They are for, and a REGISTER is from, each of so many *users* in turn, by
    strides, so that one is not near the next. The first REGISTER of a user has *cseq* in its CSeq, and each further one
    the next, so that it refreshes the binding. The final response should have *status*; None takes any, and the
    request as it was.
    """

    def __init__(
        self, kind: str, status: int | None, transport: str, own_port: int, users: int = 1, cseq: int = 1
    ) -> None:
        self._run = os.urandom(4).hex()
        self._names = {"transport": transport.upper(), "own_port": own_port, "run": self._run}
        self._is_call = kind == "call"
        self._is_acknowledged = kind in ("invite", "call")
        self._start = b"" if status is None else b"SIP/2.0 %d" % status
        self._users = users
        self._cseq = cseq
        self._request = self._template("INVITE" if self._is_acknowledged else kind.upper())
        self._ack = self._template("ACK")
        self._ack_of_2xx = self._template("ACK", _OF_ACK)
        self._bye = self._template("BYE", _OF_BYE)

    def _template(self, method: str, of: str = _OF_INVITE) -> str:
        names = {**self._names, "method": method, "of": of, "cseq": "2" if method == "BYE" else "1"}
        body = _OFFER if self._is_call and method == "INVITE" else ""
        if method == "REGISTER":
            names |= {"sender": "<sip:user%(user)d@127.0.0.1>", "call_id": "phone-%(user)d", "cseq": "%(cseq)d"}
            names |= {"contact": "user%(user)d@192.0.2.9:5060"}
            uri, end = "sip:127.0.0.1", "Expires: 7200\r\n"
        else:
            names |= {"sender": '"Alice" <sip:alice@127.0.0.1>', "call_id": f"{self._run}-%(number)d"}
            names |= {"contact": "alice@127.0.0.1:{own_port}".format(**self._names)}
            uri, end = "%(uri)s", "Content-Type: application/sdp\r\n" if body else ""
        return f"{method} {uri} SIP/2.0\r\n{_COMMON.format(**names)}{end}Content-Length: {len(body)}\r\n\r\n{body}"

    def request(self, number: int) -> bytes:
        """Return the request that begins the exchange of this *number*."""
        return self._filled(self._request, number)

    def _filled(self, template: str, number: int, to_tag: str = "", uri: str | None = None) -> bytes:
        user = number * _STRIDE % self._users
        values = {
            "number": number,
            "user": user,
            "uri": uri or f"sip:user{user}@127.0.0.1",
            "to_tag": to_tag,
            "cseq": self._cseq + number // self._users,
        }
        return (template % values).encode()

    def step(self, data: bytes) -> Step | None:
        """Take a message from the server; returns None for a provisional response, and what is of another run."""
        found = _BRANCH.search(data)
        assert found is not None, data
        if data[8:9] == b"1" or found[1].decode() != self._run:
            return None
        number = int(found[2])
        is_right = data.startswith(self._start)
        if not self._is_acknowledged or found[3] == _OF_BYE.encode() or not data.startswith(b"SIP/2.0 "):
            return Step(number, (), is_right)
        tag = _TO_TAG.search(data)
        to_tag = "" if tag is None else tag[1].decode()
        if data[8:9] != b"2":  # 17.1.1.3: the ACK is of the INVITE's transaction
            return Step(number, (self._filled(self._ack, number, to_tag),), is_right)
        contact = _CONTACT.search(data)
        assert contact is not None, data
        uri = contact[1].decode()
        of_2xx = self._filled(self._ack_of_2xx, number, to_tag, uri)
        return Step(number, (of_2xx, self._filled(self._bye, number, to_tag, uri)), None)
