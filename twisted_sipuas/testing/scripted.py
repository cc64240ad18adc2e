"""`ScriptedServer`: a SIP server that does what a test says, for testing other people's clients; in your reactor.

It has the transports of the real server, and no transactions: nothing is answered, resent or swallowed but as the test
says, so that a client can be shown anything. `sip_server` is the same for tests that block.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.interfaces import Address, IFlow, IMessageReceiver
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing.ladder import Ladder, Passed, read, summary
from twisted_sipuas.testing.steps import Expected, Unmet
from twisted_sipuas.transport.listen import parse_listen
from twisted_sipuas.transport.listeners import Listeners
from twisted_sipuas.transport.outgoing import is_numeric
from twisted_sipuas.transport.routing import response_route, stamp
from twisted_sipuas.transport.stream import SIPStreamFactory
from twisted_sipuas.transport.udp import SIPDatagramProtocol
from twisted_sipuas.uas.dialog import Dialog

__all__ = ["STOPPED", "STRAYS", "ReceivedRequest", "ScriptedServer"]

STRAYS: Mapping[str, int] = MappingProxyType({"OPTIONS": 200})
"""What a scripted server answers by itself where the script expects something else: the keep-alives of clients."""

STOPPED = "the server was stopped"
_STRAY_TIME = 0.3  # seconds that a stray waits to be expected; before its client sends it again, after 0.5 s
_MAX_KEPT = 10_000  # requests whose retransmissions are known, and messages that wait to be expected

_Event: TypeAlias = "ReceivedRequest | Response | MessageSyntaxError"


class ReceivedRequest:
    """A request that came to a scripted server, by which it is answered: `request`, and the `flow` that it came on."""

    def __init__(self, server: ScriptedServer, request: Request, flow: IFlow, way_back: IFlow) -> None:
        self._server = server
        self._way_back = way_back
        self._dialog: Dialog | None = None
        self.request = request
        self.flow = flow
        self.answers: list[bytes] = []
        """What was answered, as octets."""
        self.is_stray = False
        """Whether it was answered by itself, since something else was expected, or nothing in good time."""

    @property
    def method(self) -> str:
        """The method."""
        return self.request.method

    @property
    def headers(self) -> Headers:
        """The header section."""
        return self.request.headers

    @property
    def body(self) -> bytes:
        """The body."""
        return self.request.body

    @property
    def to_tag(self) -> str:
        """The tag that answers put into To: one for each Call-ID."""
        return self._server.tag_of(self.request)

    def answer(self, status: int, reason: str | None = None, **fields: Any) -> ReceivedRequest:
        """Answer with *status*, provisional or final; again and again if you like. Returns this request.

        *fields* are those of `Request.response`: ``headers``, ``contacts``, ``body``, ``content_type``. What a client
        cannot do without is there by itself: the To tag; a Contact in what accepts or rings for an INVITE (12.1.1); in
        a 2xx to a REGISTER the Contacts of the request (10.3).
        """
        if not fields.get("contacts"):
            fields = {**fields, "contacts": self._contacts(status)}
        return self.answer_octets(self.request.response(status, reason, **fields).to_bytes(self.to_tag))

    def answer_octets(self, octets: bytes) -> ReceivedRequest:
        """Send *octets* back as the answer, whatever they are: what no server should send, a client may get."""
        self._server.in_reactor(self._server.send_answer, self, octets, self._way_back)
        return self

    def send(self, method: str, *, headers: tuple[tuple[str, str], ...] = (), body: bytes = b"") -> Request:
        """Send a request within the dialog that our answer made (12.2.1.1), say a BYE; the response can be expected."""
        if self._dialog is None:
            self._dialog = Dialog(self.request, self.to_tag, self.flow, None)  # type: ignore[arg-type]  # nobody ends it
        request, _ = self._dialog.next_request(method, headers)
        request = Request(request.method, request.uri_text, request.headers, body)
        sent: Request = self._server.in_reactor(self._server.send_request, request, self._way_to(self._dialog))
        return sent

    def _contacts(self, status: int) -> list[str]:
        """Return the Contacts of an answer that names none."""
        if self.method == "INVITE" and 100 < status < 300:
            return [self._server.contact(self.flow)]
        if self.method == "REGISTER" and 200 <= status < 300:
            lasts = self.headers.get("Expires", "3600")
            return [
                value if "expires" in Contact(value).parameters else f"{value};expires={lasts}"
                for value in self.headers.values("Contact")
                if value != "*"
            ]
        return []

    def _way_to(self, dialog: Dialog) -> IFlow:
        """Return the flow for a request in *dialog*: to its Contact by UDP if that is an address, else back."""
        target = dialog.remote_target
        if self.flow.is_reliable or dialog.route_set or not is_numeric(target.host.strip("[]")):
            return self.flow
        return self.flow.towards(Address(target.host.strip("[]"), target.port or 5060))

    def __repr__(self) -> str:
        return f"<ReceivedRequest {summary(self.request)}>"


class _Waiter:
    """Who waits for a message."""

    def __init__(self, expected: Expected, timeout: IDelayedCall) -> None:
        self.expected = expected
        self.timeout = timeout
        self.found: Deferred[Any] = Deferred()


@implementer(IMessageReceiver)
class ScriptedServer:
    """A server on *reactor* at *host*, by UDP and TCP on *port*, 0 for one that is free.

    `start` it, then `expect` a message and answer it. *strays* are methods that it answers by itself, each with its
    status, where something else is expected; by default `STRAYS`. *timeout* is in seconds, for each `expect`.

    A retransmission gets the last answer again, and is not seen by the test. An ACK that is not expected is let pass.
    Of requests of its own, provisional responses are let pass unless they are expected.

    With pytest-twisted, or a `TestCase` of trial::

        server = ScriptedServer(reactor)
        server.start()
        your_client.register(server.uri)
        register = await server.expect("REGISTER")
        register.answer(200)
        await server.stop()
    """

    def __init__(
        self,
        reactor: Any,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        strays: Mapping[str, int] = STRAYS,
        timeout: float = 5.0,
        in_reactor: Callable[..., Any] | None = None,
    ) -> None:
        self.strays = strays
        self.timeout = timeout
        self.ladder = Ladder()
        self.in_reactor = in_reactor or _at_once
        self._reactor = reactor
        interface = f"[{host}]" if ":" in host else host
        self._listeners = Listeners(
            reactor,
            [parse_listen(f"udp:{port}:interface={interface}")],
            lambda _: SIPDatagramProtocol(self),
            lambda _, is_proxied: self._factory,
        )
        self._factory = SIPStreamFactory(self, reactor)
        self._address = Address(host, port)
        self._started_at = 0.0
        self._heard: deque[_Event] = deque(maxlen=_MAX_KEPT)  # and not expected yet
        self._waiter: _Waiter | None = None
        self._is_stopped = False
        self._known: OrderedDict[tuple[object, ...], ReceivedRequest] = OrderedDict()
        self._tags: dict[str, str] = {}
        self._stray_timers: dict[int, IDelayedCall] = {}

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._address

    @property
    def uri(self) -> str:
        """Its SIP URI, ``sip:HOST:PORT``; what a client may have for its registrar, its proxy or whom it calls."""
        return f"sip:{self._address}"

    def start(self) -> None:
        """Listen; raises `StartError` if that cannot be."""
        try:
            self._listeners.open()
        except BaseException:
            self._listeners.close()
            raise
        self._address = self._listeners.listening[0].address
        self._started_at = self._reactor.seconds()

    def stop(self) -> Deferred[None]:
        """Listen no more, and close every connection; who waits for a message gets none."""
        self._is_stopped = True
        for timer in self._stray_timers.values():
            timer.cancel()
        self._stray_timers.clear()
        self._fail(STOPPED)
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._listeners.close()
        await self._factory.connections.close()

    # What the test says

    def expect(
        self, what: int | str, method: str | None = None, *, timeout: float | None = None, **header_fields: object
    ) -> Deferred[Any]:
        """Return a `Deferred` of the next message, which has to be a request of the method *what*.

        It fires with a `ReceivedRequest`, or where *what* is a status with the `Response` to a request that was sent by
        `ReceivedRequest.send`. *method* and *header_fields* are as for the step `expect`. It fails with
        `AssertionError` if something else comes, or nothing within *timeout* seconds.
        """
        return self.expect_message(Expected.of(what, method, header_fields), timeout)

    def expect_message(self, expected: Expected, timeout: float | None = None) -> Deferred[Any]:
        """Return a `Deferred` of the next message, which has to be the one *expected*; see `expect`."""
        if self._waiter is not None:
            raise ValueError(f"{self._waiter.expected} is expected already; one thing after the other")
        if self._is_stopped:
            return fail(Unmet(STOPPED, self.ladder))
        seconds = self.timeout if timeout is None else timeout
        late = f"expected {expected} within {seconds:g} s, got nothing"
        waiter = self._waiter = _Waiter(expected, self._reactor.callLater(seconds, self._fail, late))
        while self._heard and self._waiter is not None:
            self._offer(self._heard.popleft(), self._waiter)
        return waiter.found

    def unexpected(self) -> str | None:
        """Return what came and was neither expected nor may be let pass; None if there is nothing."""
        rest = [_name(event) for event in self._heard if not self._may_pass(event)]
        return f"expected nothing more, got {', '.join(rest)}" if rest else None

    # IMessageReceiver

    def message_received(self, message: Request | Response, flow: IFlow) -> None:
        """See `IMessageReceiver`."""
        if isinstance(message, Response):
            self._note(flow, message)
            self._take(message)
            return
        via = message.via  # as it was sent
        key = (via.branch, via.sent_by, message.method, message.call_id, message.cseq.number)
        known = self._known.get(key)
        self._note(flow, message, "" if known is None else "again")
        if known is not None:
            if known.answers:
                self._send(known.answers[-1], known._way_back, "again")
            return
        stamp(message, flow)
        request = self._known[key] = ReceivedRequest(self, message, flow, response_route(message, flow))
        if len(self._known) > _MAX_KEPT:
            self._known.popitem(last=False)
        self._take(request)

    def syntax_error_received(self, error: MessageSyntaxError, flow: IFlow) -> None:
        """See `IMessageReceiver`; it is not answered, and fails what is expected."""
        self._note(flow, error.reason.encode())
        self._take(error)

    def sending_failed(self, octets: bytes, flow: IFlow) -> None:
        """See `IMessageReceiver`."""
        self._note(flow, read(octets), "came back: nobody is there", is_ours=True)

    # For requests received

    def tag_of(self, request: Request) -> str:
        """Return our tag for the call of *request*."""
        return self._tags.setdefault(request.call_id, secrets.token_hex(4))

    def contact(self, flow: IFlow) -> str:
        """Return our Contact for who is at the other end of *flow*."""
        return f"<{self.uri}{'' if flow.transport == 'UDP' else f';transport={flow.transport.lower()}'}>"

    def send_answer(self, request: ReceivedRequest, octets: bytes, flow: IFlow) -> None:
        """Send *octets*, which answer *request*."""
        request.answers.append(octets)
        self._send(octets, flow, "a stray" if request.is_stray else "")

    def send_request(self, request: Request, flow: IFlow) -> Request:
        """Send *request*, with the Via that it lacks, on *flow*; returns it with that."""
        via = f"SIP/2.0/{flow.transport} {self._address};branch=z9hG4bK{secrets.token_hex(8)};rport"
        rows = [("Via", via), *request.headers]
        if request.method == "INVITE" and "Contact" not in request.headers:
            rows.append(("Contact", self.contact(flow)))
        sent = Request(request.method, request.uri_text, rows, request.body)
        self._send(sent.to_bytes(), flow)
        return sent

    # Inside

    def _send(self, octets: bytes, flow: IFlow, note: str = "") -> None:
        try:
            flow.send(octets)
        except TransportError as error:
            note = f"not sent: {error}"
        self._note(flow, read(octets), note, is_ours=True)

    def _note(self, flow: IFlow, message: Request | Response | bytes, note: str = "", is_ours: bool = False) -> None:
        ends = [flow.remote_address, self._address]
        source, destination = reversed(ends) if is_ours else ends
        time = self._reactor.seconds() - self._started_at
        self.ladder.add(Passed(time, source, destination, flow.transport, message, note))

    def _take(self, event: _Event) -> None:
        """Hand *event* to who waits, or keep it."""
        if self._waiter is not None:
            self._offer(event, self._waiter)
            return
        self._heard.append(event)
        if isinstance(event, ReceivedRequest) and event.method in self.strays:
            self._stray_timers[id(event)] = self._reactor.callLater(_STRAY_TIME, self._answer_stray, event)

    def _answer_stray(self, event: ReceivedRequest) -> None:
        """Nobody has expected it so far: answer it."""
        self._stray_timers.pop(id(event), None)
        if event in self._heard:
            self._heard.remove(event)
        event.is_stray = True
        event.answer(self.strays[event.method])

    def _offer(self, event: _Event, waiter: _Waiter) -> None:
        """Have *waiter* have *event*, unless it may pass."""
        timer = self._stray_timers.pop(id(event), None)
        if timer is not None:
            timer.cancel()
        if isinstance(event, MessageSyntaxError):
            self._fail(f"expected {waiter.expected}, got {_name(event)}")
            return
        message = event.request if isinstance(event, ReceivedRequest) else event
        if not waiter.expected.is_kind_of(message) and self._may_pass(event):
            if isinstance(event, ReceivedRequest) and event.method in self.strays:
                self._answer_stray(event)
            return
        fault = waiter.expected.fault_in(message)
        if fault is not None:
            source = f" from {event.flow.remote_address}" if isinstance(event, ReceivedRequest) else ""
            self._fail(f"{fault}{source}")
            return
        self._waiter = None
        waiter.timeout.cancel()
        waiter.found.callback(event)

    def _may_pass(self, event: _Event) -> bool:
        """Whether it is no fault that *event* came where something else was expected."""
        if isinstance(event, ReceivedRequest):
            return event.method == "ACK" or event.method in self.strays
        return isinstance(event, Response) and event.status < 200

    def _fail(self, text: str) -> None:
        """Have who waits fail."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            if waiter.timeout.active():
                waiter.timeout.cancel()
            waiter.found.errback(Unmet(text, self.ladder))


def _name(event: _Event) -> str:
    """Return what *event* is, for people."""
    if isinstance(event, MessageSyntaxError):
        return f"what is no SIP message: {event.reason}"
    return summary(event.request if isinstance(event, ReceivedRequest) else event)


def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
