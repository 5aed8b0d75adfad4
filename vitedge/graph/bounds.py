"""Bounds of each operator: the regions of its inputs that a region of its output is computed from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from vitedge.graph.edit import add_tensor
from vitedge.graph.operators import is_standard
from vitedge.graph.regions import Region, Span, reshaped, whole
from vitedge.graph.values import constant_array, shape_of

Needs = dict[int, Region]
"""Index of an input → the region of it that is read; other inputs are not read."""

POINTWISE = frozenset(
    {"Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity"}
    | {"LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Softplus"}
    | {"Sqrt", "Sub", "Tanh", "Where"}
)
RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
SELECTIONS = frozenset({"Gather", "Slice", "Split"})


def static_shape(value: ir.Value) -> list[int]:
    """Give the static shape of a value.

    Raises:
        ValueError: the shape is not known.
    """
    shape = shape_of(value)
    if shape is None:
        raise ValueError(f"{value.name} has no static shape")
    return list(shape)


def everything(value: ir.Value) -> Region:
    """Give the region that is all of a value."""
    return whole(static_shape(value))


def needs(output: ir.Value, region: Region) -> Needs | None:
    """Give the regions of an operator's inputs that a region of its output is computed from.

    Returns:
        None where the operator has no rule, or can compute only its whole output.
    """
    node = output.producer()
    if node is None or not is_standard(node.domain):
        return None
    rule = RULES.get(node.op_type)
    return None if rule is None else rule(node, output, region)


def selected(value: ir.Value) -> tuple[ir.Value, Region]:
    """Follow a value back through reshapes and selections: where they begin, and the region that they pass on."""
    region = everything(value)
    node = value.producer()
    while node is not None and node.op_type in RESHAPES | SELECTIONS:
        source = node.inputs[0]
        found = None if source is None or shape_of(source) is None else needs(value, region)
        if source is None or found is None:
            break
        value, region, node = source, found[0], source.producer()
    return value, region


def cut(owner: ir.Graph, source: ir.Value, region: Region) -> ir.Node:
    """Make a Slice that gives a region of a value; the caller inserts it into the graph."""
    axes = [axis for axis, (span, all_) in enumerate(zip(region, everything(source), strict=True)) if span != all_]
    spans = np.array([region[axis] for axis in axes], np.int64)
    bounds = {"starts": spans[:, 0], "ends": spans[:, 1], "axes": np.array(axes, np.int64)}
    return ir.node(
        "Slice", [source, *(add_tensor(owner, f"{source.name}_{name}", each) for name, each in bounds.items())]
    )


def needs_everything(node: ir.Node) -> Needs:
    """Give all of all inputs."""
    return {index: everything(value) for index, value in enumerate(node.inputs) if value is not None}


def _pointwise(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:  # noqa: ARG001
    return {
        index: _broadcast(region, static_shape(value)) for index, value in enumerate(node.inputs) if value is not None
    }


def _broadcast(region: Region, shape: list[int]) -> Region:
    """Return the region of an operand that numpy's broadcasting extends to ``region``."""
    return tuple(
        (0, 1) if size == 1 else span for size, span in zip(shape, region[len(region) - len(shape) :], strict=True)
    )


def _normalization(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:
    """Handle LayerNormalization along all axes from ``axis`` on, and Softmax along one."""
    shape = static_shape(output)
    axis = node.attributes.get_int("axis", -1) % len(shape)
    end = axis + 1 if node.op_type in ("Softmax", "LogSoftmax") else len(shape)
    if region[axis:end] != whole(shape)[axis:end] or len(node.outputs) > 1:
        return None
    return needs_everything(node) | {0: region}


def _matmul(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:  # noqa: ARG001
    left, right = (static_shape(value) for value in node.inputs if value is not None)
    if min(len(left), len(right)) < 2:
        return None
    inner = (0, left[-1])
    return {
        0: (*_broadcast(region[:-2], left[:-2]), region[-2], inner),
        1: (*_broadcast(region[:-2], right[:-2]), inner, region[-1]),
    }


def _gemm(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:  # noqa: ARG001
    rows, columns = region
    shapes = [None if value is None else static_shape(value) for value in node.inputs]
    transposed = [bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")]
    inner: Span = (0, (shapes[0] or [])[0 if transposed[0] else 1])
    result: Needs = {
        0: (inner, rows) if transposed[0] else (rows, inner),
        1: (columns, inner) if transposed[1] else (inner, columns),
    }
    if len(shapes) > 2 and shapes[2] is not None:
        result[2] = _broadcast(region, shapes[2])
    return result


def _transpose(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:  # noqa: ARG001
    order = node.attributes.get_ints("perm") or range(len(region))[::-1]
    spans = dict(zip(order, region, strict=True))
    return {0: tuple(spans[axis] for axis in range(len(region)))}


def _reshape(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:
    source = reshaped(region, static_shape(output), _input_shape(node, 0))
    return None if source is None else {0: source}


def _concat(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:
    axis = node.attributes.get_int("axis", 0) % len(static_shape(output))
    result: Needs = {}
    offset = 0
    for index in range(len(node.inputs)):
        size = _input_shape(node, index)[axis]
        first, last = max(region[axis][0] - offset, 0), min(region[axis][1] - offset, size)
        if first < last:
            result[index] = _with_span(region, axis, (first, last))
        offset += size
    return result


def _slice(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:  # noqa: ARG001
    start, _, axes, steps = (_integers(node, index) for index in (1, 2, 3, 4))
    if start is None or (steps is not None and any(step != 1 for step in steps)):
        return None
    if axes is None:
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            return None
        axes = list(range(len(start)))
    if steps is None and len(node.inputs) > 4 and node.inputs[4] is not None:
        return None
    shape = _input_shape(node, 0)
    for first, axis in zip(start, axes, strict=True):
        size = shape[axis]
        offset = min(max(first + size if first < 0 else first, 0), size)
        region = _with_span(region, axis % len(shape), _offset_by(region[axis], offset))
    return {0: region}


def _gather(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:  # noqa: ARG001
    """Handle one constant index, or consecutive ones."""
    indices = _constant(node, 1)
    shape = _input_shape(node, 0)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    if indices is None or indices.ndim > 1:
        return None
    run = [int(index) % shape[axis] for index in indices.flatten()]
    if run != list(range(run[0], run[0] + len(run))):
        return None
    span = (run[0], run[0] + 1) if indices.ndim == 0 else _offset_by(region[axis], run[0])
    return {0: (*region[:axis], span, *region[axis + indices.ndim :])}


def _split(node: ir.Node, output: ir.Value, region: Region) -> Needs | None:
    axis = node.attributes.get_int("axis", 0) % len(region)
    before = node.outputs[: node.outputs.index(output)]
    offset = sum(static_shape(each)[axis] for each in before)
    return {0: _with_span(region, axis, _offset_by(region[axis], offset))}


RULES: dict[str, Callable[[ir.Node, ir.Value, Region], Needs | None]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(RESHAPES, _reshape),
    "Concat": _concat,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _normalization,
    "LogSoftmax": _normalization,
    "MatMul": _matmul,
    "Slice": _slice,
    "Softmax": _normalization,
    "Split": _split,
    "Transpose": _transpose,
}


def _with_span(region: Region, axis: int, span: Span) -> Region:
    return (*region[:axis], span, *region[axis + 1 :])


def _offset_by(span: Span, offset: int) -> Span:
    return span[0] + offset, span[1] + offset


def _input_shape(node: ir.Node, index: int) -> list[int]:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"input {index} of {node.name} is absent")
    return static_shape(value)


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    return constant_array(node.inputs[index]) if index < len(node.inputs) else None


def _integers(node: ir.Node, index: int) -> list[int] | None:
    values = _constant(node, index)
    return None if values is None else [int(each) for each in values.flatten()]
