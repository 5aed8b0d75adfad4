"""The TensorRT module, CUDA driver and GPU that run a plan on this device."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from vitedge.bundle.targets import TensorrtModule
from vitedge.errors import EngineError, MissingExtraError
from vitedge.runtime.engines.tensorrt.cuda import Cuda, Gpu, load_cuda
from vitedge.runtime.engines.tensorrt.versions import Api, api_of

EXTRAS: dict[TensorrtModule, str] = {"tensorrt": "jetson", "tensorrt_rtx": "rtx"}


@dataclass(frozen=True)
class Device:
    """TensorRT and a GPU; opened once per engine.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        api: how this version of the module is used.
        cuda: the CUDA driver.
        gpu: the GPU that runs plans.
    """

    module: Any
    api: Api
    cuda: Cuda
    gpu: Gpu


def open_device(name: TensorrtModule) -> Device:
    """Import TensorRT and start CUDA.

    Raises:
        MissingExtraError: a package of vitedge's extras is not installed.
        EngineError: TensorRT or the driver is missing or too old, or there is no GPU.
    """
    module = import_tensorrt(name)
    api = api_of(module)
    cuda = load_cuda(EXTRAS[name])
    return Device(module, api, cuda, cuda.gpu())


def import_tensorrt(name: TensorrtModule) -> Any:
    """Import ``tensorrt``, which JetPack or NVIDIA's packages bring, or ``tensorrt_rtx``, which an extra brings.

    Raises:
        MissingExtraError: ``tensorrt_rtx`` is not installed.
        EngineError: ``tensorrt`` is not installed, or the libraries of either do not load.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name == "tensorrt_rtx":
            raise MissingExtraError(name, extra=EXTRAS[name], purpose="the target rtx") from error
        raise EngineError(
            "the tensorrt engine needs the Python module tensorrt, which is not installed",
            expected="on a Jetson, JetPack's own: sudo apt-get install python3-libnvinfer",
            fix="python3 -m venv --system-site-packages lets the environment see it; on a PC: pip install tensorrt",
        ) from error
    except Exception as error:  # whatever its import raises
        raise EngineError(
            f"{name} is installed and does not load: {' '.join(str(error).split()) or type(error).__name__}",
            fix="install the libraries of the same TensorRT as the Python module",
        ) from error
