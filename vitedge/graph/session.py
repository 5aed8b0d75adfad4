"""ONNX Runtime sessions for everything that runs a graph on the host.

Q/DQ pairs are computed as written, in floating point: the integer kernels of ONNX Runtime saturate on CPUs without
VNNI, and then differ from machine to machine. Weights are handed to ONNX Runtime beside the graph, which may exceed
2 GB. The device runtime opens its session by itself (``vitedge.runtime.engines.onnxruntime``), because it has neither
onnx nor onnx_ir.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray

from vitedge.errors import ConversionError
from vitedge.extras import require
from vitedge.graph.values import values_read
from vitedge.graph.weights import Weights, add_initializer, split_weights
from vitedge.onnxruntime_faults import WRONG_OPTIMIZERS
from vitedge.threads import allowed_threads

if TYPE_CHECKING:
    import onnx

PURPOSE = "running graphs"
ORT_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
SAID_LINES = 4
"""As much of a message as tells the fact; ONNX Runtime begins with a code, and names the place in a line of its own."""


@contextmanager
def conversion_errors() -> Iterator[None]:
    """Turn whatever ONNX Runtime raises within the context into a ConversionError.

    Raises:
        ConversionError: ONNX Runtime cannot run the graph; the error says why.
    """
    try:
        yield
    except Exception as error:  # ONNX Runtime's errors have no other base
        lines = ORT_PREFIX.sub("", str(error)).split("\n")[:SAID_LINES]
        said = " ".join(line.strip() for line in lines).strip() or type(error).__name__
        raise ConversionError(f"ONNX Runtime cannot run the graph: {said}") from error


def open_session(
    graph: onnx.ModelProto | Path,
    *,
    also: Iterable[str] = (),
    threads: int | None = None,
    optimize: bool = True,
) -> Any:
    """Open an ONNX Runtime session on the CPU.

    Args:
        graph: the graph, or its file, which may have its weights in other files.
        also: names of values to make outputs, where the graph is not a file.
        threads: within an operator and between operators; by default what the caller of the verb allows, or else ONNX
            Runtime decides.
        optimize: let ONNX Runtime optimize the graph.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        Exception: ONNX Runtime refuses the graph; its errors have no other base (see ``conversion_errors``).
    """
    if isinstance(graph, Path):
        return _opened(str(graph), {}, threads, optimize)
    light, weights = split_weights(graph)
    for name in also:
        light.graph.output.add(name=name)
    return _opened(light.SerializeToString(), weights, threads, optimize)


def open_part(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    inputs: Mapping[str, NDArray[Any]],
    outputs: Iterable[str],
    *,
    threads: int | None = None,
) -> Any:
    """Open a session on some nodes of a graph, with the constants that they read.

    Args:
        model: the whole graph.
        nodes: of the graph, in topological order.
        inputs: an example of each computed value that the nodes read, by name; If and Loop bodies read some, too.
        outputs: names of values that the nodes produce.
        threads: as in ``open_session``.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        ConversionError: ONNX Runtime refuses the graph.
        MissingExtraError: ONNX or ONNX Runtime is not installed.
    """
    onnx = require("onnx", extra="convert", purpose=PURPOSE)
    part = onnx.ModelProto(ir_version=model.ir_version)
    part.graph.name = model.graph.name or "part"
    for domain, version in model.opset_imports.items():
        part.opset_import.add(domain=domain, version=version)
    part.functions.extend(ir.serde.serialize_function(function) for function in model.functions.values())
    part.graph.node.extend(ir.serde.serialize_node(node) for node in nodes)
    for name, example in inputs.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(example.dtype)
        part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, example.shape))
    for name in outputs:
        part.graph.output.add(name=name)
    weights: Weights = {}
    for value in dict.fromkeys(value for node in nodes for value in values_read(node)):
        if value.is_initializer() and value.const_value is not None and value.name not in inputs:
            add_initializer(part.graph, weights, value.const_value, str(value.name))
    with conversion_errors():
        return _opened(part.SerializeToString(), weights, threads, optimize=True)


def _opened(graph: str | bytes, weights: Weights, threads: int | None, optimize: bool) -> Any:
    runtime = require("onnxruntime", extra="convert", purpose=PURPOSE)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the processors
    threads = allowed_threads() if threads is None else threads
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    handed = [runtime.OrtValue.ortvalue_from_numpy(values) for values in weights.values()]
    options.add_external_initializers(list(weights), handed)
    session = runtime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=[*WRONG_OPTIMIZERS]
    )
    session.handed_weights = handed  # ONNX Runtime reads them where they lie
    return session
