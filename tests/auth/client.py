"""The client's side of digests, written from RFC 7616 and RFC 2617 apart from ours, and who sends requests with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock

from twisted_sipuas import DigestAuthenticator, SIPService, UserAgentServer, parse_message
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing import RecordingFlow, make_request
from twisted_sipuas.transaction.server import NonInviteServerTransaction
from twisted_sipuas.uas.invitation import Invitation

REALM = "example.com"
URI = "sip:bob@example.com"
HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}


def parameters(challenge: str) -> dict[str, str]:
    """Return the parameters of the challenge *challenge*, which has no escapes."""
    scheme, _, rest = challenge.partition(" ")
    assert scheme == "Digest"
    return {name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^",\s]+))', rest)}


def response(
    algorithm: str,
    username: str,
    realm: str,
    password: str,
    nonce: str,
    method: str,
    uri: str,
    *,
    qop: Any,
    nc: str,
    cnonce: str,
    body: bytes,
    session_cnonce: Any = None,
) -> str:
    """Return what a client computes, all as text (RFC 7616, 3.4.1 to 3.4.3; RFC 2617, 3.2.2.1 without qop)."""
    name, session, _ = algorithm.partition("-sess")

    def h(text: Any) -> str:
        return hashlib.new(HASHES[name], text if isinstance(text, bytes) else text.encode()).hexdigest()

    a1 = f"{username}:{realm}:{password}"
    if session:
        a1 = f"{h(a1)}:{nonce}:{cnonce if session_cnonce is None else session_cnonce}"
    a2 = f"{method}:{uri}" + (f":{h(body)}" if qop == "auth-int" else "")
    if qop is None:
        return h(f"{h(a1)}:{nonce}:{h(a2)}")
    return h(f"{h(a1)}:{nonce}:{nc}:{cnonce}:{qop}:{h(a2)}")


def authorization(
    challenge: str,
    username: str = "alice",
    password: str = "secret",
    method: str = "MESSAGE",
    uri: str = URI,
    *,
    qop: str | None = "auth",
    nc: str = "00000001",
    cnonce: str = "0a4f113b",
    body: bytes = b"",
    session_cnonce: str | None = None,
    scheme: str = "Digest",
    **changes: Any,
) -> str:
    """Return an Authorization for *challenge*, as a client of RFC 7616 makes it; of RFC 2069 if *qop* is None.

    *changes* take the place of parameters, once the response was computed; None leaves one out.
    """
    asked = parameters(challenge)
    algorithm = asked.get("algorithm", "MD5")
    values = {
        "username": username, "realm": asked["realm"], "nonce": asked["nonce"], "uri": uri, "algorithm": algorithm,
        "response": response(
            algorithm, username, asked["realm"], password, asked["nonce"], method, uri,
            qop=qop, nc=nc, cnonce=cnonce, body=body, session_cnonce=session_cnonce,
        ),
    }  # fmt: skip
    if qop is not None:
        values |= {"qop": qop, "nc": nc, "cnonce": cnonce}
    elif algorithm.endswith("-sess"):
        values["cnonce"] = cnonce
    values |= changes
    bare = ("algorithm", "qop", "nc")
    return f"{scheme} " + ", ".join(
        f"{name}={value}" if name in bare else f'{name}="{value}"'
        for name, value in values.items()
        if value is not None
    )


class Served(UserAgentServer):
    """Answers MESSAGE 200 and INVITE 486, and keeps who sent them in `identities`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.identities: list[Any] = []

    @classmethod
    def of(cls, authenticator: DigestAuthenticator, clock: Clock) -> Served:
        return cls(authenticator=authenticator)

    def handle_MESSAGE(self, request: Request, transaction: NonInviteServerTransaction) -> Response:
        self.identities.append(transaction.identity)
        return request.response(200)

    def handle_INVITE(self, request: Request, transaction: Invitation) -> Response:
        self.identities.append(transaction.identity)
        return request.response(486)


class Client:
    """Sends requests to a server that authenticates by *checker*; each in a transaction and with a CSeq of its own.

    *serve* makes the server of an authenticator and a clock.
    """

    def __init__(
        self,
        checker: Any,
        serve: Callable[..., Any] = Served.of,
        *,
        transport: str = "UDP",
        is_stateless: bool = False,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        options.setdefault("algorithms", ("SHA-256", "MD5"))
        self.authenticator = DigestAuthenticator([checker], REALM, **options)
        self.server = serve(self.authenticator, self.clock)
        self.service = SIPService(self.clock, self.server, is_stateless=is_stateless)
        self.flow = RecordingFlow(transport)
        self.number = 0

    def send(
        self,
        authorization: str | None = None,
        method: str = "MESSAGE",
        uri: str = URI,
        *,
        flow: Any = None,
        number: Any = None,
        branch: Any = None,
        **fields: Any,
    ) -> Any:
        """Send a request, with *authorization* if that is given, and return the last response so far, or None."""
        flow = flow or self.flow
        self.number = self.number + 1 if number is None else number
        rows = () if authorization is None else (("Authorization", authorization),)
        fields["headers"] = (*rows, *fields.get("headers", ()))
        branch = branch or f"z9hG4bK{self.number}-{len(flow.sent)}"
        request = make_request(method, uri, branch=branch, cseq=self.number, **fields)
        self.service.message_received(request, flow)
        return parse_message(flow.sent[-1][0]) if flow.sent else None

    def challenges(self, **options: Any) -> Any:
        """Send a request without credentials, and return the challenges that come."""
        return self.send(**options).headers.get_all("WWW-Authenticate")

    def challenge(self, **options: Any) -> str:
        """Return the first of the `challenges`."""
        result: str = self.challenges(**options)[0]
        return result

    def counter(self, name: str) -> int:
        return self.service.counters[f"authentication_{name}"]


def is_stale(response: Response) -> bool:
    """Whether every challenge in *response*, a 401, says that only the nonce was old."""
    asked = [parameters(challenge) for challenge in response.headers.get_all("WWW-Authenticate")]
    assert response.status == 401
    assert asked
    return all(challenge.get("stale") == "true" for challenge in asked)
