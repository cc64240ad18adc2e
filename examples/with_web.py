"""SIP and the web in one process: who is on duty is set on a page, and calls are redirected there.

    python examples/with_web.py udp:5070 tcp:8080:interface=127.0.0.1

and from another shell:

    curl -d contact=sip:bob@192.0.2.7 http://127.0.0.1:8080/
    sipp -sn uac 127.0.0.1:5070 -m 1         # 302 with the contact sip:bob@192.0.2.7; before, 480
"""

from __future__ import annotations

import html
import sys

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.web.resource import Resource
from twisted.web.server import Request as WebRequest
from twisted.web.server import Site

from twisted_sipuas import SIPURI, MessageSyntaxError, Request, Response, SIPError, SIPService, UserAgentServer

PAGE = """<!doctype html><title>On duty</title>
<p>On duty: {contact}. Calls so far: {calls}.</p>
<form method="post"><input name="contact" placeholder="sip:bob@192.0.2.7"> <button>is on duty</button></form>
"""


class Support(UserAgentServer):
    """Redirects every call to who is on duty."""

    contact: SIPURI | None = None
    calls = 0

    def handle_INVITE(self, request: Request, transaction: object) -> Response:
        if self.contact is None:
            raise SIPError(480, "Nobody Is on Duty")
        self.calls += 1
        return request.response(302, contacts=[self.contact])


class Page(Resource):
    """Shows who is on duty, and sets it: one reactor runs both sides, so that they may share a plain object."""

    isLeaf = True

    def __init__(self, support: Support) -> None:
        super().__init__()
        self.support = support

    def render_GET(self, request: WebRequest) -> bytes:
        contact = html.escape(str(self.support.contact or "nobody"))
        return PAGE.format(contact=contact, calls=self.support.calls).encode()

    def render_POST(self, request: WebRequest) -> bytes:
        (contact,) = request.args.get(b"contact", [b""])[:1]
        try:
            self.support.contact = SIPURI(contact.decode("utf-8", "replace"))
        except MessageSyntaxError as error:
            request.setResponseCode(400)
            return f"{error}\n".encode()
        return self.render_GET(request)


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    sip, web = sys.argv[1:] or ["udp:5060", "tcp:8080:interface=127.0.0.1"]
    support, both = Support(), MultiService()
    StreamServerEndpointService(serverFromString(reactor, web), Site(Page(support))).setServiceParent(both)
    SIPService(reactor, support, listen=[sip]).setServiceParent(both)
    both.privilegedStartService()
    both.startService()
    reactor.addSystemEventTrigger("before", "shutdown", both.stopService)
    reactor.run()
