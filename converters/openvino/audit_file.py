"""The audit of a graph that is no bundle: an OpenVINO IR or an ONNX file, compiled in a sandbox."""

from __future__ import annotations

import glob
import tempfile
from pathlib import Path

from vitedge.audit import Audit
from vitedge.errors import UsageError
from vitedge.extras import require
from vitedge.records import decode
from vitedge.runtime.engines.open import check_threads
from vitedge.safety.limits import GRAPH_COPIES, SANDBOX_MEMORY
from vitedge.safety.sandbox import SandboxLimits, run_sandboxed

GRAPH_SUFFIXES = (".xml", ".onnx")
WORKER = "vitedge.converters.openvino.audit_worker"


def audit_file(path: Path, *, threads: int | None = None) -> Audit:
    """Compile a graph with OpenVINO as this machine would run it in int8, and find its layers.

    The graph may come from anybody: a child without network, which can read this file and those whose names begin with
    its name, compiles it within limits of time and memory.

    Args:
        path: ``model.xml`` with ``model.bin`` beside it, or ``model.onnx``.
        threads: number of CPU threads; by default OpenVINO decides.

    Raises:
        UsageError: it is no file of these kinds, or ``threads`` is not 1…1024.
        MissingExtraError: OpenVINO is not installed.
        EngineError: OpenVINO cannot read, compile or run the graph.
        CheckpointError: the child reached a limit, or ended without a result.
    """
    if path.suffix.lower() not in GRAPH_SUFFIXES or not path.is_file():
        raise UsageError(f"{path} is no graph", expected=f"a file that ends in {' or '.join(GRAPH_SUFFIXES)}")
    check_threads(threads)
    require("openvino", extra="openvino", purpose="the audit of a graph")
    files = list(path.parent.glob(f"{glob.escape(path.stem)}.*"))
    size = sum(each.stat().st_size for each in files)
    limits = SandboxLimits(memory_bytes=SANDBOX_MEMORY + GRAPH_COPIES * size)
    with tempfile.TemporaryDirectory(prefix="vitedge-audit-") as scratch:
        request = {"path": str(path.absolute()), "name": str(path), "threads": threads}
        told = run_sandboxed(WORKER, request, Path(scratch), limits, readable=files, subject=str(path))
    return decode(Audit, told, where=f"the audit of {path}")
