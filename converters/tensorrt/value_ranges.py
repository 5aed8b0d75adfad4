"""Value ranges: the largest magnitude of every value of a graph, measured on images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.errors import CalibrationError
from vitedge.graph.session import conversion_errors, open_session
from vitedge.progress import Progress

SUFFIX, ZERO = "__peak", "__zero"


def peaks(graph: onnx.ModelProto, frames: NDArray[np.uint8], progress: Progress) -> dict[str, float]:
    """Measure the largest finite magnitude of every floating-point value over all frames.

    The graph itself reduces each value to that number, so that memory does not grow with what is looked at. Infinity is
    no overflow here: pooling pads with it, and masks are made of it.

    Args:
        graph: float32, with the types of its values; uint8 ``frame`` ``(1,H,W,3)`` in.
        frames: ``(N,H,W,3)`` uint8, ``N`` ≥ 1.
        progress: told of every frame.

    Raises:
        CalibrationError: a value is NaN.
        ConversionError: ONNX Runtime cannot run the graph.
    """
    names = list(_floats(graph))
    with conversion_errors():
        session = open_session(_probed(graph, names), threads=1)
    outputs = [f"{name}{SUFFIX}" for name in names]
    found = np.zeros(len(names))
    for frame in progress.track(frames, total=len(frames), unit="images"):
        found = np.maximum(found, np.array(session.run(outputs, {INPUT_NAME: frame[np.newaxis]})))
    for name, peak in zip(names, found, strict=True):
        if np.isnan(peak):
            raise CalibrationError(f"the value {name!r} is not a number", expected="numbers in float32")
    return dict(zip(names, found.tolist(), strict=True))


def _floats(graph: onnx.ModelProto) -> Iterator[str]:
    """Yield the float32 values that nodes produce, as far as the graph lists their types."""
    listed = [*graph.graph.value_info, *graph.graph.output]
    kinds = {each.name: each.type.tensor_type.elem_type for each in listed}
    for node in graph.graph.node:
        yield from (name for name in node.output if kinds.get(name) == TensorProto.FLOAT)


def _probed(graph: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """Return the graph with the peaks as its outputs."""
    probed = onnx.ModelProto()
    probed.CopyFrom(graph)
    del probed.graph.output[:]
    probed.graph.initializer.append(numpy_helper.from_array(np.float32(0), ZERO))
    for name in names:
        probed.graph.node.extend(
            [
                helper.make_node("Abs", [name], [f"{name}__magnitude"]),
                helper.make_node("IsInf", [name], [f"{name}__infinite"]),
                helper.make_node("Where", [f"{name}__infinite", ZERO, f"{name}__magnitude"], [f"{name}__finite"]),
                helper.make_node("ReduceMax", [f"{name}__finite"], [f"{name}{SUFFIX}"], keepdims=0),
            ]
        )
        probed.graph.output.append(helper.make_tensor_value_info(f"{name}{SUFFIX}", TensorProto.FLOAT, []))
    return probed
