"""A `Wire` to a server on a virtual network, and what may be wrong with the server at its other end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.protocol import Factory, Protocol

from twisted_sipuas import Address
from twisted_sipuas.conformance import Arrival
from twisted_sipuas.conformance.wire import StreamReader
from twisted_sipuas.testing import VirtualNetwork
from twisted_sipuas.testing.sockets import connect

SERVER = Address("198.51.100.1", 5060)
HOST = "192.0.2.1"
_A_MOMENT = 1e-9  # seconds: to be past a deadline, whatever floats make of it


@dataclass
class Fault:
    """What becomes of a message on its way; what a server would do that has this fault.

    `reply` is what a request gets in place of the server's response, None for nothing else; `to_server` is what the
    server sees of it, None for nothing; `to_client` is what the client sees of a response.
    """

    reply: Callable[[str], str | None] = lambda text: None
    to_server: Callable[[str], str | None] = lambda text: text
    to_client: Callable[[str], list[str]] = lambda text: [text]
    is_misdirected: bool = False
    """Whether responses arrive at the channel that the client used before."""
    port: int = SERVER.port
    """The port that responses come from."""
    listens_by_tcp: bool = True
    closes: bool = False
    """Whether a connection ends with the first response on it."""


# What the server sends


def altered(pattern: str, replacement: str, *, of: str = "") -> Fault:
    """Responses in which *of* is found have *replacement* for *pattern*."""

    def change(text: str) -> list[str]:
        return [re.sub(pattern, replacement, text, flags=re.DOTALL) if _has(of, text) else text]

    return Fault(to_client=change)


def without(name: str, *, of: str = "") -> Fault:
    """Responses lack the header field *name*."""
    return altered(rf"\r\n{name}: [^\r]*", "", of=of)


def with_row(row: str) -> Fault:
    """Responses have the header field *row* besides."""
    return altered(r"\r\nTo: ", rf"\r\n{row}\r\nTo: ")


def status(before: str, after: str, *, of: str = "") -> Fault:
    """Responses of status *before* have the status line *after*."""
    return altered(rf"^SIP/2.0 {before}[^\r]*", f"SIP/2.0 {after}", of=of)


def preceded(line: str) -> Fault:
    """Before each response there is another like it, with the status *line*."""
    return Fault(to_client=lambda text: [re.sub(r"^SIP/2.0 [^\r]*", f"SIP/2.0 {line}", text), text])


def followed(request: str) -> Fault:
    """After each response the server sends *request*, with what else it takes."""
    rows = "Via: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x"
    return Fault(
        to_client=lambda text: (
            [text, f"{request} sip:you SIP/2.0\r\n{rows}\r\nCSeq: 1 {request}\r\n\r\n"]
            if text.startswith("SIP/2.0")
            else [text]
        )
    )


def doubled(of: str = "") -> Fault:
    """Each response in which *of* is found is sent twice."""
    return Fault(to_client=lambda text: [text, text] if _has(of, text) else [text])


def fresh_tags() -> Fault:
    """Each response has another To tag."""
    count = Counter[str]()

    def change(text: str) -> list[str]:
        count["tag"] += 1
        return [re.sub(r"(\r\nTo: [^\r]*;tag=)\w+", rf"\g<1>fresh{count['tag']}", text)]

    return Fault(to_client=change)


def once(of: str = "") -> Fault:
    """No response is sent a second time."""
    return late(0, 1, of)


def late(first: int, end: int = 1000, of: str = "") -> Fault:
    """Of the responses to one request, those from number *first* to *end* are sent and no others."""
    count = Counter[str]()

    def pass_on(text: str) -> list[str]:
        if not _has(of, text):
            return [text]
        found = re.search(r"branch=(\w+)", text)
        key = (found[1] if found else "") + text[:12] + "".join(re.findall(r"\r\nCSeq: [^\r]*", text))
        count[key] += 1
        return [text] if first < count[key] <= end else []

    return Fault(to_client=pass_on)


def changed_after(request: str, before: str, after: str) -> Fault:
    """Once a *request* has come, responses of status *before* have the status line *after*."""
    seen: list[str] = []

    def watch(text: str) -> str:
        if text.startswith(request):
            seen.append(text)
        return text

    def change(text: str) -> list[str]:
        return [re.sub(rf"^SIP/2.0 {before}[^\r]*", f"SIP/2.0 {after}", text) if seen else text]

    return Fault(to_server=watch, to_client=change)


# What the server makes of a request


def replies(line: str, of: str) -> Fault:
    """Requests in which *of* is found get a response with the status *line*."""
    return Fault(reply=lambda text: _response(text, line) if _has(of, text) else None)


def ignores(of: str) -> Fault:
    """Requests in which *of* is found are not seen."""
    return Fault(to_server=lambda text: None if _has(of, text) else text)


def reads(pattern: str, replacement: str) -> Fault:
    """Requests are understood as if they had *replacement* for *pattern*."""
    return Fault(to_server=lambda text: re.sub(pattern, replacement, text, flags=re.DOTALL))


def matches_by_branch_alone() -> Fault:
    """A request with the branch of another is taken for that."""
    seen: dict[str, str] = {}

    def pass_on(text: str) -> str | None:
        branch, call_id = (re.search(rf"{name}([^;\r]+)", text) for name in ("branch=", "\r\nCall-ID: "))
        assert branch is not None
        assert call_id is not None
        return text if seen.setdefault(branch[1], call_id[1]) == call_id[1] else None

    return Fault(to_server=pass_on)


def both(one: Fault, other: Fault) -> Fault:
    """The server sees requests as by *one*, and the client responses as by *other*."""
    return Fault(to_server=one.to_server, to_client=other.to_client)


def _has(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.DOTALL) is not None


def _response(request: str, line: str) -> str:
    """Return a response to *request*, which may be no valid one."""
    head = re.sub(r"\r\n[ \t]+", " ", request.partition("\r\n\r\n")[0])
    wanted = {"via", "v", "from", "f", "to", "t", "call-id", "i", "cseq"}
    rows = [row for row in head.split("\r\n") if row.partition(":")[0].strip().lower() in wanted]
    rows = [f"{row};tag=faulty" if _has(r"^(?:To|t)\s*:(?!.*tag)", row) else row for row in rows]
    return "\r\n".join([f"SIP/2.0 {line}", *rows, "Content-Length: 0", "", ""])


class _Channel:
    """A socket on the virtual network."""

    def __init__(self, wire: VirtualWire, local: Address, transport: str) -> None:
        self.wire, self.local, self.transport = wire, local, transport
        self.is_closed = False
        self.reader = StreamReader()
        self.connection = None
        if transport == "UDP":
            wire.network.bind(local, lambda octets, source: wire.received(self, octets))
            return
        listener = wire.network.listener(SERVER)
        if listener is None or not wire.fault.listens_by_tcp:
            raise ConnectionRefusedError(111, "Connection refused")
        self.connection = connect(wire.network, local, _Connecting(self), SERVER, listener)

    def send(self, octets: bytes) -> None:
        self.wire.sent(self, octets)

    def close(self) -> None:
        self.is_closed = True
        if self.connection is not None:
            self.connection.loseConnection()
        else:
            self.wire.network.bind(self.local, lambda octets, source: None)


class _Connected(Protocol):
    """The client's end of a connection."""

    def __init__(self, channel: _Channel) -> None:
        self.channel = channel

    def dataReceived(self, data: bytes) -> None:
        self.channel.reader.receive(data)
        while (message := self.channel.reader.next_message()) is not None:
            self.channel.wire.received(self.channel, message)

    def connectionLost(self, reason: object = None) -> None:
        self.channel.is_closed = True


class _Connecting(Factory):
    def __init__(self, channel: _Channel) -> None:
        self.channel = channel

    def buildProtocol(self, addr: object) -> _Connected:
        return _Connected(self.channel)


class VirtualWire:
    """A `Wire` to the server at `SERVER` on *network*, which has *fault*."""

    server = SERVER

    def __init__(self, network: VirtualNetwork, transport: str, fault: Fault | None = None) -> None:
        self.network, self.transport = network, transport
        self.fault = fault or Fault()
        self.channels: list[_Channel] = []
        self._arrived: list[Arrival] = []

    def now(self) -> float:
        return self.network.clock.seconds()

    def open(self, transport: str | None = None) -> _Channel:
        channel = _Channel(self, self.network.free_port(HOST), transport or self.transport)
        self.channels.append(channel)
        return channel

    def receive(self, seconds: float) -> Arrival | None:
        end = self.now() + seconds
        self.network.settle()
        while not self._arrived and (left := end - self.now()) > 0:
            due = min((call.getTime() for call in self.network.clock.getDelayedCalls()), default=end)
            self.network.step(max(0.0, min(due - self.now(), left)) + _A_MOMENT)
        return self._arrived.pop(0) if self._arrived else None

    def close(self) -> None:
        for channel in self.channels:
            channel.close()

    def sent(self, channel: _Channel, octets: bytes) -> None:
        """Octets come from the client."""
        text = octets.decode("latin-1")
        reply = self.fault.reply(text)
        if reply is not None:
            self._arrived.append(Arrival(channel, reply.encode("latin-1"), SERVER))
            return
        seen = self.fault.to_server(text)
        if seen is None:
            return
        if channel.connection is not None:
            channel.connection.write(seen.encode("latin-1"))
        else:
            self.network.carry_datagram(seen.encode("latin-1"), channel.local, SERVER)

    def received(self, channel: _Channel, octets: bytes) -> None:
        """Octets come from the server."""
        if self.fault.is_misdirected:
            channel = self._another(channel)
        if channel.is_closed:
            return
        for text in self.fault.to_client(octets.decode("latin-1")):
            source = Address(SERVER.host, self.fault.port)
            self._arrived.append(Arrival(channel, text.encode("latin-1"), source))
        if self.fault.closes:
            channel.close()

    def _another(self, channel: _Channel) -> _Channel:
        """Return the other of the two channels that a check opened, if it has."""
        open_ = [one for one in self.channels if not one.is_closed]
        return open_[open_.index(channel) - 1] if len(open_) > 2 and channel in open_[-2:] else channel
