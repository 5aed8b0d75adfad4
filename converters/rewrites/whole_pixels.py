"""Maps become rows of tokens by moving whole pixels.

OpenVINO stores maps with their channels innermost, which is how rows of tokens lie. It drops a Transpose from a map to
rows if the Transpose has four axes and a Reshape alone reads it. Where pixels are joined to a row first, it copies the
map to planes, and transposes those: behind the convolutions of TinyViT and PVT v2. From rows to a map it drops either
form. Heads that are taken out of the channels of a map are taken out of its rows: those of EfficientViT's attention.
Heads that become a map become rows of tokens first: those of Visformer and EfficientFormer V2.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.merge_layout_operators import (
    TO_CHANNELS_FIRST,
    TO_CHANNELS_LAST,
    FactorOrder,
    MergedChain,
    Step,
    followed,
    layout_chains,
    merged_steps,
    static_shape,
    steps_of,
)
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import add_tensor
from vitedge.graph.values import shape_of


@dataclass(frozen=True)
class _SharedMap:
    """A Transpose of a map to channels last, which several operators read."""

    transpose: ir.Node

    def apply(self, model: ir.Model) -> None:
        tokens = self.transpose.outputs[0]
        readers = tuple(tokens.uses())
        _, height, width, channels = static_shape(tokens)
        rows = _reshaped(model, tokens, f"{tokens.name}_rows", (1, height * width, channels))
        others = [(reader, index) for reader, index in readers if not _reshapes(reader)]
        for reader, index in readers:
            if _reshapes(reader):
                reader.replace_input_with(index, rows)
                shape = np.asarray(static_shape(reader.outputs[0]), np.int64)
                reader.replace_input_with(1, add_tensor(model.graph, f"{reader.outputs[0].name}_shape", shape))
        if others:
            again = _reshaped(model, rows, f"{tokens.name}_map", (1, height, width, channels))
            for reader, index in others:
                reader.replace_input_with(index, again)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where one Transpose and Reshapes lead from a map to rows of tokens or from heads to a map, and where a
    map with its channels last is read as a row and as a map.
    """
    return refusal(_found(model.graph), nothing="no map becomes a row by a copy")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Transpose maps before they become rows."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[MergedChain | _SharedMap]:
    for chain in layout_chains(graph):
        if [node.op_type for node in chain].count("Transpose") == 1:
            found = _whole_pixels(chain)
            if found is not None:
                yield found
    for node in list(graph):
        if node.op_type == "Transpose" and not node.domain and _is_shared(node):
            yield _SharedMap(node)


def _whole_pixels(chain: list[ir.Node]) -> MergedChain | None:
    """Give the steps that move whole pixels of a map; None where there is no map, or they are moved already."""
    before, after = static_shape(chain[0].inputs[0]), static_shape(chain[-1].outputs[0])
    steps = steps_of(chain)
    factors = followed(before, steps)
    if factors is None:
        return None
    joined = _joined_heads(factors, after)
    moved = _simplified(before, joined or _heads(factors, before, after) or merged_steps(factors, before, after))
    if moved == _simplified(before, steps) or not (joined or moved[:1] == [TO_CHANNELS_LAST]):
        return None
    return MergedChain(tuple(chain), tuple(moved))


def _joined_heads(found: FactorOrder, after: tuple[int, ...]) -> list[Step]:
    """Give the steps that join heads to rows, and make a map of the rows; none where the result is no map of heads.

    Args:
        found: what the chain does; the factors are heads, tokens and the width of a head.
        after: shape of the result.
    """
    if found.order != (0, 2, 1) or len(after) != 4:
        return []
    heads, tokens, width = found.sizes
    images, channels, *pixels = after
    if images != 1 or channels != heads * width:
        return []
    return [[1, heads, tokens, width], (0, 2, 1, 3), [1, *pixels, channels], TO_CHANNELS_FIRST]


def _heads(found: FactorOrder, before: tuple[int, ...], after: tuple[int, ...]) -> list[Step]:
    """Give the steps that take heads out of rows; none where the channels of a map stay whole, or pixels end innermost.

    Args:
        found: what the chain does; the first factors are those of the channels.
        before: shape of the map.
        after: shape of the result.
    """
    sizes, order = found.sizes, found.order
    if len(before) != 4 or before[0] != 1 or before[1] not in (products := list(accumulate(sizes, operator.mul))):
        return []
    heads = products.index(before[1]) + 1
    if heads < 2 or order[-1] != heads - 1:
        return []
    inner = tuple((factor - heads) % len(sizes) for factor in order)
    return [TO_CHANNELS_LAST, [*sizes[heads:], *sizes[:heads]], inner, list(after)]


def _simplified(shape: tuple[int, ...], steps: Sequence[Step]) -> list[Step]:
    """Leave out the steps that change nothing, and Reshapes before a Reshape."""
    kept, sizes = list[Step](), [list(shape)]
    for step in steps:
        if isinstance(step, tuple):
            if step != tuple(range(len(step))):
                kept.append(step)
                sizes.append([sizes[-1][axis] for axis in step])
            continue
        if kept and isinstance(kept[-1], list):
            kept.pop()
            sizes.pop()
        if step != sizes[-1]:
            kept.append(step)
            sizes.append(step)
    return kept


def _is_shared(transpose: ir.Node) -> bool:
    """Decide whether a map with its channels last is read as a row, or as windows, and as it is."""
    tokens = transpose.outputs[0]
    shape = shape_of(tokens)
    if tuple(transpose.attributes.get_ints("perm", ())) != TO_CHANNELS_LAST or shape is None or shape[0] != 1:
        return False
    reshapes = [_reshapes(use.node) for use in tokens.uses()]
    return any(reshapes) and len(reshapes) > 1 and not tokens.is_graph_output()


def _reshapes(reader: ir.Node) -> bool:
    """Decide whether a node lays a value out in another, static shape."""
    return reader.op_type == "Reshape" and not reader.domain and shape_of(reader.outputs[0]) is not None


def _reshaped(model: ir.Model, value: ir.Value, name: str, shape: tuple[int, ...]) -> ir.Value:
    """Insert a Reshape behind the node that produces a value."""
    producer = value.producer()
    if producer is None:
        raise ValueError(f"no node produces {value.name}")
    sizes = add_tensor(model.graph, f"{name}_shape", np.asarray(shape, np.int64))
    output = ir.val(name, value.dtype, list(shape))
    model.graph.insert_after(producer, ir.node("Reshape", [value, sizes], outputs=[output], name=name))
    return output
