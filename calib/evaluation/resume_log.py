"""A file of answers beside a report that is not finished, so that an evaluation goes on where it was interrupted.

The first line says what the answers are about; each other one holds a batch. A line that was cut off is done again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vitedge.bundle.bundle import Bundle
from vitedge.calib.data.images import Images
from vitedge.calib.evaluation.predictions import BATCH_IMAGES, Batch, Row, Verdict
from vitedge.errors import CalibrationError, UsageError
from vitedge.safety.files import open_regular, parse_json
from vitedge.safety.limits import JOURNAL_BYTES, JSON_BYTES
from vitedge.version import VERSION

FORMAT = 1
_DIGEST = re.compile("(?:[0-9a-f]{64})?")


class Journal:
    """The answers of batches, by their first image.

    Args:
        path: of the file; it need not exist.
        key: what the answers are about (``journal_key``). A file with another key is written anew.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._header = {"format": FORMAT, "key": key}
        self._whole = 0

    def read(self) -> Generator[tuple[int, list[Row]], None, None]:
        """The batches that are whole, each with the place of its first image; none where the key differs.

        Raises:
            UsageError: the file cannot be read, is no regular file, or is beyond a bound.
        """
        self._whole = 0
        try:
            with open_regular(self.path, limit=JOURNAL_BYTES) as stream:
                yield from self._batches(_lines(stream))
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error

    def _batches(self, lines: Iterable[bytes]) -> Iterator[tuple[int, list[Row]]]:
        for line in lines:
            value = _parsed(line)
            batch = _batch(value) if self._whole else None
            if batch is None and (self._whole or value != self._header):
                return
            if batch is not None:
                yield batch
            self._whole += len(line)

    def append(self, batch: Batch, rows: Sequence[Row]) -> None:
        """Add a batch behind those that ``read`` found; what follows them is overwritten.

        Raises:
            UsageError: it cannot be written.
        """
        lines = [] if self._whole else [self._header]
        lines.append({"start": batch.start, "rows": [_plain(row) for row in rows]})
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines).encode()
        try:
            with self._opened() as stream:
                stream.seek(self._whole)
                stream.write(text)
                stream.truncate()
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}", fix="free some space") from error
        self._whole += len(text)

    def _opened(self) -> BinaryIO:
        """The file, to be written; a FIFO or device in its place is refused without waiting."""
        if os.path.lexists(self.path):
            open_regular(self.path, limit=JOURNAL_BYTES).close()
        return self.path.open("r+b" if self._whole else "wb")

    def remove(self) -> None:
        """Its report is written."""
        self.path.unlink(missing_ok=True)


def journal_key(bundles: Iterable[Bundle], images: Images, engine: str | None) -> str:
    """Hex SHA-256 over what decides the answers: bundles, images by name, size and time of change, engine, vitedge.

    Raises:
        CalibrationError: an image has gone.
    """
    digest = hashlib.sha256(f"{VERSION}\0{engine}\0{BATCH_IMAGES}\n".encode())
    for bundle in bundles:
        digest.update(bundle.digest.encode())
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
    """The lines of a file; one that is too long comes without its end."""
    return iter(lambda: stream.readline(JSON_BYTES), b"")


def _parsed(line: bytes) -> Any:
    """The value of a whole line; None of one that is cut off."""
    try:
        return parse_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _plain(row: Row) -> list[Any]:
    return [row.sha256, [[each.indices, each.scores, each.divergence] for each in row.verdicts]]


def _batch(value: Any) -> tuple[int, list[Row]] | None:
    """The place and rows of a line; None where it is not of this form."""
    try:
        start, rows = value["start"], [_row(each) for each in value["rows"]]
    except (KeyError, TypeError, ValueError):
        return None
    return (start, rows) if type(start) is int else None


def _row(value: Any) -> Row:
    sha256, verdicts = value
    if not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256) or bool(sha256) != bool(verdicts):
        raise ValueError("a row of another form")
    return Row(sha256, tuple(_verdict(*each) for each in verdicts))


def _verdict(indices: Any, scores: Any, divergence: Any) -> Verdict:
    best, shares = tuple(map(_index, indices)), tuple(map(_number, scores))
    if len(best) != len(shares):
        raise ValueError("scores of other classes")
    return Verdict(best, shares, _number(divergence))


def _index(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("no index")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("no number")
    return value  # type: ignore[no-any-return]
