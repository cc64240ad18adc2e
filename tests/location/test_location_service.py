"""Is ``--location KIND:REST`` the location service it says, or a mistake that is explained?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.plugin import IPlugin
from zope.interface import implementer

from twisted_sipuas.interfaces import ILocationService, ILocationServicePlugin
from twisted_sipuas.location import (
    LocationKind,
    MemoryBindingStore,
    SQLiteBindingStore,
    kinds,
    location_kinds,
    location_service,
)
from twisted_sipuas.syntax.message import Request


def test_memory(clock: Any) -> None:
    """`memory:` is a store in memory."""
    store = location_service("memory:", clock)
    assert isinstance(store, MemoryBindingStore)
    assert store.description == "memory"


@pytest.mark.parametrize("path", ["a.sqlite", "/var/lib/a:b,c=d.sqlite", "sub/ä"])
def test_sqlite(clock: Any, path: str) -> None:
    """`sqlite:FILE` takes the rest as it is, and opens nothing yet."""
    store = location_service(f"sqlite:{path}", clock)
    assert isinstance(store, SQLiteBindingStore)
    assert store.path == path
    assert store.description == f"sqlite:{path}"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_rest_from_a_file(clock: Any, tmp_path: Path, end: bytes) -> None:
    """`@FILE` is what is in that file without its last line end, and octet for octet otherwise."""
    (tmp_path / "rest").write_bytes(b"\n b\xff.sqlite " + end)
    service: Any = location_service(f"sqlite:@{tmp_path}/rest", clock)
    assert service.path == "\n b\udcff.sqlite "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory:x", "'memory:x': expected nothing behind memory:"),
        ("sqlite:", "'sqlite:': expected the name of a file, without NUL"),
        ("sqlite:a\0b", "'sqlite:a\\x00b': expected the name of a file, without NUL"),
        (
            "sqlite,ttl=1:x",
            "'sqlite,ttl=...:x': 'ttl' is no option of sqlite: expected timeout, cache, or one that its help names",
        ),
        (
            "memory,fast:",
            "'memory,fast:': 'fast' is no option of memory: expected timeout, cache, or one that its help names",
        ),
        ("memory,cache=1,cache=2:", "'memory,cache=...,cache=...:': the option 'cache' is given twice"),
        ("memory,cache=-1:", "'memory,cache=...:': cache=-1: expected a number of seconds"),
        ("memory,timeout=:", "'memory,timeout=...:': timeout=: expected a number of seconds"),
        ("memory,timeout=inf:", "'memory,timeout=...:': timeout=inf: expected a number of seconds"),
        ("sqlite:@/nowhere/x", "'sqlite:@/nowhere/x': cannot read /nowhere/x: No such file or directory"),
    ],
)
def test_mistakes(clock: Any, text: str, said: str) -> None:
    """A mistake is a ValueError that says what was given and what was expected."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    assert str(raised.value) == said


@pytest.mark.parametrize("text", ["ldap:ldap://u:secret@h", "memory:u:secret@h"])
def test_no_secret_is_told(clock: Any, text: str) -> None:
    """What may be a password is not in the text of a mistake."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    assert "secret" not in str(raised.value)
    assert str(raised.value).startswith(f"'{text.partition(':')[0]}:...'")


@pytest.mark.parametrize("text", ["", "memory", "ldap:x", "Memory:"])
def test_unknown(clock: Any, text: str) -> None:
    """A kind that there is not is a ValueError that names those that there are."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    known = ", ".join(f"{kind.kind}:" for kind in location_kinds())
    assert str(raised.value) == f"{text!r} is no location service: expected one of {known}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http,headers=a b:http://user:secret@router.example/", "'http,headers=...:...': "),
        ("http,ttl=1:https://router.example/?key=secret", "'http,ttl=...:...': "),
        ("sqlite,ttl=1:@/nowhere/secret", "'sqlite,ttl=...:@/nowhere/secret': "),
        ("htp:http://user:secret@router.example/", "'htp:...' is no location service"),
        ("sqlite,password=secret:h", "'sqlite,password=...:h': 'password' is no option of sqlite: expected"),
        ("http,tokn=secret:https://h/", "'http,tokn=...:https://h/': 'tokn' is no option of http: expected"),
        ("htp,token=secret:https://h/", "'htp,token=...:https://h/' is no location service"),
        ("redis,password=secret", "'redis,password=...' is no location service"),
    ],
)
def test_secrets(clock: Any, text: str, shown: str) -> None:
    """A mistake is explained without what may be a password or a key."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    assert str(raised.value).startswith(shown)
    assert "=secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_driver", "broken needs the module no_such_driver, which is not installed: pip install 'x[y]'"),
        ("from os import no_such_name", "broken cannot be used, as broken_kind fails: ImportError: cannot import name"),
        ("1 / 0", "broken cannot be used, as broken_kind fails: ZeroDivisionError: division by zero"),
        ("def make(", "broken cannot be used, as broken_kind fails: SyntaxError: "),
    ],
)
def test_module_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Any, source: str, said: str) -> None:
    """A kind whose module cannot be imported is a mistake of one line, and says what to install where that helps."""
    (tmp_path / "broken_kind.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError) as raised:
        LocationKind("broken", "", "broken_kind", "x[y]").make("", {}, clock)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


@implementer(IPlugin, ILocationServicePlugin)
class Plugin:
    """A kind of others, whose `make` is what it was made of."""

    help = "others: of others."

    def __init__(self, kind: str, make: Callable[..., Any] | None) -> None:
        self.kind = kind
        self.make = make


def plugins(monkeypatch: pytest.MonkeyPatch, *added: Plugin) -> None:
    monkeypatch.setattr(kinds, "getPlugins", lambda interface: iter(added))


class NoService:
    """Has what a location service has, but does not say that it is one."""

    description = "none"

    def lookup(self, request_uri: Any, request: Request) -> Any:
        return None


@implementer(ILocationService)
class Undescribed:  # type: ignore[misc]  # what is wrong with it
    """A location service without a description."""

    def lookup(self, request_uri: Any, request: Request) -> Any:
        return None


class Misdescribed(Undescribed):
    """One whose description is no text."""

    description = None


@implementer(ILocationService)
class Useless:  # type: ignore[misc]  # what is wrong with it
    """One that cannot look anything up."""

    description = "useless"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda argument, options, reactor: options["zone"], "others cannot be made: it fails with KeyError"),
        (lambda argument: None, "others cannot be made: it fails with TypeError"),
        (
            lambda argument, options, reactor: Path("/nowhere/secret").read_text(),
            "others cannot be made: it fails with F",
        ),
        (lambda *_: None, "others makes no location service: The object None has failed"),
        (lambda *_: NoService(), "others makes no location service: The object"),
        (lambda *_: Undescribed(), "others makes no location service: The object"),
        (lambda *_: Misdescribed(), "others makes a location service whose description is no text"),
        (lambda *_: Useless(), "others makes no location service: The object"),
    ],
)
def test_plugin_that_makes_no_service(
    monkeypatch: pytest.MonkeyPatch, clock: Any, make: Callable[..., Any], said: str
) -> None:
    """A plugin that makes no location service is a mistake of one line, whatever it does instead."""
    plugins(monkeypatch, Plugin("others", make))
    with pytest.raises(ValueError) as raised:
        location_service("others:x", clock)
    assert str(raised.value).startswith(f"'others:x': {said}")
    assert "\n" not in str(raised.value)


def test_plugin_without_a_kind(monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    """A plugin without a kind, or help, is left out and told of once; the others can be used."""
    nameless, helpless = Plugin("", None), Plugin("helpless", None)
    del nameless.kind
    vars(helpless)["help"] = None
    logged = []
    monkeypatch.setattr(kinds._log, "emit", lambda *arguments, **parts: logged.append(parts["plugin"]))
    plugins(monkeypatch, nameless, helpless, Plugin("others", lambda *_: MemoryBindingStore(clock)))
    assert isinstance(location_service("others:", clock), MemoryBindingStore)
    assert [kind.kind for kind in location_kinds()][-1] == "others"
    assert logged == [repr(nameless), repr(helpless)]
