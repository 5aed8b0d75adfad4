"""Every error that vitedge raises on purpose.

    VitedgeError
    ├── UsageError              a request that cannot be met: unknown name, existing output
    ├── OutputError             a result that cannot be written: for example because the disk is full
    ├── MissingExtraError       an optional package is not installed
    │   └── BrokenExtraError        it is installed, and cannot be imported
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

import itertools
from collections.abc import Iterable
from typing import Literal

from vitedge.safety.escape import message
from vitedge.safety.limits import NAME_CHARACTERS, NAMES_COMPARED

__all__ = [
    "BrokenExtraError",
    "BundleError",
    "BundleIntegrityError",
    "BundleSchemaError",
    "BundleSignatureError",
    "CalibrationError",
    "Cause",
    "CheckpointError",
    "ConversionError",
    "EngineError",
    "FrameSourceError",
    "MissingExtraError",
    "OutputError",
    "UsageError",
    "VitedgeError",
]

CHARACTERS_A_MISTAKE = 5
"""Characters of a name for each mistake in a near spelling."""
MISTAKES = 4
"""Most mistakes in a near spelling."""
SEPARATORS = "_-./:"
Cause = Literal[
    "auth",
    "not_found",
    "refused",
    "timeout",
    "tls",
    "codec",
    "no_video",
    "device_busy",
    "permission",
    "unplugged",
    "network",
    "eof",
]
"""Why a source does not deliver: wrong user or password; no such path or device; nobody listens; no answer in time; no
trust in a certificate; no decoder; no video in what it sends; another program holds the device; no right to open it;
the device is gone; the connection broke; the sender ended the stream."""
FAR = NAME_CHARACTERS + 1


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


class OutputError(VitedgeError):
    """A result that cannot be written, for example because the disk is full."""


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


class BrokenExtraError(MissingExtraError):
    """An optional package is installed, and cannot be imported.

    Args:
        package: import name of the package.
        extra: extra of vitedge that installs it.
        purpose: what needs the package; begins the message.
        reason: what its import said.
        fix: what to do.
    """

    def __init__(self, package: str, *, extra: str, purpose: str, reason: str, fix: str) -> None:
        VitedgeError.__init__(
            self,
            f"{purpose} needs {package}, which is installed and cannot be imported: {reason}",
            expected="the libraries of the system, and the version of NumPy, that it was built for",
            fix=fix,
        )
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
    """A camera, video or image that yields no usable frame.

    Args:
        problem: what is wrong, and where.
        expected: what would be right.
        fix: what to do.
        cause: the kind of the problem, for programs; None if no ``Cause`` fits.
    """

    def __init__(self, problem: str, *, expected: str = "", fix: str = "", cause: Cause | None = None) -> None:
        super().__init__(problem, expected=expected, fix=fix)
        self.cause = cause


def _restored(kind: type[VitedgeError], arguments: tuple[object, ...], state: dict[str, object]) -> VitedgeError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def class_and_first_line(error: BaseException) -> str:
    """Return the class of an error, and the first line of its text if it has any."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Suggest the known names that ``near_spellings`` finds, as a phrase for an error's ``fix``; empty without any.

    >>> did_you_mean("deit_tinny", ["deit_tiny", "swin_tiny"], limit=1)
    'did you mean deit_tiny?'
    """
    close = near_spellings(name, known, limit=limit)
    return f"did you mean {' or '.join(close)}?" if close else ""


def near_spellings(name: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """Find the known names that a name may be a misspelling of, the nearest first.

    They differ by one mistake, or one in ``CHARACTERS_A_MISTAKE`` characters, at most ``MISTAKES``: a character that
    is inserted, left out, replaced or swapped with its neighbour. Or they begin with the name, of which little is cut
    off, or which ends at a separator, as ``vit_base`` in ``vit_base_patch16_224``. Names longer than
    ``NAME_CHARACTERS``, and names after the first ``NAMES_COMPARED``, are not compared.
    """
    if not name or len(name) > NAME_CHARACTERS:
        return []
    names = [each for each in itertools.islice(known, NAMES_COMPARED) if len(each) <= NAME_CHARACTERS]
    far = {each: _distance(name, each) for each in names}
    return sorted((each for each in far if far[each] < FAR), key=far.__getitem__)[:limit]


def _distance(name: str, known: str) -> int:
    """Count the mistakes, or the characters that are cut off; ``FAR`` for a name that is not near."""
    longer = max(len(name), len(known))
    most = min(MISTAKES, max(longer // CHARACTERS_A_MISTAKE, int(longer > 2)))
    mistakes = _mistakes(name, known, most)
    if mistakes <= most:
        return mistakes
    is_beginning = known.startswith(name) and (known[len(name)] in SEPARATORS or 3 * len(known) <= 5 * len(name))
    return len(known) - len(name) if is_beginning else FAR


def _mistakes(one: str, other: str, most: int) -> int:
    """Count the mistakes between two words (optimal string alignment); more than ``most`` if there are more."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    one, other = _without_beginning(one, other)
    one, other = _without_beginning(one[::-1], other[::-1])
    outside = most + 1
    before: list[int] = []
    row: list[int] = [*range(most + 1), *[outside] * (len(other) - most)]
    for index, letter in enumerate(one, 1):
        two_before, before = before, row
        row = [index, *[outside] * len(other)]
        for column in range(max(1, index - most), min(len(other), index + most) + 1):
            against = other[column - 1]
            cost = min(before[column] + 1, row[column - 1] + 1, before[column - 1] + (letter != against))
            if index > 1 and column > 1 and letter == other[column - 2] and one[index - 2] == against:
                cost = min(cost, two_before[column - 2] + 1)
            row[column] = cost
        if min(row) > most and min(before) > most:
            break
    return row[len(other)]


def _without_beginning(one: str, other: str) -> tuple[str, str]:
    """Cut off the beginning that two words share."""
    pairs = zip(one, other, strict=False)
    shared = next((index for index, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))
    return one[shared:], other[shared:]


def __dir__() -> list[str]:
    return list(__all__)
