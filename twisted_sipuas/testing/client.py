"""`FakeClient`: a user agent client for tests, that does by itself no more than it is told to."""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.addresses import RecordRoute
from twisted_sipuas.syntax.fields import Contact, CSeq, NameAddr, Via
from twisted_sipuas.syntax.framing import StreamFramer
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing.messages import make_request
from twisted_sipuas.testing.network import VirtualNetwork
from twisted_sipuas.testing.sockets import Connection, connect
from twisted_sipuas.transaction.timers import Timers

__all__ = ["FakeClient", "SentRequest"]


class FakeClient:
    """A client at *address* of the server at *server*, by *transport*, ``UDP`` or ``TCP``, on *network*.

    Make one by `VirtualNetwork.client`. It sends what it is told to, and keeps what comes: `received` has every
    message, `times` when each came, `responses` and `requests` these alone, `statuses` the numbers. With *retransmits*
    it sends a request by UDP again by Timer A or E until it is answered (17.1); with *acknowledges* it sends the ACK
    for each final response to an INVITE by itself. *uri* is whom it calls unless told otherwise, *headers* go into each
    of its requests.

    >>> client = VirtualNetwork().client(Greeter(), transport="TCP")
    >>> call = client.send("INVITE")
    >>> call.statuses
    [180]
    >>> call.cancel().status
    200
    >>> call.statuses
    [180, 487]
    >>> call.ack()
    """

    def __init__(
        self,
        network: VirtualNetwork,
        server: Address,
        address: Address,
        *,
        transport: str = "UDP",
        retransmits: bool = False,
        acknowledges: bool = False,
        uri: str = "sip:bob@example.com",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        if transport not in ("UDP", "TCP"):
            raise ValueError(f"a client's transport is UDP or TCP, not {transport}")
        self.network = network
        self.server = server
        self.address = address
        self.transport = transport
        self.uri = uri
        self._received: list[tuple[Request | Response, float]] = []
        self.sent: list[SentRequest] = []
        self.timers = Timers()
        self.retransmits, self.acknowledges = retransmits, acknowledges
        self._headers = headers
        self._numbers = itertools.count(1)
        self._tags: dict[str, str] = {}  # of calls to this client, by Call-ID
        self._connection: Connection | None = None
        self._way_back: dict[int, _Stream] = {}  # what requests came on, unless that was UDP, by their identity
        network.bind(address, self._datagram_received)
        network.listen(address, _StreamFactory(self))

    @property
    def received(self) -> list[Request | Response]:
        """Every message received, in order."""
        self.network.settle()
        return [message for message, _ in self._received]

    @property
    def times(self) -> list[float]:
        """When each of them came."""
        self.network.settle()
        return [time for _, time in self._received]

    @property
    def responses(self) -> list[Response]:
        """The responses received."""
        return [message for message in self.received if isinstance(message, Response)]

    @property
    def requests(self) -> list[Request]:
        """The requests received, those of the server."""
        return [message for message in self.received if isinstance(message, Request)]

    @property
    def statuses(self) -> list[int]:
        """The statuses of the responses received."""
        return [response.status for response in self.responses]

    def send(self, method: str, uri: str | None = None, **fields: Any) -> SentRequest:
        """Send a request outside any dialog; *fields* are those of `make_request`.

        Branch, Call-ID and CSeq are new for each, From and its tag the same for all. For an ACK, a CANCEL, and a
        request within the dialog that another one made, see what this returns.
        """
        number = next(self._numbers)
        fields = {
            "branch": f"z9hG4bK{number}",
            "call_id": f"call-{number}@{self.address}",
            "cseq": number,
            **fields,
        }
        fields["headers"] = (*self._headers, *fields.get("headers", ()))
        options = {"sent_by": str(self.address), "transport": self.transport, **fields}
        return self.send_request(make_request(method, uri or self.uri, **options))

    def send_request(self, request: Request) -> SentRequest:
        """Send *request* as it is, and take the responses to it."""
        sent = SentRequest(self, request)
        self.sent.append(sent)
        sent.start()
        return sent

    def answer(self, request: Request, status: int, **fields: Any) -> None:
        """Answer *request*, one of `requests`; *fields* are those of `Request.response`."""
        tag = self._tags.setdefault(request.call_id, f"callee-{len(self._tags)}")
        octets = request.response(status, **fields).to_bytes(tag)
        stream = self._way_back.get(id(request))
        if stream is None:
            self._send_datagram(octets)
        else:
            stream.send(octets)
        self.network.settle()

    def send_octets(self, octets: bytes) -> None:
        """Send *octets*, whatever they are."""
        if self.transport == "UDP":
            self._send_datagram(octets)
        else:
            self._connected().write(octets)
        self.network.settle()

    def _connected(self) -> Connection:
        """Return the connection, opened if there is none."""
        if self._connection is None or self._connection.disconnecting:
            listener = self.network.listener(self.server)
            if listener is None:
                raise ConnectionRefusedError(f"nobody listens at {self.server}")
            source = self.network.free_port(self.address.host)
            self._connection = connect(self.network, source, _StreamFactory(self), self.server, listener)
        return self._connection

    def disconnect(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.loseConnection()
            self.network.settle()

    # What comes

    def message_received(self, octets: bytes, stream: _Stream | None = None) -> None:
        """Take one message; what is none is a fault of the server, and so of the test."""
        try:
            message = parse_message(octets)
        except MessageSyntaxError as fault:
            raise AssertionError(f"the server sent what is no SIP message: {fault.reason}\n{octets!r}") from None
        self._received.append((message, self.network.clock.seconds()))
        if isinstance(message, Request):
            if stream is not None:
                self._way_back[id(message)] = stream  # which stays, as what was received does
            return
        branch, method = Via(message.headers.values("Via")[0]).branch, CSeq(message.headers.get("CSeq") or "").method
        for sent in reversed(self.sent):
            if (sent.request.via.branch, sent.request.method) == (branch, method):
                sent.response_received(message)
                return

    def _datagram_received(self, data: bytes, _: object) -> None:
        self.message_received(data)

    def _send_datagram(self, octets: bytes) -> None:
        self.network.carry_datagram(octets, self.address, self.server)


class SentRequest:
    """A request that a `FakeClient` has sent, and what came back."""

    def __init__(self, client: FakeClient, request: Request) -> None:
        self.client = client
        self.request = request
        self._responses: list[Response] = []
        self.timed_out = False
        """Whether nothing final came within 64*T1, Timers B and F; told only of a client that retransmits."""
        self._timers: dict[str, IDelayedCall] = {}  # "again": A or E; "give up": B or F
        self._interval = client.timers.t1

    @property
    def responses(self) -> list[Response]:
        """The responses that came back, in order."""
        self.client.network.settle()
        return list(self._responses)

    @property
    def statuses(self) -> list[int]:
        """The statuses that came back."""
        return [response.status for response in self.responses]

    @property
    def status(self) -> int | None:
        """The latest of them, None without one."""
        return self.statuses[-1] if self.statuses else None

    @property
    def response(self) -> Response:
        """The latest response; raises `AssertionError`, with what was exchanged, if there is none."""
        if not self.responses:
            raise AssertionError(f"no response to {self.request.method}:\n{self.client.network.ladder}")
        return self.responses[-1]

    def start(self) -> None:
        """Send it, for the first time."""
        if self.client.retransmits and self.client.transport == "UDP" and self.request.method != "ACK":
            call_later = self.client.network.clock.callLater
            self._timers["again"] = call_later(self._interval, self._send_again)
            self._timers["give up"] = call_later(self.client.timers.lifetime, self._give_up)
        self.resend()

    def resend(self) -> None:
        """Send it, once more."""
        self.client.send_octets(self.request.to_bytes())

    def ack(self, **fields: Any) -> None:
        """Acknowledge the latest final response, which has to be to an INVITE.

        For a 2xx that is a request of its own, to the remote target (13.2.2.4); otherwise one of the INVITE's
        transaction (17.1.1.3). *fields* are those of `make_request`.
        """
        response = self._final()
        if response.status < 300:
            self.send("ACK", cseq=self.request.cseq.number, **fields)
        else:
            self._hop_by_hop("ACK", to=response.headers.get("To"), **fields)

    def cancel(self, **fields: Any) -> SentRequest:
        """Send the CANCEL of this request (9.1); *fields* are those of `make_request`."""
        return self._hop_by_hop("CANCEL", **fields)

    def send(self, method: str, uri: str | None = None, **fields: Any) -> SentRequest:
        """Send a request within the dialog that the latest response made (12.2.1.1)."""
        response = self.response
        target = self._remote_target(response) if uri is None else uri
        routes = tuple(("Route", route.text) for route in reversed(response.headers.every(RecordRoute)))
        headers = (*routes, *fields.pop("headers", ()))
        return self.client.send(method, target, **{**self._identity(response), "headers": headers, **fields})

    def _identity(self, response: Response) -> dict[str, Any]:
        """Return the fields by which a request belongs to the dialog of *response*."""
        from_ = NameAddr(self.request.headers.get("From") or "")
        return {"call_id": self.request.call_id, "from_tag": from_.tag, "to": response.headers.get("To")}

    def _remote_target(self, response: Response) -> str:
        contacts = response.headers.every(Contact)
        return contacts[0].uri_text if contacts else self.request.uri_text

    def _hop_by_hop(self, method: str, **fields: Any) -> SentRequest:
        """Send a request that shares Via, From, Call-ID, CSeq number and Route with this one (9.1, 17.1.1.3)."""
        request = self.request
        routes = tuple(("Route", value) for value in request.headers.get_all("Route"))
        options = {
            "branch": request.via.branch,
            "call_id": request.call_id,
            "cseq": request.cseq.number,
            "from_tag": request.from_.tag,
            "to": request.headers.get("To"),
            "headers": routes,
            **fields,
        }
        return self.client.send(method, request.uri_text, **options)

    def _final(self) -> Response:
        if self.request.method != "INVITE":
            raise ValueError(f"a {self.request.method} is not acknowledged")
        if self.response.status < 200:
            raise AssertionError(f"no final response to acknowledge:\n{self.client.network.ladder}")
        return self.response

    # As a client transaction does

    def response_received(self, response: Response) -> None:
        """Take a response to this request."""
        self._responses.append(response)
        is_invite = self.request.method == "INVITE"
        if response.status >= 200 or is_invite:
            self._stop_timers()
        if response.status >= 200 and is_invite and self.client.acknowledges:
            self.ack()

    def _send_again(self) -> None:
        """Timer A or E fired (17.1.1.2, 17.1.2.2)."""
        is_invite, t2 = self.request.method == "INVITE", self.client.timers.t2
        in_proceeding = bool(self._responses)  # of an INVITE nothing is sent again then
        self._interval = 2 * self._interval if is_invite else t2 if in_proceeding else min(2 * self._interval, t2)
        self._timers["again"] = self.client.network.clock.callLater(self._interval, self._send_again)
        self.resend()

    def _give_up(self) -> None:
        """Timer B or F fired (17.1.1.2, 17.1.2.2)."""
        self.timed_out = True
        del self._timers["give up"]
        self._stop_timers()

    def _stop_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def __repr__(self) -> str:
        return f"<SentRequest {self.request.method} {self.statuses}>"


class _Stream(Protocol):
    """One connection of a client: cuts it into messages."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self._framer = StreamFramer()

    def send(self, octets: bytes) -> None:
        """Send *octets*."""
        assert self.transport is not None, "it is connected"
        self.transport.write(octets)

    def dataReceived(self, data: bytes) -> None:
        """Take octets as they come."""
        self._framer.receive(data)
        while (message := self._framer.next_message()) is not None:
            if message.strip():
                self._client.message_received(message, self)


class _StreamFactory(Factory):
    """Makes the connections of *client*, those that it opens and those that are opened to it."""

    noisy = False

    def __init__(self, client: FakeClient) -> None:
        self._client = client

    def buildProtocol(self, addr: object) -> _Stream:
        """See `Factory`."""
        return _Stream(self._client)
