"""Annotated frames as a video file, through OpenCV."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vitedge.errors import UsageError, VitedgeError
from vitedge.extras import require
from vitedge.prediction import Image, Prediction
from vitedge.runtime.outputs.base import check_new_file
from vitedge.runtime.outputs.overlay import RateMeter, annotate
from vitedge.runtime.sources.opencv_names import is_plain, opencv_name
from vitedge.runtime.system.owned import Owned

VIDEO_CODECS: dict[str, tuple[str, ...]] = {
    ".mp4": ("mp4v", "avc1"),
    ".m4v": ("mp4v", "avc1"),
    ".mov": ("mp4v", "avc1"),
    ".mkv": ("mp4v", "avc1"),
    ".avi": ("MJPG", "XVID"),
}
UNKNOWN_FPS = 30.0
RESERVED_BYTES = 4 << 20
"""Free space that is kept for finishing the video."""
INDEX_BYTES = 64
"""Free space that is kept for the index entry of each frame."""
RATE_TOLERANCE = 0.1
"""Part of a frame's duration by which presentation times of a constant rate may differ from it, as they are rounded."""
LONGEST_GAP_SECONDS = 60.0
"""A longer time between two predictions, as while a machine sleeps, is shown as this."""


class AnnotatedVideo(Owned):
    """Writes a video of the annotated frames, which is playable once it is closed.

    Frames of a video keep their presentation times: the file has a constant rate, so a frame is repeated until the time
    of the next one, and left out if the next one has the same place. Frames of other sources are written once each, or
    in real time.

    Args:
        path: path of a new file, created with the first frame; its suffix is one of ``VIDEO_CODECS``.
        fps: frames per second of the video; 30 if the source does not report its rate, or if its rate varies.
        realtime: repeat frames where a camera dropped some, so that the video plays at its speed, by the monotonic
            clock. False writes one frame per prediction. No frame is repeated for more than a minute.

    Raises:
        UsageError: the path exists, cannot be created, or has another suffix.
        MissingExtraError: OpenCV or Pillow is not installed.
    """

    _refusal: ClassVar[type[VitedgeError]] = UsageError

    def __init__(self, path: str | Path, *, fps: float | None = None, realtime: bool = False) -> None:
        self._path = check_new_file(path)
        if self._path.suffix.lower() not in VIDEO_CODECS:
            raise UsageError(
                f"cannot save a video as {self._path.name!r}", expected=f"a name ending in {', '.join(VIDEO_CODECS)}"
            )
        self._cv2 = require("cv2", extra="camera", purpose="saving video")
        require("PIL.Image", extra="camera", purpose="drawing onto frames")
        self._fps = fps or UNKNOWN_FPS
        self._realtime = realtime
        self._rate = RateMeter()
        self._writer: Any = None
        self._size = (0, 0)
        self._written = 0
        self._last = 0.0
        self._seconds = 0.0
        self._held: Image | None = None
        self._file = self._path

    def write(self, prediction: Prediction) -> None:
        """Draw the prediction onto its frame and append the frame.

        Raises:
            UsageError: the prediction has no image, or OpenCV cannot write the file.
            VitedgeError: the disk is nearly full; there is room left to finish the video.
        """
        self._check_process()
        if prediction.image is None:
            raise UsageError("a prediction without an image cannot be drawn", expected="a prediction of a stream")
        self._check_room()
        picture = annotate(prediction, prediction.image, fps=self._rate.tick())
        if prediction.pts is not None:
            self._hold(picture, prediction.pts)
            return
        if self._writer is None:
            self._open(picture)
            self._last = _moment(prediction)
        self._append(picture, self._copies(prediction))

    def close(self) -> None:
        """Finish the file and check that it can be read back.

        Raises:
            UsageError: OpenCV cannot write the file, and there was one frame.
            VitedgeError: the file cannot be read back; it is kept, because a tool may recover what is in it.
        """
        self._check_process()
        self._released()
        held, self._held = self._held, None
        if held is not None:
            if self._writer is None:
                self._open(held)
                self._released()
            self._writer.write(self._fitted(held))
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.release()
        if self._file != self._path:
            self._file.replace(self._path)
        if not self._is_readable():
            raise VitedgeError(
                f"{self._path} could not be finished: it is kept, and cannot be read back",
                expected="a video that can be read back",
                fix="ffmpeg may recover it; an .avi can be read up to where it breaks off",
            )

    def _is_readable(self) -> bool:
        with opencv_name(self._path) as name:
            capture = self._cv2.VideoCapture(name)
        readable = capture.isOpened() and capture.read()[0]
        capture.release()
        return bool(readable)

    def _hold(self, picture: Image, pts: float) -> None:
        """Write the held picture until the presentation time of the next one, which is held from now on."""
        if self._held is not None:
            gap = min(max(0.0, pts - self._last), LONGEST_GAP_SECONDS)
            if self._writer is None:
                self._fps = _constant_rate(self._fps, gap)
                self._open(self._held)
            self._seconds += gap
            self._append(self._held, round(self._seconds * self._fps) - self._written)
        self._held, self._last = picture, pts

    def _append(self, picture: Image, copies: int) -> None:
        if copies <= 0:
            return
        fitted = self._fitted(picture)
        for _ in range(copies):
            self._check_room()
            self._writer.write(fitted)
            self._written += 1

    def _copies(self, prediction: Prediction) -> int:
        """Return how often to write a frame, so that the video is as long as the time since its first frame."""
        moment = _moment(prediction)
        self._seconds += min(max(0.0, moment - self._last), LONGEST_GAP_SECONDS)
        self._last = moment
        due = int(self._seconds * self._fps + 0.5) + 1
        return max(1, due - self._written) if self._realtime else 1

    def _open(self, picture: Image) -> None:
        codecs = VIDEO_CODECS[self._path.suffix.lower()]
        height, width = (side - side % 2 for side in picture.shape[:2])
        if not is_plain(os.path.abspath(self._path)):  # noqa: PTH100 - links stay
            self._file = self._path.with_name(f".vitedge-{secrets.token_hex(4)}{self._path.suffix}")
        for codec in codecs:
            code = self._cv2.VideoWriter_fourcc(*codec)
            with opencv_name(self._file.parent) as folder:
                name = f"{folder}/{self._file.name}"
                writer = self._cv2.VideoWriter(name, code, self._fps, (width, height))
            if writer.isOpened():
                self._writer, self._size = writer, (width, height)
                self._acquired(f"the video {self._path}")
                return
            self._file.unlink(missing_ok=True)
        raise UsageError(
            f"OpenCV cannot write {self._path}",
            expected=f"an OpenCV with one of the encoders {', '.join(codecs)}",
            fix="save it as .avi, or install another build of OpenCV",
        )

    def _check_room(self) -> None:
        """Check the free space, because OpenCV does not report a full disk."""
        free = shutil.disk_usage(self._path.parent).free
        if free < RESERVED_BYTES + INDEX_BYTES * self._written:
            raise VitedgeError(
                f"the disk of {self._path} has {free} bytes left; the video ends after {self._written} frames",
                expected="room for the video",
                fix="free some disk space, or save it elsewhere",
            )

    def _fitted(self, picture: Image) -> Image:
        """Fit a picture into the video's size: images of a folder differ, and encoders need even sides."""
        width, height = self._size
        rows, columns = picture.shape[:2]
        if (rows - rows % 2, columns - columns % 2) == (height, width):
            return np.ascontiguousarray(picture[:height, :width])
        scale = min(height / rows, width / columns)
        inner = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        resized = self._cv2.resize(picture, inner, interpolation=self._cv2.INTER_AREA)
        canvas = np.zeros((height, width, 3), dtype=np.uint8)
        top, left = (height - inner[1]) // 2, (width - inner[0]) // 2
        canvas[top : top + inner[1], left : left + inner[0]] = resized
        return canvas


def _constant_rate(fps: float, gap: float) -> float:
    """Return the rate for a video whose first frames have this distance.

    A reported rate that the distance is no multiple of is the mean of a varying one, and would lose frames.
    """
    frames = gap * fps
    is_constant = frames >= 1 - RATE_TOLERANCE and abs(frames - round(frames)) <= RATE_TOLERANCE
    return fps if is_constant else max(fps, UNKNOWN_FPS)


def _moment(prediction: Prediction) -> float:
    """Return the time of capture in seconds, on the monotonic clock if the prediction carries it."""
    return prediction.captured_at if prediction.captured_ns is None else prediction.captured_ns / 1e9
