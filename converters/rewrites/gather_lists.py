"""Gathers by a table of indices, as ``unfold`` exports to, become gathers by a list of them and a Reshape.

OpenVINO moves the scales of int8 channels behind a Gather, and fails where its indices are a table
(GatherTransformation, 2026.4: ``Argument shapes are inconsistent``).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from vitedge.graph.edit import add_tensor
from vitedge.graph.values import shape_of


def flatten_gathers(model: ir.Model) -> None:
    """Replace each Gather by constant indices of several dimensions, where shapes are static."""
    for node in tuple(model.graph):
        if node.op_type == "Gather" and _is_table(node.inputs[1]) and shape_of(node.outputs[0]) is not None:
            _flatten(model, node)


def _is_table(indices: ir.Value | None) -> bool:
    return indices is not None and indices.const_value is not None and indices.const_value.shape.rank() > 1


def _flatten(model: ir.Model, node: ir.Node) -> None:
    data, table = node.inputs
    output = node.outputs[0]
    shape = shape_of(output)
    if data is None or table is None or table.const_value is None or shape is None:
        raise ValueError(f"{node.name} was not checked")
    indices = add_tensor(model.graph, f"{output.name}_list", table.const_value.numpy().reshape(-1))
    axis, rank = node.attributes.get_int("axis", 0), table.const_value.shape.rank()
    axis %= len(shape) - rank + 1
    gathered = [*shape[:axis], math.prod(shape[axis : axis + rank]), *shape[axis + rank :]]
    listed = ir.val(f"{output.name}_gathered", output.dtype, gathered)
    gather = ir.node("Gather", [data, indices], {"axis": axis}, outputs=[listed])
    sizes = add_tensor(model.graph, f"{output.name}_shape", np.asarray(shape, np.int64))
    whole = ir.val(f"{output.name}_table", output.dtype, shape)
    reshape = ir.node("Reshape", [listed, sizes], outputs=[whole])
    model.graph.insert_before(node, [gather, reshape])
    ir.convenience.replace_all_uses_with(output, whole, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
