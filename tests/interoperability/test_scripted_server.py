"""Is a scripted server one that clients which are not ours get along with?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interoperability.clients import baresip_arguments
from tests.interoperability.conftest import free_port
from twisted_sipuas.testing import STRAYS, answer, expect, send, sip_server

pytestmark = pytest.mark.interoperability


@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_sipp(run_client: Callable[..., Any], transport: Any) -> None:
    """SIPp makes its call, from INVITE to BYE."""
    steps = [expect("INVITE"), answer(180), answer(200), expect("ACK"), expect("BYE"), answer(200)]
    with sip_server(*steps) as server:
        done = run_client(
            *("sipp", str(server.address), "-sn", "uac", "-i", "127.0.0.1", "-m", "1", "-nostdin", "-t", transport),
        )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_baresip(start_client: Callable[..., Any], tmp_path: Path, transport: Any) -> None:
    """baresip calls, takes the BYE of the server, and meanwhile registers, which is no concern of the test."""
    with sip_server(port=free_port(), timeout=20, strays={**STRAYS, "REGISTER": 200}) as server:
        arguments = baresip_arguments(tmp_path / "baresip", server.address.port, transport, registers=True)
        phone = start_client("baresip", *arguments, "-e", f"/dial sip:bob@{server.address};transport={transport}")
        call = server.expect("INVITE")
        phone.wait_for("200 OK")
        call.answer(180).answer(200, body=call.body, content_type="application/sdp")
        server.expect("ACK")
        phone.wait_for("Call established")
        call.send("BYE")
        server.expect_response(200, "BYE")
        phone.wait_for("terminated|closed")
        phone.stop()  # it wants its registration removed


def test_call_that_the_server_ends(run_client: Callable[..., Any], tmp_path: Path) -> None:
    """SIPp, of which a scenario of its own says that it is called off, answers the BYE."""
    (tmp_path / "callee.xml").write_text(_ENDED)
    steps = [expect("INVITE"), answer(200), expect("ACK"), send("BYE"), expect(200, "BYE")]
    with sip_server(*steps) as server:
        done = run_client(
            *("sipp", str(server.address), "-sf", "callee.xml", "-i", "127.0.0.1", "-m", "1", "-nostdin", "-t", "u1"),
        )
    assert done.returncode == 0, done.stdout[-3000:]


_ENDED = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="ended by the server">
<send retrans="500"><![CDATA[
INVITE sip:bob@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:alice@[local_ip]:[local_port]>;tag=[call_number]
To: <sip:bob@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:alice@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="200" rrs="true"/>
<send><![CDATA[
ACK [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:alice@[local_ip]:[local_port]>;tag=[call_number]
[last_To:]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv request="BYE"/>
<send><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send>
</scenario>
"""
