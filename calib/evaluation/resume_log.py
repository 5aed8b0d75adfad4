"""A log of predictions beside an unfinished report, so that an evaluation resumes where it was interrupted.

The first line identifies models and dataset. Each other line holds the results of a batch. A line that was cut off is
ignored, and its batch is classified again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from vitedge.calib.data.dataset import ImageDataset
from vitedge.calib.evaluation.predictions import BATCH_IMAGES, Batch, ImageResult, TopK
from vitedge.errors import CalibrationError, UsageError
from vitedge.files import unwritable
from vitedge.safety.files import open_regular, parse_json
from vitedge.safety.limits import JSON_BYTES, RESUME_LOG_BYTES
from vitedge.version import VERSION

FORMAT = 1
_DIGEST = re.compile("(?:[0-9a-f]{64})?")


class Identified(Protocol):
    """What identifies the predictions of a model: a bundle, or a checkpoint.

    Attributes:
        digest: hex SHA-256.
    """

    @property
    def digest(self) -> str:
        """Return the hex SHA-256 of whatever decides its predictions."""


class ResumeLog:
    """The results of finished batches, in a JSON Lines file.

    Args:
        path: path of the file; it need not exist.
        key: identifies models and dataset (``resume_key``). A file with another key is overwritten.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._header = {"format": FORMAT, "key": key}
        self._whole = 0

    def read(self) -> Generator[tuple[int, list[ImageResult]], None, None]:
        """Yield the results of each complete batch with the position of its first image; nothing if the key differs.

        Raises:
            UsageError: the file cannot be read, is no regular file, or exceeds a limit.
        """
        self._whole = 0
        try:
            with open_regular(self.path, limit=RESUME_LOG_BYTES) as stream:
                yield from self._batches(_lines(stream))
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error

    def _batches(self, lines: Iterable[bytes]) -> Iterator[tuple[int, list[ImageResult]]]:
        for line in lines:
            value = _parsed(line)
            batch = _batch(value) if self._whole else None
            if batch is None and (self._whole or value != self._header):
                return
            if batch is not None:
                yield batch
            self._whole += len(line)

    def append(self, batch: Batch, results: Sequence[ImageResult]) -> None:
        """Add a batch after the batches that ``read`` found; anything after them is overwritten.

        Raises:
            UsageError: the file cannot be written.
            OutputError: the disk is full.
        """
        lines = [] if self._whole else [self._header]
        lines.append({"start": batch.start, "rows": [_plain(result) for result in results]})
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        try:
            with self._opened() as stream:
                stream.seek(self._whole)
                stream.write(text)
                stream.truncate()
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._whole += len(text)

    def _opened(self) -> BinaryIO:
        """Open the file for writing; refuse a FIFO or device in its place without waiting."""
        if os.path.lexists(self.path):
            open_regular(self.path, limit=RESUME_LOG_BYTES).close()
        return self.path.open("r+b" if self._whole else "wb")

    def remove(self) -> None:
        """Delete the file, once the report is written."""
        self.path.unlink(missing_ok=True)


def resume_key(models: Iterable[Identified], images: ImageDataset, engine: str | None) -> str:
    """Return a hex SHA-256 over models, images (name, size, modification time), engine and version of vitedge.

    Raises:
        CalibrationError: an image no longer exists.
    """
    digest = hashlib.sha256(f"{VERSION}\0{engine}\0{BATCH_IMAGES}\n".encode())
    for model in models:
        digest.update(model.digest.encode())
    facts: dict[Path, str] = {}
    for file in images.files:
        if file.frame is None or file.path not in facts:
            facts = {file.path: _stamp(file.path)}
        digest.update(f"{file.name}\0{facts[file.path]}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}", fix="start again") from error
    return f"{status.st_size}\0{status.st_mtime_ns}"


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; a line that is too long is cut off."""
    return iter(lambda: stream.readline(JSON_BYTES), b"")


def _parsed(line: bytes) -> Any:
    """Return the value of a complete line; None for a line that is cut off."""
    try:
        return parse_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _plain(result: ImageResult) -> list[Any]:
    return [result.sha256, [[each.indices, each.scores, each.divergence] for each in result.predictions]]


def _batch(value: Any) -> tuple[int, list[ImageResult]] | None:
    """Return position and results of a line; None if the line has another form."""
    try:
        start, results = value["start"], [_result(each) for each in value["rows"]]
    except (KeyError, TypeError, ValueError):
        return None
    return (start, results) if type(start) is int else None


def _result(value: Any) -> ImageResult:
    sha256, predictions = value
    if not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256) or bool(sha256) != bool(predictions):
        raise ValueError("not the form of a result")
    return ImageResult(sha256, tuple(_topk(*each) for each in predictions))


def _topk(indices: Any, scores: Any, divergence: Any) -> TopK:
    best, probabilities = tuple(map(_index, indices)), tuple(map(_number, scores))
    if len(best) != len(probabilities):
        raise ValueError("not as many scores as classes")
    return TopK(best, probabilities, _number(divergence))


def _index(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("no index")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("no number")
    return value  # type: ignore[no-any-return]
