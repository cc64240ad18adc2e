"""`Invitation`: an INVITE as its handler meets it; what is answered there makes the dialog (12.1.1, 13.3.1)."""

from __future__ import annotations

from typing import ClassVar, Protocol, cast

from twisted.internet.defer import Deferred
from zope.interface import implementer

from twisted_sipuas.interfaces import EndReason, IFlow, IServerTransaction
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.fields import Contact
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.uri import SIPURI
from twisted_sipuas.transaction.queues import Timed
from twisted_sipuas.uas.dialog import Dialog, DialogState, contact_uri, needs_sips
from twisted_sipuas.uas.session import Session, Sessions

__all__ = ["Invitation"]

_log = Logger()


class _Server(Protocol):
    """What a 2xx tells of the server (13.3.1.4)."""

    @property
    def allow(self) -> tuple[str, ...]:
        """The methods that are served."""

    @property
    def supported_tags(self) -> frozenset[str]:
        """The option tags that are supported."""

    def handler_name(self, method: str) -> str:
        """Return what logs call the handler of *method*."""


@implementer(IServerTransaction)
class Invitation(Timed):
    """An `IServerTransaction` whose responses make, confirm and end the dialog of an INVITE.

    A response of 101 to 299 gets what 12.1.1 asks for, where it lacks it: Record-Route, Contact, and a 2xx Allow and
    Supported. The 2xx is resent until its ACK comes. While no final response was given, the last provisional one is
    sent again every minute (13.3.1.1), 183 if there was none.

    *transaction* is the one of the layer, in which `dialog` is set already if the INVITE is in one.
    """

    __slots__ = ("_calls", "_is_admitted", "_is_reserved", "_provisional", "_server", "_transaction")

    reminder_interval: ClassVar[float] = 60.0
    """Seconds between provisional responses (13.3.1.1)."""

    def __init__(self, transaction: IServerTransaction, calls: Sessions, server: _Server) -> None:
        super().__init__()
        self._transaction = transaction
        self._calls = calls
        self._server = server
        self._provisional: Response | None = None
        self._is_admitted = False
        self._is_reserved = False

    # What the layer's transaction has

    @property
    def request(self) -> Request | None:
        """See `IServerTransaction`."""
        request: Request | None = self._transaction.request
        return request

    @property
    def flow(self) -> IFlow:
        """See `IServerTransaction`."""
        flow: IFlow = self._transaction.flow
        return flow

    @property
    def to_tag(self) -> str:
        """See `IServerTransaction`."""
        tag: str = self._transaction.to_tag
        return tag

    @property
    def is_stateful(self) -> bool:
        """See `IServerTransaction`."""
        return bool(self._transaction.is_stateful)

    @property
    def is_merged(self) -> bool:
        """See `IServerTransaction`."""
        return bool(self._transaction.is_merged)

    @property
    def identity(self) -> object:
        """See `IServerTransaction`."""
        return self._transaction.identity

    @identity.setter
    def identity(self, identity: object) -> None:
        self._transaction.identity = identity

    @property
    def dialog(self) -> Dialog | None:
        """The `Dialog` that the INVITE is in, or has made by a response of 101 to 299; else None."""
        dialog: Dialog | None = self._transaction.dialog
        return dialog

    @property
    def cancelled(self) -> bool:
        """See `IServerTransaction`."""
        return bool(self._transaction.cancelled)

    @property
    def ended(self) -> bool:
        """See `IServerTransaction`."""
        return bool(self._transaction.ended)

    @property
    def outcome(self) -> EndReason:
        """See `IServerTransaction`."""
        outcome: EndReason = self._transaction.outcome
        return outcome

    @outcome.setter
    def outcome(self, outcome: EndReason) -> None:
        self._transaction.outcome = outcome

    def when_cancelled(self) -> Deferred[None]:
        """See `IServerTransaction`."""
        return cast("Deferred[None]", self._transaction.when_cancelled())

    def respond_statelessly(self, response: Response) -> None:
        """See `IServerTransaction`; for refusals only, and `ValueError` says so: no call can be taken so (8.2.7)."""
        if response.status < 300:
            raise ValueError(f"a {response.status} to an INVITE is sent by respond(): this is for refusals")
        self._transaction.respond_statelessly(response)
        self.close()

    # What an INVITE has besides

    def respond(self, response: Response) -> None:
        """See `IServerTransaction`.

        Raises `ValueError` for a 2xx without a server transaction (8.2.7), for a Contact that is no SIP URI, and for
        one that is not SIPS where it has to be (12.1.1). Then nothing was sent.
        """
        request, status = self.request, response.status
        if request is None and 200 <= status < 300:
            self._drop(response)
        elif request is not None and 100 < status < 300:
            self._make_dialog(response, request)
        else:
            self._transaction.respond(response)
            if self.request is None:  # that was final, or could not be sent
                self.close()

    def take_place(self) -> None:
        """The INVITE has passed every check: it is the one that is pending in its dialog, or may become a call."""
        self._is_admitted = True
        session = self._session
        if session is None:
            self._is_reserved = True
            self._calls.reserved += 1
        else:
            session.invitation = self._transaction

    def start_reminding(self) -> None:
        """Let the caller hear of the call every minute from now on, until it is answered (13.3.1.1)."""
        if self.request is not None and self.is_stateful:
            self.stop_waiting()
            self._calls.queue(self.reminder_interval).append(self)

    def timed_out(self) -> None:
        """A minute has passed since the last provisional response."""
        request = self.request
        if request is not None and self._is_admitted:  # before that it may not make a dialog
            self.respond(self._provisional or request.response(183, rule="13.3.1.1-4"))
        self.start_reminding()

    def close(self) -> None:
        """The INVITE has its final response, or will have none: a dialog that is early still is none (12.3)."""
        self.stop_waiting()
        self._give_up_place()
        session = self._session
        if session is not None and session.invitation is self._transaction:
            session.invitation = None
            if session.dialog.state is DialogState.EARLY:
                session.terminate(None)

    def _make_dialog(self, response: Response, request: Request) -> None:
        """Send *response*, of 101 to 299, and have the dialog that it makes (12.1.1)."""
        is_final = response.status >= 200
        if not self.is_stateful:
            if is_final:
                raise ValueError("a stateless server cannot take a call: nobody would resend the 2xx (8.2.7)")
            return
        response = self._completed(response, request)
        is_waiting = self._queue is not None
        self._transaction.respond(response)
        if self._transaction.ended:  # it could not be sent, and who called has no dialog (17.2.4)
            self.close()
            return
        if is_final:
            self.stop_waiting()
        else:
            self._provisional = response
            if is_waiting:
                self.start_reminding()
        session = self._session
        if session is None:
            session = self._calls.begin(request, self._transaction)
            self._transaction.dialog = session.dialog
            self._give_up_place()
        if is_final:
            session.accepted(response, request, self._transaction)

    def _drop(self, response: Response) -> None:
        """Take note of a 2xx after the final response, which the transaction would send (RFC 6026, 7.1).

        The one that the caller has is the one that is resent, by us and not by the handler (13.3.1.4).
        """
        if self.outcome is EndReason.ANSWERED:
            self._calls.acceptance_dropped()
            _log.error(
                "{handler} sent {status} after the final response; it was dropped",
                handler=self._server.handler_name("INVITE"),
                status=response.status,
            )

    def _completed(self, response: Response, request: Request) -> Response:
        """Return *response* with what 12.1.1 and 13.3.1.4 ask for."""
        dialog, headers = self.dialog, response.headers
        rows: list[tuple[str, str]] = []
        if (dialog is None or dialog.state is DialogState.EARLY) and "Record-Route" not in headers:
            rows += [("Record-Route", value) for value in request.headers.get_all("Record-Route")]
        if "Contact" in headers:
            _check_contacts(headers.values("Contact"), needs_sips(request))
        else:
            rows.append(("Contact", f"<{contact_uri(request, self.flow)}>"))
        if response.status >= 200:
            if "Allow" not in headers:
                rows.append(("Allow", ", ".join(self._server.allow)))
            if "Supported" not in headers:
                rows.append(("Supported", ", ".join(sorted(self._server.supported_tags))))
        return response.with_headers(rows)

    @property
    def _session(self) -> Session | None:
        dialog = self.dialog
        return None if dialog is None else self._calls.session_of(dialog)

    def _give_up_place(self) -> None:
        if self._is_reserved:
            self._is_reserved = False
            self._calls.reserved -= 1
            self._calls.check_idle()


def _check_contacts(contacts: list[str], sips: bool) -> None:
    """Raise `ValueError` unless *contacts* are SIP URIs, and SIPS where *sips* says so (12.1.1)."""
    for contact in contacts:
        uri = Contact(contact).uri
        if not isinstance(uri, SIPURI) or (sips and uri.scheme != "sips"):
            raise ValueError(f"the Contact of a response that makes a dialog is a {'SIPS' if sips else 'SIP'} URI")
