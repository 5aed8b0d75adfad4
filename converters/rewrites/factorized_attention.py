"""Factorized attention of narrow heads, ``q (softmax(k)ᵀ v)``, on rows of tokens ``(1,tokens,channels)``.

CoaT takes 8 heads of 8 and 16 channels out of rows, makes a map of the values for convolutions, multiplies the queries
by its result, and turns heads back into rows: Transposes of a few bytes each. The product of all keys and values, with
zeros where their heads differ, needs no heads. The map and the product with it keep the channels of a token together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.merge_layout_operators import TO_CHANNELS_FIRST, TO_CHANNELS_LAST
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.converters.rewrites.scalars import scalar
from vitedge.graph.channels import trace
from vitedge.graph.edit import add_constant, add_tensor
from vitedge.graph.operators import DATA_MOVEMENT_OPERATORS, is_standard
from vitedge.graph.values import constant, is_read_once, present, producer_of, shape_of

WIDEST = 16
"""Channels of a head. With wider heads, the products with zeros take as long as the Transposes."""

NOTHING = "no softmax is over the tokens of keys"
OTHER_OPERATORS = "no map of values is multiplied by the queries"
TOO_WIDE = f"heads have more than {WIDEST} channels"
OTHER_LAYOUT = "heads are taken out of rows, or put together, in another order"

Elements = NDArray[Any]
"""The numbers of elements, in the layout of a value."""


@dataclass(frozen=True)
class _Operators:
    """Factorized attention of heads, and what is added to it.

    Attributes:
        softmax: of the keys.
        queries: ``(1,heads,tokens,width)``.
        values: of that shape.
        scale: of the attention.
        patches: the queries that are multiplied by the map.
        convolved: the map in the layout of the queries.
        total: the Add of attention and product.
    """

    softmax: ir.Node
    queries: ir.Value
    values: ir.Value
    scale: float
    patches: ir.Value
    convolved: ir.Value
    total: ir.Node

    @property
    def shape(self) -> tuple[int, ...]:
        """Return heads, tokens and width."""
        return (shape_of(self.queries) or ())[1:]


@dataclass(frozen=True)
class _Inserted:
    """Operators that are inserted before another.

    Attributes:
        model: with that operator.
        before: that operator.
        name: begins the names of the new values.
    """

    model: ir.Model
    before: ir.Node | None
    name: str

    def add(
        self, op_type: str, shapes: Sequence[Sequence[int]], inputs: Sequence[ir.Value], **attributes: Any
    ) -> Sequence[ir.Value]:
        """Insert an operator; give its outputs, which have these shapes."""
        if self.before is None:
            raise ValueError(f"no node produces {self.name}")
        name = f"{self.name}_{op_type.lower()}"
        outputs = [ir.val(f"{name}_{index}", inputs[0].dtype, list(shape)) for index, shape in enumerate(shapes)]
        node = ir.node(op_type, inputs, attributes, outputs=outputs, name=name)
        self.model.graph.insert_before(self.before, node)
        return outputs

    def last_tokens(self, value: ir.Value, first: int) -> ir.Value:
        """Take the tokens of a value from one on."""
        _, tokens, channels = shape_of(value) or ()
        bounds = [self.integers(name, [each]) for name, each in (("start", first), ("end", tokens), ("axis", 1))]
        (taken,) = self.add("Slice", [(1, tokens - first, channels)], [value, *bounds])
        return taken

    def integers(self, name: str, values: Sequence[int]) -> ir.Value:
        """Add an int64 constant."""
        return add_tensor(self.model.graph, f"{self.name}_{name}", np.asarray(values, np.int64))


@dataclass(frozen=True)
class _Rows:
    """A factorized attention whose layouts are known.

    Attributes:
        operators: of it.
        rows: queries, keys and values of all heads, ``(1,tokens,3·channels)``.
        before: the map of the values that the convolutions read.
        after: the map that they give.
        result: ``(1,tokens,channels)``.
    """

    operators: _Operators
    rows: ir.Value
    before: ir.Value
    after: ir.Value
    result: ir.Value

    @property
    def patches(self) -> tuple[int, int, int]:
        """Return the shape of the map as rows."""
        _, channels, height, side = shape_of(self.after) or ()
        return 1, height * side, channels

    def apply(self, model: ir.Model) -> None:
        row = shape_of(self.result) or ()
        new = _Inserted(model, self.operators.total, str(self.result.name))
        queries, keys, values = self._parts(model)
        (weights,) = new.add("Softmax", [row], [keys], axis=1)
        (turned,) = new.add("Transpose", [(1, row[2], row[1])], [weights], perm=(0, 2, 1))
        (product,) = new.add("MatMul", [(1, row[2], row[2])], [turned, values])
        mask = add_constant(model, f"{self.result.name}_heads", self._mask())
        (masked,) = new.add("Mul", [(1, row[2], row[2])], [product, mask])
        (attention,) = new.add("MatMul", [row], [queries, masked])
        (total,) = new.add("Add", [row], [attention, self._product(new, queries)])
        ir.convenience.replace_all_uses_with(self.result, total)

    def _parts(self, model: ir.Model) -> Sequence[ir.Value]:
        """Split the rows into queries, keys and values, and make the map of the values."""
        _, pixels, channels = self.patches
        _, tokens, _ = row = shape_of(self.result) or ()
        planes = shape_of(self.before) or ()
        pixel_map = tuple(planes[axis] for axis in TO_CHANNELS_LAST)
        new = _Inserted(model, self.before.producer(), str(self.before.name))
        sizes = new.integers("sizes", [channels] * 3)
        parts = new.add("Split", [row] * 3, [self.rows, sizes], axis=2)
        taken = new.last_tokens(parts[2], tokens - pixels)
        (taken,) = new.add("Reshape", [pixel_map], [taken, new.integers("map", pixel_map)])
        (taken,) = new.add("Transpose", [planes], [taken], perm=TO_CHANNELS_FIRST)
        ir.convenience.replace_all_uses_with(self.before, taken)
        return parts

    def _product(self, new: _Inserted, queries: ir.Value) -> ir.Value:
        """Multiply the queries of patches by the map; zeros stand for the other tokens."""
        _, tokens, _ = row = shape_of(self.result) or ()
        prefix = tokens - self.patches[1]
        pixel_map = [(shape_of(self.after) or ())[axis] for axis in TO_CHANNELS_LAST]
        (convolved,) = new.add("Transpose", [pixel_map], [self.after], perm=TO_CHANNELS_LAST)
        (convolved,) = new.add("Reshape", [self.patches], [convolved, new.integers("rows", self.patches)])
        (product,) = new.add("Mul", [self.patches], [new.last_tokens(queries, prefix), convolved])
        (padded,) = new.add("Pad", [row], [product, new.integers("pads", (0, prefix, 0, 0, 0, 0))])
        return padded

    def _mask(self) -> NDArray[np.float64]:
        """Give the scale where the heads of keys and values are the same, and 0 elsewhere."""
        heads, _, width = self.operators.shape
        return np.kron(np.eye(heads), np.full((width, width), self.operators.scale))


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where queries, keys and values of narrow heads are taken out of rows of tokens for factorized attention.
    """
    return refusal(_found(model.graph), nothing=NOTHING)


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Compute with rows of tokens."""
    places = apply_all(model, _found(model.graph))
    RemoveUnusedNodesPass()(model)
    return places


def _found(graph: ir.Graph) -> Iterator[_Rows | str]:
    for softmax in list(graph):
        if softmax.op_type != "Softmax" or softmax.domain:
            continue
        shape, axis = shape_of(present(softmax.inputs[0])) or (), softmax.attributes.get_int("axis", -1)
        if len(shape) == 4 and shape[0] == 1 and axis % 4 == 2:
            found = _operators(softmax)
            if isinstance(found, _Operators):
                yield TOO_WIDE if shape[-1] > WIDEST else _rows(graph, found) or OTHER_LAYOUT
            else:
                yield OTHER_OPERATORS


def _operators(softmax: ir.Node) -> _Operators | None:
    """Read the operators from the softmax of the keys on."""
    turned = _reader(softmax, "Transpose")
    first = _reader(turned, "MatMul")
    second = _reader(first, "MatMul")
    scaled = _reader(second, "Mul")
    total = _reader(scaled, "Add")
    if turned is None or first is None or second is None or scaled is None or total is None:
        return None
    factors = [each for each in map(scalar, scaled.inputs) if each is not None]
    pads = [each for each in (producer_of(value, "Pad") for value in total.inputs) if each is not None]
    product = producer_of(pads[0].inputs[0], "Mul") if len(pads) == 1 and _pads_tokens_before(pads[0]) else None
    sides = (first.inputs[0] is turned.outputs[0], second.inputs[1] is first.outputs[0])
    if (
        tuple(turned.attributes.get_ints("perm", ())) != (0, 1, 3, 2)
        or not all(sides)
        or not factors
        or product is None
    ):
        return None
    queries, values = present(second.inputs[0]), present(first.inputs[1])
    rows = _source(queries)
    patches, convolved = sorted(map(present, product.inputs), key=lambda value: _source(value) is not rows)
    return _Operators(softmax, queries, values, factors[0], patches, convolved, total)


def _reader(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """Give the one reader of a node's output, if it is of this type."""
    value = None if node is None else node.outputs[0]
    reader = value.consumers()[0] if value is not None and is_read_once(value) else None
    return reader if reader is not None and reader.op_type == op_type and is_standard(reader.domain) else None


def _pads_tokens_before(pad: ir.Node) -> bool:
    """Decide whether a Pad puts zeros before the tokens of ``(1,heads,tokens,width)``, and nowhere else."""
    pads = constant(pad.inputs[1]) if len(pad.inputs) == 2 else None
    zeros = pad.attributes.get_string("mode", "constant") == "constant"
    return zeros and pads is not None and pads.size == 8 and not np.delete(pads, 2).any()


def _rows(graph: ir.Graph, operators: _Operators) -> _Rows | None:
    """Follow rows, map and result through the operators that move elements; None where they are in another order."""
    keys = present(operators.softmax.inputs[0])
    rows, after = _source(keys), _source(operators.convolved)
    if not shape_of(keys) == shape_of(operators.queries) == shape_of(operators.total.outputs[0]):
        return None
    heads, tokens, width = operators.shape
    channels = heads * width
    map_shape = shape_of(after) or ()
    if shape_of(rows) != (1, tokens, 3 * channels) or map_shape[:2] != (1, channels) or len(map_shape) != 4:
        return None
    prefix = tokens - map_shape[2] * map_shape[3]
    moved, numbers = _moved(graph, rows)
    parts = np.split(numbers, 3, axis=2)
    expected = [_in_heads(part, heads) for part in parts]
    read = (operators.queries, keys, operators.values, operators.patches)
    places = zip(read, (*expected, expected[0][:, :, prefix:]), strict=True)
    before = _same(moved, parts[2][:, prefix:].swapaxes(1, 2).reshape(map_shape))
    turned, numbers = _moved(graph, after)
    right = _is(turned, operators.convolved, _in_heads(numbers.reshape(1, channels, -1).swapaxes(1, 2), heads))
    ended, numbers = _moved(graph, operators.total.outputs[0])
    result = _same(ended, numbers.swapaxes(1, 2).reshape(1, tokens, channels))
    if before is None or result is None or not right or not all(_is(moved, *place) for place in places):
        return None
    return _Rows(operators, rows, before, after, result)


def _source(value: ir.Value) -> ir.Value:
    """Give the value from which operators that only move elements lead to another."""
    node = value.producer()
    while node is not None and node.op_type in DATA_MOVEMENT_OPERATORS - {"Concat"} and is_standard(node.domain):
        value = present(node.inputs[0])
        node = value.producer()
    return value


def _moved(graph: ir.Graph, value: ir.Value) -> tuple[Mapping[ir.Value, Elements], Elements]:
    """Number the elements of a value: the numbers in the values that hold the same elements, and in the value."""
    shape = shape_of(value) or ()
    numbers = np.arange(1, np.prod(shape) + 1, dtype=np.int32).reshape(shape)
    return trace(graph, value, numbers).values, numbers


def _in_heads(rows: Elements, heads: int) -> Elements:
    """Take heads out of rows: ``(1,tokens,channels)`` to ``(1,heads,tokens,width)``."""
    return np.swapaxes(rows.reshape(*rows.shape[:2], heads, -1), 1, 2)


def _is(moved: Mapping[ir.Value, Elements], value: ir.Value, numbers: Elements) -> bool:
    return value in moved and np.array_equal(moved[value], numbers)


def _same(moved: Mapping[ir.Value, Elements], numbers: Elements) -> ir.Value | None:
    """Give the value that holds these elements; None where there is none that a node produces."""
    return next((value for value in moved if value.producer() is not None and _is(moved, value, numbers)), None)
