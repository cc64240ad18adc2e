"""Which network is an address in, and may it send to us at all?"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["AccessList", "Networks", "parse_network"]

_MAX_FOUND = 10_000  # hosts whose network is remembered
_MAPPED = 0xFFFF  # what an IPv6 address begins with that stands for an IPv4 one, before its last 32 bits

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"


def parse_network(text: str) -> Network:
    """Return the network that *text* says, such as ``192.0.2.0/24``; one of IPv4-mapped addresses as IPv4.

    Raises `ValueError` with what was expected.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        network = None
    if network is None or "%" in text:  # Python takes a zone, and forgets it
        raise ValueError(f"{text!r}: expected a network such as 192.0.2.0/24")
    if network.version == 6 and network.prefixlen >= 96 and int(network.network_address) >> 32 == _MAPPED:
        return ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


class Networks:
    """Networks with a verdict each; of those that an address is in, the most specific one decides.

    Of two verdicts on one network the latter counts. A look-up costs one dictionary look-up a length of prefix, and for
    a host that was looked up lately one in all.
    """

    __slots__ = ("_found", "_tables")

    def __init__(self, verdicts: Iterable[tuple[Network, bool]] = ()) -> None:
        tables: dict[int, dict[int, dict[int, bool]]] = {32: {}, 128: {}}  # by bits of an address, by bits cut off
        for network, verdict in verdicts:
            cut = network.max_prefixlen - network.prefixlen
            table = tables[network.max_prefixlen].setdefault(cut, {})
            table[int(network.network_address) >> cut] = verdict
        self._tables = {bits: sorted(by_cut.items()) for bits, by_cut in tables.items()}
        self._found: dict[str, bool | None] = {}

    def verdict(self, host: str) -> bool | None:
        """Return the verdict on *host*, a numeric address; None if it is in no network, or is no address."""
        try:
            return self._found[host]
        except KeyError:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            verdict = self._found[host] = self._look_up(host)
            return verdict

    def _look_up(self, host: str) -> bool | None:
        bits, number = _number(host)
        for cut, table in self._tables.get(bits, ()):
            verdict = table.get(number >> cut)
            if verdict is not None:
                return verdict
        return None


def _number(host: str) -> tuple[int, int]:
    """Return how many bits the address *host* has, and the number it is, without its zone; 0 bits for no address."""
    host = host.partition("%")[0]
    try:
        if ":" not in host:
            return 32, int.from_bytes(socket.inet_pton(socket.AF_INET, host), "big")
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, host), "big")
    except (OSError, ValueError):
        return 0, 0
    return (32, number & 0xFFFFFFFF) if number >> 32 == _MAPPED else (128, number)


class AccessList:
    """Who may send to us: decided by the networks of *allow* and *deny*, the most specific one that a host is in.

    A network that both name is denied. A host in none of them may, unless there is anything in *allow*. Each text is a
    network or ``@FILE``, which has one a line, with blank lines and ``#`` comments between them; files are read by
    `load`, and until then nobody is let in by them. Raises `ValueError` for a text that is neither.

    `counters` counts what was turned away.
    """

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._texts = [*((text, True) for text in allow), *((text, False) for text in deny)]
        self._is_open = not any(verdict for _, verdict in self._texts)
        self._networks = Networks(
            (parse_network(text), verdict) for text, verdict in self._texts if not text.startswith("@")
        )
        self.counters = {"datagrams_denied": 0, "connections_denied": 0}

    def __bool__(self) -> bool:
        """Whether anything is allowed or denied, so that hosts have to be looked at."""
        return bool(self._texts)

    def load(self) -> None:
        """Read the files, again; raises `ValueError` that names file and line, and then everything stays as it was."""
        verdicts: list[tuple[Network, bool]] = []
        for text, verdict in self._texts:
            networks = _read(text[1:]) if text.startswith("@") else [parse_network(text)]
            verdicts += [(network, verdict) for network in networks]
        self._networks = Networks(verdicts)

    def admits(self, host: str) -> bool:
        """Whether *host* may send to us; the peer of a UNIX socket, which has no host, may."""
        verdict = self._networks.verdict(host)
        return (self._is_open or not host) if verdict is None else verdict

    def admits_datagram(self, host: str) -> bool:
        """Whether *host* may send to us; counts a datagram if not."""
        if self.admits(host):
            return True
        self.counters["datagrams_denied"] += 1
        return False

    def admits_connection(self, host: str) -> bool:
        """Whether *host* may connect to us; counts a connection if not."""
        if self.admits(host):
            return True
        self.counters["connections_denied"] += 1
        return False


def _read(path: str) -> list[Network]:
    """Return the networks in the file; raises `ValueError`."""
    networks = []
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            for number, line in enumerate(file, 1):
                text = line.partition("#")[0].strip()
                if text:
                    networks.append(_parse_line(text, f"{path}:{number}"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    return networks


def _parse_line(text: str, where: str) -> Network:
    try:
        return parse_network(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
