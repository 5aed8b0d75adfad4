"""Child interpreters that import no module and load no library from the current folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

SEARCH_PATHS = ("PYTHONPATH", "LD_LIBRARY_PATH", "PATH")

_LEAVE_OUT = "import sys; sys.path[:] = [each for each in sys.path if each]"
_RUN_MODULE = (
    f"{_LEAVE_OUT}; import runpy; sys.argv = sys.argv[1:]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str) -> list[str]:
    """Return a command that runs a module with this interpreter, like ``python -m`` but without the current folder.

    ``python -m`` and ``python -c`` put the current folder first on ``sys.path``; a ``numpy.py`` there would run. From
    Python 3.11, ``-P`` prevents this. ``-I`` would also leave out the user's site-packages, where vitedge may be
    installed. Give the child ``environment()``.
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", module, *arguments]
    return [sys.executable, "-c", _RUN_MODULE, module, *arguments]


def code_command(code: str, *arguments: str) -> list[str]:
    """Return a command that runs source with this interpreter, like ``python -c`` but without the current folder."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-c", code, *arguments]
    return [sys.executable, "-c", f"{_LEAVE_OUT}\n{code}", *arguments]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a child's environment: this process's environment, with absolute search paths only.

    An empty entry of a search path stands for the current folder. OpenCV appends one to ``LD_LIBRARY_PATH`` when it is
    imported.

    Args:
        extra: additional variables.
    """
    variables = {**os.environ, **(extra or {})}
    for name in SEARCH_PATHS:
        kept = [each for each in variables.pop(name, "").split(os.pathsep) if Path(each).is_absolute()]
        if kept:
            variables[name] = os.pathsep.join(kept)
    return variables
