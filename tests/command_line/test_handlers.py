"""What do --mode, --handler and --answer make, and what is an operator told whose handler cannot be had?"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from twisted_sipuas.options import Options
from twisted_sipuas.uas.answering import AnsweringServer

MODULE = """
from twisted.internet.task import Clock
from twisted_sipuas import MemoryBindingStore, RedirectServer, Registrar, UserAgentServer

class Desk(UserAgentServer):
    def handle_INVITE(self, request, transaction):
        return request.response(486)

class Configured(Desk):
    def __init__(self, mode, **options):
        super().__init__(**options)
        self.mode = mode

    @classmethod
    def from_options(cls, options):
        return cls(options["mode"], domains=["own.example.com"])

class Needy(Desk):
    def __init__(self, wanted):
        super().__init__()

class Broken(Desk):
    def __init__(self):
        raise OSError("no desk\\nfree")

class Forgetful(Desk):
    def __init__(self):
        self.calls = 0

class Leaving(Desk):
    def __init__(self):
        raise SystemExit("no desk free")

class Odd(Desk):
    @classmethod
    def from_options(cls, options):
        return "a desk"

class Bindings(Registrar):
    @classmethod
    def from_options(cls, options):
        return cls(MemoryBindingStore(Clock()))

class Redirecting(RedirectServer):
    @classmethod
    def from_options(cls, options):
        store = MemoryBindingStore(Clock())
        return cls([store], registrar=Registrar(store))

class Authenticating(Redirecting):
    @classmethod
    def from_options(cls, options):
        store = MemoryBindingStore(Clock())
        return cls([store], registrar=Registrar(store, authenticator=object()))

class Plain:
    pass

desk = Desk()
"""

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The name of a module in the current directory, which no other test has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"desks{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / f"{name}_failing.py").write_text("x = 1\nx / 0\n")
    (tmp_path / f"{name}_leaving.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / f"{name}_unreadable.py").write_text("x = 1\nx = = 2\n")
    return name


def made(*arguments: Any) -> Any:
    """Return the transaction user that the command line makes."""
    options = Options()
    options.parseOptions(arguments)
    return options.transaction_user


def told(*arguments: Any) -> Any:
    """Return what is said of a mistake in *arguments*, which is one line."""
    with pytest.raises(usage.UsageError) as raised:
        made(*arguments)
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize("mode", ["stateful", "stateless"])
def test_handler(module: Any, mode: Any) -> None:
    """A class by its name becomes the transaction user, for the domains of the command line."""
    user = made("--mode", mode, "--handler", f"{module}.Desk", "--domain", "Example.com")
    assert type(user).__qualname__ == "Desk"
    assert user.domains == {"example.com"}


def test_handler_from_options(module: Any) -> None:
    """A class that has from_options is made by it, and its own domains are left alone."""
    user = made("--mode", "stateful", "--handler", f"{module}.Configured", "--domain", "example.com")
    assert (user.mode, user.domains) == ("stateful", {"own.example.com"})


def test_bounds_of_a_handler(module: Any) -> None:
    """The bounds on calls that are given are the handler's; those that are not are as it says itself."""
    user = made("--mode", "stateful", "--handler", f"{module}.Desk", "--max-dialogs", "7", "--max-call-time", "60")
    assert (user.max_dialogs, user.max_call_time) == (7, 60)
    user = made("--mode", "stateful", "--handler", f"{module}.Desk")
    assert (user.max_dialogs, user.max_call_time) == (10_000, 7200)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Desk", "'Desk': expected PACKAGE.MODULE.CLASS"),
        ("{module}.", "'{module}.': expected PACKAGE.MODULE.CLASS"),
        ("{module}:Desk", "'{module}:Desk': expected PACKAGE.MODULE.CLASS"),
        ("nosuch.module.Desk", "'nosuch.module.Desk': no module nosuch in "),
        ("{module}_broken.Desk", "{module}_broken needs the module nowhere_to_be_found, which is not installed"),
        ("{module}_failing.Desk", "{module}_failing cannot be imported: ZeroDivisionError: division by zero ("),
        ("{module}_unreadable.Desk", "{module}_unreadable cannot be imported: SyntaxError: invalid syntax ("),
        ("{module}.Dsk", "the module {module} has no Dsk; did you mean Desk?"),
        ("{module}.desk", "'{module}.desk' is a Desk: expected a class"),
        ("{module}.Plain", "'{module}.Plain' does not provide ITransactionUser: derive it from twisted_sipuas."),
        ("{module}.Needy", "{module}.Needy() failed: TypeError: "),
        ("{module}.Needy", "; give it a class method from_options(options) that makes one"),
        ("{module}.Broken", "{module}.Broken() failed: OSError: no desk free ("),
        ("{module}.Forgetful", "{module}.Forgetful: its __init__ has to call super().__init__()"),
        ("{module}.Leaving", "{module}.Leaving() failed: SystemExit: no desk free ("),
        ("{module}_leaving.Desk", "{module}_leaving cannot be imported: SystemExit: 3 ("),
        ("{module}.Odd", "{module}.Odd.from_options made no ITransactionUser"),
    ],
)
def test_handler_that_cannot_be_had(module: Any, name: str, said: str) -> None:
    """What is wrong with the class is said in one line: not there, no class, no transaction user, or not to be made."""
    line = told("--mode", "stateful", "--handler", name.format(module=module))
    assert line.startswith("--handler: ")
    assert said.format(module=module) in line


@pytest.mark.parametrize("option", ["--handler", "--answer", "--max-dialogs", "--max-call-time"])
def test_option_of_another_mode(module: Any, option: Any) -> None:
    """An option of another mode is a mistake, and the line says which mode it is for."""
    value = f"{module}.Desk" if option == "--handler" else "200"
    assert told(option, value).startswith(f"{option}: expected only with --mode stateful")


def test_location_of_a_stateful_server() -> None:
    """Neither has a stateful server a location service."""
    assert told("--mode", "stateful", "--location", "memory:").startswith("--location: expected only with --mode redir")


def test_handler_and_answer(module: Any) -> None:
    """One of them decides, and so only one is given."""
    line = told("--mode", "stateful", "--handler", f"{module}.Desk", "--answer", "486")
    assert line == "--answer and --handler: expected one of them"


@pytest.mark.requirement("8.2.7-2")
def test_registrar_cannot_be_stateless(module: Any) -> None:
    """A registrar is ruled out in stateless mode: to it a retransmission is not the same again (8.2.7)."""
    line = told("--mode", "stateless", "--handler", f"{module}.Bindings")
    assert line == "--mode: Bindings cannot be stateless: expected stateful"
    assert type(made("--mode", "stateful", "--handler", f"{module}.Bindings")).__qualname__ == "Bindings"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--mode", "stateful"], 200),
        (["--mode", "stateless"], 480),
        (["--mode", "stateful", "--answer", "299"], 299),
        (["--mode", "stateful", "--answer", "603"], 603),
        (["--mode", "stateless", "--answer", "300"], 300),
    ],
)
def test_answer(arguments: Any, status: int) -> None:
    """Without a handler every INVITE is answered with one status: 200 where calls can be taken, else 480."""
    user = made(*arguments)
    assert (type(user), user.status) == (AnsweringServer, status)


@pytest.mark.parametrize(
    ("mode", "answer", "least"),
    [
        ("stateful", "199", 200),
        ("stateful", "700", 200),
        ("stateful", "OK", 200),
        ("stateful", "²00", 200),
        ("stateless", "200", 300),
        ("stateless", "299", 300),
        ("stateless", "0486", 300),
    ],
)
def test_answer_that_is_none(mode: Any, answer: Any, least: Any) -> None:
    """A status that the mode cannot answer with is a mistake; a stateless server can take no call (8.2.7)."""
    line = told("--mode", mode, "--answer", answer)
    assert line == f"--answer: {answer!r}: expected a status from {least} to 699 in {mode} mode"


@pytest.mark.parametrize("name", ["Bindings", "Redirecting"])
def test_registrar_of_a_handler(module: Any, name: str) -> None:
    """A registrar that a handler is, or has, may be reached by others only if it asks who they are (RFC 3261, 10.3)."""
    arguments = ["--mode", "stateful", "--handler", f"{module}.{name}"]
    line = told(*arguments, "--listen", "udp:0:interface=192.0.2.1")
    assert line == (
        "--listen: 'udp:0:interface=192.0.2.1' can be reached by others, who could register as anybody: "
        "expected --auth, a loopback address, or --allow-anonymous-registration"
    )
    assert made(*arguments, "--listen", "udp:0:interface=192.0.2.1", "--allow-anonymous-registration")
    assert made(*arguments, "--listen", "udp:0:interface=127.0.0.1")


def test_registrar_of_a_handler_that_authenticates(module: Any) -> None:
    """A registrar of a handler's that has an authenticator of its own may be reached by others."""
    assert made("--mode", "stateful", "--handler", f"{module}.Authenticating", "--listen", "udp:0:interface=192.0.2.1")
