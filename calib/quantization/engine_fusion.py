"""What engines fuse: whether a multiplication of a tensor's channels becomes part of the operator that produces it."""

from __future__ import annotations

import onnx_ir as ir

from vitedge.graph.operators import LAYOUT_OPERATORS

ACTIVATIONS = frozenset({"Gelu", "HardSwish", "Mul", "Relu", "Tanh"})
"""Operators that an activation function ends in: SiLU is a multiplication with a Sigmoid, Clip is bounded anyway."""

ACTIVATION_PARTS = ACTIVATIONS | {"Clip", "HardSigmoid", "Sigmoid"}
"""Operators that activation functions consist of."""

ELEMENTWISE = ACTIVATION_PARTS | {"Add", "Div", "Sub"}


def is_activation(value: ir.Value) -> bool:
    """Decide whether an activation function produces a value: engines fuse elementwise operators into it."""
    node = value.producer()
    return node is not None and node.op_type in ACTIVATIONS


def fuses_channel_scaling(value: ir.Value) -> bool:
    """Decide whether the engine can fuse a multiplication of the channels, on axis 1, into a value's producer.

    An operator that only lays values out differently fuses nothing. Behind a product of matrices, with nothing but
    elementwise operators between, OpenVINO tries to fuse it, and fails: the channels of its result are on the last
    axis.
    """
    node = value.producer()
    return node is not None and node.op_type not in LAYOUT_OPERATORS and not _follows_product(node)


def _follows_product(node: ir.Node) -> bool:
    """Decide whether elementwise operators alone lead from a product of matrices to a node."""
    seen, pending = {node}, [node]
    while pending:
        each = pending.pop()
        if each.op_type in ("Gemm", "MatMul"):
            return True
        if each.op_type in ELEMENTWISE:
            producers = {value.producer() for value in each.inputs if value is not None}
            before = {producer for producer in producers if producer is not None} - seen
            seen |= before
            pending += before
    return False
