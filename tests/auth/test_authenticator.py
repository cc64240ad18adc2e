"""Does `DigestAuthenticator` challenge, accept and refuse as 22, RFC 7616 and RFC 8760 say?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.checkers import AllowAnonymousAccess, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernameDigestHash, IUsernameHashedPassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogEvent

from tests.auth.client import REALM, URI, Client, Served, authorization, is_stale, parameters
from twisted_sipuas import DigestAuthenticator, SIPError, StartError
from twisted_sipuas.auth.credentials import DigestCredentials
from twisted_sipuas.auth.digest import ALGORITHMS, ha1
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.testing import RecordingFlow
from twisted_sipuas.transaction.server import NonInviteServerTransaction
from twisted_sipuas.uas.dialog import Dialog
from twisted_sipuas.uas.invitation import Invitation


@pytest.fixture
def client(checker: Any) -> Any:
    return Client(checker)


# The challenge


@pytest.mark.requirement("22-1", "22.1-1", "22.2-1", "22.2-2", "22.2-3", "22.2-4", "22.4-10")
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "DANCE"])
def test_challenge(client: Any, method: str) -> None:
    """A request without credentials gets 401 and a challenge with scheme, realm and qop, whatever it asks (22.2)."""
    response = client.send(method=method)
    assert response.status == 401
    challenges = list(response.headers.get_all("WWW-Authenticate"))
    assert challenges
    for challenge in challenges:
        asked = parameters(challenge)
        assert challenge.startswith("Digest ")
        assert (asked["realm"], asked["qop"]) == (REALM, "auth")
    assert client.server.identities == []


@pytest.mark.requirement("8760-1")
def test_challenges_strongest_first(checker: Any) -> None:
    """Each algorithm has a challenge of its own, in the order preferred; the nonce is one (RFC 8760, 2.4)."""
    asked = [parameters(challenge) for challenge in Client(checker).challenges()]
    assert [challenge["algorithm"] for challenge in asked] == ["SHA-256", "MD5"]
    assert len({challenge["nonce"] for challenge in asked}) == 1
    all_of_them = ("SHA-512-256", "SHA-256-sess", "MD5")
    asked = [parameters(challenge) for challenge in Client(checker, algorithms=all_of_them).challenges()]
    assert [challenge["algorithm"] for challenge in asked] == [*all_of_them]


def test_md5_is_asked_for_by_default(checker: Any) -> None:
    """Unless others are asked for it is MD5 alone: clients in wide use give up at a challenge that they do not know."""
    authenticator = DigestAuthenticator([checker], REALM)
    assert [algorithm.name for algorithm in authenticator.algorithms] == ["MD5"]


@pytest.mark.requirement("22-4", "22.4-2", "22-3")
def test_basic(client: Any) -> None:
    """Basic is neither asked for nor accepted, though its password be right (22)."""
    basic = "Basic YWxpY2U6c2VjcmV0"
    response = client.send(basic)
    assert response.status == 401
    assert not [text for text in response.headers.get_all("WWW-Authenticate") if "basic" in text.lower()]
    accepted = authorization(client.challenge(), scheme="Basic")
    assert client.send(accepted).status == 401
    assert client.authenticator.checkers[0].names == []


def test_challenge_leaves_nothing_behind(client: Any) -> None:
    """A challenge is sent without a transaction, and nothing of it is remembered (8.2.7)."""
    for _ in range(100):
        client.send(method="INVITE")
    counters = client.service.counters
    assert counters["authentication_challenges"] == 100
    assert {counters[name] for name in counters if name.startswith("transactions_")} == {0}
    assert (client.counter("nonces"), client.counter("delays")) == (0, 0)
    assert client.clock.getDelayedCalls() == []


def test_opaque(checker: Any) -> None:
    """An opaque is handed out if one is set; clients that lose it are served all the same."""
    client = Client(checker, opaque="x")
    assert parameters(client.challenge())["opaque"] == "x"
    assert client.send(authorization(client.challenge())).status == 200


# Right and wrong


@pytest.mark.requirement("26.3.1-3", "8760-2", "8760-3")
@pytest.mark.parametrize("algorithm", ["MD5", "MD5-sess", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess"])
@pytest.mark.parametrize("qop", ["auth", "auth-int"])
def test_right_digest(checker: Any, algorithm: str, qop: str) -> None:
    """A right digest is accepted by every algorithm and qop, and a handler finds who sent the request (22.2)."""
    client = Client(checker, algorithms=["MD5", algorithm] if algorithm != "MD5" else ["MD5"], qop=["auth", "auth-int"])
    challenge = client.challenges()[-1]
    assert parameters(challenge)["algorithm"] == algorithm
    assert client.send(authorization(challenge, qop=qop, body=b"Hi"), body=b"Hi").status == 200
    assert client.server.identities == ["alice"]
    wrong = authorization(client.challenges()[-1], password="guess", qop=qop, body=b"Hi")
    assert client.send(wrong, body=b"Hi").status == 401


@pytest.mark.requirement("22.1-15")
def test_wrong_password(client: Any) -> None:
    """Credentials that fail get a new challenge, which is not stale: the user has to be asked again (22.1)."""
    challenge = client.challenge()
    response = client.send(authorization(challenge, password="guess"))
    assert not is_stale(response)
    assert parameters(response.headers.get("WWW-Authenticate"))["nonce"] != parameters(challenge)["nonce"]
    assert client.counter("wrong") == 1


def test_username_with_an_empty_domain(client: Any) -> None:
    """sipsak puts an ``@`` behind the username and nothing behind that: it is the same user, and no further guess."""
    assert client.send(authorization(client.challenge(), username="alice@")).status == 200
    assert client.server.identities == ["alice"]
    for name in ("alice", "alice@", "alice", "alice@"):
        client.send(authorization(client.challenge(), username=name, password="guess"))
    assert client.counter("too_early") == 1


def test_wrong_digest_raises_no_count(client: Any) -> None:
    """A count is used up by a right digest alone: what others send with it does no harm to its client."""
    challenge = client.challenge()
    client.send(authorization(challenge, password="guess", nc="00000009"))
    assert client.send(authorization(challenge, nc="00000001")).status == 200


@pytest.mark.requirement("22.4-1", "22.4-9", "22.4-12")
def test_client_of_rfc_2069(client: Any) -> None:
    """A client without qop is served by the rules of RFC 2069, and known by that alone (22.4)."""
    challenge = client.challenges()[-1]
    digest = authorization(challenge, qop=None, algorithm=None)
    assert client.send(digest).status == 200
    stray = authorization(client.challenges()[-1], qop=None, algorithm=None) + ', cnonce="a"'
    assert client.send(stray).status == 200, "without qop a cnonce says nothing"
    modern = authorization(client.challenges()[-1], qop=None, algorithm=None)
    assert client.send(modern + ', qop=auth, nc=00000001, cnonce="a"').status == 401, "then it is another digest"


@pytest.mark.parametrize(
    ("algorithm", "qop"), [("SHA-256", "auth"), ("MD5-sess", "auth"), ("SHA-256-sess", "auth"), ("MD5", "auth-int")]
)
def test_digest_without_qop(checker: Any, algorithm: str, qop: str) -> None:
    """RFC 2069 knows MD5 alone, and a client that leaves out qop must not get around what ``auth-int`` covers."""
    client = Client(checker, algorithms=[algorithm], qop=[qop])
    assert client.send(authorization(client.challenge(), qop=None)).status == 401
    assert checker.names == []


@pytest.mark.requirement("22.4-12")
def test_nonce_of_a_client_of_rfc_2069_serves_once(client: Any) -> None:
    """Without a count a nonce serves for one request; then the client is given a new one, stale (RFC 7616, 5.4)."""
    digest = authorization(client.challenges()[-1], qop=None)
    assert client.send(digest).status == 200
    assert is_stale(client.send(digest))


def test_qop_that_was_not_offered(checker: Any) -> None:
    """A digest has to be made with what was offered."""
    client = Client(checker, algorithms=["SHA-256"])
    assert client.send(authorization(client.challenge(), qop="auth-int")).status == 401
    asked = client.challenge().replace("SHA-256", "MD5")
    assert client.send(authorization(asked)).status == 401
    assert checker.names == []


@pytest.mark.parametrize(
    "changes",
    [
        {"response": None}, {"nonce": None}, {"uri": None}, {"nc": "x"}, {"cnonce": None}, {"response": "0" * 32},
        {"realm": "example.org"}, {"nonce": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, {"nonce": "x"}, {"algorithm": "SHA1"},
    ],
)  # fmt: skip
def test_nothing_is_looked_up_for_what_cannot_be_right(client: Any, checker: Any, changes: dict[str, Any]) -> None:
    """Form, realm and nonce are checked before a checker is asked for the user; none of that is a wrong password."""
    assert not is_stale(client.send(authorization(client.challenge(), **changes)))
    assert checker.names == []
    assert client.counter("wrong") == 0


ANYTHING = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=60)


@given(st.one_of(ANYTHING, ANYTHING.map(lambda text: f"Digest {text}")))
def test_any_authorization(text: str) -> None:
    """Whatever stands in Authorization, the answer is a challenge."""
    client = Client(InMemoryUsernamePasswordDatabaseDontUse(alice=b"secret"))
    assert client.send(text.strip()).status == 401


@given(
    st.dictionaries(
        st.sampled_from(
            ["username", "realm", "nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce", "opaque"]
        ),
        ANYTHING.map(lambda text: text.replace("\\", "").replace('"', "")),
        min_size=1,
    )
)
def test_any_parameters(changes: dict[str, str]) -> None:
    """Whatever the parameters of a digest are, the answer is a challenge, unless they are right."""
    client = Client(InMemoryUsernamePasswordDatabaseDontUse(alice=b"secret"))
    right = parameters(authorization(client.challenge()))
    digest = ", ".join(f'{name}="{value}"' for name, value in {**right, **changes}.items())
    is_right = all(name == "opaque" or right[name] == value for name, value in changes.items())
    assert client.send(f"Digest {digest}").status == (200 if is_right else 401)


@pytest.mark.requirement("22.1-5")
def test_realm_is_the_protection_space(client: Any) -> None:
    """Of several credentials those of our realm count, wherever they stand, and one of another never (22.1)."""
    challenge = client.challenge()
    right = authorization(challenge)
    other = authorization(challenge.replace(REALM, "example.org"))
    assert client.send(other).status == 401
    assert client.send(right, headers=(("Authorization", other), ("Authorization", "Bearer abc"))).status == 200
    assert client.send(other, headers=(("Authorization", authorization(challenge, nc="00000002")),)).status == 200


@pytest.mark.requirement("22.3-3")
def test_credentials_for_a_proxy(client: Any) -> None:
    """What is for a proxy is not ours, though it be right (22.3)."""
    right = authorization(client.challenge())
    assert client.send(headers=(("Proxy-Authorization", right),)).status == 401


@pytest.mark.requirement("22.4-4")
def test_uri_with_a_comma(client: Any) -> None:
    """The uri is a quoted string, and may hold what separates parameters elsewhere (22.4)."""
    uri = "sip:b,o=b@example.com;x=1"
    assert client.send(authorization(client.challenge(), uri=uri), uri=uri).status == 200


@pytest.mark.requirement("22.4-3", "22.4-5", "22.4-6")
@pytest.mark.parametrize(
    ("uri", "request_uri", "status"),
    [
        (URI, URI, 200),
        ("sip:bob@EXAMPLE.com;x=1", URI, 200),  # equivalent
        ("sips:bob@example.com", "sips:bob@example.com", 200),
        ("sip:carol@example.com", URI, 200),  # a proxy may have changed it
        ("sip:bob@example.com", "sip:bob@192.0.2.7", 200),
        ("sip:192.0.2.7", "sip:bob@192.0.2.7", 200),
        ("sip:bob@example.net", "sip:bob@192.0.2.7", 200),
        ("tel:+15551234", "tel:+15551234", 200),
        ("sip:bob@elsewhere.example", URI, 401),
        ("sip:bob@elsewhere.example", "sip:bob@192.0.2.7", 401),
        ("tel:+15551234", URI, 401),
        ("/dir/index.html", URI, 401),
        ("", URI, 401),
    ],
)
def test_uri(checker: Any, uri: str, request_uri: str, status: int) -> None:
    """The uri is the Request-URI, or one that is served here: a proxy may have changed that one (22.4, item 5)."""
    client = Client(checker, domains=["example.net"])
    assert client.send(authorization(client.challenge(), uri=uri), uri=request_uri).status == status
    assert len(checker.names) == (status == 200)


@pytest.mark.parametrize(
    ("uri", "status"), [("sip:bob@elsewhere.example", 200), ("sips:elsewhere.example", 200), ("tel:+15551234", 401)]
)
def test_uri_where_domains_are_not_said(checker: Any, uri: str, status: int) -> None:
    """Where any domain is served the uri may be in any: the nonce says that the digest is for us (22.4, item 5)."""
    client = Client(checker)
    assert client.send(authorization(client.challenge(), uri=uri)).status == status


def test_policy_for_the_uri(checker: Any) -> None:
    """`accepts_uri` may be overridden, say by who has no proxy in front."""

    class Strict(DigestAuthenticator):
        def accepts_uri(self, uri: str, request: Request) -> bool:
            return uri == request.uri_text

    client = Client(checker)
    client.server.authenticator = Strict([checker], REALM, clock=client.clock)
    assert client.send(authorization(client.challenge(), uri="sip:carol@example.com")).status == 401
    assert client.send(authorization(client.challenge())).status == 200


# Nonces and counts


@pytest.mark.requirement("7616-1")
@pytest.mark.parametrize("password", ["secret", "guess"])
def test_old_nonce(client: Any, password: str) -> None:
    """A right digest on an old nonce gets ``stale=true``; a wrong one does not, and is counted (RFC 7616, 3.3)."""
    challenge = client.challenge()
    client.clock.advance(301)
    response = client.send(authorization(challenge, password=password))
    assert is_stale(response) == (password == "secret")
    assert client.counter("wrong") == (password == "guess")
    assert client.send(authorization(response.headers.get("WWW-Authenticate"))).status == 200


def test_late_client_is_not_counted(client: Any) -> None:
    """However often a client is late with its nonce, that is no wrong password, and it is not delayed."""
    for _ in range(20):
        challenge = client.challenge()
        client.clock.advance(301)
        assert is_stale(client.send(authorization(challenge)))
    assert client.send(authorization(client.challenge())).status == 200
    assert (client.counter("wrong"), client.counter("too_early"), client.counter("stale")) == (0, 0, 20)


@pytest.mark.requirement("7616-1")
def test_replay(client: Any) -> None:
    """A digest serves for one request; who sends it again with another gets ``stale=true`` (RFC 7616, 5.4)."""
    challenge = client.challenge()
    digest = authorization(challenge)
    assert client.send(digest).status == 200
    assert is_stale(client.send(digest))
    assert is_stale(client.send(digest, call_id="another", number=2)), "the CSeq of the one that was served"
    assert client.send(authorization(challenge, nc="00000002")).status == 200
    assert client.counter("replays") == 2


@pytest.mark.requirement("7616-1")
@pytest.mark.parametrize(
    "changes",
    [
        {"from_tag": "other"},
        {"to": "<sip:carol@example.com>"},
        {"body": b"Pay Mallory"},
        {"headers": (("Contact", "<sip:mallory@192.0.2.66>"),)},
        {"headers": (("Expires", "0"),)},
    ],
)
def test_replay_with_changes(client: Any, changes: dict[str, Any]) -> None:
    """A digest does not serve for the same Call-ID and CSeq with another sender, receiver, contact or body."""
    digest = authorization(client.challenge())
    sent = {"number": 7, "body": b"Hi", "branch": "z9hG4bKa"}
    assert client.send(digest, **sent).status == 200
    assert is_stale(client.send(digest, **(sent | {"branch": "z9hG4bKb"} | changes)))


def test_nonce_of_another_source(client: Any, checker: Any) -> None:
    """A nonce serves the source it was issued to; elsewhere it is stale, and nobody looks whether the digest is right.

    Else who forges the source of a datagram could have its user wait, or guess without waiting.
    """
    challenge = client.challenge(flow=RecordingFlow(remote_address=("192.0.2.66", 5060)))
    for number in range(10):
        assert is_stale(client.send(authorization(challenge, password=f"guess {number}")))
    assert is_stale(client.send(authorization(challenge)))
    assert checker.names == []
    assert (client.counter("wrong"), client.counter("delays")) == (0, 0)
    assert client.send(authorization(client.challenge())).status == 200


def test_source_of_ones_own(checker: Any) -> None:
    """Whom nonces and delays are for may be said otherwise, say where two proxies take turns."""

    class Farm(DigestAuthenticator):
        def source_of(self, request: Request, transaction: Any) -> Any:
            return "our proxies"

    client = Client(checker)
    client.server.authenticator = Farm([checker], REALM, clock=client.clock)
    challenge = client.challenge(flow=RecordingFlow(remote_address=("192.0.2.66", 5060)))
    assert client.send(authorization(challenge)).status == 200


@pytest.mark.requirement("7616-1")
def test_old_digests_do_not_end_a_delay(client: Any) -> None:
    """Who has overheard right digests cannot start anew at guessing with them."""
    overheard = authorization(client.challenge())
    assert client.send(overheard).status == 200
    for _ in range(3):
        client.send(authorization(client.challenge(), password="guess"))
    client.clock.advance(1)
    assert is_stale(client.send(overheard))
    client.send(authorization(client.challenge(), password="guess"))
    client.clock.advance(1)
    client.send(authorization(client.challenge(), password="guess"))
    assert client.counter("too_early") == 1


@pytest.mark.parametrize("is_stateless", [False, True])
def test_retransmission_is_no_replay(checker: Any, is_stateless: bool) -> None:
    """The same request may come again with its credentials, by another branch or statelessly (8.2.7, 8.2.2.2)."""
    client = Client(checker, is_stateless=is_stateless)
    digest = authorization(client.challenge())
    for branch in ("z9hG4bKa", "z9hG4bKa", "z9hG4bKb"):
        assert client.send(digest, number=2, branch=branch).status in (200, 482)
    assert client.counter("replays") == 0


def test_several_requests_at_once(client: Any) -> None:
    """Requests of a client may overtake each other (RFC 7616, 3.4.6)."""
    challenge = client.challenge()
    for nc in ("00000003", "00000001", "00000002"):
        assert client.send(authorization(challenge, nc=nc)).status == 200


def test_session_of_several_requests(checker: Any) -> None:
    """With a -sess algorithm the secret may be that of the first request, or of each (RFC 7616, 3.4.2)."""
    client = Client(checker, algorithms=["SHA-256-sess"])
    challenge = client.challenge()
    assert client.send(authorization(challenge, cnonce="a")).status == 200
    assert client.send(authorization(challenge, nc="00000002", cnonce="b", session_cnonce="a")).status == 200
    assert client.send(authorization(challenge, nc="00000003", cnonce="c")).status == 200


def test_restart(checker: Any) -> None:
    """With a key, a nonce from before a restart is good; with the random one it leads to a plain challenge."""
    challenge = Client(checker, key=b"0123456789abcdef").challenge()
    assert Client(checker, key=b"0123456789abcdef").send(authorization(challenge)).status == 200
    assert not is_stale(Client(checker).send(authorization(challenge)))


# Wrong passwords


def guess(client: Any, number: int, flow: RecordingFlow | None = None) -> Any:
    """Send *number* wrong passwords of alice, on one challenge, and return how many were looked at."""
    before = client.counter("wrong")
    challenge = client.challenge(flow=flow)
    for attempt in range(number):
        response = client.send(authorization(challenge, password=f"guess {attempt}"), flow=flow)
        assert response.status == 401
    return client.counter("wrong") - before


def test_guessing(client: Any, checker: Any) -> None:
    """Of thousands of wrong passwords a dozen is looked at, nothing is held for the rest, and nobody else waits."""
    guesser, honest = RecordingFlow(remote_address=("192.0.2.66", 5060)), RecordingFlow()
    looked_at = 0
    for _ in range(100):
        looked_at += guess(client, 20, flow=guesser)
        guesser.sent.clear()
        client.clock.advance(1)
    assert looked_at == len(checker.names) < 15
    assert client.service.counters["transactions_owed"] == 0
    assert client.send(authorization(client.challenge(flow=honest)), flow=honest).status == 200
    assert not [call for call in client.clock.getDelayedCalls() if call.getTime() > client.clock.seconds() + 33]


def test_right_password_comes_too_early(client: Any) -> None:
    """An attempt that comes too early is answered as a wrong one, so that a guesser cannot tell; later it is right."""
    assert guess(client, 5) == 3
    digest = authorization(client.challenge())
    assert not is_stale(client.send(digest))
    client.clock.advance(1)
    assert client.send(digest).status == 200
    assert guess(client, 5) == 3, "which ended the delay"


def test_unknown_user(client: Any) -> None:
    """A user that there is not is answered, counted and delayed as a wrong password is."""
    known, unknown = (
        client.send(authorization(client.challenge(), username=name, password="guess")) for name in ("alice", "mallory")
    )
    assert known.reason == unknown.reason
    assert [name for name, _ in known.headers] == [name for name, _ in unknown.headers]
    for _ in range(5):
        client.send(authorization(client.challenge(), username="mallory"))
    assert client.authenticator.checkers[0].names.count(b"mallory") == 3


def test_unknown_user_costs_the_same(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much is hashed for an unknown user as for a wrong password, so that time tells nothing."""
    hashed: Any = []
    original = type(ALGORITHMS["md5"]).hash
    monkeypatch.setattr(
        type(ALGORITHMS["md5"]), "hash", lambda self, data: hashed.append(self.name) or original(self, data)
    )
    costs = []
    for name in ("alice", "mallory"):
        digest = authorization(client.challenge(), username=name, password="guess")
        hashed.clear()
        client.send(digest)
        costs.append(list(hashed))
    assert costs[0] == costs[1] != []


def test_spellings_of_a_user(client: Any, checker: Any) -> None:
    """A guesser gains nothing by other spellings of the domain of a user, nor by leaving out that of the realm."""
    for name in ("alice", "alice@example.com", "alice@EXAMPLE.com", "alice@Example.com.", "alice@eXample.com"):
        client.send(authorization(client.challenge(), username=name, password="guess"))
    assert len(checker.names) == 3


def test_spraying(client: Any, checker: Any) -> None:
    """Who tries each of many users is slowed down, and a user who is known there is not (`Delays`)."""
    assert client.send(authorization(client.challenge())).status == 200
    for number in range(100):
        client.send(authorization(client.challenge(), username=f"user{number}", password="1234"))
    assert len(checker.names) == 1 + 30
    assert client.send(authorization(client.challenge())).status == 200


def test_retransmitted_wrong_password(client: Any) -> None:
    """A client that resends a request sends the same digest, which is one wrong password."""
    digest = authorization(client.challenge(), password="guess")
    for _ in range(10):
        assert client.send(digest, number=2, branch="z9hG4bKa").status == 401
    assert client.counter("wrong") == 1


def slow(checker: Any) -> Callable[..., Any]:
    """Have *checker* answer later; returns what answers."""
    answer = checker.requestAvatarId
    waiting: list[Any] = []

    def ask(credentials: DigestCredentials) -> Any:
        waiting.append(Deferred())
        return waiting[-1].addCallback(lambda _: answer(credentials))

    def answer_all() -> None:
        for deferred in waiting:
            deferred.callback(None)

    checker.requestAvatarId = ask
    return answer_all


def test_attempts_at_once(checker: Any) -> None:
    """However many requests of a user wait for a slow checker, none is told that its password is wrong."""
    answer_all = slow(checker)
    client = Client(checker, window=200)
    challenge = client.challenge()
    for number in range(1, 121):
        client.send(authorization(challenge, nc=f"{number:08x}"))
    answer_all()
    statuses = [response.status for response in client.flow.responses[1:]]
    assert (statuses.count(200), statuses.count(503)) == (100, 20)
    assert client.counter("too_many_at_once") == 20


def test_guesses_at_once(checker: Any) -> None:
    """Once a password was wrong, a slow checker looks at a few of one user and source at a time."""
    client = Client(checker)
    guess(client, 1)
    answer_all = slow(checker)
    challenge = client.challenge()
    for number in range(50):
        client.send(authorization(challenge, password=f"other guess {number}"))
    answer_all()
    assert client.counter("wrong") == 1 + 8


def test_several_digests_of_the_realm(client: Any, checker: Any) -> None:
    """Each of several credentials for the realm is tried, and each wrong one counts (22.3, 20.7)."""
    challenge = client.challenge()
    right, wrong = authorization(challenge), authorization(challenge, password="guess")
    old = authorization(client.challenge(), nonce="AAAA")
    assert client.send(wrong, headers=(("Authorization", old), ("Authorization", right))).status == 200
    assert client.counter("wrong") == 1
    guesses = [authorization(client.challenge(), password=f"guess {number}") for number in range(10)]
    checker.names.clear()
    client.send(headers=tuple(("Authorization", digest) for digest in guesses))
    assert len(checker.names) == 3


# Checkers


@pytest.mark.parametrize("late", [False, True])
def test_checker_that_answers_later(checker: Any, late: bool) -> None:
    """A checker may answer at once or later; a challenge that was not waited for is stateless all the same."""
    answer = checker.requestAvatarId
    waiting = []

    def ask(credentials: DigestCredentials) -> Deferred[Any]:
        deferred = Deferred() if late else succeed(None)
        waiting.append(deferred)
        return deferred.addCallback(lambda _: answer(credentials))

    checker.requestAvatarId = ask
    client = Client(checker)
    challenge = client.challenge()
    for password, status in (("secret", 486), ("guess", 401)):
        digest = authorization(challenge, password=password, method="INVITE")
        client.send(digest, "INVITE")
        if late:
            waiting[-1].callback(None)
        assert client.flow.responses[-1].status == status
    assert client.service.counters["transactions_owed"] == (2 if late else 1)


def test_checker_that_takes_too_long(checker: Any) -> None:
    """A checker has its time; then it is cancelled, the answer is 504, and that is no wrong password."""
    cancelled: list[Any] = []
    checker.requestAvatarId = lambda credentials: Deferred(cancelled.append)
    client = Client(checker, lookup_timeout=1.5)
    client.send(authorization(client.challenge()))
    client.clock.advance(1.5)
    assert client.flow.responses[-1].status == 504
    assert len(cancelled) == 1
    assert (client.counter("checker_timeouts"), client.counter("wrong")) == (1, 0)


def test_checker_that_fails(checker: Any, logged_failures: list[LogEvent]) -> None:
    """A checker that breaks is logged once, and nobody is let in."""

    def fail(credentials: DigestCredentials) -> None:
        raise RuntimeError("broken")

    checker.requestAvatarId = fail
    client = Client(checker)
    assert client.send(authorization(client.challenge())).status == 500
    assert client.server.identities == []
    assert len(logged_failures) == 1
    logged_failures.clear()


def test_checker_that_does_not_look(checker: Any) -> None:
    """A checker that says yes without having held a secret against the digest lets nobody in."""
    checker.requestAvatarId = lambda credentials: credentials.username
    client = Client(checker)
    assert client.send(authorization(client.challenge(), password="guess")).status == 401
    checker.requestAvatarId = lambda credentials: credentials.checkPassword(b"secret") and b"guest"
    assert client.send(authorization(client.challenge(), password="guess")).status == 401


def test_several_checkers(checker: Any) -> None:
    """Checkers are asked in order, until one knows the user by this password; its name for the user counts."""

    kind: Any = type(checker)

    class Second(kind):  # type: ignore[misc]  # whichever checker it is
        def requestAvatarId(self, credentials: DigestCredentials) -> Any:
            super().requestAvatarId(credentials)
            return "account 7"

    client = Client(checker)
    client.server.authenticator = DigestAuthenticator(
        [checker, Second({b"bob": b"builder", b"alice": b"other"})], REALM, clock=client.clock
    )
    for name, password, status in (("bob", "builder", 200), ("alice", "other", 200), ("alice", "guess", 401)):
        response = client.send(authorization(client.challenge(), username=name, password=password))
        assert response.status == status
    assert client.server.identities == ["account 7", "account 7"]


def test_hashes_that_checkers_have(checker: Any) -> None:
    """No algorithm is offered for which a checker cannot know the secret: the client would take it, and fail."""

    kind: Any = type(checker)

    class Hashes(kind):  # type: ignore[misc]  # whichever checker it is
        credentialInterfaces = (IUsernameDigestHash,)

        def requestAvatarId(self, credentials: DigestCredentials) -> bytes:
            if credentials.checkHash(ha1("MD5", b"alice", REALM, b"secret").encode()):
                return b"alice"
            raise UnauthorizedLogin

    client = Client(Hashes({}))
    challenges = client.challenges()
    assert [parameters(challenge)["algorithm"] for challenge in challenges] == ["MD5"]
    assert client.send(authorization(challenges[0])).status == 200


def test_no_algorithm_for_all_users(checker: Any, logged: list[Any]) -> None:
    """An algorithm that no secret allows is refused at the start, and a change of what is possible is logged once."""
    checker.hashes = {"MD5"}
    client = Client(checker, algorithms=["SHA-256"])
    with pytest.raises(
        StartError, match=r"^--auth-algorithms: the users' secrets allow none of SHA-256 for all of them"
    ):
        client.service.startService()
    client = Client(checker)
    client.service.startService()
    assert [parameters(challenge)["algorithm"] for challenge in client.challenges()] == ["MD5"]
    for hashes in ({"MD5"}, set(), set(), {"MD5", "SHA-256"}):
        checker.hashes = hashes
        client.challenge()
        client.challenge()
    told = [line for line in logged if "SHA-256" in line or "offered" in line]
    assert told == [
        "Digest algorithms offered now: MD5",
        "The users' secrets allow none of SHA-256, MD5 for all of them",
        "Digest algorithms offered now: SHA-256, MD5",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"realm": ""}, {"realm": "a\r\nb"}, {"algorithms": []}, {"algorithms": ["SHA-1"]}, {"qop": []},
        {"qop": ["auth-conf"]}, {"key": b"short"}, {"opaque": "a\nb"}, {"checkers": [AllowAnonymousAccess()]},
    ],
)  # fmt: skip
def test_misuse(options: dict[str, Any]) -> None:
    """What cannot work is refused where it is said."""
    with pytest.raises(ValueError):
        DigestAuthenticator(**{"checkers": [], "realm": REALM, **options})


def test_no_secret_is_told(client: Any, checker: Any) -> None:
    """What is said of an authenticator and of credentials in logs has no password and no digest in it."""
    seen: Any = []
    answer = checker.requestAvatarId
    checker.requestAvatarId = lambda credentials: seen.append(credentials) or answer(credentials)
    digest = authorization(client.challenge())
    assert client.send(digest).status == 200
    assert IUsernameHashedPassword.providedBy(seen[0])
    secret = parameters(digest)["response"]
    credentials: Any = seen.pop()
    for text in (repr(credentials), repr(credentials._digest), client.authenticator.description):
        assert secret not in text
        assert "secret" not in text


# What is asked, and what is not


@pytest.mark.requirement("22.1-11", "22.1-12")
def test_ack(checker: Any) -> None:
    """The ACK is taken without a word of who sent it, with the INVITE's credentials or without (22.1)."""

    class Phone(Served):
        acknowledged = 0

        def handle_INVITE(self, request: Request, transaction: Invitation) -> Response:
            return request.response(200)

        def handle_ACK(self, ack: Request, dialog: Dialog) -> None:
            self.acknowledged += 1

    for has_credentials in (True, False):
        client = Client(checker, Phone.of)
        digest = authorization(client.challenge(method="INVITE"), method="INVITE")
        accepted = client.send(digest, "INVITE")
        assert accepted.status == 200
        sent = len(client.flow.sent)
        client.send(digest if has_credentials else None, "ACK", number=client.number, to=accepted.headers.get("To"))
        assert client.server.acknowledged == 1
        assert len(client.flow.sent) == sent
        client.service.stopService()
        client.clock.advance(60)


@pytest.mark.requirement("22.1-13", "22.1-14")
def test_cancel(checker: Any) -> None:
    """A CANCEL from where the INVITE came from is not challenged, and cancels it (22.1)."""

    class Ringing(Served):
        def handle_INVITE(self, request: Request, transaction: Any) -> Any:
            return Deferred()

    client = Client(checker, Ringing.of)
    digest = authorization(client.challenge(method="INVITE"), method="INVITE")
    client.send(digest, "INVITE", branch="z9hG4bKx")
    client.send(method="CANCEL", branch="z9hG4bKx", number=client.number)
    assert [response.status for response in client.flow.responses][-2:] == [200, 487]


def test_requests_in_a_dialog(checker: Any) -> None:
    """Requests in a dialog are not challenged: who made it was; one that names no dialog of ours is (22)."""

    class Phone(Served):
        def handle_INVITE(self, request: Request, transaction: Invitation) -> Response:
            return request.response(200)

    client = Client(checker, Phone.of)
    accepted = client.send(authorization(client.challenge(method="INVITE"), method="INVITE"), "INVITE")
    to = accepted.headers.get("To")
    client.send(method="ACK", number=client.number, to=to)
    assert client.send(method="BYE", to=f"<{URI}>;tag=forged").status == 401
    assert client.send(method="BYE", to=to).status == 200


@pytest.mark.requirement("22.1-10")
def test_where_nobody_is_asked(client: Any) -> None:
    """Where a request needs no authentication, credentials do no harm, those of "anonymous" for one (22.1)."""
    client.server.authenticated_methods = ["INVITE"]
    anonymous = authorization(client.challenge(method="INVITE"), username="anonymous", password="")
    assert client.send(anonymous).status == 200
    assert client.server.identities == [None]
    assert client.send(anonymous, "INVITE").status == 401


def test_options_for_the_server_itself(client: Any) -> None:
    """OPTIONS for the server itself is answered to everybody; for a user it is challenged."""
    assert client.send(method="OPTIONS", uri="sip:example.com").status == 200
    assert client.send(method="OPTIONS").status == 401


def test_authenticator_that_is_the_server(checker: Any) -> None:
    """A server may be its own authenticator."""

    class Own(Served):
        def authenticate(self, request: Request, transaction: Invitation | NonInviteServerTransaction) -> Any:
            if request.method == "INVITE":
                raise SIPError(401)
            return "somebody"

    server: Any = Own()
    server.authenticator = server
    client = Client(checker, lambda authenticator, clock: server)
    assert client.send().status == 200
    assert client.send(method="INVITE").status == 401
    assert server.identities == ["somebody"]
    assert server.services == ()
