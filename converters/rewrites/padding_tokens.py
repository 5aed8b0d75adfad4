"""Padding tokens, so that the rows of a transformer can be shared out evenly among cores.

196 patches and a class token are 197 rows, a prime: no number of cores divides it, and OpenVINO, which shares out
products by rows, and attention by heads and rows, leaves some of them idle. Copies of one token bring the number to a
multiple of 8, or of 4 or 2 where 8 would cost too much. They change no result: as keys, they have next to no weight in
any softmax, and they are left out wherever tokens are selected. A rule for each operator follows them through the
graph; where an operator would mix them with the other tokens, none are added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.bounds import POINTWISE, RESHAPES, SELECTIONS, cut, everything, needs
from vitedge.graph.edit import add_tensor
from vitedge.graph.values import shape_of

MULTIPLES = (8, 4, 2)
SUFFIX = "_spare"
"""Ends the names of added constants; another suffix would change the bytes of every bundle."""

LARGEST_SHARE = 0.02
"""Of padding tokens: each costs its share of the products."""

HIDDEN = -24.0
"""Added to the scores of padding keys. Each then has e⁻²⁴ of the weight of the token that it copies, whatever the
scores: all of them together less than float32 resolves. More would only spread the range of the scores."""

Axes = dict[int, bool]
"""The axes along which a value has padding entries at the end, and whether these are 0."""

MIXED = "{} would mix padding tokens with the others"


def padding_for(tokens: int) -> int:
    """Give the number of padding tokens for so many tokens."""
    extras = (-tokens % multiple for multiple in MULTIPLES)
    return next((extra for extra in extras if extra <= LARGEST_SHARE * tokens), 0)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where a token joins others in a number that cores cannot share out, and they attend to one another.
    """
    return refusal(_found(model.graph), nothing="no number of tokens is hard to share out among cores")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Add the tokens, hide them from the others, and leave them out of selections."""
    places = apply_all(model, _found(model.graph))
    RemoveUnusedNodesPass()(model)
    return places


def _found(graph: ir.Graph) -> Iterator[_Spread | str]:
    for node in list(graph):
        shape = shape_of(node.outputs[0]) if node.op_type == "Concat" and not node.domain else None
        if shape is None or len(shape) != 3:
            continue
        joined = node.attributes.get_int("axis", 0) % 3 == 1
        copied = _copied(node) if joined and padding_for(shape[1]) else None
        if copied is not None:
            yield _spread(graph, _Spread(node, shape[1], *copied))


def _copied(concat: ir.Node) -> tuple[ir.Value, int] | None:
    """Return the input that holds one token or is constant, and the position of its first token."""
    position = 0
    for value in concat.inputs:
        shape = None if value is None else shape_of(value)
        if value is None or shape is None:
            return None
        if shape[1] == 1 or value.const_value is not None:
            return value, position
        position += shape[1]
    return None


@dataclass
class _Spread:
    """Padding tokens, and all that has to change for them.

    Attributes:
        concat: where the tokens are joined, along axis 1.
        tokens: how many there are.
        copied: the input of ``concat`` that holds the token that is copied.
        position: of that token among all.
        axes: of each value that has padding entries.
        edits: what is to be done, once these values have their new shapes.
        attentions: how many softmax of padding queries and keys there are.
    """

    concat: ir.Node
    tokens: int
    copied: ir.Value
    position: int
    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    edits: list[Callable[[ir.Graph], None]] = field(default_factory=list)
    attentions: int = 0

    @property
    def extra(self) -> int:
        """Return the number of tokens to add."""
        return padding_for(self.tokens)

    def apply(self, model: ir.Model) -> None:
        """Change the graph."""
        for value, axes in self.axes.items():
            sizes = _sizes(value)
            value.shape = ir.Shape([size + self.extra * (axis in axes) for axis, size in enumerate(sizes)])
        for edit in self.edits:
            edit(model.graph)

    def of(self, value: ir.Value | None) -> Axes:
        """Give the axes of a value; none where it has no padding entries."""
        return {} if value is None else self.axes.get(value, {})

    def extend(self, node: ir.Node, index: int, axes: list[int]) -> None:
        """Extend a constant for the padding tokens with the entries of the token that they copy."""
        value = node.inputs[index]
        values = _values(value)
        for axis in axes:
            copies = np.repeat(np.take(values, [self.position], axis), self.extra, axis)
            values = np.concatenate([values, copies], axis)
        name = f"{node.outputs[0].name}{SUFFIX}"
        self.edits.append(lambda graph: node.replace_input_with(index, add_tensor(graph, name, values)))

    def hide(self, softmax: ir.Node) -> None:
        """Give the padding keys of a softmax no weight."""
        (scores,) = filter(None, softmax.inputs)

        def edit(graph: ir.Graph) -> None:
            *leading, _, keys = _sizes(scores)
            mask = np.zeros((*leading, 1, keys), np.float32)
            mask[..., self.tokens :] = HIDDEN
            hidden = ir.val(f"{scores.name}_hidden", scores.dtype, scores.shape)
            inputs = [scores, add_tensor(graph, f"{scores.name}_mask", mask)]
            graph.insert_before(softmax, ir.node("Add", inputs, outputs=[hidden], name=hidden.name))
            softmax.replace_input_with(0, hidden)

        self.edits.append(edit)


def _spread(graph: ir.Graph, found: _Spread) -> _Spread | str:
    """Follow padding tokens through the graph; why they cannot be there, or would not pay."""
    if any(graph.subgraphs()):
        return "the graph has branches"
    found.axes[found.concat.outputs[0]] = {1: False}
    found.edits.append(lambda graph: _append_copies(graph, found))
    for node in graph:
        if not any(found.of(value) for value in node.inputs):
            continue
        rule = None if node.domain else RULES.get(node.op_type)
        if rule is None or any(shape_of(value) is None for value in (*filter(None, node.inputs), *node.outputs)):
            return MIXED.format(node.op_type)
        axes = rule(found, node)
        if axes is None:
            return MIXED.format(node.op_type)
        found.axes |= {output: dict(axes) for output in node.outputs if axes}
    if any(found.of(output) for output in graph.outputs):
        return "the outputs are one a token"
    return found if found.attentions else "these tokens do not attend to one another"


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    """Return the shape of a value, which must be known; an empty shape if there is no value."""
    return () if value is None else shape_of(value) or ()


def _values(value: ir.Value | None) -> NDArray[Any]:
    if value is None or value.const_value is None:
        raise ValueError(f"{value} is not constant")
    return np.asarray(value.const_value.numpy())


def _append_copies(graph: ir.Graph, found: _Spread) -> None:
    concat, value = found.concat, found.copied
    if value.const_value is not None:
        token = _values(value)[:, :1]
        copies = [add_tensor(graph, f"{value.name}{SUFFIX}", np.repeat(token, found.extra, 1))]
    else:
        copies = [value] * found.extra
    count = len(concat.inputs)
    concat.resize_inputs(count + len(copies))
    for index, copy in enumerate(copies, count):
        concat.replace_input_with(index, copy)


def _aligned(found: _Spread, node: ir.Node, axes: Axes, skipped: int = 0) -> bool:
    """Decide whether all inputs fit the padding entries on these axes of the output; extend constants.

    Args:
        found: changed.
        node: broadcasts its inputs.
        axes: of its output.
        skipped: how many of the last axes have rules of their own.
    """
    rank = len(_sizes(node.outputs[0]))
    for index, value in enumerate(node.inputs):
        sizes = _sizes(value)
        offset = rank - len(sizes)
        own = [axis - offset for axis in axes if offset <= axis < rank - skipped]
        missing = [axis for axis in own if sizes[axis] != 1 and axis not in found.of(value)]
        if missing and (value is None or value.const_value is None):
            return False
        if missing:
            found.extend(node, index, missing)
    return True


def _broadcast(found: _Spread, node: ir.Node) -> Axes:
    """Return the padded axes of an output that broadcasts all inputs."""
    rank = len(_sizes(node.outputs[0]))
    return {
        axis + rank - len(_sizes(value)): False
        for value in node.inputs
        if value is not None
        for axis in found.of(value)
    }


def _pointwise(found: _Spread, node: ir.Node) -> Axes | None:
    if node.op_type in ("Cast", "Identity"):
        return found.of(node.inputs[0])
    axes = _broadcast(found, node)
    return axes if _aligned(found, node, axes) else None


def _layer_normalization(found: _Spread, node: ir.Node) -> Axes | None:
    axes = dict.fromkeys(found.of(node.inputs[0]), False)
    first = node.attributes.get_int("axis", -1) % len(_sizes(node.outputs[0]))
    return axes if axes and max(axes) < first and len(node.outputs) == 1 else None


def _softmax(found: _Spread, node: ir.Node) -> Axes | None:
    axes, last = found.of(node.inputs[0]), len(_sizes(node.outputs[0])) - 1
    along = node.attributes.get_int("axis", -1) % (last + 1)
    after = dict.fromkeys(axes, False)
    if along not in axes:
        return after
    if along != last or last == 0:
        return None
    found.hide(node)
    found.attentions += last - 1 in axes
    return after | {last: True}


def _matmul(found: _Spread, node: ir.Node) -> Axes | None:
    """Handle a product; a sum may run over padding entries if one factor has zeros there."""
    left, right = (found.of(value) for value in node.inputs)
    ranks = [len(_sizes(value)) for value in node.inputs if value is not None]
    inner = [left.get(ranks[0] - 1), right.get(ranks[1] - 2)]
    if min(ranks) < 2 or (inner != [None, None] and (None in inner or not any(inner))):
        return None
    rank = max(ranks)
    axes = {axis + rank - ranks[0]: False for axis in left if axis != ranks[0] - 1}
    axes |= {axis + rank - ranks[1]: False for axis in right if axis != ranks[1] - 2}
    return axes if _aligned(found, node, axes, skipped=2) else None


def _gemm(found: _Spread, node: ir.Node) -> Axes | None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    rows = found.of(node.inputs[0]) == {0: False} and not node.attributes.get_int("transA", 0)
    broadcast = bias is None or len(_sizes(bias)) < 2 or _sizes(bias)[0] == 1
    return {0: False} if rows and broadcast and not found.of(node.inputs[1]) and not found.of(bias) else None


def _transpose(found: _Spread, node: ir.Node) -> Axes | None:
    rank = len(_sizes(node.outputs[0]))
    order = list(node.attributes.get_ints("perm") or range(rank)[::-1])
    return {order.index(axis): zero for axis, zero in found.of(node.inputs[0]).items()}


def _reshape(found: _Spread, node: ir.Node) -> Axes | None:
    """Handle a Reshape that keeps each axis of tokens whole, with as many elements before it as in the input."""
    value, output = node.inputs[0], node.outputs[0]
    old, new = _sizes(value), _sizes(output)
    axes: Axes = {}
    for axis, zero in found.of(value).items():
        before = math.prod(old[:axis])
        places = [each for each, size in enumerate(new) if size == old[axis] and math.prod(new[:each]) == before]
        if not places:
            return None
        axes[places[0]] = zero
    if node.op_type == "Reshape":

        def edit(graph: ir.Graph) -> None:
            shape = np.array(shape_of(output), np.int64)
            node.replace_input_with(1, add_tensor(graph, f"{output.name}_shape", shape))

        found.edits.append(edit)
    return axes


def _selection(found: _Spread, node: ir.Node) -> Axes | None:
    """Remove padding tokens from selections along the token axis."""
    value = node.inputs[0]
    source = needs(node.outputs[0], everything(node.outputs[0]))
    if value is None or source is None or any(found.of(other) for other in node.inputs[1:]):
        return None
    axes = found.of(value)
    if node.op_type == "Slice":
        return _sliced(found, node, value, source[0])
    along = node.attributes.get_int("axis", 0) % len(_sizes(value))
    if node.op_type == "Split":
        return None if along in axes else axes
    return _gathered(found, node, along)


def _sliced(found: _Spread, node: ir.Node, value: ir.Value, region: tuple[tuple[int, int], ...]) -> Axes:
    changes = shape_of(node.outputs[0]) != shape_of(value)
    axes = {axis: zero for axis, zero in found.of(value).items() if changes and region[axis] == (0, found.tokens)}

    def edit(graph: ir.Graph) -> None:
        """Replace the bounds: ends behind the last token, or counted from there, would be others now."""
        spans = tuple((first, last + found.extra * (axis in axes)) for axis, (first, last) in enumerate(region))
        bounds = cut(graph, value, spans).inputs[1:]
        node.resize_inputs(1 + len(bounds))
        for index, bound in enumerate(bounds, 1):
            node.replace_input_with(index, bound)

    found.edits.append(edit)
    return axes


def _gathered(found: _Spread, node: ir.Node, along: int) -> Axes:
    values = _values(node.inputs[1])
    if along in found.of(node.inputs[0]) and (values < 0).any():
        positions = values % found.tokens
        name = f"{node.outputs[0].name}_positions"
        found.edits.append(lambda graph: node.replace_input_with(1, add_tensor(graph, name, positions)))
    moved = values.ndim - 1
    return {axis + moved * (axis > along): zero for axis, zero in found.of(node.inputs[0]).items() if axis != along}


def _concat(found: _Spread, node: ir.Node) -> Axes | None:
    axes = _broadcast(found, node)
    along = node.attributes.get_int("axis", 0) % len(_sizes(node.outputs[0]))
    return axes if along not in axes and _aligned(found, node, axes) else None


RULES: dict[str, Callable[[_Spread, ir.Node], Axes | None]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(SELECTIONS, _selection),
    "Concat": _concat,
    "Gemm": _gemm,
    "LayerNormalization": _layer_normalization,
    "MatMul": _matmul,
    "Softmax": _softmax,
    "Transpose": _transpose,
}
