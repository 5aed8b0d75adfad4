"""Where predictions go: lines of JSON, an annotated video, a window, a function."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import UsageError, VitedgeError
from vitedge.extras import require
from vitedge.files import check_report_path
from vitedge.prediction import Prediction
from vitedge.runtime.outputs.overlay import RateMeter, annotate
from vitedge.safety import child, escape
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
INDEX_BYTES = 64
QUIT_KEYS = (ord("q"), 27)
LARGEST_WINDOW = (720, 1280)
WINDOW_PROBE = "import cv2; cv2.namedWindow('vitedge'); cv2.waitKey(1); cv2.destroyAllWindows()"
WINDOW_PROBE_SECONDS = 20


class Sink(Protocol):
    """Takes predictions, one at a time and in order."""

    def write(self, prediction: Prediction) -> None:
        """Take one prediction."""

    def close(self) -> None:
        """Finish what was written; a second call does nothing."""


class ViewerClosed(Exception):  # noqa: N818 - a request to stop, not an error
    """The person at the window wants the stream to end."""


def deliver(predictions: Iterable[Prediction], sinks: Sequence[Sink]) -> None:
    """Write every prediction to every sink, in order, until the predictions end or a viewer closes the window.

    The predictions, where they are a stream, and all sinks are closed on every way out, also by an exception of the
    source, of a sink or of Ctrl-C.
    """
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(getattr(predictions, "close", _nothing))
        with contextlib.suppress(ViewerClosed):
            for prediction in predictions:
                for sink in sinks:
                    sink.write(prediction)


def _nothing() -> None:
    """What closing an iterable that cannot be closed does."""


class Callback:
    """Calls a function with each prediction.

    Args:
        function: what to call; what it raises ends the stream.
    """

    def __init__(self, function: Callable[[Prediction], object]) -> None:
        self._function = function

    def write(self, prediction: Prediction) -> None:
        """Call the function."""
        self._function(prediction)

    def close(self) -> None:
        """Nothing to finish."""


class JsonLines:
    """One JSON object a line (``Prediction.to_json``), flushed line by line so that a reader sees each at once.

    Args:
        target: a path that does not exist yet, created with the first prediction; or an open text stream, which
            stays open.

    Raises:
        UsageError: the path exists or cannot be created.
    """

    def __init__(self, target: str | Path | TextIO) -> None:
        self._path = check_output(target, "--jsonl") if isinstance(target, (str, Path)) else None
        self._stream = None if isinstance(target, (str, Path)) else target

    def write(self, prediction: Prediction) -> None:
        """Write one line."""
        line = escape.json(prediction.to_json())
        try:
            stream = self._opened()
            stream.write(f"{line}\n")
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(
                f"cannot write {self._path or 'the JSON lines'}: {error.strerror}",
                fix="free some space, or write them elsewhere",
            ) from error

    def close(self) -> None:
        """Close the file, where this sink opened it."""
        if self._path is not None and self._stream is not None:
            with contextlib.suppress(OSError):  # what could not be flushed was reported by write
                self._stream.close()

    def _opened(self) -> TextIO:
        if self._stream is None:
            assert self._path is not None
            self._stream = self._path.open("x", encoding="utf-8")
        return self._stream


class AnnotatedVideo:
    """A video of the frames with their predictions drawn in; playable once it is closed.

    Args:
        path: file that does not exist yet, created with the first prediction; its suffix is one of ``VIDEO_CODECS``.
        fps: frames per second of the video; 30 where the source does not say.
        realtime: the predictions come as a camera delivers, some frames passed over: keep time by repeating the
            last picture. False writes one picture a prediction.

    Raises:
        UsageError: the path exists, cannot be created, or has another suffix.
        MissingExtraError: OpenCV or Pillow is not installed.
    """

    def __init__(self, path: str | Path, *, fps: float | None = None, realtime: bool = False) -> None:
        self._path = check_output(path, "--save")
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
        self._begun = 0.0

    def write(self, prediction: Prediction) -> None:
        """Draw the prediction onto its frame and append it.

        Raises:
            VitedgeError: the disk is nearly full; there is room left to finish the video.
        """
        if prediction.image is None:
            raise UsageError("a prediction without an image cannot be drawn", expected="a prediction of a stream")
        self._check_room()
        picture = annotate(prediction, prediction.image, fps=self._rate.tick())
        if self._writer is None:
            self._open(picture)
            self._begun = prediction.captured_at
        due = int((prediction.captured_at - self._begun) * self._fps + 0.5) + 1
        copies = max(1, due - self._written) if self._realtime else 1
        picture = self._fitted(picture)
        for _ in range(copies):
            self._writer.write(picture)
        self._written += copies

    def close(self) -> None:
        """Finish the file and check that it can be read back.

        Raises:
            VitedgeError: it cannot, and was removed.
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.release()
        capture = self._cv2.VideoCapture(str(self._path))
        readable = capture.isOpened() and capture.read()[0]
        capture.release()
        if not readable:
            self._path.unlink(missing_ok=True)
            raise VitedgeError(
                f"{self._path} could not be finished, and was removed",
                expected="a video that can be read back",
                fix="save it elsewhere, or as .avi",
            )

    def _open(self, picture: NDArray[np.uint8]) -> None:
        codecs = VIDEO_CODECS[self._path.suffix.lower()]
        height, width = (side - side % 2 for side in picture.shape[:2])
        for codec in codecs:
            code = self._cv2.VideoWriter_fourcc(*codec)
            writer = self._cv2.VideoWriter(str(self._path), code, self._fps, (width, height))
            if writer.isOpened():
                self._writer, self._size = writer, (width, height)
                return
            self._path.unlink(missing_ok=True)
        raise UsageError(
            f"OpenCV cannot write {self._path}",
            expected=f"an OpenCV with one of the encoders {', '.join(codecs)}",
            fix="save it as .avi, or install another build of OpenCV",
        )

    def _check_room(self) -> None:
        """OpenCV does not report a full disk."""
        free = shutil.disk_usage(self._path.parent).free
        if free < RESERVED_BYTES + INDEX_BYTES * self._written:
            raise VitedgeError(
                f"the disk of {self._path} has {free} bytes left; the video ends after {self._written} frames",
                expected="room for the video",
                fix="free some disk space, or save it elsewhere",
            )

    def _fitted(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture at the video's size: images of a folder differ, and encoders want even sides."""
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


class Window:
    """Shows the annotated frames on the screen; ``q``, Esc or closing the window ends the stream.

    Args:
        title: of the window.

    Raises:
        VitedgeError: this OpenCV cannot open windows, or there is no screen.
        MissingExtraError: OpenCV or Pillow is not installed.
    """

    def __init__(self, title: str = "vitedge") -> None:
        self._cv2 = require("cv2", extra="camera", purpose="showing a window")
        require("PIL.Image", extra="camera", purpose="drawing onto frames")
        check_window(self._cv2)
        self._title = escape.terminal(title)
        self._rate = RateMeter()
        self._shown = False

    def write(self, prediction: Prediction) -> None:
        """Show the prediction.

        Raises:
            ViewerClosed: the person at the window wants to stop.
        """
        if prediction.image is None:
            raise UsageError("a prediction without an image cannot be shown", expected="a prediction of a stream")
        if self._shown and not self._visible():
            raise ViewerClosed
        picture = annotate(prediction, prediction.image, fps=self._rate.tick())
        if not self._shown:
            self._open(picture.shape[0], picture.shape[1])
        self._cv2.imshow(self._title, picture)
        if self._cv2.waitKey(1) & 0xFF in QUIT_KEYS:
            raise ViewerClosed

    def close(self) -> None:
        """Close the window."""
        if self._shown:
            self._shown = False
            self._cv2.destroyAllWindows()

    def _visible(self) -> bool:
        try:
            return bool(self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE) >= 1)
        except self._cv2.error:  # Qt, once its last window is gone
            return False

    def _open(self, height: int, width: int) -> None:
        """A window without tools that can be resized, no larger than most screens."""
        cv2 = self._cv2
        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        scale = min(1.0, LARGEST_WINDOW[0] / height, LARGEST_WINDOW[1] / width)
        cv2.resizeWindow(self._title, round(width * scale), round(height * scale))
        self._shown = True


def check_window(cv2: Any) -> None:
    """Open and close a window in a process of its own: OpenCV's toolkits abort the process where there is no screen.

    Raises:
        VitedgeError: this OpenCV cannot open windows, or there is no screen.
    """
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        raise VitedgeError(
            "this OpenCV was built without windows",
            expected="a build with Qt or GTK",
            fix="pip uninstall opencv-python-headless; pip install opencv-python; or save a video with --save",
        )
    probe = child.code_command(WINDOW_PROBE)
    try:
        done = subprocess.run(
            probe, env=child.environment(), capture_output=True, timeout=WINDOW_PROBE_SECONDS, check=False
        )
        succeeded = done.returncode
    except subprocess.TimeoutExpired:
        succeeded = 1
    if succeeded != 0:
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or "unset"
        raise VitedgeError(
            f"OpenCV cannot open a window (DISPLAY is {display})",
            expected="a desktop session on this machine, or X forwarding",
            fix="run it from the desktop or with ssh -X; or save a video with --save",
        )


def check_output(path: str | Path, option: str) -> Path:
    """The path of a file that is to be written, where that can be done.

    Raises:
        UsageError: it exists, or its folder does not, or that is not writable.
    """
    chosen = Path(path)
    if os.path.lexists(chosen):
        raise UsageError(f"{chosen} exists", expected=f"{option} with a new name", fix=f"remove {chosen} first")
    check_report_path(chosen)
    return chosen
