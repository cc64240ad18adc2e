"""Where is a file that an operator names by a relative path?"""

from __future__ import annotations

import os

__all__ = ["state_path"]


def state_path(name: str) -> str:
    """Return the path of the file *name*: from the first of ``$STATE_DIRECTORY``, which systemd sets, if it is set.

    Else from the directory that is current now; so ask for it at the start, when that is twistd's ``--rundir``. A link
    is not followed: it may lead elsewhere later.
    """
    directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or os.getcwd()
    return os.path.join(directory, name)
