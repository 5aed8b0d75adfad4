"""What PyTorch's attention does for the sake of a mask, where there is no mask.

``scaled_dot_product_attention`` adds a mask of zeros to the scores, and guards the softmax against rows that a mask
hides as a whole: ``Where(IsNaN(a), 0, a)``. A softmax of finite scores is never NaN. Backends fuse attention only where
nothing comes between the softmax and the product with the values.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from vitedge.converters.rewrites.graph import bypass, constant, shape_of
from vitedge.converters.rewrites.multipliers import multiplier_of
from vitedge.converters.rewrites.places import Places, refusal
from vitedge.converters.rewrites.scalars import made_by, scalar
from vitedge.preprocessing import Preprocessing

HIDES = "the scores may be infinite: a mask can hide all keys of a query"


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies where a softmax of finite scores is guarded, or zeros are added to scores."""
    found = [_refusal(softmax) for softmax in _guards(model.graph)] + ["" for _ in _zero_masks(model.graph)]
    return refusal(found, nothing="no attention has a guard or a mask of zeros")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Remove the guards, then the masks of zeros."""
    changed, left = 0, Counter[str]()
    for softmax, guard in _guards(model.graph).items():
        if reason := _refusal(softmax):
            left[reason] += 1
            continue
        test = guard.inputs[0]
        bypass(model, guard, softmax.outputs[0])
        _remove(model, test)
        changed += 1
    for add, scores in _zero_masks(model.graph).items():
        bypass(model, add, scores)
        changed += 1
    return Places(changed, left)


def _guards(graph: ir.Graph) -> dict[ir.Node, ir.Node]:
    """Each softmax with the Where that guards it."""
    found = {}
    for node in graph:
        test = made_by(node.inputs[0], "IsNaN") if node.op_type == "Where" and not node.domain else None
        softmax = None if test is None else made_by(test.inputs[0], "Softmax")
        if softmax is not None and node.inputs[2] is softmax.outputs[0] and scalar(node.inputs[1]) == 0:
            found[softmax] = node
    return found


def _refusal(softmax: ir.Node) -> str:
    return "" if _is_finite(softmax.inputs[0]) else HIDES


def _is_finite(scores: ir.Value | None) -> bool:
    """Whether scores are a product of two matrices, with finite constants added or multiplied only."""
    product = made_by(scores, "MatMul")
    if product is not None:
        return True
    node = made_by(scores, "Add")
    if node is None:
        scale = multiplier_of(scores.producer()) if scores is not None else None
        return scale is not None and bool(np.isfinite(scale.factors).all()) and _is_finite(scale.value)
    values = [constant(each) for each in node.inputs]
    if any(each is not None and not np.isfinite(each).all() for each in values):
        return False
    computed = [value for value, each in zip(node.inputs, values, strict=True) if each is None]
    return all(map(_is_finite, computed))


def _zero_masks(graph: ir.Graph) -> dict[ir.Node, ir.Value]:
    """Each Add of zeros before a softmax, and what it leaves as it is."""
    found = {}
    for softmax in graph:
        add = made_by(softmax.inputs[0], "Add") if softmax.op_type == "Softmax" else None
        for value, other in (add.inputs, reversed(add.inputs)) if add is not None else ():
            zeros = constant(other)
            if add is not None and value is not None and zeros is not None and not zeros.any() and _keeps(add, value):
                found[add] = value
    return found


def _keeps(add: ir.Node, value: ir.Value) -> bool:
    """Whether nothing is widened."""
    return shape_of(value) is not None and shape_of(value) == shape_of(add.outputs[0])


def _remove(model: ir.Model, value: ir.Value | None) -> None:
    node = None if value is None else value.producer()
    if node is not None and not node.outputs[0].uses():
        model.graph.remove(node, safe=True)
