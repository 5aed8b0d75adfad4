"""Paired graphs: an FP32 graph and the Q/DQ graph that was made from it, and layers exchanged between them.

Quantization changes how a layer is computed, and not what its result means: the result has the same name in both
graphs. Between it and the nearest values that both graphs compute alike lies the layer's part: in one graph the
product, in the other the quantizers, the product and, where it was equalized, the LayerNormalization before. A layer is
exchanged by computing its result with the part of the other graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from vitedge.errors import ConversionError
from vitedge.graph.layers import Layer, linear_layers
from vitedge.graph.values import bodies, values_read

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Part:
    """The nodes that produce the result of a layer.

    Attributes:
        nodes: in the order of their graph.
        inputs: names of the values that the nodes begin with, which both graphs have.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class PairedLayer:
    """A layer that one of the graphs quantizes.

    Attributes:
        name: as in ``Layer``.
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        result: name of the value that the layer produces, bias included.
        fan_in: products that each number of the result sums up.
        full: the part of the FP32 graph.
        quantized: the part of the other graph.
    """

    name: str
    operator: str
    result: str
    fan_in: int
    full: Part
    quantized: Part


@dataclass(frozen=True)
class PairedGraphs:
    """The two graphs.

    Attributes:
        full: FP32.
        quantized: with Q/DQ.
        full_model: ``full`` as the parts of its layers see it.
        quantized_model: ``quantized`` as the parts of its layers see it.
        layers: the quantized layers, in the order of ``full``.
    """

    full: onnx.ModelProto
    quantized: onnx.ModelProto
    full_model: ir.Model
    quantized_model: ir.Model
    layers: tuple[PairedLayer, ...]


def pair_graphs(full: onnx.ModelProto, quantized: onnx.ModelProto) -> PairedGraphs:
    """Find the layers that one graph quantizes, in both.

    Args:
        full: FP32, weights as initializers.
        quantized: made from it, with the names of its values.

    Raises:
        ConversionError: it was made from another graph, or quantizes no layer.
    """
    full_model, quantized_model = ir.from_proto(full), ir.from_proto(quantized)
    for model in (full_model, quantized_model):
        _widen_halves(model.graph)
    results = {str(layer.output.name): layer for layer in linear_layers(full_model.graph)}
    ours, theirs = _computed(full_model.graph), _computed(quantized_model.graph)
    for name in (*_names(full_model.graph.inputs), *results, *_names(full_model.graph.outputs)):
        if name not in theirs:
            raise ConversionError(
                f"the quantized graph was not made from this FP32 graph: it has no value {name!r}",
                expected="two precisions of one model, converted alike",
            )
    shared = _shared(full_model.graph, theirs, results)
    parts = ((layer, _part(ours[name], shared), _part(theirs[name], shared)) for name, layer in results.items())
    layers = tuple(_paired(*each) for each in parts if _quantizes(each[2]))
    if not layers:
        raise ConversionError("the graph quantizes no layer", expected="a graph with Q/DQ")
    return PairedGraphs(full, quantized, full_model, quantized_model, layers)


def mixed(pair: PairedGraphs, keep_float: Collection[str]) -> onnx.ModelProto:
    """Make the quantized graph with some layers as they are in the FP32 graph.

    Args:
        pair: the graphs; they are not changed.
        keep_float: names of the layers.

    Returns:
        A new graph. What nothing reads any more is left out.

    Raises:
        ConversionError: a branch or a loop computes one of the layers.
    """
    exchange = _Exchange(pair)
    for layer in (each for each in pair.layers if each.name in keep_float):
        exchange.to_float(layer)
    return exchange.result()


class _Exchange:
    """A copy of the quantized graph, into which parts of the FP32 graph are copied."""

    def __init__(self, pair: PairedGraphs) -> None:
        self._full = pair.full_model.graph
        self._model = ir.from_proto(pair.quantized)
        self._values = _computed(self._model.graph)
        self._suffix = _free_suffix(self._model.graph)
        self._copies: dict[ir.Value, ir.Value] = {}

    def to_float(self, layer: PairedLayer) -> None:
        """Compute a layer's result with the part of the FP32 graph."""
        old = self._values[layer.result]
        producer = old.producer()
        if producer is None:
            raise ValueError(f"no node produces {layer.result}")
        for node in layer.full.nodes:
            if not all(output in self._copies for output in node.outputs):
                self._model.graph.insert_before(producer, self._copy(node, layer))
        new = self._copies[next(each for each in layer.full.nodes[-1].outputs if each.name == layer.result)]
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.type, new.shape = old.type, old.shape
        self._model.graph.remove(producer, safe=True)
        self._values[layer.result] = new

    def result(self) -> onnx.ModelProto:
        """Register the copied constants, and remove what nothing reads."""
        for value in self._full.initializers.values():
            if value in self._copies:
                self._model.graph.register_initializer(self._copies[value])
        RemoveUnusedNodesPass()(self._model)
        proto: onnx.ModelProto = ir.to_proto(self._model)
        del proto.graph.value_info[:]
        return proto

    def _copy(self, node: ir.Node, layer: PairedLayer) -> ir.Node:
        """Copy a node of the FP32 graph for the other graph; only the layer's own node keeps its name."""
        if any(bodies(node)):
            raise ConversionError(
                f"the layer {layer.name!r} reads what {node.name!r} computes, a branch or loop ({node.op_type})",
                expected="a graph without control flow",
                fix="export the model for one input size, without conditions on the image",
            )
        inputs = [None if value is None else self._input(value, layer) for value in node.inputs]
        outputs = [ir.val(self._name(str(value.name), layer)) for value in node.outputs]
        self._copies.update(zip(node.outputs, outputs, strict=True))
        name = node.name if not node.name or node.name == layer.name else f"{node.name}{self._suffix}"
        return ir.node(node.op_type, inputs, dict(node.attributes), domain=node.domain, outputs=outputs, name=name)

    def _input(self, value: ir.Value, layer: PairedLayer) -> ir.Value:
        if value.name in layer.full.inputs:
            return self._values[str(value.name)]
        if value not in self._copies:  # a constant: the part's own values were copied before
            name = f"{value.name}{self._suffix}"
            self._copies[value] = ir.val(name, value.dtype, value.shape, const_value=_renamed(value, name))
        return self._copies[value]

    def _name(self, name: str, layer: PairedLayer) -> str:
        return name if name in ("", layer.result) else f"{name}{self._suffix}"


def _renamed(value: ir.Value, name: str) -> ir.TensorProtocol:
    """Return the tensor of a constant under another name; the tensor of the FP32 graph keeps its own."""
    if value.const_value is None:
        raise ValueError(f"{value.name} is not constant")
    return ir.tensor(value.const_value.numpy(), dtype=value.const_value.dtype, name=name)


def _names(values: Iterable[ir.Value]) -> Iterator[str]:
    return (str(value.name) for value in values)


def _computed(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return the inputs of a graph and the values that its nodes produce, by name."""
    produced = (value for node in graph for value in node.outputs)
    return {str(value.name): value for value in (*graph.inputs, *produced) if value.name}


def _part(result: ir.Value, shared: Collection[str]) -> Part:
    """Return the nodes that compute a value from shared values."""
    nodes, inputs, pending = set[ir.Node](), dict[str, None](), [result]
    while pending:
        value = pending.pop()
        producer = value.producer()
        if value.name in shared and value is not result:
            inputs[str(value.name)] = None
        elif producer is not None and producer not in nodes:
            nodes.add(producer)
            pending += values_read(producer)
    graph = result.graph
    ordered = () if graph is None else tuple(node for node in graph if node in nodes)
    return Part(ordered, tuple(inputs))


def _quantizes(part: Part) -> bool:
    """Decide whether a part has 8-bit weights, with or without a quantizer of what they are multiplied with."""
    return any(node.op_type == "DequantizeLinear" for node in part.nodes)


def _paired(layer: Layer, full: Part, quantized: Part) -> PairedLayer:
    fan_in = math.prod(layer.weight_shape[1:])
    return PairedLayer(layer.name, layer.operator, str(layer.output.name), fan_in, full, quantized)


def _shared(ours: ir.Graph, theirs: dict[str, ir.Value], results: Iterable[str]) -> frozenset[str]:
    """Find values equal in both graphs: results of layers, and what equal nodes compute from shared values."""
    shared = {str(value.name) for value in ours.inputs if value.name in theirs}
    shared.update(results)
    for node in ours:
        for value in node.outputs:
            other = theirs[value.name].producer() if value.name in theirs else None
            if other is not None and _alike(node, other, shared):
                shared.add(str(value.name))
    return frozenset(shared)


def _alike(node: ir.Node, other: ir.Node, shared: Collection[str]) -> bool:
    ours, theirs = (_inputs(each) for each in (node, other))
    if node.op_type != other.op_type or len(ours) != len(theirs) or _attributes(node) != _attributes(other):
        return False
    return all(_same_value(one, two, shared) for one, two in zip(ours, theirs, strict=True))


def _inputs(node: ir.Node) -> list[ir.Value | None]:
    """Return the inputs of a node, absent ones as None, and the values that its bodies capture."""
    present = sum(value is not None for value in node.inputs)
    return [*node.inputs, *list(values_read(node))[present:]]


def _same_value(one: ir.Value | None, two: ir.Value | None, shared: Collection[str]) -> bool:
    if one is None or two is None:
        return one is two
    if one.const_value is not None and two.const_value is not None:
        ours, theirs = one.const_value, two.const_value
        same_kind = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return same_kind and (ours.tobytes() == theirs.tobytes() or _halved(ours) == _halved(theirs))
    return one.name == two.name and one.name in shared


def _halved(tensor: ir.TensorProtocol) -> bytes:
    """Return the bytes of a constant, with float32 stored as float16, as in a bundle with float16 weights."""
    if tensor.dtype != ir.DataType.FLOAT:
        return tensor.tobytes()
    with np.errstate(over="ignore"):
        return tensor.numpy().astype(np.float16).tobytes()


def _widen_halves(graph: ir.Graph) -> None:
    """Replace constants that are stored in float16, and cast, by constants of float32: they mean the same."""
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == "Cast" else None
        if stored is None or stored.const_value is None or stored.const_value.dtype != ir.DataType.FLOAT16:
            continue
        output = node.outputs[0]
        wide = stored.const_value.numpy().astype(np.float32)
        value = ir.val(str(output.name), const_value=ir.tensor(wide, name=str(output.name)))
        ir.convenience.replace_all_uses_with(output, value)
        graph.remove(node, safe=True)
        graph.register_initializer(value)


def _attributes(node: ir.Node) -> list[bytes]:
    attributes = ir.serde.serialize_node(node).attribute
    return sorted(attribute.SerializeToString(deterministic=True) for attribute in attributes)


def _free_suffix(graph: ir.Graph) -> str:
    """Return the suffix for names from the other graph; no name of this graph ends with it."""
    names = {*graph.initializers, *_computed(graph), *(str(node.name) for node in graph)}
    suffix = "_float"
    while any(name.endswith(suffix) for name in names):
        suffix += "_"
    return suffix
