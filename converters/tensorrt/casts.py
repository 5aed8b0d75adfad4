"""Counts of casts: each change of precision may cost a kernel, and break a fused one."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from vitedge.graph.operators import LINEAR_OPERATORS

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})


@dataclass(frozen=True)
class Counts:
    """The operators of one graph that TensorRT treats alike.

    Attributes:
        attentions: softmaxes.
        products: convolutions and matrix products.
        quantizers: QuantizeLinear of activations, each with its DequantizeLinear.
        weights: constants that pass through Q/DQ, or DQ alone.
        casts: between floating-point types; the cast of the frame, which is uint8, does not count.
    """

    attentions: int
    products: int
    quantizers: int
    weights: int
    casts: int

    def per_block(self, number: int) -> float:
        """Divide a number by the attentions; by 1 where there are none."""
        return number / max(self.attentions, 1)


def counts(graph: onnx.ModelProto) -> Counts:
    """Count the operators of a graph."""
    nodes, constants = graph.graph.node, {each.name for each in graph.graph.initializer}
    frames = {each.name for each in graph.graph.input}
    constants |= {name for node in nodes if node.op_type == "Constant" for name in node.output}
    producers = {name: node for node in nodes for name in node.output}
    quantize = [node for node in nodes if node.op_type == "QuantizeLinear"]
    dequantize = [node for node in nodes if node.op_type == "DequantizeLinear"]
    stored = {name for node in quantize if node.input[0] in constants for name in node.output}
    return Counts(
        attentions=sum(node.op_type == "Softmax" for node in nodes),
        products=sum(node.op_type in LINEAR_OPERATORS for node in nodes),
        quantizers=sum(node.input[0] not in constants for node in quantize),
        weights=sum(node.input[0] in constants or node.input[0] in stored for node in dequantize),
        casts=sum(_is_float_cast(node, producers) for node in nodes if not frames.intersection(node.input)),
    )


def _is_float_cast(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    """Decide whether a node casts a computed value to a floating-point type."""
    to = next((each.i for each in node.attribute if each.name == "to"), 0)
    return node.op_type == "Cast" and to in FLOATS and node.input[0] in producers
