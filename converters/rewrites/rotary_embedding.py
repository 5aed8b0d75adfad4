"""Rotary position embedding of queries and keys, without cutting tokens or halves out and joining them again.

DINOv3 cuts ``(1,heads,tokens,width)`` into prefix tokens and patches, computes ``patches * cos + [-right, left] * sin``
from the two halves of the patches, and joins the tokens again. With ``cos = 1`` and ``sin = 0`` for prefix tokens, one
formula holds for all tokens. The sign moves into ``sin``, and one Gather swaps the halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.bounds import everything, needs, selected
from vitedge.graph.edit import add_constant, add_tensor, bypass
from vitedge.graph.regions import Region, Span
from vitedge.graph.values import Array, constant, producer_of, shape_of

TOKENS, CHANNELS = 2, 3
"""Axes."""

NOTHING = "no tokens are rotated beside prefix tokens"
NO_TABLES = "a factor of the rotation is not a table of patches and channels"
NO_HALVES = "the rotation does not swap two halves of the channels"
OTHER_TOKENS = "prefix tokens and patches are not all tokens of one value, in order"


@dataclass(frozen=True)
class _Rotation:
    """Prefix tokens joined with rotated patches.

    Attributes:
        data: queries or keys, ``(1,heads,tokens,width)``.
        join: the Concat that gives the rotated ones.
        cosine: ``(patches,width)``.
        sine: ``(patches,width)``, with the sign of the swapped halves.
    """

    data: ir.Value
    join: ir.Node
    cosine: Array
    sine: Array

    def apply(self, model: ir.Model) -> None:
        shape = shape_of(self.data) or ()
        halves = (*shape[:CHANNELS], 2, shape[CHANNELS] // 2)
        tables = [
            add_constant(model, f"{self.data.name}_{name}", _with_prefix(table, halves[TOKENS:], value))
            for name, table, value in (("cosine", self.cosine, 1), ("sine", self.sine, 0))
        ]
        data = self._inserted(model, "Reshape", halves, self.data, _integers(model, "halves", halves))
        swapped = self._inserted(model, "Gather", halves, data, _integers(model, "swapped", (1, 0)), axis=CHANNELS)
        products = [
            self._inserted(model, "Mul", halves, value, table)
            for value, table in zip((data, swapped), tables, strict=True)
        ]
        rotated = self._inserted(model, "Add", halves, *products)
        whole = self._inserted(model, "Reshape", shape, rotated, _integers(model, "whole", shape))
        bypass(model, self.join, whole)

    def _inserted(
        self, model: ir.Model, op_type: str, shape: Sequence[int], *inputs: ir.Value, **attributes: Any
    ) -> ir.Value:
        name = f"{self.join.outputs[0].name}_{op_type.lower()}"
        output = ir.val(name, self.data.dtype, list(shape))
        model.graph.insert_before(self.join, ir.node(op_type, inputs, attributes, outputs=[output], name=name))
        return output


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where patches are rotated by tables of sines and cosines, and joined with tokens that are not rotated.
    """
    return refusal(_found(model.graph), nothing=NOTHING)


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Rotate all tokens."""
    places = apply_all(model, _found(model.graph))
    RemoveUnusedNodesPass()(model)
    return places


def _found(graph: ir.Graph) -> Iterator[_Rotation | str]:
    for join in list(graph):
        if join.op_type != "Concat" or len(join.inputs) != 2 or _axis(join) != TOKENS:
            continue
        total = producer_of(join.inputs[1], "Add")
        products = [producer_of(value, "Mul") for value in total.inputs] if total is not None else []
        both = [product for product in products if product is not None]
        if len(both) == 2:
            yield _rotation(join, both)


def _rotation(join: ir.Node, products: Sequence[ir.Node]) -> _Rotation | str:
    """Read the rotation of patches behind a Concat; the reason where there is none."""
    factors = [_factors(product) for product in products]
    tables = [each for each in factors if each is not None]
    if len(tables) < 2:
        return NO_TABLES
    (patches, cosine), (swapped, sine) = sorted(tables, key=lambda each: producer_of(each[0], "Concat") is not None)
    signs = _signs(patches, swapped)
    if signs is None:
        return NO_HALVES
    first, second = _taken(join.inputs[0], TOKENS), _taken(patches, TOKENS)
    if first is None or second is None or first[0] is not second[0]:
        return OTHER_TOKENS
    data, (start, end), (begin, stop) = first[0], first[1], second[1]
    if (start, end, stop) != (0, begin, everything(data)[TOKENS][1]):
        return OTHER_TOKENS
    return _Rotation(data, join, cosine, sine * signs)


def _factors(product: ir.Node) -> tuple[ir.Value, Array] | None:
    """Read a product of a value and a table ``(tokens,width)``; None for other products."""
    for value, other in (product.inputs, reversed(product.inputs)):
        table, shape = _table(other), shape_of(value) if value is not None else None
        if value is not None and table is not None and shape is not None and table.shape == shape[TOKENS:]:
            return value, table
    return None


def _table(value: ir.Value | None) -> Array | None:
    """Read a constant, or the part of one that a Split takes out, without its leading axes of size 1."""
    if value is None or shape_of(value) is None:
        return None
    source, region = selected(value)
    array, shape = constant(source), shape_of(value) or ()
    if array is None or any(size > 1 for size in shape[:-2]):
        return None
    return array[tuple(slice(*span) for span in region)].reshape(shape[-2:])


def _signs(patches: ir.Value, swapped: ir.Value) -> NDArray[np.float64] | None:
    """Give the sign of each channel where one value is the other with its halves swapped; None where it is not."""
    join, width = producer_of(swapped, "Concat"), everything(patches)[CHANNELS][1]
    if join is None or len(join.inputs) != 2 or _axis(join) != CHANNELS or width % 2:
        return None
    signs = np.ones(width)
    half = width // 2
    for index, value in enumerate(join.inputs):
        negative = producer_of(value, "Neg")
        taken = _taken(value if negative is None else negative.inputs[0], CHANNELS)
        if taken != (patches, (half - index * half, width - index * half)):
            return None
        if negative is not None:
            signs[index * half : (index + 1) * half] = -1
    return signs


def _taken(value: ir.Value | None, axis: int) -> tuple[ir.Value, Span] | None:
    """Read from where, and from which entries of an axis, a Slice or Split takes a value; None where it does not."""
    node = producer_of(value, "Slice", "Split")
    source = None if node is None else node.inputs[0]
    if value is None or source is None or None in (shape_of(value), shape_of(source)):
        return None
    region = (needs(value, everything(value)) or {}).get(0)
    if region is None or _without(region, axis) != _without(everything(source), axis):
        return None
    return source, region[axis]


def _without(region: Region, axis: int) -> Region:
    return (*region[:axis], *region[axis + 1 :])


def _axis(join: ir.Node) -> int | None:
    """Give the axis of a Concat of four dimensions; None for others."""
    rank = len(shape_of(join.outputs[0]) or ())
    return join.attributes.get_int("axis", 0) % rank if rank == 4 else None


def _with_prefix(table: Array, shape: Sequence[int], value: float) -> Array:
    """Put rows of one value before a table, and give it a shape."""
    prefix = np.full((shape[0] - len(table), table.shape[1]), value)
    return np.concatenate([prefix, table]).reshape(shape)


def _integers(model: ir.Model, name: str, values: Sequence[int]) -> ir.Value:
    return add_tensor(model.graph, name, np.asarray(values, np.int64))
