"""Does a binding store do what a registrar and a redirect server rely on? Checks for every `IBindingStore` there is.

Each of `BINDING_STORE_CHECKS` is an ``async def`` that takes a `BindingStoreCase` and raises `AssertionError` for what
is wrong. With pytest and pytest-twisted, and a fixture `case` of yours that starts the store, empty::

    @pytest.mark.parametrize("check", BINDING_STORE_CHECKS)
    @pytest_twisted.ensureDeferred
    async def test_store(check, case):
        await check(case)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from zope.interface.verify import verifyObject

from twisted_sipuas.deferreds import waited_for
from twisted_sipuas.interfaces import IBindingStore
from twisted_sipuas.location.binding import Binding
from twisted_sipuas.location.target import Redirection
from twisted_sipuas.syntax.uri import parse_uri
from twisted_sipuas.testing.messages import make_request

__all__ = ["BINDING_STORE_CHECKS", "BindingStoreCase"]


class BindingStoreCase:
    """What a check works with: *store*, started and empty of what the case uses, and time.

    *clock* tells the time that the store goes by; *advance* is called with a number of seconds, and lets them pass at
    once (a `Clock`) or returns a `Deferred` that fires when they have passed. Every case has addresses-of-record of its
    own, so that a store that many share needs no emptying.
    """

    _numbers = itertools.count()

    def __init__(self, store: IBindingStore, clock: IReactorTime, advance: Callable[[float], object]) -> None:
        self.store = store
        self.bob = f"sip:bob{next(self._numbers)}@example.com"
        self.other = f"sip:other{next(self._numbers)}@example.com"
        self._clock = clock
        self._advance = advance

    async def pass_time(self, seconds: float) -> None:
        """Let *seconds* pass."""
        await _result(self._advance(seconds))

    def binding(self, uri: str = "sip:bob@192.0.2.4", left: float = 60, **more: Any) -> Binding:
        """Return a binding that has *left* seconds."""
        return Binding(uri, self._clock.seconds() + left, "call", 1, **more)

    async def bindings(self, address: str) -> tuple[tuple[Binding, ...], object]:
        """Return the bindings of *address*, and their version."""
        bindings, version = await _result(self.store.bindings(address))
        return bindings, version

    async def replace(self, address: str, version: object, *bindings: Binding) -> bool:
        """Make *bindings* those of *address* if *version* is current; returns whether it was."""
        return bool(await _result(self.store.replace(address, version, bindings)))

    async def put(self, address: str, *bindings: Binding) -> bool:
        """Make *bindings* those of *address*, whatever it has."""
        _, version = await self.bindings(address)
        return await self.replace(address, version, *bindings)

    async def targets(self, uri: str) -> list[str] | None:
        """Return the Contact values for a caller of *uri*; None if nothing is known."""
        found = await _result(self.store.lookup(parse_uri(uri), make_request(uri=uri)))
        assert found is None or isinstance(found, Redirection), f"{found!r} is no Redirection"
        return None if found is None else [str(target) for target in found.targets]


async def check_interface(case: BindingStoreCase) -> None:
    """A store provides `IBindingStore`, and describes itself in one line."""
    verifyObject(IBindingStore, case.store)
    description: str = case.store.description
    assert description
    assert "\n" not in description


async def check_nothing_there(case: BindingStoreCase) -> None:
    """Of an address-of-record without bindings nothing is found, so that the next location service is asked."""
    assert await case.targets(case.bob) is None
    bindings, _ = await case.bindings(case.bob)
    assert bindings == ()


async def check_replace_and_look_up(case: BindingStoreCase) -> None:
    """What was put is what is found, in order, and nothing is found of others."""
    bindings = (case.binding(q=0.5), case.binding("tel:+1", left=90), case.binding("sip:a@192.0.2.1", left=30, q=1.0))
    assert await case.put(case.bob, *bindings) is True
    found, _ = await case.bindings(case.bob)
    assert found == bindings
    targets = await case.targets(case.bob)
    assert targets is not None
    assert [target.partition(">")[0] for target in targets] == ["<sip:bob@192.0.2.4", "<tel:+1", "<sip:a@192.0.2.1"]
    assert targets[0].startswith("<sip:bob@192.0.2.4>;q=0.5;expires=")
    assert await case.targets(case.other) is None


async def check_every_field(case: BindingStoreCase) -> None:
    """A binding comes back as it was, to the octet: what is no UTF-8, NUL where it was escaped, quotes, a long text."""
    binding = case.binding(
        "sip:b%00b\udcff@192.0.2.4;x=\u00fc",
        q=0.123,
        display_name='Bob "\\" \u2603 \udcfe',
        parameters=';+sip.instance="<urn:uuid:0>";x=' + 3000 * "y",
        path="<sip:p1.example.com;lr>,<sip:p2.example.com;lr>",
    )
    others = Binding("tel:+1", binding.expires_at, "another\0call \udc80", 4294967295)
    assert await case.put(case.bob, binding, others) is True
    found, _ = await case.bindings(case.bob)
    assert found == (binding, others)


async def check_path(case: BindingStoreCase) -> None:
    """A caller is told the Path of a binding as the Route of its URI (RFC 3327, 19.1.1)."""
    await case.put(case.bob, case.binding(path="<sip:p1.example.com;lr>"))
    targets = await case.targets(case.bob)
    assert targets is not None
    assert targets[0].startswith("<sip:bob@192.0.2.4?Route=%3Csip:p1.example.com%3Blr%3E>")


async def check_look_up_is_canonical(case: BindingStoreCase) -> None:
    """A look-up finds by the canonical form of the Request-URI (10.3 step 5)."""
    await case.put(case.bob, case.binding())
    user = case.bob.removeprefix("sip:").removesuffix("@example.com")
    for uri in (f"sips:{user}@EXAMPLE.com:5061;user=phone", f"sip:%62{user[1:]}@example.com;x=y?a=b"):
        assert await case.targets(uri), uri


async def check_stale_version(case: BindingStoreCase) -> None:
    """A change by a version that is no more current changes nothing, and says so."""
    _, version = await case.bindings(case.bob)
    binding = case.binding()
    assert await case.put(case.bob, binding) is True
    assert await case.replace(case.bob, version, case.binding("tel:+1")) is False
    found, _ = await case.bindings(case.bob)
    assert found == (binding,)


async def check_version_is_its_own(case: BindingStoreCase) -> None:
    """A stale version stays so when the address-of-record is removed and comes back with the same bindings."""
    binding = case.binding()
    await case.put(case.bob, binding)
    _, version = await case.bindings(case.bob)
    await case.put(case.bob)
    assert await case.replace(case.bob, version, binding) is False
    await case.put(case.bob, binding)
    assert await case.replace(case.bob, version) is False
    found, _ = await case.bindings(case.bob)
    assert found == (binding,)


async def check_race(case: BindingStoreCase) -> None:
    """Of changes by the same version one wins, and the bindings are the winner's; also where there were none."""
    for before in ((), (case.binding(),)):
        await case.put(case.bob, *before)
        _, version = await case.bindings(case.bob)
        contenders = [case.binding(f"tel:+{number}") for number in range(5)]
        racing: list[Deferred[Any]] = [
            Deferred.fromCoroutine(case.replace(case.bob, version, contender)) for contender in contenders
        ]
        won = await gatherResults(racing, consumeErrors=True)
        assert sorted(won) == [False, False, False, False, True]
        found, _ = await case.bindings(case.bob)
        assert found == (contenders[won.index(True)],)


async def check_remove(case: BindingStoreCase) -> None:
    """With its last binding an address-of-record is gone, and others stay."""
    await case.put(case.bob, case.binding())
    await case.put(case.other, case.binding("tel:+1"))
    assert await case.put(case.bob) is True
    assert await case.targets(case.bob) is None
    assert await case.targets(case.other) is not None
    assert await case.put(case.bob) is True, "nothing to remove is no failure"


async def check_expiry(case: BindingStoreCase) -> None:
    """A binding is gone the moment it expires, and those left say how long they last (10.3 step 8)."""
    await case.put(case.bob, case.binding(left=1.5), case.binding("tel:+1", left=60), case.binding("tel:+2", left=1.5))
    await case.put(case.other, case.binding(left=1.5))
    await case.pass_time(2)
    targets = await case.targets(case.bob)
    assert targets in (["<tel:+1>;expires=58"], ["<tel:+1>;expires=57"])
    found, _ = await case.bindings(case.bob)
    assert [str(binding.uri) for binding in found] == ["tel:+1"]
    assert await case.targets(case.other) is None
    found, _ = await case.bindings(case.other)
    assert found == ()
    assert await case.put(case.other, case.binding()) is True, "it may come back"
    assert await case.targets(case.other) is not None


async def check_many_bindings(case: BindingStoreCase) -> None:
    """As many bindings as a registrar allows by default are kept, and changed again and again."""
    for offset in (0, 7):
        bindings = tuple(case.binding(f"sip:bob@192.0.2.{number + offset}") for number in range(100))
        assert await case.put(case.bob, *bindings) is True
        found, _ = await case.bindings(case.bob)
        assert found == bindings


async def check_many_addresses(case: BindingStoreCase) -> None:
    """Changes of many addresses-of-record at a time do not get in each other's way."""
    addresses = [f"{case.bob}.{number}" for number in range(50)]
    done: list[Deferred[Any]] = [
        Deferred.fromCoroutine(case.put(address, case.binding(f"sip:{number}@192.0.2.1")))
        for number, address in enumerate(addresses)
    ]
    assert all(await gatherResults(done, consumeErrors=True))
    for number, address in enumerate(addresses):
        found, _ = await case.bindings(address)
        assert [str(binding.uri) for binding in found] == [f"sip:{number}@192.0.2.1"]


BINDING_STORE_CHECKS: tuple[Callable[[BindingStoreCase], Coroutine[Any, Any, None]], ...] = (
    check_interface,
    check_nothing_there,
    check_replace_and_look_up,
    check_every_field,
    check_path,
    check_look_up_is_canonical,
    check_stale_version,
    check_version_is_its_own,
    check_race,
    check_remove,
    check_expiry,
    check_many_bindings,
    check_many_addresses,
)
"""Every check, in an order that names the simplest fault first."""


async def _result(value: object) -> Any:
    """Return *value*, or what it is a `Deferred` or coroutine of."""
    pending = waited_for(value)
    return value if pending is None else await pending
