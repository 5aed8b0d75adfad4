"""What needs an NVIDIA GPU: ``pytest -m gpu tests/gpu``. Without one, each test is skipped and says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vitedge.bundle.bundle import Bundle
from vitedge.errors import VitedgeError
from vitedge.runtime.engines.tensorrt.device import Device, open_device

if TYPE_CHECKING:
    import onnx

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs a GPU."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> Device:
    """TensorRT, or TensorRT for RTX, and a GPU."""
    problems = []
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return open_device(name)
        except VitedgeError as error:  # noqa: PERF203
            problems.append(f"{name}: {error.problem}")
    pytest.skip("; ".join(problems))


@pytest.fixture(scope="session")
def make_gpu_bundle(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """``make_gpu_bundle(model, twin=None)``: a bundle of ONNX graphs for the device."""
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    from tensorrt_bundles import with_graph

    target = "rtx" if device.module.__name__ == "tensorrt_rtx" else "nvidia-gpu"

    def make(model: onnx.ModelProto, twin: onnx.ModelProto | None = None, **changes: object) -> Bundle:
        folder = tmp_path_factory.mktemp("gpu") / "some.bundle"
        return with_graph(folder, model, twin, target=target, **changes)  # type: ignore[arg-type]

    return make
