"""How is a binding written where bindings outlive the process? As a row of octets and numbers, for any SQL database."""

from __future__ import annotations

from typing import Any

from twisted_sipuas.location.binding import Binding
from twisted_sipuas.syntax.uri import parse_uri

__all__ = ["COLUMNS", "Row", "binding_of", "octets", "row_of", "text"]

COLUMNS = ("uri", "expires_at", "call_id", "cseq", "q", "display_name", "parameters", "path")
"""What the values of a `Row` are, in order."""

Row = tuple[bytes, float, bytes, int, "float | None", bytes, bytes, bytes]
"""A binding. Text is kept as octets: a URI that was received may hold some that are no UTF-8, and NUL where it was
escaped."""


def octets(text: str) -> bytes:
    """Return *text* as it was received; raises `UnicodeEncodeError` for text that no received octets make."""
    return text.encode("utf-8", "surrogateescape")


def text(octets: bytes) -> str:
    """Return *octets* as `octets` has taken them; raises `ValueError` for what are none."""
    if not isinstance(octets, bytes | memoryview):
        raise ValueError("no octets")
    return bytes(octets).decode("utf-8", "surrogateescape")


def row_of(binding: Binding) -> Row:
    """Return *binding* as a row; raises `UnicodeEncodeError` as `octets` does."""
    return (
        octets(binding.uri_text),
        binding.expires_at,
        octets(binding.call_id),
        binding.cseq,
        binding.q,
        octets(binding.display_name),
        octets(binding.parameters),
        octets(binding.path),
    )


def binding_of(row: Any) -> Binding:
    """Return the binding that *row* is; raises `ValueError` if it has not the values of a `Row`."""
    uri, expires_at, call_id, cseq, q, display_name, parameters, path = row
    uri_text = text(uri)
    parse_uri(uri_text)  # which the table in memory does not do again for each look-up
    return Binding(
        uri_text, expires_at, text(call_id), cseq, q, text(display_name), text(parameters), text(path)
    ).checked()  # fmt: skip
