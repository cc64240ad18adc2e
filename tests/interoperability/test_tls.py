"""Do `openssl s_client` and baresip get through TLS, and does a renewed certificate cut nobody off?"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.interoperability.clients import Client, baresip_arguments, wait_for

pytestmark = pytest.mark.interoperability

PEM = r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----"


def write_certificate(directory: Path, name: str) -> int:
    """Write a new certificate and its key to *name*.pem and *name*-key.pem, and return its serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    names = [x509.DNSName("sip.example.com"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, encryption = serialization.Encoding.PEM, serialization.NoEncryption()
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(encoding))
    (directory / f"{name}-key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption)
    )
    return certificate.serial_number


def ask(client: Client, number: int, uri: str = "sip:127.0.0.1") -> None:
    """Have `openssl s_client` send an OPTIONS with *number* for its CSeq, and wait until it is answered 200."""
    assert client.process.stdin is not None
    client.process.stdin.write(
        (
            f"OPTIONS {uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/TLS client.invalid:5061;branch=z9hG4bK{number}\r\n"
            "From: <sip:test@client.invalid>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: interoperability\r\n"
            f"CSeq: {number} OPTIONS\r\nContent-Length: 0\r\n\r\n"
        ).encode()
    )
    client.process.stdin.flush()
    client.wait_for(rf"SIP/2\.0 200 OK\n(?:\S.*\n)*CSeq: {number} OPTIONS\n")


def serial_number(client: Client) -> int:
    """Return the serial number of the certificate that the server showed to `openssl s_client`."""
    return x509.load_pem_x509_certificate(client.wait_for(PEM)[0].encode()).serial_number


class SecureServer:
    """A server with a TLS listener whose certificate is server.pem."""

    def __init__(
        self, make_server: Callable[..., Any], start_client: Callable[..., Any], directory: Path, *arguments: str
    ) -> None:
        self.directory = directory
        self._start_client = start_client
        self.serial_number = write_certificate(directory, "server")
        listen = "ssl:0:privateKey=server-key.pem:certKey=server.pem:interface=127.0.0.1"
        self.server = make_server("--location", "memory:", "--listen", listen, *arguments)
        self.port = int(wait_for(r"tls:127\.0\.0\.1:([0-9]+)", lambda: self.server.log)[1])

    def connect(self, *arguments: str) -> Client:
        """Start an `openssl s_client`."""
        result: Client = self._start_client("openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", *arguments)
        return result


@pytest.fixture
def make_secure_server(
    make_server: Callable[..., Any], start_client: Callable[..., Any], tmp_path: Path
) -> Callable[..., SecureServer]:
    """Return what starts a `SecureServer` with further arguments."""

    def make(*arguments: str) -> SecureServer:
        return SecureServer(make_server, start_client, tmp_path, *arguments)

    return make


@pytest.mark.requirement("26.3.1-1")
def test_options(make_secure_server: Any) -> None:
    """`openssl s_client` verifies our certificate and gets a 200 (26.3.1)."""
    client = make_secure_server().connect(
        "-CAfile", "server.pem", "-verify_return_error", "-verify_hostname", "sip.example.com"
    )  # fmt: skip
    ask(client, 1)
    assert "Verify return code: 0 (ok)" in client.output


@pytest.mark.requirement("26.3.1-2")
def test_sips_uri(make_secure_server: Any) -> None:
    """A request for a SIPS URI is served (26.3.1, 26.2.2)."""
    ask(make_secure_server().connect(), 1, uri="sips:127.0.0.1")


def test_old_version(make_secure_server: Any) -> None:
    """TLS 1.1 is refused (RFC 8996)."""
    client = make_secure_server().connect("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    client.wait_for("alert protocol version")


def test_renewal(make_secure_server: Any) -> None:
    """SIGHUP with new files: open connections go on, new ones see the new certificate (OpenSIPS #2969)."""
    server = make_secure_server()
    before = server.connect()
    ask(before, 1)
    renewed = write_certificate(server.directory, "server")
    server.server.reload()
    wait_for(f"{renewed:X}", lambda: server.server.log)
    ask(before, 2)
    after = server.connect()
    ask(after, 3)
    assert (serial_number(before), serial_number(after)) == (server.serial_number, renewed)


def test_faulty_renewal(make_secure_server: Any) -> None:
    """SIGHUP with a file that is no certificate: one line in the log, and everything is as before."""
    server = make_secure_server()
    (server.directory / "server.pem").write_text("no certificate\n")
    server.server.reload()
    wait_for(r"server\.pem: there is no PEM certificate in it", lambda: server.server.log)
    client = server.connect()
    ask(client, 1)
    assert serial_number(client) == server.serial_number
    assert server.server.log.count("there is no PEM certificate in it") == 1
    assert "Traceback" not in server.server.log


@pytest.fixture
def choosy_server(make_secure_server: Any, tmp_path: Path) -> Any:
    """A server that lets in who has the certificate peer.pem."""
    write_certificate(tmp_path, "peer")
    write_certificate(tmp_path, "other")
    return make_secure_server("--tls-client-ca", "peer.pem")


@pytest.mark.requirement("26.3.1-1", "26.3.1-2")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_client_certificate(choosy_server: Any, version: Any) -> None:
    """With --tls-client-ca a client that has its certificate is served (26.3.1, mutual authentication)."""
    ask(choosy_server.connect(version, "-cert", "peer.pem", "-key", "peer-key.pem"), 1)


@pytest.mark.requirement("26.3.1-1", "26.3.1-2")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("arguments", [[], ["-cert", "other.pem", "-key", "other-key.pem"]], ids=["none", "other"])
def test_no_client_certificate(choosy_server: Any, version: Any, arguments: Any) -> None:
    """With --tls-client-ca a client without a certificate, or with another one, gets no further than the handshake."""
    client = choosy_server.connect(version, *arguments)
    client.wait_for("alert (?:certificate required|handshake failure|unknown ca|bad certificate)")
    assert "Traceback" not in choosy_server.server.log


@pytest.mark.parametrize(("user", "answer"), [("alice", "302 Moved Temporarily"), ("bob", "404 Not Found")])
def test_baresip(
    make_secure_server: Any, start_client: Callable[..., Any], tmp_path: Path, user: Any, answer: Any
) -> None:
    """baresip registers by TLS with its one connection, and calls: 302 for who is registered, else 404 (8.3)."""
    server = make_secure_server()
    arguments = baresip_arguments(
        tmp_path / "baresip", server.port, "tls", registers=True, cafile=tmp_path / "server.pem"
    )
    client = start_client(
        "baresip", *arguments, "-e", f"/dial sip:{user}@127.0.0.1:{server.port}"
    )  # fmt: skip
    client.wait_for(r"200 OK \(twisted-sipuas")
    client.wait_for(rf"SIP/2\.0 {answer}\nVia: SIP/2\.0/TLS ")
    client.wait_for(rf"ACK sip:{user}@")
    assert "Traceback" not in server.server.log
