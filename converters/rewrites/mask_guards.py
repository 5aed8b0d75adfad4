"""Remove the guards that PyTorch adds for a mask where there is no mask.

``scaled_dot_product_attention`` adds a mask of zeros to the scores, and guards the softmax against rows that a mask
hides as a whole: ``Where(IsNaN(a), 0, a)``. A softmax of finite scores is never NaN. Backends fuse attention only where
nothing comes between the softmax and the product with the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.multipliers import multiplier_of
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.converters.rewrites.scalars import scalar
from vitedge.graph.edit import bypass
from vitedge.graph.values import constant, producer_of, shape_of

HIDES = "the scores may be infinite: a mask can hide all keys of a query"


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where a softmax of finite scores is guarded, or zeros are added to scores.
    """
    return refusal(_found(model.graph), nothing="no attention has a guard or a mask of zeros")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Remove the guards and the masks of zeros."""
    places = apply_all(model, _found(model.graph))
    RemoveUnusedNodesPass()(model)
    return places


@dataclass(frozen=True)
class _Bypass:
    """An operator whose output is one of its inputs."""

    node: ir.Node
    value: ir.Value

    def apply(self, model: ir.Model) -> None:
        bypass(model, self.node, self.value)


def _found(graph: ir.Graph) -> Iterator[_Bypass | str]:
    for node in list(graph):
        softmax = _guarded(node)
        if softmax is not None:
            yield _Bypass(node, softmax.outputs[0]) if _is_finite(softmax.inputs[0]) else HIDES
        elif node.op_type == "Softmax":
            yield from _zero_mask(producer_of(node.inputs[0], "Add"))


def _guarded(node: ir.Node) -> ir.Node | None:
    """Return the softmax that a Where guards."""
    test = producer_of(node.inputs[0], "IsNaN") if node.op_type == "Where" and not node.domain else None
    softmax = None if test is None else producer_of(test.inputs[0], "Softmax")
    guards = softmax is not None and node.inputs[2] is softmax.outputs[0] and scalar(node.inputs[1]) == 0
    return softmax if guards else None


def _is_finite(scores: ir.Value | None) -> bool:
    """Return whether scores are a product of two matrices, with finite constants added or multiplied only."""
    product = producer_of(scores, "MatMul")
    if product is not None:
        return True
    node = producer_of(scores, "Add")
    if node is None:
        scale = multiplier_of(scores.producer()) if scores is not None else None
        return scale is not None and bool(np.isfinite(scale.factors).all()) and _is_finite(scale.value)
    values = [constant(each) for each in node.inputs]
    if any(each is not None and not np.isfinite(each).all() for each in values):
        return False
    computed = [value for value, each in zip(node.inputs, values, strict=True) if each is None]
    return all(map(_is_finite, computed))


def _zero_mask(add: ir.Node | None) -> Iterator[_Bypass]:
    """Yield a bypass of an Add of zeros, to the value that it leaves unchanged."""
    if add is None:
        return
    for value, other in (add.inputs, reversed(add.inputs)):
        zeros = constant(other)
        if value is not None and zeros is not None and not zeros.any() and _keeps(add, value):
            yield _Bypass(add, value)


def _keeps(add: ir.Node, value: ir.Value) -> bool:
    """Return whether an Add keeps the shape of a value."""
    return shape_of(value) is not None and shape_of(value) == shape_of(add.outputs[0])
