"""TensorRT's runtime and CUDA's driver without a GPU: real memory, real copies, strict owners.

The fake driver runs queued work when a stream is synchronized, records what is captured and refuses what the real one
would: a call without a context, memory that is not its own, a capture that is not ended. What is left at the end, and
what was freed after the context, can be asked.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import EngineError
from vitedge.runtime.engines.tensorrt.build_record import BuildCandidate, BuildRecord, InferenceLatency
from vitedge.runtime.engines.tensorrt.cuda import Gpu
from vitedge.runtime.engines.tensorrt.device import Device
from vitedge.runtime.engines.tensorrt.fingerprint import Fingerprint
from vitedge.runtime.engines.tensorrt.layers import AttentionBlock
from vitedge.runtime.engines.tensorrt.versions import api_of

CONTEXT = 7
ORIN = Gpu("Orin", "8.7", "12.6")

Work = Callable[[], None]
Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

FINGERPRINT = Fingerprint(
    module="tensorrt",
    version="10.3.0",
    gpu="Orin",
    compute_capability="8.7",
    system="L4T 36.4.3",
    graphs={"model.onnx": "a" * 64},
    flags=("STRONGLY_TYPED",),
)
RECORD = BuildRecord(
    schema_version=1,
    vitedge_version="0.1.0",
    created_at="2026-01-01T00:00:00+00:00",
    fingerprint=FINGERPRINT,
    kept="model.fp16.onnx",
    plan_sha256="d" * 64,
    plan_bytes=3,
    workspace_bytes=1 << 28,
    candidates=(
        BuildCandidate("model.onnx", 3.5, 4, "int8", None, None, "self-test failed"),
        BuildCandidate("model.fp16.onnx", 2.5, 3, "fp16", 55.5, InferenceLatency(1.5, 1.25, 2.0, 200), ""),
    ),
    attention=(AttentionBlock("mha", ("softmax",), "fp16", fused=True, reason=""),),
)


@dataclass
class Stream:
    queued: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None


class FakeCuda:
    """Implements ``Cuda``.

    Attributes:
        calls: names of the calls, in order.
        fail_at: index into ``calls`` of the call that fails; -1 for none.
        failure: what it raises.
        refusals: names of calls that always fail.
        wrong: what was done that no program may do.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_at = -1
        self.failure: BaseException = EngineError("CUDA failed, as the test wants")
        self.refusals: set[str] = set()
        self.wrong: list[str] = []
        self.shares = 0
        self.memory: dict[int, tuple[str, Any]] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self._numbers = iter(range(100, 1 << 30))
        self._pushed = threading.local()

    @property
    def left(self) -> list[str]:
        """What was not freed."""
        kinds = [kind for kind, _ in self.memory.values()]
        for kind, held in (("stream", self.streams), ("graph", self.graphs), ("executable", self.executables)):
            kinds += [kind] * len(held)
        return kinds + ["context"] * self.shares

    def _stack(self) -> list[int]:
        if not hasattr(self._pushed, "stack"):
            self._pushed.stack = []
        stack: list[int] = self._pushed.stack
        return stack

    def _called(self, name: str, *, anywhere: bool = False, frees: bool = False) -> None:
        """Note a call. One that frees does its work even if it fails, as the driver's do."""
        self.calls.append(name)
        if not anywhere and not self._stack():
            self.wrong.append(f"{name} without a context")
        if not anywhere and not self.shares:
            self.wrong.append(f"{name} after the context was released")
        if not frees and (len(self.calls) - 1 == self.fail_at or name in self.refusals):
            raise self.failure

    def gpu(self) -> Gpu:
        return ORIN

    def retain_context(self) -> int:
        self._called("retain_context", anywhere=True)
        self.shares += 1
        return CONTEXT

    def release_context(self) -> None:
        self._called("release_context", anywhere=True, frees=True)
        self.shares -= 1
        if not self.shares and [kind for kind in self.left if kind != "context"]:
            self.wrong.append(f"the context was released before {self.left}")

    def push(self, context: int) -> None:
        self._called("push", anywhere=True)
        assert context == CONTEXT
        self._stack().append(context)

    def pop(self) -> None:
        self._called("pop", frees=True)
        self._stack().pop()

    def new_stream(self) -> int:
        self._called("new_stream")
        return self._new(self.streams, Stream())

    def free_stream(self, stream: int) -> None:
        self._called("free_stream", frees=True)
        if self.streams[stream].captured is not None:
            self.wrong.append("a stream was freed while it was captured")
        self._gone(self.streams, stream, "stream")

    def pin(self, size: int) -> int:
        self._called("pin")
        return self._allocated("pinned", size)

    def unpin(self, address: int) -> None:
        self._called("unpin", frees=True)
        self._gone(self.memory, address, "pinned memory")

    def allocate(self, size: int) -> int:
        self._called("allocate")
        return self._allocated("device", size)

    def free(self, address: int) -> None:
        self._called("free", frees=True)
        self._gone(self.memory, address, "device memory")

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        self._called("copy_in")
        self._copy(device, host, size, stream)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        self._called("copy_out")
        self._copy(host, device, size, stream)

    def synchronize(self, stream: int) -> None:
        self._called("synchronize")
        queued, self.streams[stream].queued = self.streams[stream].queued, []
        for work in queued:
            work()

    def begin_capture(self, stream: int) -> None:
        self._called("begin_capture")
        self.streams[stream].captured = []

    def end_capture(self, stream: int) -> int:
        captured, self.streams[stream].captured = self.streams[stream].captured, None
        self._called("end_capture")
        assert captured is not None
        return self._new(self.graphs, captured)

    def instantiate(self, graph: int) -> int:
        self._called("instantiate")
        return self._new(self.executables, self.graphs[graph])

    def free_graph(self, graph: int) -> None:
        self._called("free_graph", frees=True)
        self._gone(self.graphs, graph, "graph")

    def free_executable(self, executable: int) -> None:
        self._called("free_executable", frees=True)
        self._gone(self.executables, executable, "executable")

    def launch(self, executable: int, stream: int) -> None:
        self._called("launch")
        self.streams[stream].queued += self.executables[executable]

    def queue(self, stream: int, work: Work) -> None:
        """Queue or record what TensorRT computes."""
        found = self.streams[stream]
        (found.queued if found.captured is None else found.captured).append(work)

    def _copy(self, target: int, source: int, size: int, stream: int) -> None:
        for address in (target, source):
            if len(self.memory[address][1]) < size:
                self.wrong.append("a copy beyond the end")
        self.queue(stream, lambda: ctypes.memmove(target, source, size) and None)

    def _allocated(self, kind: str, size: int) -> int:
        buffer = (ctypes.c_uint8 * size)(*([0xAA] * size))
        address = ctypes.addressof(buffer)
        self.memory[address] = (kind, buffer)
        return address

    def _new(self, kept: dict[int, Any], value: Any) -> int:
        number = next(self._numbers)
        kept[number] = value
        return number

    def _gone(self, kept: dict[int, Any], key: int, kind: str) -> None:
        if kept.pop(key, None) is None:
            self.wrong.append(f"{kind} was freed twice")


class FakeCudaEngine:
    """What a plan becomes."""

    def __init__(self, owner: FakeTensorrt, plan: bytes) -> None:
        self.owner, self.plan = owner, plan
        owner.watch(self, "engine")
        self.num_io_tensors = len(owner.tensors)
        self.device_memory_size_v2 = owner.scratch_bytes

    def get_tensor_name(self, index: int) -> str:
        return list(self.owner.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.owner.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.owner.tensors[name][1])

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: self.owner.inspections.get(self.plan, ""))

    def create_execution_context(self, strategy: Any) -> FakeExecution | None:
        assert strategy == "user managed"
        return None if self.owner.refuses_contexts else FakeExecution(self)


class FakeExecution:
    """Computes ``owner.answers`` of the plan, from and to the addresses that were set."""

    def __init__(self, engine: FakeCudaEngine) -> None:
        self.engine = engine
        engine.owner.watch(self, "execution")
        self.addresses: dict[str, int] = {}
        self.scratch = 0
        self.execute_async_v3 = partial(_execute, engine.owner, weakref.ref(self))

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.scratch = memory

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.engine.owner.takes_memory

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.owner.capturable


def _execute(owner: FakeTensorrt, execution: weakref.ref[FakeExecution], stream: int) -> bool:
    """As a method of C++ does, it keeps no context alive through a traceback."""
    owner.cuda._called("execute_async_v3")
    if not owner.runs:
        return False
    found = execution()
    assert found is not None
    owner.cuda.queue(stream, partial(_compute, owner, found.engine.plan, found.addresses, found.scratch))
    return True


def _compute(owner: FakeTensorrt, plan: bytes, addresses: dict[str, int], scratch: int) -> None:
    assert scratch in owner.cuda.memory
    shape, _ = owner.tensors["frame"]
    frame = np.ctypeslib.as_array(owner.cuda.memory[addresses["frame"]][1]).reshape(shape)
    logits = np.asarray(owner.answers[plan](frame[0]), np.float32)
    ctypes.memmove(addresses["logits"], logits.tobytes(), logits.nbytes)


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class _Logger:
    Severity = Severity


class FakeTensorrt:
    """What an engine uses of the module ``tensorrt``, or ``tensorrt_rtx``.

    Attributes:
        answers: logits of a frame, by plan; any other plan is refused.
        inspections: what the inspector says, by plan.
        alive: kinds of objects that are alive.
        tensors: shape and type of each input and output.
    """

    ILogger = _Logger
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    LayerInformationFormat = SimpleNamespace(JSON="json")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(REQUIRE_USER_ALLOCATION=SimpleNamespace(name="REQUIRE_USER_ALLOCATION"))

    def __init__(self, cuda: FakeCuda, answers: dict[bytes, Answer], *, side: int = 32, rtx: bool = False) -> None:
        self.__name__, self.__version__ = ("tensorrt_rtx", "1.7.1") if rtx else ("tensorrt", "10.3.0")
        self.cuda, self.answers = cuda, answers
        self.inspections: dict[bytes, str] = {}
        self.tensors: dict[str, tuple[tuple[int, ...], str]] = {
            "frame": ((1, side, side, 3), "UINT8"),
            "logits": ((1, 3), "FLOAT"),
        }
        self.alive: list[str] = []
        self.runs = self.capturable = self.takes_memory = True
        self.refuses_contexts = False
        self.scratch_bytes = 1000

    def watch(self, thing: object, kind: str) -> None:
        """Note when it is freed, and whether the context was still there."""
        self.alive.append(kind)
        weakref.finalize(thing, self._freed, kind)

    def _freed(self, kind: str) -> None:
        self.alive.remove(kind)
        if not self.cuda.shares or not self.cuda._stack():
            self.cuda.wrong.append(f"{kind} was freed without the context")

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=partial(_deserialize, self, logger))


def _deserialize(owner: FakeTensorrt, logger: Any, plan: bytes) -> FakeCudaEngine | None:
    owner.cuda._called("deserialize")
    if plan not in owner.answers:
        logger.log(Severity.ERROR, "Error Code 1: Serialization (magic tag does not match)")
        return None
    return FakeCudaEngine(owner, plan)


def fake_device(module: FakeTensorrt) -> Device:
    """A device of that module and its driver."""
    return Device(module, api_of(module), module.cuda, module.cuda.gpu())
