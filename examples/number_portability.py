"""A redirect server for number portability: a call goes on with what the table says of its number (RFC 4694).

    python examples/number_portability.py udp:5070 examples/ported_numbers.txt gateway.example.net

and from another shell: sipsak -d -vv -s sip:+441632960083@127.0.0.1:5070 | grep ^Contact

    Contact: <sip:+441632960083;npdi;rn=+441632960999@gateway.example.net;user=phone>

`npdi` alone says that the number was looked up and not ported. SIGHUP has the table read again.
"""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from urllib.parse import unquote

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThread
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from zope.interface import implementer

from twisted_sipuas import SIPURI, URI, ILocationService, Redirection, RedirectServer, Request, SIPService

ENTRY = re.compile(r"(\+[0-9]+)\s+(\+[0-9]+)")
log = Logger()


def read_table(path: Path) -> dict[str, str]:
    """Return the routing number of each ported number; a line of the file has both."""
    table = {}
    for place, line in enumerate(path.read_text().splitlines(), 1):
        if numbers := ENTRY.fullmatch(line.strip()):
            table[numbers[1]] = numbers[2]
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{path}:{place}: expected two numbers such as +441632960083")
    return table


@implementer(ILocationService)
class NumberPortability(Service):
    """Sends global numbers to *gateway*, each with the routing number that the table in *path* has for it."""

    description = "the table of ported numbers"

    def __init__(self, path: Path, gateway: str) -> None:
        self.path, self.gateway, self.table = path, gateway, read_table(path)

    def reload(self) -> None:
        """Read the table, which may be long, while calls are served; if there is a mistake in it, the old one stays."""
        reading = deferToThread(read_table, self.path).addCallback(lambda table: setattr(self, "table", table))
        reading.addErrback(lambda failure: log.error("{why}", why=failure.getErrorMessage()))

    def lookup(self, request_uri: URI, request: Request) -> Redirection | None:
        called = request_uri.telephone_number
        if called is None or not called.is_global:
            return None  # that is, ask the next location service; there is none, and so the answer is 404
        user = [name if value is None else f"{name}={unquote(value)}" for name, value in called.parameters.items()]
        if "npdi" not in called.parameters:
            user = [word for word in user if not word.startswith(("rn=", "rn-context="))] + ["npdi"]
            user += [f"rn={rn}"] if (rn := self.table.get(called.number)) else []
            user.sort(key=lambda word: (not word.startswith(("ext=", "isub=")), word))  # RFC 3966, 3
        scheme = "sips" if request_uri.scheme == "sips" else "sip"
        number = ";".join([called.number, *user])
        return Redirection([SIPURI.build(self.gateway, number, scheme=scheme, parameters=[("user", "phone")])])


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    listen, table, gateway = sys.argv[1:]
    service = SIPService(reactor, RedirectServer([NumberPortability(Path(table), gateway)]), listen=[listen])
    service.startService()
    signal.signal(signal.SIGHUP, lambda *_: IReactorFromThreads(reactor).callFromThread(service.reload))
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
