"""Layer by layer through a graph that is being quantized, with some images.

The graph is cut wherever something is decided, and the values that later nodes still read are kept for every image. So
each decision sees the activations that all decisions before it leave, and no node runs twice except for the choices
that are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.calib.quantization.graph_parts import GraphParts, Part, Values
from vitedge.calib.quantization.parallel import parallel_map
from vitedge.graph.session import open_part
from vitedge.graph.values import values_read

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RestOfRun:
    """The rest of a graph, to run with changed values; its methods may run in any thread.

    Attributes:
        values: of each image, where the rest begins.
        source: the value that is changed.
        read: the name by which the nodes read the changed value.
        parts: of the rest, one after another.
        results: the outputs of the graph.
    """

    values: tuple[Values, ...]
    source: str
    read: str
    parts: tuple[Part, ...]
    results: tuple[str, ...]

    def begin(self, change: Callable[[Floats], Floats], image: int) -> Values:
        """Run the first part with the changed value of an image, by its position; returns the values behind it."""
        values = self.values[image]
        return _through(self.parts[:1], {**values, self.read: change(values[self.source])})

    def finish(self, values: Values) -> Floats:
        """Run the other parts with what ``begin`` gave.

        Returns:
            The values of all outputs of the graph, ``(values,)``; outputs of earlier nodes are as they were.
        """
        made = _through(self.parts[1:], values)
        return np.concatenate([made[result].ravel() for result in self.results])


def _through(parts: Iterable[Part], values: Values) -> Values:
    for part in parts:
        values = part.run(values)
    return values


class LayerwiseRun:
    """The values that some images have at one position of a graph.

    Attributes:
        values: of each image, the values that nodes from the position on read.
        float_outputs: of each image, the values of all outputs, ``(values,)``, before anything is changed.
    """

    def __init__(self, model: ir.Model, frames: NDArray[np.uint8], float_outputs: Sequence[Floats] = ()) -> None:
        """Begin before the first node.

        Args:
            model: its nodes keep their order from now on; their inputs and constants may change.
            frames: ``(N,H,W,3)`` uint8.
            float_outputs: as the attribute; none if no search asks for them.
        """
        self._model = model
        self._nodes = tuple(model.graph)
        self._positions = {node: position for position, node in enumerate(self._nodes)}
        self._position = 0
        self.values: list[Values] = [{INPUT_NAME: frame[np.newaxis]} for frame in frames]
        self.float_outputs = float_outputs
        self._parts = GraphParts(model, self._nodes)

    @property
    def _outputs(self) -> list[str]:
        return [str(output.name) for output in self._model.graph.outputs]

    def advance(self, node: ir.Node | None, keep: Collection[str] = ()) -> None:
        """Run the nodes before ``node``; all their constants must be decided by now.

        Args:
            node: not before the present position; None for the end of the graph.
            keep: values to keep even if no later node reads them.

        Raises:
            ConversionError: ONNX Runtime cannot run the nodes.
        """
        position = len(self._nodes) if node is None else self._positions[node]
        nodes = self._nodes[self._position : position]
        self._position = position
        later = self._read_later() | {*self._outputs, *keep}
        made = [str(value.name) for each in nodes for value in each.outputs if value.name in later]
        if made:
            run = self._session(nodes, made, self.values[0])
            self.values = list(parallel_map(lambda values: {**values, **run(values)}, self.values))
        self.values = [{name: each for name, each in values.items() if name in later} for values in self.values]

    def pass_node(self, node: ir.Node, keep: Collection[str] = ()) -> None:
        """Run the nodes up to ``node``, and ``node`` itself; otherwise like ``advance``."""
        after = self._positions[node] + 1
        self.advance(self._nodes[after] if after < len(self._nodes) else None, keep)

    def derive(self, new: str, old: str, change: Callable[[Floats], Floats]) -> None:
        """Keep under the name ``new`` what ``change`` makes of the value ``old``."""
        changed = parallel_map(lambda values: change(values[old]), self.values)
        for values, made in zip(self.values, changed, strict=True):
            values[new] = made

    def drop_unread(self, name: str) -> None:
        """Drop a value that nothing reads any more: one copy of a large value for every image counts."""
        if name not in self._outputs and name not in self._read_later():
            for values in self.values:
                del values[name]

    def rows(self, name: str, axis: int) -> Floats:
        """Give a value of all images as ``(rows, channels)``; ``axis`` holds its channels."""
        moved = [np.moveaxis(values[name], axis, -1) for values in self.values]
        return np.concatenate([each.reshape(-1, each.shape[-1]) for each in moved])

    def rest(self, source: str, read: str) -> RestOfRun:
        """Prepare to run the rest of the graph with changed values.

        Args:
            source: a value at this position.
            read: the name by which later nodes read the changed value.
        """
        example = {**self.values[0], read: self.values[0][source]}
        parts = self._parts.behind(self._position, example)
        return RestOfRun(tuple(self.values), source, read, parts, tuple(self._outputs))

    def _read_later(self) -> set[str]:
        return {str(value.name) for node in self._nodes[self._position :] for value in values_read(node)}

    def _session(
        self, nodes: Sequence[ir.Node], outputs: Sequence[str], available: Values
    ) -> Callable[[Values], Values]:
        needed = {str(value.name) for node in nodes for value in values_read(node)}
        example = {name: each for name, each in available.items() if name in needed}
        session = open_part(self._model, nodes, example, outputs, threads=1)

        def run(values: Values) -> Values:
            made = session.run(outputs, {name: values[name] for name in example})
            return dict(zip(outputs, made, strict=True))

        return run


def logits_of(model: ir.Model, frames: NDArray[np.uint8]) -> Floats:
    """Compute the logits ``(N, classes)`` of a graph with one output.

    Raises:
        ConversionError: ONNX Runtime cannot run the graph.
    """
    run = LayerwiseRun(model, frames)
    run.advance(None)
    (output,) = model.graph.outputs
    return np.stack([values[str(output.name)].ravel() for values in run.values])


def energy(values: Floats) -> float:
    """Sum up the squares of values, in float64."""
    return float(np.square(values, dtype=np.float64).sum())
