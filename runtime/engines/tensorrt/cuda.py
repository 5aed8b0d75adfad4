"""The part of the CUDA driver API that an engine needs: a Protocol, and its implementation with ``cuda-bindings``.

Handles and addresses are plain integers; 0 means none. Every call needs the context to be current in the calling
thread, except the functions that retain, release or push it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from vitedge.errors import EngineError
from vitedge.extras import require

GPU = 0
"""Index of the GPU that is used: the first one in ``CUDA_VISIBLE_DEVICES``."""

_FIX = "vitedge doctor shows what this machine has"


@dataclass(frozen=True)
class Gpu:
    """A GPU and its driver.

    Attributes:
        name: name from the driver.
        compute_capability: such as ``8.7``.
        driver: the newest CUDA that the driver supports, such as ``12.6``.
    """

    name: str
    compute_capability: str
    driver: str


class Cuda(Protocol):
    """The calls of CUDA that an engine needs. Each raises EngineError if the driver fails."""

    def gpu(self) -> Gpu:
        """Return the GPU that is used."""

    def retain_context(self) -> int:
        """Retain the primary context, which all CUDA code of the process uses, and return it."""

    def release_context(self) -> None:
        """Release the primary context."""

    def push(self, context: int) -> None:
        """Push a context on this thread's stack, which makes it current."""

    def pop(self) -> None:
        """Pop the current context from this thread's stack."""

    def new_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""

    def free_stream(self, stream: int) -> None:
        """Destroy a stream once its work is done."""

    def pin(self, size: int) -> int:
        """Allocate pinned host memory, which the GPU copies from and to directly."""

    def unpin(self, address: int) -> None:
        """Free pinned host memory."""

    def allocate(self, size: int) -> int:
        """Allocate GPU memory, aligned to 256 bytes."""

    def free(self, address: int) -> None:
        """Free GPU memory."""

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Queue a copy to the GPU, of ``size`` bytes."""

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Queue a copy from the GPU, of ``size`` bytes."""

    def synchronize(self, stream: int) -> None:
        """Wait for all work that was queued on a stream."""

    def begin_capture(self, stream: int) -> None:
        """Start to record this thread's calls on a stream instead of running them."""

    def end_capture(self, stream: int) -> int:
        """Stop recording and return the graph."""

    def instantiate(self, graph: int) -> int:
        """Make an executable of a graph."""

    def free_graph(self, graph: int) -> None:
        """Free a graph."""

    def free_executable(self, executable: int) -> None:
        """Free an executable."""

    def launch(self, executable: int, stream: int) -> None:
        """Queue an executable on a stream."""


@contextmanager
def current(cuda: Cuda, context: int) -> Iterator[None]:
    """Keep a context current in this thread for the length of a ``with`` statement."""
    cuda.push(context)
    try:
        yield
    finally:
        cuda.pop()


def load_cuda(extra: str = "jetson") -> Cuda:
    """Start CUDA's driver.

    Args:
        extra: extra of vitedge that installs ``cuda-bindings``.

    Raises:
        MissingExtraError: the package is not installed.
        EngineError: there is no driver, it is too old, or it finds no GPU.
    """
    require("cuda.bindings", extra=extra, purpose="the tensorrt engine")
    driver = require("cuda.bindings.driver", extra=extra, purpose="the tensorrt engine")
    return DriverCuda(driver)


class DriverCuda:
    """CUDA through ``cuda.bindings.driver``, of version 12.9 or newer, which lets other threads run during a call."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        try:
            self._call("cuInit", 0)
        except EngineError:
            raise
        except (RuntimeError, OSError, ImportError) as error:  # each release raises another
            raise EngineError(
                f"no NVIDIA driver: {' '.join(str(error).split()) or type(error).__name__}",
                expected="libcuda.so, which JetPack or NVIDIA's driver package installs",
                fix="install NVIDIA's driver; in a container, start it with --runtime nvidia or --gpus all",
            ) from error
        if not self._call("cuDeviceGetCount"):
            raise EngineError("NVIDIA's driver finds no GPU", fix=f"unset CUDA_VISIBLE_DEVICES; {_FIX}")
        self._device = self._call("cuDeviceGet", GPU)

    def gpu(self) -> Gpu:  # noqa: D102
        attribute = self._driver.CUdevice_attribute
        major, minor = (
            self._call("cuDeviceGetAttribute", each, self._device)
            for each in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        name = self._call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode(errors="replace").strip()
        version = int(self._call("cuDriverGetVersion"))
        return Gpu(name, f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")

    def retain_context(self) -> int:  # noqa: D102
        return int(self._call("cuDevicePrimaryCtxRetain", self._device))

    def release_context(self) -> None:  # noqa: D102
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def push(self, context: int) -> None:  # noqa: D102
        self._call("cuCtxPushCurrent", context)

    def pop(self) -> None:  # noqa: D102
        self._call("cuCtxPopCurrent")

    def new_stream(self) -> int:  # noqa: D102
        return int(self._call("cuStreamCreate", self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def free_stream(self, stream: int) -> None:  # noqa: D102
        self._call("cuStreamDestroy", stream)

    def pin(self, size: int) -> int:  # noqa: D102
        return int(self._call("cuMemHostAlloc", size, 0))

    def unpin(self, address: int) -> None:  # noqa: D102
        self._call("cuMemFreeHost", address)

    def allocate(self, size: int) -> int:  # noqa: D102
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:  # noqa: D102
        self._call("cuMemFree", address)

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:  # noqa: D102
        self._call("cuMemcpyHtoDAsync", device, host, size, stream)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:  # noqa: D102
        self._call("cuMemcpyDtoHAsync", host, device, size, stream)

    def synchronize(self, stream: int) -> None:  # noqa: D102
        self._call("cuStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:  # noqa: D102
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL  # other threads go on as they were
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:  # noqa: D102
        return int(self._call("cuStreamEndCapture", stream))

    def instantiate(self, graph: int) -> int:  # noqa: D102
        return int(self._call("cuGraphInstantiate", graph, 0))

    def free_graph(self, graph: int) -> None:  # noqa: D102
        self._call("cuGraphDestroy", graph)

    def free_executable(self, executable: int) -> None:  # noqa: D102
        self._call("cuGraphExecDestroy", executable)

    def launch(self, executable: int, stream: int) -> None:  # noqa: D102
        self._call("cuGraphLaunch", executable, stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._driver, name)(*arguments)
        if status:
            raise self._failure(name, status)
        return results[0] if results else None

    def _failure(self, name: str, status: Any) -> EngineError:
        _, text = self._driver.cuGetErrorString(status)
        said = text.decode(errors="replace") if text else "unknown error"
        return EngineError(
            f"CUDA's {name} failed: {said} ({getattr(status, 'name', status)})", fix=_remedy(status.name)
        )


def _remedy(status: str) -> str:
    if "OUT_OF_MEMORY" in status:
        return "close other programs that use the GPU; on a Jetson they share its memory with the CPU"
    if "MISMATCH" in status or "COMPAT" in status or "INSUFFICIENT" in status:
        return "update NVIDIA's driver, or JetPack: it is older than the CUDA that is installed"
    return _FIX
