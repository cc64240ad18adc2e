"""Which bytes break the parser? To be run as a program: it is a fuzz target for atheris, see README.md."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["twisted_sipuas"]):
    from twisted_sipuas import syntax
    from twisted_sipuas.errors import MessageSyntaxError
    from twisted_sipuas.syntax.body import parse_body
    from twisted_sipuas.syntax.framing import StreamFramer
    from twisted_sipuas.syntax.headers import Headers
    from twisted_sipuas.syntax.message import Request, Response
    from twisted_sipuas.syntax.parsing import answerable_part, parse_message
    from twisted_sipuas.syntax.uri import URI, address_of_record
    from twisted_sipuas.syntax.values import HeaderValue

    for module in pkgutil.iter_modules(syntax.__path__, "twisted_sipuas.syntax."):
        importlib.import_module(module.name)  # every kind of header field value is then a subclass of HeaderValue


def check(data: bytes) -> None:
    """Hold *data* against what is to be true of any bytes; raises whatever `MessageSyntaxError` is not."""
    answerable_part(data)
    try:
        message = parse_message(data)
    except MessageSyntaxError as fault:
        if fault.request is not None:
            fault.request.response(fault.status, fault.reason).to_bytes("tag")
    else:
        read(message)
        check_printed(message)
        with contextlib.suppress(MessageSyntaxError):
            for leaf in parse_body(message.headers, message.body).leaves():
                assert leaf.content in message.body
    check_framing(data)


def read(value: Any, depth: int = 0) -> None:
    """Ask *value* for each attribute that it may have to parse, and so on with what comes back."""
    for name in names(type(value)):  # type: ignore[arg-type]  # a class is hashable, which mypy does not see
        with contextlib.suppress(MessageSyntaxError):
            attribute = getattr(value, name)
            for inner in attribute if isinstance(attribute, tuple) else (attribute,):
                if depth < 4 and type(inner).__module__.startswith("twisted_sipuas."):
                    read(inner, depth + 1)
    repr(value)
    if isinstance(value, Headers):
        for name, text in value:
            check_typed(name, text)
            with contextlib.suppress(MessageSyntaxError):
                for single in value.values(name):
                    check_typed(name, single)
    if isinstance(value, URI):
        with contextlib.suppress(MessageSyntaxError):
            address_of_record(value)
            assert value.equivalent(type(value)(str(value)))
            assert hash(value) == hash(type(value)(str(value)))


def check_typed(name: str, text: str) -> None:
    """A typed value that is printed and parsed again is the same."""
    kind = kinds().get(name.lower())
    if kind is not None:
        with contextlib.suppress(MessageSyntaxError):
            value = kind.parse(text)
            printed = str(value)
            try:
                again = kind.parse(printed)
            except MessageSyntaxError as fault:
                raise AssertionError(f"{text!r} is printed as {printed!r}") from fault
            assert (again, str(again), hash(again)) == (value, printed, hash(value)), f"{text!r} becomes {printed!r}"


@functools.cache
def kinds() -> dict[str, type[HeaderValue]]:
    """Return the class for the values of each header field that has one, by the field's name in lower case."""
    found: dict[str, type[HeaderValue]] = {}
    todo = [HeaderValue]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if "field" in vars(kind):
            found[kind.field.lower()] = kind
    return found


@functools.cache
def names(kind: type) -> tuple[str, ...]:
    """Return the names of the public attributes of *kind* that are not its methods."""
    return tuple(name for name in dir(kind) if name[0] != "_" and not callable(getattr(kind, name)))


def check_printed(message: Request | Response) -> None:
    """What is printed and parsed again is the same."""
    printed = message.to_bytes()
    again = parse_message(printed)
    assert again.to_bytes() == printed
    assert again.body == message.body
    if isinstance(message, Request):
        response = parse_message(message.response(200, body=b"x", content_type="text/plain").to_bytes("tag"))
        assert (type(again), type(response)) == (Request, Response)
        assert response.headers.get_all("Via") == message.headers.get_all("Via")


def check_framing(data: bytes) -> None:
    """However the stream is cut, the messages are the same."""
    size = 1 + len(data) % 13
    assert framed([data[start : start + size] for start in range(0, len(data), size)]) == framed([data])


def framed(pieces: list[bytes]) -> list[object]:
    """Return the messages of a stream that comes in *pieces*, and at the end why it could not go on, if so."""
    framer = StreamFramer()
    found: list[object] = []
    for piece in pieces:
        framer.receive(piece)
        try:
            while (message := framer.next_message()) is not None:
                found.append(message)
        except MessageSyntaxError as fault:
            return [*found, (fault.status, fault.reason)]
    return found


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
