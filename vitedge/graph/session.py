"""ONNX Runtime sessions for everything that runs a graph on the host.

Weights are handed to ONNX Runtime beside the graph and not within it, because a serialized graph holds 2 GB at most.
Q/DQ pairs are computed as written, in floating point: the integer kernels of ONNX Runtime saturate on CPUs without
VNNI, and then differ from machine to machine. The device runtime opens its session by itself
(``vitedge.runtime.engines.onnxruntime``), because it has neither onnx nor onnx_ir.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import ConversionError
from vitedge.extras import require

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

PURPOSE = "running graphs"
INLINE_BYTES = 1024
"""Smaller constants stay in the graph: shapes and axes, which ONNX Runtime reads before it is handed any weights."""

HANDED_TYPES = frozenset({"float16", "float32", "float64", "int8", "uint8", "int32", "int64"})
"""The types that ONNX Runtime takes from numpy; constants of other types stay in the graph."""

Arrays = Mapping[str, NDArray[Any]]


@contextmanager
def conversion_errors(replace: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn whatever ONNX Runtime raises within the context into a ConversionError.

    Args:
        replace: texts to replace in ONNX Runtime's message, such as a path.

    Raises:
        ConversionError: ONNX Runtime cannot run the graph; it says why.
    """
    try:
        yield
    except Exception as error:  # ONNX Runtime's errors have no other base
        said = (str(error).splitlines() or [type(error).__name__])[0]
        for old, new in (replace or {}).items():
            said = said.replace(old, new)
        raise ConversionError(f"ONNX Runtime cannot run the graph: {said}") from error


def open_session(graph: onnx.ModelProto | Path, *, threads: int | None = None, optimize: bool = True) -> Any:
    """Open an ONNX Runtime session on the CPU.

    Args:
        graph: the graph, or its file, which may have its weights in other files.
        threads: within an operator and between operators; ONNX Runtime decides by default.
        optimize: let ONNX Runtime optimize the graph.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        Exception: ONNX Runtime refuses the graph; its errors have no other base (see ``conversion_errors``).
    """
    if isinstance(graph, Path):
        return _opened(str(graph), {}, threads, optimize)
    light, weights = _without_weights(graph)
    return _opened(light.SerializeToString(), weights, threads, optimize)


def open_part(
    model: ir.Model, nodes: Sequence[ir.Node], inputs: Arrays, outputs: Iterable[str], *, threads: int | None = None
) -> Any:
    """Open a session on some nodes of a graph, with the constants that they read.

    Args:
        model: the whole graph.
        nodes: of the graph, in topological order.
        inputs: an example of each computed value that they read, by name.
        outputs: names of values that they produce.
        threads: as in ``open_session``.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        ConversionError: ONNX Runtime refuses the graph.
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    onnx = require("onnx", extra="convert", purpose=PURPOSE)
    import onnx_ir as ir

    from vitedge.graph.values import values_read

    part = onnx.ModelProto(ir_version=model.ir_version)
    part.graph.name = model.graph.name or "part"
    part.opset_import.extend(
        onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()
    )
    part.functions.extend(ir.to_proto(function) for function in model.functions.values())
    part.graph.node.extend(ir.to_proto(node) for node in nodes)
    for name, example in inputs.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(example.dtype)
        part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, example.shape))
    for name in outputs:
        part.graph.output.add(name=name)
    weights = dict[str, NDArray[Any]]()
    for value in dict.fromkeys(value for node in nodes for value in values_read(node)):
        if value.const_value is not None and value.name not in inputs:
            _add_initializer(part.graph, weights, value.const_value, str(value.name))
    with conversion_errors():
        return _opened(part.SerializeToString(), weights, threads, optimize=True)


def _without_weights(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A copy of a graph without its weights, and the weights by name."""
    import onnx_ir as ir

    light = _copy_without(graph, "graph")
    light.graph.CopyFrom(_copy_without(graph.graph, "initializer"))
    weights = dict[str, NDArray[Any]]()
    for tensor in graph.graph.initializer:
        _add_initializer(light.graph, weights, ir.from_proto(tensor), tensor.name)
    return light, weights


def _copy_without(message: Any, field: str) -> Any:
    """A copy of all fields but one: to delete that field from a full copy would copy it first."""
    return type(message)(**{each.name: value for each, value in message.ListFields() if each.name != field})


def _add_initializer(
    graph: onnx.GraphProto, weights: dict[str, NDArray[Any]], tensor: ir.TensorProtocol, name: str
) -> None:
    """Add a small constant to a graph; of a large one, add a reference and put its values into ``weights``."""
    import onnx_ir as ir

    added = graph.initializer.add()
    if tensor.nbytes < INLINE_BYTES or tensor.dtype.numpy().name not in HANDED_TYPES:
        ir.serde.serialize_tensor_into(added, tensor)
    else:
        weights[name] = np.ascontiguousarray(tensor.numpy())
        added.data_type, added.data_location = int(tensor.dtype), added.EXTERNAL
        added.dims.extend(weights[name].shape)
        added.external_data.add(key="location", value="handed over beside the graph")
    added.name = name


def _opened(graph: str | bytes, weights: Arrays, threads: int | None, optimize: bool) -> Any:
    runtime = require("onnxruntime", extra="convert", purpose=PURPOSE)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    handed = [runtime.OrtValue.ortvalue_from_numpy(values) for values in weights.values()]
    options.add_external_initializers(list(weights), handed)
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    session.handed_weights = handed  # ONNX Runtime reads them where they lie
    return session
