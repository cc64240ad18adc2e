"""A caller: what the tests of calls share. A server on a clock, what it sends, and requests of the one call."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from twisted_sipuas import SIPService, UserAgentServer
from twisted_sipuas.interfaces import IRequestSender
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingFlow, make_request

CALL_ID = "Call@192.0.2.1"  # whose case counts


class Phone(UserAgentServer):
    """Takes every call, and tells in `told` what it hears; *answer* is what its handler of INVITE does instead."""

    accept = {"INVITE": ("application/sdp",)}

    def __init__(self, answer: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.answer = answer
        self.told: list[Any] = []
        self.dialogs: list[Any] = []

    def handle_INVITE(self, request: Request, transaction: Any) -> Any:
        self.dialogs.append(transaction.dialog)
        return request.response(200) if self.answer is None else self.answer(request, transaction)

    def handle_INFO(self, request: Request, transaction: Any) -> Any:
        self.told.append(("INFO", transaction.dialog))
        return request.response(200)

    def handle_ACK(self, ack: Any, dialog: Any) -> None:
        self.told.append(("ACK", dialog))

    def dialog_ended(self, dialog: Any, reason: Any) -> None:
        self.told.append((reason.value, dialog))

    @property
    def heard(self) -> Any:
        """What it was told, without the dialogs."""
        return [what for what, _ in self.told]


@implementer(IRequestSender)
class Sender:
    """Keeps what is sent by it as (request, next hop, flow, is_proven), and the `Deferred` of each response."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.pending: list[Any] = []

    def send_request(self, request: Request, next_hop: Any, flow: Any, is_proven: bool) -> Any:
        self.sent.append((request, next_hop, flow, is_proven))
        self.pending.append(Deferred())
        return self.pending[-1]

    @property
    def requests(self) -> Any:
        return [request for request, *_ in self.sent]


class Caller:
    """Calls *server* on a flow of *transport*; `sent` and `statuses` are what the server has answered."""

    def __init__(self, server: Any = None, transport: str = "UDP", **options: Any) -> None:
        self.clock = Clock()
        self.server: Any = Phone() if server is None else server
        self.service = SIPService(self.clock, self.server, **options)
        self.sender = Sender()
        self.server.use_sender(self.sender)
        self.flow = RecordingFlow(transport)
        self.number = 0
        self.to = None

    def send(self, method: str, *, flow: Any = None, **fields: Any) -> Any:
        """Send a request of the call, each of a new transaction; within the dialog once there is one."""
        self.number += 1
        options = {"branch": f"z9hG4bK{self.number}", "call_id": CALL_ID, "cseq": self.number, "to": self.to, **fields}
        self.request = make_request(method, **options)
        self.service.message_received(self.request, flow or self.flow)
        return self

    def invite(self, **fields: Any) -> Any:
        """Send an INVITE, and note the To tag of the answer, if it has one."""
        self.send("INVITE", **fields)
        self.invite_number = self.request.cseq.number
        self.hear()
        return self

    def hear(self) -> None:
        """Be in the dialog that the latest answer makes."""
        if self.flow.sent and self.last.headers.get("To", "").rpartition(";tag=")[1]:
            self.to = self.last.headers.get("To")

    def ack(self, **fields: Any) -> Any:
        """Acknowledge the 2xx to the latest INVITE."""
        return self.send("ACK", **{"cseq": self.invite_number, **fields})

    def called(self, **fields: Any) -> Any:
        """Make the call, up to the ACK."""
        return self.invite(**fields).ack()

    def step(self, seconds: float) -> Any:
        """Let time pass."""
        self.clock.pump([0.5] * int(seconds * 2))
        return self

    @property
    def last(self) -> Any:
        return self.flow.responses[-1]

    @property
    def statuses(self) -> Any:
        return [response.status for response in self.flow.responses]

    @property
    def dialog(self) -> Any:
        """The dialog that the server holds, in which the caller's next request would be."""
        request = make_request("INFO", call_id=CALL_ID, to=self.to)
        return self.server._calls.dialog_of(request)

    @property
    def is_over(self) -> Any:
        """Whether nothing of any call is left: no dialog, no timer but those of transactions."""
        counters = self.server.counters
        return not any(counters[name] for name in ("dialogs", "reserved", "unacknowledged", "handlers"))
