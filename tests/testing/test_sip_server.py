"""Does a scripted server do what a test says, on real ports, and say what a client did instead?"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python import threadable

from twisted_sipuas import StartError
from twisted_sipuas.syntax.framing import StreamFramer
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import (
    ScriptedServer,
    Unmet,
    answer,
    expect,
    make_request,
    nothing,
    resend,
    send,
    sip_server,
    step,
)


class Client:
    """A client with a real socket, which blocks."""

    def __init__(self, server: Any, transport: str = "UDP") -> None:
        self.transport = transport
        kind = socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM
        self.socket = socket.socket(socket.AF_INET6 if ":" in server.address.host else socket.AF_INET, kind)
        self.socket.settimeout(5)
        self.socket.connect(server.address)
        self._framer = StreamFramer()
        self._number = 0

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.socket.close()

    def send(self, method: str, **fields: Any) -> Any:
        """Send a request, and return it."""
        self._number += 1
        host, port = self.socket.getsockname()[:2]
        sent_by = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        options = {"branch": f"z9hG4bK{port}.{self._number}", "cseq": self._number, "call_id": f"{port}", **fields}
        request = make_request(method, sent_by=sent_by, transport=self.transport, **options)
        self.socket.sendall(request.to_bytes())
        return request

    def receive(self) -> Request | Response:
        """Return the next message."""
        if self.transport == "UDP":
            return parse_message(self.socket.recv(65535))
        while (message := self._framer.next_message()) is None:
            self._framer.receive(self.socket.recv(65535))
        return parse_message(message)

    def ask(self, method: str, **fields: Any) -> Any:
        """Send a request, and return the status of the next response."""
        self.send(method, **fields)
        response = self.receive()
        assert isinstance(response, Response)
        return response.status


def use(act: Any, *steps: Any, **options: Any) -> None:
    """Do *act* with a server and a client of it."""
    with sip_server(*steps, **options) as server, Client(server) as client:
        act(server, client)


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_call(transport: Any) -> None:
    """A whole call, from INVITE to the BYE of the server, by the dialog's rules (12, 13, 15)."""
    with sip_server() as server, Client(server, transport) as client:
        client.send("INVITE", body=b"v=0\r\n")
        call = server.expect("INVITE")
        assert (call.method, call.body, call.headers.get("Contact")) == (
            *("INVITE", b"v=0\r\n"),
            call.request.headers.get("Contact"),
        )
        call.answer(180).answer(200, body=b"v=0\r\n", content_type="application/sdp")
        ringing, accepted = client.receive(), client.receive()
        assert (ringing.status, accepted.status, accepted.body) == (180, 200, b"v=0\r\n")
        to = accepted.headers.get("To")
        assert to == ringing.headers.get("To") == f"<sip:bob@example.com>;tag={call.to_tag}"
        assert str(server.address) in accepted.headers.get("Contact")
        client.send("ACK", to=to, cseq=1)
        server.expect("ACK")

        call.send("BYE", headers=(("Reason", "Q.850;cause=16"),))
        bye = client.receive()
        assert (bye.method, bye.headers.get("Reason")) == ("BYE", "Q.850;cause=16")
        assert (bye.from_.tag, bye.to.tag) == (call.to_tag, call.request.from_.tag)
        client.socket.sendall(bye.response(200).to_bytes())
        assert server.expect_response(200, "BYE").status == 200


def test_ipv6() -> None:
    """It may be at an address of IPv6."""
    with sip_server(host="::1") as server, Client(server) as client:
        assert server.uri == f"sip:[::1]:{server.address.port}"
        client.send("MESSAGE")
        server.expect("MESSAGE").answer(202)
        assert client.receive().status == 202


def test_two_servers() -> None:
    """There may be several, and one thread serves them all."""
    before = threading.active_count()
    with sip_server() as first, sip_server() as second:
        for server in (first, second):
            with Client(server) as client:
                client.send("MESSAGE")
                server.expect("MESSAGE").answer(200)
        assert threading.active_count() <= before + 1


def test_port_in_use() -> None:
    """A port that cannot be had is told of as the real server does."""
    with sip_server() as server, pytest.raises(StartError, match=r"Address .*in use"):
        use(None, port=server.address.port)


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_stopped(transport: Any) -> None:
    """When it is stopped its port is free, and its connections are closed."""
    with sip_server() as server:
        client = Client(server, transport)
        client.send("MESSAGE")
        server.expect("MESSAGE").answer(200)
        client.receive()
    with client:
        if transport == "TCP":
            assert client.socket.recv(1) == b""
    with sip_server(port=server.address.port):
        pass


# What is not expected


def test_another_request() -> None:
    """What comes instead is named, with where it came from and what was exchanged."""

    def act(server: Any, client: Any) -> None:
        client.send("MESSAGE")
        server.expect("INVITE")

    with pytest.raises(Unmet) as failure:
        use(act)
    text, exchanged = str(failure.value).split("\n\n")
    assert text.startswith("expected INVITE, got MESSAGE sip:bob@example.com from 127.0.0.1:")
    assert exchanged.count("MESSAGE") == 1


def test_header_field_that_is_not_so() -> None:
    """A request without what it should say is as wrong as another one."""

    def act(server: Any, client: Any) -> None:
        client.send("REGISTER")
        server.expect("REGISTER", Expires="60")

    with pytest.raises(Unmet, match=r"expected REGISTER with Expires: 60, got REGISTER .* with Expires: none"):
        use(act)


def test_nothing_comes() -> None:
    """Silence is told of when time is up."""
    with sip_server() as server, pytest.raises(Unmet, match=r"expected INVITE within 0\.05 s, got nothing\n\n"):
        server.expect("INVITE", timeout=0.05)


def test_no_sip() -> None:
    """What is no SIP message fails what is expected, and says what is wrong with it."""
    with sip_server() as server, Client(server) as client:
        client.socket.sendall(b"INVITE sip:bob@example.com SIP/2.0\r\n\r\n")
        with pytest.raises(Unmet, match="expected INVITE, got what is no SIP message: Missing Via header field"):
            server.expect("INVITE")


def test_left_over() -> None:
    """Who says nothing of a request has not expected it: leaving fails."""

    def act(server: Any, client: Any) -> None:
        client.send("MESSAGE")
        time.sleep(0.05)

    with pytest.raises(Unmet, match="expected nothing more, got MESSAGE sip:bob"):
        use(act)


def test_failure_of_the_test_comes_first() -> None:
    """Where the test has failed already, it is not told of what is left over."""

    def act(server: Any, client: Any) -> None:
        client.send("MESSAGE")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use(act)


# What is let pass


def test_stray_where_another_is_expected() -> None:
    """OPTIONS is answered by itself where something else is expected, before it or while it is waited for."""
    with sip_server() as server, Client(server) as client:
        client.send("OPTIONS")
        later = threading.Timer(0.05, lambda: [client.send("OPTIONS"), client.send("INVITE")])
        later.start()
        call = server.expect("INVITE")
        later.join()
        call.answer(486)
        assert [client.receive().status for _ in range(3)] == [200, 200, 486]
        assert str(server.ladder).count("[a stray]") == 2


def test_stray_that_is_expected() -> None:
    """OPTIONS is the test's, if it is what the test expects."""
    with sip_server() as server, Client(server) as client:
        client.send("OPTIONS")
        server.expect("OPTIONS").answer(503)
        assert client.receive().status == 503


def test_stray_that_nobody_waits_for() -> None:
    """Is nothing expected, OPTIONS is answered before its client would send it again (17.1.2.1)."""
    with sip_server() as server, Client(server) as client:
        started = time.monotonic()
        assert client.ask("OPTIONS") == 200
        assert 0.2 < time.monotonic() - started < 5
        server.nothing()


def test_stray_at_the_end() -> None:
    """OPTIONS that comes last fails nothing."""
    with sip_server() as server, Client(server) as client:
        client.send("OPTIONS")
        server.nothing(0.05)


def test_which_are_strays() -> None:
    """Others may be strays, or none."""
    with sip_server(strays={"REGISTER": 403}) as server, Client(server) as client:
        assert client.ask("REGISTER") == 403
    with sip_server(strays={}) as server, Client(server) as client:
        client.send("OPTIONS")
        with pytest.raises(Unmet, match="expected INVITE, got OPTIONS"):
            server.expect("INVITE")


def test_ack_may_be_expected_or_not() -> None:
    """An ACK that is not waited for is let pass (17.1.1.3)."""
    with sip_server() as server, Client(server) as client:
        for is_expected in (False, True):
            invite = client.send("INVITE")
            server.expect("INVITE").answer(486)
            refused = client.receive()
            client.send("ACK", to=refused.headers.get("To"), cseq=invite.cseq.number, branch=invite.via.branch)
            if is_expected:
                server.expect("ACK")
        client.send("MESSAGE")
        server.expect("MESSAGE").answer(200)


@pytest.mark.parametrize("is_expected", [False, True])
def test_provisional_response_may_be_expected_or_not(is_expected: bool) -> None:
    """Of a request of the server's own it is the final response that counts, unless the test says otherwise."""
    with sip_server() as server, Client(server) as client:
        client.send("INVITE")
        server.expect("INVITE").answer(200).send("INFO")
        info = [client.receive(), client.receive()][1]
        client.socket.sendall(info.response(100).to_bytes())
        client.socket.sendall(info.response(481).to_bytes())
        if is_expected:
            server.expect_response(100, "INFO")
        server.expect_response(481)


def test_client_that_is_gone() -> None:
    """An answer to nobody is no failure of the test, and what was exchanged says that it was not sent."""
    with sip_server() as server:
        with Client(server, "TCP") as client:
            client.send("MESSAGE")
            message = server.expect("MESSAGE")
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets it
        while not message.flow.closed:
            time.sleep(0.01)
        message.answer(200)
        assert "[not sent: the connection from 127.0.0.1" in str(server.ladder)


def test_retransmission() -> None:
    """What comes again gets the latest answer again, and is not told of; without an answer, nothing (17.2)."""
    with sip_server() as server, Client(server) as client:
        invite = client.send("INVITE")
        client.socket.sendall(invite.to_bytes())
        call = server.expect("INVITE")
        call.answer(180).answer(486)
        client.socket.sendall(invite.to_bytes())
        assert [client.receive().status for _ in range(3)] == [180, 486, 486]
        server.nothing(0.05)


# Answers


def test_register() -> None:
    """The 200 to a REGISTER lists its contacts, with the time that each has (10.3)."""
    contacts = (("Contact", "<sip:a@192.0.2.1>, <sip:b@192.0.2.1>;expires=5"), ("Expires", "60"))
    with sip_server() as server, Client(server) as client:
        client.send("REGISTER", headers=contacts)
        server.expect("REGISTER", Expires="60").answer(200)
        assert client.receive().headers.values("Contact") == [
            "<sip:a@192.0.2.1>;expires=60",
            "<sip:b@192.0.2.1>;expires=5",
        ]
        client.send("REGISTER", headers=contacts)
        server.expect("REGISTER").answer(200, "Fine", contacts=["sip:c@192.0.2.1"], headers=[("X-Mine", "1")])
        response = client.receive()
        assert (response.reason, response.headers.get("Contact")) == ("Fine", "<sip:c@192.0.2.1>")
        assert response.headers.get("X-Mine") == "1"
        client.send("REGISTER", headers=(("Contact", "*"), ("Expires", "0")))
        server.expect("REGISTER", Contact="*").answer(200)
        assert "Contact" not in client.receive().headers


def test_octets() -> None:
    """A client can be shown what no server should send."""
    with sip_server() as server, Client(server) as client:
        client.send("INVITE")
        server.expect("INVITE").answer_octets(b"SIP/2.0 999 Beyond\r\n\r\n")
        assert client.socket.recv(100) == b"SIP/2.0 999 Beyond\r\n\r\n"


# Steps


def test_steps() -> None:
    """What is said before is done while the test does something else."""
    with sip_server(
        "A call that the server ends.",
        *(expect("INVITE"), answer(180), step(0.05), answer(200), expect("ACK"), resend()),
        *(send("BYE"), expect(200, "BYE"), nothing()),
    ) as server, Client(server) as client:  # fmt: skip
        client.send("INVITE")
        assert [client.receive().status for _ in range(2)] == [180, 200]
        client.send("ACK", cseq=1)
        assert client.receive().status == 200
        bye = client.receive()
        client.socket.sendall(bye.response(200).to_bytes())


def test_steps_of_a_cancelled_call() -> None:
    """After the CANCEL is answered, the next answer is to the INVITE (9.2)."""
    with sip_server(
        expect("INVITE"), answer(180), expect("CANCEL"), answer(200), answer(487), expect("ACK")
    ) as server, Client(server) as client:  # fmt: skip
        invite = client.send("INVITE")
        assert client.receive().status == 180
        client.send("CANCEL", branch=invite.via.branch, cseq=1)
        responses = [client.receive() for _ in range(2)]
        assert [(response.status, response.headers.get("CSeq")) for response in responses] == [
            (200, "1 CANCEL"),
            (487, "1 INVITE"),
        ]
        client.send("ACK", branch=invite.via.branch, cseq=1)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([expect("INVITE")], "expected INVITE within 0.1 s, got nothing"),
        ([answer(200)], "there is no request to answer; expect one first"),
        ([send("BYE")], "there is no call to send BYE in; expect an INVITE first"),
        ([resend()], "there is no request to send again to; expect one first"),
    ],
)
def test_steps_that_fail(steps: Any, expected: Any) -> None:
    """Leaving waits for the steps, and says which one failed."""
    with pytest.raises(Unmet) as failure, sip_server(*steps, timeout=0.1):
        pass
    assert str(failure.value).startswith(f"{expected}\n\nthe steps:\n-> ")


def test_steps_explain_what_became_of_the_client() -> None:
    """Where the client fails since the steps did, it is the steps that are told of, and the client behind them."""

    def act(server: Any, client: Any) -> None:
        client.socket.settimeout(0.2)
        client.ask("MESSAGE")

    with pytest.raises(Unmet, match="expected INVITE, got MESSAGE") as failure:
        use(act, expect("INVITE"), answer(486))
    assert isinstance(failure.value.__cause__, TimeoutError)


def test_steps_are_not_waited_for_when_the_test_fails() -> None:
    """A test that fails by itself does not wait for its steps."""
    for steps in ([expect("INVITE")], [step(0.1), expect("INVITE")]):
        started = time.monotonic()
        with pytest.raises(ZeroDivisionError), sip_server(*steps, timeout=60):
            raise ZeroDivisionError
        assert time.monotonic() - started < 10


# Reactors


def test_no_reactor_is_installed(tmp_path: Path) -> None:
    """A process without a reactor stays so: which one it installs is its own to decide."""
    program = """
import sys
from twisted_sipuas.testing import sip_server
with sip_server():
    pass
assert "twisted.internet.reactor" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)


def test_thread_of_the_installed_reactor() -> None:
    """The process's I/O thread stays that of the reactor which it has installed."""
    with sip_server():
        assert threadable.isInIOThread()


@pytest_twisted.ensureDeferred
async def test_in_the_reactor_of_the_test() -> None:
    """`ScriptedServer` waits for nothing: it returns a `Deferred`, as what runs in a reactor has to."""
    server = ScriptedServer(reactor)
    server.start()
    client = await deferToThread(Client, server)
    with client:
        status = deferToThread(client.ask, "REGISTER")
        register = await server.expect("REGISTER")
        register.answer(403)
        assert await status == 403
        first = server.expect("INVITE")
        with pytest.raises(ValueError, match="INVITE is expected already"):
            server.expect("MESSAGE")
        stopped = server.stop()
        with pytest.raises(Unmet, match="the server was stopped"):
            await first
        await stopped


def test_only_what_it_was_told_is_on_the_clock() -> None:
    """A server that nobody waits for has no timer."""
    clock = Clock()
    server = ScriptedServer(clock)
    waiting = server.expect("INVITE")
    assert isinstance(waiting, Deferred)
    clock.advance(5)
    waiting.addErrback(lambda failure: failure.trap(Unmet))
    assert clock.getDelayedCalls() == []
