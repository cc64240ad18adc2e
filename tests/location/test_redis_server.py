"""Which Redis does ``--location redis:REST`` mean, or what is wrong with it, without a password in what is said?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from tests.interoperability.test_tls import write_certificate
from twisted_sipuas.location import location_kinds, location_service
from twisted_sipuas.location.redis_server import RedisServer

EXPECTED = "expected HOST[:PORT] or redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], or rediss:// for TLS"


@pytest.mark.parametrize(
    ("text", "server", "description"),
    [
        ("redis.example", RedisServer("redis.example"), "redis.example"),
        ("192.0.2.1:7000", RedisServer("192.0.2.1", 7000), "192.0.2.1:7000"),
        ("[2001:DB8::1]:7000", RedisServer("2001:db8::1", 7000), "[2001:db8::1]:7000"),
        ("[::1]", RedisServer("::1"), "[::1]"),
        ("redis://h", RedisServer("h"), "h"),
        ("redis://h/", RedisServer("h"), "h"),
        ("redis://:p%40%2F%FF@h:6379/2", RedisServer("h", 6379, 2, b"", b"p@/\xff"), "h/2"),
        ("redis://u%3Aa:p:q@[::1]:7000", RedisServer("::1", 7000, 0, b"u:a", b"p:q"), "[::1]:7000"),
        ("redis://u:p@q@h", RedisServer("h", 6379, 0, b"u", b"p@q"), "h"),
        ("rediss://u:p@h/1", RedisServer("h", 6379, 1, b"u", b"p", True), "rediss://h/1"),
    ],
)
def test_texts(text: str, server: RedisServer, description: str) -> None:
    """A host, with or without a port, and URLs as other programs take them, are what they say."""
    assert RedisServer.from_text(text) == server
    assert server.description == description


def test_options() -> None:
    """`db` and `ca` may be given beside the text."""
    assert RedisServer.from_text("h", db=3) == RedisServer("h", 6379, 3)
    assert RedisServer.from_text("redis://h", db=3) == RedisServer("h", 6379, 3)
    assert RedisServer.from_text("rediss://h", trust_root="ours").trust_root == "ours"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":6379",
        "h:",
        "h:0",
        "h:65536",
        "h:secret",
        "::1",
        "[::1",
        "[secret]",
        "secret word",
        "secret/2",
        "u:secret@h",
        "http://secret",
        "redis://",
        "redis://h:secret",
        "redis://[secret]",
        "redis://u:secret@",
    ],
)
def test_mistakes(text: str) -> None:
    """Anything else is a ValueError that says what was expected, and quotes nothing."""
    with pytest.raises(ValueError) as raised:
        RedisServer.from_text(text)
    assert str(raised.value) == EXPECTED
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("text", ["redis://:a?secret@h", "redis://:a#secret@h", "redis://:a/secret@h", "redis://h/x"])
def test_password_that_breaks_the_url(text: str) -> None:
    """A password that is not escaped as a URL wants it is explained."""
    with pytest.raises(ValueError) as raised:
        RedisServer.from_text(text)
    assert str(raised.value).startswith(f"{EXPECTED}; in USER and PASSWORD %2F stands for /")


def test_no_secret_in_the_repr() -> None:
    """Neither user nor password is in what a debugger or a traceback shows."""
    assert "secret" not in repr(RedisServer.from_text("redis://secret-user:secret@h"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("redis:", f"'redis:': {EXPECTED}"),
        ("redis:redis://secret@h", f"'redis:...': {EXPECTED}: a user has a password"),
        ("redis,db=1:redis://u:secret@h/2", "'redis,db=...:...': db: expected only where the URL names no database"),
        ("redis,db=-1:h", "'redis,db=...:h': db=-1: expected a whole number from 0 to 99999"),
        ("redis,pool=0:h", "'redis,pool=...:h': pool=0: expected a whole number from 1 to 100"),
        ("redis,pool=:h", "'redis,pool=...:h': pool=: expected a whole number from 1 to 100"),
        ("redis,prefix=:h", "'redis,prefix=...:h': prefix: expected what the keys are to begin with"),
        (
            "redis,ttl=5:h",
            "'redis,ttl=...:h': 'ttl' is no option of redis: expected timeout, cache, or one that its help names",
        ),
        ("redis,ca=/x:rediss://h", "'redis,ca=...:rediss://h': ca=/x: cannot read /x: No such file or directory"),
        ("redis,ca=/dev/null:h", "'redis,ca=...:h': ca=/dev/null: expected certificates in PEM"),
    ],
)  # fmt: skip
def test_location_mistakes(text: str, said: str) -> None:
    """A mistake in the text of a location is a ValueError that says what was given and what was expected."""
    with pytest.raises(ValueError) as raised:
        location_service(text, MemoryReactorClock())
    assert str(raised.value) == said


def test_ca_without_tls(tmp_path: Path) -> None:
    """`ca` for a connection without TLS is a mistake: who gives it expects TLS."""
    write_certificate(tmp_path, "ca")
    with pytest.raises(ValueError) as raised:
        location_service(f"redis,ca={tmp_path}/ca.pem:h", MemoryReactorClock())
    assert str(raised.value).endswith("ca: expected only with rediss://")


def test_location(tmp_path: Path) -> None:
    """A location of this kind is described without secrets, also where they come from a file; it opens nothing yet."""
    (tmp_path / "secret").write_text("redis://u:secret@redis.example/1\n")
    reactor = MemoryReactorClock()
    store: Any = location_service(f"redis,pool=3,prefix=a:@{tmp_path}/secret", reactor)
    assert store.description == "redis:redis.example/1"
    assert store.counters["connections"] == 0
    assert (reactor.tcpClients, reactor.getDelayedCalls()) == ([], [])
    (kind,) = [kind for kind in location_kinds() if kind.kind == "redis"]
    assert all(f"{option}=" in kind.help for option in ("db", "prefix", "pool", "ca"))
