"""Int8 weights for large products of a single row, such as the heads of compact networks.

A product of one row reads each of its weights once, so that the memory decides its time: in int8 weights take half the
bytes of bfloat16. The row itself stays in floating point. Only the weights are rounded, which adds little noise, but
adds it right to the logits: it is measured, and has a limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.calib.quantization.affine import weight_scales
from vitedge.calib.quantization.gptq import round_layer
from vitedge.calib.quantization.grid import INT8
from vitedge.calib.quantization.layerwise import LayerwiseRun, energy, logits_of
from vitedge.calib.quantization.qdq import QuantizedWeight, insert_weight
from vitedge.calib.quantization.search_budget import multiply_accumulates
from vitedge.graph.layers import Layer, linear_layers

if TYPE_CHECKING:
    import onnx

LEAST_WEIGHTS = 1e-3
"""Fewest weights of a product, as a share of the network's multiply-accumulates: about 1 % of the time. A processor
multiplies ten numbers in int8 while it reads one byte from memory."""

CACHED_WEIGHTS = 1 << 18
"""Products of fewer weights are left alone: they stay in a core's cache from frame to frame."""

LARGEST_NOISE = 0.1
"""Largest noise that the rounded weights may add, as a share of the noise that is there: 0.4 dB."""

ROUNDING_FRAMES, JUDGED_FRAMES = 64, 16
"""How many frames round the weights, and how many others judge them, at most."""


@dataclass(frozen=True)
class RowWeights:
    """A quantized graph whose products of a single row may have int8 weights.

    Attributes:
        graph: with Q/DQ.
        layers: names of the layers that have int8 weights alone.
    """

    graph: onnx.ModelProto
    layers: tuple[str, ...] = ()


def quantize_row_weights(
    full: onnx.ModelProto,
    quantized: onnx.ModelProto,
    frames: NDArray[np.uint8],
) -> RowWeights:
    """Round the weights of large products of a single row to int8, by GPTQ, where that adds little noise.

    Args:
        full: FP32; uint8 ``frame`` in, ``logits`` out.
        quantized: with Q/DQ, made from it; it is not changed.
        frames: ``(N,H,W,3)`` uint8, preprocessed. The first half, or 64, round the weights; others judge the noise.

    Returns:
        The quantized graph itself if it has no such product, or if ``LARGEST_NOISE`` is exceeded.

    Raises:
        ConversionError: ONNX Runtime cannot run a graph.
    """
    if len(frames) < 2:
        return RowWeights(quantized)
    model = ir.from_proto(quantized)
    layers = _large_rows(ir.from_proto(full), model, frames[:1])
    if not layers:
        return RowWeights(quantized)
    count = min(ROUNDING_FRAMES, len(frames) // 2)
    judged = frames[count : count + JUDGED_FRAMES]
    before = logits_of(model, judged)
    there = energy(before - logits_of(ir.from_proto(full), judged))
    weights = _rounded(model, layers, frames[:count])
    if energy(logits_of(model, judged) - before) > LARGEST_NOISE * there:
        return RowWeights(quantized)
    for layer, weight in weights.items():
        insert_weight(model, layer, weight)
    return RowWeights(ir.to_proto(model), tuple(layer.name for layer in layers))


def _large_rows(full: ir.Model, quantized: ir.Model, frame: NDArray[np.uint8]) -> list[Layer]:
    """Find the products of a single row that have many weights, all in floating point."""
    if not any(math.prod(each.weight_shape) >= CACHED_WEIGHTS for each in linear_layers(quantized.graph)):
        return []
    all_layers = tuple(linear_layers(full.graph))
    least = max(CACHED_WEIGHTS, LEAST_WEIGHTS * multiply_accumulates(all_layers, _shapes(full, all_layers, frame)))
    large = [each for each in linear_layers(quantized.graph) if math.prod(each.weight_shape) >= least]
    shapes = _shapes(quantized, large, frame)
    return [layer for layer in large if _is_row(layer, shapes[str(layer.data.name)])]


def _shapes(model: ir.Model, layers: Sequence[Layer], frame: NDArray[np.uint8]) -> Mapping[str, tuple[int, ...]]:
    """Give the shapes of what layers read."""
    names = {str(layer.data.name) for layer in layers}
    run = LayerwiseRun(model, frame)
    run.advance(None, keep=names)
    return {name: run.values[0][name].shape for name in names}


def _is_row(layer: Layer, shape: tuple[int, ...]) -> bool:
    return layer.operator != "Conv" and math.prod(shape[:-1]) == 1


def _rounded(model: ir.Model, layers: Sequence[Layer], frames: NDArray[np.uint8]) -> dict[Layer, QuantizedWeight]:
    """Round the weights of layers, each with the layers before it rounded; the model gets the rounded weights."""
    run, weights = LayerwiseRun(model, frames), dict[Layer, QuantizedWeight]()
    for index, layer in enumerate(layers):
        run.advance(layer.node, keep={str(each.data.name) for each in layers[index:]})
        weight = layer.weight_matrix
        scales = weight_scales(weight, INT8)
        weights[layer] = QuantizedWeight(round_layer(layer, weight, scales, run.values, INT8), scales)
        layer.set_weight(model, weights[layer].values)
    return weights
