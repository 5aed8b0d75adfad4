"""Which layers become int8, found by what they are and not by what they are called.

Convolutions and products with constant weights are quantized. Residual additions, LayerNormalization, softmax, GELU and
the products of attention stay in floating point: quantized residual additions destroy vision transformers. So do the
first convolution, which ``frame_convolution`` may quantize afterwards, the last two layers, and products of a single
row, such as those behind the class token alone: they cost next to nothing, and their noise goes right into the logits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitedge.errors import ConversionError

if TYPE_CHECKING:
    import onnx

FLOAT_LAST = 2


@dataclass(frozen=True)
class Layer:
    """A convolution or a product with constant weights, together with the Add of its bias.

    Attributes:
        position: of the node in the graph.
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        name: of the node, for people.
        data: the tensor that it reads.
        output: the tensor that the operator makes, without the bias of an Add.
        weight: its constant weights.
        bias: its constant bias ``(out,)``; empty if it has none.
        add: position of the Add that holds the bias of a MatMul; −1 if there is none.
        out_axis: of the weights.
        groups: of a convolution, else 1.
    """

    position: int
    operator: str
    name: str
    data: str
    output: str
    weight: str
    bias: str
    add: int
    out_axis: int
    groups: int


def weighted_layers(graph: onnx.ModelProto) -> tuple[Layer, ...]:
    """All convolutions and products with constant weights that compute on data, in the graph's order."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    readers = readers_of(graph)
    found = (_layer(graph, position, sizes, readers) for position in range(len(graph.graph.node)))
    return tuple(layer for layer in found if layer is not None)


def int8_layers(
    graph: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], keep_float: Collection[str] = ()
) -> tuple[Layer, ...]:
    """Those of ``weighted_layers`` that become int8.

    Args:
        graph: FP32.
        shapes: of the tensors that the layers read.
        keep_float: names of layers that do not.

    Raises:
        ConversionError: there are none.
    """
    layers = weighted_layers(graph)
    first = next((layer for layer in layers if layer.operator == "Conv"), None)
    chosen = tuple(
        layer
        for layer in layers[:-FLOAT_LAST]
        if layer is not first and layer.name not in keep_float and not _single_row(layer, shapes[layer.data])
    )
    if not chosen:
        raise ConversionError("the graph has no layer to quantize", expected="linear layers or convolutions")
    return chosen


def by_data(layers: Iterable[Layer]) -> dict[str, tuple[Layer, ...]]:
    """The layers that read each tensor: one quantizer serves them all."""
    readers: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        readers[layer.data].append(layer)
    return {name: tuple(each) for name, each in readers.items()}


def readers_of(graph: onnx.ModelProto) -> dict[str, list[int]]:
    """Positions of the nodes that read each tensor, once for every input; −1 stands for an output of the graph."""
    readers: dict[str, list[int]] = defaultdict(list)
    for position, node in enumerate(graph.graph.node):
        for name in node.input:
            readers[name].append(position)
    for output in graph.graph.output:
        readers[output.name].append(-1)
    return readers


def _single_row(layer: Layer, shape: tuple[int, ...]) -> bool:
    return layer.operator != "Conv" and math.prod(shape[:-1]) == 1


def _layer(
    graph: onnx.ModelProto, position: int, sizes: Mapping[str, tuple[int, ...]], readers: Mapping[str, list[int]]
) -> Layer | None:
    node = graph.graph.node[position]
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain or node.input[1] not in sizes:
        return None
    attributes = {each.name: each for each in node.attribute}
    if node.input[0] in sizes or not _is_plain(node, attributes, sizes[node.input[1]]):
        return None
    transposed = "transB" in attributes and attributes["transB"].i == 1
    out_axis = 0 if node.op_type == "Conv" or transposed else 1
    add, bias = _bias(graph, node, sizes, readers, sizes[node.input[1]][out_axis])
    if bias is None:
        return None
    groups = attributes["group"].i if "group" in attributes else 1
    name = node.name or node.output[0]
    return Layer(
        position, node.op_type, name, node.input[0], node.output[0], node.input[1], bias, add, out_axis, groups
    )


def _is_plain(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto], shape: tuple[int, ...]) -> bool:
    """Whether a layer is one weight matrix, or kernel, times the data."""
    if node.op_type == "MatMul":
        return len(shape) == 2
    plain = all(attributes[each].f == 1.0 for each in ("alpha", "beta") if each in attributes)
    return plain and not ("transA" in attributes and attributes["transA"].i)


def _bias(
    graph: onnx.ModelProto,
    node: onnx.NodeProto,
    sizes: Mapping[str, tuple[int, ...]],
    readers: Mapping[str, list[int]],
    channels: int,
) -> tuple[int, str | None]:
    """Position of the Add and name of the bias; no name where it is computed."""
    if node.op_type != "MatMul":
        name = node.input[2] if len(node.input) > 2 else ""
        return -1, name if not name or sizes.get(name) == (channels,) else None
    after = readers[node.output[0]]
    if len(after) == 1 and after[0] >= 0 and graph.graph.node[after[0]].op_type == "Add":
        others = [each for each in graph.graph.node[after[0]].input if sizes.get(each) == (channels,)]
        if others:
            return after[0], others[0]
    return -1, ""
