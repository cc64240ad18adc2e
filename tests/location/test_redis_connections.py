"""Does a connection to Redis notice that it is dead, and is who answers verified, and a Redis at all?"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import txredisapi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionAborted
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from tests.log_observers import log_observer
from tests.redis_process import RedisProcess, free_port
from twisted_sipuas.location import Binding
from twisted_sipuas.location.redis import RedisBindingStore, make
from twisted_sipuas.location.redis_connections import RedisConnection, RedisConnections

PING = b"*1\r\n$4\r\nPING\r\n"


class Transport(StringTransport):
    """A connection in memory that is told to end, and ends when the test says so."""

    is_aborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def abortConnection(self) -> None:
        self.is_aborted = True


class Case:
    """A connection on a virtual clock, and what was sent on it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transport = Transport()
        self.connection = RedisConnection(self.clock, 3.0)
        self.connection.makeConnection(self.transport)

    @property
    def sent(self) -> Any:
        """What was sent since the last time."""
        sent = self.transport.value()
        self.transport.clear()
        return sent

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.5] * int(2 * seconds))

    def end(self) -> None:
        """Have the connection end as it was told to; no timer is left."""
        assert self.transport.is_aborted
        self.connection.connectionLost(Failure(ConnectionAborted()))
        assert self.clock.getDelayedCalls() == []


def outcome(waiting: Any) -> list[None]:
    results: list[Any] = []
    waiting.addBoth(results.append)
    return results


def test_idle_connection_is_asked() -> None:
    """A connection without commands is asked whether it is there still, and only that long after the last command."""
    case = Case()
    got = outcome(case.connection.get(b"a"))
    case.connection.dataReceived(b"$-1\r\n")
    assert got == [None]
    assert case.sent.startswith(b"*2\r\n$3\r\nGET\r\n")
    case.pass_time(19.5)
    assert case.sent == b""
    case.pass_time(0.5)
    assert case.sent == PING
    case.connection.dataReceived(b"+PONG\r\n")
    case.pass_time(19.5)
    assert case.sent == b""
    case.pass_time(0.5)
    assert case.sent == PING
    case.pass_time(2.5)
    assert not case.transport.is_aborted
    case.pass_time(0.5)
    case.end()
    assert case.connection.reason == "no answer within 3 s"


def test_deadline_is_of_the_first_in_flight() -> None:
    """However many commands follow, what is not answered in time ends the connection, and all of them fail."""
    case = Case()
    waiting: list[Any] = []
    for _ in range(6):
        waiting.append(outcome(case.connection.get(b"a")))
        case.pass_time(0.5)
    assert case.connection.pending == 6
    case.end()
    assert case.connection.pending == 0
    assert [type(results[0].value) for results in waiting] == [txredisapi.ConnectionError] * 6


def test_answers_keep_it() -> None:
    """While what is in flight is answered in time the connection stays, however busy."""
    case = Case()
    case.connection.get(b"a")
    for _ in range(20):
        last = outcome(case.connection.get(b"a"))
        case.pass_time(1)
        case.connection.dataReceived(b"$1\r\nx\r\n")
    assert not case.transport.is_aborted
    case.connection.give_up()
    case.end()
    assert len(last) == 1


@pytest.mark.parametrize("octets", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$x\r\n", b"\xff\r\n", b"+OK\r\n"])
def test_not_a_redis(octets: bytes) -> None:
    """What is no answer, or to nothing that was asked, ends the connection; nothing is logged by its octets."""
    case = Case()
    case.connection.dataReceived(octets)
    assert case.transport.is_aborted
    case.end()
    assert case.connection.reason in ("it does not speak the protocol of Redis", "it answers what it was not asked")


@pytest.mark.parametrize("seconds", [0, 2.9, 3.0, 3.05])
def test_stop_while_connecting(seconds: float) -> None:
    """A stop is over at once, however far the try to connect has come: it is given up, and no other one is made."""

    class Endpoint:
        def connect(self, factory: Any) -> Deferred[Any]:
            return Deferred(lambda waiting: waiting.errback(ConnectingCancelledError(None)))

    clock = Clock()
    endpoint: Any = Endpoint()
    no_setup: Any = None
    connections = RedisConnections(
        endpoint,
        no_setup,
        clock,
        size=2,
        max_pending=9,
        connect_timeout=3.0,
        command_timeout=3.0,
        description="redis:x",
    )
    connections.start()
    clock.advance(seconds)
    stopped = outcome(Deferred.fromCoroutine(connections.stop()))
    assert stopped == [None]
    assert clock.getDelayedCalls() == []


# Connections that are real


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """The lines that were logged."""
    lines = []

    @log_observer
    def observe(event: dict[str, Any]) -> None:
        if event["log_namespace"].startswith("twisted_sipuas.location.redis"):
            lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def make_store() -> Iterator[Callable[..., Any]]:
    """Start a store by its text and options; all are stopped in the end."""
    from tests.any_reactor import reactor

    stores = []

    def start(text: str, **options: str) -> RedisBindingStore:
        stores.append(make(text, options, reactor))
        stores[-1].startService()
        return stores[-1]

    yield start
    for store in stores:
        pytest_twisted.blockon(store.stopService())


async def until(condition: Callable[..., Any]) -> None:
    """Wait until *condition* holds."""
    from tests.any_reactor import reactor

    while not condition():
        await deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_another_server(make_store: Any, logged: list[str]) -> None:
    """A server that is no Redis is told as that, once however often it is tried."""
    from tests.any_reactor import reactor

    class Http(Protocol):
        transport: Any

        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    port = reactor.listenTCP(0, Factory.forProtocol(Http), interface="127.0.0.1")
    try:
        store = make_store(f"127.0.0.1:{port.getHost().port}")
        await deferLater(reactor, 0.5)
        await store.stopService()
    finally:
        await port.stopListening()
    (line,) = logged
    assert line.endswith("cannot be used, and what needs it gets 503: it does not speak the protocol of Redis")


@pytest_twisted.ensureDeferred
async def test_no_such_host(make_store: Callable[..., Any], logged: list[str]) -> None:
    """A name that no host has is told as that."""
    make_store("redis.invalid")
    await until(lambda: logged)
    assert logged[0].endswith(": there is no host of this name")


def write_certificate(directory: Path, name: str) -> tuple[Path, ...]:
    """Write a key and a certificate that it has signed itself, for *name* and 127.0.0.1, and return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / f"{name}.key", directory / f"{name}.pem"
    paths[0].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return paths


@pytest.fixture
def secure_redis(tmp_path: Path) -> Iterator[Any]:
    """A Redis whose certificate is ``redis.pem``; ``tls_port`` is where it speaks TLS."""
    key, certificate = write_certificate(tmp_path, "redis")
    write_certificate(tmp_path, "another")
    redis: Any = RedisProcess(tmp_path / "redis")
    redis.tls_port = free_port(redis.port)
    redis.arguments += [
        "--tls-port", str(redis.tls_port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-auth-clients", "no",
    ]  # fmt: skip
    redis.start()
    yield redis
    redis.kill()


@pytest_twisted.ensureDeferred
async def test_tls(make_store: Callable[..., Any], secure_redis: Any, tmp_path: Path) -> None:
    """With rediss:// the server is verified by ``ca``, and used."""
    store = make_store(f"rediss://127.0.0.1:{secure_redis.tls_port}", ca=str(tmp_path / "redis.pem"))
    await until(lambda: store.counters["connections"] == 2)
    address = "sip:bob@example.com"
    made = Binding("tel:+1", 9e9, "call", 1)
    assert await store.replace(address, b"", (made,)) is True
    assert (await store.bindings(address))[0] == (made,)


@pytest.mark.parametrize(
    ("host", "options", "reason"),
    [
        ("127.0.0.1", {}, "TLS: certificate verify failed"),
        ("127.0.0.1", {"ca": "another.pem"}, "TLS: certificate verify failed"),
        ("localhost", {"ca": "redis.pem"}, "its certificate is for another host"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_tls_is_verified(
    make_store: Callable[..., Any],
    secure_redis: Any,
    tmp_path: Path,
    logged: list[str],
    host: str,
    options: dict[str, str],
    reason: str,
) -> None:
    """A server that cannot be verified, by ``ca`` or by whom the system trusts, is not used, and the log says why."""
    options = {name: str(tmp_path / value) for name, value in options.items()}
    store = make_store(f"rediss://:secret@{host}:{secure_redis.tls_port}", **options)
    await until(lambda: logged)
    assert logged[0].endswith(f": {reason}")
    assert "secret" not in logged[0]
    assert store.counters["connections"] == 0
    assert secure_redis.cli("dbsize") == "0"
