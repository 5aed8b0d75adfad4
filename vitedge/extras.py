"""Optional packages, imported at the place of use, with an error that says how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from vitedge.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: dotted import name, such as ``"openvino"``.
        extra: the extra of vitedge that installs it.
        purpose: what needs it; begins the error message.

    Raises:
        MissingExtraError: the package, or a package that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or module, extra=extra, purpose=purpose) from error
