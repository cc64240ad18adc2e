"""Where a request really came from, and where its responses go (RFC 3261, 18.2.1 and 18.2.2; RFC 3581).

Followed to the letter, 18.2.2 lets anybody have our responses sent anywhere. So what a request says of received and
rport is discarded, and maddr counts only where it cannot hurt a third party.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address, IFlow
from twisted_sipuas.syntax.fields import Via
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import canonical_host
from twisted_sipuas.transport.networks import Networks, parse_network

__all__ = ["Trust", "response_route", "stamp"]

_DEFAULT_PORT = 5060
_MAX_TTL = 255


class Trust:
    """Which sources may have us send where their names say, and as much as they like: the *networks* given.

    Raises `ValueError` for what is no network.
    """

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = Networks((parse_network(text), True) for text in networks)

    def covers(self, host: str) -> bool:
        """Whether *host*, a numeric address, is a trusted source."""
        return self._networks.verdict(host) is True


_NOBODY = Trust()


def stamp(request: Request, flow: IFlow) -> None:
    """Note in *request* what it came on, and in its topmost Via where from (18.2.1; RFC 3581, 4).

    The peer of a UNIX socket has no address to be noted. Raises `MessageSyntaxError` if that Via is malformed.
    """
    request.flow = flow
    via = request.via
    source, port = flow.remote_address
    if "rport" in via.parameters or (via.host != source and canonical_host(via.host) != _reference(source)):
        if source:
            request.stamp_via(source, port)
    elif "received" in via.parameters:
        request.stamp_via(None, port)


def response_route(request: Request, flow: IFlow, trust: Trust = _NOBODY) -> IFlow:
    """Return the way for responses to *request*, which was stamped and came on *flow* (18.2.2; RFC 3581, 4).

    On a reliable transport that is the connection. On UDP it is maddr where *trust* or its kind permits it, else the
    source address: its port with rport, else the port of sent-by. Where even the topmost Via is malformed it is the
    flow itself.
    """
    if flow.is_reliable:
        return flow
    try:
        via = request.via
    except MessageSyntaxError:
        return flow
    parameters = via.parameters
    if "maddr" in parameters:
        route = _by_maddr(parameters["maddr"] or "", via, flow, trust)
        if route is not None:
            return route
    if "rport" in parameters:
        return flow
    source = flow.remote_address
    port = via.port or _DEFAULT_PORT
    return flow if port == source.port else flow.towards(Address(source.host, port))


def _by_maddr(maddr: str, via: Via, flow: IFlow, trust: Trust) -> IFlow | None:
    """Return the way to *maddr*, or None where following it would let the source aim us at another.

    A multicast group has asked for what it gets, and a time to live of 1 keeps the response on the local network
    unless the Via asks for more (18.2.2).
    """
    if "%" in maddr:
        return None  # a zone, which sending would look up
    try:
        address = ipaddress.ip_address(maddr.strip("[]"))
    except ValueError:
        return None
    destination = Address(str(address), via.port or _DEFAULT_PORT)
    if address.is_multicast:
        return flow.towards(destination, _ttl(via))
    source = flow.remote_address.host
    may_choose = destination.host == source or ipaddress.ip_address(source).is_loopback or trust.covers(source)
    return flow.towards(destination) if may_choose else None


def _ttl(via: Via) -> int:
    """Return the ttl of *via*, 1 if there is none or it is malformed."""
    text = via.parameters.get("ttl") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= _MAX_TTL else 1


def _reference(host: str) -> str:
    return canonical_host(f"[{host}]") if ":" in host else host
