"""Label files: images with any number of labels each, for models that give several labels an image.

{"file": "beach/1.jpg", "labels": ["sea", "person"]}
{"file": "beach/2.jpg", "labels": []}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vitedge.calib.data.dataset import ImageFile, shuffled
from vitedge.calib.data.image_folder import ImageFolder
from vitedge.errors import CalibrationError, UsageError
from vitedge.safety.files import is_file, parse_json, read_lines
from vitedge.safety.limits import LISTED_IMAGES, TEXT_BYTES

LABEL_FILE_SUFFIX = ".jsonl"
EXAMPLE = '{"file": "beach/1.jpg", "labels": ["sea", "person"]}'


def read_label_file(path: str | Path, *, limit: int | None = None) -> ImageFolder:
    """Read a text file with one JSON object a line: the path of an image relative to the file, and its labels.

    Blank lines and repetitions are skipped. The class of an image with exactly one label is that label.

    Args:
        path: path of the file, UTF-8.
        limit: greatest number of images.

    Raises:
        CalibrationError: the file cannot be read, exceeds a limit or names no image; or a line, which the error tells,
            has another form, names no regular file, or gives an image other labels than a line before it.
    """
    listing = Path(path)
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} images were asked for", expected="1 or more")
    try:
        lines = read_lines(listing, limit=TEXT_BYTES, lines=LISTED_IMAGES)
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"{listing} cannot be read: {error}", expected=f"a text file in UTF-8 with lines such as {EXAMPLE}"
        ) from error
    files = list(_labelled_files(listing, lines))
    if not files:
        raise CalibrationError(f"{listing} names no images", expected=f"lines such as {EXAMPLE}")
    return ImageFolder(listing.parent, tuple(shuffled(files)[:limit]), listing=listing)


def _labelled_files(listing: Path, lines: Sequence[str]) -> Iterator[ImageFile]:
    """Read each image once, however many lines name it."""
    seen = dict[Path, ImageFile]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        file = _labelled_file(listing, number, line)
        before = seen.setdefault(file.path, file)
        if before is file:
            yield file
        elif before.labels != file.labels:
            raise CalibrationError(
                f"line {number} of {listing} gives {file.name} other labels than a line before it",
                expected="all labels of an image on one line",
            )


def _labelled_file(listing: Path, number: int, line: str) -> ImageFile:
    where = f"line {number} of {listing}"
    name, labels = _parsed(line, where)
    path = listing.parent / name
    if not is_file(path):
        raise CalibrationError(
            f"{where}: there is no file {path}",
            expected=f"the path of an image, relative to {listing.parent}; no folder, FIFO or device",
        )
    return ImageFile(path, Path(name).as_posix(), labels[0] if len(labels) == 1 else "", labels=labels)


def _parsed(line: str, where: str) -> tuple[str, tuple[str, ...]]:
    try:
        value: Any = parse_json(line)
    except ValueError as error:
        raise CalibrationError(f"{where} is not JSON: {error}", expected=f"an object such as {EXAMPLE}") from error
    match value:
        case {"file": str(name), "labels": list(labels)} if name and all(isinstance(each, str) for each in labels):
            return name, tuple(dict.fromkeys(labels))
    raise CalibrationError(f"{where} is {line.strip()!r:.120}", expected=f"an object such as {EXAMPLE}")
