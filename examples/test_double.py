"""A scripted SIP peer in a test: does a client of yours do what it should?

    pip install . pytest
    pytest examples/test_double.py

The client here is `sipsak`; put yours in its place. `sip_server` is a fixture that comes with this package.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from twisted_sipuas import testing
from twisted_sipuas.testing import BlockingServer, answer, expect


@contextmanager
def client(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the client while a test goes on; `returncode` tells how it ended."""
    with subprocess.Popen(["sipsak", *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            yield process
            process.wait(20)
        finally:
            process.kill()


def test_registers(sip_server: BlockingServer) -> None:
    """It registers for as long as it is told, and takes what the registrar grants."""
    with client("-U", "-C", "sip:alice@127.0.0.1:5099", "-x", "120", "-s", f"sip:alice@{sip_server.address}") as phone:
        register = sip_server.expect("REGISTER", Contact="sip:alice@127.0.0.1:5099", Expires="120")
        register.answer(200, contacts=["<sip:alice@127.0.0.1:5099>;expires=60"])
    assert phone.returncode == 0


def test_authenticates(sip_server: BlockingServer) -> None:
    """Challenged, it sends the REGISTER again, with a higher CSeq and credentials."""
    challenge = ("WWW-Authenticate", 'Digest realm="example.com", nonce="abc"')
    with client("-U", "-C", "sip:alice@127.0.0.1", "-a", "secret", "-s", f"sip:alice@{sip_server.address}") as phone:
        first = sip_server.expect("REGISTER", Authorization=None)
        first.answer(401, headers=[challenge])
        second = sip_server.expect("REGISTER", Authorization=...)
        second.answer(200)
    assert second.request.cseq.number > first.request.cseq.number
    assert phone.returncode == 0


def test_is_redirected() -> None:
    """Redirected, it asks where it is told to: two servers, what they do said beforehand."""
    with testing.sip_server(expect("OPTIONS"), answer(200)) as other:
        moved = answer(302, contacts=[f"sip:bob@{other.address}"])
        with testing.sip_server(expect("OPTIONS"), moved) as server, client("-s", f"sip:bob@{server.address}") as phone:
            pass
    assert phone.returncode == 0
