"""``Prediction``: the classes of a frame, with its age and the time of each stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""Height, width, 3 channels; uint8."""


@dataclass(frozen=True)
class ClassScore:
    """A class and its probability.

    Attributes:
        label: name of the class.
        index: index of its logit.
        score: softmax probability, 0…1.
    """

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds that a frame spent in each stage, without waiting."""

    preprocess: float
    infer: float
    postprocess: float

    @property
    def total(self) -> float:
        """Sum of the stages."""
        return self.preprocess + self.infer + self.postprocess


@dataclass(frozen=True)
class Prediction:
    """The classes of one frame, best first.

    Attributes:
        topk: classes in descending order of score; at least one.
        frame: index of the frame in its source, from 0.
        captured_at: time of capture, seconds since the Unix epoch.
        age_ms: milliseconds from the capture of the frame to its prediction.
        stages_ms: milliseconds in each stage.
        dropped: number of frames that were dropped since the previous prediction.
        image: the frame, ``H×W×3`` uint8 BGR, if it came from a stream; not part of ``to_json``.
        file: path of the image, if the source is a file or folder of images.
        abstained: whether the score is below the bundle's threshold, so that the best class is a guess.
    """

    topk: tuple[ClassScore, ...]
    frame: int
    captured_at: float
    age_ms: float
    stages_ms: StageTimes
    dropped: int = 0
    image: Image | None = field(default=None, repr=False, compare=False)
    file: str | None = None
    abstained: bool = False

    @property
    def label(self) -> str:
        """Name of the best class."""
        return self.topk[0].label

    @property
    def index(self) -> int:
        """Index of the best class."""
        return self.topk[0].index

    @property
    def score(self) -> float:
        """Probability of the best class, 0…1."""
        return self.topk[0].score

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as a dict of plain values, one JSON line of a stream; keys are added, never renamed."""
        stages = self.stages_ms
        line: dict[str, Any] = {
            "version": 1,
            "frame": self.frame,
            "label": self.label,
            "index": self.index,
            "score": self.score,
            "abstained": self.abstained,
            "topk": [{"label": each.label, "index": each.index, "score": each.score} for each in self.topk],
            "captured_at": self.captured_at,
            "age_ms": self.age_ms,
            "stages_ms": {
                "preprocess": stages.preprocess,
                "infer": stages.infer,
                "postprocess": stages.postprocess,
            },
            "dropped": self.dropped,
        }
        if self.file is not None:
            line["file"] = self.file
        return line
