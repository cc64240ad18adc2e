"""Where users can be reached (RFC 3261, 10): location services, and `location_service` to make one from its text."""

from __future__ import annotations

from twisted_sipuas.location.binding import Binding, Limits, Registration
from twisted_sipuas.location.guarded import CircuitBreaker, GuardedBindingStore, GuardedLocationService, guarded
from twisted_sipuas.location.kinds import LocationKind, location_kinds, location_service
from twisted_sipuas.location.memory import MemoryBindingStore
from twisted_sipuas.location.sqlite import SQLiteBindingStore
from twisted_sipuas.location.target import Redirection, Target

__all__ = [
    "Binding",
    "CircuitBreaker",
    "GuardedBindingStore",
    "GuardedLocationService",
    "Limits",
    "LocationKind",
    "MemoryBindingStore",
    "Redirection",
    "Registration",
    "SQLiteBindingStore",
    "Target",
    "guarded",
    "location_kinds",
    "location_service",
]
