"""Quantizers right behind the operator that computes, before the layout operators that lead to the reader.

A quantizer of a whole tensor does the same to every value, wherever the value lies: it may change places with any
layout operator, and with a Gather that only changes the order of values, bit for bit. Behind a layer the engine
computes it along with the layer, and moves a quarter of the bytes; before a convolution that reads tokens laid out as a
map it would stand alone.

The result of attention is an exception, behind a softmax or behind talking heads. OpenVINO moves bytes one by one where
a row of a head has fewer than 64, and itself moves a quantizer from behind a Transpose to before it, but not over a
Reshape. So such a quantizer stays where it is. And behind a Concat whose result is reshaped the quantizer stays behind
the Reshape: OpenVINO would quantize the parts instead, and could not carry their scales through the Reshape to the
product.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vitedge.graph.operators import LAYOUT_OPERATORS
from vitedge.graph.values import constant_array, constant_shape, is_read_once, present, producer_of, shape_of

LEAST_ROW = 64
"""Bytes of a row that OpenVINO copies at once."""


def hoist_qdq(graph: ir.Graph) -> int:
    """Move pairs of QuantizeLinear and DequantizeLinear before the layout operators that lead to them.

    Args:
        graph: with Q/DQ, in topological order; changed in place. Its results stay, bit for bit.

    Returns:
        How many pairs were moved.
    """
    quantizers = [node for node in graph if node.op_type == "QuantizeLinear" and _has_one_scale(node)]
    return sum(_hoist(graph, node) for node in quantizers)


def _has_one_scale(quantize: ir.Node) -> bool:
    return constant_shape(quantize.inputs[1]) in ((), (1,))


def _hoist(graph: ir.Graph, quantize: ir.Node) -> bool:
    chain, levels = _layout_operators_before(quantize), quantize.outputs[0]
    partners = [node for node, _ in levels.uses()]
    if not chain or [node.op_type for node in partners] != ["DequantizeLinear"] or levels.is_graph_output():
        return False
    (dequantize,), first, last = partners, chain[-1], chain[0]
    result, moved, source = dequantize.outputs[0], last.outputs[0], first.inputs[0]
    quantize.replace_input_with(0, source)
    ir.convenience.replace_all_uses_with(result, moved, replace_graph_outputs=True)
    first.replace_input_with(0, result)
    result.name, moved.name = f"{result.name}_unmoved", result.name
    levels.shape = result.shape = None  # they lie before the layout operators now
    graph.remove([quantize, dequantize])
    graph.insert_before(first, [quantize, dequantize])
    return True


def _layout_operators_before(quantize: ir.Node) -> list[ir.Node]:
    """Return the layout operators whose results only the quantizer reads, the nearest first."""
    chain: list[ir.Node] = []
    value = quantize.inputs[0]
    while value is not None and is_read_once(value):
        node = value.producer()
        if node is None or not (node.op_type in LAYOUT_OPERATORS or _reorders(node)):
            break
        if _swaps_short_rows(node):
            return []
        chain.append(node)
        value = node.inputs[0]
    reshapes = [place for place, node in enumerate(chain) if node.op_type == "Reshape"]
    if reshapes and producer_of(chain[-1].inputs[0], "Concat") is not None:
        return chain[: reshapes[-1]]
    return chain


def _reorders(node: ir.Node) -> bool:
    """Decide whether a node is a Gather that takes every value once."""
    if node.op_type != "Gather" or node.domain:
        return False
    shape, positions = shape_of(present(node.inputs[0])), constant_array(node.inputs[1])
    if shape is None or positions is None or positions.ndim != 1:
        return False
    size = shape[node.attributes.get_int("axis", 0)]
    return np.array_equal(np.sort(positions % size), np.arange(size))


def _swaps_short_rows(node: ir.Node) -> bool:
    """Decide whether a node swaps heads, tokens or windows of attention, of which each row is short."""
    if node.op_type != "Transpose":
        return False
    value = node.inputs[0]
    while (reshape := producer_of(value, "Reshape")) is not None:
        value = reshape.inputs[0]
    product = producer_of(value, "MatMul")
    if product is None or not _is_attention(product.inputs[0]):
        return False
    shape, order = shape_of(node.outputs[0]), node.attributes.get_ints("perm", ())
    return shape is not None and order[-1:] == (len(shape) - 1,) and shape[-1] < LEAST_ROW


def _is_attention(value: ir.Value | None) -> bool:
    """Decide whether a value is the result of a softmax, or of a convolution that mixes heads behind one."""
    mixing = producer_of(value, "Conv")
    return producer_of(value if mixing is None else mixing.inputs[0], "Softmax") is not None
