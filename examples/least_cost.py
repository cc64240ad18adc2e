"""A redirect server whose location service is a few lines of Python: least-cost routing from a rate table.

    python examples/least_cost.py udp:5070

and from another shell: sipsak -d -vv -s sip:4930123@127.0.0.1:5070 | grep -E '^SIP|^Contact'

    SIP/2.0 302 Moved Temporarily
    Contact: <sip:4930123@berlin.example.net>;q=1
    Contact: <sip:4930123@gw2.example.net>;q=0.5

The gateways of the longest prefix are named, the cheapest first; a caller tries the next one if that fails.
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver
from zope.interface import implementer

from twisted_sipuas import (
    SIPURI,
    URI,
    ILocationService,
    Redirection,
    RedirectServer,
    Request,
    SIPError,
    SIPService,
    Target,
)

RATES = {  # digits that a number begins with: gateways that carry it, and their prices
    "49": [("gw1.example.net", 0.012), ("gw2.example.net", 0.009)],
    "4930": [("berlin.example.net", 0.004), ("gw2.example.net", 0.009)],
}
LONGEST = max(map(len, RATES))


@implementer(ILocationService)
class LeastCost:
    """Sends a number to the gateways of its longest known prefix, the cheapest with the highest q."""

    description = "the rate table"

    def lookup(self, request_uri: URI, request: Request) -> Redirection:
        called = request_uri.telephone_number
        number = "" if called is None else called.number
        sip_uri = request_uri if isinstance(request_uri, SIPURI) else SIPURI.build("localhost", number)
        digits = number.removeprefix("+")[:LONGEST]
        for length in range(len(digits), 0, -1):
            if digits[:length] in RATES:
                rates = sorted(RATES[digits[:length]], key=lambda rate: rate[1])
                return Redirection(
                    Target(sip_uri.with_host(gateway), q=1 - place / len(rates))
                    for place, (gateway, price) in enumerate(rates)
                )
        raise SIPError(404, "No Rate For This Number")


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    service = SIPService(reactor, RedirectServer([LeastCost()]), listen=sys.argv[1:] or ["udp:5060"])
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
