"""The targets: names, what is known of each, and what unknown names are told."""

from __future__ import annotations

import pytest

from vitedge.bundle.targets import FP8_COMPUTE_CAPABILITY, TARGETS, Target, TensorrtDevice, target_named
from vitedge.errors import UsageError

JETSONS = [target for target in TARGETS if target.name.startswith("jetson")]


def device(target: Target) -> TensorrtDevice:
    assert target.tensorrt is not None
    return target.tensorrt


def test_names_are_unique_and_found() -> None:
    names = [target.name for target in TARGETS]
    assert len(names) == len(set(names))
    assert [target_named(name).name for name in names] == names


def test_the_cpu_needs_no_tensorrt() -> None:
    cpu = target_named("cpu")
    assert (cpu.backend, cpu.tensorrt, cpu.refusal) == ("openvino", None, "")
    assert cpu.precisions == ("fp32", "fp16", "int8")


def test_what_has_a_tensorrt_device_runs_on_tensorrt() -> None:
    assert all((target.backend == "tensorrt") == (target.tensorrt is not None) for target in TARGETS)


def test_only_rtx_is_compiled_by_tensorrt_for_rtx() -> None:
    assert [target.name for target in TARGETS if target.tensorrt and target.tensorrt.module == "tensorrt_rtx"] == [
        "rtx"
    ]


@pytest.mark.parametrize("target", JETSONS, ids=lambda target: target.name)
def test_a_jetson_says_its_memory_its_gpu_and_its_jetpacks(target: Target) -> None:
    known = device(target)
    assert known.compute_capabilities
    assert known.memory_gb
    assert known.releases


@pytest.mark.parametrize("target", JETSONS, ids=lambda target: target.name)
def test_a_jetson_is_refused_exactly_where_no_jetpack_of_it_will_do(target: Target) -> None:
    assert bool(target.refusal) == (not any(release.supported for release in device(target).releases))
    assert bool(target.refusal) == (target.precisions == ())


def test_fp8_only_where_a_gpu_of_the_target_has_it() -> None:
    limit = [int(part) for part in FP8_COMPUTE_CAPABILITY.split(".")]
    for target in TARGETS:
        if target.tensorrt and target.tensorrt.compute_capabilities:
            newest = [[int(part) for part in name.split(".")] for name in target.tensorrt.compute_capabilities][-1]
            assert ("fp8" in target.precisions) == (newest >= limit), target.name


def test_old_jetpacks_are_known_and_not_supported() -> None:
    supported = {release.jetpack: release.supported for release in device(target_named("jetson-orin-nano")).releases}
    assert supported == {"5.1.2": False, "6.0": False, "6.1-6.2": True, "7.2": True}


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(UsageError, match="unknown target 'jetson-orin-nanno'") as caught:
        target_named("jetson-orin-nanno")
    assert "jetson-orin-nano" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("gpu", "did you mean nvidia-gpu?"),
        ("thor", "did you mean jetson-thor?"),
        ("orin", "did you mean jetson-orin-nano or jetson-orin-nx or jetson-agx-orin?"),
    ],
)
def test_a_word_of_a_name_suggests_the_targets_that_have_it(name: str, fix: str) -> None:
    with pytest.raises(UsageError, match="unknown target") as caught:
        target_named(name)
    assert caught.value.fix == fix


@pytest.mark.parametrize("name", ["dla", "jetson-agx-orin-dla", "jetson-orin-nx:DLA0"])
def test_asking_for_a_dla_is_answered_with_the_reason(name: str) -> None:
    with pytest.raises(UsageError, match="runs no Vision Transformer"):
        target_named(name)
