"""FP32 graph and images to a Q/DQ graph: vitedge's post-training quantization of vision transformers.

    placement ─▶ observe ─▶ for every layer, in order: equalize or search ─▶ correct ─▶ qdq
    which         extremes,     one range for all        range by the        rounding,   Q/DQ
    layers        histograms    channels of a norm       network's outputs   bias        ONNX

Weights are symmetric int8 with a scale for each output channel, activations have one scale a tensor. Each step has its
module, which says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.correct import feedback_round
from vitedge.calib.effort import Effort, effort_for, multiply_accumulates
from vitedge.calib.equalize import best_equalization, fold, normalization_behind
from vitedge.calib.finite import check_weights
from vitedge.calib.frame_convolution import quantize_frame_convolution
from vitedge.calib.hoist import hoist_quantizers
from vitedge.calib.observe import Observed, observe
from vitedge.calib.placement import Layer, by_data, int8_layers
from vitedge.calib.qdq import Int8Data, Int8Weight, with_qdq
from vitedge.calib.quantizers import Quantizer, round_weights, weight_scales
from vitedge.calib.search import best_quantizer
from vitedge.calib.stream import Stream
from vitedge.calib.working import WorkingGraph, runner
from vitedge.errors import CalibrationError, ConversionError
from vitedge.progress import Progress, Silent

if TYPE_CHECKING:
    import onnx

CORRECTION_IMAGES = 64
"""How many images layers are corrected on, one after the other; ranges are taken from all."""

EQUALIZATION_ROWS = 2048


@dataclass(frozen=True)
class QuantizedGraph:
    """What quantization made.

    Attributes:
        graph: the Q/DQ graph; opset and inputs and outputs as before.
        recipe: what was done, in words.
    """

    graph: onnx.ModelProto
    recipe: str


def quantize(
    graph: onnx.ModelProto,
    frames: NDArray[np.uint8],
    *,
    symmetric_activations: bool = False,
    progress: Progress = Silent(),  # noqa: B008
) -> QuantizedGraph:
    """Quantize a graph to int8.

    Args:
        graph: FP32; uint8 ``frame`` ``(1,H,W,3)`` in, ``logits`` out. It is not changed.
        frames: ``(N,H,W,3)`` uint8, preprocessed.
        symmetric_activations: int8 with zero points of 0, as TensorRT demands; else uint8, which OpenVINO multiplies
            fastest, and the first convolution in int8 as well: a frame is uint8.
        progress: told of every image that is observed, and of every layer.

    Raises:
        CalibrationError: no frames, or what the graph computes from one of them is not finite.
        ConversionError: the graph is quantized already, holds weights that are not finite or nothing to quantize, or
            does not take the frames.
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    if not len(frames):
        raise CalibrationError("there are no calibration images", expected="some hundred like those of the camera")
    _refuse_quantized(graph)
    check_weights(graph)
    working = WorkingGraph.of(graph)
    axes = {layer.data: 1 if layer.operator == "Conv" else -1 for layer in working.layers()}
    observed = observe(graph, axes, frames, progress)
    shapes = {name: each.shape for name, each in observed.items()}
    layers = int8_layers(working.assembled(working.nodes), shapes)
    for warning in _warnings(layers, observed):
        progress.step(f"warning: {warning}")
    found = effort_for(multiply_accumulates(working, working.layers(), shapes))
    work = _Work(working, Stream(working, frames[:CORRECTION_IMAGES]), observed, found, symmetric_activations)
    work.run(layers, progress)
    result = with_qdq(working, work.data, work.weights)
    first = "" if symmetric_activations else quantize_frame_convolution(result, frames)
    hoist_quantizers(result)
    return QuantizedGraph(graph=result, recipe=_recipe(work, len(frames), bool(first)))


class _Work:
    """What was decided so far; layers are decided in the graph's order."""

    def __init__(
        self, graph: WorkingGraph, stream: Stream, observed: Mapping[str, Observed], effort: Effort, symmetric: bool
    ) -> None:
        self._graph, self._stream, self._observed = graph, stream, observed
        self.effort, self.symmetric = effort, symmetric
        self.data: dict[int, Int8Data] = {}
        self.weights: dict[Layer, Int8Weight] = {}
        self.equalized = 0

    def run(self, layers: Sequence[Layer], progress: Progress) -> None:
        """Decide all."""
        readers = by_data(layers)
        for index, layer in enumerate(progress.track(layers, total=len(layers), unit="layers")):
            self._stream.advance(layer.position, keep={each.data for each in layers[index:]})
            if readers[layer.data][0] is layer:
                self._decide_data(readers[layer.data])
            self._decide_weight(layer)

    def _decide_data(self, readers: Sequence[Layer]) -> None:
        """One quantizer for all that read a tensor."""
        name, first = readers[0].data, readers[0].position
        norm, read = normalization_behind(self._graph, readers), f"{name}_dequantized"
        quantizer = None if norm is None else self._equalized(norm, readers)
        for layer in readers:
            self._graph.nodes[layer.position].input[0] = read
        if quantizer is None:
            histogram = self._observed[name].histogram
            quantizer = best_quantizer(self._stream, name, read, histogram, self.effort, symmetric=self.symmetric)
        self._stream.replaced(name, read, quantizer)
        self.data[first] = Int8Data(name, read, quantizer)

    def _equalized(self, norm: int, readers: Sequence[Layer]) -> Quantizer:
        name = readers[0].data
        rows, seen = self._stream.rows(name, -1), self._observed[name]
        some = np.random.default_rng(0).choice(len(rows), min(EQUALIZATION_ROWS, len(rows)), replace=False)
        equalization, quantizer = best_equalization(
            rows[some],
            seen.low.astype(np.float64),
            seen.high.astype(np.float64),
            np.concatenate([self._graph.weight(layer) for layer in readers]),
            symmetric=self.symmetric,
        )
        fold(self._graph, norm, readers, equalization)
        self._stream.replaced(name, name, equalization)
        self.equalized += 1
        return quantizer

    def _decide_weight(self, layer: Layer) -> None:
        """Round the weights, and have the bias take up what that and the quantized input add on average."""
        weight = self._graph.weight(layer)
        node, data = self._graph.nodes[layer.position], self._observed[layer.data]
        scales = weight_scales(weight)
        if layer.groups == 1 and weight.shape[1] == len(data.low):  # a convolution of single pixels is a product too
            rows = self._stream.rows(node.input[0], 1 if layer.operator == "Conv" else -1)
            levels = feedback_round(weight, scales, (rows.T @ rows).astype(np.float64))
        else:
            levels = round_weights(weight, scales)
        before = self._mean_output(layer, layer.data)
        rounded = Int8Weight(levels, scales)
        self._graph.set_weight(layer, rounded.values)
        after = self._mean_output(layer, node.input[0])
        self._graph.set_bias(layer, self._graph.bias(layer) + before - after)
        self.weights[layer] = rounded

    def _mean_output(self, layer: Layer, data: str) -> NDArray[np.float64]:
        """Of every channel, over the images, ``(out,)``."""
        node = type(self._graph.nodes[layer.position])()
        node.CopyFrom(self._graph.nodes[layer.position])
        node.input[0] = data
        values = self._stream.values
        session = runner(self._graph.assembled([node], {data: values[0][data]}, [node.output[0]]))
        axis = 1 if layer.operator == "Conv" else -1
        outputs = (session.run(None, {data: each[data]})[0] for each in values)
        means = [each.mean(axis=_others(each, axis), dtype=np.float64) for each in outputs]
        return np.asarray(np.mean(means, axis=0))


def _others(values: NDArray[np.float32], axis: int) -> tuple[int, ...]:
    return tuple(each for each in range(values.ndim) if each != axis % values.ndim)


def _refuse_quantized(graph: onnx.ModelProto) -> None:
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise ConversionError(
                f"the graph is quantized already: {node.name or node.op_type}",
                expected="float32",
                fix="give the original",
            )


def _warnings(layers: Iterable[Layer], observed: Mapping[str, Observed]) -> Iterator[str]:
    for name, readers in by_data(layers).items():
        if (observed[name].low == observed[name].high).all():
            yield f"what the layer {readers[0].name!r} reads is the same in all calibration images"


def _recipe(work: _Work, images: int, first: bool) -> str:
    layers = f"{len(work.weights)} layers{' and the first convolution' if first else ''}"
    return (
        f"vitedge: {layers} int8, weights per channel, "
        f"activations {'int8' if work.symmetric else 'uint8'}; {work.equalized} LayerNormalizations equalized, other "
        f"ranges by the outputs of {min(images, work.effort.images)} images; rounding and biases corrected on "
        f"{min(images, CORRECTION_IMAGES)}"
    )
