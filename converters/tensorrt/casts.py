"""How often the precision changes in a graph: each change may cost a kernel, and break a fused one."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})


@dataclass(frozen=True)
class Counts:
    """Of one graph.

    Attributes:
        attentions: softmaxes.
        products: convolutions and matrix products.
        quantizers: QuantizeLinear of activations, each with its DequantizeLinear.
        weights: constants that pass through Q/DQ, or DQ alone.
        switches: casts between floating-point types; that of the frame, which is uint8, is none.
    """

    attentions: int
    products: int
    quantizers: int
    weights: int
    switches: int

    def per_block(self, number: int) -> float:
        """A number for each attention; for the whole graph where there is none."""
        return number / max(self.attentions, 1)


def counts(graph: onnx.ModelProto) -> Counts:
    """Count."""
    nodes, constants = graph.graph.node, {each.name for each in graph.graph.initializer}
    frames = {each.name for each in graph.graph.input}
    constants |= {name for node in nodes if node.op_type == "Constant" for name in node.output}
    makers = {name: node for node in nodes for name in node.output}
    quantize = [node for node in nodes if node.op_type == "QuantizeLinear"]
    dequantize = [node for node in nodes if node.op_type == "DequantizeLinear"]
    stored = {name for node in quantize if node.input[0] in constants for name in node.output}
    return Counts(
        attentions=sum(node.op_type == "Softmax" for node in nodes),
        products=sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in nodes),
        quantizers=sum(node.input[0] not in constants for node in quantize),
        weights=sum(node.input[0] in constants or node.input[0] in stored for node in dequantize),
        switches=sum(_switches(node, makers) for node in nodes if not frames.intersection(node.input)),
    )


def _switches(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a node casts what was computed to a floating-point type."""
    to = next((each.i for each in node.attribute if each.name == "to"), 0)
    return node.op_type == "Cast" and to in FLOATS and node.input[0] in makers
