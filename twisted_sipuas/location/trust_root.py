"""Whose certificates are trusted, where an operator says it by a PEM file and not the system?"""

from __future__ import annotations

import re

from twisted.internet.ssl import Certificate, trustRootFromCertificates

from twisted_sipuas.paths import octets

__all__ = ["trust_root"]

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def trust_root(path: str) -> object:
    """Return the certificates in the file *path*, as Twisted takes them; raises `ValueError` if it has none."""
    texts = _CERTIFICATE.findall(octets(path))
    try:
        certificates = [Certificate.loadPEM(text) for text in texts]
    except Exception:  # of OpenSSL, whose text helps nobody
        certificates = []
    if not certificates:
        raise ValueError("expected certificates in PEM")
    root: object = trustRootFromCertificates(certificates)
    return root
