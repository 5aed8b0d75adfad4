"""Optional packages, imported at the place of use, with an error that says how to install them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from vitedge.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, without the usage reports that some of them send.

    Importing OpenVINO or NNCF reports to Google Analytics through the package ``openvino_telemetry``, unless that
    cannot be imported. vitedge opens no connection that it was not asked for, so the package is made unavailable to
    this process, unless the application has imported it already.

    Args:
        module: dotted import name, such as ``"openvino"``.
        extra: the extra of vitedge that installs it.
        purpose: what needs it; begins the error message.

    Raises:
        MissingExtraError: the package, or a package that it needs, is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or module, extra=extra, purpose=purpose) from error
