"""One line of log for a request and its answer: what came, what was answered, and which rule decided that."""

from __future__ import annotations

from twisted.logger import Logger

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import IFlow
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.uri import SIPURI

__all__ = ["log_answer", "trace_line"]

_log = Logger()

_LONGEST_URI = 200  # characters
_LONGEST_CALL_ID = 100


def log_answer(request: Request, response: Response | None, flow: IFlow) -> None:
    """Log the line of `trace_line`."""
    _log.info("{line}", line=trace_line(request, response, flow))


def trace_line(request: Request, response: Response | None, flow: IFlow) -> str:
    """Return one line that says what came on *flow*, what was answered, and by which rule.

    Text from the network is escaped, so that it can be no line of its own and no command to a terminal, and cut; the
    password of a URI is left out.
    """
    call_id = _plain(request.headers.get("Call-ID") or "", _LONGEST_CALL_ID)
    came = f"{_plain(request.method, 30)} {_plain(_uri(request), _LONGEST_URI)}"
    answer = "nothing" if response is None else f"{response.status} {_plain(response.reason, 100)} ({response.rule})"
    return f"{came} from {flow.remote_address} by {flow.transport}, Call-ID {call_id}: {answer}"


def _uri(request: Request) -> str:
    """Return the Request-URI without a password; where it cannot be told, without all before the host."""
    text = request.uri_text
    try:
        uri = request.uri
    except MessageSyntaxError:
        scheme, colon, rest = text.partition(":")
        _, at, after = rest.rpartition("@")
        return f"{scheme}{colon}{'...@' if at else ''}{after}"
    if isinstance(uri, SIPURI) and uri.password is not None:
        return text.replace(f":{uri.password}@", "@", 1)
    return text


def _plain(text: str, longest: int) -> str:
    """Return *text* in visible ASCII, the rest escaped, and cut to the *longest* number of characters."""
    shown = text[: longest + 1].encode("unicode_escape", "replace").decode("ascii")
    return shown if len(shown) <= longest else f"{shown[:longest]}..."
