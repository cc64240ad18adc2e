"""Where a request really came from, and where its responses go (RFC 3261, 18.2.1 and 18.2.2; RFC 3581).

Followed to the letter, 18.2.2 lets anybody have our responses sent anywhere. So what a request says of received and
rport is discarded, and maddr counts only where it cannot hurt a third party.
"""

from __future__ import annotations

import ipaddress

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address, IFlow
from twisted_sipuas.syntax.fields import Via
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import canonical_host

__all__ = ["response_route", "stamp"]

_DEFAULT_PORT = 5060


def stamp(request: Request, flow: IFlow) -> None:
    """Note in the topmost Via of *request* where it came from (18.2.1; RFC 3581, 4).

    The peer of a UNIX socket has no address to be noted. Raises `MessageSyntaxError` if that Via is malformed.
    """
    via = request.via
    parameters = via.parameters
    source = flow.remote_address
    if not source.host:
        return
    has_rport = "rport" in parameters
    differs = via.host != source.host and canonical_host(via.host) != _reference(source.host)
    if has_rport or differs:
        request.replace_top_via(via.stamped(source.host, source.port))
    elif "received" in parameters:
        request.replace_top_via(via.stamped(None, source.port))


def response_route(request: Request, flow: IFlow) -> IFlow:
    """Return the way for responses to *request*, which was stamped and came on *flow* (18.2.2; RFC 3581, 4).

    On a reliable transport that is the connection. On UDP it is the source address: its port with rport, else the
    port of sent-by. Where even the topmost Via is malformed it is the flow itself.
    """
    if flow.is_reliable:
        return flow
    try:
        via = request.via
    except MessageSyntaxError:
        return flow
    maddr = via.parameters.get("maddr")
    if maddr is not None:
        destination = _followed_maddr(maddr, via, flow.remote_address)
        if destination is not None:
            return flow.towards(destination)
    if "rport" in via.parameters:
        return flow
    source = flow.remote_address
    port = via.port or _DEFAULT_PORT
    return flow if port == source.port else flow.towards(Address(source.host, port))


def _followed_maddr(maddr: str, via: Via, source: Address) -> Address | None:
    """Return where *maddr* sends the response, or None where following it would let *source* aim us at another."""
    if "%" in maddr:
        return None  # a zone, which sending would look up
    try:
        address = ipaddress.ip_address(maddr.strip("[]"))
        from_loopback = ipaddress.ip_address(source.host).is_loopback
    except ValueError:
        return None
    if str(address) != source.host and not from_loopback:
        return None
    return Address(str(address), via.port or _DEFAULT_PORT)


def _reference(host: str) -> str:
    return canonical_host(f"[{host}]") if ":" in host else host
