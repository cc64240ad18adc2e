"""How do octets reach the server, and come back? The seam between the checks and a network, real or virtual."""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import NamedTuple, Protocol

from twisted_sipuas.errors import StartError
from twisted_sipuas.interfaces import Address

__all__ = ["Arrival", "Channel", "SocketWire", "StreamReader", "Wire"]

_LONGEST = 65535  # octets of a datagram, and of a message on a stream


class Channel(Protocol):
    """One socket of ours: bound and unconnected for UDP, a connection to the server for TCP and TLS."""

    @property
    def local(self) -> Address:
        """Our end."""

    @property
    def transport(self) -> str:
        """``UDP``, ``TCP`` or ``TLS``."""

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed the connection, or we have."""

    def send(self, octets: bytes) -> None:
        """Send *octets* to the server, as one datagram or on the connection; what cannot be sent is lost."""

    def close(self) -> None:
        """Listen no more."""


class Arrival(NamedTuple):
    """One message that came, as octets."""

    channel: Channel
    octets: bytes
    source: Address


class Wire(Protocol):
    """A way to one server, by one transport."""

    @property
    def transport(self) -> str:
        """``UDP``, ``TCP`` or ``TLS``."""

    @property
    def server(self) -> Address:
        """Where the server listens."""

    def now(self) -> float:
        """Return the time in seconds, from an origin of its own."""

    def open(self, transport: str | None = None) -> Channel:
        """Return a new channel, by *transport* or that of the wire; raises `OSError` if no connection is to be had."""

    def receive(self, seconds: float) -> Arrival | None:
        """Return the next message on any open channel, or None once so many *seconds* have passed without one."""

    def close(self) -> None:
        """Close every channel."""


class StreamReader:
    """Cuts what a server sends on a connection into messages, and judges none of it.

    `StreamFramer` gives up where there is no Content-Length; here a message without one has no body, so that a check
    gets to see it. CRLFs between messages are handed out as they are.
    """

    def __init__(self) -> None:
        self._buffer = b""

    def receive(self, octets: bytes) -> None:
        """Take *octets*, the next of the stream."""
        self._buffer += octets

    def next_message(self) -> bytes | None:
        """Return the next message, or None for want of octets."""
        if self._buffer[:2] == b"\r\n":
            return self._take(2)
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return self._take(len(self._buffer)) if len(self._buffer) > _LONGEST else None
        length = _content_length(head)
        return self._take(len(head) + 4 + length) if len(rest) >= length else None

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() in (b"content-length", b"l") and value.strip().isdigit():
            return min(int(value), _LONGEST)
    return 0


class _Datagrams:
    """A UDP socket."""

    transport = "UDP"
    is_closed = False

    def __init__(self, server: Address, local_host: str) -> None:
        self._server = server
        self.socket = socket.socket(_family(server), socket.SOCK_DGRAM)
        self.socket.bind((local_host, 0))
        self.local = Address(*self.socket.getsockname()[:2])

    def send(self, octets: bytes) -> None:
        try:
            self.socket.sendto(octets, self._server)
        except OSError:
            pass  # as if it were lost on the way: no answer comes, and that is what is reported

    def read(self) -> list[tuple[bytes, Address]]:
        """Return what is there to be read, with where it came from."""
        try:
            octets, source = self.socket.recvfrom(_LONGEST)
        except OSError:
            return []
        return [(octets, Address(*source[:2]))]

    def close(self) -> None:
        self.is_closed = True
        self.socket.close()


class _Stream:
    """A connection by TCP or TLS."""

    def __init__(self, server: Address, transport: str, timeout: float) -> None:
        self._server = server
        self.transport = transport
        self.is_closed = False
        self.socket = socket.create_connection(server, timeout)
        if transport == "TLS":
            try:
                self.socket = _unverified().wrap_socket(self.socket, server_hostname=server.host)
            except OSError:
                self.socket.close()
                raise
        self.local = Address(*self.socket.getsockname()[:2])
        self._reader = StreamReader()

    def send(self, octets: bytes) -> None:
        try:
            self.socket.sendall(octets)
        except OSError:
            self.close()

    def read(self) -> list[tuple[bytes, Address]]:
        """Return the messages that there are to be read."""
        try:
            octets = self.socket.recv(_LONGEST)
        except OSError:
            octets = b""
        if not octets:
            self.close()
        self._reader.receive(octets)
        messages = []
        while (message := self._reader.next_message()) is not None:
            messages.append((message, self._server))
        return messages

    def close(self) -> None:
        self.is_closed = True
        self.socket.close()


class SocketWire:
    """A `Wire` to *server* by *transport* on sockets of the system; a connection may take *timeout* seconds.

    Raises `StartError` if there is no way to *server*.
    """

    def __init__(self, transport: str, server: Address, timeout: float) -> None:
        self.transport = transport
        self.server = server
        self._timeout = timeout
        self._channels: list[_Datagrams | _Stream] = []
        self._arrived: list[Arrival] = []
        with socket.socket(_family(server), socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(server)  # sends nothing; tells which of our addresses the server will see
            except OSError as error:
                raise StartError(f"there is no way to {server}: {error}") from None
            self._local_host = str(probe.getsockname()[0])

    def now(self) -> float:
        """See `Wire`."""
        return time.monotonic()

    def open(self, transport: str | None = None) -> Channel:
        """See `Wire`."""
        transport = transport or self.transport
        channel: _Datagrams | _Stream
        if transport == "UDP":
            channel = _Datagrams(self.server, self._local_host)
        else:
            channel = _Stream(self.server, transport, self._timeout)
        self._channels = [*(open_ for open_ in self._channels if not open_.is_closed), channel]
        return channel

    def receive(self, seconds: float) -> Arrival | None:
        """See `Wire`."""
        deadline = self.now() + seconds
        while not self._arrived:
            left = deadline - self.now()
            channels = {channel.socket: channel for channel in self._channels if not channel.is_closed}
            pending = [found for found in channels if isinstance(found, ssl.SSLSocket) and found.pending()]
            readable = pending or select.select(list(channels), [], [], max(0.0, left))[0]
            if not readable and left <= 0:
                return None
            for found in readable:
                channel = channels[found]
                self._arrived += [Arrival(channel, octets, source) for octets, source in channel.read()]
        return self._arrived.pop(0)

    def close(self) -> None:
        """See `Wire`."""
        for channel in self._channels:
            channel.close()


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def _unverified() -> ssl.SSLContext:
    """Return a context that takes any certificate: what is judged is SIP."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
