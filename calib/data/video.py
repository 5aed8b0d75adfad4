"""Frames of a video as a dataset without classes, where no labels are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.calib.data.dataset import CalibrationImages, DecodedImage, ImageFile, load_calibration_images, shuffled
from vitedge.errors import CalibrationError, UsageError
from vitedge.progress import Progress, Silent
from vitedge.runtime.sources.options import SourceOptions
from vitedge.runtime.sources.video.file import open_video

_LAZY = SourceOptions(planes=True)
"""Only the frames that are used become BGR; FFmpeg converts them like every frame of a file."""


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video file, in its order, without the frames that its decoder calls damaged.

    Attributes:
        path: the video.
        files: the frames; each has the path of the video and its own number.
    """

    path: Path
    files: tuple[ImageFile, ...]

    @classmethod
    def open(cls, path: str | Path, *, limit: int | None = None) -> VideoFrames:
        """Find the frames of a video. The video is read once, because containers only estimate the frame count.

        Args:
            path: a video that FFmpeg can read.
            limit: greatest number of frames, spread evenly from the first to the last.

        Raises:
            UsageError: ``limit`` is below 1.
            FrameSourceError: FFmpeg cannot read the video, or it holds no frame.
            MissingExtraError: PyAV is not installed.
        """
        if limit is not None and limit < 1:
            raise UsageError(f"{limit} frames were asked for", expected="1 or more")
        video = Path(path)
        with open_video(video, _LAZY) as source:
            intact = [frame.index for frame in source if not frame.corrupt]
        count = len(intact)
        places = range(count) if limit is None or limit >= count else np.linspace(0, count - 1, limit).round()
        numbers = [intact[int(place)] for place in places]
        return cls(video, tuple(ImageFile(video, f"frame {number}", "", number) for number in numbers))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def notices(self) -> tuple[str, ...]:
        """Return no notices: a video lies in one file."""
        return ()

    def is_labelled(self, labels: Sequence[str]) -> bool:  # noqa: ARG002
        """Return False: frames have no classes."""
        return False

    def class_to_idx(self, labels: Sequence[str]) -> Mapping[str, int]:  # noqa: ARG002
        """Refuse: frames have no classes.

        Raises:
            CalibrationError: always.
        """
        raise CalibrationError(
            f"the frames of {self.path} have no classes",
            expected="a folder of images, one folder a class, named by its label",
            fix="without classes, compare with another bundle: against=BUNDLE",
        )

    def decode(self) -> Generator[DecodedImage, None, None]:
        """Decode the frames in order; a frame that the video does not give has no pixels.

        Raises:
            FrameSourceError: the video cannot be read.
            MissingExtraError: PyAV is not installed.
        """
        wanted = list(reversed(self.files))
        with open_video(self.path, _LAZY) as source:
            for frame in source if wanted else ():
                if frame.index != wanted[-1].frame:
                    continue
                pixels = np.ascontiguousarray(frame.image[..., ::-1])
                digest = hashlib.sha256(pixels.data).hexdigest()
                yield DecodedImage(wanted.pop(), pixels, digest, frame.orientation)
                if not wanted:
                    return
        for file in reversed(wanted):
            yield DecodedImage(file, None, "")

    def subset(self, files: Sequence[ImageFile]) -> VideoFrames:
        """Return a dataset of some of the frames."""
        return replace(self, files=tuple(files))

    def load(self, preprocessing: Preprocessing, progress: Progress = Silent()) -> CalibrationImages:  # noqa: B008
        """Read the frames in order, then shuffle them, because neighbours in a video are much alike.

        Arguments and errors are as for ``load_calibration_images``.
        """
        images = load_calibration_images(self, preprocessing, progress)
        places = {file: place for place, file in enumerate(images.files)}
        files = shuffled(images.files)
        return replace(images, frames=images.frames[[places[file] for file in files]], files=tuple(files))
