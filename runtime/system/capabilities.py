"""The instructions of the processor that speed up inference, and the precision that suits them."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from vitedge.bundle.targets import Precision

CPUINFO = Path("/proc/cpuinfo")

# Linux's names of the instructions that speed up neural networks, and their common names.
X86_FEATURES: dict[str, str] = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "amx_fp16": "AMX-FP16",
}
ARM_FEATURES: dict[str, str] = {
    "asimd": "NEON",
    "asimdhp": "FP16",
    "asimddp": "DotProd",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
    "sme": "SME",
}
INT8_FEATURES = ("AVX-VNNI", "AVX512-VNNI", "AMX-INT8")
ARM_INT8_FEATURES = ("DotProd", "I8MM")

_ARM_MACHINES = ("aarch64", "arm64", "armv7l", "armv8l")
_X86_MACHINES = ("x86_64", "amd64", "i686")


@dataclass(frozen=True)
class Recommendation:
    """A recommended precision for this processor.

    Attributes:
        precision: the precision to convert to.
        reason: why it is recommended.
    """

    precision: Precision
    reason: str


def cpu_features(cpuinfo: str, machine: str) -> tuple[str, ...] | None:
    """Return the fast instructions in ``/proc/cpuinfo``, by their common names.

    Args:
        cpuinfo: text of ``/proc/cpuinfo``.
        machine: result of ``platform.machine()``.

    Returns:
        The names; None for another kind of processor, or if the text has no list of instructions.
    """
    known = _known_features(machine)
    listed = _listed_features(cpuinfo)
    if known is None or listed is None:
        return None
    return tuple(name for flag, name in known.items() if flag in listed)


def _known_features(machine: str) -> dict[str, str] | None:
    if machine.lower() in _X86_MACHINES:
        return X86_FEATURES
    return ARM_FEATURES if machine.lower() in _ARM_MACHINES else None


def instructions() -> str:
    """Return all instructions of this machine's processors, in the kernel's names and sorted; empty if unknown.

    The name of a processor does not tell them: a virtual machine, an emulator or a boot option may hide some.
    """
    listed = (_listed_features(line) or () for line in _cpuinfo_text().splitlines())
    return " ".join(sorted(set().union(*listed)))


def _listed_features(cpuinfo: str) -> frozenset[str] | None:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return None


def recommend_precision(features: tuple[str, ...] | None, machine: str) -> Recommendation | None:
    """Recommend a precision for the CPU target; None if the processor's features are unknown.

    With VNNI or AMX, OpenVINO computes int8 graphs in integers. On other x86 processors int8 uses 16-bit intermediates,
    which can saturate (NNCF, "OverflowFix"). On Arm it computes linear layers in integers, exactly, and convolutions in
    f16 or f32 (2026.4, emulated Cortex-A72 and A76).
    """
    if features is None:
        return None
    if machine.lower() in _ARM_MACHINES:
        return _recommend_arm(features)
    integer = [name for name in INT8_FEATURES if name in features]
    if integer:
        return Recommendation("int8", f"8-bit integers multiply fastest here: {', '.join(integer)}")
    return Recommendation("fp32", "no VNNI or AMX: int8 gains little and can saturate; evaluate it against fp32")


def _recommend_arm(features: tuple[str, ...]) -> Recommendation:
    integer = [name for name in ARM_INT8_FEATURES if name in features]
    if integer:
        fastest = f"8-bit integers multiply fastest here: {', '.join(integer)}"
        return Recommendation("int8", f"{fastest}; linear layers gain, convolutions run in floating point")
    return Recommendation(
        "fp16" if "FP16" in features else "fp32",
        "no DotProd or I8MM: int8 runs in integers, but may gain little; measure it against fp32",
    )


def read_features() -> tuple[str, ...] | None:
    """Return the fast instructions of this machine; None if unknown."""
    return cpu_features(_cpuinfo_text(), platform.machine())


def _cpuinfo_text() -> str:
    try:
        return CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
