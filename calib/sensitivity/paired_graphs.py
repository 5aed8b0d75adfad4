"""An FP32 graph and the Q/DQ graph that was made from it, and layers exchanged between them.

Quantization changes how a layer is computed, and not what its result means: the result has the same name in both
graphs. Between it and the nearest values that both graphs compute alike lies the layer's region: in one the product,
in the other the quantizers, the product and, where it was equalized, the LayerNormalization before. A layer is
exchanged by computing its result with the region of the other graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitedge.calib.quantization.placement import Layer, weighted_layers
from vitedge.calib.quantization.working_graph import PURPOSE
from vitedge.errors import ConversionError
from vitedge.extras import require

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Region:
    """The nodes that make the result of a layer.

    Attributes:
        nodes: positions in their graph, in its order.
        inputs: the values that they begin with, which both graphs have.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class TwinLayer:
    """A layer that one of the graphs quantizes.

    Attributes:
        name: as in ``Layer``.
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        result: the value that it makes, bias included.
        fan_in: products that each number of the result sums up.
        full: its region in the FP32 graph.
        quantized: its region in the other one.
    """

    name: str
    operator: str
    result: str
    fan_in: int
    full: Region
    quantized: Region


@dataclass(frozen=True)
class Twins:
    """The two graphs.

    Attributes:
        full: FP32.
        quantized: with Q/DQ.
        layers: those that are quantized, in the order of ``full``.
    """

    full: onnx.ModelProto
    quantized: onnx.ModelProto
    layers: tuple[TwinLayer, ...]


def find_twins(full: onnx.ModelProto, quantized: onnx.ModelProto) -> Twins:
    """The layers that one graph quantizes, in both.

    Args:
        full: FP32, weights as initializers.
        quantized: made from it, with the names of its values.

    Raises:
        ConversionError: it was made from another graph, or quantizes no layer.
    """
    results = {_result(full, layer): layer for layer in weighted_layers(full)}
    ours, theirs = _View(full), _View(quantized)
    for name in (*ours.inputs, *results, *ours.outputs):
        if name not in theirs.makers and name not in theirs.inputs:
            raise ConversionError(
                f"the quantized graph was not made from this FP32 graph: it has no value {name!r}",
                expected="two precisions of one model, converted alike",
            )
    shared = _shared(ours, theirs, results)
    layers = []
    for result, layer in results.items():
        region = theirs.region(result, shared)
        if any(theirs.nodes[position].op_type == "QuantizeLinear" for position in region.nodes):
            shape = ours.constants[layer.weight].dims
            fan_in = math.prod(shape) // shape[layer.out_axis]
            full_region = ours.region(result, shared)
            layers.append(TwinLayer(layer.name, layer.operator, result, fan_in, full_region, region))
    if not layers:
        raise ConversionError("the graph quantizes no layer", expected="a graph with Q/DQ")
    return Twins(full, quantized, tuple(layers))


def mixed(twins: Twins, keep_float: Collection[str]) -> onnx.ModelProto:
    """The quantized graph, with some layers as they are in the FP32 graph.

    Args:
        twins: the graphs; they are not changed.
        keep_float: names of the layers.

    Returns:
        A new graph. What nothing reads any more is left out.
    """
    theirs = _View(twins.quantized)
    nodes = {(position, 0): node for position, node in enumerate(theirs.nodes)}
    added, suffix = set[int](), _free_suffix(theirs)
    for layer in (each for each in twins.layers if each.name in keep_float):
        place = theirs.makers[layer.result]
        del nodes[place, 0]
        for position in layer.full.nodes:
            if position not in added:
                added.add(position)
                nodes[place, position + 1] = _renamed(twins.full.graph.node[position], layer, suffix)
    result = type(twins.quantized)()
    result.CopyFrom(twins.quantized)
    for part in (result.graph.node, result.graph.initializer, result.graph.value_info):
        del part[:]
    result.graph.node.extend(_needed([nodes[key] for key in sorted(nodes)], theirs.outputs))
    read = {name for node in result.graph.node for name in node.input}
    for tensor in twins.quantized.graph.initializer:
        if tensor.name in read:
            result.graph.initializer.append(tensor)
    for tensor in twins.full.graph.initializer:
        if tensor.name + suffix in read:
            result.graph.initializer.append(tensor)
            result.graph.initializer[-1].name += suffix
    return result


class _View:
    """A graph, to look things up in.

    Attributes:
        nodes: in its order.
        inputs: their names.
        outputs: their names.
        constants: the initializers by name.
        makers: position of the node that makes each value.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.nodes = tuple(graph.graph.node)
        self.inputs = tuple(each.name for each in graph.graph.input)
        self.outputs = tuple(each.name for each in graph.graph.output)
        self.constants = {tensor.name: tensor for tensor in graph.graph.initializer}
        self.makers = {name: position for position, node in enumerate(self.nodes) for name in node.output if name}

    def region(self, result: str, shared: Collection[str]) -> Region:
        """What makes ``result`` of shared values."""
        positions, inputs, pending = set[int](), dict[str, None](), [result]
        while pending:
            name = pending.pop()
            if not name or name in self.constants:
                continue
            if name in shared and name != result:
                inputs[name] = None
            elif self.makers[name] not in positions:
                positions.add(self.makers[name])
                pending += self.nodes[self.makers[name]].input
        return Region(tuple(sorted(positions)), tuple(inputs))


def _result(graph: onnx.ModelProto, layer: Layer) -> str:
    return layer.output if layer.add < 0 else str(graph.graph.node[layer.add].output[0])


def _shared(ours: _View, theirs: _View, results: Iterable[str]) -> frozenset[str]:
    """Values that mean the same in both graphs: results of layers, and what the same nodes make of shared values."""
    shared = {name for name in ours.inputs if name in theirs.inputs}
    shared.update(results)
    for node in ours.nodes:
        for name in node.output:
            if name in theirs.makers and _alike(ours, node, theirs, theirs.nodes[theirs.makers[name]], shared):
                shared.add(name)
    return frozenset(shared)


def _alike(ours: _View, node: onnx.NodeProto, theirs: _View, other: onnx.NodeProto, shared: Collection[str]) -> bool:
    if node.op_type != other.op_type or _attributes(node) != _attributes(other) or len(node.input) != len(other.input):
        return False
    return all(
        _value(ours.constants[one]) == _value(theirs.constants[two])
        if one in ours.constants and two in theirs.constants
        else one == two and (not one or one in shared)
        for one, two in zip(node.input, other.input, strict=True)
    )


def _attributes(node: onnx.NodeProto) -> list[bytes]:
    return sorted(each.SerializeToString(deterministic=True) for each in node.attribute)


def _value(tensor: onnx.TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    arrays = require("onnx", extra="convert", purpose=PURPOSE).numpy_helper
    return tensor.data_type, tuple(tensor.dims), arrays.to_array(tensor).tobytes()


def _free_suffix(view: _View) -> str:
    """Behind the names that come from the other graph; no name of this one ends so."""
    names = {*view.constants, *view.makers, *(node.name for node in view.nodes)}
    suffix = "_float"
    while any(name.endswith(suffix) for name in names):
        suffix += "_"
    return suffix


def _renamed(node: onnx.NodeProto, layer: TwinLayer, suffix: str) -> onnx.NodeProto:
    """A node of the FP32 graph among those of the other; the layer's own keeps its name, by which it is known."""
    kept = {"", layer.result, *layer.full.inputs}
    copy = type(node)()
    copy.CopyFrom(node)
    copy.input[:] = [name if name in kept else name + suffix for name in node.input]
    copy.output[:] = [name if name in kept else name + suffix for name in node.output]
    if node.name and node.name != layer.name:
        copy.name = node.name + suffix
    return copy


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Without those that make nothing that is read."""
    read = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    return kept[::-1]
