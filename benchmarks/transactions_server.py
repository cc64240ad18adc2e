"""Our side of `transactions.py`: a stateful UAS that answers OPTIONS 200 and INVITE 486.

usage: transactions_server.py PORT
"""

from __future__ import annotations

import sys

from twisted.internet import reactor

from twisted_sipuas import Request, Response, SIPService, UserAgentServer, __version__
from twisted_sipuas.interfaces import IServerTransaction


class Busy(UserAgentServer):
    """Is busy, as kamailio is by `transactions.py`'s configuration."""

    def handle_INVITE(self, request: Request, transaction: IServerTransaction) -> Response:
        """Refuse the call."""
        return request.response(486)

    def handle_OPTIONS(self, request: Request, transaction: IServerTransaction) -> Response:
        """Say that we are here, and no more, for kamailio does not either."""
        return request.response(200)


if __name__ == "__main__":
    listen = f"udp:{sys.argv[1]}:interface=127.0.0.1:tcp=no"
    service = SIPService(reactor, Busy(), [listen], server_header=f"twisted-sipuas/{__version__}")
    service.startService()
    print("ready", flush=True)
    reactor.run()
