"""For testing handlers, location services and the framework itself: no socket, no sleep, a clock that you step.

The real stack on a network in memory, in trial and in pytest alike::

    def test_busy():
        scenario(
            Greeter(),
            "Alice calls, and Bob is busy.",
            send("INVITE"),
            expect(486),
            send("ACK"),
        )

`VirtualNetwork` has clients and servers, latency and loss; `FakeClient` is one of its clients, and `RecordingFlow` does
for a single message. `BINDING_STORE_CHECKS` are for stores of your own.

And a server that does what a test says, on real ports, for testing other people's clients: `sip_server`, with pytest
the fixture of that name, and `ScriptedServer` in a reactor of yours::

    def test_registers(sip_server):
        with subprocess.Popen(["your-client", sip_server.uri]):
            sip_server.expect("REGISTER", Expires="60").answer(200)
"""

from twisted_sipuas.testing.blocking import BlockingServer, sip_server
from twisted_sipuas.testing.client import FakeClient, SentRequest
from twisted_sipuas.testing.clock import VirtualClock
from twisted_sipuas.testing.messages import RecordingFlow, RecordingTransactionUser, make_request
from twisted_sipuas.testing.network import VirtualNetwork, VirtualServer
from twisted_sipuas.testing.scenarios import scenario
from twisted_sipuas.testing.scripted import STRAYS, ReceivedRequest, ScriptedServer
from twisted_sipuas.testing.steps import Step, Unmet, answer, do, expect, nothing, resend, send, step
from twisted_sipuas.testing.stores import BINDING_STORE_CHECKS, BindingStoreCase

__all__ = [
    "BINDING_STORE_CHECKS",
    "STRAYS",
    "BindingStoreCase",
    "BlockingServer",
    "FakeClient",
    "ReceivedRequest",
    "RecordingFlow",
    "RecordingTransactionUser",
    "ScriptedServer",
    "SentRequest",
    "Step",
    "Unmet",
    "VirtualClock",
    "VirtualNetwork",
    "VirtualServer",
    "answer",
    "do",
    "expect",
    "make_request",
    "nothing",
    "resend",
    "scenario",
    "send",
    "sip_server",
    "step",
]
