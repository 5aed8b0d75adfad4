"""Check that a graph computes finite numbers; if it does not, find the layer where that begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.errors import CalibrationError, ConversionError
from vitedge.graph.operators import LINEAR_OPERATORS
from vitedge.graph.session import conversion_errors, open_session
from vitedge.graph.values import constant_array
from vitedge.runtime.system.machine import threads_for_engine

if TYPE_CHECKING:
    import onnx


def check_weights(graph: ir.Graph) -> None:
    """Refuse a graph that holds weights which are not finite.

    Raises:
        ConversionError: it names the layer and its weights.
    """
    for node in graph:
        for value in node.inputs if node.op_type in LINEAR_OPERATORS else ():
            weights = constant_array(value)
            if value is not None and weights is not None and not np.isfinite(weights).all():
                raise ConversionError(
                    f"the weights {value.name!r} of the layer {node.name!r} are not finite",
                    expected="finite weights",
                    fix="look whether the checkpoint is damaged, or its training diverged",
                )


def not_finite(graph: onnx.ModelProto, frame: NDArray[np.uint8], number: int) -> CalibrationError:
    """Make the error for an image from which the graph computes NaN or infinity; it names the layer where that begins.

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
    outputs = {output.name for output in graph.graph.output}
    names = [name for node in graph.graph.node for name in node.output if name]
    with conversion_errors():
        also = [name for name in names if name not in outputs]
        session = open_session(graph, also=also, threads=threads_for_engine(None), optimize=False)
        values = dict(zip(names, session.run(names, {INPUT_NAME: frame[np.newaxis]}), strict=True))
    for node in graph.graph.node:
        if not all(_is_finite(values[name]) for name in node.output if name):
            return str(node.name)
    return str(graph.graph.output[0].name)


def _is_finite(value: Any) -> bool:
    """Decide whether a value holds no NaN and no infinity; integers and sequences hold none."""
    return not isinstance(value, np.ndarray) or value.dtype.kind != "f" or bool(np.isfinite(value).all())
