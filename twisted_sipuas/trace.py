"""One line of log for a request and its answer: what came, what was answered, and which rule decided that."""

from __future__ import annotations

import re

from twisted_sipuas.interfaces import IFlow
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.message import Request, Response

__all__ = ["log_answer", "trace_line"]

_log = Logger()

_SECRET = re.compile("[:?]")  # what a password or header fields begin with
_LONGEST_URI = 200  # characters
_LONGEST_CALL_ID = 100


def log_answer(request: Request, response: Response | None, flow: IFlow) -> None:
    """Log the line of `trace_line`."""
    _log.info("{line}", line=trace_line(request, response, flow))


def trace_line(request: Request, response: Response | None, flow: IFlow) -> str:
    """Return one line that says what came on *flow*, what was answered, and by which rule.

    Text from the network is escaped, so that it can be no line of its own and no command to a terminal, and cut; the
    password and the header fields of a URI are left out.
    """
    call_id = _plain(request.headers.get("Call-ID") or "", _LONGEST_CALL_ID)
    came = f"{_plain(request.method, 30)} {_plain(_uri(request), _LONGEST_URI)}"
    answer = "nothing" if response is None else f"{response.status} {_plain(response.reason, 100)} ({response.rule})"
    return f"{came} from {flow.remote_address} by {flow.transport}, Call-ID {call_id}: {answer}"


def _uri(request: Request) -> str:
    """Return the Request-URI without what may be a secret: a password, and header fields such as Authorization.

    Whether it is one that can be parsed does not matter, for who sent it knows no better.
    """
    scheme, colon, rest = request.uri_text.partition(":")
    userinfo, at, host = rest.rpartition("@")
    user = _SECRET.split(userinfo, maxsplit=1)[0] if scheme.lower() in ("sip", "sips") else at and "..."
    host, question, _ = host.partition("?")
    return f"{scheme}{colon}{user}{at}{host}{question and '?...'}"


def _plain(text: str, longest: int) -> str:
    """Return *text* in visible ASCII, the rest escaped, and cut to the *longest* number of characters."""
    shown = text[: longest + 1].encode("unicode_escape", "replace").decode("ascii")
    return shown if len(shown) <= longest else f"{shown[:longest]}..."
