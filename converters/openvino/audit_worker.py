"""The sandboxed child that compiles a stranger's graph with OpenVINO and audits it; ``audit_file`` is its parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino

from vitedge.errors import EngineError
from vitedge.records import encode
from vitedge.runtime.engines.audit.openvino import audit_model
from vitedge.runtime.engines.openvino import configuration


def serve(request: dict[str, Any], folder: Path) -> Any:  # noqa: ARG001
    """Compile a graph as the engine does with an int8 bundle, and audit it.

    Args:
        request: ``path`` of the graph, its ``name`` for errors, and the number of CPU ``threads`` or None.
        folder: unused.

    Returns:
        The audit, as JSON values.

    Raises:
        EngineError: OpenVINO cannot read, compile or run the graph.
    """
    try:
        core = openvino.Core()
        model = core.read_model(request["path"])
        _fix_batch(model)
        audit = audit_model(openvino, core, model, configuration(core, "int8", "LATENCY", threads=request["threads"]))
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise EngineError(
            f"OpenVINO {openvino.__version__.partition('-')[0]} cannot compile {request['name']}: {lines[-1].strip()}",
            expected="an IR with its .bin beside it, or an ONNX file; its weights may lie in files of the same name",
        ) from error
    return encode(audit)


def _fix_batch(model: Any) -> None:
    """Set an open first dimension of the inputs to 1: many graphs are exported for any batch."""
    shapes = {}
    for each in model.inputs:
        shape = each.get_partial_shape()
        if shape.rank.is_static and len(shape) and shape[0].is_dynamic:
            shape[0] = 1
        shapes[each] = shape
    model.reshape(shapes)
