"""A plan in the memory of the GPU, shared by the engines that run it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitedge.errors import EngineError
from vitedge.runtime.engines.tensorrt.device import Device
from vitedge.runtime.engines.tensorrt.layers import EngineLayer, parse_inspection
from vitedge.runtime.engines.tensorrt.log_capture import capture_log, logger_of

_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FLOAT": np.dtype(np.float32)}


class Plan:
    """A deserialized engine. The CUDA context must be current when it is opened, inspected or closed.

    It lives until its last user releases it. Only this object refers to TensorRT's own objects, so that no traceback
    keeps them alive longer than the context.

    Attributes:
        path: file that it was read from, for errors.
    """

    def __init__(self, device: Device, content: bytes, path: Path) -> None:
        self.path = path
        self._module = device.module
        self._asks_capturable = device.api.capture_flag is not None
        self._lock = threading.Lock()
        self._users = 1
        with capture_log(device.module) as captured:
            try:
                self._runtime: Any = device.module.Runtime(logger_of(device.module))
            except TypeError as error:  # how the bindings report that the library returned no object
                said = captured.reason or str(error)
                raise EngineError(
                    f"{device.api.title} does not start: {said}", fix="vitedge doctor shows the driver"
                ) from error
            self._engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            self._runtime = None
            raise EngineError(
                f"{device.api.title} cannot load {path}: {captured.reason or 'no reason given'}",
                fix="build it again with overwrite=True; vitedge doctor shows TensorRT and the driver",
            )

    def share(self) -> Plan:
        """Add a user, who must call ``release``."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """Remove a user; the last one frees the plan."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._engine = None
                self._runtime = None

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return an empty array like each input and output, by name, with the batch axis."""
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

    def layers(self) -> tuple[EngineLayer, ...]:
        """Return the layers of the engine; empty if TensorRT does not describe them."""
        inspector = self._engine.create_engine_inspector()
        return parse_inspection(inspector.get_engine_information(self._module.LayerInformationFormat.JSON))

    @property
    def scratch_bytes(self) -> int:
        """Return the GPU memory that an execution context needs, in bytes."""
        return int(self._engine.device_memory_size_v2)

    def new_execution(self) -> Execution:
        """Create an execution context, which has no memory yet.

        Raises:
            EngineError: TensorRT refuses.
        """
        with capture_log(self._module) as captured:
            context = self._engine.create_execution_context(
                self._module.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        if context is None:
            raise EngineError(f"{self.path} cannot be run: {captured.reason or 'no reason given'}")
        return Execution(context, asks_capturable=self._asks_capturable)


class Execution:
    """An execution context, for one thread. The CUDA context must be current when it is closed."""

    def __init__(self, context: Any, *, asks_capturable: bool) -> None:
        self._context = context
        self._asks_capturable = asks_capturable

    def bind(self, addresses: dict[str, int], scratch: int, scratch_bytes: int) -> None:
        """Set the GPU addresses of its tensors and of its scratch memory.

        Raises:
            EngineError: TensorRT refuses.
        """
        self._context.set_device_memory(scratch, scratch_bytes)
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT refuses the memory for {name}")

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
        """Check that TensorRT can capture this execution into a CUDA graph.

        Raises:
            EngineError: TensorRT says that it cannot.
        """
        if self._asks_capturable and not self._context.is_stream_capturable(stream):
            raise EngineError("TensorRT cannot capture this plan into a CUDA graph")

    def close(self) -> None:
        """Drop the context; a second call does nothing."""
        self._context = None
