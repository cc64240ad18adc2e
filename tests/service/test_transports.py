"""Do the transports of a whole service, on real sockets, take responses where RFC 3261, 18.2.2 has them go?"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from twisted_sipuas.interfaces import Address, EndReason, IServerTransaction
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.uas.dialog import contact_uri

reactor: Any = the_reactor


def ringing() -> RecordingTransactionUser:
    """A transaction user that answers 200, but leaves an INVITE to ring."""

    def answer(request: Request, transaction: IServerTransaction) -> None:
        transaction.respond(request.response(180 if request.method == "INVITE" else 200))

    return RecordingTransactionUser(answer)


@asynccontextmanager
async def serving(*listen: Any, user: RecordingTransactionUser | None = None, **options: Any) -> AsyncIterator[Any]:
    service = SIPService(reactor, user or ringing(), listen or ["udp:0"], **options)
    service.startService()
    try:
        yield service
    finally:
        await service.stopService()


def address(service: SIPService, transport: str) -> Address:
    (found,) = {listening.address for listening in service.listening if listening.transport == transport}
    return found


async def until(condition: Callable[[], object]) -> None:
    """Let the reactor turn until *condition* holds; the test's deadline ends it otherwise."""
    while not condition():
        await deferLater(reactor, 0.002)


def connect(server: Address) -> socket.socket:
    return socket.create_connection((server.host, server.port), 5)


def reset(connection: socket.socket) -> None:
    """Have the connection reset when it is closed, so that it is not half open: nothing can be sent to it any more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_response(connection: socket.socket) -> Response:
    """Read one response without a body."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(4096)
        assert chunk, f"closed after {data!r}"
        data += chunk
    response = parse_message(data)
    assert isinstance(response, Response)
    return response


def invite_of(user: RecordingTransactionUser) -> tuple[Request, IServerTransaction]:
    _, request, transaction = user.calls[0]
    assert isinstance(request, Request)
    return request, transaction


def reason_of(user: RecordingTransactionUser) -> object:
    return user.calls[-1][2] if user.calls[-1][0] == "transaction_ended" else None


@asynccontextmanager
async def ringing_call_of_a_client_that_is_gone(
    service: SIPService, sent_by: str
) -> AsyncIterator[tuple[Request, IServerTransaction]]:
    """An INVITE that came on a connection which the client has closed since."""
    invite = make_request("INVITE", transport="TCP", sent_by=sent_by)

    def call() -> None:
        with connect(address(service, "tcp")) as connection:
            connection.sendall(invite.to_bytes())
            assert read_response(connection).status == 180
            reset(connection)

    await deferToThread(call)
    await until(lambda: not service.counters["connections"])
    yield invite_of(service._transaction_user)  # type: ignore[arg-type]


@pytest.mark.requirement("18.2.2-3", "18.2.2-4")
@pytest_twisted.ensureDeferred
async def test_new_connection_for_a_response() -> None:
    """When the connection is gone, the response goes to the source address and the port of sent-by (18.2.2)."""
    user = ringing()
    with socket.create_server(("127.0.0.1", 0)) as client:
        client.settimeout(5)
        sent_by = f"client.invalid:{client.getsockname()[1]}"
        async with serving(user=user) as service:
            async with ringing_call_of_a_client_that_is_gone(service, sent_by) as (invite, transaction):
                transaction.respond(invite.response(486))
                connection, _ = await deferToThread(client.accept)
            with connection:
                connection.settimeout(5)
                response = await deferToThread(read_response, connection)
                assert (response.status, response.headers.get("Call-ID")) == (486, invite.call_id)
                ack = make_request("ACK", transport="TCP", sent_by=sent_by, to=response.headers.get("To"))
                connection.sendall(ack.to_bytes())
                await until(lambda: reason_of(user))
            assert reason_of(user) is EndReason.ANSWERED
            assert service.counters["responses_reconnected"] == 1
            assert service.counters["transactions_send_failures"] == 0


@pytest_twisted.ensureDeferred
async def test_new_connections_share_one() -> None:
    """Several responses to one client that is gone open one connection, which is kept for the next (18.2.2)."""
    user = RecordingTransactionUser()  # which leaves every request for later
    with socket.create_server(("127.0.0.1", 0)) as client:
        client.settimeout(5)
        sent_by = f"127.0.0.1:{client.getsockname()[1]}"
        async with serving(user=user) as service:
            with connect(address(service, "tcp")) as gone:
                for number in range(3):
                    branch = f"z9hG4bK{number}"
                    request = make_request("MESSAGE", transport="TCP", sent_by=sent_by, branch=branch, cseq=number)
                    gone.sendall(request.to_bytes())
                await until(lambda: len(user.calls) == 3)
                reset(gone)
            await until(lambda: not service.counters["connections"])
            for _, request, transaction in list(user.calls):
                transaction.respond(request.response(202))
            connection, _ = await deferToThread(client.accept)
            with connection:
                connection.settimeout(5)
                data = b""
                while data.count(b"SIP/2.0 202") < 3:
                    data += await deferToThread(connection.recv, 4096)
                assert service.counters["connections"] == 1


@pytest.mark.requirement("17.2.4-2")
@pytest_twisted.ensureDeferred
async def test_no_way_to_a_client_that_is_gone() -> None:
    """When the new connection fails too, the transaction is told that its transport failed (18.4, 17.2.4)."""
    user = ringing()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        sent_by = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with serving(user=user) as service:
            async with ringing_call_of_a_client_that_is_gone(service, sent_by) as (invite, transaction):
                transaction.respond(invite.response(486))
                await until(lambda: reason_of(user))
            assert reason_of(user) is EndReason.TRANSPORT_FAILED
            assert service.counters["transactions_send_failures"] == 1


@pytest.mark.requirement("18.4-1")
@pytest_twisted.ensureDeferred
async def test_undeliverable_datagram() -> None:
    """When ICMP says that nobody takes the response, its transaction ends, and is not resent for 32 seconds (18.4)."""
    user = ringing()
    async with serving("udp:0:tcp=no", user=user) as service:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.1", 0))
            invite = make_request("INVITE", sent_by=f"127.0.0.1:{client.getsockname()[1]}")
            client.sendto(invite.to_bytes(), tuple(address(service, "udp")))
            await until(lambda: user.calls)
        invite, transaction = invite_of(user)
        transaction.respond(invite.response(486))
        await until(lambda: reason_of(user))
        assert reason_of(user) is EndReason.TRANSPORT_FAILED


@pytest.mark.parametrize(
    ("advertise", "listen", "told"),
    [
        (None, "udp:0", None),
        ("sip.example.com:5070", "udp:0", Address("sip.example.com", 5070)),
        ("sip.example.com:5070", "udp:0:advertise=[2001:db8::1]:5080", Address("2001:db8::1", 5080)),
        (None, "udp:0:advertise=192.0.2.1:5080", Address("192.0.2.1", 5080)),
    ],
)
@pytest_twisted.ensureDeferred
async def test_advertise(advertise: str | None, listen: str, told: Address | None) -> None:
    """What others are told of a listener is what it says itself, else what the service says, else its address."""
    user = ringing()
    async with serving(listen, user=user, advertise=advertise) as service:

        def ask() -> None:
            with connect(address(service, "tcp")) as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
                stream.sendall(make_request("OPTIONS", transport="TCP").to_bytes())
                assert read_response(stream).status == 200
                datagrams.settimeout(5)
                datagrams.connect(address(service, "udp"))
                datagrams.send(make_request("OPTIONS", branch="z9hG4bK2", sent_by="127.0.0.1;rport").to_bytes())
                assert datagrams.recv(4096).startswith(b"SIP/2.0 200")

        await deferToThread(ask)
        flows = [transaction.flow for name, _, transaction in user.calls if name == "request_received"]
        assert {flow.transport for flow in flows} == {"TCP", "UDP"}
        for flow in flows:
            assert flow.advertised_address == (told or flow.local_address)


PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + socket.inet_aton("192.0.2.77") + socket.inet_aton("198.51.100.9")


@pytest.mark.parametrize(
    "header",
    [b"PROXY TCP4 192.0.2.77 198.51.100.9 4444 5061\r\n", PROXY_V2 + struct.pack("!HH", 4444, 5061)],
    ids=["version 1", "version 2"],
)
@pytest_twisted.ensureDeferred
async def test_haproxy(header: bytes) -> None:
    """Behind ``haproxy:`` the source of a request is the client that the PROXY header names (18.2.1)."""
    user = ringing()
    async with serving("haproxy:tcp:0:interface=127.0.0.1", user=user) as service:

        def ask() -> Response:
            with connect(address(service, "tcp")) as connection:
                connection.sendall(header)
                connection.sendall(make_request("OPTIONS", transport="TCP", sent_by="10.0.0.1;rport").to_bytes())
                return read_response(connection)

        via = (await deferToThread(ask)).headers.get("Via")
        assert via is not None
        assert via.endswith(";rport=4444;branch=z9hG4bK74bf9;received=192.0.2.77")
        _, transaction = invite_of(user)
        assert transaction.flow.local_address == ("198.51.100.9", 5061)


@pytest_twisted.ensureDeferred
async def test_no_new_connection_to_who_a_proxy_names() -> None:
    """Who reaches a proxied port may claim any source; nothing is opened to it when the connection is gone (18.2.2)."""
    user = ringing()
    with socket.create_server(("127.0.0.1", 0)) as victim:
        sent_by = f"127.0.0.1:{victim.getsockname()[1]}"
        async with serving("haproxy:tcp:0:interface=127.0.0.1", user=user) as service:

            def call() -> None:
                with connect(address(service, "tcp")) as connection:
                    connection.sendall(b"PROXY TCP4 127.0.0.1 198.51.100.9 4444 5061\r\n")
                    connection.sendall(make_request("INVITE", transport="TCP", sent_by=sent_by).to_bytes())
                    assert read_response(connection).status == 180
                    reset(connection)

            await deferToThread(call)
            await until(lambda: not service.counters["connections"])
            invite, transaction = invite_of(user)
            transaction.respond(invite.response(486))
            assert reason_of(user) is EndReason.TRANSPORT_FAILED
        victim.setblocking(False)
        with pytest.raises(BlockingIOError):
            victim.accept()


@pytest_twisted.ensureDeferred
async def test_no_proxy_header() -> None:
    """Behind ``haproxy:`` a connection without a PROXY header is let go (what it says cannot be believed)."""
    async with serving("haproxy:tcp:0:interface=127.0.0.1") as service:

        def ask() -> bytes:
            with connect(address(service, "tcp")) as connection:
                connection.sendall(make_request("OPTIONS", transport="TCP").to_bytes())
                return connection.recv(4096)

        assert await deferToThread(ask) == b""


@pytest_twisted.ensureDeferred
async def test_max_connections_per_source() -> None:
    """One source has so many connections, and the counter says so; another source has its own."""
    async with serving(limits=TransportLimits(max_connections_per_source=2)) as service:

        def ask() -> None:
            server = address(service, "tcp")
            with connect(server) as first, connect(server) as second:
                with pytest.raises(ConnectionResetError), connect(server) as third:  # it may be, before connect returns
                    third.recv(1)
                with socket.create_connection((server.host, server.port), 5, ("127.0.0.2", 0)) as other:
                    for connection in (first, second, other):
                        connection.sendall(make_request("OPTIONS", transport="TCP").to_bytes())
                        assert read_response(connection).status == 200

        await deferToThread(ask)
        assert service.counters["connections_refused_per_source"] == 1


def test_hasten_stop() -> None:
    """Who has no patience with requests in progress can end the waiting for them."""
    clock = Clock()
    user = ringing()
    service = SIPService(clock, user)
    service.startService()
    service.hasten_stop()
    service.message_received(make_request("INVITE"), RecordingFlow())
    stopped: Deferred[None] = service.stopService()
    results: list[object] = []
    stopped.addCallback(results.append)
    assert results == []
    service.hasten_stop()
    service.hasten_stop()
    assert results == [None]
    assert reason_of(user) is EndReason.SHUTDOWN
    assert clock.getDelayedCalls() == []


@pytest.mark.requirement("18-3")
@pytest_twisted.ensureDeferred
async def test_udp_and_tcp() -> None:
    """UDP and TCP are both served, without being asked for (18)."""
    service = SIPService(reactor, ringing(), ["udp:0"])
    service.startService()
    assert [listening.transport for listening in service.listening] == ["udp", "tcp"]
    await service.stopService()


@pytest.mark.requirement("18.2.1-1")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest_twisted.ensureDeferred
async def test_every_way_to_a_uri(transport: str) -> None:
    """The Contact that we give out, which names no transport, reaches us by UDP and by TCP (18.2.1; RFC 3263, 4.1)."""

    def answer(request: Request, transaction: IServerTransaction) -> None:
        transaction.respond(request.response(200, contacts=[contact_uri(request, transaction.flow)]))

    def ask(kind: int, to: Any, request: Request) -> Any:
        with socket.socket(type=kind) as client:
            client.settimeout(5)
            client.connect(tuple(to))
            client.sendall(request.to_bytes())
            return parse_message(client.recv(4096))

    ours: Any = {"sent_by": "127.0.0.1;rport", "headers": (("Contact", "<sip:alice@127.0.0.1>"),)}
    async with serving(user=RecordingTransactionUser(answer)) as service:
        request = make_request("OPTIONS", **ours)
        response = await deferToThread(ask, socket.SOCK_DGRAM, address(service, "udp"), request)
        uri: Any = Contact(response.headers.get("Contact")).uri
        assert not uri.parameters
        request = make_request("OPTIONS", str(uri), transport=transport, branch="z9hG4bKx", call_id="x", **ours)
        kind = socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM
        response = await deferToThread(ask, kind, (uri.host, uri.port), request)
        assert response.status == 200
