"""What does a REGISTER do to the bindings of its address-of-record? Steps 6 and 7 of RFC 3261, 10.3, as one function.

Nothing here has a clock or keeps anything: bindings go in, bindings come out, or a `SIPError` does and nothing changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from twisted_sipuas.errors import MessageSyntaxError, SIPError
from twisted_sipuas.location.target import Redirection, Target, contact_text
from twisted_sipuas.syntax.addresses import Path
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.grammar import delta_seconds
from twisted_sipuas.syntax.message import Request
from twisted_sipuas.syntax.uri import SIPURI, URI, parse_uri

__all__ = ["Binding", "Limits", "Registration", "apply", "contact_value", "redirection", "target", "unexpired"]

_LATEST = 2.0**53
"""Seconds since the epoch up to which a time is told exactly."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One contact of an address-of-record, and which REGISTER put it there last (10.3); immutable, equal by value.

    There may be a million of them, so each keeps text and numbers only.
    """

    uri_text: str
    """The URI of the Contact as received."""
    expires_at: float
    """When it ends, in seconds since the epoch."""
    call_id: str
    """The Call-ID of the REGISTER."""
    cseq: int
    """The number in the CSeq of the REGISTER."""
    q: float | None = None
    """The preference among the contacts, 0 to 1, or None."""
    display_name: str = ""
    """The display name of the Contact, without quotes."""
    parameters: str = ""
    """The other parameters of the Contact, as text that begins with a semicolon, or empty."""
    path: str = ""
    """The Path of the REGISTER, its values in order as text with commas between, or empty (RFC 3327)."""

    @property
    def uri(self) -> URI:
        """The URI, parsed when asked for and not kept."""
        return parse_uri(self.uri_text)

    def checked(self) -> Binding:
        """Return this; raises `ValueError` if a value is none that a REGISTER gives, as others may write to a store."""
        texts = (self.uri_text, self.call_id, self.display_name, self.parameters, self.path)
        if (
            all(type(text) is str for text in texts)
            and _is_number(self.expires_at, _LATEST)
            and (type(self.cseq) is int and self.cseq >= 0)
            and (self.q is None or _is_number(self.q, 1))
        ):
            return self
        raise ValueError("no binding of ours")

    def remaining(self, now: float) -> int:
        """Return the seconds left at *now*: of a new binding the interval granted, of any never 0, the sign of none."""
        return max(1, round(self.expires_at - now))

    def target(self, now: float) -> Target:
        """Return where to send a caller at *now*, in seconds since the epoch."""
        return target(self.uri.text, self.q, self.path, self.expires_at - now)


def target(uri_text: str, q: float | None, path: str, seconds: float) -> Target:
    """Return where a binding of these values, which has so many *seconds* left, sends a caller.

    A redirect server cannot put the *path* into a Route header field as a proxy does (RFC 3327, 5.4), so the URI asks
    the caller to: it has it as the header of a URI (19.1.1).
    """
    if path:
        uri = parse_uri(uri_text)
        if isinstance(uri, SIPURI):
            uri_text = uri.with_header("Route", path).text
    return Target.stored(uri_text, q, max(1, round(seconds)))


def _is_number(value: object, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= most  # type: ignore[operator]  # it is one of these


def unexpired(bindings: Iterable[Binding], now: float) -> tuple[Binding, ...]:
    """Return those of *bindings* that did not expire by *now*, in seconds since the epoch."""
    return tuple([binding for binding in bindings if binding.expires_at > now])


def redirection(bindings: Iterable[Binding], now: float) -> Redirection | None:
    """Return what a location service answers that knows *bindings*; None if all expired by *now* (10.3, 8.3)."""
    targets = [binding.target(now) for binding in bindings if binding.expires_at > now]
    return Redirection(targets) if targets else None


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a registrar; intervals are in seconds."""

    min_expires: int = 60
    """Shorter intervals get 423, as far as 10.3 allows that."""
    max_expires: int = 86_400
    """Longer intervals are granted as this."""
    default_expires: int = 3600
    """What a request that asks for no interval is granted."""
    max_contacts: int = 100
    """Of one address-of-record, and in one request."""
    max_path: int = 2000
    """Characters of the Path of one request; it is kept with each of its contacts."""


_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Registration:
    """The change that a REGISTER asks for. Without contacts, and not removing all, it asks for none (10.3 step 6)."""

    call_id: str
    """The Call-ID of the request."""
    cseq: int
    """The number in its CSeq."""
    contacts: tuple[Contact, ...] = ()
    """Its Contact values; their URIs are known to be well-formed."""
    expires: int | None = None
    """The Expires header field in seconds; None if absent, and if malformed (20.19)."""
    removes_all: bool = False
    """Whether its Contact is ``*``."""
    path: str = ""
    """Its Path, values in order as text with commas between (RFC 3327)."""

    @classmethod
    def from_request(cls, request: Request, limits: Limits = _DEFAULT_LIMITS) -> Registration:
        """Return what *request* asks for.

        Raises `SIPError`: 400 for a Contact that cannot be (10.3 step 6) and for a malformed Path, 403 for more of them
        than *limits* allow.
        """
        expires = delta_seconds(request.headers.get("Expires"))
        try:
            values = request.headers.values("Contact")
            if len(values) > limits.max_contacts:
                raise _too_many()  # before each is parsed
            contacts = request.contacts
            for contact in contacts:
                contact.uri  # noqa: B018  # asked for so that a fault in it is found before anything is changed
                if "\0" in contact.text:
                    # 25.1 allows it as a quoted-pair, but no response may carry it: nobody could list the binding.
                    raise MessageSyntaxError("Malformed Contact header field")
        except MessageSyntaxError:
            raise SIPError(400, "Malformed Contact header field", rule="10.3-33") from None
        if "*" in values:
            if len(values) > 1:
                raise SIPError(400, "Contact * Together With Other Contacts", rule="10.3-22")
            if expires != 0:
                raise SIPError(400, "Contact * Without Expires 0", rule="10.3-22")
        path = _path(request, limits)
        return cls(request.call_id, request.cseq.number, contacts, expires, removes_all="*" in values, path=path)


def apply(registration: Registration, bindings: Iterable[Binding], now: float, limits: Limits) -> tuple[Binding, ...]:
    """Return what *bindings* become by *registration* at *now*, in seconds since the epoch; all of it or nothing.

    Bindings that expired are left out. Those that are updated keep their place, new ones follow. Raises `SIPError`,
    which answers the request, and then nothing is changed.

    No two bindings returned are equivalent, if no two of *bindings* were. Equivalence (19.1.4) is not transitive, so
    a contact may match several bindings that differ from each other: it stands for all of them.
    """
    current = unexpired(bindings, now)
    if registration.removes_all:
        for binding in current:
            _check_order(registration, binding, "10.3-25")
        return ()
    if not registration.contacts:
        return current
    if len(registration.contacts) > limits.max_contacts:
        raise _too_many()  # before the work below, which grows with their square
    changed = _merge(current, _changes(registration, now, limits), registration)
    if len(changed) > max(limits.max_contacts, len(current)):
        raise _too_many()
    return changed


def contact_value(binding: Binding, now: float) -> str:
    """Return *binding* as a Contact value of the 200 to a REGISTER, with the interval left at *now* (10.3 step 8)."""
    return contact_text(binding.display_name, binding.uri_text, binding.q, binding.remaining(now), binding.parameters)


def _path(request: Request, limits: Limits) -> str:
    """Return the Path of *request* (RFC 3327, 5.3); raises `SIPError` for one that is malformed or too long."""
    if "Path" not in request.headers:
        return ""
    try:
        values = request.headers.every(Path)
        for value in values:
            if not isinstance(value.uri, SIPURI) or "\0" in value.text:
                raise MessageSyntaxError("Malformed Path header field")
    except MessageSyntaxError:
        raise SIPError(400, "Malformed Path header field", rule="3327-1") from None
    path = ",".join(value.text for value in values)
    if len(path) > limits.max_path:
        raise SIPError(403, "Path Too Long", rule="max_path")
    return path


def _too_many() -> SIPError:
    return SIPError(403, "Too many contacts", rule="max_contacts")


def _check_order(registration: Registration, binding: Binding, rule: str) -> None:
    """Raise `SIPError` if *registration* is older than the request that made *binding* (10.3 steps 6 and 7).

    The RFC leaves the status open. It is 500 for a CSeq out of order in a dialog (12.2.2), and so it is here.
    """
    if registration.call_id == binding.call_id and registration.cseq <= binding.cseq:
        raise SIPError(500, "CSeq Out of Order", rule=rule)


def _granted(contact: Contact, registration: Registration, limits: Limits) -> int:
    """Return the interval for *contact* in seconds, 0 to remove it; raises `SIPError` 423 for one too brief."""
    requested = registration.expires if contact.expires is None else contact.expires
    if requested is None:
        return min(limits.default_expires, limits.max_expires)
    # 10.3: "if and only if the requested expiration interval is greater than zero AND smaller than one hour AND less
    # than a registrar-configured minimum".
    if 0 < requested < min(3600, limits.min_expires):
        raise SIPError(423, headers=[("Min-Expires", str(limits.min_expires))], rule="10.3-30")
    return min(requested, limits.max_expires)


def _changes(registration: Registration, now: float, limits: Limits) -> list[tuple[URI, Binding | None]]:
    """Return the URIs of *registration*, each with its new binding or None to remove it.

    A contact that the request names again does not count: the bindings of 10.3 step 7 are those before the request,
    so there is no order among its contacts but that the last word is the client's will.
    """
    changes: list[tuple[URI, Binding | None]] = []
    for contact in registration.contacts:
        interval = _granted(contact, registration, limits)
        uri = contact.uri
        changes = [change for change in changes if not uri.equivalent(change[0])]
        changes.append((uri, _binding(contact, registration, now + interval) if interval else None))
    return changes


def _binding(contact: Contact, registration: Registration, expires_at: float) -> Binding:
    parameters = ""
    for name, value in contact.parameters.items():
        if name not in ("q", "expires"):
            parameters += f";{name}" if value is None else f";{name}={value}"
    return Binding(
        contact.uri_text,
        expires_at,
        registration.call_id,
        registration.cseq,
        contact.q,
        contact.display_name,
        parameters,
        registration.path,
    )


def _merge(
    current: tuple[Binding, ...],
    changes: list[tuple[URI, Binding | None]],
    registration: Registration,
) -> tuple[Binding, ...]:
    """Step 7: put each of *changes* in the place of what it is equivalent to in *current*, or at the end."""
    result: list[Binding | None] = list(current)
    uris: list[URI | None] = [None] * len(current)  # each parsed once, and not if it is the same text: a refresh
    for uri, binding in changes:
        replacement = binding
        for position, before in enumerate(current):
            if uri.text != before.uri_text:
                known = uris[position]
                if known is None:
                    known = uris[position] = before.uri
                if not uri.equivalent(known):
                    continue
            _check_order(registration, before, "10.3-36")
            if result[position] is before:  # else another contact of this request has taken the place
                result[position], replacement = replacement, None
        if replacement is not None:
            result.append(replacement)
    return tuple([binding for binding in result if binding is not None])
