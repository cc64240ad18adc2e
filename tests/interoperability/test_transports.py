"""Do the transports hold with real parts: SIPp over IPv6 and on many connections, HAProxy in front, other protocols?"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twisted_sipuas.syntax.message import Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import make_request

pytestmark = pytest.mark.interoperability

DEADLINE = 10.0  # seconds that an answer may take
AT_ONCE = 5.0  # seconds in which a connection is let go; less than any time-out of the server
SOCKETS = ("-max_socket", "200")  # SIPp's own maximum is more than the files that may be open here
SCENARIO = Path(__file__).with_name("options.xml")
HAPROXY = Path(__file__).with_name("haproxy.cfg")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 on this machine")


def call(run_client: Callable[..., Any], directory: Path, server: str, *arguments: str, between: int = 1) -> str:
    """Send OPTIONS to *server* with SIPp, and return the trace of its messages."""
    scenario, trace = directory / "scenario.xml", directory / "messages.log"
    scenario.write_text(SCENARIO.read_text().replace('"BETWEEN"', f'"{between}"'))
    done = run_client(
        "sipp", server, "-sf", str(scenario), "-nostdin", "-trace_msg", "-message_file", str(trace), *arguments
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + trace.read_text()
    return trace.read_text()


def answered(trace: str) -> list[str]:
    """Return the CSeq number of each 200 in *trace*; of what it sends first on a connection SIPp writes nothing."""
    return re.findall(r"^SIP/2\.0 200 OK\n(?:\S.*\n)*CSeq: (\d+) OPTIONS\n", trace, re.MULTILINE)


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


# Real clients. sipsak has no IPv6.


@needs_ipv6
@pytest.mark.requirement("18-3")
@pytest.mark.parametrize("transport", ["u1", "t1", "un", "tn"])
def test_ipv6(make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path, transport: Any) -> None:
    """SIPp is served over IPv6, by UDP and TCP, on one socket and on many (18)."""
    server = make_server("--location", "memory:", host="::1", listen="udp:{port}:interface=[::1]")
    trace = call(run_client, tmp_path, f"[::1]:{server.port}", "-i", "::1", "-t", transport, "-m", "5", *SOCKETS)
    assert len(answered(trace)) == 10


@pytest.mark.requirement("18.2.2-1")
def test_many_connections(make_server: Callable[..., Any], run_client: Callable[..., Any], tmp_path: Path) -> None:
    """A hundred connections of SIPp, open at a time, get each its own answers (18.2.2)."""
    server = make_server("--location", "memory:")
    trace = call(
        run_client, tmp_path, f"127.0.0.1:{server.port}", "-i", "127.0.0.1", "-t", "tn",
        "-m", "100", "-l", "100", "-r", "200", *SOCKETS, between=2000,
    )  # fmt: skip
    assert answered(trace) == ["1"] * 100 + ["2"] * 100, "all were open before one went on"


# HAProxy in front


@pytest.fixture
def proxies(make_server: Callable[..., Any], tmp_path: Path) -> Iterator[dict[str, tuple[str, int]]]:
    """Where HAProxy listens in front of a server, by what it says of the client."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("haproxy is not installed")
    server = make_server("--location", "memory:", "--no-registrar", listen="haproxy:tcp:{port}:interface=127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        configuration = tmp_path / "haproxy.cfg"
        text = HAPROXY.read_text().replace("SERVER", str(server.port))
        for word, listening in (("FIRST", first), ("SECOND", second)):
            text = text.replace(word, str(listening.fileno()))
        configuration.write_text(text)
        with (tmp_path / "haproxy.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-db", "-f", str(configuration)],
                pass_fds=[first.fileno(), second.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield {"send-proxy": first.getsockname(), "send-proxy-v2": second.getsockname()}
        finally:
            process.terminate()
            process.wait(DEADLINE)


@pytest.mark.requirement("18.2.1-5", "3581-1")
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
@pytest.mark.parametrize("half_closes", [False, True])
def test_haproxy(proxies: Any, version: Any, half_closes: Any) -> None:
    """Behind HAProxy, received and rport name the client; one that sends nothing more gets its answer (18.2.1)."""
    # From an address that HAProxy itself does not use.
    with socket.create_connection(proxies[version], DEADLINE, ("127.0.0.9", 0)) as client:
        request = make_request("OPTIONS", "sip:127.0.0.1", transport="TCP", sent_by="10.0.0.1;rport")
        client.sendall(request.to_bytes())
        if half_closes:
            client.shutdown(socket.SHUT_WR)
        response = read_response(client)
        assert response.status == 200
        port = client.getsockname()[1]
        assert response.headers.get("Via") == (
            f"SIP/2.0/TCP 10.0.0.1;rport={port};branch=z9hG4bK74bf9;received=127.0.0.9"
        )
        if half_closes:
            assert client.recv(1) == b"", "and then the connection is closed"


# Other protocols


@pytest.fixture
def server(make_server: Callable[..., Any]) -> Any:
    """A server on loopback, UDP and TCP."""
    return make_server("--location", "memory:")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("openssl", ["s_client", "-connect", "127.0.0.1:{port}"]),
        ("curl", ["--no-progress-meter", "--noproxy", "*", "http://127.0.0.1:{port}/phpinfo.php"]),
        ("curl", ["--no-progress-meter", "--noproxy", "*", "--insecure", "https://127.0.0.1:{port}/"]),
        ("curl", ["--no-progress-meter", "telnet://127.0.0.1:{port}", "--upload-file", "{rubbish}"]),
    ],
    ids=["TLS", "HTTP", "HTTPS", "rubbish"],
)
def test_other_protocols(
    server: Any, run_client: Callable[..., Any], tmp_path: Path, program: Any, arguments: Any
) -> None:
    """What is not SIP is let go at once, with nothing said to it and one line in the log (siphon-sip #170)."""
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(bytes(range(256)))
    began = time.monotonic()
    run_client(program, *(argument.format(port=server.port, rubbish=rubbish) for argument in arguments))
    assert time.monotonic() - began < AT_ONCE
    assert server.log.count("is let go") == 1
    assert "Traceback" not in server.log


@pytest.mark.parametrize("cut", [b"\r\n\r\n", b"\r\n|\r\n", b"\r|\n\r\n", b"\r|\n|\r|\n"])
def test_keep_alive(server: Any, cut: Any) -> None:
    """A double CRLF is answered by one CRLF, in however many packets it comes, and no CRLF is (RFC 5626, 4.4.1)."""
    request = make_request("OPTIONS", "sip:127.0.0.1", transport="TCP", sent_by="127.0.0.1").to_bytes()
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in cut.split(b"|"):
            client.sendall(part)
        assert client.recv(100) == b"\r\n"
        client.sendall(b"\r\n" + request)
        assert read_response(client).status == 200, "with no CRLF before it"
