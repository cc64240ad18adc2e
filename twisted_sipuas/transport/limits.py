"""What one peer may take of a server's memory and time."""

from __future__ import annotations

from typing import NamedTuple

from twisted_sipuas.syntax.parsing import MAX_URI

__all__ = ["MAX_DATAGRAM", "TransportLimits"]

MAX_DATAGRAM = 65535
"""To be passed as ``maxPacketSize``: Twisted's default cuts longer datagrams in silence."""


class TransportLimits(NamedTuple):
    """The bounds of the transports. Each has a counter that tells what it did."""

    max_message: int = MAX_DATAGRAM
    """Octets of one message; longer gets 513."""
    max_header: int = 32768
    """Octets of a start line and header section; longer gets 513."""
    max_uri: int = MAX_URI
    """Characters of a Request-URI; longer gets 414."""
    max_connections: int = 10_000
    """Connections in all; more are refused."""
    max_connections_per_source: int = 1_000
    """Connections of one IPv4 address or one IPv6 network of 64 bits; more are refused."""
    message_timeout: float = 32.0
    """Seconds from the first octet of a message to its last, and for a peer to read what waits for it."""
    idle_timeout: float = 300.0
    """Seconds without a message or keep-alive; at least 64*T1, which a transaction may last (RFC 3261, 18)."""
