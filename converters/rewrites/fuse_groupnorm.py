"""GroupNorm of one group, which exporters write as InstanceNormalization of a reshaped tensor, on the map itself.

LayerNormalization from axis 1 normalizes all channels and pixels of an image together, without a Reshape. OpenVINO then
keeps the map's layout, and computes scale, shift and the quantizer behind it along with the normalization.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.converters.rewrites.scalars import scalar
from vitedge.graph.edit import add_constant, replace_value
from vitedge.graph.values import is_read_once, producer_of, shape_of

SEVERAL_GROUPS = "it normalizes several groups of channels, or single channels"
RESHAPED = "it does not reshape an image's channels and pixels to one row and back"
NOT_SCALAR = "its scale or shift is not constant"


@dataclass(frozen=True)
class _GroupNorm:
    """A normalization of all channels and pixels of an image.

    Attributes:
        source: the value that it reads, ``(N, C, …)``.
        result: the value that it produces, of the same shape.
        scale, shift: of the whole group.
        epsilon: added to the variance.
    """

    source: ir.Value
    result: ir.Value
    scale: float
    shift: float
    epsilon: float

    def apply(self, model: ir.Model) -> None:
        name, ones = f"{self.result.name}_norm", [1] * (len(shape_of(self.source) or ()) - 1)
        inputs = [self.source, add_constant(model, f"{name}_scale", np.full(ones, self.scale))]
        if self.shift:
            inputs.append(add_constant(model, f"{name}_shift", np.full(ones, self.shift)))
        replace_value(model, self.result, "LayerNormalization", inputs, axis=1, epsilon=self.epsilon)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where a tensor is reshaped to one row for InstanceNormalization, and back.
    """
    return refusal(_found(model), nothing="no GroupNorm is spelled out")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Put LayerNormalization from axis 1 in the place of each."""
    places = apply_all(model, _found(model))
    RemoveUnusedNodesPass()(model)
    return places


def _found(model: ir.Model) -> Iterator[_GroupNorm | str]:
    return (_norm_of(node) for node in list(model.graph) if node.op_type == "InstanceNormalization" and not node.domain)


def _norm_of(node: ir.Node) -> _GroupNorm | str:
    before = producer_of(node.inputs[0], "Reshape")
    row = None if before is None else shape_of(before.outputs[0])
    source = None if before is None else before.inputs[0]
    result = _reshaped(node.outputs[0])
    if source is None or row is None or result is None:
        return RESHAPED
    shape = shape_of(source)
    if shape is None or shape != shape_of(result) or len(shape) < 2 or row[0] != shape[0]:
        return RESHAPED
    if row[1] != 1 or math.prod(row[2:]) != math.prod(shape[1:]):
        return SEVERAL_GROUPS
    scale, shift = scalar(node.inputs[1]), scalar(node.inputs[2])
    if scale is None or shift is None:
        return NOT_SCALAR
    return _GroupNorm(source, result, scale, shift, node.attributes.get_float("epsilon", 1e-5) or 0.0)


def _reshaped(value: ir.Value) -> ir.Value | None:
    """Return the output of the Reshape that is a value's only reader."""
    reader = value.consumers()[0] if is_read_once(value) else None
    return reader.outputs[0] if reader is not None and reader.op_type == "Reshape" else None
