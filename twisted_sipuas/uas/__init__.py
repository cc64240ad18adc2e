"""The transaction users: RFC 3261 sections 8.2, 8.3 and 10.3."""
