"""`VirtualNetwork`: servers and clients of one test, and what goes wrong between them, on a clock that you step."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from twisted_sipuas.interfaces import Address, ITransactionUser
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing.clock import VirtualClock
from twisted_sipuas.testing.ladder import Ladder, Passed, read
from twisted_sipuas.testing.sockets import Connection, DatagramSocket, Host, StreamEndpoint
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.listen import parse_advertised
from twisted_sipuas.transport.udp import SIPDatagramProtocol

if TYPE_CHECKING:
    from twisted_sipuas.testing.client import FakeClient

__all__ = ["VirtualNetwork", "VirtualServer"]

_LONGEST_STOP = 60  # seconds: a service that stops has 5 for its requests and 5 for its connections
_FIRST_EPHEMERAL_PORT = 49152


class VirtualServer:
    """A `SIPService` on a `VirtualNetwork`, listening by UDP and TCP at *address*: `service`, and its `user`."""

    def __init__(
        self, service: SIPService, user: ITransactionUser, address: Address, protocol: SIPDatagramProtocol
    ) -> None:
        self.service = service
        self.user = user
        self.address = address
        self._protocol = protocol

    def stop(self) -> Deferred[None]:
        """Stop as a service does, and then close the socket that is not the service's."""
        return self.service.stopService().addCallback(lambda _: self._protocol.doStop())


class VirtualNetwork:
    """A network in memory, with a clock of its own: nothing happens on it but by what your test does.

    *latency* is how many seconds a message takes, *jitter* how many more at most: datagrams overtake each other so.
    *loss* and *duplication* say, from 0 to 1, how many of the datagrams get lost or arrive twice. What becomes of which
    is decided by *seed* alone: the same test sees the same. Connections delay what they carry, and lose nothing.

    `clock` is the time, `ladder` what was sent, for people. Clients and servers are made by `client` and `serve`.

    >>> network = VirtualNetwork(latency=0.05, loss=0.3, seed=7)
    >>> server = network.serve(Greeter())
    >>> client = network.client(server, retransmits=True)
    >>> message = client.send("MESSAGE")
    >>> network.step(32)
    >>> message.status
    200
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplication: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.clock = VirtualClock()
        self.ladder = Ladder()
        self.servers: list[VirtualServer] = []
        self._latency, self._jitter = latency, jitter
        self._loss, self._duplication = loss, duplication
        self._random = random.Random(seed)
        self._to_lose: list[_Loss] = []
        self._sockets: dict[Address, Callable[[bytes, Address], None]] = {}
        self._listeners: dict[Address, Any] = {}
        self._ports = itertools.count(_FIRST_EPHEMERAL_PORT)
        self._hosts = itertools.count(1)

    # For tests

    def serve(
        self, user: ITransactionUser, host: str = "198.51.100.1", port: int = 5060, **options: Any
    ) -> VirtualServer:
        """Return a server that answers by the transaction user *user*, started; *options* are those of `SIPService`."""
        address = self._taken(Address(host, port))
        service = SIPService(Host(self, host), user, [StreamEndpoint(self, address)], **options)
        advertised = options.get("advertise")
        protocol = SIPDatagramProtocol(
            service,
            options.get("limits", TransportLimits()),
            None if advertised is None else parse_advertised(advertised),
        )
        self.bind(address, protocol.datagramReceived)
        protocol.makeConnection(DatagramSocket(self, address))  # type: ignore[arg-type]  # as much of it as is used
        service.startService()
        server = VirtualServer(service, user, address, protocol)
        self.servers.append(server)
        return server

    def client(
        self,
        server: VirtualServer | Address | ITransactionUser,
        host: str | None = None,
        port: int = 5060,
        **options: Any,
    ) -> FakeClient:
        """Return a client of *server*, at 192.0.2.1, 192.0.2.2 and so on; *options* are those of `FakeClient`.

        Given a transaction user, it serves that first: ``VirtualNetwork().client(Greeter())``.
        """
        from twisted_sipuas.testing.client import FakeClient  # which needs this module

        if not isinstance(server, (VirtualServer, Address)):
            server = self.serve(server)
        address = self._taken(Address(host, port) if host else self._free_address(port))
        return FakeClient(self, server if isinstance(server, Address) else server.address, address, **options)

    def step(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self.clock.advance(seconds)

    def settle(self) -> None:
        """Let happen what is due now: what was sent arrives, if that takes no time.

        Clients do it when they send and when they are asked what they received; it is for a test that has itself had
        the server send something, say by firing a `Deferred`, and looks at the server next.
        """
        if not self.clock.is_advancing:
            self.clock.advance(0)

    def lose(self, what: int | str | Callable[[Request | Response], bool], times: int = 1) -> None:
        """Lose the next datagrams, *times* of them, that are *what*: a status, a method, or what a function says.

        A method stands for its requests, not for their responses.
        """
        self._to_lose.append(_Loss(what, times))

    def stop(self) -> None:
        """Stop every server, and let the time pass that this takes."""
        stopped = [server.stop() for server in self.servers]
        for _ in range(_LONGEST_STOP):
            if all(deferred.called for deferred in stopped):
                return
            self.step(1)
        raise AssertionError(f"the servers did not stop within {_LONGEST_STOP} s")

    # For what is on it

    def bind(self, address: Address, datagram_received: Callable[[bytes, Address], None]) -> None:
        """Have datagrams to *address* go to *datagram_received*."""
        self._sockets[address] = datagram_received

    def listen(self, address: Address, factory: Any) -> None:
        """Have connections to *address* go to *factory*; None: refuse them."""
        self._listeners[address] = factory

    def listener(self, address: Address) -> Any:
        """Return the factory that listens at *address*, or None."""
        return self._listeners.get(address)

    def free_port(self, host: str) -> Address:
        """Return an address of *host* that nothing uses."""
        return Address(host, next(self._ports))

    def soon(self, call: Callable[[], None]) -> None:
        """Call *call* once what is being done is done: nobody is called by what it calls itself."""
        self.clock.callLater(0, call)

    def carry_datagram(self, data: bytes, source: Address, destination: Address) -> None:
        """Bring *data* to the socket bound to *destination*, or lose it."""
        message = read(data)
        delays = self._fate(message)
        note = {0: "lost", 1: "", 2: "twice"}[len(delays)]
        receive = self._sockets.get(destination)
        if receive is None:
            note = note or "nobody is there"
        self.ladder.add(Passed(self.clock.seconds(), source, destination, "UDP", message, note))
        if receive is not None:
            for delay in delays:
                self.clock.callLater(delay, lambda: receive(data, tuple(source)))  # type: ignore[arg-type]  # as a socket tells it

    def carry_octets(self, data: bytes, sender: Connection, receive: Callable[[bytes], None]) -> None:
        """Bring *data*, of a connection, to *receive*: whole, in order, and only later than what was sent before."""
        self.ladder.add(Passed(self.clock.seconds(), sender.local, sender.remote, "TCP", read(data)))
        self.clock.callLater(self._in_order(sender), lambda: receive(data))

    def carry_end(self, sender: Connection, tell: Callable[[], None]) -> None:
        """Have *tell* called once all that *sender* has sent has arrived."""
        self.clock.callLater(self._in_order(sender), tell)

    def _fate(self, message: Request | Response | bytes) -> list[float]:
        """Return after how many seconds the datagram arrives: once, twice or, with an empty list, never.

        However it ends, it takes as many random numbers.
        """
        is_lost, is_twice = self._random.random() < self._loss, self._random.random() < self._duplication
        delays = [self._delay(), self._delay()]
        if any(loss.takes(message) for loss in self._to_lose) or is_lost:
            return []
        return delays if is_twice else delays[:1]

    def _delay(self) -> float:
        return self._latency + self._jitter * self._random.random()

    def _in_order(self, sender: Connection) -> float:
        """Return the delay of what *sender* sends now, behind what it sent before."""
        now = self.clock.seconds()
        sender.arrives_at = max(sender.arrives_at, now + self._delay())
        return sender.arrives_at - now

    def _free_address(self, port: int) -> Address:
        """Return the next of the clients' addresses that no test has given to a client by name."""
        addresses = (Address(f"192.0.2.{number}", port) for number in self._hosts)
        return next(address for address in addresses if address not in self._sockets)

    def _taken(self, address: Address) -> Address:
        if address in self._sockets:
            raise ValueError(f"{address} is in use; give another host or port")
        return address


class _Loss:
    """So many messages to be lost."""

    def __init__(self, what: int | str | Callable[[Request | Response], bool], times: int) -> None:
        self._what = what
        self._left = times

    def takes(self, message: Request | Response | bytes) -> bool:
        """Whether *message* is one of them."""
        if not self._left or isinstance(message, bytes) or not self._is_what(message):
            return False
        self._left -= 1
        return True

    def _is_what(self, message: Request | Response) -> bool:
        if callable(self._what):
            return self._what(message)
        return self._what == (message.method if isinstance(message, Request) else message.status)
