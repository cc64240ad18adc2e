"""The options of ``twistd sipuas``: what is said on the command line, checked, and made into what it stands for."""

from __future__ import annotations

import getopt
import importlib.metadata
import ipaddress
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from twisted.python import usage

from twisted_sipuas import __version__
from twisted_sipuas.auth.options import AuthenticationOptions
from twisted_sipuas.interfaces import IBindingStore, ILocationService, ITransactionUser
from twisted_sipuas.loading import load, make
from twisted_sipuas.location import location_kinds, location_service
from twisted_sipuas.location.binding import Limits
from twisted_sipuas.location.kinds import without_secrets
from twisted_sipuas.option_help import completions, filled, usage_text, words_completer
from twisted_sipuas.option_values import seconds, whole_number
from twisted_sipuas.syntax.uri import canonical_domain
from twisted_sipuas.transport.listen import DatagramListen, SecureListen, parse_advertised, parse_listen
from twisted_sipuas.transport.networks import AccessList
from twisted_sipuas.transport.routing import Trust
from twisted_sipuas.uas.answering import AnsweringServer
from twisted_sipuas.uas.redirect import RedirectServer
from twisted_sipuas.uas.registrar import Registrar
from twisted_sipuas.uas.server import UserAgentServer

__all__ = ["Options"]

_DEFAULT_LOCATION = "sqlite:sipuas.sqlite"
_STATUSES = {"300": 300, "301": 301, "302": 302, "auto": None}
_ANSWERS = {"stateful": 200, "stateless": 480}

_REDIRECT = ("redirect",)
_STATEFUL = ("stateful",)
_BOTH = ("stateful", "stateless")
_MODES = {
    "location": _REDIRECT,
    "registrar": _REDIRECT,
    "no-registrar": _REDIRECT,
    "allow-anonymous-registration": (*_REDIRECT, *_STATEFUL),
    "redirect-status": _REDIRECT,
    "max-targets": _REDIRECT,
    "lookup-timeout": _REDIRECT,
    "on-lookup-failure": _REDIRECT,
    "min-expires": _REDIRECT,
    "max-expires": _REDIRECT,
    "default-expires": _REDIRECT,
    "max-contacts": _REDIRECT,
    "handler": _BOTH,
    "answer": _BOTH,
    "max-dialogs": _STATEFUL,
    "max-call-time": _STATEFUL,
}
"""The modes that an option is for, where it is not for all of them."""


def _at_least(least: int, option: str) -> Callable[[str], int]:
    """Return what reads a whole number for *option*, and raises `usage.UsageError` naming it for anything else."""

    def number(text: str) -> int:
        try:
            return whole_number(text, least)
        except ValueError as error:
            raise usage.UsageError(f"--{option}: {text!r}: {error}") from None

    return number


def _seconds(option: str, may_be_zero: bool = False) -> Callable[[str], float]:
    """Return what reads a number of seconds for *option*, and raises `usage.UsageError` naming it for anything else."""

    def number(text: str) -> float:
        try:
            return seconds(text, may_be_zero=may_be_zero)
        except ValueError as error:
            raise usage.UsageError(f"--{option}: {text!r}: {error}") from None

    return number


def _number(option: str, default: int, least: int, meaning: str) -> list[Any]:
    return [option, None, default, meaning, _at_least(least, option)]


class Options(AuthenticationOptions):
    """The options of ``twistd sipuas``.

    *arguments* is the command line as it was given, and *key* the secret of what has to be the same in every worker.
    """

    synopsis = "[options]"
    longdesc = (
        "A SIP server. In redirect mode it answers a call with where to go instead (RFC 3261, 8.3), and learns that "
        "from REGISTER (10.3). In stateful mode (8.2) and stateless mode (8.2.7) it answers with one status, or "
        "with what a class of yours says."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["mode", None, "redirect", "What answers: redirect, stateful or stateless."],
        ["redirect-status", None, "302", "(redirect) 300, 301, 302, or auto: 302 for one target, 300 for several."],
        _number("max-targets", 10, 1, "(redirect) Contacts in one 3xx, highest q first."),
        [
            "lookup-timeout",
            None,
            2.0,
            "(redirect) Seconds that a look-up may take; then the answer is 504.",
            _seconds("lookup-timeout"),
        ],
        [
            "on-lookup-failure",
            None,
            "answer",
            "(redirect) answer: with 503, 504 or 500; next: ask the next location service.",
        ],
        _number("min-expires", 60, 0, "(redirect) Shortest registration, in seconds; shorter gets 423."),
        _number("max-expires", 86400, 1, "(redirect) Longest registration, in seconds; longer is shortened."),
        _number("default-expires", 3600, 1, "(redirect) Registration that asks for no time, in seconds."),
        _number("max-contacts", 100, 1, "(redirect) Contacts of one address-of-record."),
        [
            "answer",
            None,
            None,
            "(stateful, stateless) Status for every INVITE; 200 takes the call, without media. "
            "[default: 200 stateful, 480 stateless]",
        ],
        _number("max-dialogs", 10000, 1, "(stateful) Calls at a time; more get 503."),
        _number("max-call-time", 7200, 1, "(stateful) Seconds that a call may last; then it is ended by BYE."),
        _number(
            "workers", 1, 1, "(redirect, stateless) Processes that share the listeners; each has the bounds below."
        ),
        _number("max-transactions", 100000, 1, "Transactions owed an answer or ACK; more get 503."),
        _number("max-rate", 1000, 0, "New requests a second of one address (IPv6: /64) that are answered; 0: any."),
        _number("rate-burst", 2000, 1, "How many of them may come at once."),
        ["over-rate", None, "503", "What answers those beyond: 503 or silence."],
        [
            "max-lag",
            None,
            0.2,
            "Seconds of delay at which a share of new requests gets 503, until there is less; 0: any.",
            _seconds("max-lag", may_be_zero=True),
        ],
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
        ["registrar", None, "(redirect) Take REGISTER [default: if a location service can store]."],
        ["no-registrar", None, "(redirect) Refuse REGISTER with 405."],
        ["allow-anonymous-registration", None, "(redirect, stateful) Let anybody who can reach the server REGISTER."],
        ["trace", None, "Log a line for each answer: what came, what was answered, and by which rule."],
    ]
    compData = completions()
    compData.optActions["location"] = lambda: words_completer(f"{kind.kind}:" for kind in location_kinds())

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["location"] = []
        self["domain"] = []
        self["trust"] = []
        self["allow"] = []
        self["deny"] = []
        self.locations: list[ILocationService] = []
        self.registrar: Registrar | None = None
        self.transaction_user: Any = None
        self._handler: type | None = None
        self.arguments: list[str] = []
        self.key = secrets.token_bytes(32)
        self._given: frozenset[str] = frozenset()

    def getSynopsis(self) -> str:
        """See `usage.Options`; ``sipuas`` is a command of its own."""
        is_command = os.path.basename(sys.argv[0]) == "sipuas"
        return f"Usage: sipuas {self.synopsis}" if is_command else super().getSynopsis()

    def getUsage(self, width: int | None = None) -> str:
        """See `usage.Options`; here the options are in groups."""
        return usage_text(self.longdesc, self, width)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """See `usage.Options`; notes which options were given, for one of another mode is a mistake at any value."""
        self.arguments = list(sys.argv[1:] if options is None else options)
        try:
            given, _ = getopt.getopt(self.arguments, self.shortOpt, self.longOpt)
        except getopt.GetoptError:
            given = []  # which is told in the next line
        self._given = frozenset(name.lstrip("-") for name, _ in given)
        super().parseOptions(self.arguments)

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
        """(redirect) A location service, KIND[,option=value...]:REST, such as sqlite:FILE. Each kind has the options
        timeout, the seconds that a look-up may take, and cache, the seconds that an answer is kept. May be given again
        and again; they are asked in order.
        [default: sqlite:sipuas.sqlite]"""
        self["location"].append(description)

    def opt_help_location(self) -> None:
        """List the kinds of location service, their form and options, and exit."""
        for kind in location_kinds():
            sys.stdout.write(filled(kind.help) + "\n")
        sys.exit(0)

    def opt_handler(self, name: str) -> None:
        """(stateful, stateless) PACKAGE.MODULE.CLASS, a class of yours that answers: a UserAgentServer or any other
        ITransactionUser. It is looked for in the current directory too.
        [default: what --answer says]"""
        try:
            self._handler = load(name)
        except ValueError as error:
            raise usage.UsageError(f"--handler: {error}") from None
        self["handler"] = name

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
        lets anybody, and may ask for any number. May be given again and again.
        [default: none]"""
        try:
            Trust([network])
        except ValueError as error:
            raise usage.UsageError(f"--trust: {error}") from None
        self["trust"].append(network)

    def opt_allow(self, network: str) -> None:
        """A network, such as 192.0.2.0/24, whose hosts may send to this server; hosts in none of those given may not.
        Or @FILE, which has one a line and is read again on SIGHUP. May be given again and again.
        [default: all]"""
        self._add_network("allow", network)

    def opt_deny(self, network: str) -> None:
        """A network, or @FILE of them, whose hosts may not send to this server: datagrams are dropped, connections
        closed. Of networks in --allow and --deny the most specific decides, and --deny if both name it. May be given
        again and again.
        [default: none]"""
        self._add_network("deny", network)

    def _add_network(self, option: str, network: str) -> None:
        try:
            AccessList([network])
        except ValueError as error:
            raise usage.UsageError(f"--{option}: {error}") from None
        self[option].append(network)

    def opt_version(self) -> None:
        """Print the versions of twisted-sipuas and of Twisted, and exit."""
        sys.stdout.write(f"twisted-sipuas {__version__} (Twisted {importlib.metadata.version('twisted')})\n")
        sys.exit(0)

    def postOptions(self) -> None:
        """Fill in defaults, and refuse what does not go together."""
        self["listen"] = self["listen"] or ["udp"]
        self._check_mode()
        if any(character in self["server-header"] for character in "\r\n\0"):
            raise usage.UsageError("--server-header: expected one line")
        if self["over-rate"] not in ("503", "silence"):
            raise usage.UsageError(f"--over-rate: {self['over-rate']!r}: expected 503 or silence")
        self._check_transports()
        from twisted.internet import reactor  # twistd has installed the one that its own options name

        self.make_authenticator(self._given, self["domain"], reactor, self.key)
        if self["mode"] == "redirect":
            self.transaction_user = self._make_redirect_server()
        else:
            self.transaction_user = self._make_handler()
        self._authenticate(self.transaction_user)
        self._check_registrar(self.transaction_user)
        if self["workers"] > 1:
            self._check_workers()

    def _check_workers(self) -> None:
        """Refuse what one process has to itself."""
        if self["mode"] == "stateful":
            raise usage.UsageError("--workers: expected 1 with --mode stateful, where a dialog is known to one process")
        if sys.platform != "linux":
            raise usage.UsageError("--workers: expected 1 on this system: only Linux shares a UDP port as they need it")
        for text in self["listen"]:
            listen = parse_listen(text)
            if isinstance(listen, DatagramListen) and listen.descriptor is not None:
                raise usage.UsageError(f"--workers: --listen {text} is one socket, and each worker needs its own")
        for text, location in zip(self["location"], self.locations, strict=True):
            if IBindingStore.providedBy(location) and not getattr(location, "is_shared", False):
                raise usage.UsageError(
                    f"--workers: --location {without_secrets(text)} is for one process alone: expected what "
                    f"{self['workers']} can share, such as redis:, postgres:, routes:, enum: or http:"
                )

    def _check_mode(self) -> None:
        """Refuse an unknown mode, and what is for another one."""
        mode = self["mode"]
        if mode not in (*_REDIRECT, *_BOTH):
            raise usage.UsageError(f"--mode: {mode!r} is unknown: expected redirect, stateful or stateless")
        for option in sorted(self._given):
            modes = _MODES.get(option, (mode,))
            if mode not in modes:
                raise usage.UsageError(f"--{option}: expected only with --mode {' or '.join(modes)}, not {mode}")

    def _make_redirect_server(self) -> RedirectServer:
        if self["redirect-status"] not in _STATUSES:
            raise usage.UsageError(f"--redirect-status: {self['redirect-status']!r}: expected {', '.join(_STATUSES)}")
        if self["registrar"] and self["no-registrar"]:
            raise usage.UsageError("--registrar and --no-registrar: expected one of them")
        if self["on-lookup-failure"] not in ("answer", "next"):
            raise usage.UsageError(f"--on-lookup-failure: {self['on-lookup-failure']!r}: expected answer or next")
        if self["min-expires"] > self["max-expires"]:
            raise usage.UsageError("--min-expires: expected no more than --max-expires")
        self["location"] = self["location"] or [_DEFAULT_LOCATION]
        self.locations = self._make_locations()
        self.registrar = self._make_registrar()
        return RedirectServer(
            self.locations,
            registrar=self.registrar,
            domains=self["domain"],
            redirect_status=_STATUSES[self["redirect-status"]],
            max_targets=self["max-targets"],
            lookup_timeout=self["lookup-timeout"],
            asks_next_on_failure=self["on-lookup-failure"] == "next",
        )

    def _make_handler(self) -> Any:
        """Return the transaction user of --handler, or that of --answer."""
        if self._handler is None:
            user: Any = AnsweringServer(self._answer(), domains=self["domain"])
        elif self["answer"] is not None:
            raise usage.UsageError("--answer and --handler: expected one of them")
        else:
            try:
                user = make(self._handler, self)
            except ValueError as error:
                raise usage.UsageError(f"--handler: {error}") from None
            if not ITransactionUser.providedBy(user):
                raise usage.UsageError(f"--handler: {self['handler']}.from_options made no ITransactionUser")
            if isinstance(user, UserAgentServer) and not user.domains:
                user.domains = frozenset(map(canonical_domain, self["domain"]))
        if self["mode"] == "stateless" and getattr(user, "needs_transactions", False):
            raise usage.UsageError(f"--mode: {type(user).__qualname__} cannot be stateless: expected stateful")
        if isinstance(user, UserAgentServer):
            if "max-dialogs" in self._given:
                user.max_dialogs = self["max-dialogs"]
            if "max-call-time" in self._given:
                user.max_call_time = self["max-call-time"]
        return user

    def _authenticate(self, user: Any) -> None:
        """Give *user* the authenticator of --auth, and its registrar too where REGISTER is to be asked about."""
        if self.authenticator is None:
            return
        for option, attribute in (("auth", "authenticator"), ("auth-methods", "authenticated_methods")):
            if not hasattr(user, attribute) and self[option]:
                raise usage.UsageError(
                    f"--{option}: {type(user).__qualname__} has no attribute {attribute}: expected a UserAgentServer"
                )
        user.authenticator = self.authenticator
        if self.authenticated_methods is not None:
            user.authenticated_methods = self.authenticated_methods
        registrar = getattr(user, "registrar", None)
        if registrar is not None and self.authenticates("REGISTER"):
            registrar.authenticator = self.authenticator

    def _check_registrar(self, user: Any) -> None:
        """Refuse a registrar that asks nobody who it is, *user* or what it has, where others than this machine can be.

        One that a handler made is no other.
        """
        registrar = user if isinstance(user, Registrar) else getattr(user, "registrar", None)
        is_safe = registrar is None or _authenticates_registrations(user) or _authenticates_registrations(registrar)
        exposed = [text for text in self["listen"] if not _is_loopback(text)]
        if exposed and not is_safe and not self["allow-anonymous-registration"]:
            instead = "--no-registrar, " if self["mode"] == "redirect" else ""
            raise usage.UsageError(
                f"--listen: {exposed[0]!r} can be reached by others, who could register as anybody: expected --auth, "
                f"a loopback address, {instead}or --allow-anonymous-registration"
            )

    def _answer(self) -> int:
        """Return the status of --answer."""
        text = self["answer"] or str(_ANSWERS[self["mode"]])
        least = 300 if self["mode"] == "stateless" else 200  # 8.2.7: nobody would resend a 2xx
        if not (len(text) == 3 and text.isascii() and text.isdigit() and least <= int(text) <= 699):
            raise usage.UsageError(f"--answer: {text!r}: expected a status from {least} to 699 in {self['mode']} mode")
        return int(text)

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
                raise usage.UsageError(f"--location: {without_secrets(text)!r} is given twice: expected each once")
        try:
            timeout = self["lookup-timeout"]
            return [location_service(text, reactor, lookup_timeout=timeout) for text in self["location"]]
        except ValueError as error:
            raise usage.UsageError(f"--location: {error}") from None

    def _make_registrar(self) -> Registrar | None:
        """Return the registrar on the first location service that can store, or None."""
        if self["no-registrar"]:
            return None
        stores = [location for location in self.locations if IBindingStore.providedBy(location)]
        if not stores:
            if self["registrar"]:
                raise usage.UsageError("--registrar: expected a --location that can store, such as sqlite:FILE")
            return None
        limits = Limits(
            min_expires=self["min-expires"],
            max_expires=self["max-expires"],
            default_expires=self["default-expires"],
            max_contacts=self["max-contacts"],
        )
        return Registrar(stores[0], domains=self["domain"], limits=limits)


def _authenticates_registrations(user: Any) -> bool:
    """Whether *user*, a server, asks who sends a REGISTER."""
    methods = getattr(user, "authenticated_methods", None)
    return getattr(user, "authenticator", None) is not None and (methods is None or "REGISTER" in methods)


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
