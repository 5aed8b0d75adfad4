"""Folders and lists of images: which of them are used, in which order, what their classes are, and their pixels.

    folder ─┬▶ ImageSet (paths, classes) ─┬▶ pictures ─▶ evaluation
    list   ─┘                             └▶ load     ─▶ Photos (frames, hash, what was skipped) ─▶ calibration

A folder holds one folder a class, named by the class's label, or images without classes; a list names images, one a
line. ``vitedge.calib.data.video`` has the frames of a video in their place, where no classes are needed.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import CalibrationError, FrameSourceError
from vitedge.progress import Progress, Silent
from vitedge.runtime.preprocess.preprocessor import Preprocessor
from vitedge.runtime.sources.images import IMAGE_SUFFIXES, list_images, open_image
from vitedge.safety.files import is_file, is_folder, read_lines
from vitedge.safety.limits import IMAGE_PIXELS, LISTED_IMAGES, TEXT_BYTES

CALIBRATION_IMAGES = 300
"""How many images ranges are taken from, unless told: more change them little."""

READERS = min(4, os.cpu_count() or 1)
READ_AHEAD = 4 * READERS
AHEAD_PIXELS = 16_000_000
"""Largest image that is decoded before its turn."""
NAMED = 8
"""How many offenders an error names."""

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageFile:
    """An image on disk.

    Attributes:
        path: where it is.
        name: its path below the set's folder, or as its list gives it, with ``/``; of a frame, its number in words.
        class_name: the folder right below the set's folder that it lies in, or in a list the folder that its line
            names last; empty if it lies in none.
        frame: number in the video, from 0, where ``path`` is a video.
    """

    path: Path
    name: str
    class_name: str
    frame: int | None = None


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        file: where it came from.
        pixels: ``H×W×3`` uint8 RGB; None if it could not be decoded.
        sha256: of the file's contents, hex; empty if it could not be decoded.
    """

    file: ImageFile
    pixels: Frame | None
    sha256: str


class Images(Protocol):
    """What an evaluation needs of a set of images."""

    @property
    def path(self) -> Path:
        """The folder, video or list's folder that they come from."""

    @property
    def files(self) -> tuple[ImageFile, ...]:
        """The images, in order."""

    def __len__(self) -> int:
        """How many there are."""

    def is_labelled(self, labels: Sequence[str]) -> bool:
        """Whether every image has a class that is a label."""

    def targets(self, labels: Sequence[str]) -> Mapping[str, int]:
        """Which logit each class of the set is, or an error that says why there is none."""

    def pictures(self) -> Generator[Picture, None, None]:
        """The images, decoded, in order."""

    def only(self, files: Sequence[ImageFile]) -> Images:
        """The set of some of the images, in the order that they have in this one."""

    def load(self, preprocessing: Preprocessing, progress: Progress = Silent()) -> Photos:  # noqa: B008
        """The images as network inputs, in an order of which every beginning is like the whole; see ``read_photos``."""


@dataclass(frozen=True)
class Photos:
    """The images of a set as network inputs.

    Attributes:
        frames: ``(N,H,W,3)`` uint8 in the network's channel order.
        files: the ``N`` files, in the same order.
        skipped: names of the files that could not be read.
        sha256: over the names and contents of the ``N`` files, in the order in which they were read.
    """

    frames: Frame
    files: tuple[ImageFile, ...]
    skipped: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.files)


@dataclass
class Tally:
    """Hash of the images that were used, and names of those that could not be."""

    files: list[ImageFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    contents: Counter[str] = field(default_factory=Counter)
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def readable(self, pictures: Iterable[Picture]) -> Iterator[tuple[ImageFile, Frame]]:
        """Yield the files and pixels of the pictures that could be decoded; note all.

        Raises:
            CalibrationError: none could be decoded.
        """
        for picture in pictures:
            self.note(picture.file, picture.sha256)
            if picture.pixels is not None:
                self.contents[picture.sha256] += 1
                yield picture.file, picture.pixels
        self.check()

    def note(self, file: ImageFile, sha256: str) -> None:
        """Take the next image in; the hash of its contents is empty if it could not be decoded."""
        if not sha256:
            self.skipped.append(file.name)
            return
        self.files.append(file)
        self._digest.update(f"{file.name}\0{sha256}\n".encode("utf-8", "surrogateescape"))

    def check(self) -> None:
        """Refuse a set of which nothing could be decoded.

        Raises:
            CalibrationError: none could be decoded.
        """
        if not self.files:
            raise CalibrationError(
                f"none of the {len(self.skipped)} images can be read: {_some(self.skipped)}",
                expected="whole image files",
                fix="look whether they were copied completely",
            )

    @property
    def sha256(self) -> str:
        """Over the names and contents of the images that were used, in order."""
        return self._digest.hexdigest()


@dataclass(frozen=True)
class ImageSet:
    """Images of a folder in a fixed order, in which every beginning has about as many images of each class.

    Attributes:
        folder: where they are, or their list is.
        files: the images. The order follows from their names alone: a hash shuffles each class, and the classes
            take turns. The same folder gives the same order on every machine.
    """

    folder: Path
    files: tuple[ImageFile, ...]

    @classmethod
    def from_folder(cls, folder: str | Path, *, limit: int | None = None) -> ImageSet:
        """Find the images of a folder and of the folders below it. Links to folders are not followed.

        Args:
            folder: one folder a class, or images without classes.
            limit: use at most so many, spread evenly over the classes.

        Raises:
            CalibrationError: no such folder, one that cannot be listed or is beyond a bound, or one without images.
        """
        root = Path(folder)
        _check_limit(limit)
        if not is_folder(root):
            raise CalibrationError(
                f"{root} is not a folder" if os.path.lexists(root) else f"there is no folder {root}",
                expected="a folder of images",
            )
        try:
            paths = list_images(root)
        except FrameSourceError as error:
            raise CalibrationError(error.problem, expected=error.expected, fix="check who may read it") from error
        if not paths:
            raise CalibrationError(
                f"{root} holds no images",
                expected=f"files that end in {', '.join(sorted(IMAGE_SUFFIXES))}, in folders by class or in none",
                fix="links to folders are not followed: copy the folders, or list the images in a .txt file",
            )
        return cls(root, _take_turns([_image_file(path, root) for path in paths])[:limit])

    @classmethod
    def from_list(cls, path: str | Path, *, limit: int | None = None) -> ImageSet:
        """Take the images that a text file names, one path a line, relative to the file's own folder.

        Blank lines do not count. The class of an image is the folder that it lies in, if its line names one.

        Args:
            path: of the file, UTF-8.
            limit: use at most so many, spread evenly over the classes.

        Raises:
            CalibrationError: it cannot be read, is beyond a bound or names nothing, or there is no regular file of a
                name; its line is told.
        """
        listing = Path(path)
        _check_limit(limit)
        try:
            lines = [line.strip() for line in read_lines(listing, limit=TEXT_BYTES, lines=LISTED_IMAGES)]
        except (OSError, ValueError) as error:
            raise CalibrationError(
                f"{listing} cannot be read: {error}", expected="a text file in UTF-8 that names images, one a line"
            ) from error
        files = [_listed_file(listing, number, line) for number, line in enumerate(lines, 1) if line]
        if not files:
            raise CalibrationError(f"{listing} names no images", expected="the path of an image on every line")
        return cls(listing.parent, _take_turns(files)[:limit])

    def __len__(self) -> int:
        return len(self.files)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder

    def only(self, files: Sequence[ImageFile]) -> ImageSet:
        """The set of some of the images."""
        return replace(self, files=tuple(files))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Folders that the images lie in, sorted; the empty name stands for the set's own folder."""
        return tuple(sorted({file.class_name for file in self.files}))

    def is_labelled(self, labels: Sequence[str]) -> bool:
        """Whether every image lies in a folder that is named by a label, so that the folders are meant as classes."""
        matches = _matcher(labels)
        return all(matches(name) for name in self.class_names)

    def targets(self, labels: Sequence[str]) -> Mapping[str, int]:
        """Which logit each class of the set is; case, ``_`` and ``-`` do not matter.

        Args:
            labels: of the model, one a logit.

        Returns:
            The index in ``labels`` for each of ``class_names``.

        Raises:
            CalibrationError: a folder has no label or several, or images lie beside the folders.
        """
        loose = [file.name for file in self.files if not file.class_name]
        if loose:
            raise CalibrationError(
                f"{len(loose)} images of {self.folder} lie in no class's folder: {_some(loose)}",
                expected="one folder a class, named by its label",
            )
        matches_of = _matcher(labels)
        matches = {name: matches_of(name) for name in self.class_names}
        unknown = [name for name, found in matches.items() if not found]
        if unknown:
            raise self._no_label(unknown, labels)
        for name, found in matches.items():
            if len(found) > 1:
                raise CalibrationError(
                    f"the folder {name!r} may mean several classes of the model: {', '.join(map(str, found))}",
                    expected="labels that differ",
                    fix="convert again with --labels FILE, one distinct label a line",
                )
        return {name: found[0] for name, found in matches.items()}

    def pictures(self) -> Generator[Picture, None, None]:
        """Decode the images in order, a few ahead in threads of their own; those that cannot be decoded have no pixels.

        An image of more than ``AHEAD_PIXELS`` is decoded when its turn comes, so that one of them is in memory at most.

        Raises:
            MissingExtraError: Pillow is not installed.
        """
        with ThreadPoolExecutor(READERS, thread_name_prefix="vitedge-images") as pool:
            pending: deque[tuple[ImageFile, Future[Picture | None]]] = deque()
            try:
                for file in self.files:
                    pending.append((file, pool.submit(_decode, file, AHEAD_PIXELS)))
                    if len(pending) >= READ_AHEAD:
                        yield _in_turn(*pending.popleft())
                while pending:
                    yield _in_turn(*pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def load(self, preprocessing: Preprocessing, progress: Progress = Silent()) -> Photos:  # noqa: B008
        """Read all images and turn them into network inputs; as ``read_photos``."""
        return read_photos(self, preprocessing, progress)

    def _no_label(self, unknown: Sequence[str], labels: Sequence[str]) -> CalibrationError:
        known = {_plain(label): label for label in labels}
        named = unknown[:NAMED]
        close = [difflib.get_close_matches(_plain(name), list(known), n=1, cutoff=0.6) for name in named]
        hints = [f"{name!r} is close to {known[best[0]]!r}" for name, best in zip(named, close, strict=True) if best]
        return CalibrationError(
            f"{len(unknown)} of the {len(self.class_names)} folders in {self.folder} are no labels of the model: "
            f"{_some(unknown)}",
            expected=f"folders named by labels: {_some(labels)}",
            fix="; ".join(hints) or "give the folder right above the classes, or rename the folders",
        )


def read_photos(images: Images, preprocessing: Preprocessing, progress: Progress) -> Photos:
    """Read all images of a set, in its order, and turn them into network inputs as the runtime does.

    Images that cannot be read are skipped and named. A set that is too uniform to tell anything gives a warning
    among the steps of ``progress``.

    Args:
        images: the set.
        preprocessing: of the model.
        progress: told of every image.

    Raises:
        CalibrationError: none of the images can be read.
        FrameSourceError: they are frames of a video that cannot be read.
        MissingExtraError: Pillow, or OpenCV for a video, is not installed.
    """
    tally, preprocess = Tally(), Preprocessor(preprocessing)
    frames = _frames(len(images), preprocessing)
    with closing(images.pictures()) as pictures:
        tracked = progress.track(pictures, total=len(images), unit="images")
        for place, (_, pixels) in enumerate(tally.readable(tracked)):
            frames[place] = preprocess(pixels, order="RGB")
    for warning in _warnings(tally):
        progress.step(f"warning: {warning}")
    return Photos(frames[: len(tally.files)], tuple(tally.files), tuple(tally.skipped), tally.sha256)


def _frames(count: int, preprocessing: Preprocessing) -> Frame:
    try:
        return np.empty((count, *preprocessing.input_size, 3), np.uint8)
    except MemoryError as error:
        height, width = preprocessing.input_size
        raise CalibrationError(
            f"{count} images of {height}x{width} pixels do not fit the memory", fix="use fewer images"
        ) from error


def shuffled(files: Iterable[ImageFile]) -> list[ImageFile]:
    """Files in an order that a hash of their names gives: the same on every machine."""
    return sorted(files, key=_shuffled)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise CalibrationError(f"{limit} images were asked for", expected="1 or more")


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


def _shuffled(file: ImageFile) -> bytes:
    return hashlib.sha256(file.name.encode("utf-8", "surrogateescape")).digest()


def _in_turn(file: ImageFile, decoded: Future[Picture | None]) -> Picture:
    return decoded.result() or _decode(file, IMAGE_PIXELS) or Picture(file, None, "")


def _decode(file: ImageFile, most: int) -> Picture | None:
    """Decode an image of at most so many pixels; None for a larger one."""
    try:
        image = open_image(file.path)
        if math.prod(image.size) > most:
            return None
        return Picture(file, image.decode(), image.sha256)
    except FrameSourceError:
        return Picture(file, None, "")


def _matcher(labels: Sequence[str]) -> Callable[[str], list[int]]:
    """Find the indices of the labels that a folder's name means: the equal ones, else those that are nearly equal."""
    exact: dict[str, list[int]] = {}
    near: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        exact.setdefault(label, []).append(index)
        near.setdefault(_plain(label), []).append(index)
    return lambda name: exact.get(name) or near.get(_plain(name), [])


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _warnings(tally: Tally) -> Iterator[str]:
    if tally.skipped:
        yield f"{len(tally.skipped)} images cannot be read and are skipped: {_some(tally.skipped)}"
    most = tally.contents.most_common(1)[0][1]
    if len(tally.files) == 1:
        yield f"a single image; {CALIBRATION_IMAGES} give dependable ranges"
    elif most > len(tally.files) // 2:
        yield f"{most} of {len(tally.files)} images are the same file over and over"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(repr(name) for name in names[:NAMED]) + rest
