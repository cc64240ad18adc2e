"""How is the documentation built? By ``sphinx-build -W --keep-going -n docs OUTPUT``, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from twisted_sipuas import __version__

project = "twisted-sipuas"
author = "the twisted-sipuas contributors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "project_links", "zope_interfaces", "command_line"]
exclude_patterns = ["_extensions"]
html_theme = "furo"
html_title = f"twisted-sipuas {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False

smartquotes = False  # which would make one dash of the two that an option begins with
myst_heading_anchors = 4

highlight_language = "text"  # a block of the README without a language is what is typed or printed

default_role = "py:obj"  # `name` in a docstring; where nothing has that name it is code: see project_links
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 110

# What -n cannot find, and why that is right.
nitpick_ignore_regex = [
    # Names of other projects, the standard library too: without a network there is no inventory of theirs.
    ("py:.*", r"(twisted|zope|OpenSSL|collections|datetime|decimal|socket|uuid)\..*"),
    # What one layer hands another: classes of modules of which users import nothing.
    ("py:class", r"twisted_sipuas\.\w+\.\w+\.\w+|Player|inspection\.Check"),
    # Names that stand for a type within a module, and are shown as what they are called there.
    ("py:class", r"(\w+\.)*_\w+"),
]
