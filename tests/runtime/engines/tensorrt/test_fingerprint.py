from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_tensorrt import FINGERPRINT as ORIN

from vitedge.runtime.engines.tensorrt import fingerprint as fingerprint_module
from vitedge.runtime.engines.tensorrt.cuda import Gpu
from vitedge.runtime.engines.tensorrt.fingerprint import Fingerprint, difference, fingerprint_of, read_l4t

NV_TEGRA_RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n"


def test_nothing_changed() -> None:
    assert difference(ORIN, replace(ORIN)) == ""


def test_what_changed_is_named_from_and_to() -> None:
    here = replace(ORIN, version="10.13.3", system="L4T 39.2", graphs={"model.onnx": "b" * 64, "model.fp16.onnx": "c"})
    assert difference(ORIN, here) == (
        "version 10.3.0 → 10.13.3, system L4T 36.4.3 → L4T 39.2, model.fp16.onnx none → c, "
        "model.onnx aaaaaaaaaaaa → bbbbbbbbbbbb"
    )
    assert difference(ORIN, replace(ORIN, flags=("A", "B"))) == "flags STRONGLY_TYPED → A + B"


def test_every_field_counts() -> None:
    changes = {
        "module": "tensorrt_rtx",
        "version": "11",
        "gpu": "Thor",
        "compute_capability": "11.0",
        "system": "L4T 38.4",
        "graphs": {},
        "flags": (),
    }
    for name, value in changes.items():
        assert difference(ORIN, replace(ORIN, **{name: value})), name  # type: ignore[arg-type]
    assert set(changes) == set(Fingerprint.__dataclass_fields__)


def test_l4t(tmp_path: Path) -> None:
    path = tmp_path / "nv_tegra_release"
    assert read_l4t(path) is None
    path.write_text(NV_TEGRA_RELEASE)
    assert read_l4t(path) == "36.4.3"
    path.write_text("something else")
    assert read_l4t(path) is None


def test_here_and_now(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    found = fingerprint_of(rtx, Gpu("GeForce RTX 4060", "8.9", "13.0"), {"model.onnx": "a"})
    assert (found.module, found.version) == ("tensorrt_rtx", rtx.__version__)
    assert found.system == "driver for CUDA 13.0"
    assert "GeForce RTX 4060 (compute capability 8.9)" in found.described
    monkeypatch.setattr(fingerprint_module, "read_l4t", lambda: "36.4.3")
    assert fingerprint_of(rtx, Gpu("Orin", "8.7", "12.6"), {}).system == "L4T 36.4.3"
