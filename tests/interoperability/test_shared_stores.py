"""Are two servers on one store as good as one, when one is killed, and when the store goes away and comes back?"""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interoperability.conftest import Server
from tests.interoperability.stores import SHARED_STORES
from twisted_sipuas.testing import make_request

pytestmark = pytest.mark.interoperability

DEADLINE = 20.0  # seconds that anything may take
WINDOW = 20  # registrations that are under way at a time


@pytest.fixture(params=sorted(SHARED_STORES))
def store(request) -> Iterator[Any]:
    """A store that runs."""
    store = SHARED_STORES[request.param]()
    store.start()
    yield store
    store.remove()


@pytest.fixture
def make_server(store, tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Return what starts a server on the store, in a directory of its own; all are stopped after the test."""
    servers: list[Server] = []

    def make() -> Server:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        servers.append(Server(directory, "--location", store.text))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


class Phone:
    """Sends requests to one server by UDP and reads what comes back; what is lost is not sent again."""

    _numbers = itertools.count(1)

    def __init__(self, server: Server) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", server.port))

    def send(self, method: str, user: str, **headers: str) -> None:
        """Send a request for *user*."""
        number = next(self._numbers)
        uri = f"sip:{user}@example.com"
        request = make_request(
            method, uri, sent_by="127.0.0.1;rport", branch=f"z9hG4bK{number}", call_id=f"call-{number}",
            headers=tuple(headers.items()),
        )  # fmt: skip
        self._socket.send(request.to_bytes())

    def register(self, user: str) -> None:
        """Send a REGISTER that says where *user* is."""
        self.send("REGISTER", user, Contact=f"<sip:{user}@192.0.2.4>", Expires="600")

    def receive(self, seconds: float = DEADLINE) -> str | None:
        """Return the next final response; None if none comes within so many *seconds*, or the server is gone."""
        self._socket.settimeout(seconds)
        try:
            while (response := self._socket.recv(65535).decode()).startswith("SIP/2.0 1"):
                pass
        except (TimeoutError, ConnectionRefusedError):
            return None
        return response

    def ask(self, method: str, user: str, **headers: str) -> str:
        """Send a request for *user*, and return the final response."""
        self.send(method, user, **headers)
        response = self.receive()
        assert response is not None, "no response"
        return response

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def phone() -> Iterator[Callable[[Server], Phone]]:
    """Return what makes a `Phone` for a server."""
    phones: list[Phone] = []

    def make(server: Server) -> Phone:
        phones.append(Phone(server))
        return phones[-1]

    yield make
    for made in phones:
        made.close()


def user_of(response: str) -> str:
    """Return the user in To."""
    found = re.search(r"^To: <sip:(.+?)@", response, re.MULTILINE)
    assert found is not None
    return found[1]


def is_redirected(response: str, user: str) -> bool:
    return response.startswith("SIP/2.0 302 ") and f"<sip:{user}@192.0.2.4>" in response


def test_seen_at_once(make_server, phone):
    """What one server has answered 200 to, the other one knows the moment after."""
    phones = [phone(make_server()), phone(make_server())]
    for number in range(40):
        user = f"bob{number}"
        here, there = phones[number % 2], phones[1 - number % 2]
        here.register(user)
        assert here.receive().startswith("SIP/2.0 200 ")
        assert is_redirected(there.ask("MESSAGE", user), user)
        assert there.ask("REGISTER", user, Contact="*", Expires="0").startswith("SIP/2.0 200 ")
        assert here.ask("MESSAGE", user).startswith("SIP/2.0 404 ")


def test_killed(make_server, phone):
    """When a server is killed while registrations flow, the other one has every binding that was answered 200."""
    killed = make_server()
    dying, living = phone(killed), phone(make_server())
    numbers = itertools.count()
    for _ in range(WINDOW):
        dying.register(f"bob{next(numbers)}")
    responses = []
    while len(responses) < 200:
        responses.append(dying.receive())
        dying.register(f"bob{next(numbers)}")
    killed.kill()
    while (response := dying.receive(0.2)) is not None:
        responses.append(response)
    assert all(response.startswith("SIP/2.0 200 ") for response in responses)
    for response in responses:
        user = user_of(response)
        assert is_redirected(living.ask("MESSAGE", user), user)


def test_store_goes_and_comes(store, make_server, phone):
    """Without its store a server answers 503 with Retry-After, whatever it is asked; with it, it goes on by itself."""
    client = phone(make_server())
    client.register("bob")
    assert client.receive().startswith("SIP/2.0 200 ")
    store.stop()
    for _ in range(10):
        for method, headers in (("MESSAGE", {}), ("REGISTER", {"Contact": "<sip:bob@192.0.2.4>"}), ("REGISTER", {})):
            response = client.ask(method, "bob", **headers)
            assert response.startswith("SIP/2.0 503 ")
            assert re.search(r"^Retry-After: [1-9]", response, re.MULTILINE)
    store.start()
    deadline = time.monotonic() + DEADLINE
    while not is_redirected(client.ask("MESSAGE", "bob"), "bob"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    client.register("carol")
    assert client.receive().startswith("SIP/2.0 200 ")


def test_started_without_its_store(store, make_server, phone):
    """A server starts without its store, and finds it by itself."""
    store.stop()
    server = make_server()
    client = phone(server)
    assert client.ask("MESSAGE", "bob").startswith("SIP/2.0 503 ")
    store.start()
    deadline = time.monotonic() + DEADLINE
    while not client.ask("MESSAGE", "bob").startswith("SIP/2.0 404 "):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "Traceback" not in server.log
