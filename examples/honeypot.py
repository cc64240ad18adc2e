"""A honeypot: it looks like a PBX, lets nobody in, and writes a line of JSON for every request that it answers.

    python examples/honeypot.py udp:5070 requests.jsonl        # or - in place of the file, for standard output

and from another shell, a guess at a password: sipsak -U -C sip:100@127.0.0.1 -a 1234 -s sip:100@127.0.0.1:5070

    {"time": "...", "source": "127.0.0.1:40312", "transport": "UDP", "method": "REGISTER", "uri": "sip:127.0.0.1", ...

Each password gets 401. Whatever was sent, a line is one line, its values cut and escaped; ten files of 10 MB are kept.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone

from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.logfile import LogFile

from twisted_sipuas import DigestAuthenticator, IFlow, Request, Response, SIPService, UserAgentServer
from twisted_sipuas.syntax.auth import Authorization

HEADERS = ("From", "To", "Contact", "Call-ID", "User-Agent")
DIGEST = ("username", "realm", "uri", "response")  # enough to find out which password was guessed
LONGEST = 200  # characters of each value


class PBX(UserAgentServer):
    """Has the methods of a PBX, for Allow to say so, and asks for a password for each of them but OPTIONS."""

    def needs_authentication(self, request: Request, flow: IFlow) -> bool:
        return request.method != "OPTIONS"

    def refuse(self, request: Request, transaction: object) -> Response:
        return request.response(403)  # nobody gets here, as no password is right

    handle_INVITE = handle_MESSAGE = handle_NOTIFY = handle_PUBLISH = refuse
    handle_REFER = handle_REGISTER = handle_SUBSCRIBE = refuse


def plain(text: str | None) -> str | None:
    """Return the beginning of *text*, with octets that are no UTF-8 escaped; JSON escapes what else is not ASCII."""
    return None if text is None else text[:LONGEST].encode("utf-8", "backslashreplace").decode()


def record(request: Request, response: Response | None, flow: IFlow) -> dict[str, object]:
    """Return what the log has of *request*, which came on *flow* and may be malformed."""
    try:
        digest = Authorization.parse(request.headers.get("Authorization") or "").parameters
    except ValueError:
        digest = {}
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "source": str(flow.remote_address),
        "transport": flow.transport,
        "method": plain(request.method),
        "uri": plain(request.uri_text),
        **{name.lower(): plain(request.headers.get(name)) for name in HEADERS},
        "digest": {name: plain(digest[name]) for name in DIGEST if name in digest},
        "status": None if response is None else response.status,
    }


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    listen, path = sys.argv[1:] or ["udp:5060", "-"]
    file = sys.stdout if path == "-" else LogFile.fromFullPath(path, rotateLength=10_000_000, maxRotatedFiles=9)

    def write(request: Request, response: Response | None, flow: IFlow) -> None:
        file.write(json.dumps(record(request, response, flow)) + "\n")
        file.flush()

    pbx = PBX(authenticator=DigestAuthenticator([], realm="asterisk"))
    service = SIPService(reactor, pbx, listen=[listen], server_header="Asterisk PBX 18.10.0", trace=write)
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
