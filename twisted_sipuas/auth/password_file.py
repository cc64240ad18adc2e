"""`PasswordFile`: users whose passwords, or hashes of them, are in a text file that may change while we run."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameDigestHash, IUsernameHashedPassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_sipuas.auth.credentials import DigestCredentials
from twisted_sipuas.auth.files import check_path, full_path
from twisted_sipuas.auth.passwords import Users, parse_users
from twisted_sipuas.errors import StartError

__all__ = ["PasswordFile"]

_log = Logger()


@implementer(ICredentialsChecker)
class PasswordFile(Service):
    """A `twisted.cred` checker of the users in the file *path*; what its lines may be says `parse_users`.

    The file is read when the service starts, which `StartError` ends if it cannot be. It is read again, in a thread,
    when somebody asks and it has another time of change, size or inode; who asks meanwhile waits. A file that cannot be
    read then, or has a mistake, is logged, and the users stay as they were.

    *realm* is that of the hashes that count, *reactor* provides `IReactorTime` and `IReactorThreads`. A relative *path*
    is taken from ``$STATE_DIRECTORY`` if that is set, as systemd does, else from the directory that is current then.
    """

    credentialInterfaces = (IUsernameHashedPassword, IUsernameDigestHash)

    check_interval: ClassVar[float] = 1.0
    """Seconds for which a file that did not change is not looked at again."""

    def __init__(self, path: str, realm: str, reactor: Any) -> None:
        self.path = check_path(path)
        self.description = f"file:{path}"
        self.realm = realm
        self._reactor = reactor
        self._full_path = path
        self._users = Users({}, frozenset())
        self._signature: tuple[int, ...] | None = None
        self._next_check = 0.0
        self._reading: list[Deferred[None]] | None = None  # who waits, while the file is being read

    @property
    def hashes(self) -> frozenset[str]:
        """The hashes that the digests of all users may be made with."""
        return self._users.hashes

    def requestAvatarId(self, credentials: DigestCredentials) -> Any:
        """See `ICredentialsChecker`; a `Deferred` only while the file is being read again."""
        if self._reading is None:
            self._check_file()
        if self._reading is None:
            return self._identify(credentials)
        waiter: Deferred[None] = Deferred()
        self._reading.append(waiter)
        return waiter.addCallback(lambda _: self._identify(credentials))

    def _identify(self, credentials: DigestCredentials) -> bytes:
        secrets = self._users.secrets.get(credentials.username)
        if secrets is not None:
            digits = secrets.hashes.get(credentials.hash_name)
            if digits is not None and credentials.realm == self.realm:
                is_right = credentials.checkHash(digits)
            else:
                is_right = secrets.password is not None and credentials.checkPassword(secrets.password)
            if is_right:
                return credentials.username
        raise UnauthorizedLogin

    # IService

    def privilegedStartService(self) -> None:
        """Read the file; raises `StartError`."""
        super().privilegedStartService()
        self._full_path = full_path(self.path)
        try:
            self._signature, self._users = self._read()
        except (OSError, ValueError) as error:
            raise StartError(f"cannot read the users in {self._full_path}: {_text(error)}: see --auth") from None

    def startService(self) -> None:
        """Answer from now on."""
        if self._signature is None:
            self.privilegedStartService()
        self._next_check = self._reactor.seconds() + self.check_interval
        super().startService()

    # The file

    def _check_file(self) -> None:
        """Begin to read the file again, if it is time to look at it and it has changed."""
        now = self._reactor.seconds()
        if now < self._next_check:
            return
        self._next_check = now + self.check_interval
        try:
            signature = _signature(os.stat(self._full_path))
        except OSError:
            signature = ()  # reading it says why
        if signature != self._signature:
            self._reading = []
            reading = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._read)
            reading.addCallbacks(self._take, self._keep, errbackArgs=(signature,))
            reading.addBoth(self._read_done)

    def _read(self) -> tuple[tuple[int, ...], Users]:
        with open(self._full_path, "rb") as file:
            signature = _signature(os.fstat(file.fileno()))
            return signature, parse_users(file, self.realm)

    def _take(self, read: tuple[tuple[int, ...], Users]) -> None:
        self._signature, self._users = read
        _log.info("{path}: {count} users", path=self._full_path, count=len(self._users.secrets))

    def _keep(self, failure: Failure, signature: tuple[int, ...]) -> None:
        """Log why the file, which has *signature* now, does not count; once, until it changes again."""
        failure.trap(OSError, ValueError)
        self._signature = signature
        reason = _text(failure.value)
        _log.error("{path}: {reason}; the users stay as they were", path=self._full_path, reason=reason)

    def _read_done(self, result: object) -> object:
        waiters, self._reading = self._reading or [], None
        for waiter in waiters:
            waiter.callback(None)
        return result


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _text(error: BaseException | None) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else str(error)
