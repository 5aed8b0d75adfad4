"""Child interpreters that import no module of the current folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_BOOT = (
    "import sys; here = sys.path[0]; sys.path[:] = [each for each in sys.path if each not in ('', here)]; "
    "import runpy; sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str) -> list[str]:
    """Command that runs a module of vitedge in this interpreter, as ``python -m`` does, without the current folder.

    ``python -m`` and ``python -c`` put the current folder first on ``sys.path``: a ``numpy.py`` there would run. From
    3.11 on ``-P`` prevents it; ``-I`` would leave out the user's site-packages too, where vitedge may be installed.
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", module, *arguments]
    return [sys.executable, "-c", _BOOT, module, *arguments]


def code_command(code: str, *arguments: str) -> list[str]:
    """Command that runs Python source in this interpreter, as ``python -c`` does, without the current folder."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-c", code, *arguments]
    return [sys.executable, "-c", f"import sys; sys.path[:] = [each for each in sys.path if each]\n{code}", *arguments]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of a child: this process's, with empty and relative entries of ``PYTHONPATH`` left out."""
    variables = {**os.environ, **(extra or {})}
    kept = _absolute(variables.get("PYTHONPATH", "").split(os.pathsep))
    variables.pop("PYTHONPATH", None)
    return {**variables, "PYTHONPATH": os.pathsep.join(kept)} if kept else variables


def _absolute(entries: Sequence[str]) -> list[str]:
    return [each for each in entries if Path(each).is_absolute()]
