"""Internal: what Python says of a name that ``vitedge`` does not have, and of a checkout that is not installed."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

MAPPED_ROOM = "vitedge.runtime"
"""A package whose folder is beside ``vitedge/`` in a checkout: only an installation maps it into the package."""
MAX_CHARACTERS = 100
"""Longest part of a name that is compared."""


def check_installed(folder: str) -> None:
    """Refuse to import a checkout that is not installed.

    Args:
        folder: the folder that holds ``vitedge/``.

    Raises:
        ImportError: the message has the command to run.
    """
    if importlib.util.find_spec(MAPPED_ROOM) is None:
        raise ImportError(
            f"vitedge is imported from its source folder {folder}, which is not installed\n"
            f"  fix: {sys.executable} -m pip install -e {shlex.quote(folder)}; or start Python in another folder, if "
            "vitedge is installed without -e"
        )


def unknown_name(name: str, public: Sequence[str]) -> str:
    """Name the public name that is nearest to an unknown one, in any case of letters; all of them if none is near."""
    from vitedge.errors import near_spellings

    spelled = {each.lower(): each for each in public}
    near = near_spellings(name.lower()[:MAX_CHARACTERS], spelled, limit=1)
    return f"did you mean {spelled[near[0]]}?" if near else f"vitedge has {', '.join(public)}"


class NearestModule:
    """Finder that stands last in ``sys.meta_path``, and names the nearest public name for ``import vitedge.nosuch``.

    Args:
        public: the public names of ``vitedge``.
    """

    def __init__(self, public: Sequence[str]) -> None:
        self._public = public

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Find nothing.

        Raises:
            ModuleNotFoundError: ``vitedge`` has no module of that name. Its ``name`` is None: the import system drops
                the error of ``from vitedge import nosuch`` if it is set.
        """
        package, _, module = name.rpartition(".")
        if package != "vitedge":
            return None
        raise ModuleNotFoundError(f"No module named {name!r}; {unknown_name(module, self._public)}")

    def install(self) -> None:
        """Take the place of an earlier finder of this kind, at the end."""
        sys.meta_path[:] = [each for each in sys.meta_path if type(each).__name__ != type(self).__name__]
        sys.meta_path.append(self)
