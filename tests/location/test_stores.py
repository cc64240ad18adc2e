"""Does a binding store do what a registrar and a redirect server rely on, whichever kind it is?"""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.application.service import IService
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from twisted_sipuas.errors import SIPError
from twisted_sipuas.interfaces import IBindingStore
from twisted_sipuas.location import Binding, MemoryBindingStore
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing import BINDING_STORE_CHECKS, BindingStoreCase, make_request

BOB = "sip:bob@example.com"
OTHER = "sip:other@example.com"


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: Any) -> Any:
    return request.param


@pytest.fixture
def store(make_store: Any, kind: Any) -> Any:
    return make_store(kind)


@pytest.fixture
def put(clock: Any) -> Any:
    """Make bindings those of an address-of-record, and return whether that was done."""

    def put(store: Any, address: Any, *bindings: Any) -> Any:
        _, version = clock.result(store.bindings(address))
        return clock.result(store.replace(address, version, bindings))

    return put


def targets(store: Any, uri: str = BOB) -> Any:
    found = store.lookup(parse_uri(uri), make_request())
    return None if found is None else [str(target) for target in found.targets]


@pytest.mark.parametrize("check", BINDING_STORE_CHECKS)
def test_contract(store: Any, clock: Any, check: Any) -> None:
    """Each store passes the checks that every `IBindingStore` has to pass."""
    clock.result(Deferred.fromCoroutine(check(BindingStoreCase(store, clock, clock.advance))))


def test_interfaces(store: Any) -> None:
    """A store provides what a registrar and a service need of it."""
    verifyObject(IBindingStore, store)
    verifyObject(IService, store)
    assert store.description.split(":")[0] in ("memory", "sqlite")


def test_look_up_waits_for_nothing(store: Any, put: Any, binding: Any) -> None:
    """The answer of a look-up is there at once: it is a value and no Deferred."""
    put(store, BOB, binding())
    assert [str(target.uri) for target in store.lookup(parse_uri(BOB), make_request()).targets] == ["sip:bob@192.0.2.4"]


def test_remove(store: Any, put: Any, binding: Any) -> None:
    """With its last binding an address-of-record is gone."""
    put(store, BOB, binding())
    assert put(store, BOB) is True
    assert targets(store) is None
    assert store.counters["addresses"] == store.counters["bindings"] == 0


def test_expired_is_not_returned(store: Any, put: Any, binding: Any, clock: Any) -> None:
    """A binding is gone the moment it expires, swept or not, and those left say how long they last (10.3 step 8)."""
    put(store, BOB, binding(left=3), binding("tel:+1", left=5))
    clock.advance(3)
    assert targets(store) == ["<tel:+1>;expires=2"]
    assert [str(binding.uri) for binding in store.bindings(BOB)[0]] == ["tel:+1"]
    clock.advance(2)
    assert targets(store) is None
    assert store.bindings(BOB)[0] == ()
    assert store.counters["bindings"] == 2, "not swept yet"


def test_sweep(store: Any, put: Any, binding: Any, clock: Any) -> None:
    """What expired is forgotten while the service runs, what did not is kept, and the version is still good."""
    put(store, BOB, binding(left=15), binding("tel:+1", left=100))
    put(store, OTHER, binding(left=15))
    _, version = store.bindings(BOB)
    clock.pump([10] * 3)
    assert store.counters["addresses"] == store.counters["bindings"] == 1
    assert clock.result(store.replace(BOB, version, (binding(left=1000),))) is True
    clock.pump([10] * 90)
    assert store.counters["bindings"] == 1
    clock.pump([10] * 20)
    assert store.counters["addresses"] == store.counters["bindings"] == 0


def test_sweep_is_bounded(store: Any, put: Any, binding: Any, clock: Any) -> None:
    """However many expire together, one turn of the reactor sweeps a bounded number of them."""
    store.sweep_batch = 2
    for number in range(5):
        put(store, f"sip:{number}@h", binding(left=5))
    left = []
    clock.rightNow += 10
    while store.counters["addresses"]:
        clock.calls.pop(0).func()  # one turn: `advance` would run those that it schedules too
        left.append(store.counters["addresses"])
    assert left == [3, 1, 0]
    assert clock.getDelayedCalls()[0].getTime() == clock.seconds() + 10, "then it waits again"


def test_refreshes_leave_nothing_behind(make_store: Any, put: Any, binding: Any, clock: Any) -> None:
    """An address-of-record that is refreshed, shortened, removed and added again takes no more memory for it."""
    store = make_store("memory")

    def refresh(times: Any) -> None:
        for number in range(times):
            put(store, BOB, binding(left=86400 - 7 * number % 500))
            if number % 3 == 0:
                put(store, BOB)
            clock.advance(0.1)

    refresh(2500)  # Python keeps 2000 tuples of each length for use again
    tracemalloc.start()
    try:
        refresh(100)
        before, _ = tracemalloc.get_traced_memory()
        refresh(1000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 60_000, "60 octets a refresh"


def test_small_memory(clock: Any) -> None:
    """A binding in memory takes less than 1 kB, its share of every table included."""
    store = MemoryBindingStore(clock)
    tracemalloc.start()
    try:
        for number in range(5000):
            made = Binding(
                f"sip:{number}@192.0.2.4:5060;transport=tcp", clock.seconds() + number, f"{number}@host.example", 1
            )
            store.replace(f"sip:{number}@example.com", 0, (made,))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / 5000 < 1000


def test_bound_on_addresses(make_store: Any, kind: Any, put: Any, binding: Any) -> None:
    """Past its bound a store refuses new addresses-of-record with 503 and Retry-After, and still serves the others."""
    store = make_store(kind, max_addresses=1)
    put(store, BOB, binding())
    with pytest.raises(SIPError) as raised:
        put(store, OTHER, binding())
    assert raised.value.status == 503
    assert dict(raised.value.headers)["Retry-After"]
    assert store.counters["refused"] == 1
    assert put(store, BOB, binding(left=90)) is True
    assert put(store, OTHER) is True, "there is nothing to keep"
    assert put(store, BOB) is True
    assert put(store, OTHER, binding()) is True


def test_stop_leaves_no_timer(store: Any, clock: Any) -> None:
    """A store that stopped has nothing scheduled, and may be started again."""
    assert len(clock.getDelayedCalls()) == 1
    clock.result(store.stopService())
    assert clock.getDelayedCalls() == []
    store.startService()
    assert len(clock.getDelayedCalls()) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from([BOB, OTHER]),
            st.lists(st.integers(-5, 200), max_size=3),
            st.integers(0, 30),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_any_sequence(steps: Any) -> None:
    """Whatever is put, and however time goes on, what is returned is what was put last and did not expire."""
    from twisted.internet.task import Clock

    clock = Clock()
    clock.rightNow = 1000.0
    store = MemoryBindingStore(clock)
    store.startService()
    last: dict[Any, Any] = {BOB: (), OTHER: ()}
    for address, lefts, seconds, is_stale in steps:
        _, version = store.bindings(address)
        bindings = tuple(Binding(f"tel:+{left}", clock.seconds() + left, "call", 1) for left in lefts)
        assert store.replace(address, version + is_stale, bindings) == (not is_stale)
        if not is_stale:
            last[address] = bindings
        clock.advance(seconds)
        for known, put in last.items():
            assert store.bindings(known)[0] == tuple(b for b in put if b.expires_at > clock.seconds())
    clock.pump([10] * 25)
    assert store.counters == {"addresses": 0, "bindings": 0, "refused": 0}
    store.stopService()
    assert clock.getDelayedCalls() == []
