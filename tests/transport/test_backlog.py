"""Does a UDP port know that it has not read its socket to the end, and does a service hear of it?"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from twisted_sipuas.service import SIPService
from twisted_sipuas.testing import RecordingTransactionUser
from twisted_sipuas.transaction.admission import Protection
from twisted_sipuas.transport.limits import MAX_DATAGRAM
from twisted_sipuas.transport.udp import SIPDatagramPort, SIPDatagramProtocol, WildcardDatagramPort


@pytest.fixture(params=[("127.0.0.1", SIPDatagramPort), ("0.0.0.0", WildcardDatagramPort)], ids=["one", "wildcard"])
def port(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A port of either kind that no reactor reads."""
    interface, kind = request.param
    service = SIPService(reactor, RecordingTransactionUser())
    made = kind(0, SIPDatagramProtocol(service), interface, MAX_DATAGRAM, reactor)
    made.startListening()
    made.stopReading()
    made.longest_turn = 10
    yield made
    pytest_twisted.blockon(made.stopListening())


def send(port: Any, number: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port.getHost().port))
        for _ in range(number):
            client.send(b"\r\n\r\n")


def test_behind(port: Any) -> None:
    """A port is behind from the first turn that leaves something on, and no more once a turn leaves nothing."""
    assert port.behind_since is None
    send(port, 3 * port.batch - 1)
    port.doRead()
    since = port.behind_since
    assert since is not None
    port.doRead()
    assert port.behind_since == since
    port.doRead()
    assert port.behind_since is None


@pytest_twisted.ensureDeferred
async def test_backlog_of_a_service() -> None:
    """A service knows the longest time that something may have waited in any of its sockets."""
    service = SIPService(reactor, RecordingTransactionUser(), ["udp:0", "udp:0"], protection=Protection(max_lag=0))
    service.startService()
    try:
        listeners = service._listeners
        assert listeners.backlog() == 0
        ports: list[Any] = [port for name, port in listeners._ports if name == "udp"]
        ports[0]._note_backlog()
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]
        ports[1]._note_backlog()
        assert 0.02 <= listeners.backlog() < 5
    finally:
        await service.stopService()
