"""Which requirements of RFC 3261 does a SIP server keep, as far as can be seen from outside? Any server, not just ours.

The command is ``python -m twisted_sipuas.conformance udp:HOST:PORT --role redirect``. The same from Python::

    client = Client(SocketWire("UDP", Address("192.0.2.1", 5060), 2.0), Target("uas", "sip:192.0.2.1", ""))
    acquaint(client)
    for result in run(client, chosen("uas", "UDP")):
        print(result.check.id, result.outcome.value, result.remark)
"""

from twisted_sipuas.conformance.check import CHECKS, ROLES, Broken, Check, Level, NotJudged, Outcome, Result, judges
from twisted_sipuas.conformance.client import Client, Target
from twisted_sipuas.conformance.run import Unusable, acquaint, chosen, judge, run
from twisted_sipuas.conformance.wire import Arrival, Channel, SocketWire, Wire

__all__ = [
    "CHECKS",
    "ROLES",
    "Arrival",
    "Broken",
    "Channel",
    "Check",
    "Client",
    "Level",
    "NotJudged",
    "Outcome",
    "Result",
    "SocketWire",
    "Target",
    "Unusable",
    "Wire",
    "acquaint",
    "chosen",
    "judge",
    "judges",
    "run",
]
