"""Bytes to values and back: RFC 3261 sections 7, 19, 20 and 25. Imports no Twisted."""
