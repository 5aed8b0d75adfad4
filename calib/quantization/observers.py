"""One pass of all calibration images through a graph: what its tensors hold, in memory that no image adds to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.calib.quantization.finite_check import not_finite
from vitedge.calib.quantization.range_estimators import Histogram
from vitedge.calib.quantization.working_graph import Values, beside, runner
from vitedge.errors import ConversionError
from vitedge.progress import Progress

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Extremes:
    """Of every channel of a tensor over some images; of no image, ``low`` is ∞ and ``high`` is −∞.

    Attributes:
        low: smallest value, ``(channels,)``.
        high: largest.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, values: NDArray[np.float32], axis: int) -> Extremes:
        """Those of one tensor, whose channels lie on ``axis``."""
        others = tuple(each for each in range(values.ndim) if each != axis % values.ndim)
        return cls(values.min(axis=others), values.max(axis=others))

    @classmethod
    def of_nothing(cls, channels: int) -> Extremes:
        """Those before the first image."""
        return cls(np.full(channels, np.inf, np.float32), np.full(channels, -np.inf, np.float32))

    @property
    def reach(self) -> NDArray[np.float32]:
        """Largest magnitude, ``(channels,)``."""
        return np.asarray(np.maximum(-self.low, self.high))

    def joined(self, other: Extremes) -> Extremes:
        """Those over the images of both."""
        return Extremes(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


@dataclass
class Observed:
    """What a tensor held over all images.

    Attributes:
        shape: of one image's.
        tried: extremes over the first images, which choices are tried on.
        others: over those behind them.
        histogram: over all images and channels.
    """

    shape: tuple[int, ...]
    tried: Extremes
    others: Extremes
    histogram: Histogram = field(default_factory=Histogram)

    @property
    def extremes(self) -> Extremes:
        """Over all images."""
        return self.tried.joined(self.others)

    def add(self, values: NDArray[np.float32], axis: int, *, tried: bool) -> None:
        """Take in one image's."""
        found = Extremes.of(values, axis)
        if tried:
            self.tried = self.tried.joined(found)
        else:
            self.others = self.others.joined(found)
        self.histogram.add(values)


def observe(
    graph: onnx.ModelProto, channel_axes: Mapping[str, int], frames: NDArray[np.uint8], tried: int, progress: Progress
) -> dict[str, Observed]:
    """Run all frames and look at some tensors.

    Args:
        graph: FP32; uint8 ``frame`` in.
        channel_axes: which axis of each tensor holds its channels.
        frames: ``(N,H,W,3)`` uint8, ``N`` ≥ 1.
        tried: how many of the first frames have extremes of their own.
        progress: told of every image.

    Raises:
        CalibrationError: a tensor or an output of the graph is NaN or infinite; the layer where it begins is named.
        ConversionError: ONNX Runtime cannot run the graph on these frames.
        MissingExtraError: ONNX Runtime is not installed.
    """
    outputs = [output.name for output in graph.graph.output]
    names = [*outputs, *(name for name in channel_axes if name not in outputs)]
    session, found = runner(_probed(graph, names[len(outputs) :])), dict[str, Observed]()

    def made(frame: NDArray[np.uint8]) -> Values:
        try:
            return dict(zip(names, session.run(names, {INPUT_NAME: frame[np.newaxis]}), strict=True))
        except Exception as error:  # ONNX Runtime's errors have no other base
            raise ConversionError(f"ONNX Runtime cannot run the graph: {str(error).splitlines()[0]}") from error

    tracked = progress.track(frames, total=len(frames), unit="images")
    for number, values in enumerate(beside(made, tracked)):
        if not all(np.isfinite(each).all() for each in values.values()):
            raise not_finite(graph, frames[number], number)
        for name, axis in channel_axes.items():
            if name not in found:
                nothing = Extremes.of_nothing(values[name].shape[axis])
                found[name] = Observed(values[name].shape, nothing, nothing)
            found[name].add(values[name], axis, tried=number < tried)
    return found


def _probed(graph: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy with more outputs."""
    probed = type(graph)()
    probed.CopyFrom(graph)
    for name in names:
        probed.graph.output.add(name=name)
    return probed
