"""Do redirect server and registrar ask who sends what, and let users change what is theirs?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.task import Clock

from tests.auth.client import REALM, URI, Client, authorization
from twisted_sipuas import DigestAuthenticator, MemoryBindingStore, RedirectServer, Registrar, SIPService
from twisted_sipuas.testing import make_request

CONTACT = (("Contact", "<sip:bob@192.0.2.4>"),)


class Redirected(Client):
    """A client of a redirect server with a registrar, of which only the former was given an authenticator."""

    def __init__(self, checker: Any) -> None:
        super().__init__(checker, self.serve, transport="TCP")

    def serve(self, authenticator: DigestAuthenticator, clock: Clock) -> RedirectServer:
        self.store = MemoryBindingStore(clock)
        return RedirectServer([self.store], registrar=Registrar(self.store), authenticator=authenticator)

    def register(self, address: str, **credentials: Any) -> Any:
        """Register a contact of *address* by the digest that *credentials* make, and return the status."""
        uri = f"sip:{REALM}"
        fields = {"to": f"<{address}>", "headers": CONTACT}
        challenge = self.challenge(method="REGISTER", uri=uri, **fields)
        digest = authorization(challenge, method="REGISTER", uri=uri, **credentials)
        return self.send(digest, "REGISTER", uri, **fields).status


@pytest.fixture
def client(checker: Any) -> Redirected:
    return Redirected(checker)


@pytest.mark.requirement("22-2")
def test_own_address_of_record(client: Redirected) -> None:
    """Who has proven who he is may change the bindings of his own address-of-record, and gets 403 for others (22)."""
    assert client.register(f"sip:alice@{REALM}") == 200
    assert client.register(URI) == 403
    assert client.register(f"sip:alice@{REALM}", password="guess") == 401
    assert len(client.store.bindings(f"sip:alice@{REALM}")[0]) == 1


def test_users_with_a_domain(checker: Any) -> None:
    """A user whose name has a domain has an address-of-record there alone."""
    checker.passwords[b"alice@example.org"] = b"secret"
    client = Redirected(checker)
    assert client.register("sip:alice@example.org", username="alice@example.org") == 200
    assert client.register(f"sip:alice@{REALM}", username="alice@example.org") == 403


@pytest.mark.requirement("22.1-2")
def test_nothing_is_looked_up_for_strangers(client: Any) -> None:
    """A redirect server tells nobody where a user is, nor whether there is one, before it knows who asks (22.1)."""
    client.register(f"sip:alice@{REALM}")
    looked_up: Any = []
    lookup = client.store.lookup
    client.store.lookup = lambda uri, request: looked_up.append(uri) or lookup(uri, request)
    client.server.locations = (client.store,)
    for user in ("alice", "nobody"):
        assert client.send(method="INVITE", uri=f"sip:{user}@{REALM}").status == 401
    assert looked_up == []
    uri = f"sip:alice@{REALM}"
    digest = authorization(client.challenge(method="INVITE", uri=uri), method="INVITE", uri=uri)
    assert client.send(digest, "INVITE", uri).status == 302


@pytest.mark.requirement("10.3-12")
def test_registrar_that_has_none_gets_the_authenticator(client: Redirected, checker: Any) -> None:
    """A redirect server that asks who sends requests does not leave REGISTER open by oversight."""
    assert client.server.registrar.authenticator is client.authenticator
    own = DigestAuthenticator([checker], REALM)
    registrar = Registrar(MemoryBindingStore(Clock()), authenticator=own)
    RedirectServer([], registrar=registrar, authenticator=client.authenticator)
    assert registrar.authenticator is own


def test_counters(client: Redirected, checker: Any) -> None:
    """What an authenticator counts for both is told once; what a registrar has of its own, apart."""
    client.register(f"sip:alice@{REALM}")
    counters = client.service.counters
    assert counters["authentication_accepted"] == 1
    assert "registrar_authentication_accepted" not in counters
    client.server.registrar.authenticator = DigestAuthenticator([checker], REALM)
    assert client.service.counters["registrar_authentication_accepted"] == 0


def test_checkers_are_started(checker: Any) -> None:
    """A checker that is a service is started once, and before anything is served."""

    kind: Any = type(checker)

    class Started(Service, kind):  # type: ignore[misc]  # whichever checker it is
        starts = 0

        def startService(self) -> None:
            super().startService()
            self.starts += 1

    started = Started({})
    clock = Clock()
    authenticator = DigestAuthenticator([started, checker], REALM)
    store = MemoryBindingStore(clock)
    server = RedirectServer([store], registrar=Registrar(store), authenticator=authenticator)
    assert server.services[0] is started
    service = SIPService(clock, server)
    service.startService()
    assert started.starts == 1
    service.stopService()
    clock.advance(10)
    assert not started.running


def test_identity_is_gone_with_the_request(client: Redirected) -> None:
    """Each request has to prove anew who sent it."""
    uri = f"sip:alice@{REALM}"
    digest = authorization(client.challenge(method="INVITE", uri=uri), method="INVITE", uri=uri)
    client.send(digest, "INVITE", uri)
    client.service.message_received(make_request("INVITE", uri, branch="z9hG4bKother", cseq=99), client.flow)
    assert client.flow.responses[-1].status == 401
