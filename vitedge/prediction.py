"""What comes out for a frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidate:
    """One class and its probability.

    Attributes:
        label: name of the class.
        index: position of its logit.
        score: softmax probability, 0…1.
    """

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds that one frame spent in each stage."""

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
        topk: candidates in descending order of score; at least one.
        frame: number of the frame in its source, from 0.
        captured_at: when the frame was grabbed, seconds since the Unix epoch.
        age_ms: how old the frame was when its prediction was ready.
        stages_ms: where the time went.
        dropped: frames that the source delivered and nobody classified since the last prediction.
        image: the frame itself, ``H×W×3`` uint8 BGR, where it came from a stream; not part of ``to_json``.
        file: path of the image, where the source is a file or folder of images.
        abstained: the score is below the threshold that the bundle was fitted with: the best class is a guess.
    """

    topk: tuple[Candidate, ...]
    frame: int
    captured_at: float
    age_ms: float
    stages_ms: StageTimes
    dropped: int = 0
    image: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
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
        """The line that ``vitedge run --jsonl`` writes, as a dict of plain values; keys are added, never renamed."""
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
