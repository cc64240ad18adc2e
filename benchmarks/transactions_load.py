"""The client of `transactions.py`: sends requests over UDP, so many at a time, and tells how it went.

usage: transactions_load.py PORT OPTIONS|INVITE COUNT WINDOW

Prints how many transactions were completed, and how many given up as lost. An INVITE is acknowledged as 17.1.1.3 says.
It makes no use of the package, so that both servers are asked alike and little of the time is its own.
"""

from __future__ import annotations

import os
import re
import socket
import sys

_LOST_AFTER = 0.5  # seconds without any response
_REQUEST = (
    "{method} sip:bob@127.0.0.1:{port} SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 127.0.0.1:{own_port};branch=z9hG4bK-%(run)s-%(number)d;rport\r\n"
    "Max-Forwards: 70\r\n"
    'From: "Alice" <sip:alice@127.0.0.1:{own_port}>;tag=%(run)s%(number)d\r\n'
    "To: <sip:bob@127.0.0.1:{port}>%(to_tag)s\r\n"
    "Call-ID: %(run)s-%(number)d@127.0.0.1\r\n"
    "CSeq: 1 {cseq_method}\r\n"
    "Contact: <sip:alice@127.0.0.1:{own_port}>\r\n"
    "User-Agent: load\r\n"
    "Content-Length: 0\r\n\r\n"
)
_NUMBER = re.compile(rb"branch=z9hG4bK-[0-9a-f]+-([0-9]+)")
_TO_TAG = re.compile(rb"\r\nTo:[^\r\n]*(;tag=[^\r\n;]*)")


def load(port: int, method: str, count: int, window: int) -> tuple[int, int]:
    """Send *count* requests of *method* to *port*, *window* at a time; returns how many were answered, and lost."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    own.bind(("127.0.0.1", 0))
    server = ("127.0.0.1", port)
    own.settimeout(_LOST_AFTER)
    names = {"port": port, "own_port": own.getsockname()[1], "method": method}
    request = _REQUEST.format(cseq_method=method, **names)
    ack = _REQUEST.format(cseq_method="ACK", **{**names, "method": "ACK"})
    run = os.urandom(4).hex()
    answered = lost = 0
    outstanding: set[int] = set()
    next_number = 0
    while answered + lost < count:
        while len(outstanding) < window and next_number < count:
            outstanding.add(next_number)
            own.sendto((request % {"run": run, "number": next_number, "to_tag": ""}).encode(), server)
            next_number += 1
        try:
            data = own.recv(65535)
        except TimeoutError:
            lost += len(outstanding)
            outstanding.clear()
            continue
        if data[8:9] == b"1":
            continue
        found = _NUMBER.search(data)
        assert found is not None, data
        number = int(found[1])
        if method == "INVITE":
            tag = _TO_TAG.search(data)
            assert tag is not None, data
            own.sendto((ack % {"run": run, "number": number, "to_tag": tag[1].decode()}).encode(), server)
        if number in outstanding:
            outstanding.remove(number)
            answered += 1
    return answered, lost


if __name__ == "__main__":
    port, method, count, window = sys.argv[1:]
    print(*load(int(port), method, int(count), int(window)))
