"""Does the most specific network decide about an address, however it is spelt, and can the files be read again?"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.transport.networks import AccessList, Networks, parse_network
from twisted_sipuas.transport.routing import Trust


@pytest.mark.parametrize(
    ("host", "is_admitted"),
    [
        ("192.0.2.1", False),
        ("192.0.2.9", True),
        ("192.0.3.1", True),
        ("::ffff:192.0.2.1", False),
        ("::ffff:c000:209", True),
        ("2001:db8::1", True),
        ("fe80::1%eth0", False),
        ("", True),
    ],
)
def test_most_specific_network_decides(host: str, is_admitted: bool) -> None:
    """The longest prefix that an address is in decides; IPv4-mapped IPv6 is IPv4, and a zone does not count."""
    access = AccessList(allow=["192.0.2.8/29", "0.0.0.0/0", "::/0"], deny=["192.0.2.0/24", "fe80::/10"])
    assert access.admits(host) is is_admitted


def test_only_who_is_allowed() -> None:
    """With any --allow who is in no network is refused; with --deny alone such a host is admitted."""
    assert not AccessList(allow=["192.0.2.0/24"]).admits("198.51.100.1")
    assert not AccessList(allow=["192.0.2.0/24"]).admits("no address")
    assert AccessList(allow=["192.0.2.0/24"]).admits("")
    assert AccessList(deny=["192.0.2.0/24"]).admits("198.51.100.1")
    assert AccessList().admits("198.51.100.1")


def test_denied_if_both_name_it() -> None:
    """A network that is both allowed and denied is denied, in whatever order they were given."""
    assert not AccessList(allow=["192.0.2.0/24"], deny=["192.0.2.0/24"]).admits("192.0.2.1")


def test_mapped_network() -> None:
    """A network of IPv4-mapped addresses is the IPv4 network that they stand for."""
    assert parse_network("::ffff:192.0.2.0/120") == ipaddress.ip_network("192.0.2.0/24")
    assert AccessList(deny=["::ffff:192.0.2.0/120"]).admits("192.0.2.1") is False


@pytest.mark.parametrize(
    "text", ["", "192.0.2.1/24", "example.com", "192.0.2.0/33", "fe80::%1/64", "::ffff:1.2.3.4/95"]
)
def test_no_network(text: str) -> None:
    """What is no network is refused with what was expected."""
    for make in (lambda: AccessList([text]), lambda: AccessList((), [text]), lambda: Trust([text])):
        with pytest.raises(ValueError, match=r"expected a network such as 192\.0\.2\.0/24"):
            make()


def addresses(version: Any) -> Any:
    bits, kind = (32, ipaddress.IPv4Address) if version == 4 else (128, ipaddress.IPv6Address)
    return st.integers(0, 2**bits - 1).map(kind)


@given(st.data(), st.sampled_from([4, 6]))
def test_as_one_by_one(data: Any, version: Any) -> None:
    """A look-up says what going through all the networks from the most specific on would say."""
    wanted = data.draw(
        st.lists(st.tuples(addresses(version), st.integers(0, 32 if version == 4 else 128), st.booleans()))
    )
    networks = [(ipaddress.ip_network(f"{address}/{length}", strict=False), v) for address, length, v in wanted]
    near = [address for address, _, _ in wanted]
    address = data.draw(st.one_of(addresses(version), st.sampled_from(near)) if near else addresses(version))
    if version == 6:
        networks = [(network, v) for network, v in networks if network == parse_network(str(network))]
    if getattr(address, "ipv4_mapped", None):
        return
    covering = {network.prefixlen: verdict for network, verdict in networks if address in network}
    expected = covering[max(covering)] if covering else None
    table = Networks(networks)
    assert table.verdict(str(address)) is expected
    assert table.verdict(str(address)) is expected, "the second time it is remembered"


def test_remembered_hosts_are_bounded() -> None:
    """However many hosts ask, the table of those looked up lately has a bound."""
    table = Networks([(parse_network("10.0.0.0/8"), True)])
    for number in range(30_000):
        assert table.verdict(f"10.0.{number >> 8}.{number & 255}") is True
    assert len(table._found) <= 10_000


def test_file(tmp_path: Path) -> None:
    """@FILE has a network a line, with blank lines and comments; it is read again by `load`."""
    file = tmp_path / "networks"
    file.write_text("# scanners\n192.0.2.0/24   # one\n\n2001:db8::/32\n")
    access = AccessList(deny=[f"@{file}", "198.51.100.1"])
    assert access.admits("192.0.2.1")
    access.load()
    assert [access.admits(host) for host in ("192.0.2.1", "2001:db8::1", "198.51.100.1")] == [False] * 3
    file.write_text("203.0.113.0/24\n")
    access.load()
    assert [access.admits(host) for host in ("192.0.2.1", "203.0.113.1", "198.51.100.1")] == [True, False, False]


def test_empty_file_allows_nobody(tmp_path: Path) -> None:
    """Where an allowed file is empty nobody is admitted: it does not count as if nothing had been asked for."""
    file = tmp_path / "networks"
    file.write_text("")
    access = AccessList(allow=[f"@{file}"])
    assert not access.admits("192.0.2.1")
    access.load()
    assert not access.admits("192.0.2.1")


def test_fault_in_a_file(tmp_path: Path) -> None:
    """A fault in a file names file and line, shows no control character, and leaves the list as it was."""
    file = tmp_path / "networks"
    file.write_text("192.0.2.0/24\n")
    access = AccessList(deny=[f"@{file}"])
    access.load()
    file.write_bytes(b"203.0.113.0/24\n\n192.0.2.\x1b[31m\xff\n")
    with pytest.raises(ValueError, match="networks:3: ") as raised:
        access.load()
    assert str(raised.value).isprintable()
    assert not access.admits("192.0.2.1")
    assert access.admits("203.0.113.1")
    file.unlink()
    with pytest.raises(ValueError, match="networks: No such file"):
        access.load()
    assert not access.admits("192.0.2.1")


def test_trust() -> None:
    """Who is trusted is looked up in the same way; what is no address is not."""
    trust = Trust(["192.0.2.0/24"])
    assert [trust.covers(host) for host in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.3.1", "a.invalid")] == [
        True,
        True,
        False,
        False,
    ]
