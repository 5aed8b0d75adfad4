"""The command of NVIDIA's tools that builds what vitedge build builds."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from vitedge.bundle.targets import target_named
from vitedge.runtime.engines.tensorrt.build.trtexec import build_command


def words(target: str, graph: str = "b/model.onnx") -> list[str]:
    return shlex.split(build_command(target_named(target), Path(graph), Path("b.plan")))


@pytest.mark.parametrize(
    ("target", "tool"),
    [
        ("jetson-orin-nano", "/usr/src/tensorrt/bin/trtexec"),
        ("jetson-thor", "/usr/src/tensorrt/bin/trtexec"),
        ("nvidia-gpu", "trtexec"),
    ],
)
def test_tensorrt(target: str, tool: str) -> None:
    assert words(target) == [
        tool,
        "--onnx=b/model.onnx",
        "--saveEngine=b.plan",
        "--stronglyTyped",
        "--noTF32",
        "--skipInference",
    ]


def test_tensorrt_for_rtx_is_always_strongly_typed() -> None:
    assert words("rtx") == ["tensorrt_rtx", "--onnx=b/model.onnx", "--saveEngine=b.plan"]


def test_names_with_spaces_stay_one_word() -> None:
    assert words("nvidia-gpu", "my bundle/model.onnx")[1] == "--onnx=my bundle/model.onnx"
