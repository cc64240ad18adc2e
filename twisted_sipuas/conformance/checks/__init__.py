"""The checks, a module for each part of RFC 3261; importing this package fills `CHECKS`."""

from twisted_sipuas.conformance.checks import (
    calls,
    cancellation,
    capabilities,
    inspection,
    redirection,
    registration,
    responses,
    stateless,
    syntax,
    transactions,
    transports,
)

__all__ = [
    "calls",
    "cancellation",
    "capabilities",
    "inspection",
    "redirection",
    "registration",
    "responses",
    "stateless",
    "syntax",
    "transactions",
    "transports",
]
