"""Is ``--location KIND:REST`` the location service it says, or a mistake that is explained?"""

from __future__ import annotations

import pytest

from twisted_sipuas.location import (
    LocationKind,
    MemoryBindingStore,
    SQLiteBindingStore,
    location_kinds,
    location_service,
)


def test_memory(clock):
    """`memory:` is a store in memory."""
    store = location_service("memory:", clock)
    assert isinstance(store, MemoryBindingStore)
    assert store.description == "memory"


@pytest.mark.parametrize("path", ["a.sqlite", "/var/lib/a:b,c=d.sqlite", "sub/ä"])
def test_sqlite(clock, path):
    """`sqlite:FILE` takes the rest as it is, and opens nothing yet."""
    store = location_service(f"sqlite:{path}", clock)
    assert isinstance(store, SQLiteBindingStore)
    assert store.path == path
    assert store.description == f"sqlite:{path}"


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_rest_from_a_file(clock, tmp_path, end):
    """`@FILE` is what is in that file without its last line end, and octet for octet otherwise."""
    (tmp_path / "rest").write_bytes(b"\n b\xff.sqlite " + end)
    assert location_service(f"sqlite:@{tmp_path}/rest", clock).path == "\n b\udcff.sqlite "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory:x", "'memory:x': expected nothing behind memory:"),
        ("sqlite:", "'sqlite:': expected the name of a file, without NUL"),
        ("sqlite:a\0b", "'sqlite:a\\x00b': expected the name of a file, without NUL"),
        ("sqlite,ttl=1:x", "'sqlite,ttl=1:x': 'ttl' is no option of sqlite"),
        ("memory,fast:", "'memory,fast:': 'fast' is no option of memory"),
        ("memory,cache=1,cache=2:", "'memory,cache=1,cache=2:': the option 'cache' is given twice"),
        ("memory,cache=-1:", "'memory,cache=-1:': cache=-1: expected a number of seconds"),
        ("memory,timeout=:", "'memory,timeout=:': timeout=: expected a number of seconds"),
        ("memory,timeout=inf:", "'memory,timeout=inf:': timeout=inf: expected a number of seconds"),
        ("sqlite:@/nowhere/x", "'sqlite:@/nowhere/x': cannot read /nowhere/x: No such file or directory"),
    ],
)
def test_mistakes(clock, text, said):
    """A mistake is a ValueError that says what was given and what was expected."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    assert str(raised.value) == said


@pytest.mark.parametrize("text", ["ldap:ldap://u:secret@h", "sqlite,a=1:x?password=secret", "memory:u:secret@h"])
def test_no_secret_is_told(clock, text):
    """What may be a password is not in the text of a mistake."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    assert "secret" not in str(raised.value)
    assert str(raised.value).startswith(f"'{text.partition(':')[0]}:...'")


@pytest.mark.parametrize("text", ["", "memory", "ldap:x", "Memory:"])
def test_unknown(clock, text):
    """A kind that there is not is a ValueError that names those that there are."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    known = ", ".join(f"{kind.kind}:" for kind in location_kinds())
    assert str(raised.value) == f"{text!r} is no location service: expected one of {known}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http,headers=a b:http://user:secret@router.example/", "'http,headers=a b:...': "),
        ("http,ttl=1:https://router.example/?key=secret", "'http,ttl=1:...': "),
        ("sqlite,ttl=1:@/nowhere/secret", "'sqlite,ttl=1:@/nowhere/secret': "),
        ("htp:http://user:secret@router.example/", "'htp:...' is no location service"),
    ],
)
def test_secrets(clock, text, shown):
    """A mistake is explained without what may be a password or a key."""
    with pytest.raises(ValueError) as raised:
        location_service(text, clock)
    assert str(raised.value).startswith(shown)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_driver", "broken needs the module no_such_driver, which is not installed: pip install 'x[y]'"),
        ("from os import no_such_name", "broken cannot be used, as broken_kind fails: ImportError: cannot import name"),
        ("1 / 0", "broken cannot be used, as broken_kind fails: ZeroDivisionError: division by zero"),
        ("def make(", "broken cannot be used, as broken_kind fails: SyntaxError: "),
    ],
)
def test_module_that_fails(tmp_path, monkeypatch, clock, source, said):
    """A kind whose module cannot be imported is a mistake of one line, and says what to install where that helps."""
    (tmp_path / "broken_kind.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError) as raised:
        LocationKind("broken", "", "broken_kind", "x[y]").make("", {}, clock)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
