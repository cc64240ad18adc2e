"""Do calls hold with clients that are not ours: SIPp by the thousand, baresip, and through a proxy that stays?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interoperability.clients import baresip_arguments, wait_for
from tests.interoperability.conftest import free_port

HERE = Path(__file__).parent

pytestmark = pytest.mark.interoperability


@pytest.fixture
def server(make_server: Callable[..., Any]) -> Any:
    """A server that takes every call."""
    return make_server("--mode", "stateful", "--answer", "200", "--trace")


@pytest.fixture
def start_proxy(start_client: Callable[..., Any], tmp_path: Path) -> Any:
    """Return what starts a Kamailio that stays in the path of calls to the server on a port; gives its own port."""

    def start(port: int) -> int:
        proxy = free_port()
        text = (HERE / "proxy.cfg").read_text().replace("PROXY", str(proxy)).replace("SERVER", str(port))
        (tmp_path / "proxy.cfg").write_text(text)
        client = start_client("kamailio", "-DD", "-E", "-f", str(tmp_path / "proxy.cfg"), "-Y", str(tmp_path))
        client.wait_for(r"udp: 127\.0\.0\.1")
        return proxy

    return start


def call(run_client: Callable[..., Any], port: int, *arguments: str, transport: str = "u1") -> str:
    """Have SIPp call the server on *port*, and return what it printed; every call has to pass."""
    done = run_client(
        "sipp", f"127.0.0.1:{port}", "-i", "127.0.0.1", "-s", "bob", "-nostdin", "-t", transport, *arguments
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    result: str = done.stdout
    return result


@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_thousand_calls(make_server: Callable[..., Any], run_client: Callable[..., Any], transport: Any) -> None:
    """A thousand calls at a hundred a second, from INVITE to the 200 for BYE: none fails (13.3.1, 15.1.2)."""
    server = make_server("--mode", "stateful", "--answer", "200")
    output = call(run_client, server.port, "-sn", "uac", "-m", "1000", "-r", "100", transport=transport)
    assert re.search(r"Successful call +\| +\d+ +\| +1000 ", output), output[-3000:]
    assert "Traceback" not in server.log


@pytest.mark.requirement("15-3", "12.1.1-12")
@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_call_that_lasts_too_long(
    make_server: Callable[..., Any], run_client: Callable[..., Any], transport: Any
) -> None:
    """The server ends a call by BYE, to the Contact of the caller or by the connection there is (12.2.1.1, 15)."""
    server = make_server("--mode", "stateful", "--max-call-time", "1")
    call(run_client, server.port, "-sf", str(HERE / "awaited_bye.xml"), "-m", "3", transport=transport)


@pytest.mark.requirement("12.1.1-1", "12.1.1-2")
def test_through_a_proxy(server: Any, start_proxy: Any, run_client: Callable[..., Any]) -> None:
    """A call through a record-routing proxy is acknowledged and ended through it (12.1.1, 16.6)."""
    proxy = start_proxy(server.port)
    call(run_client, proxy, "-sf", str(HERE / "routed_call.xml"), "-m", "10", "-r", "10")
    assert server.log.count("BYE sip:bob@") == 10


@pytest.mark.requirement("12.1.1-9")
def test_bye_through_a_proxy(make_server: Callable[..., Any], start_proxy: Any, run_client: Callable[..., Any]) -> None:
    """The server's own BYE visits the proxy that stays in the path (12.2.1.1, 16.12)."""
    server = make_server("--mode", "stateful", "--max-call-time", "1")
    proxy = start_proxy(server.port)
    call(run_client, proxy, "-sf", str(HERE / "awaited_bye.xml"), "-m", "3")


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_baresip(server: Any, start_client: Callable[..., Any], tmp_path: Path, transport: Any) -> None:
    """baresip calls, the call stays for as long as it likes, and its BYE ends it (13.3.1, 15.1.2)."""
    arguments = baresip_arguments(tmp_path / "baresip", server.port, transport, registers=False)
    client = start_client("baresip", *arguments, "-t", "3", "-e", f"/dial sip:bob@127.0.0.1:{server.port}")
    client.wait_for("Call established")
    client.wait_for(r"SIP/2\.0 200 OK\n(?:\S.*\n)*CSeq: \d+ BYE\n")
    assert client.process.wait(10) == 0
    wait_for(r"BYE sip:bob@", lambda: server.log)
    assert "Traceback" not in server.log
