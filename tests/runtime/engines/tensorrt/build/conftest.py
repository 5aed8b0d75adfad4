"""A bundle for TensorRT, whose plans are stand-ins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fake_tensorrt import FakeTensorrt, fake_device
from plan_builder import GIBIBYTE, Builder
from tensorrt_bundles import fake_module, make_tensorrt_bundle

from vitedge.bundle.bundle import Bundle
from vitedge.runtime.engines.tensorrt import open as engine_module
from vitedge.runtime.engines.tensorrt.build import build as build_module
from vitedge.runtime.system.machine import Memory


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    made = Builder()
    monkeypatch.setattr(build_module, "build_apart", made)
    for name, value in {"ROUNDS": 2, "RUNS_A_ROUND": 2, "WARM_UP_RUNS": 1}.items():
        monkeypatch.setattr(build_module, name, value)
    monkeypatch.setattr(build_module, "read_memory", lambda: Memory(8 * GIBIBYTE, 6 * GIBIBYTE))
    return made


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    return make_tensorrt_bundle(tmp_path_factory.mktemp("bundles") / "orin.bundle").path


@pytest.fixture
def bundle(template: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(template, tmp_path / "orin.bundle"))


@pytest.fixture
def module(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> FakeTensorrt:
    made = fake_module(bundle)
    for user in (build_module, engine_module):
        monkeypatch.setattr(user, "open_device", lambda name: fake_device(made))
    return made
