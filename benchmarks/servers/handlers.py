"""A handler of `table.py`, for `--handler`: answers OPTIONS as kamailio does there, with a 200 and no more."""

from __future__ import annotations

from twisted_sipuas import Request, Response, UserAgentServer
from twisted_sipuas.interfaces import IServerTransaction


class Present(UserAgentServer):
    """Is there."""

    def handle_OPTIONS(self, request: Request, transaction: IServerTransaction) -> Response:
        """Say so, and neither what is allowed nor what could be offered (11.2)."""
        return request.response(200)
