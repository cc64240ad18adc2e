"""Where is a file that an operator names?"""

from __future__ import annotations

import os

__all__ = ["check_path", "content", "full_path"]


def check_path(path: str) -> str:
    """Return *path*; raises `ValueError` if no file can have it."""
    if not path or "\0" in path:
        raise ValueError("expected the name of a file, without NUL")
    return path


def full_path(path: str) -> str:
    """Return *path* from ``$STATE_DIRECTORY`` if that is set, as systemd does, else from the directory current now.

    A link is not followed: it may lead elsewhere later.
    """
    directory = os.environ.get("STATE_DIRECTORY", "").split(":")[0] or os.getcwd()
    return os.path.join(directory, path)


def content(path: str) -> str:
    """Return what is in the file *path*, without its last line end; raises `ValueError` if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text
