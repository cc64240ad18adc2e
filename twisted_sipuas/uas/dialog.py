"""`Dialog`: what two user agents share once one of them was called, and what requests within it look like (12)."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred, succeed

from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.interfaces import IFlow
from twisted_sipuas.syntax.addresses import RecordRoute
from twisted_sipuas.syntax.fields import NameAddr
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import SIPURI
from twisted_sipuas.transaction.table import has_identifier

__all__ = [
    "Dialog",
    "DialogEnd",
    "DialogID",
    "DialogState",
    "check_caller",
    "contact_uri",
    "needs_sips",
    "remote_target",
]

# 19.1.1, table 1: what a Request-URI must not have.
_NOT_IN_REQUEST_URI = frozenset(("method",))


class DialogID(NamedTuple):
    """What tells one dialog from all others (12)."""

    call_id: str
    local_tag: str
    remote_tag: str | None
    """None for a peer of RFC 2543 that gave no tag (12.1.1)."""


class DialogState(enum.Enum):
    """Where a dialog is between its first response and its end (12)."""

    EARLY = "early"
    """A provisional response with a tag was sent."""
    CONFIRMED = "confirmed"
    """A 2xx was sent."""
    TERMINATED = "terminated"
    """Over: a request within it gets 481."""


class DialogEnd(enum.Enum):
    """Why a dialog that was confirmed came to its end."""

    BYE_RECEIVED = "BYE received"
    """The peer ended it."""
    BYE_SENT = "BYE sent"
    """`Dialog.end` was called."""
    ACK_TIMEOUT = "ACK timeout"
    """No ACK came for a 2xx within 64*T1 (13.3.1.4, 14.2)."""
    CALL_TIME = "call time"
    """It lasted longer than a call may."""
    SHUTDOWN = "shutdown"
    """The service stopped."""


class _Session(Protocol):
    """What a dialog needs of the session that it belongs to."""

    def end(self, reason: DialogEnd, headers: tuple[tuple[str, str], ...]) -> Deferred[None]:
        """Send BYE, as soon as that is allowed; see `Dialog.end`."""


class Dialog:
    """A dialog that an INVITE to this server made (12.1.1).

    `id` names it, `state` is its `DialogState`. `local_uri` and `remote_uri` are To and From of that INVITE, without
    display name and tag. `remote_target` is the `SIPURI` that requests to the peer are for, `route_set` the values of
    Record-Route that they visit, in order, as received. `local_sequence` is the number of our latest request, None
    before the first; `remote_sequence` that of the peer's. `is_secure` says that the INVITE came over TLS for a SIPS
    URI. `flow` is what the peer's latest request came on, by which it has proven to be there. `session` is yours: the
    core never reads it.
    """

    __slots__ = (
        "_session",
        "flow",
        "id",
        "is_secure",
        "local_sequence",
        "local_uri",
        "remote_sequence",
        "remote_target",
        "remote_uri",
        "route_set",
        "session",
        "state",
    )

    def __init__(self, request: Request, local_tag: str, flow: IFlow, session: _Session) -> None:
        self.id = DialogID(request.call_id, local_tag, request.from_.tag)
        self.state = DialogState.EARLY
        self.local_uri = request.to.uri_text
        self.remote_uri = request.from_.uri_text
        self.remote_target = remote_target(request)
        self.route_set = tuple(request.headers.values("Record-Route"))
        self.local_sequence: int | None = None
        self.remote_sequence: int | None = request.cseq.number
        self.is_secure = flow.transport == "TLS" and request.uri.scheme == "sips"
        self.flow = flow
        self.session: object = None
        self._session: _Session | None = session

    def session_ended(self) -> None:
        """Nothing is left that `end` could do; for the session."""
        self._session = None

    def end(self, reason: DialogEnd = DialogEnd.BYE_SENT, *, headers: Iterable[tuple[str, str]] = ()) -> Deferred[None]:
        """End the dialog and its session by BYE (15.1.1); *headers* are further ``(name, value)`` pairs of that.

        While the 2xx waits for its ACK the BYE waits too (15). Returns a `Deferred` that fires when the peer has
        answered or has been given up, at once if the dialog is over. *reason* is what `dialog_ended` is told.

        An INVITE within the dialog that waits for its answer gets 487. The handlers of other requests within it, of
        which one may have called this, answer them as they would have.

        Raises `ValueError` for an early dialog, which is the INVITE's to answer (15), and as `Headers` does.
        """
        if self.state is DialogState.EARLY:
            raise ValueError("an early dialog is ended by a final response to its INVITE")
        rows = tuple(Headers(headers))
        return succeed(None) if self._session is None else self._session.end(reason, rows)

    def next_request(self, method: str, headers: Iterable[tuple[str, str]] = ()) -> tuple[Request, SIPURI]:
        """Return the next request of ours, without a Via, and the URI that says where it goes first (12.2.1.1).

        *headers* are further ``(name, value)`` pairs. Raises `ValueError` for CR, LF or NUL in these.
        """
        self.local_sequence = number = (self.local_sequence or 0) + 1
        target, routes = self.remote_target, list(self.route_set)
        next_hop = target
        if routes:
            next_hop = _hop(routes[0])
            if "lr" not in next_hop.parameters:  # a strict router: it wants its own URI there, and ours at the end
                routes = [*routes[1:], f"<{target}>"]
                target = next_hop
        rows = [("Route", route) for route in routes]
        rows += [
            ("Max-Forwards", "70"),
            ("From", f"<{self.local_uri}>;tag={self.id.local_tag}"),
            ("To", f"<{self.remote_uri}>" + ("" if self.id.remote_tag is None else f";tag={self.id.remote_tag}")),
            ("Call-ID", self.id.call_id),
            ("CSeq", f"{number} {method}"),
            *headers,
        ]
        return Request(method, _as_request_uri(target), rows), next_hop

    def __repr__(self) -> str:
        return f"<Dialog {self.state.value} {self.id.call_id!r}>"


def remote_target(request: Request) -> SIPURI:
    """Return the URI in the one Contact of *request* (12.1.1).

    A client of RFC 2543, whose branch lacks the magic cookie, may give none: then From is where it is. Raises
    `SIPError` for a request that has to have a Contact and has none, several, or no SIP URI there (8.1.1.8).
    """
    contacts = request.contacts
    if len(contacts) > 1:
        raise SIPError(400, "More Than One Contact", rule="12.1.1-12")
    if not contacts and has_identifier(request.via):
        raise SIPError(400, "Missing Contact header field", rule="12.1.1-12")
    return _sip_uri(contacts[0] if contacts else request.from_, "Contact")


def check_caller(request: Request) -> None:
    """Raise `SIPError` if no request could be sent to who sent *request*: by its Contact and Record-Route (12.1.1)."""
    remote_target(request)
    if "Record-Route" in request.headers:
        for route in request.headers.every(RecordRoute):
            _sip_uri(route, "Record-Route")


def needs_sips(request: Request) -> bool:
    """Whether our Contact has to be a SIPS URI (12.1.1).

    It has where the Request-URI is one, or the topmost Record-Route, or without that the Contact. Within a dialog the
    Request-URI is our own Contact, and says it all.
    """
    if request.uri.scheme == "sips" or request.to.tag is not None:
        return request.uri.scheme == "sips"
    routes = request.headers.values("Record-Route")
    return (_hop(routes[0]) if routes else remote_target(request)).scheme == "sips"


def contact_uri(request: Request, flow: IFlow) -> str:
    """Return the URI by which the peer reaches this server within the dialog (12.1.1, 8.1.1.8).

    It is the address that others are told of *flow*, and the user that *request* was for.
    """
    host, port = flow.advertised_address
    user = request.uri.user if isinstance(request.uri, SIPURI) else None
    scheme = "sips" if needs_sips(request) else "sip"
    where = f"{'' if user is None else user + '@'}{f'[{host}]' if ':' in host else host}:{port}"
    # A SIPS URI goes by TLS as it is; in a SIP URI nothing else than this old parameter tells that (26.2.2).
    transport = "" if flow.transport == "UDP" or scheme == "sips" else f";transport={flow.transport.lower()}"
    return f"{scheme}:{where}{transport}"


def _hop(route: str) -> SIPURI:
    """Return the URI of the Record-Route value *route*, which was checked."""
    return _sip_uri(RecordRoute(route), "Record-Route")


def _sip_uri(address: NameAddr, field: str) -> SIPURI:
    """Return the URI of *address*; raises `SIPError` naming *field* if it is no SIP URI, or malformed."""
    try:
        uri = address.uri
        if isinstance(uri, SIPURI):
            return uri
    except MessageSyntaxError:
        pass  # then it is none either
    raise SIPError(400, f"No SIP URI in the {field} header field", rule="12.1.1-12")


def _as_request_uri(uri: SIPURI) -> str:
    """Return *uri* without what a Request-URI must not have (19.1.1, table 1)."""
    text = uri.text if uri.headers is None else uri.text[: -len(uri.headers) - 1]
    if _NOT_IN_REQUEST_URI.isdisjoint(uri.parameters):
        return text
    user, at, rest = text.rpartition("@")
    where, *parameters = rest.split(";")
    kept = [text for text in parameters if text.partition("=")[0].lower() not in _NOT_IN_REQUEST_URI]
    return user + at + ";".join([where, *kept])
