"""The last block computed for the tokens that the head reads; keys and values are still computed for all.

Which region of each value is read is found by bounds inference, from the output to the input: a head that reads only
the class token reads one row of the last normalization, residual sum and MLP, and of the attention one row of the
queries. A merged query-key-value layer is then computed in two pieces. Nothing here knows of tokens or blocks: a
region becomes smaller wherever an operator selects, and every operator that has a rule in ``bounds`` passes it on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.bundle.preprocessing import Preprocessing
from vitedge.converters.rewrites.places import Places
from vitedge.graph.bounds import RESHAPES, SELECTIONS, Needs, cut, everything, needs, needs_everything, static_shape
from vitedge.graph.edit import add_tensor
from vitedge.graph.regions import Region, contains, extent, relative, worth_computing

Pieces = dict[ir.Value, list[Region]]
PRODUCTS = frozenset({"Gemm", "MatMul"})


def check(model: ir.Model, preprocessing: Preprocessing) -> str:  # noqa: ARG001
    """Give the reason why the rewrite does not apply; empty if it applies.

    It applies where a matrix product computes more than is read; narrower normalizations alone did not pay.
    """
    graph = model.graph
    if any(graph.subgraphs()):
        return "the graph has branches"
    if not all(_is_static(value) for node in graph for value in node.outputs if value.uses()):
        return "the graph has shapes that are not static"
    pieces = required_pieces(graph)
    if not any(node.op_type in PRODUCTS and _is_partial(node.outputs[0], pieces) for node in graph):
        return "every matrix product is read in full"
    return ""


def rewrite(model: ir.Model, preprocessing: Preprocessing) -> Places:  # noqa: ARG001
    """Compute every value in the pieces that are read."""
    narrowing = _Narrowing(model.graph)
    changed = sum(node.op_type in PRODUCTS and _is_partial(node.outputs[0], narrowing.pieces) for node in model.graph)
    narrowing.run()
    RemoveUnusedNodesPass()(model)
    return Places(changed)


def required_pieces(graph: ir.Graph) -> Pieces:
    """Find the regions of each value that the graph's outputs need; none for a dead value."""
    read: dict[ir.Value, list[Region]] = defaultdict(list)
    pieces: Pieces = {}
    for node in reversed(graph):
        computed = _pieces_of(node, read)
        pieces |= computed
        for output, regions in computed.items():
            for region in regions:
                for index, needed in _needs_of(node, output, region).items():
                    read[_input(node, index)].append(needed)
    return pieces


def _pieces_of(node: ir.Node, read: dict[ir.Value, list[Region]]) -> Pieces:
    """Choose the regions to compute: everything for an output of the graph, or without a rule for a region."""
    live = [output for output in node.outputs if output in read or output.is_graph_output()]
    pieces = {output: worth_computing(read[output], static_shape(output)) for output in live}
    if any(
        output.is_graph_output() or any(needs(output, region) is None for region in pieces[output]) for output in live
    ):
        return {output: [everything(output)] for output in live}
    return pieces


def _needs_of(node: ir.Node, output: ir.Value, region: Region) -> Needs:
    found = None if output.is_graph_output() else needs(output, region)
    return needs_everything(node) if found is None else found


def _is_partial(value: ir.Value, pieces: Pieces) -> bool:
    return value in pieces and pieces[value] != [everything(value)]


def _is_static(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static() and 0 not in value.shape


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"input {index} of {node.name} is absent")
    return value


class _Narrowing:
    """Replaces every operator whose output is computed in pieces, or that reads a value that is.

    Attributes:
        pieces: of every value, new ones included.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._computed: dict[tuple[ir.Value, Region], ir.Value] = {}
        self._copies: Counter[ir.Node] = Counter()
        self.pieces = required_pieces(graph)

    def run(self) -> None:
        for node in list(self._graph):
            live = [output for output in node.outputs if output in self.pieces]
            if any(_is_partial(value, self.pieces) for value in (*live, *filter(None, node.inputs))):
                for output in live:
                    self._replace(node, output)

    def _replace(self, node: ir.Node, output: ir.Value) -> None:
        for region in self.pieces[output]:
            value = self._compute(node, output, region)
            if region == everything(output):
                self.pieces[value] = [region]
                ir.convenience.replace_all_uses_with(output, value)
            self._computed[output, region] = value

    def _compute(self, node: ir.Node, output: ir.Value, region: Region) -> ir.Value:
        """Compute a region of an operator's output from regions of its inputs."""
        parts = {index: self._read(node, index, needed) for index, needed in _needs_of(node, output, region).items()}
        if node.op_type in RESHAPES | SELECTIONS:
            return self._reshape(node, parts[0], output, region)
        if node.op_type == "Concat" and len(parts) == 1:
            return next(iter(parts.values()))
        inputs = parts.values() if node.op_type == "Concat" else map(parts.get, range(len(node.inputs)))
        copy = ir.Node(node.domain, node.op_type, list(inputs), node.attributes.values(), name=self._copy_name(node))
        return self._add(node, copy, output, region)

    def _copy_name(self, node: ir.Node) -> str | None:
        """Return the name for a copy of a node: its own for the first, so that layers keep the names of modules."""
        self._copies[node] += 1
        return f"{node.name}_{self._copies[node] - 1}" if node.name and self._copies[node] > 1 else node.name

    def _reshape(self, node: ir.Node, source: ir.Value, output: ir.Value, region: Region) -> ir.Value:
        """Reshape a source to a region's extent; a selection was already made where its input was computed."""
        if static_shape(source) == extent(region):
            return source
        shape = add_tensor(self._graph, f"{output.name}_shape", np.array(extent(region), np.int64))
        return self._add(node, ir.node("Reshape", [source, shape]), output, region)

    def _read(self, node: ir.Node, index: int, region: Region) -> ir.Value:
        """Cut a region of an input from the piece that contains it."""
        value = _input(node, index)
        if value.const_value is not None:
            return self._constant_part(value, value.const_value.numpy(), region)
        piece = next(each for each in self.pieces.get(value, [everything(value)]) if contains(each, region))
        source = self._computed.get((value, piece), value)
        return source if piece == region else self._cut(node, source, relative(region, piece))

    def _constant_part(self, value: ir.Value, values: NDArray[Any], region: Region) -> ir.Value:
        if region == everything(value):
            return value
        if (value, region) not in self._computed:
            part = values[tuple(slice(*span) for span in region)]
            self._computed[value, region] = add_tensor(self._graph, f"{value.name}_part", part)
        return self._computed[value, region]

    def _cut(self, node: ir.Node, source: ir.Value, region: Region) -> ir.Value:
        if (source, region) not in self._computed:
            self._computed[source, region] = self._add(node, cut(self._graph, source, region), source, region)
        return self._computed[source, region]

    def _add(self, place: ir.Node, node: ir.Node, whole: ir.Value, region: Region) -> ir.Value:
        """Insert a node that computes a region of a value; its output."""
        (value,) = node.outputs
        value.name = whole.name if region == everything(whole) else f"{whole.name}_part"
        value.type, value.shape = whole.type, ir.Shape(extent(region))
        node.name = node.name or value.name
        self._graph.insert_before(place, node)
        return value
