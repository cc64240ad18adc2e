"""Where is a file that an operator names, and what is in it?"""

from __future__ import annotations

import os

__all__ = ["check_path", "content", "octets", "state_path"]


def check_path(path: str) -> str:
    """Return *path*; raises `ValueError` if no file can have it."""
    if not path or "\0" in path:
        raise ValueError("expected the name of a file, without NUL")
    return path


def state_path(path: str) -> str:
    """Return *path* from the first of ``$STATE_DIRECTORY``, which systemd sets, if it is set.

    Else from the directory that is current now; so ask for it at the start, when that is twistd's ``--rundir``. A link
    is not followed: it may lead elsewhere later.
    """
    directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or os.getcwd()
    return os.path.join(directory, path)


def content(path: str) -> str:
    """Return what `octets` finds in the file *path* as text, octet for octet, without its last line end.

    Raises `ValueError` if it cannot be read.
    """
    text = octets(path).decode("utf-8", "surrogateescape")
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text


def octets(path: str) -> bytes:
    """Return what is in the file that `state_path` says *path* is; raises `ValueError` if it cannot be read."""
    try:
        with open(state_path(check_path(path)), "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
