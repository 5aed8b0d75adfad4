"""What engines fuse: whether a multiplication of a tensor's channels becomes part of the operator that produces it."""

from __future__ import annotations

import onnx_ir as ir

from vitedge.graph.operators import LAYOUT_OPERATORS
from vitedge.graph.values import comes_from

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
    if node is None or node.op_type in LAYOUT_OPERATORS:
        return False
    return not comes_from(value, _is_product, through=_is_elementwise)


def _is_product(node: ir.Node) -> bool:
    return node.op_type in ("Gemm", "MatMul")


def _is_elementwise(node: ir.Node) -> bool:
    return node.op_type in ELEMENTWISE
