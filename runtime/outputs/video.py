"""Annotated frames as a video file, through OpenCV."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vitedge.errors import UsageError, VitedgeError
from vitedge.extras import require
from vitedge.prediction import Image, Prediction
from vitedge.runtime.outputs.base import check_new_file
from vitedge.runtime.outputs.overlay import RateMeter, annotate
from vitedge.runtime.system.owned import Owned
from vitedge.safety.files import is_unicode

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
LONGEST_GAP_SECONDS = 60.0
"""A longer time between two predictions, as while a machine sleeps, is shown as this."""


class AnnotatedVideo(Owned):
    """Writes a video of the annotated frames, which is playable once it is closed.

    Args:
        path: path of a new file, created with the first prediction; its suffix is one of ``VIDEO_CODECS``.
        fps: frames per second of the video; 30 if the source does not report its rate.
        realtime: repeat frames where the source dropped some, so that the video plays at the speed of the camera, by
            the monotonic clock; at most for a minute at a time. False writes one frame per prediction.

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
        if not is_unicode(str(self._path)):
            raise UsageError(f"OpenCV cannot write {self._path}", expected="a name in UTF-8")
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
        if self._writer is None:
            self._open(picture)
            self._last = _moment(prediction)
        picture = self._fitted(picture)
        for _ in range(self._copies(prediction)):
            self._check_room()
            self._writer.write(picture)
            self._written += 1

    def close(self) -> None:
        """Finish the file and check that it can be read back.

        Raises:
            VitedgeError: the file cannot be read back; it is kept, because a tool may recover what is in it.
        """
        self._check_process()
        self._released()
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.release()
        capture = self._cv2.VideoCapture(str(self._path))
        readable = capture.isOpened() and capture.read()[0]
        capture.release()
        if not readable:
            raise VitedgeError(
                f"{self._path} could not be finished: it is kept, and cannot be read back",
                expected="a video that can be read back",
                fix="ffmpeg may recover it; an .avi can be read up to where it breaks off",
            )

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
        for codec in codecs:
            code = self._cv2.VideoWriter_fourcc(*codec)
            writer = self._cv2.VideoWriter(str(self._path), code, self._fps, (width, height))
            if writer.isOpened():
                self._writer, self._size = writer, (width, height)
                self._acquired(f"the video {self._path}")
                return
            self._path.unlink(missing_ok=True)
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


def _moment(prediction: Prediction) -> float:
    """Return the time of capture in seconds, on the monotonic clock if the prediction carries it."""
    return prediction.captured_at if prediction.captured_ns is None else prediction.captured_ns / 1e9
