"""`AnsweringServer`: answers every INVITE with one status; with a 2xx it takes the call, without media."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from twisted.internet.interfaces import IReactorTime

from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.interfaces import IAuthenticator, IServerTransaction
from twisted_sipuas.syntax import sdp
from twisted_sipuas.syntax.body import parse_body
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.scalars import Warning
from twisted_sipuas.uas.server import UserAgentServer

__all__ = ["AnsweringServer"]


class _Described(NamedTuple):
    """What was agreed on in a dialog: the offer as it came, and the description that we sent last."""

    offer: sdp.SessionDescription | None
    media: tuple[sdp.Media, ...]
    session: int
    version: int
    octets: bytes


class AnsweringServer(UserAgentServer):
    """Answers every INVITE with *status*, 200 to 699.

    With a 2xx it takes the call: every audio and video stream of the offer is taken as inactive, all others are
    refused, and an INVITE without an offer gets one (13.3.1.4, RFC 3264). The call lasts until the caller ends it, or
    for `max_call_time`. Where none of the streams that are offered can be taken the answer is 488.

    *authenticator*, *domains* and *clock* are as for `UserAgentServer`. Raises `ValueError` for any other status.
    """

    accept = {"INVITE": (sdp.CONTENT_TYPE,)}  # noqa: RUF012  # nobody changes it

    def __init__(
        self,
        status: int = 200,
        *,
        authenticator: IAuthenticator | None = None,
        domains: Iterable[str] = (),
        clock: IReactorTime | None = None,
    ) -> None:
        if not 200 <= status <= 699:
            raise ValueError(f"an INVITE is answered with a status from 200 to 699, not {status}")
        super().__init__(authenticator=authenticator, domains=domains, clock=clock)
        self.status = status

    @property
    def description(self) -> str:
        """One phrase for logs."""
        return f"{self.status} to every INVITE"

    def admit(self, request: Request) -> bool:
        """Refuse the call, if that is the status."""
        if self.status >= 300:
            raise SIPError(self.status, rule="answer")
        return True

    def handle_INVITE(self, request: Request, transaction: IServerTransaction) -> None:
        """Take the call, or go on with it as the peer wants it now (13.3.1, 14.2)."""
        dialog: Any = transaction.dialog
        described = self._describe(request, transaction, None if dialog is None else dialog.session)
        response = request.response(self.status, body=described.octets, content_type=sdp.CONTENT_TYPE, rule="answer")
        transaction.respond(response)
        transaction.dialog.session = described

    def capabilities(self, request: Request, transaction: IServerTransaction) -> bytes:
        """Return what would be offered (11.2)."""
        return _capabilities(transaction.flow.advertised_address.host)

    def _describe(self, request: Request, transaction: IServerTransaction, before: _Described | None) -> _Described:
        """Return what the 2xx describes: an answer to the offer of *request*, or an offer (13.3.1, 14.2)."""
        host = transaction.flow.advertised_address.host
        offered = _offer_of(request, host)
        if before is not None and offered is not None and offered == before.offer:
            return before  # 14.2: neither the version nor the content has changed, and the session stays as it is
        if offered is None:
            media, time = sdp.offer(() if before is None else before.media), "0 0"
        else:
            media, time = sdp.answer(offered), offered.time
            if any(stream.port for stream in offered.media) and not any(stream.port for stream in media):
                raise _not_acceptable(304, "Media type not available", host)
        if before is None:
            session, version = _session_id(), 0
        else:
            session, version = before.session, before.version
            if sdp.description(media, host, session, version, time) == before.octets:
                return before._replace(offer=offered or before.offer)
            version += 1  # RFC 3264, 8: it grows by one with each change
        return _Described(offered, media, session, version, sdp.description(media, host, session, version, time))


def _offer_of(request: Request, host: str) -> sdp.SessionDescription | None:
    """Return the offer in *request*, or None; raises `SIPError` for one that cannot be read."""
    if not request.body:
        return None
    try:
        for part in parse_body(request.headers, request.body).leaves():
            if part.content_type == sdp.CONTENT_TYPE:
                return sdp.parse_description(part.content)
    except MessageSyntaxError as fault:
        raise _not_acceptable(399, fault.reason, host) from None
    return None


def _not_acceptable(code: int, text: str, host: str) -> SIPError:
    """Return the refusal of an offer, with the Warning that says why (13.3.1.3, 20.43)."""
    agent = f"[{host}]" if ":" in host else host
    return SIPError(488, headers=[("Warning", str(Warning(code, agent, text)))], rule="13.3.1.3-3")


@lru_cache(maxsize=16)  # as many as there are listeners, or nearly
def _capabilities(host: str) -> bytes:
    """Return the description of no session in particular: what can be sent and received at *host* (11.2)."""
    return sdp.description(sdp.offer(), host, _session_id(), 0)


def _session_id() -> int:
    """Return what names a session in its o= line: as good as unique, and 63 bits for who counts in signed ones."""
    return secrets.randbits(62)
