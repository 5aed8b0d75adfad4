"""CUDA's driver through the real bindings, which find none on a machine without a GPU; and over a recorded one."""

from __future__ import annotations

import sys
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from vitedge.errors import EngineError, MissingExtraError
from vitedge.runtime.engines.tensorrt.cuda import Cuda, DriverCuda, current, load_cuda


class Status(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803
    CUDA_ERROR_LAUNCH_FAILED = 719


class Driver:
    """Answers like ``cuda.bindings.driver``, and remembers the calls."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=8, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=7
    )
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread local")

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers = {
            "cuDeviceGetCount": 1,
            "cuDeviceGet": "device",
            "cuDeviceGetName": b"Orin\0\0\0",
            "cuDriverGetVersion": 12060,
            **answers,
        }

    def cuDeviceGetAttribute(self, attribute: int, device: str) -> tuple[Status, int]:  # noqa: N802
        assert device == "device"
        return Status.CUDA_SUCCESS, attribute

    def cuGetErrorString(self, status: Status) -> tuple[Status, bytes]:  # noqa: N802
        return Status.CUDA_SUCCESS, status.name[len("CUDA_ERROR_") :].lower().encode()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            answer = self.answers.get(name, 41)
            if isinstance(answer, Exception):
                raise answer
            return (answer, 0) if isinstance(answer, Status) else (Status.CUDA_SUCCESS, answer)

        return call


def has_driver() -> bool:
    try:
        load_cuda()
    except EngineError:
        return False
    return True


def test_no_driver_for_real() -> None:
    pytest.importorskip("cuda.bindings")
    if has_driver():
        return
    with pytest.raises(EngineError, match="driver") as caught:
        load_cuda()
    assert caught.value.fix
    assert "\n" not in caught.value.problem


def test_every_call_is_one_of_the_bindings() -> None:
    """Each name that the implementation calls exists in the real module, with as many parameters as it is given."""
    driver = pytest.importorskip("cuda.bindings.driver")
    cuda, calls = exercised()
    assert cuda is not None
    for name, *arguments in calls:
        signature = getattr(driver, name).__doc__.splitlines()[0]
        wanted = [each for each in signature.partition("(")[2].rstrip(")").split(",") if each.strip()]
        assert len(wanted) == len(arguments), signature
    for kind in ("CUdevice_attribute", "CUstream_flags", "CUstreamCaptureMode"):
        for member in vars(getattr(Driver, kind)):
            assert hasattr(getattr(driver, kind), member)


def exercised() -> tuple[DriverCuda, list[tuple[Any, ...]]]:
    driver = Driver()
    cuda = DriverCuda(driver)
    cuda.gpu()
    with current(cuda, cuda.retain_context()):
        stream, host, device = cuda.new_stream(), cuda.pin(4), cuda.allocate(4)
        cuda.copy_in(device, host, 4, stream)
        cuda.copy_out(host, device, 4, stream)
        cuda.begin_capture(stream)
        graph = cuda.end_capture(stream)
        executable = cuda.instantiate(graph)
        cuda.launch(executable, stream)
        cuda.synchronize(stream)
        cuda.free_executable(executable)
        cuda.free_graph(graph)
        cuda.free(device)
        cuda.unpin(host)
        cuda.free_stream(stream)
    cuda.release_context()
    return cuda, driver.calls


def test_the_whole_protocol_is_implemented() -> None:
    _, calls = exercised()
    names = {name for name in vars(Cuda) if not name.startswith("_")}
    assert all(hasattr(DriverCuda, name) for name in names)
    assert len({call[0] for call in calls}) >= len(names)


def test_the_gpu() -> None:
    gpu = DriverCuda(Driver()).gpu()
    assert (gpu.name, gpu.compute_capability, gpu.driver) == ("Orin", "8.7", "12.6")


def test_a_driver_without_a_gpu() -> None:
    with pytest.raises(EngineError, match="finds no GPU"):
        DriverCuda(Driver(cuDeviceGetCount=0))


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (Status.CUDA_ERROR_OUT_OF_MEMORY, "close other programs"),
        (Status.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "update NVIDIA's driver"),
        (Status.CUDA_ERROR_LAUNCH_FAILED, "vitedge doctor"),
    ],
)
def test_what_the_driver_refuses(status: Status, fix: str) -> None:
    with pytest.raises(EngineError, match=status.name) as caught:
        DriverCuda(Driver(cuMemAlloc=status)).allocate(4)
    assert caught.value.fix.startswith(fix)
    assert "cuMemAlloc" in caught.value.problem


def test_a_driver_too_old() -> None:
    with pytest.raises(EngineError, match="MISMATCH") as caught:
        DriverCuda(Driver(cuInit=Status.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH))
    assert "update" in caught.value.fix


def test_a_library_that_cannot_be_opened() -> None:
    with pytest.raises(EngineError, match="no NVIDIA driver: libcuda"):
        DriverCuda(Driver(cuInit=RuntimeError("libcuda.so.1\n not found")))


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingExtraError) as caught:
        load_cuda("rtx")
    assert 'pip install "vitedge[rtx]"' in caught.value.fix


def test_the_context_of_the_thread_is_restored() -> None:
    driver = Driver()
    cuda = DriverCuda(driver)
    with pytest.raises(ZeroDivisionError), current(cuda, 41):
        raise ZeroDivisionError
    assert [call[0] for call in driver.calls[-2:]] == ["cuCtxPushCurrent", "cuCtxPopCurrent"]
