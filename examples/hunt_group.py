"""A hunt group: calls are redirected to gateways in turn, those alone that said of late that they are alive.

    python examples/hunt_group.py udp:5070 127.0.0.1 127.0.0.2:5080

Gateways check their peers by OPTIONS; each that comes from a gateway counts as a sign of life. From another shell:

    sipsak -s sip:127.0.0.1:5070             # as the first gateway does
    sipp -sn uac 127.0.0.1:5070 -m 1         # 302 with the contact sip:service@127.0.0.1

A gateway that was not heard for 90 seconds is left out, and while there is none the answer is 503 with Retry-After: a
proxy then takes its next route. OPTIONS is answered as a call would be, so a peer of yours learns the same by it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime
from twisted.logger import globalLogBeginner, textFileLogObserver

from twisted_sipuas import SIPURI, IServerTransaction, Request, Response, SIPError, SIPService, Target, UserAgentServer


class HuntGroup(UserAgentServer):
    """Redirects calls to those of the *gateways* that are alive, the one that had no call for longest first."""

    schemes = ("sip", "sips")
    silence = 90.0
    """Seconds without an OPTIONS after which a gateway is left out: three times what gateways wait between two."""
    most = 3
    """Gateways that a caller is told of, to try one after the other."""

    def __init__(self, gateways: Iterable[SIPURI], clock: IReactorTime) -> None:
        super().__init__(clock=clock)
        self.seconds = clock.seconds
        self.gateways = list(gateways)
        self.heard: dict[str, float] = {}  # when, by the address

    def alive(self) -> list[SIPURI]:
        """Return the gateways that were heard lately."""
        since = self.seconds() - self.silence
        return [gateway for gateway in self.gateways if self.heard.get(gateway.host, since) > since]

    def handle_OPTIONS(self, request: Request, transaction: IServerTransaction) -> object:
        """Note the sign of life. One with a forged source costs a caller no more than a try at a dead gateway."""
        source = transaction.flow.remote_address.host
        for gateway in self.gateways:
            if gateway.host.strip("[]") == source:
                self.heard[gateway.host] = self.seconds()
        return super().handle_OPTIONS(request, transaction)

    def admit(self, request: Request) -> bool:
        """Asked for calls and OPTIONS alike: is there anywhere to go?"""
        if not self.alive():
            raise SIPError(503, "No Gateway Is Alive", headers=[("Retry-After", "30")])
        return True

    def handle_INVITE(self, request: Request, transaction: IServerTransaction) -> Response:
        gateways = self.alive()[: self.most]
        self.gateways.remove(gateways[0])  # it goes to the end of the queue
        self.gateways.append(gateways[0])
        assert isinstance(request.uri, SIPURI), "others get 416, by schemes"
        targets = [request.uri.with_host(gateway.host, gateway.port) for gateway in gateways]
        return request.response(302, contacts=[Target(uri, q=1 - place / 10) for place, uri in enumerate(targets)])


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    listen, *gateways = sys.argv[1:] or ["udp:5060", "127.0.0.1"]
    hunt_group = HuntGroup([SIPURI(f"sip:{gateway}") for gateway in gateways], reactor)
    service = SIPService(reactor, hunt_group, listen=[listen])
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
