"""Does every example in docs/testing.md, and in the docstrings of the test kit, do what it says?"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater

from twisted_sipuas import SIPError, UserAgentServer, testing
from twisted_sipuas.syntax.message import Request

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {match[1]: block for _, block in BLOCKS if (match := re.match(r"# (\w+\.py)\n", block))}
SESSIONS = [block for _, block in BLOCKS if block.startswith(">>> ")]


class Greeter(UserAgentServer):
    """What the docstrings take for a server of the reader's."""

    def handle_MESSAGE(self, request: Request, transaction: Any) -> Any:
        return request.response(200)

    async def handle_INVITE(self, request: Request, transaction: Any) -> None:
        transaction.respond(request.response(180))
        assert self.clock is not None
        await deferLater(self.clock, 2)
        raise SIPError(486)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The current folder, with every file of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("greeter", None)


def run(text: Any, names: Any, name: str) -> None:
    """Run the doctest *text*."""
    test = doctest.DocTestParser().get_doctest(text, dict(names), name, name, 0)
    told: list[Any] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, "".join(told)


def test_every_block_of_the_page_is_run() -> None:
    """A code block is a file of which a test follows, or a session."""
    assert len(FILES) + len(SESSIONS) == len(BLOCKS)


def test_files_of_the_page(folder: Any) -> None:
    """The tests on the page pass, in a pytest run of a user."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_twisted_sipuas", "-p", "no:cacheprovider", folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("session", SESSIONS)
def test_sessions_of_the_page(folder: Any, session: Any) -> None:
    """What the page says is printed is printed."""
    run(session, {}, "testing.md")


@pytest.mark.parametrize("module", ["blocking", "client", "clock", "ladder", "network", "scenarios"])
def test_docstrings(module: Any, registered: Any) -> None:
    """The examples in docstrings work."""
    names = {**vars(testing), "Greeter": Greeter, "your_client_registers_at": registered}
    found = doctest.DocTestFinder(exclude_empty=True).find(import_module(f"twisted_sipuas.testing.{module}"))
    sessions = [test for test in found if test.examples]
    assert sessions
    for test in sessions:
        run(test.docstring, names, test.name)


@pytest.fixture
def registered(folder: Any) -> Any:
    """Return what registers at a URI."""

    def register(uri: str) -> None:
        subprocess.run([sys.executable, folder / "your_client.py", uri], check=True)

    return register


def test_public_names() -> None:
    """What is listed is there, and documented."""
    for name in testing.__all__:
        public = getattr(testing, name)
        assert not callable(public) or public.__doc__, name
    assert testing.__all__ == sorted(testing.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
