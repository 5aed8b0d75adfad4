"""Takes the current folder off the search path of ``python -m vitedge``, as soon as it is imported.

``python -m`` puts the current folder first: a ``numpy.py`` or ``tensorrt/`` there, in a folder that came with a bundle,
would run in place of the library. ``vitedge`` imports this module before any other, and this module imports nothing but
what every interpreter has loaded when a program begins. Python itself finds ``vitedge`` before it can act: in a
stranger's folder use the command ``vitedge``, or ``python -P -m vitedge`` (3.11).

Nothing changes for an application that imports vitedge, and ``PYTHONPATH`` is the user's word: Python has run
``sitecustomize`` from it before any program begins. Its children get no relative entry of it (``child``).
"""

import os
import sys


def started_as_module(package: str) -> bool:
    """Whether ``python -m`` was told to run this package or a module of it, and is importing it now."""
    if sys.argv[:1] != ["-m"]:  # what runpy leaves there until it has found the module
        return False
    word = sys.orig_argv[-len(sys.argv)]  # the last before the program's arguments: NAME, -mNAME or -XmNAME
    name = word.split("m", 1)[-1] if word.startswith("-") else word
    return name.split(".")[0] == package


def leave_out_current_folder() -> None:
    """Remove the first entry of the search path, if it is the current folder and ``python -m`` put it there."""
    if getattr(sys.flags, "safe_path", False) or sys.flags.isolated:
        return
    try:
        here = os.getcwd()  # noqa: PTH109  # pathlib could be one of the folder's
    except OSError:  # it was removed
        return
    if sys.path[:1] in ([here], [""]):
        del sys.path[0]


if started_as_module("vitedge"):
    leave_out_current_folder()
