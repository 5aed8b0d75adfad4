"""LayerNormalization that an exporter has spelled out, into one operator.

Exporters before opset 17 write ``(x − mean(x)) / sqrt(mean((x − mean(x))²) + ε) · γ + β`` in nine operators. In half
precision the square overflows, and int8 quantization would split it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.converters.rewrites.scalars import is_close, plus_scalar, scalar
from vitedge.graph.edit import add_constant, replace_value
from vitedge.graph.values import Array, constant, producer_of, shape_of

OTHER_AXES = "a normalization is not over the last axis alone"


@dataclass(frozen=True)
class _LayerNorm:
    """A spelled-out normalization.

    Attributes:
        source: the value that it reads.
        axes: that it is over.
        epsilon: added to the variance.
        scale: ``(C,)``.
        bias: ``(C,)``; None if there is none.
        result: the value that it produces.
    """

    source: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    scale: Array
    bias: Array | None
    result: ir.Value

    @property
    def is_over_last_axis(self) -> bool:
        rank = len(self.source.shape or ())
        return self.axes in ((-1,), (rank - 1,))

    def apply(self, model: ir.Model) -> None:
        name = f"{self.result.name}_norm"
        inputs = [self.source, add_constant(model, f"{name}_scale", self.scale)]
        if self.bias is not None:
            inputs.append(add_constant(model, f"{name}_bias", self.bias))
        replace_value(model, self.result, "LayerNormalization", inputs, axis=-1, epsilon=self.epsilon)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where a normalization over the last axis is spelled out.
    """
    return refusal(_found(model), nothing="no LayerNormalization is spelled out")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Put LayerNormalization in the place of each."""
    places = apply_all(model, _found(model))
    RemoveUnusedNodesPass()(model)
    return places


def _found(model: ir.Model) -> Iterator[_LayerNorm | str]:
    """Find the normalizations lazily: one may read another, which must be fused first."""
    norms = (_norm_of(node) for node in list(model.graph))
    return (norm if norm.is_over_last_axis else OTHER_AXES for norm in norms if norm is not None)


def _norm_of(node: ir.Node) -> _LayerNorm | None:
    """Return the normalization whose quotient a node produces."""
    if node.op_type not in ("Div", "Mul"):
        return None
    centered, variance = producer_of(node.inputs[0], "Sub"), _variance_under_root(node)
    if centered is None or variance is None:
        return None
    source, (mean, axes) = centered.inputs[0], _mean(centered.inputs[1])
    square, square_axes = _mean(variance[0])
    shape = None if source is None else shape_of(source)
    if source is None or shape is None or mean is not source or axes != square_axes:
        return None
    if not _is_square(square, centered.outputs[0]):
        return None
    scale, scaled = _affine(node.outputs[0], "Mul", shape[-1])
    bias, result = _affine(scaled, "Add", shape[-1])
    return _LayerNorm(source, axes, variance[1], np.ones(shape[-1]) if scale is None else scale, bias, result)


def _variance_under_root(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return ``v`` and ``ε`` of ``d / sqrt(v + ε)``."""
    divisor, power = node.inputs[1], 0.5
    if node.op_type == "Mul":
        inverse = producer_of(divisor, "Reciprocal", "Div")
        if inverse is None:
            power = -0.5
        elif inverse.op_type == "Reciprocal" or is_close(scalar(inverse.inputs[0]), 1):
            divisor = inverse.inputs[-1]
        else:
            return None
    root = producer_of(divisor, "Sqrt", "Pow")
    if root is None:
        return None
    exponent = 0.5 if root.op_type == "Sqrt" else scalar(root.inputs[1])
    return plus_scalar(producer_of(root.inputs[0], "Add")) if exponent == power else None


def _mean(value: ir.Value | None) -> tuple[ir.Value | None, tuple[int, ...]]:
    """Return the input and the axes of a ReduceMean that keeps its axes."""
    node = producer_of(value, "ReduceMean")
    axes = None if node is None or len(node.inputs) < 2 else constant(node.inputs[1])
    if node is None or axes is None or node.attributes.get_int("keepdims", 1) != 1:
        return None, ()
    return node.inputs[0], tuple(int(axis) for axis in axes)


def _is_square(value: ir.Value | None, base: ir.Value) -> bool:
    node = producer_of(value, "Mul", "Pow")
    if node is None or node.inputs[0] is not base:
        return False
    return node.inputs[1] is base if node.op_type == "Mul" else scalar(node.inputs[1]) == 2


def _affine(value: ir.Value, op_type: str, width: int) -> tuple[Array | None, ir.Value]:
    """Return the constant ``(C,)`` that the only reader multiplies by or adds, and the reader's output."""
    readers = value.consumers()
    if len(readers) != 1 or readers[0].op_type != op_type or value.is_graph_output():
        return None, value
    (reader,) = readers
    for each in reader.inputs:
        values = constant(each)
        if values is not None and values.shape == (width,):
            return values, reader.outputs[0]
    return None, value
