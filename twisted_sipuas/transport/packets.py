"""What the kernel tells of a datagram besides its octets: the address it came to, when, and the ICMP errors for it.

Linux tells all of it. Elsewhere nothing is asked for: an answer leaves from the address that the kernel chooses, and
errors go unnoticed, as does how long a datagram waited.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable

from twisted_sipuas.interfaces import Address
from twisted_sipuas.transport.flow import PacketInfo, plain_host

if sys.platform == "linux":
    import fcntl

__all__ = [
    "ANCILLARY_SPACE",
    "PacketInfoReader",
    "ask_for_errors",
    "ask_for_packet_info",
    "read_error",
    "time_of_last",
    "time_to_live",
]

_IS_LINUX = sys.platform == "linux"

# From linux/in.h and linux/in6.h; the socket module of Python 3.10 lacks them.
_IP_PKTINFO = 8
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50
_MSG_ERRQUEUE = 0x2000
_SIOCGSTAMP = 0x8906

_IN_PKTINFO = struct.Struct("=i4s4s")  # interface, our address, destination of the header
_IN6_PKTINFO = struct.Struct("=16si")
_SOCK_EXTENDED_ERR = struct.Struct("=IBBBBII")  # errno, origin, type, code, padding, info, data
_TIMEVAL = struct.Struct("@ll")
_FROM_ICMP, _FROM_ICMPV6 = 2, 3  # SO_EE_ORIGIN_*

ANCILLARY_SPACE = 256
_QUOTED = 2048  # octets: no ICMP error quotes more
_MAX_KNOWN = 1024  # local addresses; a machine may own a whole IPv6 network

# 18.4: these tell that a datagram cannot arrive. A datagram too big for the path (3/4 and 2) will come in pieces.
_UNREACHABLE = 3
_FRAGMENTATION_NEEDED = 4
_PARAMETER_PROBLEM = 12
_V6_UNREACHABLE = 1
_V6_PARAMETER_PROBLEM = 4


def ask_for_packet_info(made: socket.socket) -> None:
    """Have the kernel tell the destination address of each datagram that *made* receives."""
    if not _IS_LINUX:
        return
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def ask_for_errors(made: socket.socket) -> None:
    """Have the kernel keep the ICMP errors for what *made* sends."""
    if not _IS_LINUX:
        return
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    made.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)  # an IPv6 socket has IPv4 peers too


def read_error(made: socket.socket) -> tuple[bytes, tuple[str, int]] | None:
    """Take one report off the error queue of *made*: the datagram, as far as it is quoted, and where it was sent.

    None for one that says nothing of the datagram's arrival (18.4: source quench, TTL exceeded). Raises `OSError` when
    there is none.
    """
    if not _IS_LINUX:
        raise BlockingIOError
    data, ancillary, _, address = made.recvmsg(_QUOTED, ANCILLARY_SPACE * 2, _MSG_ERRQUEUE)
    for level, kind, value in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
            _, origin, icmp_type, code, *_ = _SOCK_EXTENDED_ERR.unpack_from(value)
            if _is_failure(origin, icmp_type, code):
                return data, (address[0], address[1])
    return None


def time_of_last(made: socket.socket) -> float | None:
    """Return when the datagram came that was read last from *made*, by `time.time`; None if that cannot be told.

    The kernel notes it from the first time on that it is asked; till then it tells the time of that.
    """
    if sys.platform != "linux":
        return None
    try:
        seconds, microseconds = _TIMEVAL.unpack(fcntl.ioctl(made, _SIOCGSTAMP, bytes(_TIMEVAL.size)))
    except OSError:
        return None
    return float(seconds + microseconds / 1e6)


def _is_failure(origin: int, icmp_type: int, code: int) -> bool:
    if origin == _FROM_ICMP:
        return icmp_type == _PARAMETER_PROBLEM or (icmp_type == _UNREACHABLE and code != _FRAGMENTATION_NEEDED)
    return origin == _FROM_ICMPV6 and icmp_type in (_V6_UNREACHABLE, _V6_PARAMETER_PROBLEM)


def time_to_live(ttl: int, is_ipv6: bool) -> tuple[int, int, bytes]:
    """Return the ancillary data that gives one datagram the time to live *ttl*, 0 to 255."""
    if is_ipv6:
        return socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, struct.pack("=i", ttl)
    return socket.IPPROTO_IP, socket.IP_TTL, struct.pack("=i", ttl)


class PacketInfoReader:
    """Reads the `PacketInfo` of datagrams that came to *port*; one object for each of our addresses."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._known: dict[bytes, PacketInfo | None] = {}

    def __call__(self, ancillary: Iterable[tuple[int, int, bytes]]) -> PacketInfo | None:
        """Return what *ancillary*, as `socket.recvmsg` gave it, tells; None if that is nothing."""
        for level, kind, value in ancillary:
            try:
                return self._known[value]
            except KeyError:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                info = self._known[value] = self._read(level, kind, value)
                return info
        return None

    def _read(self, level: int, kind: int, value: bytes) -> PacketInfo | None:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, ours, _ = _IN_PKTINFO.unpack(value)  # for a multicast, the address of the interface it came by
            local = Address(socket.inet_ntop(socket.AF_INET, ours), self._port)
            return PacketInfo(local, [(level, kind, _IN_PKTINFO.pack(0, ours, bytes(4)))])
        if (level, kind) != (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return None
        ours, interface = _IN6_PKTINFO.unpack(value)
        if ours[0] == 0xFF:
            return None  # a multicast address can be no source (RFC 4291, 2.7)
        is_link_local = ours[0] == 0xFE and ours[1] & 0xC0 == 0x80
        local = Address(plain_host(socket.inet_ntop(socket.AF_INET6, ours)), self._port)
        return PacketInfo(local, [(level, kind, _IN6_PKTINFO.pack(ours, interface if is_link_local else 0))])
