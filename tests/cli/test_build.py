"""``vitedge build``, and what ``vitedge inspect`` says of an engine."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import RECORD, FakeTensorrt, fake_device
from tensorrt_bundles import fake_module, make_tensorrt_bundle

from vitedge.bundle.bundle import Bundle
from vitedge.cli import main
from vitedge.cli.build import attention_text, record_lines
from vitedge.runtime.engines.tensorrt import device as device_module
from vitedge.runtime.engines.tensorrt import plan_store as store
from vitedge.runtime.engines.tensorrt.build import build as build_module
from vitedge.runtime.engines.tensorrt.build.worker import BuildRequest
from vitedge.runtime.engines.tensorrt.layers import AttentionBlock

OPEN_DEVICE = device_module.open_device


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
    for user in (build_module, device_module):
        monkeypatch.setattr(user, "open_device", lambda name: fake_device(made))
    for name, value in {"ROUNDS": 2, "RUNS_A_ROUND": 2, "WARM_UP_RUNS": 1}.items():
        monkeypatch.setattr(build_module, name, value)

    def build_apart(request: BuildRequest, progress: Any) -> None:
        Path(request.plan).write_bytes(f"plan of {Path(request.graph).name}".encode())

    monkeypatch.setattr(build_module, "build_apart", build_apart)
    return made


def inspected(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(bundle.path), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["engine"]
    return found


def test_build_and_inspect(bundle: Bundle, module: FakeTensorrt, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspected(bundle, capsys)["state"] == "not built"
    assert main(["inspect", str(bundle.path)]) == 0
    assert f"engine       not built: vitedge build {bundle.path} does that" in capsys.readouterr().out
    assert main(["build", str(bundle.path), "--workspace-mb", "100"]) == 0
    out, err = capsys.readouterr()
    assert "built for   tensorrt 10.3.0, Orin (compute capability 8.7)" in out
    assert out.count("kept, ") == 1
    assert "attention   unavailable" in out
    assert "building model.onnx with TensorRT 10.3.0 on Orin" in err
    found = inspected(bundle, capsys)
    assert (found["state"], found["reason"]) == ("built", "")
    assert found["record"]["workspace_bytes"] == 100 << 20
    assert main(["inspect", str(bundle.path)]) == 0
    assert "engine       built\n" in capsys.readouterr().out
    module.__version__ = "10.4.0"
    found = inspected(bundle, capsys)
    assert (found["state"], found["reason"]) == ("built for another device", "version 10.3.0 → 10.4.0")


def test_inspect_tells_an_engine_that_came_with_the_bundle(
    bundle: Bundle,
    module: FakeTensorrt,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert main(["build", str(bundle.path)]) == 0
    capsys.readouterr()
    monkeypatch.setattr(store, "_built_in_this_process", {})
    assert inspected(bundle, capsys)["state"] == "built"
    monkeypatch.setenv("VITEDGE_CACHE", str(tmp_path / "another-machine"))
    assert inspected(bundle, capsys)["state"] == "built elsewhere"


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (lambda folder: (folder / "model.plan").write_bytes(b"x"), "altered"),
        (lambda folder: (folder / "build.json").write_text("{"), "unreadable"),
    ],
)
def test_inspect_tells_damage(
    damage: Callable[[Path], Any],
    state: str,
    bundle: Bundle,
    module: FakeTensorrt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", str(bundle.path)]) == 0
    capsys.readouterr()
    damage(bundle.path / "tensorrt")
    assert inspected(bundle, capsys)["state"] == state


def test_on_a_host_without_tensorrt(
    bundle: Bundle, module: FakeTensorrt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(bundle.path)]) == 0
    capsys.readouterr()
    for user in (build_module, device_module):
        monkeypatch.setattr(user, "open_device", OPEN_DEVICE)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = inspected(bundle, capsys)
    assert found["state"] == "built for another device"
    assert "needs the Python module tensorrt" in found["reason"]
    assert main(["build", str(bundle.path)]) == 1
    assert "--system-site-packages" in capsys.readouterr().err
    assert main(["bench", str(bundle.path)]) == 1


def test_other_bundles_need_none(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tiny_bundle.path)]) == 2
    assert "cpu needs no build" in capsys.readouterr().err
    assert inspected(tiny_bundle, capsys) is None


def test_the_lines_of_a_record() -> None:
    lines = record_lines(RECORD)
    assert lines[1] == "model.onnx      refused: self-test failed"
    assert lines[2].startswith("model.fp16.onnx kept, 1.500 ms (1.250 to 2.000), runs in fp16")
    assert lines[3] == "attention   1 of 1 in one kernel"


def test_why_attention_is_not_one_kernel() -> None:
    blocks = [AttentionBlock("a", (), "int8", fused=fused, reason="" if fused else "heads") for fused in (True, False)]
    assert attention_text([*blocks, blocks[1]]) == "1 of 3 in one kernel; heads"
