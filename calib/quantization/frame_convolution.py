"""The convolution that reads the frame, in int8 at next to no loss of its input: a frame is 8 bits wide already.

The scale of the frame is 1/255 and not 1: OpenVINO takes a scale of 1 for no quantization at all, and then computes
this layer in floating point. A convolution that pads reads the frame minus the mean of each channel. The three means
differ, so that 256 levels for all channels are up to 1.1 grey levels apart.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.calib.quantization.affine import Scheme, activation_quantizer, round_weights, weight_scales
from vitedge.calib.quantization.gptq import gptq_round
from vitedge.calib.quantization.grid import INT8
from vitedge.calib.quantization.im2col import im2col, supports_im2col
from vitedge.graph.edit import add_tensor, drop_unused, set_constant
from vitedge.graph.values import constant_array, is_read_once, producer_of

ROUNDING_IMAGES = 64
FRAME_SCALE = np.float32(1 / 255)
NO_MEAN = np.zeros(3)


def quantize_frame_convolution(model: ir.Model, frames: NDArray[np.uint8], keep_float: Collection[str] = ()) -> str:
    """Give the first convolution int8 weights, and its input as the uint8 that it is.

    The step of the input is one grey level, its zero point is 0; behind a mean that is subtracted, all centered values
    share 256 levels. Weights are symmetric and per-channel, by GPTQ rounding; the bias takes up what their rounding
    adds on average.

    Args:
        model: with Q/DQ; changed in place. Its convolution reads ``Transpose(Cast(frame))``, or that minus a mean of
            each channel.
        frames: ``(N,H,W,3)`` uint8, to round weights by, and to take the mean of each channel from.
        keep_float: names of layers that stay as they are.

    Returns:
        Name of the convolution; empty if none reads the frame alone, or it stays as it is.
    """
    found = ((node, _frame_mean(node)) for node in model.graph)
    conv, mean = next(((node, mean) for node, mean in found if mean is not None), (None, NO_MEAN))
    if conv is None or (conv.name or conv.outputs[0].name) in keep_float:
        return ""
    graph, name, full_weight, planes = model.graph, conv.name, conv.inputs[1], conv.inputs[0]
    weight, rounding = _int8_weight(graph, conv, frames[:ROUNDING_IMAGES], mean)
    _correct_bias(model, conv, rounding, frames, mean)
    low, high = FRAME_SCALE * (0 - mean.max()), FRAME_SCALE * (255 - mean.min())
    centered = activation_quantizer(float(low), float(high), Scheme.ASYMMETRIC)
    scale, zero_point = (centered.scale, centered.zero_point) if mean.any() else (FRAME_SCALE, 0)
    quantizer = [
        add_tensor(graph, f"{name}_frame_scale", np.asarray(scale, np.float32)),
        add_tensor(graph, f"{name}_frame_zero_point", np.asarray(zero_point, np.uint8)),
    ]
    levels = add_tensor(graph, f"{name}_frame_levels", np.asarray(FRAME_SCALE))
    prefix = "" if planes is None else planes.name
    scaled, quantized, read = (ir.val(f"{prefix}_{each}") for each in ("scaled", "uint8", "levels"))
    dequantized = ir.val(f"{name}_weight")
    nodes = [
        ir.node("Mul", [planes, levels], outputs=[scaled], name=f"{name}_scale_frame"),
        ir.node("QuantizeLinear", [scaled, *quantizer], outputs=[quantized], name=f"{name}_quantize_frame"),
        ir.node("DequantizeLinear", [quantized, *quantizer], outputs=[read], name=f"{name}_frame"),
        ir.node("DequantizeLinear", weight, {"axis": 0}, outputs=[dequantized], name=f"{name}_dequantize_weight"),
    ]
    graph.insert_before(conv, nodes)
    conv.replace_input_with(0, read)
    conv.replace_input_with(1, dequantized)
    drop_unused(model, full_weight)
    return str(name)


def _frame_mean(node: ir.Node) -> NDArray[np.float64] | None:
    """Give the mean ``(3,)`` that is subtracted from the frame that a convolution reads; None for any other node.

    Its weights and its bias are constant. Layout operators, a Cast, and the subtraction lead from the frame to it.
    """
    if node.op_type != "Conv" or len(node.inputs) < 3 or any(constant_array(each) is None for each in node.inputs[1:]):
        return None
    mean, value = NO_MEAN, node.inputs[0]
    while (step := producer_of(value, "Cast", "Reshape", "Sub", "Transpose")) is not None:
        if step.op_type == "Sub":
            offset = constant_array(step.inputs[1])
            if offset is None or mean.any() or offset.size % len(mean):
                return None
            rows = np.reshape(offset, (-1, len(mean))).astype(np.float64)
            if (rows != rows[0]).any():
                return None
            mean = rows[0]
        value = step.inputs[0]
    return mean if value is not None and value.name == INPUT_NAME and value is not node.inputs[0] else None


def _int8_weight(
    graph: ir.Graph, conv: ir.Node, frames: NDArray[np.uint8], mean: NDArray[np.float64]
) -> tuple[list[ir.Value], NDArray[np.float32]]:
    """Add the int8 weights, scales and zero points; return them and the rounding errors of the weights."""
    weight = _array(conv.inputs[1])
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    scales = weight_scales(flat, INT8)
    centered = np.asarray(frames, dtype=np.float32) - mean.astype(np.float32)
    levels = _levels(conv, flat, scales, weight.shape, centered).reshape(weight.shape)
    rounding = np.asarray(weight - levels * scales.reshape(-1, 1, 1, 1), dtype=np.float32)
    scales = (scales / FRAME_SCALE).astype(np.float32)
    constants = {"int8": levels, "scale": scales, "zero_point": np.zeros(len(scales), np.int8)}
    return [add_tensor(graph, f"{conv.name}_weight_{each}", array) for each, array in constants.items()], rounding


def _levels(
    conv: ir.Node,
    weight: NDArray[np.float64],
    scales: NDArray[np.float32],
    shape: tuple[int, ...],
    frames: NDArray[np.float32],
) -> NDArray[np.int8]:
    if not supports_im2col(conv, shape) or shape[1] != frames.shape[-1]:
        return round_weights(weight, scales, INT8)
    planes = frames.transpose(0, 3, 1, 2)
    gram = np.zeros([weight.shape[1]] * 2)
    for each in planes:
        rows = im2col(conv, shape, each[np.newaxis])[0]
        gram += rows.T @ rows
    return gptq_round(weight, scales, gram, INT8)


def _correct_bias(
    model: ir.Model,
    conv: ir.Node,
    rounding: NDArray[np.float32],
    frames: NDArray[np.uint8],
    mean: NDArray[np.float64],
) -> None:
    means = frames.mean(axis=(0, 1, 2), dtype=np.float64) - mean
    bias = conv.inputs[2]
    if rounding.shape[1] != len(means) or bias is None:
        return
    corrected = (_array(bias) + rounding.sum(axis=(2, 3)).astype(np.float64) @ means).astype(np.float32)
    if is_read_once(bias):
        bias.const_value = ir.tensor(corrected, name=bias.name)
    else:
        set_constant(model, conv, 2, f"{conv.outputs[0].name}_bias", corrected)


def _array(value: ir.Value | None) -> NDArray[np.float32]:
    array = constant_array(value)
    if array is None:
        raise ValueError(f"{value} is not constant")
    return array
