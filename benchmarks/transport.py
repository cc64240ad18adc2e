"""How much of a request's time is the UDP transport's?

    python benchmarks/transport.py

Each server runs in a process of its own and answers every datagram with the same octets, over loopback; one client
sends bursts and waits for the answers. What is compared is the server's processor time per request, as the kernel
accounts it, so a busy machine changes it little.

ours             a request is read, stamped (RFC 3261, 18.2.1) and routed, and the answer sent; in place of parsing
                 it, the same one is taken again and again
ours, wildcard   the same on 0.0.0.0, where each datagram's destination is asked for and answered from
ours, parsing    the same as ours, and the request is parsed
stock Twisted    a `DatagramProtocol` that sends the octets back
socket loop      `recvfrom` and `sendto` in a loop

The aim is that ours takes less than stock Twisted. A second table says how late a timer is while datagrams of 0 and 4
octets come as fast as one process can send them; the aim is 10 ms.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from typing import Any

ROUNDS = 3
SECONDS = 2.0
BURST = 64

REQUEST = (
    b"OPTIONS sip:bob@biloxi.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.4:5060;branch=z9hG4bK74bf9;rport\r\n"
    b"Max-Forwards: 70\r\n"
    b"From: Alice <sip:alice@atlanta.example.com>;tag=9fxced76sl\r\n"
    b"To: Bob <sip:bob@biloxi.example.com>\r\n"
    b"Call-ID: 3848276298220188511@atlanta.example.com\r\n"
    b"CSeq: 1 OPTIONS\r\n"
    b"Contact: <sip:alice@client.atlanta.example.com;transport=udp>\r\n"
    b"User-Agent: Example/1.0\r\n"
    b"Content-Length: 0\r\n\r\n"
)
ANSWER = b"x" * 400


# The servers, each in a child process


def serve_socket_loop() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        print(server.getsockname()[1], flush=True)
        while True:
            _, address = server.recvfrom(65535)
            server.sendto(ANSWER, address)


def serve_stock() -> None:
    from twisted.internet import reactor
    from twisted.internet.interfaces import IReactorUDP, IUDPTransport
    from twisted.internet.protocol import DatagramProtocol

    class Stock(DatagramProtocol):
        transport: IUDPTransport

        def datagramReceived(self, data: bytes, addr: Any) -> None:
            self.transport.write(ANSWER, addr)

    port: Any = IReactorUDP(reactor).listenUDP(0, Stock(), "127.0.0.1", maxPacketSize=65535)
    print(port.getHost().port, flush=True)
    reactor.run()


def serve_ours(interface: str = "127.0.0.1", with_parsing: bool = False) -> None:
    from twisted.internet import reactor
    from zope.interface import implementer

    from twisted_sipuas.interfaces import IMessageReceiver
    from twisted_sipuas.transport import udp
    from twisted_sipuas.transport.routing import response_route, stamp

    if not with_parsing:
        udp.parse_message = copier(REQUEST)  # type: ignore[attr-defined]  # it is imported there

    @implementer(IMessageReceiver)
    class Receiver:
        def message_received(self, message: Any, flow: Any) -> None:
            stamp(message, flow)
            response_route(message, flow).send(ANSWER)

        def syntax_error_received(self, error: Any, flow: Any) -> None:
            """The floods of the second table."""

        def sending_failed(self, octets: bytes, flow: Any) -> None:
            """The client of the last round is gone."""

    protocol = udp.SIPDatagramProtocol(Receiver())
    port = udp.datagram_port(interface)(0, protocol, interface, udp.MAX_DATAGRAM, reactor)
    port.startListening()
    print(port.getHost().port, flush=True)
    reactor.run()


def serve_wildcard() -> None:
    serve_ours("0.0.0.0")


def serve_parsing() -> None:
    serve_ours(with_parsing=True)


def copier(data: bytes) -> Any:
    """Return what takes the place of `parse_message`: always the same request, with its Via as it was received."""
    from twisted_sipuas.syntax.parsing import parse_message

    parsed: Any = parse_message(data)
    via, rows, index = parsed.via, parsed.headers._rows, parsed.headers._index["via"]
    text, parameters, row = via.text, via.parameters, rows[0]

    def copy(data: bytes, max_uri: int) -> Any:
        parameters.pop("received", None)
        via.text = index[0] = text
        rows[0] = row
        return parsed

    return copy


def measure_timer_delay() -> None:
    """Print the port, and then each second the longest delay of a timer that is due every millisecond, in ms."""
    from twisted.internet import reactor, task

    worst = 0.0
    due = reactor.seconds() + 0.001

    def tick() -> None:
        nonlocal due, worst
        now = reactor.seconds()
        worst, due = max(worst, now - due), now + 0.001
        reactor.callLater(0.001, tick)

    def tell() -> None:
        nonlocal worst
        print(worst * 1000, flush=True)
        worst = 0.0

    reactor.callLater(0.001, tick)
    task.LoopingCall(tell).start(1.0, now=False)
    serve_ours()


KINDS = {
    "ours": serve_ours,
    "ours, wildcard": serve_wildcard,
    "ours, parsing": serve_parsing,
    "stock Twisted": serve_stock,
    "socket loop": serve_socket_loop,
    "timer": measure_timer_delay,
}


# The client


def pin(core: int) -> None:
    """Keep this process on *core*, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


def start(kind: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, kind], stdout=subprocess.PIPE, text=True)


def line_of(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline()


def processor_time(pid: int) -> float:
    """Microseconds that the process has run."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as account:
        return int(account.read().split()[0]) / 1000


def answered(client: socket.socket, seconds: float) -> int:
    """Send bursts for *seconds*; return how many datagrams were answered."""
    send, receive = client.send, client.recv
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(BURST):
            send(REQUEST)
        try:
            for _ in range(BURST):
                receive(2048)
                count += 1
        except BlockingIOError:  # one was lost
            pass
    return count


def microseconds_per_request(kind: str) -> float:
    with start(kind) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
        client.connect(("127.0.0.1", int(line_of(server))))
        answered(client, 0.3)
        before = processor_time(server.pid)
        count = answered(client, SECONDS)
        spent = processor_time(server.pid) - before
        server.kill()
    return spent / count


def timer_delay(data: bytes) -> float:
    """Milliseconds that a timer is late while *data* floods the port; the longest within three seconds."""
    with start("timer") as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", int(line_of(server))))
        end = time.monotonic() + 4.2
        while time.monotonic() < end:
            for _ in range(BURST):
                try:
                    client.send(data)
                except BlockingIOError:
                    pass
        delays = [float(line_of(server)) for _ in range(4)]
        server.kill()
    return max(delays[1:])


def main() -> None:
    pin(1)
    kinds = ("ours", "ours, wildcard", "ours, parsing", "stock Twisted", "socket loop")
    figures: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind in kinds:
            figures[kind].append(microseconds_per_request(kind))
    stock = statistics.median(figures["stock Twisted"])
    print(f"{'':18} {'µs a request':>12} {'spread':>14} {'of stock':>9}")
    for kind, values in figures.items():
        median = statistics.median(values)
        print(f"{kind:18} {median:12.2f} {min(values):6.2f} - {max(values):5.2f} {median / stock:8.0%}")
    print(f"\n{'flood of':18} {'ms a timer is late, at most':>28}")
    for data in (b"", b"\r\n\r\n", b"\x00"):
        print(f"{len(data)} octets{'':10} {timer_delay(data):28.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        pin(0)
        KINDS[sys.argv[1]]()
    else:
        main()
