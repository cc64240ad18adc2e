"""UDP: one datagram, one message (RFC 3261, 18.3)."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet import error, udp
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import Address, IMessageReceiver
from twisted_sipuas.syntax.message import MAX_URI, answerable_part, parse_message
from twisted_sipuas.transport.flow import DatagramFlow

__all__ = ["MAX_DATAGRAM", "SIPDatagramPort", "SIPDatagramProtocol"]

_log = Logger()

MAX_DATAGRAM = 65535
"""To be passed as ``maxPacketSize``: Twisted's default cuts longer datagrams in silence."""

_RECEIVE_BUFFER = 4 * 1024 * 1024  # the kernel takes as much of it as net.core.rmem_max allows


class SIPDatagramProtocol(DatagramProtocol):
    """Hands the SIP messages that come in datagrams to *receiver*, an `IMessageReceiver` such as `SIPService`.

    For your own ``reactor.listenUDP(5060, SIPDatagramProtocol(service), maxPacketSize=MAX_DATAGRAM)``.

    *max_message* bounds one message in octets, *max_uri* its Request-URI; what is longer is refused with 513 and 414.
    """

    noisy = False

    def __init__(self, receiver: IMessageReceiver, max_message: int = MAX_DATAGRAM, max_uri: int = MAX_URI) -> None:
        self._receiver = receiver
        self._max_message = max_message
        self._max_uri = max_uri
        self.closed = True
        self.local_address = Address("", 0)
        self._is_ipv6 = False

    def startProtocol(self) -> None:
        """The socket is bound."""
        assert self.transport is not None
        host = self.transport.getHost()
        self.local_address = Address(host.host, host.port)
        self._is_ipv6 = ":" in host.host
        self.closed = False

    def stopProtocol(self) -> None:
        """The socket is closed."""
        self.closed = True

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        """Take one datagram; nothing but white space is a keep-alive, and owed nothing (RFC 5626, 3.5.1)."""
        if len(data) <= 4 and not data.strip():
            return
        flow = DatagramFlow(self, addr)
        try:
            if len(data) > self._max_message:
                raise MessageSyntaxError("The message is too long", status=513, request=answerable_part(data))
            message = parse_message(data, self._max_uri)
        except MessageSyntaxError as fault:
            self._receiver.syntax_error_received(fault, flow)
        else:
            self._receiver.message_received(message, flow)

    def send(self, data: bytes, destination: tuple[str, int]) -> None:
        """Send *data* to *destination*, a numeric address; raises `TransportError` if the system refuses."""
        if self.closed or self.transport is None:
            raise TransportError("the socket is closed")
        if self._is_ipv6 and ":" not in destination[0]:
            destination = (f"::ffff:{destination[0]}", destination[1])
        try:
            self.transport.write(data, destination)
        except (BlockingIOError, InterruptedError):
            pass  # the send buffer is full: as if the datagram were lost on the way
        except (OSError, OverflowError, ValueError, error.MessageLengthError) as reason:
            if getattr(reason, "errno", None) != errno.ENOBUFS:  # which is a full send buffer as BSD reports it
                raise TransportError(str(reason)) from reason


class SIPDatagramPort(udp.Port):
    """A UDP port that bounds one wake-up by a count of datagrams, not of octets as Twisted's own does.

    So a flood of empty datagrams cannot keep timers and connections from their turn; and it costs less.
    """

    batch = 64
    """How many datagrams are read before others have a turn."""

    @classmethod
    def adopt(cls, bound: socket.socket, protocol: SIPDatagramProtocol, reactor: IReactorCore) -> SIPDatagramPort:
        """Return a port on *bound*, a non-blocking UDP socket that stays the caller's to close.

        `reactor.adoptDatagramPort` would make one of Twisted's own.
        """
        port = cls._fromListeningDescriptor(reactor, bound.fileno(), bound.family, protocol, MAX_DATAGRAM)
        assert isinstance(port, SIPDatagramPort)
        return port

    def createInternetSocket(self) -> socket.socket:
        """Return the socket, with a receive buffer that holds more than a moment's burst."""
        made: socket.socket = super().createInternetSocket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        return made

    def doRead(self) -> None:
        """Read at most `batch` datagrams."""
        receive, size, received = self.socket.recvfrom, self.maxPacketSize, self.protocol.datagramReceived
        is_ipv6 = self.addressFamily == socket.AF_INET6
        for _ in range(self.batch):
            try:
                data, address = receive(size)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error for what we sent before
            try:
                received(data, _with_zone(*address) if is_ipv6 else address)
            except Exception:
                _log.failure("a datagram could not be handled")
            if not self.connected:
                return

    def write(self, datagram: bytes, addr: tuple[str, int] | None = None) -> None:
        """Send *datagram* to *addr*, a numeric address; raises `OSError` as the system does.

        Without Twisted's checks of each address, which cost as much as the sending: every address here was read from a
        socket or parsed.
        """
        assert addr is not None, "SIP datagrams go out on unconnected sockets"
        self.socket.sendto(datagram, addr)


def _with_zone(host: str, port: int, _flow_information: int, zone: int) -> tuple[str, int]:
    """Return where an answer goes: a link-local address is of use only with its zone (RFC 4007, 6)."""
    return (f"{host}%{zone}" if zone else host, port)
