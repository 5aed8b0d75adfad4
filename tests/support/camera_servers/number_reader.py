"""``BurntNumberReader``: a classifier whose labels are the numbers that cameras burn into their pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from camera_servers.burnt_numbers import read
from camera_servers.send_times import SendTimes
from vitedge.prediction import ClassScore, Prediction, StageTimes
from vitedge.runtime.preprocess.orientation import turned
from vitedge.runtime.preprocess.planes import YuvPlanes

UNREADABLE = "unreadable"


class BurntNumberReader:
    """Reads the number of each picture.

    Attributes:
        pause: seconds that a picture takes.
        may_go_on: set while pictures are classified; cleared to hold them.
        shapes: heights and widths of the pictures, in order.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.shapes: list[tuple[int, int]] = []

    def classify(
        self, image: NDArray[np.uint8] | YuvPlanes, *, topk: int = 1, order: Literal["BGR", "RGB"] = "BGR"
    ) -> Prediction:
        """Return the number as the label of the only class."""
        self.may_go_on.wait()
        time.sleep(self.pause)
        picture = image.bgr() if isinstance(image, YuvPlanes) else image
        self.shapes.append((picture.shape[0], picture.shape[1]))
        number = read(picture)
        score = ClassScore(UNREADABLE if number is None else str(number), 0, 1.0)
        return Prediction((score,), 0, 0.0, 0.0, StageTimes(0.0, 0.0, 0.0))

    def oriented(self, image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
        """Return the image upright."""
        return turned(image, orientation)

    def orientation_notice(self, count: int, subject: str) -> str:
        """Describe turned images."""
        return f"{subject}: {count} turned"

    def workers(self, *, batches: bool) -> Sequence[BurntNumberReader]:
        """Return none."""
        return ()


def hidden_ms(prediction: Prediction, sent: SendTimes) -> float:
    """Return by how many milliseconds the frame of a prediction is older than ``age_ms`` says."""
    assert prediction.captured_ns is not None
    return (prediction.captured_ns - sent[int(prediction.label)]) / 1e6
