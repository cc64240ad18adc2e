"""A peer of `table.py`: `twisted.protocols.sip` parses each request, and answers it without a transaction.

usage: with_twisted_sip.py STATUS PORT

An ACK is parsed and dropped. A 3xx names one contact. To tags, which the module knows nothing of, are not added.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.protocols import sip


class Server(sip.Base):
    """Answers every request with *status*."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self._status = status

    def handle_request(self, message: sip.Request, addr: tuple[str, int]) -> None:
        """Answer."""
        if message.method == "ACK":
            return
        response = sip.Response(self._status)
        for name in ("via", "to", "from", "call-id", "cseq"):
            response.headers[name] = message.headers[name][:]
        if 300 <= self._status < 400:
            response.addHeader("contact", f"<sip:{message.uri.username}@192.0.2.9:5060>")
        response.addHeader("content-length", "0")
        self.deliverResponse(response)


if __name__ == "__main__":
    reactor: Any = the_reactor
    reactor.listenUDP(int(sys.argv[2]), Server(int(sys.argv[1])), "127.0.0.1")
    reactor.run()
