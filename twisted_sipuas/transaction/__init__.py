"""One request and its responses: RFC 3261 section 17.2, with RFC 6026 and RFC 4320. The clock is passed in."""
