"""What is a body, and what bodies does a peer take? Content-Type, Content-Disposition, Accept and their like."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twisted_sipuas.syntax.values import HeaderValue, frozen_parameters, plain_parameters, print_parameters, token

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Accept",
    "AcceptEncoding",
    "AcceptLanguage",
    "ContentDisposition",
    "ContentEncoding",
    "ContentType",
]

_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_LANGUAGE_RANGE = re.compile(r"\*|[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*")  # 25.1, with the digits of RFC 5646


def _head_and_parameters(text: str) -> tuple[str, dict[str, str | None]]:
    """Return what stands before the parameters, and the parameters; only these can hold quotes."""
    head, semicolon, rest = text.partition(";")
    return head.rstrip(" \t"), plain_parameters(semicolon + rest)


def _type_and_subtype(text: str) -> tuple[str, str]:
    """Return both halves of a media type, in between which 25.1 allows white space."""
    main, _, subtype = text.partition("/")
    return main.rstrip(" \t"), subtype.lstrip(" \t")


def _folded(parameters: Mapping[str, str | None]) -> set[tuple[str, str | None]]:
    """Return *parameters* to be compared: the ones that matter for a choice, a charset say, have no case."""
    return {(name, None if value is None else value.lower()) for name, value in parameters.items()}


def _take_q(parameters: dict[str, str | None]) -> float:
    """Take q out of *parameters* and return it, 1 if it is not there (20.1)."""
    text = parameters.pop("q", "1")
    if text is None or _QVALUE.fullmatch(text) is None:
        raise ValueError("q has to be a number from 0 to 1 of three decimal places at most")
    return float(text)


def _rounded(q: float) -> float:
    """Return *q* in the three decimal places that a message has for it; raises `ValueError` outside 0 to 1."""
    if not 0 <= q <= 1:
        raise ValueError("q has to be a number from 0 to 1")
    return round(float(q), 3)


def _print_q(q: float) -> str:
    return "" if q == 1 else f";q={q:.3f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ContentType(HeaderValue):
    """The media type of a body (20.15): `type` and `subtype` in lower case, and MIME parameters as plain text."""

    field = "Content-Type"

    type: str
    subtype: str
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._normalise(
            type=token(self.type, "a media type").lower(),
            subtype=token(self.subtype, "a media subtype").lower(),
            parameters=frozen_parameters(self.parameters, flags=False),
        )

    @classmethod
    def _parse(cls, text: str) -> Self:
        head, parameters = _head_and_parameters(text)
        return cls(*_type_and_subtype(head), parameters)

    @property
    def media_type(self) -> str:
        """Type and subtype, without parameters: ``application/sdp``."""
        return f"{self.type}/{self.subtype}"

    def __str__(self) -> str:
        return self.media_type + print_parameters(self.parameters.items())


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Accept(HeaderValue):
    """A range of media types that the sender takes (20.1); ``*`` stands for every subtype, ``*/*`` for every type.

    `q` is the preference from 0 to 1, in three decimal places.
    """

    field = "Accept"
    is_list = True

    type: str = "*"
    subtype: str = "*"
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    q: float = 1.0

    def __post_init__(self) -> None:
        self._normalise(
            type=token(self.type, "a media type").lower(),
            subtype=token(self.subtype, "a media subtype").lower(),
            parameters=frozen_parameters(self.parameters, reserved=("q",)),
            q=_rounded(self.q),
        )
        if self.type == "*" and self.subtype != "*":
            raise ValueError("a range of all media types has all subtypes")

    @classmethod
    def _parse(cls, text: str) -> Self:
        head, parameters = _head_and_parameters(text)
        q = _take_q(parameters)
        return cls(*_type_and_subtype(head), parameters, q)

    def includes(self, content_type: ContentType) -> bool:
        """Whether *content_type* is in this range: so it is if it has the parameters of the range, and any others."""
        return (
            self.type in ("*", content_type.type)
            and self.subtype in ("*", content_type.subtype)
            and _folded(self.parameters) <= _folded(content_type.parameters)
        )

    def __str__(self) -> str:
        return f"{self.type}/{self.subtype}{print_parameters(self.parameters.items())}{_print_q(self.q)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AcceptEncoding(HeaderValue):
    """A content-coding that the sender takes (20.2), in lower case; ``*`` stands for any. `q` is as in `Accept`."""

    field = "Accept-Encoding"
    is_list = True

    coding: str
    q: float = 1.0
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._normalise(
            coding=token(self.coding, "a content-coding").lower(),
            q=_rounded(self.q),
            parameters=frozen_parameters(self.parameters, reserved=("q",)),
        )

    @classmethod
    def _parse(cls, text: str) -> Self:
        head, parameters = _head_and_parameters(text)
        q = _take_q(parameters)
        return cls(head, q, parameters)

    def __str__(self) -> str:
        return f"{self.coding}{_print_q(self.q)}{print_parameters(self.parameters.items())}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AcceptLanguage(HeaderValue):
    """A range of languages that the sender takes (20.3), in lower case; ``*`` stands for any. `q` is as in `Accept`."""

    field = "Accept-Language"
    is_list = True

    language: str
    q: float = 1.0
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if _LANGUAGE_RANGE.fullmatch(self.language) is None:
            raise ValueError("a language range has to be subtags of one to eight letters, or *")
        self._normalise(
            language=self.language.lower(),
            q=_rounded(self.q),
            parameters=frozen_parameters(self.parameters, reserved=("q",)),
        )

    @classmethod
    def _parse(cls, text: str) -> Self:
        head, parameters = _head_and_parameters(text)
        q = _take_q(parameters)
        return cls(head, q, parameters)

    def __str__(self) -> str:
        return f"{self.language}{_print_q(self.q)}{print_parameters(self.parameters.items())}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ContentEncoding(HeaderValue):
    """One of the content-codings applied to a body (20.12), in lower case."""

    field = "Content-Encoding"
    is_list = True

    coding: str

    def __post_init__(self) -> None:
        self._normalise(coding=token(self.coding, "a content-coding").lower())

    @classmethod
    def _parse(cls, text: str) -> Self:
        return cls(text)

    def __str__(self) -> str:
        return self.coding


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ContentDisposition(HeaderValue):
    """What a body is for (20.11): `type` and `handling` in lower case.

    `handling` None means "required", as the RFC's default is.
    """

    field = "Content-Disposition"

    type: str
    handling: str | None = None
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._normalise(
            type=token(self.type, "a disposition type").lower(),
            handling=None if self.handling is None else token(self.handling, "handling").lower(),
            parameters=frozen_parameters(self.parameters, reserved=("handling",)),
        )

    @classmethod
    def _parse(cls, text: str) -> Self:
        head, parameters = _head_and_parameters(text)
        handling = parameters.pop("handling") or "" if "handling" in parameters else None
        return cls(head, handling, parameters)

    def __str__(self) -> str:
        handling = "" if self.handling is None else f";handling={self.handling}"
        return f"{self.type}{handling}{print_parameters(self.parameters.items())}"
