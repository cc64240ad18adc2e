"""Which Redis does a text such as ``redis://sipuas:secret@redis.example/2`` mean, and how is it connected to?"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS

__all__ = ["RedisServer"]

_EXPECTED = "expected HOST[:PORT] or redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], or rediss:// for TLS"
_DEFAULT_PORT = 6379
_HOST = re.compile(r"[\w.-]+")
_HOST_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One Redis: where it is, and who we are to it."""

    host: str
    """A name or an address, IPv6 without brackets."""
    port: int = _DEFAULT_PORT
    """Its TCP port."""
    db: int = 0
    """The number of the database in it."""
    username: bytes = field(default=b"", repr=False)
    """Its user (ACL), or empty for its default user."""
    password: bytes = field(default=b"", repr=False)
    """The password of that user, or empty if none is asked for."""
    is_secure: bool = False
    """Whether to use TLS."""
    trust_root: Any = None
    """For TLS, whom to trust; None for those whom the system trusts."""

    @classmethod
    def from_text(cls, text: str, *, db: int | None = None, trust_root: Any = None) -> RedisServer:
        """Return the server that *text* says; *db* and *trust_root* are as above.

        Raises `ValueError` that says what was expected, and quotes nothing: there may be a password in it.
        """
        scheme, slashes, _ = text.partition("://")
        if not slashes:
            host, port = _host_port(text)
            server = cls(host, port, db or 0)
        elif scheme in ("redis", "rediss"):
            server = cls._from_url(text, db, trust_root)
        else:
            raise ValueError(_EXPECTED)
        if trust_root is not None and not server.is_secure:
            raise ValueError("ca: expected only with rediss://")
        return server

    @classmethod
    def _from_url(cls, text: str, db: int | None, trust_root: Any) -> RedisServer:
        try:
            url = urlsplit(text)
        except ValueError:
            raise ValueError(_EXPECTED) from None  # without Python's own text, which quotes
        if url.query or url.fragment or not re.fullmatch(r"(/\d{0,9})?", url.path, re.ASCII):
            raise ValueError(f"{_EXPECTED}; in USER and PASSWORD %2F stands for /, %3F for ?, %23 for # and %25 for %")
        number = url.path[1:]
        if number and db is not None:
            raise ValueError("db: expected only where the URL names no database")
        user_info, _, where = url.netloc.rpartition("@")
        host, port = _host_port(where)
        username, _, password = user_info.partition(":")
        if username and not password:
            raise ValueError(f"{_EXPECTED}: a user has a password")
        return cls(
            host,
            port,
            int(number) if number else db or 0,
            unquote_to_bytes(username),
            unquote_to_bytes(password),
            url.scheme == "rediss",
            trust_root,
        )

    @property
    def description(self) -> str:
        """The URL without user and password; the text in `from_text` that it is like may have these."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORT else f":{self.port}"
        return f"{'rediss://' if self.is_secure else ''}{host}{port}{f'/{self.db}' if self.db else ''}"

    def endpoint(self, reactor: Any, connect_timeout: float) -> IStreamClientEndpoint:
        """Return where to connect to, giving up after *connect_timeout* seconds."""
        endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, self.host, self.port, timeout=connect_timeout)
        if self.is_secure:
            endpoint = wrapClientTLS(optionsForClientTLS(self.host, trustRoot=self.trust_root), endpoint)
        return endpoint


def _host_port(text: str) -> tuple[str, int]:
    """Return the host and the port that *text* is; raises `ValueError`."""
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(_EXPECTED)
    host, port = match[1], int(match[2] or _DEFAULT_PORT)
    if host.startswith("["):
        try:
            host = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(_EXPECTED) from None
    elif _HOST.fullmatch(host) is None:
        raise ValueError(_EXPECTED)
    if not 0 < port < 65536:
        raise ValueError(_EXPECTED)
    return host, port
