"""Who sent a request (RFC 3261, 22): digests, and the `twisted.cred` checkers that know what they were made with."""

from twisted_sipuas.auth.authenticator import DigestAuthenticator
from twisted_sipuas.auth.checkers import credentials_checker
from twisted_sipuas.auth.credentials import DigestCredentials
from twisted_sipuas.auth.password_file import PasswordFile
from twisted_sipuas.auth.subscribers import Subscribers

__all__ = [
    "DigestAuthenticator",
    "DigestCredentials",
    "PasswordFile",
    "Subscribers",
    "credentials_checker",
]
