"""Does a network in memory carry what it should, and lose what it was told to?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from twisted_sipuas import TransportLimits, UserAgentServer
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import VirtualClock, VirtualNetwork, make_request
from twisted_sipuas.testing.ladder import Ladder, Passed


class Server(UserAgentServer):
    """Takes calls and messages, and keeps what it saw."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[Any] = []
        self.dialogs: list[Any] = []

    def handle_MESSAGE(self, request: Any, transaction: Any) -> Any:
        assert self.clock is not None
        self.seen.append((self.clock.seconds(), request.body))
        return request.response(200)

    def handle_INVITE(self, request: Request, transaction: Any) -> Any:
        return request.response(200)

    def handle_ACK(self, ack: Any, dialog: Any) -> None:
        self.dialogs.append(dialog)


def exchange(messages: Any = 20, transport: Any = "UDP", **conditions: Any) -> Any:
    """Send *messages* a second apart over a network under *conditions*; returns it and what the server saw."""
    network = VirtualNetwork(**conditions)
    server = Server()
    client = network.client(network.serve(server), transport=transport, retransmits=True)
    for number in range(messages):
        network.clock.callLater(number * 0.01, client.send, "MESSAGE", body=b"%d" % number)
    network.step(60)
    return network, server.seen


def test_every_timer_at_its_own_time() -> None:
    """However far the clock is advanced, what is due happens in its order, and sees its own time."""
    clock, seen = VirtualClock(), []
    clock.callLater(2, lambda: seen.append(clock.seconds()))
    clock.callLater(1, lambda: clock.callLater(0.5, lambda: seen.append(clock.seconds())))
    clock.advance(10)
    assert seen == [1.5, 2]
    assert clock.seconds() == 10


def test_rounding() -> None:
    """What a sum of seconds says is due is due, though floats make a little more of it."""
    clock = VirtualClock()
    seen: list[Any] = []
    clock.advance(1.1)
    clock.callLater(0.1, lambda: clock.callLater(0.1, seen.append, "due"))
    clock.advance(0.2)
    assert seen == ["due"]
    assert clock.seconds() == pytest.approx(1.3)


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_nothing_takes_time_unless_told(transport: Any) -> None:
    """Without latency the answer is there at once, though nobody is called by what it called."""
    network = VirtualNetwork()
    client = network.client(network.serve(Server()), transport=transport)
    assert client.send("MESSAGE").status == 200
    assert client.statuses == [200]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_nobody_is_called_by_what_it_calls(transport: Any) -> None:
    """What a server sends as a test has it do so arrives when it is done: an ACK cannot come before its 200 is sent."""

    class Waiting(Server):
        def handle_INVITE(self, request: Request, transaction: Any) -> Any:
            self.answered: Deferred[Any] = Deferred()
            return self.answered.addCallback(lambda _: request.response(200))

    server = Waiting()
    client = VirtualNetwork().client(server, transport=transport, acknowledges=True)
    call = client.send("INVITE")
    server.answered.callback(None)
    assert server.dialogs == []
    client.network.settle()
    assert len(server.dialogs) == 1
    client.network.step(32)
    assert call.statuses == [200]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_latency(transport: Any) -> None:
    """A message takes as long as the network says, and its answer again."""
    network = VirtualNetwork(latency=0.1)
    server = Server()
    message = network.client(network.serve(server), transport=transport).send("MESSAGE")
    network.step(0.19)
    assert (server.seen, message.status) == ([(0.1, b"")], None)
    network.step(0.01)
    assert message.status == 200


def test_seed() -> None:
    """One seed is one course of things, to the message; another is another."""
    conditions = {"latency": 0.02, "jitter": 0.1, "loss": 0.3, "duplication": 0.2}
    first, again, other = (str(exchange(seed=seed, **conditions)[0].ladder) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_loss() -> None:
    """What is lost is sent again by Timer E, and the handler sees it once (17.1.2.2, 17.2.2)."""
    network, seen = exchange(loss=0.3, seed=3)
    assert {body for _, body in seen} == {b"%d" % number for number in range(20)}
    assert len(seen) == 20
    assert 10 < sum(passed.note == "lost" for passed in network.ladder) < 60


def test_duplication() -> None:
    """What arrives twice is one request to the handler (17.2.3)."""
    network, seen = exchange(duplication=1.0)
    assert len(seen) == 20
    assert {passed.note for passed in network.ladder} == {"twice"}


def test_reordering() -> None:
    """With jitter datagrams overtake each other; what a connection carries does not."""
    numbers = [int(body) for _, body in exchange(jitter=0.1, seed=1)[1]]
    assert sorted(numbers) == list(range(20)) != numbers
    assert [int(body) for _, body in exchange(transport="TCP", jitter=0.1, seed=1)[1]] == list(range(20))


def test_connections_lose_nothing() -> None:
    """Loss and duplication are for datagrams."""
    network, seen = exchange(transport="TCP", loss=0.9, duplication=0.9)
    assert len(seen) == 20
    assert len(network.ladder) == 40


@pytest.mark.parametrize(
    ("what", "times", "notes"),
    [
        ("MESSAGE", 1, ["lost", "", ""]),
        (200, 1, ["", "lost", "", ""]),
        ("MESSAGE", 2, ["lost", "lost", "", ""]),
        (lambda message: message.headers.get("CSeq") == "1 MESSAGE", 1, ["lost", "", ""]),
        ("INVITE", 1, ["", ""]),
    ],
)
def test_lose(what: Any, times: Any, notes: Any) -> None:
    """Single messages can be picked: by method, by status, or by whatever they are."""
    network = VirtualNetwork()
    network.lose(what, times)
    message = network.client(network.serve(Server()), retransmits=True).send("MESSAGE")
    network.step(10)
    assert message.status == 200
    assert [passed.note for passed in network.ladder] == notes


def test_many_messages_at_once() -> None:
    """What comes while a server has paused reading, to give others their turn, is read afterwards, in order (18.3)."""
    network = VirtualNetwork()
    client = network.client(Server(), transport="TCP")
    requests = [make_request("MESSAGE", branch=f"z9hG4bK{number}", cseq=number + 1) for number in range(100)]
    octets = b"".join(request.to_bytes() for request in requests)
    network.clock.callLater(1, client.send_octets, octets)
    network.clock.callLater(1, client.send_octets, b"\r\n\r\n" + octets.replace(b"z9hG4bK", b"z9hG4bKx"))
    network.step(2)
    numbers = [response.headers.get("CSeq") for response in client.responses]
    assert numbers == 2 * [f"{number + 1} MESSAGE" for number in range(100)]


def test_connection_that_the_server_refuses() -> None:
    """A server with as many connections as it may have lets go of the next, and its counter says so."""
    network = VirtualNetwork()
    server = network.serve(Server(), limits=TransportLimits(max_connections=1))
    first, second = (network.client(server, transport="TCP") for _ in range(2))
    assert first.send("MESSAGE").status == 200
    assert second.send("MESSAGE").status is None
    assert server.service.counters["connections_refused"] == 1
    first.disconnect()
    assert second.send("MESSAGE").status == 200


def test_nobody_there() -> None:
    """A datagram to nobody is lost, and a connection refused."""
    network = VirtualNetwork()
    server = network.serve(Server())
    client = network.client(server.address._replace(port=5070))
    assert client.send("MESSAGE").status is None
    assert str(network.ladder).endswith("MESSAGE sip:bob@example.com  [nobody is there]")
    with pytest.raises(ConnectionRefusedError, match=r"198\.51\.100\.1:5070"):
        network.client(client.server, transport="TCP").send("MESSAGE")


def test_address_in_use() -> None:
    """Two on one address are a mistake of the test."""
    network = VirtualNetwork()
    network.serve(Server())
    with pytest.raises(ValueError, match=r"198\.51\.100\.1:5060 is in use"):
        network.serve(Server())
    network.serve(Server(), port=5070)
    network.serve(Server(), host="2001:db8::1")


def test_next_address() -> None:
    """A client that was given no address has one that no test gave to another."""
    network = VirtualNetwork()
    server = network.client(Server(), host="192.0.2.1").server
    network.client(server, host="192.0.2.2")
    assert network.client(server).address.host == "192.0.2.3"


def test_ipv6() -> None:
    """Addresses may be those of IPv6."""
    network = VirtualNetwork()
    server = network.serve(Server(), host="2001:db8::1")
    for transport in ("UDP", "TCP"):
        client = network.client(server, host="2001:db8::2", port=5060 + (transport == "TCP"), transport=transport)
        assert client.send("MESSAGE").status == 200


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_request_of_the_server(transport: Any) -> None:
    """BYE comes the way that the call came, and is answered on it (12.2.1.1)."""
    network = VirtualNetwork()
    server = Server()
    client = network.client(network.serve(server), transport=transport, acknowledges=True)
    client.send("INVITE")
    ended = server.dialogs[0].end()
    assert [request.method for request in client.requests] == ["BYE"]
    client.answer(client.requests[0], 200)
    assert ended.called


def test_request_of_the_server_by_a_new_connection() -> None:
    """Is the caller's connection gone, the server opens one to where the caller listens (18.1.1)."""
    network = VirtualNetwork()
    server = Server()
    client = network.client(network.serve(server), transport="TCP", acknowledges=True)
    client.send("INVITE", headers=(("Contact", "<sip:alice@192.0.2.1:5060;transport=tcp>"),))
    client.disconnect()
    ended = server.dialogs[0].end()
    assert [request.method for request in client.requests] == ["BYE"]
    client.answer(client.requests[0], 200)
    assert ended.called
    assert network.ladder.latest.source == client.address


def test_connection_of_the_server_is_refused() -> None:
    """Where nobody listens, the server's connection is refused, and it gives up."""
    network = VirtualNetwork()
    server = Server()
    client = network.client(network.serve(server), transport="TCP", acknowledges=True)
    client.send("INVITE", headers=(("Contact", "<sip:alice@192.0.2.1:5999;transport=tcp>"),))
    client.disconnect()
    ended = server.dialogs[0].end()
    assert client.requests == []
    assert ended.called


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_stop(transport: Any) -> None:
    """Servers stop as a service does: what is owed is finished, connections close, and no timer is left."""
    network = VirtualNetwork()
    server = network.serve(Server())
    client = network.client(server, transport=transport)
    client.send("INVITE").ack()
    client.send("MESSAGE")
    network.clock.callLater(1, lambda: client.answer(client.requests[0], 200))
    network.stop()
    assert {request.method for request in client.requests} == {"BYE"}
    assert network.clock.seconds() < 10
    network.step(32)
    assert network.clock.getDelayedCalls() == []
    assert server.service.counters["connections"] == 0


def test_options_of_the_service() -> None:
    """A server is told what a service is told, and its counters tell of its connections."""
    network = VirtualNetwork()
    server = network.serve(Server(), advertise="sip.example.com:5070", server_header="mine")
    for transport in ("UDP", "TCP"):
        response = network.client(server, transport=transport).send("INVITE").response
        assert str(response.headers.get("Contact")).startswith("<sip:bob@sip.example.com:5070")
        assert response.headers.get("Server") == "mine"
    assert server.service.counters["connections"] == 1


def test_ladder_is_bounded() -> None:
    """Of what was sent the latest is kept, however long a test runs."""
    ladder = Ladder(kept=3)
    assert str(ladder) == "no message at all"
    passed = Passed(0.0, Address("192.0.2.1", 5060), Address("198.51.100.1", 5060), "UDP", make_request("MESSAGE"))
    for time in range(5):
        ladder.add(passed._replace(time=time))
    assert [passed.time for passed in ladder] == [2, 3, 4]
    assert len(ladder) == 3
    assert str(ladder.latest) == "    4.000  192.0.2.1:5060 -> 198.51.100.1:5060 UDP  MESSAGE sip:bob@example.com"
