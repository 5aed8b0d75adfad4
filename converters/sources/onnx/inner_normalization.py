"""Normalization that a graph of floating-point images holds itself, so that images are not normalized twice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.errors import CheckpointError
from vitedge.graph.operators import is_standard
from vitedge.graph.values import constant_or_initializer
from vitedge.progress import Progress

RELATIVE, ABSOLUTE = 1e-2, 2e-2
"""Tolerances of an equal normalization: configurations round mean and std to three digits."""
BYTES_SCALE = 0.05
"""A factor below it brings 0…255 into the range of a network; normalized images it would erase."""
BYTES_MEAN = 10.0
"""A mean above it is one of 0…255; the channels of normalized images lie within a few units of 0."""
ORDINARY = {"Cast", "Identity"}
Channels = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """The first operators of a graph: ``scale · x + offset``, each of the three channels of its input."""

    scale: Channels
    offset: Channels

    def equals(self, mean: Channels, std: Channels) -> bool:
        """Return whether this is ``(x − mean) / std``."""
        return bool(
            np.allclose(self.scale * std, 1.0, rtol=RELATIVE, atol=0.0)
            and np.allclose(self.offset, -mean / std, rtol=RELATIVE, atol=ABSOLUTE)
        )

    @property
    def takes_bytes(self) -> bool:
        """Return whether this maps 0…255 to the range of a network, or subtracts a mean of 0…255."""
        scale = np.abs(self.scale)
        return bool(np.any(scale < BYTES_SCALE) or np.any(np.abs(self.offset) > BYTES_MEAN * scale))


def without_inner_normalization(
    graph: onnx.ModelProto, preprocessing: Preprocessing, *, given: bool, name: str, progress: Progress
) -> Preprocessing:
    """Return the preprocessing in front of a graph, without a normalization that the graph holds itself.

    Args:
        graph: float32 ``(1,3,H,W)`` in; a graph that takes bytes normalizes them itself, and is left as it is.
        preprocessing: of the model.
        given: whether the user named it, knowing what the graph takes.
        name: name of the graph, for texts.
        progress: told of a normalization that is left out.

    Raises:
        CheckpointError: the graph begins by dividing 0…255, and the preprocessing normalizes too, otherwise.
    """
    model = ir.from_proto(graph)
    affine = None if model.graph.inputs[0].dtype != ir.DataType.FLOAT else _first_affine(model)
    if affine is None:
        return preprocessing
    mean, std = np.asarray(preprocessing.mean, np.float64), np.asarray(preprocessing.std, np.float64)
    for range_name, highest in (("0…1", 1.0), ("0…255", 255.0)):
        if _is_plain(mean, std, highest):
            return preprocessing
        if affine.equals(highest * mean, highest * std):
            progress.step(
                f"note: {name} normalizes images of {range_name} itself, so they are not normalized before it"
            )
            share = 1.0 / highest
            return replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(share, share, share))
    if affine.takes_bytes and not given:
        raise CheckpointError(
            f"{name} begins by multiplying its image by {_shown(affine.scale)} and adding {_shown(affine.offset)}, and "
            f"its configuration normalizes with mean {preprocessing.mean} and std {preprocessing.std}",
            expected="one normalization, in the graph or before it",
            fix='preprocessing=FILE with the input that the graph takes: "mean": [0, 0, 0] and "std": [1, 1, 1] for '
            '0…1, "std": [0.00392157, 0.00392157, 0.00392157] for 0…255',
        )
    return preprocessing


def _is_plain(mean: Channels, std: Channels, highest: float) -> bool:
    return not mean.any() and bool(np.allclose(std * highest, 1.0, rtol=RELATIVE))


def _shown(values: Channels) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _first_affine(model: ir.Model) -> Affine | None:
    """Fold the first operators that scale and shift each channel; None if there are none."""
    (value,) = model.graph.inputs
    scale, offset, axis, found = np.ones(3), np.zeros(3), 1, False
    order = np.arange(3)  # the channel of the input, for each of the value
    while len(value.uses()) == 1 and not value.is_graph_output():
        ((node, place),) = value.uses()
        if not is_standard(node.domain):
            break
        if node.op_type == "Transpose":
            axis = node.attributes.get_ints("perm", range(3, -1, -1)).index(axis)
        elif node.op_type == "Gather":
            chosen = _chosen_channels(node, place, axis)
            if chosen is None:
                break
            scale, offset, order = scale[chosen], offset[chosen], order[chosen]
        elif node.op_type not in ORDINARY:
            step = _step(node, place, axis)
            if step is None:
                break
            scale, offset, found = scale * step.scale, offset * step.scale + step.offset, True
        value = node.outputs[0]
    back = np.argsort(order)
    return Affine(scale[back], offset[back]) if found else None


def _step(node: ir.Node, place: int, axis: int) -> Affine | None:
    """Return what one operator does to the channels; None if it is another operator, or differs along other axes."""
    if node.op_type == "BatchNormalization":
        return _normalized_batch(node) if place == 0 and axis == 1 else None
    constant = _by_channel(node.inputs[1 - place], axis) if len(node.inputs) == 2 else None
    if constant is None:
        return None
    one, zero = np.ones(3), np.zeros(3)
    match node.op_type, place:
        case "Mul", _:
            return Affine(constant, zero)
        case "Div", 0 if np.all(constant):
            return Affine(one / constant, zero)
        case "Add", _:
            return Affine(one, constant)
        case "Sub", 0:
            return Affine(one, -constant)
        case "Sub", 1:
            return Affine(-one, constant)
    return None


def _normalized_batch(node: ir.Node) -> Affine | None:
    constants = [_by_channel(value, 3) for value in node.inputs[1:5]]
    weight, bias, mean, variance = (*constants, None, None, None, None)[:4]
    if weight is None or bias is None or mean is None or variance is None:
        return None
    scale = weight / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return Affine(scale, bias - scale * mean)


def _chosen_channels(node: ir.Node, place: int, axis: int) -> NDArray[np.int64] | None:
    """Return the channels in the order into which a Gather puts them, such as BGR; None for anything else."""
    indices = constant_or_initializer(node.inputs[1]) if place == 0 else None
    if indices is None or node.attributes.get_int("axis", 0) % 4 != axis:
        return None
    chosen = np.asarray(indices, dtype=np.int64)
    return chosen % 3 if chosen.shape == (3,) and sorted(chosen % 3) == [0, 1, 2] else None


def _by_channel(value: ir.Value | None, axis: int) -> Channels | None:
    """Return a constant as three numbers, one a channel; None if it is none, or differs along other axes."""
    array = constant_or_initializer(value)
    if array is None or array.size not in (1, 3) or array.dtype.kind not in "fiu" or array.ndim > 4:
        return None
    shape = (1,) * (4 - array.ndim) + array.shape
    if array.size == 3 and shape[axis] != 3:
        return None
    return np.broadcast_to(array.reshape(-1), 3).astype(np.float64)
