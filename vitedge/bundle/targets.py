"""The targets: kinds of hardware that vitedge compiles for, with their facts.

Memory and DLA cores come from NVIDIA's module data sheets. The JetPack table follows NVIDIA's release notes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from vitedge.errors import UsageError, did_you_mean

Precision = Literal["fp32", "fp16", "int8", "fp8"]
PrecisionChoice: TypeAlias = Precision | Literal["auto"]
TargetName = Literal["cpu", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "nvidia-gpu", "rtx"]
"""The targets that vitedge converts for, for type checkers and editors."""
TensorrtModule = Literal["tensorrt", "tensorrt_rtx"]

MINIMUM_TENSORRT = (10, 3)
FP8_COMPUTE_CAPABILITY = "8.9"


@dataclass(frozen=True)
class JetpackRelease:
    """Versions in one JetPack.

    Attributes:
        jetpack: version of JetPack, or a range of versions with the same contents.
        l4t: version of Jetson Linux, as in ``/etc/nv_tegra_release``.
        tensorrt: version of TensorRT.
        cuda: version of CUDA.
        python: version of the system's Python, for which TensorRT's module is built.
    """

    jetpack: str
    l4t: str
    tensorrt: str
    cuda: str
    python: str

    @property
    def supported(self) -> bool:
        """Return whether its TensorRT builds the strongly typed networks that vitedge writes."""
        return tuple(int(part) for part in self.tensorrt.split(".")) >= MINIMUM_TENSORRT


@dataclass(frozen=True)
class TensorrtDevice:
    """Devices on which engines are built by TensorRT, or by TensorRT for RTX.

    Attributes:
        module: the Python module that builds and runs.
        compute_capabilities: compute capabilities of its GPUs, such as ``8.7``; empty for any that TensorRT supports.
        memory_gb: memory sizes on sale, shared by CPU and GPU; empty for GPUs with memory of their own.
        dla_cores: greatest number of deep-learning accelerators.
        releases: JetPacks that run on it, oldest first; empty if it is no Jetson.
    """

    module: TensorrtModule
    compute_capabilities: tuple[str, ...]
    memory_gb: tuple[int, ...]
    dla_cores: int
    releases: tuple[JetpackRelease, ...]


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: name of the target, for ``convert``.
        description: one line for people.
        backend: backend that compiles for it and runs on it.
        precisions: supported precisions.
        notes: advice for the choice of a precision.
        tensorrt: facts for the TensorRT backend; None for other backends.
        refusal: reason why vitedge does not convert for it; empty if it does.
        runs_here: whether the converting machine can run and time it, as the automatic choice of precision needs.
    """

    name: str
    description: str
    backend: str
    precisions: tuple[Precision, ...]
    notes: str
    tensorrt: TensorrtDevice | None = None
    refusal: str = ""
    runs_here: bool = False


JETPACK_5 = JetpackRelease("5.1.2", "35.4", tensorrt="8.5.2", cuda="11.4", python="3.8")
JETPACK_6_0 = JetpackRelease("6.0", "36.3", tensorrt="8.6.2", cuda="12.2", python="3.10")
JETPACK_6 = JetpackRelease("6.1-6.2", "36.4", tensorrt="10.3", cuda="12.6", python="3.10")
JETPACK_7_1 = JetpackRelease("7.1", "38.4", tensorrt="10.13", cuda="13.0", python="3.12")
JETPACK_7_2 = JetpackRelease("7.2", "39.2", tensorrt="10.16.2", cuda="13.2", python="3.12")
ORIN_RELEASES = (JETPACK_5, JETPACK_6_0, JETPACK_6, JETPACK_7_2)


def _orin(name: str, title: str, memory_gb: tuple[int, ...], dla_cores: int) -> Target:
    return Target(
        name=name,
        description=f"Jetson {title}, through TensorRT",
        backend="tensorrt",
        precisions=("fp32", "fp16", "int8"),
        notes="int8 comes with its fp16 twin: the device builds both and keeps the faster; no fp8 in this GPU",
        tensorrt=TensorrtDevice("tensorrt", ("8.7",), memory_gb, dla_cores, ORIN_RELEASES),
    )


TARGETS: tuple[Target, ...] = (
    Target(
        name="cpu",
        description="x86-64 and Arm CPUs, through OpenVINO",
        backend="openvino",
        precisions=("fp32", "fp16", "int8"),
        notes="fp16 runs as bf16 or f16, whichever the CPU computes natively, else as fp32; int8 pays with VNNI or "
        "AMX; on Arm it runs in linear layers, and convolutions in floating point",
        runs_here=True,
    ),
    _orin("jetson-orin-nano", "Orin Nano", memory_gb=(4, 8), dla_cores=0),
    _orin("jetson-orin-nx", "Orin NX", memory_gb=(8, 16), dla_cores=2),
    _orin("jetson-agx-orin", "AGX Orin", memory_gb=(32, 64), dla_cores=2),
    Target(
        name="jetson-thor",
        description="Jetson Thor (T4000, T5000), through TensorRT",
        backend="tensorrt",
        precisions=("fp32", "fp16", "int8", "fp8"),
        notes="int8 and fp8 come with their fp16 twin: the device builds both and keeps the faster",
        tensorrt=TensorrtDevice("tensorrt", ("11.0",), (64, 128), 0, (JETPACK_7_1, JETPACK_7_2)),
    ),
    Target(
        name="jetson-xavier-nx",
        description="Jetson Xavier NX",
        backend="tensorrt",
        precisions=(),
        notes="",
        tensorrt=TensorrtDevice("tensorrt", ("7.2",), (8, 16), 2, (JETPACK_5,)),
        refusal="JetPack 5 is its last: Python 3.8, and a TensorRT (8.5) without strongly typed networks",
    ),
    Target(
        name="nvidia-gpu",
        description="NVIDIA GPUs of PCs and servers, through TensorRT",
        backend="tensorrt",
        precisions=("fp32", "fp16", "int8", "fp8"),
        notes="int8 and fp8 come with their fp16 twin; fp8 needs compute capability 8.9 (Ada) or newer",
        tensorrt=TensorrtDevice("tensorrt", (), (), 0, ()),
    ),
    Target(
        name="rtx",
        description="GeForce RTX and RTX PRO, through TensorRT for RTX",
        backend="tensorrt",
        precisions=("fp32", "fp16", "int8", "fp8"),
        notes="one engine for all of these GPUs, none for Turing; NVIDIA lists int8 for weights alone, fp8 from 8.9 on",
        tensorrt=TensorrtDevice("tensorrt_rtx", ("8.6", "8.9", "12.0"), (), 0, ()),
    ),
)


def target_named(name: str) -> Target:
    """Return the target of a name, even one that vitedge refuses to convert for.

    Raises:
        UsageError: there is no such target; the message suggests close names, or says why a DLA is no target.
    """
    for target in TARGETS:
        if target.name == name:
            return target
    names = [target.name for target in TARGETS if not target.refusal]
    if "dla" in name.lower():
        raise UsageError(
            f"{name!r} asks for a deep-learning accelerator (DLA), which runs no Vision Transformer: the matrix "
            "products, reshapes and transposes of attention fall back to the GPU",
            expected=f"one of {', '.join(names)}",
            fix="name the device alone: the engine then runs on its GPU",
        )
    with_word = [target.name for target in TARGETS if name.lower() in target.name.split("-") and not target.refusal]
    fix = f"did you mean {' or '.join(with_word)}?" if with_word else did_you_mean(name, names)
    raise UsageError(f"unknown target {name!r}", expected=f"one of {', '.join(names)}", fix=fix)
