"""Fit a graph to what the converters take: one static image in, float32 logits of one dimension a class out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.converters.sources.onnx.image_input import Layout, shape_in

WIDENED = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")
INTO_LAYOUT: Mapping[tuple[bool, Layout], Sequence[int]] = {(False, "NHWC"): (0, 2, 3, 1), (True, "NCHW"): (0, 3, 1, 2)}
"""Permutation in front of a graph, by whether it takes uint8, and by its layout; none for other graphs."""


def keep_output(model: ir.Model, name: str) -> None:
    """Keep the output of a name alone, and what computes it; it must be an output."""
    if len(model.graph.outputs) > 1:
        model.graph.outputs[:] = [each for each in model.graph.outputs if each.name == name]
        RemoveUnusedNodesPass()(model)


def widen(model: ir.Model) -> None:
    """Compute in float32 what a graph computes in float16 or bfloat16; its numbers are exact in float32."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            _widen_value(value)
        for node in graph:
            for value in node.outputs:
                _widen_value(value)
            for attribute in list(node.attributes.values()):
                _widen_attribute(node, attribute)


def _widen_value(value: ir.Value) -> None:
    if value.const_value is not None and value.const_value.dtype in WIDENED:
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
    if value.dtype in WIDENED:
        value.dtype = ir.DataType.FLOAT


def _widen_attribute(node: ir.Node, attribute: ir.Attr) -> None:
    if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in WIDENED:
        wide = ir.tensor(attribute.as_tensor().numpy().astype(np.float32))
        node.attributes[attribute.name] = ir.AttrTensor(attribute.name, wide)
    elif attribute.name in TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT and attribute.as_int() in WIDENED:
        node.attributes[attribute.name] = ir.AttrInt64(attribute.name, int(ir.DataType.FLOAT))


def fit_input(model: ir.Model, layout: Layout, size: tuple[int, int]) -> None:
    """Make the input static: float32 ``(1,3,H,W)``, or uint8 ``(1,H,W,3)``, with a Transpose behind it where needed.

    Args:
        model: takes one image, float32 or uint8.
        layout: of this input.
        size: (H, W) in pixels.
    """
    (given,) = model.graph.inputs
    given.shape = ir.Shape(shape_in(layout, size))
    is_uint8 = given.dtype == ir.DataType.UINT8
    order = INTO_LAYOUT.get((is_uint8, layout))
    if order is None:
        return
    image = ir.val(f"{given.name}_image", given.dtype, ir.Shape(shape_in("NHWC" if is_uint8 else "NCHW", size)))
    planes = ir.node("Transpose", [image], {"perm": list(order)}, outputs=[ir.val(f"{given.name}_planes")])
    ir.convenience.replace_all_uses_with(given, planes.outputs[0], replace_graph_outputs=True)
    planes.outputs[0].shape, planes.outputs[0].type = given.shape, given.type
    if len(model.graph):
        model.graph.insert_before(model.graph[0], planes)
    model.graph.inputs[:] = [image]


def flatten_output(model: ir.Model, shape: Sequence[int]) -> bool:
    """Flatten logits such as ``(1,C,1,1)``, ``(1,1,C)`` or ``(C)`` to ``(1,C)``.

    Args:
        model: has one output.
        shape: of the output, as it came out of a run.

    Returns:
        Whether the graph was changed. It is not if the output is ``(1,C)``, or if several of its sizes are not 1.
    """
    classes = math.prod(shape)
    if tuple(shape) == (1, classes) or max(shape, default=0) != classes:
        return False
    (output,) = model.graph.outputs
    target = ir.tensor(np.array([1, classes], np.int64), name=f"{output.name}_shape")
    constant = ir.val(target.name, const_value=target, type=ir.TensorType(target.dtype), shape=ir.Shape([2]))
    model.graph.register_initializer(constant)
    flat = ir.node("Reshape", [output, constant], outputs=[ir.val(f"{output.name}_flat")])
    flat.outputs[0].type, flat.outputs[0].shape = output.type, ir.Shape([1, classes])
    model.graph.append(flat)
    model.graph.outputs[:] = [flat.outputs[0]]
    return True
