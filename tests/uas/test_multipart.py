"""Is a request judged by the parts of its body, as 8.2.3 asks?"""

from __future__ import annotations

from typing import Any

import pytest

from twisted_sipuas import UserAgentServer
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.testing import VirtualNetwork

TEXT = b"Content-Type: text/plain\r\n\r\nhello"
HTML = b"Content-Type: text/html\r\n\r\n<p>hello"
OPTIONAL_HTML = b"Content-Disposition: render;handling=optional\r\n" + HTML
SIGNATURE = b"Content-Type: application/pkcs7-signature\r\nContent-Disposition: attachment;handling=required\r\n\r\nx"


class Reader(UserAgentServer):
    """Understands text, and one kind of multipart as a whole."""

    accept = ("text/plain", "multipart/form-data")

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        return request.response(202)


class Anything(Reader):
    """Does not say what it understands, and so gets all there is."""

    accept = None  # type: ignore[assignment]  # any type of body


def joined(*parts: bytes, boundary: str = "b") -> bytes:
    delimiter = f"\r\n--{boundary}".encode()
    return b"".join(delimiter + b"\r\n" + part for part in parts) + delimiter + b"--\r\n"


def inside(subtype: str, *parts: bytes) -> bytes:
    """Return the part that is a multipart of *parts*."""
    return f"Content-Type: multipart/{subtype};boundary=i\r\n\r\n".encode() + joined(*parts, boundary="i")


def answer(subtype: Any, body: Any, *headers: Any, server: Any = None) -> Any:
    """Return the response to a MESSAGE with *body*, which is a multipart of this subtype."""
    headers = (("Content-Type", f"multipart/{subtype};boundary=b"), *headers)
    return VirtualNetwork().client(server or Reader()).send("MESSAGE", headers=headers, body=body).response


@pytest.mark.requirement("8.2.3-1", "8.2.3-2", "8.2.3-5")
@pytest.mark.parametrize(
    ("subtype", "parts", "status"),
    [
        ("mixed", [TEXT], 202),
        ("mixed", [TEXT, TEXT], 202),
        ("mixed", [TEXT, HTML], 415),
        ("mixed", [TEXT, OPTIONAL_HTML], 202),
        ("mixed", [OPTIONAL_HTML], 202),
        ("related", [TEXT, HTML], 415),
        ("signed", [TEXT, SIGNATURE], 415),
        ("nobody-knows-this", [TEXT, OPTIONAL_HTML], 202),
        ("alternative", [TEXT, HTML], 202),
        ("alternative", [HTML, TEXT], 202),
        ("alternative", [HTML, SIGNATURE], 415),
        ("alternative", [OPTIONAL_HTML, SIGNATURE], 415),
        ("alternative", [HTML, inside("mixed", TEXT, OPTIONAL_HTML)], 202),
        ("alternative", [HTML, inside("mixed", TEXT, HTML)], 415),
        ("mixed", [TEXT, inside("alternative", TEXT, HTML)], 202),
        ("mixed", [TEXT, inside("alternative", SIGNATURE, HTML)], 415),
        ("form-data", [TEXT, HTML], 202),
    ],
)
def test_parts_are_judged_one_by_one(subtype: Any, parts: Any, status: int) -> None:
    """A part that is not optional and not understood gets 415; of alternatives, one suffices (8.2.3, RFC 5621)."""
    response = answer(subtype, joined(*parts))
    assert response.status == status
    assert response.headers.values("Accept") == ([] if status == 202 else ["text/plain", "multipart/form-data"])


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"hello", 400, "Malformed multipart body"),
        (joined(b"no header section"), 400, "Malformed header section in a multipart body"),
        (joined(*[b""] * 101), 413, "The body has too many parts"),
    ],
)
def test_a_body_that_is_not_what_its_type_says(body: Any, status: int, reason: Any) -> None:
    """A multipart that is none gets 400, one with parts past all reason 413 (21.4.1, 21.4.11)."""
    response = answer("mixed", body)
    assert (response.status, response.reason) == (status, reason)


@pytest.mark.requirement("8.2.3-5")
@pytest.mark.parametrize("body", [b"hello", joined(HTML)])
def test_an_optional_body_is_never_refused(body: Any) -> None:
    """Neither for its parts nor for being malformed (8.2.3)."""
    assert answer("mixed", body, ("Content-Disposition", "render;handling=optional")).status == 202


@pytest.mark.parametrize("body", [b"hello", joined(HTML)])
def test_a_server_that_takes_any_type_takes_any_body(body: Any) -> None:
    """What is not judged is not parsed."""
    assert answer("mixed", body, server=Anything()).status == 202


def test_an_encoded_multipart_is_not_understood() -> None:
    """A multipart that cannot be looked into gets 415 (8.2.3)."""
    assert answer("mixed", joined(TEXT), ("Content-Encoding", "gzip")).status == 415
