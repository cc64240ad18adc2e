"""Does `RedirectServer` redirect as 8.3 asks?"""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from twisted_sipuas import (
    ILocationService,
    MemoryBindingStore,
    Redirection,
    RedirectServer,
    Registrar,
    SIPError,
    SIPService,
    Target,
)
from twisted_sipuas.testing import RecordingFlow, make_request


@implementer(ILocationService)
class Table:
    """A location service that answers every look-up with what it was made of."""

    description = "a table"

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def lookup(self, request_uri, request):
        self.asked.append(str(request_uri))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Call:
    """A redirect server over location services, a clock and a flow."""

    def __init__(self, *answers, transport="UDP", **options):
        self.clock = Clock()
        self.tables = [Table(answer) for answer in answers]
        self.server = RedirectServer(self.tables, **options)
        self.service = SIPService(self.clock, self.server)
        self.flow = RecordingFlow(transport)

    def send(self, *arguments, **options):
        self.service.message_received(make_request(*arguments, **options), self.flow)
        return self.flow.responses[-1] if self.flow.responses else None


def contacts(response):
    return response.headers.values("Contact")


def test_redirect():
    """The 3xx names in Contact where the location service says, with q and expires (8.3)."""
    response = Call(Redirection([Target("sip:bob@192.0.2.4", q=0.5, expires=60)])).send()
    assert response.status == 302
    assert contacts(response) == ["<sip:bob@192.0.2.4>;q=0.5;expires=60"]


@pytest.mark.requirement("8.3-16")
@pytest.mark.parametrize("method", ["DANCE", "INVITE", "MESSAGE", "BYE", "OPTIONS"])
def test_unknown_features_are_redirected(method):
    """Methods and Require tags that are not understood are redirected all the same (8.3)."""
    call = Call(Redirection(["sip:bob@192.0.2.4"]))
    assert call.send(method, headers=(("Require", "nosuch"), ("Proxy-Require", "nor-this"))).status == 302


@pytest.mark.requirement("8.3-9")
@pytest.mark.parametrize("target", ["sip:bob@example.com", "sip:%62ob@EXAMPLE.com", "sip:bob@example.com;newparam=5"])
def test_never_to_the_request_uri(target):
    """A target equivalent to the Request-URI is dropped, and where none is left the answer is 404 (8.3, 19.1.4)."""
    assert Call(Redirection([target])).send().status == 404
    others = Call(Redirection([target, "sip:bob@192.0.2.4"])).send()
    assert contacts(others) == ["<sip:bob@192.0.2.4>"]


def test_highest_q_first_and_bounded():
    """Targets come highest q first, and no more than asked for."""
    targets = [Target("sip:a@x", q=0.1), Target("sip:b@x", q=0.9), Target("sip:c@x"), Target("sip:d@x", q=0.5)]
    response = Call(Redirection(targets), max_targets=3).send()
    assert contacts(response) == ["<sip:c@x>", "<sip:b@x>;q=0.9", "<sip:d@x>;q=0.5"]


@pytest.mark.parametrize(
    ("configured", "said", "targets", "status"),
    [
        (302, None, ["sip:a@x", "sip:b@x"], 302),
        (301, None, ["sip:a@x"], 301),
        (None, None, ["sip:a@x"], 302),
        (None, None, ["sip:a@x", "sip:b@x"], 300),
        (302, 301, ["sip:a@x"], 301),
        (None, 380, ["sip:a@x"], 380),
    ],
)
def test_status(configured, said, targets, status):
    """The location service may name the status; else the server's own is used, or one by the number of targets."""
    assert Call(Redirection(targets, said), redirect_status=configured).send().status == status


@pytest.mark.requirement("8.3-13")
def test_other_schemes():
    """A target need not be a SIP URI (8.3)."""
    assert contacts(Call(Redirection(["mailto:bob@example.com", "tel:+1555"])).send()) == [
        "<mailto:bob@example.com>",
        "<tel:+1555>",
    ]


def test_sips_stays_sips():
    """A request for a SIPS URI is not sent to a SIP one (26.2.2)."""
    response = Call(Redirection(["sip:bob@192.0.2.4", "sips:bob@192.0.2.4"])).send(uri="sips:bob@example.com")
    assert contacts(response) == ["<sips:bob@192.0.2.4>"]


def test_services_are_asked_in_order():
    """The next location service is asked only if this one knows nothing; after the last comes 404."""
    call = Call(None, Redirection(["sip:b@x"]), Redirection(["sip:c@x"]))
    assert contacts(call.send()) == ["<sip:b@x>"]
    assert [len(table.asked) for table in call.tables] == [1, 1, 0]
    assert Call(None, None).send().status == 404
    assert Call().send().status == 404


def test_slow_services_are_asked_in_order():
    """The order holds where a location service takes its time."""
    first, second = Deferred(), Deferred()
    call = Call(first, second, Redirection(["sip:c@x"]))
    assert call.send() is None
    first.callback(None)
    assert [len(table.asked) for table in call.tables] == [1, 1, 0]
    second.callback(Redirection(["sip:b@x"]))
    assert contacts(call.flow.responses[-1]) == ["<sip:b@x>"]


def test_refusal():
    """A location service may refuse the request."""
    call = Call(SIPError(603), Redirection(["sip:c@x"]))
    assert call.send().status == 603
    assert call.tables[1].asked == []


def test_failing_service(logged_failures):
    """A location service that fails makes it 500, and the next one is not asked."""
    call = Call(RuntimeError("down"), Redirection(["sip:c@x"]))
    assert call.send().status == 500
    assert call.tables[1].asked == []
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_what_is_no_redirection(logged_failures):
    """A location service that returns something else gets a clear error in the log."""
    assert Call("sip:c@x").send().status == 500
    assert "returned str, not a Redirection" in logged_failures.pop()["log_failure"].getErrorMessage()


@pytest.mark.requirement("8.3-3")
def test_cancel():
    """A CANCEL is answered 200, the INVITE 487, and the look-up is cancelled (8.3, 9.2)."""
    cancelled = []
    call = Call(Deferred(cancelled.append))
    call.send()
    call.send("CANCEL")
    assert [response.status for response in call.flow.responses] == [200, 487]
    assert len(cancelled) == 1


def test_options_for_the_server():
    """OPTIONS whose Request-URI has no user part is for the server itself (11.2)."""
    call = Call(Redirection(["sip:bob@192.0.2.4"]))
    assert call.send("OPTIONS", uri="sip:example.com").status == 200
    assert call.tables[0].asked == []


def test_register_without_a_registrar():
    """Without a registrar REGISTER gets 405, and Allow does not name it (8.2.1)."""
    response = Call(Redirection(["sip:bob@192.0.2.4"])).send("REGISTER")
    assert response.status == 405
    assert "REGISTER" not in response.headers.values("Allow")


def test_malformed_request_uri():
    """A Request-URI that cannot be read gets 400, which names it (21.4.1)."""
    response = Call(Redirection(["sip:bob@192.0.2.4"])).send(uri="sip:bob@[2001:db8::x]")
    assert (response.status, response.reason) == (400, "Malformed Request-URI")


def test_unsupported_scheme():
    """A Request-URI that cannot be looked up gets 416 (8.2.2.1)."""
    assert Call(Redirection(["sip:bob@192.0.2.4"])).send(uri="unknown:bob").status == 416


def test_register_then_redirect():
    """What a REGISTER stored is what an INVITE is redirected to, with the time that is left (8.3, 10.3)."""
    clock = Clock()
    store = MemoryBindingStore(clock)
    service = SIPService(clock, RedirectServer([store], registrar=Registrar(store)))
    flow = RecordingFlow("TCP")
    contact = (("Contact", "<sip:bob@192.0.2.4>;q=0.8"), ("Expires", "100"))
    service.message_received(
        make_request("REGISTER", "sip:example.com", to="<sip:bob@example.com>", headers=contact), flow
    )
    assert flow.responses[-1].status == 200
    assert service.counters["location_1_bindings"] == 1
    assert service.counters["registrar_queue_refusals"] == 0
    clock.advance(40)
    service.message_received(make_request(branch="z9hG4bK2"), flow)
    assert contacts(flow.responses[-1]) == ["<sip:bob@192.0.2.4>;q=0.8;expires=60"]
    clock.advance(61)
    service.message_received(make_request(branch="z9hG4bK3", call_id="2"), flow)
    assert flow.responses[-1].status == 404
