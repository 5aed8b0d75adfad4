"""Annotated frames in a window, through OpenCV."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

from vitedge.errors import UsageError, VitedgeError
from vitedge.extras import require
from vitedge.prediction import Prediction
from vitedge.runtime.outputs.base import ViewerClosed
from vitedge.runtime.outputs.overlay import RateMeter, annotate
from vitedge.safety import child, escape

QUIT_KEYS = (ord("q"), 27)
LARGEST_WINDOW = (720, 1280)
WINDOW_PROBE = "import cv2; cv2.namedWindow('vitedge'); cv2.waitKey(1); cv2.destroyAllWindows()"
WINDOW_PROBE_SECONDS = 20


class Window:
    """Shows the annotated frames on the screen; ``q``, Esc or closing the window ends the stream.

    Args:
        title: title of the window.

    Raises:
        VitedgeError: this OpenCV cannot open windows, or there is no screen.
        MissingExtraError: OpenCV or Pillow is not installed.
    """

    def __init__(self, title: str = "vitedge") -> None:
        self._cv2 = require("cv2", extra="window", purpose="showing a window")
        require("PIL.Image", extra="camera", purpose="drawing onto frames")
        check_window(self._cv2)
        self._title = escape.terminal(title)
        self._rate = RateMeter()
        self._shown = False

    def write(self, prediction: Prediction) -> None:
        """Show the annotated frame.

        Raises:
            UsageError: the prediction has no image.
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
        except self._cv2.error:  # from Qt, once its last window is closed
            return False

    def _open(self, height: int, width: int) -> None:
        """Open a window that can be resized, without toolbars, no larger than most screens."""
        cv2 = self._cv2
        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        scale = min(1.0, LARGEST_WINDOW[0] / height, LARGEST_WINDOW[1] / width)
        cv2.resizeWindow(self._title, round(width * scale), round(height * scale))
        self._shown = True


def check_window(cv2: Any) -> None:
    """Open and close a window in another process, because OpenCV's toolkits abort the process if there is no screen.

    Raises:
        VitedgeError: this OpenCV cannot open windows, or there is no screen.
    """
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        raise VitedgeError(
            "this OpenCV was built without windows",
            expected="a build with Qt or GTK",
            fix='pip uninstall opencv-python-headless; pip install "vitedge[window]"; or save a video instead',
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
            fix="run it from the desktop or with ssh -X; or save a video instead",
        )
