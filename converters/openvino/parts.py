"""Parts of a graph between values through which everything flows; OpenVINO and ONNX Runtime compute each alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray

from vitedge.converters.openvino.reading import read_model
from vitedge.converters.quiet import quiet
from vitedge.graph.session import conversion_errors, open_session
from vitedge.graph.weights import split_weights

Array = NDArray[Any]
DEVICE = "CPU"
FLOATS: Mapping[str, int] = {"bf16": onnx.TensorProto.BFLOAT16, "f16": onnx.TensorProto.FLOAT16}
"""The 16-bit types in which an engine computes, by OpenVINO's names."""
UNROUNDED = ("DequantizeLinear", "QuantizeLinear")
"""Operators whose outputs an engine does not round to 16 bits by themselves: it computes the integers exactly."""

NAMED_WITHIN = 60
"""Nodes within which the weights of a module are looked for, to name a place."""


@dataclass(frozen=True)
class Cut:
    """A value through which everything flows.

    Attributes:
        position: number of nodes before it.
        name: of the value.
    """

    position: int
    name: str


def cuts_of(graph: onnx.ModelProto) -> list[Cut]:
    """Find the values that part a graph in two: the input, the output, and each value that alone is alive.

    Returns:
        Two or more, in the order of the graph. If and Loop bodies make the whole graph one part.
    """
    nodes = graph.graph.node
    first, last = Cut(0, graph.graph.input[0].name), Cut(len(nodes), graph.graph.output[0].name)
    if any(attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute):
        return [first, last]
    last_read = {name: position for position, node in enumerate(nodes) for name in node.input}
    last_read[last.name] = len(nodes)
    alive, found = {first.name}, [first]
    computed = {first.name}
    for position, node in enumerate(nodes):
        if computed.intersection(node.input):
            computed.update(node.output)
            alive.update(node.output)
        alive = {name for name in alive if last_read.get(name, -1) > position}
        if len(alive) == 1 and position + 1 < len(nodes):
            found.append(Cut(position + 1, next(iter(alive))))
    return [*_deduplicated(found), last]


def _deduplicated(cuts: Sequence[Cut]) -> list[Cut]:
    """Keep the last position of each value: nodes that compute constants stand in between."""
    return list({each.name: each for each in cuts}.values())


def part_of(graph: onnx.ModelProto, begin: Cut, end: Cut, example: Array) -> onnx.ModelProto:
    """Copy the nodes between two cuts into a graph of their own.

    Args:
        graph: the whole.
        begin: becomes the input.
        end: becomes the output.
        example: of the input; gives its type and shape.
    """
    part = onnx.ModelProto(ir_version=graph.ir_version, opset_import=graph.opset_import, functions=graph.functions)
    part.graph.name = "part"
    before = [node for node in graph.graph.node[: begin.position] if not node.input]
    part.graph.node.extend([*before, *graph.graph.node[begin.position : end.position]])
    read = {name for node in part.graph.node for name in node.input}
    part.graph.initializer.extend(each for each in graph.graph.initializer if each.name in read)
    kind = onnx.helper.np_dtype_to_tensor_dtype(example.dtype)
    part.graph.input.append(onnx.helper.make_tensor_value_info(begin.name, kind, example.shape))
    part.graph.output.append(onnx.helper.make_tensor_value_info(end.name, onnx.TensorProto.FLOAT, None))
    return part


def values_at(graph: onnx.ModelProto, names: Sequence[str], image: Array) -> dict[str, Array]:
    """Compute values of a graph with ONNX Runtime.

    Args:
        graph: takes ``image``.
        names: of the values; the input may be among them.
        image: the input.

    Raises:
        ConversionError: ONNX Runtime cannot run the graph.
    """
    entry, output = graph.graph.input[0].name, graph.graph.output[0].name
    asked = [name for name in dict.fromkeys(names) if name != entry]
    with conversion_errors():
        session = open_session(graph, also=[name for name in asked if name != output])
        computed = session.run(asked, {entry: image})
    return {entry: image, **dict(zip(asked, computed, strict=True))}


def described(graph: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...] | None]]:
    """Infer type and shape of the values of a graph, by name; no shape where it is not static."""
    inferred = onnx.shape_inference.infer_shapes(split_weights(graph)[0], data_prop=True).graph
    known = (*inferred.input, *inferred.value_info, *inferred.output)
    return {each.name: (each.type.tensor_type.elem_type, _static(each.type.tensor_type)) for each in known}


def _static(tensor: onnx.TypeProto.Tensor) -> tuple[int, ...] | None:
    if not tensor.HasField("shape") or not all(each.HasField("dim_value") for each in tensor.shape.dim):
        return None
    return tuple(each.dim_value for each in tensor.shape.dim)


def rounded(graph: onnx.ModelProto, float_type: str) -> onnx.ModelProto:
    """Round every float32 value of a graph to 16 bits, as an engine does at most: fused operators round less.

    Args:
        graph: float32. It is not changed.
        float_type: ``bf16`` or ``f16``.
    """
    kinds, half = described(graph), FLOATS[float_type]
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    del copy.graph.node[:]
    renamed: dict[str, str] = {}
    for each in [each for each in copy.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]:
        renamed[each.name] = _round(copy.graph, each.name, half)
    outputs = {each.name for each in graph.graph.output}
    for node in graph.graph.node:
        added = copy.graph.node.add()
        added.CopyFrom(node)
        for index, name in enumerate(node.input):
            added.input[index] = renamed.get(name, name)
        for name in node.output:
            float_output = kinds.get(name, (0, None))[0] == onnx.TensorProto.FLOAT
            if float_output and node.op_type not in UNROUNDED and name not in outputs:
                renamed[name] = _round(copy.graph, name, half)
    return copy


def _round(graph: onnx.GraphProto, name: str, half: int) -> str:
    """Add a pair of casts; return the name of the rounded value."""
    graph.node.append(onnx.helper.make_node("Cast", [name], [f"{name}_half"], to=half))
    graph.node.append(onnx.helper.make_node("Cast", [f"{name}_half"], [f"{name}_rounded"], to=onnx.TensorProto.FLOAT))
    return f"{name}_rounded"


def place_of(graph: onnx.ModelProto, value: str) -> str:
    """Name the place of a value by the module whose weights come next, or came last; equal weights may be shared."""
    nodes = graph.graph.node
    reads = Counter(name for node in nodes for name in node.input)
    weights = {each.name for each in graph.graph.initializer if "." in each.name and reads[each.name] == 1}
    position = next((index for index, node in enumerate(nodes) if value in node.output), len(nodes) - 1)
    later, earlier = nodes[position : position + NAMED_WITHIN], nodes[max(0, position - NAMED_WITHIN) : position]
    for word, found in (("before", later), ("behind", reversed(earlier))):
        module = next((name for node in found for name in node.input if name in weights), None)
        if module is not None:
            return f"{word} {module.rpartition('.')[0]}"
    return f"at {value}"


def engine_outputs(graph: onnx.ModelProto, images: Sequence[Array], float_type: str) -> list[Array]:
    """Compile a graph with OpenVINO and run it.

    Args:
        graph: one input, one output.
        images: inputs.
        float_type: ``f32``, ``bf16`` or ``f16``; OpenVINO's name of the type to compute in.

    Raises:
        RuntimeError: OpenVINO cannot compile or run the graph.
    """
    with quiet():
        properties = {"INFERENCE_PRECISION_HINT": float_type, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(read_model(graph), DEVICE, properties)
        return [np.array(compiled([image])[0]) for image in images]
