"""What a graph is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

from vitedge.calib.hoist import MOVES

PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class GraphSummary:
    """Operators of an ONNX graph.

    Attributes:
        operators: how many of each kind, most frequent first.
        weight_layers: convolutions and matrix products with constant weights.
        quantized_layers: those of them whose input and weights pass through Q/DQ.
    """

    operators: dict[str, int]
    weight_layers: int
    quantized_layers: int


def summarize(path: Path) -> GraphSummary:
    """Count the operators of an ONNX file."""
    graph = onnx.load(path, load_external_data=False).graph
    producers = {output: node for node in graph.node for output in node.output}
    weights = {each.name for each in graph.initializer}
    products = [node for node in graph.node if node.op_type in PRODUCTS]
    layers = [node for node in products if _is_constant(node.input[1], producers, weights)]
    return GraphSummary(
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        weight_layers=len(layers),
        quantized_layers=sum(all(_is_dequantized(name, producers) for name in layer.input[:2]) for layer in layers),
    )


def _is_constant(name: str, producers: dict[str, onnx.NodeProto], weights: set[str]) -> bool:
    """Whether a value is an initializer, or only casts, Q/DQ and layout changes away from one."""
    while name in producers:
        if producers[name].op_type not in ("Cast", "QuantizeLinear", "DequantizeLinear", "Transpose", "Constant"):
            return False
        if producers[name].op_type == "Constant":
            return True
        name = producers[name].input[0]
    return name in weights


def _is_dequantized(name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value comes from DequantizeLinear, with nothing between but what moves values."""
    while name in producers and producers[name].op_type in MOVES:
        name = producers[name].input[0]
    return name in producers and producers[name].op_type == "DequantizeLinear"
