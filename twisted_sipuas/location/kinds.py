"""What location service does a text such as ``http,cache=30:https://router.example/x`` describe?"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from twisted.plugin import getPlugins
from zope.interface import Invalid, implementer
from zope.interface.verify import verifyObject

from twisted_sipuas.interfaces import IBindingStore, ILocationService, ILocationServicePlugin
from twisted_sipuas.location.guarded import guarded
from twisted_sipuas.logs import Logger

__all__ = ["LocationKind", "location_kinds", "location_service", "without_secrets"]

_log = Logger()


@implementer(ILocationServicePlugin)
class LocationKind:
    """An `ILocationServicePlugin` whose code is imported when it is first asked for a location service.

    *kind* and *help* are as there. *module* names the module whose function ``make(argument, options, reactor)`` makes
    the location service. *needs* says what has to be installed where an import of *module* fails.
    """

    def __init__(self, kind: str, help: str, module: str, needs: str = "") -> None:
        self.kind = kind
        self.help = help
        self.module = module
        self.needs = needs

    def make(self, argument: str, options: dict[str, str], reactor: Any) -> ILocationService:
        """See `ILocationServicePlugin`."""
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            hint = f": pip install '{self.needs}'" if self.needs else ""
            raise ValueError(f"{self.kind} needs the module {error.name}, which is not installed{hint}") from None
        except Exception as error:  # of others' code, at the command line of who cannot mend it
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"{self.kind} cannot be used, as {self.module} fails: {text}") from error
        made: ILocationService = module.make(argument, options, reactor)
        return made


_BUILT_IN = (
    LocationKind("memory", "memory: keeps bindings until the process ends.", "twisted_sipuas.location.memory"),
    LocationKind("sqlite", "sqlite:FILE keeps bindings in a file.", "twisted_sipuas.location.sqlite"),
    LocationKind(
        "enum",
        "enum:SUFFIX[@ADDRESS[:PORT],...] redirects telephone numbers by the NAPTR records below a domain such as "
        "e164.arpa (RFC 6116); it asks the system's name servers, or those behind the @.",
        "twisted_sipuas.location.enum",
    ),
    LocationKind(
        "http",
        "http:URL asks an HTTP server of yours, in JSON. Options: headers=NAME+NAME, header fields of the request to "
        "tell it of; token=FILE, with a bearer token; ca=FILE, PEM, whose certificates to trust rather than the "
        "system's; connections=N, at a time (50). A URL with a password in it belongs into a file: http:@FILE.",
        "twisted_sipuas.location.http",
    ),
    LocationKind(
        "postgres",
        "postgres:DSN keeps bindings in a PostgreSQL database that several servers share; DSN is a connection string "
        "of libpq, such as 'host=db.example dbname=sip user=sip' or postgresql://sip@db.example/sip. Options: "
        "table=[SCHEMA.]NAME, made if it is missing (sipuas_bindings); pool=NUMBER, connections (4).",
        "twisted_sipuas.location.postgres",
        "twisted-sipuas[postgres]",
    ),
    LocationKind(
        "redis",
        "redis:HOST[:PORT], or redis:redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], or with rediss:// for TLS, keeps "
        "bindings in a Redis that several servers share. Options: db=NUMBER, the database (0); prefix=NAME, what "
        "the keys begin with, before a colon (sipuas); pool=NUMBER, connections (2); ca=FILE, for TLS, whom to trust.",
        "twisted_sipuas.location.redis",
        "twisted-sipuas[redis]",
    ),
    LocationKind(
        "routes",
        "routes:FILE answers by the routes in a TOML file: domain, number prefix, user or pattern, to targets or a "
        "refusal. It is read again when it changes.",
        "twisted_sipuas.location.routes",
    ),
)


def location_kinds() -> Iterator[ILocationServicePlugin]:
    """Yield every kind of location service there is: ours, and what plugins add; of one name the first counts."""
    known = set()
    for plugin in (*_BUILT_IN, *getPlugins(ILocationServicePlugin)):
        name = getattr(plugin, "kind", None)
        if not isinstance(name, str) or not isinstance(getattr(plugin, "help", None), str):
            _tell_of_misfit(repr(plugin))
        elif name not in known:
            known.add(name)
            yield plugin


def location_service(text: str, reactor: Any, *, lookup_timeout: float = 2.0) -> ILocationService:
    """Return the location service that ``KIND[,option=value...]:REST`` describes, not yet started.

    Every kind has the options ``timeout``, the seconds that a look-up may take (*lookup_timeout* if it is not given),
    and ``cache``, the seconds for which an answer is kept; see `GuardedLocationService`. ``@FILE`` as REST stands for
    what is in that file, without its last line end. Raises `ValueError` saying what is wrong and what was expected.
    """
    head, colon, rest = text.partition(":")
    name, *settings = head.split(",")
    kind = _kind(name) if colon else None
    if kind is None:
        known = ", ".join(f"{kind.kind}:" for kind in location_kinds())
        raise ValueError(f"{without_secrets(text)!r} is no location service: expected one of {known}")
    try:
        options = _options(settings)
        timeout = _seconds(options, "timeout")
        kept = _seconds(options, "cache")
        service = _made(kind, _content(rest[1:]) if rest.startswith("@") else rest, options, reactor)
        if options:
            raise ValueError(
                f"{next(iter(options))!r} is no option of {name}: expected timeout, cache, or one that its help names"
            )
    except ValueError as error:
        raise ValueError(f"{without_secrets(text)!r}: {error}") from error
    if timeout is None and kept is None and getattr(service, "lookup_timeout", None) is not None:
        return service  # it answers at once, or sees to its time itself
    return guarded(service, reactor, lookup_timeout=timeout or lookup_timeout, cache=kept or 0)


def without_secrets(text: str) -> str:
    """Return *text*, of a location service, as it may be shown: without what could hold a password or a key.

    That is the value of any option, also of one that there is not, and a REST that has an ``@``, as URLs with a
    password have before the host, or a ``=``, as in their query; DSNs have one of them too.
    """
    head, colon, rest = text.partition(":")
    name, *settings = head.split(",")
    shown = [setting.partition("=")[0] + ("=..." if "=" in setting else "") for setting in settings]
    is_clean = rest.startswith("@") or not {"@", "="} & set(rest)
    return ",".join([name, *shown]) + colon + (rest if is_clean else "...")


def _made(kind: ILocationServicePlugin, argument: str, options: dict[str, str], reactor: Any) -> ILocationService:
    """Return what *kind* makes; raises `ValueError` for a plugin that does otherwise than it should."""
    try:
        service: ILocationService = kind.make(argument, options, reactor)
    except ValueError:
        raise
    except Exception as error:  # its text was not meant to be shown, and may hold anything
        raise ValueError(f"{kind.kind} cannot be made: it fails with {type(error).__name__}") from error
    interface = IBindingStore if IBindingStore.providedBy(service) else ILocationService
    try:
        verifyObject(interface, service)
    except Invalid as error:
        raise ValueError(f"{kind.kind} makes no location service: {' '.join(str(error).split())}") from None
    if not isinstance(service.description, str):
        raise ValueError(f"{kind.kind} makes a location service whose description is no text")
    return service


@lru_cache
def _tell_of_misfit(plugin: str) -> None:
    """Say once that *plugin* is left out, where who looks for it sees that: before there is a log, too."""
    _log.critical("The plugin {plugin} is left out: it has no kind and help that are text", plugin=plugin)


def _kind(name: str) -> ILocationServicePlugin | None:
    """Return the kind *name*, or None; plugins are looked for only where it is none of ours."""
    for kind in _BUILT_IN:
        if kind.kind == name:
            return kind
    return next((kind for kind in location_kinds() if kind.kind == name), None)


def _options(settings: Iterable[str]) -> dict[str, str]:
    """Return the options that *settings* are, each ``name=value``, or a name alone for the value of nothing."""
    options: dict[str, str] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name in options:
            raise ValueError(f"the option {name!r} is given twice")
        options[name] = value
    return options


def _seconds(options: dict[str, str], name: str) -> float | None:
    """Take the number of seconds that the option *name* is out of *options*; None if it is not there."""
    if name not in options:
        return None
    value = options.pop(name)
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name}={value}: expected a number of seconds")
    return seconds


def _content(path: str) -> str:
    """Return what is in the file *path*, octet for octet, without its last line end."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text
