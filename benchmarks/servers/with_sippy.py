"""A peer of `table.py`: sippy's transaction manager, and a transaction user that answers at once.

usage: with_sippy.py STATUS PORT

INVITE is answered with STATUS, a 3xx with one contact; everything else 200. Start it with SIPLOG_BEND=none in the
environment, or sippy logs every message.
"""

from __future__ import annotations

import sys
from typing import Any

from sippy.Core.EventDispatcher import ED2
from sippy.SipAddress import SipAddress
from sippy.SipContact import SipContact
from sippy.SipHeader import SipHeader
from sippy.SipLogger import SipLogger
from sippy.SipTransactionManager import SipTransactionManager
from sippy.SipURL import SipURL

_REASONS = {302: "Moved Temporarily", 486: "Busy Here"}


class Answers:
    """Answers INVITE with *status*."""

    def __init__(self, status: int) -> None:
        self._status = status

    def request_received(self, request: Any, transaction: Any) -> tuple[Any, None, None]:
        """Answer, as the transaction manager asks for it."""
        if request.getMethod() != "INVITE":
            return request.genResponse(200, "OK"), None, None
        response = request.genResponse(self._status, _REASONS[self._status])
        if 300 <= self._status < 400:
            url = SipURL(username=request.getRURI().username, host="192.0.2.9", port=5060)
            response.appendHeader(SipHeader(name="contact", body=SipContact(address=SipAddress(url=url))))
        return response, None, None


if __name__ == "__main__":
    settings: dict[str, Any] = {"_sip_address": "127.0.0.1", "_sip_port": int(sys.argv[2])}
    settings["_sip_logger"] = SipLogger("benchmark")
    settings["_sip_tm"] = SipTransactionManager(settings, Answers(int(sys.argv[1])).request_received)
    ED2.loop()
