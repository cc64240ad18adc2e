"""Is a file found where the operator's relative path says?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twisted_sipuas.paths import state_path
from twisted_sipuas.transport.networks import AccessList


def test_state_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is taken from the current directory, or from the first of $STATE_DIRECTORY; others stay."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert state_path("a/b") == os.path.join(os.getcwd(), "a/b")
    monkeypatch.setenv("STATE_DIRECTORY", "/state:/other")
    assert state_path("a/b") == "/state/a/b"
    assert state_path("/c") == "/c"


def test_networks_in_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of networks is looked for in $STATE_DIRECTORY, and the fault names the path that was tried."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    access = AccessList(deny=["@denied"])
    with pytest.raises(ValueError, match=f"^{tmp_path}/denied: No such file"):
        access.load()
    (tmp_path / "denied").write_text("192.0.2.0/24\n")
    access.load()
    assert not access.admits("192.0.2.1")
