"""Mean and standard deviation into the first convolution, which then reads uint8 frames.

``conv(W, (x/255 − m)/s) + b`` is ``conv(W', x) + b'`` with ``W' = W/(255·s)`` and ``b' = b − Σ W·m/s``. A convolution
that pads does so with zeros after the normalization, which are the mean before it: there ``255·m`` is subtracted from
the frame and the bias stays.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.converters.rewrites.frame_input import add_after, add_constant, normalized_input, replace_input
from vitedge.preprocessing import Preprocessing

Array = NDArray[np.float64]


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Applies where the input feeds one ungrouped convolution with constant weights."""
    pixels = normalized_input(model)
    if pixels is None:
        return "the graph takes uint8 frames already"
    consumers = pixels.consumers()
    if [node.op_type for node in consumers] != ["Conv"]:
        return f"the input feeds {', '.join(node.op_type for node in consumers)}, not one Conv"
    (conv,) = consumers
    if any(value is not None and value.const_value is None for value in conv.inputs[1:]):
        return "the weights of the first Conv are not constant"
    if conv.attributes.get_int("group", 1) != 1:
        return "the first Conv is grouped"
    return ""


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> None:
    """Scale the weights; move the mean into the bias, or in front of a convolution that pads."""
    (conv,) = model.graph.inputs[0].consumers()
    weight, bias = _array(conv.inputs[1]), _bias(conv)
    mean, std = np.asarray(preprocessing.mean, np.float64), np.asarray(preprocessing.std, np.float64)
    planes = replace_input(model, preprocessing.input_size)
    if mean.any() and _pads(conv):
        offset = add_constant(model, "frame_mean", 255 * _per_channel(mean))
        planes = add_after(model, planes, "Sub", offset, "frame_centered")
    elif mean.any():
        bias = bias - np.einsum("ocij,c->o", weight, mean / std)
    conv.replace_input_with(0, planes)
    _set_constant(model, conv, 1, weight * _per_channel(1 / (255 * std)), "frame_conv_weight")
    _set_constant(model, conv, 2, bias, "frame_conv_bias")


def _pads(conv: ir.Node) -> bool:
    pads = conv.attributes.get_ints("pads", [])
    return any(pads or []) or conv.attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")


def _per_channel(values: Array) -> Array:
    return values.reshape(1, -1, 1, 1)


def _array(value: ir.Value | None) -> Array:
    if value is None or value.const_value is None:
        raise ValueError("not a constant")
    return np.asarray(value.const_value.numpy(), dtype=np.float64)


def _bias(conv: ir.Node) -> Array:
    if len(conv.inputs) > 2 and conv.inputs[2] is not None:
        return _array(conv.inputs[2])
    return np.zeros(_array(conv.inputs[1]).shape[0])


def _set_constant(model: ir.Model, conv: ir.Node, index: int, values: Array, name: str) -> None:
    old = conv.inputs[index] if index < len(conv.inputs) else None
    if index >= len(conv.inputs):
        conv.resize_inputs(index + 1)
    conv.replace_input_with(index, add_constant(model, name, values))
    if old is not None and not old.uses():
        model.graph.initializers.pop(str(old.name))
