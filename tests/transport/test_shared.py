"""Do processes share the sockets of one server, and does a second server still find them taken?"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.internet.task import deferLater

from twisted_sipuas.errors import StartError
from twisted_sipuas.transport.listen import InheritedListen, parse_listen
from twisted_sipuas.transport.listeners import Listeners
from twisted_sipuas.transport.shared import SharedListeners

reactor: Any = the_reactor


@pytest.fixture
def opened() -> Iterator[Any]:
    """Return what opens shared listeners; they are closed after the test."""
    made = []

    def open_listeners(*texts: str, count: int = 3) -> SharedListeners:
        made.append(SharedListeners(reactor, [parse_listen(text) for text in texts], count))
        made[-1].open()
        return made[-1]

    yield open_listeners
    for listeners in made:
        pytest_twisted.blockon(listeners.close())


def copies(listeners: SharedListeners, process: int) -> list[list[socket.socket]]:
    """Return a socket for each descriptor of *process*."""
    return [[socket.socket(fileno=os.dup(one)) for one in of_item] for of_item in listeners.descriptors(process)]


@contextlib.contextmanager
def sources(count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for source in made:
            source.bind(("127.0.0.1", 0))
        yield made


def received(udp: socket.socket) -> list[tuple[bytes, int]]:
    """Return what waits in *udp*, with the ports that it came from."""
    waiting = []
    with contextlib.suppress(BlockingIOError):
        while True:
            data, (_, port, *_) = udp.recvfrom(100)
            waiting.append((data, port))
    return waiting


def test_own_datagram_socket(opened: Any) -> None:
    """Each process has its own UDP socket, one source is always dealt to the same one, and none is read here."""
    listeners = opened("udp:0")
    address = tuple(listeners.listening[0].address)
    own = [copies(listeners, process)[0][0] for process in range(3)]
    with sources(60) as clients, contextlib.ExitStack() as stack:
        for udp in own:
            stack.enter_context(udp)
        for data in (b"1", b"2"):
            for client in clients:
                client.sendto(data, address)
        ports = []
        for udp in own:
            waiting = received(udp)
            first = {port for data, port in waiting if data == b"1"}
            assert first == {port for data, port in waiting if data == b"2"}
            ports.append(first)
    assert all(ports), "each has some"
    assert sum(map(len, ports)) == 60


def test_dead_process(opened: Any) -> None:
    """When a process closes its sockets what comes for it waits, and other sources stay with the others."""
    listeners = opened("udp:0:tcp=no", count=2)
    address = tuple(listeners.listening[0].address)
    dead, other = (copies(listeners, process)[0][0] for process in range(2))
    with sources(40) as clients, other:
        for client in clients:
            client.sendto(b"1", address)
        before = {port for _, port in received(dead)}
        received(other)
        dead.close()
        for client in clients:
            client.sendto(b"2", address)
        assert not before & {port for _, port in received(other)}
        with copies(listeners, 0)[0][0] as replacement:
            assert {port for _, port in received(replacement)} == before


@pytest.mark.parametrize("text", ["udp:0", "udp:0:tcp=no", "udp:0:interface=[::]", "udp:0:interface=0.0.0.0"])
def test_second_server(opened: Any, text: str) -> None:
    """Sockets that are shared are shared by no other server, be it one that shares too."""
    port = opened(text).listening[0].address.port
    for count in (1, 3):
        with pytest.raises(StartError, match=f":{port}: Address already in use; choose another address or port"):
            opened(text.replace(":0", f":{port}", 1), count=count)


def test_one_stream_socket(opened: Any) -> None:
    """All processes have the same stream socket, which listens: that beside UDP, and that of a Twisted endpoint."""
    listeners = opened("udp:0", "tcp:0:interface=127.0.0.1")
    assert [one.transport for one in listeners.listening] == ["udp", "tcp", "tcp"]
    (udp, *beside), tcp = listeners.descriptors(0)
    (other_udp, *other_beside), *other = listeners.descriptors(2)
    assert udp != other_udp
    assert [beside, list(tcp)] == [other_beside, *map(list, other)]
    assert [len(beside), len(tcp)] == [1, 1]
    for of_item in copies(listeners, 1):
        with of_item[0], of_item[-1] as stream, socket.socket(stream.family) as client:
            client.connect(stream.getsockname())


class _Port:
    """A listening port without a socket."""

    def getHost(self) -> object:
        raise NotImplementedError

    def stopListening(self) -> None:
        pass


@pytest_twisted.ensureDeferred
async def test_nothing_to_share(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that has no socket to hand on is refused by name, and what was bound before it is closed."""
    monkeypatch.setattr("twisted_sipuas.transport.listeners.serverFromString", lambda *_: _Endpoint())
    monkeypatch.setattr(Listeners, "_opened", lambda self, port: self._ports.append(("onion", port)))
    with pytest.raises(StartError, match="onion:80: workers cannot share it; choose udp:, tcp: or ssl: with --listen"):
        opened("udp:5999", "onion:80")
    await deferLater(reactor, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 5999))


@pytest_twisted.ensureDeferred
async def test_unix_socket(opened: Any, tmp_path: Path) -> None:
    """A UNIX socket is refused: the first worker to end would take its name away from the others."""
    with pytest.raises(StartError, match=r"unix:.*/s: workers cannot share it"):
        opened(f"unix:{tmp_path / 's'}")
    await deferLater(reactor, 0)


class _Endpoint:
    def listen(self, factory: object) -> _Port:
        return _Port()


@pytest_twisted.ensureDeferred
async def test_inherited(opened: Any) -> None:
    """What another process has bound is served as it was asked for, and closing it closes it for this one alone."""
    shared = opened("udp:0:advertise=sip.example.com", "haproxy:tcp:0:interface=127.0.0.1", count=2)
    items = [parse_listen("udp:0:advertise=sip.example.com"), parse_listen("haproxy:tcp:0:interface=127.0.0.1")]
    descriptors = [tuple(os.dup(one) for one in of_item) for of_item in shared.descriptors(1)]
    made: list[tuple[str, object]] = []

    def datagrams(advertised: object) -> DatagramProtocol:
        made.append(("udp", advertised))
        return DatagramProtocol()

    def streams(advertised: object, is_proxied: bool) -> Any:
        made.append(("proxied" if is_proxied else "tcp", advertised))
        return Factory()

    inherited = [InheritedListen(*one) for one in zip(items, descriptors, strict=True)]
    listeners = Listeners(reactor, inherited, datagrams, streams)
    listeners.open()
    assert await listeners.when_open() == []
    assert listeners.listening == shared.listening
    advertised = ("sip.example.com", 0)
    assert made == [("udp", advertised), ("tcp", advertised), ("proxied", None)]
    await listeners.close()
    for one in sum(descriptors, ()):
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(one)
    with socket.create_connection(tuple(shared.listening[1].address), 5):
        pass  # it still listens


def test_certificate_read_at_once(opened: Any, tmp_path: Path) -> None:
    """A certificate that is not there is the fault of the start, not of each worker's."""
    with pytest.raises(StartError, match=r"missing\.pem"):
        opened(f"ssl:0:interface=127.0.0.1:privateKey={tmp_path / 'missing.pem'}")
