"""A graph that takes several frames at once, made from one of a single frame, and used only if it was proved to pay.

A converted graph has fixed sizes, and its reshapes name the batch. In a graph that keeps the frames apart, every value
of the larger graph is the values of the frames one after the other, so its leading size is a multiple.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.extras import require
from vitedge.runtime.engines.base import BATCH_FRAMES
from vitedge.safety.limits import MODEL_ACTIVATION

logger = logging.getLogger("vitedge")

LEAST_TRIALS, MOST_TRIALS = 3, 9
TRIAL_SECONDS = 2.0
"""How long batches are timed, if the least number of trials takes no longer: other programs may disturb some trials."""

_SIZES_INPUT = {"Reshape": 1, "Broadcast": 1}
"""Operators that are given the size of their output, and the input that holds it."""
_SIZES_ONLY = ("ShapeOf", "ShapeOf_v3")
"""Operators that look at the size of a value, and not at the value."""


def compile_batch(
    core: Any, model: Any, compiled: Any, properties: Mapping[str, Any], frames: NDArray[np.uint8]
) -> Any | None:
    """Compile a model for ``BATCH_FRAMES`` frames at once, which changes it.

    Args:
        core: an ``openvino.Core``.
        model: the model, of one frame.
        compiled: the same model, compiled for the CPU.
        properties: properties that it was compiled with.
        frames: ``N×H×W×3`` uint8, images of the model's kind; N is 1 or more.

    Returns:
        The compiled model; None if it cannot take several frames, if any frame's logits differ in a bit from the
        logits of ``compiled``, or if it does not save time.
    """
    try:
        set_batch(model, BATCH_FRAMES)
        batch = core.compile_model(model, "CPU", dict(properties))
        return batch if _pays(batch, compiled, frames) else None
    except (RuntimeError, ValueError) as error:
        logger.debug("workers take one frame at a time: %s", error)
        return None


def _pays(batch: Any, compiled: Any, frames: NDArray[np.uint8]) -> bool:
    several, single = batch.create_infer_request(), compiled.create_infer_request()
    natural = frames[np.arange(BATCH_FRAMES) % len(frames)]
    noise = np.random.default_rng(0).integers(0, 256, natural.shape, dtype=np.uint8)
    for each in (noise, natural):
        if not np.array_equal(_logits(several, each), _one_by_one(single, each)):
            raise ValueError("the logits of a batch differ from those of its frames")
    share = _share_of_time(lambda: _logits(several, natural), lambda: _one_by_one(single, natural))
    logger.debug("a batch of %d frames takes %.2f x the time of its frames one by one", BATCH_FRAMES, share)
    return share < 1.0


def _one_by_one(request: Any, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.concatenate([_logits(request, frame[None]) for frame in frames])


def _logits(request: Any, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    request.get_input_tensor().data[...] = frames
    request.start_async()
    request.wait()
    return np.array(request.get_output_tensor().data)


def _share_of_time(call: Callable[[], object], other: Callable[[], object]) -> float:
    """Return the least time of a call over the least time of another; they take turns."""
    until = time.perf_counter() + TRIAL_SECONDS
    trials: list[tuple[float, float]] = []
    while len(trials) < LEAST_TRIALS or (len(trials) < MOST_TRIALS and time.perf_counter() < until):
        trials.append((_seconds(call), _seconds(other)))
    return min(seconds for seconds, _ in trials) / min(seconds for _, seconds in trials)


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def set_batch(model: Any, size: int) -> None:
    """Change an ``openvino.Model`` of one frame, in place, so that it takes ``size`` frames.

    Whether the frames stay apart is not proved: compare the outputs with the outputs of the graph of one frame.

    Raises:
        ValueError: a value does not grow with the batch, or grows beyond ``MODEL_ACTIVATION``.
        RuntimeError: OpenVINO refuses the sizes of an operator.
    """
    dependent = _dependent(model)
    before = [_counts(operator) for operator in dependent]
    if size * max(count for counts in before for count in counts) > MODEL_ACTIVATION:
        raise ValueError("a value would be larger than any in an image classifier")
    changes = [change for operator in dependent for change in _changes(operator, dependent, size)]
    frames = model.inputs[0].get_node()
    frames.set_partial_shape(_shape([size, *list(frames.get_output_shape(0))[1:]]))
    for change in changes:
        change()
    model.validate_nodes_and_infer_types()
    for operator, counts in zip(dependent, before, strict=True):
        if _counts(operator) != [size * count for count in counts]:
            raise ValueError(f"{operator.get_friendly_name()} does not grow with the batch")


def _dependent(model: Any) -> list[Any]:
    """Return the operators whose value depends on the frame, in the order of the graph."""
    names = {each.get_node().get_name() for each in model.inputs}
    found = [model.inputs[0].get_node()]
    for operator in model.get_ordered_ops():
        if operator.get_type_name() in _SIZES_ONLY:
            continue
        if any(each.get_source_output().get_node().get_name() in names for each in operator.inputs()):
            names.add(operator.get_name())
            found.append(operator)
    return found


def _counts(operator: Any) -> list[int]:
    return [math.prod(output.get_shape()) for output in operator.outputs()]


def _changes(operator: Any, dependent: Sequence[Any], size: int) -> list[Callable[[], object]]:
    """Return what replaces the inputs of an operator that hold the batch."""
    kind = operator.get_type_name()
    if kind in _SIZES_INPUT:
        return _resized(operator.input(_SIZES_INPUT[kind]), size)
    if kind == "Concat":
        names = {each.get_name() for each in dependent}
        rest = [each for each in operator.inputs() if each.get_source_output().get_node().get_name() not in names]
        return [_repeated(each, size) for each in rest]
    return []


def _resized(sizes: Any, size: int) -> list[Callable[[], object]]:
    """Multiply the leading size, unless it is counted (-1) or copied from the input (0)."""
    constant = sizes.get_source_output().get_node()
    if constant.get_type_name() != "Constant":
        return []
    values = np.array(constant.data)
    if values.size == 0 or values[0] < 1:
        return []
    values[0] *= size
    return [lambda: sizes.replace_source_output(_opset().constant(values).output(0))]


def _repeated(value: Any, size: int) -> Callable[[], object]:
    """Repeat a value that is joined to each frame, such as a class token."""
    source = value.get_source_output()
    repeats = np.array([size] + [1] * (len(source.get_shape()) - 1), np.int64)
    return lambda: value.replace_source_output(_opset().tile(source, repeats).output(0))


def _shape(sizes: Sequence[int]) -> Any:
    return require("openvino", extra="openvino", purpose="the openvino engine").PartialShape(list(sizes))


def _opset() -> Any:
    return require("openvino.opset13", extra="openvino", purpose="the openvino engine")
