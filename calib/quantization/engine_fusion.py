"""What makes a tensor: whether the engine takes up a multiplication of its channels in the operator that does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vitedge.calib.quantization.hoist_qdq import MOVES

if TYPE_CHECKING:
    import onnx

ACTIVATIONS = frozenset({"Gelu", "HardSwish", "Mul", "Relu", "Tanh"})
"""Operators that an activation function ends in: SiLU is a multiplication with a Sigmoid, Clip is bounded anyway."""

ELEMENTWISE = ACTIVATIONS | {"Add", "Clip", "Div", "HardSigmoid", "Sigmoid", "Sub"}


class Makers:
    """The nodes of a graph by the tensors that they make."""

    def __init__(self, nodes: Iterable[onnx.NodeProto]) -> None:
        self._nodes = {name: node for node in nodes for name in node.output}

    def is_activation(self, name: str) -> bool:
        """Whether an activation function makes it, into which engines fuse what follows elementwise."""
        return name in self._nodes and self._nodes[name].op_type in ACTIVATIONS

    def take_up_channels(self, name: str) -> bool:
        """Whether a multiplication of its channels, on axis 1, costs next to nothing.

        An operator that only moves values does not take it up. Behind a product of matrices, with nothing but
        elementwise operators between, OpenVINO tries to, and fails: the channels of its result are on the last axis.
        """
        return name in self._nodes and self._nodes[name].op_type not in MOVES and not self._follows_product(name)

    def _follows_product(self, name: str) -> bool:
        node = self._nodes[name]
        if node.op_type not in ELEMENTWISE:
            return node.op_type in ("Gemm", "MatMul")
        return any(self._follows_product(each) for each in node.input if each in self._nodes)
