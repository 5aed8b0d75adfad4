"""The mean of several linear heads as one linear head.

``(W₁·a + b₁ + W₂·b + b₂) / 2`` is ``[W₁/2 W₂/2] · concat(a, b) + (b₁ + b₂)/2``, and heads that read the same features
only add up. Models distilled through a token (DeiT) or a second head (LeViT, EfficientFormer) and models of several
branches (CrossViT) end so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import ONE, Places
from vitedge.converters.rewrites.scalars import scalar
from vitedge.graph.bounds import cut, everything, selected
from vitedge.graph.edit import add_constant, add_tensor
from vitedge.graph.layers import Layer, layer_behind
from vitedge.graph.regions import Region, extent, joined
from vitedge.graph.values import constant, producer_of, shape_of


@dataclass(frozen=True)
class _Head:
    """A linear head, and what its output is multiplied by."""

    layer: Layer
    factor: float


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where the logits are a weighted sum of at least two linear layers.
    """
    heads = _heads(model.graph.outputs[0], 1.0)
    if heads is None:
        return "the logits are not a sum of linear layers"
    return "" if len(heads) > 1 else "there is one head"


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Put one Gemm in the place of the heads and of what adds them up."""
    (logits,) = model.graph.outputs
    weights: dict[ir.Value, np.ndarray] = {}
    bias = np.zeros(1)
    for head in _heads(logits, 1.0) or ():
        weights[head.layer.data] = weights.get(head.layer.data, 0) + head.factor * head.layer.weight
        bias = bias + head.factor * head.layer.bias
    features = _concatenated(model, logits, list(weights))
    weight = add_constant(model, "head_weight", np.concatenate(list(weights.values()), axis=1))
    offset = add_constant(model, "head_bias", bias)
    gemm = ir.node("Gemm", [features, weight, offset], {"transB": 1})
    model.graph.outputs[0] = _add(model, logits, gemm, "head", shape_of(logits) or ())
    model.graph.outputs[0].name = logits.name
    RemoveUnusedNodesPass()(model)
    return ONE


def _concatenated(model: ir.Model, logits: ir.Value, features: list[ir.Value]) -> ir.Value:
    """Concatenate the features: with one Slice if they are neighbours in one value, as tokens are."""
    if len(features) == 1:
        return features[0]
    shape = [1, sum((shape_of(each) or (0,))[-1] for each in features)]
    neighbours = _neighbours(features)
    if neighbours is None:
        return _add(model, logits, ir.node("Concat", features, {"axis": 1}), "head_features", shape)
    tokens, region = neighbours
    if region != everything(tokens):
        tokens = _add(model, logits, cut(model.graph, tokens, region), "head_tokens", extent(region))
    sizes = add_tensor(model.graph, "head_features_shape", np.array(shape, np.int64))
    return _add(model, logits, ir.node("Reshape", [tokens, sizes]), "head_features", shape)


def _neighbours(features: list[ir.Value]) -> tuple[ir.Value, Region] | None:
    """Return the one value that all features are selected from, and the region that they form in this order."""
    (source, *others), regions = zip(*map(selected, features), strict=True)
    region = joined(regions, [stop for _, stop in everything(source)]) if len({source, *others}) == 1 else None
    return None if region is None else (source, region)


def _add(model: ir.Model, logits: ir.Value, node: ir.Node, name: str, shape: Sequence[int]) -> ir.Value:
    """Insert a node of one float32 output before the producer of the logits; return the output."""
    (output,) = node.outputs
    node.name = output.name = name
    output.type, output.shape = logits.type, ir.Shape(shape)
    last = logits.producer()
    if last is None:
        raise ValueError(f"{logits.name} is made by no node")
    model.graph.insert_before(last, node)
    return output


def _heads(value: ir.Value | None, factor: float) -> list[_Head] | None:
    """Return the heads whose sum a value is; None if it is anything else."""
    layer = layer_behind(value)
    if value is None or layer is not None:
        return [_Head(layer, factor)] if layer is not None and _is_head(layer) else None
    sums = producer_of(value, "Add", "Sum", "Mean")
    if sums is not None:
        share = len(sums.inputs) if sums.op_type == "Mean" else 1
        return _joined([_heads(each, factor / share) for each in sums.inputs])
    scaled = _scaled(value)
    if scaled is not None:
        return _heads(scaled[0], factor * scaled[1])
    stacked = _stacked(value)
    return _joined([_heads(each, factor / len(stacked)) for each in stacked])


def _joined(parts: list[list[_Head] | None]) -> list[_Head] | None:
    heads = [head for part in parts for head in part or ()]
    return None if not parts or None in parts else heads


def _is_head(layer: Layer) -> bool:
    return layer.node.op_type in ("Gemm", "MatMul") and len(shape_of(layer.data) or ()) == 2


def _scaled(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Return a factor of a value and the number by which it is multiplied; a divisor is inverted."""
    node = producer_of(value, "Mul", "Div")
    if node is None:
        return None
    left, right = node.inputs
    if node.op_type == "Mul" and left is not None and constant(left) is not None:
        left, right = right, left
    number = scalar(right)
    if left is None or not number:
        return None
    return left, number if node.op_type == "Mul" else 1 / number


def _stacked(value: ir.Value) -> list[ir.Value]:
    """Return the values that are stacked along a new first axis, and averaged over it."""
    mean = producer_of(value, "ReduceMean")
    axes = None if mean is None or len(mean.inputs) < 2 else constant(mean.inputs[1])
    if mean is None or axes is None or axes.tolist() != [0] or mean.attributes.get_int("keepdims", 1):
        return []
    stack = producer_of(mean.inputs[0], "Concat")
    rows = [] if stack is None or stack.attributes.get_int("axis", 0) != 0 else [*stack.inputs]
    unsqueezed = [producer_of(row, "Unsqueeze", "Reshape") for row in rows]
    return [each.inputs[0] for each in unsqueezed if each is not None and each.inputs[0] is not None]
