"""The audit of a bundle with the engine that runs it: each library has a reader of its own."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from vitedge.audit import Audit
from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.audit import onnxruntime, openvino, tensorrt
from vitedge.runtime.engines.base import EngineInfo
from vitedge.runtime.engines.tensorrt.open import open_engine


def audit_engine(bundle: Bundle, info: EngineInfo, *, threads: int | None = None) -> Audit | None:
    """Find the layers of a bundle's graph in an engine, with their precisions and kernels.

    OpenVINO and ONNX Runtime compile the graph once more for it, with a profile; TensorRT opens its plan once more.

    Args:
        bundle: the bundle.
        info: of the engine that runs it.
        threads: number of CPU threads, as for the engine.

    Returns:
        The audit; None for an engine without a reader, and for a bundle that does not record the layers of its graph,
        which OpenVINO alone can find without it.

    Raises:
        EngineError: the engine's library cannot compile, open or run the graph once more.
    """
    if info.name == "openvino":
        return openvino.audit(bundle, threads=threads)
    recorded = bundle.manifest.audit
    if recorded is None or not recorded.layers:
        return None
    if info.name == "onnxruntime":
        found = onnxruntime.audit(bundle, recorded.layers, info, threads=threads)
    elif info.name == "tensorrt":
        with closing(open_engine(bundle)) as engine:
            found = tensorrt.audit(engine.layers, recorded.layers, info)
    else:
        return None
    return replace(found, asked=recorded.asked)
