"""How many connections there may be, from whom, and what became of them."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from twisted_sipuas.interfaces import Address
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.networks import AccessList

__all__ = ["Connections"]


class _Connection(Protocol):
    def close(self) -> None:
        """Close it once what was sent has left."""


class Connections:
    """The connections of every listener of one service, within *limits*, and from whom *access* admits.

    `counters` counts what the limits did, and connections that were no use: ``refused`` and ``refused_per_source``;
    ``idle_timeouts``, ``message_timeouts`` (a message that was too slow to come) and ``write_timeouts`` (a peer that
    does not read); ``not_sip``, and ``handshakes_failed`` for TLS.
    """

    def __init__(self, limits: TransportLimits, access: AccessList | None = None) -> None:
        self.limits = limits
        self._access = access or None  # one that denies nobody need not be asked
        self.counters = {
            "refused": 0,
            "refused_per_source": 0,
            "idle_timeouts": 0,
            "message_timeouts": 0,
            "write_timeouts": 0,
            "not_sip": 0,
            "handshakes_failed": 0,
        }
        self._hosts: dict[_Connection, str] = {}  # every connection, and the host that it is of once that is known
        self._per_source: dict[str, int] = {}
        self._closing: list[Deferred[None]] = []
        self._told_at = -1.0  # when the log was last told of a connection that was no use
        self._suppressed = 0

    def __len__(self) -> int:
        return len(self._hosts)

    def count(self, what: str) -> None:
        """Add one to the counter *what*."""
        self.counters[what] += 1

    def let_go(self, what: str, now: float) -> int | None:
        """Add one to the counter *what*; returns how many were not told of since one last was, None to tell nothing.

        So that a log grows by one line a second at most, whatever comes. *now* is in seconds.
        """
        self.count(what)
        if not self._told_at <= now < self._told_at + 1:
            suppressed, self._suppressed, self._told_at = self._suppressed, 0, now
            return suppressed
        self._suppressed += 1
        return None

    def admit(self, connection: _Connection) -> bool:
        """Whether there is room for *connection*, which then counts."""
        if len(self._hosts) >= self.limits.max_connections:
            self.count("refused")
            return False
        self._hosts[connection] = ""
        return True

    def admit_from(self, connection: _Connection, host: str) -> bool:
        """Whether *host* may have *connection*, which was admitted, too; a UNIX socket's peer has no host."""
        if not host:
            return True
        if self._access is not None and not self._access.admits_connection(host):
            return False
        source = Address(host, 0).network
        if self._per_source.get(source, 0) >= self.limits.max_connections_per_source:
            self.count("refused_per_source")
            return False
        self._per_source[source] = self._per_source.get(source, 0) + 1
        self._hosts[connection] = host
        return True

    def forget(self, connection: _Connection) -> None:
        """*connection* is gone."""
        host = self._hosts.pop(connection, "")
        if host:
            source = Address(host, 0).network
            self._per_source[source] -= 1
            if not self._per_source[source]:
                del self._per_source[source]
        if self._closing and not self._hosts:
            closing, self._closing = self._closing, []
            for waiter in closing:
                waiter.callback(None)

    def close_denied(self) -> None:
        """Close the connections whose hosts are not admitted any more."""
        if self._access is not None:
            for connection, host in list(self._hosts.items()):
                if not self._access.admits(host):
                    self._access.counters["connections_denied"] += 1
                    connection.close()

    def close(self) -> Deferred[None]:
        """Close every connection once what was sent on it has left; fires when all are gone, in 5 seconds at most."""
        closing: Deferred[None] = Deferred()
        if not self._hosts:
            closing.callback(None)
            return closing
        self._closing.append(closing)
        for connection in list(self._hosts):
            connection.close()
        return closing
