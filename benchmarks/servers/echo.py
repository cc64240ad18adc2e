"""The floor of `table.py`: sends every datagram back as it is.

usage: echo.py twisted|socket PORT
"""

from __future__ import annotations

import socket
import sys
from typing import Any


def serve_twisted(port: int) -> None:
    """Serve by Twisted's own UDP transport."""
    from twisted.internet import reactor as the_reactor
    from twisted.internet.protocol import DatagramProtocol

    reactor: Any = the_reactor

    class Echo(DatagramProtocol):
        def datagramReceived(self, data: bytes, addr: Any) -> None:
            assert self.transport is not None
            self.transport.write(data, addr)

    reactor.listenUDP(port, Echo(), "127.0.0.1", maxPacketSize=65535)
    reactor.run()


def serve_socket(port: int) -> None:
    """Serve by a loop around two system calls."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        while True:
            data, address = server.recvfrom(65535)
            server.sendto(data, address)


if __name__ == "__main__":
    {"twisted": serve_twisted, "socket": serve_socket}[sys.argv[1]](int(sys.argv[2]))
