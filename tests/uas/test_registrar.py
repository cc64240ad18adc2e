"""Does `Registrar` process REGISTER as 10.3 asks, whatever its store does?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent
from zope.interface import implementer

from twisted_sipuas import (
    IAuthenticator,
    IBindingStore,
    Limits,
    MemoryBindingStore,
    RedirectServer,
    Registrar,
    SIPError,
    SIPService,
)
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingFlow, make_request


class Client:
    """A registrar over a store, and a client that sends it REGISTERs, each with a CSeq of its own."""

    def __init__(self, store: Any = None, registrar: Any = Registrar, **options: Any) -> None:
        self.clock = Clock()
        self.store: Any = MemoryBindingStore(self.clock) if store is None else store
        self.registrar = registrar(self.store, **options)
        self.service = SIPService(self.clock, self.registrar)
        self.flow = RecordingFlow("TCP")
        self.cseq = 0

    def register(
        self,
        *contacts: Any,
        to: str = "<sip:bob@example.com>",
        uri: str = "sip:example.com",
        headers: Any = (),
        **options: Any,
    ) -> Any:
        self.cseq += 1
        options.setdefault("cseq", self.cseq)
        rows = (*(("Contact", contact) for contact in contacts), *headers)
        request = make_request("REGISTER", uri, to=to, headers=rows, branch=f"z9hG4bK{self.cseq}", **options)
        self.service.message_received(request, self.flow)
        return self.flow.responses[-1] if self.flow.responses else None

    def call(self, uri: Any) -> Any:
        """Return what a redirect server that looks into the same store answers to an INVITE for *uri*."""
        flow = RecordingFlow("TCP")
        SIPService(self.clock, RedirectServer([self.store])).message_received(make_request("INVITE", uri), flow)
        return flow.responses[-1]


@pytest.fixture
def client() -> Any:
    return Client()


def contacts(response: Any) -> Any:
    return response.headers.values("Contact")


@pytest.mark.requirement("10.3-41", "10.3-42", "10.3-43")
def test_lists_every_binding(client: Any) -> None:
    """The 200 lists all current bindings, each with the interval granted (10.3 step 8)."""
    client.register("<sip:bob@192.0.2.1>", headers=(("Expires", "100"),))
    client.clock.advance(10)
    response = client.register("<sip:bob@192.0.2.2>;expires=200", call_id="of another phone")
    assert response.status == 200
    assert contacts(response) == ["<sip:bob@192.0.2.1>;expires=90", "<sip:bob@192.0.2.2>;expires=200"]


@pytest.mark.requirement("10.3-44")
def test_date(client: Any) -> None:
    """The 200 has a Date (10.3 step 8)."""
    assert client.register().headers.get("Date") == "Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.mark.requirement("10.3-21")
def test_query(client: Any) -> None:
    """Without a Contact nothing changes and the bindings are listed (10.3 step 6)."""
    client.register("<sip:bob@192.0.2.1>")
    assert contacts(client.register()) == ["<sip:bob@192.0.2.1>;expires=3600"]


@pytest.mark.requirement("19.1.1-1")
@pytest.mark.parametrize("uri", ["sip:bob@example.com;x=y;z", "sip:bob@example.com;%78=%79"])
def test_unknown_uri_parameters(client: Any, uri: Any) -> None:
    """URI parameters that nobody knows make no other user, neither in To nor in a Request-URI (19.1.1)."""
    client.register("<sip:bob@192.0.2.1>", to=f"<{uri}>", uri="sip:example.com;x=y")
    assert contacts(client.register()) == ["<sip:bob@192.0.2.1>;expires=3600"]
    assert contacts(client.call(uri)) == ["<sip:bob@192.0.2.1>;expires=3600"]


@pytest.mark.requirement("19.1.1-2")
@pytest.mark.parametrize("rest", [":5070", ";method=BYE", ";maddr=192.0.2.9;ttl=1", ";lr", "?Require=nosuch&Expires=0"])
def test_uri_parts_out_of_place(client: Any, rest: Any) -> None:
    """What has no place in To or Request-URI, such as header fields, makes no other user and does nothing (19.1.1)."""
    client.register("<sip:bob@192.0.2.1>", to=f"<sip:bob@example.com{rest}>", uri=f"sip:example.com{rest}")
    assert contacts(client.register()) == ["<sip:bob@192.0.2.1>;expires=3600"]
    assert contacts(client.call(f"sip:bob@example.com{rest}")) == ["<sip:bob@192.0.2.1>;expires=3600"]


@pytest.mark.requirement("21.4.10-1")
@pytest.mark.parametrize("end", ["removed", "expired"])
def test_binding_that_was_there_once(client: Any, end: Any) -> None:
    """Who is registered no more may be so again: a call gets 404, not the 410 of who is gone for good (21.4.10)."""
    client.register("<sip:bob@192.0.2.1>;expires=60")
    if end == "removed":
        client.register("*", headers=(("Expires", "0"),))
    else:
        client.clock.advance(61)
    assert client.call("sip:bob@example.com").status == 404


@pytest.mark.requirement("10.3-11")
def test_require(client: Any) -> None:
    """Require is processed as by any UAS, though a redirect server ignores it elsewhere (10.3 step 2)."""
    response = client.register("<sip:bob@192.0.2.1>", headers=(("Require", "gruu"),))
    assert response.status == 420
    assert response.headers.get("Unsupported") == "gruu"
    assert contacts(client.register()) == []


@implementer(IAuthenticator)
class Authenticator:
    """Says that everybody is *identity*, or challenges if that is None."""

    def __init__(self, identity: Any) -> None:
        self.identity = identity

    def authenticate(self, request: Request, transaction: Any) -> Any:
        if self.identity is None:
            raise SIPError(401, headers=[("WWW-Authenticate", 'Digest realm="example.com"')])
        return self.identity


@pytest.mark.requirement("10.3-12")
def test_authentication() -> None:
    """Who registers is authenticated, where there is somebody to do it (10.3 step 3)."""
    client = Client(authenticator=Authenticator(None))
    assert client.register("<sip:bob@192.0.2.1>").status == 401
    assert client.store.bindings("sip:bob@example.com")[0] == ()


@pytest.mark.requirement("10.3-14", "10.3-15", "22-2")
@pytest.mark.parametrize(
    ("identity", "to", "status"),
    [
        ("bob", "<sip:%62ob@example.com>", 200),
        ("bob@example.com", "<sips:bob@EXAMPLE.com>", 200),
        ("eve", "<sip:bob@example.com>", 403),
        ("bob@example.org", "<sip:bob@example.com>", 403),
        ("", "<sip:example.com>", 403),
        ("example.com", "<sip:example.com>", 403),
        ("eve", "<sip:bob@example.org>", 403),
        ("bob", "<sip:bob@example.org>", 404),
        ("bob@example.com", "<sip:bob%40example.com@example.org>", 403),
        ("bob@example.com", "<sip:bob%40example.com@example.com>", 403),
    ],
)
def test_authorisation(identity: Any, to: Any, status: int) -> None:
    """Everybody may change the bindings of his own address-of-record, and nobody else's: 403 (10.3 step 4)."""
    client = Client(authenticator=Authenticator(identity), domains=["example.com"])
    assert client.register("<sip:bob@192.0.2.1>", to=to).status == status
    assert (client.store.bindings("sip:bob@example.com")[0] == ()) == (status != 200)


@pytest.mark.parametrize("may", [True, False])
def test_own_authorisation(may: Any) -> None:
    """Another policy is one method, plain or not."""

    class Strict(Registrar):
        async def may_register(self, identity: Any, uri: Any, request: Any) -> Any:
            return may

    client = Client()
    client.service = SIPService(client.clock, Strict(client.store, authenticator=Authenticator("eve")))
    assert client.register("<sip:bob@192.0.2.1>").status == (200 if may else 403)


@pytest.mark.requirement("10.3-6", "10.3-17")
@pytest.mark.parametrize(
    ("to", "status"),
    [
        ("<sip:bob@example.com>", 200),
        ("<sip:bob@198.51.100.1>", 200),
        ("<sip:bob@example.org>", 404),
        ("<tel:+1555>", 400),
        ("<isbn:2983792873>", 400),
    ],
)
def test_foreign_address_of_record(to: Any, status: int) -> None:
    """An address-of-record outside the domains served gets 404 (10.3 step 5)."""
    assert Client(domains=["example.com"]).register("<sip:bob@192.0.2.1>", to=to).status == status


@pytest.mark.requirement("10.3-6")
def test_foreign_request_uri() -> None:
    """A REGISTER for a domain that is not served gets 404, whoever's address-of-record it has (10.3)."""
    client = Client(domains=["example.com"])
    assert client.register("<sip:bob@192.0.2.1>", uri="sip:example.org").status == 404
    assert contacts(client.register()) == []


@pytest.mark.requirement("10.3-16", "10.3-18", "10.3-19", "10.3-20")
def test_canonical_address_of_record(client: Any) -> None:
    """The address-of-record is taken from To, without parameters, unescaped (10.3 step 5)."""
    client.register("<sip:bob@192.0.2.1>", to="Bob <sip:%62ob@EXAMPLE.com:5070;user=phone>;tag=1")
    assert len(contacts(client.register(to="<sip:bob@example.com>"))) == 1
    assert contacts(client.register(to="<sip:Bob@example.com>")) == []


@pytest.mark.requirement("10.3-30", "10.3-31", "10.3-32")
def test_interval_too_brief(client: Any) -> None:
    """An interval below the minimum gets 423, and Min-Expires says which would do (10.3 step 7)."""
    response = client.register("<sip:bob@192.0.2.1>;expires=30")
    assert response.status == 423
    assert response.headers.get("Min-Expires") == "60"
    assert contacts(client.register()) == []
    assert client.register("<sip:bob@192.0.2.1>;expires=60").status == 200, "which is brief, and accepted"


def test_limits() -> None:
    """The limits that the registrar was given are those that hold (10.3 step 7)."""
    limits = Limits(min_expires=10, max_expires=50, default_expires=40, max_contacts=1)
    client = Client(limits=limits)
    assert contacts(client.register("<sip:bob@192.0.2.1>;expires=30")) == ["<sip:bob@192.0.2.1>;expires=30"]
    assert contacts(client.register("<sip:bob@192.0.2.1>;expires=500")) == ["<sip:bob@192.0.2.1>;expires=50"]
    assert contacts(client.register("<sip:bob@192.0.2.1>")) == ["<sip:bob@192.0.2.1>;expires=40"]
    assert client.register("<sip:bob@192.0.2.2>").status == 403


@pytest.mark.requirement("10.3-8", "10.3-36")
def test_old_cseq_changes_nothing(client: Any) -> None:
    """A REGISTER whose CSeq is not higher than the binding's fails as a whole (10.3 step 7)."""
    client.register("<sip:bob@192.0.2.1>", cseq=7)
    response = client.register("<sip:bob@192.0.2.9>", "<sip:bob@192.0.2.1>;expires=0", cseq=7)
    assert response.status == 500
    assert contacts(client.register()) == ["<sip:bob@192.0.2.1>;expires=3600"]


@pytest.mark.requirement("10.3-8")
def test_too_many_contacts_change_nothing() -> None:
    """A REGISTER with one contact more than there is room for adds none, and removes none (10.3)."""
    client = Client(limits=Limits(max_contacts=2))
    client.register("<sip:bob@192.0.2.1>")
    assert client.register("<sip:bob@192.0.2.2>", "<sip:bob@192.0.2.3>").status == 403
    assert contacts(client.register()) == ["<sip:bob@192.0.2.1>;expires=3600"]


def test_remove_all(client: Any) -> None:
    """Contact "*" with Expires 0 removes every binding (10.3 step 6)."""
    client.register("<sip:bob@192.0.2.1>", "<sip:bob@192.0.2.2>")
    assert contacts(client.register("*", headers=(("Expires", "0"),))) == []


@pytest.mark.requirement("10.3-1")
def test_registers_only(client: Any) -> None:
    """A registrar takes REGISTER, and OPTIONS as every UA; anything else gets 405 (10.3)."""
    client.service.message_received(make_request(), client.flow)
    assert client.flow.responses[-1].status == 405
    assert client.flow.responses[-1].headers.values("Allow") == ["OPTIONS", "REGISTER"]


@pytest.mark.requirement("10.3-4", "10.3-5")
def test_record_route(client: Any) -> None:
    """A Record-Route in a REGISTER is ignored, and comes in no response (10.3)."""
    response = client.register("<sip:bob@192.0.2.1>", headers=(("Record-Route", "<sip:p@192.0.2.7;lr>"),))
    assert response.status == 200
    assert "Record-Route" not in response.headers


@implementer(IBindingStore)
class SlowStore(MemoryBindingStore):
    """A store whose changes take until the test says so; `written` are the changes that wait, each with its outcome."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.written: list[Any] = []

    def replace(self, address_of_record: Any, version: Any, bindings: Any) -> Any:
        pending: Deferred[Any] = Deferred()
        self.written.append((pending, address_of_record, version, bindings))
        return pending

    def commit(self) -> None:
        pending, *change = self.written.pop(0)
        pending.callback(super().replace(*change))


@pytest.mark.requirement("10.3-7", "10.3-9")
def test_in_the_order_received() -> None:
    """REGISTERs for one address-of-record wait for each other, those for others do not (10.3)."""
    client = Client(SlowStore())
    client.register("<sip:bob@192.0.2.1>")
    client.register("<sip:bob@192.0.2.2>")
    client.register("<sip:eve@192.0.2.3>", to="<sip:eve@example.com>")
    assert [written[1] for written in client.store.written] == ["sip:bob@example.com", "sip:eve@example.com"]
    client.store.commit()
    client.store.commit()
    client.store.commit()
    assert [len(contacts(response)) for response in client.flow.responses] == [1, 1, 2]
    assert len(client.registrar._queues) == 0, "nothing is kept for addresses without a REGISTER"


@pytest.mark.requirement("10.3-7")
@pytest.mark.parametrize(
    ("second", "status"),
    [
        ((), 200),
        (("<sip:bob@192.0.2.1>;expires=1",), 423),
        (("<sip:bob@192.0.2.1>", "<sip:bob@192.0.2.2>"), 500),
        (None, 503),
    ],
)
def test_second_that_is_answered_at_once(second: Any, status: int) -> None:
    """Whatever the next REGISTER in the queue comes to in no time, the first one gets its own answer (10.3)."""
    client = Client(SlowStore())
    client.register("<sip:bob@192.0.2.1>", cseq=7)
    if second is None:
        client.store.bindings = raising(SIPError(503))
    client.register(*(second or ()), cseq=6)
    client.store.commit()
    assert sorted(response.status for response in client.flow.responses) == sorted([200, status])
    assert len(client.registrar._queues) == 0


def raising(error: Any) -> Any:
    def bindings(address_of_record: Any) -> None:
        raise error

    return bindings


class SlowPolicy(Registrar):
    """Says who may register when the test does, by `verdicts`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.verdicts: list[Any] = []

    def may_register(self, identity: Any, uri: Any, request: Any) -> Any:
        self.verdicts.append(Deferred())
        return self.verdicts[-1]


@pytest.mark.requirement("10.3-7")
@pytest.mark.parametrize("first_may", [True, False, SIPError(500)])
def test_order_though_the_verdicts_are_late(first_may: Any) -> None:
    """A REGISTER does not overtake one whose sender is still being looked at, nor is it lost with it (10.3)."""
    client = Client(registrar=SlowPolicy)
    client.register("<sip:bob@192.0.2.1>")
    client.register("<sip:bob@192.0.2.1>;expires=0")
    first, second = client.registrar.verdicts
    second.callback(True)
    assert client.flow.responses == []
    first.errback(first_may) if isinstance(first_may, SIPError) else first.callback(first_may)
    assert sorted(response.status for response in client.flow.responses) == [
        200, {True: 200, False: 403}.get(first_may, 500)
    ]  # fmt: skip
    assert client.store.bindings("sip:bob@example.com")[0] == ()
    assert len(client.registrar._queues) == 0


@pytest.mark.requirement("3327-1")
def test_path(client: Any) -> None:
    """The Path of a REGISTER is kept with its bindings, and comes back in the 200 as it was (RFC 3327, 5.3)."""
    path = (("Path", "<sip:p1@192.0.2.7;lr>,<sip:192.0.2.8;lr>"), ("Path", '"P" <sip:192.0.2.9;lr>;x=y'))
    response = client.register("<sip:bob@192.0.2.1>", headers=(*path, ("Require", "path")))
    assert response.status == 200
    assert response.headers.values("Path") == [
        "<sip:p1@192.0.2.7;lr>", "<sip:192.0.2.8;lr>", '"P" <sip:192.0.2.9;lr>;x=y'
    ]  # fmt: skip
    (binding,), _ = client.store.bindings("sip:bob@example.com")
    assert binding.path == '<sip:p1@192.0.2.7;lr>,<sip:192.0.2.8;lr>,"P" <sip:192.0.2.9;lr>;x=y'
    assert "Path" not in client.register().headers, "that of the request, if it has one"
    client.register("<sip:bob@192.0.2.1>")
    (binding,), _ = client.store.bindings("sip:bob@example.com")
    assert binding.path == ""


@pytest.mark.parametrize(
    ("path", "status"),
    [("sip:192.0.2.7;lr", 400), ("<tel:+1>", 400), ("<sip:a@[::x]>", 400), (f"<sip:{'x' * 2000}>", 403)],
)
def test_bad_path(client: Any, path: Path, status: int) -> None:
    """A Path that nobody could follow, or too long to be kept, is refused, and nothing is changed."""
    assert client.register("<sip:bob@192.0.2.1>", headers=(("Path", path),)).status == status
    assert contacts(client.register()) == []


@pytest.mark.requirement("10.3-2")
def test_no_6xx() -> None:
    """Whatever is wrong, the answer is no 6xx, since another contact of the client may do better (10.3)."""
    client = Client(SlowStore(), limits=Limits(max_contacts=1), domains=["example.com"])
    answers = [
        client.register("<sip:a@h>", "<sip:b@h>"),
        client.register("<sip:a@h>", to="<sip:a@example.org>"),
        client.register("<sip:a@h>", to="<tel:+1>"),
        client.register("<sip:a@h>;expires=1"),
        client.register("*"),
        client.register("<nonsense>"),
        client.register("<sip:a@h>", headers=(("Require", "x"),)),
    ]
    assert [answer.status for answer in answers] == [403, 404, 400, 423, 400, 400, 420]
    stranger = Client(authenticator=Authenticator("carol"))
    assert stranger.register("<sip:a@h>").status == 403


def test_answers_after_the_commit() -> None:
    """The 200 follows the commit: before it, the client is told nothing (10.3-8)."""
    client = Client(SlowStore())
    assert client.register("<sip:bob@192.0.2.1>") is None
    client.store.commit()
    assert client.flow.responses[-1].status == 200


@pytest.mark.requirement("10.3-39")
def test_failing_store(logged_failures: list[LogEvent]) -> None:
    """A change that the store could not make is answered 500, and the next REGISTER has its turn (10.3 step 7)."""
    client = Client(SlowStore())
    client.register("<sip:bob@192.0.2.1>")
    client.register("<sip:bob@192.0.2.2>", call_id="another")
    client.store.written.pop(0)[0].errback(OSError("disk full"))
    assert client.flow.responses[-1].status == 500
    assert len(logged_failures) == 1
    logged_failures.clear()
    client.store.commit()
    assert contacts(client.flow.responses[-1]) == ["<sip:bob@192.0.2.2>;expires=3600"]


def test_lost_race_is_tried_again() -> None:
    """A change that another server was faster than is made again on what there is now; after five times, 503."""
    client = Client(SlowStore())
    client.register("<sip:bob@192.0.2.1>")
    for _ in range(4):
        client.store.written.pop(0)[0].callback(False)
    client.store.commit()
    assert client.flow.responses[-1].status == 200
    client.register("<sip:bob@192.0.2.2>")
    for _ in range(5):
        client.store.written.pop(0)[0].callback(False)
    assert client.flow.responses[-1].status == 503
    assert "Retry-After" in client.flow.responses[-1].headers


@pytest.mark.requirement("8.2-2")
def test_slow_store() -> None:
    """A change that takes too long is never refused, for it may still be made: no final response comes (8.2)."""
    client = Client(SlowStore())
    client.register("<sip:bob@192.0.2.1>")
    client.clock.pump([1] * 40)
    assert [response.status for response in client.flow.responses] == [100]
    assert client.clock.getDelayedCalls() == []
    assert len(client.registrar._queues) == 0


@pytest.mark.requirement("10.3-38")
def test_listing_that_no_datagram_holds() -> None:
    """A change whose 200 could not be sent is refused, and not made (8.2, 18)."""
    client = Client()
    client.flow = RecordingFlow("UDP")
    long = "x" * 16000
    statuses = [client.register(f"<sip:bob@192.0.2.{number};p={long}>").status for number in range(5)]
    assert statuses == [200, 200, 200, 200, 500]
    assert len(client.store.bindings("sip:bob@example.com")[0]) == 4


def test_contacts_are_counted_first(client: Any) -> None:
    """Too many contacts are refused before each is looked at."""
    response = client.register(",".join(["<not a uri>"] * 101))
    assert response.status == 403


def test_queue_is_bounded() -> None:
    """No more REGISTERs wait for one address-of-record than `max_queued`; the rest gets 503."""
    client = Client(SlowStore())
    for _ in range(Registrar.max_queued + 1):
        client.register("<sip:bob@192.0.2.1>")
    assert client.flow.responses == []
    assert client.register("<sip:bob@192.0.2.1>").status == 503
    while client.store.written:
        client.store.commit()
    assert len(client.flow.responses) == Registrar.max_queued + 2


def test_refusal_by_the_store() -> None:
    """A store may refuse a change with a status of its own."""
    client = Client(SlowStore())
    client.register("<sip:bob@192.0.2.1>")
    client.store.written.pop(0)[0].errback(SIPError(503, headers=[("Retry-After", "9")]))
    assert client.flow.responses[-1].headers.get("Retry-After") == "9"
