"""Does a user who installs the package get the command? Built, installed and run outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import twisted_sipuas
from twisted_sipuas import __main__

ROOT = Path(__file__).parents[2]
PLUGIN = "pytest_twisted_sipuas.py"
"""pytest's plugin, beside the package."""
SHIPPED = ("twisted_sipuas", "twisted", "tests", "examples", "docs", "benchmarks", "tools", "share")
"""Directories a build may look at."""


def run(*command: str | Path, directory: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, untouched by the test run's own Python settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    result = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    if check:
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result


def files(directory: str) -> set[str]:
    """Paths of the files below a directory of the checkout, relative to that directory."""
    return {path.relative_to(ROOT / directory).as_posix() for path in (ROOT / directory).rglob("*") if path.is_file()}


def modules(directory: str) -> set[str]:
    """Paths of the Python files below a directory of the checkout, relative to the checkout."""
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / directory).rglob("*.py")}


@dataclass
class Environment:
    """A virtual environment with the project installed, used from a directory where nothing else lies."""

    bin: Path
    elsewhere: Path

    def run(self, program: str, *arguments: str) -> str:
        """What the program says, on both outputs; it must succeed."""
        result = run(self.bin / program, *arguments, directory=self.elsewhere)
        return result.stdout + result.stderr


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def source(directory: Path) -> Path:
    """A copy of the checkout, with the plugin cache that an editable install leaves there."""
    copy = directory / "source"
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
    for path in ROOT.iterdir():
        if path.suffix in {".toml", ".md"} or path.name in {"LICENSE", ".gitignore", PLUGIN}:
            shutil.copy(path, copy)
    (copy / "twisted" / "plugins" / "dropin.cache").write_bytes(b"")
    return copy


@pytest.fixture(scope="module")
def builder(directory: Path) -> Path:
    """The Python of an environment with pip, build and twine; skips where these cannot be had."""
    run(sys.executable, "-m", "venv", directory / "builder", directory=directory)
    python = directory / "builder" / "bin" / "python"
    install = (python, "-m", "pip", "install", "--retries", "1", "--upgrade", "pip", "build", "twine")
    result = run(*install, directory=directory, check=False)
    if result.returncode != 0:
        pytest.skip(f"pip reaches no package index: {result.stderr.strip()[-300:]}")
    return python


@pytest.fixture(scope="module")
def distributions(directory: Path, source: Path, builder: Path) -> dict[str, Path]:
    """The sdist, and the wheel built from that sdist."""
    run(builder, "-m", "build", "--outdir", directory / "dist", source, directory=directory)
    (sdist,) = (directory / "dist").glob("*.tar.gz")
    (wheel,) = (directory / "dist").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def install(name: str, directory: Path, builder: Path, *what: str | Path) -> Environment:
    """A fresh virtual environment with this installed, nothing optional, and no pip of its own, which saves time."""
    environment = directory / name
    run(sys.executable, "-m", "venv", "--without-pip", environment, directory=directory)
    python = environment / "bin" / "python"
    run(builder, "-m", "pip", "--python", python, "install", "--no-compile", *what, directory=directory)
    elsewhere = directory / f"{name}-elsewhere"
    elsewhere.mkdir()
    return Environment(environment / "bin", elsewhere)


@pytest.fixture(scope="module")
def from_wheel(directory: Path, builder: Path, distributions: dict[str, Path]) -> Environment:
    return install("from-wheel", directory, builder, distributions["wheel"])


@pytest.fixture(scope="module")
def from_sdist(directory: Path, builder: Path, distributions: dict[str, Path]) -> Environment:
    return install("from-sdist", directory, builder, distributions["sdist"])


@pytest.fixture(scope="module")
def editable(directory: Path, builder: Path, source: Path) -> Environment:
    return install("editable", directory, builder, "--editable", source)


@pytest.mark.parametrize("path", ["twisted/__init__.py", "twisted/plugins/__init__.py"])
def test_twisted_directory_is_a_namespace(path: str) -> None:
    """The first file would hide Twisted itself, the second would make Twisted pass over the plugin in silence."""
    assert not (ROOT / path).exists()


def test_wheel_contents(distributions: dict[str, Path]) -> None:
    """The wheel has every module, the plugins, the typing marker, the manual page and the completions, and no more."""
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    shared = {name for name in names if ".data/" in name}
    assert {name.partition(".data/data/share/")[2] for name in shared} == files("share")
    names -= shared
    assert names >= modules("twisted_sipuas") | modules("twisted") | {"twisted_sipuas/py.typed"}
    assert {name for name in names if not name.startswith("twisted_sipuas/")} == modules("twisted") | {PLUGIN}


def test_sdist_contents(distributions: dict[str, Path]) -> None:
    """The sdist has what a packager needs to build and to test, and no plugin cache."""
    with tarfile.open(distributions["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names >= modules("twisted_sipuas") | modules("twisted") | modules("tests") | modules("tools")
    assert names >= {f"share/{name}" for name in files("share")}
    assert names >= {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "twisted_sipuas/py.typed", PLUGIN}
    assert not [name for name in names if name.endswith("dropin.cache")]


def test_version(distributions: dict[str, Path]) -> None:
    """The distributions carry the version that the package states."""
    assert distributions["wheel"].name.startswith(f"twisted_sipuas-{twisted_sipuas.__version__}-")
    assert distributions["sdist"].name == f"twisted_sipuas-{twisted_sipuas.__version__}.tar.gz"


def test_twine_accepts_the_distributions(directory: Path, builder: Path, distributions: dict[str, Path]) -> None:
    """A package index takes what was built, and shows its description."""
    run(builder, "-m", "twine", "check", "--strict", *distributions.values(), directory=directory)


def test_installation_has_manual_page_and_completions(from_wheel: Environment) -> None:
    """They are installed where man, bash and zsh look, beside the directory of the command."""
    share = from_wheel.bin.parent / "share"
    assert [name for name in files("share") if not (share / name).is_file()] == []


@pytest.mark.parametrize("how", ["from_wheel", "from_sdist", "editable"])
def test_twistd_lists_the_command(how: str, request: pytest.FixtureRequest) -> None:
    """However installed, ``twistd --help`` lists sipuas, and no plugin needs an optional package to load."""
    environment: Environment = request.getfixturevalue(how)
    said = environment.run("twistd", "--help")
    assert "sipuas " in said
    assert "Traceback" not in said


def test_twistd_loads_nothing_of_ours_to_list_it(from_wheel: Environment) -> None:
    """A fault in the package must not show in every other ``twistd`` command on the machine."""
    program = """
import sys
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
print([maker.module for maker in getPlugins(IServiceMaker) if maker.tapname == "sipuas"])
print([name for name in sys.modules if name.startswith("twisted_sipuas")])
"""
    assert from_wheel.run("python", "-c", program).splitlines() == ["['twisted_sipuas.tap']", "[]"]


def test_pytest_finds_its_plugin(from_wheel: Environment) -> None:
    """pytest is told of the plugin, which is a module beside the package so that it need not import all of that."""
    program = """
from importlib.metadata import entry_points
print([(entry.name, entry.value) for entry in entry_points(group="pytest11")])
"""
    assert from_wheel.run("python", "-c", program).strip() == "[('pytest_twisted_sipuas', 'pytest_twisted_sipuas')]"


def test_location_plugin(directory: Path, source: Path, builder: Path, distributions: dict[str, Path]) -> None:
    """The example of a kind of location service is a package that pip installs, and is listed then."""
    example = source / "examples" / "location_plugin"
    environment = install("with-plugin", directory, builder, distributions["wheel"], example)
    said = environment.run("sipuas", "--help-location")
    assert "\nhours:OPEN_URI CLOSED_URI" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", [("sipuas",), ("python", "-m", "twisted_sipuas"), ("twistd", "-n", "sipuas")])
def test_command_help(command: tuple[str, ...], from_wheel: Environment) -> None:
    """Each way to start the server knows its options, with nothing optional installed."""
    said = from_wheel.run(*command, "--help")
    assert "--listen" in said
    assert "Traceback" not in said


def test_main_is_twistd_in_the_foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    """``sipuas OPTIONS`` is ``twistd --nodaemon --pidfile= sipuas OPTIONS``."""
    seen: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["sipuas", "--listen", "udp:0"])
    monkeypatch.setattr("twisted.scripts.twistd.runApp", seen.append)
    __main__.main()
    (config,) = seen
    assert (config["nodaemon"], config["pidfile"]) == (1, "")
    assert (config.subCommand, config.subOptions["listen"]) == ("sipuas", ["udp:0"])
