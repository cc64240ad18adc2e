"""Does a SIP server on this machine answer? Exit status 0 if it does, 1 and a line that says why if not.

    python examples/docker/healthcheck.py 5060

What is asked is OPTIONS for the server itself, by UDP, as proxies and gateways do. Any answer of SIP will do but 5xx: a
server that asks for a password is healthy. It has 3.5 seconds, in which the request is resent as RFC 3261, 17.1.2 says.
"""

from __future__ import annotations

import secrets
import socket
import sys

WAITS = (0.5, 1.0, 2.0)  # seconds: Timer E, which doubles


def options(port: int, local_port: int) -> bytes:
    """Return the request, another one each time."""
    lines = [
        f"OPTIONS sip:127.0.0.1:{port} SIP/2.0",
        f"Via: SIP/2.0/UDP 127.0.0.1:{local_port};rport;branch=z9hG4bK{secrets.token_hex(8)}",
        "Max-Forwards: 70",
        f"From: <sip:healthcheck@127.0.0.1>;tag={secrets.token_hex(4)}",
        f"To: <sip:127.0.0.1:{port}>",
        f"Call-ID: {secrets.token_hex(8)}",
        "CSeq: 1 OPTIONS",
        "Content-Length: 0",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def ask(port: int) -> str:
    """Return the status line of the answer; raises `OSError` if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        request = options(port, client.getsockname()[1])
        for wait in WAITS:
            client.send(request)
            client.settimeout(wait)
            try:
                return client.recv(65535).partition(b"\r\n")[0].decode("utf-8", "replace")
            except TimeoutError:
                continue
    raise TimeoutError("no answer")


if __name__ == "__main__":
    try:
        status_line = ask(int(sys.argv[1]))
    except OSError as error:
        sys.exit(f"port {sys.argv[1]}: {error}")
    if not status_line.startswith(("SIP/2.0 2", "SIP/2.0 3", "SIP/2.0 4")):
        sys.exit(f"port {sys.argv[1]}: {status_line}")
