"""Does the whole stack answer the torture messages of RFC 4475 and RFC 5118 as those RFCs ask?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from twisted_sipuas import MemoryBindingStore, Registrar, Response, SIPDatagramProtocol, SIPService, UserAgentServer
from twisted_sipuas.interfaces import IServerTransaction
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request

DATA = Path(__file__).parents[1] / "data" / "torture"
MESSAGES = [
    message
    for message in json.loads((DATA / "manifest.json").read_text())["messages"]
    if message["rfc"] in (4475, 5118)
]


class Endpoint(UserAgentServer):
    """A plain UAS that takes no call, and text in messages."""

    accept = {"INVITE": ("application/sdp",), "MESSAGE": ("text/plain",)}

    def handle_INVITE(self, request: Request, transaction: IServerTransaction) -> Response:
        return request.response(480)

    def handle_MESSAGE(self, request: Request, transaction: IServerTransaction) -> Response:
        return request.response(202)


class Transport:
    """What a UDP port is to its protocol; keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def getHost(self) -> IPv4Address:
        return IPv4Address("UDP", "198.51.100.1", 5060)

    def write(self, data: bytes, address: tuple[str, int]) -> None:
        assert address[0] == "192.0.2.200", "an answer goes nowhere but to the source"
        self.sent.append(data)


def answers(message: dict[str, Any]) -> list[Response]:
    """Return what the server for *message*, an endpoint or a registrar, answers to it over UDP."""
    data = (DATA / message["file"]).read_bytes()
    clock = Clock()
    store = MemoryBindingStore(clock)
    server = Registrar(store) if data.startswith(b"REGISTER ") else Endpoint()
    protocol = SIPDatagramProtocol(SIPService(clock, server))
    protocol.transport = transport = Transport()  # type: ignore[assignment]
    protocol.startProtocol()
    protocol.datagramReceived(data, ("192.0.2.200", 40000))
    return [response(answer) for answer in transport.sent]


def response(data: bytes) -> Response:
    """Return the response that *data* is; one to a malformed request repeats what is malformed in it."""
    status_line, *lines = data.partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape").split("\r\n")
    headers, fault = Headers.parse(lines)
    assert fault is None
    return Response(int(status_line.split(" ")[1]), headers=headers)


@pytest.mark.parametrize(
    "message",
    [pytest.param(message, id=message["name"]) for message in MESSAGES],
)
def test_answer(message: dict[str, Any], logged_failures: list[Any]) -> None:
    """Each message gets an answer that its RFC allows, or none where none is owed; and leaves no trace in the log."""
    given = answers(message)
    statuses = [response.status for response in given]
    assert logged_failures == []
    if message.get("silent") or (message.get("may_be_silent") and not given):
        assert given == []
        return
    assert len(given) == 1
    if "status" in message and not (message.get("lenient") and statuses[0] != 500):
        assert statuses[0] in message["status"]
    assert statuses[0] not in message.get("status_not", [])
    assert all(name in given[0].headers for name in message.get("response_has", []))


def test_two_bindings_with_nul() -> None:
    """A NUL that is escaped ends no name: two contacts that differ behind it are two bindings (RFC 4475, 3.1.1.4)."""
    (message,) = (message for message in MESSAGES if message["name"] == "escnull")
    assert len(answers(message)[0].headers.values("Contact")) == 2


@pytest.mark.parametrize(
    ("name", "contact"),
    [
        ("cparam01", "<sip:+19725552222@gw1.example.net>;unknownparam"),
        ("cparam02", "<sip:+19725552222@gw1.example.net;unknownparam>"),
        ("regescrt", "<sip:user@example.com?Route=%3Csip:sip.example.com%3E>"),
    ],
)
def test_contact_is_listed_as_it_came(name: str, contact: str) -> None:
    """A parameter belongs to the URI or to the header field as it was given, and an escaped header stays (3.1.2.18)."""
    (message,) = (message for message in MESSAGES if message["name"] == name)
    (listed,) = answers(message)[0].headers.values("Contact")
    assert listed.replace(";expires=3600", "") == contact
