"""The frames of a video as images without classes, for what needs no labels."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.images import ImageFile, ImageSet, Photos, Picture, read_photos, shuffled
from vitedge.errors import CalibrationError
from vitedge.progress import Progress, Silent
from vitedge.runtime.sources.capture import open_video
from vitedge.runtime.sources.images import IMAGE_SUFFIXES
from vitedge.safety.files import is_file

LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video file, in its order.

    Attributes:
        path: the video.
        files: its frames; each has the video's path and its own number.
    """

    path: Path
    files: tuple[ImageFile, ...]

    @classmethod
    def from_file(cls, path: str | Path, *, limit: int | None = None) -> VideoFrames:
        """Find the frames of a video. It is read through once: containers only estimate how many they hold.

        Args:
            path: a video that OpenCV can read.
            limit: use at most so many, spread evenly from the first to the last.

        Raises:
            CalibrationError: ``limit`` is below 1.
            FrameSourceError: OpenCV cannot read it, or it holds no frame.
            MissingExtraError: OpenCV is not installed.
        """
        if limit is not None and limit < 1:
            raise CalibrationError(f"{limit} frames were asked for", expected="1 or more")
        video = Path(path)
        with open_video(video) as source:
            count = sum(1 for _ in source)
        numbers = range(count) if limit is None or limit >= count else np.linspace(0, count - 1, limit).round()
        return cls(video, tuple(ImageFile(video, f"frame {int(number)}", "", int(number)) for number in numbers))

    def __len__(self) -> int:
        return len(self.files)

    def is_labelled(self, labels: Sequence[str]) -> bool:  # noqa: ARG002
        """Never: frames have no classes."""
        return False

    def targets(self, labels: Sequence[str]) -> Mapping[str, int]:  # noqa: ARG002
        """Frames have no classes.

        Raises:
            CalibrationError: always.
        """
        raise CalibrationError(
            f"the frames of {self.path} have no classes",
            expected="a folder of images, one folder a class, named by its label",
            fix="without classes, compare with another bundle: --against BUNDLE",
        )

    def pictures(self) -> Generator[Picture, None, None]:
        """Decode the frames in order; one that does not come has no pixels.

        Raises:
            FrameSourceError: the video cannot be read.
            MissingExtraError: OpenCV is not installed.
        """
        wanted = list(reversed(self.files))
        with open_video(self.path) as source:
            for frame in source if wanted else ():
                if frame.index != wanted[-1].frame:
                    continue
                pixels = np.ascontiguousarray(frame.image[..., ::-1])
                yield Picture(wanted.pop(), pixels, hashlib.sha256(pixels.data).hexdigest())
                if not wanted:
                    return
        for file in reversed(wanted):
            yield Picture(file, None, "")

    def only(self, files: Sequence[ImageFile]) -> VideoFrames:
        """Some of the frames."""
        return replace(self, files=tuple(files))

    def load(self, preprocessing: Preprocessing, progress: Progress = Silent()) -> Photos:  # noqa: B008
        """Read the frames in order, as ``read_photos``, and shuffle them: neighbours in a video are much alike."""
        photos = read_photos(self, preprocessing, progress)
        places = {file: place for place, file in enumerate(photos.files)}
        files = shuffled(photos.files)
        return replace(photos, frames=photos.frames[[places[file] for file in files]], files=tuple(files))


def open_images(path: str | Path, *, limit: int | None = None) -> ImageSet | VideoFrames:
    """The images of a folder or of a list, or the frames of a video.

    Args:
        path: of the folder, list (``.txt``) or video.
        limit: use at most so many, spread evenly over the classes or over the video.

    Raises:
        CalibrationError: there is nothing of that name, no image in it, or it is a single image; or a line of the list
            names no file.
        FrameSourceError: it is a file, and no video that OpenCV can read.
        MissingExtraError: it is a video, and OpenCV is not installed.
    """
    place = Path(path)
    if place.suffix.lower() in IMAGE_SUFFIXES and is_file(place):
        raise CalibrationError(
            f"{place} is a single image",
            expected="a folder of images, a list of them, or a video",
            fix="give the folder it lies in",
        )
    if place.suffix.lower() == LIST_SUFFIX and is_file(place):
        return ImageSet.from_list(place, limit=limit)
    return VideoFrames.from_file(place, limit=limit) if is_file(place) else ImageSet.from_folder(place, limit=limit)
