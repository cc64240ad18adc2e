"""Connections that we open: for a response whose own connection is gone (RFC 3261, 18.2.2)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint

from twisted_sipuas.errors import TransportError
from twisted_sipuas.interfaces import Address, IFlow
from twisted_sipuas.transport.stream import SIPStreamFactory, SIPStreamProtocol

__all__ = ["connect"]

_CONNECT_TIMEOUT = 5.0  # seconds


def connect(reactor: Any, factory: SIPStreamFactory, transport: str, address: Address, host: str) -> Deferred[IFlow]:
    """Return the flow of a new connection to *address* by *transport*, ``TCP`` or ``TLS``.

    *factory* makes its protocol. For TLS the peer has to show a certificate for *host* (RFC 5922, 7.2). Fails with
    whatever the endpoint fails with, and with `TransportError` if there are too many connections already, or none may
    be had with *address*.
    """
    return Deferred.fromCoroutine(_connect(reactor, factory, transport, address, host))


async def _connect(reactor: Any, factory: SIPStreamFactory, transport: str, address: Address, host: str) -> IFlow:
    kind = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
    endpoint: IStreamClientEndpoint = kind(reactor, address.host, address.port, timeout=_CONNECT_TIMEOUT)
    if transport == "TLS":
        from twisted_sipuas.transport.tls import client_creator  # needs what only those who use TLS have installed

        endpoint = wrapClientTLS(client_creator(host), endpoint)
    protocol = await endpoint.connect(factory)
    assert isinstance(protocol, SIPStreamProtocol), "the factory makes no others"
    if protocol.closed:
        raise TransportError("there are too many connections, or the host is denied")
    if transport == "TLS":
        await protocol.when_secure()
    return protocol.flow
