"""The uint8 NHWC input that every bundle's graph has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.graph.edit import add_constant, add_tensor
from vitedge.graph.values import Array


def normalized_input(model: ir.Model) -> ir.Value | None:
    """Give the float32 NCHW input of a graph; None if it takes uint8 frames already."""
    (value,) = model.graph.inputs
    return value if value.dtype == ir.DataType.FLOAT else None


def replace_input(
    model: ir.Model, input_size: tuple[int, int], steps: Sequence[tuple[str, str, Array]] = ()
) -> ir.Value:
    """Give the graph the input ``frame``, uint8 ``(1,H,W,3)``.

    Args:
        model: takes one image.
        input_size: (H, W) in pixels.
        steps: elementwise operators with a constant of each channel: operator, name, ``(3,)`` values. They work on
            ``(1,H,3·W)``, before the channels become planes: an engine that computes with channels innermost, as
            OpenVINO does, moves nothing then, and rows of three values would leave its vectors nearly empty.

    Returns:
        The frame as float32 planes ``(1,3,H,W)`` on the 0…255 scale, with the steps applied. Consumers of the old
        input, which is no longer an input of the graph, must be given something computed from it.
    """
    frame = ir.val(INPUT_NAME, ir.DataType.UINT8, [1, *input_size, 3])
    nodes = [_node("Cast", [frame], "frame_float", to=int(ir.DataType.FLOAT))]
    if steps:
        height, width = input_size
        nodes.append(_reshape(model, nodes[-1].outputs[0], "frame_rows", [1, height, 3 * width]))
        for op_type, name, values in steps:
            constant = add_constant(model, f"{name}_by", np.tile(values, width))
            nodes.append(_node(op_type, [nodes[-1].outputs[0], constant], name))
        nodes.append(_reshape(model, nodes[-1].outputs[0], "frame_pixels", [1, height, width, 3]))
    nodes.append(_node("Transpose", nodes[-1].outputs, "frame_planes", perm=[0, 3, 1, 2]))
    model.graph.insert_before(model.graph[0], nodes)
    model.graph.inputs[:] = [frame]
    planes = nodes[-1].outputs[0]
    planes.dtype, planes.shape = ir.DataType.FLOAT, ir.Shape([1, 3, *input_size])
    return planes


def _reshape(model: ir.Model, value: ir.Value, name: str, shape: list[int]) -> ir.Node:
    return _node("Reshape", [value, add_tensor(model.graph, f"{name}_shape", np.asarray(shape, np.int64))], name)


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: int | list[int]) -> ir.Node:
    return ir.node(op_type, inputs, attributes, outputs=[ir.val(name)], name=name)
