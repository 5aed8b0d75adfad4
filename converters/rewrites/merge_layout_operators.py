"""Chains of Reshape and Transpose with several Transposes become one Transpose between two Reshapes.

MobileViT cuts its maps into patches, and puts them together again, with two Transposes each way. An axis is split into
the factors that the chain's Reshapes ask for, and the factors are followed through. Where a map of channels before
pixels begins the chain, or ends it, and the channels are innermost at the other end, a Transpose of the map alone takes
its place there: convolutions of CPUs keep their maps in that order anyway, so that it costs nothing, and whole pixels
are moved instead of single values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places, apply_all, refusal
from vitedge.graph.edit import add_tensor, bypass
from vitedge.graph.values import is_read_once, shape_of

TO_CHANNELS_LAST, TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)

Step = tuple[int, ...] | list[int]
"""A permutation (a tuple) or a shape (a list)."""


@dataclass(frozen=True)
class FactorOrder:
    """What a chain does to the factors of its input's axes.

    Attributes:
        sizes: of each factor, in the order of the input.
        order: the factors in the order of the output.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class MergedChain:
    """A chain, and the steps that take its place.

    Attributes:
        chain: its operators, in order; other operators read the result of the last alone.
        steps: that do the same.
    """

    chain: tuple[ir.Node, ...]
    steps: tuple[Step, ...]

    def apply(self, model: ir.Model) -> None:
        """Put the steps in the place of the chain."""
        first, last = self.chain[0], self.chain[-1]
        data = first.inputs[0]
        if data is None:
            raise ValueError(f"{first.name} was not checked")
        value = data
        for step in self.steps:
            value = _moved(model, last, value, step)
        bypass(model, last, value)
        for node in reversed(self.chain[:-1]):
            bypass(model, node, data)


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where one Transpose can do what several do.
    """
    return refusal(_found(model.graph), nothing="no chain has several Transposes")


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Rebuild the chains."""
    return apply_all(model, _found(model.graph))


def _found(graph: ir.Graph) -> Iterator[MergedChain]:
    for chain in layout_chains(graph):
        if sum(node.op_type == "Transpose" for node in chain) < 2:
            continue
        before, after, steps = static_shape(chain[0].inputs[0]), static_shape(chain[-1].outputs[0]), steps_of(chain)
        found = followed(before, steps)
        merged = steps if found is None else merged_steps(found, before, after)
        if merged != steps:
            yield MergedChain(tuple(chain), tuple(merged))


def followed(shape: Sequence[int], chain: Sequence[Step]) -> FactorOrder | None:
    """Follow the factors of a shape through a chain.

    Args:
        shape: of the input.
        chain: its steps.

    Returns:
        None where an axis would have to be split into sizes that do not divide it.
    """
    sizes = list(shape)
    begun = [axis for axis, size in enumerate(shape) if size > 1]
    axes = [[axis] if size > 1 else [] for axis, size in enumerate(shape)]
    for step in chain:
        if isinstance(step, tuple):
            axes = [axes[axis] for axis in step]
            continue
        regrouped = _regrouped([factor for axis in axes for factor in axis], step, sizes, begun)
        if regrouped is None:
            return None
        axes = regrouped
    return _joined(begun, [factor for axis in axes for factor in axis], sizes)


def _regrouped(factors: list[int], shape: list[int], sizes: list[int], begun: list[int]) -> list[list[int]] | None:
    """Group the factors by the axes of a new shape; split a factor in which an axis ends, in ``begun`` too."""
    pending, axes = list(factors), []
    for size in shape:
        axis, left = list[int](), size
        while left > 1:
            factor = pending.pop(0)
            if left % sizes[factor] and sizes[factor] % left:
                return None
            if sizes[factor] > left:
                sizes.append(sizes[factor] // left)
                sizes[factor] = left
                begun.insert(begun.index(factor) + 1, len(sizes) - 1)
                pending.insert(0, len(sizes) - 1)
            axis.append(factor)
            left //= sizes[factor]
        axes.append(axis)
    return axes


def _joined(begun: list[int], ended: list[int], sizes: list[int]) -> FactorOrder:
    """Renumber the factors in the order of the input, and join the factors that stay side by side."""
    position = {factor: index for index, factor in enumerate(begun)}
    runs: list[list[int]] = []
    for factor in ended:
        if runs and position[factor] == position[runs[-1][-1]] + 1:
            runs[-1].append(factor)
        else:
            runs.append([factor])
    ranked = sorted(runs, key=lambda run: position[run[0]])
    return FactorOrder(
        tuple(math.prod(sizes[factor] for factor in run) for run in ranked), tuple(ranked.index(run) for run in runs)
    )


def layout_chains(graph: ir.Graph) -> list[list[ir.Node]]:
    """Give the longest chains of Reshape and Transpose in which every value between has one reader."""
    chains: list[list[ir.Node]] = []
    for node in graph:
        before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if not _is_move(node) or (before is not None and _is_move(before) and _only_reader(before) is node):
            continue
        chain = [node]
        while (after := _only_reader(chain[-1])) is not None and _is_move(after):
            chain.append(after)
        chains.append(chain)
    return chains


def _is_move(node: ir.Node) -> bool:
    return (
        node.op_type in ("Reshape", "Transpose")
        and not node.domain
        and all(value is not None and shape_of(value) is not None for value in (node.inputs[0], node.outputs[0]))
    )


def _only_reader(node: ir.Node) -> ir.Node | None:
    value = node.outputs[0]
    return value.consumers()[0] if is_read_once(value) else None


def steps_of(chain: list[ir.Node]) -> list[Step]:
    """Give the steps of a chain."""
    return [
        _permutation(node) if node.op_type == "Transpose" else list(static_shape(node.outputs[0])) for node in chain
    ]


def _permutation(node: ir.Node) -> tuple[int, ...]:
    rank = len(static_shape(node.outputs[0]))
    return tuple(node.attributes.get_ints("perm", range(rank)[::-1]))


def static_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Give the shape of a value in a chain; all of them are static."""
    shape = None if value is None else shape_of(value)
    if shape is None:
        raise ValueError(f"{value} was not checked")
    return shape


def merged_steps(found: FactorOrder, before: tuple[int, ...], after: tuple[int, ...]) -> list[Step]:
    """Give the fewest steps from one shape to another that do the same, whole pixels of a map where they can."""
    sizes, order, last = found.sizes, found.order, len(found.sizes) - 1
    if _is_map(before) and before[1] == sizes[0] and order[-1] == 0:
        inner = tuple(last if factor == 0 else factor - 1 for factor in order)
        return [TO_CHANNELS_LAST, [*sizes[1:], sizes[0]], inner, list(after)]
    if _is_map(after) and after[1] == sizes[last] and order[0] == last:
        _, channels, height, width = after
        return [list(sizes), (*order[1:], last), [1, height, width, channels], TO_CHANNELS_FIRST]
    return [list(sizes), order, list(after)]


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[0] == 1


def _moved(model: ir.Model, before: ir.Node, value: ir.Value, step: Step) -> ir.Value:
    """Insert one more Transpose or Reshape."""
    if isinstance(step, tuple):
        shape = [static_shape(value)[axis] for axis in step]
        output = ir.val(f"{value.name}_turned", value.dtype, shape)
        node = ir.node("Transpose", [value], {"perm": list(step)}, outputs=[output])
    else:
        output = ir.val(f"{value.name}_shaped", value.dtype, step)
        sizes = add_tensor(model.graph, f"{value.name}_sizes", np.asarray(step, dtype=np.int64))
        node = ir.node("Reshape", [value, sizes], outputs=[output])
    model.graph.insert_before(before, node)
    return output
