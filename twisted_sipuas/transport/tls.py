"""TLS: our certificate and how it is renewed, and whom a peer's certificate names (RFC 3261, 26.2.1; RFC 5922)."""

from __future__ import annotations

import functools
import ipaddress
import re
import weakref
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.errors import MessageSyntaxError, TransportError
from twisted_sipuas.logs import Logger
from twisted_sipuas.syntax.uri import SIPURI, canonical_domain, canonical_host

__all__ = ["ServerCredentials", "client_creator", "sip_identities"]

_log = Logger()

_PrivateKey: TypeAlias = "RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey"

# For TLS 1.2; 1.3 has its own. RSA key exchange keeps nothing secret once the key is known, and so comes last; but
# 26.2.1 asks every element for TLS_RSA_WITH_AES_128_CBC_SHA, and old telephones have nothing better.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:kRSA+AESGCM:kRSA+AES:!aNULL:!AESCCM"

_VERIFY = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT

_MAX_HOST = 253  # characters of a domain name (RFC 1035, 2.3.4)

# Labels of letters, digits, "-" and "_", the last one no number: what resolvers take, and neither a wildcard nor an
# IPv4 address. Anything else in a certificate could only mislead who compares or logs it.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\.?\Z){_LABEL}\.?")


# Our own certificate


@implementer(IOpenSSLServerConnectionCreator)
class ServerCredentials:
    """What a TLS server shows and asks for, read from PEM files; use it wherever Twisted wants a context factory.

    *private_key* and *certificate* may be one file; *certificate* has our own certificate first, and may have the
    chain behind it, which may also be in *chain*. With *client_ca*, a file of certificates, a client gets nowhere
    without a certificate that one of these signed or that is one of these, and that is not for other uses only
    (RFC 5922, 7.1: extendedKeyUsage).

    TLS 1.2 and 1.3 are spoken. There is neither renegotiation nor resumption: each connection proves anew who the
    client is, and `reload` is never undone by an old session.

    Raises `ValueError` with one line that names the file and its fault. A certificate that has expired is logged and
    used all the same: a server that answers can be mended sooner than one that does not start.
    """

    def __init__(
        self, private_key: str, certificate: str, chain: str | None = None, client_ca: str | None = None
    ) -> None:
        self._private_key = private_key
        self._certificate = certificate
        self._chain = chain
        self._client_ca = client_ca
        self._own, self._context = self._read()

    def reload(self) -> None:
        """Read the files again, for connections from now on; those that are open go on as they are.

        Raises `ValueError` as the constructor does, and then everything stays as it was.
        """
        self._own, self._context = self._read()

    @property
    def not_after(self) -> datetime:
        """When the certificate expires, in UTC."""
        return self._own.not_valid_after_utc

    def __str__(self) -> str:
        """For logs: file, serial number and end of the certificate."""
        return f"{self._certificate} (serial number {self._own.serial_number:X}, valid until {self.not_after:%Y-%m-%d})"

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLServerConnectionCreator`."""
        return SSL.Connection(self._context, None)

    def _read(self) -> tuple[x509.Certificate, SSL.Context]:
        own, *chain = _read_certificates(self._certificate)
        if self._chain is not None:
            chain += _read_certificates(self._chain)
        key = _read_private_key(self._private_key)
        context = _new_context()
        try:
            context.use_certificate(own)
            for certificate in chain:
                context.add_extra_chain_cert(certificate)
        except SSL.Error as error:
            raise ValueError(f"{self._certificate}: OpenSSL refuses it: {_reason(error)}") from None
        try:
            context.use_privatekey(key)
            context.check_privatekey()
        except SSL.Error:
            raise ValueError(
                f"{self._private_key}: this private key does not belong to the first certificate in {self._certificate}"
            ) from None
        if self._client_ca is not None:
            authorities = _read_certificates(self._client_ca)
            _trust(context, authorities)
            for authority in authorities:
                context.add_client_ca(authority)
            context.set_verify(_VERIFY)
        self._warn_of_dates(own)
        return own, context

    def _warn_of_dates(self, own: x509.Certificate) -> None:
        now = datetime.now(timezone.utc)
        if now > own.not_valid_after_utc:
            _log.warn("{file}: the certificate expired on {date}", file=self._certificate, date=own.not_valid_after_utc)
        elif now < own.not_valid_before_utc:
            _log.warn(
                "{file}: the certificate is not valid before {date}",
                file=self._certificate,
                date=own.not_valid_before_utc,
            )


def _new_context() -> SSL.Context:
    """Return what server and client have in common.

    Not Twisted's `CertificateOptions`: that can neither forbid renegotiation nor tell clients which CA we want.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # thousands of connections are idle most of the time
    context.set_cipher_list(_CIPHERS)
    return context


def _trust(context: SSL.Context, authorities: Iterable[x509.Certificate]) -> None:
    """Have *context* take peers whose chain ends at one of *authorities*, which need not be a root."""
    store = context.get_cert_store()
    assert store is not None, "a context has one from the start"
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))


def _octets(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _read_certificates(path: str) -> list[x509.Certificate]:
    """Return the certificates in the file, at least one; raises `ValueError`."""
    octets = _octets(path)
    try:
        return x509.load_pem_x509_certificates(octets)
    except (ValueError, x509.InvalidVersion):
        what = "a certificate in it is damaged" if b"-----BEGIN CERT" in octets else "there is no PEM certificate in it"
        raise ValueError(f"{path}: {what}") from None


def _read_private_key(path: str) -> _PrivateKey:
    octets = _octets(path)
    try:
        key = load_pem_private_key(octets, None)
    except TypeError:
        raise ValueError(f"{path}: the private key is encrypted; expected one without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        what = (
            "the private key in it is damaged" if b"PRIVATE KEY-----" in octets else "there is no PEM private key in it"
        )
        raise ValueError(f"{path}: {what}") from None
    if not isinstance(key, (RSAPrivateKey, EllipticCurvePrivateKey, Ed25519PrivateKey, Ed448PrivateKey)):
        raise ValueError(f"{path}: the private key is of a kind that TLS does not use; expected RSA or EC")
    return key


def _reason(error: SSL.Error) -> str:
    """Return what OpenSSL says, without its library and function names."""
    return ", ".join(str(entry[-1]) for entry in error.args[0]) or "unknown reason"


# The peer's certificate


class _Names(NamedTuple):
    """Whom a certificate names."""

    identities: tuple[str, ...]
    addresses: tuple[object, ...]


def sip_identities(certificate: object) -> tuple[str, ...]:
    """Return the SIP domains that *certificate* is for, in lower case, each once (RFC 5922, 7.1).

    *certificate* is what ``transport.getPeerCertificate()`` returns, and must have been verified. Its ``sip:`` URIs
    without userinfo count; only if there are none, its DNS names; only if it has no subjectAltName at all, its one
    Common Name, if that is a domain name. Compare them whole: a wildcard names no SIP domain, and is left out (7.2).
    Never raises: a certificate that cannot be read, or None, names nobody.
    """
    return _names(certificate).identities


def _names(certificate: object) -> _Names:
    try:
        if isinstance(certificate, crypto.X509):
            certificate = certificate.to_cryptography()
        if isinstance(certificate, x509.Certificate):
            return _names_of(certificate)
    except Exception:
        pass  # octets of the peer's, where the parser raises what it likes
    return _Names((), ())


def _names_of(certificate: x509.Certificate) -> _Names:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return _Names(_common_name(certificate), ())
    uris = filter(None, map(_host_of_sip_uri, names.get_values_for_type(x509.UniformResourceIdentifier)))
    domains = filter(_DNS_NAME.fullmatch, names.get_values_for_type(x509.DNSName))
    identities = tuple(dict.fromkeys(uris)) or tuple(dict.fromkeys(map(canonical_host, domains)))
    return _Names(identities, tuple(names.get_values_for_type(x509.IPAddress)))


def _host_of_sip_uri(text: str) -> str | None:
    """Return the host of a SIP URI, or None if it is none or names a user (7.1: "there is an '@'")."""
    if text[:4].lower() != "sip:" or "@" in text:
        return None
    try:
        return canonical_host(SIPURI(text).host)
    except MessageSyntaxError:
        return None


def _common_name(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the Common Name if it is a domain name; one without a dot could be any word, and of two neither counts."""
    values = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(values) != 1 or not isinstance(values[0], str) or _DNS_NAME.fullmatch(values[0]) is None:
        return ()
    name = canonical_host(values[0])
    return (name,) if "." in name else ()


# Connections of ours


def client_creator(host: str, trust: str | None = None) -> IOpenSSLClientConnectionCreator:
    """Return what makes TLS connections to *host*, for Twisted's ``connectSSL``, ``startTLS`` or `TLSMemoryBIOFactory`.

    *host* is the domain or IP address of the peer as the message said it (the sent-by of a Via, 18.2.2), not what DNS
    made of it. The handshake fails unless the peer has a certificate for it: one of its `sip_identities` is *host*
    (RFC 5922, 7.3), or one of its IP addresses is. It must be signed by a certificate in the file *trust*; None stands
    for those the platform trusts. Either is read once in the life of the process.

    Raises `ValueError` if *host* is no host, or *trust* cannot be read.
    """
    if len(host) > _MAX_HOST:  # OpenSSL would not send it as the name it wants, without a word
        raise ValueError(f"a host of {len(host)} characters: expected {_MAX_HOST} at most")
    return _ClientCreator(canonical_domain(host), _client_context(trust))


@functools.lru_cache(maxsize=8)
def _client_context(trust: str | None) -> SSL.Context:
    """Return the context for connections of ours; to read the platform's certificates takes many milliseconds."""
    context = _new_context()
    if trust is None:
        context.set_default_verify_paths()
    else:
        _trust(context, _read_certificates(trust))
    return context


# Twisted's optionsForClientTLS does not suffice: it takes wildcards and DNS names beside a SIP URI, and no SIP URI.
@implementer(IOpenSSLClientConnectionCreator)
class _ClientCreator:
    def __init__(self, host: str, context: SSL.Context) -> None:
        self._host = host
        self._context = context
        self._address = _ip_address(host)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """See `IOpenSSLClientConnectionCreator`."""
        connection = SSL.Connection(self._context, None)
        if self._address is None:
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        to_protocol = weakref.ref(protocol)  # which has the connection; OpenSSL's side of a cycle is never collected

        def verify(_: SSL.Connection, certificate: crypto.X509, error: int, depth: int, is_valid: int) -> bool:
            if not is_valid or depth > 0:
                return bool(is_valid)
            if self._names_host(certificate):
                return True
            refused = to_protocol()
            if refused is not None:
                refused.failVerification(Failure(TransportError(f"the peer's certificate is not for {self._host}")))
            return False

        connection.set_verify(_VERIFY, verify)
        return connection

    def _names_host(self, certificate: crypto.X509) -> bool:
        names = _names(certificate)
        return self._host in names.identities or (self._address is not None and self._address in names.addresses)


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
