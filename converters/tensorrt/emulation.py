"""A strongly typed graph as ONNX Runtime must be told to compute it.

ONNX Runtime's CPU has few operators in float16. It computes the others in float32 and, between two of them, leaves out
the rounding to float16: values that overflow on a device do not overflow there. This form of the graph computes in
float32 and rounds every float16 value by a pair of casts, which stay: what an engine computes whose products accumulate
in float32.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from vitedge.converters.tensorrt.float32_placement import COPYING_OPERATORS
from vitedge.graph.edit import add_tensor, drop_unused

HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT


def rounded(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Compute a graph in float32, with every float16 value rounded.

    Args:
        graph: strongly typed. It is not changed.
    """
    model = ir.from_proto(graph)
    for constant in [each for each in model.graph.initializers.values() if each.dtype == HALF]:
        values = constant.const_value.numpy().astype(np.float32)  # type: ignore[union-attr]
        ir.convenience.replace_all_uses_with(constant, add_tensor(model.graph, f"{constant.name}_full", values))
        drop_unused(model, constant)
    for node in list(model.graph):
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == HALF:
            node.attributes["to"] = ir.AttrInt64("to", int(FULL))
        for value in [each for each in node.outputs if each.dtype == HALF]:
            value.dtype = FULL
            if node.op_type not in COPYING_OPERATORS:
                _round(model, node, value)
    NameFixPass()(model)
    result: onnx.ModelProto = ir.to_proto(model)
    return result


def _round(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    half, full = ir.val(f"{value.name}_half", HALF, value.shape), ir.val(f"{value.name}_again", FULL, value.shape)
    ir.convenience.replace_all_uses_with(value, full)
    casts = [
        ir.node("Cast", [value], {"to": int(HALF)}, outputs=[half], name=f"{value.name}_round"),
        ir.node("Cast", [half], {"to": int(FULL)}, outputs=[full], name=f"{value.name}_back"),
    ]
    model.graph.insert_after(node, casts)
