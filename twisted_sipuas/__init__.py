"""The programmable SIP user agent server for Twisted (RFC 3261)."""

from __future__ import annotations

from twisted_sipuas.auth import DigestAuthenticator, DigestCredentials
from twisted_sipuas.errors import MessageSyntaxError, SIPError, StartError, TransportError, UnavailableError
from twisted_sipuas.interfaces import (
    Address,
    EndReason,
    IAuthenticator,
    IBindingStore,
    IFlow,
    ILocationService,
    ILocationServicePlugin,
    IMessageReceiver,
    IRequestSender,
    IServerTransaction,
    ITransactionUser,
)
from twisted_sipuas.location import (
    Binding,
    GuardedLocationService,
    Limits,
    LocationKind,
    MemoryBindingStore,
    Redirection,
    SQLiteBindingStore,
    Target,
    location_service,
)
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.fields import CSeq, NameAddr, Via
from twisted_sipuas.syntax.headers import Headers
from twisted_sipuas.syntax.message import Request, Response
from twisted_sipuas.syntax.parsing import parse_message
from twisted_sipuas.syntax.uri import SIPURI, URI, TelURI
from twisted_sipuas.transaction.admission import Protection
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.stream import SIPStreamFactory
from twisted_sipuas.transport.udp import SIPDatagramProtocol
from twisted_sipuas.uas.dialog import Dialog, DialogEnd, DialogState
from twisted_sipuas.uas.redirect import RedirectServer
from twisted_sipuas.uas.registrar import Registrar
from twisted_sipuas.uas.server import UserAgentServer

__version__ = "0.1.0.dev0"

__all__ = [
    "SIPURI",
    "URI",
    "Address",
    "Binding",
    "CSeq",
    "Dialog",
    "DialogEnd",
    "DialogState",
    "DigestAuthenticator",
    "DigestCredentials",
    "EndReason",
    "GuardedLocationService",
    "Headers",
    "IAuthenticator",
    "IBindingStore",
    "IFlow",
    "ILocationService",
    "ILocationServicePlugin",
    "IMessageReceiver",
    "IRequestSender",
    "IServerTransaction",
    "ITransactionUser",
    "Limits",
    "LocationKind",
    "MemoryBindingStore",
    "MessageSyntaxError",
    "NameAddr",
    "Protection",
    "RedirectServer",
    "Redirection",
    "Registrar",
    "Request",
    "Response",
    "SIPDatagramProtocol",
    "SIPError",
    "SIPService",
    "SIPStreamFactory",
    "SQLiteBindingStore",
    "StartError",
    "Target",
    "TelURI",
    "TransportError",
    "TransportLimits",
    "UnavailableError",
    "UserAgentServer",
    "Via",
    "location_service",
    "parse_message",
]
