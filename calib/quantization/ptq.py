"""FP32 graph and images to a Q/DQ graph: vitedge's post-training quantization of vision transformers.

    placement ─▶ observe ─▶ layer by layer, in the graph's order ─────────────────────────▶ Q/DQ insertion
    which         min/max,    data:    LayerNormalization equalization, or SmoothQuant,
    layers        histograms           or convolution equalization; range search
                              weights: GPTQ rounding, bias correction

Weights are symmetric int8 with a scale for each output channel, activations have one scale a tensor, with factors of
the channels before it where a convolution or an MLP's second layer reads it. Each step has its module, which says why.
With ``Scheme.FLOAT8`` all steps search on the grid of float8 instead. Its levels are as fine for small channels as for
large ones, so the channels of an activation function's results are not scaled but centred.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import Quantizer, Scheme, activation_quantizer, weight_scales
from vitedge.calib.quantization.bias_correction import add_missing_biases, mean_output
from vitedge.calib.quantization.conv_equalization import best_channel_scale
from vitedge.calib.quantization.engine_fusion import fuses_channel_scaling, is_activation
from vitedge.calib.quantization.finite_check import check_weights
from vitedge.calib.quantization.frame_convolution import quantize_frame_convolution
from vitedge.calib.quantization.gptq import round_layer
from vitedge.calib.quantization.hoist_qdq import hoist_qdq
from vitedge.calib.quantization.layernorm_equalization import (
    Equalization,
    ReadNorm,
    best_equalization,
    fold_equalization,
    norm_behind,
    read_norm,
)
from vitedge.calib.quantization.layerwise import LayerwiseRun
from vitedge.calib.quantization.observer_cache import observe_once
from vitedge.calib.quantization.observers import FirstImages, Observed
from vitedge.calib.quantization.parallel import single_threaded_products
from vitedge.calib.quantization.placement import int8_layers, readers_by_data
from vitedge.calib.quantization.qdq import QuantizedData, QuantizedWeight, insert_qdq
from vitedge.calib.quantization.range_estimators import Histogram, Range
from vitedge.calib.quantization.range_search import NEGLIGIBLE, Unseen, best_by_outputs, best_quantizer
from vitedge.calib.quantization.search_budget import SearchBudget, budget_for, multiply_accumulates
from vitedge.calib.quantization.smoothquant import best_smoothing
from vitedge.calib.quantization.validation_rows import ValidationRows, by_channel
from vitedge.counts import counted
from vitedge.errors import CalibrationError, ConversionError, UsageError, did_you_mean
from vitedge.graph.edit import order_initializers
from vitedge.graph.layers import Layer
from vitedge.graph.values import shape_of
from vitedge.progress import Progress, Silent

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float32]

LAYERWISE_IMAGES = 64
"""How many images run layer by layer; ranges are observed on all."""


@dataclass(frozen=True)
class QuantizedGraph:
    """The result of quantization.

    Attributes:
        graph: the Q/DQ graph; opset and inputs and outputs as before.
        recipe: the steps that were taken, in words.
    """

    graph: onnx.ModelProto
    recipe: str


def quantize(
    graph: onnx.ModelProto,
    frames: NDArray[np.uint8],
    *,
    scheme: Scheme = Scheme.ASYMMETRIC,
    keep_float: Collection[str] = (),
    budget: SearchBudget | None = None,
    progress: Progress = Silent(),  # noqa: B008
) -> QuantizedGraph:
    """Quantize a graph to 8 bits.

    Args:
        graph: FP32; uint8 ``frame`` ``(1,H,W,3)`` in, ``logits`` out. It is not changed.
        frames: ``(N,H,W,3)`` uint8, preprocessed.
        scheme: of activations. Asymmetric is what OpenVINO multiplies fastest; the first convolution becomes int8 as
            well then, because a frame is uint8, and some depthwise convolutions do not. TensorRT demands zero points of
            0: shifted, where an activation function makes the tensor and no convolution pads it, and symmetric
            elsewhere. Float8 for TensorRT as well; weights follow.
        keep_float: names of layers (``Layer.name``) that stay in floating point.
        budget: how thoroughly ranges are searched; by default as the size of the network allows.
        progress: told of every image that is observed, and of every layer.

    Raises:
        CalibrationError: no frames, or what the graph computes from one of them is not finite.
        ConversionError: the graph is quantized already, holds weights that are not finite or nothing to quantize, or
            does not take the frames.
        UsageError: the graph has no layer of a name in ``keep_float``.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if not len(frames):
        raise CalibrationError("there are no calibration images", expected="some hundred like those of the camera")
    model = ir.from_proto(graph)
    _check_frames(model.graph, frames)
    _name_nodes(model.graph)
    _refuse_quantized(model.graph)
    check_weights(model.graph)
    layers = add_missing_biases(model)
    _check_names(keep_float, layers)
    tried = min(LAYERWISE_IMAGES, len(frames) // 2)
    axes = {str(layer.data.name): layer.channel_axis for layer in layers}
    observations = observe_once(graph, axes, frames, FirstImages(tried, LAYERWISE_IMAGES), progress)
    observed = observations.tensors
    shapes = {name: each.shape for name, each in observed.items()}
    chosen = int8_layers(layers, shapes, keep_float, float_depthwise=scheme is Scheme.ASYMMETRIC)
    for warning in _warnings(chosen, observed):
        progress.step(f"warning: {warning}")
    budget = budget or budget_for(multiply_accumulates(layers, shapes))
    run = LayerwiseRun(model, frames[:LAYERWISE_IMAGES], observations.outputs)
    quantization = _Quantization(
        model, run, layers, chosen, observed, scheme=scheme, budget=budget, images=len(frames), tried=tried
    )
    with single_threaded_products():
        quantization.decide(progress)
        insert_qdq(model, quantization.data, quantization.weights)
        order_initializers(model.graph)
        first = "" if scheme is not Scheme.ASYMMETRIC else quantize_frame_convolution(model, frames, keep_float)
    hoist_qdq(model.graph)
    return QuantizedGraph(_without_inferred_types(model), quantization.recipe(len(frames), bool(first)))


class _Quantization:
    """The quantization of a graph, layer by layer; each decision sees all decisions before it.

    Attributes:
        data: the quantizers of tensors, by the first layer that reads them.
        weights: the int8 weights of the layers.
    """

    def __init__(
        self,
        model: ir.Model,
        run: LayerwiseRun,
        layers: Sequence[Layer],
        chosen: Sequence[Layer],
        observed: Mapping[str, Observed],
        *,
        scheme: Scheme,
        budget: SearchBudget,
        images: int,
        tried: int,
    ) -> None:
        self._model, self._run, self._chosen, self._observed = model, run, chosen, observed
        self._scheme, self._budget, self._images, self._tried = scheme, budget, images, tried
        self._all_readers, self._int8_readers = readers_by_data(layers), readers_by_data(chosen)
        searched = [tensor for tensor in self._int8_readers if norm_behind(tensor) is None]
        self._negligible = NEGLIGIBLE / max(1, len(searched))
        self._tensors = {layer: layer.data for layer in layers}  # layers will read quantized tensors instead
        self._factors: dict[ir.Value, NDArray[np.float32]] = {}
        self._centres: dict[ir.Value, NDArray[np.float32]] = {}
        self._judged_factors: dict[ir.Value, NDArray[np.float32]] = {}
        self._layers = frozenset(layers)
        self._judged_norms: set[ir.Node] = set()  # only once: later, readers of a norm read its quantized copy instead
        self._equalized: dict[ir.Node, tuple[ReadNorm, Equalization]] = {}
        self.data: dict[Layer, QuantizedData] = {}
        self.weights: dict[Layer, QuantizedWeight] = {}

    def decide(self, progress: Progress) -> None:
        """Quantize the data and the weights of every chosen layer, in the graph's order."""
        for index, layer in enumerate(progress.track(self._chosen, total=len(self._chosen), unit="layers")):
            self._run.advance(layer.node, keep={self._source(self._tensors[each]) for each in self._chosen[index:]})
            tensor = self._tensors[layer]
            if self._int8_readers[tensor][0] is layer:
                self._quantize_data(tensor, self._int8_readers[tensor])
            self._quantize_weights(layer)

    def recipe(self, images: int, first_convolution: bool) -> str:
        """Describe the steps that were taken."""
        layers = f"{counted(len(self.weights), 'layer')}{' and the first convolution' if first_convolution else ''}"
        float8 = self._scheme is Scheme.FLOAT8
        others = (
            f"{len(self._centres)} other tensors centred" if float8 else f"{len(self._factors)} other tensors scaled"
        )
        return (
            f"vitedge: {layers} {self._scheme.value if float8 else 'int8'}, weights per channel, "
            f"activations {self._scheme.value}; {len(self._equalized)} LayerNormalizations equalized, "
            f"{others} by channel, their ranges by the outputs of "
            f"{counted(min(images, self._budget.images), 'image')}; rounding and biases corrected on "
            f"{min(images, LAYERWISE_IMAGES)}"
        )

    # The data: one quantizer for all layers that read a tensor

    def _quantize_data(self, tensor: ir.Value, readers: Sequence[Layer]) -> None:
        equalized = self._equalize_layernorm(tensor, readers)
        read = ir.val(f"{tensor.name}_dequantized", tensor.dtype, tensor.shape)
        for layer in readers:
            layer.node.replace_input_with(0, read)
        if equalized is not None:
            quantizer = equalized
        elif self._may_smooth(tensor, readers):
            quantizer = self._smooth(tensor, readers)
        else:
            if self._may_centre(tensor, readers):
                self._centre(tensor, readers)
            elif self._may_equalize_convolutions(tensor, readers):
                self._equalize_convolutions(tensor, readers)
            quantizer = self._search_range(tensor, readers)
        self._run.derive(str(read.name), self._source(tensor), quantizer)
        self.data[readers[0]] = QuantizedData(
            tensor, read, quantizer, self._factors.get(tensor), self._centres.get(tensor)
        )

    def _equalize_layernorm(self, tensor: ir.Value, readers: Sequence[Layer]) -> Quantizer | None:
        """Bring the channels of the LayerNormalization behind a tensor to one range, by its own scale and offset.

        Returns:
            The quantizer of the tensor; None if there is no normalization that layers alone read.
        """
        node = norm_behind(tensor)
        if node is None:
            return None
        if node not in self._judged_norms:
            self._judged_norms.add(node)
            norm = read_norm(self._model.graph, node, self._layers)
            found = None if norm is None else self._best_equalization(tensor, norm, self._scheme_of(tensor, readers))
            if norm is not None and found is not None:
                self._fold(norm, found)
        if node not in self._equalized:
            return None
        norm, equalization = self._equalized[node]
        seen = self._observed[str(tensor.name)].min_max
        low, high = seen.low.astype(np.float64), seen.high.astype(np.float64)
        return equalization.of(norm.columns_of(tensor)).quantizer(low, high, self._scheme_of(tensor, readers))

    def _best_equalization(self, tensor: ir.Value, norm: ReadNorm, scheme: Scheme) -> Equalization | None:
        """Choose the equalization by the layers that read the normalization; None if a channel is read more often."""
        columns, seen = norm.columns_of(tensor), self._observed[str(tensor.name)].min_max
        axis = next(layer.channel_axis for layer, _ in norm.readers if layer.data is tensor)
        rows = self._validation_rows(tensor, axis).by_channel(columns, norm.channels)
        low, high = (by_channel(each[np.newaxis], columns, norm.channels) for each in (seen.low, seen.high))
        if rows is None or low is None or high is None:
            return None
        weights = [by_channel(layer.weight_by_input(), each, norm.channels) for layer, each in norm.readers]
        centres = [None, rows.mean] if scheme is Scheme.FLOAT8 and norm.shiftable else [None]
        found = [
            best_equalization(
                rows,
                low.min(axis=0).astype(np.float64),
                high.max(axis=0).astype(np.float64),
                np.concatenate([weight for weight in weights if weight is not None]),
                scheme,
                shifted=norm.shiftable,
                centre=centre,
            )
            for centre in centres
        ]
        equalizations = [each.equalization for each in found]
        if scheme is not Scheme.FLOAT8:
            return equalizations[0].with_room(self._images)
        if len(equalizations) == 1:
            return equalizations[0]
        changes = [
            (each.of(columns), each.quantizer(low.min(axis=0), high.max(axis=0), scheme)) for each in equalizations
        ]
        return equalizations[self._best_by_outputs(tensor, axis, changes)]

    def _best_by_outputs(
        self,
        tensor: ir.Value,
        axis: int,
        found: Sequence[tuple[Equalization, Quantizer]],
    ) -> int:
        """Find the equalization that leaves the network's outputs closest, with the tensor quantized; its position."""
        images = min(self._budget.images, len(self._run.values))

        def change(equalization: Equalization, quantizer: Quantizer, values: NDArray[np.float32]) -> Floats:
            moved = np.moveaxis(values, axis, -1)
            return np.moveaxis(equalization.undone(quantizer(equalization(moved))), -1, axis)

        changes = [partial(change, equalization, quantizer) for equalization, quantizer in found]
        name, few = str(tensor.name), range(min(self._budget.first, images))
        return best_by_outputs(self._run, name, name, changes, few, range(images))

    def _fold(self, norm: ReadNorm, equalization: Equalization) -> None:
        fold_equalization(self._model, norm, equalization)
        for value, channels in norm.values.items():
            if str(value.name) in self._run.values[0]:
                name = str(value.name)
                self._run.derive(name, name, partial(equalization.of_copies, channels=channels))
        self._equalized[norm.node] = norm, equalization

    def _may_smooth(self, tensor: ir.Value, readers: Sequence[Layer]) -> bool:
        """Decide whether products alone read a tensor, and an activation function produces it, as in an MLP."""
        products = all(layer.operator != "Conv" for layer in readers)
        return self._scheme is not Scheme.FLOAT8 and products and is_activation(tensor) and self._tried > 0

    def _smooth(self, tensor: ir.Value, readers: Sequence[Layer]) -> Quantizer:
        """Bring the channels as close together as suits the network's outputs (SmoothQuant)."""
        seen, scheme = self._observed[str(tensor.name)], self._scheme_of(tensor, readers)
        if not seen.min_max.largest.any():
            return activation_quantizer(0.0, 0.0, scheme)
        smoothing = best_smoothing(
            self._run,
            str(tensor.name),
            str(readers[0].data.name),
            seen.others,
            self._tried,
            self._budget,
            scheme,
            self._negligible,
        )
        best = smoothing.quantizer(seen.min_max, scheme)
        if (best.factors != 1).any():
            self._scale_channels(tensor, readers, best.factors)
        return best.quantizer

    def _may_equalize_convolutions(self, tensor: ir.Value, readers: Sequence[Layer]) -> bool:
        """Decide whether convolutions alone read a tensor, and the engine can fuse a multiplication of its channels."""
        convolutions = {layer.operator for layer in readers} == {"Conv"} and len({each.groups for each in readers}) == 1
        return self._scheme is not Scheme.FLOAT8 and convolutions and fuses_channel_scaling(tensor)

    def _may_centre(self, tensor: ir.Value, readers: Sequence[Layer]) -> bool:
        """Decide whether a subtraction pays, and the engine can fuse it into an activation function."""
        return self._scheme is Scheme.FLOAT8 and is_activation(tensor) and not any(layer.pads() for layer in readers)

    def _centre(self, tensor: ir.Value, readers: Sequence[Layer]) -> None:
        """Subtract the mean of each channel: the error of a float8 level grows with the value."""
        axis, rank = readers[0].channel_axis, len(self._observed[str(tensor.name)].shape)
        means = self._run.rows(str(tensor.name), axis).mean(axis=0, dtype=np.float64)
        for layer in readers:
            layer.replace_bias(self._model, layer.bias + layer.response(means))
        centre = means.astype(np.float32).reshape(-1, *[1] * (rank - 1 - axis % rank))
        self._centres[tensor] = centre
        self._run.derive(self._source(tensor), str(tensor.name), lambda values: values - centre)
        self._run.drop_unread(str(tensor.name))

    def _equalize_convolutions(self, tensor: ir.Value, readers: Sequence[Layer]) -> None:
        """Bring the channels to one range, by factors of their own."""
        seen = self._observed[str(tensor.name)]
        best = best_channel_scale(
            self._validation_rows(tensor, 1),
            seen.min_max.low.astype(np.float64),
            seen.min_max.high.astype(np.float64),
            np.concatenate([layer.weight_by_input() for layer in readers]),
            self._scheme_of(tensor, readers),
            groups=readers[0].groups,
        )
        shape = (-1, *[1] * (len(seen.shape) - 2))
        factors, judged = ((1 / each).astype(np.float32).reshape(shape) for each in (best.scale, best.judged))
        self._scale_channels(tensor, readers, factors)
        self._judged_factors[tensor] = judged

    def _search_range(self, tensor: ir.Value, readers: Sequence[Layer]) -> Quantizer:
        """Choose the range by the network's outputs."""
        read, scheme = str(readers[0].data.name), self._scheme_of(tensor, readers)
        return best_quantizer(
            self._run,
            self._source(tensor),
            read,
            self._histogram(tensor),
            self._budget,
            scheme,
            None if scheme is Scheme.FLOAT8 or not self._tried else self._unseen(tensor),
            self._negligible,
        )

    def _unseen(self, tensor: ir.Value) -> Unseen:
        """Give the images that a range is judged on, and the range of the others."""
        others, ones = self._observed[str(tensor.name)].others, np.ones(1, np.float32)
        factors, judged = (each.get(tensor, ones) for each in (self._factors, self._judged_factors))
        low, high = (each * judged.ravel() for each in (others.low, others.high))
        return Unseen(self._tried, Range(min(0.0, float(low.min())), max(0.0, float(high.max()))), judged / factors)

    def _scale_channels(self, tensor: ir.Value, readers: Sequence[Layer], factors: NDArray[np.float32]) -> None:
        """Multiply the channels; ``factors`` broadcast. The weights undo it."""
        for layer in readers:
            layer.scale_inputs(self._model, 1 / factors.ravel().astype(np.float64))
        self._factors[tensor] = factors
        self._run.derive(self._source(tensor), str(tensor.name), lambda values: values * factors)
        self._run.drop_unread(str(tensor.name))

    def _scheme_of(self, tensor: ir.Value, readers: Sequence[Layer]) -> Scheme:
        """Shift only where it pays: the operator before takes the shift up, and no convolution pads with zeros."""
        if self._scheme is not Scheme.SHIFTED:
            return self._scheme
        padded = any(layer.pads() for layer in readers)
        return Scheme.SHIFTED if is_activation(tensor) and not padded else Scheme.SYMMETRIC

    def _source(self, tensor: ir.Value) -> str:
        """Return the name of the tensor that the quantizer of a tensor reads."""
        if tensor in self._centres:
            return f"{tensor.name}_centred"
        return f"{tensor.name}_scaled" if tensor in self._factors else str(tensor.name)

    def _histogram(self, tensor: ir.Value) -> Histogram:
        """Return the histogram over all images; for changed channels, over the images that run layer by layer."""
        seen = self._observed[str(tensor.name)]
        if tensor in self._centres:
            centre = self._centres[tensor].ravel()
            ends = [seen.min_max.low - centre, seen.min_max.high - centre]
        elif tensor in self._factors:
            factors = self._factors[tensor].ravel()
            ends = [seen.min_max.low * factors, seen.min_max.high * factors]
        else:
            return seen.histogram
        histogram = Histogram()
        for values in self._run.values:
            histogram.add(values[self._source(tensor)])
        histogram.add(np.concatenate(ends))
        return histogram

    def _validation_rows(self, tensor: ir.Value, axis: int) -> ValidationRows:
        images = [values[str(tensor.name)] for values in self._run.values[: self._tried or None]]
        return ValidationRows.of(images, axis, self._observed[str(tensor.name)].others)

    # The weights

    def _quantize_weights(self, layer: Layer) -> None:
        """Round the weights, and have the bias take up what that and the quantized data add on average."""
        images, source = self._run.values, self._source(self._tensors[layer])
        weight = layer.weight_matrix
        grid = self._scheme.weight_grid
        scales = weight_scales(weight, grid)
        rounded = QuantizedWeight(round_layer(layer, weight, scales, images, grid), scales)
        before = mean_output(self._model, layer, images, source)
        layer.set_weight(self._model, rounded.values)
        after = mean_output(self._model, layer, images, str(layer.data.name))
        layer.replace_bias(self._model, layer.bias + before - after)
        self.weights[layer] = rounded


def _check_frames(graph: ir.Graph, frames: NDArray[np.uint8]) -> None:
    wanted = shape_of(graph.inputs[0])
    if frames.dtype != np.uint8 or (wanted is not None and frames.shape[1:] != wanted[1:]):
        raise ConversionError(
            f"the frames are {frames.dtype} of shape {frames.shape}",
            expected="uint8" if wanted is None else f"uint8 of shape {('N', *wanted[1:])}".replace("'", ""),
        )


def _name_nodes(graph: ir.Graph) -> None:
    """Name nodes without a name after their output, which is the name of their layer: outputs are renamed later."""
    for node in graph:
        node.name = node.name or node.outputs[0].name


def _refuse_quantized(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise ConversionError(
                f"the graph is quantized already: {node.name or node.op_type}",
                expected="float32",
                fix="give the original",
            )


def _check_names(names: Iterable[str], layers: Iterable[Layer]) -> None:
    known = {layer.name for layer in layers}
    for name in names:
        if name not in known:
            raise UsageError(
                f"the graph has no layer {name!r}",
                expected="a convolution or a product with constant weights",
                fix=did_you_mean(name, known),
            )


def _warnings(layers: Iterable[Layer], observed: Mapping[str, Observed]) -> Iterator[str]:
    for tensor, readers in readers_by_data(layers).items():
        found = observed[str(tensor.name)].min_max
        if (found.low == found.high).all():
            yield f"what the layer {readers[0].name!r} reads is the same in all calibration images"


def _without_inferred_types(model: ir.Model) -> onnx.ModelProto:
    """Drop the types of inner values, because the inserted quantizers have none."""
    proto: onnx.ModelProto = ir.to_proto(model)
    del proto.graph.value_info[:]
    return proto
