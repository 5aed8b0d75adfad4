"""Graphs as files. A graph beyond 2 GB, which protobuf cannot serialize, has its weights in a second file beside it.

model.onnx         nodes, and constants below 1 KiB
model.onnx.data    weights, one after the other
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir

from vitedge.bundle.bundle import Bundle, data_of
from vitedge.errors import BundleIntegrityError
from vitedge.graph.weights import INLINE_BYTES, copy_without_weights
from vitedge.safety.limits import GRAPH_WHOLE_BYTES

ALIGNMENT = 4096
"""Weights begin at multiples of it, so that engines can map the file."""


def is_beyond_protobuf(graph: onnx.ModelProto) -> bool:
    """Return whether the weights of a graph are too large for protobuf, in which a message has 2 GB at most."""
    size = sum(int(ir.from_proto(tensor).nbytes) for tensor in graph.graph.initializer)
    return size > GRAPH_WHOLE_BYTES


def write_graph(path: Path, graph: onnx.ModelProto) -> None:
    """Write a graph, with its weights in ``path`` + ``.data`` where it is beyond 2 GB; equal graphs give equal files.

    Raises:
        OSError: a file cannot be written.
    """
    if not is_beyond_protobuf(graph):
        path.write_bytes(graph.SerializeToString(deterministic=True))
        return
    light = copy_without_weights(graph)
    data = path.with_name(data_of(path.name))
    with data.open("wb") as stream:
        for tensor in graph.graph.initializer:
            weights = ir.from_proto(tensor)
            if weights.nbytes < INLINE_BYTES:
                light.graph.initializer.append(tensor)
                continue
            stream.write(bytes(-stream.tell() % ALIGNMENT))
            added = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            added.data_location = added.EXTERNAL
            for key, value in (("location", data.name), ("offset", stream.tell()), ("length", weights.nbytes)):
                added.external_data.add(key=key, value=str(value))
            stream.write(weights.tobytes())
    path.write_bytes(light.SerializeToString(deterministic=True))


def with_data(graph: onnx.ModelProto, data: memoryview) -> onnx.ModelProto:
    """Fill in the weights that ``write_graph`` left outside a graph, and return it.

    Args:
        graph: is changed.
        data: contents of the second file.

    Raises:
        ValueError: the data is too short.
    """
    for tensor in graph.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            entries = {each.key: each.value for each in tensor.external_data}
            offset, length = int(entries.get("offset", 0)), int(entries["length"])
            if offset + length > len(data):
                raise ValueError(f"the weights {tensor.name!r:.200} are cut off")
            tensor.raw_data = bytes(data[offset : offset + length])
            tensor.ClearField("external_data")
            tensor.data_location = tensor.DEFAULT
    return graph


def bundle_graph(bundle: Bundle, name: str) -> onnx.ModelProto:
    """Read a graph of a bundle, with its weights.

    Raises:
        BundleError: the bundle has no such file.
        BundleIntegrityError: a file is missing, altered or too large, or the graph cannot be read.
    """
    content, data = bundle.read_graph(name), bundle.graph_data(name)
    try:
        graph: onnx.ModelProto = onnx.ModelProto.FromString(content)
        return graph if data is None else with_data(graph, data.data)
    except Exception as error:  # protobuf's errors have no other base
        raise BundleIntegrityError(
            f"{bundle.file(name)} is no ONNX graph: {error}", fix="convert the model again"
        ) from error


def without_weights(
    graph: onnx.ModelProto, change: Callable[[onnx.ModelProto], onnx.ModelProto | None]
) -> onnx.ModelProto:
    """Apply a function of onnx that serializes the graph. Beyond 2 GB it gets the weights as inputs, without values.

    Args:
        graph: is not changed.
        change: returns a changed graph, or None if it only looks.

    Returns:
        The graph that ``change`` returned, with the weights; ``graph`` itself if it returned None.
    """
    if not is_beyond_protobuf(graph):
        return change(graph) or graph
    light, large = copy_without_weights(graph), list[onnx.TensorProto]()
    inputs = {each.name for each in graph.graph.input}
    for tensor in graph.graph.initializer:
        if ir.from_proto(tensor).nbytes < INLINE_BYTES:
            light.graph.initializer.append(tensor)
            continue
        large.append(tensor)
        if tensor.name not in inputs:
            declared = light.graph.input.add(name=tensor.name)
            declared.type.tensor_type.elem_type = tensor.data_type
            for size in tensor.dims:
                declared.type.tensor_type.shape.dim.add(dim_value=size)
    changed = change(light)
    if changed is None:
        return graph
    names = {tensor.name for tensor in large} - inputs
    kept = [each for each in changed.graph.input if each.name not in names]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    changed.graph.initializer.extend(large)
    return changed
