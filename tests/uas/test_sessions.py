"""What does the core do in a call by itself: the 2xx until its ACK, re-INVITE, BYE, and what has a bound?"""

from __future__ import annotations

import gc
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from tests.uas.caller import Caller, Phone
from twisted_sipuas import SIPError, UserAgentServer
from twisted_sipuas.errors import TransportError
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingFlow, VirtualNetwork, expect, nothing, scenario, send, step
from twisted_sipuas.uas.dialog import DialogEnd, DialogState
from twisted_sipuas.uas.session import Session

TRANSPORTS = pytest.mark.parametrize("transport", ["UDP", "TCP"])


class Slow(Phone):
    """Rings, and answers when `answered` fires."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.answered: Deferred[Any] = Deferred()
        self.cancelled = 0

    async def handle_INVITE(self, request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(180))
        waiting: Deferred[Any] = Deferred(self._cancel)
        self.answered.chainDeferred(waiting)
        return request.response(await waiting)

    def _cancel(self, deferred: Any) -> None:
        self.cancelled += 1


@TRANSPORTS
@pytest.mark.requirement("13.3.1.4-6")
def test_2xx_is_resent_until_the_ack(transport: Any) -> None:
    """The 2xx is resent after T1, doubling up to T2, on any transport, and no more after the ACK (13.3.1.4)."""
    client = VirtualNetwork().client(Phone(), transport=transport)
    call = client.send("INVITE")
    client.network.step(19.5)
    assert client.times == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5]
    assert len({response.to_bytes() for response in call.responses}) == 1, "the same octets each time"
    call.ack()
    client.network.step(30)
    assert len(client.received) == 8


@TRANSPORTS
@pytest.mark.requirement("13.3.1.4-7", "13.3.1.4-8", "15-5", "14.2-8")
@pytest.mark.parametrize("again", [False, True], ids=["INVITE", "re-INVITE"])
def test_no_ack(transport: Any, again: Any) -> None:
    """64*T1 without an ACK: BYE ends the session, not before (13.3.1.4, 14.2, 15)."""
    caller = Caller(transport=transport).invite()
    if again:
        caller.ack().invite()
    caller.step(31.5)
    assert (caller.sender.sent, caller.dialog.state) == ([], DialogState.CONFIRMED)
    caller.step(0.5)
    (bye,) = caller.sender.requests
    assert bye.method == "BYE"
    assert caller.server.heard[-1] == "ACK timeout"
    assert caller.server.counters["ack_timeouts"] == 1
    assert caller.is_over


@pytest.mark.parametrize(
    "fields",
    [{"cseq": 7}, {"call_id": "other"}, {"from_tag": "other"}, {"to": "<sip:bob@example.com>;tag=other"}],
    ids=lambda fields: next(iter(fields)),
)
def test_ack_of_something_else(fields: Any) -> None:
    """An ACK that is not for this 2xx is met with silence, and the 2xx is resent (13.3.1.4)."""
    caller = Caller().invite().ack(**fields).step(1)
    assert caller.statuses == [200, 200]
    assert caller.server.heard == []


def test_ack_twice() -> None:
    """The handler hears of the first ACK alone."""
    caller = Caller().called().ack()
    assert caller.server.heard == ["ACK"]
    assert caller.server.told[0][1] is caller.dialog


@pytest.mark.requirement("15-1", "15.1.2-3", "15.1.2-4", "15.1.2-5", "15.1.2-6")
def test_bye() -> None:
    """BYE gets a 200 and ends the session; then there is nothing to end any more (15.1.2)."""
    caller = Caller().called()
    dialog = caller.dialog
    caller.send("BYE")
    assert (caller.last.status, caller.last.headers.get("CSeq")) == (200, "3 BYE")
    assert (dialog.state, caller.server.heard) == (DialogState.TERMINATED, ["ACK", "BYE received"])
    caller.send("BYE")
    assert caller.last.status == 481
    assert caller.is_over


@pytest.mark.requirement("15.1.2-2", "12.2.2-4", "13.3.1-4")
@pytest.mark.parametrize("method", ["BYE", "INVITE", "INFO", "OPTIONS"])
def test_unknown_dialog(method: str) -> None:
    """A request with a To tag of no dialog is refused with 481; BYE without tags too (12.2.2, 15.1.2)."""
    caller = Caller().send(method, to="<sip:bob@example.com>;tag=unknown")
    assert caller.statuses == [481]
    assert Caller().send("BYE").statuses == [481]


@pytest.mark.requirement("12.2.2-3")
def test_dialog_of_somebody_else() -> None:
    """A server may know of dialogs that the core does not keep, and takes what is in them (12.2.2)."""

    class Server(Phone):
        def knows_dialog(self, request: Request) -> Any:
            return request.to.tag == "mine"

    caller = Caller(Server())
    assert caller.send("INFO", to="<sip:bob@example.com>;tag=mine").statuses == [200]
    assert caller.send("BYE", to="<sip:bob@example.com>;tag=mine").statuses == [200, 200]
    assert caller.send("INFO", to="<sip:bob@example.com>;tag=other").last.status == 481


@pytest.mark.requirement("15.1.2-1")
def test_bye_passes_the_checks() -> None:
    """BYE is inspected as any request (15.1.2, 8.2): refused, it ends nothing."""
    caller = Caller().called().send("BYE", headers=(("Require", "nosuch"),))
    assert caller.last.status == 420
    assert caller.dialog.state is DialogState.CONFIRMED


def test_bye_before_the_ack() -> None:
    """A caller may hang up before its ACK: the 2xx is not resent any more (15.1.2)."""
    caller = Caller().invite().send("BYE").step(40)
    assert caller.statuses == [200, 200]
    assert caller.is_over
    assert caller.sender.sent == []


@pytest.mark.requirement("15.1.2-7", "15.1.2-8")
def test_bye_with_requests_pending() -> None:
    """What is pending on the dialog is answered 487 as BYE comes, and its handler cancelled (15.1.2)."""
    cancelled: list[Any] = []

    class Server(Phone):
        def handle_INFO(self, request: Request, transaction: Any) -> Any:
            return Deferred(cancelled.append)

    slow = Caller(Server()).called()
    slow.server.answer = lambda request, transaction: Deferred(cancelled.append)
    slow.send("INFO").send("INVITE").send("BYE")
    answers = {response.headers.get("CSeq"): response.status for response in slow.flow.responses[1:]}
    assert answers == {"3 INFO": 487, "4 INVITE": 487, "5 BYE": 200}
    assert len(cancelled) == 2
    assert slow.is_over


def test_bye_in_an_early_dialog() -> None:
    """The caller may end an early dialog by BYE: 200 for that, 487 for the INVITE (15, 15.1.2)."""
    caller = Caller(Slow()).invite()
    assert caller.dialog.state is DialogState.EARLY
    caller.send("BYE")
    answers = {response.headers.get("CSeq"): response.status for response in caller.flow.responses}
    assert answers == {"1 INVITE": 487, "2 BYE": 200}
    assert caller.server.cancelled == 1
    assert (caller.server.heard, caller.is_over) == ([], True)


@pytest.mark.requirement("12.3-1")
@pytest.mark.parametrize("how", ["refused", "failed", "cancelled", "timed out"])
def test_end_of_an_early_dialog(how: Any, logged_failures: list[LogEvent]) -> None:
    """A final response that is no 2xx ends the early dialog (12.3)."""
    caller = Caller(Slow()).invite()
    assert caller.dialog.state is DialogState.EARLY
    if how == "refused":
        caller.server.answered.callback(486)
    elif how == "failed":
        caller.server.answered.errback(RuntimeError("a fault of the handler's"))
    elif how == "cancelled":
        caller.send("CANCEL", branch="z9hG4bK1", cseq=1, to=None)
    else:
        caller.step(180)
    assert caller.dialog is None
    assert caller.is_over
    assert caller.send("INFO").last.status == 481
    assert len(logged_failures) == (how == "failed")
    logged_failures.clear()


@pytest.mark.requirement("14.2-1", "14.2-2")
def test_invite_while_one_is_pending() -> None:
    """A second INVITE before the answer to the first gets 500 with a Retry-After of 0 to 10 seconds (14.2)."""
    caller = Caller().called()
    caller.server.answer = lambda request, transaction: Deferred()
    caller.send("INVITE")
    seconds = set()
    for _ in range(200):
        assert caller.send("INVITE").last.status == 500
        seconds.add(int(caller.last.headers.get("Retry-After")))
    assert seconds == set(range(11))


@pytest.mark.requirement("12.2.2-10", "12.2-2", "13.3.1-3", "8.2-1", "8.2-2")
def test_target_refresh() -> None:
    """A re-INVITE that is accepted has the remote target changed; one that is refused changes nothing (12.2.2)."""
    caller = Caller().called()
    new = (("Contact", "<sip:alice@192.0.2.9:5090>"), ("Record-Route", "<sip:later.example.com;lr>"))
    caller.server.answer = lambda request, transaction: request.response(488)
    caller.invite(headers=new)
    assert str(caller.dialog.remote_target) == "sip:alice@192.0.2.1:5060"
    caller.server.answer = None
    caller.invite(headers=new)
    assert str(caller.dialog.remote_target) == "sip:alice@192.0.2.9:5090"
    assert caller.dialog.route_set == ()
    caller.ack(headers=(("Contact", "<sip:elsewhere.example.com>"),))
    assert str(caller.dialog.remote_target) == "sip:alice@192.0.2.9:5090"


def test_cancelled_re_invite() -> None:
    """A re-INVITE that is cancelled leaves the call as it was (14.2)."""
    caller = Caller().called()
    caller.server.answer = lambda request, transaction: Deferred()
    caller.send("INVITE").send("CANCEL", branch=f"z9hG4bK{caller.number}", cseq=caller.number)
    assert {487, 200} <= set(caller.statuses[1:])
    caller.server.answer = None
    assert caller.dialog.state is DialogState.CONFIRMED
    assert caller.invite().last.status == 200


@pytest.mark.requirement("12.2.2-1", "12.2.2-2", "12.2.2-7", "12.2.2-8", "12.2.2-9", "13.3.1-3", "15.1.2-3")
def test_order() -> None:
    """A CSeq number below the peer's latest gets 500; a gap is taken (12.2.2)."""
    caller = Caller().called()
    assert caller.send("INFO", cseq=10).last.status == 200
    assert caller.send("INFO", cseq=9).last.status == 500
    assert caller.send("INFO", cseq=12).last.status == 200
    assert caller.dialog.remote_sequence == 12
    assert caller.send("INVITE", cseq=11).last.status == 500
    assert caller.send("BYE", cseq=11).last.status == 500
    assert caller.dialog.state is DialogState.CONFIRMED
    assert caller.send("INFO", cseq=20, headers=(("Require", "nosuch"),)).last.status == 420
    assert caller.dialog.remote_sequence == 12, "a rejected request changes nothing (8.2)"


@pytest.mark.requirement("12.2.2-6")
def test_first_in_order() -> None:
    """A remote sequence number that is not known yet is set from the request (12.2.2)."""
    caller = Caller().called()
    caller.dialog.remote_sequence = None
    assert caller.send("INFO", cseq=1).last.status == 200
    assert caller.dialog.remote_sequence == 1


@pytest.mark.requirement("12.2.2-2", "12.2.2-5", "8.2.2.1-5")
def test_within_a_dialog() -> None:
    """Handlers see the dialog; whom the Request-URI names, our own Contact, is not asked (12.2.2, 8.2.2.1)."""

    class Choosy(Phone):
        def serves_user(self, uri: Any) -> Any:
            return uri.user == "bob"

    caller = Caller(Choosy(domains=["example.com"])).called()
    caller.send("INFO", uri="sip:anything@198.51.100.77")
    assert caller.last.status == 200
    assert caller.server.told[-1] == ("INFO", caller.dialog)
    assert caller.send("INFO", to=None, call_id="other", uri="sip:carol@example.com").last.status == 404
    assert caller.send("INFO", to=None, call_id="another", uri="sip:bob@example.net").last.status == 404


@pytest.mark.requirement("11-3", "11.2-3")
def test_options_within_a_dialog() -> None:
    """OPTIONS in a dialog gets the 200 that it gets outside, and changes nothing (11.2)."""
    caller = Caller().called()
    outside = Caller().send("OPTIONS").last
    caller.server.max_dialogs = 1
    caller.send("OPTIONS")
    assert caller.last.status == 200
    for name in ("Allow", "Accept", "Accept-Encoding", "Accept-Language", "Supported"):
        assert caller.last.headers.get(name) == outside.headers.get(name)
    assert caller.dialog.state is DialogState.CONFIRMED


# What the server ends itself


@pytest.mark.requirement("15-2", "15-3")
def test_end() -> None:
    """`Dialog.end` sends BYE; the session is over at once, and the Deferred fires with the answer (15.1.1)."""
    caller = Caller().called()
    dialog = caller.dialog
    ended = dialog.end(headers=[("Reason", "Q.850;cause=16")])
    (bye,) = caller.sender.requests
    assert bye.headers.get("Reason") == "Q.850;cause=16"
    assert (caller.server.heard, caller.is_over, ended.called) == (["ACK", "BYE sent"], True, False)
    again = dialog.end()
    caller.sender.pending[0].callback(None)
    assert (ended.called, again.called, dialog.end().called) == (True, True, True)
    assert len(caller.sender.sent) == 1
    assert caller.send("INFO").last.status == 481


@pytest.mark.requirement("15-5")
def test_end_before_the_ack() -> None:
    """No BYE is sent before the ACK (15)."""
    caller = Caller().invite()
    dialog = caller.dialog
    ended = dialog.end()
    assert caller.sender.sent == []
    caller.ack()
    assert [request.method for request in caller.sender.requests] == ["BYE"]
    caller.sender.pending[0].errback(TransportError("no response"))
    assert ended.called
    assert caller.server.counters["byes_failed"] == 1


@pytest.mark.parametrize(("name", "value"), [("Reason", "a\r\nb"), ("Reason\n", "a"), ("Reason", "\0"), ("", "a")])
def test_end_with_a_header_field_that_cannot_be(name: str, value: str) -> None:
    """A header field that would break the BYE is the caller's mistake, and changes nothing."""
    caller = Caller().called()
    with pytest.raises(ValueError, match="header field"):
        caller.dialog.end(headers=[(name, value)])
    assert (caller.sender.sent, caller.dialog.state) == ([], DialogState.CONFIRMED)
    assert caller.server.heard == ["ACK"]


@pytest.mark.parametrize("how", ["plain", "async", "waits"])
def test_end_by_a_handler(how: Any) -> None:
    """A handler that ends the call answers its own request all the same, and others that are at work do too."""

    class Server(Phone):
        def handle_INFO(self, request: Request, transaction: Any) -> Any:
            if how == "plain":
                transaction.dialog.end()
                return request.response(200)
            return self.end_later(request, transaction)

        async def end_later(self, request: Request, transaction: Any) -> Any:
            await told
            ended = transaction.dialog.end()
            if how == "waits":
                await ended
            return request.response(200)

    told: Deferred[Any] = Deferred()
    caller = Caller(Server()).called().send("INFO").send("INFO")
    told.callback(None)
    if how == "waits":
        caller.sender.pending[0].callback(None)
    answers = {response.headers.get("CSeq"): response.status for response in caller.flow.responses[1:]}
    assert answers == {"3 INFO": 200, "4 INFO": 481 if how == "plain" else 200}
    assert [request.method for request in caller.sender.requests] == ["BYE"]
    assert caller.is_over


def test_end_has_a_re_invite_refused() -> None:
    """An INVITE within the dialog that waits for its answer can be accepted no more: 487, and no handler is left."""
    cancelled: list[Any] = []
    caller = Caller().called()
    caller.server.answer = lambda request, transaction: Deferred(cancelled.append)
    caller.send("INVITE").dialog.end()
    assert (caller.last.status, len(cancelled)) == (487, 1)
    assert caller.is_over


@pytest.mark.parametrize("is_acknowledged", [False, True])
def test_end_whose_bye_cannot_be_sent(is_acknowledged: Any) -> None:
    """The session is over as BYE is handed over: before who waits for the end hears of it, and only once (15.1.1)."""
    caller = Caller().invite()
    dialog = caller.dialog

    def send_request(*arguments: Any) -> None:
        told.append("BYE")
        raise TransportError("no way there")

    told = caller.server.told = []
    caller.sender.send_request = send_request
    if is_acknowledged:
        caller.ack()
    ended = dialog.end()
    ended.addCallback(lambda _: told.append(dialog.state))
    ended.addCallback(lambda _: dialog.end())
    if not is_acknowledged:
        caller.ack()
    before = [("ACK", dialog)] if is_acknowledged else []
    assert told == [*before, ("BYE sent", dialog), "BYE", DialogState.TERMINATED]
    assert caller.server.counters["byes_failed"] == 1
    assert caller.is_over


@pytest.mark.requirement("15-4")
def test_end_of_an_early_one() -> None:
    """The callee sends no BYE in an early dialog (15)."""
    caller = Caller(Slow()).invite()
    with pytest.raises(ValueError, match="final response"):
        caller.dialog.end()
    assert caller.sender.sent == []


def test_call_time() -> None:
    """A call that lasts too long is ended by BYE."""
    server = Phone()
    server.max_call_time = 60.0
    scenario(server, send("INVITE"), expect(200), send("ACK"), step(59.9), nothing(), step(0.1), expect("BYE"))
    assert server.heard == ["ACK", "call time"]


def test_max_dialogs() -> None:
    """With as many calls as there may be an INVITE gets 503 with Retry-After, and OPTIONS says so (11.2)."""
    server = Phone()
    server.max_dialogs = 1
    caller = Caller(server).called()
    for method in ("INVITE", "OPTIONS"):
        caller.send(method, to=None, call_id=f"other {method}")
        assert (caller.last.status, caller.last.headers.get("Retry-After")) == (503, "5")
    assert caller.send("INFO").last.status == 200
    caller.send("BYE")
    assert caller.send("INVITE", to=None, call_id="later").last.status == 200


def test_max_dialogs_counts_what_may_become_one() -> None:
    """An INVITE that is not answered yet takes the place of the call that it may become."""
    server: Any = Slow()
    server.max_dialogs = 1
    server.handle = lambda request, transaction: Deferred()
    caller = Caller(server).invite()
    assert caller.send("INVITE", to=None, call_id="other").last.status == 503
    caller.send("CANCEL", branch="z9hG4bK1", cseq=1, to=None)
    count = len(caller.statuses)
    caller.send("INVITE", to=None, call_id="later")
    assert len(caller.statuses) == count, "no 503: this one rings"


def test_source_that_does_not_answer() -> None:
    """On UDP the 2xx goes again to no more than 20 at a time for a source that acknowledged nothing, nor does BYE."""
    caller = Caller()
    for number in range(30):
        caller.send("INVITE", to=None, call_id=str(number))
    caller.step(0.5)
    assert len(caller.flow.sent) == 30 + 20
    caller.step(32)
    assert len(caller.sender.sent) == 20
    assert caller.is_over


def test_source_that_answers() -> None:
    """One ACK shows that a source receives what it is sent: then every 2xx is resent."""
    caller = Caller().called()
    for number in range(30):
        caller.send("INVITE", to=None, call_id=str(number))
    before = len(caller.flow.sent)
    caller.step(0.5)
    assert len(caller.flow.sent) == before + 30


@pytest.mark.parametrize("ended_by", ["peer", "us"])
def test_call_that_is_over_needs_no_garbage_collector(ended_by: str) -> None:
    """A call that is over is forgotten at once: the collector, to find it, would look at all objects that there are."""
    dialogs: list[Any] = []
    caller = Caller(Phone(lambda request, transaction: taken(request, transaction, dialogs))).called()
    gc.collect()
    gc.disable()
    try:
        before = len(sessions())
        if ended_by == "peer":
            caller.send("BYE")
        else:
            dialogs[0].end()
            caller.sender.pending[0].callback(None)
        assert len(sessions()) == before - 1, "there may be some of other tests"
        assert dialogs[0].end().called
    finally:
        gc.enable()


def taken(request: Request, transaction: Any, dialogs: list[Any]) -> None:
    """Take the call, and keep its dialog."""
    transaction.respond(request.response(200))
    dialogs.append(transaction.dialog)


def sessions() -> list[Session]:
    return [held for held in gc.get_objects() if isinstance(held, Session)]


# The end of the service


def test_end_calls() -> None:
    """At the end every call gets its BYE, one that is not acknowledged when it is (15)."""
    caller = Caller().called()
    caller.send("INVITE", to=None, call_id="other")
    other = caller.last.headers.get("To")
    ended = caller.server.end_calls()
    assert [request.call_id for request in caller.sender.requests] == ["Call@192.0.2.1"]
    caller.send("ACK", to=other, call_id="other", cseq=caller.number)
    assert [request.call_id for request in caller.sender.requests] == ["Call@192.0.2.1", "other"]
    assert not ended.called
    for pending in caller.sender.pending:
        pending.callback(None)
    assert ended.called
    assert caller.server.heard == ["ACK", "shutdown", "shutdown"]


def test_end_calls_without_any() -> None:
    """Without a call the end is at once, and the server takes calls afterwards."""
    caller = Caller()
    assert caller.server.end_calls().called
    caller.called()
    assert caller.sender.sent == []


@pytest.mark.parametrize("acknowledged", [True, False])
def test_end_calls_is_given_up(acknowledged: Any) -> None:
    """To cancel the end is to forget the calls: no timer is left, and nobody waits."""
    caller = Caller(transport="TCP").invite()
    if acknowledged:
        caller.ack()
    ended = caller.server.end_calls()
    ended.addErrback(lambda _: None)
    ended.cancel()
    assert caller.is_over
    caller.step(40)
    assert caller.clock.getDelayedCalls() == []


@pytest.mark.parametrize("is_hastened", [False, True])
def test_stop_with_an_invite_pending(is_hastened: Any) -> None:
    """An INVITE that is not answered as the service stops gets 503, and its handler is cancelled."""
    cancelled: list[Any] = []
    caller = Caller(Phone(lambda request, transaction: Deferred(cancelled.append)))
    caller.service.startService()
    caller.send("INVITE")
    stopped = caller.service.stopService()
    if is_hastened:
        caller.service.hasten_stop()
    else:
        caller.step(5)
    assert stopped.called
    assert (caller.statuses[-1], len(cancelled)) == (503, 1)
    assert caller.is_over
    assert caller.clock.getDelayedCalls() == []


def test_call_taken_while_ending() -> None:
    """A call that is taken as the server stops is ended as soon as it is acknowledged."""
    caller = Caller(Slow()).invite()
    ended = caller.server.end_calls()
    assert not ended.called
    caller.server.answered.callback(200)
    caller.hear()
    caller.ack()
    assert len(caller.sender.sent) == 1
    caller.sender.pending[0].callback(None)
    assert ended.called


class Hooked(Phone):
    """Has hooks that take their time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.waiting: list[Deferred[Any]] = []

    def handle_ACK(self, ack: Any, dialog: Any) -> Any:
        return self._wait()

    async def dialog_ended(self, dialog: Any, reason: Any) -> None:  # type: ignore[override]  # as the server's may be
        await self._wait()

    def _wait(self) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred(lambda _: self.told.append(("cancelled", None)))
        self.waiting.append(waiting)
        return waiting


def test_hooks_have_the_time_of_a_handler(logged_failures: list[LogEvent]) -> None:
    """A hook that has not returned within `handler_timeout` is cancelled, and the log says whose it was."""
    caller = Caller(Hooked()).called()
    caller.step(29)
    assert (caller.server.counters["hooks"], caller.server.heard) == (1, [])
    caller.step(1)
    assert (caller.server.counters["hooks"], caller.server.heard) == (0, ["cancelled"])
    caller.send("BYE")
    caller.step(30)
    assert (caller.server.counters["hooks"], caller.server.heard) == (0, ["cancelled"] * 2)
    assert len(logged_failures) == 2
    logged_failures.clear()


def test_end_calls_waits_for_hooks() -> None:
    """The end of the service is not before what a hook does behind the last call, say to write that down."""
    caller = Caller(Hooked()).called()
    caller.send("BYE")
    ended = caller.server.end_calls()
    caller.server.waiting[0].callback(None)
    assert not ended.called
    caller.server.waiting[1].callback(None)
    assert ended.called
    assert caller.server.counters["hooks"] == 0


def test_end_calls_without_patience_for_hooks() -> None:
    """To cancel the end is to cancel hooks, which is no failure of theirs: no timer is left."""
    caller = Caller(Hooked()).called()
    ended = caller.server.end_calls()
    ended.addErrback(lambda _: None)
    ended.cancel()
    assert caller.server.heard == ["cancelled"] * 2
    assert caller.server.counters["hooks"] == 0
    caller.step(40)
    assert caller.clock.getDelayedCalls() == []


# Whether a call is taken


class Choosy(Phone):
    """Takes calls as `verdict` says: a value, a `Deferred`, or an exception."""

    verdict = True

    def admit(self, request: Request) -> Any:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


@pytest.mark.requirement("11.2-2", "13.3.1.3-1", "13.3.1.3-2")
@pytest.mark.parametrize("method", ["INVITE", "OPTIONS"])
def test_admit(method: str) -> None:
    """OPTIONS gets the status that an INVITE would get: 200, 486 for who is busy, or another (11.2, 13.3.1.3)."""
    caller = Caller(Choosy())
    for verdict, status in [(True, 200), (False, 486), (SIPError(600), 600), (Deferred(), None)]:
        caller.server.verdict = verdict
        caller.send(method, to=None, call_id=str(status))
        if status is not None:
            assert caller.last.status == status
    count = len(caller.flow.sent)
    caller.server.verdict.callback(False)
    assert (len(caller.flow.sent), caller.last.status) == (count + 1, 486)


def test_class_without_invite() -> None:
    """A class that takes no calls answers OPTIONS 200, and BYE 405: it is no method of its own (11.2, 8.2.1)."""

    class Messages(UserAgentServer):
        def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
            return request.response(202)

    caller = Caller(Messages())
    assert caller.send("OPTIONS").send("BYE").statuses == [200, 405]
    assert caller.send("MESSAGE", to="<sip:bob@example.com>;tag=1").last.status == 202


def test_own_bye_handler() -> None:
    """A subclass may answer BYE itself; the session is over all the same (15.1.2)."""

    class Server(Phone):
        def handle_BYE(self, request: Request, transaction: Any) -> Any:
            return request.response(202)

    caller = Caller(Server()).called().send("BYE")
    assert caller.last.status == 202
    assert caller.is_over


@pytest.mark.parametrize("method", ["ACK", "INFO", "INVITE"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_flow_of_the_latest_request(method: str, transport: Any) -> None:
    """BYE goes by the flow of the peer's latest request: it may have a new connection, or another address."""
    caller = Caller(transport=transport).invite()
    if method != "ACK":
        caller.ack()
    other = RecordingFlow(transport, ("192.0.2.1", 40000))
    caller.send(method, flow=other, **({"cseq": 1} if method == "ACK" else {}))
    if method == "INVITE":
        caller.ack(cseq=caller.number, flow=other)
    caller.dialog.end(DialogEnd.BYE_SENT)
    ((_, next_hop, flow, is_proven),) = caller.sender.sent
    assert flow is other
    assert (str(next_hop), is_proven) == ("sip:alice@192.0.2.1:5060", True)


@pytest.mark.parametrize(("transport", "is_moved"), [("UDP", False), ("TCP", True)])
def test_flow_of_who_has_acknowledged_nothing(transport: Any, is_moved: Any) -> None:
    """Before the ACK a datagram moves nothing: its source may be forged, and would have the BYE."""
    caller = Caller(transport=transport).invite()
    caller.send("INFO", flow=RecordingFlow(transport, ("203.0.113.9", 40000))).step(32)
    ((_, _, flow, is_proven),) = caller.sender.sent
    assert (flow is not caller.flow, is_proven) == (is_moved, False)


def test_flow_of_a_request_out_of_order() -> None:
    """A request that is refused for its number, as a copy of an old one is, moves nothing (12.2.2)."""
    caller = Caller().called().send("INFO")
    copied = RecordingFlow("UDP", ("203.0.113.9", 40000))
    caller.send("INFO", cseq=2, flow=copied)
    assert copied.responses[-1].status == 500
    assert caller.dialog.flow is caller.flow
