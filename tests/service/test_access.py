"""Is who is denied dropped unread, whatever the transport, and is the list read again when that is asked for?"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from tests.log_observers import log_observer
from twisted_sipuas.errors import StartError
from twisted_sipuas.service import SIPService
from twisted_sipuas.testing import RecordingTransactionUser, make_request

reactor: Any = the_reactor


def ok(request: Any, transaction: Any) -> None:
    transaction.respond(request.response(200))


@asynccontextmanager
async def serving(*listen: str, **options: Any) -> AsyncIterator[SIPService]:
    service = SIPService(reactor, RecordingTransactionUser(ok), listen or ["udp:0"], **options)
    service.startService()
    await service.when_listening()
    try:
        yield service
    finally:
        await service.stopService()


def ask(kind: int, port: int, source: str, prefix: bytes = b"") -> bytes:
    """Send OPTIONS from *source*, and return what comes back, if anything does."""
    with socket.socket(type=kind) as client:
        client.settimeout(0.3 if kind == socket.SOCK_DGRAM else 3)
        client.bind((source, 0))
        transport = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
        request = make_request("OPTIONS", sent_by=f"{source};rport", branch=f"z9hG4bK{source}", transport=transport)
        try:
            client.connect(("127.0.0.1", port))  # which may be reset before it has returned
            client.sendall(prefix + request.to_bytes())
            return client.recv(4096)
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            return b""


async def is_served(service: SIPService, kind: int, source: str, prefix: bytes = b"") -> bool:
    port = service.listening[0].address.port
    return (await deferToThread(ask, kind, port, source, prefix)).startswith(b"SIP/2.0 200 ")


@pytest.mark.parametrize("interface", ["127.0.0.1", "0.0.0.0"])
@pytest_twisted.ensureDeferred
async def test_datagrams(interface: str) -> None:
    """A datagram of a denied source is dropped unparsed and counted; others are answered."""
    async with serving(f"udp:0:interface={interface}", deny=["127.0.0.2/31"], allow=["127.0.0.3"]) as service:
        user: Any = service._transaction_user
        assert not await is_served(service, socket.SOCK_DGRAM, "127.0.0.2")
        assert user.calls == []
        assert service.counters["datagrams_denied"] == 1
        assert service.counters["unanswerable"] == 0
        assert await is_served(service, socket.SOCK_DGRAM, "127.0.0.3")
        assert not await is_served(service, socket.SOCK_DGRAM, "127.0.0.4"), "it is not among the allowed"
        assert service.counters["datagrams_denied"] == 2


@pytest_twisted.ensureDeferred
async def test_connections() -> None:
    """A connection of a denied source is closed at once and counted; others are served."""
    async with serving("tcp:0:interface=127.0.0.1", deny=["127.0.0.2"]) as service:
        assert not await is_served(service, socket.SOCK_STREAM, "127.0.0.2")
        assert service.counters["connections_denied"] == 1
        assert service.counters["connections_refused"] == 0
        assert await is_served(service, socket.SOCK_STREAM, "127.0.0.3")


@pytest.mark.parametrize("client", ["192.0.2.1", "::ffff:192.0.2.1"])
@pytest_twisted.ensureDeferred
async def test_behind_a_proxy(client: str) -> None:
    """Behind a proxy it is the client that the PROXY header names who is denied, and not the proxy."""
    async with serving("haproxy:tcp:0:interface=127.0.0.1", deny=["192.0.2.0/24"]) as service:
        kind = "TCP6" if ":" in client else "TCP4"
        denied = f"PROXY {kind} {client} 127.0.0.1 1 2\r\n".encode()
        assert not await is_served(service, socket.SOCK_STREAM, "127.0.0.1", denied)
        assert service.counters["connections_denied"] == 1
        other = b"PROXY TCP4 198.51.100.1 127.0.0.1 1 2\r\n"
        assert await is_served(service, socket.SOCK_STREAM, "127.0.0.1", other)
    async with serving("haproxy:tcp:0:interface=127.0.0.1", deny=["127.0.0.0/8"]) as service:
        assert await is_served(service, socket.SOCK_STREAM, "127.0.0.1", other)


@pytest_twisted.ensureDeferred
async def test_reload(tmp_path: Path) -> None:
    """A reload takes a changed file for datagrams at once, and closes the connections of who is denied now."""
    file = tmp_path / "denied"
    file.write_text("127.0.0.9\n")
    async with serving("udp:0", deny=[f"@{file}"]) as service:
        assert await is_served(service, socket.SOCK_DGRAM, "127.0.0.2")
        port = service.listening[1].address.port
        with socket.create_connection(("127.0.0.1", port), 3, ("127.0.0.2", 0)) as connection:
            assert await is_served(service, socket.SOCK_STREAM, "127.0.0.3")
            assert service.counters["connections"] >= 1
            file.write_text("127.0.0.2\n")
            service.reload()
            assert await deferToThread(connection.recv, 1) == b""
        assert not await is_served(service, socket.SOCK_DGRAM, "127.0.0.2")
        assert await is_served(service, socket.SOCK_DGRAM, "127.0.0.9")
        assert service.counters["connections_denied"] == 1


@pytest_twisted.ensureDeferred
async def test_reload_of_a_faulty_file(tmp_path: Path, logged: list[str]) -> None:
    """A fault in the file leaves the list as it was, and the log names file and line."""
    file = tmp_path / "denied"
    file.write_text("127.0.0.2\n")
    async with serving("udp:0", deny=[f"@{file}"]) as service:
        file.write_text("127.0.0.3\nlocalhost\n")
        service.reload()
        assert not await is_served(service, socket.SOCK_DGRAM, "127.0.0.2")
        assert await is_served(service, socket.SOCK_DGRAM, "127.0.0.3")
    assert [line for line in logged if "denied:2: 'localhost': expected a network such as 192.0.2.0/24" in line]


@pytest.fixture
def logged() -> Any:
    """The lines logged so far."""
    from twisted.logger import formatEvent, globalLogPublisher

    lines: list[str] = []

    @log_observer
    def observe(event: Any) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_faulty_file_at_start(tmp_path: Path) -> None:
    """A file of networks that cannot be read is a fault at start, which names it and the options."""
    file = tmp_path / "denied"
    service = SIPService(Clock(), RecordingTransactionUser(), deny=[f"@{file}"])
    with pytest.raises(StartError, match="denied: No such file or directory; see --allow and --deny"):
        service.startService()
    file.write_text("127.0.0.1/8\n")
    with pytest.raises(StartError, match=r"denied:1: '127\.0\.0\.1/8': expected a network"):
        service.startService()
