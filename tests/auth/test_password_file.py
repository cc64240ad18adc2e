"""Does a file of users serve while it changes, without the reactor ever waiting for it?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.auth.client import REALM, Client, authorization, parameters
from twisted_sipuas import StartError
from twisted_sipuas.auth import PasswordFile
from twisted_sipuas.auth.credentials import DigestCredentials
from twisted_sipuas.auth.digest import ha1


class Pool:
    """A thread pool whose thread works when the test says so."""

    def __init__(self) -> None:
        self.work: list[Any] = []

    def callInThreadWithCallback(
        self, done: Callable[..., Any], function: Callable[..., Any], *arguments: Any, **options: Any
    ) -> None:
        self.work.append((done, function, arguments, options))

    def run(self) -> None:
        for done, function, arguments, options in self.work:
            try:
                result = function(*arguments, **options)
            except Exception:
                from twisted.python.failure import Failure

                done(False, Failure())
            else:
                done(True, result)
        self.work.clear()


class Reactor(Clock):
    """A clock with a thread pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()

    def getThreadPool(self) -> Pool:
        return self.pool

    def callFromThread(
        self, function: Callable[..., Any], *arguments: Failure | tuple[Any, ...], **options: Any
    ) -> None:
        function(*arguments, **options)


class Passwords:
    """A running `PasswordFile` of *text*; `knows` asks it for a password."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.reactor = Reactor()
        self.write(text)
        self.checker = PasswordFile(str(path), REALM, self.reactor)
        self.checker.startService()

    def write(self, text: str) -> None:
        """Put *text* in the place of the file, as an editor does."""
        beside = self.path.with_name("beside")
        beside.write_text(text)
        beside.replace(self.path)

    def ask(self, password: str, user: str = "alice") -> Any:
        return self.checker.requestAvatarId(cast(DigestCredentials, Question(user, password)))

    def knows(self, password: str, user: str = "alice") -> Any:
        """Whether *password* is that of *user*, told at once."""
        try:
            return self.ask(password, user) == user.encode()
        except UnauthorizedLogin:
            return False


class Question:
    """Credentials, as a checker sees them."""

    realm = REALM

    def __init__(self, user: str, password: str, hash_name: str = "SHA-256") -> None:
        self.username = user.encode()
        self.hash_name = hash_name
        self._secret = ha1(hash_name, self.username, REALM, password.encode()).encode()

    def checkPassword(self, password: bytes) -> bool:
        return self.checkHash(ha1(self.hash_name, self.username, REALM, password).encode())

    def checkHash(self, digits: bytes) -> bool:
        return digits == self._secret


@pytest.fixture
def passwords(tmp_path: Path) -> Passwords:
    return Passwords(tmp_path / "users", "alice:secret\n")


def test_answers_at_once(passwords: Passwords) -> None:
    """A user is known, or not, without waiting; the file is not even looked at within a second."""
    assert passwords.knows("secret")
    assert not passwords.knows("guess")
    assert not passwords.knows("secret", "bob")
    passwords.write("alice:changed\n")
    assert passwords.knows("secret")
    assert passwords.reactor.pool.work == []


def test_change(passwords: Passwords, logged: list[Any]) -> None:
    """Who asks after a change waits until the file was read, in a thread; and so does who asks meanwhile."""
    passwords.write("alice:changed\nbob:builder\n")
    passwords.reactor.advance(1)
    waiting = [passwords.ask("changed"), passwords.ask("builder", "bob")]
    assert all(isinstance(answer, Deferred) and not answer.called for answer in waiting)
    assert len(passwords.reactor.pool.work) == 1
    passwords.reactor.pool.run()
    assert [answer.result for answer in waiting] == [b"alice", b"bob"]
    assert passwords.knows("changed")
    assert logged == [f"{passwords.path}: 2 users"]


@pytest.mark.parametrize("text", ["alice secret\n", None])
def test_mistake_in_a_change(passwords: Passwords, logged: list[Any], text: str | None) -> None:
    """A file that has a mistake, or is gone, is logged once, and the users stay; when it is mended, it counts."""
    if text is None:
        passwords.path.unlink()
    else:
        passwords.write("# users\n" + text)
    for _ in range(3):
        passwords.reactor.advance(1)
        try:
            passwords.ask("secret")
        finally:
            passwords.reactor.pool.run()
        assert passwords.knows("secret")
    reason = "No such file or directory" if text is None else "line 2: expected user:password or user:realm:hash"
    assert logged == [f"{passwords.path}: {reason}; the users stay as they were"]
    passwords.write("alice:mended\n")
    passwords.reactor.advance(1)
    passwords.ask("mended")
    passwords.reactor.pool.run()
    assert passwords.knows("mended")


def test_who_waits_no_longer(passwords: Passwords) -> None:
    """Who gave up waiting is told nothing, and the others are."""
    passwords.write("alice:changed\n")
    passwords.reactor.advance(1)
    first, second = passwords.ask("changed"), passwords.ask("changed")
    first.addErrback(lambda _: None)
    first.cancel()
    passwords.reactor.pool.run()
    assert second.result == b"alice"


def test_hashes(tmp_path: Path) -> None:
    """Hashes are held against digests of their algorithm, and others are not offered."""
    digits = ha1("MD5", b"alice", REALM, b"secret")
    checker = Passwords(tmp_path / "users", f"alice:{REALM}:{digits}\n").checker
    client = Client(checker)
    challenges = client.challenges()
    assert [parameters(challenge)["algorithm"] for challenge in challenges] == ["MD5"]
    assert client.send(authorization(challenges[0])).status == 200
    assert client.send(authorization(challenges[0], password="guess", nc="00000002")).status == 401
    with pytest.raises(UnauthorizedLogin):
        checker.requestAvatarId(cast(DigestCredentials, Question("alice", "secret")))
    elsewhere = Question("alice", "secret", "MD5")
    elsewhere.realm = "example.org"
    with pytest.raises(UnauthorizedLogin):
        checker.requestAvatarId(cast(DigestCredentials, elsewhere))


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "No such file or directory"), ("alice:a\nbob\n", "line 2: expected user:password")],
)
def test_mistake_at_the_start(tmp_path: Path, text: str | None, said: str) -> None:
    """A file that cannot be read when the service starts ends that with one line."""
    path = tmp_path / "users"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartError, match=said) as raised:
        PasswordFile(str(path), REALM, Reactor()).startService()
    assert str(path) in str(raised.value)


def test_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name is taken from where systemd keeps state, if it says so."""
    (tmp_path / "users").write_text("alice:secret\n")
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/elsewhere")
    checker = PasswordFile("users", REALM, Reactor())
    checker.privilegedStartService()
    assert checker.requestAvatarId(cast(DigestCredentials, Question("alice", "secret"))) == b"alice"
    assert checker.description == "file:users"


def test_link_that_leads_elsewhere(tmp_path: Path) -> None:
    """A link may be changed to lead to another file, as deployments do."""
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"alice:{name}\n")
    link = tmp_path / "users"
    link.symlink_to(tmp_path / "old")
    reactor = Reactor()
    checker = PasswordFile(str(link), REALM, reactor)
    checker.startService()
    os.symlink(tmp_path / "new", tmp_path / "next")
    (tmp_path / "next").replace(link)
    reactor.advance(1)
    answer = checker.requestAvatarId(cast(DigestCredentials, Question("alice", "new")))
    reactor.pool.run()
    assert answer.result == b"alice"


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_no_name(path: str) -> None:
    """What cannot be the name of a file is refused."""
    with pytest.raises(ValueError, match="name of a file"):
        PasswordFile(path, REALM, Reactor())
