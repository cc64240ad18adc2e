"""The memory of `redirect.py`: prints the octets of resident memory that each binding in ``memory:`` takes."""

from __future__ import annotations

import gc
from pathlib import Path

from twisted.internet.task import Clock

from twisted_sipuas import MemoryBindingStore, Protection, RedirectServer, Registrar, SIPService
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow, make_request

_COUNT = 100_000
_AT_ONCE = 1_000
_PAGE = 4096
_REGISTER = make_request(
    "REGISTER",
    "sip:example.com",
    branch="z9hG4bK-NUMBER;rport",
    from_tag="NUMBER",
    call_id="NUMBER@phone.example.com",
    to="<sip:NUMBER@example.com>",
    headers=[("Contact", "<sip:NUMBER@192.0.2.9:5060;transport=udp>"), ("Expires", "86400")],
).to_bytes()


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _register(service: SIPService, clock: Clock, first: int, count: int) -> None:
    """Register so many users, and let the transactions for that come to their end."""
    for start in range(first, first + count, _AT_ONCE):
        for number in range(start, start + _AT_ONCE):
            service.message_received(parse_message(_REGISTER.replace(b"NUMBER", b"%016x" % number)), RecordingFlow())
        clock.pump([16.5, 16.5])


def main() -> None:
    """Measure."""
    clock = Clock()
    store = MemoryBindingStore(clock)
    unbounded = Protection(max_rate=0, max_lag=0)  # a clock that leaps is late, and one source registers everybody
    service = SIPService(clock, RedirectServer([store], registrar=Registrar(store)), protection=unbounded)
    service.startService()
    _register(service, clock, 0, _AT_ONCE)
    before = _resident()
    _register(service, clock, _AT_ONCE, _COUNT)
    assert store.counters["bindings"] == _AT_ONCE + _COUNT
    print(f"{(_resident() - before) / _COUNT:.0f}")


if __name__ == "__main__":
    main()
