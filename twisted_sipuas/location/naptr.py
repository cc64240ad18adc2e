"""What do the NAPTR records of a telephone number say? The rules of ENUM without the DNS (RFC 6116; RFC 3402, 3403)."""

from __future__ import annotations

import re
from typing import NamedTuple

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.location.ere import Expression
from twisted_sipuas.syntax.uri import SIPURI, URI, TelURI, parse_uri, unescape

__all__ = ["DOMAIN_NAME", "MAX_DOMAIN_NAME", "Rule", "domain_of", "number_of"]

DOMAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
MAX_DOMAIN_NAME = 253

_NUMBER = re.compile(r"\+[0-9]{1,15}")  # E.164 has 15 digits at most
_VISUAL_SEPARATORS = str.maketrans("", "", "-.()")  # RFC 3966, 3
# 3.4.3, and the obsolete syntax of RFC 2916, which clients should know too (5.2).
_SERVICES = re.compile(r"e2u((?:\+[a-z0-9-]{1,32}(?::[a-z0-9-]{1,32})*)+)|([a-z0-9-]{1,32})\+e2u", re.IGNORECASE)


def number_of(uri: URI) -> str | None:
    """Return the global telephone number that *uri* is, a ``+`` and at most 15 digits; None if it is none.

    That is a tel URI, or a SIP URI whose user part is such a number, with ``user=phone`` or without: "recipients of SIP
    and SIPS URIs MAY interpret the pre-@ part as a telephone number if local restrictions on the name space for user
    name allow it" (RFC 3261, 19.1.1), and a user part of ``+`` and digits is little else.
    """
    if isinstance(uri, TelURI):
        number = uri.number
    elif isinstance(uri, SIPURI) and (uri.parameters.get("user") or "phone").lower() == "phone":
        number = unescape((uri.user or "").partition(";")[0]).translate(_VISUAL_SEPARATORS)
    else:
        return None
    return number if _NUMBER.fullmatch(number) else None


def domain_of(number: str, suffix: str) -> str:
    """Return the domain name whose NAPTR records are about *number* (3.2): its digits backwards, then *suffix*."""
    return ".".join([*reversed(number[1:]), suffix])


class Rule(NamedTuple):
    """One NAPTR record (RFC 3403, 4.1); the least `order` is the first to be considered, then `preference`."""

    order: int
    preference: int
    flags: str
    services: str
    regexp: str
    replacement: str

    @property
    def is_terminal(self) -> bool:
        """Whether it makes a URI (3.4.2)."""
        return self.flags.lower() == "u"

    @property
    def is_for_sip(self) -> bool:
        """Whether one of its enumservices is of the type sip, of any subtype (3.4.3)."""
        match = _SERVICES.fullmatch(self.services)
        if match is None:
            return False
        enumservices = match[1].split("+")[1:] if match[1] else [match[2]]
        return any(enumservice.partition(":")[0].lower() == "sip" for enumservice in enumservices)

    @property
    def next_domain(self) -> str | None:
        """The domain name whose records are to be asked for next, if it is a rule that leads there, else None."""
        name = self.replacement.removesuffix(".")
        is_name = len(name) <= MAX_DOMAIN_NAME and DOMAIN_NAME.fullmatch(name) is not None
        return name.lower() if not self.flags and is_name else None

    def uri(self, number: str) -> SIPURI | None:
        """Return the SIP or SIPS URI that this terminal rule makes of *number*; None if it does not match it.

        The URI is the replacement alone, as every ENUM client has it, whatever part of the number the expression
        matched. Raises `ValueError` for a rule that is malformed, or makes something else.
        """
        expression, replacement = _substitution(self.regexp)
        groups = expression.match(number)
        if groups is None:
            return None
        try:
            uri = parse_uri(_filled(replacement, groups))
        except MessageSyntaxError as fault:
            raise ValueError(str(fault)) from None
        if not isinstance(uri, SIPURI):
            raise ValueError("no SIP URI")
        return uri


def _substitution(regexp: str) -> tuple[Expression, list[str | int]]:
    """Return the expression of *regexp*, and the replacement as text and numbers of groups (RFC 3402, 3.2)."""
    delimiter = regexp[:1]
    if not delimiter or delimiter in "123456789iI\\":
        raise ValueError("no delimiter")
    fields = [""]
    at = 1
    while at < len(regexp):
        taken = 2 if regexp[at] == "\\" else 1
        piece = regexp[at : at + taken]
        at += taken
        if piece == delimiter:
            fields.append("")
        else:
            fields[-1] += delimiter if piece == f"\\{delimiter}" and len(fields) > 1 else piece
    if len(fields) != 3 or fields[2].lower() not in ("", "i"):  # 5.2: the flag i has no effect on digits
        raise ValueError("not an expression, a replacement and flags")
    expression = Expression(fields[0])
    return expression, _replacement(fields[1], expression.groups)


def _replacement(text: str, groups: int) -> list[str | int]:
    pieces: list[str | int] = []
    for piece in re.split(r"(\\.?)", text):
        if not piece.startswith("\\"):
            pieces.append(piece)
        elif piece[1:] in tuple("123456789") and int(piece[1]) <= groups:
            pieces.append(int(piece[1]))
        else:
            raise ValueError("a back-reference to no group")
    return pieces


def _filled(replacement: list[str | int], groups: list[str]) -> str:
    return "".join(groups[piece] if isinstance(piece, int) else piece for piece in replacement)
