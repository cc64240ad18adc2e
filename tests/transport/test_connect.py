"""Is a connection that we open one that may be used?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import Address, IFlow, IMessageReceiver
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.transport.connect import connect
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.stream import SIPStreamFactory

PEER = Address("192.0.2.7", 5060)


@implementer(IMessageReceiver)
class Receiver:
    """Is told nothing in these tests."""

    def message_received(self, message: Request | Response, flow: IFlow) -> None:
        raise AssertionError(message)

    def syntax_error_received(self, error: MessageSyntaxError, flow: IFlow) -> None:
        raise AssertionError(error)

    def sending_failed(self, octets: bytes, flow: IFlow) -> None:
        raise AssertionError(octets)


class Attempt:
    """One call of `connect`; `result` has the flow, or the failure, once it is there."""

    def __init__(self, transport: str = "TCP", address: Address = PEER, max_connections: int = 10) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.factory = SIPStreamFactory(Receiver(), self.reactor, TransportLimits(max_connections=max_connections))
        self.result: list[Any] = []
        connect(self.reactor, self.factory, transport, address, "sip.example.com").addBoth(self.result.append)

    def accept(self) -> StringTransport:
        """The peer accepts the connection; returns its end."""
        ((host, port, factory, _, _),) = self.reactor.tcpClients
        kind = IPv6Address if ":" in host else IPv4Address
        protocol = factory.buildProtocol(kind("TCP", host, port))
        end = StringTransport(kind("TCP", "192.0.2.1", 40000), kind("TCP", host, port))
        protocol.makeConnection(end)
        self.lose = lambda: protocol.connectionLost(Failure(ConnectionLost()))
        return end


@pytest.mark.parametrize("address", [PEER, Address("2001:db8::7", 5062)])
def test_flow_of_a_new_connection(address: Address) -> None:
    """What is sent on the flow goes to the peer, by either version of IP."""
    attempt = Attempt(address=address)
    assert attempt.result == []
    end = attempt.accept()
    (flow,) = attempt.result
    flow.send(b"octets")
    assert end.value() == b"octets"
    assert (flow.transport, flow.remote_address) == ("TCP", address)
    attempt.lose()


def test_no_answer() -> None:
    """A peer that does not answer costs five seconds, and is a failure then."""
    attempt = Attempt()
    (client,) = attempt.reactor.tcpClients
    assert client[3] == 5


def test_too_many_connections() -> None:
    """Beyond the bound on connections one that we open is closed as well, and sends nothing."""
    attempt = Attempt(max_connections=0)
    end = attempt.accept()
    attempt.result[0].trap(TransportError)
    assert "too many connections" in attempt.result[0].getErrorMessage()
    assert end.value() == b""
    assert end.disconnecting


def test_no_flow_before_the_handshake() -> None:
    """By TLS the first octets are those of a handshake, and who does not finish that gets no flow (18.2.2)."""
    attempt = Attempt("TLS")
    end = attempt.accept()
    assert end.value().startswith(b"\x16\x03")
    assert attempt.result == []
    attempt.lose()
    (failure,) = attempt.result
    assert isinstance(failure, Failure)
