"""How does a client reach a server? Datagrams or streams, to a port of 127.0.0.1, for `load.py`."""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import time
from typing import Protocol

from messages import Exchanges

__all__ = ["LOST_AFTER", "Link", "connect"]

LOST_AFTER = 2.0
"""Seconds without any message, after which what is outstanding is lost."""

_START_TIMEOUT = 20.0
_AT_ONCE = 64  # datagrams
_LARGEST = 65535
_LENGTH = re.compile(rb"\r\n(?:Content-Length|l)[ \t]*:[ \t]*([0-9]+)", re.IGNORECASE)


class Link(Protocol):
    """What `load.py` sends and receives by."""

    transport: str
    own_port: int

    def send(self, number: int, data: bytes) -> None:
        """Send *data*, a message of the exchange of this *number*."""

    def receive(self) -> list[bytes]:
        """Wait for messages; returns none if none came for `LOST_AFTER` seconds."""

    def receive_at_once(self) -> list[bytes]:
        """Return the messages that have come."""


def connect(transport: str, port: int, connections: int) -> Link:
    """Return a link to the server at *port*, which may be about to start, once it answers."""
    if transport == "udp":
        return _Datagrams(port)
    return _Streams(transport, port, connections)


class _Datagrams:
    """One UDP socket."""

    transport = "udp"

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.connect(("127.0.0.1", port))
        self.own_port = self._socket.getsockname()[1]
        self._wait_until_served()
        # The system's own timeout: Python's costs a call of `poll` each time.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(LOST_AFTER), 0))

    def _wait_until_served(self) -> None:
        requests = Exchanges("options", None, self.transport, self.own_port)
        self._socket.settimeout(0.1)
        for number in range(int(_START_TIMEOUT / 0.1)):
            try:
                self._socket.send(requests.request(number))
                self._socket.recv(_LARGEST)
            except ConnectionRefusedError:
                time.sleep(0.1)
            except TimeoutError:
                pass
            else:
                self._socket.settimeout(None)
                return
        raise SystemExit("the server does not answer")

    def send(self, number: int, data: bytes) -> None:
        try:
            self._socket.send(data)
        except ConnectionRefusedError:
            pass  # what is lost is counted

    def receive(self) -> list[bytes]:
        try:
            data = self._socket.recv(_LARGEST)
        except (BlockingIOError, ConnectionRefusedError):
            return []
        return [data, *self.receive_at_once()]

    def receive_at_once(self) -> list[bytes]:
        messages: list[bytes] = []
        try:
            while len(messages) < _AT_ONCE:
                messages.append(self._socket.recv(_LARGEST, socket.MSG_DONTWAIT))
        except (BlockingIOError, ConnectionRefusedError):
            pass
        return messages


class _Streams:
    """Connections by TCP or TLS, one for each exchange in turn. Certificates are not verified."""

    def __init__(self, transport: str, port: int, connections: int) -> None:
        self.transport = transport
        self._poll = select.epoll()
        self._sockets: list[socket.socket] = []
        self._received: dict[int, tuple[socket.socket, bytearray]] = {}
        for _ in range(connections):
            connection = self._open(port)
            connection.setblocking(False)
            self._sockets.append(connection)
            self._received[connection.fileno()] = connection, bytearray()
            self._poll.register(connection, select.EPOLLIN)
        self.own_port = self._sockets[0].getsockname()[1]

    def _open(self, port: int) -> socket.socket:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", port), _START_TIMEOUT)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise SystemExit("the server does not listen") from None
                time.sleep(0.1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.transport == "tcp":
            return connection
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(connection)

    def send(self, number: int, data: bytes) -> None:
        connection = self._sockets[number % len(self._sockets)]
        left = memoryview(data)
        while left:
            try:
                left = left[connection.send(left) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                writable = select.poll()
                writable.register(connection, select.POLLOUT)
                if not writable.poll(LOST_AFTER * 1000):
                    raise SystemExit("the server does not read") from None

    def receive(self) -> list[bytes]:
        deadline = time.monotonic() + LOST_AFTER
        while True:
            messages = self._receive(max(0.0, deadline - time.monotonic()))
            if messages or time.monotonic() > deadline:
                return messages

    def receive_at_once(self) -> list[bytes]:
        return self._receive(0.0)

    def _receive(self, timeout: float) -> list[bytes]:
        messages: list[bytes] = []
        for number, _ in self._poll.poll(timeout):
            connection, received = self._received[number]
            try:
                while True:  # TLS may have more than the system knows of
                    data = connection.recv(_LARGEST)
                    if not data:
                        raise SystemExit("the server closed a connection")
                    received += data
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            messages += _messages(received)
        return messages


def _messages(received: bytearray) -> list[bytes]:
    """Take what has come whole off *received*."""
    messages = []
    while (end := received.find(b"\r\n\r\n")) >= 0:
        length = _LENGTH.search(received, 0, end)
        size = end + 4 + (0 if length is None else int(length[1]))
        if len(received) < size:
            break
        messages.append(bytes(received[:size]))
        del received[:size]
    return messages
