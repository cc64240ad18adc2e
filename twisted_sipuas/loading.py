"""What transaction user does a name such as ``package.module.Class`` stand for, and what is wrong if it is none?"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from typing import Any

from twisted_sipuas.interfaces import ITransactionUser
from twisted_sipuas.uas.server import UserAgentServer

__all__ = ["load", "make"]


def load(name: str) -> type:
    """Return the `ITransactionUser` class *name*, as in ``package.module.Class``; the current directory counts too.

    Raises `ValueError` that says in one line why there is none.
    """
    module_name, dot, class_name = name.rpartition(".")
    if not dot or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{name!r}: expected PACKAGE.MODULE.CLASS")
    found = getattr(_module(name, module_name), class_name, None)
    if found is None:
        close = difflib.get_close_matches(class_name, dir(sys.modules[module_name]), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{name!r}: the module {module_name} has no {class_name}{hint}")
    if not isinstance(found, type):
        raise ValueError(f"{name!r} is {_article(type(found).__name__)}: expected a class")
    if not ITransactionUser.implementedBy(found):
        raise ValueError(f"{name!r} does not provide ITransactionUser: derive it from twisted_sipuas.UserAgentServer")
    return found


def make(found: type, options: Any) -> Any:
    """Return the transaction user of the class *found*: by its ``from_options(options)``, or without arguments.

    Raises `ValueError` that says in one line why it cannot be made.
    """
    from_options = getattr(found, "from_options", None)
    try:
        made = found() if from_options is None else from_options(options)
    except (Exception, SystemExit) as error:
        what = f"{found.__qualname__}{'()' if from_options is None else '.from_options'}"
        hint = ""
        if from_options is None and isinstance(error, TypeError):
            hint = "; give it a class method from_options(options) that makes one"
        raise ValueError(f"{found.__module__}.{what} failed: {_one_line(error)}{hint}") from None
    if isinstance(made, UserAgentServer) and not hasattr(made, "clock"):
        raise ValueError(f"{found.__module__}.{found.__qualname__}: its __init__ has to call super().__init__()")
    return made


def _module(name: str, module_name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if f"{module_name}.".startswith(f"{missing}."):
            raise ValueError(f"{name!r}: no module {missing} in {here} nor where Python looks for modules") from None
        raise ValueError(f"{name!r}: {module_name} needs the module {missing}, which is not installed") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name!r}: {module_name} cannot be imported: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    """Return what *error* says, and in which file and line."""
    if isinstance(error, SyntaxError):
        file, line, text = error.filename, error.lineno, error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        file, line, text = frames[-1].filename, frames[-1].lineno, str(error)
    text = " ".join(text.split())
    return f"{type(error).__name__}{f': {text}' if text else ''} ({file}, line {line})"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"
