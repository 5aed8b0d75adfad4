"""What a target does not take is refused with the reason, before anything is loaded or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vitedge
from vitedge.errors import UsageError


def refused(tmp_path: Path, **options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        vitedge.convert("test_vit", output=tmp_path / "b", **options)
    assert not list(tmp_path.iterdir())
    return caught.value


@pytest.mark.parametrize("target", ["jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin"])
def test_fp8_on_orin(tmp_path: Path, target: str) -> None:
    error = refused(tmp_path, target=target, precision="fp8", calib="images")
    assert error.problem.startswith(f"target {target} has no fp8: its GPU has compute capability 8.7")
    assert error.expected == "one of fp32, fp16, int8"
    assert "precision='int8' with calib=" in error.fix


def test_fp8_on_the_cpu(tmp_path: Path) -> None:
    assert "does not compute in 8-bit floating point" in refused(tmp_path, target="cpu", precision="fp8").problem


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("target", ["jetson-thor", "nvidia-gpu", "rtx"])
def test_8_bits_without_images_to_calibrate_with(tmp_path: Path, target: str, precision: str) -> None:
    error = refused(tmp_path, target=target, precision=precision)
    assert error.problem == f"{precision} needs images to calibrate with"
    assert "calib=" in error.fix


def test_xavier_is_refused_with_the_reason_whatever_the_precision(tmp_path: Path) -> None:
    error = refused(tmp_path, target="jetson-xavier-nx", precision="fp16")
    assert "vitedge does not convert for jetson-xavier-nx: JetPack 5 is its last: Python 3.8" in error.problem
    assert "jetson-orin-nano" in error.expected
    assert "xavier" not in error.expected


def test_a_dla_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert "runs no Vision Transformer" in refused(tmp_path, target="jetson-agx-orin-dla", precision="int8").problem
