"""Predictions as lines of JSON."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TextIO

from vitedge.errors import UsageError
from vitedge.prediction import Prediction
from vitedge.runtime.outputs.base import check_new_file
from vitedge.safety import escape


class JsonLines:
    """Writes one JSON object per line (``Prediction.to_json``), flushed so that a reader sees each line at once.

    Args:
        target: path of a new file, created with the first prediction; or an open text stream, which stays open.

    Raises:
        UsageError: the path exists or cannot be created.
    """

    def __init__(self, target: str | Path | TextIO) -> None:
        self._path = check_new_file(target) if isinstance(target, (str, Path)) else None
        self._stream = None if isinstance(target, (str, Path)) else target

    def write(self, prediction: Prediction) -> None:
        """Write one line.

        Raises:
            UsageError: the line cannot be written, for example because the disk is full.
            BrokenPipeError: the reader of the stream has gone.
        """
        line = escape.json(prediction.to_json())
        try:
            stream = self._opened()
            stream.write(f"{line}\n")
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(
                f"cannot write {self._path or 'the JSON lines'}: {error.strerror}",
                fix="free some space, or write them elsewhere",
            ) from error

    def close(self) -> None:
        """Close the file, unless the caller opened it."""
        if self._path is not None and self._stream is not None:
            with contextlib.suppress(OSError):  # write has reported what could not be flushed
                self._stream.close()

    def _opened(self) -> TextIO:
        if self._stream is None:
            assert self._path is not None
            self._stream = self._path.open("x", encoding="utf-8")
        return self._stream
