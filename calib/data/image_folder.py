"""Images of a folder or of a list: their order, their classes and their pixels.

A folder holds one folder a class, named by the class's label, or images without classes. A list is a text file that
names one image a line.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import (
    NAMES_SHOWN,
    CalibrationImages,
    DecodedImage,
    ImageFile,
    load_calibration_images,
    shuffled,
    some_names,
)
from vitedge.counts import counted, share_of
from vitedge.errors import CalibrationError, FrameSourceError, UsageError, near_spellings
from vitedge.files import did_you_mean_beside
from vitedge.progress import Progress, Silent
from vitedge.runtime.sources.images.reading import find_images, open_image
from vitedge.runtime.system.machine import usable_cpus
from vitedge.safety.files import is_file, is_folder, read_lines
from vitedge.safety.limits import IMAGE_PIXELS, LISTED_IMAGES, TEXT_BYTES
from vitedge.threads import allowed_threads

MOST_WORKERS = 4
PREFETCH = 4
"""Images that are decoded ahead of their turn, for each worker."""
PREFETCH_PIXELS = 16_000_000
"""Pixels of the largest image that is decoded ahead of its turn."""


@dataclass(frozen=True)
class ImageFolder:
    """Images in a fixed order, whose first images have about as many of each class as the whole.

    The order follows from the names alone: a hash shuffles each class, and the classes take turns. The same folder
    gives the same order on every machine.

    Attributes:
        folder: folder of the images, or of their list.
        files: the images.
        notices: what showed when they were found, such as files that are no images.
        listing: the file that names the images; None for a folder.
    """

    folder: Path
    files: tuple[ImageFile, ...]
    notices: tuple[str, ...] = ()
    listing: Path | None = None

    @classmethod
    def open(cls, folder: str | Path, *, limit: int | None = None) -> ImageFolder:
        """Find the images of a folder and of the folders below it. Links to folders are not followed.

        Args:
            folder: one folder a class, or images without classes.
            limit: greatest number of images, spread evenly over the classes.

        Raises:
            CalibrationError: the folder does not exist, cannot be listed, exceeds a limit or holds no images.
        """
        root = Path(folder)
        _check_limit(limit)
        if not is_folder(root):
            exists = os.path.lexists(root)
            raise CalibrationError(
                f"{root} is not a folder" if exists else f"there is no folder {root}",
                expected="a folder of images",
                fix="" if exists else did_you_mean_beside(root),
            )
        try:
            found = find_images(root)
        except FrameSourceError as error:
            raise CalibrationError(error.problem, expected=error.expected, fix="check who may read it") from error
        if not found.paths:
            raise CalibrationError(
                f"{root} holds no images{f': {found.notice}' if found.notice else ''}",
                expected="files that end in .jpg, .png, .webp or another suffix of an image, in one folder a class or "
                "in none",
                fix="links to folders are not followed: copy the folders, or list the images in a .txt file",
            )
        notices = (f"{root}: {found.notice}",) if found.notice else ()
        return cls(root, _take_turns([_image_file(path, root) for path in found.paths])[:limit], notices)

    @classmethod
    def from_list(cls, path: str | Path, *, limit: int | None = None) -> ImageFolder:
        """Take the images that a text file names, one path a line, relative to the file's own folder.

        Blank lines and repetitions are skipped. The class of an image is the folder that it lies in, if its line names
        one.

        Args:
            path: path of the file, UTF-8.
            limit: greatest number of images, spread evenly over the classes.

        Raises:
            CalibrationError: the file cannot be read, exceeds a limit or names no image; or a line, which the error
                tells, names no regular file.
        """
        listing = Path(path)
        _check_limit(limit)
        try:
            named = read_lines(listing, limit=TEXT_BYTES, lines=LISTED_IMAGES, errors="surrogateescape")
            lines = [line.strip() for line in named]
        except (OSError, ValueError) as error:
            raise CalibrationError(
                f"{listing} cannot be read: {error}", expected="a text file in UTF-8 that names images, one a line"
            ) from error
        listed = [_listed_file(listing, number, line) for number, line in enumerate(lines, 1) if line]
        first = dict[Path, ImageFile]()
        for file in listed:
            first.setdefault(file.path, file)
        files = list(first.values())
        if not files:
            raise CalibrationError(f"{listing} names no images", expected="the path of an image on every line")
        return cls(listing.parent, _take_turns(files)[:limit], listing=listing)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def path(self) -> Path:
        """Return the list or the label file if there is one, else the folder."""
        return self.listing or self.folder

    def subset(self, files: Sequence[ImageFile]) -> ImageFolder:
        """Return a dataset of some of the images."""
        return replace(self, files=tuple(files))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes of the images, sorted; the empty name stands for the dataset's own folder."""
        return tuple(sorted({file.class_name for file in self.files}))

    def by_label(self, labels: Sequence[str], class_ids: Sequence[str]) -> ImageFolder:
        """Return the images with folders that are named by a class's ID, such as ``n01440764``, named by its label.

        Args:
            labels: labels of the model, one a logit.
            class_ids: the ID of each class; empty if the model has none.
        """
        label_of = {_plain(class_id): label for class_id, label in zip(class_ids, labels, strict=False) if class_id}
        if not label_of:
            return self
        names = {name: label_of.get(_plain(name), name) for name in self.class_names if name not in set(labels)}
        files = (replace(file, class_name=names.get(file.class_name, file.class_name)) for file in self.files)
        return replace(self, files=tuple(files))

    def is_labelled(self, labels: Sequence[str]) -> bool:
        """Return whether a label names the folder of every image, so that the folders are meant as classes."""
        matches = _matcher(labels)
        return all(matches(name) for name in self.class_names)

    def class_to_idx(self, labels: Sequence[str]) -> Mapping[str, int]:
        """Return the index in ``labels`` of each of ``class_names``; case, ``_`` and ``-`` do not matter.

        Args:
            labels: labels of the model, one a logit. A folder ``crane`` may mean ``crane (3)`` or ``crane (7)``, and
                is refused.

        Raises:
            CalibrationError: a folder has no label or several, or images lie beside the folders.
        """
        loose = [file.name for file in self.files if not file.class_name]
        if loose:
            lie = counted(len(loose), f"image of {self.path} lies", f"images of {self.path} lie")
            raise CalibrationError(
                f"{lie} in no class's folder: {some_names(loose)}",
                expected="one folder a class, named by its label",
            )
        matches_of = _matcher(labels)
        matches = {name: matches_of(name) for name in self.class_names}
        unknown = [name for name, found in matches.items() if not found]
        if unknown:
            raise self._unknown_classes(unknown, labels)
        for name, found in matches.items():
            if len(found) > 1:
                raise CalibrationError(
                    f"the folder {name!r} may mean several classes of the model: {', '.join(map(str, found))} "
                    f"({some_names([labels[index] for index in found])})",
                    expected="the folder of one class",
                    fix="give the folder the whole label; where these are equal, convert again with labels=FILE",
                )
        return {name: found[0] for name, found in matches.items()}

    def decode(self) -> Generator[DecodedImage, None, None]:
        """Decode the images in order, a few ahead in threads; an image that cannot be decoded has no pixels.

        An image of more than ``PREFETCH_PIXELS`` is decoded in its turn, so that memory holds at most one such image.

        Raises:
            MissingExtraError: Pillow is not installed.
        """
        workers = min(MOST_WORKERS, allowed_threads() or usable_cpus())
        with ThreadPoolExecutor(workers, thread_name_prefix="vitedge-images") as pool:
            pending: deque[tuple[ImageFile, Future[DecodedImage | None]]] = deque()
            try:
                for file in self.files:
                    pending.append((file, pool.submit(_decode, file, PREFETCH_PIXELS)))
                    if len(pending) >= PREFETCH * workers:
                        yield _in_turn(*pending.popleft())
                while pending:
                    yield _in_turn(*pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def load(self, preprocessing: Preprocessing, progress: Progress = Silent()) -> CalibrationImages:  # noqa: B008
        """Read all images and turn them into network inputs; see ``load_calibration_images``."""
        return load_calibration_images(self, preprocessing, progress)

    def _unknown_classes(self, unknown: Sequence[str], labels: Sequence[str]) -> CalibrationError:
        known = {_plain(label): label for label in labels}
        named = unknown[:NAMES_SHOWN]
        close = [near_spellings(_plain(name), known, limit=1) for name in named]
        hints = [f"{name!r} is close to {known[best[0]]!r}" for name, best in zip(named, close, strict=True) if best]
        return CalibrationError(
            f"{share_of(len(unknown), len(self.class_names), 'folder')} in {self.path} "
            f"{'is no label' if len(unknown) == 1 else 'are no labels'} of the model: {some_names(unknown)}",
            expected=f"folders named by labels: {some_names(labels)}",
            fix="; ".join(hints) or "give the folder right above the classes, or rename the folders",
        )


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} images were asked for", expected="1 or more")


def _listed_file(listing: Path, number: int, line: str) -> ImageFile:
    path = listing.parent / line
    if not is_file(path):
        raise CalibrationError(
            f"line {number} of {listing}: there is no file {path}",
            expected=f"the path of an image, relative to {listing.parent}; no folder, FIFO or device",
        )
    return ImageFile(path, Path(line).as_posix(), Path(line).parent.name)


def _image_file(path: Path, root: Path) -> ImageFile:
    below = path.relative_to(root)
    return ImageFile(path, below.as_posix(), below.parts[0] if len(below.parts) > 1 else "")


def _take_turns(files: Iterable[ImageFile]) -> tuple[ImageFile, ...]:
    """Shuffle each class by a hash of the names, then let the classes take turns."""
    classes: dict[str, list[ImageFile]] = {}
    for file in shuffled(files):
        classes.setdefault(file.class_name, []).append(file)
    rounds = zip_longest(*(classes[name] for name in sorted(classes)))
    return tuple(file for file in chain.from_iterable(rounds) if file is not None)


def _in_turn(file: ImageFile, decoded: Future[DecodedImage | None]) -> DecodedImage:
    return decoded.result() or _decode(file, IMAGE_PIXELS) or DecodedImage(file, None, "")


def _decode(file: ImageFile, max_pixels: int) -> DecodedImage | None:
    """Decode an image of at most so many pixels; return None for a larger one."""
    try:
        image = open_image(file.path)
        if math.prod(image.size) > max_pixels:
            return None
        stored = image.decode()
        return DecodedImage(file, stored.pixels, image.sha256, stored.orientation)
    except FrameSourceError:
        return DecodedImage(file, None, "")


def _matcher(labels: Sequence[str]) -> Callable[[str], list[int]]:
    """Return a function from a folder's name to the indices of its labels.

    They are equal labels, else nearly equal ones, else several that differ only in what follows them in parentheses.
    """
    exact: dict[str, list[int]] = {}
    near: dict[str, list[int]] = {}
    shared: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        exact.setdefault(label, []).append(index)
        near.setdefault(_plain(label), []).append(index)
        if label.endswith(")"):
            shared.setdefault(_plain(label.rpartition(" (")[0]), []).append(index)
    several = {name: indices for name, indices in shared.items() if len(indices) > 1}
    return lambda name: exact.get(name) or near.get(_plain(name)) or several.get(_plain(name), [])


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
