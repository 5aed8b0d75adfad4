"""Mean and standard deviation into the first convolution, which then reads uint8 frames.

``conv(W, (x/255 − m)/s) + b`` is ``conv(W', x) + b'`` with ``W' = W/(255·s)`` and ``b' = b − Σ W·m/s``. A convolution
that pads does so with zeros after the normalization, which are the mean before it: there ``255·m`` is subtracted from
the frame and the bias stays.

OpenVINO computes that difference in the kernel that converts the frame to floating point (PVT v2 b0 and LeViT-128S, by
node). Two forms without it are no faster there: a fourth channel of 255 that carries the mean takes a Pad, as long as
what it saves in fp32 and 0.1 ms longer in 16-bit; the border's mean in a constant map takes a kernel more.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.frame_input import normalized_input, replace_input
from vitedge.converters.rewrites.places import ONE, Places
from vitedge.graph.layers import Layer, layer_of
from vitedge.graph.values import Array


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where the input feeds one ungrouped convolution with constant weights.
    """
    pixels = normalized_input(model)
    if pixels is None:
        return "the graph takes uint8 frames already"
    consumers = pixels.consumers()
    if [node.op_type for node in consumers] != ["Conv"]:
        return f"the input feeds {', '.join(node.op_type for node in consumers)}, not one Conv"
    stem = layer_of(consumers[0])
    if stem is None:
        return "the weights of the first Conv are not constant"
    return "the first Conv is grouped" if stem.groups != 1 else ""


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:
    """Scale the weights; move the mean into the bias, or in front of a convolution that pads."""
    stem = _stem(model)
    weight, bias = stem.weight, stem.bias
    mean, std = np.asarray(preprocessing.mean, np.float64), np.asarray(preprocessing.std, np.float64)
    steps = [("Sub", "frame_centered", 255 * mean)] if mean.any() and stem.pads() else []
    planes = replace_input(model, preprocessing.input_size, steps)
    if mean.any() and not steps:
        bias = bias - np.einsum("ocij,c->o", weight, mean / std)
    stem.node.replace_input_with(0, planes)
    stem.set_weight(model, weight * _per_channel(1 / (255 * std)))
    stem.set_bias(model, bias)
    return ONE


def _stem(model: ir.Model) -> Layer:
    (conv,) = model.graph.inputs[0].consumers()
    layer = layer_of(conv)
    if layer is None:
        raise ValueError("the input does not feed one Conv with constant weights")
    return layer


def _per_channel(values: Array) -> Array:
    return values.reshape(1, -1, 1, 1)
