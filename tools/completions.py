"""What do bash and zsh complete behind ``sipuas``? Functions for them, from the options themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence

from twisted_sipuas.option_help import DescribedOption

_BASH = """\
# bash completion of the options of sipuas. Made by: python -m tools.shared_data

_sipuas() {{
    local -a words
    local line=${{COMP_LINE:0:COMP_POINT}} current option value
    # Not from COMP_WORDS: there the : and = of a value are words of their own.
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${{words[-1]}} option="" value=""
    if [[ $current == --*=* ]]; then
        option=${{current%%=*}} value=${{current#*=}}
    elif ((${{#words[@]}} > 2)); then
        option=${{words[-2]}} value=$current
    fi
    COMPREPLY=()
    case $option in
{cases}
    {unknown}) ;;
    *)
        mapfile -t COMPREPLY < <(compgen -W "{options}" -- "$current")
        ;;
    esac
}}

# Offers those of the words that begin with the value; where none does, or there are none, files behind a colon or @.
_sipuas_value() {{
    local value=$1 words=$2 written=${{1%"${{1##*[:@]}}"}} index
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$value")
    if ((${{#COMPREPLY[@]}})); then
        [[ ${{COMPREPLY[*]}} == *: ]] && compopt -o nospace
    elif [[ -z $words || -n $written ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -P "$written" -f -- "${{value#"$written"}}")
    fi
    # Readline takes what is behind the last colon or @ for the word, unless told otherwise.
    [[ $COMP_WORDBREAKS == *@*:* ]] || return 0
    for index in "${{!COMPREPLY[@]}}"; do
        COMPREPLY[index]=${{COMPREPLY[index]#"$written"}}
    done
}}

complete -F _sipuas sipuas
"""

_ZSH = """\
#compdef sipuas
# zsh completion of the options of sipuas. Made by: python -m tools.shared_data

# Offers what a value begins with; behind that, files.
_sipuas_beginnings() {{
    compadd -S '' -- "$@" && return
    compset -P '*[:@]' && _files
}}

_arguments -s \\
{specifications}
"""


def bash_completion(options: Sequence[DescribedOption]) -> str:
    """Return a completion function for bash; it needs nothing else, the package bash-completion neither."""
    unknown = [option for option in options if option.value and not _is_known(option)]
    cases = [
        f"""    --{option.name})
        _sipuas_value "$value" "{" ".join(option.words)}"
        ;;"""
        for option in options
        if _is_known(option)
    ]
    return _BASH.format(
        cases="\n".join(cases),
        unknown=" | ".join(f"--{option.name}" for option in unknown),
        options=" ".join(f"--{option.name}" for option in options),
    )


def _is_known(option: DescribedOption) -> bool:
    """Whether anything can be offered for the value of *option*."""
    return bool(option.words) or option.value == "FILE"


def zsh_completion(options: Sequence[DescribedOption]) -> str:
    """Return a completion function for zsh."""
    specifications = [f"    '{_zsh_specification(option)}'" for option in options]
    return _ZSH.format(specifications=" \\\n".join(specifications))


def _zsh_specification(option: DescribedOption) -> str:
    """Return what zsh's _arguments is told of *option*: whether once or often, what it is, and what its value is."""
    often = "*" if option.is_repeatable else ""
    explanation = _zsh_escaped(_first_clause(option.meaning))
    if not option.value:
        return f"--{option.name}[{explanation}]"
    return f"{often}--{option.name}=[{explanation}]:{_zsh_escaped(option.value)}:{_zsh_action(option)}"


def _zsh_action(option: DescribedOption) -> str:
    words = " ".join(map(_zsh_escaped, option.words))
    if any(word.endswith(":") for word in option.words):
        return f" _sipuas_beginnings {words}"
    if words:
        return f"({words})"
    return "_files" if option.value == "FILE" else " "


def _zsh_escaped(text: str) -> str:
    return re.sub(r"([\[\]:])", r"\\\1", text).replace("'", r"'\''")


def _first_clause(meaning: str) -> str:
    """Return what fits beside an option in a list."""
    return re.split(r"[.;](?: |$)", meaning)[0]
