"""`MemoryBindingStore`: bindings for as long as the process lives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zope.interface import implementer

from twisted_sipuas.interfaces import IBindingStore
from twisted_sipuas.location.binding import Binding
from twisted_sipuas.location.table import BindingTable

__all__ = ["MemoryBindingStore", "make"]


@implementer(IBindingStore)
class MemoryBindingStore(BindingTable):
    """Keeps bindings in memory: the fastest store, and empty after a restart, until the phones register again.

    *clock* tells seconds since the epoch, as Twisted's reactor does. Past *max_addresses* addresses-of-record, new
    ones get 503. As an `IService` it forgets expired bindings while it runs; they are never returned, running or not.
    """

    description = "memory"

    def replace(self, address_of_record: str, version: object, bindings: Iterable[Binding]) -> bool:
        """See `IBindingStore`; done at once. Raises `SIPError` 503 past *max_addresses*."""
        if not self._is_current(address_of_record, version):
            return False
        bindings = tuple(bindings)
        if bindings:
            self._check_room(address_of_record)
        self._put(address_of_record, bindings)
        return True


def make(argument: str, options: dict[str, str], reactor: Any) -> MemoryBindingStore:
    """See `ILocationServicePlugin`: ``memory:`` has nothing behind the colon, and no options."""
    if argument:
        raise ValueError("expected nothing behind memory:")
    return MemoryBindingStore(reactor)
