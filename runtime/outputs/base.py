"""``Output``: the Protocol that every output implements, and ``deliver``, which writes predictions to outputs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from vitedge.bundle.folder import check_output_file
from vitedge.errors import UsageError
from vitedge.prediction import Prediction


class Output(Protocol):
    """Takes predictions, one at a time and in order."""

    def write(self, prediction: Prediction) -> None:
        """Take one prediction."""

    def close(self) -> None:
        """Finish the output; a second call does nothing."""


class ViewerClosed(Exception):  # noqa: N818  # a request to stop, not an error
    """Raised by an output when the person at its window wants the stream to end."""


def deliver(predictions: Iterable[Prediction], outputs: Sequence[Output]) -> None:
    """Write every prediction to every output, until the predictions end or a viewer closes the window.

    All outputs, and the predictions if they are a stream, are closed on every way out, including Ctrl-C and exceptions
    of the source or of an output.

    Args:
        predictions: a stream, or any iterable of predictions.
        outputs: outputs, each written to in this order.
    """
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.callback(output.close)
        close = getattr(predictions, "close", None)
        if close is not None:
            stack.callback(close)
        with contextlib.suppress(ViewerClosed):
            for prediction in predictions:
                for output in outputs:
                    output.write(prediction)


def check_new_file(path: str | Path, *, overwrite: bool = False) -> Path:
    """Check that a file can be created, and return its path.

    Args:
        path: of the file.
        overwrite: allow a file that exists.

    Raises:
        UsageError: the path exists, or its folder does not exist or cannot be written.
    """
    chosen = Path(path)
    if os.path.lexists(chosen) and not overwrite:
        fix = "replace it with overwrite=True, or choose another name" if chosen.is_file() else ""
        raise UsageError(f"{chosen} exists already", expected="the name of a new file", fix=fix)
    check_output_file(chosen)
    return chosen


def check_new_folder(path: str | Path, *, overwrite: bool = False) -> Path:
    """Check that a folder can be created, or is empty, and return its path.

    Args:
        path: of the folder.
        overwrite: allow a folder with something in it.

    Raises:
        UsageError: the path is a file or holds something, or the folder that it is in does not exist or cannot be
            written.
    """
    chosen = Path(path)
    if chosen.is_dir():
        if any(chosen.iterdir()) and not overwrite:
            raise UsageError(
                f"{chosen} is not empty",
                expected="the name of a new folder",
                fix="replace the videos of the same names with overwrite=True, or choose another name",
            )
        check_output_file(chosen / "video")
    elif os.path.lexists(chosen):
        raise UsageError(f"{chosen} is a file", expected="the name of a new folder, for several videos")
    else:
        check_output_file(chosen)
    return chosen
