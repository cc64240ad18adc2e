"""A user agent server in one subclass: it takes text messages, and is busy for calls.

    python examples/greeter.py udp:5070

and from another shell

    sipsak -vv -s sip:bob@127.0.0.1:5070      # 200, and Allow, which has what this class handles
    sipp -sn uac 127.0.0.1:5070 -m 1          # 180, and 486 after a second

A phone's text message gets 200, and is in the log: 'sip:alice@192.0.2.7' says 'hello'.
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver

from twisted_sipuas import IServerTransaction, Request, Response, SIPError, SIPService, UserAgentServer


class Greeter(UserAgentServer):
    """Says in the log what it is told; lets a call ring for a second before it is busy."""

    accept = {"MESSAGE": ("text/plain",)}  # 415 and Accept follow from it
    log = Logger()

    def handle_MESSAGE(self, request: Request, transaction: IServerTransaction) -> Response:
        sender, text = str(request.from_.uri), request.body.decode(errors="replace")
        self.log.info("{sender!a} says {text!a}", sender=sender, text=text)  # !a: nobody writes lines of the log but us
        return request.response(200)

    async def handle_INVITE(self, request: Request, transaction: IServerTransaction) -> Response:
        transaction.respond(request.response(180))
        await deferLater(self.clock, 1)  # of the reactor, or a test; cancelled if the caller hangs up first
        raise SIPError(486)


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    service = SIPService(reactor, Greeter(), listen=sys.argv[1:] or ["udp:5060"])
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
