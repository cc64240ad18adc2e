"""Does OPTIONS tell what the server can do (RFC 3261, 11)?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.uas.caller import Caller, Phone
from twisted_sipuas import RedirectServer, Registrar, UserAgentServer
from twisted_sipuas.testing import make_request
from twisted_sipuas.uas.answering import AnsweringServer


class Nothing(UserAgentServer):
    """Has no handler at all."""


@pytest.mark.requirement("11-1")
@pytest.mark.parametrize("server", [Nothing, Phone, AnsweringServer])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_every_server_answers(server: Any, transport: Any) -> None:
    """Every user agent server supports OPTIONS, and says so in Allow (11)."""
    caller = Caller(server(), transport=transport).send("OPTIONS")
    assert caller.statuses == [200]
    assert "OPTIONS" in caller.last.headers.values("Allow")


@pytest.mark.requirement("11.2-1")
def test_response_is_built_as_any_other() -> None:
    """Via, From, Call-ID and CSeq are the request's own, and To is with a tag (11.2, 8.2.6)."""
    caller = Caller()
    request = make_request("OPTIONS", headers=(("Via", "SIP/2.0/TCP proxy.example.com;branch=z9hG4bKx"),))
    caller.service.message_received(request, caller.flow)
    for name in ("Via", "From", "Call-ID", "CSeq"):
        assert caller.last.headers.values(name) == request.headers.values(name)
    to, _, tag = caller.last.headers.get("To").partition(";tag=")
    assert (to, bool(tag)) == (request.headers.get("To"), True)


STANDARD = frozenset(
    "100rel 199 early-session eventlist from-change geolocation-http geolocation-sip gin gruu histinfo ice join "
    "multiple-refer norefersub nosub outbound path policy precondition pref privacy recipient-list-invite "
    "recipient-list-message recipient-list-subscribe replaces resource-priority sdp-anat sec-agree siprec tdialog "
    "timer trickle-ice uui".split()
)
"""Option tags that standards-track RFCs define, as IANA lists them."""


@pytest.mark.requirement("20.37-1")
@pytest.mark.parametrize("server", [UserAgentServer, AnsweringServer, RedirectServer, Registrar])
def test_supported_extensions_are_standard(server: Any) -> None:
    """No server of this package says that it supports what no standards-track RFC defines (20.37)."""
    assert set(server.supported) <= STANDARD
    assert Registrar.supported, "so that there is something to look at"


@pytest.mark.requirement("11.2-12", "11.2-13")
@pytest.mark.parametrize(
    ("accept", "has_body"),
    [
        (None, True),
        ("application/sdp", True),
        ("text/plain, application/*;q=0.5", True),
        (";;", True),
        ("text/plain", False),
        ("application/sdp;q=0", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("within", [False, True])
def test_description_of_what_media_it_can_do(accept: Any, has_body: bool, within: Any) -> None:
    """A server that knows tells its media by a session description, if the request takes one (11.2)."""
    caller = Caller(AnsweringServer())
    if within:
        caller.called()
    caller.send("OPTIONS", headers=() if accept is None else (("Accept", accept),))
    assert caller.last.status == 200
    assert caller.last.headers.get("Content-Type") == ("application/sdp" if has_body else None)
    assert "Content-Encoding" not in caller.last.headers
    assert caller.last.body.startswith(b"v=0\r\n" if has_body else b"")
    assert (b"m=audio" in caller.last.body) is has_body


@pytest.mark.requirement("11.2-2")
@pytest.mark.parametrize("status", [200, 404, 486, 600])
def test_status_of_the_built_in(status: int) -> None:
    """The server that answers every INVITE with one status answers OPTIONS with that (11.2)."""
    assert Caller(AnsweringServer(status)).send("OPTIONS").statuses == [status]
