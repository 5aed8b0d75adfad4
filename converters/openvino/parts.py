"""Parts of a graph between values through which everything flows; OpenVINO and ONNX Runtime compute each alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray

from vitedge.converters.openvino.reading import read_model
from vitedge.converters.quiet import quiet
from vitedge.graph.session import conversion_errors, open_session

Array = NDArray[Any]
DEVICE = "CPU"
NAMED_WITHIN = 60
"""Nodes within which the weights of a module are looked for, to name a place."""


@dataclass(frozen=True)
class CutPoint:
    """A value through which everything flows.

    Attributes:
        position: number of nodes before it.
        name: of the value.
    """

    position: int
    name: str


def cuts_of(graph: onnx.ModelProto) -> list[CutPoint]:
    """Find the values that part a graph in two: the input, the output, and each value that alone is alive.

    Returns:
        Two or more, in the order of the graph. If and Loop bodies make the whole graph one part.
    """
    nodes = graph.graph.node
    first, last = CutPoint(0, graph.graph.input[0].name), CutPoint(len(nodes), graph.graph.output[0].name)
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
            found.append(CutPoint(position + 1, next(iter(alive))))
    return [*_deduplicated(found), last]


def _deduplicated(cuts: Sequence[CutPoint]) -> list[CutPoint]:
    """Keep the last position of each value: nodes that compute constants stand in between."""
    return list({each.name: each for each in cuts}.values())


def part_of(graph: onnx.ModelProto, begin: CutPoint, end: CutPoint, example: Array) -> onnx.ModelProto:
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
    if not asked:
        return {entry: image}  # ONNX Runtime gives all outputs where none is named
    with conversion_errors():
        session = open_session(graph, also=[name for name in asked if name != output])
        computed = session.run(asked, {entry: image})
    return {entry: image, **dict(zip(asked, computed, strict=True))}


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
