"""Does the hunt group share calls out among the gateways that it hears, by the clock, and among no others?"""

from __future__ import annotations

import pytest

from tests.examples.test_examples import load
from twisted_sipuas import SIPURI
from twisted_sipuas.testing import FakeClient, VirtualNetwork

HOSTS = ("203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::4")


class Group:
    """A hunt group of gateways at `HOSTS`, and a caller, on a virtual network."""

    def __init__(self) -> None:
        self.network = VirtualNetwork()
        gateways = [SIPURI.build(host, port=5080) for host in HOSTS]
        self.server = self.network.serve(load("hunt_group.py").HuntGroup(gateways, self.network.clock))
        self.gateways = {host: self.network.client(self.server, host=host) for host in HOSTS}
        self.caller: FakeClient = self.network.client(self.server)

    def hear(self, *hosts: str) -> None:
        """Have an OPTIONS come from each of the *hosts*."""
        for host in hosts:
            assert self.ask(self.gateways[host], "OPTIONS", "sip:198.51.100.1") == (200, [])

    def ask(
        self, client: FakeClient, method: str = "INVITE", uri: str = "sip:bob@198.51.100.1"
    ) -> tuple[int, list[str]]:
        """Return the status of the answer, and the Contact values of a redirection."""
        sent = client.send(method, uri)
        self.network.settle()
        response = sent.response
        if method == "INVITE":
            sent.ack()
        contacts = response.headers.get_all("Contact") if response.status == 302 else []
        return response.status, contacts

    def called(self) -> list[str]:
        """Return the hosts that a call is sent to, the first choice first."""
        status, contacts = self.ask(self.caller)
        assert status == 302
        return [host for contact in contacts for host in HOSTS if host in contact]


@pytest.fixture
def group() -> Group:
    return Group()


def test_takes_turns(group: Group) -> None:
    """The gateway that had no call for longest is the first choice, and two more are named behind it."""
    group.hear(*HOSTS)
    one, two, three, four = HOSTS
    assert [group.called() for _ in range(5)] == [
        [one, two, three],
        [two, three, four],
        [three, four, one],
        [four, one, two],
        [one, two, three],
    ]


def test_silent_gateway(group: Group) -> None:
    """A gateway is left out 90 seconds after its last OPTIONS, and back with the next; others share its calls."""
    one, two, three, _ = HOSTS
    group.hear(one, two, three)
    group.network.step(60)
    group.hear(two, three)
    group.network.step(29)
    assert group.called() == [one, two, three]
    group.network.step(1.5)
    assert [group.called() for _ in range(3)] == [[two, three], [three, two], [two, three]]
    group.hear(one)
    assert group.called() == [one, three, two]
    group.network.step(91)
    assert group.ask(group.caller) == (503, [])


def test_nobody_is_alive(group: Group) -> None:
    """Until a gateway is heard, calls and OPTIONS of others get 503 with Retry-After; theirs is no sign of life."""
    for method in ("INVITE", "OPTIONS"):
        sent = group.caller.send(method, "sip:bob@198.51.100.1")
        group.network.settle()
        assert sent.status == 503
        assert sent.response.headers.get("Retry-After") == "30"


def test_user_is_kept(group: Group) -> None:
    """The caller is sent to the same user at the gateway, by SIPS if it called so; a tel URI gets 416."""
    group.hear(HOSTS[3])
    assert group.ask(group.caller, uri="sips:a%3Bb@h;transport=tcp") == (302, ["<sips:a%3Bb@[2001:db8::4]:5080>;q=1"])
    assert group.ask(group.caller, uri="tel:+49301") == (416, [])
