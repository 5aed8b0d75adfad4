"""Widen strided int8 convolutions that OpenVINO 2026.4 computes wrongly with AMX.

oneDNN merges neighbouring columns of few channels into more channels where stride, kernel and width allow it and the
right edge is not padded. With int8 and AMX, the result is unrelated to the convolution: -5 dB for the 8x8 convolutions
of PVT v2, which reduce keys and values. A column of zeros at the right of the kernel, and of padding at the right of
the image, keeps oneDNN from it. That is exact, and costs one column of products. The form is given on every host: the
device may have AMX where the host has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.converters.openvino.own_weights import give_own_weights
from vitedge.graph.attributes import integers, spells_padding_out
from vitedge.graph.edit import add_tensor, drop_unused
from vitedge.graph.values import constant_array, present, producer_of

LEAST_STRIDE = 4
CHANNELS = range(9, 64)
"""Channels of a group with which results were wrong are among these; multiples of 8 from 16 to 56 were seen."""


def widen_strided_convolutions(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Give the kernels of strided int8 convolutions one more column, of zeros.

    Args:
        graph: with Q/DQ; it is not changed.

    Returns:
        The graph itself where it has no such convolution.
    """
    model = ir.from_proto(graph)
    sites = list(_sites(model.graph))
    for node, weights, levels in sites:
        _widen(model, node, weights, np.pad(levels, ((0, 0), (0, 0), (0, 0), (0, 1))))
    return ir.to_proto(model) if sites else graph


def _sites(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node, NDArray[Any]]]:
    """Give each such convolution, with the operator that dequantizes its weights, and the weights."""
    for node in graph:
        weights = producer_of(node.inputs[1], "DequantizeLinear") if node.op_type == "Conv" else None
        levels = None if weights is None else constant_array(weights.inputs[0])
        if weights is not None and levels is not None and _merges_columns(node, levels.shape):
            yield node, weights, levels


def _merges_columns(node: ir.Node, shape: tuple[int, ...]) -> bool:
    """Decide by the shape of the weights ``(out, in, height, width)``; one-dimensional convolutions are left alone."""
    if len(shape) != len(("out", "in", "height", "width")) or not spells_padding_out(node):
        return False
    stride, right = integers(node, "strides", 1, 2)[1], integers(node, "pads", 0, 4)[3]
    return shape[1] in CHANNELS and stride >= LEAST_STRIDE and math.gcd(stride, shape[3]) > 1 and right == 0


def _widen(model: ir.Model, node: ir.Node, weights: ir.Node, wide: NDArray[Any]) -> None:
    """Give a convolution wider weights, and the padding for them; other readers of the weights keep them."""
    levels, name = present(weights.inputs[0]), f"{node.outputs[0].name}_wide_weight"
    inputs = [add_tensor(model.graph, name, wide), *weights.inputs[1:]]
    give_own_weights(model, node, weights, inputs, ir.val(f"{name}_values"))
    *others, right = integers(node, "pads", 0, 4)
    node.attributes["pads"] = ir.AttrInt64s("pads", [*others, right + 1])
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", wide.shape[2:])
    if not weights.outputs[0].uses():
        model.graph.remove(weights, safe=True)
        drop_unused(model, levels)
