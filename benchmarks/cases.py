"""What does `table.py` measure? Each case is one kind of exchange, and the servers that take part."""

from __future__ import annotations

from typing import NamedTuple

from peers import DEBIAN, Start, aiosipua, echo, kamailio, ours, sippy, twisted_sip

__all__ = ["CASES", "OURS", "Case"]

OURS = "**twisted-sipuas**"
_OURS_IN_MEMORY = f"{OURS}, `memory:`"
_OURS_BY_DEFAULT = f"{OURS}, `sqlite:`, the default"
_KAMAILIO, _AS_DEBIAN = "kamailio", ", as Debian starts it"
_TWISTED_SIP = "`twisted.protocols.sip`, stateless"


class Case(NamedTuple):
    """Exchanges of one kind over one transport; the first of *servers* is the one that others are compared with."""

    title: str
    kind: str
    status: int | None
    servers: dict[str, Start]
    transport: str = "udp"
    connections: int = 1
    users: int = 1
    registers: bool = False
    """Whether the users have to be registered before."""


def _redirect(title: str, transport: str, connections: int, peers: dict[str, Start]) -> Case:
    servers = {_OURS_IN_MEMORY: ours("--location", "memory:", transport=transport), **peers}
    return Case(title, "invite", 302, servers, transport, connections, users=1_000, registers=True)


def _kamailio_over_tcp() -> dict[str, Start]:
    return {
        f"{_KAMAILIO}, `tm`": kamailio(302, is_stateful=True, has_registrar=True, transport="tcp"),
        f"{_KAMAILIO}, `tm`{_AS_DEBIAN}": kamailio(
            302, is_stateful=True, has_registrar=True, allocator=DEBIAN, transport="tcp"
        ),
        "aiosipua": aiosipua(302, "tcp"),
    }


CASES = {
    "stateless": Case(
        "INVITE, 480, ACK; no transactions",
        "invite",
        480,
        {
            f"{OURS}, `--mode stateless`": ours("--mode", "stateless"),
            f"{_KAMAILIO}, `sl`": kamailio(480, is_stateful=False),
            f"{_KAMAILIO}, `sl`{_AS_DEBIAN}": kamailio(480, is_stateful=False, allocator=DEBIAN),
            _TWISTED_SIP: twisted_sip(480),
        },
    ),
    "redirect": _redirect(
        "INVITE, 302, ACK; 1,000 users",
        "udp",
        1,
        {
            _OURS_BY_DEFAULT: ours(),
            f"{_KAMAILIO}, `sl`": kamailio(302, is_stateful=False, has_registrar=True),
            f"{_KAMAILIO}, `tm`": kamailio(302, is_stateful=True, has_registrar=True),
            f"{_KAMAILIO}, `tm`{_AS_DEBIAN}": kamailio(302, is_stateful=True, has_registrar=True, allocator=DEBIAN),
            _TWISTED_SIP: twisted_sip(302),
            "sippy": sippy(302),
            "aiosipua": aiosipua(302),
        },
    ),
    "register": Case(
        "REGISTER, 200; 1,000 users refresh",
        "register",
        200,
        {
            _OURS_IN_MEMORY: ours("--location", "memory:"),
            _OURS_BY_DEFAULT: ours(),
            f"{_KAMAILIO}, `save`": kamailio(302, is_stateful=False, has_registrar=True),
            f"{_KAMAILIO}, `save`{_AS_DEBIAN}": kamailio(302, is_stateful=False, has_registrar=True, allocator=DEBIAN),
        },
        users=1_000,
        registers=True,
    ),
    "options": Case(
        "OPTIONS, 200; stateful",
        "options",
        200,
        {
            f"{OURS}, `--mode stateful`": ours("--mode", "stateful"),
            f"{OURS}, a handler's bare 200": ours("--mode", "stateful", "--handler", "handlers.Present"),
            f"{_KAMAILIO}, `tm`": kamailio(486, is_stateful=True),
            f"{_KAMAILIO}, `tm`{_AS_DEBIAN}": kamailio(486, is_stateful=True, allocator=DEBIAN),
            _TWISTED_SIP: twisted_sip(200),
            "sippy": sippy(486),
            "aiosipua": aiosipua(486),
        },
    ),
    "busy": Case(
        "INVITE, 486, ACK; stateful",
        "invite",
        486,
        {
            f"{OURS}, `--answer 486`": ours("--mode", "stateful", "--answer", "486"),
            f"{_KAMAILIO}, `tm`": kamailio(486, is_stateful=True),
            f"{_KAMAILIO}, `tm`{_AS_DEBIAN}": kamailio(486, is_stateful=True, allocator=DEBIAN),
            "sippy": sippy(486),
            "aiosipua": aiosipua(486),
        },
    ),
    "call": Case(
        "INVITE, 200, ACK, BYE, 200",
        "call",
        200,
        {f"{OURS}, `--mode stateful`": ours("--mode", "stateful"), "aiosipua": aiosipua(200)},
    ),
    "tcp": _redirect("TCP, 1 connection: INVITE, 302, ACK; 1,000 users", "tcp", 1, _kamailio_over_tcp()),
    "tcp-1000": _redirect("TCP, 1,000 connections: INVITE, 302, ACK", "tcp", 1_000, _kamailio_over_tcp()),
    "tls": _redirect("TLS, 1 connection: INVITE, 302, ACK; 1,000 users", "tls", 1, {}),
    "echo": Case(
        "A datagram sent back: the floor",
        "options",
        None,
        {"Twisted's `DatagramProtocol`": echo("twisted"), "`recvfrom` and `sendto` in a loop": echo("socket")},
    ),
}
"""The cases, by the names that `table.py` takes."""
