"""What memory do transactions take that wait out Timer J, and is it used again?

usage: python benchmarks/transactions_memory.py

Prints the octets of resident memory that each takes, the same for as many more after all of these have ended, the
octets of its response, how many calls the clock had for all of them, and what each left behind.
"""

from __future__ import annotations

import gc
from pathlib import Path

from twisted.internet.task import Clock

from twisted_sipuas import SIPService, UserAgentServer, __version__
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import make_request
from twisted_sipuas.transport.flow import DatagramFlow, PacketInfo

_COUNT = 100_000
_PAGE = 4096
_REQUEST = make_request(
    "OPTIONS", "sip:192.0.2.9", branch="z9hG4bK-NUMBER;rport", from_tag="NUMBER", call_id="NUMBER@192.0.2.1"
).to_bytes()


class _Nowhere:
    """A socket that sends nothing."""

    local_address = Address("198.51.100.1", 5060)
    advertised_address: Address | None = local_address
    closed = False

    def send(self, data: bytes, destination: tuple[str, int], *options: object) -> None:
        """Drop *data*."""

    def with_ttl(self, info: PacketInfo | None, ttl: int) -> PacketInfo:
        """See `DatagramSender`: nothing here asks for it."""
        raise NotImplementedError


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _answer(service: SIPService, first: int, count: int) -> None:
    """Let *service* answer so many OPTIONS, each as different as if it came from the network."""
    nowhere = _Nowhere()
    for number in range(first, first + count):
        flow = DatagramFlow(nowhere, (f"192.0.2.{number % 250}", 5060 + number % 1000))
        service.message_received(parse_message(_REQUEST.replace(b"NUMBER", b"%016x" % number)), flow)


def main() -> None:
    """Measure."""
    clock = Clock()
    service = SIPService(clock, UserAgentServer(), server_header=f"twisted-sipuas/{__version__}")
    _answer(service, 0, 1000)
    before = _resident()
    _answer(service, 1000, _COUNT)
    grown = _resident() - before
    octets = service.counters["transactions_waiting_octets"] / service.counters["transactions_waiting"]
    calls = len(clock.getDelayedCalls())
    clock.pump([0.5] * 65)  # Timer J is 32 seconds
    assert service.counters["transactions_waiting"] == 0
    ended = _resident()
    _answer(service, 1000 + _COUNT, _COUNT)
    again = _resident() - ended
    assert service.counters["transactions_waiting"] == _COUNT
    print(f"{grown / _COUNT:.0f} {again / _COUNT:.0f} {octets:.0f} {calls} {(ended - before) / _COUNT:.0f}")


if __name__ == "__main__":
    main()
