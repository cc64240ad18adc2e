"""Which sockets do several processes serve together, and which of them is whose?"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReadDescriptor
from twisted.internet.protocol import DatagramProtocol, Factory

from twisted_sipuas.errors import StartError
from twisted_sipuas.transport.listen import DatagramListen, SecureListen, StreamListen
from twisted_sipuas.transport.listeners import Listeners, Listening
from twisted_sipuas.transport.udp import SIPDatagramPort

__all__ = ["SharedListeners"]


class SharedListeners:
    """Binds what *wanted* describes for *count* processes, and keeps it bound whatever becomes of them.

    Each process has a UDP socket of its own for each UDP listener: the kernel hands every datagram of one address and
    port to the same of them, for as long as all stay open. So no other peer moves when a process ends, and what comes
    until it is replaced waits in its socket.

    Of a stream listener there is one socket, from which every process accepts: with one for each, the connections that
    the kernel gave to a process that has ended would wait for its replacement, while others are idle.

    *client_ca* is as for `Listeners`. It is used on Linux only: elsewhere SO_REUSEPORT means something else.
    """

    def __init__(
        self,
        reactor: Any,
        wanted: Sequence[DatagramListen | SecureListen | StreamListen],
        count: int,
        client_ca: str | None = None,
    ) -> None:
        self._wanted = wanted
        self._count = count
        self._listeners = Listeners(
            reactor, wanted, lambda _: _UnservedDatagrams(), lambda _, __: _UnservedStreams(), client_ca
        )
        self._siblings: list[socket.socket] = []
        self._descriptors: list[list[tuple[int, ...]]] = []

    @property
    def listening(self) -> tuple[Listening, ...]:
        """The listeners that are open."""
        return self._listeners.listening

    def open(self) -> None:
        """Bind every socket; raises `StartError`, and then none stays bound."""
        try:
            self._listeners.open()
            for item, ports in zip(self._wanted, self._listeners.ports_of, strict=True):
                self._descriptors.append([self._shared(item, port) for port in ports or (None,)])
        except BaseException:
            self.close()
            raise

    def descriptors(self, process: int) -> list[tuple[int, ...]]:
        """Return the sockets of *process*, from 0, for each of *wanted*."""
        return [tuple(of_port[process] for of_port in of_item) for of_item in self._descriptors]

    def close(self) -> Deferred[Any]:
        """Close every socket here; those that processes have inherited are theirs."""
        self._descriptors = []
        siblings, self._siblings = self._siblings, []
        for sibling in siblings:
            sibling.close()
        return self._listeners.close()

    def _shared(
        self, item: DatagramListen | SecureListen | StreamListen, port: IListeningPort | None
    ) -> tuple[int, ...]:
        """Return the descriptor of each process for *port*, which nobody serves here."""
        # The first process to close a UNIX socket would remove its name from the file system.
        if not IReadDescriptor.providedBy(port) or isinstance(port.getHost(), UNIXAddress):
            text = item.description if isinstance(item, StreamListen) else item
            raise StartError(f"{text}: workers cannot share it; choose udp:, tcp: or ssl: with --listen")
        port.stopReading()
        if not isinstance(port, SIPDatagramPort):
            return (port.fileno(),) * self._count
        siblings = _siblings(port, self._count - 1)
        self._siblings += siblings
        return (port.fileno(), *(sibling.fileno() for sibling in siblings))


class _UnservedDatagrams(DatagramProtocol):
    """What would serve a UDP socket here, were it read."""

    noisy = False


class _UnservedStreams(Factory):
    """What would serve connections here, were they accepted."""

    noisy = False


def _siblings(port: SIPDatagramPort, count: int) -> list[socket.socket]:
    """Bind *count* more sockets where *port* is.

    It was bound without SO_REUSEPORT, which fails where anybody else is. Only then it gets that: were all of them bound
    with it, a second server, started by mistake, would be let in and take a share of the datagrams.
    """
    first: socket.socket = port.socket
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            sibling = port.createInternetSocket()
            made.append(sibling)
            sibling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sibling.bind(first.getsockname())
    except OSError as error:
        for sibling in made:
            sibling.close()
        raise StartError(
            f"udp:{first.getsockname()}: {error.strerror} for a further socket; see --workers and --listen"
        ) from None
    return made
