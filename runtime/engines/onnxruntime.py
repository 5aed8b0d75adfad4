"""ONNX Runtime on the CPU: the reference for other engines."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME, MODEL_ONNX, OUTPUT_NAME, Bundle, data_of
from vitedge.errors import EngineError
from vitedge.extras import require
from vitedge.onnxruntime_faults import WRONG_OPTIMIZERS
from vitedge.progress import Progress, Silent
from vitedge.runtime.engines.base import EngineInfo, check_contract
from vitedge.runtime.system.machine import UNAVAILABLE, processor_name, threads_for_engine
from vitedge.runtime.system.owned import Owned

PROVIDERS = ["CPUExecutionProvider"]
ERRORS_ONLY = 3

_INT8_PRODUCTS = {
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}
_FLOAT_PRODUCTS = {"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "NhwcFusedConv"}
_FLOATS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class OnnxruntimeEngine(Owned):
    """A session on the bundle's ONNX graph."""

    def __init__(self, session: Any, frame: NDArray[np.uint8], info: EngineInfo) -> None:
        self.info = info
        self.frame = frame
        self._session: Any = session
        self._acquired("the ONNX Runtime engine")

    def run(self) -> NDArray[np.float32]:
        """Classify the contents of ``frame``; return ``(classes,)`` float32 logits, which the caller owns.

        Raises:
            EngineError: ONNX Runtime failed, the engine is closed, or this process was forked after it was opened.
        """
        self._check_process()
        if self._session is None:
            raise EngineError("this ONNX Runtime engine is closed", fix="open the bundle again")
        with _translated("ONNX Runtime failed while it ran the bundle"):
            return _infer(self._session, self.frame)

    def close(self) -> None:
        """Free the session; a second call does nothing.

        Raises:
            EngineError: this process was forked after the engine was opened.
        """
        self._check_process()
        self._released()
        self._session = None
        self.frame = np.empty((0, 0, 3), dtype=np.uint8)


def open_engine(
    bundle: Bundle,
    *,
    threads: int | None = None,
    progress: Progress = Silent(),  # noqa: ARG001, B008
) -> OnnxruntimeEngine:
    """Open a session on the bundle's ``model.onnx``.

    Args:
        bundle: the bundle to run.
        threads: number of CPU threads within an operator; by default ONNX Runtime uses one per physical core, or as
            many as the quota and the affinity of this process allow.
        progress: ignored; a session opens in seconds.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        BundleIntegrityError: the graph is missing or altered, or has data in another file.
        EngineError: ONNX Runtime cannot run the graph, or the graph does not belong to this bundle's model.
    """
    onnxruntime = require("onnxruntime", extra="onnxruntime", purpose="the onnxruntime engine")
    session, frame, logits, events = _open(onnxruntime, bundle, threads, runs=1)
    check_contract(bundle, bundle.file(MODEL_ONNX), frame=frame, logits=logits)
    precision = effective_precision([event["args"] for event in events])
    info = EngineInfo(
        name="onnxruntime",
        version=onnxruntime.__version__,
        device=processor_name(),
        effective_precision=precision,
        rest_precision="fp32" if precision == "int8" else precision,
    )
    return OnnxruntimeEngine(session, frame, info)


def profiled_nodes(bundle: Bundle, *, threads: int | None = None, runs: int) -> list[dict[str, Any]]:
    """Run the bundle's ``model.onnx`` on an empty frame, and return the nodes that ONNX Runtime executed.

    Args:
        bundle: the bundle.
        threads: number of CPU threads, as in ``open_engine``.
        runs: how often it runs.

    Returns:
        An event of ONNX Runtime's profile for each node and run: ``name``, ``dur`` in microseconds, and ``args``. None
        if no temporary file can be written.

    Raises:
        As ``open_engine``.
    """
    onnxruntime = require("onnxruntime", extra="onnxruntime", purpose="the onnxruntime engine")
    return _open(onnxruntime, bundle, threads, runs=runs)[3]


def open_workers(
    bundle: Bundle,  # noqa: ARG001
    *,
    threads: int | None = None,  # noqa: ARG001
    batches: bool = False,  # noqa: ARG001
) -> Sequence[OnnxruntimeEngine]:
    """Return no workers: the reference has one configuration."""
    return ()


def _infer(session: Any, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: frame[np.newaxis]})[0][0]
    return logits


def _open(
    onnxruntime: Any, bundle: Bundle, threads: int | None, *, runs: int
) -> tuple[Any, NDArray[np.uint8], NDArray[np.float32], list[dict[str, Any]]]:
    """Open a session and run it on an empty frame; return it, the frame, its logits and the executed nodes."""
    path = bundle.file(MODEL_ONNX)
    graph, data = bundle.read_graph(MODEL_ONNX), bundle.graph_data(MODEL_ONNX)
    frame = np.zeros((*bundle.manifest.model.preprocessing.input_size, 3), dtype=np.uint8)
    with _translated(f"ONNX Runtime {onnxruntime.__version__} cannot run {path}"):
        options = _options(onnxruntime, threads_for_engine(threads))
        if data is not None:
            options.add_external_initializers_from_files_in_memory([data_of(MODEL_ONNX)], [data], [data.nbytes])
        session, logits, events = _open_profiled(onnxruntime, graph, frame, options, runs)
    return session, frame, logits, events


def _options(onnxruntime: Any, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _open_profiled(
    onnxruntime: Any, graph: bytes, frame: NDArray[np.uint8], options: Any, runs: int
) -> tuple[Any, NDArray[np.float32], list[dict[str, Any]]]:
    """Open a session and return it, its logits and the executed nodes; only a profile names the kernels.

    There are no executed nodes if no temporary file can be written.
    """
    with _temporary_folder() as folder:
        if folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
        session = onnxruntime.InferenceSession(
            graph, options, providers=PROVIDERS, disabled_optimizers=[*WRONG_OPTIMIZERS]
        )
        for _ in range(runs):
            logits = _infer(session, frame)
        events = [] if folder is None else _profile(session)
    return session, logits, events


@contextmanager
def _temporary_folder() -> Iterator[Path | None]:
    """Make a folder that is removed at the end; None where nothing can be written, as in a read-only container."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="vitedge-")
    except OSError:
        yield None
        return
    with folder as name:
        yield Path(name)


def _profile(session: Any) -> list[dict[str, Any]]:
    """Return what was executed; ONNX Runtime reports it in a file alone."""
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event for event in events if event.get("cat") == "Node" and "args" in event]


def effective_precision(executed: list[dict[str, Any]]) -> str:
    """Return the precision of most matrix products and convolutions; on a tie, the more exact.

    Args:
        executed: ``args`` of the node events of an ONNX Runtime profile.
    """
    counted = Counter(precision for each in executed if (precision := product_precision(each)))
    exactness = ("int8", "bf16", "fp16", "fp32")
    return max(counted, key=lambda name: (counted[name], exactness.index(name)), default=UNAVAILABLE)


def product_precision(executed: dict[str, Any]) -> str | None:
    """Return the precision of a matrix product or convolution; None for any other node.

    Args:
        executed: ``args`` of the node's event in an ONNX Runtime profile.
    """
    kind = executed.get("op_name")
    if kind in _INT8_PRODUCTS:
        return "int8"
    if kind not in _FLOAT_PRODUCTS or not executed.get("output_type_shape"):
        return None
    (dtype,) = executed["output_type_shape"][0]
    return _FLOATS.get(dtype)


@contextmanager
def _translated(problem: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises, which has no common base but Exception, into an EngineError."""
    try:
        yield
    except Exception as error:
        raise EngineError(f"{problem}: {error}", fix="vitedge doctor shows what this machine has") from error
