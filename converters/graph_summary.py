"""The operators of a graph, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from vitedge.audit import UNAVAILABLE, AuditedLayer
from vitedge.converters.sources.onnx.files import read_graph
from vitedge.errors import BundleError
from vitedge.graph.operators import LAYOUT_OPERATORS, LINEAR_OPERATORS

CONSTANT = ("Cast", "QuantizeLinear", "DequantizeLinear", "Transpose")
"""Operators that may lie between an initializer and the layer whose weights it holds."""


@dataclass(frozen=True)
class GraphSummary:
    """Operators of an ONNX graph.

    Attributes:
        operators: how many of each kind, most frequent first.
        weight_layers: convolutions and matrix products with constant weights.
        quantized_layers: the weight layers whose input and weights pass through Q/DQ.
    """

    operators: dict[str, int]
    weight_layers: int
    quantized_layers: int


def summarize(path: Path) -> GraphSummary:
    """Count the operators of an ONNX file.

    Raises:
        BundleError: the file holds no graph, or none that vitedge reads.
    """
    try:
        graph = read_graph(path).model.graph
    except (OSError, ValueError) as error:
        raise BundleError(
            f"the graph {path} cannot be read: {error}",
            expected="the graph that vitedge wrote",
            fix="convert the model again",
        ) from error
    layers = weight_layers(graph)
    return GraphSummary(
        operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        weight_layers=len(layers),
        quantized_layers=sum(layer.quantized for layer in layers),
    )


def weight_layers(graph: onnx.GraphProto) -> tuple[AuditedLayer, ...]:
    """List the convolutions and matrix products with constant weights, in the graph's order.

    Their precision is not known before an engine has compiled them.
    """
    producers = {output: node for node in graph.node for output in node.output}
    weights = {each.name for each in graph.initializer}
    constants, activations = _Sources(producers, CONSTANT), _Sources(producers, LAYOUT_OPERATORS)
    return tuple(
        AuditedLayer(
            name=node.name or node.output[0],
            operator=node.op_type,
            quantized=all(activations.kind(name) == "DequantizeLinear" for name in node.input[:2]),
            precision=UNAVAILABLE,
        )
        for node in graph.node
        if node.op_type in LINEAR_OPERATORS
        and len(node.input) > 1
        and (constants.of(node.input[1]) in weights or constants.kind(node.input[1]) == "Constant")
    )


class _Sources:
    """Where values come from, with nothing between but operators of certain kinds.

    Args:
        producers: nodes by output; they may be in any order, and lead in circles.
        through: the kinds of operators.
    """

    def __init__(self, producers: Mapping[str, onnx.NodeProto], through: Collection[str]) -> None:
        self._producers = producers
        self._through = through
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Give the first value on the way to this one; each value is passed once, however often it is asked for."""
        passed: dict[str, None] = {}
        while name not in self._known and name not in passed and self._is_passed(name):
            passed[name] = None
            name = self._producers[name].input[0]
        source = self._known.get(name, name)
        self._known.update(dict.fromkeys(passed, source))
        return source

    def _is_passed(self, name: str) -> bool:
        node = self._producers.get(name)
        return node is not None and node.op_type in self._through and len(node.input) > 0

    def kind(self, name: str) -> str:
        """Give the operator that produces the first value; empty where none does."""
        node = self._producers.get(self.of(name))
        return "" if node is None else node.op_type
