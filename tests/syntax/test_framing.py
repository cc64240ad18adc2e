"""Where does one message of a stream end, whatever pieces its bytes come in, and when is it no SIP at all?"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.framing import KEEP_ALIVE, StreamFramer
from twisted_sipuas.syntax.parsing import parse_message

HEAD = (
    b"MESSAGE sip:bob@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/TCP h;branch=z9hG4bKx\r\n"
    b"From: <sip:a@b>;tag=1\r\n"
    b"To: <sip:bob@example.com>\r\n"
    b"Call-ID: x\r\n"
    b"CSeq: 1 MESSAGE\r\n"
)
NEXT = b"SIP/2.0 200 OK\r\nl: 3\r\n\r\n\r\n\r"

Feeder = Callable[..., list[bytes]]


def message(*lines: str, body: bytes = b"") -> bytes:
    """Return a request with these further header *lines*."""
    return HEAD + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def drain(framer: StreamFramer) -> list[bytes]:
    """Return the messages that are whole."""
    messages = []
    while (found := framer.next_message()) is not None:
        messages.append(found)
    return messages


def feed_whole(data: bytes, **bounds: int) -> list[bytes]:
    """All in one piece."""
    framer = StreamFramer(**bounds)
    framer.receive(data)
    return drain(framer)


def feed_byte_by_byte(data: bytes, **bounds: int) -> list[bytes]:
    """Every octet on its own."""
    framer = StreamFramer(**bounds)
    messages = []
    for position in range(len(data)):
        framer.receive(data[position : position + 1])
        messages += drain(framer)
    return messages


def feed_with_trailing_bytes(data: bytes, **bounds: int) -> list[bytes]:
    """In one piece with the beginning of another message, which must survive."""
    framer = StreamFramer(**bounds)
    framer.receive(data + NEXT[:-2])
    messages = drain(framer)
    assert framer.is_mid_message
    framer.receive(NEXT[-2:])
    assert drain(framer) == [NEXT]
    return messages


def refused(framer: StreamFramer, data: bytes) -> tuple[int, MessageSyntaxError]:
    """Return how many octets of *data*, fed one by one, it took until they were refused, and why."""
    for taken in range(1, len(data) + 1):
        framer.receive(data[taken - 1 : taken])
        try:
            drain(framer)
        except MessageSyntaxError as error:
            return taken, error
    pytest.fail("it was not refused")


@pytest.fixture(params=[feed_whole, feed_byte_by_byte, feed_with_trailing_bytes], ids=lambda feed: feed.__name__)
def feed(request: pytest.FixtureRequest) -> Feeder:
    """A function that feeds bytes to a new framer and returns the messages that come out."""
    feeder: Feeder = request.param
    return feeder


@pytest.fixture(params=[feed_whole, feed_byte_by_byte], ids=lambda feed: feed.__name__)
def feed_fault(request: pytest.FixtureRequest) -> Callable[..., MessageSyntaxError]:
    """A function that feeds bytes which cannot be framed, and returns the error."""

    def fault(data: bytes, **bounds: int) -> MessageSyntaxError:
        with pytest.raises(MessageSyntaxError) as caught:
            request.param(data, **bounds)
        return caught.value

    return fault


@pytest.mark.requirement("18.3-6")
@pytest.mark.parametrize(
    "data",
    {
        "no body": message("Content-Length: 0"),
        "body": message("Content-Length: 4", body=b"body"),
        "body like a message": message(f"Content-Length: {len(HEAD) + 2}", body=HEAD + b"\r\n"),
        "body like a ping": message("Content-Length: 4", body=b"\r\n\r\n"),
        "binary body": message("Content-Length: 4", body=b"\0\r\xff\n"),
        "compact": message("l: 4", body=b"body"),
        "another case": message("CONTENT-LENGTH \t: \t4 \t", body=b"body"),
        "first header field": b"OPTIONS sip:a SIP/2.0\r\nL:1\r\nTo: x\r\n\r\nb",
        "folded": message("Content-Length:\r\n 4", body=b"body"),
        "folded twice": message("Content-Length\r\n\t:\r\n \r\n 4\r\n\t", body=b"body"),
        "folded compact": message("l:\r\n\t4", body=b"body"),
        "another field folded": message("Subject: x\r\n Content-Length: 9", "l: 4", body=b"body"),
        "twice the same": message("Content-Length: 4", "l: 004", body=b"body"),
        "response": b"SIP/2.0 200 \r\nl: 1\r\n\r\nb",
        "version in lower case": b"OPTIONS sip:a sip/2.0\r\nl: 0\r\n\r\n",
        "another version": b"OPTIONS sip:a SIP/7.0\r\nl: 0\r\n\r\n",
        "malformed Request-Line": b"OPTIONS  sip:a b SIP/2.0 \r\nl: 0\r\n\r\n",
    }.items(),
    ids=lambda item: item[0],
)
def test_one_message(feed: Feeder, data: tuple[str, bytes]) -> None:
    """On a stream Content-Length ends a message, in any spelling that the parser reads too (18.3, 7.3)."""
    assert feed(data[1]) == [data[1]]


def test_message_after_message(feed: Feeder) -> None:
    """What follows a message is the next one (18.3)."""
    messages = [
        message("l: 1", body=b"1"),
        message("l: 0"),
        message("l: 9", body=b"\r\n\r\n\r\n123"),
    ]
    assert feed(b"".join(messages)) == messages


def test_end_of_a_message_comes_with_all_of_the_next() -> None:
    """What was searched in vain belongs to the message before, and is not skipped in the next (18.3)."""
    framer = StreamFramer()
    long, short = message("l: 0"), b"SIP/2.0 200 \r\nl: 0\r\n\r\n"
    framer.receive(long[:-1])
    assert drain(framer) == []
    framer.receive(long[-1:] + short)
    assert drain(framer) == [long, short]


@pytest.mark.requirement("7.5-1")
def test_crlf_before_a_start_line_is_ignored(feed: Feeder) -> None:
    """A CRLF ahead of a start line is ignored, before the first message and between messages (7.5)."""
    data = message("l: 0")
    assert feed(b"\r\n" + data + b"\r\n" + data) == [data, data]


@pytest.mark.requirement("5626-3")
def test_double_crlf_is_a_ping(feed: Feeder) -> None:
    """A double CRLF between messages is a keep-alive, told apart from a single one (RFC 5626, 3.5.1)."""
    data = message("l: 0")
    assert feed(b"\r\n\r\n" + data + b"\r\n\r\n\r\n\r\n" + data) == [KEEP_ALIVE, data, KEEP_ALIVE, KEEP_ALIVE, data]


def test_three_crlfs_are_a_ping_and_an_ignored_one(feed: Feeder) -> None:
    """The third CRLF in a row is no half of a second ping once a start line follows (7.5; RFC 5626, 3.5.1)."""
    data = message("l: 0")
    assert feed(b"\r\n\r\n\r\n" + data) == [KEEP_ALIVE, data]


def test_ping_is_told_by_identity() -> None:
    """A ping is `KEEP_ALIVE` itself, so no message can be taken for one (RFC 5626, 3.5.1)."""
    [ping] = feed_byte_by_byte(b"\r\n\r\n")
    assert ping is KEEP_ALIVE


@pytest.mark.parametrize(
    ("data", "is_mid_message"),
    [
        (b"", False),
        (b"\r", False),
        (b"\r\n", False),
        (b"\r\n\r", False),
        (b"\r\n\r\n", False),
        (b"M", True),
        (b"\r\nM", True),
        (HEAD, True),
        (message("l: 1"), True),
        (message("l: 0"), False),
        (message("l: 0") + b"\r", False),
        (message("l: 0") + b"M", True),
    ],
)
def test_is_mid_message(data: bytes, is_mid_message: bool) -> None:
    """Only the octets of a message put a peer under the deadline to finish it; CRLFs do not (7.5)."""
    framer = StreamFramer()
    framer.receive(data)
    drain(framer)
    assert framer.is_mid_message is is_mid_message


@pytest.mark.requirement("7.4.2-1")
def test_chunked_coding(feed: Feeder) -> None:
    """A Transfer-Encoding of HTTP means nothing: the body is as long as Content-Length says, and is as it came."""
    data = message("Transfer-Encoding: chunked", "l: 9", body=b"4\r\nbody\r\n")
    assert feed(data + message("l: 0")) == [data, message("l: 0")]


@pytest.mark.requirement("18.3-7")
def test_missing_content_length(feed_fault: Callable[..., MessageSyntaxError]) -> None:
    """Without Content-Length a stream cannot be framed: answer and close (18.3)."""
    error = feed_fault(message("Subject: Content-Length: 4\r\n l: 4"))
    assert (error.status, error.reason) == (400, "Missing Content-Length header field")
    assert error.request is not None
    assert error.request.call_id == "x"


@pytest.mark.parametrize(
    "lines",
    {
        "negative": ["Content-Length: -999"],
        "empty": ["Content-Length:"],
        "word": ["l: many"],
        "signed": ["l: +4"],
        "list": ["l: 4, 4"],
        "not ASCII": ["l: ²"],
        "eleven digits": ["l: 10000000000"],
        "absurd": ["l: " + "9" * 5000],
        "contradiction": ["Content-Length: 4", "Subject: x", "l: 5"],
        "contradiction in a fold": ["Content-Length: 4", "l:\r\n 5"],
        "folded into two words": ["Content-Length: 4\r\n 5"],
    }.items(),
    ids=lambda item: item[0],
)
def test_malformed_content_length(feed_fault: Callable[..., MessageSyntaxError], lines: tuple[str, list[str]]) -> None:
    """A Content-Length that is no number, or two that disagree, end the stream with an answer (18.3, 20.14)."""
    error = feed_fault(message(*lines[1], body=b"body"))
    assert (error.status, error.reason) == (400, "Malformed Content-Length header field")
    assert error.request is not None
    assert error.request.call_id == "x"


@pytest.mark.parametrize("first", ["ACK sip:a SIP/2.0", "SIP/2.0 200 OK"])
def test_unframed_message_that_is_not_answered(feed_fault: Callable[..., MessageSyntaxError], first: str) -> None:
    """An ACK or a response that cannot be framed closes the connection without a word (17.1.1.3, 18.3)."""
    _, _, rest = HEAD.partition(b"\r\n")
    assert feed_fault(first.encode() + b"\r\n" + rest.replace(b"MESSAGE", b"ACK") + b"\r\n").request is None


def test_header_section_up_to_its_bound(feed: Feeder) -> None:
    """A header section of just the length allowed passes (21.5.7)."""
    data = message("l: 2", body=b"12")
    assert feed(data, max_header=len(data) - 2) == [data]


def test_header_section_over_its_bound(feed_fault: Callable[..., MessageSyntaxError]) -> None:
    """A header section that is too long is refused with 513 (21.5.7)."""
    data = message("l: 2", body=b"12")
    assert feed_fault(data, max_header=len(data) - 3).status == 513


def test_header_section_over_its_bound_is_answered_if_it_is_whole() -> None:
    """If the header section could be read, the 513 can be sent (21.5.7)."""
    data = message("l: 0")
    with pytest.raises(MessageSyntaxError) as caught:
        feed_whole(data, max_header=len(data) - 1)
    assert caught.value.request is not None


def test_endless_header_section_is_given_up_at_its_bound() -> None:
    """No more is kept of a header section than the bound allows, and one octet (21.5.7)."""
    framer = StreamFramer(max_header=1000)
    taken, error = refused(framer, HEAD + b"x" * 2000)
    assert (taken, error.status) == (1001, 513)
    assert error.request is not None, "what came of it is enough to answer it"


def test_message_up_to_its_bound(feed: Feeder) -> None:
    """A message of just the length allowed passes (21.5.7)."""
    data = message("l: 2000", body=b"x" * 2000)
    assert feed(data, max_message=len(data)) == [data]


@pytest.mark.parametrize("length", [2001, 9_999_999_999])
def test_message_over_its_bound(feed_fault: Callable[..., MessageSyntaxError], length: int) -> None:
    """A message that says it is too long is refused with 513 before its body is waited for (21.5.7)."""
    data = message(f"l: {length}")
    error = feed_fault(data, max_message=len(data) + 2000)
    assert (error.status, error.reason) == (513, "The message is too long")
    assert error.request is not None
    assert error.request.call_id == "x"


@pytest.mark.parametrize(
    ("data", "refused_at"),
    {
        "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 1),
        "NUL": (b"\0" * 9, 1),
        "not ASCII": (b"\xff\xfe", 1),
        "LF before a message": (b"\nINVITE sip:a SIP/2.0", 1),
        "space before a message": (b" INVITE sip:a SIP/2.0", 1),
        "CR that is no CRLF": (b"\rINVITE sip:a SIP/2.0", 2),
        "CR that is no CRLF, behind one": (b"\r\n\rINVITE sip:a SIP/2.0", 4),
        "header field for a start line": (b"Via: SIP/2.0/TCP h\r\n", 4),
        "LF for a line end": (b"INVITE sip:a SIP/2.0\nVia: x", 21),
        "PROXY protocol": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 36),
        "PROXY protocol 2": (b"\r\n\r\n\0\r\nQUIT\n", 5),
        "HTTP": (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 16),
        "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", 21),
        "one word": (b"QUIT\r\n", 6),
        "no version": (b"INVITE sip:a\r\n", 14),
        "version alone": (b"SIP/2.0\r\n", 9),
        "binary behind a word": (b"x\x80", 2),
    }.values(),
    ids=lambda value: repr(value)[:30],
)
def test_not_sip(data: bytes, refused_at: int) -> None:
    """What does not begin like SIP is let go at the first octet that tells, without an answer (7.1, 7.2)."""
    taken, error = refused(StreamFramer(), data)
    assert (taken, error.request) == (refused_at, None)
    with pytest.raises(MessageSyntaxError) as caught:
        feed_whole(data)
    assert caught.value.request is None


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n", message("l: 0")])
def test_not_sip_behind_what_is(before: bytes) -> None:
    """What was whole before the rubbish is still handed out (18.3)."""
    framer = StreamFramer()
    framer.receive(before + b"\0")
    if len(before) > 2:
        assert framer.next_message() == before
    with pytest.raises(MessageSyntaxError, match="not SIP"):
        framer.next_message()
    taken, _ = refused(StreamFramer(), before + b"\0")
    assert taken == len(before) + 1


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of *work*, the best of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def attempt(parse: Callable[[bytes], object], data: bytes) -> None:
    """Parse, whatever comes of it."""
    try:
        parse(data)
    except MessageSyntaxError:
        pass


@pytest.mark.parametrize(
    "make",
    {
        "start line": lambda size: b"x" * size,
        "long Request-URI": lambda size: b"INVITE " + b"x" * size,
        "header section": lambda size: HEAD + b"Subject: " + b"x" * size,
        "short lines": lambda size: HEAD + b"a:\r\n" * (size // 4),
        "CR after CR": lambda size: HEAD + b"\r\n\r " * (size // 4),
        "body": lambda size: message(f"l: {size}", body=b"\r\n\r\n" * (size // 4)),
        "pings": lambda size: b"\r\n\r\n" * (size // 4),
        "messages": lambda size: message("l: 0") * (size // 200),
    }.values(),
    ids=["start line", "URI", "header section", "short lines", "CR after CR", "body", "pings", "messages"],
)
def test_time_is_linear_in_what_is_fed_byte_by_byte(make: Callable[[int], bytes]) -> None:
    """Four times the octets take about four times as long, not sixteen: a slow peer costs no more than a fast one."""
    small, large = make(16_000), make(64_000)
    assert len(large) < 65_535
    assert seconds(lambda: attempt(feed_byte_by_byte, large)) < 10 * seconds(lambda: attempt(feed_byte_by_byte, small))


HOSTILE_VALUES = {
    "spaces in a value": lambda size: b"x" + b" " * size + b"y",
    "spaces": lambda size: b" " * size + b"y",
    "folds": lambda size: b"\r\n " * (size // 3) + b"y",
    "quotes": lambda size: b'"' * size + b"\0",
    "escaped quotes": lambda size: b'"' + b'\\"' * (size // 2) + b"\0",
    "escaped quotes in a list": lambda size: b'"' + b'\\"' * (size // 2) + b",",
    "brackets": lambda size: b"<" * size + b",",
    "commas": lambda size: b"," * size,
    "values": lambda size: b"a," * (size // 2) + b"a",
    "parameters": lambda size: b"<sip:a@b>" + b";a" * (size // 2),
    "different parameters": lambda size: b"<sip:a@b>" + b"".join(b";a%d" % number for number in range(size // 6)),
    "spaces among parameters": lambda size: b"<sip:a@b>;a" + b" " * size + b"!",
    "word": lambda size: b"1" * size + b" x",
    "user part": lambda size: b"<sip:" + b"a" * size + b">",
    "colons": lambda size: b"<sip:" + b":" * size + b">",
}


@pytest.mark.parametrize("name", ["Content-Length", "Via", "To", "CSeq", "Contact"])
@pytest.mark.parametrize("value", HOSTILE_VALUES.values(), ids=HOSTILE_VALUES.keys())
def test_time_is_bounded_for_hostile_values(name: str, value: Callable[[int], bytes]) -> None:
    """No value of 64 kB holds the parser up: every pattern is linear (7.3.1)."""

    def read(data: bytes) -> None:
        parsed = parse_message(data)
        for attribute in ("uri", "via", "from_", "to", "cseq", "contacts"):
            attempt(lambda _: getattr(parsed, attribute), b"")  # noqa: B023  # called at once
        for contact in parsed.contacts:  # type: ignore[union-attr]  # it is a request
            attempt(lambda _: contact.uri, b"")  # noqa: B023

    data = HEAD.replace(b"\r\n%b: " % name.encode(), b"\r\nX: ") + b"%b: %b\r\n\r\n" % (name.encode(), value(64_000))
    start = time.process_time()
    attempt(feed_whole, data)
    attempt(read, data)
    assert time.process_time() - start < 1
