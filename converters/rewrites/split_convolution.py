"""A convolution whose output channels are split becomes one convolution for each part.

OpenVINO stores maps with their channels innermost, and copies the parts out of such a map by its reference kernel.
Parts that come from convolutions of their own need no copy. MobileViTv2 projects queries, keys and values in this way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import add_constant, drop_unused
from vitedge.graph.layers import Layer, layer_of
from vitedge.graph.values import is_read_once, shape_of

READ_TWICE = "something else reads the whole result"
GROUPED = "the convolution has groups"
OTHER_AXIS = "it splits another axis than the channels"
NO_SHAPE = "the shapes of the parts are not known"


@dataclass(frozen=True)
class _SplitConvolution:
    """A convolution, and the Split that alone reads it.

    Attributes:
        layer: the convolution.
        split: its reader.
        sizes: output channels of each part.
    """

    layer: Layer
    split: ir.Node
    sizes: tuple[int, ...]

    def apply(self, model: ir.Model) -> None:
        first, node = 0, self.layer.node
        for index, (part, size) in enumerate(zip(self.split.outputs, self.sizes, strict=True)):
            model.graph.insert_before(node, self._convolution(model, index, slice(first, first + size), part))
            first += size
        inputs = (*node.inputs, *self.split.inputs)
        model.graph.remove([self.split, node], safe=True)
        for each in inputs:
            drop_unused(model, each)

    def _convolution(self, model: ir.Model, index: int, channels: slice, part: ir.Value) -> ir.Node:
        node, name = self.layer.node, f"{self.layer.name}.{index}"
        inputs = [self.layer.data, add_constant(model, f"{name}.weight", self.layer.weight[channels])]
        if self.layer.has_bias:
            inputs.append(add_constant(model, f"{name}.bias", self.layer.bias[channels]))
        output = ir.val(f"{part.name}_convolved", part.dtype, part.shape)
        ir.convenience.replace_all_uses_with(part, output, replace_graph_outputs=True)
        return ir.node("Conv", inputs, dict(node.attributes), outputs=[output], name=name)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where Split alone reads a convolution, along its channels.
    """
    return refusal(_found(model.graph), nothing="no result of a convolution is split")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Split the weights instead of the result."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[_SplitConvolution | str]:
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "Split" and not node.domain else None
        layer = None if value is None else layer_of(value.producer())
        if value is not None and layer is not None and layer.operator == "Conv":
            yield _split_of(layer, node, value)


def _split_of(layer: Layer, split: ir.Node, value: ir.Value) -> _SplitConvolution | str:
    rank = len(shape_of(value) or ())
    shapes = [shape_of(part) for part in split.outputs]
    if not rank or any(shape is None for shape in shapes):
        return NO_SHAPE
    if split.attributes.get_int("axis", 0) % rank != layer.channel_axis:
        return OTHER_AXIS
    if layer.groups != 1:
        return GROUPED
    if not is_read_once(value):
        return READ_TWICE
    return _SplitConvolution(layer, split, tuple(shape[layer.channel_axis] for shape in shapes if shape is not None))
