"""`Client`: the user agent client that the checks send from. It is polite: slow, bounded, and leaves no call behind."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from twisted_sipuas.conformance.check import Broken, NotJudged
from twisted_sipuas.conformance.draft import SDP, Draft, new_branch, offer
from twisted_sipuas.conformance.exchange import Answer, Exchange, read_answer
from twisted_sipuas.conformance.wire import Arrival, Channel, Wire
from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.fields import NameAddr
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing.ladder import Ladder, Passed, read

__all__ = ["CHALLENGES", "LONGEST_RUN", "MOST_MESSAGES", "MOST_OCTETS", "Client", "Target"]

MOST_MESSAGES = 500
"""Messages sent in one run; shortly before that nothing more is judged, and what is left up is ended."""
LONGEST_RUN = 300.0
"""Seconds that a run may take; past that nothing more is judged."""
CHALLENGES = frozenset({401, 407})
"""What is answered to who has yet to say who he is; without state, as 8.2.7 recommends."""
_KEPT_BACK = 50  # of those messages, for ending calls and removing bindings at the end
_MOST_KEPT = 100  # answers to one request, and requests of the server's
MOST_OCTETS = 16 * 1024 * 1024
"""What is received and kept in a run; what comes beyond is dropped, and nothing more is judged."""
_GAP = 0.02  # seconds between two messages of ours
_T1, _T2 = 0.5, 4.0


class Target(NamedTuple):
    """What is asked of the server, and as what it is judged."""

    role: str
    uri: str
    """The Request-URI of what a user agent or redirect server gets; for a registrar that of its domain."""
    aor: str
    """The address-of-record whose bindings a registrar is asked to change."""
    timeout: float = 2.0
    """Seconds that an answer may take."""
    user_agent: str = "twisted-sipuas conformance"


class Client:
    """A client of the server at the other end of *wire*, which is asked what *target* says.

    Checks call `send` and `ask`, and look at what came; `finish` after each of them ends what it left open: each
    final response to an INVITE gets its ACK, each call its BYE. `ladder` has every message.
    """

    def __init__(self, wire: Wire, target: Target) -> None:
        self.wire = wire
        self.target = target
        self.ladder = Ladder()
        self.sent_count = 0
        self.requests: list[Request] = []
        """What the server asked of us."""
        self.exchanges: list[Exchange] = []
        """Every request sent, with what came back."""
        self.keep_alives = 0
        """CRLFs received outside of messages."""
        self.method = "REGISTER" if target.role == "registrar" else "OPTIONS"
        """The method of a request that changes nothing, and that this server answers."""
        self.unanswered: set[str] = set()
        """Methods that this server does not answer at all."""
        self.unanswered_count = 0
        """How many requests got no response that was waited for."""
        self.is_ending = False
        """Whether what is sent now ends what a check began, which is due past the bounds of checks too."""
        self._usual: dict[str, Exchange | None] = {}
        self._channel: Channel | None = None
        self._open: list[Exchange] = []  # of the check that is being made
        self._extra: list[Channel] = []  # likewise
        self.received_octets = 0
        """Of all that came back."""
        self._started_at = wire.now()
        self._next_at = 0.0
        self._backlog: deque[Arrival] = deque(maxlen=_MOST_KEPT)  # what came while it was not time to send

    # What a check sends

    @property
    def channel(self) -> Channel:
        """The channel that is used unless a check opens another."""
        if self._channel is None or self._channel.is_closed:
            self._channel = self._opened(None)
        return self._channel

    def open(self, transport: str | None = None) -> Channel:
        """Return a new channel, which is closed after the check; raises `NotJudged` if there is none to be had."""
        channel = self._opened(transport)
        self._extra.append(channel)
        return channel

    def _opened(self, transport: str | None) -> Channel:
        try:
            return self.wire.open(transport)
        except OSError as error:
            raise NotJudged(f"no connection: {error.strerror or error}") from None

    def prepare(
        self,
        method: str | None = None,
        uri: str | None = None,
        *,
        channel: Channel | None = None,
        reword: Callable[[bytes], bytes] | None = None,
        acknowledges: bool = True,
        **fields: Any,
    ) -> Exchange:
        """Return a request that is yet to be sent, and whose answers will be known; *fields* are those of `Draft`.

        *reword* makes of its octets what the check wants the server to see.
        """
        channel = channel or self.channel
        draft = self._draft(method or self.method, uri or self.target.uri, channel, fields)
        request = draft.request()
        octets = request.to_bytes()
        octets = octets if reword is None else reword(octets)
        exchange = self._known(request, octets, channel, draft.branch, acknowledges and not draft.without)
        exchange.is_over = bool(draft.without)  # no ACK and no BYE can be made of what is not there
        return exchange

    def _draft(self, method: str, uri: str, channel: Channel, fields: dict[str, Any]) -> Draft:
        """Return a draft of which everything is new that *fields* do not say; an INVITE has an offer."""
        if method == "INVITE" and "body" not in fields:
            fields["body"] = offer(channel.local)
            fields["headers"] = (*fields.get("headers", ()), ("Content-Type", SDP))
        is_registration = self.target.role == "registrar"
        to = f"<{self.target.aor if is_registration else self.target.uri}>"
        new = {
            "to": to,
            "from_tag": secrets.token_hex(4),
            "call_id": f"{secrets.token_hex(8)}@{channel.local.host}",
            "branch": new_branch(),
            "sent_by": str(channel.local),
            "transport": channel.transport,
            "from_": to if is_registration else f"<sip:conformance@{channel.local}>",
            "user_agent": self.target.user_agent,
        }
        return Draft(method, uri, **{**new, **fields})

    def send(self, method: str | None = None, uri: str | None = None, **fields: Any) -> Exchange:
        """Send a request, and return at once; *fields* are those of `prepare`."""
        exchange = self.prepare(method, uri, **fields)
        self.transmit(exchange.octets, exchange.channel)
        return exchange

    def ask(self, method: str | None = None, uri: str | None = None, **fields: Any) -> Answer:
        """Send a request and return the final response; raises `Broken` if none comes."""
        return self.final(self.send(method, uri, **fields))

    def final(self, exchange: Exchange) -> Answer:
        """Wait for the final response to *exchange*, sending the request again by UDP; raises `Broken` without one.

        That is not for a method that the server is known not to answer, nor for an INVITE that rings.
        """
        self.wait(exchange)
        if exchange.final is not None:
            return exchange.final
        if exchange.method in self.unanswered:
            raise NotJudged(f"{exchange.method} is not answered")
        if exchange.answers:
            raise NotJudged(f"only {exchange.answers[-1].name} within {self.target.timeout:g} s")
        self.unanswered_count += 1
        raise Broken("no answer")

    def wait(self, exchange: Exchange, seconds: float | None = None, until: Callable[[], bool] = lambda: False) -> None:
        """Wait for the final response to *exchange*, or what makes *until* true, but no longer than *seconds*.

        By UDP the request is sent again until there is any response (17.1.1.2, 17.1.2.2).
        """
        end = self.wire.now() + (self.target.timeout if seconds is None else seconds)
        interval = _T1

        def is_over() -> bool:
            return exchange.final is not None or until()

        while not is_over() and (left := end - self.wire.now()) > 0:
            self.gather(min(interval, left), until=is_over)
            if not is_over() and not exchange.answers and left > interval:
                if exchange.channel.transport == "UDP":
                    exchange.sent_count += 1
                    self.transmit(exchange.octets, exchange.channel, "again")
                interval = min(2 * interval, _T2)

    def gather(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Take what comes within *seconds*, or before something came that makes *until* true."""
        end = self.wire.now() + seconds
        while not until():
            if self._backlog:
                self._take(self._backlog.popleft())
            elif (left := end - self.wire.now()) > 0:
                arrival = self.wire.receive(left)
                if arrival is not None:
                    self._take(arrival)
            else:
                return

    def resend(self, exchange: Exchange) -> list[Answer]:
        """Send the request of *exchange* again, and return what comes for it next; raises `Broken` if nothing does."""
        before = len(exchange.answers)

        def is_answered() -> bool:
            return len(exchange.answers) > before

        self.insist(exchange, is_answered)
        if len(exchange.answers) == before:
            raise Broken(f"no answer to {exchange.method} sent again")
        return exchange.answers[before:]

    def insist(self, exchange: Exchange, until: Callable[[], bool]) -> None:
        """Send the request of *exchange*, by UDP again and again, until something came that makes *until* true."""
        end, interval = self.wire.now() + self.target.timeout, _T1
        while not until() and (left := end - self.wire.now()) > 0:
            exchange.sent_count += 1
            self.transmit(exchange.octets, exchange.channel)
            self.gather(min(interval, left) if exchange.channel.transport == "UDP" else left, until)
            interval = min(2 * interval, _T2)

    def settle(self, seconds: float = 0.0) -> None:
        """Take what was on its way as the server got what was sent last, and what comes within *seconds* after that."""
        self.gather(self.round_trip + seconds)

    def transmit(self, octets: bytes, channel: Channel, note: str = "") -> None:
        """Send *octets* as they are, once it is time for another message; raises `NotJudged` past the bounds."""
        if self.sent_count >= (MOST_MESSAGES if self.is_ending else MOST_MESSAGES - _KEPT_BACK):
            raise NotJudged("the run has reached its bound")
        is_over = self.wire.now() - self._started_at >= LONGEST_RUN or self.received_octets > MOST_OCTETS
        if is_over and not self.is_ending:
            raise NotJudged("the run has reached its bound")
        self._pause()
        self._next_at = self.wire.now() + _GAP
        self.sent_count += 1
        self._note(octets, channel, is_ours=True, note=note)
        channel.send(octets)

    # What belongs to an INVITE

    def ack(self, exchange: Exchange, answer: Answer | None = None) -> None:
        """Send the ACK for the final response to the INVITE *exchange*: a request of its own for a 2xx (13.2.2.4)."""
        answer = answer or exchange.final
        assert answer is not None
        exchange.is_acknowledged = True
        if answer.status < 300:
            self.transmit(self.within(exchange, "ACK").octets, exchange.channel)
            return
        ack = _on_branch(exchange.request, "ACK", _on_one_line(answer.headers.get("To") or ""))
        self.transmit(ack.to_bytes(), exchange.channel)

    def cancel(self, exchange: Exchange, headers: Sequence[tuple[str, str]] = ()) -> Exchange:
        """Send the CANCEL of *exchange* (9.1), and return at once."""
        cancel = _on_branch(exchange.request, "CANCEL", None, headers)
        sent = self._known(cancel, cancel.to_bytes(), exchange.channel, exchange.branch, True)
        self.transmit(sent.octets, exchange.channel)
        return sent

    def within(self, exchange: Exchange, method: str, *, cseq: int | None = None, **fields: Any) -> Exchange:
        """Prepare a request within the dialog that the answer to the INVITE *exchange* made (12.2.1.1)."""
        answer = exchange.final or exchange.provisional
        assert answer is not None
        number = exchange.request.cseq.number + (0 if method == "ACK" else 1)
        routes = [("Route", _on_one_line(value)) for value in reversed(answer.values("Record-Route"))]
        fields["headers"] = (*routes, *fields.get("headers", ()))
        return self.prepare(
            method,
            self._remote_target(answer),
            channel=exchange.channel,
            to=_on_one_line(answer.headers.get("To") or ""),
            from_=exchange.request.from_.text.partition(";tag=")[0],
            from_tag=exchange.request.from_.tag,
            call_id=exchange.request.call_id,
            cseq=number if cseq is None else cseq,
            **fields,
        )

    def call(self, **fields: Any) -> Exchange:
        """Return an INVITE that was answered 2xx, and acknowledged; raises `NotJudged` if the answer was another."""
        exchange = self.send("INVITE", **fields)
        answer = self.final(exchange)
        if answer.status >= 300:
            raise NotJudged(f"INVITE was answered {answer.name}")
        return exchange

    # What is usual

    def usual(self, method: str) -> Answer:
        """Return the answer to a plain request of *method*, asked for once; raises `NotJudged` if there was none."""
        exchange = self.specimen(method)
        if exchange is None or exchange.final is None:
            raise NotJudged(f"{method} got no final response")
        return exchange.final

    def specimen(self, method: str) -> Exchange | None:
        """Return a plain request of *method*, with what came back for it; None if that was nothing final.

        It has a Via of somebody whom it would have passed, so that there is something to be copied.
        """
        if method not in self._usual and method not in self.unanswered:
            exchange = self.send(method, vias=("SIP/2.0/TCP proxy.example.com:5070;branch=z9hG4bKpassed",))
            self.wait(exchange)
            self._usual[method] = exchange if exchange.final is not None else None
        return self._usual.get(method)

    @property
    def specimens(self) -> list[Exchange]:
        """Plain requests of every method that is judged, with their final responses; raises `NotJudged` for none."""
        methods = [self.method] if self.target.role == "registrar" else [self.method, "INVITE"]
        found = [found for method in dict.fromkeys(methods) if (found := self.specimen(method)) is not None]
        if not found:
            raise NotJudged("nothing got a final response")
        return found

    def expect_usual(self, answer: Answer, method: str | None = None) -> None:
        """Raise `Broken` unless *answer* has the status that a plain request of *method* gets."""
        usual = self.usual(method or self.method)
        if answer.status != usual.status:
            raise Broken(f"{answer.name}, where a plain {method or self.method} gets {usual.name}")

    def expect_refusal(self, answer: Answer, status: int, what: str) -> None:
        """Raise `Broken` unless *answer*, which is to *what*, has *status*.

        Who is asking is looked at before what is asked for (8.2), so `NotJudged` is raised for a challenge, and for
        what every plain request gets: there the server did not come to where *status* is due.
        """
        if answer.status == status:
            return
        if answer.status in CHALLENGES:
            raise NotJudged(f"{what} got {answer.name}")
        if answer.status >= (400 if self.target.role == "redirect" else 300):
            for specimen in self.specimens:
                if specimen.final is not None and specimen.final.status == answer.status:
                    raise NotJudged(f"{what} got {answer.name}, as a plain {specimen.method} does")
        raise Broken(f"{what} got {answer.name}")

    def expect_transaction(self, answer: Answer) -> None:
        """Raise `NotJudged` if *answer* is one that even a server with transactions may give without (8.2.7)."""
        if answer.status in CHALLENGES:
            raise NotJudged(f"INVITE got {answer.name}, which may be sent without a transaction")

    @property
    def round_trip(self) -> float:
        """The seconds that the quickest answer so far took: the way to the server and back is no longer."""
        taken = [
            one.answers[0].time - one.sent_at
            for one in self.exchanges
            if one.answers and one.method != "CANCEL" and one.has_call_id_of(one.answers[0])
        ]
        return max(0.0, min(taken, default=0.0))

    # The end of a check

    def finish(self) -> None:
        """End what the check has left open: cancel, acknowledge and end its calls."""
        was_ending, self.is_ending = self.is_ending, True
        try:
            for exchange in tuple(self._open):  # ending one opens others
                exchange.acknowledges = True
                if exchange.method == "INVITE" and exchange.answers and not exchange.is_over:
                    self._end(exchange)
        finally:
            self.is_ending = was_ending
            self._open.clear()
            for channel in self._extra:
                channel.close()
            self._extra.clear()

    def _end(self, exchange: Exchange) -> None:
        exchange.is_over = True
        if exchange.final is None:
            self.cancel(exchange)
            self.wait(exchange, self.target.timeout)
        if exchange.final is None:
            return
        if not exchange.is_acknowledged:
            self.ack(exchange)
        if exchange.final.status < 300:
            bye = self.within(exchange, "BYE", cseq=exchange.request.cseq.number + 100)
            self.transmit(bye.octets, bye.channel)
            self.wait(bye)

    # Inside

    def _pause(self) -> None:
        """Wait until it is time for another message; what comes meanwhile is taken later, for it may want an ACK."""
        while (left := self._next_at - self.wire.now()) > 0:
            arrival = self.wire.receive(left)
            if arrival is not None:
                self._backlog.append(arrival)

    def _known(self, request: Request, octets: bytes, channel: Channel, branch: str, acknowledges: bool) -> Exchange:
        exchange = Exchange(request, octets, channel, branch, self.wire.now(), acknowledges=acknowledges)
        self.exchanges.append(exchange)
        self._open.append(exchange)
        return exchange

    def _remote_target(self, answer: Answer) -> str:
        try:
            return str(NameAddr(answer.headers.values("Contact")[0]).uri)
        except (IndexError, MessageSyntaxError):
            return self.target.uri

    def _take(self, arrival: Arrival) -> None:
        """Take note of what came, and send the ACK that is due by itself."""
        if not arrival.octets.strip(b"\r\n"):
            self.keep_alives += 1
            return
        self.received_octets += len(arrival.octets)
        if self.received_octets > MOST_OCTETS and not self.is_ending:
            return
        self._note(arrival.octets, arrival.channel, is_ours=False)
        answer = read_answer(arrival.octets, self.wire.now(), arrival.channel, arrival.source)
        if answer is None:
            self._take_request(arrival)
            return
        exchange = self._asked(answer)
        if exchange is None:
            return
        if len(exchange.answers) < _MOST_KEPT:
            exchange.answers.append(answer)
        if exchange not in self._open:
            self._open.append(exchange)  # of a check before: a call that is answered late has to be ended too
        if exchange.method == "INVITE" and answer.is_final and exchange.acknowledges:
            self.ack(exchange, answer)

    def _asked(self, answer: Answer) -> Exchange | None:
        """Return what *answer* is for: what has its branch and method, else its Call-ID and method, else its branch."""
        latest_first = self.exchanges[::-1]
        for belongs in (Exchange.is_answered_by, Exchange.has_call_id_of, Exchange.has_branch_of):
            for exchange in latest_first:
                if belongs(exchange, answer):
                    return exchange
        return None

    def _take_request(self, arrival: Arrival) -> None:
        """Take note of a request of the server's, and answer it 200, that it may not be sent again."""
        message = read(arrival.octets)
        if isinstance(message, Request) and len(self.requests) < _MOST_KEPT:
            self.requests.append(message)
            if message.method != "ACK":
                self.transmit(message.response(200).to_bytes(secrets.token_hex(4)), arrival.channel)

    def _note(self, octets: bytes, channel: Channel, *, is_ours: bool, note: str = "") -> None:
        ends = (channel.local, self.wire.server) if is_ours else (self.wire.server, channel.local)
        time = self.wire.now() - self._started_at
        self.ladder.add(Passed(time, *ends, channel.transport, read(octets), note))


def _on_branch(request: Request, method: str, to: str | None, headers: Sequence[tuple[str, str]] = ()) -> Request:
    """Return the ACK for a refusal of *request*, or its CANCEL: with its topmost Via, From and Call-ID."""
    rows = [
        ("Via", request.headers.values("Via")[0]),
        ("Max-Forwards", "70"),
        ("From", request.headers.get("From") or ""),
        ("To", to or request.headers.get("To") or ""),
        ("Call-ID", request.call_id),
        ("CSeq", f"{request.cseq.number} {method}"),
        *headers,
    ]
    return Request(method, request.uri_text, rows)


def _on_one_line(text: str) -> str:
    """Return what a server put into a header field as it may go into one of ours."""
    return "".join(" " if character in "\r\n\0" else character for character in text)
