"""UDP: one datagram, one message (RFC 3261, 18.3)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from time import monotonic, time
from typing import Any

from twisted.internet import error, udp
from twisted.internet.interfaces import IHalfCloseableDescriptor, IReactorCore
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import Address, IMessageReceiver
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.parsing import answerable_part, parse_message
from twisted_sipuas.transport import packets
from twisted_sipuas.transport.flow import Ancillary, DatagramFlow, PacketInfo
from twisted_sipuas.transport.limits import MAX_DATAGRAM, TransportLimits
from twisted_sipuas.transport.networks import AccessList

__all__ = ["MAX_DATAGRAM", "SIPDatagramPort", "SIPDatagramProtocol", "WildcardDatagramPort", "datagram_port"]

_log = Logger()

_MAX_FLOWS = 1024  # that are kept; a proxy sends all its requests from one address
_RECEIVE_BUFFER = 4 * 1024 * 1024  # the kernel takes as much of it as net.core.rmem_max allows


class SIPDatagramProtocol(DatagramProtocol):
    """Hands the SIP messages that come in datagrams to *receiver*, an `IMessageReceiver` such as `SIPService`.

    For your own ``reactor.listenUDP(5060, SIPDatagramProtocol(service), maxPacketSize=MAX_DATAGRAM)``.

    *limits* bounds a message and its Request-URI; what is longer is refused with 513 and 414. *advertised_address* is
    what others are to be told instead of the socket's own address, with port 0 for the socket's own port. What comes
    from a source that *access* denies is dropped unread.
    """

    noisy = False

    def __init__(
        self,
        receiver: IMessageReceiver,
        limits: TransportLimits = TransportLimits(),  # noqa: B008  # it cannot be changed
        advertised_address: Address | None = None,
        access: AccessList | None = None,
    ) -> None:
        self._receiver = receiver
        self._access = access or None  # one that denies nobody need not be asked
        self._max_message = limits.max_message
        self._max_header = min(limits.max_header, limits.max_message)
        self._max_uri = limits.max_uri
        self.closed = True
        self.local_address = Address("", 0)
        self.advertised_address = advertised_address
        self._is_ipv6 = False
        self._flows: dict[tuple[str, int], DatagramFlow] = {}
        self._sendto: Callable[[bytes, tuple[str, int]], object]
        self._sendmsg: Callable[[tuple[bytes], Ancillary, int, tuple[str, int]], object]

    def startProtocol(self) -> None:
        """The socket is bound."""
        assert self.transport is not None
        host = self.transport.getHost()
        self.local_address = Address(host.host, host.port)
        self._is_ipv6 = ":" in host.host
        if isinstance(self.transport, SIPDatagramPort):
            # Without Twisted's checks of each address, which cost as much as the sending: every address here was read
            # from a socket or parsed.
            self._sendto, self._sendmsg = self.transport.socket.sendto, self.transport.socket.sendmsg
        else:
            self._sendto, self._sendmsg = self.transport.write, self._send_without_ancillary
        if self.advertised_address is not None and not self.advertised_address.port:
            self.advertised_address = self.advertised_address._replace(port=host.port)
        self.closed = False

    def stopProtocol(self) -> None:
        """The socket is closed."""
        self.closed = True

    def datagramReceived(self, data: bytes, addr: Any, info: PacketInfo | None = None) -> None:
        """Take one datagram; nothing but white space is a keep-alive, and owed nothing (RFC 5626, 3.5.1).

        *info* is what the port knows of the address that it came to.
        """
        if self._access is not None and not self._access.admits_datagram(addr[0]):
            return
        flow = self._flows.get(addr) if info is None else DatagramFlow(self, addr, info)
        if flow is None:
            flow = self._new_flow(addr)
        try:
            if not 4 < len(data) <= self._max_header:
                if len(data) <= 4 and not data.strip():
                    return
                self._check_length(data)
            message = parse_message(data, self._max_uri)
        except MessageSyntaxError as fault:
            self._receiver.syntax_error_received(fault, flow)
        else:
            self._receiver.message_received(message, flow)

    def _new_flow(self, addr: tuple[str, int]) -> DatagramFlow:
        """Make the flow from *addr*, and keep it for the next datagram: to find one costs a quarter of making it."""
        if len(self._flows) >= _MAX_FLOWS:
            self._flows.clear()
        flow = self._flows[addr] = DatagramFlow(self, addr)
        return flow

    def _send_without_ancillary(self, pieces: tuple[bytes], _: Ancillary, flags: int, addr: tuple[str, int]) -> None:
        """Send what a port of Twisted's own, by a bare `listenUDP`, can send: the datagram alone."""
        self._sendto(pieces[0], addr)

    def datagram_undeliverable(self, data: bytes, addr: tuple[str, int]) -> None:
        """What was sent to *addr* cannot arrive; *data* is as much of it as the network gives back (18.4)."""
        if data:
            self._receiver.sending_failed(data, DatagramFlow(self, addr))

    def send(self, data: bytes, destination: tuple[str, int], info: PacketInfo | None = None) -> None:
        """Send *data* to *destination*, a numeric address; raises `TransportError` if the system refuses."""
        if self.closed:
            raise TransportError("the socket is closed")
        if self._is_ipv6 and ":" not in destination[0]:
            destination = (f"::ffff:{destination[0]}", destination[1])
        try:
            if info is None:
                self._sendto(data, destination)
            else:
                self._sendmsg((data,), info.ancillary, 0, destination)
        except BlockingIOError:
            pass  # the send buffer is full: as if the datagram were lost on the way
        except (OSError, OverflowError, ValueError, error.MessageLengthError):
            self._send_again(data, destination, info)

    def _send_again(self, data: bytes, destination: tuple[str, int], info: PacketInfo | None) -> None:
        """Try once more, for the error may be that of an earlier datagram, which the port's error queue tells of."""
        try:
            if info is None:
                self._sendto(data, destination)
            else:
                self._sendmsg((data,), info.ancillary, 0, destination)
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, OverflowError, ValueError, error.MessageLengthError) as reason:
            if getattr(reason, "errno", None) != errno.ENOBUFS:  # which is a full send buffer as BSD reports it
                raise TransportError(str(reason)) from reason

    def with_ttl(self, info: PacketInfo | None, ttl: int) -> PacketInfo:
        """Return *info* with this time to live."""
        local, ancillary = info or PacketInfo(None, [])
        return PacketInfo(local, [*ancillary, packets.time_to_live(ttl, self._is_ipv6)])

    def _check_length(self, data: bytes) -> None:
        """Raise `MessageSyntaxError` if *data* or its header section is longer than the limits allow."""
        if len(data) > self._max_message:
            raise MessageSyntaxError("The message is too long", status=513, request=answerable_part(data))
        if data.find(b"\r\n\r\n", 0, self._max_header) < 0:
            raise MessageSyntaxError("The header section is too long", status=513, request=answerable_part(data))


@implementer(IHalfCloseableDescriptor)
class SIPDatagramPort(udp.Port):
    """A UDP port that bounds one wake-up by a count of datagrams and by time, not by octets as Twisted's own does.

    So a flood of empty datagrams cannot keep timers and connections from their turn; and it costs less. It tells its
    protocol of datagrams that ICMP reports as undeliverable, where the system can tell (on Linux; 18.4).
    """

    batch = 64
    """How many datagrams are read before others have a turn."""

    longest_turn = 0.002
    """Seconds after which others have a turn anyhow, however few datagrams took them."""

    protocol: SIPDatagramProtocol

    is_behind = False
    """Whether the last turn left something to be read, as far as is known."""

    @classmethod
    def adopt(cls, bound: socket.socket, protocol: DatagramProtocol, reactor: IReactorCore) -> SIPDatagramPort:
        """Return a port on *bound*, a non-blocking UDP socket that stays the caller's to close.

        `reactor.adoptDatagramPort` would make one of Twisted's own.
        """
        cls.prepare(bound)
        port = cls._fromListeningDescriptor(reactor, bound.fileno(), bound.family, protocol, MAX_DATAGRAM)
        assert isinstance(port, SIPDatagramPort)
        return port

    @classmethod
    def prepare(cls, made: socket.socket) -> None:
        """Set up the socket: a receive buffer that holds more than a moment's burst, and reports of ICMP errors."""
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        packets.ask_for_errors(made)

    def createInternetSocket(self) -> socket.socket:
        """Return the socket, set up."""
        made: socket.socket = super().createInternetSocket()
        self.prepare(made)
        return made

    def doRead(self) -> None:
        """Read at most `batch` datagrams."""
        receive, size, received = self.socket.recvfrom, self.maxPacketSize, self.protocol.datagramReceived
        is_ipv6 = self.addressFamily == socket.AF_INET6
        end = monotonic() + self.longest_turn
        for count in range(self.batch):
            try:
                data, address = receive(size)
            except (BlockingIOError, InterruptedError):
                self.is_behind = False
                if count == 0:  # what woke us up is no datagram
                    self._read_errors()
                return
            except OSError:
                self._read_errors()
                continue
            try:
                received(data, _with_zone(*address) if is_ipv6 else address)
            except Exception:
                _log.failure("a datagram could not be handled")
            if not self.connected or (count & 7 == 7 and monotonic() > end):
                break
        self.is_behind = True

    @property
    def waiting(self) -> float:
        """For how many seconds, at most, what is in the socket has waited; 0 if nothing is, or the system cannot tell.

        It came after the datagram that was read last, and of that the system knows when it came.
        """
        if not self.is_behind:
            return 0.0
        came = packets.time_of_last(self.socket)
        return 0.0 if came is None else max(0.0, time() - came)

    def readConnectionLost(self, reason: Failure) -> None:
        """What epoll makes of an error report with no datagram beside it: it is no end of anything."""
        self._read_errors()
        if self.connected:
            self.startReading()

    def writeConnectionLost(self, reason: Failure) -> None:
        """Never called: the socket has no half to close."""

    def _read_errors(self) -> None:
        """Tell the protocol which datagrams could not be delivered, at most `batch` of them."""
        for _ in range(self.batch):
            if not self.connected:
                return
            try:
                report = packets.read_error(self.socket)
            except OSError:
                return
            if report is not None:
                data, address = report
                try:
                    self.protocol.datagram_undeliverable(data, address)
                except Exception:
                    _log.failure("a report of an undeliverable datagram could not be handled")


class WildcardDatagramPort(SIPDatagramPort):
    """A port bound to every address of the machine: it tells which one a datagram came to, and answers from that.

    The kernel would choose the source of an answer by its routes; a client that asked another address drops it, and so
    does the NAT before it (RFC 3581, 4). It costs a fifth more than a port on one address.
    """

    @classmethod
    def prepare(cls, made: socket.socket) -> None:
        """Set up the socket, and have the destination of each datagram told."""
        super().prepare(made)
        packets.ask_for_packet_info(made)

    def doRead(self) -> None:
        """Read at most `batch` datagrams."""
        receive, size, received = self.socket.recvmsg, self.maxPacketSize, self.protocol.datagramReceived
        is_ipv6 = self.addressFamily == socket.AF_INET6
        space, info_of = packets.ANCILLARY_SPACE, self._packet_info
        end = monotonic() + self.longest_turn
        for count in range(self.batch):
            try:
                data, ancillary, _, address = receive(size, space)
            except (BlockingIOError, InterruptedError):
                self.is_behind = False
                if count == 0:
                    self._read_errors()
                return
            except OSError:
                self._read_errors()
                continue
            try:
                received(data, _with_zone(*address) if is_ipv6 else address, info_of(ancillary))
            except Exception:
                _log.failure("a datagram could not be handled")
            if not self.connected or (count & 7 == 7 and monotonic() > end):
                break
        self.is_behind = True

    def _connectToProtocol(self) -> None:
        self._packet_info = packets.PacketInfoReader(self.getHost().port)
        super()._connectToProtocol()


def datagram_port(interface: str) -> type[SIPDatagramPort]:
    """Return the kind of port for a socket bound to *interface*; a wildcard address needs more work."""
    return WildcardDatagramPort if interface in ("", "0.0.0.0", "::") else SIPDatagramPort


def _with_zone(host: str, port: int, _flow_information: int, zone: int) -> tuple[str, int]:
    """Return where an answer goes: a link-local address is of use only with its zone (RFC 4007, 6)."""
    return (f"{host}%{zone}" if zone else host, port)
