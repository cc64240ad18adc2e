"""Routes in a file, for people who do not program: ``routes:FILE``.

`template` puts the text of a request into a target, `pattern` judges regular expressions, `table` finds the route;
`rules`, `document` and `files` read the file, with `section` and `lines` for what is wrong in it; `service` keeps up.
"""

from __future__ import annotations

from twisted_sipuas.location.routes.service import RoutesLocationService, make

__all__ = ["RoutesLocationService", "make"]
