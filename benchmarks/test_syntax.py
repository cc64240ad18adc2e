"""How long does it take to parse an INVITE, and to build the 302 for it?

    pip install -e '.[bench]' && python -m pytest benchmarks

Times depend on the machine, so each is also given as a multiple of a yardstick: one `re.compile(rb"a").match(b"a")`,
the look-up of the compiled pattern included.
The aims are 80 yardsticks for the parse and 40 for the response. Twisted's own `twisted.protocols.sip`, which is for
RFC 2543 and does far less, parses the same message in the same run.
"""

from __future__ import annotations

import re
import timeit
from collections.abc import Callable
from typing import Any

import pytest
from twisted.protocols.sip import MessagesParser

from twisted_sipuas.syntax.framing import StreamFramer
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message

BODY = (
    b"v=0\r\no=alice 2890844526 2890844526 IN IP4 192.0.2.101\r\ns=-\r\nc=IN IP4 192.0.2.101\r\nt=0 0\r\n"
    b"m=audio 49172 RTP/AVP 0\r\n"
)
INVITE = (
    b"INVITE sip:bob@biloxi.example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP client.atlanta.example.com:5060;branch=z9hG4bK74bf9;rport\r\n"
    b"Max-Forwards: 70\r\n"
    b"From: Alice <sip:alice@atlanta.example.com>;tag=9fxced76sl\r\n"
    b"To: Bob <sip:bob@biloxi.example.com>\r\n"
    b"Call-ID: 3848276298220188511@atlanta.example.com\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@client.atlanta.example.com;transport=udp>\r\n"
    b"User-Agent: Example/1.0\r\n"
    b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS\r\n"
    b"Supported: replaces, timer\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


@pytest.fixture(scope="module")
def yardstick() -> float:
    """Seconds that the yardstick takes on this machine, now."""
    return min(timeit.repeat(lambda: re.compile(rb"a").match(b"a"), number=20_000, repeat=9)) / 20_000


@pytest.fixture
def measure(benchmark: Any, yardstick: float, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return what measures a callable, and says its time in yardsticks."""

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        result = benchmark.pedantic(function, arguments, rounds=200, iterations=100, warmup_rounds=5)
        multiple = benchmark.stats.stats.min / yardstick
        benchmark.extra_info["yardsticks"] = round(multiple, 1)
        with capsys.disabled():
            print(f"\n{benchmark.name}: {benchmark.stats.stats.min * 1e6:.2f} µs, {multiple:.1f} yardsticks")
        return result

    return run


def test_parse(measure: Callable[..., Any]) -> None:
    """An INVITE of 600 octets and 12 header fields, so far that a stateless UAS can answer it."""
    request = measure(parse_message, INVITE)
    assert request.cseq.method == "INVITE"


def test_build(measure: Callable[..., Any]) -> None:
    """The 302 for it, as it goes on the wire."""
    request = parse_message(INVITE)
    assert isinstance(request, Request)

    def build() -> bytes:
        return request.response(302, contacts=["sip:bob@192.0.2.4"]).to_bytes("a6c85cf7")

    assert measure(build).startswith(b"SIP/2.0 302 ")


def test_frame(measure: Callable[..., Any]) -> None:
    """The same INVITE cut out of a stream."""
    framer = StreamFramer()

    def frame() -> bytes | None:
        framer.receive(INVITE)
        return framer.next_message()

    assert measure(frame) == INVITE


def test_twisted_protocols_sip(measure: Callable[..., Any]) -> None:
    """The same INVITE by Twisted's own parser."""
    parsed: list[Any] = []

    def parse() -> None:
        parsed.clear()
        parser = MessagesParser(parsed.append)
        parser.dataReceived(INVITE)
        parser.dataDone()

    measure(parse)
    assert parsed[0].method == "INVITE"
