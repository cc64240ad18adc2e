"""What does a request of ours look like, before a check makes something else of it?"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.message import Request

__all__ = ["COOKIE", "SDP", "Draft", "new_branch", "offer"]

COOKIE = "z9hG4bK"
SDP = "application/sdp"


@dataclass(frozen=True)
class Draft:
    """A request outside any dialog, unless its `to` has a tag; None stands for what is new with each request."""

    method: str
    uri: str
    to: str
    from_tag: str
    call_id: str
    branch: str
    sent_by: str
    transport: str
    from_: str
    user_agent: str
    cseq: int = 1
    via_parameters: str = ";rport"
    vias: tuple[str, ...] = ()
    """Further Via values, of those it would have passed."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    without: tuple[str, ...] = ()
    """Names of header fields that are left out."""

    def request(self) -> Request:
        """Return the request."""
        via = f"SIP/2.0/{self.transport} {self.sent_by}{f';branch={self.branch}' if self.branch else ''}"
        rows = [
            ("Via", via + self.via_parameters),
            *(("Via", via) for via in self.vias),
            ("Max-Forwards", "70"),
            ("From", f"{self.from_};tag={self.from_tag}"),
            ("To", self.to),
            ("Call-ID", self.call_id),
            ("CSeq", f"{self.cseq} {self.method}"),
            ("User-Agent", self.user_agent),
        ]
        if self.method == "INVITE":
            rows.append(("Contact", f"<sip:{self.sent_by};transport={self.transport.lower()}>"))
        own = {name.lower() for name, _ in self.headers} | {name.lower() for name in self.without}
        rows = [(name, value) for name, value in rows if name == "Via" or name.lower() not in own]
        return Request(self.method, self.uri, [*rows, *self.headers], self.body)


def new_branch() -> str:
    """Return a branch that no other request has (8.1.1.7)."""
    return f"{COOKIE}{secrets.token_hex(8)}"


def offer(address: Address) -> bytes:
    """Return a session description that any telephone can answer, and that has no media sent to us."""
    kind = "IP6" if ":" in address.host else "IP4"
    lines = [
        "v=0",
        f"o=- 1 1 IN {kind} {address.host}",
        "s=-",
        f"c=IN {kind} {address.host}",
        "t=0 0",
        "m=audio 49170 RTP/AVP 0",
        "a=rtpmap:0 PCMU/8000",
        "a=inactive",
        "",
    ]
    return "\r\n".join(lines).encode()
