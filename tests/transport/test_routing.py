"""Where do responses go, and who decides: the packet, or what the request says of itself?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.interfaces import Address
from twisted_sipuas.syntax.fields import Via
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.testing import RecordingFlow
from twisted_sipuas.transport.flow import DatagramFlow
from twisted_sipuas.transport.routing import Trust, response_route, stamp

SOURCE = ("192.0.2.1", 40000)
VICTIM = "203.0.113.66"


def with_via(*rows: str) -> Request:
    """A request as received, with these Via header fields."""
    request = parse_message(
        Request(
            "OPTIONS",
            "sip:example.com",
            (
                *(("Via", row) for row in rows),
                ("From", "<sip:alice@example.com>;tag=1"),
                ("To", "<sip:example.com>"),
                ("Call-ID", "a"),
                ("CSeq", "1 OPTIONS"),
            ),
        ).to_bytes()
    )
    assert isinstance(request, Request)
    return request


def stamped(via: str, source: tuple[str, int] = SOURCE) -> str:
    """The topmost Via row of a request that came from *source* with *via*."""
    request = with_via(via)
    stamp(request, RecordingFlow(remote_address=source))
    row = request.headers.get("Via")
    assert row is not None
    assert request.via.text == row, "what the transaction layer reads is what the response carries"
    return row


def destination(*rows: str, source: tuple[str, int] = SOURCE, transport: str = "UDP") -> Address:
    """Where the response goes to a request that came from *source* with these Via header fields."""
    request = with_via(*rows)
    flow = RecordingFlow(transport, source)
    stamp(request, flow)
    route = response_route(request, flow)
    route.send(b"response")
    ((_, address),) = flow.sent
    return address


@pytest.mark.requirement("18.2.1-4", "18.2.1-5", "18.2.1-6")
@pytest.mark.parametrize(
    ("sent_by", "source", "received"),
    [
        ("client.example.com", "192.0.2.1", "192.0.2.1"),
        ("client.example.com:5060", "192.0.2.1", "192.0.2.1"),
        ("198.51.100.7", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.10", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.1.example.com", "192.0.2.1", "192.0.2.1"),
        ("192.000.002.001", "192.0.2.1", "192.0.2.1"),
        ("[2001:db8::2]:5060", "2001:db8::1", "2001:db8::1"),
        ("[::ffff:192.0.2.1]", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "2001:db8::1", "2001:db8::1"),
        ("client.example.com", "2001:db8::1", "2001:db8::1"),
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:5060", "192.0.2.1", None),
        ("192.0.2.1:1", "192.0.2.1", None),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[2001:DB8::1]:5060", "2001:db8::1", None),
        ("[2001:db8:0:0:0:0:0:1]", "2001:db8::1", None),
        ("[2001:0db8:0000::0001]", "2001:db8::1", None),
        ("[::1]", "::1", None),
        ("[0:0:0:0:0:0:0:1]", "::1", None),
    ],
)
def test_received(sent_by: str, source: str, received: str | None) -> None:
    """received holds the packet's address where sent-by is a name or another address, however spelt (18.2.1)."""
    via = f"SIP/2.0/UDP {sent_by};branch=z9hG4bK1"
    assert stamped(via, (source, 40000)) == via + ("" if received is None else f";received={received}")


def test_flow() -> None:
    """A request knows the flow that it came on, whatever its Via says; one of our own has none."""
    flow = RecordingFlow(remote_address=("192.0.2.9", 5070))
    request = with_via("SIP/2.0/TLS 192.0.2.1;branch=z9hG4bK1;received=198.51.100.7")
    assert request.flow is None
    stamp(request, flow)
    assert request.flow is flow


@pytest.mark.requirement("3581-1")
@pytest.mark.parametrize("sent_by", ["192.0.2.1", "192.0.2.1:5060", "client.example.com", "10.0.0.1:5080"])
def test_rport(sent_by: str) -> None:
    """An empty rport is filled with the source port where it stands, and received is always added (RFC 3581, 4)."""
    assert stamped(f"SIP/2.0/UDP {sent_by};rport;branch=z9hG4bK1") == (
        f"SIP/2.0/UDP {sent_by};rport=40000;branch=z9hG4bK1;received=192.0.2.1"
    )


def test_rport_in_ipv6() -> None:
    """received of an IPv6 packet has no brackets (18.2.1, RFC 3581, 4; 25.1 via-received)."""
    assert stamped("SIP/2.0/UDP [2001:db8::1];rport;branch=z9hG4bK1", ("2001:db8::1", 40000)) == (
        "SIP/2.0/UDP [2001:db8::1];rport=40000;branch=z9hG4bK1;received=2001:db8::1"
    )


@pytest.mark.requirement("3581-1")
@pytest.mark.parametrize(
    ("via", "after"),
    [
        (f"host.example;received={VICTIM}", "host.example;received=192.0.2.1"),
        (f"192.0.2.1;received={VICTIM}", "192.0.2.1"),
        (f"192.0.2.1;received={VICTIM};branch=z9hG4bK1", "192.0.2.1;branch=z9hG4bK1"),
        ("192.0.2.1;rport=53", "192.0.2.1;rport=40000;received=192.0.2.1"),
        (f"192.0.2.1;rport=53;received={VICTIM}", "192.0.2.1;rport=40000;received=192.0.2.1"),
        (f"192.0.2.1;RECEIVED={VICTIM};RPort=53", "192.0.2.1;rport=40000;received=192.0.2.1"),
        (f"192.0.2.1 ; received = {VICTIM} ; x=1", "192.0.2.1; x=1"),
        ('192.0.2.1;received="203.0.113.66"', "192.0.2.1"),
        ("192.0.2.1;received", "192.0.2.1"),
        (f'192.0.2.1;x=";received={VICTIM}";rport', f'192.0.2.1;x=";received={VICTIM}";rport=40000;received=192.0.2.1'),
    ],
)
def test_claims_are_discarded(via: str, after: str) -> None:
    """received and rport values that came with the request are gone, so nobody can say where we answer (18.2.1)."""
    assert stamped(f"SIP/2.0/UDP {via}") == f"SIP/2.0/UDP {after}"


@pytest.mark.parametrize(
    "rows",
    [
        ("SIP/2.0/UDP 10.0.0.1;rport, SIP/2.0/TCP b.example;received=10.0.0.2;rport=9",),
        ("SIP/2.0/UDP 10.0.0.1;rport", "SIP/2.0/TCP b.example;received=10.0.0.2;rport=9"),
        ("SIP/2.0/UDP 10.0.0.1;rport , SIP/2.0/TCP b.example", "SIP/2.0/UDP c.example;received=10.0.0.3", "x, y"),
        ('SIP/2.0/UDP 10.0.0.1;a="x,y";rport, SIP/2.0/TCP b.example',),
    ],
)
def test_other_via_values(rows: tuple[str, ...]) -> None:
    """Only the topmost Via value is touched, in one row or in several, and their order stays (18.2.1, 8.2.6.2)."""
    before = with_via(*rows)
    request = with_via(*rows)
    stamp(request, RecordingFlow(remote_address=SOURCE))
    if "x, y" not in rows:
        first, *others = request.headers.values("Via")
        assert first.endswith(";rport=40000;received=192.0.2.1")
        assert others == before.headers.values("Via")[1:]
    assert request.headers.get_all("Via")[1:] == before.headers.get_all("Via")[1:]


@st.composite
def via_parameters(draw: st.DrawFn) -> str:
    """Via parameters as badly laid out as they may be."""
    spaces = st.text(" \t", max_size=2)
    names = st.sampled_from(["rport", "RPORT", "received", "Received", "branch", "ttl", "alias", "~!%*"])
    quoted = st.text("a ;,=<>[]:\t", max_size=8).map(lambda text: f'"{text}\\""')
    values = quoted | st.text("a1.:[]%/@?=", min_size=1, max_size=8)
    parameters = draw(
        st.lists(st.tuples(names, st.none() | values), max_size=6, unique_by=lambda item: item[0].lower())
    )
    text = ""
    for name, value in parameters:
        text += draw(spaces) + ";" + draw(spaces) + name
        if value is not None:
            text += draw(spaces) + "=" + draw(spaces) + value
    return text + draw(spaces)


@given(via_parameters(), st.sampled_from(["192.0.2.1", "2001:db8::1"]))
def test_stamping_any_via(parameters: str, source: str) -> None:
    """Whatever Via can be parsed can be stamped, and every parameter but received and rport survives (18.2.1)."""
    before = Via(f"SIP/2.0/UDP host.example : 5060{parameters}")
    after = before.stamped(source, 40000)
    expected = {**before.parameters, "received": source}
    if "rport" in before.parameters:
        expected["rport"] = "40000"
    assert after.parameters == expected
    assert after.sent_by == before.sent_by


@pytest.mark.requirement("18.2.2-1", "18.2.2-8")
@pytest.mark.parametrize(
    ("via", "port"),
    [
        ("192.0.2.1:5080", 5080),
        ("192.0.2.1:40000", 40000),
        ("192.0.2.1", 5060),
        ("client.example.com", 5060),
        ("client.example.com:5080", 5080),
        ("10.0.0.1:65535", 65535),
    ],
)
def test_unreliable_unicast(via: str, port: int) -> None:
    """Over UDP the response goes to the source address, at the port of sent-by or 5060 (18.2.2)."""
    assert destination(f"SIP/2.0/UDP {via};branch=z9hG4bK1") == ("192.0.2.1", port)


@pytest.mark.requirement("3581-2")
@pytest.mark.parametrize("rport", ["rport", "rport=53", "RPORT"])
def test_symmetric_response_routing(rport: str) -> None:
    """With rport, empty or not, the response goes to the source address and port (RFC 3581, 4)."""
    assert destination(f"SIP/2.0/UDP 10.0.0.1:5080;{rport};branch=z9hG4bK1") == SOURCE


@pytest.mark.parametrize(
    "via",
    [
        f"{VICTIM}:5060",
        f"{VICTIM};received={VICTIM}",
        f"192.0.2.1;received={VICTIM}",
        f"192.0.2.1;maddr={VICTIM}",
        f"192.0.2.1;maddr={VICTIM};received={VICTIM};rport=53",
        f"victim.example;maddr={VICTIM};rport",
        f"192.0.2.1;maddr=[{VICTIM}]",
        f"192.0.2.1;maddr=::ffff:{VICTIM}",
        "192.0.2.1;maddr=victim.example",
        "192.0.2.1;maddr=",
        "192.0.2.1;maddr",
        "192.0.2.1;maddr=255.255.255.255",
        "192.0.2.1;maddr=224.0.1.300;ttl=16",
        f'192.0.2.1;maddr="{VICTIM}"',
    ],
)
def test_no_reflection(via: str) -> None:
    """Nothing that a request says can send our response to another host than the packet's source (18.2.2 hardened)."""
    try:
        host, _ = destination(f"SIP/2.0/UDP {via}")
    except MessageSyntaxError:
        return  # then it goes back where the request came from, as another test shows
    assert host == "192.0.2.1"


@pytest.mark.parametrize(
    ("via", "source", "expected"),
    [
        ("192.0.2.1:5080;maddr=192.0.2.1", SOURCE, ("192.0.2.1", 5080)),
        ("192.0.2.1;maddr=192.0.2.1;rport", SOURCE, ("192.0.2.1", 5060)),
        ("[2001:db8::1];maddr=[2001:DB8:0::1]", ("2001:db8::1", 9), ("2001:db8::1", 5060)),
        ("[2001:db8::1];maddr=2001:db8::1", ("2001:db8::1", 9), ("2001:db8::1", 5060)),
        ("127.0.0.1:5070;maddr=127.0.0.2", ("127.0.0.1", 9), ("127.0.0.2", 5070)),
        ("127.0.0.1;maddr=192.0.2.9", ("127.0.0.1", 9), ("192.0.2.9", 5060)),
        ("[::1];maddr=192.0.2.9", ("::1", 9), ("192.0.2.9", 5060)),
    ],
)
@pytest.mark.requirement("18.2.2-6")
def test_maddr_is_followed(via: str, source: tuple[str, int], expected: tuple[str, int]) -> None:
    """maddr counts where it names the source itself, or the source is this host; port of sent-by or 5060 (18.2.2)."""
    assert destination(f"SIP/2.0/UDP {via}", source=source) == expected


@pytest.mark.requirement("18.2.2-7")
@pytest.mark.parametrize(
    ("parameters", "ttl"),
    [
        ("", 1),
        (";ttl=16", 16),
        (";ttl=0", 0),
        (";ttl=255", 255),
        (";ttl=256", 1),
        (";ttl=-1", 1),
        (";ttl", 1),
        (";ttl=x", 1),
        (";ttl=0000000000000016", 1),
        (";rport;received=192.0.2.9;ttl=2", 2),
    ],
)
def test_multicast(parameters: str, ttl: int) -> None:
    """A multicast group gets the response with the ttl that the Via asks for, or else 1 (18.2.2)."""
    request = with_via(f"SIP/2.0/UDP 192.0.2.1:5080;maddr=224.0.1.75{parameters}")
    asked: list[int | None] = []

    class Flow(RecordingFlow):
        def towards(self, address: Address, ttl: int | None = None) -> RecordingFlow:
            asked.append(ttl)
            return super().towards(address, ttl)

    flow = Flow("UDP", SOURCE)
    stamp(request, flow)
    response_route(request, flow).send(b"response")
    assert flow.sent == [(b"response", ("224.0.1.75", 5080))]
    assert asked == [ttl]


@pytest.mark.parametrize(("source", "is_followed"), [("192.0.2.7", True), ("192.0.3.7", False), ("2001:db8::7", True)])
def test_maddr_of_a_trusted_source(source: str, is_followed: bool) -> None:
    """A source that is trusted may have its responses sent to any host by maddr, and no other may (18.2.2 hardened)."""
    flow = RecordingFlow("UDP", (source, 9))
    request = with_via("SIP/2.0/UDP client.example.com;maddr=203.0.113.4")
    stamp(request, flow)
    response_route(request, flow, Trust(["192.0.2.0/24", "2001:db8::/64"])).send(b"response")
    assert flow.sent == [(b"response", ("203.0.113.4" if is_followed else source, 5060))]


@pytest.mark.parametrize("network", ["192.0.2.1/24", "example.com", "", "192.0.2.0/33"])
def test_trust_in_nothing(network: str) -> None:
    """What is no network cannot be trusted."""
    with pytest.raises(ValueError):
        Trust([network])


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.0.0.2", False), ("::1", False), ("192.0.2.1", False), ("", False), ("name", False)],
)
def test_trust(host: str, expected: bool) -> None:
    """Nobody is trusted but who is named; not loopback either, whence everybody comes who is behind a local proxy."""
    assert Trust(["127.0.0.1/32"]).covers(host) is expected
    assert not Trust().covers(host)


@pytest.mark.parametrize("maddr", ["fe80::1%name.example", "::1%name.example", "::1%25lo"])
def test_maddr_with_a_zone(maddr: str) -> None:
    """A zone in maddr, which the grammar does not have, is not handed to the resolver (25.1 maddr)."""
    assert destination(f"SIP/2.0/UDP [::1];maddr={maddr}", source=("::1", 9)) == ("::1", 5060)


@pytest.mark.parametrize("transport", ["TCP", "TLS"])
@pytest.mark.parametrize("via", ["10.0.0.1:5080", "10.0.0.1;rport", f"10.0.0.1;maddr={VICTIM}", "[::1];maddr=::1"])
@pytest.mark.requirement("18.2.2-2")
def test_reliable_transport(via: str, transport: str) -> None:
    """On a stream the response goes back on the connection, whatever Via says (18.2.2)."""
    assert destination(f"SIP/2.0/{transport} {via};branch=z9hG4bK1", transport=transport) == SOURCE


@pytest.mark.parametrize(
    "via", ["rubbish", "SIP/2.0/UDP", "SIP/2.0/UDP [::g]", "SIP/2.0/UDP h:0", "SIP/2.0/UDP h;;", ","]
)
def test_malformed_top_via(via: str) -> None:
    """Where the topmost Via is malformed, stamping says so and the answer goes back where the request came from."""
    request = Request("OPTIONS", "sip:example.com", [("Via", via)])
    flow = RecordingFlow(remote_address=SOURCE)
    with pytest.raises(MessageSyntaxError):
        stamp(request, flow)
    assert response_route(request, flow) is flow
    assert request.headers.get("Via") == via


@pytest.mark.parametrize(
    ("destination", "remote"),
    [
        (("192.0.2.1", 5), ("192.0.2.1", 5)),
        (("::ffff:192.0.2.1", 5), ("192.0.2.1", 5)),
        (("2001:db8::1", 5), ("2001:db8::1", 5)),
        (("fe80::1%eth0", 5), ("fe80::1", 5)),
        (("::ffff:c000:201", 5), ("::ffff:c000:201", 5)),
    ],
)
def test_address_for_a_via(destination: tuple[str, int], remote: tuple[str, int]) -> None:
    """What goes into received has no zone, and is no IPv4-mapped IPv6 address (18.2.1, 25.1 via-received)."""
    assert DatagramFlow(None, destination).remote_address == remote  # type: ignore[arg-type]  # which is not used


def test_without_an_address() -> None:
    """A request from a UNIX socket, whose peer has no address, is left as it came and answered there (18.2.2)."""
    request = with_via("SIP/2.0/TCP host.example;rport;branch=z9hG4bK1")
    flow = RecordingFlow("TCP", ("", 0))
    stamp(request, flow)
    assert request.via.text == "SIP/2.0/TCP host.example;rport;branch=z9hG4bK1"
    assert response_route(request, flow) is flow
