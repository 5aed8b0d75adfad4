"""The uint8 NHWC input that every bundle's graph has."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from vitedge.bundle.bundle import INPUT_NAME


def normalized_input(model: ir.Model) -> ir.Value | None:
    """Give the float32 NCHW input of a graph; None if it takes uint8 frames already."""
    (value,) = model.graph.inputs
    return value if value.dtype == ir.DataType.FLOAT else None


def replace_input(model: ir.Model, input_size: tuple[int, int]) -> ir.Value:
    """Give the graph the input ``frame``, uint8 ``(1,H,W,3)``.

    Args:
        model: takes one image.
        input_size: (H, W) in pixels.

    Returns:
        The frame as float32 planes ``(1,3,H,W)`` on the 0…255 scale. Consumers of the old input, which is no longer
        an input of the graph, must be given something computed from it.
    """
    frame = ir.val(INPUT_NAME, ir.DataType.UINT8, [1, *input_size, 3])
    cast = _node("Cast", [frame], "frame_float", to=int(ir.DataType.FLOAT))
    planes = _node("Transpose", cast.outputs, "frame_planes", perm=[0, 3, 1, 2])
    model.graph.insert_before(model.graph[0], [cast, planes])
    model.graph.inputs[:] = [frame]
    return planes.outputs[0]


def add_after(model: ir.Model, source: ir.Value, op_type: str, operand: ir.Value, name: str) -> ir.Value:
    """Add an elementwise node right after the one that makes ``source``; its output."""
    node = _node(op_type, [source, operand], name)
    producer = source.producer()
    if producer is None:
        raise ValueError(f"{source.name} is made by no node")
    model.graph.insert_after(producer, node)
    return node.outputs[0]


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: int | list[int]) -> ir.Node:
    return ir.node(op_type, inputs, attributes, outputs=[ir.val(name)], name=name)
