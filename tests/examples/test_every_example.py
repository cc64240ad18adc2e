"""Is each example what people may copy: short, typed, made of public names, and found from the README?"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.examples.test_examples import ROOT

EXAMPLES = ROOT / "examples"
FILES = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in EXAMPLES.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts and path.name != "dropin.cache"
)
CODE = [name for name in FILES if Path(name).suffix in {".py", ".tac"}]
PROGRAMS = [name for name in CODE if "location_plugin" not in name]


def parse(name: str) -> ast.Module:
    """Return the code of the example *name*."""
    return ast.parse((EXAMPLES / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_is_short(name: str) -> None:
    """A file of fewer than 80 lines is read before it is copied."""
    assert len((EXAMPLES / name).read_text().splitlines()) < 80


@pytest.mark.parametrize("name", PROGRAMS)
def test_says_what_it_is_for(name: str) -> None:
    """The docstring begins with what the example is for, and shows the command that starts it, by its path."""
    docstring = ast.get_docstring(parse(name)) or ""
    assert docstring.partition("\n\n")[0].endswith((".", "?"))
    assert any(line.startswith("    ") and f"examples/{name}" in line for line in docstring.splitlines())


@pytest.mark.parametrize("name", CODE)
def test_is_typed(name: str) -> None:
    """Each parameter and result has a type: code that does not is no model for who checks types."""
    for function in ast.walk(parse(name)):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            untyped = [each.arg for each in parameters if each.annotation is None and each.arg != "self"]
            assert untyped == [], function.name
            assert function.returns is not None, function.name


@pytest.mark.parametrize("name", CODE)
def test_uses_public_names(name: str) -> None:
    """An example imports of this package what that says is public, and uses no private attribute of another's."""
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twisted_sipuas"):
            module = importlib.import_module(node.module or "")
            names = {alias.name for alias in node.names}
            assert names <= {*module.__all__, "testing"}
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            assert isinstance(node.value, ast.Name), node.attr
            assert node.value.id == "self", node.attr


@pytest.mark.parametrize("name", sorted({Path(name).parts[0] for name in FILES}))
def test_is_in_the_readme(name: str) -> None:
    """The README links to each example."""
    assert f"](examples/{name})" in (ROOT / "README.md").read_text()
