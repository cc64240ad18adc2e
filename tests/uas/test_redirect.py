"""Does `RedirectServer` redirect as 8.3 asks?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import Clock
from twisted.logger import LogEvent
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
    UnavailableError,
)
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingFlow, make_request


@implementer(ILocationService)
class Table:
    """A location service that answers every look-up with what it was made of."""

    description = "a table"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def lookup(self, request_uri: Any, request: Request) -> Any:
        self.asked.append(str(request_uri))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Call:
    """A redirect server over location services, a clock and a flow."""

    def __init__(self, *answers: Any, transport: str = "UDP", **options: Any) -> None:
        self.clock = Clock()
        self.tables = [Table(answer) for answer in answers]
        self.server = RedirectServer(self.tables, **options)
        self.service = SIPService(self.clock, self.server)
        self.flow = RecordingFlow(transport)

    def send(self, *arguments: Any, **options: Any) -> Any:
        self.service.message_received(make_request(*arguments, **options), self.flow)
        return self.flow.responses[-1] if self.flow.responses else None


def contacts(response: Any) -> Any:
    return response.headers.values("Contact")


@pytest.mark.requirement("8.3-6", "8.3-7", "8.3-12")
def test_redirect() -> None:
    """The 3xx names in Contact where the location service says, with q and expires (8.3)."""
    response = Call(Redirection([Target("sip:bob@192.0.2.4", q=0.5, expires=60)])).send()
    assert response.status == 302
    assert contacts(response) == ["<sip:bob@192.0.2.4>;q=0.5;expires=60"]


@pytest.mark.requirement("8.3-14", "21.3.3-1")
def test_lifetime() -> None:
    """The expires of a Contact is in seconds; where it has none, Expires may say how long that lasts (8.3)."""
    targets = [Target("sip:a@x", expires=7200), Target("sip:b@x")]
    response = Call(Redirection(targets, headers=[("Expires", "120")])).send()
    assert contacts(response) == ["<sip:a@x>;expires=7200", "<sip:b@x>"]
    assert response.headers.get("Expires") == "120"
    assert "Expires" not in Call(Redirection(["sip:a@x"])).send().headers


@pytest.mark.requirement("8.3-8")
def test_other_transport() -> None:
    """The same user at the same place by another transport is no redirection to the Request-URI (8.3, 19.1.4)."""
    response = Call(Redirection(["sip:bob@example.com;transport=tcp", "sip:bob@example.com;maddr=224.2.0.1"])).send()
    assert contacts(response) == ["<sip:bob@example.com;transport=tcp>", "<sip:bob@example.com;maddr=224.2.0.1>"]


@pytest.mark.requirement("8.3-1", "8.3-2", "8.3-4")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_one_look_up_for_a_transaction(method: str) -> None:
    """A retransmission is answered as before, without another look-up, and no request is ever sent (8.3)."""
    call = Call(Redirection(["sip:bob@192.0.2.4"]))
    call.send(method)
    call.send(method)
    assert len(call.tables[0].asked) == 1
    assert [response.status for response in call.flow.responses] == [302, 302]
    assert len(call.flow.sent) == 2


@pytest.mark.requirement("8.3-16")
@pytest.mark.parametrize("method", ["DANCE", "INVITE", "MESSAGE", "BYE", "OPTIONS"])
def test_unknown_features_are_redirected(method: str) -> None:
    """Methods and Require tags that are not understood are redirected all the same (8.3)."""
    call = Call(Redirection(["sip:bob@192.0.2.4"]))
    assert call.send(method, headers=(("Require", "nosuch"), ("Proxy-Require", "nor-this"))).status == 302


@pytest.mark.requirement("8.3-9", "8.3-11")
@pytest.mark.parametrize("target", ["sip:bob@example.com", "sip:%62ob@EXAMPLE.com", "sip:bob@example.com;newparam=5"])
def test_never_to_the_request_uri(target: Any) -> None:
    """A target equivalent to the Request-URI is dropped, and where none is left the answer is 404 (8.3, 19.1.4)."""
    assert Call(Redirection([target])).send().status == 404
    others = Call(Redirection([target, "sip:bob@192.0.2.4"])).send()
    assert contacts(others) == ["<sip:bob@192.0.2.4>"]


def test_highest_q_first_and_bounded() -> None:
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
def test_status(configured: Any, said: Any, targets: Any, status: int) -> None:
    """The location service may name the status; else the server's own is used, or one by the number of targets."""
    assert Call(Redirection(targets, said), redirect_status=configured).send().status == status


@pytest.mark.requirement("8.3-13")
def test_other_schemes() -> None:
    """A target need not be a SIP URI (8.3)."""
    assert contacts(Call(Redirection(["mailto:bob@example.com", "tel:+1555"])).send()) == [
        "<mailto:bob@example.com>",
        "<tel:+1555>",
    ]


def test_sips_stays_sips() -> None:
    """A request for a SIPS URI is not sent to a SIP one (26.2.2)."""
    response = Call(Redirection(["sip:bob@192.0.2.4", "sips:bob@192.0.2.4"])).send(uri="sips:bob@example.com")
    assert contacts(response) == ["<sips:bob@192.0.2.4>"]


def test_services_are_asked_in_order() -> None:
    """The next location service is asked only if this one knows nothing; after the last comes 404."""
    call = Call(None, Redirection(["sip:b@x"]), Redirection(["sip:c@x"]))
    assert contacts(call.send()) == ["<sip:b@x>"]
    assert [len(table.asked) for table in call.tables] == [1, 1, 0]
    assert Call(None, None).send().status == 404
    assert Call().send().status == 404


def test_slow_services_are_asked_in_order() -> None:
    """The order holds where a location service takes its time."""
    first: Deferred[Any] = Deferred()
    second: Deferred[Any] = Deferred()
    call = Call(first, second, Redirection(["sip:c@x"]))
    assert call.send() is None
    first.callback(None)
    assert [len(table.asked) for table in call.tables] == [1, 1, 0]
    second.callback(Redirection(["sip:b@x"]))
    assert contacts(call.flow.responses[-1]) == ["<sip:b@x>"]


def test_refusal() -> None:
    """A location service may refuse the request."""
    call = Call(SIPError(603), Redirection(["sip:c@x"]))
    assert call.send().status == 603
    assert call.tables[1].asked == []


def test_what_is_no_redirection(logged_failures: list[LogEvent]) -> None:
    """A location service that returns something else gets a clear error in the log."""
    assert Call("sip:c@x").send().status == 500
    assert "returned str, not a Redirection" in logged_failures.pop()["log_failure"].getErrorMessage()


@pytest.mark.parametrize("at_once", [True, False])
def test_wrong_answer_is_a_failure(logged_failures: list[LogEvent], at_once: Any) -> None:
    """It is a failure like any other: counted, and the next service is asked if the operator wants that."""
    wrong = ["sip:c@x"]
    call = Call(wrong if at_once else succeed(wrong), Redirection(["sip:d@x"]), asks_next_on_failure=True)
    assert contacts(call.send()) == ["<sip:d@x>"]
    assert call.server.counters["lookup_failures"] == 1
    assert "returned list, not a Redirection" in logged_failures.pop()["log_failure"].getErrorMessage()


@pytest.mark.parametrize(
    ("transport", "lengths", "configured", "status", "named"),
    [
        ("UDP", [30_000, 30_000, 30_000, 100], 302, 302, 2),
        ("UDP", [40_000, 40_000], None, 302, 1),
        ("UDP", [70_000, 100], 302, 500, 0),
        ("UDP", [15_000, 100], 302, 302, 2),
        ("TCP", [70_000, 70_000], 302, 302, 2),
    ],
)
def test_what_no_datagram_holds(transport: Any, lengths: Any, configured: Any, status: int, named: Any) -> None:
    """Over UDP no more targets are named than a datagram holds, the best first; where it holds none, 500 (18.1.1)."""
    targets = [Target(f"sip:{'ü' * (length // 2)}@x", q=1 - n / 10) for n, length in enumerate(lengths)]
    call = Call(Redirection(targets), transport=transport, redirect_status=configured)
    response = call.send()
    assert response.status == status
    assert contacts(response) == [str(target) for target in targets[:named]]
    assert transport == "TCP" or len(call.flow.sent[0][0]) < 65_507


def reset(logged_failures: list[LogEvent]) -> Any:
    """Return how many failures were logged, and forget them."""
    number = len(logged_failures)
    logged_failures.clear()
    return number


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("failure", "status", "logged"),
    [(UnavailableError(), 503, 0), (UnavailableError(status=504), 504, 0), (RuntimeError("down"), 500, 1)],
)
def test_failure_is_the_answer(
    logged_failures: list[LogEvent], at_once: Any, failure: Any, status: int, logged: Any
) -> None:
    """A look-up that fails is the answer: the next service is not asked, as it does not know what this one does."""
    pending: Deferred[Any] = Deferred()
    call = Call(failure if at_once else pending, Redirection(["sip:c@x"]))
    call.send()
    if not at_once:
        pending.errback(failure)
    (response,) = call.flow.responses
    assert response.status == status
    assert ("Retry-After" in response.headers) == (status == 503)
    assert call.tables[1].asked == []
    assert call.server.counters["lookup_failures"] == 1
    assert reset(logged_failures) == logged


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("failure", "logged"), [(UnavailableError(), 0), (RuntimeError("down"), 1)])
def test_next_is_asked_on_failure(logged_failures: list[LogEvent], at_once: Any, failure: Any, logged: Any) -> None:
    """The next service is asked after a failure if the operator wants that; a fault is logged all the same."""
    pending: Deferred[Any] = Deferred()
    call = Call(failure if at_once else pending, Redirection(["sip:c@x"]), asks_next_on_failure=True)
    call.send()
    if not at_once:
        pending.errback(failure)
    assert contacts(call.flow.responses[-1]) == ["<sip:c@x>"]
    assert reset(logged_failures) == logged


def test_failure_outlasts_not_knowing() -> None:
    """Where one service failed and no other knows, the answer is the failure: it may have known the user."""
    assert Call(UnavailableError(), None, asks_next_on_failure=True).send().status == 503
    assert Call(None, UnavailableError(), None, asks_next_on_failure=True).send().status == 503
    refused = Call(UnavailableError(), SIPError(486), Redirection(["sip:c@x"]), asks_next_on_failure=True)
    assert refused.send().status == 486, "a refusal is an answer"


def test_look_up_takes_too_long() -> None:
    """A look-up has its time; then it is cancelled and answered 504, or the next service is asked."""
    cancelled: list[Any] = []
    call = Call(Deferred(cancelled.append), Redirection(["sip:c@x"]), lookup_timeout=3)
    call.send()
    call.clock.pump([0.5] * 5)
    assert [response.status for response in call.flow.responses] == [100]
    call.clock.advance(0.5)
    assert call.flow.responses[-1].status == 504
    assert len(cancelled) == 1
    assert call.server.counters["lookup_timeouts"] == 1
    call = Call(Deferred(), Redirection(["sip:c@x"]), lookup_timeout=3, asks_next_on_failure=True)
    call.send()
    call.clock.advance(3)
    assert contacts(call.flow.responses[-1]) == ["<sip:c@x>"]


CANCELLERS = [
    lambda pending: pending.errback(ConnectingCancelledError(None)),
    lambda pending: pending.errback(asyncio.CancelledError()),
    lambda pending: pending.callback(None),
    lambda pending: pending.callback(Redirection(["sip:late@x"])),
]


@pytest.mark.parametrize("canceller", CANCELLERS)
@pytest.mark.parametrize("asks_next", [False, True])
def test_too_long_however_it_is_cancelled(canceller: Any, asks_next: Any) -> None:
    """A look-up that took too long is answered 504, or the next service is asked, whatever it makes of its end."""
    call = Call(Deferred(canceller), Redirection(["sip:c@x"]), asks_next_on_failure=asks_next)
    call.send()
    call.clock.advance(2)
    assert call.flow.responses[-1].status == (302 if asks_next else 504)
    assert len(call.tables[1].asked) == asks_next
    assert call.server.counters["lookup_timeouts"] == 1


@pytest.mark.requirement("8.3-3")
@pytest.mark.parametrize("canceller", CANCELLERS)
@pytest.mark.parametrize("end", ["CANCEL", "close"])
def test_call_that_is_over(canceller: Any, end: Any) -> None:
    """For a call that is over no other service is asked, whatever the look-up makes of its cancellation (8.3)."""
    call = Call(Deferred(canceller), Redirection(["sip:c@x"]), transport="TCP", asks_next_on_failure=True)
    call.send()
    call.flow.close() if end == "close" else call.send("CANCEL")
    assert [response.status for response in call.flow.responses] == ([503] if end == "close" else [200, 487])
    assert call.tables[1].asked == []
    assert call.server.counters["lookup_failures"] == call.server.counters["handlers"] == 0
    assert call.flow._closing == set()


def test_service_with_a_deadline_of_its_own() -> None:
    """A service that sees to its time itself is left to it."""
    pending: Deferred[Any] = Deferred()
    call = Call(pending)
    vars(call.tables[0])["lookup_timeout"] = 10
    call.send()
    call.clock.pump([0.5] * 10)
    pending.callback(Redirection(["sip:b@x"]))
    assert contacts(call.flow.responses[-1]) == ["<sip:b@x>"]


def test_connection_closed() -> None:
    """When the connection of the caller ends, the look-up is cancelled: nobody is there to be told."""
    cancelled: list[Any] = []
    call = Call(Deferred(cancelled.append), Redirection(["sip:c@x"]), transport="TCP", asks_next_on_failure=True)
    call.send()
    call.flow.close()
    assert len(cancelled) == 1
    assert call.tables[1].asked == []
    assert call.server.counters["lookups_given_up"] == 1
    assert call.server.counters["handlers"] == 0


def test_nothing_waits_for_the_connection() -> None:
    """Once a look-up is over, however it ended, nobody waits for the end of the connection any longer."""
    answers: list[Any] = [Deferred(), Deferred(), Deferred()]
    call = Call(*answers, transport="TCP", asks_next_on_failure=True)
    call.send()
    answers[0].callback(None)
    answers[1].errback(UnavailableError())
    assert len(call.flow._closing) == 1
    answers[2].callback(Redirection(["sip:b@x"]))
    assert call.flow._closing == set()
    assert call.flow.responses[-1].status == 302


@pytest.mark.requirement("21.3.4-1")
@pytest.mark.parametrize("status", [200, 303, 305, 399, 404])
def test_no_use_proxy(status: int) -> None:
    """A redirection is 300, 301, 302 or 380; a 305 is for the user agent itself alone to give (21.3.4)."""
    with pytest.raises(ValueError, match="300, 301, 302 or 380"):
        Redirection(["sip:b@x"], status)


@pytest.mark.requirement("8.3-3")
def test_cancel() -> None:
    """A CANCEL is answered 200, the INVITE 487, and the look-up is cancelled (8.3, 9.2)."""
    cancelled: list[Any] = []
    call = Call(Deferred(cancelled.append))
    call.send()
    call.send("CANCEL")
    assert [response.status for response in call.flow.responses] == [200, 487]
    assert len(cancelled) == 1


def test_options_for_the_server() -> None:
    """OPTIONS whose Request-URI has no user part is for the server itself (11.2)."""
    call = Call(Redirection(["sip:bob@192.0.2.4"]))
    assert call.send("OPTIONS", uri="sip:example.com").status == 200
    assert call.tables[0].asked == []


def test_register_without_a_registrar() -> None:
    """Without a registrar REGISTER gets 405, and Allow does not name it (8.2.1)."""
    response = Call(Redirection(["sip:bob@192.0.2.4"])).send("REGISTER")
    assert response.status == 405
    assert "REGISTER" not in response.headers.values("Allow")


def test_malformed_request_uri() -> None:
    """A Request-URI that cannot be read gets 400, which names it (21.4.1)."""
    response = Call(Redirection(["sip:bob@192.0.2.4"])).send(uri="sip:bob@[2001:db8::x]")
    assert (response.status, response.reason) == (400, "Malformed Request-URI")


def test_unsupported_scheme() -> None:
    """A Request-URI that cannot be looked up gets 416 (8.2.2.1)."""
    assert Call(Redirection(["sip:bob@192.0.2.4"])).send(uri="unknown:bob").status == 416


def test_register_then_redirect() -> None:
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


@pytest.mark.requirement("3327-1")
def test_path_is_told_to_callers() -> None:
    """A caller of a binding with a Path is told to go that way, by the Route in its URI (RFC 3327, 19.1.1)."""
    clock = Clock()
    store = MemoryBindingStore(clock)
    service = SIPService(clock, RedirectServer([store], registrar=Registrar(store)))
    flow = RecordingFlow("TCP")
    headers = (
        ("Contact", "<sip:bob@192.0.2.4?X=y>, <tel:+1>"),
        ("Path", "<sip:p1.example.com;lr>, <sip:p2.example.com;lr>"),
        ("Supported", "path"),
    )
    service.message_received(make_request("REGISTER", to="<sip:bob@example.com>", headers=headers), flow)
    service.message_received(make_request(branch="z9hG4bK2"), flow)
    assert [contact.partition(";exp")[0] for contact in contacts(flow.responses[-1])] == [
        "<sip:bob@192.0.2.4?X=y&Route=%3Csip:p1.example.com%3Blr%3E%2C%3Csip:p2.example.com%3Blr%3E>",
        "<tel:+1>",
    ]


@pytest.mark.requirement("8.3-15")
def test_malformed_expires() -> None:
    """A lifetime that cannot be read counts as an hour, and that is what callers are told (8.3)."""
    clock = Clock()
    store = MemoryBindingStore(clock)
    service = SIPService(clock, RedirectServer([store], registrar=Registrar(store)))
    flow = RecordingFlow("TCP")
    contact = (("Contact", "<sip:bob@192.0.2.4>;expires=soon"),)
    service.message_received(make_request("REGISTER", to="<sip:bob@example.com>", headers=contact), flow)
    service.message_received(make_request(branch="z9hG4bK2"), flow)
    assert contacts(flow.responses[-1]) == ["<sip:bob@192.0.2.4>;expires=3600"]
