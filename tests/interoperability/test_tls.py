"""Do `openssl s_client` and baresip get through TLS, and does a renewed certificate cut nobody off?"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

pytestmark = pytest.mark.interoperability

DEADLINE = 20.0  # seconds that anything may take
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


def wait_for(pattern: str, text: Callable[[], str]) -> re.Match[str]:
    """Return the first match of *pattern* once there is one in what *text* returns."""
    deadline = time.monotonic() + DEADLINE
    while (match := re.search(pattern, text())) is None:
        assert time.monotonic() < deadline, f"no {pattern!r} in {text()}"
        time.sleep(0.02)
    return match


class Client:
    """A program that talks to the server until it is stopped; `output` is what it printed so far."""

    def __init__(self, directory: Path, number: int, arguments: list[str]) -> None:
        self._output = directory / f"client-{number}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                arguments, cwd=directory, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")  # with bare LF for CRLF

    def wait_for(self, pattern: str) -> re.Match[str]:
        return wait_for(pattern, lambda: self.output)

    def ask(self, number: int) -> None:
        """Send an OPTIONS with *number* for its CSeq, and wait until it is answered 200."""
        assert self.process.stdin is not None
        self.process.stdin.write(
            (
                "OPTIONS sip:127.0.0.1 SIP/2.0\r\n"
                f"Via: SIP/2.0/TLS client.invalid:5061;branch=z9hG4bK{number}\r\n"
                "From: <sip:test@client.invalid>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: interoperability\r\n"
                f"CSeq: {number} OPTIONS\r\nContent-Length: 0\r\n\r\n"
            ).encode()
        )
        self.process.stdin.flush()
        self.wait_for(rf"SIP/2\.0 200 OK\n(?:\S.*\n)*CSeq: {number} OPTIONS\n")

    def serial_number(self) -> int:
        """Return the serial number of the certificate that the server showed to `openssl s_client`."""
        return x509.load_pem_x509_certificate(self.wait_for(PEM)[0].encode()).serial_number

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.terminate()
        self.process.wait(DEADLINE)
        self.process.stdin.close()


@pytest.fixture
def start_client(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Return what starts a `Client`; all are stopped after the test. Skips where the program is not installed."""
    clients: list[Client] = []

    def start(program: str, *arguments: str) -> Client:
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"{program} is not installed")
        clients.append(Client(tmp_path, len(clients), [path, *arguments]))
        return clients[-1]

    yield start
    for client in clients:
        client.stop()


class SecureServer:
    """A server with a TLS listener whose certificate is server.pem."""

    def __init__(self, make_server, start_client, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self._start_client = start_client
        self.serial_number = write_certificate(directory, "server")
        listen = "ssl:0:privateKey=server-key.pem:certKey=server.pem:interface=127.0.0.1"
        self.server = make_server("--location", "memory:", "--listen", listen, *arguments)
        self.port = int(wait_for(r"tls:127\.0\.0\.1:([0-9]+)", lambda: self.server.log)[1])

    def connect(self, *arguments: str) -> Client:
        """Start an `openssl s_client`."""
        return self._start_client("openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", *arguments)


@pytest.fixture
def make_secure_server(make_server, start_client, tmp_path: Path) -> Callable[..., SecureServer]:
    """Return what starts a `SecureServer` with further arguments."""

    def make(*arguments: str) -> SecureServer:
        return SecureServer(make_server, start_client, tmp_path, *arguments)

    return make


@pytest.mark.requirement("26.3.1-1")
def test_options(make_secure_server):
    """`openssl s_client` verifies our certificate and gets a 200 (26.3.1)."""
    client = make_secure_server().connect(
        "-CAfile", "server.pem", "-verify_return_error", "-verify_hostname", "sip.example.com"
    )  # fmt: skip
    client.ask(1)
    assert "Verify return code: 0 (ok)" in client.output


def test_old_version(make_secure_server):
    """TLS 1.1 is refused (RFC 8996)."""
    client = make_secure_server().connect("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    client.wait_for("alert protocol version")


def test_renewal(make_secure_server):
    """SIGHUP with new files: open connections go on, new ones see the new certificate (OpenSIPS #2969)."""
    server = make_secure_server()
    before = server.connect()
    before.ask(1)
    renewed = write_certificate(server.directory, "server")
    server.server.reload()
    wait_for(f"{renewed:X}", lambda: server.server.log)
    before.ask(2)
    after = server.connect()
    after.ask(3)
    assert (before.serial_number(), after.serial_number()) == (server.serial_number, renewed)


def test_faulty_renewal(make_secure_server):
    """SIGHUP with a file that is no certificate: one line in the log, and everything is as before."""
    server = make_secure_server()
    (server.directory / "server.pem").write_text("no certificate\n")
    server.server.reload()
    wait_for(r"server\.pem: there is no PEM certificate in it", lambda: server.server.log)
    client = server.connect()
    client.ask(1)
    assert client.serial_number() == server.serial_number
    assert server.server.log.count("there is no PEM certificate in it") == 1
    assert "Traceback" not in server.server.log


@pytest.fixture
def choosy_server(make_secure_server, tmp_path):
    """A server that lets in who has the certificate peer.pem."""
    write_certificate(tmp_path, "peer")
    write_certificate(tmp_path, "other")
    return make_secure_server("--tls-client-ca", "peer.pem")


@pytest.mark.requirement("26.3.1-1")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_client_certificate(choosy_server, version):
    """With --tls-client-ca a client that has its certificate is served (26.3.1, mutual authentication)."""
    choosy_server.connect(version, "-cert", "peer.pem", "-key", "peer-key.pem").ask(1)


@pytest.mark.requirement("26.3.1-1")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("arguments", [[], ["-cert", "other.pem", "-key", "other-key.pem"]], ids=["none", "other"])
def test_no_client_certificate(choosy_server, version, arguments):
    """With --tls-client-ca a client without a certificate, or with another one, gets no further than the handshake."""
    client = choosy_server.connect(version, *arguments)
    client.wait_for("alert (?:certificate required|handshake failure|unknown ca|bad certificate)")
    assert "Traceback" not in choosy_server.server.log


# Versions after 1.0.0 verify our certificate by what these say; 1.0.0 takes any.
BARESIP = """\
module_path {modules}
module g711.so
module aubridge.so
module_tmp uuid.so
module_tmp account.so
module_app menu.so
sip_listen 127.0.0.1:0
sip_cafile {cafile}
sip_verify_server yes
audio_source aubridge,nil
audio_player aubridge,nil
"""
MODULES = [Path("/usr/lib/baresip/modules"), Path("/usr/local/lib/baresip/modules")]


@pytest.mark.parametrize(("user", "answer"), [("alice", "302 Moved Temporarily"), ("bob", "404 Not Found")])
def test_baresip(make_secure_server, start_client, tmp_path, user, answer):
    """baresip registers by TLS with its one connection, and calls: 302 for who is registered, else 404 (8.3)."""
    server = make_secure_server()
    modules = next((path for path in MODULES if path.exists()), MODULES[0])
    directory = tmp_path / "baresip"
    directory.mkdir()
    (directory / "config").write_text(BARESIP.format(modules=modules, cafile=tmp_path / "server.pem"))
    (directory / "contacts").touch()
    (directory / "accounts").write_text(
        f"<sip:alice@127.0.0.1:{server.port};transport=tls>;regint=60;audio_codecs=pcmu\n"
    )
    client = start_client(
        "baresip", "-4", "-f", str(directory), "-s", "-e", f"/dial sip:{user}@127.0.0.1:{server.port}"
    )  # fmt: skip
    client.wait_for(r"200 OK \(twisted-sipuas")
    client.wait_for(rf"SIP/2\.0 {answer}\nVia: SIP/2\.0/TLS ")
    client.wait_for(rf"ACK sip:{user}@")
    assert "Traceback" not in server.server.log
