"""Remove the current folder from the search path of ``python -m vitedge``, on import.

``python -m`` puts the current folder first, so that a ``numpy.py`` or ``tensorrt/`` in a folder that came with a bundle
would run instead of the library. ``vitedge`` imports this module before any other. The module itself imports only
modules that every interpreter has loaded at the start of a program. Python finds ``vitedge`` itself before this module
can act: in an untrusted folder use the command ``vitedge``, or ``python -P -m vitedge`` (Python 3.11).

Nothing changes for an application that imports vitedge. ``PYTHONPATH`` is trusted, because Python runs
``sitecustomize`` from it before any program begins. Children get no relative entry of it (``child``).
"""

import os
import sys


def started_as_module(package: str) -> bool:
    """Return whether ``python -m`` is now importing this package or a module of it."""
    if sys.argv[:1] != ["-m"]:  # runpy leaves "-m" there until it has found the module
        return False
    word = sys.orig_argv[-len(sys.argv)]  # the word before the program's arguments: NAME, -mNAME or -XmNAME
    name = word.split("m", 1)[-1] if word.startswith("-") else word
    return name.split(".")[0] == package


def leave_out_current_folder() -> None:
    """Remove the first entry of the search path if ``python -m`` put the current folder there."""
    if getattr(sys.flags, "safe_path", False) or sys.flags.isolated:
        return
    try:
        here = os.getcwd()  # noqa: PTH109  # the current folder could hold a pathlib
    except OSError:  # the folder was deleted
        return
    if sys.path[:1] in ([here], [""]):
        del sys.path[0]


if started_as_module("vitedge"):
    leave_out_current_folder()
