"""Does a UDP port know for how long something has waited in its socket, and does a service hear of it?"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

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
    """A port is behind after each turn that leaves something on, and no more once a turn leaves nothing."""
    assert not port.is_behind
    send(port, 3 * port.batch - 1)
    port.doRead()
    assert port.is_behind
    port.doRead()
    assert port.is_behind
    port.doRead()
    assert not port.is_behind


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a datagram came")
def test_waiting(port: Any) -> None:
    """It is known how long what is in the socket has waited, not how long the port has been behind."""
    assert port.waiting == 0
    send(port, 2 * port.batch)
    port.doRead()
    assert port.waiting < 0.1, "asked for the first time"
    port.doRead()
    send(port, 2 * port.batch)
    began = time.time()
    while time.time() < began + 0.05:
        pass
    port.doRead()
    assert 0.05 <= port.waiting < 5
    port.doRead()
    send(port, port.batch + 1)
    port.doRead()
    assert port.is_behind
    assert port.waiting < 0.05, "for these have just come"
    port.doRead()
    assert port.waiting == 0


@pytest_twisted.ensureDeferred
async def test_backlog_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service knows the longest time that something has waited in any of its sockets."""
    service = SIPService(reactor, RecordingTransactionUser(), ["udp:0", "udp:0"], protection=Protection(max_lag=0))
    service.startService()
    try:
        listeners = service._listeners
        assert listeners.backlog() == 0
        ports: list[Any] = [port for name, port in listeners._ports if name == "udp"]
        came = {ports[0].socket: time.time() - 7, ports[1].socket: time.time() - 3}
        monkeypatch.setattr("twisted_sipuas.transport.packets.time_of_last", came.get)
        ports[1].is_behind = True
        assert 3 <= listeners.backlog() < 6
        ports[0].is_behind = True
        assert 7 <= listeners.backlog() < 10
    finally:
        await service.stopService()
