"""OpenVINO on the CPU: one infer request for the lowest latency, or several for throughput.

Requests for throughput also take several frames at once, if that was proved to give the same logits in less time.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import OPENVINO_BIN, OPENVINO_XML, Bundle
from vitedge.bundle.targets import Precision
from vitedge.errors import EngineError
from vitedge.extras import require
from vitedge.progress import Progress, Silent
from vitedge.runtime.engines.base import EngineInfo, check_contract
from vitedge.runtime.engines.ir_check import check_ir
from vitedge.runtime.engines.openvino_batch import compile_batch
from vitedge.runtime.system import cache
from vitedge.runtime.system.machine import threads_for_engine, usable_cpus
from vitedge.runtime.system.owned import Owned, close_all
from vitedge.safety.limits import IR_BYTES, MODEL_ACTIVATION

Hint: TypeAlias = Literal["LATENCY", "THROUGHPUT"]

DEVICE = "CPU"
CACHE_KIND = "graph-sizes"
CACHED_GRAPHS = 1_000

_PRECISIONS = {"u8": "int8", "i8": "int8", "bf16": "bf16", "f16": "fp16", "f32": "fp32"}
_NATIVE_16_BIT = ("bf16", "f16")
_FLOATS = (*_NATIVE_16_BIT, "f32")
_WEIGHT_LAYERS = ("FullyConnected", "Convolution")
_PRODUCT_LAYERS = (*_WEIGHT_LAYERS, "MatMul")


class OpenvinoEngine(Owned):
    """An infer request of an IR that is compiled for this CPU.

    ``frame`` is the memory that the compiled graph reads, so a frame in it is not copied again. ``run`` starts the
    request and waits, so that only OpenVINO's own threads compute. On an idle machine that is as fast as ``infer``,
    which also computes in the calling thread, and a fifth faster where other processes compete.
    """

    def __init__(self, request: Any, info: EngineInfo) -> None:
        self.info = info
        self.frame: NDArray[np.uint8] = request.get_input_tensor().data[0]
        self._logits: NDArray[np.float32] = request.get_output_tensor().data[0]
        self._request: Any = request
        self._acquired("the OpenVINO engine")

    def run(self) -> NDArray[np.float32]:
        """Classify the contents of ``frame``; return ``(classes,)`` float32 logits, which the caller owns.

        Raises:
            EngineError: OpenVINO failed, the engine is closed, or this process was forked after it was opened.
        """
        self._infer()
        return np.array(self._logits)

    def _infer(self) -> None:
        self._check_process()
        if self._request is None:
            raise EngineError("this OpenVINO engine is closed", fix="open the bundle again")
        try:
            self._request.start_async()
            self._request.wait()
        except RuntimeError as error:
            raise failed("OpenVINO failed while it ran the bundle", error) from error

    def close(self) -> None:
        """Free the compiled graph and its memory; a second call does nothing.

        Raises:
            EngineError: this process was forked after the engine was opened.
        """
        self._check_process()
        self._released()
        self._request = None
        self.frame = np.empty((0, 0, 3), dtype=np.uint8)
        self._logits = np.empty(0, dtype=np.float32)


class OpenvinoWorker(OpenvinoEngine):
    """An infer request of several frames, for a thread of its own.

    ``frames`` is the memory that the graph reads, ``B×H×W×3`` uint8. ``frame`` is the first of them: ``run`` takes as
    long for it as for all.
    """

    def __init__(self, request: Any, info: EngineInfo) -> None:
        self.frames: NDArray[np.uint8] = request.get_input_tensor().data
        self._batch_logits: NDArray[np.float32] = request.get_output_tensor().data
        super().__init__(request, info)

    def run_batch(self) -> NDArray[np.float32]:
        """Classify the contents of ``frames``; return ``(B, classes)`` float32 logits, which the caller owns.

        Raises:
            EngineError: as for ``run``.
        """
        self._infer()
        return np.array(self._batch_logits)

    def close(self) -> None:
        """Free the request; a second call does nothing.

        Raises:
            EngineError: this process was forked after the engine was opened.
        """
        super().close()
        self.frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self._batch_logits = np.empty((0, 0), dtype=np.float32)


def open_engine(
    bundle: Bundle,
    *,
    threads: int | None = None,
    progress: Progress = Silent(),  # noqa: ARG001, B008
) -> OpenvinoEngine:
    """Compile the bundle's IR for the CPU of this machine, for the lowest latency.

    Args:
        bundle: the bundle to run.
        threads: number of CPU threads; by default OpenVINO uses one per physical core, or as many as the quota and the
            affinity of this process allow.
        progress: ignored; the IR compiles in seconds.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        BundleIntegrityError: the IR or its weights are missing or altered.
        EngineError: OpenVINO cannot compile the IR, or the IR does not belong to this bundle's model.
    """
    (engine,) = _open(bundle, "LATENCY", threads)
    return engine


def open_workers(bundle: Bundle, *, threads: int | None = None, batches: bool = False) -> Sequence[OpenvinoEngine]:
    """Compile the bundle's IR for throughput: engines that share the compiled graph.

    They are as many as OpenVINO finds best, and one more.

    Args:
        bundle: as for ``open_engine``.
        threads: as for ``open_engine``.
        batches: whether to compile the IR for several frames at once instead, if that gives the logits of the golden
            frames bit for bit, in less time.

    Returns:
        Two or more engines, ``OpenvinoWorker`` if they take several frames; none if there is only one thread.

    Raises:
        Exception: one of ``open_engine``.
    """
    if (threads or usable_cpus()) == 1:
        return ()
    workers = _open(bundle, "THROUGHPUT", threads, batches=batches)
    return workers if len(workers) > 1 else ()


def open_model(model: Any, precision: Precision) -> OpenvinoEngine:
    """Compile an ``openvino.Model`` for the CPU of this machine as a bundle of a precision is compiled.

    Args:
        model: one uint8 ``frame`` in, ``logits`` out.
        precision: of the bundle.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        EngineError: OpenVINO cannot compile the model.
    """
    openvino = require("openvino", extra="openvino", purpose="the openvino engine")
    try:
        core = openvino.Core()
        compiled = core.compile_model(model, DEVICE, configuration(core, precision, "LATENCY", threads=None))
        return _engine(compiled, _info(openvino, core, compiled, workers=1))
    except RuntimeError as error:
        raise failed(f"OpenVINO {openvino.__version__} cannot compile {precision}", error) from error


def _open(bundle: Bundle, hint: Hint, threads: int | None, *, batches: bool = False) -> list[OpenvinoEngine]:
    openvino = require("openvino", extra="openvino", purpose="the openvino engine")
    path = bundle.file(OPENVINO_XML)
    try:
        core = openvino.Core()
        model = read_model(openvino, core, bundle)
        properties = configuration(core, bundle.manifest.precision.asked, hint, threads)
        compiled = core.compile_model(model, DEVICE, properties)
        workers = _requests_for_throughput(compiled) if hint == "THROUGHPUT" else 1
        if batches and workers > 1:  # only one of both graphs is kept, because each takes as much memory as an engine
            compiled = compile_batch(core, model, compiled, properties, bundle.golden().frames) or compiled
        del model
        info = _info(openvino, core, compiled, workers)
        engines = [_engine(compiled, info) for _ in range(workers)]
    except (RuntimeError, ValueError) as error:
        raise failed(f"OpenVINO {openvino.__version__} cannot run {path}", error) from error
    try:
        check_contract(bundle, path, frame=engines[0].frame, logits=engines[0]._logits)
    except BaseException:
        close_all(engine.close for engine in engines)
        raise
    return engines


def _requests_for_throughput(compiled: Any) -> int:
    """Return the number of infer requests: one more than run at once, which is filled meanwhile; 1 if one runs."""
    running: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    return running + 1 if running > 1 else 1


def _engine(compiled: Any, info: EngineInfo) -> OpenvinoEngine:
    request = compiled.create_infer_request()
    takes_several = len(request.get_input_tensor().data) > 1
    return OpenvinoWorker(request, info) if takes_several else OpenvinoEngine(request, info)


def values_within(bundle: Bundle, names: Sequence[str], frame: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Compile the bundle's IR with more outputs, and run it once.

    An output keeps an operator from being fused with the next one, and OpenVINO has no kernel for some that stand
    alone: ``object is not initialized``, for int8 EfficientNet-B0 on a processor with AMX. Therefore the names are
    halved where the network does not compile.

    Args:
        bundle: the bundle.
        names: values of its graph; a value that the IR does not have is left out, as is one with which it does not
            compile.
        frame: ``(H,W,3)`` uint8.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        BundleIntegrityError: the IR or its weights are missing or altered.
        RuntimeError: OpenVINO cannot run it.
    """
    openvino = require("openvino", extra="openvino", purpose="the openvino engine")
    xml, weights = _read(openvino, bundle)
    core = openvino.Core()
    model = core.read_model(xml, weights)
    known = {name for operator in model.get_ops() for output in operator.outputs() for name in output.get_names()}
    properties = configuration(core, bundle.manifest.precision.asked, "LATENCY", threads=None)

    def compiled_with(wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        more = model.clone()
        more.add_outputs(list(wanted))
        try:
            compiled = core.compile_model(more, DEVICE, properties)
        except RuntimeError:
            middle = len(wanted) // 2
            return {**compiled_with(wanted[:middle]), **compiled_with(wanted[middle:])} if middle else {}
        results = compiled([frame[None]])
        return {name: np.array(results[compiled.output(name)]) for name in wanted}

    return compiled_with([name for name in names if name in known])


def read_model(openvino: Any, core: Any, bundle: Bundle) -> Any:
    """Read the bundle's IR as a model, and check the sizes of its tensors.

    Raises:
        BundleIntegrityError: the IR or its weights are missing or altered.
        RuntimeError: OpenVINO cannot read the IR.
        ValueError: the IR might crash OpenVINO's reader, or a tensor is larger than any in an image classifier.
    """
    xml, weights = _read(openvino, bundle)
    model = core.read_model(xml, weights)  # it shares the weights, and frees them
    _check_sizes(model, bundle, openvino.__version__)
    return model


def _read(openvino: Any, bundle: Bundle) -> tuple[str, Any]:
    """Read the IR, and its weights into memory of OpenVINO, so that the bytes that are hashed are compiled.

    Raises:
        BundleIntegrityError: a file is missing, truncated or altered.
        ValueError: the IR is not in the form that OpenVINO writes, and might crash its reader.
    """
    weights: list[Any] = []

    def allocate(size: int) -> NDArray[np.uint8]:
        weights.append(openvino.Tensor(openvino.Type.u8, [size]))
        memory: NDArray[np.uint8] = weights[0].data
        return memory

    xml = bundle.read(OPENVINO_XML, limit=IR_BYTES).decode("utf-8")
    check_ir(xml)
    bundle.read_into(OPENVINO_BIN, allocate)
    return xml, weights[0]


def _check_sizes(model: Any, bundle: Bundle, version: str) -> None:
    """Check the sizes of all tensors before OpenVINO allocates them; once per machine.

    Raises:
        ValueError: a tensor is larger than any in an image classifier, or its size depends on the frame.
    """
    files = bundle.manifest.files
    hashes = f"{files[OPENVINO_XML].sha256} {files[OPENVINO_BIN].sha256} {version}"
    key = hashlib.sha256(hashes.encode()).hexdigest()
    if cache.get(CACHE_KIND, key) is not None:
        return
    largest = max(MODEL_ACTIVATION, files[OPENVINO_BIN].bytes)
    for operator in model.get_ops():
        for shape in (output.get_partial_shape() for output in operator.outputs()):
            if shape.is_dynamic or math.prod(shape.to_shape()) > largest:
                raise ValueError(
                    f"its layer of type {operator.get_type_name()} makes a tensor of the shape {shape}; a tensor of a "
                    f"fixed size of at most {largest} numbers was expected"
                )
    cache.put(CACHE_KIND, key, {"largest": largest}, most=CACHED_GRAPHS)


def configuration(core: Any, precision: str, hint: Hint, threads: int | None) -> dict[str, Any]:
    """Return the properties to compile with; fp32 bundles compute in f32, others in the CPU's native 16-bit type.

    A given number of threads means that other engines run as well. Pinned threads of all of them would share cores. So
    would the threads of several containers with a quota.
    """
    threads = threads_for_engine(threads)
    rest = "f32" if precision == "fp32" else native_float(core)
    configuration: dict[str, Any] = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": rest}
    if threads is not None:
        configuration |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    return configuration


def native_float(core: Any) -> str:
    """Return ``bf16`` or ``f16`` if this CPU computes it natively, else ``f32``.

    The plugin's own default for the precision hint is that type (OpenVINO documentation, CPU device, "Inference
    Precision Hint").
    """
    default: str = core.get_property(DEVICE, "INFERENCE_PRECISION_HINT").get_type_name()
    return default if default in _NATIVE_16_BIT else "f32"


def _info(openvino: Any, core: Any, compiled: Any, workers: int) -> EngineInfo:
    rest = _PRECISIONS[compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
    effective = effective_precision(executed_layers(compiled)) or rest
    return EngineInfo(
        name="openvino",
        version=openvino.__version__.partition("-")[0],
        device=core.get_property(DEVICE, "FULL_DEVICE_NAME").strip(),
        effective_precision=effective,
        rest_precision=rest if effective == "int8" else effective,
        workers=workers,
    )


def executed_layers(compiled: Any) -> Counter[tuple[str, str]]:
    """Count the executed layers of a compiled graph by (kind, precision), in OpenVINO's names."""
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return Counter((fact["layerType"].astype(str), _computed_type(fact)) for fact in facts)


def _computed_type(facts: Any) -> str:
    """Return the type that an operator computes in; OpenVINO's own word for it may be the type of its weights alone."""
    kernel = facts["primitiveType"].astype(str).rpartition("_")[2]
    return kernel if kernel in _FLOATS else str(facts["runtimePrecision"].astype(str))


def effective_precision(layers: Counter[tuple[str, str]]) -> str | None:
    """Return the precision of most layers with weights; on a tie, the higher one; None if there is no product."""
    weighted = any(kind in _WEIGHT_LAYERS for kind, _ in layers)
    counted: Counter[str] = Counter()
    for (kind, precision), count in layers.items():
        if kind in (_WEIGHT_LAYERS if weighted else _PRODUCT_LAYERS) and precision in _PRECISIONS:
            counted[_PRECISIONS[precision]] += count
    exactness = ("int8", "bf16", "fp16", "fp32")
    return max(counted, key=lambda name: (counted[name], exactness.index(name)), default=None)


def failed(problem: str, error: RuntimeError | ValueError) -> EngineError:
    """Make the error for what OpenVINO raised."""
    reason = str(error).strip().splitlines()
    return EngineError(
        f"{problem}: {reason[-1].strip() if reason else 'no reason given'}",
        fix="vitedge doctor shows what this machine has; with another OpenVINO version, convert the model again",
    )
