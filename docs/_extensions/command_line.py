"""What are the options of ``sipuas``? Those of `twisted_sipuas.tap.Options`, of which ``--help`` is printed too."""

from __future__ import annotations

import contextlib
import io
import re
from textwrap import indent
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from twisted_sipuas.tap import Options

_MODES = re.compile(r"\(((?:redirect|stateful|stateless)(?:, \w+)*)\) ")
_CODE = re.compile(r"--.*|@.*|.*=.*|[\w:\[]*:[^/].*")
"""A word that is typed: an option, a file, a value with its name, or ``KIND:REST``."""


class CommandOptions(SphinxDirective):
    """``.. command-options::``: every option with what it means, those of all modes first."""

    def run(self) -> list[nodes.Node]:
        """Return the descriptions."""
        groups: dict[str, list[str]] = {"": []}
        options = Options()
        for name, spelling in sorted((spelling.rstrip("="), spelling) for spelling in options.longOpt):
            meaning = " ".join(options.docs[name].split())
            modes = _MODES.match(meaning)
            default = options.defaults.get(name) if spelling.endswith("=") else None
            shown = f" [default: {default}]" if default is not None else ""
            text = literal(f"{meaning[modes.end() if modes else 0 :]}{shown}")
            groups.setdefault(modes[1] if modes else "", []).append(f".. option:: --{spelling}\n\n   {text}\n")
        parts = [".. program:: sipuas\n"]
        for modes_of_group, described in groups.items():
            title = f"In {modes_of_group.replace(', ', ' and ')} mode" if modes_of_group else "In every mode"
            parts += [f"{title}\n{'-' * len(title)}\n", *described]
        return self.parse_text_to_nodes("\n".join(parts), allow_section_headings=True)


class PrintedBy(SphinxDirective):
    """``.. printed-by:: --help-location``: what ``sipuas`` prints with that option, and ends."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return it as a literal block."""
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            Options().parseOptions(self.arguments)
        return self.parse_text_to_nodes(f".. code-block:: text\n\n{indent(printed.getvalue(), '   ')}")


def literal(text: str) -> str:
    """Return *text* as reStructuredText, with what is typed as code."""

    def shown(word: str) -> str:
        typed = word.rstrip(",.;:)" if "[" in word else ",.;:)]")
        if _CODE.fullmatch(typed):
            return f"``{typed}``{word[len(typed) :]}"
        return re.sub(r"([\\*`_|])", r"\\\1", word)

    return " ".join(map(shown, text.split()))


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("command-options", CommandOptions)
    app.add_directive("printed-by", PrintedBy)
    return {"parallel_read_safe": True}
