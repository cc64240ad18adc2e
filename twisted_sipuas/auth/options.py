"""The options of ``twistd sipuas`` that say who is asked for a digest, and who knows the passwords."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar

from twisted.python import usage

from twisted_sipuas.auth.authenticator import DigestAuthenticator
from twisted_sipuas.auth.checkers import checker_forms, credentials_checker
from twisted_sipuas.option_help import filled
from twisted_sipuas.syntax.grammar import TOKEN
from twisted_sipuas.syntax.message import KNOWN_METHODS

__all__ = ["AuthenticationOptions"]

_NEVER_ASKED = ("ACK", "CANCEL")  # 22.1
_NEED_AUTH = ("realm", "auth-methods", "auth-algorithms", "auth-qop")


class AuthenticationOptions(usage.Options):
    """What ``--auth`` and its companions say; mixed into the options of the server."""

    optParameters: ClassVar[list[list[Any]]] = [
        ["realm", None, None, "The realm of digests. [default: the first domain given]"],
        [
            "auth-methods",
            None,
            None,
            "Methods that are asked for a digest, such as REGISTER,INVITE. [default: every one, but OPTIONS for the "
            "server itself, and but requests in a dialog]",
        ],
        [
            "auth-algorithms",
            None,
            "MD5",
            "Digest algorithms, the strongest first, such as SHA-256,MD5 if your clients know them (RFC 8760).",
        ],
        ["auth-qop", None, "auth", "auth, auth-int, or auth,auth-int: whether digests cover the body."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["auth"] = []
        self.authenticator: DigestAuthenticator | None = None
        self.authenticated_methods: frozenset[str] | None = None

    def opt_auth(self, checker: str) -> None:
        """Who knows the passwords of users: file:FILE, subscriber:sqlite:FILE, subscriber:postgres:DSN, or a
        twisted.cred checker. May be given again and again; they are asked in order.
        [default: nobody is asked for a password]"""
        self["auth"].append(checker)

    def opt_help_auth(self) -> None:
        """List what --auth takes, and exit."""
        for form in checker_forms():
            sys.stdout.write(filled(form) + "\n")
        sys.exit(0)

    def make_authenticator(self, given: Iterable[str], domains: list[str], reactor: Any, key: bytes) -> None:
        """Make the `authenticator` that --auth asks for, with *key* for its nonces.

        *given* are the names of the options that were given.
        """
        if not self["auth"]:
            for option in _NEED_AUTH:
                if option in given:
                    raise usage.UsageError(f"--{option}: expected only with --auth")
            return
        realm = self["realm"] if self["realm"] is not None else next(iter(domains), None)
        if realm is None:
            raise usage.UsageError("--auth: expected a --realm, or a --domain to take for it")
        self.authenticated_methods = self._methods()
        try:
            checkers = [credentials_checker(text, realm, reactor, domains) for text in self["auth"]]
        except ValueError as error:
            raise usage.UsageError(f"--auth: {error}") from None
        try:
            self.authenticator = DigestAuthenticator(
                checkers,
                realm,
                algorithms=self["auth-algorithms"].split(","),
                qop=self["auth-qop"].split(","),
                key=key,
                domains=domains,
            )
        except ValueError as error:
            raise usage.UsageError(f"--realm, --auth-algorithms or --auth-qop: {error}") from None

    def authenticates(self, method: str) -> bool:
        """Whether requests of *method* are asked for a digest."""
        methods = self.authenticated_methods
        return self.authenticator is not None and (methods is None or method in methods)

    @property
    def authentication(self) -> str:
        """One line for the log: what is asked for a digest, and what is left open."""
        if self.authenticator is None:
            return "Nobody is asked for a password: see --auth"
        if self.authenticated_methods is None:
            asked = "every method; open are OPTIONS for the server itself, and requests in a dialog"
        else:
            asked = f"{', '.join(sorted(self.authenticated_methods))} outside a dialog; every other method is open"
        return f"Authenticating by {self.authenticator.description}: {asked}"

    def _methods(self) -> frozenset[str] | None:
        text = self["auth-methods"]
        if text is None:
            return None
        methods = frozenset(text.split(","))
        for method in methods:
            if TOKEN.fullmatch(method) is None:
                raise usage.UsageError(f"--auth-methods: {text!r}: expected methods such as REGISTER,INVITE")
            _check_spelling(method)
            if method in _NEVER_ASKED:
                raise usage.UsageError(f"--auth-methods: {method} cannot be challenged (RFC 3261, 22.1)")
        return methods


def _check_spelling(method: str) -> None:
    """Refuse what is another method, or none, to whoever sends requests, and would leave open the one that is meant."""
    if method in KNOWN_METHODS:
        return
    meant = (
        method.upper()
        if method != method.upper()
        else next(iter(get_close_matches(method, KNOWN_METHODS, cutoff=0.8)), None)
    )
    if meant is not None:
        raise usage.UsageError(f"--auth-methods: {method!r}: expected {meant}? Case counts, and every letter (7.1)")
