"""Which layers become int8, found by what they are and not by their names.

Convolutions and products with constant weights are quantized. Residual additions, LayerNormalization, softmax, GELU and
the products of attention stay in floating point: quantized residual additions destroy vision transformers. So do the
first convolution, which ``frame_convolution`` may quantize afterwards, the last layer, and products of a single row,
such as those behind the class token alone: they cost next to nothing, and their noise goes right into the logits.
Talking heads stay too: int8 would save nothing, and OpenVINO computes the product before a quantizer in float32. The
layer before the last becomes int8 where it has enough products to save time; ``noise_limit`` takes it back where its
noise is not small beside the noise of the others. OpenVINO computes a depthwise convolution in 16 bits in less time
than in int8, but then quantizes its result in a pass of its own. So it stays in floating point where its result stays
there too, because squeeze-and-excitation, a residual addition or a normalization reads it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir

from vitedge.calib.quantization.engine_fusion import ACTIVATION_PARTS
from vitedge.calib.quantization.search_budget import multiply_accumulates
from vitedge.errors import ConversionError
from vitedge.graph.layers import Layer
from vitedge.graph.operators import LAYOUT_OPERATORS, LINEAR_OPERATORS
from vitedge.graph.values import is_read_once, producer_of

LEAST_PRODUCTS = 0.01
"""Share of the multiply-accumulates from which on the layer before the last one becomes int8."""


def int8_layers(
    layers: Sequence[Layer],
    shapes: Mapping[str, tuple[int, ...]],
    keep_float: Collection[str] = (),
    *,
    float_depthwise: bool = False,
) -> tuple[Layer, ...]:
    """Choose the layers that become int8.

    Args:
        layers: all linear layers and convolutions of an FP32 graph, in its order.
        shapes: of the tensors that the layers read, by name.
        keep_float: names of layers that stay in floating point.
        float_depthwise: leave depthwise convolutions in floating point whose results other operators than layers read.

    Raises:
        ConversionError: no layer is left.
    """
    first = next((layer for layer in layers if layer.operator == "Conv"), None)
    chosen = tuple(
        layer
        for layer in layers[: -_float_last(layers, shapes)]
        if layer is not first
        and layer.name not in keep_float
        and not _single_row(layer, shapes[str(layer.data.name)])
        and not _mixes_heads(layer)
        and not (float_depthwise and _is_depthwise(layer) and not _feeds_layers_alone(layer))
    )
    if not chosen:
        raise ConversionError("the graph has no layer to quantize", expected="linear layers or convolutions")
    return chosen


def readers_by_data(layers: Iterable[Layer]) -> dict[ir.Value, tuple[Layer, ...]]:
    """Group layers by the tensor that they read: one quantizer serves them all."""
    readers: dict[ir.Value, list[Layer]] = defaultdict(list)
    for layer in layers:
        readers[layer.data].append(layer)
    return {value: tuple(each) for value, each in readers.items()}


def _float_last(layers: Sequence[Layer], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the layers at the end that stay in floating point: two where the one before the last has few products."""
    least = LEAST_PRODUCTS * multiply_accumulates(layers, shapes)
    return 1 if multiply_accumulates(layers[-2:-1], shapes) >= least else 2


def _single_row(layer: Layer, shape: tuple[int, ...]) -> bool:
    return layer.operator != "Conv" and math.prod(shape[:-1]) == 1


def _mixes_heads(layer: Layer) -> bool:
    """Decide whether a layer mixes the heads of attention, before its softmax or behind it."""
    outputs, inputs, *kernel = layer.weight_shape
    return outputs == inputs and math.prod(kernel) == 1 and (_is_softmax(layer.data) or _goes_to_softmax(layer.output))


def _is_softmax(value: ir.Value | None) -> bool:
    while (move := producer_of(value, *LAYOUT_OPERATORS)) is not None:
        value = move.inputs[0]
    return producer_of(value, "Softmax") is not None


def _goes_to_softmax(value: ir.Value) -> bool:
    while is_read_once(value) and (reader := value.consumers()[0]).op_type in LAYOUT_OPERATORS:
        value = reader.outputs[0]
    return any(reader.op_type == "Softmax" for reader in value.consumers())


def _is_depthwise(layer: Layer) -> bool:
    return layer.groups > 1 and layer.weight_shape[1] == 1


def _feeds_layers_alone(layer: Layer) -> bool:
    """Decide whether only layers read a layer's result, behind activation functions and layout operators or not."""
    values = [layer.output]
    while values:
        value = values.pop()
        if value.is_graph_output():
            return False
        for reader in value.consumers():
            if reader.op_type in ACTIVATION_PARTS | LAYOUT_OPERATORS:
                values += reader.outputs
            elif reader.op_type not in LINEAR_OPERATORS:
                return False
    return True
