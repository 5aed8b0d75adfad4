"""The bias of the keys, which the softmax cancels.

``q·(k + b) = q·k + q·b``, and ``q·b`` is the same for all keys of a query. What is added to the scores, as a mask or a
position bias, changes nothing in that.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from vitedge.converters.rewrites.graph import constant
from vitedge.converters.rewrites.multipliers import multiplier_of
from vitedge.converters.rewrites.operand_bias import OperandBias, operand_bias, softmaxes
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.preprocessing import Preprocessing


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies where a layer makes the keys, with a bias that nothing else reads, and a softmax follows the scores."""
    return refusal(_biases(model.graph), nothing="no keys have a bias")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Make the bias of the keys zero; a layer whose whole bias is zero loses it."""
    return apply_all(model, _biases(model.graph))


def _biases(graph: ir.Graph) -> Iterator[OperandBias | str]:
    for softmax in list(softmaxes(graph)):
        product = _product(softmax)
        found = "the softmax is not of a product" if product is None else operand_bias(graph, product, 1, tokens=-1)
        if isinstance(found, str) or not found.is_zero:
            yield found


def _product(softmax: ir.Node) -> ir.Node | None:
    """The product that makes the scores, before scales and additions, if nothing else reads it."""
    pending = list(softmax.inputs)
    while pending:
        value = pending.pop()
        producer = value.producer() if value is not None else None
        if value is None or producer is None or len(value.consumers()) != 1 or value.is_graph_output():
            continue
        if producer.op_type == "MatMul" and all(constant(each) is None for each in producer.inputs):
            return producer
        scale = multiplier_of(producer)
        if scale is not None and scale.factors.shape[-1:] in ((), (1,)):
            pending.append(scale.value)
        elif producer.op_type == "Add":
            pending += producer.inputs
    return None
