"""Are the manual page and the completions those of the options, and do man, bash and zsh take them?"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.python import _shellcomp  # what twistd calls when zsh asks it

from tests.command_line.shells import Shell
from tools.shared_data import ROOT, shared_data
from twisted_sipuas.options import Options

MANUAL_PAGE = ROOT / "share/man/man1/sipuas.1"
SHOWS_ARGUMENTS = "sipuas() { printf '<%s>' \"$@\"; echo; }"
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        ["bind 'set enable-bracketed-paste off'", f"source {ROOT}/share/bash-completion/completions/sipuas"],
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        [
            "unset zle_bracketed_paste",
            "unsetopt prompt_sp",
            f"fpath=({ROOT}/share/zsh/site-functions $fpath)",
            "autoload -U compinit",
            "compinit -u -D",
        ],
    ),
}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A shell with the completions, in a directory with a file of routes; there ``sipuas`` shows its arguments."""
    (tmp_path / "routes.toml").touch()
    command, setup = SHELLS[request.param]
    started = Shell(command, tmp_path, [*setup, SHOWS_ARGUMENTS])
    yield started
    started.close()


def test_shared_data_is_up_to_date() -> None:
    """What is installed beside the package is what ``python -m tools.shared_data`` makes of the options."""
    assert {name: (ROOT / name).read_text() for name in shared_data()} == shared_data()


def test_manual_page_has_no_faults() -> None:
    """The formatter of man has nothing to warn of."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    command = ["groff", "-ww", "-man", "-Tascii", "-P-cbou", str(MANUAL_PAGE)]  # plain text, without bold
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert said.stderr == ""
    options = {name.rstrip("=") for name in Options().longOpt}
    assert set(re.findall(r"^ +--([a-z-]+)", said.stdout, re.MULTILINE)) >= options


def test_option_is_completed(shell: Shell) -> None:
    """After the beginning of an option come the options that begin so."""
    shown = shell.choices("sipuas --lo")
    assert {name for name in Options().longOpt if f"--{name.rstrip('=')}" in shown} == {"location=", "lookup-timeout="}


def test_value_is_completed(shell: Shell) -> None:
    """After an option whose values are few come its values."""
    shown = shell.choices("sipuas --mode ")
    assert [value for value in ("redirect", "stateful", "stateless") if value not in shown] == []
    assert "<--mode><redirect>" in shell.run("sipuas --mode red\t")
    assert "<--mode=redirect>" in shell.run("sipuas --mode=red\t")


def test_location_is_completed(shell: Shell) -> None:
    """After --location come the kinds, and behind the colon of one the files; no blank comes between."""
    kinds = set(re.findall("[a-z]+:", shell.choices("sipuas --location ")))
    assert kinds >= {"memory:", "sqlite:", "redis:", "postgres:", "routes:", "enum:", "http:"}
    assert "<--location><sqlite:file>" in shell.run("sipuas --location sql\tfile")
    assert "<--location><routes:routes.toml><--trace>" in shell.run("sipuas --location rou\trou\t --trace")


def test_number_is_not_completed(shell: Shell) -> None:
    """After an option that takes what nobody can guess comes nothing, no file either."""
    assert "<--max-rate><rou>" in shell.run("sipuas --max-rate rou\t")


def test_file_is_completed(shell: Shell) -> None:
    """After an option that takes a file come files."""
    assert "<--tls-client-ca><routes.toml>" in shell.run("sipuas --tls-client-ca rou\t")


def test_zsh_completes_options_of_twistd_sipuas() -> None:
    """Behind ``twistd sipuas`` it is Twisted that completes for zsh, and is told of kinds and values."""
    written = io.BytesIO()
    _shellcomp.shellComplete(Options(), "twistd", ["--location", "zsh:2"], written)
    shown = written.getvalue().decode()
    assert r":location:(memory\: sqlite\: " in shown
    assert ":mode:(redirect stateful stateless)" in shown
    assert "'*--listen=[" in shown
