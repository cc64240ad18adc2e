"""Does the built-in server describe a session without media as RFC 3261, 13.3.1 and 14.2, and RFC 3264 ask?"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.uas.caller import Caller
from twisted_sipuas.syntax.media import ContentType
from twisted_sipuas.syntax.scalars import Warning
from twisted_sipuas.syntax.sdp import parse_description
from twisted_sipuas.uas.answering import AnsweringServer
from twisted_sipuas.uas.dialog import DialogState

AUDIO = "m=audio 49170 RTP/AVP 18 96\r\na=rtpmap:96 opus/48000/2\r\na=sendrecv\r\n"
VIDEO = "m=video 51372 RTP/AVP 31\r\n"
SECURE = "m=audio 49174 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\r\n"
CHAT = "m=message 7654 TCP/MSRP *\r\n"


def described(*streams: str, version: int = 1, session: int = 2890844526) -> bytes:
    """Return a session description of these streams."""
    return (
        f"v=0\r\no=alice {session} {version} IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
        + "".join(streams)
    ).encode()


class Call(Caller):
    """A caller of the built-in server, which offers session descriptions."""

    def __init__(self, status: int = 200, **options: Any) -> None:
        super().__init__(AnsweringServer(status), **options)

    def offer(self, body: Any, content_type: str = "application/sdp", **fields: Any) -> Any:
        """Send an INVITE with *body*; without one, it asks for an offer."""
        headers = (("Content-Type", content_type),) if body else ()
        return self.invite(headers=headers, body=body, **fields)

    @property
    def streams(self) -> Any:
        """The m= lines of the latest answer."""
        return re.findall(r"^m=.*$", self.last.body.decode().replace("\r", ""), re.MULTILINE)

    @property
    def origin(self) -> Any:
        """Session id and version of the latest answer."""
        return parse_description(self.last.body).origin


# The first INVITE


@pytest.mark.requirement("13.3.1.4-4")
@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ([AUDIO], ["m=audio 9 RTP/AVP 18 96"]),
        ([AUDIO, VIDEO], ["m=audio 9 RTP/AVP 18 96", "m=video 9 RTP/AVP 31"]),
        ([CHAT, AUDIO], ["m=message 0 TCP/MSRP *", "m=audio 9 RTP/AVP 18 96"]),
        ([SECURE, AUDIO], ["m=audio 0 RTP/SAVP 0", "m=audio 9 RTP/AVP 18 96"]),
    ],
)
def test_answer(offered: Any, answered: Any) -> None:
    """The 2xx to an INVITE with an offer has the answer: every stream, inactive or refused (13.3.1.4, RFC 3264, 6)."""
    call = Call().offer(described(*offered))
    assert (call.last.status, call.last.headers.one(ContentType).media_type) == (200, "application/sdp")
    assert call.streams == answered
    assert call.last.body.count(b"a=inactive\r\n") == sum(" 9 " in stream for stream in answered)


@pytest.mark.parametrize("within", [False, True], ids=["INVITE", "re-INVITE"])
@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ([], []),
        (
            [AUDIO.replace("49170", "0"), CHAT.replace("7654", "0")],
            ["m=audio 0 RTP/AVP 18 96", "m=message 0 TCP/MSRP *"],
        ),
    ],
)
def test_answer_to_an_offer_of_nothing(offered: Any, answered: Any, within: Any) -> None:
    """An offer may have no stream yet, or none any more, and is answered by just that (RFC 3264, 5 and 8.2)."""
    call = Call()
    if within:
        call.offer(described(AUDIO)).ack()
    call.offer(described(*offered))
    assert (call.last.status, call.streams) == (200, answered)


@pytest.mark.requirement("13.3.1-7", "13.3.1.4-5")
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_offer(transport: Any) -> None:
    """The 2xx to an INVITE without an offer has one, of audio, and nothing before it has (13.3.1, 13.3.1.4)."""
    call = Call(transport=transport).offer(b"")
    assert call.statuses == [200]
    assert call.last.headers.get("Content-Type") == "application/sdp"
    assert call.streams == ["m=audio 9 RTP/AVP 0 8"]
    call.ack().send("BYE")
    assert call.statuses == [200, 200]


@pytest.mark.requirement("13.3.1.4-4")
def test_answer_to_an_offer_in_a_multipart() -> None:
    """The offer may be one part of several (13.3.1.4, RFC 5621)."""
    part = b"--b\r\nContent-Type: application/sdp\r\n\r\n" + described(AUDIO) + b"\r\n--b--\r\n"
    assert Call().offer(part, "multipart/mixed;boundary=b").streams == ["m=audio 9 RTP/AVP 18 96"]


BAD_OFFERS = pytest.mark.parametrize(
    ("body", "code"),
    [
        (described(CHAT), 304),
        (described(SECURE), 304),
        (b"hello", 399),
        (described("m=audio x RTP/AVP 0\r\n"), 399),
    ],
    ids=["chat", "secure", "no description", "malformed stream"],
)


@pytest.mark.requirement("13.3.1.3-3", "13.3.1.3-4")
@BAD_OFFERS
def test_refused_offer(body: Any, code: Any) -> None:
    """An offer of which nothing can be taken gets 488, with a Warning that says why (13.3.1.3)."""
    call = Call().offer(body)
    assert call.statuses == [488]
    warning = call.last.headers.one(Warning)
    assert (warning.code, warning.agent) == (code, "198.51.100.1")
    assert warning.text
    assert call.is_over


@pytest.mark.parametrize("status", [204, 300, 404, 486, 603])
def test_other_status(status: int) -> None:
    """Every INVITE is answered with the status asked for; what takes the call has a description in any case."""
    call = Call(status).offer(described(AUDIO))
    assert call.statuses == [status]
    assert bool(call.last.body) is (status < 300)


@pytest.mark.parametrize("status", [100, 199, 700, 0])
def test_status_that_answers_nothing(status: int) -> None:
    """A status that is no final one is refused."""
    with pytest.raises(ValueError, match="200 to 699"):
        AnsweringServer(status)


# re-INVITE


@pytest.mark.requirement("14.2-4")
@pytest.mark.parametrize("again", [described(AUDIO), described(AUDIO, version=2)], ids=["same version", "same content"])
def test_description_that_has_not_changed(again: Any) -> None:
    """An offer of the version or content that the last one had leaves the session as it is (14.2)."""
    call = Call().offer(described(AUDIO)).ack()
    before = call.last.body
    call.offer(again)
    assert (call.last.status, call.last.body) == (200, before)


@pytest.mark.requirement("14.2-4", "14.2-5")
@pytest.mark.parametrize("version", [1, 2])
def test_description_that_has_changed(version: Any) -> None:
    """An offer that differs, in version or only in content, is answered anew: our version grows by one (14.2)."""
    call = Call().offer(described(AUDIO)).ack()
    session, number = call.origin
    call.offer(described(AUDIO, VIDEO, version=version)).ack()
    assert call.streams == ["m=audio 9 RTP/AVP 18 96", "m=video 9 RTP/AVP 31"]
    assert call.origin == (session, number + 1)
    call.offer(described(AUDIO.replace("49170", "0"), VIDEO, version=version + 1))
    assert call.streams == ["m=audio 0 RTP/AVP 18 96", "m=video 9 RTP/AVP 31"]
    assert call.origin == (session, number + 2)


@pytest.mark.requirement("14.2-6", "14.2-7", "8.2-2")
@BAD_OFFERS
def test_refused_offer_of_a_re_invite(body: Any, code: Any) -> None:
    """A description that cannot be taken gets 488 with a Warning, and the session stays as it was (14.2)."""
    call = Call().offer(described(AUDIO)).ack()
    before = call.last.body
    call.offer(body)
    assert (call.last.status, call.last.headers.one(Warning).code) == (488, code)
    assert call.dialog.state is DialogState.CONFIRMED
    call.send("ACK", branch=f"z9hG4bK{call.number}", cseq=call.invite_number).offer(described(AUDIO))
    assert (call.last.status, call.last.body) == (200, before)


@pytest.mark.requirement("14.2-11", "14.2-12", "14.2-13")
@pytest.mark.parametrize(
    ("before", "offered"),
    [
        ([], ["m=audio 9 RTP/AVP 0 8"]),
        ([AUDIO], ["m=audio 9 RTP/AVP 18 96 0 8"]),
        (["m=audio 4 RTP/AVP 8 101\r\n"], ["m=audio 9 RTP/AVP 8 101 0"]),
        ([SECURE, AUDIO], ["m=audio 0 RTP/SAVP 0", "m=audio 9 RTP/AVP 18 96 0 8"]),
        ([VIDEO], ["m=video 9 RTP/AVP 31", "m=audio 9 RTP/AVP 0 8"]),
        ([CHAT, VIDEO], ["m=message 0 TCP/MSRP *", "m=video 9 RTP/AVP 31", "m=audio 9 RTP/AVP 0 8"]),
    ],
)
def test_offer_within_a_session(before: Any, offered: Any) -> None:
    """An offer in a session has the streams and formats that it has, and all that a new call would have (14.2)."""
    call = Call().offer(described(*before) if before else b"").ack()
    _, number = call.origin
    call.offer(b"").ack()
    assert call.streams == offered
    mapping = b"a=rtpmap:96 opus/48000/2\r\n"
    assert (mapping in call.last.body) is (AUDIO in before)
    assert call.origin[1] == number + bool(before), "another description is another version"
    again = call.last.body
    call.offer(b"")
    assert call.last.body == again


def test_two_calls_are_two_sessions() -> None:
    """Each call has a session id of its own, as good as unique (RFC 8866, 5.2)."""
    call = Call().offer(described(AUDIO))
    first = call.origin[0]
    call.to = None
    assert call.offer(described(AUDIO), call_id="other").origin[0] != first


def test_address_of_the_description() -> None:
    """The description names the address that others are told of the flow, IPv6 as such (RFC 8866, 5.7)."""
    call = Call()
    call.flow.advertised_address = call.flow.advertised_address._replace(host="2001:db8::1")
    assert b"c=IN IP6 2001:db8::1\r\n" in call.offer(described(AUDIO)).last.body
    call.to = None
    warning = call.offer(described(CHAT), call_id="other").last.headers.get("Warning")
    assert warning.startswith("304 [2001:db8::1] ")
