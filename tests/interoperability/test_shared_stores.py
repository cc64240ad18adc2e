"""Do servers that share a store agree, lose nothing that was answered 200, and outlive the store?"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.interoperability.clients import wait_for
from twisted_sipuas import Response, parse_message
from twisted_sipuas.testing import make_request

pytestmark = pytest.mark.interoperability

DEADLINE = 15.0  # seconds that anything may take


class Phone:
    """A user agent on a UDP socket, which registers whom it likes and calls them."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._sent_by = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self._socket.close()

    def send(self, port: int, method: str, user: str, *headers: tuple[str, str]) -> str:
        """Send a request for *user* to the server at *port*, and return its Call-ID."""
        number = next(self._numbers)
        call_id = f"{method}-{user}-{number}"
        target = f"sip:{user}@127.0.0.1"
        request = make_request(
            method,
            "sip:127.0.0.1" if method == "REGISTER" else target,
            branch=f"z9hG4bK{number}",
            sent_by=self._sent_by,
            to=f"<{target}>",
            call_id=call_id,
            cseq=number,
            headers=headers,
        )
        self._socket.sendto(request.to_bytes(), ("127.0.0.1", port))
        return call_id

    def send_register(self, port: int, user: str, host: str = "192.0.2.1") -> str:
        """Register *user* at *host*, without waiting for the answer."""
        return self.send(port, "REGISTER", user, ("Contact", f"<{contact(user, host)}>"), ("Expires", "600"))

    def receive(self, seconds: float = DEADLINE) -> Response | None:
        """Return the next final response; None after so many *seconds* without one."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                response = parse_message(self._socket.recv(65535))
            except (TimeoutError, ConnectionRefusedError):
                continue
            assert isinstance(response, Response)
            if response.status >= 200:
                return response
        return None

    def answer(self, call_id: str) -> Response:
        """Return the answer to the request with *call_id*, whatever else comes before it."""
        while (response := self.receive()) is not None:
            if response.headers.get("Call-ID") == call_id:
                return response
        raise AssertionError(f"no answer to {call_id}")

    def register(self, port: int, user: str, host: str = "192.0.2.1") -> Response:
        """Register *user* at *host*, and return the answer."""
        return self.answer(self.send_register(port, user, host))

    def call(self, port: int, user: str) -> Response:
        """Call *user*, acknowledge the answer, which is no 2xx, and return it."""
        response = self.answer(self.send(port, "INVITE", user))
        number = str(response.headers.get("CSeq")).split()[0]
        ack = make_request(
            "ACK",
            f"sip:{user}@127.0.0.1",
            branch=f"z9hG4bK{number}",
            sent_by=self._sent_by,
            to=response.headers.get("To"),
            call_id=str(response.headers.get("Call-ID")),
            cseq=int(number),
        )
        self._socket.sendto(ack.to_bytes(), ("127.0.0.1", port))
        return response


def contact(user: str, host: str = "192.0.2.1") -> str:
    return f"sip:{user}@{host}"


def contacts(response: Response) -> list[str]:
    """Return the URIs of the Contacts of *response*."""
    return [value.partition(">")[0].lstrip("<") for value in response.headers.values("Contact")]


@pytest.fixture
def phone() -> Iterator[Phone]:
    phone = Phone()
    yield phone
    phone.close()


def eventually(status: int, ask: Callable[[], Response]) -> Response:
    """Return the first answer of *ask* that has *status*."""
    deadline = time.monotonic() + DEADLINE
    while (response := ask()).status != status:
        assert time.monotonic() < deadline, response
        time.sleep(0.05)
    return response


def test_seen_at_once(make_server: Callable[..., Any], store_text: Any, phone: Any) -> None:
    """What one server has answered 200 the other one redirects to from then on, and lists, changes and removes."""
    one, other = make_server("--location", store_text), make_server("--location", store_text)
    for number in range(50):
        user = f"user{number}"
        register = phone.register(one.port, user)
        assert register.status == 200, register
        found = phone.call(other.port, user)
        assert (found.status, contacts(found)) == (302, [contact(user)])
    assert contacts(phone.register(other.port, "user0", "192.0.2.2")) == [
        contact("user0"),
        contact("user0", "192.0.2.2"),
    ]
    assert set(contacts(phone.call(one.port, "user0"))) == {contact("user0"), contact("user0", "192.0.2.2")}
    removed = phone.answer(phone.send(one.port, "REGISTER", "user0", ("Contact", "*"), ("Expires", "0")))
    assert (removed.status, contacts(removed)) == (200, [])
    assert phone.call(other.port, "user0").status == 404


def test_one_address_at_two_servers(make_server: Callable[..., Any], store_text: Any, phone: Any) -> None:
    """Contacts that are registered for one user at two servers at a time are all there: none undoes another."""
    servers = make_server("--location", store_text), make_server("--location", store_text)
    hosts = [f"192.0.2.{number}" for number in range(1, 31)]
    waiting = {phone.send_register(servers[number % 2].port, "bob", host): host for number, host in enumerate(hosts)}
    registered = set()
    while waiting:
        response = phone.receive()
        assert response is not None, waiting
        host = waiting.pop(str(response.headers.get("Call-ID")))
        if response.status == 200:
            registered.add(contact("bob", host))
        else:
            assert response.status == 503, "a race that was lost again and again"
            waiting[phone.send_register(servers[0].port, "bob", host)] = host
    assert registered == {contact("bob", host) for host in hosts}
    listed = phone.answer(phone.send(servers[1].port, "REGISTER", "bob"))
    assert set(contacts(listed)) == registered


def test_server_killed(make_server: Callable[..., Any], store_text: Any, phone: Any) -> None:
    """When a server is killed while registrations flow, each that it has answered 200 is redirected to by the other."""
    one, other = make_server("--location", store_text), make_server("--location", store_text)
    users = (f"user{number}" for number in itertools.count())
    waiting = {}
    answered = []

    def send() -> None:
        user = next(users)
        waiting[phone.send_register(one.port, user)] = user

    for _ in range(50):
        send()
    while (response := phone.receive(1.0)) is not None:
        assert response.status == 200, response
        answered.append(waiting.pop(str(response.headers.get("Call-ID"))))
        if len(answered) == 300:
            one.kill()
        elif len(answered) < 300:
            send()
    assert len(answered) >= 300
    assert waiting, "it died in the middle of something"
    for user in answered:
        found = phone.call(other.port, user)
        assert (found.status, contacts(found)) == (302, [contact(user)])
    assert phone.register(other.port, "user0", "192.0.2.2").status == 200


def test_store_stopped(make_server: Callable[..., Any], shared_store: Any, phone: Any) -> None:
    """While the store is away INVITE and REGISTER get 503 with Retry-After; when it is back all is as it was."""
    server = make_server("--location", shared_store.text)
    assert phone.register(server.port, "bob").status == 200
    shared_store.stop()
    for _ in range(10):
        for refused in (phone.call(server.port, "bob"), phone.register(server.port, "alice")):
            assert refused.status == 503, refused
            assert int(str(refused.headers.get("Retry-After"))) > 0
    shared_store.start()
    began = time.monotonic()
    found = eventually(302, lambda: phone.call(server.port, "bob"))
    assert time.monotonic() - began < 5, "back by itself, and soon"
    assert contacts(found) == [contact("bob")]
    assert phone.register(server.port, "alice").status == 200
    wait_for("answers again", lambda: server.log)
    assert "Traceback" not in server.log


def test_start_without_store(make_server: Callable[..., Any], shared_store: Any, phone: Any) -> None:
    """A server starts without its store, says so, and serves as soon as that is there."""
    shared_store.stop()
    server = make_server("--location", shared_store.text)
    assert phone.register(server.port, "bob").status == 503
    wait_for("cannot be used", lambda: server.log)
    shared_store.start()
    eventually(200, lambda: phone.register(server.port, "bob"))
    assert phone.call(server.port, "bob").status == 302
