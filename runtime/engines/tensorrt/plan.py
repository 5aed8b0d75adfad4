"""A plan in the memory of the GPU, shared by the engines that run it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import EngineError
from vitedge.runtime.engines.tensorrt.device import Device
from vitedge.runtime.engines.tensorrt.layers import Layer, parse_inspection
from vitedge.runtime.engines.tensorrt.log_capture import journal, logger_of

_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FLOAT": np.dtype(np.float32)}


class Plan:
    """A deserialized engine. Whoever opens, inspects or closes it has the CUDA context current.

    It stays until each of its users has released it; TensorRT's own objects are held here alone, so that no traceback
    keeps them beyond the context.

    Attributes:
        path: where it was read, for errors.
    """

    def __init__(self, device: Device, content: bytes, path: Path) -> None:
        self.path = path
        self._module = device.module
        self._asks_capturable = device.api.capture_flag is not None
        self._lock = threading.Lock()
        self._users = 1
        with journal(device.module) as heard:
            try:
                self._runtime: Any = device.module.Runtime(logger_of(device.module))
            except TypeError as error:  # the bindings' word for an object that the library does not make
                said = heard.reason or str(error)
                raise EngineError(
                    f"{device.api.title} does not start: {said}", fix="vitedge doctor shows the driver"
                ) from error
            self._engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            self._runtime = None
            raise EngineError(
                f"{device.api.title} cannot load {path}: {heard.reason or 'no reason given'}",
                fix="vitedge build --force builds it anew; vitedge doctor shows TensorRT and the driver",
            )

    def share(self) -> Plan:
        """One more user, who will release it."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """One user less; the last frees the plan."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._engine = None
                self._runtime = None

    def tensors(self) -> dict[str, NDArray[Any]]:
        """An empty array like each input and output, by name, with the batch axis."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        return {name: np.empty(self._shape(name), self._dtype(name)) for name in names}

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self._engine.get_tensor_shape(name))
        if min(shape, default=0) < 0:
            raise EngineError(f"{self.path}: {name} has the open shape {shape}", expected="a static shape")
        return shape

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(f"{self.path}: {name} is {kind}", expected="a uint8 frame and float32 logits")
        return _DTYPES[kind]

    def layers(self) -> tuple[Layer, ...]:
        """What it consists of; none where TensorRT does not say."""
        inspector = self._engine.create_engine_inspector()
        return parse_inspection(inspector.get_engine_information(self._module.LayerInformationFormat.JSON))

    @property
    def scratch_bytes(self) -> int:
        """Memory of the GPU that an execution needs for itself."""
        return int(self._engine.device_memory_size_v2)

    def new_execution(self) -> Execution:
        """A context to run it in, with no memory yet.

        Raises:
            EngineError: TensorRT refuses.
        """
        with journal(self._module) as heard:
            context = self._engine.create_execution_context(
                self._module.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        if context is None:
            raise EngineError(f"{self.path} cannot be run: {heard.reason or 'no reason given'}")
        return Execution(context, asks_capturable=self._asks_capturable)


class Execution:
    """An execution context: one thread's. ``close`` drops it while the CUDA context is current."""

    def __init__(self, context: Any, *, asks_capturable: bool) -> None:
        self._context = context
        self._asks_capturable = asks_capturable

    def bind(self, addresses: dict[str, int], scratch: int, scratch_bytes: int) -> None:
        """Set where its tensors and its scratch memory lie on the GPU.

        Raises:
            EngineError: TensorRT refuses.
        """
        self._context.set_device_memory(scratch, scratch_bytes)
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT takes no memory for {name}")

    def enqueue(self, stream: int) -> None:
        """Queue one inference.

        Raises:
            EngineError: TensorRT refuses.
        """
        if not self._context.execute_async_v3(stream):
            raise EngineError(
                "TensorRT could not queue an inference", fix="vitedge doctor shows TensorRT and the driver"
            )

    def check_capturable(self, stream: int) -> None:
        """Refuse what TensorRT says that it cannot be captured into a CUDA graph.

        Raises:
            EngineError: it says so.
        """
        if self._asks_capturable and not self._context.is_stream_capturable(stream):
            raise EngineError("TensorRT cannot capture this plan into a CUDA graph")

    def close(self) -> None:
        """Drop the context; a second call does nothing."""
        self._context = None
