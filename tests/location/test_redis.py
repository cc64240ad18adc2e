"""Do servers that share a Redis agree on the bindings, and is what is wrong with a Redis told as what it is?"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from tests.log_observers import log_observer
from tests.redis_process import RedisProcess
from twisted_sipuas.errors import SIPError, UnavailableError
from twisted_sipuas.location import Binding, location_service
from twisted_sipuas.location.redis import RedisBindingStore, make
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing import BINDING_STORE_CHECKS, BindingStoreCase, make_request

BOB = "sip:bob@example.com"
OTHER = "sip:other@example.com"
DOWN = "cannot be used, and what needs it gets 503: "


def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


def pause(seconds: float = 0.01) -> Deferred[Any]:
    return deferLater(reactor(), seconds)


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Redis for the tests that leave it as it was but for keys of their own."""
    redis = RedisProcess(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis
    redis.kill()


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a Redis of the test's own."""
    started: list[Any] = []

    def start(*arguments: str, **options: str) -> Any:
        redis = RedisProcess(tmp_path / f"redis{len(started)}", *arguments, **options)
        redis.start()
        started.append(redis)
        return redis

    yield start
    for redis in started:
        redis.kill()


@pytest.fixture
def make_store(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Start a store on a Redis, by the text given or by the port; one prefix for a test. All are stopped in the end."""
    stores = []

    def start(where: Any, **options: str) -> Any:
        argument = where if isinstance(where, str) else f"127.0.0.1:{where.port}"
        store: Any = make(argument, {"prefix": request.node.name, **options}, reactor())
        store.startService()
        stores.append(store)
        return store

    yield start
    for store in stores:
        if store.running:
            pytest_twisted.blockon(store.stopService())


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """The lines that were logged, each by its level and text."""
    lines = []

    @log_observer
    def observe(event: dict[str, Any]) -> None:
        if event["log_namespace"].startswith("twisted_sipuas.location.redis"):
            lines.append(f"{event['log_level'].name}: {event['log_format'].format(**event)}")

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


async def is_up(store: Any, connections: int = 2) -> None:
    """Wait until *store* has its connections."""
    while store.counters["connections"] < connections:
        await pause()


async def is_down(store: RedisBindingStore) -> None:
    """Wait until *store* has no connection."""
    while store.counters["connections"]:
        await pause()


async def is_logged(logged: list[str], text: str) -> None:
    """Wait until a line that contains *text* is logged."""
    while not any(text in line for line in logged):
        await pause()


def binding(uri: str = "sip:bob@192.0.2.4", left: Any = 60, **more: Any) -> Binding:
    return Binding(uri, reactor().seconds() + left, "call", 1, **more)


async def put(store: RedisBindingStore, address: str, *bindings: Binding) -> Any:
    _, version = await store.bindings(address)
    return await store.replace(address, version, bindings)


async def uris(store: RedisBindingStore, address: str = BOB) -> Any:
    found, _ = await store.bindings(address)
    return [binding.uri_text for binding in found]


def look_up(store: RedisBindingStore, uri: str = BOB) -> Any:
    return store.lookup(parse_uri(uri), make_request())


async def refusal(waiting: Callable[..., Any]) -> Any:
    """Return the exception that *waiting*, a function, raises at once or later."""
    with pytest.raises(SIPError) as raised:
        await waiting()
    return raised.value


# What every store does


@pytest.fixture(params=["bare", "guarded"])
def case(request: pytest.FixtureRequest, shared_redis: Any) -> Iterator[BindingStoreCase]:
    """A store as it is, and as ``--location`` makes it."""
    text = f"127.0.0.1:{shared_redis.port}"
    store: Any = make(text, {}, reactor()) if request.param == "bare" else location_service(f"redis:{text}", reactor())
    store.startService()
    pytest_twisted.blockon(Deferred.fromCoroutine(is_up(store)))
    yield BindingStoreCase(store, reactor(), pause)
    pytest_twisted.blockon(store.stopService())


@pytest.mark.parametrize("check", BINDING_STORE_CHECKS)
@pytest_twisted.ensureDeferred
async def test_contract(check: Callable[..., Any], case: BindingStoreCase) -> None:
    """A Redis passes the checks that every `IBindingStore` has to pass."""
    await check(case)


# Servers that share it


@pytest_twisted.ensureDeferred
async def test_two_stores(make_store: Callable[..., Any], shared_redis: Any) -> None:
    """What one store has stored the other finds at once, and a version is as good at either."""
    one, other = make_store(shared_redis), make_store(shared_redis)
    await is_up(one)
    await is_up(other)
    assert await put(one, BOB, binding()) is True
    found = await look_up(other)
    assert [str(target.uri) for target in found.targets] == ["sip:bob@192.0.2.4"]
    _, version = await one.bindings(BOB)
    assert await other.replace(BOB, version, (binding("tel:+1"),)) is True
    assert await one.replace(BOB, version, (binding("tel:+2"),)) is False
    assert await uris(one) == ["tel:+1"]
    assert await put(other, BOB) is True
    assert await look_up(one) is None


@pytest.mark.deadline(30)
@pytest_twisted.ensureDeferred
async def test_sole_winner(make_store: Callable[..., Any], shared_redis: Any) -> None:
    """However many change one address-of-record at a time, at two servers, each version is replaced once at most and
    no change that was answered True is lost.
    """
    stores = [make_store(shared_redis), make_store(shared_redis)]
    for store in stores:
        await is_up(store)
    winners: Any = Counter()

    async def add(store: RedisBindingStore, times: int) -> None:
        won = 0
        while won < times:
            found, version = await store.bindings(BOB)
            number = found[0].cseq if found else 0
            if await store.replace(BOB, version, (replace(binding(), cseq=number + 1),)):
                winners[version] += 1
                won += 1

    await gatherResults([Deferred.fromCoroutine(add(store, 5)) for store in stores * 20])
    (last,), _ = await stores[0].bindings(BOB)
    assert last.cseq == 5 * 40
    assert set(winners.values()) == {1}


@pytest_twisted.ensureDeferred
async def test_prefixes_are_apart(make_store: Callable[..., Any], shared_redis: Any) -> None:
    """Stores with another prefix, or another database, have other bindings."""
    stores = [
        make_store(shared_redis),
        make_store(shared_redis, prefix="another"),
        make_store(shared_redis, db="3"),
        make_store(f"redis://127.0.0.1:{shared_redis.port}/4"),
    ]
    for number, store in enumerate(stores):
        await is_up(store)
        assert await put(store, BOB, binding(f"tel:+{number}")) is True
    assert [await uris(store) for store in stores] == [["tel:+0"], ["tel:+1"], ["tel:+2"], ["tel:+3"]]


@pytest_twisted.ensureDeferred
async def test_expiry_is_of_redis(make_store: Callable[..., Any], shared_redis: Any, request: Any) -> None:
    """Redis itself forgets an address-of-record when its last binding is over, and what was removed is gone at once."""
    store: Any = make_store(shared_redis)
    await is_up(store)
    await put(store, BOB, binding(left=100), binding("tel:+1", left=300), binding("tel:+2", left=200))
    key = f"{request.node.name}:{BOB}"
    assert 300_000 < int(shared_redis.cli("pttl", key)) <= 330_001, "with 30 s for a clock that is ahead"
    await put(store, BOB, binding("tel:+2", left=200))
    assert 200_000 < int(shared_redis.cli("pttl", key)) <= 230_001
    await put(store, BOB, binding(left=-29.9), binding("tel:+1", left=-100))
    assert await uris(store) == [], "our clock decides"
    await pause(0.15)
    assert shared_redis.cli("exists", key) == "0"
    await put(store, BOB, binding())
    await put(store, BOB)
    assert shared_redis.cli("exists", key) == "0"


@pytest_twisted.ensureDeferred
async def test_value_is_readable(make_store: Callable[..., Any], shared_redis: Any, request: Any) -> None:
    """The value is a version and JSON, as the documentation says."""
    store = make_store(shared_redis)
    await is_up(store)
    made = binding(q=0.5)
    await put(store, BOB, made)
    tag, token, text = shared_redis.cli("get", f"{request.node.name}:{BOB}").split(" ")
    assert (tag, len(token)) == ("1", 20)
    assert json.loads(text) == [["sip:bob@192.0.2.4", made.expires_at, "call", 1, 0.5]]


@pytest_twisted.ensureDeferred
async def test_script_is_forgotten(make_store: Callable[..., Any], shared_redis: Any) -> None:
    """A Redis that has forgotten the script is told it again."""
    store = make_store(shared_redis)
    await is_up(store)
    for _ in range(2):
        for number in range(4):
            assert await put(store, f"sip:{number}@h", binding()) is True
        shared_redis.cli("script", "flush")


# What is not ours


@pytest.mark.parametrize(
    "command",
    [
        ["set", "KEY", "hello"],
        ["set", "KEY", ""],
        ["set", "KEY", "2 aaaaaaaaaaaaaaaaaaaa [[]]"],
        ["set", "KEY", "1 aaaaaaaaaaaaaaaaaaaa ["],
        ["set", "KEY", '1 aaaaaaaaaaaaaaaaaaaa [["no uri",1e10,"",1]]'],
        ["rpush", "KEY", "a"],
    ],
)
@pytest_twisted.ensureDeferred
async def test_strange_value(
    make_store: Callable[..., Any], shared_redis: Any, request: Any, logged: list[str], command: list[str]
) -> None:
    """A value that is none of ours is neither read nor changed, is logged once, and is no matter to anybody else.

    It does not say that nobody is there, so that the next service may be asked.
    """
    store = make_store(shared_redis)
    await is_up(store)
    key = f"{request.node.name}:{BOB}"
    shared_redis.cli("del", key)
    shared_redis.cli(*[key if word == "KEY" else word for word in command])
    before = shared_redis.cli("dump", key)
    if command[-1] != '1 aaaaaaaaaaaaaaaaaaaa [["no uri",1e10,"",1]]':  # whose parts are looked at when they are used
        refused = await refusal(lambda: store.bindings(BOB))
        assert (refused.status, type(refused)) == (500, UnavailableError)
    refused = await refusal(lambda: look_up(store))
    assert (refused.status, type(refused)) == (500, UnavailableError)
    (line,) = logged
    assert line.startswith("error: ")
    assert "is left alone, and requests for it get 500" in line
    assert key in line
    assert await put(store, OTHER, binding()) is True
    assert shared_redis.cli("dump", key) == before
    assert store.counters["strange_values"] >= 1
    shared_redis.cli("del", key)


@pytest_twisted.ensureDeferred
async def test_change_of_a_strange_value(make_store: Callable[..., Any], shared_redis: Any, request: Any) -> None:
    """Nor is it overwritten by a change that read nothing there: it may be put there between reading and writing."""
    store = make_store(shared_redis)
    await is_up(store)
    key = f"{request.node.name}:{BOB}"
    _, version = await store.bindings(BOB)
    shared_redis.cli("set", key, "hello")
    assert await store.replace(BOB, version, (binding(),)) is False
    shared_redis.cli("del", key)
    shared_redis.cli("rpush", key, "a")
    assert (await refusal(lambda: store.replace(BOB, version, (binding(),)))).status == 500


# Who we are to it


@pytest.mark.parametrize(
    ("user_info", "reason"),
    [
        ("", "it asks for a password: give it as redis://[USER]:PASSWORD@HOST"),
        (":wrong-secret@", "the password, or the user, is wrong"),
        ("nobody:wrong-secret@", "the password, or the user, is wrong"),
        (":right-secret@", "it refused the database 99 (ERR)"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_refused(
    make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str], user_info: str, reason: str
) -> None:
    """A password that is missing or wrong is explained once, without it, and everything gets 503 meanwhile."""
    redis = make_redis(password="right-secret")
    store = make_store(f"redis://{user_info}127.0.0.1:{redis.port}/99")
    await is_logged(logged, reason)
    refused = await refusal(lambda: look_up(store))
    assert isinstance(refused, UnavailableError)
    assert (refused.status, refused.headers) == (503, (("Retry-After", "5"),))
    await pause(0.5)
    assert logged == [f"error: redis:127.0.0.1:{redis.port}/99 {DOWN}{reason}"]


@pytest_twisted.ensureDeferred
async def test_refused_for_a_while(
    make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str]
) -> None:
    """A password that Redis comes to take is tried again, so that either side may be mended."""
    redis = make_redis(password="old-secret")
    store = make_store(f"redis://:new%2Fsecret@127.0.0.1:{redis.port}")
    await is_logged(logged, "wrong")
    redis.cli("config", "set", "requirepass", "new/secret")
    await is_up(store)
    assert logged[1:] == [f"info: redis:127.0.0.1:{redis.port} answers again"]
    assert "secret" not in f"{logged} {store.description} {store.__dict__}"


@pytest_twisted.ensureDeferred
async def test_least_rights(make_redis: Callable[..., Any], make_store: Callable[..., Any]) -> None:
    """A user with the rights that the documentation names, on our keys alone, is enough."""
    redis = make_redis()
    redis.cli(
        *"acl setuser sipuas on >secret ~test_least_rights:* "
        "+ping +select +get +eval +evalsha +getrange +set +del +pexpireat".split()
    )
    store = make_store(f"redis://sipuas:secret@127.0.0.1:{redis.port}/1")
    await is_up(store)
    assert await put(store, BOB, binding()) is True
    assert await put(store, BOB, binding("tel:+1")) is True
    assert await look_up(store) is not None
    assert await put(store, BOB) is True


@pytest_twisted.ensureDeferred
async def test_no_rights(make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str]) -> None:
    """Rights that are missing are explained, once for reading and once for changing."""
    redis = make_redis()
    redis.cli(*"acl setuser sipuas on >secret ~* +ping +select".split())
    store = make_store(f"redis://sipuas:secret@127.0.0.1:{redis.port}")
    await is_up(store)
    for _ in range(2):
        assert (await refusal(lambda: look_up(store))).status == 503
        assert (await refusal(lambda: store.replace(BOB, b"", (binding(),)))).status == 503
    where = f"error: redis:127.0.0.1:{redis.port}"
    why = "its ACL does not let this user (NOPERM)"
    assert logged == [f"{where}: bindings cannot be read: {why}", f"{where}: bindings cannot be changed: {why}"]
    redis.cli(*"acl setuser sipuas +@all".split())
    assert await put(store, BOB, binding()) is True
    where = f"info: redis:127.0.0.1:{redis.port}"
    assert logged[2:] == [f"{where}: bindings are read again", f"{where}: bindings are changed again"]


@pytest_twisted.ensureDeferred
async def test_too_many_clients(
    make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str]
) -> None:
    """A Redis that has no room for us is tried again, and used when it has."""
    redis = make_redis("--maxclients", "1")
    with socket.create_connection(("127.0.0.1", redis.port)):
        store = make_store(redis, pool="1")
        await is_logged(logged, "it has all the clients that it takes (maxclients)")
    await is_up(store, 1)
    assert await put(store, BOB, binding()) is True
    assert len(logged) == 2


# When it is down


@pytest.mark.deadline(20)
@pytest_twisted.ensureDeferred
async def test_down_at_start(make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str]) -> None:
    """A Redis that is down does not stop the start; it is logged once, all get 503, and it is used once it is there."""
    redis = make_redis()
    redis.kill()
    store = make_store(redis)
    await is_logged(logged, "connection refused")
    for waiting in (
        lambda: look_up(store),
        lambda: store.bindings(BOB),
        lambda: store.replace(BOB, b"", (binding(),)),
    ):
        refused = await refusal(waiting)
        assert isinstance(refused, UnavailableError)
        assert dict(refused.headers)["Retry-After"]
    await pause(0.8)
    redis.start()
    await is_up(store)
    assert await put(store, BOB, binding()) is True
    where = f"redis:127.0.0.1:{redis.port}"
    assert logged == [f"error: {where} {DOWN}connection refused", f"info: {where} answers again"]


@pytest_twisted.ensureDeferred
async def test_start_is_waited_for(make_redis: Callable[..., Any], make_store: Callable[..., Any]) -> None:
    """What comes before the first connection is there waits for it, in bounds, or for the failure of the first try."""
    redis = make_redis()
    store = make_store(redis)
    store._connections.max_pending = 3
    waiting = [look_up(store), store.bindings(BOB), store.replace(BOB, b"", (binding(),))]
    assert store.counters["pending"] == 3
    assert (await refusal(lambda: look_up(store))).rule == "max_pending"
    waiting[0].cancel()
    with pytest.raises(CancelledError):
        await waiting[0]
    assert await waiting[1] == ((), b"")
    assert await waiting[2] is True
    await store.stopService()
    store.startService()
    waiting, stopped = look_up(store), store.stopService()
    assert (await refusal(lambda: waiting)).status == 503
    await stopped
    redis.kill()
    store.startService()
    assert (await refusal(lambda: look_up(store))).status == 503


@pytest.mark.deadline(20)
@pytest_twisted.ensureDeferred
async def test_killed(make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str]) -> None:
    """When Redis dies what is in flight fails at once with 503, what comes then too, and nothing stored is lost."""
    redis = make_redis()
    store: Any = make_store(redis)
    await is_up(store)
    assert await put(store, BOB, binding()) is True
    redis.freeze()
    waiting = [look_up(store), store.bindings(BOB), store.replace(OTHER, b"", (binding(),))]
    began = time.monotonic()
    redis.kill()
    for pending in waiting:
        refused = await refusal(lambda pending=pending: pending)
        assert isinstance(refused, UnavailableError)
        assert refused.status == 503
    assert time.monotonic() - began < 1
    assert (await refusal(lambda: look_up(store))).status == 503
    assert store.counters["pending"] == 0
    assert store.counters["commands_lost"] == 3
    redis.start()
    await is_up(store)
    assert await uris(store) == ["sip:bob@192.0.2.4"]
    where = f"redis:127.0.0.1:{redis.port}"
    assert len([line for line in logged if line.startswith("error:")]) <= 2, "the end, and that it is refused since"
    assert logged[-1] == f"info: {where} answers again"
    assert store.counters["connections_lost"] == 2


@pytest.mark.deadline(20)
@pytest_twisted.ensureDeferred
async def test_frozen(
    make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that takes commands and answers none is given up after a while, and used again when it goes on."""
    monkeypatch.setattr(RedisBindingStore, "command_timeout", 0.3)
    redis = make_redis()
    store = make_store(redis)
    await is_up(store)
    redis.freeze()
    refused = await refusal(lambda: store.replace(BOB, b"", (binding(),)))
    assert isinstance(refused, UnavailableError)
    await refusal(lambda: store.bindings(BOB))
    await is_down(store)
    assert logged == [f"error: redis:127.0.0.1:{redis.port} {DOWN}no answer within 0.3 s"]
    await pause(0.5)
    redis.thaw()
    await is_up(store)
    assert len(logged) == 2
    assert await put(store, OTHER, binding()) is True


@pytest_twisted.ensureDeferred
async def test_one_connection_ends(
    make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[Any]
) -> None:
    """When one of the connections ends the other one serves, and there is nothing to tell."""
    redis = make_redis()
    store = make_store(redis)
    await is_up(store)
    number = redis.cli("client", "list", "type", "normal").split("id=")[1].split(" ")[0]
    redis.cli("client", "kill", "id", number)
    while not store.counters["connections_lost"]:
        await pause()
    assert store.counters["connections"] == 1
    assert await look_up(store) is None
    await is_up(store)
    assert logged == []


@pytest_twisted.ensureDeferred
async def test_bound(make_redis: Callable[..., Any], make_store: Callable[..., Any]) -> None:
    """Past the bound on commands in flight further ones fail at once, and are counted."""
    redis = make_redis()
    store = make_store(redis)
    store._connections.max_pending = 3
    await is_up(store)
    redis.freeze()
    waiting = [look_up(store) for _ in range(3)]
    refused = await refusal(lambda: look_up(store))
    assert (refused.status, refused.rule) == (503, "max_pending")
    assert (store.counters["pending"], store.counters["refused"]) == (3, 1)
    redis.thaw()
    assert await gatherResults(waiting) == [None] * 3
    assert store.counters["pending"] == 0


@pytest_twisted.ensureDeferred
async def test_cancelled_look_up(make_redis: Callable[..., Any], make_store: Callable[..., Any]) -> None:
    """A look-up that nobody waits for any longer gives its answer to nobody else."""
    redis = make_redis()
    store = make_store(redis, pool="1")
    await is_up(store, 1)
    await put(store, BOB, binding())
    redis.freeze()
    given_up, other = look_up(store, OTHER), look_up(store)
    given_up.cancel()
    redis.thaw()
    with pytest.raises(CancelledError):
        await given_up
    assert len((await other).targets) == 1


@pytest_twisted.ensureDeferred
async def test_stop_waits_for_answers(make_redis: Callable[..., Any], make_store: Callable[..., Any]) -> None:
    """What was taken before the stop gets its answer; what comes after it gets 503."""
    redis = make_redis()
    store = make_store(redis)
    await is_up(store)
    redis.freeze()
    waiting = [store.replace(f"sip:{number}@h", b"", (binding(),)) for number in range(4)]
    stopped = store.stopService()
    assert (await refusal(lambda: look_up(store))).status == 503
    redis.thaw()
    assert await gatherResults(waiting) == [True] * 4
    await stopped
    store.startService()
    await is_up(store)
    assert await uris(store, "sip:3@h") == ["sip:bob@192.0.2.4"]


@pytest_twisted.ensureDeferred
async def test_stop_without_redis(make_redis: Callable[..., Any], make_store: Callable[..., Any]) -> None:
    """A store stops while it waits, connects, or is kept waiting by a Redis that says nothing."""
    redis = make_redis()
    redis.freeze()
    store = make_store(redis)
    await pause(0.05)
    await store.stopService()
    redis.kill()
    store = make_store(redis)
    await pause(0.05)
    await store.stopService()


# What Redis refuses


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (["config", "set", "maxmemory", "1"], "its memory is full (maxmemory) (OOM)"),
        (
            ["config", "set", "min-replicas-to-write", "1"],
            "it has not the replicas that it is to have (min-replicas-to-write) (NOREPLICAS)",
        ),
        (["replicaof", "127.0.0.1", "1"], "it is a read-only replica (READONLY)"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_changes_refused(
    make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str], settings: list[str], code: str
) -> None:
    """A Redis that takes no changes is explained once; they get 503, and look-ups are answered as ever."""
    redis = make_redis()
    store = make_store(redis)
    await is_up(store)
    await put(store, BOB, binding())
    redis.cli(*settings)
    for _ in range(3):
        refused = await refusal(lambda: put(store, BOB, binding("tel:+1")))
        assert isinstance(refused, UnavailableError)
        assert len((await look_up(store)).targets) == 1
    assert logged == [f"error: redis:127.0.0.1:{redis.port}: bindings cannot be changed: {code}"]
    assert store.counters["commands_refused"] == 3


@pytest_twisted.ensureDeferred
async def test_failover(
    make_redis: Callable[..., Any], make_store: Callable[..., Any], logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection to what has become a replica is ended in time, as its name may mean the new master by then."""
    monkeypatch.setattr(RedisBindingStore, "replica_patience", 0.0)
    redis = make_redis()
    store = make_store(redis)
    await is_up(store)
    redis.cli("replicaof", "127.0.0.1", "1")
    await refusal(lambda: put(store, BOB, binding()))
    while not store.counters["connections_lost"]:
        await pause()
    redis.cli("replicaof", "no", "one")
    await is_up(store)
    assert await put(store, BOB, binding()) is True
    where = f"redis:127.0.0.1:{redis.port}"
    assert logged == [
        f"error: {where}: bindings cannot be changed: it is a read-only replica (READONLY)",
        f"info: {where}: bindings are changed again",
    ]


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without txredisapi the mistake says what to install, and nothing else of ours needs it."""
    monkeypatch.setitem(sys.modules, "txredisapi", None)
    for name in [name for name in sys.modules if name.startswith("twisted_sipuas.location.redis")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError) as raised:
        location_service("redis:h", reactor())
    assert "which is not installed: pip install 'twisted-sipuas[redis]'" in str(raised.value)
