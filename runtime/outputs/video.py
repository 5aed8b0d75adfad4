"""Annotated frames as a video file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from vitedge.errors import UsageError, VitedgeError
from vitedge.extras import require
from vitedge.prediction import Image, Prediction
from vitedge.runtime.outputs.base import check_new_file, check_new_folder
from vitedge.runtime.outputs.overlay import RateMeter, annotate
from vitedge.runtime.outputs.video_writer import VideoWriter, format_of
from vitedge.runtime.system.owned import Owned, close_all

UNKNOWN_FPS = 30.0
LONGEST_GAP_SECONDS = 60.0
"""A longer time between two predictions, as while a machine sleeps, is shown as this."""


class AnnotatedVideo(Owned):
    """Writes a video of the annotated frames, each at its own time, so that it plays at the speed of the source.

    ``.mp4``, ``.m4v``, ``.mov`` and ``.mkv`` hold H.264, ``.webm`` VP9, and ``.avi`` JPEG pictures of a constant rate.
    Browsers play ``.mp4`` and ``.webm``. A video that was not closed can be played up to its last second.

    The time of a frame is its presentation time, if it has one. A new connection to a camera goes on after the time
    that passed since the last frame by the monotonic clock.

    Args:
        path: path of a new file, created with the first frame; its suffix is one of ``VIDEO_FORMATS``.
        fps: frames per second of the source; 30 if it is unknown.
        realtime: time frames that have no presentation time by the moment of their capture, on the monotonic clock.
            False gives each the same duration.
        overwrite: replace a file of that name when the first frame comes.

    Raises:
        UsageError: the path exists, cannot be created, or has another suffix.
        MissingExtraError: PyAV or Pillow is not installed.
    """

    _refusal: ClassVar[type[VitedgeError]] = UsageError

    def __init__(
        self, path: str | Path, *, fps: float | None = None, realtime: bool = False, overwrite: bool = False
    ) -> None:
        self._path = check_new_file(path, overwrite=overwrite)
        self._overwrite = overwrite
        format_of(self._path)
        require("av", extra="camera", purpose="saving video")
        require("PIL.Image", extra="camera", purpose="drawing onto frames")
        self._fps = fps if fps is not None and fps > 0 else UNKNOWN_FPS
        self._realtime = realtime
        self._rate = RateMeter()
        self._writer: VideoWriter | None = None
        self._size = (0, 0)
        self._seconds = 0.0
        self._last: _Moment | None = None

    def write(self, prediction: Prediction) -> None:
        """Draw the prediction onto its frame and append the frame.

        Raises:
            UsageError: the prediction has no image, or the file cannot be created.
            OutputError: the file cannot be written on, for example because the disk is full.
        """
        self._check_process()
        image = prediction.image
        if image is None:
            raise UsageError("a prediction without an image cannot be drawn", expected="a prediction of a stream")
        picture = annotate(prediction, image, fps=self._rate.tick())
        if self._writer is None:
            self._writer = self._opened(picture)
        self._seconds += self._gap(_Moment.of(prediction))
        self._writer.write(self._fitted(picture), self._seconds)

    def close(self) -> None:
        """Finish the file; a second call does nothing.

        Raises:
            OutputError: it cannot be finished; what was written before can be played.
        """
        self._check_process()
        self._released()
        if self._writer is not None:
            self._writer.close()

    def _opened(self, picture: Image) -> VideoWriter:
        height, width = self._size = _even(picture)
        writer = VideoWriter(self._path, height=height, width=width, fps=self._fps, overwrite=self._overwrite)
        self._acquired(f"the video {self._path}")
        return writer

    def _gap(self, moment: _Moment) -> float:
        """Return the seconds since the last frame."""
        last, self._last = self._last, moment
        if last is None:
            return 0.0
        if moment.pts is not None and last.pts is not None and moment.epoch == last.epoch:
            gap = moment.pts - last.pts
        elif moment.pts is not None or self._realtime:
            gap = moment.captured - last.captured
        else:
            gap = 1 / self._fps
        return min(max(0.0, gap), LONGEST_GAP_SECONDS)

    def _fitted(self, picture: Image) -> Image:
        """Fit a picture into the size of the first one: images of a folder differ, and encoders need even sides."""
        height, width = self._size
        if _even(picture) == self._size:
            return picture[:height, :width]
        rows, columns = picture.shape[:2]
        scale = min(height / rows, width / columns)
        inner = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        pillow = require("PIL.Image", extra="camera", purpose="drawing onto frames")
        resized = np.asarray(pillow.fromarray(picture).resize(inner, pillow.Resampling.BILINEAR))
        canvas = np.zeros((height, width, 3), dtype=np.uint8)
        top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
        canvas[top : top + inner[1], left : left + inner[0]] = resized
        return canvas


class AnnotatedVideos:
    """Writes a video for each camera of a stream of several: ``FOLDER/NAME.mp4``.

    Args:
        folder: path of a folder that is new or empty; it is created with the first frame.
        overwrite: take a folder with something in it, and replace the videos that have the names of new ones.

    Raises:
        UsageError: the path is a file, or a folder with something in it.
        MissingExtraError: PyAV or Pillow is not installed.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        self._folder = check_new_folder(folder, overwrite=overwrite)
        self._overwrite = overwrite
        require("av", extra="camera", purpose="saving video")
        require("PIL.Image", extra="camera", purpose="drawing onto frames")
        self._videos: dict[str | None, AnnotatedVideo] = {}

    def write(self, prediction: Prediction) -> None:
        """Append the annotated frame to the video of its camera.

        Raises:
            UsageError: the prediction has no image, or the file cannot be created.
            OutputError: the file cannot be written on.
        """
        source = prediction.source
        if source not in self._videos:
            self._folder.mkdir(exist_ok=True)
            self._videos[source] = AnnotatedVideo(
                self._folder / f"{source}.mp4", realtime=True, overwrite=self._overwrite
            )
        self._videos[source].write(prediction)

    def close(self) -> None:
        """Finish all files; a second call does nothing.

        Raises:
            VitedgeError: the first error of a file that cannot be finished; all others are finished.
        """
        close_all(video.close for video in self._videos.values())


@dataclass(frozen=True)
class _Moment:
    """When a frame was captured.

    Attributes:
        pts: presentation time in seconds; None if it is unknown.
        epoch: number of the connection that counts the presentation time.
        captured: seconds, on the monotonic clock if the prediction carries it.
    """

    pts: float | None
    epoch: int
    captured: float

    @staticmethod
    def of(prediction: Prediction) -> _Moment:
        """Return the moment of a prediction's frame."""
        captured = prediction.captured_at if prediction.captured_ns is None else prediction.captured_ns / 1e9
        return _Moment(prediction.pts, prediction.epoch, captured)


def _even(picture: Image) -> tuple[int, int]:
    """Return the height and width of a picture without an odd last row and column."""
    height, width = picture.shape[:2]
    return height - height % 2, width - width % 2
