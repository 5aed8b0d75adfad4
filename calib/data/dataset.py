"""Datasets of images, for calibration and for evaluation.

    ImageFolder ─┐                 ┌▶ decode ─▶ DecodedImage ─▶ evaluation
                 ├▶ ImageDataset ──┤
    VideoFrames ─┘                 └▶ load ─▶ CalibrationImages (network inputs, hash, skipped files) ─▶ calibration

``open_dataset`` in ``vitedge.calib.data.open`` chooses between an ``ImageFolder`` and ``VideoFrames``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.counts import counted, share_of
from vitedge.errors import CalibrationError
from vitedge.progress import Progress, Silent
from vitedge.runtime.preprocess.orientation import AS_STORED, is_turned, orientation_notice, oriented
from vitedge.runtime.preprocess.preprocessor import Preprocessor

CALIBRATION_IMAGES = 300
"""Default number of calibration images; more of them change the ranges little."""

NAMES_SHOWN = 8
"""Number of names that an error or a warning lists."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageFile:
    """An image on disk, or a frame of a video on disk.

    Attributes:
        path: path of the image or video.
        name: path below the dataset's folder, or path as the list gives it, with ``/``; ``frame N`` for a frame.
        class_name: first folder below the dataset's folder, or in a list the last folder that the line names; empty
            if the image lies in no such folder.
        frame: number of the frame in the video, from 0; None for an image.
        labels: labels of the image in a label file; None if the image comes from elsewhere.
    """

    path: Path
    name: str
    class_name: str
    frame: int | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class DecodedImage:
    """An image after decoding.

    Attributes:
        file: the file that was decoded.
        pixels: ``H×W×3`` uint8 RGB; None if decoding failed.
        sha256: hex SHA-256 of the file's contents; empty if decoding failed.
        orientation: EXIF orientation, 1…8; the pixels are as they are stored.
    """

    file: ImageFile
    pixels: Pixels | None
    sha256: str
    orientation: int = AS_STORED


@dataclass(frozen=True)
class CalibrationImages:
    """The images of a dataset as network inputs.

    Attributes:
        frames: ``(N,H,W,3)`` uint8 in the network's channel order.
        files: the ``N`` files, in the same order.
        skipped: names of the files that could not be read.
        sha256: hex SHA-256 of the names and contents of the ``N`` files, in the order of reading.
    """

    frames: Pixels
    files: tuple[ImageFile, ...]
    skipped: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.files)


class ImageDataset(Protocol):
    """A dataset that calibration and evaluation can read."""

    @property
    def path(self) -> Path:
        """Return the folder, the video, the list or the label file."""

    @property
    def notices(self) -> tuple[str, ...]:
        """Return remarks from the search for images, such as how many files are no images."""

    @property
    def files(self) -> tuple[ImageFile, ...]:
        """Return the images, in order."""

    def __len__(self) -> int:
        """Return the number of images."""

    def is_labelled(self, labels: Sequence[str]) -> bool:
        """Return whether the class of every image is one of the labels."""

    def class_to_idx(self, labels: Sequence[str]) -> Mapping[str, int]:
        """Return the index in ``labels`` of each class.

        Raises:
            CalibrationError: an image has no class, or a class has no label or several.
        """

    def decode(self) -> Generator[DecodedImage, None, None]:
        """Decode the images, in order."""

    def subset(self, files: Sequence[ImageFile]) -> ImageDataset:
        """Return a dataset of some of the images; they must be in the order of this dataset."""

    def load(self, preprocessing: Preprocessing, progress: Progress = Silent()) -> CalibrationImages:  # noqa: B008
        """Read the images as network inputs, in an order whose first images are as varied as the whole dataset.

        Arguments and errors are as for ``load_calibration_images``.
        """


@dataclass
class DatasetDigest:
    """Hash of the images that were read, and names of the images that could not be read."""

    files: list[ImageFile] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    oriented: int = 0
    contents: Counter[str] = field(default_factory=Counter)
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def readable(
        self, images: Iterable[DecodedImage], preprocessing: Preprocessing
    ) -> Iterator[tuple[ImageFile, Pixels]]:
        """Yield file and pixels of the images that were decoded, and add every image to the digest.

        The pixels are turned by their orientation, if the preprocessing asks for it.

        Raises:
            CalibrationError: no image was decoded.
        """
        for image in images:
            self.add(image.file, image.sha256)
            if image.pixels is not None:
                self.contents[image.sha256] += 1
                self.oriented += is_turned(image.orientation)
                yield image.file, oriented(image.pixels, image.orientation, preprocessing)
        self.check_not_empty()

    def add(self, file: ImageFile, sha256: str) -> None:
        """Add the next image; an empty hash means that it could not be decoded."""
        if not sha256:
            self.skipped.append(file.name)
            return
        self.files.append(file)
        self._digest.update(f"{file.name}\0{sha256}\n".encode("utf-8", "surrogateescape"))

    def check_not_empty(self) -> None:
        """Refuse a dataset without a readable image.

        Raises:
            CalibrationError: no image was decoded.
        """
        if not self.files:
            raise CalibrationError(
                f"{share_of(0, len(self.skipped), 'image')} can be read: {some_names(self.skipped)}",
                expected="whole image files",
                fix="check that they were copied completely",
            )

    @property
    def sha256(self) -> str:
        """Return the hex SHA-256 of the names and contents of the images that were read, in order."""
        return self._digest.hexdigest()


def load_calibration_images(
    images: ImageDataset, preprocessing: Preprocessing, progress: Progress
) -> CalibrationImages:
    """Read all images of a dataset, in its order, and turn them into network inputs as the runtime does.

    Images that cannot be read are skipped and named. A dataset of one image, or of one image repeated, gives a warning
    among the steps of ``progress``.

    Args:
        images: the dataset.
        preprocessing: of the model.
        progress: told of every image.

    Raises:
        CalibrationError: no image can be read.
        FrameSourceError: the video cannot be read.
        MissingExtraError: Pillow, or PyAV for a video, is not installed.
    """
    digest, preprocess = DatasetDigest(), Preprocessor(preprocessing)
    frames = _allocate(len(images), preprocessing)
    with closing(images.decode()) as decoded:
        tracked = progress.track(decoded, total=len(images), unit="images")
        for place, (_, pixels) in enumerate(digest.readable(tracked, preprocessing)):
            frames[place] = preprocess(pixels, order="RGB")
    for warning in _warnings(digest):
        progress.step(f"warning: {warning}")
    for notice in images.notices:
        progress.step(f"note: {notice}")
    if digest.oriented:
        progress.step(f"note: {orientation_notice(digest.oriented, str(images.path), preprocessing)}")
    return CalibrationImages(frames[: len(digest.files)], tuple(digest.files), tuple(digest.skipped), digest.sha256)


def shuffled(files: Iterable[ImageFile]) -> list[ImageFile]:
    """Return the files ordered by a hash of their names: the same order on every machine."""
    return sorted(files, key=_name_hash)


def some_names(names: Sequence[str]) -> str:
    """Return the first names in quotes, and the number of the others."""
    rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(repr(name) for name in names[:NAMES_SHOWN]) + rest


def _name_hash(file: ImageFile) -> bytes:
    return hashlib.sha256(file.name.encode("utf-8", "surrogateescape")).digest()


def _allocate(count: int, preprocessing: Preprocessing) -> Pixels:
    try:
        return np.empty((count, *preprocessing.input_size, 3), np.uint8)
    except MemoryError as error:
        height, width = preprocessing.input_size
        raise CalibrationError(
            f"{counted(count, 'image')} of {height}x{width} pixels do not fit into memory", fix="use fewer images"
        ) from error


def _warnings(digest: DatasetDigest) -> Iterator[str]:
    if digest.skipped:
        skipped = counted(
            len(digest.skipped), "image cannot be read and is skipped", "images cannot be read and are skipped"
        )
        yield f"{skipped}: {some_names(digest.skipped)}"
    most = digest.contents.most_common(1)[0][1]
    if len(digest.files) == 1:
        yield f"a single image; {CALIBRATION_IMAGES} give dependable ranges"
    elif most > len(digest.files) // 2:
        yield f"{most} of {counted(len(digest.files), 'image')} are copies of one file"
