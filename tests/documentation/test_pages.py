"""Do the commands and the Python of the other pages do what is said of them?

Those of testing.md are run by `tests/testing/test_documentation.py`. What needs databases and name servers is no block
of ``console``; `tests/interoperability` has the like.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.names.authority import PySourceAuthority

import twisted_sipuas
from tests.documentation.reader import ROOT, Block, Reader, blocks
from tests.interoperability.conftest import free_port, twistd
from twisted_sipuas import auth, location, testing
from twisted_sipuas.testing import expect, scenario, send, step

PAGES = {
    "how-to/tls.md": "openssl",
    "how-to/embedding.md": "curl",
    "location-services.md": "sipsak",
    "authentication.md": "sipsak",
    "migration.md": "python3",
}
"""Pages with sessions, and the program that these call."""


def python_blocks(page: str) -> list[Block]:
    """Return the Python of *page*."""
    return [block for block in blocks(page) if block.language == "python"]


def namespace(page: str, name: str) -> Any:
    """Return what the file *name* on *page* defines."""
    (text,) = [block.text for block in python_blocks(page) if block.file_name == name]
    names: dict[str, object] = {"__name__": name.removesuffix(".py")}
    exec(compile(text, name, "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder of programs: `sipuas` and `python` as the tests have them, whether that is installed or not."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, command in {"sipuas": "-m twisted_sipuas", "twistd": twistd(), "python": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        program.chmod(0o755)
    return programs


@pytest.mark.parametrize("page", PAGES)
def test_sessions(page: str, path: Path, tmp_path: Path) -> None:
    """Every command of the page prints what the page shows."""
    if shutil.which(PAGES[page]) is None:
        pytest.skip(f"{PAGES[page]} is not installed")
    directory = tmp_path / "reader"
    directory.mkdir()
    reader = Reader(directory, {5070: free_port(), 5071: free_port()}, path, PYTHONPATH=str(ROOT))
    try:
        for block in blocks("tutorial.md"):
            if block.file_name == "ask.py":
                reader.follow(block)
        for block in blocks(page):
            reader.follow(block)
    finally:
        reader.close()


def test_first_page() -> None:
    """The server of the first page rings, and sends the call to Bob."""
    desk = namespace("index.md", "desk.py").Desk
    scenario(
        desk(),
        send("INVITE", uri="sip:carol@example.com"),
        expect(404),
        send("ACK"),
        send("INVITE"),
        expect(180),
        step(5),
        expect(302, Contact="<sip:bob@192.0.2.7>"),
        send("ACK"),
        send("MESSAGE"),
        expect(202),
    )


def test_trunks() -> None:
    """Who shows no certificate of the carrier's gets 403."""
    trunks = namespace("how-to/tls.md", "trunks.py").Trunks
    scenario(trunks(), send("INVITE"), expect(403), send("ACK"))


def test_authentication_in_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that sets up authentication makes a server that asks for it."""
    monkeypatch.chdir(tmp_path)
    Path("users").write_text("alice:secret\n")
    (block,) = python_blocks("authentication.md")
    names: dict[str, Any] = {"reactor": MemoryReactorClock()}
    exec(block.text, names)
    assert isinstance(names["service"], twisted_sipuas.SIPService)
    assert names["server"].authenticator is names["authenticator"]


def test_zone(tmp_path: Path) -> None:
    """The zone of the ENUM example is one that Twisted's name server reads."""
    (block,) = [block for block in blocks("location-services.md") if block.file_name == "e164.py"]
    (tmp_path / "e164.py").write_text(block.text)
    authority: Any = PySourceAuthority(str(tmp_path / "e164.py"))
    records = authority.records[b"3.8.0.0.6.9.2.3.6.1.4.4.e164.arpa"]
    assert [record.regexp.string for record in records] == [
        rb"!^\+44(.*)$!sip:0\1@gw1.example.com!",
        b"!^.*$!sip:info@example.com!",
    ]


@pytest.fixture
def router(tmp_path: Path) -> Iterator[str]:
    """The URL of the router on the page of location services, which runs as a program of its own."""
    (block,) = [block for block in blocks("location-services.md") if block.file_name == "router.py"]
    port = free_port()
    (tmp_path / "router.py").write_text(block.text.replace("8080", str(port)))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "router.py"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield f"http://127.0.0.1:{port}/route"
    process.kill()
    process.wait()


def test_router(router: str) -> None:
    """The router answers for Bob, knows nothing of Carol, and refuses who comes from somewhere else."""

    def ask(user: str, host: str) -> Any:
        question = json.dumps({"user": user, "source": {"host": host}}).encode()
        deadline = time.monotonic() + 20
        while True:
            try:
                with urlopen(Request(router, question), timeout=5) as answer:
                    return json.load(answer)
            except URLError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    assert ask("bob", "192.0.2.1")["targets"][0] == "sip:bob@192.0.2.7"
    assert ask("carol", "192.0.2.1") == {}
    assert ask("bob", "198.51.100.1")["refuse"]["status"] == 403


def test_every_block_of_python_is_run() -> None:
    """There is no Python on a page that no test here, or of the test kit, runs."""
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if ">>> " in (ROOT / "docs" / page).read_text()} == {"testing.md"}
    assert {page for page in pages if python_blocks(page)} == {*PAGES, "tutorial.md", "index.md", "testing.md"}
    assert [block.file_name for page in ("index.md", *PAGES) for block in python_blocks(page)] == [
        "desk.py",
        "ask_by_tls.py",
        "trunks.py",
        "desk.tac",
        "e164.py",
        "router.py",
        None,  # authentication in a program
        "old_desk.tac",
        "without_via.py",
        "new_desk.tac",
    ]


def test_every_public_name_is_in_the_reference() -> None:
    """What the package, its test kit, `auth` and `location` have for users is documented."""
    reference = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.rst"))
    documented: set[str] = set()
    for what, name in re.findall(r"^\.\. auto(\w+):: (\S+)$", reference, re.MULTILINE):
        documented.update(import_module(name).__all__ if what == "module" else [name.rpartition(".")[2]])
    assert {*twisted_sipuas.__all__, *testing.__all__, *auth.__all__, *location.__all__} <= documented
