"""Which layers become int8, found by what they are and not by their names.

Convolutions and products with constant weights are quantized. Residual additions, LayerNormalization, softmax, GELU and
the products of attention stay in floating point: quantized residual additions destroy vision transformers. So do the
first convolution, which ``frame_convolution`` may quantize afterwards, the last layer, and products of a single row,
such as those behind the class token alone: they cost next to nothing, and their noise goes right into the logits. The
layer before the last becomes int8 where it has enough products to save time; ``noise_limit`` takes it back where its
noise is not small beside the noise of the others.

Talking heads stay in floating point. With OpenVINO their quantizers cost more than int8 saves: it computes the product
before a quantizer in float32. A depthwise convolution takes less time in 16 bits than in int8 with OpenVINO, but then
its result is quantized in a pass of its own. So it stays in floating point where its result is read in floating point:
by squeeze-and-excitation, a residual addition, a normalization or a product of attention.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir

from vitedge.calib.quantization.search_budget import multiply_accumulates
from vitedge.calib.quantization.surroundings import is_depthwise, is_read_in_float, mixes_heads
from vitedge.errors import ConversionError
from vitedge.graph.layers import Layer

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
        float_depthwise: leave depthwise convolutions in floating point whose results are read so, unless no other layer
            could become int8.

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
        and not mixes_heads(layer)
    )
    if float_depthwise:
        chosen = tuple(layer for layer in chosen if not (is_depthwise(layer) and is_read_in_float(layer))) or chosen
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
