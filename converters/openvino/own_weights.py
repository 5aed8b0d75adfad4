"""Weights of one int8 convolution alone, where others may read the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

WEIGHT = 1
"""Input of a Conv."""


def give_own_weights(
    model: ir.Model, convolution: ir.Node, weights: ir.Node, inputs: Sequence[ir.Value | None], output: ir.Value
) -> None:
    """Let a convolution read a second operator that dequantizes, with inputs of its own.

    Args:
        model: changed in place.
        convolution: the convolution.
        weights: dequantizes its weights until now; it stays.
        inputs: of the new operator.
        output: of the new operator.
    """
    attributes = dict(weights.attributes)
    node = ir.node(weights.op_type, inputs, attributes, outputs=[output], name=f"{output.name}_dequantize")
    model.graph.insert_before(convolution, node)
    convolution.replace_input_with(WEIGHT, output)
