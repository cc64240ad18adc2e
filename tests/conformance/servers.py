"""The servers that the checks are tried on, by name: ours, in each role."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import deferLater
from zope.interface import implementer

from tests.conformance.virtual import Fault, VirtualWire
from twisted_sipuas import Limits, MemoryBindingStore, Redirection, RedirectServer, Registrar, UserAgentServer
from twisted_sipuas.conformance import Client, Target
from twisted_sipuas.interfaces import ILocationService
from twisted_sipuas.testing import VirtualNetwork
from twisted_sipuas.uas.answering import AnsweringServer

DOMAIN = "198.51.100.1"


@implementer(ILocationService)
class _Routes:
    """Sends Alice's callers to her desk."""

    description = "a route"

    def lookup(self, uri: Any, request: Any) -> Redirection | None:
        return Redirection(["sip:alice@192.0.2.7:5070"]) if uri.user in ("alice", "%61lice") else None


class Telephone(AnsweringServer):
    """Rings for a while, and takes the call."""

    rings_for = 0.3

    async def handle_INVITE(self, request: Any, transaction: Any) -> None:  # type: ignore[override]
        if transaction.dialog is None:
            transaction.respond(request.response(180))
            await deferLater(self.clock, self.rings_for, lambda: None)
        AnsweringServer.handle_INVITE(self, request, transaction)


class Unattended(Telephone):
    """Rings for longer than anybody waits."""

    rings_for = 100.0


class Slow(AnsweringServer):
    """Takes a second before it says anything, so that the transaction sends 100."""

    async def handle_INVITE(self, request: Any, transaction: Any) -> None:  # type: ignore[override]
        await deferLater(self.clock, 1.0, lambda: None)
        AnsweringServer.handle_INVITE(self, request, transaction)


def _registrar(network: VirtualNetwork, **options: Any) -> UserAgentServer:
    store = MemoryBindingStore(network.clock)
    return RedirectServer([store], registrar=Registrar(store, limits=Limits(), **options), **options)


SERVERS = {
    "redirect": ("redirect", lambda network: network.serve(RedirectServer([_Routes()]))),
    "uas": ("uas", lambda network: network.serve(AnsweringServer(200))),
    "telephone": ("uas", lambda network: network.serve(Telephone(200))),
    "unattended": ("uas", lambda network: network.serve(Unattended(200))),
    "slow": ("uas", lambda network: network.serve(Slow(200))),
    "registrar": ("registrar", lambda network: network.serve(_registrar(network))),
    "one domain": ("registrar", lambda network: network.serve(_registrar(network, domains=(DOMAIN,)))),
    "stateless": ("stateless", lambda network: network.serve(UserAgentServer(), is_stateless=True)),
}
"""By name: the role that the server is judged in, and what starts it."""


def client_of(server: str, transport: str, fault: Fault | None = None) -> Client:
    """Return a client of the server of that name, on a network of its own."""
    role, serve = SERVERS[server]
    network = VirtualNetwork()
    serve(network)
    user = "alice" if role == "redirect" else "bob"
    uri = f"sip:{DOMAIN}" if role == "registrar" else f"sip:{user}@{DOMAIN}"
    return Client(VirtualWire(network, transport, fault), Target(role, uri, f"sip:conformance@{DOMAIN}"))
