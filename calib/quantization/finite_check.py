"""Whether a graph computes finite numbers, and if not, at which of its layers that begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.errors import CalibrationError, ConversionError
from vitedge.extras import require

if TYPE_CHECKING:
    import onnx

PURPOSE = "checking a graph before it is quantized"
WEIGHT_LAYERS = ("Conv", "Gemm", "MatMul")


def check_weights(graph: onnx.ModelProto) -> None:
    """Refuse a graph that holds weights which are not finite.

    Raises:
        ConversionError: the layer and its weights are named.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        for name in node.input if node.op_type in WEIGHT_LAYERS else ():
            if name in weights and not np.isfinite(numpy_helper.to_array(weights[name])).all():
                raise ConversionError(
                    f"the weights {name!r} of the layer {node.name!r} are not finite",
                    expected="finite weights",
                    fix="look whether the checkpoint is damaged, or its training diverged",
                )


def not_finite(graph: onnx.ModelProto, frame: NDArray[np.uint8], number: int) -> CalibrationError:
    """The error for an image from which the graph computes NaN or infinity; it names the layer where that begins.

    Args:
        graph: FP32; uint8 ``frame`` ``(1,H,W,3)`` in.
        frame: ``(H,W,3)`` uint8.
        number: of the image, from 0.

    Raises:
        ConversionError: ONNX Runtime cannot run the graph on this frame.
        MissingExtraError: ONNX Runtime is not installed.
    """
    return CalibrationError(
        f"what the graph computes from calibration image {number + 1} is not finite from the layer "
        f"{_first_not_finite(graph, frame)!r} on",
        expected="finite activations",
        fix="look whether the checkpoint is damaged, or made for another range of inputs",
    )


def _first_not_finite(graph: onnx.ModelProto, frame: NDArray[np.uint8]) -> str:
    """Name of the first node, in the order of computation, with an output that is not finite."""
    probed = type(graph)()
    probed.CopyFrom(graph)
    del probed.graph.output[:]
    for node in graph.graph.node:
        for name in filter(None, node.output):
            probed.graph.output.add(name=name)
    values = iter(_outputs(probed, frame[np.newaxis])[0])
    for node in graph.graph.node:
        if not _all_finite([next(values) for _ in filter(None, node.output)]):
            return str(node.name)
    return str(graph.graph.output[0].name)


def _outputs(graph: onnx.ModelProto, frames: NDArray[np.uint8]) -> list[list[Any]]:
    runtime = require("onnxruntime", extra="convert", purpose=PURPOSE)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = runtime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [session.run(None, {INPUT_NAME: frame[np.newaxis]}) for frame in frames]
    except Exception as error:  # ONNX Runtime's errors have no other base
        raise ConversionError(f"ONNX Runtime cannot run the graph: {str(error).splitlines()[0]}") from error


def _all_finite(values: Sequence[Any]) -> bool:
    return all(np.isfinite(value).all() for value in values if value.dtype.kind == "f")
