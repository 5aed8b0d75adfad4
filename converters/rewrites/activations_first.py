"""Activations right behind the layer that feeds them, before the Reshapes and Transposes between the two.

What is computed value by value may change places with what only moves values. Engines compute an activation along with
the convolution or product before it, if nothing lies between; PVT v2, which lays tokens out as a map for a convolution
and back again, has both moves there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from vitedge.calib.hoist import MOVES
from vitedge.converters.rewrites.graph import bypass, is_read_once, layer_behind
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.preprocessing import Preprocessing

ACTIVATIONS = frozenset({"Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Sigmoid", "Tanh"})


@dataclass(frozen=True)
class _Exchange:
    """An activation, and the first and the last of the operators that come to lie behind it."""

    activation: ir.Node
    first: ir.Node
    last: ir.Node

    def apply(self, model: ir.Model) -> None:
        source = self.first.inputs[0]
        if source is None:
            raise ValueError(f"{self.first.name} was not checked")
        output = ir.val(f"{source.name}_activated", source.dtype, source.shape)
        attributes = list(self.activation.attributes.values())
        node = ir.Node(
            "", self.activation.op_type, [source], attributes, outputs=[output], name=f"{self.activation.name}_first"
        )
        model.graph.insert_before(self.first, node)
        self.first.replace_input_with(0, output)
        bypass(model, self.activation, self.last.outputs[0])


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies where nothing else reads the layer, nor what is made of it on the way to the activation."""
    return refusal(_found(model.graph), nothing="no activation reads what was reshaped or transposed")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Let each change places with the moves before it."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[_Exchange | str]:
    for node in list(graph):
        if node.op_type in ACTIVATIONS and not node.domain and _move_behind(node) is not None:
            yield _exchange(node)


def _exchange(activation: ir.Node) -> _Exchange | str:
    last = first = _move_behind(activation)
    while first is not None and (before := _move_behind(first)) is not None:
        first = before
    source = None if first is None else first.inputs[0]
    if first is None or last is None or source is None or layer_behind(source) is None:
        return "no layer makes what is moved"
    if not is_read_once(source):
        return "something else reads the layer"
    node = first
    while node is not activation:
        if not is_read_once(node.outputs[0]):
            return "something else reads what is moved"
        (node,) = node.outputs[0].consumers()
    return _Exchange(activation, first, last)


def _move_behind(node: ir.Node) -> ir.Node | None:
    """The move that makes what a node reads."""
    producer = None if node.inputs[0] is None else node.inputs[0].producer()
    return producer if producer is not None and producer.op_type in MOVES and not producer.domain else None
