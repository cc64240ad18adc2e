"""What address does a From, To, Contact, Route and their like hold, as a typed value? One class for each header field.

`Contact` is in `twisted_sipuas.syntax.fields`, beside what all of these have in common.
"""

from __future__ import annotations

from twisted_sipuas.errors import MessageSyntaxError
from twisted_sipuas.syntax.fields import Contact, FieldValue, NameAddr

__all__ = [
    "Contact",
    "From",
    "PAssertedIdentity",
    "Path",
    "RecordRoute",
    "ReferTo",
    "ReferredBy",
    "ReplyTo",
    "Route",
    "ServiceRoute",
    "To",
]


class From(NameAddr, FieldValue):
    """Who sent the request, with the tag of that side (20.20)."""

    __slots__ = ()
    field = "From"


class To(NameAddr, FieldValue):
    """Whom the request is for, with the tag of that side once there is a dialog (20.39)."""

    __slots__ = ()
    field = "To"


class ReplyTo(NameAddr, FieldValue):
    """Where an answer is wanted, if not at From (20.31)."""

    __slots__ = ()
    field = "Reply-To"


class ReferTo(NameAddr, FieldValue):
    """What the recipient of a REFER is to contact (RFC 3515, 2.1)."""

    __slots__ = ()
    field = "Refer-To"


class ReferredBy(NameAddr, FieldValue):
    """Who asked for a request by a REFER (RFC 3892, 3)."""

    __slots__ = ()
    field = "Referred-By"


class PAssertedIdentity(NameAddr, FieldValue):
    """Who a trusted network says sent the message (RFC 3325, 9.1)."""

    __slots__ = ()
    field = "P-Asserted-Identity"
    is_list = True


class _Hop(NameAddr, FieldValue):
    """One element that messages pass through; the grammar has a name-addr only, never a bare URI (25.1 route-param).

    Without angle brackets the ``lr`` of ``sip:h;lr`` could be read as the URI's or as the header field's.
    """

    __slots__ = ()
    is_list = True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if ">" not in text:
            raise MessageSyntaxError("Malformed address")


class Route(_Hop):
    """A proxy that the request still has to visit (20.34)."""

    __slots__ = ()
    field = "Route"


class RecordRoute(_Hop):
    """A proxy that stays in the path of the dialog (20.30)."""

    __slots__ = ()
    field = "Record-Route"


class Path(_Hop):
    """A proxy between a registrar and a registered contact (RFC 3327, 4)."""

    __slots__ = ()
    field = "Path"


class ServiceRoute(_Hop):
    """A proxy to visit for the services of a registrar's domain (RFC 3608, 5)."""

    __slots__ = ()
    field = "Service-Route"
