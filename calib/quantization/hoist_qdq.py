"""Quantizers right behind the operator that computes, before the Reshapes and Transposes that lead to the reader.

A quantizer of a whole tensor does the same to every value, wherever the value lies: it may change places with any
operator that only moves values, bit for bit. Behind a layer the engine computes it along with the layer, and moves a
quarter of the bytes; before a convolution that reads tokens laid out as a map it would stand alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

MOVES = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def hoist_quantizers(graph: onnx.ModelProto) -> int:
    """Move pairs of QuantizeLinear and DequantizeLinear before the operators that move what they read.

    Args:
        graph: with Q/DQ, in topological order; changed in place. Its results stay, bit for bit.

    Returns:
        How many pairs were moved.
    """
    nodes = [_copy(node) for node in graph.graph.node]
    outputs = [output.name for output in graph.graph.output]
    scalars = {tensor.name for tensor in graph.graph.initializer if list(tensor.dims) in ([], [1])}
    quantizers = [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[1] in scalars]
    hoisted = sum(_hoist(nodes, outputs, node) for node in quantizers)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return hoisted


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _hoist(nodes: list[onnx.NodeProto], outputs: list[str], quantize: onnx.NodeProto) -> bool:
    chain = _moves_before(nodes, outputs, quantize)
    partners = [node for node in nodes if quantize.output[0] in node.input]
    if not chain or [node.op_type for node in partners] != ["DequantizeLinear"] or quantize.output[0] in outputs:
        return False
    (dequantize,), first, last = partners, chain[-1], chain[0]
    result = dequantize.output[0]
    quantize.input[0] = first.input[0]
    dequantize.output[0] = first.input[0] = f"{result}_unmoved"
    last.output[0] = result
    for node in (quantize, dequantize):
        nodes.remove(node)
        nodes.insert(nodes.index(first), node)
    return True


def _moves_before(nodes: list[onnx.NodeProto], outputs: list[str], quantize: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The operators that only move what the quantizer alone reads, the nearest first."""
    producers = {name: node for node in nodes for name in node.output}
    readers = Counter(outputs)
    readers.update(name for node in nodes for name in node.input)
    chain: list[onnx.NodeProto] = []
    name = quantize.input[0]
    while name in producers and producers[name].op_type in MOVES and readers[name] == 1:
        chain.append(producers[name])
        name = producers[name].input[0]
    return chain
