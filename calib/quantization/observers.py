"""Observers: the per-channel minimum and maximum and the histogram of tensors, in one pass over all images.

The memory that they take does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.calib.quantization.finite_check import not_finite
from vitedge.calib.quantization.parallel import parallel_map
from vitedge.calib.quantization.range_estimators import Histogram, sampled
from vitedge.graph.session import conversion_errors, open_session
from vitedge.progress import Progress

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ChannelMinMax:
    """Minimum and maximum of every channel of a tensor over some images; over no image, ∞ and −∞.

    Attributes:
        low: smallest value, ``(channels,)``.
        high: largest.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, values: NDArray[np.float32], axis: int) -> ChannelMinMax:
        """Observe one tensor, whose channels lie on ``axis``."""
        others = tuple(each for each in range(values.ndim) if each != axis % values.ndim)
        return cls(values.min(axis=others), values.max(axis=others))

    @classmethod
    def empty(cls, channels: int) -> ChannelMinMax:
        """Begin before the first image."""
        return cls(np.full(channels, np.inf, np.float32), np.full(channels, -np.inf, np.float32))

    @property
    def largest(self) -> NDArray[np.float32]:
        """Return the largest magnitude of each channel, ``(channels,)``."""
        return np.asarray(np.maximum(-self.low, self.high))

    def merged(self, other: ChannelMinMax) -> ChannelMinMax:
        """Give those over the images of both."""
        return ChannelMinMax(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


@dataclass
class Observed:
    """The observers of a tensor.

    Attributes:
        shape: of the tensor, for one image.
        tried: over the first images, which choices are tried on.
        others: over the images behind them.
        histogram: over all images and channels.
    """

    shape: tuple[int, ...]
    tried: ChannelMinMax
    others: ChannelMinMax
    histogram: Histogram = field(default_factory=Histogram)

    @property
    def min_max(self) -> ChannelMinMax:
        """Return the minima and maxima over all images."""
        return self.tried.merged(self.others)

    def add(self, seen: _Seen, *, tried: bool) -> None:
        """Take in the tensor of one image."""
        if tried:
            self.tried = self.tried.merged(seen.min_max)
        else:
            self.others = self.others.merged(seen.min_max)
        self.histogram.add_sample(seen.sample, float(seen.min_max.low.min()), float(seen.min_max.high.max()))


@dataclass(frozen=True)
class FirstImages:
    """What is kept of the first images.

    Attributes:
        tried: how many have a minimum and maximum of their own, because choices are tried on them.
        outputs: how many leave the outputs of the graph.
    """

    tried: int = 0
    outputs: int = 0


@dataclass(frozen=True)
class Observations:
    """What one pass over all images found.

    Attributes:
        tensors: the observers, by the names of the tensors.
        outputs: of the first images, the values of all outputs of the graph, ``(values,)``.
    """

    tensors: dict[str, Observed]
    outputs: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class _Seen:
    """The tensor of one image, observed beside the other images.

    Attributes:
        shape: of the tensor.
        min_max: by channel.
        sample: the values that a histogram counts.
    """

    shape: tuple[int, ...]
    min_max: ChannelMinMax
    sample: NDArray[np.float32]

    @classmethod
    def of(cls, values: NDArray[np.float32], axis: int) -> _Seen:
        return cls(values.shape, ChannelMinMax.of(values, axis), sampled(values).copy())

    @property
    def is_finite(self) -> bool:
        """Return whether all values are finite: NaN and infinity would be a minimum or a maximum."""
        return bool(np.isfinite(self.min_max.low).all() and np.isfinite(self.min_max.high).all())


def observe(
    graph: onnx.ModelProto,
    channel_axes: Mapping[str, int],
    frames: NDArray[np.uint8],
    first: FirstImages,
    progress: Progress,
) -> Observations:
    """Run all frames and observe some tensors.

    Args:
        graph: FP32; uint8 ``frame`` in.
        channel_axes: which axis of each tensor holds its channels.
        frames: ``(N,H,W,3)`` uint8, ``N`` ≥ 1.
        first: what is kept of the first frames.
        progress: told of every image.

    Raises:
        CalibrationError: a tensor or an output of the graph is NaN or infinite; the layer where it begins is named.
        ConversionError: ONNX Runtime cannot run the graph on these frames.
        MissingExtraError: ONNX Runtime is not installed.
    """
    outputs = [output.name for output in graph.graph.output]
    names = [*outputs, *(name for name in channel_axes if name not in outputs)]
    with conversion_errors():
        session = open_session(graph, also=names[len(outputs) :], threads=1)
    found, kept = dict[str, Observed](), list[NDArray[np.float32]]()

    def seen(frame: NDArray[np.uint8]) -> tuple[dict[str, _Seen], NDArray[np.float32]]:
        with conversion_errors():
            values = dict(zip(names, session.run(names, {INPUT_NAME: frame[np.newaxis]}), strict=True))
        tensors = {name: _Seen.of(values[name], axis) for name, axis in channel_axes.items()}
        return tensors, np.concatenate([values[name].ravel() for name in outputs])

    tracked = progress.track(frames, total=len(frames), unit="images")
    for number, (tensors, result) in enumerate(parallel_map(seen, tracked)):
        if not np.isfinite(result).all() or not all(each.is_finite for each in tensors.values()):
            raise not_finite(graph, frames[number], number)
        if number < first.outputs:
            kept.append(result)
        for name, each in tensors.items():
            if name not in found:
                nothing = ChannelMinMax.empty(len(each.min_max.low))
                found[name] = Observed(each.shape, nothing, nothing)
            found[name].add(each, tried=number < first.tried)
    return Observations(found, tuple(kept))
