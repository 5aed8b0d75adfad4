"""Layers that stay in floating point for what lies around them: talking heads, and some depthwise convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from vitedge.calib.quantization.engine_fusion import ACTIVATION_PARTS
from vitedge.graph.layers import Layer
from vitedge.graph.operators import DATA_MOVEMENT_OPERATORS, LAYOUT_OPERATORS
from vitedge.graph.values import comes_from, constant_shape, leads_to

ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})

FLOAT_OPERATORS = frozenset({
    "GlobalAveragePool", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization",
    "ReduceMean",
})  # fmt: skip
"""Means and normalizations, which are computed in floating point."""


def mixes_heads(layer: Layer) -> bool:
    """Decide whether a layer mixes the heads of attention (talking heads), before its softmax or behind it.

    Such a layer has as many outputs as inputs, and lies between the product of queries and keys and the softmax, or
    between the softmax and the product with the values.
    """
    outputs, inputs, *kernel = layer.weight_shape
    if outputs != inputs or math.prod(kernel) != 1:
        return False
    return _lies_between(layer, _is_product, _is_softmax) or _lies_between(layer, _is_softmax, _is_product)


def is_depthwise(layer: Layer) -> bool:
    """Decide whether a layer is a convolution that computes each channel from one channel."""
    return layer.groups > 1 and layer.weight_shape[:2] == (layer.groups, 1)


def is_read_in_float(layer: Layer) -> bool:
    """Decide whether a layer's result is read in floating point, behind activation functions or directly.

    A mean or a normalization reads it so, and a sum or a matrix product of two computed values.
    """
    return leads_to(layer.output, _reads_float, through=_passes_activation)


def _lies_between(layer: Layer, first: Callable[[ir.Node], bool], last: Callable[[ir.Node], bool]) -> bool:
    return comes_from(layer.data, first, through=_passes) and leads_to(layer.output, last, through=_passes)


def _is_softmax(node: ir.Node) -> bool:
    return node.op_type == "Softmax"


def _is_product(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and not _has_constant(node)


def _reads_float(node: ir.Node) -> bool:
    return node.op_type in FLOAT_OPERATORS or (node.op_type in {"Add", "MatMul", "Sub"} and not _has_constant(node))


def _passes(node: ir.Node) -> bool:
    """Decide whether an operator lays a value out differently, or combines it with a constant."""
    return node.op_type in LAYOUT_OPERATORS or (node.op_type in ARITHMETIC and _has_constant(node))


def _passes_activation(node: ir.Node) -> bool:
    return node.op_type in ACTIVATION_PARTS | DATA_MOVEMENT_OPERATORS or _passes(node)


def _has_constant(node: ir.Node) -> bool:
    return any(constant_shape(value) is not None for value in node.inputs)
