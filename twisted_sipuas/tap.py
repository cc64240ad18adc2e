"""``twistd sipuas``: from the command line to a running service."""

from __future__ import annotations

import importlib.metadata
import ipaddress
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from twisted_sipuas import __version__
from twisted_sipuas.errors import StartError
from twisted_sipuas.interfaces import IBindingStore, ILocationService
from twisted_sipuas.location import location_service
from twisted_sipuas.location.binding import Limits
from twisted_sipuas.service import SIPService
from twisted_sipuas.syntax.uri import canonical_domain
from twisted_sipuas.transport.limits import TransportLimits
from twisted_sipuas.transport.listen import DatagramListen, SecureListen, parse_advertised, parse_listen
from twisted_sipuas.transport.routing import Trust
from twisted_sipuas.uas.redirect import RedirectServer
from twisted_sipuas.uas.registrar import Registrar

__all__ = ["Options", "makeService"]

_log = Logger()

_ACCEPTED_AT_ONCE = 200  # connections that a listener accepts before those that are too many are closed again
_OTHER_FILES = 100  # descriptors that are no connection: listeners, database, log, event queue

_DEFAULT_LOCATION = "sqlite:sipuas.sqlite"
_STATUSES = {"300": 300, "301": 301, "302": 302, "auto": None}


def _at_least(least: int, option: str) -> Callable[[str], int]:
    """Return what reads a whole number for *option*, and raises `ValueError` naming it for anything else."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:10]) == int(text[:11])):
            raise ValueError(f"--{option}: {text!r}: expected a whole number from {least}")
        return int(text)

    return number


def _number(option: str, default: int, least: int, meaning: str) -> list[Any]:
    return [option, None, default, meaning, _at_least(least, option)]


class Options(usage.Options):
    """The options of ``twistd sipuas``."""

    synopsis = "[options]"
    longdesc = (
        "A SIP redirect server with a registrar: it answers a call with where to go instead (RFC 3261, 8.3), and "
        "learns that from REGISTER (10.3)."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["mode", None, "redirect", "What answers: redirect."],
        ["redirect-status", None, "302", "300, 301, 302, or auto: 302 for one target, 300 for several."],
        _number("max-targets", 10, 1, "Contacts in one 3xx, highest q first."),
        _number("min-expires", 60, 0, "Shortest registration, in seconds; shorter gets 423."),
        _number("max-expires", 86400, 1, "Longest registration, in seconds; longer is shortened."),
        _number("default-expires", 3600, 1, "Registration that asks for no time, in seconds."),
        _number("max-contacts", 100, 1, "Contacts of one address-of-record."),
        _number("max-transactions", 100000, 1, "Transactions owed an answer or ACK; more get 503."),
        _number("max-connections", 10000, 1, "Connections; more are refused."),
        _number("max-connections-per-source", 1000, 1, "Connections of one address (IPv6: /64); more are refused."),
        _number("idle-timeout", 300, 32, "Seconds that a connection may be idle."),
        _number("message-timeout", 32, 1, "Seconds for a message to arrive whole, and for a peer to read its answers."),
        _number("max-message", 65535, 1000, "Octets of one message; longer gets 513."),
        _number("max-header", 32768, 1000, "Octets of a header section; longer gets 513."),
        ["advertise", None, None, "HOST[:PORT] that others are told of a listener that does not say itself."],
        [
            "tls-client-ca",
            None,
            None,
            "PEM file of CAs: who connects to ssl: must show a certificate of one.",
        ],
        ["server-header", None, f"twisted-sipuas/{__version__}", "The Server header field; empty for none."],
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        ["registrar", None, "Take REGISTER [default: if a location service can store]."],
        ["no-registrar", None, "Refuse REGISTER with 405."],
        ["allow-anonymous-registration", None, "Let anybody who can reach the server REGISTER."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["location"] = []
        self["domain"] = []
        self["trust"] = []
        self.locations: list[ILocationService] = []
        self.registrar: Registrar | None = None

    def parseArgs(self, *arguments: str) -> None:
        """There is nothing but options."""
        if arguments:
            raise usage.UsageError(f"{arguments[0]!r}: expected options only")

    def opt_listen(self, description: str) -> None:
        """Where to listen: udp:PORT or udp:PORT:interface=ADDRESS, with TCP beside it unless it says :tcp=no;
        udp:fd=NUMBER, an inherited socket; ssl:PORT:privateKey=FILE:certKey=FILE, TLS; or any other Twisted server
        endpoint, such as tcp:5060. With :advertise=HOST[:PORT] others are told that. May be given again and again.
        [default: udp:5060:interface=127.0.0.1]"""
        try:
            parse_listen(description)
        except ValueError as error:
            raise usage.UsageError(f"--listen: {error}") from None
        self["listen"].append(description)

    def opt_location(self, description: str) -> None:
        """A location service: memory: or sqlite:FILE. May be given again and again; they are asked in order.
        [default: sqlite:sipuas.sqlite]"""
        self["location"].append(description)

    def opt_domain(self, name: str) -> None:
        """A domain to answer for, besides the server's own addresses; others get 404. May be given again and again.
        [default: any]"""
        try:
            canonical_domain(name)
        except ValueError as error:
            raise usage.UsageError(f"--domain: {error}") from None
        self["domain"].append(name)

    def opt_trust(self, network: str) -> None:
        """A network, such as 192.0.2.0/24, whose hosts may have responses sent to others by maddr and DNS, as RFC 3261
        lets anybody. May be given again and again.
        [default: none]"""
        try:
            Trust([network])
        except ValueError:
            raise usage.UsageError(f"--trust: {network!r}: expected a network such as 192.0.2.0/24") from None
        self["trust"].append(network)

    def opt_version(self) -> None:
        """Print the versions of twisted-sipuas and of Twisted, and exit."""
        sys.stdout.write(f"twisted-sipuas {__version__} (Twisted {importlib.metadata.version('twisted')})\n")
        sys.exit(0)

    def postOptions(self) -> None:
        """Fill in defaults, and refuse what does not go together."""
        self["listen"] = self["listen"] or ["udp"]
        self["location"] = self["location"] or [_DEFAULT_LOCATION]
        if self["mode"] != "redirect":
            raise usage.UsageError(f"--mode: {self['mode']!r} is unknown: expected redirect")
        if self["redirect-status"] not in _STATUSES:
            raise usage.UsageError(f"--redirect-status: {self['redirect-status']!r}: expected {', '.join(_STATUSES)}")
        if self["registrar"] and self["no-registrar"]:
            raise usage.UsageError("--registrar and --no-registrar: expected one of them")
        if self["min-expires"] > self["max-expires"]:
            raise usage.UsageError("--min-expires: expected no more than --max-expires")
        if any(character in self["server-header"] for character in "\r\n\0"):
            raise usage.UsageError("--server-header: expected one line")
        self._check_transports()
        self.locations = self._make_locations()
        self.registrar = self._make_registrar()

    def _check_transports(self) -> None:
        """Refuse what could not be advertised, and certificates of clients that nobody asks for."""
        try:
            if self["advertise"] is not None:
                parse_advertised(self["advertise"])
        except ValueError as error:
            raise usage.UsageError(f"--advertise: {error}") from None
        secure = any(isinstance(parse_listen(text), SecureListen) for text in self["listen"])
        if self["tls-client-ca"] is not None and not secure:
            raise usage.UsageError("--tls-client-ca: expected a --listen ssl:PORT:privateKey=FILE:certKey=FILE with it")

    def _make_locations(self) -> list[ILocationService]:
        from twisted.internet import reactor  # twistd has installed the one that its own options name

        for text in self["location"]:
            if self["location"].count(text) > 1:
                raise usage.UsageError(f"--location: {text!r} is given twice: expected each once")
        try:
            return [location_service(text, reactor) for text in self["location"]]
        except ValueError as error:
            raise usage.UsageError(f"--location: {error}") from None

    def _make_registrar(self) -> Registrar | None:
        """Return the registrar on the first location service that can store, or None."""
        if self["no-registrar"]:
            return None
        stores = [location for location in self.locations if IBindingStore.providedBy(location)]
        if not stores:
            if self["registrar"]:
                raise usage.UsageError("--registrar: expected a --location that can store: memory: or sqlite:FILE")
            return None
        exposed = [text for text in self["listen"] if not _is_loopback(text)]
        if exposed and not self["allow-anonymous-registration"]:
            raise usage.UsageError(
                f"--listen: {exposed[0]!r} can be reached by others, who could register as anybody: expected a "
                "loopback address, --no-registrar, or --allow-anonymous-registration"
            )
        limits = Limits(
            min_expires=self["min-expires"],
            max_expires=self["max-expires"],
            default_expires=self["default-expires"],
            max_contacts=self["max-contacts"],
        )
        return Registrar(stores[0], domains=self["domain"], limits=limits)


def makeService(options: Options) -> IService:
    """Return the service that *options* describe."""
    from twisted.internet import reactor

    server = RedirectServer(
        options.locations,
        registrar=options.registrar,
        domains=options["domain"],
        redirect_status=_STATUSES[options["redirect-status"]],
        max_targets=options["max-targets"],
    )
    service = SIPService(
        reactor,
        server,
        options["listen"],
        server_header=options["server-header"] or None,
        max_transactions=options["max-transactions"],
        limits=TransportLimits(
            max_message=options["max-message"],
            max_header=options["max-header"],
            max_connections=_fitting_connections(options["max-connections"], len(options["listen"])),
            max_connections_per_source=options["max-connections-per-source"],
            message_timeout=options["message-timeout"],
            idle_timeout=options["idle-timeout"],
        ),
        advertise=options["advertise"],
        trust=options["trust"],
        tls_client_ca=options["tls-client-ca"],
    )
    _explain_start_errors(service, reactor)
    _heed_signals(service, reactor)
    return service


def _fitting_connections(wanted: int, listeners: int) -> int:
    """Raise the limit of open files so that *wanted* connections fit; return how many do, and log if they are fewer."""
    others = _OTHER_FILES + listeners * _ACCEPTED_AT_ONCE
    needed = wanted + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            fitting = max(1, soft - others)
            _log.warn("--max-connections: {fitting}, as this process may open {soft} files", fitting=fitting, soft=soft)
            return fitting
    return wanted


def _is_loopback(description: str) -> bool:
    """Whether only this machine can reach the listener; what cannot be told counts as public."""
    listen = parse_listen(description)
    if isinstance(listen, DatagramListen):
        return listen.descriptor is None and ipaddress.ip_address(listen.interface).is_loopback
    if isinstance(listen, SecureListen):
        return bool(listen.interface) and ipaddress.ip_address(listen.interface).is_loopback
    kind, *parts = listen.description.split(":", 1)
    if kind != "tcp":
        return False
    interface = parts[0].replace("\\", "").partition("interface=")[2]
    host = interface if interface.count(":") > 1 and not interface.startswith("[") else interface.split(":")[0]
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _heed_signals(service: SIPService, reactor: Any) -> None:
    """Have SIGHUP reload, which would end the process otherwise, and a second SIGINT or SIGTERM hasten the stop."""

    def have(call: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        return lambda number, frame: reactor.callFromThread(call)

    def stopping() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, have(service.hasten_stop))

    signal.signal(signal.SIGHUP, have(service.reload))
    reactor.addSystemEventTrigger("before", "shutdown", stopping)


def _explain_start_errors(service: SIPService, reactor: Any) -> None:
    """Have a `StartError` of *service* end the process with its one line, no traceback, and exit status 1.

    It has to leave `privilegedStartService` as an ordinary exception: twistd then removes its pid file and, when
    daemonising, tells the parent process, which waits for it. Of the text twistd passes on 100 octets; so we keep the
    terminal until the service has started, and write the line ourselves. A daemon has it in its log too. An endpoint
    that fails later, once the reactor runs, stops it.
    """
    earlier = sys.excepthook
    terminal = os.dup(2)

    def started(_: object) -> None:
        os.close(terminal)
        sys.excepthook = earlier

    def failed(failure: Failure) -> None:
        os.write(terminal, f"sipuas: {failure.getErrorMessage()}\n".encode(errors="backslashreplace"))
        started(None)
        reactor.stop()

    service.when_listening().addCallbacks(started, failed)

    def explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, StartError):
            earlier(kind, error, traceback)
            return
        os.write(terminal, f"sipuas: {error}\n".encode(errors="backslashreplace"))
        if not os.path.samestat(os.fstat(terminal), os.fstat(2)):
            _log.critical("{error}", error=error)

    sys.excepthook = explain
