"""LayerNormalization and products on maps or windows of tokens, ``(N,H,W,…,C)``, on one row of tokens, ``(N,H·W…,C)``.

OpenVINO has a kernel for LayerNormalization of three dimensions; of four it makes a mean, a difference, a quotient and
two changes of precision. Scale and bias of an int8 product of four dimensions become an operator of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import add_tensor
from vitedge.graph.layers import Layer, layer_of
from vitedge.graph.values import shape_of

OUTPUT = "an output of the graph is this map"


@dataclass(frozen=True)
class _Rows:
    """A layer that reads a map of tokens."""

    layer: Layer

    def apply(self, model: ir.Model) -> None:
        node, output = self.layer.node, self.layer.output
        before, after = shape_of(self.layer.data) or (), shape_of(output) or ()
        rows = (before[0], math.prod(before[1:-1]))
        node.replace_input_with(0, _reshaped(model, node, self.layer.data, (*rows, before[-1])))
        if node.op_type == "LayerNormalization":
            node.attributes["axis"] = ir.AttrInt64("axis", -1)
        last = self.layer.add or node
        node.outputs[0].shape = output.shape = ir.Shape((*rows, after[-1]))
        readers = tuple(output.uses())
        map_of_tokens = _reshaped(model, last, output, after)
        for reader, index in readers:
            reader.replace_input_with(index, map_of_tokens)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where a LayerNormalization or a product with constant weights reads a map of tokens.
    """
    return refusal(_found(model.graph), nothing="no LayerNormalization or product reads a map of tokens")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Reshape the tokens to a row before these layers, and back behind them."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[_Rows | str]:
    for node in list(graph):
        layer = layer_of(node) if node.op_type in ("LayerNormalization", "MatMul") else None
        if layer is not None and len(shape_of(layer.data) or ()) >= 4 and len(node.outputs) == 1:
            yield _Rows(layer) if _is_plain(layer) else OUTPUT


def _is_plain(layer: Layer) -> bool:
    return len(shape_of(layer.output) or ()) >= 4 and not layer.output.is_graph_output()


def _reshaped(model: ir.Model, node: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """Insert a Reshape of a value: before the node that reads it, or behind the node that produces it."""
    name = f"{value.name}_{'rows' if len(shape) == 3 else 'map'}"
    sizes = add_tensor(model.graph, f"{name}_shape", np.asarray(shape, np.int64))
    output = ir.val(name, value.dtype, list(shape))
    reshape = ir.node("Reshape", [value, sizes], outputs=[output], name=name)
    insert = model.graph.insert_after if value is not None and value.producer() is node else model.graph.insert_before
    insert(node, reshape)
    return output
