"""The server as a file of Python for twistd, for what its options do not say.

    SIP_LISTEN='udp:5070' twistd -ny examples/sipuas.tac

and from another shell

    sipsak -U -i -C sip:alice@127.0.0.1:5099 -x 600 -s sip:alice@127.0.0.1:5070      # 200
    sipsak -d -vv -s sip:alice@127.0.0.1:5070                                        # 302 to sip:alice@127.0.0.1:5099
    sipsak -d -vv -s sip:bob@127.0.0.1:5070                                          # 302 to the operator

Without `-n` twistd makes a daemon of it. Users who are not registered are the operator's, a rule in Python.
"""

from __future__ import annotations

import os

from twisted.application.service import Application
from twisted.internet import reactor
from zope.interface import implementer

from twisted_sipuas import (
    URI,
    ILocationService,
    Redirection,
    RedirectServer,
    Registrar,
    Request,
    SIPService,
    SQLiteBindingStore,
)

OPERATOR = "sip:operator@pbx.example.net"


@implementer(ILocationService)
class Operator:
    """Asked last, where everybody else is."""

    description = "the operator"

    def lookup(self, request_uri: URI, request: Request) -> Redirection:
        return Redirection([OPERATOR])


store = SQLiteBindingStore("sipuas.sqlite", reactor)
redirect_server = RedirectServer([store, Operator()], registrar=Registrar(store))
listen = os.environ.get("SIP_LISTEN", "udp:5060").split()

application = Application("sipuas")
SIPService(reactor, redirect_server, listen=listen).setServiceParent(application)
