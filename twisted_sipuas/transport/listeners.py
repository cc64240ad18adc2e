"""The open sockets of one service."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from twisted.internet import udp
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.protocols.haproxy import proxyEndpoint
from twisted.python.failure import Failure

from twisted_sipuas.errors import StartError
from twisted_sipuas.interfaces import Address, IFlow
from twisted_sipuas.logs import Logger
from twisted_sipuas.transport.flow import DatagramFlow
from twisted_sipuas.transport.listen import DatagramListen, InheritedListen, SecureListen, StreamListen
from twisted_sipuas.transport.udp import MAX_DATAGRAM, SIPDatagramPort, SIPDatagramProtocol, datagram_port

if TYPE_CHECKING:
    from twisted_sipuas.transport.tls import ServerCredentials

__all__ = ["Listen", "Listeners", "Listening"]

_log = Logger()

_BACKLOG = 1024  # connections that wait to be accepted; Twisted's 50 make a client wait in any rush
_PORT_TRIES = 20  # how often a free UDP port is asked for before one is free on TCP too

Listen: TypeAlias = (
    "DatagramListen | SecureListen | StreamListen | InheritedListen | IStreamServerEndpoint | socket.socket"
)


class Listening(NamedTuple):
    """One listener that is open."""

    transport: str
    """``udp``, ``tcp``, ``tls`` or another kind of stream in Twisted's spelling."""
    address: Address
    """What it is bound to; for a UNIX socket its path and port 0."""

    def __str__(self) -> str:
        return f"{self.transport}:{self.address if self.address.port else self.address.host}"


class Listeners:
    """Opens the sockets that *wanted* describes, and closes them.

    *reactor* has them. *datagram_protocol* and *stream_factory* make what serves them, given the address to advertise
    (and for streams, whether a proxy's header tells the peer). *client_ca* is a file of certificates: who connects by
    a TLS listener of ours has to show one that these signed.
    """

    def __init__(
        self,
        reactor: Any,
        wanted: Iterable[Listen],
        datagram_protocol: Callable[[Address | None], DatagramProtocol],
        stream_factory: Callable[[Address | None, bool], Factory],
        client_ca: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._wanted = tuple(wanted)
        self._datagram_protocol = datagram_protocol
        self._stream_factory = stream_factory
        self._client_ca = client_ca
        self._ports: list[tuple[str, IListeningPort]] = []
        self._ports_of: list[tuple[IListeningPort, ...]] = []
        self._opening: list[Deferred[None]] = []  # endpoints that take their time
        self._failures: list[Failure] = []
        self._credentials: list[ServerCredentials] = []

    @property
    def listening(self) -> tuple[Listening, ...]:
        """The listeners that are open."""
        return tuple(_listening(transport, port) for transport, port in self._ports)

    @property
    def ports_of(self) -> Sequence[tuple[IListeningPort, ...]]:
        """For each of *wanted* what `open` opened for it at once; nothing for an endpoint that takes its time."""
        return self._ports_of

    def open(self) -> None:
        """Open every listener, or begin to; raises `StartError`, and the caller closes what is open."""
        for item in self._wanted:
            others = len(self._ports)
            self._open(item)
            self._ports_of.append(tuple(port for _, port in self._ports[others:]))

    def _open(self, item: Listen) -> None:
        if isinstance(item, DatagramListen):
            self._open_datagram(item)
        elif isinstance(item, SecureListen):
            self._open_secure(item)
        elif isinstance(item, StreamListen):
            self._open_described(item)
        elif isinstance(item, InheritedListen):
            self._open_inherited(item)
        elif isinstance(item, socket.socket):
            self._adopt(item.dup(), None)
        else:
            self._open_endpoint(item, type(item).__name__, self._stream_factory(None, False))

    def when_open(self) -> Deferred[list[Failure]]:
        """Fires when no endpoint is still about to open, with the failures that there were."""
        return DeferredList(self._opening).addCallback(lambda _: self._failures)

    def reload(self) -> None:
        """Read every TLS certificate again; one that cannot be read stays as it was, and the log says why."""
        for credentials in self._credentials:
            try:
                credentials.reload()
            except ValueError as error:
                _log.error("The certificate stays as it was: {error}", error=error)
            else:
                _log.info("Reloaded {credentials}", credentials=credentials)

    def backlog(self) -> float:
        """Return for how many seconds, at most, something has waited in a UDP socket."""
        return max((port.waiting for _, port in self._ports if isinstance(port, SIPDatagramPort)), default=0.0)

    def datagram_flow(self, address: Address) -> IFlow | None:
        """Return the flow to *address* by the first UDP socket that can send there, or None."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        for transport, port in self._ports:
            if transport == "udp" and isinstance(port, udp.Port) and port.addressFamily == family:
                assert isinstance(port.protocol, SIPDatagramProtocol), "we made it"
                return DatagramFlow(port.protocol, (address.host, address.port))
        return None

    def close(self) -> Deferred[Any]:
        """Close what is open; fires when all of it is."""
        opening, self._opening = self._opening, []
        for endpoint in opening:
            endpoint.cancel()
        self._failures = []
        self._credentials = []
        ports, self._ports = self._ports, []
        self._ports_of = []
        return DeferredList([maybeDeferred(port.stopListening) for _, port in ports])

    # Datagrams

    def _open_datagram(self, item: DatagramListen) -> None:
        """Bind UDP, and TCP beside it (18.2.1); with port 0, to one that is free for both."""
        if item.descriptor is not None:
            self._adopt(_inherited(item.descriptor), item)
            return
        kind = datagram_port(item.interface)
        for attempt in range(1, _PORT_TRIES + 1):
            protocol = self._datagram_protocol(item.advertised)
            port = kind(item.port, protocol, item.interface, MAX_DATAGRAM, self._reactor)
            try:
                port.startListening()
            except CannotListenError as error:
                raise _start_error("udp", item.interface, item.port, error) from None
            try:
                streams = self._open_beside(item, item.interface, port.getHost().port)
            except CannotListenError as error:
                port.stopListening()
                if item.port == 0 and attempt < _PORT_TRIES:
                    continue
                raise _start_error("tcp", item.interface, error.port, error, "or say tcp=no") from None
            self._ports += [("udp", port), *streams]
            return

    def _open_beside(self, item: DatagramListen, interface: str, number: int) -> list[tuple[str, IListeningPort]]:
        """Open TCP where *item* has UDP, unless it says no or a listener for that was asked for by itself."""
        if not item.with_stream or self._has_stream(interface, number):
            return []
        factory = self._stream_factory(item.advertised, False)
        return [("tcp", self._reactor.listenTCP(number, factory, _BACKLOG, interface))]

    def _has_stream(self, interface: str, port: int) -> bool:
        """Whether a TCP listener of its own was asked for on *interface* and *port*."""
        streams = [item for item in self._wanted if isinstance(item, StreamListen)]
        return any(item.covers(interface, port) for item in streams)

    def _adopt(self, bound: socket.socket, item: DatagramListen | None) -> None:
        """Serve on a socket that is bound already; *bound* is ours to close."""
        with bound:
            bound.setblocking(False)
            if bound.type == socket.SOCK_DGRAM:
                self._adopt_datagram(bound, item)
                return
            if not bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise StartError(f"{bound.getsockname()}: this stream socket does not listen; give one that does")
            factory = self._stream_factory(None, False)
            self._ports.append(("tcp", self._reactor.adoptStreamPort(bound.fileno(), bound.family, factory)))

    def _adopt_datagram(self, bound: socket.socket, item: DatagramListen | None) -> None:
        interface, number = bound.getsockname()[:2]
        self._serve_datagrams(bound, None if item is None else item.advertised)
        inherited = any(isinstance(other, StreamListen) and other.is_inherited for other in self._wanted)
        if item is not None and not inherited:  # an inherited stream may be the one that belongs to it
            try:
                self._ports += self._open_beside(item, interface, number)
            except CannotListenError as error:
                raise _start_error("tcp", interface, number, error, "or say tcp=no") from None

    def _serve_datagrams(self, bound: socket.socket, advertised: Address | None) -> None:
        protocol = self._datagram_protocol(advertised)
        port = datagram_port(bound.getsockname()[0]).adopt(bound, protocol, self._reactor)
        port.startListening()
        self._ports.append(("udp", port))

    # What another process has bound

    def _open_inherited(self, inherited: InheritedListen) -> None:
        """Serve on sockets as what they were bound for."""
        item = inherited.item
        for descriptor in inherited.descriptors:
            with socket.socket(fileno=descriptor) as bound:
                bound.setblocking(False)
                if bound.type == socket.SOCK_DGRAM:
                    self._serve_datagrams(bound, item.advertised)
                elif isinstance(item, SecureListen):
                    self._open_secure(item, bound)
                else:
                    is_proxied = isinstance(item, StreamListen) and item.is_proxied
                    own = os.dup(descriptor)  # the endpoint closes what it is given
                    endpoint: IStreamServerEndpoint = AdoptedStreamServerEndpoint(self._reactor, own, bound.family)
                    if is_proxied:
                        endpoint = proxyEndpoint(endpoint)
                    factory = self._stream_factory(item.advertised, is_proxied)
                    self._open_endpoint(endpoint, f"descriptor {descriptor}", factory)

    # Streams

    def _open_secure(self, item: SecureListen, bound: socket.socket | None = None) -> None:
        """Listen for TLS, on *bound* if that is given."""
        try:
            from twisted.protocols.tls import TLSMemoryBIOFactory

            from twisted_sipuas.transport.tls import ServerCredentials
        except ImportError:
            raise StartError(f"ssl:{item.port}: {_TLS_NEEDED}") from None
        try:
            credentials = ServerCredentials(item.private_key, item.certificate, item.chain, self._client_ca)
        except ValueError as error:
            raise StartError(f"ssl:{item.port}: {error}; see --listen") from None
        secure = TLSMemoryBIOFactory(credentials, False, self._stream_factory(item.advertised, False))
        try:
            if bound is None:
                port = self._reactor.listenTCP(item.port, secure, _BACKLOG, item.interface)
            else:
                port = self._reactor.adoptStreamPort(bound.fileno(), bound.family, secure)
        except CannotListenError as error:
            raise _start_error("ssl", item.interface, item.port, error) from None
        self._credentials.append(credentials)
        self._ports.append(("tls", port))

    def _open_described(self, item: StreamListen) -> None:
        try:
            endpoint = serverFromString(self._reactor, item.description)
        except ImportError:
            raise StartError(f"{item.description}: {_TLS_NEEDED}; or see --listen") from None
        except LookupError:  # from that of systemd's sockets
            raise StartError(f"{item.description}: systemd has given no such socket; see --listen") from None
        except Exception as error:  # whatever the endpoint's own parser raises, a missing key file say
            raise StartError(f"{item.description}: {error}; see --listen") from None
        self._open_endpoint(endpoint, item.description, self._stream_factory(item.advertised, item.is_proxied))

    def _open_endpoint(self, endpoint: IStreamServerEndpoint, description: str, factory: Factory) -> None:
        opening = maybeDeferred(endpoint.listen, factory).addCallback(self._opened)
        opening.addErrback(_endpoint_failed, description)
        opening.addErrback(self._failures.append)
        if self._failures:
            self._failures[0].raiseException()
        self._opening.append(opening)

    def _opened(self, port: IListeningPort) -> None:
        host: Any = port.getHost()
        self._ports.append(("unix" if isinstance(host, UNIXAddress) else host.type.lower(), port))


_TLS_NEEDED = "it needs more to be installed: pip install 'twisted-sipuas[tls]'"


def _listening(transport: str, port: IListeningPort) -> Listening:
    host: Any = port.getHost()
    if isinstance(host, UNIXAddress):
        return Listening(transport, Address(os.fsdecode(host.name or b""), 0))
    return Listening(transport, Address(host.host, host.port))


def _inherited(descriptor: int) -> socket.socket:
    """Return our own copy of an inherited UDP socket."""
    try:
        copy = os.dup(descriptor)
        try:
            bound = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise
    except OSError as error:
        raise StartError(f"udp:fd={descriptor}: {error.strerror}; no such socket was inherited") from None
    if bound.type != socket.SOCK_DGRAM or bound.family not in (socket.AF_INET, socket.AF_INET6):
        bound.close()
        raise StartError(f"udp:fd={descriptor}: this is no UDP socket; see --listen")
    return bound


def _start_error(transport: str, interface: str, port: int, error: CannotListenError, further: str = "") -> StartError:
    """Return the fault of a bind that failed, in one line with what to do about it."""
    reason = error.socketError
    text = getattr(reason, "strerror", None) or str(reason)
    remedy = ", ".join(filter(None, ("choose another address or port with --listen", further)))
    return StartError(f"{transport}:{Address(interface, port)}: {text}; {remedy}")


def _endpoint_failed(failure: Failure, description: str) -> None:
    reason = " ".join(failure.getErrorMessage().split()).rstrip(".")
    raise StartError(f"{description}: {reason}; choose another address or port with --listen")
