"""Sockets and connections, and where a response goes: RFC 3261 section 18.2, RFC 3581. Knows no transactions."""
