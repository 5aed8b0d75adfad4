"""FP32 graph and images to a Q/DQ graph: vitedge's post-training quantization of vision transformers.

    placement ─▶ observe ─▶ for every layer, in order: equalize, scale or search ─▶ correct ─▶ qdq
    which         extremes,     one range for all        range by the            rounding,   Q/DQ
    layers        histograms    channels                 network's outputs       bias        ONNX

Weights are symmetric int8 with a scale for each output channel, activations have one scale a tensor, with factors of
the channels before it where a convolution or an MLP's second layer reads it. Each step has its module, which says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer, round_weights, weight_scales
from vitedge.calib.quantization.engine_fusion import Makers
from vitedge.calib.quantization.equalization import best_equalization, best_scaling, fold, normalization_behind
from vitedge.calib.quantization.finite_check import check_weights
from vitedge.calib.quantization.frame_convolution import quantize_frame_convolution
from vitedge.calib.quantization.gptq import feedback_round
from vitedge.calib.quantization.hoist_qdq import hoist_quantizers
from vitedge.calib.quantization.im2col import has_patches, is_padded, patches
from vitedge.calib.quantization.layerwise import Stream
from vitedge.calib.quantization.observer_cache import observe_once
from vitedge.calib.quantization.observers import Observed
from vitedge.calib.quantization.placement import Layer, by_data, int8_layers
from vitedge.calib.quantization.qdq import Int8Data, Int8Weight, with_qdq
from vitedge.calib.quantization.range_estimators import Histogram
from vitedge.calib.quantization.range_search import best_quantizer
from vitedge.calib.quantization.search_budget import effort_for, multiply_accumulates
from vitedge.calib.quantization.smoothquant import best_channel_scaling
from vitedge.calib.quantization.working_graph import Values, WorkingGraph, beside, runner
from vitedge.errors import CalibrationError, ConversionError, UsageError, did_you_mean
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
    scheme: Scheme = Scheme.ASYMMETRIC,
    keep_float: Collection[str] = (),
    progress: Progress = Silent(),  # noqa: B008
) -> QuantizedGraph:
    """Quantize a graph to int8.

    Args:
        graph: FP32; uint8 ``frame`` ``(1,H,W,3)`` in, ``logits`` out. It is not changed.
        frames: ``(N,H,W,3)`` uint8, preprocessed.
        scheme: of activations. Asymmetric is what OpenVINO multiplies fastest; the first convolution becomes int8 as
            well then: a frame is uint8. TensorRT demands zero points of 0: shifted, where an activation function makes
            the tensor and no convolution pads it, and symmetric elsewhere.
        keep_float: names of layers (``Layer.name``) that stay in floating point.
        progress: told of every image that is observed, and of every layer.

    Raises:
        CalibrationError: no frames, or what the graph computes from one of them is not finite.
        ConversionError: the graph is quantized already, holds weights that are not finite or nothing to quantize, or
            does not take the frames.
        UsageError: the graph has no layer of a name in ``keep_float``.
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    if not len(frames):
        raise CalibrationError("there are no calibration images", expected="some hundred like those of the camera")
    _refuse_quantized(graph)
    check_weights(graph)
    working = WorkingGraph.of(graph)
    all_layers = working.layers()
    _check_names(keep_float, all_layers)
    axes = {layer.data: 1 if layer.operator == "Conv" else -1 for layer in all_layers}
    tried = min(CORRECTION_IMAGES, len(frames) // 2)
    observed = observe_once(graph, axes, frames, tried, progress)
    shapes = {name: each.shape for name, each in observed.items()}
    layers = int8_layers(working.assembled(working.nodes), shapes, keep_float)
    for warning in _warnings(layers, observed):
        progress.step(f"warning: {warning}")
    stream = Stream(working, frames[:CORRECTION_IMAGES])
    work = _Work(working, all_layers, stream, observed, tried, scheme)
    work.run(layers, progress)
    result = with_qdq(working, work.data, work.weights)
    first = "" if scheme is not Scheme.ASYMMETRIC else quantize_frame_convolution(result, frames, keep_float)
    hoist_quantizers(result)
    return QuantizedGraph(graph=result, recipe=_recipe(work, len(frames), bool(first)))


class _Work:
    """What was decided so far; layers are decided in the graph's order."""

    def __init__(
        self,
        graph: WorkingGraph,
        all_layers: Sequence[Layer],
        stream: Stream,
        observed: Mapping[str, Observed],
        tried: int,
        scheme: Scheme,
    ) -> None:
        self._graph, self._stream, self._observed, self.scheme = graph, stream, observed, scheme
        self._tried = tried
        self._makers = Makers(graph.nodes)
        self._all_readers = by_data(all_layers)
        shapes = {name: each.shape for name, each in observed.items()}
        self.effort = effort_for(multiply_accumulates(graph, all_layers, shapes))
        self.data: dict[int, Int8Data] = {}
        self.weights: dict[Layer, Int8Weight] = {}
        self.equalized = 0
        self.factors: dict[str, NDArray[np.float32]] = {}

    def run(self, layers: Sequence[Layer], progress: Progress) -> None:
        """Decide all."""
        readers = by_data(layers)
        for index, layer in enumerate(progress.track(layers, total=len(layers), unit="layers")):
            self._stream.advance(layer.position, keep={self._source(each) for each in layers[index:]})
            if readers[layer.data][0] is layer:
                self._decide_data(readers[layer.data])
            self._decide_weight(layer)

    def _source(self, layer: Layer) -> str:
        """The tensor that a layer's weights are for, before it is quantized."""
        return f"{layer.data}_scaled" if layer.data in self.factors else layer.data

    def _decide_data(self, readers: Sequence[Layer]) -> None:
        """One quantizer for all that read a tensor."""
        name, first = readers[0].data, readers[0].position
        everyone = self._all_readers[name]  # those that stay in floating point have an equalization to undo as well
        norm, read = normalization_behind(self._graph, everyone), f"{name}_dequantized"
        for layer in readers:
            self._graph.nodes[layer.position].input[0] = read
        if norm is not None:
            quantizer = self._equalized(norm, everyone)
        elif self._ends_an_activation(readers):
            quantizer = self._closer(readers, read)
        else:
            if self._may_even_out(readers):
                self._evened_out(readers)
            quantizer = self._searched(readers, read)
        self._stream.replaced(self._source(readers[0]), read, quantizer)
        self.data[first] = Int8Data(name, read, quantizer, self.factors.get(name))

    def _ends_an_activation(self, readers: Sequence[Layer]) -> bool:
        """Whether products alone read it, and an activation function makes it, which takes up the multiplication."""
        products = all(layer.operator != "Conv" for layer in readers)
        return products and self._makers.is_activation(readers[0].data) and self._tried > 0

    def _scheme_of(self, readers: Sequence[Layer]) -> Scheme:
        """That of a tensor: shifted only where it pays, the operator before takes it up, and no zeros are padded."""
        if self.scheme is not Scheme.SHIFTED:
            return self.scheme
        padded = any(is_padded(self._graph.nodes[layer.position]) for layer in readers)
        return Scheme.SHIFTED if self._makers.is_activation(readers[0].data) and not padded else Scheme.SYMMETRIC

    def _closer(self, readers: Sequence[Layer], read: str) -> Quantizer:
        """Bring the channels as close as the outputs like best; the quantizer of what that makes."""
        name, seen, scheme = readers[0].data, self._observed[readers[0].data], self._scheme_of(readers)
        if not seen.extremes.reach.any():
            return activation_quantizer(0.0, 0.0, scheme)
        best = best_channel_scaling(self._stream, name, read, seen.others, self._tried, self.effort, scheme).quantizer(
            seen.extremes, scheme
        )
        if (best.factors != 1).any():
            self._scale(readers, best.factors)
        return best.quantizer

    def _may_even_out(self, readers: Sequence[Layer]) -> bool:
        """Whether convolutions alone read it, and a multiplication of the channels costs next to nothing."""
        convolutions = {layer.operator for layer in readers} == {"Conv"} and len({each.groups for each in readers}) == 1
        return convolutions and self._makers.take_up_channels(readers[0].data)

    def _evened_out(self, readers: Sequence[Layer]) -> None:
        """Bring the channels to one range by factors of their own."""
        name, observed = readers[0].data, self._observed[readers[0].data]
        scaling = best_scaling(
            self._some_rows(name, 1),
            observed.extremes.low.astype(np.float64),
            observed.extremes.high.astype(np.float64),
            np.concatenate([self._graph.weight_by_input(layer) for layer in readers]),
            self._scheme_of(readers),
            groups=readers[0].groups,
        )
        self._scale(readers, (1 / scaling).astype(np.float32).reshape(-1, *[1] * (len(observed.shape) - 2)))

    def _scale(self, readers: Sequence[Layer], factors: NDArray[np.float32]) -> None:
        """Multiply the channels; ``factors`` broadcast. The weights undo it."""
        name = readers[0].data
        for layer in readers:
            self._graph.scale_input(layer, 1 / factors.ravel().astype(np.float64))
        self.factors[name] = factors
        self._stream.replaced(name, self._source(readers[0]), lambda values: values * factors)
        self._stream.forget(name)

    def _searched(self, readers: Sequence[Layer], read: str) -> Quantizer:
        """The quantizer of a tensor by the network's outputs."""
        source, histogram = self._source(readers[0]), self._histogram(readers[0])
        return best_quantizer(self._stream, source, read, histogram, self.effort, self._scheme_of(readers))

    def _histogram(self, layer: Layer) -> Histogram:
        """Of what a layer reads, over all images; where channels were scaled, over those of the stream."""
        seen = self._observed[layer.data]
        if layer.data not in self.factors:
            return seen.histogram
        factors, extremes = self.factors[layer.data].ravel(), seen.extremes
        histogram = Histogram()
        for values in self._stream.values:
            histogram.add(values[self._source(layer)])
        histogram.add(np.concatenate([extremes.low * factors, extremes.high * factors]))
        return histogram

    def _some_rows(self, name: str, axis: int) -> NDArray[np.float32]:
        rows = self._stream.rows(name, axis)
        return rows[np.random.default_rng(0).choice(len(rows), min(EQUALIZATION_ROWS, len(rows)), replace=False)]

    def _equalized(self, norm: int, readers: Sequence[Layer]) -> Quantizer:
        name, seen = readers[0].data, self._observed[readers[0].data].extremes
        equalization, quantizer = best_equalization(
            self._some_rows(name, -1),
            seen.low.astype(np.float64),
            seen.high.astype(np.float64),
            np.concatenate([self._graph.weight(layer) for layer in readers]),
            self._scheme_of(readers),
        )
        fold(self._graph, norm, readers, equalization)
        self._stream.replaced(name, name, equalization)
        self.equalized += 1
        return quantizer

    def _decide_weight(self, layer: Layer) -> None:
        """Round the weights, and have the bias take up what that and the quantized input add on average."""
        weight = self._graph.weight(layer)
        node, scales = self._graph.nodes[layer.position], weight_scales(weight)
        levels = self._levels(layer, weight, scales)
        before = self._mean_output(layer, self._source(layer))
        rounded = Int8Weight(levels, scales)
        self._graph.set_weight(layer, rounded.values)
        after = self._mean_output(layer, node.input[0])
        self._graph.set_bias(layer, self._graph.bias(layer) + before - after)
        self.weights[layer] = rounded

    def _levels(self, layer: Layer, weight: NDArray[np.float64], scales: NDArray[np.float32]) -> NDArray[np.int8]:
        node = self._graph.nodes[layer.position]
        if layer.operator == "Conv" and not has_patches(node, self._graph.constants[node.input[1]].shape):
            return round_weights(weight, scales)
        grams = self._grams(layer, node.input[0])
        groups = zip(np.split(weight, len(grams)), np.split(scales, len(grams)), grams, strict=True)
        return np.concatenate([feedback_round(*group) for group in groups])

    def _grams(self, layer: Layer, read: str) -> NDArray[np.float64]:
        """``XᵀX`` of what each group of weights is multiplied with, ``(groups, in, in)``."""
        node = self._graph.nodes[layer.position]
        shape = self._graph.constants[node.input[1]].shape

        def gram(values: Values) -> NDArray[np.float64]:
            rows = patches(node, shape, values[read]) if layer.operator == "Conv" else _rows(values[read])
            return np.asarray(rows.transpose(0, 2, 1) @ rows, dtype=np.float64)

        return sum(beside(gram, self._stream.values), start=np.zeros(()))

    def _mean_output(self, layer: Layer, data: str) -> NDArray[np.float64]:
        """Of every channel, over the images, ``(out,)``."""
        node = type(self._graph.nodes[layer.position])()
        node.CopyFrom(self._graph.nodes[layer.position])
        node.input[0] = data
        images, axis = self._stream.values, 1 if layer.operator == "Conv" else -1
        session = runner(self._graph.assembled([node], {data: images[0][data]}, [node.output[0]]))

        def mean(values: Values) -> NDArray[np.float64]:
            output = session.run(None, {data: values[data]})[0]
            return np.asarray(output.mean(axis=_others(output, axis), dtype=np.float64))

        return np.asarray(np.mean(list(beside(mean, images)), axis=0))


def _rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(1, rows, channels)``."""
    return values.reshape(1, -1, values.shape[-1])


def _others(values: NDArray[np.float32], axis: int) -> tuple[int, ...]:
    return tuple(each for each in range(values.ndim) if each != axis % values.ndim)


def _check_names(names: Iterable[str], layers: Iterable[Layer]) -> None:
    known = {layer.name for layer in layers}
    for name in names:
        if name not in known:
            raise UsageError(
                f"the graph has no layer {name!r}",
                expected="a convolution or a product with constant weights",
                fix=did_you_mean(name, known),
            )


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
        if (observed[name].extremes.low == observed[name].extremes.high).all():
            yield f"what the layer {readers[0].name!r} reads is the same in all calibration images"


def _recipe(work: _Work, images: int, first: bool) -> str:
    layers = f"{len(work.weights)} layers{' and the first convolution' if first else ''}"
    return (
        f"vitedge: {layers} int8, weights per channel, "
        f"activations {work.scheme.value}; {work.equalized} LayerNormalizations equalized, "
        f"{len(work.factors)} other tensors scaled by channel, their ranges by the outputs of "
        f"{min(images, work.effort.images)} images; rounding and biases corrected on {min(images, CORRECTION_IMAGES)}"
    )
