"""Observations kept between runs: another recipe needs no pass over the images of its own.

The key is a hash over the graph and the frames, which are the images as their preprocessing left them. A cache that
cannot be read or written costs that pass and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.observers import ChannelMinMax, FirstImages, Observations, Observed, observe
from vitedge.calib.quantization.range_estimators import BINS, Histogram
from vitedge.graph.weights import split_weights
from vitedge.progress import Progress
from vitedge.runtime.system import cache

if TYPE_CHECKING:
    import onnx

KIND, FORMAT = "observations", 6
KEPT = 32
"""How many observations are kept, those written last; one takes 1 to 6 MB."""


def observe_once(
    graph: onnx.ModelProto,
    channel_axes: Mapping[str, int],
    frames: NDArray[np.uint8],
    first: FirstImages,
    progress: Progress,
) -> Observations:
    """Observe as ``observe`` does; the pass runs only if the same graph and frames were not observed before."""
    key = observation_key(graph, channel_axes, frames, first)
    observed = _from_json(cache.get(KIND, key), channel_axes, min(first.outputs, len(frames)))
    if observed is not None:
        progress.step("these images were observed before")
        return observed
    observed = observe(graph, channel_axes, frames, first, progress)
    cache.put(KIND, key, _to_json(observed), most=KEPT)
    return observed


def observation_key(
    graph: onnx.ModelProto, channel_axes: Mapping[str, int], frames: NDArray[np.uint8], first: FirstImages
) -> str:
    """Hash all that observations depend on; hexadecimal SHA-256.

    Args:
        graph: FP32.
        channel_axes: of the tensors that are observed.
        frames: ``(N,H,W,3)`` uint8.
        first: what is kept of the first frames.
    """
    digest = hashlib.sha256(f"{FORMAT} {sorted(channel_axes.items())} {frames.shape} {first}\n".encode())
    light, weights = split_weights(graph)
    digest.update(light.SerializeToString(deterministic=True))
    for array in weights.values():
        digest.update(array.data)
    for frame in frames:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


def _to_json(observations: Observations) -> dict[str, Any]:
    tensors = {
        name: {
            "shape": list(each.shape),
            "tried": _min_max_to_json(each.tried),
            "others": _min_max_to_json(each.others),
            "counts": each.histogram.counts.tolist(),
            "histogram": [each.histogram.width, each.histogram.low, each.histogram.high],
        }
        for name, each in observations.tensors.items()
    }
    return {"tensors": tensors, "outputs": [each.tolist() for each in observations.outputs]}


def _min_max_to_json(found: ChannelMinMax) -> list[list[float]] | None:
    """Return minima and maxima as lists; None where they are infinite, because no image was observed."""
    return [found.low.tolist(), found.high.tolist()] if np.isfinite(found.low).all() else None


def _from_json(value: Mapping[str, Any] | None, channel_axes: Mapping[str, int], outputs: int) -> Observations | None:
    """Read the requested observations; return None if one is missing or damaged."""
    if value is None:
        return None
    try:
        tensors = {name: _observed(value["tensors"][name], axis) for name, axis in channel_axes.items()}
        return Observations(tensors, _outputs(value["outputs"], outputs))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None


def _outputs(value: Any, count: int) -> tuple[NDArray[np.float32], ...]:
    with np.errstate(over="ignore"):
        found = tuple(np.array(each, np.float32) for each in value)
    sizes = {each.shape for each in found}
    if len(found) != count or len(sizes) > 1 or any(each.ndim != 1 or not np.isfinite(each).all() for each in found):
        raise ValueError("outputs of another number of images")
    return found


def _observed(value: Mapping[str, Any], axis: int) -> Observed:
    shape = tuple(int(each) for each in value["shape"])
    tried, others = (_min_max(value[images], shape[axis]) for images in ("tried", "others"))
    counts = np.array(value["counts"], np.int64)
    width, least, most = (float(each) for each in value["histogram"])
    if counts.shape != (BINS,) or counts.min() < 0 or not 0.0 <= width < np.inf or not -np.inf < least <= most < np.inf:
        raise ValueError("no histogram")
    return Observed(shape, tried, others, Histogram(counts, width, least, most))


def _min_max(value: Any, channels: int) -> ChannelMinMax:
    if value is None:
        return ChannelMinMax.empty(channels)
    with np.errstate(over="ignore"):
        found = ChannelMinMax(*(np.array(each, np.float32) for each in value))
    if any(each.shape != (channels,) or not np.isfinite(each).all() for each in (found.low, found.high)):
        raise ValueError("channels of another number")
    return found
