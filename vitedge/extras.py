"""Import optional packages at the place of use, with an error that says how to install them."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

from vitedge.errors import BrokenExtraError, MissingExtraError
from vitedge.safety import telemetry

REASON_CHARACTERS = 300

# Shared libraries that packages from PyPI expect, and the packages of Debian and Ubuntu that hold them.
_SYSTEM_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
    "libSM.so.6": "libsm6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libstdc++.so.6": "libstdc++6",
    "libusb-1.0.so.0": "libusb-1.0-0",
}
_FULL_NAMES = {"cuda": "cuda.bindings"}
"""Packages of which a first name alone says something else: CUDA itself may well be installed."""
_NUMPY_SIGNS = ("numpy", "_ARRAY_API", "multiarray", "binary incompatibility", "ABI version")


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, with its usage reports turned off (``vitedge.safety.telemetry``).

    Args:
        module: dotted import name, such as ``"openvino"``.
        extra: the extra of vitedge that installs it.
        purpose: what needs the package; begins the error message.

    Raises:
        MissingExtraError: the package, or a package that it needs, is not installed.
        BrokenExtraError: it is installed, and a shared library is missing, or it was built for another NumPy.
    """
    telemetry.disable()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise MissingExtraError(_FULL_NAMES.get(missing, missing), extra=extra, purpose=purpose) from error
    except Exception as error:  # whatever its import raises: ImportError, AttributeError, ValueError, OSError, …
        reason = " ".join(str(error).split())[:REASON_CHARACTERS] or type(error).__name__
        fix = import_fix(module, reason)
        raise BrokenExtraError(module, extra=extra, purpose=purpose, reason=reason, fix=fix) from error


def import_fix(module: str, reason: str) -> str:
    """Say what to do about a package that is installed and cannot be imported.

    Args:
        module: dotted import name.
        reason: what the import said.
    """
    top = module.partition(".")[0]
    missing = re.search(r"(lib[\w.+-]+\.so[.\d]*): cannot open", reason)
    if missing is not None:
        package = _SYSTEM_PACKAGES.get(missing[1])
        if package is None:
            return f"install the package of your system that holds {missing[1]}"
        return f"sudo apt-get install {package}"
    if any(sign in reason for sign in _NUMPY_SIGNS):
        return f"NumPy and {top} do not fit: install a newer {top}; or an older NumPy: pip install 'numpy<2'"
    return f"python -c 'import {module}' shows the whole error; install {top} again"
