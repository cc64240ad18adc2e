"""The seams that a user of the framework may replace, or meets in a handler.

Code that users write may return a value, a `Deferred` or a coroutine. What users are handed always returns a
`Deferred`.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted_sipuas.errors import MessageSyntaxError
    from twisted_sipuas.syntax.message import Request, Response
    from twisted_sipuas.syntax.uri import SIPURI, URI

__all__ = [
    "Address",
    "EndReason",
    "IAuthenticator",
    "IBindingStore",
    "IFlow",
    "ILocationService",
    "ILocationServicePlugin",
    "IMessageReceiver",
    "IRequestSender",
    "IServerTransaction",
    "ITransactionUser",
]


class Address(NamedTuple):
    """A transport address: a numeric `host` (IPv6 without brackets) and a `port`."""

    host: str
    port: int

    @property
    def network(self) -> str:
        """What bounds per source count by: an IPv4 address, or the IPv6 network of 64 bits that a site has at least."""
        if ":" not in self.host:
            return self.host
        return socket.inet_pton(socket.AF_INET6, self.host)[:8].hex(":", 2) + "::"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class EndReason(enum.Enum):
    """Why a server transaction came to its end."""

    ANSWERED = "answered"
    """A final response was sent and, where one is waited for, its ACK came."""
    CANCELLED = "cancelled"
    """A CANCEL, or the end of its dialog, had it answered 487."""
    ACK_TIMEOUT = "ACK timeout"
    """Timer H fired: no ACK came for the final response to an INVITE (17.2.1)."""
    TRANSPORT_FAILED = "transport failed"
    """A response could not be sent (17.2.4)."""
    HANDLER_TIMEOUT = "handler timeout"
    """The transaction user took too long, and the core answered in its place."""
    SHUTDOWN = "shutdown"
    """The service stopped first."""


class IFlow(Interface):
    """What a message came on: a connection, or for UDP a pair of addresses (RFC 5626, 2.1: "flow")."""

    transport = Attribute("The name for a Via: ``UDP``, ``TCP`` or ``TLS``.")
    is_reliable = Attribute("Whether the transport delivers every octet, once and in order, or says that it cannot.")
    local_address = Attribute("Our `Address`: the one that the message came to, where the system tells.")
    advertised_address = Attribute("The `Address` that others are to be told; its host may be a name.")
    remote_address = Attribute("The peer's `Address`, as seen on the packet, the connection or in a PROXY header.")
    peer_certificate = Attribute("The peer's certificate on TLS, if it showed one, else None.")
    peer_identities = Attribute("The SIP domains that this certificate is for, in lower case (RFC 5922, 7.1).")
    closed = Attribute("Whether nothing can be sent any more.")

    def when_closed() -> object:
        """Return a new `Deferred` that fires with None when the connection is gone, at once if it is.

        For UDP, which has none, it never fires. Cancel it when you wait no longer.
        """

    def send(data: bytes) -> None:
        """Send *data*, one whole message; raises `TransportError` if that is impossible."""

    def towards(address: Address, ttl: int | None = None) -> IFlow:
        """Return the flow to *address* by the same socket; a connection leads to its peer alone and returns itself.

        *ttl* is the time to live of datagrams, 0 to 255; by default the system's.
        """


class IMessageReceiver(Interface):
    """Where the transports hand in what they received; `SIPService` is one."""

    def message_received(message: Request | Response, flow: IFlow) -> None:
        """Take *message*, which came on *flow*."""

    def syntax_error_received(error: MessageSyntaxError, flow: IFlow) -> None:
        """Take notice of bytes on *flow* that are no SIP message; `error.request` is what can be refused of them."""

    def sending_failed(octets: bytes, flow: IFlow) -> None:
        """What went out on *flow* did not arrive (18.4): *octets* are its first ones, as the network quotes them."""


class IRequestSender(Interface):
    """What a transaction user sends requests of its own by, within its dialogs; `SIPService` is one."""

    def send_request(request: Request, next_hop: SIPURI, flow: IFlow, is_proven: bool) -> object:
        """Send *request*, no INVITE and no ACK, in a client transaction; its Via is added here (17.1.2, 18.1.1).

        *next_hop* is where it goes first: the top of the route set, or the remote target (8.1.2, 12.2.1.1). *flow* is
        what the peer's latest request came on; *is_proven* says that the peer received what was sent to it, so that
        where it says to send to may be followed even if that is elsewhere.

        Returns a `Deferred` of the final `Response`. It fails with `TransportError` if there is no way to *next_hop*,
        or the transport fails, or no response comes (Timer F).
        """


class IServerTransaction(Interface):
    """One request and its answer (RFC 3261, 17.2), as a transaction user sees it; stateless ones look the same."""

    request = Attribute("The `Request`; None once the final response went out.")
    flow = Attribute("The `IFlow` that the request came on.")
    to_tag = Attribute("The tag that this transaction puts into To (8.2.6.2).")
    is_stateful = Attribute("False for a stateless server (8.2.7).")
    is_merged = Attribute("Whether its request came by another way too, and is in progress there (8.2.2.2).")
    identity = Attribute("Who sent the request, once an `IAuthenticator` said so; else None.")
    dialog = Attribute("The dialog that the request belongs to; kept for the transaction user.")
    cancelled = Attribute("Whether a CANCEL came for it.")
    ended = Attribute("Whether it is over and sends nothing any more.")
    outcome = Attribute(
        "The `EndReason` that `transaction_ended` is told if nothing worse happens, or was; may be set."
    )

    def when_cancelled() -> object:
        """Return a new `Deferred` that fires with None when a CANCEL comes, at once if one did."""

    def respond(response: Response) -> None:
        """Send *response*, provisional or final.

        The transaction resends a final response as long as the RFC asks for it; a 2xx to an INVITE is the transaction
        user's to resend (13.3.1.4). A response after the final one is dropped. Raises `TransportError` never: a
        failure to send ends the transaction (17.2.4).
        """

    def respond_statelessly(response: Response) -> None:
        """Send the final *response* and forget the transaction: nothing is kept, nothing resent (8.2.7).

        For refusals given at once, like a challenge. Only before `request_received` returns; later it is `respond`.
        """


class ITransactionUser(Interface):
    """What decides the answers (RFC 3261, 5: "transaction user").

    An exception from any method is logged once, and answered 500 where an answer is owed.
    """

    def request_received(request: Request, transaction: IServerTransaction) -> object:
        """Answer *request* by way of *transaction*, now or later. No ACK and no CANCEL comes this way."""

    def ack_received(ack: Request, flow: IFlow) -> object:
        """Take an ACK that no transaction absorbed, that is one for a 2xx (13.3.1.4). No answer is owed."""

    def transaction_cancelled(transaction: IServerTransaction) -> object:
        """A CANCEL came for *transaction*, and has been answered; the INVITE is still owed a final response (9.2)."""

    def transaction_ended(transaction: IServerTransaction, reason: EndReason) -> object:
        """*transaction* is over; it will send nothing more."""


class ILocationService(Interface):
    """Where a user can be reached: answers look-ups of a redirect server (RFC 3261, 10.1: "location service").

    One that also provides `IService` is started with ours and stopped last; its method ``reload``, if it has one, is
    called when the operator wants files to be read again. One that sees to the time that a look-up takes itself has
    an attribute ``lookup_timeout``; the look-ups of others are bounded by who asks.
    """

    description = Attribute("One phrase for logs, such as ``sqlite:bindings.db``, without secrets.")

    def lookup(request_uri: URI, request: Request) -> object:
        """Return where *request_uri* can be reached.

        A `Redirection`, or None to ask the next service, or a `Deferred` or coroutine of either. Raising `SIPError` is
        the answer to the request. `UnavailableError`, which is one, says that the service cannot tell now, and any
        other failure answers 500; after these two the next service is asked only if the operator wants that. A service
        that knows by itself that it is down raises the former at once, not by way of a `Deferred`, and is asked again
        the next time. The `Deferred` is cancelled when nobody waits for the answer any longer; what it fires with then,
        if at all, is of no account.
        """


class IBindingStore(ILocationService):
    """A location service that a registrar can write to.

    One that several processes may have at a time, where each finds at once what the others wrote, has a true attribute
    ``is_shared``; ``--workers`` takes no other one.
    """

    def bindings(address_of_record: str) -> object:
        """Return ``(bindings, version)``, or a `Deferred` of it.

        *bindings* is the tuple of current `Binding` objects, *version* an opaque value to hand to `replace`.
        """

    def replace(address_of_record: str, version: object, bindings: Iterable[Any]) -> object:
        """Make *bindings* the bindings of *address_of_record*, all or none, if *version* is still current.

        Returns whether it was, or a `Deferred` of it, which fires only when the change is as durable as this store
        makes it: the 200 to a REGISTER follows. A failure means that nothing changed.
        """


class ILocationServicePlugin(IPlugin):
    """A kind of location service for ``--location KIND[,option=value...]:REST``.

    An object in a module of the package ``twisted.plugins`` that provides it is found by its `kind`; see
    `twisted_sipuas.location.LocationKind`, which makes one that imports your code no earlier than it is asked for.
    """

    kind = Attribute("The word that the text begins with; lower-case letters and digits.")
    help = Attribute("A sentence or two for people: the form of the text, what it is for, and the options of its own.")

    def make(argument: str, options: dict[str, str], reactor: Any) -> ILocationService:
        """Return the `ILocationService` for *argument*, which is REST, not yet started.

        Take out of *options*, names and values, those that you know; what is left is refused as a mistake. Raises
        `ValueError` saying in one line what is wrong and what was expected, without secrets.
        """


class IAuthenticator(Interface):
    """Decides who sent a request (RFC 3261, 22).

    A `UserAgentServer` heeds three attributes that one may have: ``services``, what has to be started with the server;
    ``counters``, a mapping; and ``use_clock(clock)``, which is called with what gives the time.
    """

    def authenticate(request: Request, transaction: IServerTransaction) -> object:
        """Return the identity of who sent *request*, or a `Deferred` of it; raises the challenge as a `SIPError`.

        A 401 that is raised before this returns, or by a coroutine that has not waited, is sent statelessly (8.2.7).
        """
