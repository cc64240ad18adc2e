"""How long transactions wait: the base values of RFC 3261, 17.1.1.1 and table 4 (appendix A)."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Timers"]


class Timers(NamedTuple):
    """The three values, in seconds, that every timer of a transaction is made of."""

    t1: float = 0.5
    """Estimate of the round-trip time."""
    t2: float = 4.0
    """Longest interval between retransmissions of a response to an INVITE."""
    t4: float = 5.0
    """Longest time that a message stays in the network."""

    @property
    def lifetime(self) -> float:
        """64*T1: what Timers H, J and L wait; a client has given up by then."""
        return 64 * self.t1

    @property
    def trying_delay(self) -> float:
        """When an INVITE gets its 100 if nothing else was sent: 200 ms (17.2.1)."""
        return 0.2

    @property
    def late_trying_delay(self) -> float:
        """When a non-INVITE gets its 100: as a client's Timer E, doubling from T1, is reset to T2 (RFC 4320, 4.1)."""
        elapsed, interval = 0.0, self.t1
        while interval < self.t2:
            elapsed += interval
            interval *= 2
        return elapsed
