"""Which bindings are there now? The table in memory that the binding stores share, and the end of what expired."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twisted_sipuas.errors import SIPError
from twisted_sipuas.location.binding import Binding, target, unexpired
from twisted_sipuas.location.target import Redirection
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import URI, address_of_record

__all__ = ["BindingTable"]


_Kept = tuple[Any, ...]
"""The values of a `Binding`, and the bindings with these. A million objects of a class of ours would hold up the server
whenever Python's collector of garbage looks at all objects there are: it learns to pass over plain tuples of texts and
numbers, and those of such tuples."""

_Entry = tuple[int, tuple[_Kept, ...], int]
"""What is known of an address-of-record: the version, its bindings, and the slot of time in which the first expires."""

_EXPIRES_AT = 1  # which value of a binding that is
_expires_at = itemgetter(_EXPIRES_AT)
_values = attrgetter(*Binding.__slots__)


class BindingTable(Service):
    """Current bindings by address-of-record; a `Service` so that those that expired are swept while it runs.

    *clock* tells seconds since the epoch. `counters` tells what is held, and how many new addresses-of-record were
    refused because there were *max_addresses*.

    Sweeping never looks at what is not due: time is cut into slots, and each address-of-record is in the slot in which
    its first binding expires, in one at a time however often it is refreshed.
    """

    lookup_timeout: ClassVar[float] = 0.0
    """Seconds that a look-up takes: the answer is there at once."""

    sweep_interval: ClassVar[int] = 10
    """Seconds between two sweeps, and in one slot. Until then expired bindings cost memory; they are never returned."""

    sweep_batch: ClassVar[int] = 1000
    """Addresses-of-record swept in one turn of the reactor."""

    def __init__(self, clock: IReactorTime, *, max_addresses: int = 1_000_000) -> None:
        self.max_addresses = max_addresses
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._slots: dict[int, set[str]] = {}
        self._slot_order: list[int] = []  # a heap of the keys of _slots
        self._last_version = 0
        self._bindings = 0
        self._refused = 0
        self._sweep_call: IDelayedCall | None = None

    @property
    def counters(self) -> Mapping[str, int]:
        """A read-only view of what is held, expired or not, and of what was refused."""
        return MappingProxyType({"addresses": len(self._entries), "bindings": self._bindings, "refused": self._refused})

    def lookup(self, request_uri: URI, request: Request) -> Redirection | None:
        """See `ILocationService`; the answer is there at once."""
        entry = self._entries.get(address_of_record(request_uri))
        if entry is None:
            return None
        now = self._clock.seconds()
        targets = [
            target(uri_text, q, path, expires_at - now)  # what `Binding.target` does, without making one
            for uri_text, expires_at, _, _, q, _, _, path in entry[1]
            if expires_at > now
        ]
        return Redirection(targets) if targets else None

    def bindings(self, address_of_record: str) -> tuple[tuple[Binding, ...], int]:
        """See `IBindingStore`; the answer is there at once."""
        entry = self._entries.get(address_of_record)
        if entry is None:
            return (), 0
        version, kept, _ = entry
        return unexpired([Binding(*values) for values in kept], self._clock.seconds()), version

    def _is_current(self, address_of_record: str, version: object) -> bool:
        """Whether *version* is that of the bindings now.

        No version is given twice but 0, that of no bindings: one that is stale stays so when the address-of-record
        is removed and comes back.
        """
        entry = self._entries.get(address_of_record)
        return version == (0 if entry is None else entry[0])

    def _check_room(self, address_of_record: str, arriving: int = 0) -> None:
        """Raise `SIPError` 503 if *address_of_record* is new and there is no room, with *arriving* others to come."""
        if address_of_record not in self._entries and len(self._entries) + arriving >= self.max_addresses:
            self._refused += 1
            raise SIPError(503, headers=[("Retry-After", "60")], rule="max_addresses")

    def _put(self, address_of_record: str, bindings: tuple[Binding, ...]) -> None:
        """Make *bindings* the bindings of *address_of_record*, under a new version."""
        self._last_version += 1
        self._set(address_of_record, tuple(map(_values, bindings)), self._last_version)

    def _set(self, address: str, kept: tuple[_Kept, ...], version: int) -> None:
        entry = self._entries.get(address)
        if entry is not None:
            _, before, slot = entry
            self._slots[slot].discard(address)
            self._bindings -= len(before)
        if not kept:
            self._entries.pop(address, None)
            return
        first = kept[0] if len(kept) == 1 else min(kept, key=_expires_at)
        slot = int(first[_EXPIRES_AT] // self.sweep_interval) + 1
        self._entries[address] = (version, kept, slot)
        self._bindings += len(kept)
        addresses = self._slots.get(slot)
        if addresses is None:
            addresses = self._slots[slot] = set()
            heapq.heappush(self._slot_order, slot)
        addresses.add(address)

    # IService

    def startService(self) -> None:
        """Start sweeping."""
        super().startService()
        self._sweep_call = self._clock.callLater(self.sweep_interval, self._sweep)

    def stopService(self) -> object:
        """Stop sweeping; nothing is forgotten."""
        super().stopService()
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None
        return None

    def _sweep(self) -> None:
        """Drop the bindings in the slots that are over, a bounded number of addresses-of-record at a time."""
        now = self._clock.seconds()
        left = self.sweep_batch
        while left and self._slot_order and self._slot_order[0] * self.sweep_interval <= now:
            addresses = self._slots[self._slot_order[0]]
            while left and addresses:
                address = addresses.pop()
                version, kept, _ = self._entries[address]
                current = unexpired([Binding(*values) for values in kept], now)
                self._set(address, tuple(map(_values, current)), version)
                self._swept(address, current)
                left -= 1
            if not addresses:
                del self._slots[heapq.heappop(self._slot_order)]
        self._sweep_call = self._clock.callLater(self.sweep_interval if left else 0, self._sweep)

    def _swept(self, address_of_record: str, bindings: tuple[Binding, ...]) -> None:
        """Called when *bindings* are what is left of those of *address_of_record*; for subclasses."""
