"""The graph of a bundle, changed for pipelines that feed floating-point frames and read probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vitedge.bundle.bundle import INPUT_NAME, OUTPUT_NAME
from vitedge.errors import ConversionError
from vitedge.graph.files import without_weights
from vitedge.graph.session import conversion_errors, open_session
from vitedge.graph.weights import copy_without_weights
from vitedge.metrics import softmax
from vitedge.runtime.system.machine import threads_for_engine

PROBABILITIES = "probabilities"
TEMPERATURE = "vitedge_temperature"
TOLERANCE = 1e-6


def with_float_frames(graph: onnx.ModelProto, temperature: float = 1.0) -> onnx.ModelProto:
    """Make a graph that takes ``frame`` as float32, 0…255, and gives ``probabilities`` instead of ``logits``.

    Nothing is rounded: the Cast of the bytes to floating point reads floating point instead.

    Args:
        graph: uint8 ``frame`` (1,H,W,3) in, float32 ``logits`` (1,classes) out.
        temperature: the logits are divided by it before the softmax.

    Returns:
        A new graph.

    Raises:
        ConversionError: the graph computes with the bytes themselves, or it has other inputs or outputs.
    """
    if (_names(graph.graph.input), _names(graph.graph.output)) != ([INPUT_NAME], [OUTPUT_NAME]):
        raise ConversionError(
            f"the graph takes {_names(graph.graph.input)!r:.200} and gives {_names(graph.graph.output)!r:.200}",
            expected=f"one input {INPUT_NAME} and one output {OUTPUT_NAME}, as vitedge convert writes them",
        )
    changed = copy_without_weights(graph)
    changed.graph.initializer.extend(graph.graph.initializer)
    (frame,) = changed.graph.input
    frame.type.tensor_type.elem_type = TensorProto.FLOAT
    del changed.graph.value_info[:]  # the types of what moves the frame before it is cast
    _append_softmax(changed, temperature)
    try:
        without_weights(changed, lambda light: onnx.checker.check_model(light, full_check=True))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(
            f"the graph computes with the bytes of a frame: {str(error).splitlines()[0]}",
            expected="a graph that casts the frame to floating point first, as those for TensorRT do",
        ) from error
    return changed


def _names(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    return [value.name for value in values]


def _append_softmax(model: onnx.ModelProto, temperature: float) -> None:
    scores = OUTPUT_NAME
    if temperature != 1.0:
        scores = f"{OUTPUT_NAME}_by_temperature"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(temperature), TEMPERATURE))
        model.graph.node.append(helper.make_node("Div", [OUTPUT_NAME, TEMPERATURE], [scores], name=scores))
    model.graph.node.append(helper.make_node("Softmax", [scores], [PROBABILITIES], name=PROBABILITIES, axis=-1))
    (output,) = model.graph.output
    output.name = PROBABILITIES


def check_same(graph: onnx.ModelProto, changed: onnx.ModelProto, frames: NDArray[np.uint8], temperature: float) -> None:
    """Prove that both graphs give the same probabilities.

    Args:
        graph: argument of ``with_float_frames``.
        changed: its result.
        frames: ``(N,H,W,3)`` uint8, to compare on.
        temperature: temperature of ``changed``.

    Raises:
        ConversionError: a probability differs by more than 1e-6.
    """
    expected = np.stack([softmax(logits / np.float32(temperature)) for logits in _run(graph, frames)])
    difference = float(np.abs(_run(changed, frames.astype(np.float32)) - expected).max())
    if not difference <= TOLERANCE:
        raise ConversionError(f"the graph with floating-point frames differs by {difference:.1e} in some probability")


def _run(graph: onnx.ModelProto, frames: NDArray[Any]) -> NDArray[np.float32]:
    """Compute the ``(N,classes)`` outputs for ``(N,H,W,3)`` frames, with Q/DQ pairs in floating point, as written."""
    with conversion_errors():
        session = open_session(graph, threads=threads_for_engine(None))
        outputs = [session.run(None, {INPUT_NAME: frame[None]})[0] for frame in frames]
    return np.concatenate(outputs)
