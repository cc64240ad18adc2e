"""The client of `transactions.py` and `redirect.py`: sends requests over UDP in bursts, and tells how it went.

usage: load.py PORT METHOD STATUS COUNT [USERS CSEQ]

COUNT requests of METHOD are sent, each burst when the one before has been answered, so that the server always has
something to read. An INVITE is acknowledged as 17.1.1.3 says. They are for, and a REGISTER is from, each of USERS users
in turn, by strides, so that one is not near the next; with CSEQ in the CSeq, and so a REGISTER refreshes what one of a
smaller CSEQ has registered. Prints how many were answered STATUS (if empty, any), and how many were not.

It makes no use of the package, so that every server is asked alike. Requests are made before they are sent, so that
the server need not wait for that.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator

_BURST = 64
_LOST_AFTER = 2.0  # seconds without any response
_STRIDE = 7919  # a prime, so that every user has a turn
_COMMON = (
    "Via: SIP/2.0/UDP 127.0.0.1:{own_port};branch=z9hG4bK-{run}-%(number)d;rport\r\n"
    "Max-Forwards: 70\r\n"
    "From: {sender};tag={run}%(number)d\r\n"
    "To: <sip:user%(user)d@127.0.0.1>%(to_tag)s\r\n"
    "Call-ID: {call_id}@127.0.0.1\r\n"
    "CSeq: {cseq} {cseq_method}\r\n"
    "Contact: <sip:{contact}>\r\n"
    "User-Agent: load\r\n"
)
_NUMBER = re.compile(rb"branch=z9hG4bK-[0-9a-f]+-([0-9]+)")
_TO_TAG = re.compile(rb"\r\nTo:[^\r\n]*(;tag=[^\r\n;]*)")


class Requests:
    """The texts of the requests of one run."""

    def __init__(self, method: str, own_port: int, users: int, cseq: int) -> None:
        self._users = users
        names = {"own_port": own_port, "run": os.urandom(4).hex(), "cseq": cseq, "cseq_method": method}
        if method == "REGISTER":
            names |= {"sender": "<sip:user%(user)d@127.0.0.1>", "call_id": "phone-%(user)d", "end": "Expires: 7200\r\n"}
            names |= {"uri": "sip:127.0.0.1", "contact": "user%(user)d@192.0.2.9:5060"}
        else:
            names |= {
                "sender": '"Alice" <sip:alice@127.0.0.1>',
                "call_id": "{run}-%(number)d".format(**names),
                "end": "",
            }
            names |= {"uri": "sip:user%(user)d@127.0.0.1", "contact": f"alice@127.0.0.1:{own_port}"}
        template = "{method} {uri} SIP/2.0\r\n" + _COMMON + "{end}Content-Length: 0\r\n\r\n"
        self._request = template.format(method=method, **names)
        self._ack = template.format(method="ACK", **{**names, "cseq_method": "ACK"})

    def request(self, number: int) -> bytes:
        """Return the request of this *number*."""
        return self._filled(self._request, number)

    def ack(self, number: int, to_tag: str) -> bytes:
        """Return the ACK to the response, with *to_tag*, to the INVITE of this *number*."""
        return self._filled(self._ack, number, to_tag)

    def _filled(self, template: str, number: int, to_tag: str = "") -> bytes:
        user = number * _STRIDE % self._users
        return (template % {"number": number, "user": user, "to_tag": to_tag}).encode()


def load(port: int, method: str, status: str, count: int, users: int, cseq: int) -> tuple[int, int]:
    """Send *count* requests of *method* to *port*; returns how many were answered *status*, and how many were not."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    own.bind(("127.0.0.1", 0))
    own.connect(("127.0.0.1", port))
    own.settimeout(_LOST_AFTER)
    requests = Requests(method, own.getsockname()[1], users, cseq)
    start = f"SIP/2.0 {status}".encode()
    answered = 0
    burst = [requests.request(number) for number in range(min(_BURST, count))]
    for first in range(0, count, _BURST):
        _send(own, burst)
        after = range(first + _BURST, min(first + 2 * _BURST, count))
        following = [requests.request(number) for number in after]
        acks = []
        for number, data in _final_responses(own, range(first, first + len(burst))):
            answered += data.startswith(start)
            if method == "INVITE":
                tag = _TO_TAG.search(data)
                assert tag is not None, data
                acks.append(requests.ack(number, tag[1].decode()))
        _send(own, acks)
        burst = following
    return answered, count - answered


def _send(own: socket.socket, burst: list[bytes]) -> None:
    for data in burst:
        try:
            own.send(data)
        except ConnectionRefusedError:
            pass  # the server is not there yet


def _final_responses(own: socket.socket, numbers: range) -> Iterator[tuple[int, bytes]]:
    """Give the final response to each of the requests *numbers*, as far as there is one, with its number."""
    outstanding = set(numbers)
    while outstanding:
        try:
            data = own.recv(65535)
        except (TimeoutError, ConnectionRefusedError):
            return
        found = _NUMBER.search(data)
        assert found is not None, data
        number = int(found[1])
        if data[8:9] != b"1" and number in outstanding:
            outstanding.remove(number)
            yield number, data


if __name__ == "__main__":
    port, method, status, count, users, cseq = [*sys.argv[1:], "1", "1"][:6]
    print(*load(int(port), method, status, int(count), int(users), int(cseq)))
