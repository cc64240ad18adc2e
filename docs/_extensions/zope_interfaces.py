"""``.. autointerface:: PACKAGE.IName``: what does an interface ask for? autodoc takes it for an instance.

The signatures are those of the source, with their annotations, which zope.interface does not keep.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from textwrap import indent
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc_sig_keyword, desc_sig_space
from sphinx.application import Sphinx
from sphinx.domains.python import PyClasslike
from sphinx.util.docutils import SphinxDirective
from zope.interface.interface import InterfaceClass


class Interface(PyClasslike):
    """``.. py:interface:: NAME``: a class to everybody who refers to it, and called an interface."""

    def run(self) -> list[nodes.Node]:
        """See `PyClasslike`."""
        self.name = "py:class"
        return super().run()

    def get_signature_prefix(self, sig: str) -> list[nodes.Node]:
        """See `PyClasslike`."""
        return [desc_sig_keyword("", "interface"), desc_sig_space()]


class AutoInterface(SphinxDirective):
    """``.. autointerface:: PACKAGE.IName``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the description of the interface, made of its docstrings."""
        package, _, name = self.arguments[0].rpartition(".")
        interface = getattr(import_module(package), name)
        module = sys.modules[interface.__module__]
        self.env.note_dependency(str(module.__file__))
        head = f".. py:interface:: {name}\n   :module: {package}\n   :canonical: {module.__name__}.{name}\n"
        return self.parse_text_to_nodes(f"{head}\n{indent(description(interface, module), '   ')}")


def description(interface: InterfaceClass, module: Any) -> str:
    """Return what is said of *interface* and of each thing in it, in the order of the source, as reStructuredText."""
    bases = ", ".join(f"`{base.__name__}`" for base in interface.__bases__ if base.__name__ != "Interface")
    extends = f"\n\nExtends {bases}." if bases else ""
    return "\n".join([inspect.cleandoc(interface.__doc__) + extends, "", *members(interface, module)])


def members(interface: InterfaceClass, module: Any) -> Iterator[str]:
    """Give the description of each attribute and method of *interface*."""
    tree = ast.parse(inspect.getsource(module))
    (defined,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == interface.__name__]
    for node in defined.body:
        if isinstance(node, ast.FunctionDef):
            returns = ast.unparse(node.returns) if node.returns else "object"
            arrow = "" if returns == "object" else f" -> {returns}"  # a value, a Deferred: the docstring tells
            kind, name, signature = "method", node.name, f"{node.name}({ast.unparse(node.args)}){arrow}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            kind, name, signature = "attribute", node.targets[0].id, node.targets[0].id
        else:
            continue
        yield f".. py:{kind}:: {signature}\n\n{indent(inspect.cleandoc(interface[name].__doc__), '   ')}\n"


def shown(interface: InterfaceClass) -> str:
    """Return what stands for *interface* in an annotation: as autodoc has classes, shown by the last part alone."""
    return f"~{interface.__module__}.{interface.getName()}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    InterfaceClass.__repr__ = shown  # type: ignore[method-assign]  # which is what autodoc takes for an instance
    app.add_directive_to_domain("py", "interface", Interface)
    app.add_directive("autointerface", AutoInterface)
    return {"parallel_read_safe": True}
