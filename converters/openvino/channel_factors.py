"""Factors of channels behind a ReLU become part of the convolution before it.

Equalization multiplies the channels before a quantizer. OpenVINO fuses such a Mul behind an activation function, but
then takes an older kernel for the convolution before it. That kernel is up to twice as slow for pointwise and depthwise
convolutions, and up to three times as fast for others, which keep their factors. A ReLU commutes with positive factors,
so that they can scale the weights and the bias instead: the results are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.converters.openvino.own_weights import WEIGHT, give_own_weights
from vitedge.graph.edit import add_tensor, bypass, set_constant
from vitedge.graph.values import constant_array, constant_shape, is_read_once, producer_of

BIAS, SCALE = 2, 1
"""Inputs of a Conv, and of the DequantizeLinear of its weights."""


@dataclass(frozen=True)
class _Factors:
    """Factors that a convolution can take up.

    Attributes:
        multiply: applies them.
        relu: what it multiplies.
        convolution: what that reads.
        weights: dequantizes its weights.
        values: of the factors, ``(channels,)``.
    """

    multiply: ir.Node
    relu: ir.Node
    convolution: ir.Node
    weights: ir.Node
    values: NDArray[np.float32]

    def apply(self, model: ir.Model) -> None:
        name = f"{self.convolution.outputs[0].name}_scaled"
        bias = constant_array(self.convolution.inputs[BIAS])
        scale = constant_array(self.weights.inputs[SCALE])
        if bias is None or scale is None:
            raise ValueError(f"{self.convolution.name} was not checked")
        set_constant(model, self.convolution, BIAS, f"{name}_bias", bias * self.values)
        scaled = add_tensor(model.graph, f"{name}_weight_scale", scale * self.values)
        inputs = [self.weights.inputs[0], scaled, *self.weights.inputs[2:]]
        give_own_weights(model, self.convolution, self.weights, inputs, ir.val(f"{name}_weight"))
        bypass(model, self.multiply, self.relu.outputs[0])
        for value in (self.convolution.outputs[0], self.relu.outputs[0]):  # they mean something else now
            value.name = f"{value.name}_scaled"


def fold_channel_factors(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Scale the weights of int8 convolutions by the factors behind their ReLU.

    The values between a convolution and its factors change, and get other names.

    Args:
        graph: with Q/DQ; it is not changed.

    Returns:
        The graph itself where it has no such factors.
    """
    model = ir.from_proto(graph)
    found = list(_found(model.graph))
    for each in found:
        each.apply(model)
    if not found:
        return graph
    RemoveUnusedNodesPass()(model)
    return ir.to_proto(model)


def _found(graph: ir.Graph) -> Iterator[_Factors]:
    for node in graph:
        factors = _factors(node) if node.op_type == "Mul" and not node.domain else None
        if factors is not None:
            yield factors


def _factors(multiply: ir.Node) -> _Factors | None:
    relu = producer_of(multiply.inputs[0], "Relu")
    convolution = None if relu is None else producer_of(relu.inputs[0], "Conv")
    weights = None if convolution is None else producer_of(convolution.inputs[WEIGHT], "DequantizeLinear")
    values = _stored(multiply.inputs[1])
    if relu is None or convolution is None or weights is None or values is None or (values <= 0).any():
        return None
    if not is_read_once(relu.outputs[0]) or not is_read_once(convolution.outputs[0]):
        return None
    scale, bias = constant_array(weights.inputs[SCALE]), _bias(convolution)
    channels = None if bias is None else bias.shape
    if scale is None or scale.shape != channels or weights.attributes.get_int("axis", 1) != 0:
        return None
    kernel = constant_shape(weights.inputs[0]) or ()
    if not _takes_newer_kernel(kernel):
        return None
    by_channel = _by_channel(values, len(scale), len(kernel) - 2)
    return None if by_channel is None else _Factors(multiply, relu, convolution, weights, by_channel)


def _takes_newer_kernel(kernel: tuple[int, ...]) -> bool:
    """Decide by the shape of the weights, ``(out, in / groups, *kernel)``: pointwise or depthwise."""
    return len(kernel) > 2 and (kernel[1] == 1 or set(kernel[2:]) == {1})


def _stored(value: ir.Value | None) -> NDArray[Any] | None:
    """Read a constant, which a bundle may store in float16, with a Cast behind it."""
    cast = producer_of(value, "Cast")
    return constant_array(value if cast is None else cast.inputs[0])


def _bias(convolution: ir.Node) -> NDArray[Any] | None:
    return constant_array(convolution.inputs[BIAS]) if len(convolution.inputs) > BIAS else None


def _by_channel(values: NDArray[Any], channels: int, places: int) -> NDArray[np.float32] | None:
    """Give one factor for each output channel, ``(channels,)``; None where the factors lie along other axes.

    Args:
        values: broadcast to ``(N, channels, *places)``.
        channels: of the convolution.
        places: number of its axes of places.
    """
    if values.shape[: -places - 1] not in ((), (1,)) or values.shape[-places - 1 :] != (channels, *[1] * places):
        return None
    return values.astype(np.float32).ravel()
