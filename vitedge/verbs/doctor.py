"""``vitedge.doctor``: the packages, processor, GPU and cameras of this machine, and the precision to begin with."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from vitedge.bundle.targets import TensorrtModule
from vitedge.errors import VitedgeError, first_line
from vitedge.extras import require
from vitedge.runtime.engines.tensorrt.cuda import load_cuda
from vitedge.runtime.engines.tensorrt.device import EXTRAS, import_tensorrt
from vitedge.runtime.engines.tensorrt.fingerprint import read_l4t
from vitedge.runtime.engines.tensorrt.versions import api_of
from vitedge.runtime.outputs.video_writer import VIDEO_FORMATS, best_encoder
from vitedge.runtime.sources.gstreamer import process as gst_process
from vitedge.runtime.system.cameras import Camera, list_cameras
from vitedge.runtime.system.capabilities import Recommendation, read_features, recommend_precision
from vitedge.runtime.system.cgroups import cpu_limit
from vitedge.runtime.system.machine import UNAVAILABLE, Memory, machine_state, processor_name, read_memory
from vitedge.version import VERSION

PACKAGES: dict[str, str] = {
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "av": "camera",
    "PIL": "camera",
    "cv2": "window",
    "torch": "convert",
    "timm": "convert",
    "onnx": "convert",
    "onnxscript": "convert",
    "safetensors": "convert",
    "huggingface_hub": "convert",
    "threadpoolctl": "convert",
    "rich": "convert",
    "transformers": "transformers",
    "sklearn": "demo",
    "distributed": "cluster",
    "cryptography": "signing",
    "shtab": "completion",
    "cuda.bindings": "jetson",
    "tensorrt_rtx": "rtx",
}
"""Import name of each optional package, and the extra that brings it."""


@dataclass(frozen=True)
class Package:
    """An optional package.

    Attributes:
        name: import name.
        version: None if it is not installed, ``unavailable`` if it is but does not say.
        install: the command that installs it.
    """

    name: str
    version: str | None
    install: str


@dataclass(frozen=True)
class Processor:
    """The CPU.

    Attributes:
        name: name from the kernel.
        machine: its instruction set.
        usable_cpus: number of processors that this process may use at once: within its affinity and its quota.
        cpus: number of processors of the machine.
        features: fast instructions; None if they cannot be read.
        governors: active frequency governors.
        load_average: load of the last minute.
        quota: processors that the control groups allow, such as 1.5; None without a quota.
    """

    name: str
    machine: str
    usable_cpus: int
    cpus: int | None
    features: tuple[str, ...] | None
    governors: str
    load_average: float | str
    quota: float | None


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO's view of the CPU; ``problem`` says why there is none."""

    devices: tuple[str, ...]
    capabilities: tuple[str, ...]
    problem: str


@dataclass(frozen=True)
class Nvidia:
    """The parts that TensorRT needs. A missing part is empty, and ``problems`` says why.

    Attributes:
        libraries: names and versions of TensorRT and of TensorRT for RTX.
        gpu: name and compute capability.
        driver: the newest CUDA that the driver supports.
        l4t: version of Jetson Linux; None if this is not a Jetson.
        problems: one for each missing part.
    """

    libraries: tuple[str, ...]
    gpu: str
    driver: str
    l4t: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class PyAv:
    """The build of PyAV; ``problem`` says why it is unknown.

    Attributes:
        version: version of PyAV.
        ffmpeg: version of FFmpeg in it.
        h264_encoder: the encoder that writes videos; None if it has none.
        problem: empty if PyAV can be imported.
    """

    version: str
    ffmpeg: str
    h264_encoder: str | None
    problem: str


@dataclass(frozen=True)
class OpenCv:
    """The build of OpenCV; ``problem`` says why it is unknown."""

    gstreamer: str
    ffmpeg: str
    gui: str
    problem: str


@dataclass(frozen=True)
class Diagnosis:
    """The state of a machine, as far as vitedge can read it.

    ``gstreamer`` is the program that reads ``csi://`` and ``gst:`` sources; None if it is not installed.
    """

    vitedge: str
    python: str
    system: str
    numpy: str
    packages: tuple[Package, ...]
    processor: Processor
    memory: Memory
    openvino: OpenVino
    nvidia: Nvidia
    pyav: PyAv
    gstreamer: str | None
    opencv: OpenCv
    cameras: tuple[Camera, ...]
    recommendation: Recommendation | None


def doctor() -> Diagnosis:
    """Read the packages, processor, memory, GPU and cameras of this machine. What cannot be read is "unavailable"."""
    features = read_features()
    return Diagnosis(
        vitedge=VERSION,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        numpy=importlib.metadata.version("numpy"),
        packages=_packages(),
        processor=_processor(features),
        memory=read_memory(),
        openvino=_openvino(),
        nvidia=_nvidia(),
        pyav=_pyav(),
        gstreamer=shutil.which(gst_process.PROGRAM),
        opencv=_opencv(),
        cameras=list_cameras(),
        recommendation=recommend_precision(features, platform.machine()),
    )


def _packages() -> tuple[Package, ...]:
    distributions = importlib.metadata.packages_distributions()
    return tuple(
        Package(
            name=name, version=_version(name, distributions.get(name, [])), install=f'pip install "vitedge[{extra}]"'
        )
        for name, extra in PACKAGES.items()
    )


def _version(name: str, distributions: Sequence[str]) -> str | None:
    if not _is_there(name):
        return None
    if distributions:
        return importlib.metadata.version(distributions[0])
    try:  # a system's own build, such as JetPack's OpenCV, has no distribution
        return str(importlib.import_module(name).__version__)
    except Exception:  # noqa: BLE001  # whatever a package raises that was built for other libraries
        return UNAVAILABLE


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in is missing
        return False


def _processor(features: tuple[str, ...] | None) -> Processor:
    state = machine_state()
    return Processor(
        name=processor_name(),
        machine=platform.machine(),
        usable_cpus=state.cpus,
        cpus=os.cpu_count(),
        features=features,
        governors=state.governors,
        load_average=state.load_average,
        quota=cpu_limit().quota,
    )


def _openvino() -> OpenVino:
    try:
        core = require("openvino", extra="openvino", purpose="asking OpenVINO").Core()
        devices = tuple(core.available_devices)
        capabilities = tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")) if "CPU" in devices else ()
    except (VitedgeError, ImportError, RuntimeError, OSError) as error:
        return OpenVino(devices=(), capabilities=(), problem=first_line(error))
    return OpenVino(devices=devices, capabilities=capabilities, problem="")


def _nvidia() -> Nvidia:
    asked = [_tensorrt(name) for name in EXTRAS]
    gpu = driver = ""
    problems = [problem for _, problem in asked if problem]
    try:
        found = load_cuda().gpu()
        gpu, driver = f"{found.name}, compute capability {found.compute_capability}", found.driver
    except VitedgeError as error:
        problems.append(first_line(error))
    return Nvidia(tuple(title for title, _ in asked if title), gpu, driver, read_l4t(), tuple(problems))


def _tensorrt(name: TensorrtModule) -> tuple[str, str]:
    """Return name and version of a TensorRT library, and the reason if it cannot be used."""
    try:
        return api_of(import_tensorrt(name)).title, ""
    except VitedgeError as error:
        return "", first_line(error)


def _pyav() -> PyAv:
    try:
        av = require("av", extra="camera", purpose="asking PyAV")
        return PyAv(str(av.__version__), str(av.ffmpeg_version_info), best_encoder(VIDEO_FORMATS[".mov"]), problem="")
    except (VitedgeError, AttributeError) as error:
        return PyAv(UNAVAILABLE, UNAVAILABLE, None, problem=first_line(error))


def _opencv() -> OpenCv:
    try:
        build = require("cv2", extra="window", purpose="asking OpenCV").getBuildInformation()
    except (VitedgeError, ImportError, AttributeError, OSError) as error:
        return OpenCv(gstreamer=UNAVAILABLE, ffmpeg=UNAVAILABLE, gui=UNAVAILABLE, problem=first_line(error))
    return read_opencv_build(build)


def read_opencv_build(build: str) -> OpenCv:
    """Parse the text of ``cv2.getBuildInformation()``."""
    found = dict(re.findall(r"^\s+(GStreamer|FFMPEG|GUI):\s+(\S.*?)\s*$", build, re.MULTILINE))
    return OpenCv(
        gstreamer=found.get("GStreamer", UNAVAILABLE),
        ffmpeg=found.get("FFMPEG", UNAVAILABLE),
        gui=found.get("GUI", UNAVAILABLE),
        problem="",
    )
