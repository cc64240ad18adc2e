"""Is the certificate renewed without a connection lost, and who is let in and known as whom by a certificate?"""

from __future__ import annotations

import base64
import functools
import ipaddress
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.log_observers import log_observer
from twisted_sipuas.errors import TransportError
from twisted_sipuas.transport.tls import ServerCredentials, client_creator, sip_identities

NOW = datetime.now(timezone.utc).replace(microsecond=0)
SAN = x509.SubjectAlternativeName
URI = x509.UniformResourceIdentifier
DNS = x509.DNSName


# Certificates


class Issued(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


def key_pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    result: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return result


def issue(
    *names: x509.GeneralName,
    common_name: str = "a server",
    issuer: Issued | None = None,
    is_ca: bool = False,
    key: Any = None,
    days: tuple[int, int] = (-1, 30),
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> Issued:
    """Return a certificate for *names*, signed by *issuer* or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    )
    for extension in (*((SAN(names),) if names else ()), *extensions):
        builder = builder.add_extension(extension, critical=False)
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


class Files:
    """PEM files in a directory, and what a server makes of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, *parts: bytes) -> str:
        path = self.directory / name
        path.write_bytes(b"".join(parts))
        return str(path)

    def show(self, issued: Issued, *chain: Issued) -> None:
        """Make *issued* the certificate to be read, with *chain* behind it."""
        self.write("key.pem", issued.key_pem)
        self.write("cert.pem", issued.pem, *(each.pem for each in chain))

    def credentials(self, issued: Issued, *chain: Issued, **more: str) -> ServerCredentials:
        self.show(issued, *chain)
        return ServerCredentials(str(self.directory / "key.pem"), str(self.directory / "cert.pem"), **more)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def warnings() -> Iterator[list[LogEvent]]:
    """The warnings logged during the test."""
    events: list[LogEvent] = []

    @log_observer
    def observe(event: LogEvent) -> None:
        if event.get("log_level") is not None and event["log_level"].name == "warn":
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


rsa_key = functools.cache(functools.partial(rsa.generate_private_key, 65537))  # to make one takes long


# Connections in memory


class NoProtocol:
    """Stands for the protocol of a connection in memory, and notes what it is told."""

    def __init__(self) -> None:
        self.refused: list[Failure] = []

    def failVerification(self, reason: Failure) -> None:
        self.refused.append(reason)


def connect_in_memory(credentials: ServerCredentials, context: SSL.Context) -> tuple[SSL.Connection, SSL.Connection]:
    """Return server and client with the handshake behind them; raises what OpenSSL raises."""
    client = SSL.Connection(context, None)
    return serve_in_memory(credentials, client), client


def serve_in_memory(credentials: ServerCredentials, client: SSL.Connection) -> SSL.Connection:
    """Return the server's side of *client*, with the handshake behind it; raises what OpenSSL raises."""
    server: SSL.Connection = credentials.serverConnectionForTLS(None)  # type: ignore[arg-type]
    server.set_accept_state()
    client.set_connect_state()
    shake_hands(server, client)
    return server


def shake_hands(server: SSL.Connection, client: SSL.Connection) -> None:
    for _ in range(6):
        for side, peer in ((client, server), (server, client)):
            try:
                side.do_handshake()
            except SSL.WantReadError:
                pass
            pump(side, peer)


def pump(source: SSL.Connection, destination: SSL.Connection) -> None:
    """Carry what *source* has to say to *destination*."""
    while True:
        try:
            destination.bio_write(source.bio_read(65536))
        except SSL.WantReadError:
            return


def say(source: SSL.Connection, destination: SSL.Connection, data: bytes) -> bytes:
    """Send *data*, and return what arrives."""
    source.send(data)
    pump(source, destination)
    return destination.recv(65536)


def trusting(authority: Issued, own: Issued | None = None) -> SSL.Context:
    """Return the context of a client that trusts *authority*, and shows *own* if asked."""
    context = SSL.Context(SSL.TLS_METHOD)
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(authority.certificate))
    context.set_verify(SSL.VERIFY_PEER)
    if own is not None:
        context.use_certificate(own.certificate)
        context.use_privatekey(own.key)
    return context


def shown(client: SSL.Connection) -> int:
    """Return the serial number of the certificate that the server showed."""
    certificate = client.get_peer_certificate()
    assert certificate is not None
    return certificate.get_serial_number()


# Our certificate


def test_interfaces(files: Any) -> None:
    """Credentials and client creators are what Twisted asks for connections."""
    assert verifyObject(IOpenSSLServerConnectionCreator, files.credentials(issue()))
    assert verifyObject(IOpenSSLClientConnectionCreator, client_creator("example.com"))


def test_one_file_for_all(files: Any) -> None:
    """Private key, certificate and chain may be one file, in any order that has our certificate before its chain."""
    root = issue(common_name="root", is_ca=True)
    middle = issue(common_name="middle", issuer=root, is_ca=True)
    own = issue(issuer=middle)
    for parts in ((own.key_pem, own.pem, middle.pem), (own.pem, middle.pem, own.key_pem)):
        path = files.write("all.pem", *parts)
        _, client = connect_in_memory(ServerCredentials(path, path), trusting(root))
        assert shown(client) == own.certificate.serial_number


def test_chain_in_a_file_of_its_own(files: Any) -> None:
    """The chain may be a file of its own: the client then can verify the certificate."""
    root = issue(common_name="root", is_ca=True)
    middle = issue(common_name="middle", issuer=root, is_ca=True)
    own = issue(issuer=middle)
    with pytest.raises(SSL.Error):
        connect_in_memory(files.credentials(own), trusting(root))
    connect_in_memory(files.credentials(own, chain=files.write("chain.pem", middle.pem)), trusting(root))


@pytest.mark.parametrize("key", [rsa_key(2048), ec.generate_private_key(ec.SECP384R1())])
@pytest.mark.parametrize("format", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_kinds_of_keys(files: Any, key: Any, format: Any) -> None:
    """RSA and EC keys are taken, in the form of old tools too."""
    own = issue(key=key)
    files.show(own)
    files.write("key.pem", key.private_bytes(serialization.Encoding.PEM, format, serialization.NoEncryption()))
    paths = str(files.directory / "key.pem"), str(files.directory / "cert.pem")
    connect_in_memory(ServerCredentials(*paths), trusting(own))


def test_what_logs_say(files: Any) -> None:
    """File, serial number and end of the certificate are there for logs, and nothing of the key."""
    own = issue()
    credentials = files.credentials(own)
    assert credentials.not_after == NOW + timedelta(days=30)
    assert credentials.not_after.tzinfo is not None
    assert str(credentials) == (
        f"{files.directory / 'cert.pem'} (serial number {own.certificate.serial_number:X}, "
        f"valid until {credentials.not_after:%Y-%m-%d})"
    )
    assert "key" not in repr(credentials)


def as_pem(what: str, der: bytes) -> bytes:
    return f"-----BEGIN {what}-----\n{base64.encodebytes(der).decode()}-----END {what}-----\n".encode()


def faults(files: Files) -> dict[str, tuple[dict[str, str], str]]:
    """What can be wrong: the files in place of good ones, and the line that is expected."""
    good, other = issue(), issue()
    damaged = good.pem.replace(b"M", b"A", 1)
    der = good.certificate.public_bytes(serialization.Encoding.DER)
    of_version_6 = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05")
    secret = good.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    of_the_future = secret.replace(b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x02\x7f")
    weak = issue(key=rsa_key(1024))
    unfit = x25519.X25519PrivateKey.generate()
    missing, directory = str(files.directory / "missing.pem"), str(files.directory)
    key, certificate = files.write("good-key.pem", good.key_pem), files.write("good.pem", good.pem)
    return {
        "no key": ({"private_key": missing}, f"{missing}: No such file or directory"),
        "a directory": ({"certificate": directory}, f"{directory}: Is a directory"),
        "no chain": ({"chain": missing}, f"{missing}: No such file or directory"),
        "no client CA": ({"client_ca": missing}, f"{missing}: No such file or directory"),
        "empty": ({"certificate": files.write("empty", b"")}, "empty: there is no PEM certificate in it"),
        "DER": (
            {"certificate": files.write("x.der", der)},
            "x.der: there is no PEM certificate in it",
        ),
        "damaged": ({"certificate": files.write("bad.pem", damaged)}, "bad.pem: a certificate in it is damaged"),
        "cut off": ({"certificate": files.write("cut.pem", good.pem[:200])}, "cut.pem: a certificate in it is damaged"),
        "unknown version": (
            {"certificate": files.write("six.pem", as_pem("CERTIFICATE", of_version_6))},
            "six.pem: a certificate in it is damaged",
        ),
        "unknown kind of key": (
            {"private_key": files.write("future.pem", as_pem("PRIVATE KEY", of_the_future))},
            "future.pem: the private key in it is damaged",
        ),
        "damaged chain": ({"chain": files.write("bad.pem", damaged)}, "bad.pem: a certificate in it is damaged"),
        "damaged CA": ({"client_ca": files.write("bad.pem", damaged)}, "bad.pem: a certificate in it is damaged"),
        "key without key": ({"private_key": certificate}, "good.pem: there is no PEM private key in it"),
        "cut off key": (
            {"private_key": files.write("cut-key.pem", good.key_pem[:100])},
            "cut-key.pem: the private key in it is damaged",
        ),
        "encrypted key": (
            {"private_key": files.write("secret.pem", key_pem(good.key, b"sesame"))},
            "secret.pem: the private key is encrypted; expected one without a passphrase",
        ),
        "unfit key": ({"private_key": files.write("x.pem", key_pem(unfit))}, "x.pem: the private key is of a kind"),
        "another's key": (
            {"private_key": files.write("other.pem", other.key_pem)},
            f"other.pem: this private key does not belong to the first certificate in {certificate}",
        ),
        "another kind of key": (
            {"private_key": files.write("rsa.pem", key_pem(rsa_key(2048)))},
            f"rsa.pem: this private key does not belong to the first certificate in {certificate}",
        ),
        "chain first": (
            {"certificate": files.write("reversed.pem", other.pem, good.pem)},
            f"{key}: this private key does not belong to the first certificate in",
        ),
        "weak": (
            {
                "certificate": files.write("weak.pem", weak.pem),
                "private_key": files.write("weak-key.pem", weak.key_pem),
            },
            "weak.pem: OpenSSL refuses it: ",
        ),
    }


FAULTS = [
    "no key", "a directory", "no chain", "no client CA", "empty", "DER", "damaged", "cut off", "damaged chain",
    "damaged CA", "key without key", "cut off key", "encrypted key", "unfit key", "another's key",
    "another kind of key", "chain first", "weak", "unknown version", "unknown kind of key",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(files: Any, fault: Any) -> None:
    """Whatever is wrong with the files is told in one line that names the file and its fault."""
    wrong, said = faults(files)[fault]
    good = {"private_key": str(files.directory / "good-key.pem"), "certificate": str(files.directory / "good.pem")}
    with pytest.raises(ValueError) as raised:
        ServerCredentials(**{**good, **wrong})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "sesame" not in str(raised.value)


def test_all_faults_are_tested(files: Any) -> None:
    """The list of names above is complete."""
    assert sorted(FAULTS) == sorted(faults(files))


@pytest.mark.parametrize(
    ("days", "said"), [((-30, -1), "the certificate expired on"), ((1, 30), "the certificate is not valid before")]
)
def test_wrong_time(files: Any, warnings: Any, days: Any, said: str) -> None:
    """A certificate out of its time is a warning, at start and at each reload, and is used."""
    own = issue(days=days)
    credentials = files.credentials(own)
    credentials.reload()
    first, second = warnings
    assert said in first["log_format"]
    assert first["file"] == second["file"] == str(files.directory / "cert.pem")
    assert credentials.serverConnectionForTLS(None) is not None


def test_right_time(files: Any, warnings: Any) -> None:
    """A certificate in its time is not worth a word."""
    files.credentials(issue()).reload()
    assert warnings == []


# Reload


def test_reload(files: Any) -> None:
    """After a reload new connections get the new certificate, and open ones go on (OpenSIPS #2322, Kamailio #3717)."""
    old, new = issue(), issue(days=(-1, 60))
    credentials = files.credentials(old)
    server, client = connect_in_memory(credentials, trusting(old))
    files.show(new)
    credentials.reload()
    assert say(client, server, b"still") == b"still"
    assert say(server, client, b"here") == b"here"
    _, second = connect_in_memory(credentials, trusting(new))
    assert (shown(client), shown(second)) == (old.certificate.serial_number, new.certificate.serial_number)
    assert credentials.not_after == NOW + timedelta(days=60)


def test_reload_in_a_handshake(files: Any) -> None:
    """A handshake that began before a reload ends with the certificate it began with."""
    old, new = issue(), issue()
    credentials = files.credentials(old)
    server: SSL.Connection = credentials.serverConnectionForTLS(None)
    client = SSL.Connection(trusting(old), None)
    server.set_accept_state()
    client.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    files.show(new)
    credentials.reload()
    pump(client, server)
    shake_hands(server, client)
    assert shown(client) == old.certificate.serial_number


@pytest.mark.parametrize("broken", ["key.pem", "cert.pem", "ca.pem"])
def test_broken_reload(files: Any, broken: Any) -> None:
    """Files that are broken, or half replaced, change nothing: the old certificate and CA stay (Kamailio #4033)."""
    authority = issue(common_name="CA", is_ca=True)
    old, client = issue(), issue(issuer=authority)
    credentials = files.credentials(old, client_ca=files.write("ca.pem", authority.pem))
    files.show(issue(days=(-1, 60)))
    files.write(broken, b"-----BEGIN")
    with pytest.raises(ValueError, match=broken):
        credentials.reload()
    _, connection = connect_in_memory(credentials, trusting(old, client))
    assert shown(connection) == old.certificate.serial_number
    assert credentials.not_after == NOW + timedelta(days=30)


def test_half_replaced(files: Any) -> None:
    """A key that was replaced before its certificate was is a fault at that moment, and none the next time."""
    old, new = issue(), issue()
    credentials = files.credentials(old)
    files.write("key.pem", new.key_pem)
    with pytest.raises(ValueError, match="does not belong"):
        credentials.reload()
    files.show(new)
    credentials.reload()
    _, client = connect_in_memory(credentials, trusting(new))
    assert shown(client) == new.certificate.serial_number


# Client certificates


@pytest.fixture
def authority() -> Issued:
    return issue(common_name="clients' CA", is_ca=True)


def test_client_certificate(files: Any, authority: Any) -> None:
    """A client that shows a certificate by the CA is let in, and known by it (RFC 5922, 7.4)."""
    own = issue()
    credentials = files.credentials(own, client_ca=files.write("ca.pem", authority.pem))
    peer = issue(URI("sip:Example.ORG"), DNS("proxy.example.org"), issuer=authority)
    server, client = connect_in_memory(credentials, trusting(own, peer))
    assert say(client, server, b"hello") == b"hello"
    assert sip_identities(server.get_peer_certificate()) == ("example.org",)
    assert [name.CN for name in client.get_client_ca_list()] == ["clients' CA"], "a client may choose by it"


def test_no_client_certificate_asked(files: Any) -> None:
    """Without a CA for clients none is asked for its certificate, and nobody has an identity."""
    own = issue()
    server, _ = connect_in_memory(files.credentials(own), trusting(own, issue(URI("sip:example.org"))))
    assert sip_identities(server.get_peer_certificate()) == ()


def bad_clients(authority: Issued) -> dict[str, Issued | None]:
    other = issue(common_name="clients' CA", is_ca=True)
    no_authority = issue(common_name="no CA", issuer=authority)
    for_servers = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    return {
        "none": None,
        "self-signed": issue(URI("sip:example.org")),
        "another CA of that name": issue(URI("sip:example.org"), issuer=other),
        "expired": issue(URI("sip:example.org"), issuer=authority, days=(-9, -1)),
        "by what is no CA": issue(URI("sip:example.org"), issuer=no_authority),
        "for servers only": issue(URI("sip:example.org"), issuer=authority, extensions=(for_servers,)),
    }


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("which", bad_clients(issue(is_ca=True)))
def test_client_refused(files: Any, authority: Any, which: Any, version: Any) -> None:
    """Without a certificate by the CA, valid and for clients, the handshake fails (RFC 5922, 7.1: RFC 5280)."""
    own = issue()
    credentials = files.credentials(own, client_ca=files.write("ca.pem", authority.pem))
    context = trusting(own, bad_clients(authority)[which])
    context.set_max_proto_version(version)
    with pytest.raises(SSL.Error):
        connect_in_memory(credentials, context)


def test_client_by_an_intermediate(files: Any, authority: Any) -> None:
    """The CA for clients may be an intermediate one, without its root; or the one certificate that is let in."""
    middle = issue(common_name="middle", issuer=authority, is_ca=True)
    peer, other = issue(issuer=middle), issue(issuer=authority)
    own = issue()
    credentials = files.credentials(own, client_ca=files.write("ca.pem", middle.pem))
    connect_in_memory(credentials, trusting(own, peer))
    with pytest.raises(SSL.Error):
        connect_in_memory(credentials, trusting(own, other))
    pinned = files.credentials(own, client_ca=files.write("peer.pem", other.pem))
    connect_in_memory(pinned, trusting(own, other))
    with pytest.raises(SSL.Error):
        connect_in_memory(pinned, trusting(own, peer))


def test_reload_of_the_client_ca(files: Any, authority: Any) -> None:
    """After a reload the new CA counts."""
    own, later = issue(), issue(common_name="later CA", is_ca=True)
    credentials = files.credentials(own, client_ca=files.write("ca.pem", authority.pem))
    files.write("ca.pem", later.pem)
    credentials.reload()
    connect_in_memory(credentials, trusting(own, issue(issuer=later)))
    with pytest.raises(SSL.Error):
        connect_in_memory(credentials, trusting(own, issue(issuer=authority)))


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_no_resumption(files: Any, authority: Any, version: Any) -> None:
    """Who comes back with a session has to show its certificate again, and is let in if it does."""
    own, peer = issue(), issue(issuer=authority)
    credentials = files.credentials(own, client_ca=files.write("ca.pem", authority.pem))
    context = trusting(own)
    context.set_max_proto_version(version)

    def client(session: SSL.Session | None, has_certificate: bool) -> SSL.Connection:
        connection = SSL.Connection(context, None)
        if session is not None:
            connection.set_session(session)
        if has_certificate:
            connection.use_certificate(peer.certificate)
            connection.use_privatekey(peer.key)
        return connection

    first = client(None, True)
    say(serve_in_memory(credentials, first), first, b"and a ticket, if there is one")
    session = first.get_session()
    assert session is not None
    serve_in_memory(credentials, client(session, True))
    with pytest.raises(SSL.Error):
        serve_in_memory(credentials, client(session, False))


# The protocol


def only(version: int) -> SSL.Context:
    """Return the context of a client that speaks nothing but *version* and takes everything else."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    return context


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_versions(files: Any, version: Any) -> None:
    """TLS 1.2 and 1.3 are spoken."""
    server, client = connect_in_memory(files.credentials(issue()), only(version))
    assert say(client, server, b"hello") == b"hello"


@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])
def test_old_versions(files: Any, version: Any) -> None:
    """TLS 1.1 and older is refused for what it is (RFC 8996)."""
    with pytest.raises(SSL.Error, match="protocol"):
        connect_in_memory(files.credentials(issue()), only(version))


def test_mandatory_cipher_suite(files: Any) -> None:
    """TLS_RSA_WITH_AES_128_CBC_SHA is for every element (26.2.1), but only where nothing better is offered."""
    own = issue(key=rsa_key(2048))
    credentials = files.credentials(own)
    context = only(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256")
    _, client = connect_in_memory(credentials, context)
    assert str(client.get_cipher_name()).startswith("ECDHE-")
    context = only(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"AES128-SHA")
    _, client = connect_in_memory(credentials, context)
    assert client.get_cipher_name() == "AES128-SHA"


@pytest.mark.parametrize("ciphers", [b"aNULL:@SECLEVEL=0", b"eNULL:@SECLEVEL=0"])
def test_no_worthless_cipher_suite(files: Any, ciphers: Any) -> None:
    """Nothing without authentication or encryption is spoken (26.2.1)."""
    context = only(SSL.TLS1_2_VERSION)
    context.set_cipher_list(ciphers)
    with pytest.raises(SSL.Error):
        connect_in_memory(files.credentials(issue(key=rsa_key(2048))), context)


def test_no_renegotiation(files: Any) -> None:
    """A client cannot renegotiate, which costs us far more than it does it."""
    server, client = connect_in_memory(files.credentials(issue()), only(SSL.TLS1_2_VERSION))
    client.renegotiate()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    pump(client, server)
    with pytest.raises(SSL.WantReadError):
        server.recv(1)
    pump(server, client)
    with pytest.raises(SSL.Error, match="no renegotiation"):
        client.do_handshake()


# Identities


def certificate(*names: x509.GeneralName, common_name: str = "example.com") -> crypto.X509:
    """Return a certificate as a transport does."""
    return crypto.X509.from_cryptography(issue(*names, common_name=common_name).certificate)


@pytest.mark.requirement("5922-1")
@pytest.mark.parametrize(
    ("names", "identities"),
    [
        ([URI("sip:example.com")], ["example.com"]),
        ([URI("SIP:Example.COM")], ["example.com"]),  # "URI scheme tokens are always case insensitive"
        ([URI("sip:example.com"), URI("sip:example.net")], ["example.com", "example.net"]),
        ([URI("sip:example.com"), URI("sip:EXAMPLE.com")], ["example.com"]),
        ([URI("sip:example.com:5061;transport=tls")], ["example.com"]),  # 7.2: no scheme, no parameters
        ([URI("sip:192.0.2.1")], ["192.0.2.1"]),
        ([URI("sip:[2001:DB8::0:1]")], ["[2001:db8::1]"]),
        ([DNS("example.com"), DNS("Proxy.Example.COM")], ["example.com", "proxy.example.com"]),
        ([DNS("xn--mnchen-3ya.example")], ["xn--mnchen-3ya.example"]),
        ([URI("sip:example.com"), DNS("other.example")], ["example.com"]),  # DNS if and only if there is no sip URI
        ([DNS("other.example"), URI("sip:example.com")], ["example.com"]),
        ([URI("sip:alice@example.com"), DNS("other.example")], ["other.example"]),
        ([URI("sip:alice@example.com")], []),  # a user, not a domain
        ([URI("sip:@example.com")], []),
        ([URI("sip:example.com?To=a@b")], []),
        ([URI("sips:example.com")], []),  # the scheme has to be sip
        ([URI("https://example.com")], []),
        ([URI("https://example.com"), DNS("example.com")], ["example.com"]),
        ([URI("sip:")], []),
        ([URI("sip:*.example.com"), DNS("*.example.com")], []),  # 7.2: no wildcard
        ([DNS(".example.com")], []),
        ([DNS("example.com.")], ["example.com"]),
        ([DNS("192.0.2.1")], []),
        ([DNS("")], []),
        ([DNS("example.com\0.evil.example")], []),
        ([DNS("example.com\n"), DNS("exa mple.com"), DNS("a..b")], []),
        ([URI("sip:example.com\0.evil.example"), URI("sip:example.com\r\n")], []),
        ([x509.RFC822Name("a@example.com")], []),  # the Common Name counts only without any subjectAltName
        ([x509.IPAddress(ipaddress.ip_address("192.0.2.1"))], []),
    ],
)
def test_identities(names: Any, identities: Any) -> None:
    """SIP URIs without userinfo, else DNS names, and never the Common Name beside them (RFC 5922, 7.1)."""
    assert sip_identities(certificate(*names)) == tuple(identities)


@pytest.mark.requirement("5922-1")
@pytest.mark.parametrize(
    ("common_name", "identities"),
    [
        ("example.com", ["example.com"]),
        ("Example.COM", ["example.com"]),
        ("*.example.com", []),
        ("Alice", []),
        ("alice.", []),
        ("Alice A. Example", []),
        ("192.0.2.1", []),
        ("sip:example.com", []),
        ("bücher.example", []),
        ("example.com\0.evil.example", []),
    ],
)
def test_identity_in_the_common_name(common_name: Any, identities: Any) -> None:
    """Without any subjectAltName a Common Name that is a domain name is the identity (RFC 5922, 7.1-2)."""
    assert sip_identities(certificate(common_name=common_name)) == tuple(identities)


def test_two_common_names() -> None:
    """Of two Common Names none counts: nobody can tell which one the CA looked at."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, text) for text in ("a.example", "b.example")]
    subject = x509.Name(names)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    assert sip_identities(builder.sign(key, hashes.SHA256())) == ()


def raw(
    octets: bytes, oid: x509.ObjectIdentifier = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(oid, octets)


HOSTILE = {
    "no DER": b"\xff\xff\xff",
    "empty": b"",
    "no names": b"\x30\x00",
    "length beyond the end": b"\x30\x84\x7f\xff\xff\xff",
    "URI of no ASCII": b"\x30\x05\x86\x03\xff\xfe\xfd",
    "DNS name of no ASCII": b"\x30\x05\x82\x03\xff\xfe\xfd",
    "address of five octets": b"\x30\x07\x87\x05\x01\x02\x03\x04\x05",
    "unknown kind of name": b"\x30\x03\x8f\x01\x00",
    "malformed registered ID": b"\x30\x03\x88\x01\xff",
    "directory name of rubbish": b"\x30\x04\xa4\x02\x30\xff",
}


@pytest.mark.parametrize("octets", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names(octets: bytes) -> None:
    """A subjectAltName that cannot be read names nobody, raises nothing, and does not let the Common Name count."""
    issued = issue(common_name="example.com", extensions=(raw(octets),))
    assert sip_identities(crypto.X509.from_cryptography(issued.certificate)) == ()


def test_two_lists_of_names() -> None:
    """Two subjectAltName extensions in one certificate, which no CA signs, name nobody."""
    dummy = x509.ObjectIdentifier("2.5.29.99")
    issued = issue(DNS("a.example"), extensions=(raw(b"\x30\x0b\x82\x09b.example", dummy),))
    der = issued.certificate.public_bytes(serialization.Encoding.DER).replace(b"\x55\x1d\x63", b"\x55\x1d\x11")
    assert sip_identities(crypto.load_certificate(crypto.FILETYPE_ASN1, der)) == ()


@pytest.mark.parametrize("nothing", [None, object(), b"", "example.com"])
def test_no_certificate(nothing: Any) -> None:
    """What is no certificate names nobody."""
    assert sip_identities(nothing) == ()


# Real connections


class Echo(Protocol):
    """Sends back what comes, and knows its end."""

    transport: Any

    def __init__(self) -> None:
        self.lost: Deferred[None] = Deferred()
        self.reason: Any = None
        self._waiter: Deferred[bytes] | None = None

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if self._waiter is None:
            self.transport.write(data)
        else:
            waiter, self._waiter = self._waiter, None
            waiter.callback(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reason = reason
        self.lost.callback(None)
        if self._waiter is not None:
            self._waiter.errback(reason)

    async def ask(self, data: bytes) -> bytes:
        """Send, and return what comes next."""
        self._waiter = Deferred()
        assert self.transport is not None
        self.transport.write(data)
        return await self._waiter


class Server(Factory):
    """A server on a free port, and the connections it took."""

    noisy = False

    def __init__(self, reactor: Any, credentials: ServerCredentials) -> None:
        self.connections: list[Echo] = []
        self.reactor = reactor
        self.port = reactor.listenSSL(0, self, credentials, interface="127.0.0.1")

    def buildProtocol(self, address: object) -> Echo:
        self.connections.append(Echo())
        return self.connections[-1]

    async def connect(self, host: str, trust: str | None) -> Echo:
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port.getHost().port)
        connection: Echo = await connectProtocol(wrapClientTLS(client_creator(host, trust), endpoint), Echo())
        return connection

    async def stop(self) -> None:
        await self.port.stopListening()
        for connection in self.connections:
            if connection.reason is None:
                connection.transport.abortConnection()
                await connection.lost


@pytest.fixture
def the_reactor() -> Any:
    from twisted.internet import reactor

    return reactor


async def test_reload_on_real_connections(files: Any, the_reactor: Any) -> None:
    """On a listening port too a reload leaves open connections alone, and counts for new ones."""
    root = issue(common_name="root", is_ca=True)
    old, new = (issue(DNS("sip.example.com"), issuer=root) for _ in range(2))
    trust = files.write("root.pem", root.pem)
    credentials = files.credentials(old)
    server = Server(the_reactor, credentials)
    first = await server.connect("sip.example.com", trust)
    assert await first.ask(b"before") == b"before"
    files.show(new)
    credentials.reload()
    assert await first.ask(b"after") == b"after"
    second = await server.connect("sip.example.com", trust)
    assert await second.ask(b"too") == b"too"
    serials = [each.transport.getPeerCertificate().get_serial_number() for each in (first, second)]
    assert serials == [old.certificate.serial_number, new.certificate.serial_number]
    await server.stop()
    await first.lost
    await second.lost


async def test_certificate_for_another(files: Any, the_reactor: Any) -> None:
    """A peer whose certificate is for another is told nothing, and the failure says why (RFC 5922, 7.3)."""
    own = issue(URI("sip:example.net"))
    server = Server(the_reactor, files.credentials(own))
    client = await server.connect("example.com", files.write("trust.pem", own.pem))
    client.transport.write(b"a response")
    await client.lost
    assert client.reason.check(TransportError)
    assert "not for example.com" in client.reason.getErrorMessage()
    await server.stop()


@pytest.mark.requirement("5922-1")
@pytest.mark.parametrize(
    ("host", "names", "is_taken"),
    [
        ("example.com", [URI("sip:example.com")], True),
        ("Example.COM", [URI("sip:example.com")], True),
        ("example.com.", [DNS("example.com")], True),
        ("example.com", [DNS("example.com")], True),
        ("sub.example.com", [DNS("example.com")], False),  # 7.2: no suffixes
        ("sub.example.com", [DNS("*.example.com")], False),  # 7.2: no wildcards
        ("example.com", [URI("sip:example.net"), DNS("example.com")], False),  # 7.1: DNS names do not count beside it
        ("example.com", [URI("sip:alice@example.com")], False),
        ("192.0.2.1", [x509.IPAddress(ipaddress.ip_address("192.0.2.1"))], True),
        ("192.0.2.2", [x509.IPAddress(ipaddress.ip_address("192.0.2.1"))], False),
        ("192.0.2.1", [DNS("192.0.2.1")], False),
        ("192.0.2.1", [URI("sip:192.0.2.1")], True),
        ("2001:db8::1", [x509.IPAddress(ipaddress.ip_address("2001:db8::1"))], True),
        ("[2001:db8:0::1]", [x509.IPAddress(ipaddress.ip_address("2001:db8::1"))], True),
        ("example.com", [], True),  # by its Common Name
        ("example.net", [], False),
    ],
)
def test_host_of_the_peer(files: Any, host: str, names: Any, is_taken: bool) -> None:
    """The certificate has to be for the host we mean, by its SIP identities or IP addresses (RFC 5922, 7.2, 7.3)."""
    own = issue(*names, common_name="example.com")
    protocol = NoProtocol()
    creator: Any = client_creator(host, files.write("trust.pem", own.pem))
    client = creator.clientConnectionForTLS(protocol)
    if is_taken:
        server = serve_in_memory(files.credentials(own), client)
        assert say(client, server, b"hello") == b"hello"
        assert protocol.refused == []
    else:
        with pytest.raises(SSL.Error):
            serve_in_memory(files.credentials(own), client)
        assert len(protocol.refused) == 1


def test_peer_nobody_vouches_for(files: Any) -> None:
    """A certificate for the right host by a CA that is not trusted is refused, be trust a file or the platform's."""
    own = issue(DNS("example.com"))
    for trust in (None, files.write("trust.pem", issue(DNS("example.com"), is_ca=True).pem)):
        creator: Any = client_creator("example.com", trust)
        with pytest.raises(SSL.Error):
            serve_in_memory(files.credentials(own), creator.clientConnectionForTLS(NoProtocol()))


@pytest.mark.parametrize(
    ("host", "sent"), [("Example.com", b"example.com"), ("192.0.2.1", None), ("2001:db8::1", None)]
)
def test_server_name_indication(files: Any, host: str, sent: Any) -> None:
    """The host's name is sent, so that a server for many can choose; an address is not (RFC 5922, 7.8)."""
    creator: Any = client_creator(host)
    assert creator.clientConnectionForTLS(NoProtocol()).get_servername() == sent


@pytest.mark.parametrize("host", ["", "a b", "example.com\n", "a@b", "[1", "[1]", "a." * 127])
def test_no_host(host: str) -> None:
    """What is no host is refused at once."""
    with pytest.raises(ValueError):
        client_creator(host)


def test_trust_that_cannot_be_read(files: Any) -> None:
    """A file of CA certificates that cannot be read is refused at once, and read again the next time."""
    path = files.write("trust.pem", b"rubbish")
    with pytest.raises(ValueError, match="there is no PEM certificate"):
        client_creator("example.com", path)
    files.write("trust.pem", issue().pem)
    client_creator("example.com", path)


def test_python_ssl_talks_to_us(files: Any) -> None:
    """Another implementation's client, Python's own `ssl`, verifies our certificate and its chain."""
    root = issue(common_name="root", is_ca=True)
    middle = issue(common_name="middle", issuer=root, is_ca=True)
    own = issue(DNS("sip.example.com"), issuer=middle)
    context = ssl.create_default_context(cadata=root.pem.decode())
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # it asks for key identifiers
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="sip.example.com")
    server: Any = files.credentials(own, middle).serverConnectionForTLS(None)
    server.set_accept_state()
    for _ in range(4):
        for handshake in (client.do_handshake, server.do_handshake):
            try:
                handshake()
            except (ssl.SSLWantReadError, SSL.WantReadError):
                pass
            if outgoing.pending:
                server.bio_write(outgoing.read())
            try:
                incoming.write(server.bio_read(65536))
            except SSL.WantReadError:
                pass
    assert client.version() == "TLSv1.3"
