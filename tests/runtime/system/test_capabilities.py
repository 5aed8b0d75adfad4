from __future__ import annotations

from pathlib import Path

import pytest

from vitedge.runtime.system import capabilities
from vitedge.runtime.system.capabilities import cpu_features, read_features, recommend_precision

ZEN5 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx avx2 avx512f avx_vnni avx512_bf16 avx512_vnni\n"
SAPPHIRE_RAPIDS = "flags : avx2 avx512f avx512_vnni amx_bf16 amx_tile amx_int8\n"
HASWELL = "flags : fpu sse4_2 avx avx2 fma\n"
PI5 = "processor : 0\nBogoMIPS : 108.00\nFeatures : fp asimd evtstrm crc32 fphp asimdhp cpuid asimdrdm asimddp\n"
GRAVITON3 = "Features : fp asimd fphp asimdhp asimddp sve i8mm bf16\n"
WITHOUT_DOT_PRODUCTS = "Features : fp asimd fphp asimdhp\n"
PI4 = "Features : fp asimd evtstrm crc32 cpuid\n"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "expected"),
    [
        (ZEN5, "x86_64", ("AVX2", "AVX-512", "AVX-VNNI", "AVX512-VNNI", "AVX512-BF16")),
        (SAPPHIRE_RAPIDS, "x86_64", ("AVX2", "AVX-512", "AVX512-VNNI", "AMX-INT8", "AMX-BF16")),
        (HASWELL, "x86_64", ("AVX2",)),
        (PI5, "aarch64", ("NEON", "FP16", "DotProd")),
        (PI4, "aarch64", ("NEON",)),
    ],
)
def test_features_by_the_names_that_people_use(cpuinfo: str, machine: str, expected: tuple[str, ...]) -> None:
    assert cpu_features(cpuinfo, machine) == expected


@pytest.mark.parametrize(("cpuinfo", "machine"), [("", "x86_64"), ("model name : x\n", "aarch64"), (ZEN5, "riscv64")])
def test_what_cannot_be_told_is_not_an_empty_list(cpuinfo: str, machine: str) -> None:
    assert cpu_features(cpuinfo, machine) is None
    assert recommend_precision(None, machine) is None


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "precision", "named"),
    [
        (ZEN5, "x86_64", "int8", "AVX512-VNNI"),
        (SAPPHIRE_RAPIDS, "x86_64", "int8", "AMX-INT8"),
        (HASWELL, "x86_64", "fp32", "VNNI"),
        (PI5, "aarch64", "int8", "DotProd"),
        (GRAVITON3, "aarch64", "int8", "DotProd, I8MM"),
        (WITHOUT_DOT_PRODUCTS, "aarch64", "fp16", "no DotProd"),
        (PI4, "aarch64", "fp32", "no DotProd"),
    ],
)
def test_recommendation_and_its_reason(cpuinfo: str, machine: str, precision: str, named: str) -> None:
    recommendation = recommend_precision(cpu_features(cpuinfo, machine), machine)
    assert recommendation is not None
    assert recommendation.precision == precision
    assert named in recommendation.reason


def test_a_system_without_cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(capabilities, "CPUINFO", tmp_path / "absent")
    assert read_features() is None
