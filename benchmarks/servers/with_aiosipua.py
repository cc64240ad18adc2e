"""A peer of `table.py`: aiosipua's `SipUAS`, which answers OPTIONS by itself, and INVITE as it is told.

usage: with_aiosipua.py udp|tcp STATUS PORT

INVITE gets a 100, and then STATUS: with 200 the call is taken. The Contact of a 3xx is the server's own address, for
its interface knows no other.
"""

from __future__ import annotations

import asyncio
import sys

from aiosipua import SipUAS, TcpSipTransport, UdpSipTransport
from aiosipua.incoming_call import IncomingCall

_REASONS = {302: "Moved Temporarily", 486: "Busy Here"}
_TRANSPORTS = {"udp": UdpSipTransport, "tcp": TcpSipTransport}


async def serve(transport: str, status: int, port: int) -> None:
    """Serve for ever."""

    def answer(call: IncomingCall) -> None:
        if status == 200:
            call.accept()
        else:
            call.reject(status, _REASONS[status])

    server = SipUAS(_TRANSPORTS[transport](local_addr=("127.0.0.1", port)))
    server.on_invite = answer
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
