"""SIP and the web in one process: who is on duty is set on a page, and calls are redirected there.

    python examples/with_web.py udp:5070 tcp:8080:interface=127.0.0.1

and from another shell:

    curl -d contact=sip:bob@192.0.2.7 http://127.0.0.1:8080/
    sipp -sn uac 127.0.0.1:5070 -m 1
"""

from __future__ import annotations

import html
import sys
from dataclasses import dataclass

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from twisted_sipuas import (
    SIPURI,
    IServerTransaction,
    MessageSyntaxError,
    Request,
    Response,
    SIPError,
    SIPService,
    UserAgentServer,
)

PAGE = """<!doctype html><title>On duty</title>
<p>On duty: {contact}. Calls so far: {calls}.</p>
<form method="post"><input name="contact" placeholder="sip:bob@192.0.2.7"> <button>is on duty</button></form>
"""


@dataclass
class Duty:
    """What both sides share: one reactor runs them, so that a plain object will do."""

    contact: SIPURI | None = None
    calls: int = 0


class Support(UserAgentServer):
    """Redirects every call to who is on duty."""

    def __init__(self, duty: Duty) -> None:
        super().__init__()
        self.duty = duty

    def handle_INVITE(self, request: Request, transaction: IServerTransaction) -> Response:
        if self.duty.contact is None:
            raise SIPError(480, "Nobody Is on Duty")
        self.duty.calls += 1
        return request.response(302, contacts=[self.duty.contact])


class Page(Resource):
    isLeaf = True

    def __init__(self, duty: Duty) -> None:
        super().__init__()
        self.duty = duty

    def render_GET(self, request: IRequest) -> bytes:
        contact = html.escape(str(self.duty.contact or "nobody"))
        return PAGE.format(contact=contact, calls=self.duty.calls).encode()

    def render_POST(self, request: IRequest) -> bytes:
        try:
            self.duty.contact = SIPURI(request.args.get(b"contact", [b""])[0].decode("utf-8", "replace"))
        except MessageSyntaxError as error:
            request.setResponseCode(400)
            return f"{error}\n".encode()
        return self.render_GET(request)


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    sip, web = sys.argv[1:] or ["udp:5060", "tcp:8080:interface=127.0.0.1"]
    duty, both = Duty(), MultiService()
    StreamServerEndpointService(serverFromString(reactor, web), Site(Page(duty))).setServiceParent(both)
    SIPService(reactor, Support(duty), listen=[sip]).setServiceParent(both)
    both.privilegedStartService()
    both.startService()
    reactor.addSystemEventTrigger("before", "shutdown", both.stopService)
    reactor.run()
