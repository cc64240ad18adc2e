"""A redirect server whose location service is a few lines of Python: least-cost routing from a rate table.

    python examples/least_cost.py udp:5070

and from another shell: sipsak -vv -s sip:4930123@127.0.0.1:5070
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver
from zope.interface import implementer

from twisted_sipuas import SIPURI, ILocationService, Redirection, RedirectServer, Request, SIPError, SIPService, Target
from twisted_sipuas.syntax.uri import URI

RATES = {  # number prefix: gateway and price, for those who carry it
    "49": [("gw1.example.net", 0.012), ("gw2.example.net", 0.009)],
    "4930": [("berlin.example.net", 0.004), ("gw2.example.net", 0.009)],
}


@implementer(ILocationService)
class LeastCost:
    """Sends a number to the gateways of its longest known prefix, the cheapest with the highest q."""

    description = "the rate table"

    def lookup(self, request_uri: URI, request: Request) -> Redirection:
        number = getattr(request_uri, "user", None) or ""
        for length in range(len(number), 0, -1):
            rates = RATES.get(number[:length])
            if rates is not None:
                cheapest = sorted(rates, key=lambda rate: rate[1])
                return Redirection(
                    [
                        Target(SIPURI.build(gateway, number), q=round(1 - place / 10, 1))
                        for place, (gateway, _) in enumerate(cheapest)
                    ],
                    status=300,
                )
        raise SIPError(404, "No Rate For This Number")


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    service = SIPService(reactor, RedirectServer([LeastCost()]), listen=sys.argv[1:] or ["udp:5060"])
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
