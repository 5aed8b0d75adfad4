"""Every error that vitedge raises on purpose.

    VitedgeError
    ├── UsageError              a request that cannot be met: unknown name, existing output
    ├── MissingExtraError       an optional package is not installed
    ├── CheckpointError         weights, configuration or labels that do not fit together
    ├── ConversionError         export, rewrite, compilation or verification failed
    ├── CalibrationError        calibration or evaluation images that cannot be used
    ├── BundleError             a bundle that cannot be read
    │   ├── BundleIntegrityError    a file is missing, truncated or altered
    │   ├── BundleSchemaError       the manifest is malformed or from a newer vitedge
    │   └── BundleSignatureError    no trusted key has signed it, or it was altered after signing
    ├── EngineError             an engine that does not load, run or pass its self-test
    └── FrameSourceError        a camera, video or image that yields no usable frame

Errors of other libraries are translated once, where vitedge calls them, with ``raise … from error``.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable

from vitedge.safety.escape import message
from vitedge.safety.limits import NAME_CHARACTERS, NAMES_COMPARED


class VitedgeError(Exception):
    """Base of all errors of this package.

    The texts may quote untrusted text. Control characters are escaped here, for terminals, logs and tracebacks.

    Args:
        problem: what is wrong, and where.
        expected: what would be right.
        fix: what to do.
    """

    def __init__(self, problem: str, *, expected: str = "", fix: str = "") -> None:
        self.problem = message(problem)
        self.expected = message(expected)
        self.fix = message(fix)
        super().__init__(self.problem)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without calling ``__init__``, whose arguments differ from class to class."""
        return _restored, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        lines = [self.problem]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class UsageError(VitedgeError):
    """A request that cannot be met."""


class MissingExtraError(VitedgeError):
    """An optional package is not installed.

    Args:
        package: import name of the missing package.
        extra: extra of vitedge that installs it.
        purpose: what needs the package; begins the message.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed", fix=f'pip install "vitedge[{extra}]"')
        self.package = package
        self.extra = extra


class CheckpointError(VitedgeError):
    """Weights, configuration or labels that do not fit together."""


class ConversionError(VitedgeError):
    """Export, rewrite, compilation or verification failed."""


class CalibrationError(VitedgeError):
    """Calibration or evaluation images that cannot be used."""


class BundleError(VitedgeError):
    """A bundle that cannot be read."""


class BundleIntegrityError(BundleError):
    """A file of the bundle is missing, truncated or altered."""


class BundleSchemaError(BundleError):
    """The manifest is malformed, or written by a newer vitedge."""


class BundleSignatureError(BundleError):
    """No trusted key has signed the bundle, or it was altered after signing."""


class EngineError(VitedgeError):
    """An engine that does not load, run or pass its self-test."""


class FrameSourceError(VitedgeError):
    """A camera, video or image that yields no usable frame."""


def _restored(kind: type[VitedgeError], arguments: tuple[object, ...], state: dict[str, object]) -> VitedgeError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Suggest the known names closest to a mistyped one, as a phrase for an error's ``fix``; empty without close names.

    Names longer than ``NAME_CHARACTERS``, and names after the first ``NAMES_COMPARED``, are not compared.

    >>> did_you_mean("deit_tinny", ["deit_tiny", "swin_tiny"], limit=1)
    'did you mean deit_tiny?'
    """
    if len(name) > NAME_CHARACTERS:
        return ""
    names = [each for each in itertools.islice(known, NAMES_COMPARED) if len(each) <= NAME_CHARACTERS]
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else ""
