"""Does `FakeClient` send what a client may send, and at the times that RFC 3261, 17.1 gives?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from twisted_sipuas import UserAgentServer
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import FakeClient, VirtualNetwork


class Server(UserAgentServer):
    """Answers with what *statuses* say, one each time a method comes; None is never."""

    def __init__(self, *statuses: Any, **options: Any) -> None:
        super().__init__(**options)
        self.statuses = iter(statuses)
        self.acks: list[Any] = []

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        status = next(self.statuses)
        return Deferred() if status is None else request.response(status)

    handle_INVITE = handle_INFO = handle_MESSAGE

    def handle_ACK(self, ack: Any, dialog: Any) -> None:
        self.acks.append(ack)


def called(*statuses: Any, headers: Any = (), **options: Any) -> Any:
    """Return the INVITE of a client of a server that answers with *statuses*."""
    network = VirtualNetwork()
    return network.client(network.serve(Server(*statuses)), **options).send("INVITE", headers=headers)


def sending_times(client: FakeClient) -> list[float]:
    """Return when the client has sent something."""
    return [passed.time for passed in client.network.ladder if passed.source == client.address]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_ack_for_a_refusal(transport: Any) -> None:
    """It is of the INVITE's transaction: Via, Request-URI, From, Call-ID and number are the same, To has the tag."""
    call = called(486, transport=transport, headers=(("Route", "<sip:proxy.example.com;lr>"),))
    call.ack()
    ack = call.client.sent[-1].request
    for name in ("From", "Call-ID", "Route"):
        assert ack.headers.get_all(name) == call.request.headers.get_all(name)
    assert ack.via == call.request.via
    assert (ack.uri_text, ack.headers.get("CSeq")) == (call.request.uri_text, "1 ACK")
    assert ack.headers.get("To") == call.response.headers.get("To") != call.request.headers.get("To")
    call.client.network.step(32)
    assert call.statuses == [486]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_ack_for_an_acceptance(transport: Any) -> None:
    """It is a request of its own, to the Contact of the 2xx by the route in reverse, with the INVITE's number."""
    routes = [("Record-Route", f"<sip:p{number}.example.com;lr>") for number in (1, 2)]
    call = called(200, transport=transport, headers=tuple(routes))
    call.ack()
    ack = call.client.sent[-1].request
    assert ack.via.branch != call.request.via.branch
    assert ack.uri_text.startswith("sip:bob@198.51.100.1:5060")
    assert ack.headers.get("CSeq") == "1 ACK"
    assert ack.headers.values("Route") == ["<sip:p2.example.com;lr>", "<sip:p1.example.com;lr>"]
    user = call.client.network.servers[0].user
    assert len(user.acks) == 1
    call.client.network.step(32)
    assert call.statuses == [200]


def test_within_the_dialog() -> None:
    """Tags and Call-ID are those of the dialog, the number is the next, the Contact the Request-URI (12.2.1.1)."""
    call = called(200, 200, acknowledges=True)
    info = call.send("INFO")
    assert info.status == 200
    assert info.request.call_id == call.request.call_id
    assert info.request.to.tag == call.response.headers.get("To").partition(";tag=")[2]
    assert info.request.from_.tag == call.request.from_.tag
    assert info.request.cseq.number > call.request.cseq.number
    assert call.send("BYE").status == 200
    assert call.send("BYE").status == 481


def test_cancel() -> None:
    """It has Via, Request-URI, From, To, Call-ID and number of the INVITE, and is answered itself (9.1)."""
    call = called(None)
    cancel = call.cancel()
    for name in ("From", "To", "Call-ID"):
        assert cancel.request.headers.get(name) == call.request.headers.get(name)
    assert cancel.request.via == call.request.via
    assert cancel.request.headers.get("CSeq") == "1 CANCEL"
    assert (cancel.statuses, call.statuses) == ([200], [487])


@pytest.mark.parametrize(
    ("method", "times"),
    [
        ("INVITE", [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]),
        ("MESSAGE", [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]),
    ],
)
def test_retransmission_to_nobody(method: str, times: Any) -> None:
    """Timer A doubles, E doubles up to T2, and 64*T1 end it (17.1.1.2, 17.1.2.2)."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server()).address._replace(port=5070), retransmits=True)
    sent = client.send(method)
    network.step(31.9)
    assert not sent.timed_out
    network.step(100)
    assert sent.timed_out
    assert sending_times(client) == times
    assert not [call for call in network.clock.getDelayedCalls() if call.func.__name__ == "_send_again"]


@pytest.mark.parametrize(
    ("method", "times"),
    [("INVITE", [0]), ("MESSAGE", [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5])],
)
def test_retransmission_in_proceeding(method: str, times: Any) -> None:
    """A provisional response ends it for an INVITE, and slows it down to T2 for others (17.1.1.2, 17.1.2.2)."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server(None)), retransmits=True)
    sent = client.send(method)
    network.step(29)
    assert set(sent.statuses) == {100}
    assert sending_times(client) == times


def test_retransmission_in_proceeding_is_at_t2() -> None:
    """What is in Proceeding early is sent again after T2, not after the doubled interval (17.1.2.2)."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server(None)), retransmits=True)
    sent = client.send("MESSAGE")
    network.step(0.1)
    sent.response_received(sent.request.response(100))
    network.step(10)
    assert sending_times(client) == [0, 0.5, 4.5, 8.5]


@pytest.mark.parametrize("options", [{"transport": "TCP", "retransmits": True}, {}])
def test_no_retransmission(options: Any) -> None:
    """Nothing is sent again on a connection, nor by a client that was not told to."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server(None)), **options)
    client.send("MESSAGE")
    network.step(60)
    assert len(client.sent) == 1
    assert sum(passed.destination == client.server for passed in network.ladder) == 1


@pytest.mark.parametrize("status", [200, 486])
def test_acknowledges(status: int) -> None:
    """Each time a final response comes its ACK goes, also for one that was resent as the ACK was lost (17.1.1.2)."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server(status)), acknowledges=True)
    network.lose("ACK")
    call = client.send("INVITE")
    assert call.statuses == [status]
    network.step(32)
    assert call.statuses == [status, status]
    assert [sent.request.method for sent in client.sent] == ["INVITE", "ACK", "ACK"]


def test_fields() -> None:
    """What every request is to have is said once; what one is to have, with it."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server(200)), uri="sip:carol@example.com", headers=(("X-Every", "1"),))
    request = client.send("MESSAGE", headers=(("X-One", "2"),), body=b"hello", from_tag="t").request
    assert (request.headers.get("X-Every"), request.headers.get("X-One")) == ("1", "2")
    assert (request.uri_text, request.body, request.from_.tag) == ("sip:carol@example.com", b"hello", "t")


def test_misuse() -> None:
    """What cannot be meant is refused, and what is missing shows what was exchanged."""
    call = called(None)
    with pytest.raises(AssertionError, match=r"no response to INVITE:\n.*INVITE sip:bob"):
        _ = call.response
    call.client.network.step(1)
    with pytest.raises(AssertionError, match="no final response to acknowledge"):
        call.ack()
    with pytest.raises(ValueError, match="a CANCEL is not acknowledged"):
        call.cancel().ack()
    with pytest.raises(ValueError, match="UDP or TCP, not SCTP"):
        called(200, transport="SCTP")
    assert repr(call) == "<SentRequest INVITE [100, 487]>"


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_no_sip_from_the_server(transport: Any) -> None:
    """What the server sends has to be SIP; else the test that receives it fails."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server(200)), transport=transport)
    client.send("MESSAGE")
    with pytest.raises(AssertionError, match="no SIP message"):
        client.message_received(b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_octets(transport: Any) -> None:
    """A client may send what is no SIP at all."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server(200)), transport=transport)
    client.send_octets(b"GET / HTTP/1.1\r\n\r\n")
    assert "no SIP message: b'GET / HTTP/1.1" in str(network.ladder)
    assert client.send("MESSAGE").status == 200
