"""The scale of attention into the weights that make the queries, or the keys, before their product.

``s·(Wq·x + bq)·k`` is ``(s·Wq·x + s·bq)·k``. Exporters write the scale on the queries, its root on the queries and on
the keys, or the scale on the scores. A scale that the layers cannot take in stays where it is, as after the
normalized queries and keys of cosine attention (Liu et al., "Swin Transformer V2", 2022). TensorRT fuses attention
only where nothing comes between the product and the softmax but a mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.multipliers import Fold, Multiplier, fold, fold_at, multiplier_of
from vitedge.converters.rewrites.places import Places, refusal
from vitedge.graph.operators import DATA_MOVEMENT_OPERATORS
from vitedge.graph.values import constant


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where a product of two computed matrices, or one of the two, is scaled, and a layer made that matrix.
    """
    found = (_folded(model.graph, product, multiplier) for product, multiplier in _scales(model.graph))
    return refusal(found, nothing="no attention is scaled by a constant")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Scale the rows that make the queries, or the keys, where the scale is on them; remove the multiplications."""
    attentions, left = set[ir.Node](), Counter[str]()
    for product, multiplier in list(_scales(model.graph)):
        found = _folded(model.graph, product, multiplier)
        if isinstance(found, Fold):
            found.apply(model)
            attentions.add(product)
        else:
            left[found] += 1
    return Places(len(attentions), left)


def _scales(graph: ir.Graph) -> Iterator[tuple[ir.Node, Multiplier]]:
    """Find products of two computed matrices, with each multiplier of the product or of one of the two."""
    seen = set[ir.Node]()
    for node in graph:
        if node.op_type != "MatMul" or any(constant(value) is not None for value in node.inputs):
            continue
        found = [*map(_multiplier_behind, node.inputs), _multiplier_after(node)]
        for multiplier in found:
            if multiplier is not None and multiplier.node not in seen:
                seen.add(multiplier.node)
                yield node, multiplier


def _multiplier_behind(value: ir.Value | None) -> Multiplier | None:
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type in DATA_MOVEMENT_OPERATORS:
        return _multiplier_behind(producer.inputs[0])
    return multiplier_of(producer)


def _multiplier_after(product: ir.Node) -> Multiplier | None:
    scores = product.outputs[0]
    consumers = scores.consumers()
    return multiplier_of(consumers[0]) if len(consumers) == 1 and not scores.is_graph_output() else None


def _folded(graph: ir.Graph, product: ir.Node, multiplier: Multiplier) -> Fold | str:
    if multiplier.value is not product.outputs[0]:
        return _explained(fold(graph, multiplier), multiplier.value)
    if any(size != 1 for size in np.shape(multiplier.factors)[-2:]):
        return "the scale differs from token to token"
    found = [fold_at(graph, multiplier, product, index) for index in range(2)]
    folds = (each for each in found if isinstance(each, Fold))
    return next(folds, _explained(found[0], product.inputs[0]))


def _explained(found: Fold | str, value: ir.Value | None) -> Fold | str:
    producer = value.producer() if value is not None else None
    divided = producer is not None and producer.op_type in ("Div", "LpNormalization")
    if divided and isinstance(found, str):
        return "queries and keys are divided by their norm after the layer (cosine attention)"
    return found
