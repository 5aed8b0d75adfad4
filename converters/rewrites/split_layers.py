"""A layer whose output channels are split becomes one layer for each part.

OpenVINO copies the parts out of a result by its reference kernel, because channels are innermost there. Parts that come
from layers of their own need no copy. MobileViTv2, TinyViT, LeViT and EfficientViT project queries, keys and values
together; the channels of each head lie side by side in some of them, so that a Reshape comes before the Split.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import add_constant, add_tensor, drop_unused
from vitedge.graph.layers import Layer, layer_behind
from vitedge.graph.values import is_read_once, producer_of, shape_of

READ_TWICE = "something else reads the whole result"
GROUPED = "the layer has groups"
OTHER_AXIS = "it splits another axis than the channels"
NO_SHAPE = "the shapes of the parts are not known"


@dataclass(frozen=True)
class _SplitLayer:
    """A layer, and the Split that alone reads it.

    Attributes:
        layer: the layer.
        reshape: between the two; None without one.
        split: the last of them.
        parts: output channels of each part.
    """

    layer: Layer
    reshape: ir.Node | None
    split: ir.Node
    parts: tuple[NDArray[np.intp], ...]

    def apply(self, model: ir.Model) -> None:
        nodes = [each for each in (self.split, self.reshape, self.layer.add, self.layer.node) if each is not None]
        inputs = [value for node in nodes for value in node.inputs]
        for index, (part, channels) in enumerate(zip(self.split.outputs, self.parts, strict=True)):
            self._part(model, index, channels, part)
        for node in nodes:
            model.graph.remove(node, safe=True)
        for value in inputs:
            drop_unused(model, value)

    def _part(self, model: ir.Model, index: int, channels: NDArray[np.intp], part: ir.Value) -> None:
        """Compute one part by a layer of its own, which is laid out as the Split did."""
        node, name = self.layer.node, f"{self.layer.name}.{index}"
        weight, axis = self.layer.weight[channels], self.layer.channel_axis
        stored = np.ascontiguousarray(weight.T) if self.layer.out_axis else weight
        inputs = [self.layer.data, add_constant(model, f"{name}.weight", stored)]
        bias = add_constant(model, f"{name}.bias", self.layer.bias[channels]) if self.layer.has_bias else None
        if bias is not None and self.layer.add is None:
            inputs.append(bias)
        shape = list(shape_of(self.layer.output) or ())
        shape[axis] = len(channels)
        product = _value(part, "product", shape)
        steps = [ir.node(node.op_type, inputs, dict(node.attributes), outputs=[product], name=name)]
        if bias is not None and self.layer.add is not None:
            steps.append(_behind(steps[-1], "Add", bias, _value(part, "biased", shape)))
        if self.reshape is not None:
            sizes = shape_of(part) or ()
            constant = add_tensor(model.graph, f"{part.name}_sizes", np.asarray(sizes, np.int64))
            steps.append(_behind(steps[-1], "Reshape", constant, _value(part, "shaped", sizes)))
        model.graph.insert_before(self.split, steps)
        ir.convenience.replace_all_uses_with(part, steps[-1].outputs[0], replace_graph_outputs=True)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where Split alone reads a convolution or a product with constant weights, along its channels. A Reshape
    may come between that divides the channels, such as into heads.
    """
    return refusal(_found(model.graph), nothing="no result of a layer is split")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Split the weights instead of the result."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[_SplitLayer | str]:
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "Split" and not node.domain else None
        reshape = producer_of(value, "Reshape")
        layer = layer_behind(value if reshape is None else reshape.inputs[0])
        if layer is not None and layer.operator in ("Conv", "MatMul"):
            yield _split_of(layer, reshape, node)


def _split_of(layer: Layer, reshape: ir.Node | None, split: ir.Node) -> _SplitLayer | str:
    between = [layer.output, *([] if reshape is None else reshape.outputs)]
    shapes = [shape_of(value) for value in (*between, *split.outputs)]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return NO_SHAPE
    before, after = known[0], known[len(between) - 1]
    axis = split.attributes.get_int("axis", 0) or 0
    channels = _channels(before, layer.channel_axis % len(before), after, axis % len(after))
    if channels is None:
        return OTHER_AXIS
    if layer.groups != 1:
        return GROUPED
    if not all(is_read_once(value) for value in between):
        return READ_TWICE
    ends = np.cumsum([part[axis] for part in known[len(between) :]])
    return _SplitLayer(layer, reshape, split, tuple(each.ravel() for each in np.split(channels, ends[:-1], axis=1)))


def _channels(before: tuple[int, ...], channel_axis: int, after: tuple[int, ...], axis: int) -> NDArray[np.intp] | None:
    """Number the channels as a Reshape divides them.

    Args:
        before: shape of the layer's output.
        channel_axis: of that.
        after: shape that is split.
        axis: along which it is split.

    Returns:
        ``(channels before the axis, the axis, channels behind it)``; None if the axis is no division of the channels.
    """
    outer, count = math.prod(before[:channel_axis]), before[channel_axis]
    for first in range(axis + 1):
        for last in range(axis, len(after)):
            if math.prod(after[:first]) == outer and math.prod(after[first : last + 1]) == count:
                sizes = math.prod(after[first:axis]), after[axis], math.prod(after[axis + 1 : last + 1])
                return np.arange(count).reshape(sizes)
    return None


def _value(part: ir.Value, what: str, shape: Sequence[int]) -> ir.Value:
    return ir.val(f"{part.name}_{what}", part.dtype, list(shape))


def _behind(node: ir.Node, op_type: str, constant: ir.Value, output: ir.Value) -> ir.Node:
    return ir.node(op_type, [node.outputs[0], constant], outputs=[output], name=str(output.name))
