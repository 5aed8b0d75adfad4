"""A layer between two Transposes of a map becomes a pointwise convolution.

CaiT mixes the heads of attention by layers. Each moves the heads of all pairs of tokens innermost, and back again, one
value at a time. OpenVINO reorders the map of a convolution with faster kernels, and multiplies a few channels faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.merge_layout_operators import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import add_constant, bypass
from vitedge.graph.layers import Layer, layer_behind
from vitedge.graph.values import is_read_once, present, producer_of

READ_TWICE = "something else reads a value on the way"


@dataclass(frozen=True)
class _TransposedLayer:
    """A layer with a Transpose before it and one behind it.

    Attributes:
        before: brings the channels of a map last.
        layer: reads them.
        behind: brings them first again.
    """

    before: ir.Node
    layer: Layer
    behind: ir.Node

    def apply(self, model: ir.Model) -> None:
        name, result = self.layer.name, self.behind.outputs[0]
        kernel = self.layer.weight[:, :, None, None]
        inputs = [present(self.before.inputs[0]), add_constant(model, f"{name}.kernel", kernel)]
        if self.layer.has_bias:
            inputs.append(add_constant(model, f"{name}.offset", self.layer.bias))
        output = ir.val(f"{result.name}_convolved", result.dtype, result.shape)
        model.graph.insert_before(self.behind, ir.node("Conv", inputs, outputs=[output], name=name))
        bypass(model, self.behind, output)
        for node in (self.layer.add, self.layer.node, self.before):
            if node is not None:
                bypass(model, node, inputs[0])


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where Transposes bring the channels of a map last for one layer alone.
    """
    return refusal(_found(model.graph), nothing="no layer lies between two Transposes of a map")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Replace the layers and the Transposes around them."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[_TransposedLayer | str]:
    for node in list(graph):
        if not _transposes(node, TO_CHANNELS_FIRST):
            continue
        layer = layer_behind(node.inputs[0])
        if layer is None or layer.operator != "MatMul":
            continue
        before = producer_of(layer.data, "Transpose")
        if before is not None and _transposes(before, TO_CHANNELS_LAST):
            alone = all(is_read_once(value) for value in (layer.data, layer.node.outputs[0], layer.output))
            yield _TransposedLayer(before, layer, node) if alone else READ_TWICE


def _transposes(node: ir.Node, order: tuple[int, ...]) -> bool:
    return node.op_type == "Transpose" and not node.domain and tuple(node.attributes.get_ints("perm", ())) == order
