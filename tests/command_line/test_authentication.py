"""What do --auth and its companions make, and what is an operator told of a mistake?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from tests.command_line.test_start import sipuas
from twisted_sipuas import DigestAuthenticator
from twisted_sipuas.options import Options
from twisted_sipuas.testing import RecordingFlow, make_request

AUTH = ("--auth", "memory:alice:secret", "--realm", "example.com")
PUBLIC = ("--listen", "udp:5060:interface=0.0.0.0", "--location", "memory:")

MODULE = """
from twisted_sipuas import ITransactionUser, MemoryBindingStore, RedirectServer, Registrar, UserAgentServer
from twisted.internet.task import Clock
from zope.interface import implementer

@implementer(ITransactionUser)
class Closed:
    pass

@implementer(ITransactionUser)
class Minimal:
    authenticator = None

class Desk(UserAgentServer):
    def handle_MESSAGE(self, request, transaction):
        return request.response(200)

class Both(RedirectServer):
    @classmethod
    def from_options(cls, options):
        store = MemoryBindingStore(Clock())
        return cls([store], registrar=Registrar(store))
"""


def made(*arguments: Any) -> Any:
    """Return the options that the command line makes."""
    options = Options()
    options.parseOptions(arguments)
    return options


def told(*arguments: Any) -> Any:
    """Return what is said of a mistake in *arguments*, which is one line."""
    with pytest.raises(usage.UsageError) as raised:
        made(*arguments)
    (line,) = str(raised.value).splitlines()
    return line


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The name of a module in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "guarded_desks.py").write_text(MODULE)
    return "guarded_desks"


def asked(user: Any, method: str, uri: str = "sip:bob@example.com") -> Any:
    """Whether *user*, and its registrar for REGISTER, asks for a digest."""
    server = user.registrar if method == "REGISTER" and getattr(user, "registrar", None) else user
    request = make_request(method, uri)
    return server.authenticator is not None and server.needs_authentication(request, RecordingFlow())


@pytest.mark.requirement("10.3-12", "22.1-1", "22.1-2", "26.3.1-3")
@pytest.mark.parametrize("mode", ["redirect", "stateful", "stateless"])
def test_who_is_asked(mode: Any) -> None:
    """With --auth every role asks for a digest, the registrar too; OPTIONS for the server itself is open (22.1)."""
    options = made("--mode", mode, *AUTH)
    user = options.transaction_user
    assert isinstance(user.authenticator, DigestAuthenticator)
    assert [asked(user, method) for method in ("INVITE", "REGISTER", "DANCE", "OPTIONS")] == [True] * 4
    assert not asked(user, "OPTIONS", "sip:example.com")
    assert options.authentication == (
        "Authenticating by digest in the realm 'example.com', users of "
        "InMemoryUsernamePasswordDatabaseDontUse: every method; open are OPTIONS for the server itself, and requests "
        "in a dialog"
    )


def test_nobody_is_asked() -> None:
    """Without --auth nobody is asked, and the log says so."""
    options = made()
    assert options.transaction_user.authenticator is None
    assert options.authentication == "Nobody is asked for a password: see --auth"


@pytest.mark.requirement("22.1-7", "22.1-8", "22.1-9", "26.3.1-4")
def test_realm() -> None:
    """The realm is a domain of ours, the first one given, unless it is said: unique, and readable to people (22.1)."""
    assert (
        made("--auth", "file:users", "--domain", "a.example", "--domain", "b.example").authenticator.realm
        == "a.example"
    )
    assert made("--auth", "file:users", "--domain", "a.example", "--realm", "Atlanta").authenticator.realm == "Atlanta"
    assert told("--auth", "file:users") == "--auth: expected a --realm, or a --domain to take for it"
    assert "people can read" in told("--auth", "file:users", "--realm", "")
    assert "people can read" in told("--auth", "file:users", "--realm", "a\tb")


def test_methods() -> None:
    """--auth-methods narrows what is asked about, and the log says what is left open."""
    options = made(*AUTH, "--auth-methods", "REGISTER,INVITE")
    user = options.transaction_user
    assert [asked(user, method) for method in ("INVITE", "REGISTER", "MESSAGE")] == [True, True, False]
    assert options.authentication.endswith(": INVITE, REGISTER outside a dialog; every other method is open")
    assert asked(made(*AUTH, "--auth-methods", "DANCE").transaction_user, "DANCE")
    user = made(*AUTH, "--auth-methods", "INVITE").transaction_user
    assert not asked(user, "REGISTER")


def test_algorithms_and_qop() -> None:
    """Algorithms and qop are offered in the order given."""
    authenticator = made(
        *AUTH, "--auth-algorithms", "SHA-512-256,md5-sess", "--auth-qop", "auth-int,auth"
    ).authenticator
    assert [algorithm.name for algorithm in authenticator.algorithms] == ["SHA-512-256", "MD5-sess"]
    assert authenticator.qop == ("auth-int", "auth")


def test_checkers_in_order() -> None:
    """--auth may be given again and again."""
    authenticator = made("--auth", "file:users", *AUTH, "--auth", "subscriber:sqlite:s.sqlite").authenticator
    assert [type(checker).__name__ for checker in authenticator.checkers] == [
        "PasswordFile", "InMemoryUsernamePasswordDatabaseDontUse", "Subscribers",
    ]  # fmt: skip


def test_registrar_on_a_public_address() -> None:
    """With --auth a registrar may listen where others reach it, but not if REGISTER is left open."""
    assert made(*PUBLIC, *AUTH).registrar is not None
    assert "could register as anybody" in told(*PUBLIC)
    assert "could register as anybody" in told(*PUBLIC, *AUTH, "--auth-methods", "INVITE")


def test_handler(module: Any) -> None:
    """A handler class gets the authenticator, and so does the registrar that it has."""
    arguments = ("--mode", "stateful", "--handler")
    assert asked(made(*arguments, f"{module}.Desk", *AUTH).transaction_user, "MESSAGE")
    user = made(*arguments, f"{module}.Both", *AUTH).transaction_user
    assert asked(user, "INVITE")
    assert asked(user, "REGISTER")
    assert made(*arguments, f"{module}.Minimal", *AUTH).transaction_user.authenticator is not None


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("Closed", (), "--auth: Closed has no attribute authenticator: expected a UserAgentServer"),
        ("Minimal", ("--auth-methods", "INVITE"), "--auth-methods: Minimal has no attribute authenticated_methods"),
    ],
)
def test_handler_that_takes_no_authenticator(module: Any, name: str, arguments: Any, said: str) -> None:
    """A class that would leave open what is to be closed is refused at the start."""
    assert told("--mode", "stateful", "--handler", f"{module}.{name}", *AUTH, *arguments).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--realm", "x"), "--realm: expected only with --auth"),
        (("--auth-methods", "INVITE"), "--auth-methods: expected only with --auth"),
        (("--auth-algorithms", "MD5"), "--auth-algorithms: expected only with --auth"),
        (("--auth-qop", "auth"), "--auth-qop: expected only with --auth"),
        ((*AUTH, "--auth-methods", "INVITE,ACK"), "--auth-methods: ACK cannot be challenged"),
        ((*AUTH, "--auth-methods", "CANCEL"), "--auth-methods: CANCEL cannot be challenged"),
        ((*AUTH, "--auth-methods", "INVITE, BYE"), "--auth-methods: 'INVITE, BYE': expected methods such as"),
        ((*AUTH, "--auth-methods", "register"), "--auth-methods: 'register': expected REGISTER?"),
        ((*AUTH, "--auth-methods", "INVITE,REGSITER"), "--auth-methods: 'REGSITER': expected REGISTER?"),
        ((*AUTH, "--auth-methods", ""), "--auth-methods: '': expected methods such as"),
        ((*AUTH, "--auth-algorithms", "MD5,SHA-1"), "'SHA-1' is no digest algorithm: expected one of SHA-512-256,"),
        ((*AUTH, "--auth-qop", "none"), "qop of auth and auth-int"),
        (("--auth", "unix", "--realm", "x"), "--auth: unix: it can give neither a password nor a hash"),
        (("--auth", "memory:my-secret", "--realm", "x"), "--auth: memory: its text is not what it expects"),
    ],
)
def test_mistakes(arguments: Any, said: str) -> None:
    """A mistake names the option and what was expected, and no password."""
    line = told(*arguments)
    assert said in line
    assert "secret" not in line


def test_help(tmp_path: Path) -> None:
    """--help-auth lists what --auth takes."""
    shown = sipuas(tmp_path, "--help-auth")
    assert shown.returncode == 0
    assert "file:FILE" in shown.stdout
    assert "subscriber:sqlite:FILE" in shown.stdout
    assert "memory:" in shown.stdout
    assert "unix" not in shown.stdout


def test_start_without_an_algorithm(tmp_path: Path) -> None:
    """Algorithms that no user's secret allows end the start with one line, for nobody could register."""
    (tmp_path / "users").write_text(f"alice:example.com:{'0' * 32}\n")
    arguments = ("--realm", "example.com", "--auth", "file:users", "--auth-algorithms", "SHA-256")
    done = sipuas(tmp_path, "--listen", "udp:0", "--location", "memory:", *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "--auth-algorithms: the users' secrets allow none of SHA-256" in line


@pytest.mark.parametrize("checker", ["file:users", "subscriber:sqlite:users"])
@pytest.mark.parametrize("content", [None, "alice\n"])
def test_start_error(tmp_path: Path, checker: Any, content: Any) -> None:
    """Users that cannot be read end the start with one line that names the file and the option."""
    if content is not None:
        (tmp_path / "users").write_text(content)
    done = sipuas(tmp_path, "--listen", "udp:0", "--location", "memory:", "--realm", "x", "--auth", checker)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert str(tmp_path / "users") in line
    assert "--auth" in line
