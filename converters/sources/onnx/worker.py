"""The sandboxed child that inlines, checks, upgrades and runs an untrusted graph; ``models`` is its parent.

The parent uses only graphs that pass here. It folds constants, compiles and runs the same graph again. Here each of
these steps took no more than the size of the file justifies, and only numbers of the graph depend on the image.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass, RemoveInitializersFromInputsPass

from vitedge.bundle.bundle import OUTPUT_NAME
from vitedge.converters.opset import upgraded
from vitedge.converters.sources.onnx.files import GraphFile, load_external_data, read_graph
from vitedge.converters.sources.onnx.graph_check import STANDARD_DOMAINS, nodes_of
from vitedge.converters.sources.onnx.image_dependence import first_dependence
from vitedge.errors import CheckpointError, ConversionError
from vitedge.graph.folding import fold_constants
from vitedge.graph.session import open_session
from vitedge.safety.limits import GIB, GRAPH_GIB_TIMES, GRAPH_NODES_A_TIME, GRAPH_TIMES
from vitedge.safety.sandbox_child import OUT_OF_MEMORY

GRAPH = "graph.onnx"
IMAGE = "image"
BACKEND_DOMAINS = (*STANDARD_DOMAINS, "com.microsoft")
MIN_OPSET = 13
PROBABILITY_TOLERANCE = 1e-4
CONTRACT = "one image, float32 (1,3,H,W) normalized or uint8 (1,H,W,3); one output (1,classes)"


def serve(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Prepare a graph for the parent, and run it once.

    Args:
        request: ``path`` of the file, its ``name`` for errors and its ``sha256``; ``shape`` and ``dtype`` of the image
            in ``IMAGE``; the ``opset`` to which older ones are upgraded.
        folder: contains ``IMAGE``, and receives ``GRAPH``: one static input, one output ``logits``.

    Returns:
        ``shape`` and ``dtype`` of the output, and whether it holds ``probabilities``.

    Raises:
        CheckpointError: the graph is invalid, has an operator that no backend has, does not end with logits, or has
            sizes or branches that depend on the content of the image.
        ConversionError: ONNX Runtime cannot run the graph.
    """
    path, name, opset = Path(request["path"]), request["name"], int(request["opset"])
    file = read_graph(path)
    _limit_time(file)
    if file.sha256 != request["sha256"]:
        raise CheckpointError(f"{name} was changed while it was read", fix="convert it again")
    load_external_data(file.model, path)
    model = _checked(file.model, name)
    del file
    graph = ir.from_proto(model)
    RemoveInitializersFromInputsPass()(graph)
    graph.graph.inputs[0].shape = ir.Shape(request["shape"])
    _name_logits(graph, name)
    model = ir.to_proto(graph)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    del graph
    _check_image_dependence(model, opset, name)
    del model
    logits = _run(folder / GRAPH, np.fromfile(folder / IMAGE, dtype=request["dtype"]).reshape(request["shape"]), name)
    return {"shape": list(logits.shape), "dtype": str(logits.dtype), "probabilities": _are_probabilities(logits)}


def _limit_time(file: GraphFile) -> None:
    """Limit the remaining processor time, by the file's size and the time that importing the libraries took."""
    imported = time.process_time()
    times = GRAPH_TIMES + file.nodes / GRAPH_NODES_A_TIME + GRAPH_GIB_TIMES * file.size / GIB
    limit = int(imported * (1 + times)) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _checked(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Inline functions, and check the graph with ONNX's checker.

    It keeps its opset: its logits as given are the reference of the conversion.
    """
    inlined = onnx.inliner.inline_local_functions(model) if model.functions else model
    _check_operators(inlined, name)
    try:
        onnx.checker.check_model(inlined)
    except Exception as error:  # the checker's errors have no other base
        raise CheckpointError(
            f"{name} is not a valid ONNX file: {_first_line(error)}", fix="export or copy the file again"
        ) from error
    return inlined


def opset_of(model: onnx.ModelProto) -> int | None:
    """Return the opset of ONNX's own operators; None if the graph imports none."""
    return max((each.version for each in model.opset_import if each.domain in STANDARD_DOMAINS), default=None)


def _upgraded(model: onnx.ModelProto, opset: int, name: str) -> onnx.ModelProto:
    try:
        return upgraded(model, opset)
    except Exception as error:  # the converter's errors have no other base
        raise CheckpointError(
            f"{name} has opset {opset_of(model)}, and cannot be upgraded to {opset}: {_first_line(error)}",
            expected=f"opset {MIN_OPSET} or newer",
            fix=f"export the model again with opset_version={opset}",
        ) from error


def _check_operators(model: onnx.ModelProto, name: str) -> None:
    """Refuse operators that neither ONNX nor a backend defines."""
    for node in nodes_of(model.graph):
        known = onnx.defs.has(node.op_type) if node.domain in STANDARD_DOMAINS else node.domain in BACKEND_DOMAINS
        if not known:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise CheckpointError(
                f"no backend has the operator {operator}, layer {node.name or node.output[0]!r} of {name}",
                expected="operators of ONNX, or functions that the file defines",
                fix="write that layer with standard operators, and export again",
            )


def _name_logits(model: ir.Model, name: str) -> None:
    """Name the output; remove a final Softmax, because the classifier computes probabilities itself."""
    outputs = model.graph.outputs
    last = outputs[0].producer()
    if last is not None and last.op_type in ("Softmax", "LogSoftmax") and last.inputs[0] is not None:
        outputs[0] = last.inputs[0]
        model.graph.remove(last)
    elif last is not None and last.op_type in ("Sigmoid", "ArgMax", "TopK"):
        raise CheckpointError(
            f"the output of {name} is {_shown(outputs[0])}, made by {last.op_type}: it has no logits",
            expected=f"logits: {CONTRACT}",
            fix=f"end the graph before it: onnx.utils.extract_model({Path(name).name!r}, 'logits.onnx', "
            f"[{model.graph.inputs[0].name!r}], [{last.inputs[0].name if last.inputs[0] else ''!r}])",
        )
    outputs[0].name = OUTPUT_NAME
    NameFixPass()(model)


def _shown(value: ir.Value) -> str:
    return f"{value.name} {value.dtype} ({','.join(map(str, value.shape or ()))})"


def _run(graph: Path, image: NDArray[Any], name: str) -> NDArray[Any]:
    """Run the graph once, because exporters leave shapes dynamic; on one core, so that its time can be limited."""
    try:
        session = open_session(graph, threads=1)
        (entry,) = session.get_inputs()
        (logits,) = session.run(None, {entry.name: image})
    except Exception as error:  # ONNX Runtime's errors have no other base
        if any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        said = _first_line(error).replace(str(graph), name)
        raise ConversionError(f"ONNX Runtime cannot run the graph: {said}") from error
    return np.asarray(logits)


def _are_probabilities(logits: NDArray[Any]) -> bool:
    if logits.dtype.kind != "f" or not logits.size:
        return False
    return bool(logits.min() >= 0 and abs(float(logits.sum()) - 1) < PROBABILITY_TOLERANCE)


def _check_image_dependence(model: onnx.ModelProto, opset: int, name: str) -> None:
    """Fold constants, as the parent will, and refuse sizes and branches that depend on the image."""
    version = opset_of(model)
    graph = ir.from_proto(model if version is None or version >= opset else _upgraded(model, opset, name))
    fold_constants(graph)
    node = first_dependence(graph.graph)
    if node is not None:
        raise CheckpointError(
            "the content of the image decides the size or the branch of layer "
            f"{node.name or node.outputs[0].name!r} of {name}, a {node.op_type}",
            expected="a graph that computes tensors of the same sizes, on the same branches, for every image",
            fix="export the model in evaluation mode with an example image, by torch.onnx.export",
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
