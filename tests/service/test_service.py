"""Does the whole service answer on real sockets, start or say why not, and stop without leaving anything?"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.application.service import Service
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import (
    SSL4ClientEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
)
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint, IUDPTransport
from twisted.internet.protocol import DatagramProtocol, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from twisted_sipuas.errors import StartError
from twisted_sipuas.interfaces import Address, EndReason, ILocationService, IMessageReceiver, IServerTransaction
from twisted_sipuas.location import MemoryBindingStore, guarded
from twisted_sipuas.service import Listen, Listening, SIPService
from twisted_sipuas.syntax.framing import KEEP_ALIVE, StreamFramer
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.transaction.admission import Protection
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.stream import SIPStreamFactory
from twisted_sipuas.transport.udp import SIPDatagramProtocol
from twisted_sipuas.uas.redirect import RedirectServer
from twisted_sipuas.uas.registrar import Registrar

reactor: Any = the_reactor


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback address")


def ok(request: Request, transaction: IServerTransaction) -> None:
    """Answer 200, but leave an INVITE to ring."""
    transaction.respond(request.response(180 if request.method == "INVITE" else 200))


def answering() -> RecordingTransactionUser:
    return RecordingTransactionUser(ok)


_numbers = itertools.count()


def request(method: str = "OPTIONS", branch: str | None = None, **fields: Any) -> Request:
    """A request whose answer goes back to where it comes from; without *branch* one like no other."""
    branch = branch or f"z9hG4bK{next(_numbers)}"
    return make_request(method, branch=branch, sent_by="client.invalid;rport", **fields)


def ack_for(response: Response, branch: str) -> Request:
    return request("ACK", branch, to=response.headers.get("To"))


def read_response(data: bytes) -> Response:
    """Read a response, also one that repeats the fault of its request, which a strict parser does not take."""
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    version, status, reason = status_line.split(" ", 2)
    assert version == "SIP/2.0"
    headers, _ = Headers.parse(lines)
    return Response(int(status), reason, headers, body)


class DatagramClient(DatagramProtocol):
    """A UDP client; `messages` has the responses in order."""

    transport: IUDPTransport

    def __init__(self, server: Address) -> None:
        self.server = server
        self.messages: DeferredQueue[Response] = DeferredQueue()
        self.sources: list[tuple[str, int]] = []

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        self.sources.append(addr)
        self.messages.put(read_response(data))

    def send(self, data: bytes | Request) -> None:
        self.transport.write(data if isinstance(data, bytes) else data.to_bytes(), (self.server.host, self.server.port))

    async def ask(self, data: bytes | Request) -> Response:
        """Send, and return the next response."""
        self.send(data)
        return await self.messages.get()


class StreamClient(Protocol):
    """A TCP client; `messages` has the responses in order, `octets` all that came."""

    transport: Any

    def __init__(self) -> None:
        self.messages: DeferredQueue[Response] = DeferredQueue()
        self.closed: Deferred[None] = Deferred()
        self.octets = b""
        self._framer = StreamFramer()

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
        self._framer.receive(data)
        while (octets := self._framer.next_message()) is not None:
            if octets is not KEEP_ALIVE:  # two pongs in a row look like one
                self.messages.put(read_response(octets))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(None)

    def send(self, data: bytes | Request) -> None:
        assert self.transport is not None
        self.transport.write(data if isinstance(data, bytes) else data.to_bytes())

    async def ask(self, data: bytes | Request) -> Response:
        """Send, and return the next response."""
        self.send(data)
        return await self.messages.get()


@asynccontextmanager
async def serving(
    *listen: Listen, user: RecordingTransactionUser | None = None, **options: Any
) -> AsyncIterator[SIPService]:
    """A service that is started, and stopped afterwards."""
    service = SIPService(reactor, user or answering(), listen or ["udp:0"], **options)
    service.startService()
    try:
        yield service
    finally:
        await service.stopService()


def address(service: SIPService, transport: str) -> Address:
    """Where the service listens with *transport*."""
    (found,) = {listening.address for listening in service.listening if listening.transport == transport}
    return found


@asynccontextmanager
async def datagrams_to(service: SIPService, host: str | None = None) -> AsyncIterator[DatagramClient]:
    server = address(service, "udp")
    client = DatagramClient(server if host is None else Address(host, server.port))
    port = reactor.listenUDP(0, client, interface="::1" if ":" in client.server.host else "127.0.0.1")
    try:
        yield client
    finally:
        await port.stopListening()


@asynccontextmanager
async def connection_to(service: SIPService) -> AsyncIterator[StreamClient]:
    host, port = address(service, "tcp")
    endpoint = (TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint)(reactor, host, port)
    async with connected(endpoint) as client:
        yield client


@asynccontextmanager
async def connected(endpoint: Any) -> AsyncIterator[StreamClient]:
    client = await connectProtocol(endpoint, StreamClient())
    try:
        yield client
    finally:
        client.transport.abortConnection()
        if not client.closed.called:
            await client.closed


async def is_served(service: SIPService) -> None:
    """A request over each transport is answered by the transaction user."""
    if any(listening.transport == "udp" for listening in service.listening):
        async with datagrams_to(service) as datagrams:
            assert (await datagrams.ask(request())).status == 200
    if any(listening.transport == "tcp" for listening in service.listening):
        async with connection_to(service) as connection:
            assert (await connection.ask(request(transport="TCP"))).status == 200


@pytest.fixture
def taken_udp() -> Any:
    """A UDP port that somebody else has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def taken_tcp() -> Any:
    """A TCP port that somebody else has."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        yield bound.getsockname()[1]


# Listening


@pytest.mark.requirement("18.2.1-3")
@pytest_twisted.ensureDeferred
async def test_udp_and_tcp() -> None:
    """Where it listens on UDP it listens on TCP too, same address and port, also if that is any free one (18.2.1)."""
    async with serving("udp:0") as service:
        assert address(service, "udp") == address(service, "tcp")
        assert len(service.listening) == 2
        await is_served(service)


@pytest_twisted.ensureDeferred
async def test_free_on_both(taken_tcp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free port is one that is free on TCP too (18.2.1)."""
    listen_tcp = reactor.listenTCP
    tried: list[int] = []

    def first_is_taken(port: int, *arguments: Any, **options: Any) -> Any:
        tried.append(port)
        return listen_tcp(taken_tcp if len(tried) == 1 else port, *arguments, **options)

    monkeypatch.setattr(reactor, "listenTCP", first_is_taken)
    async with serving("udp:0") as service:
        assert len(tried) > 1  # another one may be taken too, by somebody else on this machine
        assert address(service, "udp") == address(service, "tcp")
        await is_served(service)


@pytest_twisted.ensureDeferred
async def test_no_tcp() -> None:
    """``tcp=no`` leaves UDP alone."""
    async with serving("udp:0:tcp=no") as service:
        assert [listening.transport for listening in service.listening] == ["udp"]
        await is_served(service)


@pytest_twisted.ensureDeferred
async def test_tcp_of_its_own() -> None:
    """A ``tcp:`` listener on the same address and port takes the place of the one beside UDP."""
    async with serving("udp:0") as probe:
        port = address(probe, "udp").port
    async with serving(f"udp:{port}", f"tcp:{port}:interface=127.0.0.1") as service:
        assert [(listening.transport, listening.address.port) for listening in service.listening] == [
            ("udp", port),
            ("tcp", port),
        ]
        await is_served(service)


@pytest.mark.requirement("18.2.1-3")
@pytest_twisted.ensureDeferred
async def test_tcp_elsewhere() -> None:
    """A ``tcp:`` listener on another address does not take the place of the one beside UDP (18.2.1)."""
    async with serving("udp:0:interface=127.0.0.2") as probe:
        port = address(probe, "udp").port
    async with serving(f"udp:{port}:interface=127.0.0.2", f"tcp:{port}:interface=127.0.0.3") as service:
        assert sorted(map(str, service.listening)) == [
            f"tcp:127.0.0.2:{port}",
            f"tcp:127.0.0.3:{port}",
            f"udp:127.0.0.2:{port}",
        ]


@needs_ipv6
@pytest_twisted.ensureDeferred
async def test_ipv6() -> None:
    """IPv6 is served like IPv4, and received is the address without brackets (18.2.1)."""
    async with serving("udp:0:interface=[::1]") as service:
        port = address(service, "udp").port
        assert list(map(str, service.listening)) == [f"udp:[::1]:{port}", f"tcp:[::1]:{port}"]
        await is_served(service)
        async with datagrams_to(service) as client:
            response = await client.ask(request())
            assert (response.headers.get("Via") or "").endswith(";received=::1")


@needs_ipv6
@pytest_twisted.ensureDeferred
async def test_dual_stack() -> None:
    """On ``[::]`` IPv4 peers are served too, and received is their IPv4 address (18.2.1)."""
    async with serving("udp:0:interface=[::]:tcp=no") as service, datagrams_to(service, "127.0.0.1") as client:
        response = await client.ask(request())
        assert (response.headers.get("Via") or "").endswith(";received=127.0.0.1")
        response = await client.ask(make_request("OPTIONS", sent_by=f"127.0.0.1:{client.transport.getHost().port}"))
        assert response.status == 200


@pytest_twisted.ensureDeferred
async def test_bound_sockets() -> None:
    """Sockets that are given are served, and stay their owner's after the service has stopped."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        for _ in range(2):
            async with serving(udp, tcp) as service:
                assert address(service, "udp") == udp.getsockname()
                assert address(service, "tcp") == tcp.getsockname()
                await is_served(service)
        assert udp.getsockname()[1] > 0
        assert tcp.getsockname()[1] > 0


@pytest_twisted.ensureDeferred
async def test_inherited_descriptor() -> None:
    """``udp:fd=NUMBER`` serves a socket that was inherited, and TCP beside it unless told not to (18.2.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        with socket.create_server(("127.0.0.1", 0)) as free:
            here = Address(*free.getsockname())
        bound.bind(here)
        async with serving(f"udp:fd={bound.fileno()}") as service:
            assert service.listening == (Listening("udp", here), Listening("tcp", here))
            await is_served(service)
        async with serving(f"udp:fd={bound.fileno()}:tcp=no") as service:
            assert service.listening == (Listening("udp", here),)
            await is_served(service)


@pytest_twisted.ensureDeferred
async def test_endpoint() -> None:
    """A Twisted endpoint is served, given as an object or as its description."""
    async with serving(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), "tcp:0:interface=127.0.0.2") as service:
        assert [listening.address.host for listening in service.listening] == ["127.0.0.1", "127.0.0.2"]
        for listening in service.listening:
            async with connected(TCP4ClientEndpoint(reactor, *listening.address)) as client:
                assert (await client.ask(request(transport="TCP"))).status == 200


@pytest_twisted.ensureDeferred
async def test_unix_socket(tmp_path: Path) -> None:
    """A UNIX socket is a stream like any other, though its peers have no address (18.2.2)."""
    path = str(tmp_path / "sip")
    async with serving(f"unix:{path}") as service:
        assert [str(listening) for listening in await service.when_listening()] == [f"unix:{path}"]
        async with connected(UNIXClientEndpoint(reactor, path)) as client:
            sent = request(transport="TCP")
            response = await client.ask(sent)
            assert response.status == 200
            assert response.headers.get("Via") == sent.headers.get("Via")


@pytest_twisted.ensureDeferred
async def test_behind_haproxy() -> None:
    """Behind a proxy, received is the address of the client that the PROXY header names (18.2.1)."""
    async with serving("haproxy:tcp:0:interface=127.0.0.1") as service, connection_to(service) as client:
        client.send(b"PROXY TCP4 192.0.2.77 198.51.100.9 4444 5060\r\n")
        response = await client.ask(request(transport="TCP", branch="z9hG4bK1"))
        assert (response.headers.get("Via") or "").endswith(";rport=4444;branch=z9hG4bK1;received=192.0.2.77")


@pytest.mark.requirement("18-4")
@pytest_twisted.ensureDeferred
async def test_tls(tmp_path: Path) -> None:
    """A TLS connection is served, and its flow is TLS (18.2.2)."""
    pytest.importorskip("OpenSSL", reason="TLS needs the tls extra")
    from twisted.internet.ssl import CertificateOptions  # imported here, for it needs the tls extra

    key, certificate = make_certificate(tmp_path)
    user = answering()
    async with serving(f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}", user=user) as service:
        host, port = address(service, "tls")
        async with connected(SSL4ClientEndpoint(reactor, host, port, CertificateOptions())) as client:
            response = await client.ask(request(transport="TLS"))
            assert response.status == 200
            _, _, transaction = user.calls[0]
            assert transaction.flow.transport == "TLS"
            assert transaction.flow.peer_certificate is None
            client.send(b"\r\n\r\n" + b"GET / HTTP/1.1\r\n")
            await client.closed
            assert client.octets.endswith(b"\r\n\r\n\r\n")
        async with connected(TCP4ClientEndpoint(reactor, host, port)) as client:
            client.send(request(transport="TLS"))
            await client.closed
            assert client.octets[:4] != b"SIP/"
        async with connected(TCP4ClientEndpoint(reactor, host, port)) as silent:
            while service.counters["connections"] != 1:
                await deferLater(reactor, 0)
            await service.stopService()
            await silent.closed


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A new key and a certificate that it signed itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    key_file, certificate_file = directory / "key.pem", directory / "certificate.pem"
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    certificate_file.write_bytes(certificate.public_bytes(pem))
    return key_file, certificate_file


@pytest_twisted.ensureDeferred
async def test_own_protocol_and_factory() -> None:
    """Whoever opens the sockets can hand what comes on them to the service by the bare protocol and factory."""
    async with serving("udp:0:tcp=no") as service:
        verifyObject(IMessageReceiver, service)
        port = reactor.listenUDP(0, SIPDatagramProtocol(service), interface="127.0.0.1")
        factory = SIPStreamFactory(service, reactor)
        stream = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        client = DatagramClient(Address("127.0.0.1", port.getHost().port))
        client_port = reactor.listenUDP(0, client, interface="127.0.0.1")
        assert (await client.ask(request())).status == 200
        async with connected(TCP4ClientEndpoint(reactor, "127.0.0.1", stream.getHost().port)) as connection:
            assert (await connection.ask(request(transport="TCP"))).status == 200
        for listening in (port, stream, client_port):
            await listening.stopListening()
        await factory.connections.close()


@pytest_twisted.ensureDeferred
async def test_source_of_answers() -> None:
    """The answer comes from the address and port that the request came to (RFC 3581, 4)."""
    async with serving() as service, datagrams_to(service) as client:
        await client.ask(request())
        assert client.sources == [address(service, "udp")]


@pytest_twisted.ensureDeferred
async def test_when_listening() -> None:
    """when_listening fires with the addresses once the service has started, for each who asked, before or after."""
    service = SIPService(reactor, answering(), ["udp:0"])
    before = [service.when_listening(), service.when_listening()]
    service.privilegedStartService()
    assert not any(waiter.called for waiter in before)
    service.startService()
    after = service.when_listening()
    assert [await waiter for waiter in (*before, after)] == [service.listening] * 3
    assert len(service.listening) == 2
    await service.stopService()
    assert not service.listening
    assert not service.when_listening().called


@pytest_twisted.ensureDeferred
async def test_bound_before_privileges_are_dropped() -> None:
    """privilegedStartService binds every socket, and startService binds none again."""
    service = SIPService(reactor, answering(), ["udp:0"])
    service.privilegedStartService()
    bound = service.listening
    assert len(bound) == 2
    service.startService()
    assert service.listening == bound
    await is_served(service)
    await service.stopService()


@implementer(IStreamServerEndpoint)
class SlowEndpoint:
    """An endpoint that opens its port when it is told to."""

    def __init__(self) -> None:
        self.opening: Deferred[IListeningPort] = Deferred()
        self.factory: Any = None

    def listen(self, factory: Any) -> Deferred[IListeningPort]:
        self.factory = factory
        return self.opening

    def open(self) -> None:
        self.opening.callback(reactor.listenTCP(0, self.factory, interface="127.0.0.1"))


@pytest_twisted.ensureDeferred
async def test_slow_endpoint() -> None:
    """when_listening waits for an endpoint that takes its time, while the others serve."""
    endpoint = SlowEndpoint()
    async with serving("udp:0:tcp=no", endpoint) as service:
        waiter = service.when_listening()
        await is_served(service)
        assert not waiter.called
        endpoint.open()
        assert [listening.transport for listening in await waiter] == ["udp", "tcp"]
        await is_served(service)


@pytest_twisted.ensureDeferred
async def test_slow_endpoint_that_fails() -> None:
    """An endpoint that fails late is told to whoever waits for it to listen."""
    endpoint = SlowEndpoint()
    async with serving("udp:0:tcp=no", endpoint) as service:
        waiter = service.when_listening()
        endpoint.opening.errback(OSError("no\nroute"))
        with pytest.raises(StartError, match=r"^SlowEndpoint: no route; "):
            await waiter
        await is_served(service)


@pytest_twisted.ensureDeferred
async def test_slow_endpoint_at_stop() -> None:
    """Stopping does not wait for an endpoint that is not open yet, and cancels it."""
    endpoint = SlowEndpoint()
    cancelled: list[object] = []
    endpoint.opening = Deferred(cancelled.append)
    async with serving(endpoint) as service:
        pass
    assert cancelled == [endpoint.opening]
    assert service.listening == ()


# Faults at start


def failing_start(*listen: Listen, user: RecordingTransactionUser | None = None) -> str:
    """The one line that says why the service cannot start."""
    service = SIPService(reactor, user or answering(), listen)
    with pytest.raises(StartError) as raised:
        service.startService()
    assert service.listening == ()
    assert not service.running
    (line,) = str(raised.value).splitlines()
    return line


def test_udp_port_in_use(taken_udp: int) -> None:
    """A UDP port that is taken is a StartError in one line that names the address and what to do."""
    line = failing_start(f"udp:{taken_udp}")
    assert line.startswith(f"udp:127.0.0.1:{taken_udp}: Address already in use; ")
    assert line.endswith("choose another address or port with --listen")


def test_tcp_port_in_use(taken_tcp: int) -> None:
    """A port that is taken on TCP alone is a StartError too, and says how to do without TCP (18.2.1)."""
    line = failing_start(f"udp:{taken_tcp}")
    assert line.startswith(f"tcp:127.0.0.1:{taken_tcp}: Address already in use; ")
    assert line.endswith("or say tcp=no")


def test_endpoint_port_in_use(taken_tcp: int) -> None:
    """The same for a Twisted endpoint, by description and as an object."""
    description = f"tcp:{taken_tcp}:interface=127.0.0.1"
    for listen, name in (
        (description, description),
        (TCP4ServerEndpoint(reactor, taken_tcp, interface="127.0.0.1"), "TCP4ServerEndpoint"),
    ):
        line = failing_start(listen)
        assert line.startswith(f"{name}: ")
        assert f"127.0.0.1:{taken_tcp}" in line
        assert "Address already in use; choose another address or port" in line


def test_address_of_another_host() -> None:
    """An address that this host does not have is a StartError."""
    assert failing_start("udp:0:interface=192.0.2.200").startswith("udp:192.0.2.200:0: Cannot assign requested address")


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("no-such-thing:1", "no-such-thing:1: "),
        ("tcp:http-is-no-number", "tcp:http-is-no-number: "),
        ("tcp:5060:no-such-option=1", "tcp:5060:no-such-option=1: "),
        ("udp:fd=999999", "udp:fd=999999: Bad file descriptor; no such socket was inherited"),
    ],
)
def test_what_cannot_be_opened(listen: str, said: str) -> None:
    """What Twisted cannot make an endpoint of, or the system a socket, is a StartError that names it."""
    assert failing_start(listen).startswith(said)


def test_descriptor_of_a_file(tmp_path: Path) -> None:
    """A descriptor that is no socket is a StartError, and no copy of it is left open."""
    with open(tmp_path / "file", "w") as file:
        before = sorted(os.listdir("/dev/fd"))
        line = failing_start(f"udp:fd={file.fileno()}")
        assert sorted(os.listdir("/dev/fd")) == before
    assert "no such socket was inherited" in line


def test_descriptor_of_another_kind(taken_tcp: int) -> None:
    """A stream socket is not served as if it were the UDP socket that was asked for."""
    with socket.socket() as stream:
        stream.bind(("127.0.0.1", 0))
        stream.listen()
        assert "no UDP socket" in failing_start(f"udp:fd={stream.fileno()}")


def test_stream_socket_that_does_not_listen() -> None:
    """A stream socket that does not listen would keep the reactor busy for nothing; it is refused."""
    with socket.socket() as stream:
        stream.bind(("127.0.0.1", 0))
        assert "does not listen" in failing_start(stream)


class RecordingService(Service):
    """A service that writes its calls into a list, and fails in the one named *failing*."""

    def __init__(self, name: str, calls: list[str], failing: str = "") -> None:
        self.name = name
        self.calls = calls
        self.failing = failing

    def _call(self, what: str) -> None:
        self.calls.append(f"{self.name} {what}")
        if what == self.failing:
            raise StartError(f"{self.name}: not today")

    def privilegedStartService(self) -> None:
        self._call("bind")

    def startService(self) -> None:
        self._call("start")

    def stopService(self) -> None:
        self._call("stop")


def with_services(failing: str = "") -> tuple[RecordingTransactionUser, list[str]]:
    user: Any = answering()
    calls: list[str] = []
    user.services = (RecordingService("a", calls), RecordingService("b", calls, failing))
    return user, calls


@pytest_twisted.ensureDeferred
async def test_failed_start_closes_what_was_opened(taken_udp: int) -> None:
    """After a failed start the sockets that were open are closed, and the stores stopped."""
    async with serving("udp:0") as probe:
        port = address(probe, "udp").port
    user, calls = with_services()
    failing_start(f"udp:{port}", f"udp:{taken_udp}", user=user)
    assert calls == ["a bind", "b bind", "b stop", "a stop"]
    await deferLater(reactor, 0)
    async with serving(f"udp:{port}") as service:
        await is_served(service)


@pytest_twisted.ensureDeferred
async def test_store_that_does_not_open() -> None:
    """A store that cannot be opened ends the start before any socket is bound; those opened are stopped."""
    user, calls = with_services("bind")
    failing_start("udp:0", user=user)
    assert calls == ["a bind", "b bind", "a stop"]


@pytest_twisted.ensureDeferred
async def test_store_that_does_not_start() -> None:
    """A store that does not start leaves no socket bound."""
    user, calls = with_services("start")
    failing_start("udp:0", user=user)
    assert calls == ["a bind", "b bind", "a start", "b start", "b stop", "a stop"]
    await deferLater(reactor, 0)


@pytest_twisted.ensureDeferred
async def test_started_after_a_failed_start() -> None:
    """A service whose start failed can be started once the cause is gone."""
    with socket.create_server(("127.0.0.1", 0)) as free:  # a port that is free on TCP, too
        port = free.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", port))
        service = SIPService(reactor, answering(), [f"udp:{port}"])
        with pytest.raises(StartError):
            service.startService()
    service.startService()
    await is_served(service)
    await service.stopService()


# Requests


@pytest.mark.requirement("18.2.1-5", "18.2.1-7", "3581-2")
@pytest_twisted.ensureDeferred
async def test_request_and_answer() -> None:
    """A request reaches the transaction user once, and its answer goes back with the Via stamped (18.2)."""
    user = answering()
    async with serving(user=user) as service, datagrams_to(service) as client:
        sent = request(branch="z9hG4bK1")
        response = await client.ask(sent)
        assert response.status == 200
        port = client.transport.getHost().port
        assert response.headers.get("Via") == (
            f"SIP/2.0/UDP client.invalid;rport={port};branch=z9hG4bK1;received=127.0.0.1"
        )
        again = await client.ask(sent)
        assert again.headers == response.headers
        assert [call[0] for call in user.calls] == ["request_received"]


@pytest.mark.requirement("18.2.2-8")
@pytest_twisted.ensureDeferred
async def test_without_rport() -> None:
    """Without rport the answer goes to the port of sent-by at the source address (18.2.2)."""
    async with serving() as service, datagrams_to(service) as caller, datagrams_to(service) as listener:
        port = listener.transport.getHost().port
        caller.send(make_request("OPTIONS", sent_by=f"client.invalid:{port}"))
        assert (await listener.messages.get()).status == 200


@pytest_twisted.ensureDeferred
async def test_pipelined_requests() -> None:
    """Requests on one connection are answered on it, a bad one in between with its 400, and pings with CRLF (18.3)."""
    async with serving() as service, connection_to(service) as client:
        good = request(transport="TCP").to_bytes()
        bad = request(transport="TCP").to_bytes().replace(b"CSeq: 1 OPTIONS", b"CSeq: x")
        last = request(transport="TCP").to_bytes()
        client.send(good + bad + last)
        assert [(await client.messages.get()).status for _ in range(3)] == [200, 400, 200]


@pytest_twisted.ensureDeferred
async def test_half_closed_connection() -> None:
    """A client that sends its request and then says that it has no more to say still gets the answer (18.2.2)."""
    async with serving() as service:
        for _ in range(20):
            async with connection_to(service) as client:
                client.send(request(transport="TCP"))
                client.transport.loseWriteConnection()
                assert (await client.messages.get()).status == 200
                await client.closed


MALFORMED = [
    ("CSeq: 1 OPTIONS", "CSeq: OPTIONS", "Malformed CSeq header field"),
    ("CSeq: 1 OPTIONS\r\n", "", "Missing CSeq header field"),
    ("CSeq: 1 OPTIONS", "CSeq: 1 INVITE", "The method of CSeq is not that of the request"),
    ("To: <sip", "To: <<sip", "Malformed To header field"),
    ("Call-ID: ", "Call ID: ", "Missing Call-ID header field"),
    ("Call-ID: ", "Call-ID: 1\r\nCall-ID: ", "More than one Call-ID header field"),
    ("SIP/2.0/UDP client", "SIP/2.0/UDP client client", "Malformed Via header field"),
    ("Content-Length: 0", "Content-Length: x", "Malformed Content-Length header field"),
]


@pytest.mark.parametrize(("good", "bad", "reason"), MALFORMED, ids=[reason for _, _, reason in MALFORMED])
@pytest_twisted.ensureDeferred
async def test_malformed_request(good: str, bad: str, reason: str) -> None:
    """A malformed request is answered 400 over UDP and TCP, and the reason names the fault (21.4.1, 18.3)."""
    user = answering()
    data = request().to_bytes().replace(good.encode(), bad.encode())
    async with serving(user=user) as service, datagrams_to(service) as datagrams, connection_to(service) as connection:
        for client in (datagrams, connection):
            response = await client.ask(data)
            assert (response.status, response.reason) == (400, reason)
        assert user.calls == []
        assert service.counters["transactions_malformed"] == 2
        await is_served(service)


@pytest.mark.requirement("18.3-4")
@pytest_twisted.ensureDeferred
async def test_short_datagram() -> None:
    """A request whose body is shorter than its Content-Length says is answered 400 (18.3)."""
    data = request("MESSAGE", body=b"hello").to_bytes()[:-1]
    async with serving("udp:0:tcp=no") as service, datagrams_to(service) as client:
        assert (await client.ask(data)).status == 400


@pytest_twisted.ensureDeferred
async def test_malformed_ack() -> None:
    """A malformed ACK is owed no answer (17.1.1.3)."""
    async with serving("udp:0:tcp=no") as service, datagrams_to(service) as client:
        client.send(request("ACK").to_bytes().replace(b"CSeq: 1 ACK", b"CSeq: x"))
        assert (await client.ask(request())).status == 200


@pytest_twisted.ensureDeferred
async def test_too_long() -> None:
    """A request beyond max_message is refused 513 over UDP and TCP (21.5.7)."""
    data = request("MESSAGE", body=b"x" * 2000)
    async with (
        serving(limits=TransportLimits(max_message=1500)) as service,
        datagrams_to(service) as client,
        connection_to(service) as stream,
    ):
        assert (await client.ask(data)).status == 513
        assert (await stream.ask(data)).status == 513
        await stream.closed
        await is_served(service)


@pytest.mark.requirement("18-5")
@pytest_twisted.ensureDeferred
async def test_largest_datagram() -> None:
    """The largest datagram there is, is handled whole (18.1.1)."""
    data = request("MESSAGE", body=b"x" * 65000)
    data = request("MESSAGE", body=b"x" * (65507 - len(data.to_bytes()) + 65000))
    assert len(data.to_bytes()) == 65507
    user = answering()
    async with serving("udp:0:tcp=no", user=user) as service, datagrams_to(service) as client:
        assert (await client.ask(data)).status == 200
        ((_, received, _),) = user.calls
        assert received is not None


@pytest_twisted.ensureDeferred
async def test_answer_that_cannot_be_sent() -> None:
    """An answer that no datagram can hold ends its transaction, and the transaction user is told (17.2.4)."""
    user = RecordingTransactionUser(
        lambda req, transaction: transaction.respond(req.response(200, body=b"x" * 65536, content_type="text/plain"))
    )
    async with serving("udp:0:tcp=no", user=user) as service, datagrams_to(service) as client:
        client.send(request())
        while len(user.calls) < 2:
            await deferLater(reactor, 0)
        assert user.calls[1][::2] == ("transaction_ended", EndReason.TRANSPORT_FAILED)
        assert service.counters["transactions_send_failures"] == 1


@pytest_twisted.ensureDeferred
async def test_stray_responses() -> None:
    """A response to no request of ours is dropped, and counted (18.1.2)."""
    async with serving() as service, datagrams_to(service) as datagrams, connection_to(service) as connection:
        for client in (datagrams, connection):
            client.send(request().response(200).to_bytes("tag"))
            assert (await client.ask(request())).status == 200
        assert service.counters["stray_responses"] == 2


RUBBISH = {
    "nothing": b"",
    "keep-alive": b"\r\n\r\n",
    "random": bytes((7 * index * index + 13 * index) % 256 for index in range(1500)),
    "zeros": b"\0" * 1000,
    "HTTP": b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xf1\x01\x00\x00\xed\x03\x03" + b"\xaa" * 200,
    "STUN": b"\0\x01\0\0\x21\x12\xa4\x42" + b"\x07" * 12,
    "DNS": b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01",
    "RTP": b"\x80\0\x12\x34" + b"\x55" * 160,
    "64 kB of x": b"x" * 65507,
    "64 kB of spaces": b" " * 65507,
    "64 kB of line ends": b"\r\n" * 32753,
    "64 kB of LF": b"\n" * 65507,
    "64 kB of colons": b":" * 65507,
    "start line alone": b"OPTIONS sip:a@b SIP/2.0\r\n\r\n",
    "start line of another": b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "NUL in a field": b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK\0\r\n\r\n",
    "bad response": b"SIP/2.0 999 No\r\nVia: SIP/2.0/UDP h\r\n\r\n",
}


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH)
@pytest_twisted.ensureDeferred
async def test_rubbish_in_a_datagram(data: bytes) -> None:
    """Rubbish gets silence, leaves nothing behind, and the next request is served (18.3)."""
    user = answering()
    async with serving("udp:0:tcp=no", user=user) as service, datagrams_to(service) as client:
        client.send(data)
        assert (await client.ask(request())).status == 200
        assert len(user.calls) == 1
        assert service.counters["transactions_owed"] == 0


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH)
@pytest_twisted.ensureDeferred
async def test_rubbish_on_a_connection(data: bytes) -> None:
    """Rubbish on one connection does not keep another from being served, and is not answered (18.3)."""
    async with serving() as service, connection_to(service) as client, connection_to(service) as other:
        client.send(data)
        assert (await other.ask(request(transport="TCP"))).status == 200
        assert client.octets.replace(b"\r\n", b"") == b""


@pytest_twisted.ensureDeferred
async def test_many_rubbish_datagrams() -> None:
    """All kinds of rubbish at once: the counters say what became of it, and the service goes on."""
    async with serving("udp:0:tcp=no") as service, datagrams_to(service) as client:
        for data in RUBBISH.values():
            for end in (0, 1, 10, 100, 1000):
                client.send(data[end:])
                assert (await client.ask(request())).status == 200
        assert service.counters["unanswerable"] > 50
        assert service.counters["transactions_owed"] == 0


@pytest_twisted.ensureDeferred
async def test_max_connections() -> None:
    """A connection beyond the bound is dropped, counted, and those that were there go on."""
    async with serving(limits=TransportLimits(max_connections=1)) as service, connection_to(service) as first:
        assert (await first.ask(request(transport="TCP"))).status == 200
        async with connection_to(service) as second:
            await second.closed
        assert service.counters["connections"] == 1
        assert service.counters["connections_refused"] == 1
        assert (await first.ask(request(transport="TCP"))).status == 200


@pytest_twisted.ensureDeferred
async def test_slow_reader() -> None:
    """A client that reads none of its answers is not read from any more, and the others are served (18.3)."""
    big = b"x" * 60000
    user = RecordingTransactionUser(
        lambda req, transaction: transaction.respond(req.response(200, body=big, content_type="text/plain"))
    )
    async with serving(user=user) as service, connection_to(service) as slow:
        slow.transport.pauseProducing()
        data = request("MESSAGE", transport="TCP", body=b"y" * 10000).to_bytes()
        served = -1
        for _ in range(1000):
            slow.send(data)
            await deferLater(reactor, 0)
            if len(user.calls) == served:
                break
            served = len(user.calls)
        sent_before = served
        slow.send(data * 10)
        for _ in range(10):
            await is_served_by_another_connection(service)
        assert len(user.calls) - sent_before < 60, "the slow one's requests wait in its own sockets"


async def is_served_by_another_connection(service: SIPService) -> None:
    async with connection_to(service) as client:
        assert (await client.ask(request(transport="TCP"))).status == 200


@pytest_twisted.ensureDeferred
async def test_two_services() -> None:
    """Two services in one process share nothing: each has its own transactions, counters and end."""
    users = (answering(), answering())
    async with serving(user=users[0]) as first, datagrams_to(first) as one:
        async with serving(user=users[1]) as second, datagrams_to(second) as two:
            sent = request()
            tags = {(await client.ask(sent)).headers.get("To") for client in (one, two)}
            assert len(tags) == 2
            one.send(request().response(200).to_bytes("tag"))
            await one.ask(request())
            assert (first.counters["stray_responses"], second.counters["stray_responses"]) == (1, 0)
        assert (await one.ask(request())).status == 200
    assert [len([call for call in user.calls if call[0] == "request_received"]) for user in users] == [3, 1]


def test_counters_are_read_only() -> None:
    """The counters can be read and not written, and are all numbers from zero on."""
    service = SIPService(Clock(), answering())
    assert set(service.counters.values()) == {0}
    with pytest.raises(TypeError):
        service.counters["connections"] = 1  # type: ignore[index]  # what is tested


def test_bad_listen_text() -> None:
    """A listen text with a mistake is found when the service is made, not when it starts."""
    with pytest.raises(ValueError, match="'5060' is no listener"):
        SIPService(Clock(), answering(), ["5060"])


def test_clock_is_handed_on() -> None:
    """A transaction user that wants a clock is given the service's."""
    clock = Clock()
    given: list[object] = []
    user: Any = answering()
    user.use_clock = given.append
    SIPService(clock, user)
    assert given == [clock]


# Stopping


class Stopping:
    """A service without sockets on a clock, with an INVITE that rings and one that waits for its ACK."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.calls: list[tuple[object, ...]] = []
        self.user = RecordingTransactionUser(self._answer)
        self.service = SIPService(self.clock, self.user)
        self.flow = RecordingFlow()
        self.ringing: IServerTransaction | None = None
        self.stopped: list[object] = []
        self.service.startService()

    def _answer(self, received: Request, transaction: IServerTransaction) -> None:
        if "busy" in received.uri_text:
            transaction.respond(received.response(486))
        else:
            self.ringing = transaction
            transaction.respond(received.response(180))

    def receive(self, received: Request) -> list[Response]:
        """What is sent because of *received*."""
        before = len(self.flow.sent)
        self.service.message_received(received, self.flow)
        return self.flow.responses[before:]

    def stop(self) -> None:
        self.service.stopService().addCallback(self.stopped.append)

    def step(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds * 4))


def test_refused_while_stopping() -> None:
    """While it stops, a new request gets 503 with Retry-After, and its user does not hear of it (21.5.4)."""
    world = Stopping()
    world.receive(request("INVITE"))
    world.stop()
    heard = len(world.user.calls)
    for method in ("INVITE", "OPTIONS", "REGISTER"):
        (response,) = world.receive(request(method, f"z9hG4bK{method}"))
        assert response.status == 503
        assert response.headers.get("Retry-After") == "5"
    assert len(world.user.calls) == heard
    assert world.service.counters["transactions_refused"] == 3
    world.step(5)


def test_old_requests_while_stopping() -> None:
    """While it stops, retransmissions and ACKs are served, and what is in progress can be answered (17.2.1)."""
    world = Stopping()
    world.receive(request("INVITE", "z9hG4bK1"))
    (busy,) = world.receive(request("INVITE", "z9hG4bK2", uri="sip:busy@example.com"))
    world.stop()
    assert [response.status for response in world.receive(request("INVITE", "z9hG4bK1"))] == [180]
    world.step(1)
    assert world.flow.responses[-1].status == 486, "it is resent until its ACK comes"
    assert world.receive(ack_for(busy, "z9hG4bK2")) == []
    assert world.ringing is not None
    assert world.ringing.request is not None
    assert world.stopped == []
    world.ringing.respond(world.ringing.request.response(480))
    final = world.flow.responses[-1]
    assert final.status == 480
    assert world.stopped == [], "its ACK is owed"
    world.receive(ack_for(final, "z9hG4bK1"))
    assert world.stopped == [None], "nothing is owed, so nothing is waited for"
    assert world.clock.getDelayedCalls() == []


def test_ack_for_a_2xx_while_stopping() -> None:
    """While it stops, an ACK for a 2xx reaches the transaction user (13.3.1.4)."""
    world = Stopping()
    world.receive(request("INVITE", "z9hG4bK1"))
    world.stop()
    ack = request("ACK", "z9hG4bKack", to="<sip:bob@example.com>;tag=1")
    assert world.receive(ack) == []
    assert world.user.calls[-1][0] == "ack_received"
    world.step(5)


def test_stop_takes_five_seconds_at_most() -> None:
    """After 5 seconds what is still owed is given up: the transaction user is told, and no timer is left."""
    world = Stopping()
    world.receive(request("INVITE", "z9hG4bK1"))
    world.receive(request("INVITE", "z9hG4bK2", uri="sip:busy@example.com"))
    world.stop()
    world.step(4.75)
    assert world.stopped == []
    world.step(0.25)
    assert world.stopped == [None]
    assert [call[2] for call in world.user.calls if call[0] == "transaction_ended"] == [EndReason.SHUTDOWN] * 2
    assert world.clock.getDelayedCalls() == []
    assert world.service.counters["transactions_owed"] == 0


@pytest.mark.parametrize("is_hastened", [False, True])
def test_drain(is_hastened: bool) -> None:
    """A service that is drained owes nothing, and goes on refusing new requests until it is stopped, once for all."""
    world = Stopping()
    world.receive(request("INVITE"))
    assert world.ringing is not None
    drained: list[object] = []
    world.service.drain().addCallback(drained.append)
    world.step(1)
    assert drained == []
    if is_hastened:
        world.stop()
        world.service.hasten_stop()
        assert (drained, world.stopped) == ([None], [None])
        return
    world.step(4)
    assert drained == [None]
    assert [response.status for response in world.receive(request())] == [503]
    assert world.stopped == []
    world.stop()
    assert world.stopped == [None]
    assert world.clock.getDelayedCalls() == []


def test_stop_with_nothing_owed() -> None:
    """With nothing owed the service stops at once, and the timers of answered requests stop with it."""
    world = Stopping()
    (busy,) = world.receive(request("INVITE", "z9hG4bK2", uri="sip:busy@example.com"))
    world.receive(ack_for(busy, "z9hG4bK2"))
    assert world.clock.getDelayedCalls() != [], "Timer I"
    world.stop()
    assert world.stopped == [None]
    assert world.clock.getDelayedCalls() == []


def test_stop_twice() -> None:
    """Who stops a service that is stopping waits for the same end, and no timer is left."""
    world = Stopping()
    world.receive(request("INVITE", "z9hG4bK1"))
    world.stop()
    world.step(2)
    world.stop()
    world.step(2.75)
    assert world.stopped == []
    world.step(0.5)
    assert world.stopped == [None, None]
    assert world.clock.getDelayedCalls() == []
    world.stop()
    assert world.stopped == [None] * 3
    assert world.clock.getDelayedCalls() == []


def test_stop_without_start() -> None:
    """A service that was never started stops at once."""
    clock = Clock()
    stopped: list[object] = []
    SIPService(clock, answering()).stopService().addCallback(stopped.append)
    assert stopped == [None]
    assert clock.getDelayedCalls() == []


def test_stores_stop_last(logged_failures: list[LogEvent]) -> None:
    """Stores start in order and stop last, in the other order; one that fails is logged and keeps nobody waiting."""
    clock = Clock()
    user, calls = with_services("stop")
    service = SIPService(clock, user)
    service.startService()
    service.message_received(request("INVITE"), RecordingFlow())
    stopped: list[object] = []
    service.stopService().addCallback(stopped.append)
    assert calls == ["a bind", "b bind", "a start", "b start"]
    clock.pump([0.25] * 20)
    assert calls[4:] == ["b stop", "a stop"]
    assert stopped == [None]
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_slow_store() -> None:
    """The end of the service is not told before that of a store that takes its time."""
    written: Deferred[None] = Deferred()

    class SlowStore(Service):
        def stopService(self) -> Deferred[None]:
            return written

    user: Any = answering()
    user.services = (SlowStore(),)
    service = SIPService(Clock(), user)
    service.startService()
    stopped: list[object] = []
    service.stopService().addCallback(stopped.append)
    assert stopped == []
    written.callback(None)
    assert stopped == [None]


@pytest_twisted.ensureDeferred
async def test_stop_on_sockets() -> None:
    """While it drains its sockets serve, then they are closed and connections end; nothing is left on the reactor."""
    user = answering()
    service = SIPService(reactor, user, ["udp:0"])
    service.startService()
    async with datagrams_to(service) as datagrams, connection_to(service) as connection:
        ringing = await datagrams.ask(request("INVITE", "z9hG4bK1"))
        assert ringing.status == 180
        ((_, invite, transaction),) = user.calls
        stopped = service.stopService()
        for client in (datagrams, connection):
            refused = await client.ask(request())
            assert (refused.status, refused.headers.get("Retry-After")) == (503, "5")
        async with connection_to(service) as late:
            assert (await late.ask(request())).status == 503
        assert not stopped.called
        transaction.respond(invite.response(480))
        final = await datagrams.messages.get()
        assert final.status == 480
        datagrams.send(ack_for(final, "z9hG4bK1"))
        await stopped
        await connection.closed
        assert service.listening == ()
        assert service.counters["connections"] == 0
        with pytest.raises(Exception, match="refused"):
            await TCP4ClientEndpoint(reactor, "127.0.0.1", datagrams.server.port).connect(
                SIPStreamFactory(service, reactor)
            )


@pytest_twisted.ensureDeferred
async def test_stop_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is up sockets and connections are closed whatever is owed (here a shorter time)."""
    monkeypatch.setattr("twisted_sipuas.service._DRAIN_TIME", 0.05)
    service = SIPService(reactor, answering(), ["udp:0"])
    service.startService()
    async with connection_to(service) as connection:
        assert (await connection.ask(request("INVITE", transport="TCP"))).status == 180
        await service.stopService()
        await connection.closed
    assert service.listening == ()


@pytest_twisted.ensureDeferred
async def test_start_again() -> None:
    """A service that was stopped can be started again, and serves."""
    service = SIPService(reactor, answering(), ["udp:0"])
    for _ in range(2):
        service.startService()
        await is_served(service)
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_answer_after_the_connection_is_gone() -> None:
    """An answer for a client that has gone ends its transaction, and harms nobody (17.2.4, 18.2.2)."""
    user = answering()
    async with serving(user=user) as service:
        async with connection_to(service) as client:
            gone = make_request("INVITE", transport="TCP", sent_by="127.0.0.1:1")
            assert (await client.ask(gone)).status == 180
        while service.counters["connections"]:
            await deferLater(reactor, 0)
        ((_, invite, transaction),) = user.calls
        transaction.respond(invite.response(486))
        while user.calls[-1][0] != "transaction_ended":  # a new connection is tried first, and there nobody listens
            await deferLater(reactor, 0)
        assert user.calls[-1][2] is EndReason.TRANSPORT_FAILED
        await is_served(service)


# Floods


FLOOD = """
import socket, sys, time
flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flood.connect(("127.0.0.1", int(sys.argv[1])))
end = time.monotonic() + 1
for _ in range(300):
    for _ in range(1000):
        flood.send(b"")
        flood.send(b"ping")
        flood.send(b"\\r\\n\\r\\n")
        flood.send(b"ping")
    if time.monotonic() > end:
        break
"""


@pytest.mark.deadline(20)
@pytest_twisted.ensureDeferred
async def test_flood() -> None:
    """A flood of datagrams that are empty or have 4 octets keeps no timer from its turn.

    What counts is the reactor's own time, so that other programs on this machine do not count. The aim is 10 ms.
    """
    late: list[float] = []

    def tick(before: float) -> None:
        now = time.thread_time()
        late.append(now - before)
        if not flooded.called:
            reactor.callLater(0.002, tick, now)

    async with serving("udp:0:tcp=no") as service:
        flooded = deferToThread(
            subprocess.run, [sys.executable, "-c", FLOOD, str(address(service, "udp").port)], check=True
        )
        tick(time.thread_time())
        await flooded
        read = -1
        while read != service.counters["unanswerable"]:
            read = service.counters["unanswerable"]
            await deferLater(reactor, 0.01)
        await is_served(service)
    assert len(late) > 20
    assert max(late) < 0.05


@pytest_twisted.ensureDeferred
async def test_flood_beside_requests() -> None:
    """Requests among a flood of keep-alives are all answered (18.3)."""
    async with serving("udp:0:tcp=no") as service, datagrams_to(service) as client:
        for _ in range(20):
            for _ in range(64):
                client.send(b"\r\n\r\n")
                client.send(b"")
            assert (await client.ask(request())).status == 200


# Stateless (8.2.7)


def test_stateless() -> None:
    """A stateless service answers every retransmission anew, alike, and keeps nothing (8.2.7)."""
    clock = Clock()
    user = answering()
    service = SIPService(clock, user, is_stateless=True, protection=Protection(max_lag=0))
    service.startService()
    flow = RecordingFlow()
    for _ in range(3):
        service.message_received(make_request("OPTIONS"), flow)
    assert len(user.calls) == 2 * 3
    assert {transaction.is_stateful for _, _, transaction in user.calls[::2]} == {False}
    assert len({data for data, _ in flow.sent}) == 1
    assert service.counters["transactions_owed"] == 0
    assert clock.getDelayedCalls() == []
    stopped: list[object] = []
    service.stopService().addCallback(stopped.append)
    assert stopped == [None]


def test_shared_key() -> None:
    """Services with the same key give a request the same To tag, statelessly, and no others do (8.2.7)."""

    def answer(key: bytes | None) -> str:
        service = SIPService(Clock(), answering(), is_stateless=True, key=key)
        service.startService()
        flow = RecordingFlow()
        service.message_received(make_request("OPTIONS"), flow)
        service.stopService()
        return flow.responses[0].headers.get("To") or ""

    assert answer(b"k" * 32) == answer(b"k" * 32)
    assert len({answer(b"k" * 32), answer(b"l" * 32), answer(None), answer(None)}) == 4
    with pytest.raises(ValueError, match="16 to 64 octets"):
        answer(b"short")


def test_stateless_registrar() -> None:
    """A registrar is refused a stateless service, for it would be served twice by every retransmission (8.2.7)."""
    registrar = Registrar(MemoryBindingStore(Clock()))
    with pytest.raises(ValueError, match="Registrar"):
        SIPService(Clock(), registrar, is_stateless=True)


# Stopping from within


@pytest.mark.parametrize("is_stateless", [False, True])
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_stopped_by_a_handler(method: str, is_stateless: bool) -> None:
    """A handler may stop the service that calls it: its own request is served, and nothing is left (8.2)."""
    clock = Clock()
    stopped: list[object] = []

    def answer(request: Request, transaction: IServerTransaction) -> None:
        service.stopService().addCallback(stopped.append)
        assert stopped == []
        transaction.respond(request.response(480))

    service = SIPService(clock, RecordingTransactionUser(answer), is_stateless=is_stateless)
    service.startService()
    flow = RecordingFlow("TCP")
    service.message_received(make_request(method, transport="TCP"), flow)
    assert [response.status for response in flow.responses] == [480]
    if method == "INVITE" and not is_stateless:
        service.message_received(make_request("ACK", transport="TCP", to=flow.responses[0].headers.get("To")), flow)
    assert stopped == [None]
    assert clock.getDelayedCalls() == []


def test_hastily_stopped_by_a_handler() -> None:
    """Not even in haste is a request that is being handed over forgotten in the transaction layer."""
    clock = Clock()

    def answer(request: Request, transaction: IServerTransaction) -> None:
        service.stopService()
        service.hasten_stop()

    user = RecordingTransactionUser(answer)
    service = SIPService(clock, user)
    service.startService()
    service.message_received(make_request("INVITE"), RecordingFlow())
    assert user.calls[-1][2] is EndReason.SHUTDOWN
    assert service.counters["transactions_owed"] == 0
    assert clock.getDelayedCalls() == []


def test_started_before_it_has_stopped() -> None:
    """A service that is still stopping cannot be started: it says so, and can be once it has stopped."""
    clock = Clock()
    service = SIPService(clock, answering())
    service.startService()
    service.message_received(make_request("INVITE"), RecordingFlow())
    stopped: list[object] = []
    service.stopService().addCallback(stopped.append)
    with pytest.raises(StartError, match="still stopping"):
        service.startService()
    clock.pump([0.5] * 12)
    assert stopped == [None]
    service.startService()
    flow = RecordingFlow()
    service.message_received(make_request("OPTIONS"), flow)
    assert flow.responses[0].status == 200
    service.stopService()
    clock.pump([0.5] * 12)


@implementer(ILocationService)
class Closed(Service):
    """A location service that cannot be started: *name* is the method that fails."""

    description = "closed"

    def __init__(self, name: str) -> None:
        setattr(self, name, self.fail)

    def fail(self) -> None:
        raise RuntimeError("cannot\nopen")

    def lookup(self, request_uri: Any, request: Request) -> Any:
        return None


@pytest.mark.parametrize("name", ["privilegedStartService", "startService"])
@pytest.mark.parametrize("is_guarded", [True, False])
def test_location_service_that_cannot_be_started(name: str, is_guarded: bool) -> None:
    """A location service that cannot be started is a StartError of one line that names it and the option."""
    clock = Clock()
    location = guarded(Closed(name), clock) if is_guarded else Closed(name)
    service = SIPService(clock, RedirectServer([location]))
    with pytest.raises(StartError) as raised:
        service.startService()
    assert str(raised.value) == (
        "the location service closed cannot be started: RuntimeError: cannot open; see --location"
    )
