"""The rest of a graph behind a position, in parts whose sessions stay open.

A search runs the rest of the network once for each candidate of each tensor. Opening a session on all of it for each
tensor costs more than the runs: weights are copied into the layout of the kernels. So the graph is cut at a few fixed
places, where few values are alive, and the sessions behind the next cut serve all tensors before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.graph.session import open_part
from vitedge.graph.values import values_read

Values = dict[str, NDArray[Any]]
"""The values of one image, by name."""

PARTS = 8
"""Into how many parts a graph is cut, where it has as many nodes; each costs a copy of the values that are alive."""


@dataclass(frozen=True)
class Part:
    """Nodes that run in one session.

    Attributes:
        inputs: names of the computed values that the nodes read.
        outputs: names of the values that nodes behind them read, or that are outputs of the graph.
        alive: names of all values that are read behind the part, or are outputs of the graph.
        session: an ``onnxruntime.InferenceSession``.
        reads: the nodes' attributes and inputs, constants with their values: the session is of no use once one differs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    alive: frozenset[str]
    session: Any
    reads: tuple[object, ...]

    def run(self, values: Values) -> Values:
        """Give the values that are alive behind the part, of those alive before it."""
        made = self.session.run(self.outputs, {name: values[name] for name in self.inputs})
        return {name: each for name, each in values.items() if name in self.alive} | dict(
            zip(self.outputs, made, strict=True)
        )


class GraphParts:
    """A graph that is cut into parts, with the sessions that are open on them."""

    def __init__(self, model: ir.Model, nodes: Sequence[ir.Node]) -> None:
        """Choose the cuts.

        Args:
            model: the whole graph.
            nodes: of the graph, in topological order. Between calls their inputs may be others, and constants and
                attributes may be replaced, but none may be edited in place.
        """
        self._model, self._nodes = model, nodes
        self._outputs = frozenset(str(output.name) for output in model.graph.outputs)
        self._cuts = _cuts(nodes, self._outputs)
        self._open: dict[tuple[int, int], Part] = {}
        self._examples: Values = {}

    def behind(self, position: int, example: Values) -> tuple[Part, ...]:
        """Give the parts from a position on to the end of the graph; they run one after another.

        Args:
            position: of the first node.
            example: the values that are alive before it, of one image.

        Raises:
            ConversionError: ONNX Runtime cannot run the nodes.
        """
        spans = list(pairwise([position, *(cut for cut in self._cuts if cut > position), len(self._nodes)]))
        self._open = {span: part for span, part in self._open.items() if span in spans}
        needed = [self._outputs]
        for start, end in reversed(spans):
            needed.append(needed[-1] | _names_read(self._nodes[start:end]))
        parts = zip(spans, reversed(needed[:-1]), strict=True)
        return tuple(self._part(*span, alive, example) for span, alive in parts if self._made(*span, alive))

    def _made(self, start: int, end: int, alive: frozenset[str]) -> tuple[str, ...]:
        """Give the names of the values that nodes make and others read."""
        made = (str(value.name) for node in self._nodes[start:end] for value in node.outputs)
        return tuple(name for name in made if name in alive)

    def _part(self, start: int, end: int, alive: frozenset[str], example: Values) -> Part:
        """Give the session that is open on nodes; open one where there is none, or where what they read has changed."""
        nodes, outputs = self._nodes[start:end], self._made(start, end, alive)
        reads = tuple(_read(nodes))
        known = self._open.get((start, end))
        if known is None or known.outputs != outputs or not _are_same(known.reads, reads):
            inputs, session = self._opened(nodes, outputs, {**self._examples, **example})
            known = Part(inputs, outputs, alive, session, reads)
        self._open[start, end] = replace(known, alive=alive)
        return self._open[start, end]

    def _opened(
        self, nodes: Sequence[ir.Node], outputs: Sequence[str], available: Values
    ) -> tuple[tuple[str, ...], Any]:
        """Open a session on nodes; returns it behind the names of its inputs."""
        made = {value.name for node in nodes for value in node.outputs}
        read = _names_read(nodes)
        inputs = {name: each for name, each in available.items() if name in read and name not in made}
        session = open_part(self._model, nodes, inputs, outputs, threads=1)
        if not self._examples.keys() >= set(outputs):
            values = session.run(outputs, inputs)
            self._examples.update((name, _like(each)) for name, each in zip(outputs, values, strict=True))
        return tuple(inputs), session


def _read(nodes: Sequence[ir.Node]) -> Iterator[object]:
    """Give all that decides what nodes compute: attributes, values that they read, and present values of constants."""
    for node in nodes:
        yield from node.attributes.values()
        for value in values_read(node):
            yield value
            yield value.const_value


def _are_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _names_read(nodes: Sequence[ir.Node]) -> frozenset[str]:
    return frozenset(str(value.name) for node in nodes for value in values_read(node))


def _like(values: NDArray[Any]) -> NDArray[Any]:
    """Give an array of the same shape and type that takes no memory."""
    return np.broadcast_to(np.zeros((), values.dtype), values.shape)


def _cuts(nodes: Sequence[ir.Node], outputs: Collection[str]) -> tuple[int, ...]:
    """Choose the positions of cuts: in each stretch of nodes the last where the fewest values are alive."""
    alive = _alive(nodes, outputs)
    ends = np.linspace(0, len(nodes), PARTS + 1).astype(int)
    stretches = [range(start + 1, end + 1) for start, end in pairwise(ends)]
    found = [min(reversed(stretch), key=lambda position: alive[position]) for stretch in stretches if stretch]
    return tuple(position for position in found if position < len(nodes))


def _alive(nodes: Sequence[ir.Node], outputs: Collection[str]) -> list[int]:
    """Count, for each position, the values made before it that are read behind it."""
    last_read = {str(value.name): at for at, node in enumerate(nodes) for value in values_read(node)}
    changes = [0] * (len(nodes) + 2)
    for at, node in enumerate(nodes):
        for value in node.outputs:
            name = str(value.name)
            changes[at + 1] += 1
            changes[(len(nodes) if name in outputs else last_read.get(name, at)) + 1] -= 1
    return list(accumulate(changes))
