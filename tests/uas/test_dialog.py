"""What makes a dialog, and what is in it (RFC 3261, 12.1, 12.2)?"""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from tests.uas.caller import CALL_ID, Caller, Phone
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import make_request
from twisted_sipuas.uas.dialog import DialogID, DialogState

ROUTES = (
    ("Record-Route", "<sip:p2.example.com;lr>;x=y, <sip:p1.example.com;lr;unknown=1>"),
    ("Record-Route", '"a, b" <sips:p0.example.com;lr>'),
)
ROUTE_VALUES = ["<sip:p2.example.com;lr>;x=y", "<sip:p1.example.com;lr;unknown=1>", '"a, b" <sips:p0.example.com;lr>']


def tag_of(response: Any) -> Any:
    return response.headers.get("To").partition(";tag=")[2]


def bye_of(caller: Any) -> Any:
    """Return the BYE by which the server ends the call."""
    caller.dialog.end()
    return caller.sender.requests[-1]


# What makes one


@pytest.mark.requirement("12.1-1", "13.3.1.1-1")
@pytest.mark.parametrize(
    ("status", "state"),
    [
        (100, None),
        (101, DialogState.EARLY),
        (180, DialogState.EARLY),
        (199, DialogState.EARLY),
        (200, DialogState.CONFIRMED),
        (299, DialogState.CONFIRMED),
        (302, None),
        (486, None),
    ],
)
def test_status_that_makes_a_dialog(status: int, state: Any) -> None:
    """A response of 101 to 199 to an INVITE makes an early dialog, a 2xx a confirmed one, and no other any (12.1)."""
    made = []

    def answer(request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(status))
        made.append(transaction.dialog)
        return Deferred()

    caller = Caller(Phone(answer)).invite()
    assert caller.last.status == status
    assert [dialog and dialog.state for dialog in made] == [state]
    assert caller.server.counters["dialogs"] == (state is not None)


@pytest.mark.requirement("12.1-1")
@pytest.mark.parametrize("method", ["INFO", "OPTIONS", "MESSAGE"])
def test_method_that_makes_none(method: str) -> None:
    """A 2xx to another request than INVITE makes no dialog (12.1)."""

    class Server(Phone):
        def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
            return request.response(202)

    caller = Caller(Server()).send(method)
    assert caller.last.status in (200, 202)
    assert caller.server.counters["dialogs"] == 0


# What the response tells


@pytest.mark.requirement("12.1.1-1", "12.1.1-2")
@pytest.mark.parametrize("status", [180, 200])
def test_record_route_is_copied(status: int) -> None:
    """The response has every Record-Route of the INVITE, in order and with every parameter (12.1.1)."""

    def answer(request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(status))
        return Deferred()

    caller = Caller(Phone(answer)).invite(headers=ROUTES)
    assert caller.last.headers.values("Record-Route") == ROUTE_VALUES


@pytest.mark.requirement("12.1.1-3", "12.1.1-6")
@pytest.mark.parametrize("status", [180, 200])
@pytest.mark.parametrize(
    ("transport", "contact"),
    [
        ("UDP", "<sip:bob@sip.example.net:5070>"),
        ("TCP", "<sip:bob@sip.example.net:5070;transport=tcp>"),
        ("TLS", "<sip:bob@sip.example.net:5070;transport=tls>"),
    ],
)
def test_contact(status: int, transport: Any, contact: Any) -> None:
    """The response has a Contact: the user called, at the address that others are told of the flow (12.1.1)."""

    def answer(request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(status))
        return Deferred()

    caller = Caller(Phone(answer), transport=transport)
    caller.flow.advertised_address = Address("sip.example.net", 5070)
    assert caller.invite().last.headers.values("Contact") == [contact]


def test_contact_of_a_handler() -> None:
    """A Contact that the handler gives is not added to."""
    caller = Caller(Phone(lambda request, transaction: request.response(200, contacts=["sip:me@192.0.2.99"])))
    assert caller.invite().last.headers.values("Contact") == ["<sip:me@192.0.2.99>"]


@pytest.mark.requirement("12.1.1-4", "12.1.1-5")
@pytest.mark.parametrize("status", [180, 200])
@pytest.mark.parametrize(
    ("contact", "uri", "is_sent"),
    [
        ("sip:bob@192.0.2.9", "sip:bob@example.com", True),
        ("sips:bob@192.0.2.9", "sip:bob@example.com", True),
        ("sips:bob@192.0.2.9", "sips:bob@example.com", True),
        ("sip:bob@192.0.2.9", "sips:bob@example.com", False),
        ("tel:+1555", "sip:bob@example.com", False),
        ("mailto:bob@example.com", "sip:bob@example.com", False),
    ],
)
def test_scheme_of_a_handlers_contact(
    status: int, contact: Any, uri: str, is_sent: bool, logged_failures: list[LogEvent]
) -> None:
    """A Contact of another scheme, or not SIPS where it has to be, is the handler's fault, and never sent (12.1.1)."""

    def answer(request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(status, contacts=[contact]))
        return Deferred()

    caller = Caller(Phone(answer), transport="TLS").invite(uri=uri)
    assert caller.statuses == ([status] if is_sent else [500])
    assert len(logged_failures) == (not is_sent)
    logged_failures.clear()


@pytest.mark.requirement("12.1.1-5")
@pytest.mark.parametrize(
    ("uri", "record_route", "contact", "scheme"),
    [
        ("sip:bob@example.com", None, "sip:alice@192.0.2.1", "sip"),
        ("sips:bob@example.com", None, "sip:alice@192.0.2.1", "sips"),
        ("sip:bob@example.com", None, "sips:alice@192.0.2.1", "sips"),
        ("sip:bob@example.com", "<sips:p.example.com;lr>", "sip:alice@192.0.2.1", "sips"),
        ("sip:bob@example.com", "<sips:p.example.com;lr>, <sip:q.example.com;lr>", "sip:alice@192.0.2.1", "sips"),
        ("sip:bob@example.com", "<sip:q.example.com;lr>, <sips:p.example.com;lr>", "sips:alice@192.0.2.1", "sip"),
    ],
)
def test_sips_contact(uri: str, record_route: Any, contact: Any, scheme: Any) -> None:
    """Contact is a SIPS URI if the Request-URI is, or the top Record-Route, or without one Contact (12.1.1)."""
    headers = (("Contact", f"<{contact}>"), *(() if record_route is None else (("Record-Route", record_route),)))
    caller = Caller(transport="TLS").invite(uri=uri, headers=headers)
    assert caller.last.headers.get("Contact").startswith(f"<{scheme}:bob@")


@pytest.mark.requirement("12.1.1-6")
def test_contact_has_global_scope() -> None:
    """A request outside the dialog for the URI in our Contact is served as well (12.1.1)."""
    caller = Caller(Phone(domains=["example.com"])).called()
    uri = caller.flow.responses[0].headers.get("Contact").strip("<>")
    assert caller.send("INFO", uri=uri, to=None, call_id="another").last.status == 200
    assert caller.send("INFO", uri="sip:bob@example.net", to=None, call_id="a third").last.status == 404


# What the dialog holds


@pytest.mark.requirement("12-1", "12.1-2", "12.1.1-15", "12.1.1-16", "12.1.1-17")
@pytest.mark.parametrize("status", [180, 200])
def test_id(status: int) -> None:
    """The dialog ID is the Call-ID, the To tag of the response and the From tag of the request (12, 12.1.1)."""

    def answer(request: Request, transaction: Any) -> Any:
        transaction.respond(request.response(status))
        return Deferred()

    caller = Caller(Phone(answer)).invite(from_tag="theirs")
    session_id = DialogID(CALL_ID, tag_of(caller.last), "theirs")
    assert len({*session_id}) == 3
    assert caller.send("INFO", from_tag="theirs").last.status == 200
    assert caller.server.told[-1][1].id == session_id
    for other in (
        {"call_id": "other"},
        {"from_tag": "other"},
        {"to": f"<sip:bob@example.com>;tag={tag_of(caller.last)}0"},
    ):
        assert caller.send("INFO", **{"from_tag": "theirs", **other}).last.status == 481


@pytest.mark.requirement("12.1.1-12", "12.1.1-13", "12.1.1-14", "12.1.1-19", "12.1.1-20")
def test_state() -> None:
    """Remote target, both sequence numbers and both URIs are the request's; ours have not begun (12.1.1)."""
    dialog = (
        Caller()
        .invite(
            cseq=4711,
            to='"The Bob" <sip:robert@example.org;x=1>',
            headers=(("Contact", "<sip:alice@192.0.2.1:5099>;q=1"),),
        )
        .dialog
    )
    assert str(dialog.remote_target) == "sip:alice@192.0.2.1:5099"
    assert (dialog.remote_sequence, dialog.local_sequence) == (4711, None)
    assert dialog.remote_uri == "sip:alice@example.com"
    assert dialog.local_uri == "sip:robert@example.org;x=1"


def test_next_request() -> None:
    """What is in the dialog is what our requests in it are made of (12.2.1.1)."""
    caller = Caller().called(cseq=4711, headers=ROUTES)
    bye = bye_of(caller)
    assert bye.headers.get("CSeq") == "1 BYE"
    assert bye.headers.get("Call-ID") == CALL_ID
    assert bye.headers.get("To") == "<sip:alice@example.com>;tag=9fxced76sl"
    assert bye.headers.get("From") == f"<sip:bob@example.com>;tag={tag_of(caller.flow.responses[0])}"
    assert bye.uri_text == "sip:alice@192.0.2.1:5060"


@pytest.mark.requirement("12.1.1-9", "12.1.1-11")
def test_route_set() -> None:
    """The route set is the Record-Route of the request, in order, parameters kept, whatever its Route says (12.1.1)."""
    caller = Caller().called(headers=(*ROUTES, ("Route", "<sip:198.51.100.1;lr>")))
    assert list(caller.dialog.route_set) == ROUTE_VALUES
    assert bye_of(caller).headers.values("Route") == ROUTE_VALUES


@pytest.mark.requirement("12.1.1-10", "12.1.1-11")
def test_empty_route_set() -> None:
    """Without Record-Route the route set is empty, whatever came with the request else (12.1.1)."""
    caller = Caller().called(headers=(("Route", "<sip:198.51.100.1;lr>"), ("Path", "<sip:p.example.com;lr>")))
    assert caller.dialog.route_set == ()
    assert "Route" not in bye_of(caller).headers


@pytest.mark.requirement("12.1.1-8")
@pytest.mark.parametrize(
    ("transport", "uri", "is_secure"),
    [
        ("TLS", "sips:bob@example.com", True),
        ("TLS", "sip:bob@example.com", False),
        ("TCP", "sips:bob@example.com", False),
        ("UDP", "sip:bob@example.com", False),
    ],
)
def test_secure_flag(transport: Any, uri: str, is_secure: bool) -> None:
    """A dialog is secure if the request came over TLS and for a SIPS URI (12.1.1)."""
    assert Caller(transport=transport).invite(uri=uri).dialog.is_secure is is_secure


def without_from_tag(request: Request) -> Any:
    """Return *request* as a client of RFC 2543 would send it."""
    return parse_message(request.to_bytes().replace(b";tag=9fxced76sl\r\n", b"\r\n", 1))


@pytest.mark.requirement("12.1.1-18")
def test_no_from_tag() -> None:
    """A caller of RFC 2543 may give no From tag; the remote tag is null then, in all that follows (12.1.1)."""
    caller = Caller()

    def send(method: str, **fields: Any) -> None:
        request = without_from_tag(make_request(method, call_id=CALL_ID, to=caller.to, **fields))
        assert request.from_.tag is None
        caller.service.message_received(request, caller.flow)

    send("INVITE")
    caller.hear()
    send("ACK", branch="z9hG4bK2")
    send("INFO", branch="z9hG4bK3", cseq=2)
    assert (caller.statuses, caller.server.heard) == ([200, 200], ["ACK", "INFO"])
    dialog = caller.server.told[-1][1]
    assert dialog.id.remote_tag is None
    caller.send("INFO", cseq=3)
    assert caller.last.status == 481, "with a tag it is another dialog's"
    dialog.end()
    assert caller.sender.requests[-1].headers.get("To") == "<sip:alice@example.com>"


# How long it is kept, and what is done in it


@pytest.mark.requirement("12.1.1-7")
def test_state_is_kept() -> None:
    """The state of a dialog is kept for as long as it lasts, an hour or more, and not after (12.1.1)."""
    caller = Caller().called(headers=ROUTES)
    dialog = caller.dialog
    before = [getattr(dialog, name) for name in ("id", "remote_target", "route_set", "remote_uri", "local_uri")]
    caller.clock.pump([60] * 90)
    assert caller.dialog is dialog
    assert caller.send("INFO").last.status == 200
    assert [getattr(dialog, name) for name in ("id", "remote_target", "route_set", "remote_uri", "local_uri")] == before
    caller.send("BYE")
    assert caller.dialog is None
    assert caller.send("INFO").last.status == 481


@pytest.mark.requirement("12.2-1", "12.2-2")
def test_record_route_and_contact_within_a_dialog() -> None:
    """Any request in a dialog may have Record-Route and Contact; no INFO and no ACK changes anything by it (12.2)."""
    caller = Caller().invite(headers=ROUTES)
    dialog = caller.dialog
    new = (("Record-Route", "<sip:other.example.com;lr>"), ("Contact", "<sip:alice@192.0.2.77>"))
    caller.ack(headers=new).send("INFO", headers=new)
    assert (caller.statuses, caller.server.heard) == ([200, 200], ["ACK", "INFO"])
    assert str(dialog.remote_target) == "sip:alice@192.0.2.1:5060"
    assert list(dialog.route_set) == ROUTE_VALUES
    caller.invite(headers=new)
    assert str(dialog.remote_target) == "sip:alice@192.0.2.77"
    assert list(dialog.route_set) == ROUTE_VALUES


@pytest.mark.requirement("12.2.2-10")
@pytest.mark.parametrize("uri", ["sip:bob@example.com", "sips:bob@example.com"])
def test_target_refresh_without_a_contact(uri: str) -> None:
    """A re-INVITE that has no Contact is taken, and leaves the remote target as it is (12.2.2)."""
    caller = Caller(transport="TLS").called(uri=uri).invite(uri=uri, headers=(("Contact", ""),))
    assert caller.statuses == [200, 200]
    assert str(caller.dialog.remote_target) == "sip:alice@192.0.2.1:5060"
    first, second = (response.headers.get("Contact") for response in caller.flow.responses)
    assert first == second
    caller.step(0.5).ack().step(30)
    assert (caller.statuses, caller.server.heard) == ([200, 200, 200], ["ACK", "ACK"])


@pytest.mark.requirement("8.2-2", "12.2.2-1")
@pytest.mark.parametrize("contact", ["<tel:+1>", "<sip:a@b>, <sip:c@d>", "<<<"])
def test_target_refresh_with_a_bad_contact(contact: Any) -> None:
    """A re-INVITE whose Contact is no place to send to is refused before it changes anything (12.2.2, 8.2)."""
    caller = Caller().called().invite(headers=(("Contact", contact), ("Record-Route", "<sip:p.example.com;lr>")))
    assert caller.last.status == 400
    assert (len(caller.server.dialogs), caller.dialog.remote_sequence) == (1, 1)
    assert caller.dialog.state is DialogState.CONFIRMED
    assert caller.invite().ack().send("BYE").last.status == 200
    assert caller.is_over


@pytest.mark.requirement("12.2-2")
def test_record_route_of_a_re_invite_is_not_read() -> None:
    """The Record-Route of a re-INVITE is nothing to us, malformed or not (12.2)."""
    caller = Caller().called().invite(headers=(("Record-Route", "<tel:+1>"),))
    assert caller.last.status == 200
    assert "Record-Route" not in caller.last.headers


@pytest.mark.requirement("12.2.2-3")
@pytest.mark.parametrize("contact", ["<sip:alice@192.0.2.1>", ""])
def test_invite_in_a_dialog_that_the_server_knows(contact: Any) -> None:
    """An INVITE in a dialog from before a restart makes it one that is kept, if its Contact says where to (12.2.2)."""

    class Restarted(Phone):
        def knows_dialog(self, request: Request) -> Any:
            return request.to.tag == "mine"

    caller = Caller(Restarted()).invite(to="<sip:bob@example.com>;tag=mine", headers=(("Contact", contact),))
    if not contact:
        assert caller.statuses == [400]
        assert caller.is_over
        return
    assert caller.last.headers.get("To") == "<sip:bob@example.com>;tag=mine"
    caller.ack().send("BYE")
    assert (caller.statuses, caller.server.heard) == ([200, 200], ["ACK", "BYE received"])
    assert caller.is_over


# Requests of ours


def test_strict_router() -> None:
    """A strict router that comes first gets its own URI as Request-URI, and the target as last Route (12.2.1.1)."""
    strict = "<sip:p1.example.com;transport=tcp>"
    caller = Caller().called(headers=(("Record-Route", strict), ("Record-Route", "<sip:p2.example.com;lr>")))
    bye = bye_of(caller)
    assert str(bye.uri) == "sip:p1.example.com;transport=tcp"
    assert bye.headers.values("Route") == ["<sip:p2.example.com;lr>", "<sip:alice@192.0.2.1:5060>"]
    assert str(caller.sender.sent[-1][1]) == "sip:p1.example.com;transport=tcp"


@pytest.mark.parametrize(
    ("contact", "request_uri"),
    [
        ("<sip:alice@192.0.2.9?Subject=x>", "sip:alice@192.0.2.9"),
        ("<sip:alice@192.0.2.9;method=REGISTER>", "sip:alice@192.0.2.9"),
        ("<sip:192.0.2.9;x=y;Method=REGISTER;z?Subject=x>", "sip:192.0.2.9;x=y;z"),
        ("<sip:a;method=b@192.0.2.9;method=REGISTER>", "sip:a;method=b@192.0.2.9"),
    ],
)
def test_request_uri_of_a_contact(contact: str, request_uri: str) -> None:
    """What a Contact may have and a Request-URI may not, headers and method, is left out of it (19.1.1, table 1)."""
    caller = Caller().called(headers=(("Contact", contact),))
    assert str(bye_of(caller).uri) == request_uri
