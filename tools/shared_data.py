"""Writes what an installation has beside the package: the manual page, and completions for bash and zsh.

Run ``python -m tools.shared_data`` when an option or the version has changed; a test tells when that was forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tools.completions import bash_completion, zsh_completion
from tools.manual_page import manual_page
from twisted_sipuas.location import location_kinds
from twisted_sipuas.option_help import DescribedOption, grouped_options
from twisted_sipuas.options import Options

ROOT = Path(__file__).parents[1]


def shared_data() -> Mapping[str, str]:
    """Return what there is to write, by its path below the root of the project."""
    groups = list(grouped_options(Options()))
    options = [_with_kinds(option) for group in groups for option in group.options]
    return {
        "share/man/man1/sipuas.1": manual_page(Options.longdesc, groups),
        "share/bash-completion/completions/sipuas": bash_completion(options),
        "share/zsh/site-functions/_sipuas": zsh_completion(options),
    }


def _with_kinds(option: DescribedOption) -> DescribedOption:
    """Return *option*, and if it is --location with the kinds that come with the package; plugins may be installed."""
    if option.name != "location":
        return option
    ours = (kind for kind in location_kinds() if getattr(kind, "module", "").startswith("twisted_sipuas."))
    return replace(option, words=tuple(f"{kind.kind}:" for kind in ours))


def main() -> None:
    """Write all of it."""
    for name, text in shared_data().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
