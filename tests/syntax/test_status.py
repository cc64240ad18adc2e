"""Which status codes are there, and does this package send no others?"""

from __future__ import annotations

import ast
from http import HTTPStatus
from pathlib import Path

import pytest

import twisted_sipuas
from twisted_sipuas.syntax.status import reason_phrase

PACKAGE = Path(twisted_sipuas.__file__).parent
OF_SIP_TOO = {100, 200, 202, 204, 300, 301, 302, 305, *range(400, 409), 410, *range(412, 418), *range(421, 425)}
OF_SIP_TOO |= {428, 429, *range(500, 506)}
"""Codes of HTTP that SIP has as well, some of them with another meaning, as IANA lists them."""
OF_HTTP_ALONE = sorted({status.value for status in HTTPStatus} - OF_SIP_TOO)


def sent() -> dict[int, str]:
    """Return the status codes that the package's own code gives to a response or a refusal, and where."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                given = [keyword.value for keyword in node.keywords if keyword.arg == "status"]
                given += node.args[:1] if called in ("SIPError", "response", "Response", "respond") else []
                for constant in (part for value in given for part in ast.walk(value)):
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, int):
                        found[constant.value] = f"{path.name}:{node.lineno}"
    return found


@pytest.mark.requirement("21-1")
def test_no_status_of_http_alone() -> None:
    """What only HTTP has is sent by nothing in this package (21)."""
    assert len(found := sent()) > 15, "so that there is something to look at"
    assert {status: where for status, where in found.items() if status in OF_HTTP_ALONE} == {}


@pytest.mark.parametrize("status", OF_HTTP_ALONE)
def test_status_of_http_has_no_phrase(status: int) -> None:
    """A code that SIP does not have is treated as the x00 of its class (8.1.3.2, 21)."""
    assert reason_phrase(status) == reason_phrase(status // 100 * 100)
