"""Does a server with ``--location enum:`` send real clients where a real name server says?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from twisted.names import dns
from twisted.names.authority import FileAuthority
from twisted.names.server import DNSServerFactory

from tests.any_reactor import reactor
from tests.interoperability.test_redirected_call import call, times

pytestmark = [pytest.mark.interoperability, pytest.mark.deadline(60)]


class Zone(FileAuthority):
    """What the name server knows: +441632960083 alone."""

    def loadFile(self, filename: str) -> None:
        soa = dns.Record_SOA(b"ns.e164.arpa", b"hostmaster.e164.arpa", minimum=60, ttl=60)
        self.soa: Any = (b"e164.arpa", soa)
        self.records: Any = {
            b"e164.arpa": [soa],
            b"3.8.0.0.6.9.2.3.6.1.4.4.e164.arpa": [
                dns.Record_NAPTR(100, 20, b"u", b"E2U+sip", rb"!^\+44(.*)$!sip:0\1@192.0.2.7!", b"", 60),
                dns.Record_NAPTR(100, 10, b"u", b"E2U+sip", b"!^.*$!sip:alice@127.0.0.1:5099!", b"", 60),
            ],
        }


@pytest.fixture
def name_server() -> Iterator[int]:
    """The port of a name server in this process."""
    protocol = dns.DNSDatagramProtocol(DNSServerFactory(authorities=[Zone("")]))
    listening = reactor.listenUDP(0, protocol, interface="127.0.0.1")
    yield listening.getHost().port
    pytest_twisted.blockon(listening.stopListening())


@pytest_twisted.ensureDeferred
async def test_call(make_server: Callable[..., Any], run_client: Any, name_server: Any, tmp_path: Any) -> None:
    """SIPp's call for a number is redirected by the name server's records, the preferred one first (6116, 4)."""
    server = make_server("--location", f"enum:e164.arpa@127.0.0.1:{name_server}", "--redirect-status", "302")
    options: dict[str, Any] = {"before_ack": 1, "after_ack": 1, "user": "+441632960083"}
    trace = await deferToThread(call, run_client, tmp_path, server.port, "udp", **options)
    assert len(times(trace, "SIP/2.0 302 ")) == 1
    assert "<sip:alice@127.0.0.1:5099>;q=1\n" in trace
    assert "<sip:01632960083@192.0.2.7>;q=0.9\n" in trace


@pytest_twisted.ensureDeferred
async def test_unknown_number(
    make_server: Callable[..., Any], run_client: Callable[..., Any], name_server: Any
) -> None:
    """A number that the name server does not know is not found: 404 (8.3)."""
    server = make_server("--location", f"enum:e164.arpa@127.0.0.1:{name_server}")
    done = await deferToThread(run_client, "sipsak", "-vv", "-s", f"sip:+441@127.0.0.1:{server.port}")
    assert "SIP/2.0 404 Not Found" in done.stdout


@pytest_twisted.ensureDeferred
async def test_visual_separators(
    make_server: Callable[..., Any], run_client: Callable[..., Any], name_server: Any
) -> None:
    """sipsak's request for a number that is written with separators is redirected as that for its digits (3966, 3)."""
    server = make_server("--location", f"enum:e164.arpa@127.0.0.1:{name_server}")
    uri = f"sip:+44-1632-960083@127.0.0.1:{server.port}"
    done = await deferToThread(run_client, "sipsak", "-vvv", "-d", "-s", uri)
    assert "<sip:alice@127.0.0.1:5099>;q=1" in done.stdout
