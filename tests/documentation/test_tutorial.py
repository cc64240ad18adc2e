"""Does a reader who follows the tutorial word by word get what it shows?"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.documentation.reader import ROOT, Reader, blocks
from tests.interoperability.conftest import free_port

CHECKOUT = ("twisted_sipuas", "twisted", "pyproject.toml", "README.md", "LICENSE", "pytest_twisted_sipuas.py")
"""What an installation from a clone reads."""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of the repository, as far as it is installed from."""
    copy = tmp_path / "twisted-sipuas"
    copy.mkdir()
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        else:
            shutil.copy(ROOT / name, copy)
    return copy


def test_tutorial(clone: Path) -> None:
    """Every command of the tutorial, in a fresh environment, prints what the page shows."""
    reader = Reader(clone, {5070: free_port()}, Path(sys.base_prefix) / "bin")
    try:
        for block in blocks("tutorial.md"):
            reader.follow(block)
    finally:
        reader.close()
