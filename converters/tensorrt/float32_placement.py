"""Which operators stay in float32; all others compute in float16.

A value that exceeds the range of float16 makes its producer and all its readers float32: so a residual stream with
large values is float32 from the block where they begin, through LayerNormalization, to where they end. Sums that no
matrix unit computes stay in float32 as well, and so do constants that float16 holds badly. LayerNormalization is one
operator that takes its statistics in float32 (``stash_type``), whatever type it reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from vitedge.converters.tensorrt.halves import holds, holds_scales
from vitedge.graph.operators import DATA_MOVEMENT_OPERATORS

LARGEST = float(np.finfo(np.float16).max) / 4
"""Unseen images may exceed what calibration has seen by a factor of four."""

SUMS = frozenset(
    {"GlobalAveragePool", "GlobalLpPool", "GroupNormalization", "InstanceNormalization", "LpNormalization"}
)
ILL_CONDITIONED = frozenset({"CumSum", "Exp", "Log", "Pow", "Reciprocal", "Sqrt"})
POINTWISE = frozenset({"Add", "Div", "Mul", "Sub"})
COPYING_OPERATORS = DATA_MOVEMENT_OPERATORS | {"Expand", "Tile"}
ADDED: Mapping[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "Concat": tuple(range(16)),
    "Conv": (2,),
    "Gemm": (2,),
    "LayerNormalization": (2,),
    "Sub": (0, 1),
}
"""Inputs that are added, or stand beside others: a value that vanishes there makes no difference."""

QUANTIZERS = frozenset({"DequantizeLinear", "QuantizeLinear"})
FOLLOWERS = COPYING_OPERATORS | QUANTIZERS | {"Cast"}
"""They compute nothing: their neighbours decide."""


def float32_nodes(graph: ir.Graph, peaks: Mapping[str, float]) -> dict[ir.Node, str]:
    """Find the nodes that compute in float32, each with the reason, in the graph's order.

    Args:
        graph: float32, with the types of its values.
        peaks: largest magnitude of every value.
    """
    found = {node: reason for node in graph if is_float(node) and (reason := _reason(node, peaks))}
    found |= dict.fromkeys(_behind_wide_scales(graph, found), "quantized with a scale that float16 does not hold")
    found |= dict.fromkeys(_frame_normalization(graph), "normalizes the frame")
    _follow(graph, found)
    return {node: found[node] for node in graph if node in found}


def is_float(node: ir.Node) -> bool:
    """Decide whether a node reads or produces floating-point values."""
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in (*node.inputs, *node.outputs))


def _reason(node: ir.Node, peaks: Mapping[str, float]) -> str:
    """Say why a node is float32 by itself; return an empty string if it is not."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    peak = max((peaks.get(str(value.name), 0.0) for value in values), default=0.0)
    if peak > LARGEST:
        return f"values up to {peak:.0f}"
    if node.op_type.startswith("Reduce") or node.op_type in SUMS:
        return "sums outside a matrix unit"
    if node.op_type in ILL_CONDITIONED:
        return "magnifies rounding"
    held = all(_is_held(node, index) for index in range(len(node.inputs)))
    return "" if held else "a constant that float16 does not hold"


def _is_held(node: ir.Node, index: int) -> bool:
    """Return whether float16 holds an input; it must hold single constants, factors and scales exactly."""
    value = node.inputs[index]
    if value is None or value.const_value is None or value.dtype != ir.DataType.FLOAT:
        return True
    values = value.const_value.numpy()
    if node.op_type in QUANTIZERS:
        return holds_scales(values)
    if values.size > 1 and index in ADDED.get(node.op_type, ()):
        return bool(np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max() <= LARGEST)
    return holds(values)


def _behind_wide_scales(graph: ir.Graph, found: Mapping[ir.Node, str]) -> set[ir.Node]:
    """Return the nodes behind a float32 DequantizeLinear: a cast between would end a layer's quantization."""
    behind = set[ir.Node]()
    for node in graph:
        copies = node.op_type in COPYING_OPERATORS
        if node in (found if node.op_type == "DequantizeLinear" else behind if copies else ()):
            behind.update(reader for value in node.outputs for reader, _ in value.uses())
    return behind - found.keys()


def _frame_normalization(graph: ir.Graph) -> set[ir.Node]:
    """Return the arithmetic on the frame before the first layer: float16 holds pixels, but rounds results."""
    known, result = set[ir.Value](graph.inputs), set[ir.Node]()
    for node in graph:
        data = [value for value in node.inputs if value is not None and value.const_value is None]
        if data and known.issuperset(data) and node.op_type in COPYING_OPERATORS | POINTWISE | {"Cast"}:
            known.update(node.outputs)
            result.update([node] if node.op_type in POINTWISE else [])
    return result


def _follow(graph: ir.Graph, found: dict[ir.Node, str]) -> None:
    """Give the followers the type that costs the fewest casts."""
    nodes = [node for node in graph if node.op_type in FOLLOWERS and is_float(node)]
    wanted = set(found)
    for node in reversed(nodes):
        readers = [reader for value in node.outputs for reader, _ in value.uses()]
        if readers and wanted.issuperset(readers):
            wanted.add(node)
    for node in nodes:
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        read = source in found
        follows = {"QuantizeLinear": read, "Cast": node in wanted, "DequantizeLinear": node in wanted}
        if node not in found and follows.get(node.op_type, read and node in wanted):
            found[node] = "its neighbours are float32"
