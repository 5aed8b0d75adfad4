"""Constants that are added to the scores of attention one after the other become one.

Swin adds a table of relative positions for each head, then a mask for each window. OpenVINO fuses attention with one
addition only; with two, its products, softmax and changes of precision are operators of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import bypass, set_constant
from vitedge.graph.values import constant, is_read_once, present, producer_of, shape_of

LARGEST = 2**20
"""Numbers in a mask, 4 MB: a larger one would take longer to read than the operators that it spares."""

TOO_LARGE = "the mask of all heads and windows would be too large"
NO_SHAPE = "the shape of the scores is not known, or a constant widens it"


@dataclass(frozen=True)
class _Addition:
    """An Add of a constant.

    Attributes:
        node: the Add.
        index: of its constant input.
    """

    node: ir.Node
    index: int

    @property
    def data(self) -> ir.Value:
        """Return the value to which the constant is added."""
        return present(self.node.inputs[1 - self.index])

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Return the shape of data and sum; None if it is unknown, or the constant widens it."""
        shape = shape_of(self.node.outputs[0])
        return shape if shape is not None and shape == shape_of(self.data) else None

    @property
    def values(self) -> NDArray[Any]:
        """Return the constant, broadcast to the shape of the sum."""
        values = constant(self.node.inputs[self.index])
        if values is None or self.shape is None:
            raise ValueError(f"{self.node.name} was not checked")
        return np.broadcast_to(values, self.shape)


@dataclass(frozen=True)
class _Merge:
    """Two additions; Reshapes at most lie between them."""

    first: _Addition
    second: _Addition

    def apply(self, model: ir.Model) -> None:
        """Add both constants at the first place."""
        total = self.first.values + self.second.values.reshape(self.first.shape)
        node = self.first.node
        set_constant(model, node, self.first.index, f"{node.outputs[0].name}_mask", _without_copies(total))
        bypass(model, self.second.node, self.second.data)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where two constants are added to the scores of a softmax.
    """
    return refusal(_found(model.graph), nothing="no scores have two constants added to them")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Add one constant."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[_Merge | str]:
    for node in list(graph):
        second = _addition_behind(node.inputs[0]) if node.op_type == "Softmax" and not node.domain else None
        first = None if second is None else _addition_behind(second.data)
        if first is not None and second is not None:
            yield _refusal(first, second) or _Merge(first, second)


def _addition_behind(value: ir.Value | None) -> _Addition | None:
    """Return the Add of a constant that produces a value, also through Reshapes, if nothing else reads it."""
    while value is not None and is_read_once(value):
        node = producer_of(value, "Add", "Reshape")
        if node is not None and node.op_type == "Add":
            indices = [index for index, each in enumerate(node.inputs) if constant(each) is not None]
            return _Addition(node, indices[0]) if len(indices) == 1 else None
        value = None if node is None else node.inputs[0]
    return None


def _refusal(first: _Addition, second: _Addition) -> str:
    if first.shape is None or second.shape is None:
        return NO_SHAPE
    return TOO_LARGE if math.prod(first.shape) > LARGEST else ""


def _without_copies(values: NDArray[Any]) -> NDArray[Any]:
    """Keep one entry along each axis along which all entries are equal."""
    for axis in range(values.ndim):
        one = values.take([0], axis)
        if (values == one).all():
            values = one
    return values
