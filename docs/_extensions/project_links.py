"""Where does a name in a docstring lead, and where a link in a page that was not written for Sphinx?

The docstrings of this project put code into single backticks. Such a name becomes a link if just one public object is
called so, and stays code if none is: it may be a parameter, a header field, or anything else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

_BEFORE_LETTERS = re.compile(r"(?<![`\w])`([\w.]+)`(?=\w)")

ROOT = Path(__file__).parents[2]

PAGES = {"manual": "README.md", "changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
"""Pages that are files of the project's own folder, by their name here."""

_LINKS = {
    **{f"]({name}": f"]({page}.md" for page, name in PAGES.items()},
    "](docs/": "](",
    "](LICENSE)": "](../LICENSE)",
    "](examples/location_plugin)": "](../examples/location_plugin/office_hours.py)",
    "](examples/systemd)": "](../examples/systemd/sipuas.service)",
    "](examples/docker)": "](../examples/docker/Dockerfile)",
    "](examples/": "](../examples/",
}


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the file of the project's folder in place of its page, with links that lead on from here."""
    if page not in PAGES:
        return
    text = (ROOT / PAGES[page]).read_text().replace("# twisted-sipuas\n", "# The manual\n", 1)
    for there, here in _LINKS.items():
        text = text.replace(there, here)
    source[0] = text
    app.env.note_dependency(str(ROOT / PAGES[page]))


def find(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """Return the link to the one object whose name ends in that of *node*; None if there is not one alone."""
    if node["refdomain"] != "py" or not node["reftarget"].replace(".", "").isidentifier():
        return None
    domain: Any = env.domains["py"]
    ending = f".{node['reftarget']}"
    found = {
        domain.objects[name].node_id: name
        for name in domain.objects
        if name.endswith(ending) and not domain.objects[name].aliased
    }
    if len(found) != 1:
        return None
    (name,) = found.values()
    target = domain.objects[name]
    link = nodes.reference("", "", internal=True, reftitle=name)
    link["refuri"] = f"{app.builder.get_relative_uri(node['refdoc'], target.docname)}#{target.node_id}"
    return link.append(content) or link


def separate(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let a plural follow a name in a docstring: a role would not end at the backtick in ```Target`s``."""
    lines[:] = [_BEFORE_LETTERS.sub(r"`\1`\\ ", line) for line in lines]


def is_code(app: Sphinx, domain: Any, node: pending_xref) -> bool | None:
    """Have a name in single backticks that is no link stay what it is, without a warning."""
    return True if node["reftype"] == "obj" else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", separate)
    app.connect("missing-reference", find)
    app.connect("warn-missing-reference", is_code)
    return {"parallel_read_safe": True}
