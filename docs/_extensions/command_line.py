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

from twisted_sipuas.option_help import grouped_options
from twisted_sipuas.tap import Options

_CODE = re.compile(r"--.*|@.*|.*=.*|[\w:\[]*:[^/].*")
"""A word that is typed: an option, a file, a value with its name, or ``KIND:REST``."""


class CommandOptions(SphinxDirective):
    """``.. command-options::``: every option with what it means, in the groups of ``--help``."""

    def run(self) -> list[nodes.Node]:
        """Return the descriptions."""
        parts = [".. program:: sipuas\n"]
        for group in grouped_options(Options()):
            parts.append(f"{group.title}\n{'-' * len(group.title)}\n")
            for option in group.options:
                default = f" The default is: {option.default}." if option.default else ""
                parts.append(f".. option:: {option.form}\n\n   {literal(option.meaning + default)}\n")
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
