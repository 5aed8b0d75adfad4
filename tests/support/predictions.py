"""Predictions and a recording output for tests of outputs."""

from __future__ import annotations

from dataclasses import dataclass

import clips
import numpy as np

from vitedge.prediction import ClassScore, Prediction, StageTimes


@dataclass(frozen=True)
class Shown:
    """A picture that needs no conversion."""

    image: np.ndarray

    def bgr(self) -> np.ndarray:
        return self.image


def prediction(
    number: int,
    *,
    captured_at: float = 0.0,
    captured_ns: int | None = None,
    height: int = 240,
    width: int = 320,
) -> Prediction:
    return Prediction(
        topk=(ClassScore("tulips", 2, 0.75), ClassScore("Gänseblümchen", 0, 0.25)),
        frame=number,
        captured_at=captured_at,
        captured_ns=captured_ns,
        age_ms=12.5,
        stages_ms=StageTimes(1.0, 2.0, 0.5),
        dropped=1,
        picture=Shown(clips.numbered_frame(number, height=height, width=width)),
    )


class RecordingOutput:
    """Remembers the frames that it was given, and fails at one if it is told to."""

    def __init__(self, *, fails_at: int | None = None, error: type[BaseException] = ValueError) -> None:
        self.frames: list[int] = []
        self.closed = 0
        self._fails_at = fails_at
        self._error = error

    def write(self, prediction: Prediction) -> None:
        if prediction.frame == self._fails_at:
            raise self._error
        self.frames.append(prediction.frame)

    def close(self) -> None:
        self.closed += 1
