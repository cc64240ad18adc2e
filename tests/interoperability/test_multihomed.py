"""On a machine with several addresses, and a network that is not loopback: who answers, and what if nobody is there?

Two network namespaces with a cable between them: the server has two IPv4 and two IPv6 addresses at its end. It takes
root, and `ip` of iproute2.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.task import deferLater

from twisted_sipuas.interfaces import EndReason
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import RecordingTransactionUser, make_request

reactor: Any = the_reactor

pytestmark = pytest.mark.interoperability

DEADLINE = 10.0  # seconds that an answer may take
SCENARIO = Path(__file__).with_name("options.xml")

V4 = ("192.0.2.1", "192.0.2.2")
V6 = ("2001:db8::1", "2001:db8::2")
CLIENT = {socket.AF_INET: "192.0.2.10", socket.AF_INET6: "2001:db8::10"}

_CLONE_NEWNET = 0x40000000
_IP_RECVTTL = 12  # which the socket module of Python 3.10 lacks
_numbers = itertools.count()


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def reference(address: str) -> str:
    """Return *address* as a URI or a Via has it."""
    return f"[{address}]" if ":" in address else address


class Namespace:
    """A network of its own; made here, and gone with `remove`."""

    def __init__(self) -> None:
        self.name = f"sipuas-{os.getpid()}-{next(_numbers)}"
        done = subprocess.run(["ip", "netns", "add", self.name], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            self.remove()
            pytest.skip(f"no network namespace can be made here: {done.stderr.strip()}")
        self.command = ["ip", "netns", "exec", self.name]

    def ip(self, arguments: str) -> None:
        """Run one `ip` command in here."""
        subprocess.run(["ip", "-n", self.name, *arguments.split()], check=True)

    def set(self, name: str, value: int) -> None:
        """Set the kernel's setting *name*, a path below /proc/sys/net."""
        with self.entered():
            (Path("/proc/sys/net") / name).write_text(str(value))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make sockets in here: a socket belongs to the namespace that its maker was in."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as outside, open(f"/run/netns/{self.name}") as inside:
            assert libc.setns(inside.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(outside.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def wait_until_up(self, device: str) -> None:
        """Wait until *device* sends: that takes a moment after it was told to, and what is sent before is lost."""
        deadline = time.monotonic() + DEADLINE
        while "state UP" not in subprocess.check_output(["ip", "-n", self.name, "link", "show", device], text=True):
            assert time.monotonic() < deadline, f"{device} does not come up"
            time.sleep(0.01)

    def datagrams(self, address: str, port: int = 0) -> socket.socket:
        """Return a UDP socket in here that is bound to *address*."""
        with self.entered():
            made = socket.socket(family_of(address), socket.SOCK_DGRAM)
        made.settimeout(DEADLINE)
        made.bind((address, port))
        return made

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)


class Network:
    """The namespace of the server and that of the client; the server reaches all the rest by the client."""

    def __init__(self, server: Namespace, client: Namespace) -> None:
        self.server = server
        self.client = client
        client.set("ipv4/ip_forward", 1)
        client.set("ipv6/conf/all/forwarding", 1)
        for namespace in (server, client):  # else it takes seconds until an IPv6 address is of use
            namespace.set("ipv6/conf/default/accept_dad", 0)
            namespace.set("ipv6/conf/default/dad_transmits", 0)
        client.ip(f"link add c0 type veth peer name s0 netns {server.name}")
        for namespace, device, addresses in ((server, "s0", (*V4, *V6)), (client, "c0", CLIENT.values())):
            for address in addresses:
                namespace.ip(f"address add {address}/{64 if ':' in address else 24} dev {device}")
        for namespace, device in ((server, "s0"), (client, "c0")):
            namespace.ip("link set lo up")
            namespace.ip(f"link set {device} up")
        for namespace, device in ((server, "s0"), (client, "c0")):
            namespace.wait_until_up(device)
        for address in CLIENT.values():
            server.ip(f"route add default via {address}")


@pytest.fixture
def network() -> Iterator[Network]:
    """A `Network`, taken down after the test however that ends."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed: Debian package iproute2")
    with ExitStack() as stack:
        namespaces = []
        for _ in range(2):
            namespaces.append(Namespace())
            stack.callback(namespaces[-1].remove)
        yield Network(*namespaces)


@pytest.fixture
def start_server(network: Network, make_server: Callable[..., Any]) -> Callable[[str], int]:
    """Return what starts a server on an interface, in the server's namespace, and returns its port."""

    def start(interface: str) -> int:
        listen = f"udp:{{port}}:interface={interface}"
        server = make_server(
            "--location", "memory:", "--no-registrar", listen=listen, command=network.server.command
        )  # fmt: skip
        result: int = server.port
        return result

    return start


every_wildcard = pytest.mark.parametrize(
    ("interface", "addresses"), [("0.0.0.0", V4), ("[::]", V6), ("[::]", V4)], ids=["IPv4", "IPv6", "IPv4 by IPv6"]
)


@pytest.mark.requirement("3581-2")
@every_wildcard
def test_source_of_an_answer(network: Any, start_server: Callable[..., Any], interface: Any, addresses: Any) -> None:
    """On a wildcard address an answer leaves from the address that was asked, for every address (RFC 3581, 4)."""
    port = start_server(interface)
    for asked in addresses:
        with network.client.datagrams(CLIENT[family_of(asked)]) as client:
            branch = f"z9hG4bK{asked.replace(':', '')}"
            request = make_request("OPTIONS", f"sip:{reference(asked)}", branch=branch, sent_by="x;rport")
            client.sendto(request.to_bytes(), (asked, port))
            data, source = client.recvfrom(4096)
        assert data.startswith(b"SIP/2.0 200 ")
        assert source[:2] == (asked, port)


@pytest.mark.parametrize("addresses", [V4, V6], ids=["IPv4", "IPv6"])
def test_source_that_the_kernel_chooses(network: Any, addresses: Any) -> None:
    """Why that takes work: a plain socket in the same place answers from one address, whichever was asked."""
    sources = set()
    with network.server.datagrams("::" if ":" in addresses[0] else "0.0.0.0") as plain:
        port = plain.getsockname()[1]
        for asked in addresses:
            with network.client.datagrams(CLIENT[family_of(asked)]) as client:
                client.sendto(b"question", (asked, port))
                _, where = plain.recvfrom(100)
                plain.sendto(b"answer", where)
                sources.add(client.recvfrom(100)[1][0])
    assert len(sources) == 1


@pytest.mark.parametrize("asked", V4)
def test_sipsak(network: Any, start_server: Callable[..., Any], run_client: Callable[..., Any], asked: Any) -> None:
    """sipsak, which takes an answer from where it asked alone, gets one from both addresses (RFC 3581, 4)."""
    port = start_server("0.0.0.0")
    done = run_client("sipsak", "-vv", "-s", f"sip:{asked}:{port}", command=network.client.command)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("transport", ["u1", "t1"])
@pytest.mark.parametrize("asked", [*V4, *V6])
def test_sipp(
    network: Any,
    start_server: Callable[..., Any],
    run_client: Callable[..., Any],
    tmp_path: Path,
    asked: Any,
    transport: Any,
) -> None:
    """SIPp is served on each address of the machine, by UDP and TCP (18.2.2)."""
    port = start_server("[::]")
    scenario = tmp_path / "scenario.xml"
    scenario.write_text(SCENARIO.read_text().replace('"BETWEEN"', '"1"'))
    done = run_client(
        "sipp", f"{reference(asked)}:{port}", "-sf", str(scenario), "-i", CLIENT[family_of(asked)], "-t", transport,
        "-m", "5", "-nostdin", command=network.client.command,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def join(member: socket.socket, group: str, device: int) -> None:
    """Have *member* take part in *group* by the interface *device*, and be told the time to live of what comes."""
    if ":" in group:
        number = struct.pack("=I", device)
        member.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + number
        )
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    else:
        ours = socket.inet_aton(CLIENT[socket.AF_INET])
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + ours)
        member.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)


@pytest.mark.requirement("18.2.2-7")
@pytest.mark.parametrize(("group", "addresses"), [("239.255.42.99", V4), ("ff15::42:99", V6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("parameter", "ttl"), [("", 1), (";ttl=7", 7)])
@pytest.mark.parametrize("is_wildcard", [False, True], ids=["one address", "wildcard"])
def test_multicast(
    network: Any,
    start_server: Callable[..., Any],
    group: Any,
    addresses: Any,
    parameter: Any,
    ttl: Any,
    is_wildcard: bool,
) -> None:
    """A response to a multicast maddr goes to the group, with the ttl of the Via or 1, from where it was asked."""
    asked = addresses[1]
    port = start_server(("[::]" if ":" in asked else "0.0.0.0") if is_wildcard else reference(asked))
    ours = CLIENT[family_of(asked)]
    with network.client.datagrams(group) as member, network.client.datagrams(ours) as client:
        with network.client.entered():
            join(member, group, socket.if_nametoindex("c0"))
        sent_by = f"{reference(ours)}:{member.getsockname()[1]};maddr={reference(group)}{parameter}"
        client.sendto(make_request("OPTIONS", f"sip:{reference(asked)}", sent_by=sent_by).to_bytes(), (asked, port))
        data, ancillary, _, source = member.recvmsg(4096, 100)
    assert data.startswith(b"SIP/2.0 200 ")
    assert source[:2] == (asked, port)
    assert [struct.unpack("=i", value) for _, _, value in ancillary] == [(ttl,)]


# What becomes of a transaction whose client is gone. The service runs in the test, on a socket in the namespace.


class Ringing:
    """A service in the server's namespace with one INVITE that was not answered yet."""

    def __init__(self, network: Network, family: socket.AddressFamily) -> None:
        self.user = RecordingTransactionUser()
        self._bound = network.server.datagrams("::" if family == socket.AF_INET6 else "0.0.0.0")
        self.service = SIPService(reactor, self.user, [self._bound])
        self.asked = (V6 if family == socket.AF_INET6 else V4)[1]

    async def __aenter__(self) -> Ringing:
        self.service.startService()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.service.stopService()
        self._bound.close()

    async def call(self, network: Network, source: str) -> None:
        """Send an INVITE from *source* until it comes, as clients do, and close the socket."""
        with network.client.datagrams(source) as client:
            invite = make_request("INVITE", sent_by=f"{reference(source)}:{client.getsockname()[1]}")
            while not self.user.calls:
                client.sendto(invite.to_bytes(), (self.asked, self._bound.getsockname()[1]))
                for _ in range(100):
                    if not self.user.calls:
                        await deferLater(reactor, 0.005)

    async def refuse(self) -> object:
        """Answer 486, and return why the transaction ended."""
        (_, invite, transaction), *_ = self.user.calls
        assert isinstance(invite, Request)
        transaction.respond(invite.response(486))
        while self.user.calls[-1][0] != "transaction_ended":
            await deferLater(reactor, 0.002)
        return self.user.calls[-1][2]


both = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])


@pytest.mark.requirement("18.4-1")
@pytest.mark.deadline(20)
@both
@pytest_twisted.ensureDeferred
async def test_closed_port(network: Any, family: Any) -> None:
    """A client whose socket is gone ends its transaction: it is not sent a response for 32 seconds (18.4)."""
    async with Ringing(network, family) as ringing:
        await ringing.call(network, CLIENT[family])
        assert await ringing.refuse() is EndReason.TRANSPORT_FAILED
        assert ringing.service.counters["transactions_send_failures"] == 1


@pytest.mark.requirement("18.4-1")
@pytest.mark.deadline(20)
@both
@pytest.mark.parametrize("route", ["unreachable", "prohibit"])
@pytest_twisted.ensureDeferred
async def test_router_that_refuses(network: Any, family: Any, route: Any) -> None:
    """A router that knows no way to the client, and a firewall that prohibits it, end the transaction too (18.4)."""
    source = "2001:db8:1::7/128" if family == socket.AF_INET6 else "198.51.100.7/32"
    network.client.ip(f"address add {source} dev lo")
    async with Ringing(network, family) as ringing:
        await ringing.call(network, source.partition("/")[0])
        network.client.ip(f"address del {source} dev lo")
        network.client.ip(f"route add {route} {source}")
        assert await ringing.refuse() is EndReason.TRANSPORT_FAILED


@pytest.mark.requirement("18.4-1")
@pytest.mark.deadline(20)
@both
@pytest_twisted.ensureDeferred
async def test_absent_host(network: Any, family: Any) -> None:
    """A client on the same network that does not answer ARP, or neighbour solicitation, any more ends it too (18.4)."""
    source = "2001:db8::77/64" if family == socket.AF_INET6 else "192.0.2.77/24"
    network.client.ip(f"address add {source} dev c0")
    version = "ipv6" if family == socket.AF_INET6 else "ipv4"
    network.server.set(f"{version}/neigh/s0/mcast_solicit", 1)  # instead of 3, one a second
    network.server.set(f"{version}/neigh/s0/retrans_time_ms", 100)
    async with Ringing(network, family) as ringing:
        await ringing.call(network, source.partition("/")[0])
        network.client.ip(f"address del {source} dev c0")
        network.server.ip("neighbour flush dev s0")
        assert await ringing.refuse() is EndReason.TRANSPORT_FAILED
