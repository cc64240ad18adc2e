"""The checks of RFC 3261, 8.2, one function each; a role lists those that it makes, in order.

A check returns None for "go on" and raises `SIPError` with the rule that decided.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from typing import Protocol

from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.interfaces import IFlow, IServerTransaction
from twisted_sipuas.syntax.body import BodyPart, parse_body
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.media import Accept, ContentType
from twisted_sipuas.syntax.message import KNOWN_METHODS, Request
from twisted_sipuas.syntax.uri import SIPURI, URI, canonical_host

__all__ = [
    "Check",
    "Role",
    "acceptable",
    "accepts",
    "content_type",
    "encodings",
    "extensions",
    "is_for_server",
    "is_served",
    "languages",
    "merged",
    "method",
    "request_uri_domain",
    "request_uri_scheme",
    "request_uri_user",
    "require",
]


class Role(Protocol):
    """What a check asks of the server that makes it."""

    @property
    def allow(self) -> tuple[str, ...]:
        """The methods that are served."""

    @property
    def supported_tags(self) -> frozenset[str]:
        """The option tags that are supported, in lower case."""

    @property
    def schemes(self) -> Collection[str]:
        """The schemes served in a Request-URI."""

    @property
    def domains(self) -> frozenset[str]:
        """The domains that are served, in lower case; empty for any."""

    @property
    def required_extensions(self) -> Collection[str]:
        """The option tags without which no request can be served."""

    @property
    def accept_encoding(self) -> Collection[str]:
        """The content codings that are understood, besides identity."""

    @property
    def accept_language(self) -> Collection[str]:
        """The languages that are understood; empty for any."""

    def accepted_types(self, method: str) -> tuple[str, ...] | None:
        """The media types that the handler of *method* understands, or None if it takes any."""

    def serves_user(self, uri: URI) -> bool:
        """Whether there is such a user."""


Check = Callable[[Role, Request, IServerTransaction], None]


def method(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """8.2.1: a method that is not served gets 405, one nobody knows 501; both tell what is."""
    if request.method not in server.allow:
        known = request.method in KNOWN_METHODS
        rule = "8.2.1-2" if known else "21.5.2-1"
        raise SIPError(405 if known else 501, headers=[("Allow", ", ".join(server.allow))], rule=rule)


def request_uri_scheme(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """8.2.2.1: a scheme that is not supported gets 416; within a dialog the Request-URI is our own Contact."""
    if request.uri.scheme not in server.schemes and transaction.dialog is None:
        raise SIPError(416, rule="8.2.2.1-4")


def request_uri_domain(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """8.2.2.1: a Request-URI in a domain that is not served gets 404, but not within a dialog."""
    if transaction.dialog is None and not is_served(server, request.uri, transaction.flow):
        raise SIPError(404, rule="8.2.2.1-5")


def request_uri_user(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """8.2.2.1: a Request-URI for a user that there is not gets 404, but not within a dialog."""
    if transaction.dialog is None and not server.serves_user(request.uri):
        raise SIPError(404, rule="8.2.2.1-5")


def merged(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """8.2.2.2: a request that came by another way before, and is in progress there, gets 482."""
    if transaction.is_merged:
        raise SIPError(482, rule="8.2.2.2-2")


def require(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """8.2.2.3: an option tag that is not supported gets 420, with Unsupported naming it and no other."""
    if "Require" not in request.headers:
        return
    try:
        tags = request.headers.values("Require")  # not the typed `Require`: Unsupported repeats the client's spelling
    except MessageSyntaxError as fault:
        raise SIPError(400, fault.reason, rule="8.2.2.3-1") from None
    if not all(map(TOKEN.fullmatch, tags)):
        raise SIPError(400, "Malformed Require header field", rule="8.2.2.3-1")
    unsupported = [tag for tag in dict.fromkeys(tags) if tag.lower() not in server.supported_tags]
    if unsupported:
        raise SIPError(420, headers=[("Unsupported", ", ".join(unsupported))], rule="8.2.2.3-1")


def content_type(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """8.2.3: a body part that is not optional, of a type or encoding that is not understood, gets 415.

    Accept or Accept-Encoding tells what is understood.
    """
    if not request.body:
        return
    accepted, headers = server.accepted_types(request.method), request.headers
    if accepted is None and not headers.rows("content-encoding") and not headers.rows("content-language"):
        return  # any type is understood, and then what is inside a multipart is for who takes it
    try:
        body = parse_body(headers, request.body)
    except MessageSyntaxError as fault:
        raise SIPError(fault.status, fault.reason, rule="8.2.3-1") from None
    if body.is_optional:
        return
    if accepted is not None and not _is_understood(body, frozenset(map(str.lower, accepted))):
        raise SIPError(415, headers=[("Accept", ", ".join(accepted))], rule="8.2.3-2")
    needed = [leaf.headers for leaf in body.leaves() if not leaf.is_optional]
    if not all(_has_known_encoding(headers, server.accept_encoding) for headers in needed):
        raise SIPError(415, headers=[("Accept-Encoding", encodings(server))], rule="8.2.3-3")
    if not all(_has_known_language(headers, server.accept_language) for headers in needed):
        raise SIPError(415, headers=[("Accept-Language", languages(server))], rule="8.2.3-4")


def acceptable(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """20.1: an INVITE whose Accept has none of the types that its answer could have gets 406 (21.4.7).

    Those are the types of session description that the INVITE may have itself.
    """
    types = server.accepted_types("INVITE") if request.method == "INVITE" else None
    if types is not None and not accepts(request, types):
        raise SIPError(406, headers=[("Accept", ", ".join(types))], rule="20.1")


def extensions(server: Role, request: Request, transaction: IServerTransaction) -> None:
    """8.2.4: a request that does not support what it cannot be served without gets 421.

    Not one within a dialog: what the peer supports was seen as that was made, and few name it in a BYE.
    """
    if not server.required_extensions or transaction.dialog is not None:
        return
    offered = {tag.lower() for name in ("Supported", "Require") for tag in request.headers.values(name)}
    missing = [tag for tag in server.required_extensions if tag.lower() not in offered]
    if missing:
        raise SIPError(421, headers=[("Require", ", ".join(missing))], rule="8.2.4-3")


def accepts(request: Request, types: Collection[str]) -> bool:
    """Whether the Accept of *request* takes one of the media *types* in a response; without one it does (20.1)."""
    if "Accept" not in request.headers:
        return True
    try:
        ranges = request.headers.every(Accept)
    except MessageSyntaxError:
        return True  # 8.2.2: then there is nothing that it keeps us from
    return any(media.q and media.includes(ContentType.parse(kind)) for media in ranges for kind in types)


def encodings(server: Role) -> str:
    """Return the value of Accept-Encoding: what *server* understands."""
    return ", ".join(dict.fromkeys([*server.accept_encoding, "identity"]))


def languages(server: Role) -> str:
    """Return the value of Accept-Language: what *server* understands."""
    return ", ".join(server.accept_language) or "*"


def _has_known_encoding(headers: Headers, understood: Collection[str]) -> bool:
    """Whether a body part with *headers* is in a coding that is *understood*, or in none (20.12)."""
    if "Content-Encoding" not in headers:
        return True
    known = {"identity", *(coding.lower() for coding in understood)}
    return all(coding.lower() in known for coding in headers.values("Content-Encoding"))


def _has_known_language(headers: Headers, understood: Collection[str]) -> bool:
    """Whether a body part with *headers* is in a language that is *understood*, in one of several, or in none said."""
    if not understood or "Content-Language" not in headers:
        return True
    ranges = [language.lower() for language in understood]
    return any(
        language.lower() == known or language.lower().startswith(f"{known}-")
        for language in headers.values("Content-Language")
        for known in ranges
    )


def _is_understood(part: BodyPart, accepted: frozenset[str]) -> bool:
    """Whether *part* is of one of the types *accepted*, or a multipart that can be made use of.

    One part of a multipart/alternative suffices, whatever handling the others ask for (RFC 2046, 5.1.4); of every
    other multipart, each part that is not optional (RFC 5621).
    """
    if not accepted.isdisjoint((part.content_type, part.content_type.partition("/")[0] + "/*", "*/*")):
        return True
    if not part.parts:
        return False
    if part.content_type == "multipart/alternative":
        return any(_is_understood(choice, accepted) for choice in part.parts)
    return all(inner.is_optional or _is_understood(inner, accepted) for inner in part.parts)


def is_for_server(request: Request) -> bool:
    """Whether *request* is an OPTIONS for the server itself, and not for one of its users (11.2)."""
    return request.method == "OPTIONS" and isinstance(request.uri, SIPURI) and request.uri.user is None


def is_served(server: Role, uri: URI, flow: IFlow) -> bool:
    """Whether the host of *uri* is one of the server's domains or its own address, bound or advertised; without
    domains, any is.

    Behind a wildcard address our own cannot be told, and every IP address is taken for one.
    """
    if not server.domains:
        return True
    if not isinstance(uri, SIPURI):
        return False
    host = canonical_host(uri.host)
    if host in server.domains or host.strip("[]") == flow.advertised_address.host:
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        local = ipaddress.ip_address(flow.local_address.host)
    except ValueError:
        return False
    return local.is_unspecified or address == local
