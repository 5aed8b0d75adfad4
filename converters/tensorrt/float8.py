"""An int8 graph of ``calib`` in 8-bit floating point: the same layers, the same places, ``float8e4m3fn`` levels.

A float8 level has four significant bits whatever its size, so that the scale of a tensor need only bring its largest
value to 448, the largest level: nothing is gained by clipping (Micikevicius et al., "FP8 Formats for Deep Learning",
2022). Weights start from their int8 values, whose rounding is small against that of float8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from vitedge.converters.tensorrt.halves import half_scales
from vitedge.graph.edit import add_tensor, drop_unused

LARGEST_LEVEL = 448.0

HEADROOM = 2.0
"""For activations larger than any in calibration; a power of two costs a floating-point type no precision."""


def without_quantizers(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph without quantizers of activations, which clip them: float8 needs no clipped ranges."""
    result = type(graph)()
    result.CopyFrom(graph)
    before = {node.output[0]: node.input[0] for node in result.graph.node if node.op_type == "QuantizeLinear"}
    pairs = {
        node.output[0]: before[node.input[0]]
        for node in result.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in before
    }
    for node in result.graph.node:
        node.input[:] = [pairs.get(name, name) for name in node.input]
    return result


def float8_graph(graph: onnx.ModelProto, peaks: Mapping[str, float]) -> onnx.ModelProto:
    """Give every pair of quantizers float8 levels.

    Args:
        graph: float32 with symmetric int8 Q/DQ; weights are stored as int8. It is not changed.
        peaks: largest magnitude of every value.
    """
    model = ir.from_proto(graph)
    for node in list(model.graph):
        data = node.inputs[0] if node.inputs else None
        if node.op_type == "QuantizeLinear" and data is not None:
            scale = _scales(HEADROOM * np.asarray(peaks[str(data.name)]))
            pair = [node, *(reader for reader, _ in node.outputs[0].uses())]
            for each in pair:
                _set(model, each, scale)
            node.outputs[0].dtype = ir.DataType.FLOAT8E4M3FN
        elif node.op_type == "DequantizeLinear" and data is not None and data.const_value is not None:
            _set_weight(model, node, data.const_value.numpy())
    NameFixPass()(model)
    result: onnx.ModelProto = ir.to_proto(model)
    return result


def _scales(peaks: NDArray[Any]) -> NDArray[np.float32]:
    """Scales that bring peaks to the largest level, and that float16 holds; 1 for what is always zero."""
    return half_scales(np.where(peaks > 0, peaks / LARGEST_LEVEL, 1.0)).astype(np.float32)


def _set(model: ir.Model, node: ir.Node, scale: NDArray[np.float32]) -> None:
    """Replace scale and zero point."""
    name = str(node.inputs[1].name)  # type: ignore[union-attr]
    zero = np.zeros(scale.shape, ml_dtypes.float8_e4m3fn)
    for index, values in ((1, scale), (2, zero)):
        old = node.inputs[index]
        node.replace_input_with(index, add_tensor(model.graph, f"{name}_float8_{index}", values))
        drop_unused(model, old)


def _set_weight(model: ir.Model, node: ir.Node, levels: NDArray[np.int8]) -> None:
    axis = (node.attributes.get_int("axis", 1) or 0) % levels.ndim
    shape = [-1 if each == axis else 1 for each in range(levels.ndim)]
    steps = node.inputs[1].const_value.numpy().reshape(shape)  # type: ignore[union-attr]
    weight = levels.astype(np.float32) * steps
    scale = _scales(np.abs(weight).max(axis=tuple(each for each in range(levels.ndim) if each != axis)))
    old = node.inputs[0]
    rounded = np.clip(weight / scale.reshape(shape), -LARGEST_LEVEL, LARGEST_LEVEL).astype(ml_dtypes.float8_e4m3fn)
    node.replace_input_with(0, add_tensor(model.graph, f"{old.name}_float8", rounded))  # type: ignore[union-attr]
    drop_unused(model, old)
    _set(model, node, scale)
