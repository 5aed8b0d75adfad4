"""Some images on their way through a graph that is being quantized.

The graph is cut wherever something is decided; what later nodes still read is kept for every image. So each decision
sees the activations that all decisions before it leave, and no node runs twice but for the choices that are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME
from vitedge.calib.quantization.working_graph import Values, WorkingGraph, beside, runner

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float32]


class Stream:
    """The values that some images have at one position of a graph.

    Attributes:
        values: of each image, by name: what nodes from ``position`` on read.
        position: of the first node that has not run.
    """

    def __init__(self, graph: WorkingGraph, frames: NDArray[np.uint8]) -> None:
        """Begin before the first node with frames ``(N,H,W,3)`` uint8."""
        self._graph = graph
        self.position = 0
        self.values: list[Values] = [{INPUT_NAME: frame[np.newaxis]} for frame in frames]

    def advance(self, position: int, keep: Collection[str]) -> None:
        """Run the nodes before ``position``; they must have all their constants by now.

        Args:
            position: not before the present one.
            keep: values to keep even if no later node reads them.
        """
        nodes = self._graph.nodes[self.position : position]
        later = {name for node in self._graph.nodes[position:] for name in node.input}
        later.update([*(output.name for output in self._graph.model.graph.output), *keep])
        made = [name for node in nodes for name in node.output if name in later]
        self.position = position
        if made:
            run = self._compiled(nodes, made, self.values[0])
            self.values = list(beside(lambda values: {**values, **run(values)}, self.values))
        self.values = [{name: each for name, each in values.items() if name in later} for values in self.values]

    def replaced(self, old: str, new: str, change: Callable[[Floats], Floats]) -> None:
        """Keep under the name ``new`` what ``change`` makes of a value."""
        for values in self.values:
            values[new] = change(values[old])

    def forget(self, name: str) -> None:
        """Drop a value that nothing reads any more: of a large one, a copy for every image counts."""
        outputs = {output.name for output in self._graph.model.graph.output}
        if name not in outputs and not any(name in node.input for node in self._graph.nodes[self.position :]):
            for values in self.values:
                del values[name]

    def rows(self, name: str, axis: int) -> Floats:
        """A value of all images as ``(rows, channels)``."""
        moved = [np.moveaxis(values[name], axis, -1) for values in self.values]
        return np.concatenate([each.reshape(-1, each.shape[-1]) for each in moved])

    def finisher(self, source: str, read: str) -> Callable[[Callable[[Floats], Floats], Sequence[int]], Floats]:
        """How the graph's outputs would be.

        Args:
            source: a value that the stream holds.
            read: the name by which later nodes read what is made of it.

        Returns:
            Takes what makes that value, and which images; gives ``(images, values of all outputs)``.
        """
        outputs = [output.name for output in self._graph.model.graph.output]
        example = {**self.values[0], read: self.values[0][source]}
        run = self._compiled(self._graph.nodes[self.position :], outputs, example)

        def finished(change: Callable[[Floats], Floats], images: Sequence[int]) -> Floats:
            some = (self.values[image] for image in images)
            made = beside(lambda values: run({**values, read: change(values[source])}), some)
            return np.stack([np.concatenate([each[output].ravel() for output in outputs]) for each in made])

        return finished

    def _compiled(
        self, nodes: list[onnx.NodeProto], outputs: list[str], available: Values
    ) -> Callable[[Values], Values]:
        needed = {name for node in nodes for name in node.input}
        example = {name: each for name, each in available.items() if name in needed}
        session = runner(self._graph.assembled(nodes, example, outputs))

        def run(values: Values) -> Values:
            made = session.run(outputs, {name: values[name] for name in example})
            return dict(zip(outputs, made, strict=True))

        return run
