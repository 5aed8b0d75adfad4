"""Predictions as lines of JSON."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TextIO

from vitedge.files import create_file, unwritable
from vitedge.prediction import Prediction
from vitedge.runtime.outputs.base import check_new_file
from vitedge.safety import escape


class JsonLines:
    """Writes one JSON object per line (``Prediction.to_json``), flushed so that a reader sees each line at once.

    Args:
        target: path of a new file, created with the first prediction; or an open text stream, which stays open.
        overwrite: replace a file of that name when the first prediction comes.

    Raises:
        UsageError: the path exists or cannot be created.
    """

    def __init__(self, target: str | Path | TextIO, *, overwrite: bool = False) -> None:
        self._path = check_new_file(target, overwrite=overwrite) if isinstance(target, (str, Path)) else None
        self._overwrite = overwrite
        self._stream = None if isinstance(target, (str, Path)) else target

    def write(self, prediction: Prediction) -> None:
        """Write one line.

        Raises:
            UsageError: the file cannot be created.
            OutputError: the disk is full.
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
            raise unwritable(self._path or Path("the stream of JSON lines"), error) from error

    def close(self) -> None:
        """Close the file, unless the caller opened it."""
        if self._path is not None and self._stream is not None:
            with contextlib.suppress(OSError):  # write has reported what could not be flushed
                self._stream.close()

    def _opened(self) -> TextIO:
        if self._stream is None:
            assert self._path is not None
            self._stream = os.fdopen(create_file(self._path, overwrite=self._overwrite), "w", encoding="utf-8")
        return self._stream
