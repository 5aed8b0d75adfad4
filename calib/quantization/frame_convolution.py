"""The convolution that reads the frame, in int8 at no loss of its input: a frame is 8 bits wide already.

The scale of the frame is 1/255 and not 1: OpenVINO takes a scale of 1 for no quantization at all, and then computes
this layer in floating point.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.calib.quantization.affine import round_weights, weight_scales
from vitedge.calib.quantization.gptq import feedback_round
from vitedge.calib.quantization.im2col import has_patches, patches
from vitedge.extras import require

if TYPE_CHECKING:
    import onnx

PURPOSE = "quantizing to int8"
FEEDBACK_IMAGES = 64
FRAME_SCALE = np.float32(1 / 255)


def quantize_frame_convolution(
    graph: onnx.ModelProto, frames: NDArray[np.uint8], keep_float: Collection[str] = ()
) -> str:
    """Give the first convolution int8 weights, and its input as the uint8 that it is.

    The step of the input is one grey level, its zero point is 0. Weights are symmetric and per-channel, rounded
    with feedback; the bias takes up what their rounding adds on average.

    Args:
        graph: with Q/DQ; changed in place. Its convolution reads ``Transpose(Cast(frame))``: with a mean to subtract in
            between, the input is not integral and stays in floating point.
        frames: ``(N,H,W,3)`` uint8, to round weights by, and to take the mean of each channel from.
        keep_float: names of layers that stay as they are.

    Returns:
        Name of the convolution; empty if none reads the frame alone, or it stays as it is.

    Raises:
        MissingExtraError: ONNX is not installed.
    """
    helper = require("onnx", extra="convert", purpose=PURPOSE).helper
    position = _position(graph)
    if position is None:
        return ""
    conv = graph.graph.node[position]
    if (conv.name or conv.output[0]) in keep_float:
        return ""
    weight, rounding = _int8_weight(graph, conv, frames[:FEEDBACK_IMAGES])
    full_weight = conv.input[1]
    _compensate(graph, conv, rounding, frames)
    planes, name = conv.input[0], conv.name
    quantizer = [f"{name}_frame_scale", f"{name}_frame_zero_point"]
    for tensor, values in zip(quantizer, (FRAME_SCALE, np.uint8(0)), strict=True):
        _add(graph, tensor, np.asarray(values))
    _add(graph, f"{name}_frame_levels", np.asarray(FRAME_SCALE))
    nodes = [
        helper.make_node("Mul", [planes, f"{name}_frame_levels"], [f"{planes}_scaled"], f"{name}_scale_frame"),
        helper.make_node(
            "QuantizeLinear", [f"{planes}_scaled", *quantizer], [f"{planes}_uint8"], f"{name}_quantize_frame"
        ),
        helper.make_node("DequantizeLinear", [f"{planes}_uint8", *quantizer], [f"{planes}_levels"], f"{name}_frame"),
        helper.make_node("DequantizeLinear", weight, [f"{name}_weight"], f"{name}_dequantize_weight", axis=0),
    ]
    conv.input[0], conv.input[1] = f"{planes}_levels", f"{name}_weight"
    for offset, node in enumerate(nodes):
        graph.graph.node.insert(position + offset, node)
    _drop_unread(graph, full_weight)
    return str(name)


def _position(graph: onnx.ModelProto) -> int | None:
    constants = {tensor.name for tensor in graph.graph.initializer}
    producers = {name: node for node in graph.graph.node for name in node.output}
    for position, node in enumerate(graph.graph.node):
        if node.op_type != "Conv" or len(node.input) < 3 or not constants.issuperset(node.input[1:]):
            continue
        planes = producers.get(node.input[0])
        cast = producers.get(planes.input[0]) if planes is not None and planes.op_type == "Transpose" else None
        if cast is not None and cast.op_type == "Cast" and cast.input[0] == INPUT_NAME:
            return position
    return None


def _int8_weight(
    graph: onnx.ModelProto, conv: onnx.NodeProto, frames: NDArray[np.uint8]
) -> tuple[list[str], NDArray[np.float32]]:
    """Names of the int8 weights, their scales and zero points; and what rounding took from the weights."""
    weight = _array(graph, conv.input[1])
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    scales = weight_scales(flat)
    shaped = scales.reshape(-1, 1, 1, 1)
    levels = _levels(conv, flat, scales, weight.shape, frames).reshape(weight.shape)
    rounding = np.asarray(weight - levels * shaped, dtype=np.float32)
    scales = (scales / FRAME_SCALE).astype(np.float32)
    names = [f"{conv.name}_weight_int8", f"{conv.name}_weight_scale", f"{conv.name}_weight_zero_point"]
    for name, values in zip(names, (levels, scales, np.zeros(len(scales), np.int8)), strict=True):
        _add(graph, name, values)
    return names, rounding


def _levels(
    conv: onnx.NodeProto,
    weight: NDArray[np.float64],
    scales: NDArray[np.float32],
    shape: tuple[int, ...],
    frames: NDArray[np.uint8],
) -> NDArray[np.int8]:
    if not has_patches(conv, shape) or shape[1] != frames.shape[-1]:
        return round_weights(weight, scales)
    planes = frames.transpose(0, 3, 1, 2).astype(np.float32)
    gram = np.zeros([weight.shape[1]] * 2)
    for each in planes:
        rows = patches(conv, shape, each[np.newaxis])[0]
        gram += rows.T @ rows
    return feedback_round(weight, scales, gram)


def _compensate(
    graph: onnx.ModelProto, conv: onnx.NodeProto, rounding: NDArray[np.float32], frames: NDArray[np.uint8]
) -> None:
    means = frames.mean(axis=(0, 1, 2), dtype=np.float64)
    if rounding.shape[1] != len(means):
        return
    shift = rounding.sum(axis=(2, 3)).astype(np.float64) @ means
    _replace(graph, conv.input[2], (_array(graph, conv.input[2]) + shift).astype(np.float32))


def _array(graph: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    arrays = require("onnx", extra="convert", purpose=PURPOSE).numpy_helper
    (tensor,) = (each for each in graph.graph.initializer if each.name == name)
    return np.asarray(arrays.to_array(tensor))


def _add(graph: onnx.ModelProto, name: str, values: NDArray[np.generic]) -> None:
    arrays = require("onnx", extra="convert", purpose=PURPOSE).numpy_helper
    graph.graph.initializer.append(arrays.from_array(values, name))


def _replace(graph: onnx.ModelProto, name: str, values: NDArray[np.float32]) -> None:
    arrays = require("onnx", extra="convert", purpose=PURPOSE).numpy_helper
    (tensor,) = (each for each in graph.graph.initializer if each.name == name)
    tensor.CopyFrom(arrays.from_array(values, name))


def _drop_unread(graph: onnx.ModelProto, name: str) -> None:
    if not any(name in node.input for node in graph.graph.node):
        (tensor,) = (each for each in graph.graph.initializer if each.name == name)
        graph.graph.initializer.remove(tensor)
