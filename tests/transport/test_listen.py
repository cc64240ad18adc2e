"""Is what ``--listen`` says understood, and is a mistake in it named?"""

from __future__ import annotations

import pytest

from twisted_sipuas.interfaces import Address
from twisted_sipuas.transport.listen import DatagramListen, SecureListen, StreamListen, parse_listen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("udp", ("127.0.0.1", 5060, None, True)),
        ("udp:5060", ("127.0.0.1", 5060, None, True)),
        ("udp:0", ("127.0.0.1", 0, None, True)),
        ("udp:65535", ("127.0.0.1", 65535, None, True)),
        ("udp:0005060", ("127.0.0.1", 5060, None, True)),
        ("udp:5060:interface=192.0.2.1", ("192.0.2.1", 5060, None, True)),
        ("udp:interface=192.0.2.1", ("192.0.2.1", 5060, None, True)),
        ("udp:5060:interface=0.0.0.0", ("0.0.0.0", 5060, None, True)),
        ("udp:5060:interface=[2001:db8::1]", ("2001:db8::1", 5060, None, True)),
        ("udp:5060:interface=[2001:DB8:0:0::1]", ("2001:db8::1", 5060, None, True)),
        ("udp:5060:interface=[::]", ("::", 5060, None, True)),
        ("udp:5060:tcp=no", ("127.0.0.1", 5060, None, False)),
        ("udp:5060:tcp=yes", ("127.0.0.1", 5060, None, True)),
        ("udp:tcp=no:interface=[::1]", ("::1", 5060, None, False)),
        ("udp:fd=3", ("", 0, 3, True)),
        ("udp:fd=3:tcp=no", ("", 0, 3, False)),
    ],
)
def test_datagrams(text: str, expected: tuple[str, int, int | None, bool]) -> None:
    """``udp`` asks for UDP, and for TCP beside it unless told not to (18.2.1)."""
    assert parse_listen(text) == DatagramListen(*expected)


@pytest.mark.parametrize(
    "text",
    [
        "tcp:5060",
        "tcp:5060:interface=192.0.2.1",
        "tcp:port=5060:interface=\\:\\:1",
        "unix:/run/sip.sock:mode=660",
        "unix:/run/sip\\[1\\].sock",
        "systemd:domain=INET:index=0",
        "haproxy:tcp:5060",
        "UDP:5060",
        "no-such-thing:1",
    ],
)
def test_streams(text: str) -> None:
    """Any other kind is Twisted's to judge, and is handed on as it is."""
    assert parse_listen(text) == StreamListen(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssl:privateKey=key.pem", ("", 5061, "key.pem", "key.pem", None)),
        ("ssl:5061:privateKey=key.pem:certKey=cert.pem", ("", 5061, "key.pem", "cert.pem", None)),
        (
            "ssl:0:certKey=cert.pem:extraCertChain=ca.pem:privateKey=key.pem:interface=192.0.2.1",
            ("192.0.2.1", 0, "key.pem", "cert.pem", "ca.pem"),
        ),
        ("ssl:privateKey=C\\:\\\\key.pem:interface=[::1]", ("::1", 5061, "C:\\key.pem", "C:\\key.pem", None)),
        ("ssl:privateKey=key.pem:interface=\\:\\:1", ("::1", 5061, "key.pem", "key.pem", None)),
    ],
)
def test_secure(text: str, expected: tuple[str, int, str, str, str | None]) -> None:
    """``ssl`` asks for TLS with files that can be read again, on every address unless one is given."""
    assert parse_listen(text) == SecureListen(*expected)


@pytest.mark.requirement("18.2.1-2")
def test_default_ports() -> None:
    """Who names no port gets the default one of the transport: 5060 for UDP and TCP, 5061 for TLS (18.2.1)."""
    datagram, secure = parse_listen("udp:interface=0.0.0.0"), parse_listen("ssl:privateKey=key.pem")
    assert isinstance(datagram, DatagramListen)
    assert isinstance(secure, SecureListen)
    assert (datagram.port, datagram.with_stream, secure.port) == (5060, True, 5061)


@pytest.mark.parametrize(
    "text", ["udp", "udp:5070:interface=[::1]", "ssl:privateKey=k", "tcp:5060:interface=192.0.2.1"]
)
@pytest.mark.parametrize(
    ("advertise", "host", "port"),
    [
        ("sip.example.com", "sip.example.com", 0),
        ("SIP.Example.COM:5070", "sip.example.com", 5070),
        ("192.0.2.1", "192.0.2.1", 0),
        ("192.0.2.1\\:5070", "192.0.2.1", 5070),
        ("[2001:DB8::1]", "2001:db8::1", 0),
        ("[2001:db8::1]:5070", "2001:db8::1", 5070),
    ],
)
def test_advertise(text: str, advertise: str, host: str, port: int) -> None:
    """Every listener may say what others are to be told of it; the rest of its description stays as it is."""
    kind, _, rest = text.partition(":")
    plain = parse_listen(text)
    assert parse_listen(f"{text}:advertise={advertise}") == plain._replace(advertised=Address(host, port))
    if rest and kind != "udp" and kind != "tcp":
        assert parse_listen(f"{kind}:advertise={advertise}:{rest}") == plain._replace(advertised=Address(host, port))


@pytest.mark.parametrize(
    ("text", "is_proxied", "is_inherited"),
    [
        ("tcp:5060", False, False),
        ("haproxy:tcp:5060", True, False),
        ("systemd:domain=INET:index=0", False, True),
        ("haproxy:systemd:domain=INET:index=0", True, True),
    ],
)
def test_kinds_of_streams(text: str, is_proxied: bool, is_inherited: bool) -> None:
    """Behind a proxy the peer is known later, and an inherited socket's address is not in its description."""
    listen = parse_listen(text)
    assert isinstance(listen, StreamListen)
    assert (listen.is_proxied, listen.is_inherited) == (is_proxied, is_inherited)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "expected udp:PORT"),
        ("5060", "expected udp:PORT"),
        (":5060", "expected udp:PORT"),
        ("tcp", "expected udp:PORT"),
        ("udp:", "'' is not a port from 0 to 65535"),
        ("udp:65536", "'65536' is not a port from 0 to 65535"),
        ("udp:-1", "'-1' is not a port"),
        ("udp: 5060", "' 5060' is not a port"),
        ("udp:+5060", "'+5060' is not a port"),
        ("udp:5o60", "'5o60' is not a port"),
        ("udp:٥٠٦٠", "is not a port"),
        ("udp:0000000099999999", "is not a port"),
        ("udp:" + "9" * 5000, "is not a port"),
        ("udp:192.0.2.1", "'192.0.2.1' is not a port"),
        ("udp:5060:5061", "'5061' in 'udp:5060:5061'"),
        ("udp:5060:interface=", "expected interface=ADDRESS"),
        ("udp:5060:interface=localhost", "'localhost' is no IP address"),
        ("udp:5060:interface=192.0.2", "'192.0.2' is no IP address"),
        ("udp:5060:interface=2001:db8::1", "'2001' is no IP address"),
        ("udp:5060:interface=[2001:db8::1", "unpaired bracket"),
        ("udp:5060:interface=2001:db8::1]", "unpaired bracket"),
        ("udp:5060\\", "unpaired bracket or backslash"),
        ("udp:5060:tcp=maybe", "'tcp=maybe'"),
        ("udp:5060:tcp", "'tcp'"),
        ("udp:5060:Interface=192.0.2.1", "'Interface=192.0.2.1'"),
        ("udp:5060:reuse=yes", "'reuse=yes'"),
        ("udp:fd=", "'' is not the number of a descriptor"),
        ("udp:fd=x", "'x' is not the number of a descriptor"),
        ("udp:fd=-1", "'-1' is not the number"),
        ("udp:fd=1000001", "is not the number"),
        ("udp:5060:fd=3", "fd="),
        ("udp:fd=3:interface=192.0.2.1", "fd="),
        ("udp:fd=3:tcp=maybe", "'tcp=maybe'"),
        ("udp:5060:advertise=", "'' cannot be advertised"),
        ("udp:5060:advertise=a b", "'a b' cannot be advertised: expected HOST or HOST:PORT"),
        ("udp:5060:advertise=sip.example.com:0x1", "'0x1'"),
        ("udp:5060:advertise=sip.example.com:70000", "'sip.example.com:70000' cannot be advertised"),
        ("tcp:5060:advertise=..", "'..' cannot be advertised"),
        ("ssl", "expected privateKey=FILE and certKey=FILE"),
        ("ssl:5061", "expected privateKey=FILE and certKey=FILE"),
        ("ssl:5061:certKey=cert.pem", "expected privateKey=FILE and certKey=FILE"),
        ("ssl:5061:privateKey=", "'privateKey='"),
        ("ssl:5061:privateKey=key.pem:sslmethod=TLSv1_METHOD", "'sslmethod=TLSv1_METHOD'"),
        ("ssl:70000:privateKey=key.pem", "'70000' is not a port"),
        ("ssl:privateKey=key.pem:interface=localhost", "'localhost' is no IP address"),
    ],
)
def test_mistakes(text: str, named: str) -> None:
    """A mistake is a ValueError of one line that names the text and what was expected."""
    with pytest.raises(ValueError) as raised:
        parse_listen(text)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "interface", "port", "expected"),
    [
        ("tcp:5060", "127.0.0.1", 5060, True),
        ("tcp:port=5060", "192.0.2.1", 5060, True),
        ("tcp:5060:interface=0.0.0.0", "192.0.2.1", 5060, True),
        ("tcp:5060:interface=192.0.2.1", "192.0.2.1", 5060, True),
        ("tcp:interface=192.0.2.1:port=5060", "192.0.2.1", 5060, True),
        ("tcp:5060:backlog=5:interface=192.0.2.1", "192.0.2.1", 5060, True),
        ("tcp:5060:interface=\\:\\:1", "::1", 5060, True),
        ("tcp:5060:interface=\\:\\:", "::1", 5060, True),
        ("haproxy:tcp:5060", "127.0.0.1", 5060, True),
        ("tcp:5061", "127.0.0.1", 5060, False),
        ("tcp:5060:interface=192.0.2.1", "192.0.2.2", 5060, False),
        ("tcp:5060:interface=127.0.0.1", "0.0.0.0", 5060, False),
        ("tcp:5060", "::1", 5060, False),
        ("tcp:0", "127.0.0.1", 5060, False),
        ("tcp:0", "127.0.0.1", 0, False),
        ("tcp:sip", "127.0.0.1", 5060, False),
        ("ssl:5060", "127.0.0.1", 5060, False),
        ("unix:5060", "127.0.0.1", 5060, False),
    ],
)
def test_covers(text: str, interface: str, port: int, expected: bool) -> None:
    """TCP beside a UDP socket is left out only for a TCP listener on that very address and port (18.2.1)."""
    assert StreamListen(text).covers(interface, port) is expected
