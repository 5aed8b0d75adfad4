"""``Prediction``: the classes of a frame, with its age and the time of each stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""Height, width, 3 channels; uint8."""

AgeBasis = Literal["sender", "device", "timestamps", "arrival", "caller"]
"""Where a time of capture comes from: the sender's clock, sent with the stream; the camera driver's clock; the stream's
timestamps, counted from the frame that came with the least delay; the moment at which the frame was read; the caller,
who made the frame."""


class Picture(Protocol):
    """A frame that is converted when somebody looks at it."""

    def bgr(self) -> Image:
        """Return the frame as ``H×W×3`` uint8 BGR, shown upright if its model asks for it; a second call is cheap."""


@dataclass(frozen=True)
class ClassScore:
    """A class and its score.

    Attributes:
        label: name of the class.
        index: index of its logit.
        score: probability, 0…1: the softmax of the logits, or the sigmoid of the logit for a multi-label model.
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
        """Return the sum of the stages."""
        return self.preprocess + self.infer + self.postprocess


@dataclass(frozen=True)
class Prediction:
    """The classes of one frame, best first.

    Attributes:
        topk: classes in descending order of score; at least one.
        frame: index of the frame in its source, from 0.
        captured_at: time of capture, seconds since the Unix epoch, by the wall clock, which may jump.
        age_ms: milliseconds from the capture of the frame to its prediction.
        stages_ms: milliseconds in each stage.
        dropped: number of frames that were dropped since the previous prediction.
        picture: the frame, if it came from a stream; not part of ``to_json``. ``image`` converts it.
        file: path of the image, if the source is a file or folder of images.
        pts: presentation time of the frame, seconds since the first frame of its video or connection; None for images,
            and for a video that has no times.
        captured_ns: time of capture on ``time.monotonic_ns``, to measure durations with; None if it is unknown. It is
            not part of ``to_json``.
        source: name of the camera, in a stream of several.
        epoch: number of the connection to the source, from 0; it counts reconnections.
        age_basis: where the time of capture comes from.
        abstained: whether the score is below the bundle's threshold, so that the best class is a guess; for a
            multi-label model, whether no label reaches its threshold.
        accepted: for a multi-label model, every label whose score reaches its threshold, in descending order of score;
            it may be empty, and hold more labels than ``topk``. None for a model of one class an image.
    """

    topk: tuple[ClassScore, ...]
    frame: int
    captured_at: float
    age_ms: float
    stages_ms: StageTimes
    dropped: int = 0
    picture: Picture | None = field(default=None, repr=False, compare=False)
    file: str | None = None
    abstained: bool = False
    accepted: tuple[ClassScore, ...] | None = None
    pts: float | None = None
    captured_ns: int | None = None
    source: str | None = None
    epoch: int = 0
    age_basis: AgeBasis = "arrival"

    @property
    def image(self) -> Image | None:
        """Return the frame of a stream, ``H×W×3`` uint8 BGR, converted at the first read; None for other inputs."""
        return None if self.picture is None else self.picture.bgr()

    @property
    def label(self) -> str:
        """Name of the best class."""
        return self.topk[0].label

    @property
    def index(self) -> int:
        """Return the index of the best class."""
        return self.topk[0].index

    @property
    def score(self) -> float:
        """Return the probability of the best class, 0…1."""
        return self.topk[0].score

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the accepted labels; for a model of one class an image, the best class unless it abstained."""
        if self.accepted is None:
            return () if self.abstained else (self.label,)
        return tuple(each.label for each in self.accepted)

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
            "topk": _listed(self.topk),
            "captured_at": self.captured_at,
            "age_ms": self.age_ms,
            "age_basis": self.age_basis,
            "stages_ms": {
                "preprocess": stages.preprocess,
                "infer": stages.infer,
                "postprocess": stages.postprocess,
            },
            "dropped": self.dropped,
        }
        if self.accepted is not None:
            line["labels"] = list(self.labels)
            line["accepted"] = _listed(self.accepted)
        if self.source is not None:
            line["source"] = self.source
        if self.epoch:
            line["epoch"] = self.epoch
        if self.file is not None:
            line["file"] = self.file
        if self.pts is not None:
            line["pts"] = self.pts
        return line


def _listed(classes: tuple[ClassScore, ...]) -> list[dict[str, Any]]:
    return [{"label": each.label, "index": each.index, "score": each.score} for each in classes]
