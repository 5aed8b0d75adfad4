"""Import optional packages at the place of use, with an error that says how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from vitedge.errors import MissingExtraError
from vitedge.safety import telemetry


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, with its usage reports turned off (``vitedge.safety.telemetry``).

    Args:
        module: dotted import name, such as ``"openvino"``.
        extra: the extra of vitedge that installs it.
        purpose: what needs the package; begins the error message.

    Raises:
        MissingExtraError: the package, or a package that it needs, is not installed.
    """
    telemetry.disable()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or module, extra=extra, purpose=purpose) from error
