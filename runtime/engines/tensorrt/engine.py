"""The engine that runs a plan, replayed as one CUDA graph.

frame (pinned) ─▶ copy ─▶ enqueueV3 ─▶ copy ─▶ logits (pinned)
"""

from __future__ import annotations

import ctypes
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.bundle.bundle import INPUT_NAME, OUTPUT_NAME, Bundle
from vitedge.errors import EngineError
from vitedge.runtime.engines.base import EngineInfo, check_contract
from vitedge.runtime.engines.tensorrt.cuda import Cuda, current
from vitedge.runtime.engines.tensorrt.device import Device
from vitedge.runtime.engines.tensorrt.layers import EngineLayer, effective_precision, rest_precision
from vitedge.runtime.engines.tensorrt.plan import Execution, Plan
from vitedge.runtime.system.machine import UNAVAILABLE
from vitedge.runtime.system.owned import Owned

logger = logging.getLogger("vitedge")

LEAST_SCRATCH = 256


class TensorrtEngine(Owned):
    """A plan with its own execution context, CUDA stream and memory.

    ``frame`` is pinned memory, which the GPU reads. It must not be used after ``close``.

    Attributes:
        layers: layers of the plan; empty if TensorRT does not describe them.
        graph_refusal: why inferences are queued one by one instead of replayed as a CUDA graph; empty if they are
            replayed.
    """

    def __init__(self, device: Device, plan: Plan, info: EngineInfo, layers: tuple[EngineLayer, ...]) -> None:
        self.info = info
        self.layers = layers
        self.frame: NDArray[np.uint8] = np.empty((0, 0, 3), dtype=np.uint8)
        self._logits: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self.graph_refusal = ""
        self._cuda: Cuda = device.cuda
        with ExitStack() as resources:
            self._context = device.cuda.retain_context()
            resources.callback(device.cuda.release_context)
            with current(device.cuda, self._context):
                held = ExitStack()
                resources.callback(self._free, held)
                self._reserve(held, plan)
                self._warm_up(held)
            self._resources: ExitStack | None = resources.pop_all()
        self._acquired("the TensorRT engine")

    def run(self) -> NDArray[np.float32]:
        """Classify the contents of ``frame``; return ``(classes,)`` float32 logits, which the caller owns.

        Raises:
            EngineError: CUDA or TensorRT failed, the engine is closed, or this process was forked after it was opened.
        """
        self._check_process()
        if self._resources is None:
            raise EngineError("this TensorRT engine is closed", fix="open the bundle again")
        cuda = self._cuda
        cuda.push(self._context)
        try:
            if self._executable:
                cuda.launch(self._executable, self._stream)
            else:
                self._enqueue()
            cuda.synchronize(self._stream)
        finally:
            cuda.pop()
        return np.array(self._logits)

    def close(self) -> None:
        """Free everything, and the plan unless another engine shares it; a second call does nothing.

        Raises:
            EngineError: this process was forked after the engine was opened.
        """
        self._check_process()
        self._released()
        resources, self._resources = self._resources, None
        self.frame = np.empty((0, 0, 3), dtype=np.uint8)
        self._logits = np.empty(0, dtype=np.float32)
        if resources is not None:
            resources.close()

    def _free(self, held: ExitStack) -> None:
        with current(self._cuda, self._context):
            held.close()

    def _reserve(self, held: ExitStack, plan: Plan) -> None:
        """Reserve what an inference needs; ``held`` frees it in reverse order."""
        cuda = self._cuda
        held.callback(plan.share().release)
        self._stream = cuda.new_stream()
        held.callback(cuda.free_stream, self._stream)
        tensors = plan.tensors()
        frame, logits = tensors[INPUT_NAME], tensors[OUTPUT_NAME]
        self._frame_bytes, self._logits_bytes = frame.nbytes, logits.nbytes
        self._host_frame = _reserved(held, cuda.pin, cuda.unpin, frame.nbytes)
        self._host_logits = _reserved(held, cuda.pin, cuda.unpin, logits.nbytes)
        self._device_frame = _reserved(held, cuda.allocate, cuda.free, frame.nbytes)
        self._device_logits = _reserved(held, cuda.allocate, cuda.free, logits.nbytes)
        scratch_bytes = max(plan.scratch_bytes, LEAST_SCRATCH)
        scratch = _reserved(held, cuda.allocate, cuda.free, scratch_bytes)
        self._execution: Execution = plan.new_execution()
        held.callback(self._execution.close)
        self._execution.bind({INPUT_NAME: self._device_frame, OUTPUT_NAME: self._device_logits}, scratch, scratch_bytes)
        self.frame = _array_at(self._host_frame, frame)[0]
        self.frame[...] = 0
        self._logits = _array_at(self._host_logits, logits)[0]

    def _warm_up(self, held: ExitStack) -> None:
        """Run once, because TensorRT cannot prepare itself during a capture; then capture."""
        self._executable = 0
        self._enqueue()
        self._cuda.synchronize(self._stream)
        try:
            self._execution.check_capturable(self._stream)
            self._executable = self._instantiated()
        except EngineError as error:
            self.graph_refusal = error.problem
            logger.warning("inferences are queued one by one, more slowly than as a CUDA graph: %s", error.problem)
            return
        held.callback(self._cuda.free_executable, self._executable)

    def _instantiated(self) -> int:
        graph = self._captured()
        try:
            return self._cuda.instantiate(graph)
        finally:
            self._cuda.free_graph(graph)

    def _captured(self) -> int:
        """Capture one inference. End the capture on every way out; the stream could not be used otherwise."""
        self._cuda.begin_capture(self._stream)
        try:
            self._enqueue()
        except BaseException:
            self._abandon_capture()
            raise
        return self._cuda.end_capture(self._stream)

    def _abandon_capture(self) -> None:
        try:
            graph = self._cuda.end_capture(self._stream)
        except EngineError:  # the capture was invalidated
            return
        if graph:
            self._cuda.free_graph(graph)

    def _enqueue(self) -> None:
        self._cuda.copy_in(self._device_frame, self._host_frame, self._frame_bytes, self._stream)
        self._execution.enqueue(self._stream)
        self._cuda.copy_out(self._host_logits, self._device_logits, self._logits_bytes, self._stream)


def _reserved(held: ExitStack, allocate: Any, free: Any, size: int) -> int:
    address: int = allocate(size)
    held.callback(free, address)
    return address


def _array_at(address: int, like: NDArray[Any]) -> NDArray[Any]:
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * like.nbytes).from_address(address))
    return memory.view(like.dtype).reshape(like.shape)


def open_plan(
    device: Device, bundle: Bundle, content: bytes, path: Path, *, graph: str, workers: int = 1
) -> list[TensorrtEngine]:
    """Open engines on a plan whose hash was checked.

    Args:
        device: the device that runs it.
        bundle: bundle whose model says what the input and output must be.
        content: the plan.
        path: file that it was read from, for errors.
        graph: name of the graph that it was built from.
        workers: number of engines that share the plan.

    Raises:
        EngineError: TensorRT or CUDA fails, or the plan does not belong to this bundle's model; nothing stays open.
    """
    with ExitStack() as opening:
        context = device.cuda.retain_context()
        opening.callback(device.cuda.release_context)
        opening.enter_context(current(device.cuda, context))
        plan = Plan(device, content, path)
        opening.callback(plan.release)
        _check(bundle, plan)
        layers = plan.layers()
        info = _info(device, layers, graph, workers)
        with ExitStack() as opened:
            engines = []
            for _ in range(workers):
                engines.append(TensorrtEngine(device, plan, info, layers))
                opened.callback(engines[-1].close)
            opened.pop_all()
    return engines


def _check(bundle: Bundle, plan: Plan) -> None:
    tensors = plan.tensors()
    if set(tensors) != {INPUT_NAME, OUTPUT_NAME}:
        raise EngineError(
            f"{plan.path} has the tensors {', '.join(tensors)}",
            expected=f"{INPUT_NAME} and {OUTPUT_NAME}",
            fix="convert the model again",
        )
    check_contract(bundle, plan.path, frame=tensors[INPUT_NAME][0], logits=tensors[OUTPUT_NAME][0])


def _info(device: Device, layers: tuple[EngineLayer, ...], graph: str, workers: int) -> EngineInfo:
    effective = effective_precision(layers) or UNAVAILABLE
    whole = effective not in ("int8", "fp8")
    return EngineInfo(
        name="tensorrt",
        version=device.api.title.removeprefix("TensorRT "),
        device=device.gpu.name,
        effective_precision=effective,
        rest_precision=effective if whole else rest_precision(layers) or UNAVAILABLE,
        workers=workers,
        graph=graph,
    )
